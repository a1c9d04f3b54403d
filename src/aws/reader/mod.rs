//! Reads values, for passes over objects and for the tracker's checks: one read per secret however many wait, in batches where
//! AWS takes them, each with its line in the audit log.

mod audit;
mod batch;
mod line;
mod lingering;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use audit::Audience;
use line::{ReadQueue, Waiter, Work};
use lingering::Lingering;

use super::{
    calls::Aws,
    error::{Cause, Class, Error},
    limit::Urgency,
    remote::RemoteValue,
};
use crate::api::{ObjectKey, Selector, SourceId, remote::AWSCURRENT};

/// What came of a read, shared by all who waited for it.
pub type Reading = Result<Arc<RemoteValue>, Arc<Error>>;

/// Who wants a value, how new and how soon.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The object that it is for.
    pub asker: &'a ObjectKey,
    /// How old the answer may be.
    pub age: Age,
    /// How urgent the call is.
    pub urgency: Urgency,
    /// How long it may wait for others, so that one call reads as many as it can.
    pub patience: Patience,
}

/// How old an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Up to 10 s, but of no call that began before this time, at which the object was made or last changed. A version by id
    /// never changes, so that any answer does.
    Since(Instant),
    /// Of a call that begins after the request for it.
    New,
}

/// How long a read waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// At most a quarter of a second.
    Short,
    /// A second: what is made of the value has to wait anyway.
    Long,
}

/// A value that a check has read.
#[derive(Debug)]
pub struct Read {
    /// The value.
    pub value: Arc<RemoteValue>,
    audience: Audience,
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
    lines: HashMap<SourceId, ReadQueue>,
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

    /// Reads one version of a secret for a pass over an object.
    pub async fn read(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        demand: Demand<'_>,
    ) -> Reading {
        let wanted = (source, key.clone(), selector.clone());
        let (waiter, answer) = Waiter::new(demand.asker);
        let known = {
            let mut state = self.0.state();
            match demand.age {
                Age::New => {
                    self.queue(&mut state, wanted, waiter, demand);
                    None
                }
                Age::Since(since) => {
                    let known = state.lingering.get(&wanted, since, demand.asker);
                    match state.flying.get_mut(&wanted).and_then(VecDeque::back_mut) {
                        _ if known.is_some() => {}
                        Some(flight) if flight.begun >= since => flight.waiters.push(waiter),
                        _ => self.queue(&mut state, wanted, waiter, demand),
                    }
                    known
                }
            }
        };
        if let Some((value, is_new)) = known {
            if is_new {
                audit::record(key, &value, &Audience::from([demand.asker.clone()]));
            }
            return Ok(value);
        }
        answered(answer, key, selector).await
    }

    /// Reads AWSCURRENT of some secrets of a source for all who want it, in the order of `keys`. An error of the whole is one
    /// that concerns no single key: a batch that is denied, throttled or unanswered.
    pub async fn check(
        &self,
        source: SourceId,
        keys: &[Arc<str>],
    ) -> Result<Vec<Result<Read, Error>>, Error> {
        let current = Selector::Stage(AWSCURRENT.into());
        if let [key] = keys {
            // Of one secret alone, a failure that passes is the whole call's.
            return match self.check_version(source, key, &current).await {
                Err(error) if error.class().is_transient() => Err(error),
                answer => Ok(vec![answer]),
            };
        }
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(self.0.batch_size(source)) {
            let answers = batch::read(&self.0.aws, source, keys, Urgency::Periodic).await?;
            let complete = keys.iter().zip(answers).map(async |(key, answer)| match answer {
                Some(answer) => Ok(self.0.checked(source, key, &current, answer?)),
                None => self.check_version(source, key, &current).await,
            });
            values.extend(join_all(complete).await);
        }
        Ok(values)
    }

    /// Reads one version of a secret for all who want it.
    pub async fn check_version(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
    ) -> Result<Read, Error> {
        let value = self.0.aws.get(source, key, selector, Urgency::Periodic).await?;
        Ok(self.0.checked(source, key, selector, value))
    }

    /// Whether the source may read in batches, found out by a batch of this secret alone.
    pub async fn try_batch(&self, source: SourceId, key: &Arc<str>) -> Result<(), Error> {
        let aws = &self.0.aws;
        let tried = async {
            let client = aws.client(source)?;
            aws.batch(&client, std::slice::from_ref(key), Urgency::Periodic)
                .await
        };
        let (values, _) = tried.await.map_err(|cause| Error::Batch { count: 1, cause })?;
        let current = Selector::Stage(AWSCURRENT.into());
        for value in values {
            self.0.checked(source, key, &current, value);
        }
        Ok(())
    }

    /// Shares a value that a check has read, by a call that began at `begun`, with those who ask within 10 s.
    pub fn share(&self, wanted: (SourceId, Arc<str>, Selector), read: Read, begun: Instant) {
        self.0.keep(&mut self.0.state(), wanted, read, begun);
    }

    fn queue(&self, state: &mut State, wanted: Wanted, waiter: Waiter, demand: Demand<'_>) {
        let (source, key, selector) = wanted;
        let new = || ReadQueue::new(self.0.batch_size(source));
        let line = state.lines.entry(source).or_insert_with(new);
        if line.push((key, selector), waiter, demand, Instant::now()) {
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
        let full = inner.aws.meter.bytes() >= FULL;
        let batch = !inner.aws.is_batch_denied(source);
        match inner.next(source, batch) {
            Work::Wait(until) => {
                let _rung = timeout_at(until, bell.notified()).await;
            }
            Work::Read(urgency, flights) => {
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
            Work::End => return,
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next reads out of the line and numbers them.
    fn next(self: &Arc<Self>, source: SourceId, batches: bool) -> Work<u64> {
        let most = self.batch_size(source);
        let mut state = self.state();
        let State {
            lines,
            flying,
            flights,
            ..
        } = &mut *state;
        let Some(line) = lines.get_mut(&source) else {
            return Work::End;
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
            Work::Read(urgency, taken) => Work::Read(urgency, taken.into_iter().map(start).collect()),
            Work::Wait(until) => Work::Wait(until),
            Work::End => Work::End,
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
            match batch::read(&self.aws, source, &keys, urgency).await {
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
                let answer = self.aws.get(source, &item.0, &item.1, urgency).await;
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
        let answered = waiters
            .into_iter()
            .filter_map(|Waiter { asker, answer }| answer.send(reading.clone()).is_ok().then_some(asker));
        let audience: Audience = answered.collect();
        if let Ok(value) = reading {
            let read = Read {
                value: value.clone(),
                audience: audience.clone(),
            };
            self.keep(&mut state, wanted.clone(), read, begun);
            drop(state);
            audit::record(&wanted.1, value, &audience);
        }
    }

    /// A value that was read for all who want it.
    fn checked(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        value: Arc<RemoteValue>,
    ) -> Read {
        let audience = (self.aws.subscribers)(source, key, selector)
            .into_iter()
            .collect();
        audit::record(key, &value, &audience);
        Read { value, audience }
    }

    fn batch_size(&self, source: SourceId) -> usize {
        self.aws.service(source).map_or(1, |service| service.batch)
    }

    /// Keeps a value for those who ask later; the first to linger is watched over until none does.
    fn keep(self: &Arc<Self>, state: &mut State, wanted: Wanted, read: Read, begun: Instant) {
        state.lingering.put(wanted, read, begun);
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
