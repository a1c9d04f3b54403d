//! Carries out what the tracker asks for, and tells it what AWS answered.
//!
//! The tracker decides and this does: one task turns effects into calls, each call ends in observations, observations
//! into wakes of the objects concerned.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet};

use crate::{
    api::{ObjectKey, Reason, Selector, SourceId},
    aws::{self, Aws, Reader, Service},
    sync::{
        queue::Class,
        resolve::Refusal,
        rotation,
        work::{Clock, Work},
    },
    track::{
        Call, Cause, Described, Effect, Failure, Known, Observation, Schedule, Subscription, Tracker,
        Withheld,
    },
};

/// The tracker, shared by the tasks that tell it what they saw and the one that carries out its effects.
#[derive(Debug)]
pub struct Tracking {
    clock: Clock,
    tracker: Mutex<Tracker>,
    outages: Mutex<HashMap<SourceId, Outage>>,
    bell: Notify,
}

/// A source that has failed for reasons that pass, since its last good answer.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Duration,
    kind: OutageKind,
    told: bool,
}

/// Why a source gives no answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageKind {
    /// Too many requests.
    Throttled,
    /// No answer, or AWS is not well.
    Unavailable,
    /// Whoever answers shows a certificate that is not trusted.
    Untrusted,
}

impl fmt::Display for OutageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throttled => "AWS throttles the calls",
            Self::Unavailable => "AWS does not answer, or answers that it is not well",
            Self::Untrusted => {
                "the certificate of AWS's endpoint is not accepted: correct the endpoint, the proxy on the way or AWS_CA_BUNDLE"
            }
        })
    }
}

/// What a store's people should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The way in which a source is checked has changed.
    Mode(SourceId),
    /// A source has not answered for [`OUTAGE`].
    Down(SourceId, OutageKind),
    /// A source that was said to be down has answered.
    Up(SourceId),
}

/// Shorter failures are nobody's concern.
const OUTAGE: Duration = Duration::from_mins(1);

