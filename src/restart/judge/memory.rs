//! What the process remembers of restarts besides what the cluster holds. Pure, and all of it may be lost: then decisions
//! are a little slower or more careful, never other restarts.

use std::{collections::HashMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use litemap::LiteMap;

use super::{
    model::{Note, Restart},
    progress::RolloutProgress,
    rollout::{Failure, RecordedOutcome},
};
use crate::{
    api::{ObjectKey, Opening, RestartStrategy, window},
    objects::Restarts,
    restart::{
        observed::{
            managed_secrets::ManagedSecret,
            model::{Content, Texts},
        },
        timing::{
            BACK_OFF_FIRST, BACK_OFF_LONGEST, COALESCE, EVICT_AGAIN, PATCH_SHOWN, REST_FIRST, REST_LONGEST,
            WINDOWS_AGAIN, WRITE_AT_MOST, later,
        },
    },
};

/// A record that cannot be written is tried this often.
const TRIES: u8 = 30;
/// After so many tries the failure is reported all the same.
const PATIENCE: u8 = 3;

/// What the process remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    workloads: HashMap<Box<str>, WorkloadMemory>,
    objects: HashMap<ObjectKey, Timestamp>,
    openings: HashMap<ObjectKey, CachedOpening>,
    /// The contents of Secrets, and when this process first saw each.
    contents: HashMap<ObjectKey, (Box<str>, Timestamp)>,
    served: HashMap<Arc<str>, u64>,
    turn: u64,
}

/// The rollout of a content on a workload.
#[derive(Clone, Copy, Debug)]
pub struct RolloutKey<'a> {
    /// Of the workload.
    pub uid: &'a str,
    /// Of the Secret's name.
    pub hash: &'a str,
    pub token: &'a str,
}

impl<'a> RolloutKey<'a> {
    fn noted(uid: &'a str, note: &'a Note) -> Self {
        Self {
            uid,
            hash: &note.hash,
            token: &note.token,
        }
    }
}

/// Of one workload, by its uid.
#[derive(Clone, Debug, Default)]
struct WorkloadMemory {
    /// The contents that its pods were seen to hold, and when those changed: the same content may come back.
    satisfied: LiteMap<Box<str>, (Box<str>, Timestamp)>,
    complete: Texts,
    /// The contents whose rollout was seen under way.
    rolled: Texts,
    /// The contents whose rollout was seen to fail.
    failed: LiteMap<Box<str>, SeenFailure>,
    /// How far the rollouts of contents are.
    progress: LiteMap<Box<str>, SeenProgress>,
    /// The contents for which the workload was to say again what it lost, or that it recovered, and how often that was tried.
    reminded: LiteMap<Box<str>, (Box<str>, u8)>,
    changes: Option<ChangeBurst>,
    sent: LiteMap<Box<str>, SentPatch>,
    /// What was sent before that.
    former: LiteMap<Box<str>, SentPatch>,
    refused: Option<Refusal>,
    evicting: Option<Eviction>,
    /// How many decisions in a row did not hold when the workload was read again.
    rests: u32,
}

/// Pods of a workload are evicted, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Since then.
    pub since: Timestamp,
    /// Whether this process evicts them. Before it, another replica or anything else may have.
    pub ours: bool,
    /// Whether more pods are evicted, so that the workload holds a slot.
    pub holds_slot: bool,
}

/// A rollout was seen to fail.
#[derive(Clone, Debug)]
struct SeenFailure {
    token: Box<str>,
    failure: Failure,
    /// Whether it recovered.
    over: bool,
    /// What the workload is to say of it.
    record: NoteStep,
    /// Whether the failure is reported once that is done.
    alert: bool,
}

/// How far a rollout was seen to be.
#[derive(Clone, Debug)]
struct SeenProgress {
    token: Box<str>,
    /// When the rollout began.
    since: Timestamp,
    /// The most of each number that was seen, and when it was reached.
    most: RolloutProgress,
}

/// Whether something is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoteStep {
    /// Nothing asks for it.
    No,
    /// It was tried so often.
    Yes(u8),
    /// It is there, or was given up.
    Over,
}

