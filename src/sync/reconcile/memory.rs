//! What the process remembers of objects between passes. Losing it costs at most a read.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Context, pass::Pass};
use crate::{
    api::{ObjectKey, Reason, RotationStatus},
    cluster::{Observed, SecretEntry},
    objects::{RefreshDigest, status::Digest},
    sync::{decide::contest::Contest, rotation::Traces},
};

/// An object is read on demand at most this often.
const ON_DEMAND: Duration = Duration::from_secs(10);

/// What the process remembers of all objects.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<ObjectKey, Memory>>);

/// What a process remembers of an object; losing it costs at most a read. There may be 100,000 of them, so what few of
/// them have at a time is boxed.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// What the last pass saw of the object.
    pub(super) seen: Option<Box<Seen>>,
    /// A revision that no pass has seen yet.
    news: Option<Box<UnseenRevision>>,
    /// Whether somebody edited the object and waits for what is said of that.
    pub(super) edited: bool,
    /// When the first pass wanted something of AWS.
    pub(super) wanted_since: Option<Duration>,
    /// The refusal that was audited last.
    audited: Option<Box<AuditedRefusal>>,
    pub(super) refresh: RefreshMemory,
    pub(super) target: TargetMemory,
    pub(super) status: StatusMemory,
    pub(super) rotation: RotationMemory,
}

/// Of refreshes that people asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct RefreshMemory {
    /// The annotation that was last answered.
    pub(super) answered: Option<RefreshDigest>,
    /// The last call of AWS for an annotation, whatever came of it.
    called: Option<Box<RefreshCall>>,
}

/// AWS was called for a refresh annotation.
#[derive(Clone, Copy, Debug)]
struct RefreshCall {
    annotation: RefreshDigest,
    /// When that was first.
    at: Duration,
}

/// Of the target.
#[derive(Clone, Debug, Default)]
pub(super) struct TargetMemory {
    /// What an immutable target refused.
    pub(super) refused: Option<Box<RefusedVersions>>,
    /// A foreign target.
    pub(super) conflict: Option<Box<ForeignTarget>>,
    /// Since when the target is one that an earlier object of this name left to the garbage collector.
    pub(super) leftover: Option<Duration>,
    /// What others changed or deleted lately.
    pub(super) contest: Option<Box<Contest>>,
    /// With creationPolicy None: what was read last.
    pub(super) read: Option<Box<ReadVersions>>,
}

/// The versions that an immutable Secret cannot take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RefusedVersions {
    /// Of the ExternalSecret.
    pub(super) revision: u64,
    pub(super) versions: String,
}

/// A Secret of another owner, in the state that was refused.
#[derive(Clone, Debug)]
pub(super) struct ForeignTarget {
    /// Of the ExternalSecret.
    pub(super) revision: u64,
    pub(super) observed: Observed,
    /// When it is looked at again.
    pub(super) recheck: Duration,
}

/// What an object without a Secret was read for.
#[derive(Clone, Debug)]
pub(super) struct ReadVersions {
    pub(super) inputs: String,
    pub(super) versions: String,
}

/// Of the status.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusMemory {
    /// The status as we wrote it last.
    pub(super) written: Option<WrittenStatus>,
    /// When it may be written, if many are to be.
    turn: Option<Duration>,
    /// The generation that was said to be malformed.
    pub(super) malformed: Option<Box<i64>>,
}

/// A status that we wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenStatus {
    pub(super) at: Duration,
    pub(super) digest: Digest,
}

/// Of the rotation.
#[derive(Clone, Debug, Default)]
pub(super) struct RotationMemory {
    /// What was seen of the last change until a rotation explains it.
    pub(super) traces: Option<Box<Traces>>,
    /// The same after the last judgement of it.
    pub(super) judged: Option<Box<Traces>>,
    /// What we said last.
    pub(super) said: Option<Box<RotationStatus>>,
}

/// A refusal that was audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AuditedRefusal {
    /// Of the ExternalSecret.
    revision: u64,
    /// What was refused, as a hash.
    subject: u64,
}

/// A revision of an object, and when this process learnt of it.
#[derive(Clone, Copy, Debug)]
struct UnseenRevision {
    revision: u64,
    since: Duration,
}

/// What a pass saw of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    uid: Box<str>,
    revision: u64,
    /// When this process learnt of that revision: what is read for it must not be older.
    since: Duration,
}

impl Memory {
    /// Since when the object is as the last pass saw it.
    pub(super) fn since(&self) -> Duration {
        self.seen.as_ref().map_or(Duration::ZERO, |seen| seen.since)
    }

