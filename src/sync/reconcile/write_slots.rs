//! The places from which passes write to Kubernetes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::write_places::{COME_BACK, Called, Grant, Now, PLACES, Places, SLOW, Ticket, WriteEnd};

/// So many that wait for a place have to wait for a good part of a second.
const CROWD: usize = 4 * PLACES;

/// Places to write: for Secrets with all that goes with one, and for statuses.
#[derive(Default)]
pub struct WriteSlots {
    /// Held from the read before a Secret is written to the status after it.
    pub(super) secrets: Slots,
    /// Held while a status is written, by whoever has a place for a Secret too.
    pub(super) statuses: Slots,
}

/// [`Places`], shared by passes.
pub(super) struct Slots {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    places: Places,
    waiting: HashMap<Ticket, oneshot::Sender<Option<Duration>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::default(),
        }
    }
}

impl Slots {
    /// Waits for a place in `namespace`, which is held until the answer is dropped. An error is a time after which to ask
    /// again: writes there are slow, and enough others wait.
    pub(super) async fn take(&self, namespace: &Arc<str>) -> Result<Slot<'_>, Duration> {
        let mut waiting = {
            let mut state = self.lock();
            match state.places.ask(namespace, self.now()) {
                Grant::Taken => return Ok(self.slot(namespace)),
                Grant::ComeBack(wait) => return Err(wait),
                Grant::Wait(ticket) => {
                    let (call, called) = oneshot::channel();
                    state.waiting.insert(ticket, call);
                    Waiting {
                        slots: self,
                        namespace,
                        ticket,
                        called,
                    }
                }
            }
        };
        let called = loop {
            match timeout(SLOW, &mut waiting.called).await {
                Ok(called) => break called,
                Err(_) => self.change(namespace, Places::waited),
            }
        };
        match called {
            Ok(None) => Ok(self.slot(namespace)),
            Ok(Some(wait)) => Err(wait),
            // Its sender stays in `waiting` until it is called.
            Err(_) => Err(SLOW),
        }
    }

    /// The same for one that holds what other namespaces wait for: it waits no longer than a slow write takes.
    pub(super) async fn take_soon(&self, namespace: &Arc<str>) -> Result<Slot<'_>, Duration> {
        let taken = timeout(SLOW, self.take(namespace)).await;
        taken.unwrap_or(Err(COME_BACK))
    }

    /// How long to stay away from `namespace`, where it makes no sense to ask for a place now.
    pub(super) fn full(&self, namespace: &str) -> Option<Duration> {
        let now = self.now();
        self.lock().places.full(namespace, now)
    }

    /// Whether the last write in `namespace` was slow.
    pub(super) fn is_slow(&self, namespace: &str) -> bool {
        self.lock().places.is_slow(namespace, self.now())
    }

    /// A write in `namespace` ended.
    pub(super) fn ended(&self, namespace: &str, outcome: WriteEnd) {
        self.change(namespace, |places, namespace, now| {
            places.ended(namespace, outcome, now)
        });
    }

    /// Whether whoever comes now will wait for long.
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().waiting.len() >= CROWD
    }

    fn slot<'a>(&'a self, namespace: &Arc<str>) -> Slot<'a> {
        Slot {
            slots: self,
            namespace: Arc::clone(namespace),
        }
    }

    /// Changes the places, and calls those that the change concerns.
    fn change(&self, namespace: &str, change: impl FnOnce(&mut Places, &str, Now) -> Vec<Called>) {
        let now = self.now();
        let mut state = self.lock();
        let slow = state.places.is_slow(namespace, now);
        let called = change(&mut state.places, namespace, now);
        for (ticket, call) in called {
            if let Some(waiting) = state.waiting.remove(&ticket) {
                // Who left meanwhile withdraws it: see `Waiting`, which cannot do so while the state is locked.
                let _ = waiting.send(call);
            }
        }
        let turned = !slow && state.places.is_slow(namespace, now);
        drop(state);
        if turned {
            tracing::warn!(
                namespace,
                "writes to this namespace are slow or are not answered, as with an admission webhook that does not \
                 answer; they are sent one at a time until one is fast again"
            );
        }
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place to write.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    namespace: Arc<str>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.slots.change(&self.namespace, Places::give_back);
    }
}

