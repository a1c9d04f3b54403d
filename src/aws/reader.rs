//! Reads values for those who render them: one read per secret however many wait, in batches where AWS takes them.

use std::{
    collections::{HashMap, VecDeque},
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    error::{Cause, Class, Error},
    limit::Urgency,
    remote::RemoteValue,
    secrets::{Aws, BATCH, audit},
};
use crate::api::{ObjectKey, Selector, SourceId, remote::AWSCURRENT};

/// What came of a read, shared by all who waited for it.
pub type Reading = Result<Arc<RemoteValue>, Arc<Error>>;

/// A burst has this long to fill a batch.
const GATHER: Duration = Duration::from_millis(15);
/// Reads of one source at a time. A call more than these may be in flight for the checks.
const WORKERS: usize = 4;
/// Of which this many also while nothing fresh waits: one is kept from being held up by what is periodic.
const PERIODIC_WORKERS: usize = 3;
/// How long a value answers for those who ask later.
const LINGER: Duration = Duration::from_secs(10);
/// Size of all values in memory, from which on no further batch is taken; one under way may go over it.
const MEMORY: usize = 8 << 20;
/// Of which values that only linger take at most this.
const LINGERING: usize = 4 << 20;
/// Who holds many values may be waiting for the one that does not fit: after this one is read all the same.
const STUCK: Duration = Duration::from_secs(1);

/// Reads values. Clones are the same reader; its work goes on in tasks of the runtime that `read` is called in.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    aws: Arc<Aws>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: HashMap<SourceId, Line>,
    flying: HashMap<Wanted, Flight>,
    flights: u64,
    lingering: Lingering,
}

/// What is wanted of one source.
type Item = (Arc<str>, Selector);
type Wanted = (SourceId, Arc<str>, Selector);

/// Someone who waits; gone when the other end is dropped.
struct Waiter {
    asker: ObjectKey,
    answer: oneshot::Sender<Reading>,
}

/// A read under way.
struct Flight {
    number: u64,
    waiters: Vec<Waiter>,
}

/// Those who wait for a read that has not begun.
struct Waiting {
    /// Of the most urgent of them.
    urgency: Urgency,
    waiters: Vec<Waiter>,
}

/// The reads that wait in one source.
#[derive(Default)]
struct Line {
    /// What waits, and who for it. An item without an entry here was taken by another way.
    waiting: HashMap<Item, Waiting>,
    /// Those of [`AWSCURRENT`], fresh and periodic ones.
    together: [VecDeque<Item>; 2],
    /// Those that no batch can read.
    alone: [VecDeque<Item>; 2],
    was_alone: bool,
    workers: usize,
    /// Workers about to take something.
    gathering: usize,
    full: Arc<Notify>,
}

impl Reader {
    /// A reader of `aws`.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(Arc::new(Inner {
            aws,
            state: Mutex::default(),
        }))
    }

    /// Reads one version of a secret for `asker`. The answer may be up to 10 s old, or one that another waits for
    /// already.
    pub async fn read(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        asker: &ObjectKey,
        urgency: Urgency,
    ) -> Reading {
        let wanted = (source, key.clone(), selector.clone());
        let (waiter, answer) = Waiter::new(asker);
        {
            let mut state = self.0.state();
            if let Some(value) = state.lingering.get(&wanted) {
                audit(key, &value, slice::from_ref(asker));
                return Ok(value);
            }
            match state.flying.get_mut(&wanted) {
                Some(flight) => flight.waiters.push(waiter),
                None => self.queue(&mut state, wanted, waiter, urgency),
            }
        }
        answered(answer, key, selector).await
    }

    /// As [`read`](Self::read), by a call that begins after this one has.
    pub async fn read_fresh(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        asker: &ObjectKey,
        urgency: Urgency,
    ) -> Reading {
        let (waiter, answer) = Waiter::new(asker);
        self.queue(
            &mut self.0.state(),
            (source, key.clone(), selector.clone()),
            waiter,
            urgency,
        );
        answered(answer, key, selector).await
    }

    /// Shares an AWSCURRENT value that was read elsewhere with those who ask within 10 s.
    pub fn offer(&self, source: SourceId, key: &Arc<str>, value: Arc<RemoteValue>) {
        let current = Selector::Stage(AWSCURRENT.into());
        self.0
            .keep(&mut self.0.state(), (source, key.clone(), current), value);
    }

    fn queue(&self, state: &mut State, wanted: Wanted, waiter: Waiter, urgency: Urgency) {
        let (source, key, selector) = wanted;
        let line = state.lines.entry(source).or_default();
        line.push((key, selector), waiter, urgency);
        if line.waiting.len() >= BATCH {
            line.full.notify_one();
        }
        if line.workers < line.most_workers() && line.gathering < line.waiting.len().div_ceil(BATCH) {
            line.workers += 1;
            line.gathering += 1;
            tokio::spawn(work(self.0.clone(), source, line.full.clone()));
        }
    }
}

