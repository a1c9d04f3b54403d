//! Reads values for those who render them: one read per secret however many wait, in batches where AWS takes them.

mod line;
mod lingering;

use std::{
    collections::{HashMap, VecDeque},
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use line::{Line, Next, Waiter};
use lingering::Lingering;

use super::{
    error::{Cause, Class, Error},
    limit::Urgency,
    remote::RemoteValue,
    secrets::{Aws, BATCH, audit},
};
use crate::api::{ObjectKey, Selector, SourceId};

/// What came of a read, shared by all who waited for it.
pub type Reading = Result<Arc<RemoteValue>, Arc<Error>>;

/// Who wants a value, and how soon.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The object that it is for.
    pub asker: &'a ObjectKey,
    /// When the object was made or last changed: the call must begin after it. A version by id never changes, so that an
    /// older answer does.
    pub since: Instant,
    /// How urgent the call is.
    pub urgency: Urgency,
    /// Whether what is made of the value has to wait anyway. Then the read waits a while for others, so that one call
    /// reads as many as it can.
    pub patient: bool,
}

/// Size of all values in memory from which on nothing is read. Whoever asks reserves memory first, so this is far above what
/// is ever in use.
const FULL: usize = 64 << 20;

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
    /// Reads under way, in the order of their start. Those who cannot share one, since they came after it began, have another.
    flying: HashMap<Wanted, VecDeque<Flight>>,
    flights: u64,
    lingering: Lingering,
}

/// What is wanted of one source.
type Item = (Arc<str>, Selector);
type Wanted = (SourceId, Arc<str>, Selector);

/// A read under way.
struct Flight {
    number: u64,
    begun: Instant,
    waiters: Vec<Waiter>,
}

impl Reader {
    /// A reader of `aws`.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(Arc::new(Inner {
            aws,
            state: Mutex::default(),
        }))
    }

    /// Reads one version of a secret. The answer may be up to 10 s old, or one that another waits for already, but of no
    /// call that began before `ask.since`.
    pub async fn read(&self, source: SourceId, key: &Arc<str>, selector: &Selector, ask: Ask<'_>) -> Reading {
        let wanted = (source, key.clone(), selector.clone());
        let (waiter, answer) = Waiter::new(ask.asker);
        let known = {
            let mut state = self.0.state();
            let known = state.lingering.get(&wanted, ask.since);
            match state.flying.get_mut(&wanted).and_then(VecDeque::back_mut) {
                _ if known.is_some() => {}
                Some(flight) if flight.begun >= ask.since => flight.waiters.push(waiter),
                _ => self.queue(&mut state, wanted, waiter, ask),
            }
            known
        };
        if let Some(value) = known {
            audit(key, &value, slice::from_ref(ask.asker));
            return Ok(value);
        }
        answered(answer, key, selector).await
    }

    /// As [`read`](Self::read), by a call that begins after this one has.
    pub async fn read_fresh(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        ask: Ask<'_>,
    ) -> Reading {
        let (waiter, answer) = Waiter::new(ask.asker);
        self.queue(
            &mut self.0.state(),
            (source, key.clone(), selector.clone()),
            waiter,
            ask,
        );
        answered(answer, key, selector).await
    }

    /// Shares a value that was read elsewhere, by a call that began at `begun`, with those who ask within 10 s.
    pub fn offer(&self, wanted: (SourceId, Arc<str>, Selector), value: Arc<RemoteValue>, begun: Instant) {
        self.0.keep(&mut self.0.state(), wanted, value, begun);
    }

    fn queue(&self, state: &mut State, wanted: Wanted, waiter: Waiter, ask: Ask<'_>) {
        let (source, key, selector) = wanted;
        let line = state.lines.entry(source).or_default();
        if line.push((key, selector), waiter, ask, Instant::now()) {
            tokio::spawn(work(self.0.clone(), source, line.bell()));
        }
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
            alone: false,
            cause,
        }))
    })
}