/// One that waits; also one that is dropped meanwhile.
struct Waiting<'a> {
    slots: &'a Slots,
    namespace: &'a Arc<str>,
    ticket: Ticket,
    called: oneshot::Receiver<Option<Duration>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        if state.waiting.remove(&self.ticket).is_some() {
            state.places.withdraw(self.namespace, self.ticket);
            return;
        }
        drop(state);
        // It was called and nobody took the place. Who did has emptied the channel.
        if let Ok(None) = self.called.try_recv() {
            self.slots.change(self.namespace, Places::give_back);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{join_all, poll_immediate};

    use super::{
        super::write_places::{OF_FAST_NAMESPACE, OF_NAMESPACE},
        *,
    };

    fn namespace(name: usize) -> Arc<str> {
        format!("tenant-{name}").into()
    }

    #[tokio::test]
    async fn a_crowd_is_who_waits_and_not_who_writes_or_has_left() {
        let slots = Slots::default();
        let all: Vec<_> = (0..PLACES).map(|n| namespace(n / OF_NAMESPACE)).collect();
        let writing = join_all(all.iter().map(|namespace| slots.take(namespace))).await;
        assert!(writing.iter().all(Result::is_ok) && !slots.is_crowded());
        let other = namespace(PLACES);
        let mut crowd = Box::pin(join_all((0..CROWD).map(|_| slots.take(&other))));
        assert!(poll_immediate(&mut crowd).await.is_none());
        assert!(slots.is_crowded());
        drop(crowd);
        assert!(!slots.is_crowded());
        drop(writing);
        assert!(slots.take(&other).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_given_to_one_that_has_left_is_free_again() {
        let slots = Slots::default();
        let shop = namespace(0);
        let mut writing = join_all((0..OF_NAMESPACE).map(|_| slots.take(&shop))).await;
        let mut next = Box::pin(slots.take(&shop));
        assert!(poll_immediate(&mut next).await.is_none());
        // It is called, and dropped before it looks.
        drop(writing.pop());
        drop(next);
        assert!(
            poll_immediate(slots.take(&shop))
                .await
                .is_some_and(|slot| slot.is_ok())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_slow_writes_of_his_namespace_is_sent_away_and_others_write() {
        let slots = Slots::default();
        let (slow, other) = (namespace(0), namespace(1));
        let writing = join_all((0..OF_NAMESPACE).map(|_| slots.take(&slow))).await;
        let crowd = join_all((0..100).map(|_| slots.take(&slow)));
        let mut crowd = Box::pin(async { timeout(Duration::from_secs(20), crowd).await });
        assert!(poll_immediate(&mut crowd).await.is_none());
        assert!(slots.full(&slow).is_none());
        // Some stay in line, so that all together do not end.
        assert!(crowd.await.is_err());
        assert!(slots.is_slow(&slow) && !slots.is_slow(&other));
        assert!(slots.take(&other).await.is_ok());
        drop(writing);
        slots.ended(&slow, WriteEnd::Answered(Duration::from_millis(5)));
        let again = join_all((0..OF_NAMESPACE).map(|_| slots.take(&slow))).await;
        assert!(again.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn who_must_not_wait_for_long_is_sent_away_and_leaves_no_trace() {
        let slots = Slots::default();
        let shop = namespace(0);
        let mut writing = join_all((0..OF_NAMESPACE).map(|_| slots.take(&shop))).await;
        let began = Instant::now();
        assert_eq!(slots.take_soon(&shop).await.err(), Some(COME_BACK));
        assert_eq!(began.elapsed(), SLOW);
        assert!(slots.is_slow(&shop), "its wait is noted as any other's");
        assert!(slots.lock().waiting.is_empty());
        slots.ended(&shop, WriteEnd::Answered(Duration::from_millis(5)));
        writing.extend(join_all((OF_NAMESPACE..OF_FAST_NAMESPACE).map(|_| slots.take(&shop))).await);
        let mut soon = Box::pin(slots.take_soon(&shop));
        assert!(poll_immediate(&mut soon).await.is_none());
        drop(writing.pop());
        assert!(soon.await.is_ok(), "a place that is free in time is taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_without_answers_pauses_and_then_writes_one_at_a_time() {
        let slots = Slots::default();
        let shop = namespace(0);
        let writing = join_all((0..OF_NAMESPACE).map(|_| slots.take(&shop))).await;
        for _ in 0..OF_NAMESPACE {
            slots.ended(&shop, WriteEnd::TimedOut);
        }
        drop(writing);
        let pause = slots.take(&shop).await.err().unwrap();
        assert_eq!(slots.full(&shop), Some(pause));
        tokio::time::sleep(pause).await;
        let first = slots.take(&shop).await;
        assert!(first.is_ok());
        assert!(poll_immediate(Box::pin(slots.take(&shop))).await.is_none());
        slots.ended(&shop, WriteEnd::TimedOut);
        let longer = slots.full(&shop).unwrap();
        assert!(longer > pause, "{longer:?} {pause:?}");
    }
}