/// Whether an ExternalSecret's windows are open.
#[derive(Clone, Debug)]
struct CachedOpening {
    restarts: Arc<Restarts>,
    opening: Opening,
    since: Timestamp,
    until: Timestamp,
}

/// Changes that follow each other so closely that they make one restart.
#[derive(Clone, Copy, Debug)]
struct ChangeBurst {
    first: Timestamp,
    latest: Timestamp,
}

/// Why a note was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteFailure {
    /// For a reason that passes.
    Passing,
    /// It was not answered in time, which may take as long each time.
    Late,
    /// It never will be.
    Refused,
}

/// A patch that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentPatch {
    /// With this token.
    pub token: Box<str>,
    /// When.
    pub at: Timestamp,
    /// The number of the attempt.
    pub attempt: u8,
    /// Whether it is known to have been taken.
    pub taken: bool,
}

/// A request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// It is tried again then.
    pub until: Timestamp,
    /// How often in a row.
    pub times: u32,
    /// Why, in a sentence.
    pub why: Box<str>,
    /// Whether it was only doubted.
    doubt: bool,
}

impl Memory {
    /// Remembers a request. Call this before the request is sent, so that a lost answer does not cause a second request
    /// at once.
    pub fn sending(&mut self, restart: &Restart, now: Timestamp) {
        self.turn += 1;
        self.served
            .insert(Arc::clone(&restart.key.key.namespace), self.turn);
        let kept = self.workloads.entry(restart.uid.clone()).or_default();
        kept.changes = None;
        if restart.strategy == RestartStrategy::Evict {
            // Each pod has its own time.
            kept.evicting = Some(Eviction {
                since: now,
                ours: true,
                holds_slot: true,
            });
            return;
        }
        for cause in &restart.causes {
            let sent = SentPatch {
                token: cause.stamp.record.token.clone(),
                at: now,
                attempt: cause.stamp.record.attempt,
                taken: false,
            };
            kept.ask(&cause.stamp.hash, &sent.token);
            if let Some(former) = kept.sent.insert(cause.stamp.hash.clone(), sent) {
                kept.former.insert(cause.stamp.hash.clone(), former);
            }
        }
    }

    /// The request was taken.
    pub fn taken(&mut self, restart: &Restart, now: Timestamp) {
        self.began(restart, now);
        let kept = self.workloads.entry(restart.uid.clone()).or_default();
        (kept.refused, kept.rests) = (None, 0);
        for cause in &restart.causes {
            if let Some(sent) = kept.sent.get_mut(&cause.stamp.hash) {
                sent.taken = true;
            }
        }
    }

    /// Nothing is known of the request: it may have been taken. If it was not, it is tried again later, for `why`.
    pub fn doubted(&mut self, restart: &Restart, now: Timestamp, why: &str) {
        self.began(restart, now);
        let kept = self.workloads.entry(restart.uid.clone()).or_default();
        kept.back_off(now, PATCH_SHOWN, why, true);
    }

    fn began(&mut self, restart: &Restart, now: Timestamp) {
        for cause in &restart.causes {
            self.objects.insert(cause.object.clone(), now);
        }
    }

    /// The request certainly did nothing, since the workload changed meanwhile: it may be decided on again at once.
    pub fn conflicted(&mut self, restart: &Restart) {
        if let Some(kept) = self.workloads.get_mut(&restart.uid) {
            kept.forget(restart);
        }
    }

    /// The request was refused, for a reason that does not pass quickly.
    pub fn refused(&mut self, restart: &Restart, now: Timestamp, why: &str) {
        let kept = self.workloads.entry(restart.uid.clone()).or_default();
        kept.forget(restart);
        kept.back_off(now, SignedDuration::ZERO, why, false);
    }

    /// A disruption budget refused the eviction for now: nothing is under way that holds a slot.
    pub fn evict_later(&mut self, restart: &Restart, now: Timestamp, why: &str) {
        let kept = self.workloads.entry(restart.uid.clone()).or_default();
        kept.pause();
        kept.refused = Some(Refusal {
            until: later(now, EVICT_AGAIN),
            times: 0,
            why: why.into(),
            doubt: false,
        });
    }

