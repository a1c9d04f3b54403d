//! The reads that wait in one source, and in which order they are taken.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{Demand, Item, Patience, Reading};
use crate::{
    api::ObjectKey,
    aws::{limit::Urgency, queue::AHEAD},
};

/// Reads of one source at a time. A call more than these may be in flight for the checks.
const WORKERS: usize = 4;
/// Of which this many also while nothing fresh waits: one is kept from being held up by what is periodic.
const PERIODIC_WORKERS: usize = 3;
/// How long what comes alone waits for company.
const GATHER: Duration = Duration::from_millis(15);
/// And how long while others are read or gather, too: more of them are to come.
const BURST: Duration = Duration::from_millis(250);
/// And how long what is in no hurry. A first sync, which Kubernetes takes at some 100 to 500 objects a second with a pause of
/// a second now and then, fills its batches of 20.
const PATIENCE: Duration = Duration::from_secs(1);

/// Someone who waits; gone when the other end is dropped.
pub(super) struct Waiter {
    pub(super) asker: ObjectKey,
    pub(super) answer: oneshot::Sender<Reading>,
}

impl Waiter {
    pub(super) fn new(asker: &ObjectKey) -> (Self, oneshot::Receiver<Reading>) {
        let (answer, receiver) = oneshot::channel();
        (
            Self {
                asker: asker.clone(),
                answer,
            },
            receiver,
        )
    }
}

/// Those who wait for a read that has not begun.
struct Waiting {
    /// Of the most urgent of them.
    urgency: Urgency,
    /// Until when it may wait for others to fill its batch.
    until: Instant,
    waiters: Vec<Waiter>,
}

/// The reads that wait in one source, and how many workers see to them.
pub(super) struct ReadQueue {
    /// Most items of a batch.
    batch: usize,
    /// What waits, and who for it. An item without an entry here was taken by another way.
    waiting: HashMap<Item, Waiting>,
    /// Those that a batch can read; fresh and periodic ones.
    together: [Turns; 2],
    /// Those that none can.
    alone: [Turns; 2],
    was_alone: bool,
    /// How often in a row what is fresh went before what is periodic and waits.
    ahead: u32,
    workers: usize,
    /// Workers about to take something.
    gathering: usize,
    worth_taking: Arc<Notify>,
}

/// Items in rows, the namespaces of those who ask in turn: whoever wants much delays nobody who wants little.
#[derive(Default)]
struct Turns {
    namespaces: VecDeque<Arc<str>>,
    /// None is empty.
    rows: HashMap<Arc<str>, VecDeque<Item>>,
}

/// What a worker finds in the line.
pub(super) enum Work<T> {
    /// To be read by one call, or each alone.
    Read(Urgency, Vec<(Item, T)>),
    /// A batch that may still fill, until then.
    Wait(Instant),
    /// Nothing.
    End,
}

impl Waiting {
    /// Whether somebody of this namespace waits for it.
    fn is_of(&self, namespace: &str) -> bool {
        self.waiters
            .iter()
            .any(|waiter| &*waiter.asker.namespace == namespace)
    }
}

impl Turns {
    fn push_back(&mut self, namespace: &Arc<str>, item: Item) {
        let row = self.rows.entry(namespace.clone()).or_default();
        if row.is_empty() {
            self.namespaces.push_back(namespace.clone());
        }
        row.push_back(item);
    }

    fn pop_front(&mut self) -> Option<Item> {
        let namespace = self.namespaces.pop_front()?;
        let row = self.rows.get_mut(&namespace)?;
        let item = row.pop_front();
        if row.is_empty() {
            self.rows.remove(&namespace);
        } else {
            self.namespaces.push_back(namespace);
        }
        item
    }

    fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

impl ReadQueue {
    /// An empty line, of a service whose batches have at most so many items.
    pub(super) fn new(batch: usize) -> Self {
        Self {
            batch,
            waiting: HashMap::new(),
            together: Default::default(),
            alone: Default::default(),
            was_alone: false,
            ahead: 0,
            workers: 0,
            gathering: 0,
            worth_taking: Arc::default(),
        }
    }

