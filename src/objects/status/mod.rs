//! What the status of an ExternalSecret says: drafted from what happened, written only where it differs. Pure.

mod progress;

#[cfg(test)]
mod tests;

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

pub use self::progress::Progress;
use self::progress::Reported;
use crate::api::{
    ConditionType, ExternalSecretStatus, KeyChange, KeyChanges, Reason, RotationStatus, SourceStatus, Status,
    TargetStatus, status::UNOBSERVED, time::seconds,
};

/// What a written Secret says of itself; goes into the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `keyturn.dev/content`.
    pub content: String,
    /// `keyturn.dev/rollout`.
    pub rollout: String,
    /// `keyturn.dev/changed-at`.
    pub changed_at: Option<Timestamp>,
    /// `keyturn.dev/scope`.
    pub scope: String,
    /// `keyturn.dev/rescoped`.
    pub rescoped: Option<String>,
    /// `keyturn.dev/restart-since`.
    pub restart_since: Option<Timestamp>,
    /// `keyturn.dev/key-changes`.
    pub key_changes: Option<Arc<KeyChanges>>,
}

/// One condition as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the condition holds.
    pub status: Status,
    /// Why, in a word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
}

impl Verdict {
    /// The condition holds.
    pub fn holds(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: Status::True,
            reason,
            message: message.into(),
        }
    }

    /// It cannot be told.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: Status::Unknown,
            reason,
            message: message.into(),
        }
    }

    /// The condition does not hold.
    pub fn fails(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: Status::False,
            reason,
            message: message.into(),
        }
    }
}

/// A remote secret that the Secret was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceDraft {
    /// `Kind/name` of its store.
    pub store: String,
    /// Its key as the spec has it.
    pub key: String,
    /// The staging label or `uuid/<version id>`.
    pub stage: String,
    /// The version read.
    pub version: String,
}

/// The target as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDraft {
    /// The Secret's name.
    pub name: String,
    /// What it says of itself.
    pub written: Written,
}

/// Where the rotation stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationDraft {
    /// `rotation`.
    pub status: RotationStatus,
    /// `RotationHealthy`.
    pub verdict: Verdict,
}

/// What is said of the rotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RotationPart {
    /// What was said stays.
    #[default]
    Kept,
    /// Nobody wants to know of it any more.
    Gone,
    /// This.
    Said(Box<RotationDraft>),
}

/// The status as it should be; `None` leaves a part as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// The generation that was judged.
    pub generation: Option<i64>,
    /// `Ready`.
    pub ready: Option<Verdict>,
    /// `Reconciling` or `Stalled`, beside `ready`.
    pub progress: Progress,
    /// `Current`.
    pub current: Option<Verdict>,
    /// `sources`.
    pub sources: Option<Vec<SourceDraft>>,
    /// `target`.
    pub target: Option<TargetDraft>,
    /// When data were last deleted because they were gone in AWS, in seconds since 1970.
    pub deleted_at: Option<i64>,
    /// `rotation` and `RotationHealthy`.
    pub rotation: RotationPart,
}

/// How many sources a status lists.
const SOURCES: usize = 64;

/// A status without its times and texts: enough to see whether a [`Draft`] would change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    generation: i64,
    ready: u64,
    progress: Reported,
    current: u64,
    sources: u64,
    target: u64,
    /// In seconds since 1970; 0 if nothing was deleted.
    deleted_at: i64,
    rotation: u64,
}

impl Digest {
    /// Of a status as read.
    pub fn of(status: Option<&ExternalSecretStatus>) -> Self {
        let Some(status) = status.filter(|status| says_something(status)) else {
            return Self::default();
        };
        let condition = |type_: ConditionType| condition(status, type_).map_or(0, digest_of_condition);
        let sources = status.sources.iter().flatten();
        Self {
            generation: status.observed_generation.unwrap_or_default(),
            ready: condition(ConditionType::Ready),
            progress: Reported::of(status),
            current: condition(ConditionType::Current),
            sources: digest_of_sources(
                sources.map(|source| [&source.store, &source.key, &source.stage, &source.version_id]),
            ),
            target: status.target.as_ref().map_or(0, |target| {
                let text = [
                    Some(&*target.name),
                    target.content.as_deref(),
                    target.rollout.as_deref(),
                ];
                let times = [&target.changed_at, &target.restart_since];
                let times = times.map(|time| time.as_ref().map(|at| at.0));
                digest_of_target(text, times, target.key_changes.as_deref().unwrap_or_default())
            }),
            deleted_at: status.deleted_at.as_ref().map_or(0, |at| at.0.as_second()),
            rotation: digest_of_rotation(
                status.rotation.as_ref(),
                condition(ConditionType::RotationHealthy),
            ),
        }
    }