    /// Forgets workloads and objects that are gone.
    pub fn retain(
        &mut self,
        mut workload: impl FnMut(&str) -> bool,
        mut object: impl FnMut(&ObjectKey) -> bool,
    ) {
        self.workloads.retain(|uid, _| workload(uid));
        self.objects.retain(|key, _| object(key));
        self.openings.retain(|key, _| object(key));
        self.contents.retain(|key, _| object(key));
        let objects = &self.objects;
        self.served
            .retain(|namespace, _| objects.keys().any(|key| key.namespace == *namespace));
    }

    /// How many workloads are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.workloads.len()
    }

    /// When the content was there for sure. The Secret names the time before it was written, and the write may have taken long;
    /// no write takes longer than [`WRITE_AT_MOST`].
    pub fn there_at(&mut self, content: &Content, now: Timestamp) -> Option<Timestamp> {
        let changed = content.changed_at?;
        let seen = match self.contents.get(&content.object) {
            Some((rollout, seen)) if *rollout == content.rollout => *seen,
            _ => {
                let first = (content.rollout.clone(), now);
                self.contents.insert(content.object.clone(), first);
                now
            }
        };
        Some(changed.max(seen.min(later(changed, WRITE_AT_MOST))))
    }

    /// When a workload was last restarted for the object, as this process knows.
    pub fn last_patch(&self, object: &ObjectKey) -> Option<Timestamp> {
        self.objects.get(object).copied()
    }

    /// Whether the object's windows are open. It is remembered until that changes: it takes long to find out.
    pub fn opening(&mut self, object: &ManagedSecret, now: Timestamp) -> Opening {
        let windows = &object.restarts.policy.windows;
        let holds = |known: &&CachedOpening| {
            known.restarts.policy.windows == *windows && known.since <= now && now < known.until
        };
        if let Some(known) = self.openings.get(object.key()).filter(holds) {
            return known.opening;
        }
        let opening = window::opening(windows, now);
        let known = CachedOpening {
            restarts: Arc::clone(&object.restarts),
            opening,
            since: now,
            until: match opening {
                Opening::Open { until: end } | Opening::Closed { next: Some(end) } => end,
                Opening::Closed { next: None } => later(now, WINDOWS_AGAIN),
            },
        };
        self.openings.insert(object.key().clone(), known);
        opening
    }

    /// The turn in which the namespace was last served; 0 if never.
    pub fn served(&self, namespace: &str) -> u64 {
        self.served.get(namespace).copied().unwrap_or_default()
    }

    pub fn is_satisfied(&self, RolloutKey { uid, hash, token }: RolloutKey<'_>, changed: Timestamp) -> bool {
        let satisfied = self.kept(uid).and_then(|kept| kept.satisfied.get(hash));
        satisfied.is_some_and(|(found, at)| **found == *token && *at == changed)
    }

    pub fn satisfy(&mut self, rollout: RolloutKey<'_>, changed: Timestamp) {
        if !self.is_satisfied(rollout, changed) {
            let RolloutKey { uid, hash, token } = rollout;
            let kept = self.workloads.entry(uid.into()).or_default();
            kept.satisfied.insert(hash.into(), (token.into(), changed));
        }
    }

    pub fn is_complete(&self, RolloutKey { uid, hash, token }: RolloutKey<'_>) -> bool {
        self.kept(uid).is_some_and(|kept| is(&kept.complete, hash, token))
    }

    /// Why the rollout for the content failed, if it was seen to fail and not to recover.
    pub fn failure(&self, rollout: RolloutKey<'_>) -> Option<&Failure> {
        let failed = self.failed(rollout)?;
        (!failed.over).then_some(&failed.failure)
    }

    /// The rollout for the content was seen under way.
    pub fn rolls(&mut self, RolloutKey { uid, hash, token }: RolloutKey<'_>) {
        let kept = self.workloads.entry(uid.into()).or_default();
        note(&mut kept.rolled, hash, token);
    }

    /// When the rollout for the content, which began at `since`, last made progress, given how far it is `now`; none of
    /// that if its pods were not listed.
    pub fn progress(
        &mut self,
        RolloutKey { uid, hash, token }: RolloutKey<'_>,
        since: Timestamp,
        found: Option<RolloutProgress>,
        now: Timestamp,
    ) -> Timestamp {
        let seen = self
            .workloads
            .get_mut(uid)
            .and_then(|kept| kept.progress.get_mut(hash));
        let seen = seen.filter(|seen| *seen.token == *token && seen.since == since);
        match (seen, found) {
            (None, None) => since,
            (None, Some(found)) => {
                let kept = self.workloads.entry(uid.into()).or_default();
                let seen = SeenProgress {
                    token: token.into(),
                    since,
                    most: found,
                };
                kept.progress.insert(hash.into(), seen);
                found.at
            }
            (Some(seen), None) => seen.most.at,
            (Some(seen), Some(found)) => {
                let most = &mut seen.most;
                if found.is_beyond(most) {
                    *most = RolloutProgress {
                        updated: most.updated.max(found.updated),
                        ready: most.ready.max(found.ready),
                        at: now,
                    };
                }
                most.at
            }
        }
    }

    /// The rollout for the content was seen to fail; `said` is the record on the workload. Without a record one is to be
    /// written and the failure is reported, unless the rollout had failed before this process began.
    pub fn fail(
        &mut self,
        RolloutKey { uid, hash, token }: RolloutKey<'_>,
        failure: &Failure,
        said: &RecordedOutcome,
    ) {
        let kept = self.workloads.entry(uid.into()).or_default();
        if let Some(failed) = kept.failed.get_mut(hash)
            && *failed.token == *token
        {
            if std::mem::take(&mut failed.over) {
                failed.failure = failure.clone();
                kept.reminded.remove(hash);
                if *said == RecordedOutcome::Recovered {
                    failed.record = NoteStep::Yes(0);
                }
            }
            return;
        }
        let sent = kept.sent.get(hash).is_some_and(|sent| *sent.token == *token);
        let news = *said == RecordedOutcome::Nothing && (sent || is(&kept.rolled, hash, token));
        let failed = SeenFailure {
            token: token.into(),
            failure: failure.clone(),
            over: false,
            record: match said {
                RecordedOutcome::Failed(_) => NoteStep::Over,
                RecordedOutcome::Nothing if !news => NoteStep::No,
                RecordedOutcome::Nothing | RecordedOutcome::Recovered => NoteStep::Yes(0),
            },
            alert: news,
        };
        kept.reminded.remove(hash);
        kept.failed.insert(hash.into(), failed);
    }

    /// A rollout that failed looks well for the moment: only this memory shows the failure, so it is to be recorded.
    pub fn looks_well(&mut self, rollout: RolloutKey<'_>) {
        if let Some(failed) = self.failed_mut(rollout)
            && failed.record == NoteStep::No
        {
            failed.record = NoteStep::Yes(0);
        }
    }

    /// What failed works again.
    pub fn recover(&mut self, rollout: RolloutKey<'_>) {
        if let Some(failed) = self.failed_mut(rollout) {
            failed.over = true;
        }
    }

    /// Whether the failure is to be recorded on the workload, and whether it is reported then.
    pub fn record_due(&self, rollout: RolloutKey<'_>) -> Option<bool> {
        let failed = self.failed(rollout)?;
        matches!(failed.record, NoteStep::Yes(_)).then_some(failed.alert)
    }

    /// Whether a record that the workload lost, or its recovery, may be written again: once.
    pub fn may_remind(&self, RolloutKey { uid, hash, token }: RolloutKey<'_>) -> bool {
        let reminded = self.kept(uid).and_then(|kept| kept.reminded.get(hash));
        !reminded.is_some_and(|(found, tries)| **found == *token && *tries >= TRIES)
    }

    /// A note was written, or needs no write. Returns whether the failure is to be reported now.
    pub fn noted(&mut self, uid: &str, written: &Note) -> bool {
        if !written.what.is_failure() {
            self.reminded(uid, written, TRIES);
            return false;
        }
        let failed = self.failed_mut(RolloutKey::noted(uid, written));
        failed.is_some_and(|failed| {
            failed.record = NoteStep::Over;
            std::mem::take(&mut failed.alert)
        })
    }

    /// A note was not written; it may still be written later. Returns whether the failure is to be reported now.
    pub fn not_noted(&mut self, uid: &str, missed: &Note, why: NoteFailure) -> bool {
        let refused = why == NoteFailure::Refused;
        if !missed.what.is_failure() {
            self.reminded(uid, missed, if refused { TRIES } else { 1 });
            return false;
        }
        let Some(failed) = self.failed_mut(RolloutKey::noted(uid, missed)) else {
            return false;
        };
        let tries = match failed.record {
            NoteStep::Yes(tries) => tries.saturating_add(1),
            NoteStep::No | NoteStep::Over => TRIES,
        };
        failed.record = if refused || tries >= TRIES {
            NoteStep::Over
        } else {
            NoteStep::Yes(tries)
        };
        (why != NoteFailure::Passing || tries >= PATIENCE) && std::mem::take(&mut failed.alert)
    }

    fn reminded(&mut self, uid: &str, of: &Note, tries: u8) {
        let kept = self.workloads.entry(uid.into()).or_default();
        let before = kept
            .reminded
            .get(&of.hash)
            .filter(|(token, _)| *token == of.token);
        let tries = before.map_or(0, |(_, tries)| *tries).saturating_add(tries);
        kept.reminded.insert(of.hash.clone(), (of.token.clone(), tries));
    }

    fn failed(&self, RolloutKey { uid, hash, token }: RolloutKey<'_>) -> Option<&SeenFailure> {
        let failed = self.kept(uid)?.failed.get(hash)?;
        (*failed.token == *token).then_some(failed)
    }

    fn failed_mut(&mut self, RolloutKey { uid, hash, token }: RolloutKey<'_>) -> Option<&mut SeenFailure> {
        let failed = self.workloads.get_mut(uid)?.failed.get_mut(hash)?;
        (*failed.token == *token).then_some(failed)
    }

    pub fn complete(&mut self, RolloutKey { uid, hash, token }: RolloutKey<'_>) {
        let kept = self.workloads.entry(uid.into()).or_default();
        if note(&mut kept.complete, hash, token) {
            kept.refused = None;
            kept.rolled.remove(hash);
            kept.progress.remove(hash);
            if let Some(failed) = kept.failed.get_mut(hash) {
                failed.over = true;
            }
            // What was sent is there.
            if kept.sent.get(hash).is_some_and(|sent| *sent.token == *token) {
                kept.sent.remove(hash);
                kept.former.remove(hash);
            }
            if kept.sent.is_empty() {
                (kept.sent, kept.former) = Default::default();
            }
        }
    }

    /// The first of the changes that ask for the workload's next restart without a rest between them, given the `latest`.
    pub fn changed(&mut self, uid: &str, latest: Option<Timestamp>) -> Option<Timestamp> {
        let Some(latest) = latest else {
            if let Some(kept) = self.workloads.get_mut(uid) {
                kept.changes = None;
            }
            return None;
        };
        let kept = self.workloads.entry(uid.into()).or_default();
        let first = kept
            .changes
            .filter(|changes| latest < later(changes.latest, COALESCE))
            .map_or(latest, |changes| changes.first.min(latest));
        kept.changes = Some(ChangeBurst { first, latest });
        Some(first)
    }

    pub fn sent(&self, uid: &str, hash: &str) -> Option<&SentPatch> {
        self.kept(uid)?.sent.get(hash)
    }

    /// Whether a patch was sent that the workload, as it is known, may not show yet.
    pub fn has_sent(&self, uid: &str, now: Timestamp) -> bool {
        let kept = self.kept(uid);
        kept.is_some_and(|kept| kept.sent.values().any(|sent| now < later(sent.at, PATCH_SHOWN)))
    }

    /// The refusal that is in force.
    pub fn refusal(&self, uid: &str, now: Timestamp) -> Option<&Refusal> {
        self.kept(uid)?
            .refused
            .as_ref()
            .filter(|refused| now < refused.until)
    }

    /// Whether the last request was refused too.
    pub fn was_refused(&self, uid: &str) -> bool {
        let refused = self.kept(uid).and_then(|kept| kept.refused.as_ref());
        refused.is_some_and(|refused| !refused.doubt)
    }

    /// How long a decision rests that did not hold when the workload was read again: longer each time.
    pub fn rest(&mut self, uid: &str) -> SignedDuration {
        let kept = self.workloads.entry(uid.into()).or_default();
        let wait = REST_FIRST.saturating_mul(1_i32.checked_shl(kept.rests).unwrap_or(i32::MAX));
        kept.rests = kept.rests.saturating_add(1).min(16);
        wait.min(REST_LONGEST)
    }

    pub fn evicting(&self, uid: &str) -> Option<Eviction> {
        self.kept(uid)?.evicting
    }

    /// Notes whether pods of the workload are being replaced, by Keyturn or otherwise.
    pub fn watch_eviction(&mut self, uid: &str, waiting: bool, now: Timestamp) -> Option<Eviction> {
        if waiting {
            let kept = self.workloads.entry(uid.into()).or_default();
            let evicting = kept.evicting.get_or_insert(Eviction {
                since: now,
                ours: false,
                holds_slot: true,
            });
            evicting.holds_slot = true;
        } else if self.evicting(uid).is_some_and(|evicting| !evicting.ours) {
            self.evicted(uid);
        }
        self.evicting(uid)
    }

    pub fn evicted(&mut self, uid: &str) {
        if let Some(kept) = self.workloads.get_mut(uid) {
            kept.evicting = None;
        }
    }

    fn kept(&self, uid: &str) -> Option<&WorkloadMemory> {
        self.workloads.get(uid)
    }
}