    /// How long a pass waits before it calls AWS for this refresh annotation: not more often than every 10 s for a new one. One
    /// that was called for comes again by the back-off of what failed.
    pub(super) fn wait_for(&self, asked: RefreshDigest, now: Duration) -> Option<Duration> {
        let last = self.refresh.called.as_deref();
        let last = last.filter(|last| last.annotation != asked)?;
        (last.at + ON_DEMAND)
            .checked_sub(now)
            .filter(|wait| !wait.is_zero())
    }

    /// A pass calls AWS for this refresh annotation. Gives whether it is the first that does.
    pub(super) fn call_for(&mut self, asked: RefreshDigest, now: Duration) -> bool {
        let called = &mut self.refresh.called;
        let is_new = called.as_ref().is_none_or(|called| called.annotation != asked);
        if is_new {
            *called = Some(Box::new(RefreshCall {
                annotation: asked,
                at: now,
            }));
        }
        is_new
    }

    /// A pass looks at this state of the object. What is remembered of an earlier object of its name, such as the status that
    /// was written a moment ago, says nothing of this one.
    pub(super) fn see(&mut self, uid: &str, revision: u64, now: Duration) {
        let news = self.news.take().filter(|news| news.revision == revision);
        if self.seen.as_ref().is_some_and(|seen| *seen.uid != *uid) {
            *self = Self::default();
        }
        match &self.seen {
            Some(seen) if seen.revision == revision => return,
            before => self.edited |= before.is_some(),
        }
        self.seen = Some(Box::new(Seen {
            uid: uid.into(),
            revision,
            since: news.map_or(now, |news| news.since),
        }));
    }

    /// The index shows this revision of the object, which a pass will look at.
    fn learn(&mut self, revision: u64, now: Duration) {
        if self.news.as_ref().is_none_or(|news| news.revision != revision) {
            self.news = Some(Box::new(UnseenRevision { revision, since: now }));
        }
    }
}

/// The index may take this long to show a status that we wrote. If another client changes the status again and again, we write
/// it once in this time.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

impl Context {
    /// Ends what the tracker checks for an object, but not the knowledge of when it was checked last.
    pub(super) fn unsubscribe(&self, object: &ObjectKey) {
        let checked = self.provider.tracking.tell(|tracker, _| {
            let checked = tracker.checked(object);
            tracker.unsubscribe(object);
            checked
        });
        if checked.is_some() {
            self.remember(object, |memory| memory.wanted_since = checked);
        }
    }

    /// Notes that the process knows of the object, or of a change of it, from now on.
    pub fn learn(&self, object: &ObjectKey) {
        let revision = self
            .view
            .objects
            .with(object, |indexed| indexed.entry().map(|entry| entry.revision));
        if let Some(revision) = revision.flatten() {
            let now = self.clock.now();
            self.remember(object, |memory| memory.learn(revision, now));
        }
    }

    /// Whether an object differs from what its last pass saw, in what passes look at, or has lost the status that it had.
    pub fn is_news(&self, object: &ObjectKey) -> bool {
        let (seen, told) = self
            .memory
            .lock()
            .get(object)
            .map(|memory| (memory.seen.clone(), memory.status.written.is_some()))
            .unwrap_or_default();
        let same = self.view.objects.with(object, |indexed| {
            indexed.entry().is_some_and(|entry| {
                seen.is_some_and(|seen| seen.uid == entry.uid && seen.revision == entry.revision)
                    && !(told && entry.status.said.is_silent())
            })
        });
        same != Some(true)
    }

    pub(super) fn recall(&self, object: &ObjectKey) -> Memory {
        self.memory.lock().get(object).cloned().unwrap_or_default()
    }

    pub(super) fn remember(&self, object: &ObjectKey, remember: impl FnOnce(&mut Memory)) {
        remember(self.memory.lock().entry(object.clone()).or_default());
    }
}