    /// Puts a read into the line. The answer is whether a further worker is to be set to work.
    pub(super) fn push(&mut self, item: Item, waiter: Waiter, demand: Demand<'_>, now: Instant) -> bool {
        let Demand {
            urgency, patience, ..
        } = demand;
        let gather = if patience == Patience::Long {
            PATIENCE
        } else if self.workers > 0 {
            BURST
        } else {
            GATHER
        };
        let until = now + gather;
        // Whoever waits for others knows no more than what there was when it looked.
        let sooner = self.fills_until().is_none_or(|before| until < before);
        let is_alone = !item.1.is_current();
        let [fresh, periodic] = if is_alone {
            &mut self.alone
        } else {
            &mut self.together
        };
        let known = self.waiting.get(&item);
        let namespace = &waiter.asker.namespace;
        let stands = known.is_some_and(|known| known.is_of(namespace));
        // What waits among the periodic ones and is wanted fresh stands in both queues, and what several namespaces want
        // in the rows of all; the first to come counts.
        match urgency {
            Urgency::Fresh if !stands || known.is_some_and(|known| known.urgency != Urgency::Fresh) => {
                fresh.push_back(namespace, item.clone());
            }
            Urgency::Periodic if !stands => periodic.push_back(namespace, item.clone()),
            Urgency::Fresh | Urgency::Periodic => {}
        }
        let waiting = self.waiting.entry(item).or_insert_with(|| Waiting {
            urgency,
            until,
            waiters: Vec::new(),
        });
        waiting.urgency = waiting.urgency.min(urgency);
        waiting.until = waiting.until.min(until);
        waiting.waiters.push(waiter);
        if is_alone || sooner || self.waiting.len() >= self.batch {
            self.worth_taking.notify_one();
        }
        self.takes_another()
    }

    /// Whether a further worker is to be set to work, which then counts.
    pub(super) fn takes_another(&mut self) -> bool {
        let more =
            self.workers < self.most_workers() && self.gathering < self.waiting.len().div_ceil(self.batch);
        if more {
            self.workers += 1;
            self.gathering += 1;
        }
        more
    }

    /// Rings when it is worth taking something before the time is up.
    pub(super) fn bell(&self) -> Arc<Notify> {
        self.worth_taking.clone()
    }