impl WorkloadMemory {
    /// The content is asked for. What was known of it counts no more where something else was asked for since.
    fn ask(&mut self, hash: &str, token: &str) {
        if self.sent.get(hash).is_some_and(|sent| *sent.token == *token) {
            return;
        }
        self.complete.remove(hash);
        self.rolled.remove(hash);
        self.progress.remove(hash);
        if let Some(failed) = self.failed.get_mut(hash)
            && *failed.token == *token
        {
            failed.over = true;
        }
    }

    /// The last request did nothing: what is known of the one before holds.
    fn forget(&mut self, restart: &Restart) {
        for cause in &restart.causes {
            let hash = &cause.stamp.hash;
            match self.former.remove(hash) {
                Some(former) => self.sent.insert(hash.clone(), former),
                None => self.sent.remove(hash),
            };
        }
        if restart.strategy == RestartStrategy::Evict {
            self.pause();
        }
    }

    /// The last eviction did nothing. What came of those before is still ours.
    fn pause(&mut self) {
        if let Some(evicting) = &mut self.evicting {
            evicting.holds_slot = false;
        }
    }

    fn back_off(&mut self, now: Timestamp, least: SignedDuration, why: &str, doubt: bool) {
        let times = self
            .refused
            .as_ref()
            .map_or(0, |refused| refused.times)
            .saturating_add(1);
        let seconds = BACK_OFF_FIRST
            .saturating_mul(1_i64.checked_shl((times - 1).min(30)).unwrap_or(i64::MAX))
            .clamp(BACK_OFF_FIRST, BACK_OFF_LONGEST);
        self.refused = Some(Refusal {
            until: later(now, SignedDuration::from_secs(seconds).max(least)),
            times,
            why: why.into(),
            doubt,
        });
    }
}

fn is(tokens: &Texts, hash: &str, token: &str) -> bool {
    tokens.get(hash).is_some_and(|found| **found == *token)
}

/// Remembers the token of a Secret; false if it was remembered already.
fn note(tokens: &mut Texts, hash: &str, token: &str) -> bool {
    let new = !is(tokens, hash, token);
    if new {
        tokens.insert(hash.into(), token.into());
    }
    new
}