/// Reads what waits in one source until nothing does.
async fn work(inner: Arc<Inner>, source: SourceId, bell: Arc<Notify>) {
    loop {
        let full = inner.aws.scales.bytes() >= FULL;
        let batch = !inner.aws.is_batch_denied(source);
        match inner.next(source, BATCH, batch) {
            Next::Wait(until) => {
                let _rung = timeout_at(until, bell.notified()).await;
            }
            Next::Read(urgency, flights) => {
                if full {
                    let cause = Cause::new(
                        Class::Throttled,
                        "more values are in use at once than Keyturn keeps in memory",
                    );
                    inner.fail(source, flights, &cause);
                } else {
                    inner.read(source, urgency, flights, batch).await;
                }
                if !inner.goes_on(source) {
                    return;
                }
            }
            Next::End => return,
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next reads out of the line and numbers them.
    fn next(self: &Arc<Self>, source: SourceId, most: usize, batches: bool) -> Next<u64> {
        let mut state = self.state();
        let State {
            lines,
            flying,
            flights,
            ..
        } = &mut *state;
        let Some(line) = lines.get_mut(&source) else {
            return Next::End;
        };
        let now = Instant::now();
        let next = line.next(most, batches, now);
        if line.takes_another() {
            // The read of what was taken may be slow.
            tokio::spawn(work(self.clone(), source, line.bell()));
        }
        if line.is_idle() {
            lines.remove(&source);
        }
        let start = |(item, waiters): (Item, Vec<Waiter>)| {
            *flights += 1;
            let wanted = (source, item.0.clone(), item.1.clone());
            flying.entry(wanted).or_default().push_back(Flight {
                number: *flights,
                begun: now,
                waiters,
            });
            (item, *flights)
        };
        match next {
            Next::Read(urgency, taken) => Next::Read(urgency, taken.into_iter().map(start).collect()),
            Next::Wait(until) => Next::Wait(until),
            Next::End => Next::End,
        }
    }

    fn goes_on(&self, source: SourceId) -> bool {
        let mut state = self.state();
        let Some(line) = state.lines.get_mut(&source) else {
            return false;
        };
        let goes_on = line.goes_on();
        if line.is_idle() {
            state.lines.remove(&source);
        }
        goes_on
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
                Err(error) => return self.fail(source, alone, error.cause()),
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

    /// Tells all who wait for these that they cannot be read.
    fn fail(self: &Arc<Self>, source: SourceId, flights: Vec<(Item, u64)>, cause: &Cause) {
        for ((key, selector), number) in flights {
            let error = Error::Read {
                key: key.clone(),
                selector: selector.clone(),
                alone: false,
                cause: cause.clone(),
            };
            self.settle(source, ((key, selector), number), &Err(Arc::new(error)));
        }
    }

    /// Tells those who wait. A value is good for those who wait for an earlier read, too.
    fn settle(self: &Arc<Self>, source: SourceId, flight: (Item, u64), reading: &Reading) {
        let ((key, selector), number) = flight;
        let wanted = (source, key, selector);
        let mut state = self.state();
        let Some(flights) = state.flying.get_mut(&wanted) else {
            return;
        };
        // A later read has answered for it already.
        let Some(at) = flights.iter().position(|flight| flight.number == number) else {
            return;
        };
        let first = if reading.is_ok() { 0 } else { at };
        let Some(begun) = flights.get(at).map(|flight| flight.begun) else {
            return;
        };
        let waiters: Vec<_> = flights
            .drain(first..=at)
            .flat_map(|flight| flight.waiters)
            .collect();
        if flights.is_empty() {
            state.flying.remove(&wanted);
        }
        if let Ok(value) = reading {
            self.keep(&mut state, wanted.clone(), value.clone(), begun);
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
    fn keep(self: &Arc<Self>, state: &mut State, wanted: Wanted, value: Arc<RemoteValue>, begun: Instant) {
        state.lingering.put(wanted, value, begun);
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