impl Pass<'_> {
    /// What the status says, as the index has it, or as we wrote it a moment ago; and for how long that is believed against the
    /// index.
    pub(super) fn said(&self) -> (Digest, Option<Duration>) {
        let now = self.context.clock.now();
        let ours = self
            .context
            .memory
            .lock()
            .get(self.object)
            .and_then(|memory| memory.status.written);
        let ours = ours.and_then(|WrittenStatus { at, digest }| {
            let left = (at + SHOWN_WITHIN)
                .checked_sub(now)
                .filter(|left| !left.is_zero());
            Some((digest, left?))
        });
        ours.map_or_else(
            || (self.latest().status.said, None),
            |(said, left)| (said, Some(left)),
        )
    }

    /// Whether another client has removed the status that we wrote.
    pub(super) fn lost_status(&self) -> bool {
        let wrote = |memory: &Memory| {
            let written = memory.status.written;
            written.is_some_and(|written| !written.digest.is_silent())
        };
        self.said().0.is_silent() && self.context.memory.lock().get(self.object).is_some_and(wrote)
    }

    /// How long it takes until the object may write its status; `None` if it may now. Its turn stays its own until used.
    pub(super) fn turn(&self) -> Option<Duration> {
        let now = self.context.clock.now();
        let mut memories = self.context.memory.lock();
        let memory = memories.entry(self.object.clone()).or_default();
        if memory.edited {
            memory.status.turn = None;
            return None;
        }
        let turn = memory
            .status
            .turn
            .unwrap_or_else(|| self.context.capacity.pace.turn(now));
        let wait = turn.checked_sub(now).filter(|wait| !wait.is_zero());
        memory.status.turn = wait.map(|_| turn);
        wait
    }

    /// The target as the index knows it.
    pub(super) fn secret(&self) -> Option<SecretEntry> {
        let indexed = self.context.view.secrets.get(&self.target())?;
        indexed.entry().cloned()
    }

    /// Audits that a key or the namespace was refused: once for each state of the object, not at every look.
    pub(super) fn audit_refusal(&self, reason: Reason, subject: &str) {
        let mut hasher = DefaultHasher::new();
        (reason, subject).hash(&mut hasher);
        let refused = AuditedRefusal {
            revision: self.entry.revision,
            subject: hasher.finish(),
        };
        let mut again = false;
        self.remember(|memory| {
            again = memory
                .audited
                .replace(Box::new(refused))
                .is_some_and(|last| *last == refused);
        });
        if !again {
            tracing::info!(target: "audit", action = "refusal", external_secret = %self.object, %reason, subject);
        }
    }
}

impl Memories {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_takes_little_memory() {
        assert!(size_of::<Memory>() <= 256, "{}", size_of::<Memory>());
    }

    #[test]
    fn what_is_remembered_of_an_earlier_object_of_the_name_is_forgotten() {
        let mut memory = Memory::default();
        let now = Duration::from_secs(9);
        memory.see("u1", 1, now);
        memory.status.written = Some(WrittenStatus {
            at: Duration::ZERO,
            digest: Digest::of(None),
        });
        memory.see("u1", 2, now);
        assert!(memory.status.written.is_some() && memory.edited);
        memory.see("u2", 2, now);
        assert!(memory.status.written.is_none() && !memory.edited);
        let seen = memory.seen.unwrap();
        assert_eq!((&*seen.uid, seen.revision), ("u2", 2));
    }

    #[test]
    fn a_revision_counts_from_when_the_process_learnt_of_it() {
        let at = Duration::from_secs;
        let mut memory = Memory::default();
        memory.learn(1, at(1));
        memory.learn(1, at(2));
        memory.see("u1", 1, at(3));
        assert_eq!(memory.since(), at(1));
        // A pass that follows by itself changes nothing.
        memory.see("u1", 1, at(5));
        assert_eq!(memory.since(), at(1));
        // A pass may come before the change is told.
        memory.see("u1", 2, at(6));
        assert_eq!(memory.since(), at(6));
        // What was learnt of is not what the index shows by now.
        memory.learn(3, at(7));
        memory.see("u1", 4, at(8));
        assert_eq!(memory.since(), at(8));
        memory.learn(5, at(9));
        memory.see("u2", 5, at(10));
        assert_eq!(memory.since(), at(9));
    }

    #[test]
    fn a_new_refresh_waits_ten_seconds_whatever_came_of_the_last_and_what_failed_for_its_own_back_off() {
        let at = Duration::from_secs;
        let mut memory = Memory::default();
        let nth = |n: u8| RefreshDigest::of(Some(&n.to_string()));
        assert_eq!(memory.wait_for(nth(1), at(0)), None, "the first");
        assert!(memory.call_for(nth(1), at(0)));
        assert_eq!(memory.wait_for(nth(1), at(1)), None, "the same again");
        assert!(!memory.call_for(nth(1), at(9)));
        assert_eq!(memory.wait_for(nth(2), at(9)), Some(at(1)));
        assert_eq!(memory.wait_for(nth(3), at(10)), None);
        assert!(memory.call_for(nth(3), at(10)));
        assert_eq!(
            memory.wait_for(nth(1), at(11)),
            Some(at(9)),
            "one that was there before is new"
        );
    }
}