impl Tracking {
    /// Shares `tracker`.
    pub fn new(clock: Clock, tracker: Tracker) -> Self {
        Self {
            clock,
            tracker: Mutex::new(tracker),
            outages: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Tells the tracker something; `tell` must be quick.
    pub fn tell<T>(&self, tell: impl FnOnce(&mut Tracker, Duration) -> T) -> T {
        let told = tell(&mut self.lock(), self.clock.now());
        self.bell.notify_one();
        told
    }

    /// Tells the tracker what was seen.
    fn observe(&self, observation: Observation) {
        self.tell(|tracker, now| tracker.observe(now, observation));
    }

    /// Why a source gives no answers at present, if it gives none.
    pub fn outage(&self, source: SourceId) -> Option<OutageKind> {
        self.outages().get(&source).map(|outage| outage.kind)
    }

    /// Ends the checks of a source, and forgets how it fared.
    pub fn remove_source(&self, source: SourceId) {
        // Before its outage, so that none comes back behind it.
        self.tell(|tracker, _| tracker.remove_source(source));
        self.outages().remove(&source);
    }

    /// A source has answered, or has failed for a reason that passes; what to tell of it.
    fn note_health(&self, source: SourceId, failed: Option<OutageKind>) -> Option<Notice> {
        let mut outages = self.outages();
        let Some(kind) = failed else {
            return outages
                .remove(&source)
                .filter(|outage| outage.told)
                .map(|_| Notice::Up(source));
        };
        // The last calls of a source end after it was removed.
        if !self.lock().has_source(source) {
            return None;
        }
        let now = self.clock.now();
        let outage = outages.entry(source).or_insert(Outage {
            since: now,
            kind,
            told: false,
        });
        outage.kind = kind;
        if outage.told || now.saturating_sub(outage.since) < OUTAGE {
            return None;
        }
        outage.told = true;
        Some(Notice::Down(source, kind))
    }

    fn outages(&self) -> MutexGuard<'_, HashMap<SourceId, Outage>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the tracker something.
    pub fn ask<T>(&self, ask: impl FnOnce(&Tracker) -> T) -> T {
        ask(&self.lock())
    }

    /// Subscribes `object` to what it needs.
    pub fn subscribe(&self, object: &ObjectKey, subscription: Subscription) {
        self.tell(|tracker, now| tracker.subscribe(now, object, subscription));
    }

    /// Tells of a value that was read, and gives what stands for it now.
    pub fn saw(
        &self,
        source: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        value: &aws::RemoteValue,
    ) -> Known {
        let seen = observed_value(source, key, selector, value);
        self.tell(|tracker, now| {
            tracker.observe(now, seen);
            tracker.known(source, key, selector)
        })
    }

    /// Tells of a read that failed.
    pub fn failed(&self, read: &FailedRead<'_>, error: &aws::Error) {
        let FailedRead {
            source,
            key,
            selector,
            begun,
            described,
        } = *read;
        self.observe(Observation::Unread {
            source,
            key: key.clone(),
            selector: selector.clone(),
            failure: failure(error, selector),
            text: error.to_string().into(),
            begun,
            described,
            alone: matches!(error, aws::Error::Read { alone: true, .. }),
        });
    }

    fn lock(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of AWS and read from there.
#[derive(Clone)]
pub struct Provider {
    /// The tracker.
    pub tracking: Arc<Tracking>,
    /// Calls.
    pub aws: Arc<Aws>,
    /// Values.
    pub reader: Arc<Reader>,
}

impl Provider {
    /// Tells the tracker of a value that a check has read by a call that began at `begun`. Those whom this wakes find the value in
    /// the reader, and do not read it again.
    fn checked(&self, remote: (SourceId, &Arc<str>, &Selector), read: aws::Read, begun: Duration) {
        let (source, key, selector) = remote;
        let tracking = &self.tracking;
        let before = tracking.ask(|tracker| tracker.known(source, key, selector));
        if before != tracking.saw(source, key, selector, &read.value) {
            let wanted = (source, key.clone(), selector.clone());
            self.reader.share(wanted, read, tracking.clock.instant(begun));
        }
    }
}

/// A read that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedRead<'a> {
    /// Where it was read.
    pub source: SourceId,
    /// The key of the secret, as it was given.
    pub key: &'a Arc<str>,
    /// The version.
    pub selector: &'a Selector,
    /// When the read began, or was wanted.
    pub begun: Duration,
    /// Whether the secret was described since.
    pub described: bool,
}

/// What a check says of its source.
enum SourceHealth {
    Answers,
    Fails(OutageKind),
    /// A secret alone gets no answer.
    Unknown,
}

impl SourceHealth {
    fn of(error: &aws::Error) -> Self {
        outage(error).map_or(Self::Answers, Self::Fails)
    }

    /// The same of a call for one secret, of which the tracker has been told.
    fn of_one(error: &aws::Error, tracking: &Tracking, source: SourceId, key: &str) -> Self {
        match outage(error) {
            None => Self::Answers,
            Some(_) if tracking.ask(|tracker| tracker.is_unanswered(source, key)) => Self::Unknown,
            Some(kind) => Self::Fails(kind),
        }
    }
}

/// Runs the tracker's effects until it is dropped.
pub async fn drive(provider: Provider, work: Arc<Work>, tell: impl Fn(Notice)) {
    let Provider { tracking, aws, .. } = &provider;
    let mut calls = JoinSet::new();
    loop {
        let (effects, due) = {
            let mut tracker = tracking.lock();
            let effects = tracker.poll(tracking.clock.now());
            (effects, tracker.next_due())
        };
        for effect in effects {
            match effect {
                Effect::Wake { object, cause } => work.push(object, class(cause)),
                Effect::Mode { source } => tell(Notice::Mode(source)),
                Effect::List { source } => {
                    let checked = list(tracking.clone(), aws.clone(), source);
                    calls.spawn(async move { (source, checked.await) });
                }
                Effect::Describe { source, key } => {
                    let checked = describe(tracking.clone(), aws.clone(), source, key);
                    calls.spawn(async move { (source, checked.await) });
                }
                Effect::ReadVersion {
                    source,
                    key,
                    selector,
                } => {
                    let checked = read_version(provider.clone(), source, key, selector);
                    calls.spawn(async move { (source, checked.await) });
                }
                Effect::Read { source, keys } => {
                    let checked = read(provider.clone(), source, keys);
                    calls.spawn(async move { (source, checked.await) });
                }
            }
        }
        // What is due already was handed out above; a due time in the past would spin.
        let due = due.map(|due| due.max(tracking.clock.now() + Duration::from_millis(1)));
        tokio::select! {
            () = tracking.bell.notified() => {}
            () = tracking.clock.reach(due) => {}
            Some(ended) = calls.join_next(), if !calls.is_empty() => {
                match ended {
                    Ok((_, SourceHealth::Unknown)) => {}
                    Ok((source, SourceHealth::Answers)) => tracking.note_health(source, None).into_iter().for_each(&tell),
                    Ok((source, SourceHealth::Fails(kind))) => {
                        tracking.note_health(source, Some(kind)).into_iter().for_each(&tell);
                    }
                    Err(error) => tracing::error!(%error, "a check of AWS ended abnormally; its secrets are checked again in 5 minutes"),
                }
            }
        }
    }
}

/// What somebody asked for goes before what happens by itself.
fn class(cause: Cause) -> Class {
    match cause {
        Cause::Refreshed => Class::Urgent,
        Cause::Changed | Cause::Gone | Cause::Failing | Cause::Recovered | Cause::Rotation => Class::Periodic,
    }
}

async fn list(tracking: Arc<Tracking>, aws: Arc<Aws>, source: SourceId) -> SourceHealth {
    let begun = tracking.clock.now();
    let mut pages = aws.list(source);
    loop {
        match pages.next().await {
            Ok(Some(page)) => {
                let entries = page.into_iter().map(described).collect();
                let goes_on = tracking.tell(|tracker, now| {
                    tracker.observe(
                        now,
                        Observation::Listed {
                            source,
                            entries,
                            complete: false,
                        },
                    );
                    tracker.is_listing(source)
                });
                if !goes_on {
                    return SourceHealth::Answers;
                }
            }
            Ok(None) => {
                tracking.observe(Observation::Listed {
                    source,
                    entries: Vec::new(),
                    complete: true,
                });
                return SourceHealth::Answers;
            }
            Err(error) => {
                let failure = match failure(&error, &Selector::parse(None)) {
                    Failure::Denied => Failure::ListDenied,
                    other => other,
                };
                tracking.observe(Observation::Failed {
                    source,
                    call: Call::List,
                    keys: Vec::new(),
                    failure,
                    begun,
                });
                return SourceHealth::of(&error);
            }
        }
    }
}

async fn describe(tracking: Arc<Tracking>, aws: Arc<Aws>, source: SourceId, key: Arc<str>) -> SourceHealth {
    let begun = tracking.clock.now();
    let answer = aws.describe(source, &key).await;
    let error = answer.as_ref().err().cloned();
    tracking.observe(looked(source, &key, answer, begun));
    error.map_or(SourceHealth::Answers, |error| {
        SourceHealth::of_one(&error, &tracking, source, &key)
    })
}

/// Describes one secret; the observation says what came of it.
pub async fn look(tracking: &Tracking, aws: &Aws, source: SourceId, key: &Arc<str>) -> Observation {
    let begun = tracking.clock.now();
    looked(source, key, aws.describe(source, key).await, begun)
}

fn looked(
    source: SourceId,
    key: &Arc<str>,
    answer: Result<aws::Description, aws::Error>,
    begun: Duration,
) -> Observation {
    match answer {
        Ok(secret) => Observation::Described {
            source,
            key: key.clone(),
            secret: described(secret),
            begun,
        },
        Err(error) => Observation::Failed {
            source,
            call: Call::Describe,
            keys: vec![key.clone()],
            failure: failure(&error, &Selector::parse(None)),
            begun,
        },
    }
}

/// Tries what a source was denied, if it is time for that: somebody asks for a refresh of secrets of it. A denial changes
/// nothing; what is permitted by now is used from now on.
pub async fn try_denied(provider: &Provider, source: SourceId, keys: &[Arc<str>]) {
    let Provider {
        tracking,
        aws,
        reader,
    } = provider;
    let Some(trial) = tracking.tell(|tracker, now| tracker.trial(now, source, keys)) else {
        return;
    };
    if let Some(key) = trial.describe {
        let seen = look(tracking, aws, source, &key).await;
        if matches!(seen, Observation::Described { .. }) {
            tracking.observe(seen);
        }
    }
    if trial.batch
        && let Some(key) = keys.first()
        && reader.try_batch(source, key).await.is_ok()
    {
        tracking.tell(|tracker, now| tracker.permit(now, source, Call::Read));
    }
    if trial.list && aws.list(source).next().await.is_ok() {
        tracking.tell(|tracker, now| tracker.permit(now, source, Call::List));
    }
}

async fn read(provider: Provider, source: SourceId, keys: Vec<Arc<str>>) -> SourceHealth {
    let Provider { tracking, reader, .. } = &provider;
    let current = Selector::parse(None);
    let begun = tracking.clock.now();
    match reader.check(source, &keys).await {
        Ok(answers) => {
            for (key, answer) in keys.iter().zip(answers) {
                match answer {
                    Ok(read) => provider.checked((source, key, &current), read, begun),
                    Err(error) if error.class().is_transient() => {
                        // An error of one id of a batch that may pass is no failure of the source.
                        tracking.observe(Observation::Failed {
                            source,
                            call: Call::Read,
                            keys: vec![key.clone()],
                            failure: Failure::Unanswered,
                            begun,
                        });
                    }
                    Err(error) => {
                        let read = FailedRead {
                            source,
                            key,
                            selector: &current,
                            begun,
                            described: false,
                        };
                        tracking.failed(&read, &error);
                    }
                }
            }
            SourceHealth::Answers
        }
        Err(error) => {
            let failure = match failure(&error, &current) {
                Failure::Denied => Failure::BatchDenied,
                other => other,
            };
            let alone = <[_; 1]>::try_from(keys.clone()).ok();
            tracking.observe(Observation::Failed {
                source,
                call: Call::Read,
                keys,
                failure,
                begun,
            });
            match alone {
                Some([key]) => SourceHealth::of_one(&error, tracking, source, &key),
                None => SourceHealth::of(&error),
            }
        }
    }
}

/// Reads one version other than AWSCURRENT.
async fn read_version(
    provider: Provider,
    source: SourceId,
    key: Arc<str>,
    selector: Selector,
) -> SourceHealth {
    let Provider { tracking, reader, .. } = &provider;
    let begun = tracking.clock.now();
    match reader.check_version(source, &key, &selector).await {
        Ok(read) => {
            provider.checked((source, &key, &selector), read, begun);
            SourceHealth::Answers
        }
        Err(error) => {
            let read = FailedRead {
                source,
                key: &key,
                selector: &selector,
                begun,
                described: false,
            };
            tracking.failed(&read, &error);
            SourceHealth::of_one(&error, tracking, source, &key)
        }
    }
}

fn outage(error: &aws::Error) -> Option<OutageKind> {
    match error.class() {
        aws::Class::Throttled => Some(OutageKind::Throttled),
        aws::Class::Unavailable => Some(OutageKind::Unavailable),
        aws::Class::Untrusted => Some(OutageKind::Untrusted),
        _ => None,
    }
}

fn observed_value(
    source: SourceId,
    key: &Arc<str>,
    selector: &Selector,
    value: &aws::RemoteValue,
) -> Observation {
    Observation::Value {
        source,
        key: key.clone(),
        selector: selector.clone(),
        version: value.version.clone(),
        arn: value.arn.clone(),
        name: value.name.clone(),
        created: value.created,
    }
}

fn described(secret: aws::Description) -> Described {
    let aws::Description {
        arn,
        name,
        stages,
        deleted,
        rotation_enabled,
        last_rotated,
        next_rotation,
        rotation_window,
        rotation_schedule,
    } = secret;
    Described {
        arn,
        name,
        stages,
        deleted,
        rotation: Schedule {
            enabled: rotation_enabled,
            last: last_rotated,
            next: next_rotation,
            opens: next_rotation
                .map(|next| rotation::opens(next, rotation_window.as_deref(), rotation_schedule.as_deref())),
        },
    }
}

/// What a condition says of a failure that the tracker knows.
pub fn refusal(known: &Withheld, service: &Service) -> Refusal {
    let Withheld {
        source: _,
        key,
        selector,
        failure,
        by,
        text,
        again: _,
    } = known;
    let reason = match failure {
        Failure::Transient { throttled: true } => Reason::Throttled,
        Failure::Transient { throttled: false } | Failure::Unanswered => Reason::ProviderUnavailable,
        Failure::NotFound => Reason::SecretNotFound,
        Failure::MarkedForDeletion => Reason::MarkedForDeletion,
        Failure::StageNotFound(_) => Reason::StageNotFound,
        Failure::Denied | Failure::ListDenied | Failure::BatchDenied => Reason::AccessDenied,
        Failure::KeyDenied => Reason::KeyAccessDenied,
        Failure::Identity => Reason::IdentityError,
        Failure::Invalid => Reason::InvalidSpec,
    };
    let message = match (text, failure) {
        (Some(text), _) => text.to_string(),
        (None, Failure::StageNotFound(_)) => {
            aws::Error::stage_not_found(key.clone(), selector.clone()).to_string()
        }
        (None, _) => {
            let Service {
                prefix, operations, ..
            } = service;
            let call = match by {
                Call::Describe => operations.describe,
                Call::Read => operations.get,
                Call::List => operations.list,
            };
            let advice = match failure {
                Failure::Denied if *by == Call::Describe => format!(
                    "AWS denies it, and aws.periodicReads is false, so that no change would be found. Allow \
                     {prefix}:{call} in the identity's policy and in the secret's"
                ),
                Failure::Denied => {
                    "AWS denies it. Allow it in the identity's policy and in the secret's".to_owned()
                }
                Failure::Identity => {
                    "AWS refuses the store's identity. The store's condition Ready tells why".to_owned()
                }
                _ => "AWS refuses the request. Check the key and the version of the entry".to_owned(),
            };
            format!("{call} of {key} ({selector}) failed: {advice}")
        }
    };
    Refusal::new(reason, message)
}

/// How the tracker calls an error of AWS.
pub fn failure(error: &aws::Error, selector: &Selector) -> Failure {
    use aws::Class as C;
    match error.class() {
        C::Throttled => Failure::Transient { throttled: true },
        C::Unavailable | C::Untrusted => Failure::Transient { throttled: false },
        C::NotFound => Failure::NotFound,
        C::StageNotFound => Failure::StageNotFound(selector.clone()),
        C::MarkedForDeletion => Failure::MarkedForDeletion,
        C::AccessDenied => Failure::Denied,
        C::KeyAccessDenied => Failure::KeyDenied,
        C::Identity => Failure::Identity,
        C::Invalid => Failure::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::{Config, SourcePolicy};

    #[tokio::test(start_paused = true)]
    async fn a_removed_source_leaves_no_outage_behind() {
        let tracking = Tracking::new(Clock::start(), Tracker::new(Config::default()));
        let (one, other) = (SourceId(1), SourceId(2));
        for source in [one, other] {
            tracking.tell(|tracker, now| tracker.set_source(now, source, SourcePolicy::default()));
            assert_eq!(tracking.note_health(source, Some(OutageKind::Throttled)), None);
        }
        tracking.remove_source(one);
        // A call that was under way ends.
        tokio::time::advance(OUTAGE).await;
        assert_eq!(tracking.note_health(one, Some(OutageKind::Throttled)), None);
        assert_eq!(tracking.outage(one), None);
        assert_eq!(tracking.outages().len(), 1);
        assert_eq!(
            tracking.note_health(other, Some(OutageKind::Unavailable)),
            Some(Notice::Down(other, OutageKind::Unavailable))
        );
        assert_eq!(tracking.note_health(other, None), Some(Notice::Up(other)));
        assert!(tracking.outages().is_empty());
    }
}
