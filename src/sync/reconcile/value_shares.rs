//! Who may keep how many bytes of values: a share of one budget for each namespace, and one place for a pass that needs
//! more. Pure.
//!
//! A namespace may keep at most half of what is then left free. So the more namespaces keep values, the smaller the share
//! of each, and there is room left for the next one. A pass that has to wait for more while it keeps something could wait
//! forever for others like it. Such passes take turns in one place outside of the budget, one at a time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// The sizes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// What all namespaces keep together.
    pub(super) total: usize,
    /// What is reserved for a value until it is there: the size of the largest.
    pub(super) value: usize,
    /// What the one pass may keep that needs more than its namespace's share.
    pub(super) large: usize,
}

/// A pass that reads values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PassId(u64);

#[derive(Debug)]
struct Pass {
    namespace: Arc<str>,
    /// What it keeps, with what is reserved for values under way.
    bytes: usize,
    /// Values under way.
    reading: usize,
    /// Whether it was granted anything yet.
    begun: bool,
    waits: bool,
}

/// What is kept, by whom, and who waits for room.
#[derive(Debug)]
pub(super) struct Shares {
    limits: Limits,
    passes: HashMap<PassId, Pass>,
    made: u64,
    /// The bytes of each namespace within the budget; none is 0.
    kept: HashMap<Arc<str>, usize>,
    used: usize,
    /// The pass outside of the budget.
    large: Option<PassId>,
    /// Namespaces with a line, in turn.
    turns: VecDeque<Arc<str>>,
    /// Who waits: passes that have begun before those that have not. None is empty.
    lines: HashMap<Arc<str>, VecDeque<PassId>>,
}