    /// Until when what waits may fill a batch; none if it is one, or something is to be read alone.
    fn fills_until(&self) -> Option<Instant> {
        let may_fill = self.waiting.len() < self.batch && self.alone.iter().all(Turns::is_empty);
        if !may_fill {
            return None;
        }
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    fn most_workers(&self) -> usize {
        let nothing_fresh = [&self.together, &self.alone]
            .iter()
            .all(|[fresh, _]| fresh.is_empty());
        if nothing_fresh { PERIODIC_WORKERS } else { WORKERS }
    }

    /// What a worker is to read next, at most so much of what can be read together, and at once if there are no `batches`
    /// to fill. With [`Work::End`] the worker has ended.
    pub(super) fn next(&mut self, most: usize, batches: bool, now: Instant) -> Work<Vec<Waiter>> {
        if let Some(until) = self.fills_until()
            && batches
            && most > 1
            && now < until
        {
            return Work::Wait(until);
        }
        self.gathering = self.gathering.saturating_sub(1);
        let (urgency, taken) = self.take(most);
        if !self.waiting.is_empty() {
            // Another who waits for a full batch may have to come sooner for what is left.
            self.worth_taking.notify_one();
        }
        if taken.is_empty() {
            self.workers = self.workers.saturating_sub(1);
            return Work::End;
        }
        Work::Read(urgency, taken)
    }

    /// Whether a worker that has read something goes on; if not it has ended.
    pub(super) fn goes_on(&mut self) -> bool {
        let goes_on = !self.waiting.is_empty() && self.workers <= self.most_workers();
        if goes_on {
            self.gathering += 1;
        } else {
            self.workers = self.workers.saturating_sub(1);
        }
        goes_on
    }

    /// Whether nobody works on it, nor has reason to.
    pub(super) fn is_idle(&self) -> bool {
        self.workers == 0 && self.waiting.is_empty()
    }

    /// One alone, or several together: the two kinds in turn, fresh ones first, but each fourth time what is periodic.
    fn take(&mut self, most: usize) -> (Urgency, Vec<(Item, Vec<Waiter>)>) {
        let order = if self.ahead < AHEAD {
            [Urgency::Fresh, Urgency::Periodic]
        } else {
            [Urgency::Periodic, Urgency::Fresh]
        };
        for urgency in order {
            for alone in [!self.was_alone, self.was_alone] {
                let taken = self.take_of(alone, urgency, most);
                if !taken.is_empty() {
                    self.was_alone = alone;
                    let mut kinds = [&self.together, &self.alone].into_iter();
                    let overtakes =
                        urgency == Urgency::Fresh && kinds.any(|[_, periodic]| !periodic.is_empty());
                    self.ahead = if overtakes { self.ahead + 1 } else { 0 };
                    return (urgency, taken);
                }
            }
        }
        (Urgency::Periodic, Vec::new())
    }

    fn take_of(&mut self, alone: bool, urgency: Urgency, most: usize) -> Vec<(Item, Vec<Waiter>)> {
        let (queues, most) = if alone {
            (&mut self.alone, 1)
        } else {
            (&mut self.together, most)
        };
        let [fresh, periodic] = queues;
        // What is fresh takes periodic ones along: the batch costs the same.
        let queues = match urgency {
            Urgency::Fresh if fresh.is_empty() => [None, None],
            Urgency::Fresh => [Some(fresh), Some(periodic)],
            Urgency::Periodic => [None, Some(periodic)],
        };
        let mut taken = Vec::new();
        for queue in queues.into_iter().flatten() {
            while taken.len() < most
                && let Some(item) = queue.pop_front()
            {
                let Some(Waiting { mut waiters, .. }) = self.waiting.remove(&item) else {
                    continue;
                };
                waiters.retain(|waiter| !waiter.answer.is_closed());
                if !waiters.is_empty() {
                    taken.push((item, waiters));
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Selector;
    use crate::aws::Age;

    const BATCH: usize = 20;

    struct Asked {
        line: ReadQueue,
        begun: Instant,
        answers: Vec<oneshot::Receiver<Reading>>,
    }

    impl Asked {
        fn new() -> Self {
            Self {
                line: ReadQueue::new(BATCH),
                begun: Instant::now(),
                answers: Vec::new(),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.begun + Duration::from_millis(millis)
        }

        fn push(&mut self, millis: u64, key: &str, stage: Option<&str>) {
            self.push_as(Patience::Short, millis, key, stage);
        }

        fn push_as(&mut self, patience: Patience, millis: u64, key: &str, stage: Option<&str>) {
            self.push_by((Urgency::Fresh, patience), millis, key, stage);
        }

        fn push_by(
            &mut self,
            (urgency, patience): (Urgency, Patience),
            millis: u64,
            key: &str,
            stage: Option<&str>,
        ) {
            let asker = ObjectKey::new("shop", "db");
            let (waiter, answer) = Waiter::new(&asker);
            self.answers.push(answer);
            let item = (key.into(), Selector::parse(stage));
            let now = self.at(millis);
            let demand = Demand {
                asker: &asker,
                age: Age::Since(now),
                urgency,
                patience,
            };
            self.line.push(item, waiter, demand, now);
        }

        /// How many are taken; none while they wait for more.
        fn taken(&mut self, millis: u64, most: usize) -> Option<usize> {
            let now = self.at(millis);
            match self.line.next(most, true, now) {
                Work::Read(_, taken) => Some(taken.len()),
                Work::Wait(until) => {
                    assert!(until > now);
                    None
                }
                Work::End => Some(0),
            }
        }
    }

    #[test]
    fn a_batch_waits_for_as_long_as_its_oldest_may() {
        let mut asked = Asked::new();
        asked.push(0, "a", None);
        asked.push(14, "b", None);
        assert_eq!(asked.taken(14, BATCH), None);
        assert_eq!(asked.taken(15, BATCH), Some(2));
        // Somebody reads: more is to come.
        asked.push(20, "c", None);
        assert_eq!(asked.taken(269, BATCH), None);
        assert_eq!(asked.taken(270, BATCH), Some(1));
    }

    #[test]
    fn what_is_in_no_hurry_waits_longer_but_holds_up_nobody_who_is() {
        let mut asked = Asked::new();
        asked.push_as(Patience::Long, 0, "a", None);
        asked.push_as(Patience::Long, 900, "b", None);
        assert_eq!(asked.taken(999, BATCH), None);
        assert_eq!(asked.taken(1000, BATCH), Some(2));
        asked.push_as(Patience::Long, 2000, "c", None);
        asked.push(2100, "d", None);
        assert_eq!(asked.taken(2349, BATCH), None);
        assert_eq!(asked.taken(2350, BATCH), Some(2));
        // The same secret: whoever is in a hurry decides, in whatever order they come.
        asked.push_as(Patience::Long, 3000, "e", None);
        asked.push(3010, "e", None);
        asked.push_as(Patience::Long, 3020, "e", None);
        assert_eq!(asked.taken(3259, BATCH), None);
        assert_eq!(asked.taken(3260, BATCH), Some(1));
    }

    #[tokio::test]
    async fn who_is_in_a_hurry_wakes_a_worker_that_waits_for_others() {
        let mut asked = Asked::new();
        asked.push_as(Patience::Long, 0, "a", None);
        let bell = asked.line.bell();
        let rung = async || {
            tokio::time::timeout(Duration::from_millis(1), bell.notified())
                .await
                .is_ok()
        };
        assert!(rung().await, "for the first");
        asked.push_as(Patience::Long, 10, "b", None);
        assert!(!rung().await);
        asked.push(20, "c", None);
        assert!(rung().await, "for who is in a hurry");
        // One of two workers takes a full batch and leaves some behind, for which the other must come.
        for n in 0..BATCH {
            asked.push(30, &format!("{n}"), None);
        }
        assert!(rung().await, "for a full batch");
        assert_eq!(asked.taken(31, BATCH), Some(BATCH));
        assert!(rung().await, "for what is left");
        assert_eq!(asked.taken(500, BATCH), Some(3));
        assert!(!rung().await);
        // Whatever others wait for, they know nothing of this one.
        asked.push(600, "last", None);
        assert!(rung().await, "for the next");
    }

    #[test]
    fn what_a_slow_read_leaves_behind_gets_a_worker_of_its_own() {
        let mut asked = Asked::new();
        asked.push(0, "a", None);
        asked.push(10, "old", Some("AWSPREVIOUS"));
        assert_eq!(asked.taken(10, BATCH), Some(1));
        assert!(asked.line.takes_another());
        assert!(!asked.line.takes_another(), "one is enough");
    }

    #[test]
    fn what_is_read_alone_puts_no_batch_off() {
        let mut asked = Asked::new();
        asked.push(0, "a", None);
        asked.push(10, "old", Some("AWSPREVIOUS"));
        assert_eq!(asked.taken(10, BATCH), Some(1));
        assert_eq!(asked.taken(14, BATCH), None);
        assert_eq!(asked.taken(15, BATCH), Some(1));
    }

    #[test]
    fn what_is_periodic_is_taken_each_fourth_time_however_much_is_fresh() {
        for (stage, most) in [(None, BATCH), (None, 1), (Some("AWSPREVIOUS"), BATCH)] {
            let mut asked = Asked::new();
            for n in 0..3 * BATCH {
                asked.push_by(
                    (Urgency::Periodic, Patience::Short),
                    0,
                    &format!("periodic-{n}"),
                    stage,
                );
            }
            let mut taken = Vec::new();
            for turn in 0..8 {
                for n in 0..2 * BATCH {
                    asked.push(0, &format!("fresh-{turn}-{n}"), stage);
                }
                let now = asked.at(0);
                let Work::Read(urgency, items) = asked.line.next(most, true, now) else {
                    panic!("nothing is taken");
                };
                let of = if urgency == Urgency::Fresh {
                    "fresh"
                } else {
                    "periodic"
                };
                assert!(
                    items.iter().all(|((key, _), _)| key.starts_with(of)),
                    "{urgency:?}"
                );
                taken.push(urgency);
            }
            let turns = [Urgency::Fresh, Urgency::Fresh, Urgency::Fresh, Urgency::Periodic];
            assert_eq!(taken, [turns, turns].concat(), "{stage:?} {most}");
        }
    }

    #[test]
    fn what_goes_one_by_one_waits_for_no_others() {
        let mut asked = Asked::new();
        asked.push(0, "a", None);
        asked.push(0, "b", None);
        assert_eq!(asked.taken(0, 1), Some(1));
        assert_eq!(asked.taken(0, 1), Some(1));
    }
}