impl Waiter {
    fn new(asker: &ObjectKey) -> (Self, oneshot::Receiver<Reading>) {
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

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

async fn answered(answer: oneshot::Receiver<Reading>, key: &Arc<str>, selector: &Selector) -> Reading {
    answer.await.unwrap_or_else(|_| {
        let cause = Cause::new(Class::Unavailable, "Keyturn is shutting down");
        Err(Arc::new(Error::Read {
            key: key.clone(),
            selector: selector.clone(),
            cause,
        }))
    })
}

/// Reads what waits in one source until nothing does.
async fn work(inner: Arc<Inner>, source: SourceId, full: Arc<Notify>) {
    loop {
        let waiting = inner
            .state()
            .lines
            .get(&source)
            .map_or(0, |line| line.waiting.len());
        if (1..BATCH).contains(&waiting) {
            let _filled = timeout(GATHER, full.notified()).await;
        }
        let most = if inner.has_room().await { BATCH } else { 1 };
        let batch = !inner.aws.is_batch_denied(source);
        let Some((urgency, flights)) = inner.take(source, most) else {
            return;
        };
        inner.read(source, urgency, flights, batch).await;
        if !inner.goes_on(source) {
            return;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the values in memory leave room, or for long enough.
    async fn has_room(&self) -> bool {
        if self.aws.scales.bytes() < MEMORY {
            return true;
        }
        self.state().lingering.clear();
        timeout(STUCK, self.aws.scales.below(MEMORY)).await.is_ok()
    }

    /// Takes the next reads out of the line; without any the worker has ended.
    fn take(&self, source: SourceId, most: usize) -> Option<(Urgency, Vec<(Item, u64)>)> {
        let mut state = self.state();
        let State {
            lines,
            flying,
            flights,
            ..
        } = &mut *state;
        let line = lines.get_mut(&source)?;
        line.gathering = line.gathering.saturating_sub(1);
        let (urgency, taken) = line.take(most);
        if taken.is_empty() {
            line.workers = line.workers.saturating_sub(1);
            if line.workers == 0 {
                lines.remove(&source);
            }
            return None;
        }
        let mut numbered = Vec::with_capacity(taken.len());
        for (item, mut waiters) in taken {
            *flights += 1;
            // Who waits for a read that began earlier is content with this one.
            if let Some(earlier) = flying.remove(&(source, item.0.clone(), item.1.clone())) {
                waiters.extend(earlier.waiters);
            }
            flying.insert(
                (source, item.0.clone(), item.1.clone()),
                Flight {
                    number: *flights,
                    waiters,
                },
            );
            numbered.push((item, *flights));
        }
        Some((urgency, numbered))
    }

    /// Whether the worker has more to do; if not it has ended.
    fn goes_on(&self, source: SourceId) -> bool {
        let mut state = self.state();
        let Some(line) = state.lines.get_mut(&source) else {
            return false;
        };
        if line.waiting.is_empty() || line.workers > line.most_workers() {
            line.workers = line.workers.saturating_sub(1);
            if line.workers == 0 {
                state.lines.remove(&source);
            }
            return false;
        }
        line.gathering += 1;
        true
    }

    async fn read(
        self: &Arc<Self>,
        source: SourceId,
        urgency: Urgency,
        flights: Vec<(Item, u64)>,
        batch: bool,
    ) {
        let mut alone = flights;
        if batch && alone.len() > 1 {
            let keys: Vec<_> = alone.iter().map(|((key, _), _)| key.clone()).collect();
            match self.aws.batch_once(source, &keys, urgency).await {
                Ok(answers) => {
                    let mut unanswered = Vec::new();
                    for (flight, answer) in alone.into_iter().zip(answers) {
                        match answer {
                            Some(answer) => self.settle(source, flight, &answer.map_err(Arc::new)),
                            None => unanswered.push(flight),
                        }
                    }
                    alone = unanswered;
                }
                // Each may still be allowed alone.
                Err(error) if error.class() == Class::AccessDenied => {}
                Err(error) => {
                    for ((key, selector), number) in alone {
                        let cause = error.cause().clone();
                        let error = Error::Read {
                            key: key.clone(),
                            selector: selector.clone(),
                            cause,
                        };
                        self.settle(source, ((key, selector), number), &Err(Arc::new(error)));
                    }
                    return;
                }
            }
        }
        let mut reads: FuturesUnordered<_> = alone
            .into_iter()
            .map(|(item, number)| async move {
                let answer = self.aws.get_as(source, &item.0, &item.1, urgency).await;
                (item, number, answer)
            })
            .collect();
        while let Some((item, number, answer)) = reads.next().await {
            self.settle(source, (item, number), &answer.map_err(Arc::new));
        }
    }

    /// Tells those who wait.
    fn settle(self: &Arc<Self>, source: SourceId, flight: (Item, u64), reading: &Reading) {
        let ((key, selector), number) = flight;
        let wanted = (source, key, selector);
        let mut state = self.state();
        // A flight that a later one has overtaken has nobody waiting, and is older than what will linger.
        if state
            .flying
            .get(&wanted)
            .is_none_or(|flight| flight.number != number)
        {
            return;
        }
        let waiters = state
            .flying
            .remove(&wanted)
            .map(|flight| flight.waiters)
            .unwrap_or_default();
        if let Ok(value) = reading {
            self.keep(&mut state, wanted.clone(), value.clone());
        }
        drop(state);
        let served: Vec<_> = waiters
            .into_iter()
            .filter_map(|Waiter { asker, answer }| answer.send(reading.clone()).is_ok().then_some(asker))
            .collect();
        if let Ok(value) = reading {
            audit(&wanted.1, value, &served);
        }
    }

    /// Keeps a value for those who ask later; the first to linger is watched over until none does.
    fn keep(self: &Arc<Self>, state: &mut State, wanted: Wanted, value: Arc<RemoteValue>) {
        state.lingering.put(wanted, value);
        if std::mem::replace(&mut state.lingering.is_watched, true) {
            return;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            loop {
                let next = inner.state().lingering.expire();
                match next {
                    Some(next) => sleep_until(next).await,
                    None => return,
                }
            }
        });
    }
}

impl Line {
    fn push(&mut self, item: Item, waiter: Waiter, urgency: Urgency) {
        let [fresh, periodic] = if item.1.is_current() {
            &mut self.together
        } else {
            &mut self.alone
        };
        let known = self.waiting.get(&item).map(|waiting| waiting.urgency);
        // What waits among the periodic ones and is wanted fresh stands in both queues; the first to come counts.
        match urgency {
            Urgency::Fresh if known != Some(Urgency::Fresh) => fresh.push_back(item.clone()),
            Urgency::Periodic if known.is_none() => periodic.push_back(item.clone()),
            Urgency::Fresh | Urgency::Periodic => {}
        }
        let waiting = self.waiting.entry(item).or_insert_with(|| Waiting {
            urgency,
            waiters: Vec::new(),
        });
        waiting.urgency = waiting.urgency.min(urgency);
        waiting.waiters.push(waiter);
    }

    fn most_workers(&self) -> usize {
        let nothing_fresh = [&self.together, &self.alone]
            .iter()
            .all(|[fresh, _]| fresh.is_empty());
        if nothing_fresh { PERIODIC_WORKERS } else { WORKERS }
    }

    /// What is to be read next: one alone, or several together, the two kinds in turn and fresh ones first.
    fn take(&mut self, most: usize) -> (Urgency, Vec<(Item, Vec<Waiter>)>) {
        for urgency in [Urgency::Fresh, Urgency::Periodic] {
            for alone in [!self.was_alone, self.was_alone] {
                let taken = self.take_of(alone, urgency, most);
                if !taken.is_empty() {
                    self.was_alone = alone;
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

/// Values that answer for those who ask within [`LINGER`].
#[derive(Default)]
struct Lingering {
    values: HashMap<Wanted, (Instant, Arc<RemoteValue>)>,
    /// In the order in which they end. One without its value was replaced.
    ends: VecDeque<(Instant, Wanted)>,
    bytes: usize,
    is_watched: bool,
}

impl Lingering {
    fn get(&self, wanted: &Wanted) -> Option<Arc<RemoteValue>> {
        let find = |wanted: &Wanted| self.values.get(wanted).filter(|(end, _)| Instant::now() < *end);
        if let Some((_, value)) = find(wanted) {
            return Some(value.clone());
        }
        let (source, key, Selector::Version(version)) = wanted else {
            return None;
        };
        let (_, value) = find(&(*source, key.clone(), Selector::Stage(AWSCURRENT.into())))?;
        (value.version == *version).then(|| value.clone())
    }

    fn put(&mut self, wanted: Wanted, value: Arc<RemoteValue>) {
        let end = Instant::now() + LINGER;
        self.drop_value(&wanted);
        self.bytes += value.payload().len();
        self.values.insert(wanted.clone(), (end, value));
        self.ends.push_back((end, wanted));
        while self.bytes > LINGERING
            && let Some((end, wanted)) = self.ends.pop_front()
        {
            self.end(end, &wanted);
        }
    }

    /// Drops what has lingered long enough, and says when to come again.
    fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some((end, wanted)) = self.ends.pop_front() {
            if end > now {
                self.ends.push_front((end, wanted));
                return Some(end);
            }
            self.end(end, &wanted);
        }
        self.is_watched = false;
        None
    }

    fn end(&mut self, end: Instant, wanted: &Wanted) {
        if self.values.get(wanted).is_some_and(|(its, _)| *its == end) {
            self.drop_value(wanted);
        }
    }

    fn drop_value(&mut self, wanted: &Wanted) {
        if let Some((_, value)) = self.values.remove(wanted) {
            self.bytes = self.bytes.saturating_sub(value.payload().len());
        }
    }

    /// Drops all.
    fn clear(&mut self) {
        self.values.clear();
        self.ends.clear();
        self.bytes = 0;
    }
}