impl Shares {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            passes: HashMap::new(),
            made: 0,
            kept: HashMap::new(),
            used: 0,
            large: None,
            turns: VecDeque::new(),
            lines: HashMap::new(),
        }
    }

    /// A pass of this namespace begins.
    pub(super) fn open(&mut self, namespace: &Arc<str>) -> PassId {
        self.made += 1;
        let id = PassId(self.made);
        let pass = Pass {
            namespace: namespace.clone(),
            bytes: 0,
            reading: 0,
            begun: false,
            waits: false,
        };
        self.passes.insert(id, pass);
        id
    }

    /// The pass wants to read a further value, and whether it may now. If not, [`granted`](Self::granted) names it when it may.
    /// It asks for one at a time.
    pub(super) fn ask(&mut self, id: PassId) -> bool {
        let Some(pass) = self.passes.get_mut(&id) else {
            return false;
        };
        pass.waits = true;
        let (namespace, begun) = (pass.namespace.clone(), pass.begun);
        let line = self.lines.entry(namespace.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(namespace);
        }
        // What a pass keeps is free when it has all that it needs.
        if begun {
            line.push_front(id);
        } else {
            line.push_back(id);
        }
        let may = self.may_read(id);
        if may {
            self.grant(id);
        }
        may
    }

    /// A value that was under way is there, and this many bytes of it are kept.
    pub(super) fn keep(&mut self, id: PassId, bytes: usize) {
        let reserved = self.limits.value;
        self.resize(id, |pass| {
            pass.reading = pass.reading.saturating_sub(1);
            pass.bytes = pass.bytes.saturating_sub(reserved).saturating_add(bytes);
        });
    }

    /// The pass ended and keeps nothing.
    pub(super) fn close(&mut self, id: PassId) {
        self.leave_line(id);
        self.resize(id, |pass| pass.bytes = 0);
        self.passes.remove(&id);
        if self.large == Some(id) {
            self.large = None;
        }
    }

    /// Whether the pass has the place outside of the budget.
    pub(super) fn is_large(&self, id: PassId) -> bool {
        self.large == Some(id)
    }

    /// The next pass that waited and may read a value now. To be asked until there is none, after [`keep`](Self::keep) and
    /// [`close`](Self::close).
    pub(super) fn granted(&mut self) -> Option<PassId> {
        let id = self.next_within().or_else(|| self.next_large())?;
        self.grant(id);
        Some(id)
    }

    /// The first of the namespaces in turn that may have more.
    fn next_within(&self) -> Option<PassId> {
        if let Some(large) = self
            .large
            .filter(|large| self.waits(*large) && self.may_read(*large))
        {
            return Some(large);
        }
        let heads = self.turns.iter().filter_map(|namespace| {
            let line = self.lines.get(namespace)?;
            line.iter().find(|id| Some(**id) != self.large).copied()
        });
        heads.into_iter().find(|id| self.may_read(*id))
    }

    /// The pass that is to have the place outside of the budget, if it is free: the first in turn that keeps something and
    /// has nothing under way that would make room.
    fn next_large(&mut self) -> Option<PassId> {
        if self.large.is_some() {
            return None;
        }
        let is_stuck = |id: &&PassId| {
            let pass = self.passes.get(*id);
            pass.is_some_and(|pass| pass.bytes > 0 && pass.reading == 0)
        };
        let lines = self
            .turns
            .iter()
            .filter_map(|namespace| self.lines.get(namespace));
        let id = *lines.flat_map(VecDeque::iter).find(is_stuck)?;
        // What it keeps moves with it.
        let mut bytes = 0;
        self.resize(id, |pass| bytes = std::mem::take(&mut pass.bytes));
        self.large = Some(id);
        self.resize(id, |pass| pass.bytes = bytes);
        self.may_read(id).then_some(id)
    }

    /// Whether one more value fits.
    fn may_read(&self, id: PassId) -> bool {
        let Some(pass) = self.passes.get(&id) else {
            return false;
        };
        let value = self.limits.value;
        if self.large == Some(id) {
            return pass.bytes.saturating_add(value) <= self.limits.large;
        }
        let own = self.kept_by(&pass.namespace).saturating_add(value);
        let free = self.limits.total.saturating_sub(self.used.saturating_add(value));
        own <= free / 2
    }

    fn grant(&mut self, id: PassId) {
        self.leave_line(id);
        let value = self.limits.value;
        self.resize(id, |pass| {
            pass.begun = true;
            pass.reading += 1;
            pass.bytes += value;
        });
    }

    fn waits(&self, id: PassId) -> bool {
        self.passes.get(&id).is_some_and(|pass| pass.waits)
    }

    /// The pass waits no longer, and its namespace has had its turn.
    fn leave_line(&mut self, id: PassId) {
        let Some(pass) = self.passes.get_mut(&id).filter(|pass| pass.waits) else {
            return;
        };
        pass.waits = false;
        let namespace = pass.namespace.clone();
        self.turns.retain(|turn| *turn != namespace);
        let Some(line) = self.lines.get_mut(&namespace) else {
            return;
        };
        line.retain(|waiting| *waiting != id);
        if line.is_empty() {
            self.lines.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
    }

    /// Changes what a pass keeps, and the sums with it.
    fn resize(&mut self, id: PassId, change: impl FnOnce(&mut Pass)) {
        let Some(pass) = self.passes.get_mut(&id) else {
            return;
        };
        let before = pass.bytes;
        change(pass);
        let after = pass.bytes;
        if self.large == Some(id) {
            return;
        }
        let namespace = pass.namespace.clone();
        self.used = self.used.saturating_sub(before).saturating_add(after);
        let kept = self
            .kept_by(&namespace)
            .saturating_sub(before)
            .saturating_add(after);
        if kept == 0 {
            self.kept.remove(&namespace);
        } else {
            self.kept.insert(namespace, kept);
        }
    }

    fn kept_by(&self, namespace: &str) -> usize {
        self.kept.get(namespace).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUE: usize = 8;
    const LIMITS: Limits = Limits {
        total: 1024,
        value: VALUE,
        large: 1024 + VALUE,
    };

    fn ns(name: &str) -> Arc<str> {
        name.into()
    }

    fn all_granted(shares: &mut Shares) -> Vec<PassId> {
        std::iter::from_fn(|| shares.granted()).collect()
    }

    /// Reads and keeps whole values until the pass has to wait.
    fn fill(shares: &mut Shares, id: PassId) -> usize {
        let mut values = 0;
        while shares.ask(id) {
            shares.keep(id, VALUE);
            values += 1;
        }
        values
    }

    #[test]
    fn whatever_three_namespaces_keep_the_fourth_reads_at_once() {
        let mut shares = Shares::new(LIMITS);
        for hostile in ["a", "b", "c"] {
            for _ in 0..8 {
                let id = shares.open(&ns(hostile));
                fill(&mut shares, id);
                all_granted(&mut shares);
            }
        }
        let victim = shares.open(&ns("victim"));
        for _ in 0..10 {
            assert!(shares.ask(victim));
        }
    }

    #[test]
    fn one_namespace_alone_keeps_a_third_and_large_passes_go_on_one_at_a_time() {
        let mut shares = Shares::new(LIMITS);
        let (first, second) = (shares.open(&ns("a")), shares.open(&ns("a")));
        assert_eq!(fill(&mut shares, first), 1024 / 3 / VALUE);
        assert!(!shares.ask(second));
        assert_eq!(shares.granted(), Some(first), "it keeps something");
        assert_eq!(shares.granted(), Some(second), "which freed the share");
        shares.keep(first, VALUE);
        shares.keep(second, VALUE);
        assert_eq!(fill(&mut shares, first), 1024 / VALUE - 1024 / 3 / VALUE);
        fill(&mut shares, second);
        assert_eq!(shares.granted(), None, "the place is taken");
        shares.close(first);
        assert_eq!(shares.granted(), Some(second));
    }

    #[test]
    fn values_that_are_reduced_need_no_more_than_a_share() {
        let mut shares = Shares::new(LIMITS);
        let id = shares.open(&ns("a"));
        for _ in 0..100 {
            assert!(shares.ask(id));
            shares.keep(id, 1);
        }
        assert_eq!((shares.used, shares.large), (100, None));
    }

    #[derive(Clone, Debug)]
    struct Job {
        namespace: usize,
        /// What is kept of each value that it reads.
        values: Vec<usize>,
    }

    fn jobs() -> impl Strategy<Value = Vec<Job>> {
        let values = prop::collection::vec(0..=VALUE, 0..128);
        let job = (0..6_usize, values).prop_map(|(namespace, values)| Job { namespace, values });
        prop::collection::vec(job, 1..24)
    }

    struct Run {
        job: Job,
        id: PassId,
        waits: bool,
        reading: Vec<usize>,
    }

    proptest! {
        #[test]
        fn the_budget_holds_shares_are_kept_and_every_pass_ends(
            jobs in jobs(),
            dice in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let mut shares = Shares::new(LIMITS);
            let mut runs: Vec<Run> = jobs
                .into_iter()
                .map(|job| Run {
                    id: shares.open(&ns(&job.namespace.to_string())),
                    job,
                    waits: false,
                    reading: Vec::new(),
                })
                .collect();
            let mut dice = dice.iter().cycle();
            let mut steps = 0;
            while !runs.is_empty() {
                steps += 1;
                prop_assert!(steps < 100_000, "somebody starves");
                // One of those that can do something: ask for more, keep what came, or end. In this order it is the worst
                // that passes can do, since each takes all that it may before it gives anything back.
                let able: Vec<usize> = (0..runs.len())
                    .filter(|at| !runs[*at].waits || !runs[*at].reading.is_empty())
                    .collect();
                prop_assert!(!able.is_empty(), "all wait for each other");
                let at = able[dice.next().unwrap().index(able.len())];
                let run = &mut runs[at];
                if !run.waits && let Some(kept) = run.job.values.last().copied() {
                    if shares.ask(run.id) {
                        run.job.values.pop();
                        run.reading.push(kept);
                        prop_assert!(has_its_share(&shares, run.id));
                    } else {
                        run.waits = true;
                    }
                } else if let Some(kept) = run.reading.pop() {
                    shares.keep(run.id, kept);
                } else {
                    shares.close(run.id);
                    runs.remove(at);
                }
                while let Some(id) = shares.granted() {
                    prop_assert!(has_its_share(&shares, id));
                    let run = runs.iter_mut().find(|run| run.id == id).unwrap();
                    prop_assert!(run.waits);
                    run.waits = false;
                    run.reading.push(run.job.values.pop().unwrap());
                }
                prop_assert!(shares.used <= LIMITS.total);
                prop_assert_eq!(shares.used, shares.kept.values().sum::<usize>());
                if let Some(large) = shares.large {
                    prop_assert!(shares.passes[&large].bytes <= LIMITS.large);
                }
            }
            prop_assert_eq!((shares.used, shares.kept.len(), shares.large), (0, 0, None));
            prop_assert!(shares.passes.is_empty() && shares.lines.is_empty() && shares.turns.is_empty());
        }
    }

    /// Whether what the pass was granted leaves twice of what its namespace keeps free.
    fn has_its_share(shares: &Shares, id: PassId) -> bool {
        let kept = shares.kept_by(&shares.passes[&id].namespace);
        shares.large == Some(id) || 2 * kept <= LIMITS.total - shares.used
    }
}