    /// When data were last deleted because they were gone in AWS, in seconds since 1970.
    pub fn deleted_at(&self) -> Option<i64> {
        (self.deleted_at != 0).then_some(self.deleted_at)
    }

    /// Whether nothing was ever said.
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the status was written for an earlier generation than `generation`; not where there is no status.
    pub const fn is_of_earlier_generation(&self, generation: i64) -> bool {
        self.generation > 0 && self.generation < generation
    }

    /// Completes `draft` by how the object comes to be ready; gives the time after which that changes, though nothing else does.
    pub fn complete(&self, now: Timestamp, draft: &mut Draft) -> Option<Duration> {
        let ready = draft.ready.as_ref()?;
        let is_same = draft.generation == Some(self.generation);
        let (progress, left) = progress::progress(now, ready, is_same.then_some(self.progress));
        draft.progress = progress;
        left
    }

    /// Whether writing `draft` would change the status that this is of.
    pub fn differs(&self, draft: &Draft) -> bool {
        let Draft {
            generation,
            ready,
            progress,
            current,
            sources,
            target,
            deleted_at,
            rotation,
        } = draft;
        let verdict = |verdict: &Option<Verdict>, seen: u64| {
            verdict.as_ref().is_some_and(|v| digest_of_verdict(v) != seen)
        };
        generation.is_some_and(|generation| generation != self.generation)
            || verdict(ready, self.ready)
            || (ready.is_some() && self.progress.turns_to(*progress))
            || verdict(current, self.current)
            || deleted_at.is_some_and(|at| at != self.deleted_at)
            || sources.as_ref().is_some_and(|sources| {
                let listed = sources.iter().take(SOURCES);
                let digest = digest_of_sources(
                    listed.map(|source| [&source.store, &source.key, &source.stage, &source.version]),
                );
                digest != self.sources
            })
            || target.as_ref().is_some_and(|target| {
                let Written {
                    content,
                    rollout,
                    changed_at,
                    scope: _,
                    rescoped: _,
                    restart_since,
                    key_changes,
                } = &target.written;
                let text = [
                    Some(&*target.name),
                    Some(content.as_str()),
                    Some(rollout.as_str()),
                ];
                let changes = key_changes.as_ref().map_or(&[][..], |changes| changes.as_slice());
                digest_of_target(text, [*changed_at, *restart_since], changes) != self.target
            })
            || match rotation {
                RotationPart::Kept => false,
                RotationPart::Gone => self.rotation != 0,
                RotationPart::Said(said) => {
                    digest_of_rotation(Some(&said.status), digest_of_verdict(&said.verdict)) != self.rotation
                }
            }
    }
}

/// Whether `keyturn-sync` wrote anything of a status: the definitions have a default, and restarts have a part of it.
fn says_something(status: &ExternalSecretStatus) -> bool {
    let ExternalSecretStatus {
        observed_generation,
        conditions: _,
        sources,
        target,
        deleted_at,
        rotation,
        restart: _,
    } = status;
    let ours = [
        ConditionType::Ready,
        ConditionType::Current,
        ConditionType::RotationHealthy,
    ];
    observed_generation.is_some_and(|generation| generation != UNOBSERVED)
        || sources.is_some()
        || target.is_some()
        || deleted_at.is_some()
        || rotation.is_some()
        || ours.iter().any(|type_| condition(status, *type_).is_some())
}

