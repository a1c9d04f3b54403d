//! The memory for values: a pass reserves room before it reads one, and gives back what it does not keep.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::value_shares::{Limits, PassId, Shares};

/// Bytes of all values that one object may have in memory: what it writes may be an eighth of it.
pub(super) const MOST: usize = 8 << 20;
/// The largest value that AWS has.
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>
const LARGEST: usize = 64 << 10;
const LIMITS: Limits = Limits {
    total: 8 << 20,
    value: LARGEST,
    large: MOST + LARGEST,
};

/// The memory for the values of all passes.
pub struct ValueBudget(Mutex<State>);

struct State {
    shares: Shares,
    waiting: HashMap<PassId, oneshot::Sender<()>>,
}

/// The room that one pass has for values, given back when dropped.
pub(super) struct Allowance<'a> {
    budget: &'a ValueBudget,
    pass: PassId,
    /// What it waits for, also while nobody polls.
    granted: Option<oneshot::Receiver<()>>,
}

impl Default for ValueBudget {
    fn default() -> Self {
        Self(Mutex::new(State {
            shares: Shares::new(LIMITS),
            waiting: HashMap::new(),
        }))
    }
}

impl ValueBudget {
    /// Room for a pass of this namespace.
    pub(super) fn open(&self, namespace: &Arc<str>) -> Allowance<'_> {
        Allowance {
            budget: self,
            pass: self.state().shares.open(namespace),
            granted: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self) {
        while let Some(pass) = self.shares.granted() {
            if let Some(waiting) = self.waiting.remove(&pass) {
                let _gone = waiting.send(());
            }
        }
    }
}

impl Allowance<'_> {
    /// Waits until there is room for one more value. May be dropped and called again without losing its place.
    pub(super) async fn more(&mut self) {
        if self.granted.is_none() {
            let mut state = self.budget.state();
            if state.shares.ask(self.pass) {
                return;
            }
            let (sender, granted) = oneshot::channel();
            state.waiting.insert(self.pass, sender);
            self.granted = Some(granted);
            // It may be the one that goes on outside of the shares.
            state.tell();
        }
        if let Some(granted) = &mut self.granted {
            // The other end is dropped with this allowance only.
            let _granted = granted.await;
        }
        self.granted = None;
    }

    /// Whether it is the one that goes on outside of the shares, for which others wait.
    pub(super) fn is_large(&self) -> bool {
        self.budget.state().shares.is_large(self.pass)
    }

    /// One of the values that there was room for is there, and this many bytes of it are kept.
    pub(super) fn keep(&self, bytes: usize) {
        let mut state = self.budget.state();
        state.shares.keep(self.pass, bytes);
        state.tell();
    }
}

impl Drop for Allowance<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.waiting.remove(&self.pass);
        state.shares.close(self.pass);
        state.tell();
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_immediate;

    use super::*;

    /// Reads whole values until it has to wait.
    async fn fill(allowance: &mut Allowance<'_>, values: usize) -> usize {
        for value in 0..values {
            if poll_immediate(allowance.more()).await.is_none() {
                return value;
            }
            allowance.keep(LARGEST);
        }
        values
    }

    #[tokio::test]
    async fn two_hostile_objects_leave_room_for_the_next_namespace() {
        let budget = ValueBudget::default();
        let (mut one, mut two) = (budget.open(&"one".into()), budget.open(&"two".into()));
        assert!(!one.is_large());
        assert_eq!(fill(&mut one, 128).await, 128, "an object of 8 MiB, alone");
        assert!(one.is_large());
        let filled = fill(&mut two, 128).await;
        assert!((20..128).contains(&filled), "{filled}");
        let mut victim = budget.open(&"victim".into());
        assert_eq!(fill(&mut victim, 20).await, 20);
        assert!(poll_immediate(two.more()).await.is_none());
        assert!(!two.is_large() && !victim.is_large());
        drop(one);
        assert!(poll_immediate(two.more()).await.is_some(), "in turn");
    }

    #[tokio::test]
    async fn a_pass_that_is_dropped_gives_all_back() {
        let budget = ValueBudget::default();
        let namespace: Arc<str> = "shop".into();
        for _ in 0..100 {
            let mut first = budget.open(&namespace);
            while poll_immediate(first.more()).await.is_some() {}
            let mut second = budget.open(&namespace);
            assert!(poll_immediate(second.more()).await.is_none());
            drop(second);
        }
        let mut last = budget.open(&namespace);
        assert!(poll_immediate(last.more()).await.is_some());
        assert!(budget.state().waiting.is_empty());
    }
}