/// The status that `draft` makes of the one that is there, as `keyturn-sync` owns it.
pub fn compose(now: Timestamp, draft: &Draft, before: Option<&ExternalSecretStatus>) -> ExternalSecretStatus {
    let Draft {
        generation,
        ready,
        progress,
        current,
        sources,
        target,
        deleted_at,
        rotation,
    } = draft;
    let nothing = ExternalSecretStatus::default();
    let before = before.unwrap_or(&nothing);
    // It is never left out: the definitions' default comes only where there is no status at all, and without it tools that
    // wait take the object for finished.
    let observed = generation.or(before.observed_generation).unwrap_or(UNOBSERVED);
    // Conditions speak of a generation that exists.
    let generation = observed.max(0);
    let conditions = [
        (ConditionType::Ready, ready.as_ref()),
        (ConditionType::Current, current.as_ref()),
        (
            ConditionType::RotationHealthy,
            match rotation {
                RotationPart::Said(said) => Some(&said.verdict),
                RotationPart::Kept | RotationPart::Gone => None,
            },
        ),
    ];
    let conditions = conditions.into_iter().filter_map(|(type_, verdict)| {
        let was = condition(before, type_);
        match verdict {
            Some(verdict) => Some(compose_condition(now, generation, type_, verdict, was)),
            None if type_ == ConditionType::RotationHealthy && *rotation == RotationPart::Gone => None,
            None => was.cloned(),
        }
    });
    let progress: Vec<Condition> = match ready {
        Some(ready) => progress
            .condition(now, generation, ready, before)
            .into_iter()
            .collect(),
        None => Progress::of_status(before).cloned().collect(),
    };
    let conditions = conditions.chain(progress).collect();
    let rotation = match rotation {
        RotationPart::Kept => before.rotation.clone(),
        RotationPart::Gone => None,
        RotationPart::Said(said) => Some(said.status.clone()),
    };
    let sources = match sources {
        Some(sources) => sources
            .iter()
            .take(SOURCES)
            .map(|source| compose_source(now, source, before))
            .collect(),
        None => before.sources.clone().unwrap_or_default(),
    };
    let target = match target {
        Some(TargetDraft {
            name,
            written:
                Written {
                    content,
                    rollout,
                    changed_at,
                    scope: _,
                    rescoped: _,
                    restart_since,
                    key_changes,
                },
        }) => Some(TargetStatus {
            name: name.clone(),
            content: Some(content.clone()),
            rollout: Some(rollout.clone()),
            changed_at: changed_at.map(Time),
            restart_since: restart_since.map(Time),
            key_changes: key_changes.as_ref().map(|changes| changes.as_slice().to_vec()),
        }),
        None => before.target.clone(),
    };
    ExternalSecretStatus {
        observed_generation: Some(observed),
        conditions: Some(conditions),
        sources: Some(sources),
        target,
        deleted_at: deleted_at
            .and_then(|at| Timestamp::from_second(at).ok())
            .map(Time)
            .or_else(|| before.deleted_at.clone()),
        rotation,
        ..ExternalSecretStatus::default()
    }
}

/// The condition of this type, if the status has it.
pub fn condition(status: &ExternalSecretStatus, type_: ConditionType) -> Option<&Condition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_.as_str())
}

/// A condition as `verdict` has it; since when is kept while its status stays.
pub fn compose_condition(
    now: Timestamp,
    generation: i64,
    type_: ConditionType,
    verdict: &Verdict,
    was: Option<&Condition>,
) -> Condition {
    let status = verdict.status.as_str();
    let since = was
        .filter(|was| was.status == status)
        .map(|was| was.last_transition_time.clone());
    Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.as_str().to_owned(),
        message: verdict.message.clone(),
        observed_generation: Some(generation),
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

fn compose_source(now: Timestamp, source: &SourceDraft, before: &ExternalSecretStatus) -> SourceStatus {
    let SourceDraft {
        store,
        key,
        stage,
        version,
    } = source;
    let was = before.sources.iter().flatten().find(|was| {
        was.store == *store && was.key == *key && was.stage == *stage && was.version_id == *version
    });
    SourceStatus {
        store: store.clone(),
        key: key.clone(),
        stage: stage.clone(),
        version_id: version.clone(),
        changed_at: was.map_or_else(|| Some(Time(now)), |was| was.changed_at.clone()),
    }
}

fn digest_of_condition(condition: &Condition) -> u64 {
    hash(&(&*condition.status, &*condition.reason, &*condition.message))
}

fn digest_of_verdict(verdict: &Verdict) -> u64 {
    hash(&(
        verdict.status.as_str(),
        verdict.reason.as_str(),
        &*verdict.message,
    ))
}

/// 0 where nothing is said.
fn digest_of_rotation(status: Option<&RotationStatus>, condition: u64) -> u64 {
    if status.is_none() && condition == 0 {
        return 0;
    }
    let nothing = RotationStatus::default();
    let RotationStatus {
        state,
        pending_version_id,
        pending_since,
        strategy,
        last_rotated,
        next_rotation,
        deadline,
    } = status.unwrap_or(&nothing);
    let time = |time: &Option<Time>| time.as_ref().map(|at| seconds(at.0));
    hash(&(
        (state, pending_version_id, strategy),
        [pending_since, last_rotated, next_rotation, deadline].map(time),
        condition,
    ))
}

/// Of store, key, stage and version of each.
fn digest_of_sources<'a>(all: impl Iterator<Item = [&'a String; 4]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for one in all {
        one.hash(&mut hasher);
    }
    hasher.finish()
}

/// Of name, content and rollout, of when the content changed and since when restarts are wanted, and of which keys changed
/// when.
fn digest_of_target(text: [Option<&str>; 3], times: [Option<Timestamp>; 2], changes: &[KeyChange]) -> u64 {
    let time = |time: Option<Timestamp>| time.map(seconds);
    let changes: Vec<_> = changes
        .iter()
        .map(|change| (&change.keys, &change.rollout, time(change.at())))
        .collect();
    hash(&(text, times.map(time), changes))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
