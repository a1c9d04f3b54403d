//! An ExternalSecret, cut down to what decides whether anything is to be done.
//!
//! There may be 100,000 of them, so the spec stays with the API server until it is rendered: what is kept says which
//! remote secrets are needed, how fresh, and by which digest a change of the rest is noticed.

mod conditions;
mod made_from;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub use self::conditions::{Reasons, Tally};
use crate::{
    api::{
        ConditionType, CreationPolicy, DeletionPolicy, ExternalSecret, ExternalSecretSpec,
        ExternalSecretStatus, Interval, ObjectKey, Reason, RefreshPolicy, RestartMode, RestartPolicy,
        RestartStatus, RotationStrategy, Selector, StoreKind,
        caps::{self, capped},
        names::{self, annotation},
        token,
    },
    cluster::{Change, Project},
    objects::{
        RotationRule, Suspension,
        status::{self, Digest},
    },
};

/// What is kept of an ExternalSecret.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its uid.
    pub uid: Box<str>,
    /// Its generation.
    pub generation: i64,
    /// Whether it is being deleted: it may be kept until its Secret is gone (foreground deletion), or by a finalizer.
    pub ending: bool,
    /// What would make it act again, in one number: a change of anything else needs no work.
    pub revision: u64,
    /// What its spec says of values and of the Secret.
    pub spec: EntrySpec,
    /// What people ask for by annotations.
    pub annotations: EntryAnnotations,
    /// What its status says.
    pub status: EntryStatus,
    /// What it says about restarts; none where they are disabled, or [wrong](Self::fault).
    pub restart: Option<Arc<Restarts>>,
    /// What is wrong with `restart`, or with `rotation` where restarts are wanted: nothing is restarted, values are synced.
    pub fault: Option<Arc<RestartFault>>,
    /// Its rotation; `None` where neither the spec nor restarts need it.
    pub rotation: Option<Box<RotationRule>>,
}

/// What the spec of an ExternalSecret says of values and of the Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct EntrySpec {
    /// How often it is refreshed.
    pub refresh: Refresh,
    /// The spec asks for a shorter interval than the operator's minimum, which applies.
    pub raised: bool,
    /// The store; `None` is the operator's default store.
    pub store: Option<StoreRef>,
    /// What it needs, in the order of the spec's entries.
    pub needs: Box<[Need]>,
    /// The Secret's name; `None` is the object's own.
    pub target: Option<Box<str>>,
    /// Who makes and removes the Secret.
    pub creation: CreationPolicy,
    /// What follows when remote secrets are gone.
    pub deletion: DeletionPolicy,
    /// Digest of what the data are made from besides values.
    pub made_from: [u8; 16],
    /// What is wrong with the spec, as a sentence.
    pub invalid: Option<Box<str>>,
}

/// What people ask for by annotations on an ExternalSecret.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryAnnotations {
    /// The refresh annotation, as a digest.
    pub refresh: RefreshDigest,
    /// The suspend annotation.
    pub suspended: Suspension,
    /// `keyturn.dev/confirm-deletion`: the token of a held deletion that is meant.
    pub confirmed: Option<Box<str>>,
}

/// A refresh annotation, or that there is none, as a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefreshDigest(u64);

impl RefreshDigest {
    /// The digest without an annotation.
    pub const NONE: Self = Self(0);

    /// Of the annotation's value.
    pub fn of(annotation: Option<&str>) -> Self {
        annotation.map_or(Self::NONE, |value| Self(digest64(&[value.as_bytes()])))
    }

    /// As it goes into other digests.
    pub fn to_be_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// What the status of an ExternalSecret says.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryStatus {
    /// What the status says, in numbers.
    pub said: Digest,
    /// The status of `Ready`, if it has been said.
    pub ready: Option<bool>,
    /// The reason of `Current` is `Stale`.
    pub stale: bool,
    /// What the conditions say.
    pub reasons: Reasons,
    /// The Secret that the status records.
    pub recorded: Option<RecordedTarget>,
}

/// The rollout of `status.restart`, and kind and name of the workloads that took it back.
pub type Reverted = (Box<str>, Vec<(Box<str>, Box<str>)>);

/// What an ExternalSecret says about restarts.
#[derive(Clone, Debug, PartialEq)]
pub struct Restarts {
    /// The policy, with everything filled in.
    pub policy: RestartPolicy,
    /// `keyturn.dev/approve`: the rollout token that is approved.
    pub approved: Option<Box<str>>,
    /// `keyturn.dev/resume`: the rollout token that goes on after a failure.
    pub resumed: Option<Box<str>>,
    /// `keyturn.dev/suspend-restarts-until` on the ExternalSecret.
    pub suspended: Suspension,
    /// When the old credential dies, as the spec tells or the status found out. Never `Auto`: what is not known is opaque.
    pub strategy: RotationStrategy,
    /// Until when workloads must hold the new credential, by the status.
    pub deadline: Option<Timestamp>,
    /// Whether the status says that a rotation is under way.
    pub rotating: bool,
    /// When AWS rotated last, by the status.
    pub rotated_at: Option<Timestamp>,
    /// The workloads that the status calls reverted.
    pub reverted: Option<Reverted>,
    /// Digest of the part of the status that restarts own: 0 without one.
    pub said: u64,
    /// `trigger.keys`: the keys of the Secret whose change restarts; all where there are none.
    pub trigger: Box<[Box<str>]>,
}

/// Why nothing is restarted for an ExternalSecret that may want it.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartFault {
    /// What is wrong, as a sentence.
    pub message: Box<str>,
    /// As in [`Restarts`].
    pub said: u64,
    /// As in [`Restarts`]; none where restarts are disabled.
    pub trigger: Option<Box<[Box<str>]>>,
}

/// The target as the status records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedTarget {
    /// The Secret's name, if it is not the one that is wanted now.
    pub former: Option<Box<str>>,
    /// Its rollout token.
    pub rollout: Option<Box<str>>,
}

/// How often an object is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// At this interval.
    Every(Duration),
    /// When the spec changes.
    OnChange,
    /// Never after the first success: `CreatedOnce`, or an interval of 0.
    Once,
}

/// A store by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreRef {
    /// Which kind.
    pub kind: StoreKind,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for StoreRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One entry's remote secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its key as the spec has it.
    pub key: Arc<str>,
    /// Which version.
    pub selector: Selector,
}

/// Cuts ExternalSecrets down.
#[derive(Debug)]
pub struct ExternalSecrets {
    /// Shorter intervals are raised to this.
    pub min_interval: Duration,
    /// What applies to restarts where the spec says nothing.
    pub restart_default: RestartMode,
}

impl Project for ExternalSecrets {
    type Kind = ExternalSecret;
    type Object = ExternalSecret;
    type Entry = Entry;

    fn project(&self, key: &ObjectKey, object: ExternalSecret) -> Entry {
        Entry::of(key, &object, self.min_interval, self.restart_default)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::ExternalSecret(key)
    }

    /// Workloads, where any may have to be restarted.
    fn demands(entry: &Entry) -> bool {
        entry.restart.is_some()
    }
}

impl Entry {
    /// The entry of a live object.
    pub fn of(
        key: &ObjectKey,
        object: &ExternalSecret,
        min_interval: Duration,
        restart_default: RestartMode,
    ) -> Self {
        let ExternalSecret {
            metadata,
            spec,
            status,
        } = object;
        let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let refresh = RefreshDigest::of(annotation(annotation::REFRESH));
        let suspend = annotation(annotation::SUSPEND_SYNC_UNTIL);
        let confirmed = annotation(annotation::CONFIRM_DELETION).filter(|text| token::is_text(text));
        let made_from = made_from::made_from(object);
        let generation = metadata.generation.unwrap_or_default();
        let ready = status
            .as_ref()
            .and_then(|status| status::condition(status, ConditionType::Ready))
            .map(|condition| condition.status == "True");
        let stale = status
            .as_ref()
            .and_then(|status| status::condition(status, ConditionType::Current))
            .is_some_and(|condition| condition.reason == Reason::Stale.as_str());
        let target = spec.target_name(&key.name);
        let fault = RestartFault::of(object, restart_default);
        let restart = if fault.is_none() {
            Restarts::of(object, restart_default)
        } else {
            None
        };
        let restarts_wanted = spec.restart_mode(restart_default) != RestartMode::Disabled;
        // A bad interval is in `invalid`; nothing is read by it.
        let interval = spec.interval(min_interval).unwrap_or(Interval::Once);
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            generation,
            ending: metadata.deletion_timestamp.is_some(),
            revision: digest64(&[
                &generation.to_be_bytes(),
                &made_from,
                &refresh.to_be_bytes(),
                &[
                    u8::from(metadata.deletion_timestamp.is_some()),
                    u8::from(suspend.is_some()),
                ],
                suspend.unwrap_or_default().as_bytes(),
                confirmed.unwrap_or_default().as_bytes(),
            ]),
            spec: EntrySpec {
                refresh: match (spec.policy(), interval) {
                    (RefreshPolicy::OnChange, _) => Refresh::OnChange,
                    (RefreshPolicy::CreatedOnce, _) => Refresh::Once,
                    (RefreshPolicy::Periodic, interval) => {
                        interval.wait().map_or(Refresh::Once, Refresh::Every)
                    }
                },
                raised: matches!(
                    interval,
                    Interval::Every {
                        raised_from: Some(_),
                        ..
                    }
                ),
                store: spec.secret_store_ref.as_ref().map(|store| StoreRef {
                    kind: store.kind(),
                    name: capped(&store.name, caps::NAME).into(),
                }),
                needs: needs(spec),
                target: (target != &*key.name).then(|| capped(target, caps::NAME)),
                creation: spec.creation_policy(),
                deletion: spec.deletion_policy(),
                made_from,
                invalid: spec
                    .validate()
                    .err()
                    .map(|invalid| capped(&invalid.to_string(), caps::SENTENCE)),
            },
            annotations: EntryAnnotations {
                refresh,
                suspended: Suspension::parse(suspend),
                confirmed: confirmed.map(Into::into),
            },
            status: EntryStatus {
                said: Digest::of(status.as_ref()),
                ready,
                stale,
                reasons: Reasons::of(status.as_ref()),
                recorded: status
                    .as_ref()
                    .and_then(|status| status.target.as_ref())
                    .map(|recorded| RecordedTarget {
                        former: (recorded.name != target).then(|| capped(&recorded.name, caps::NAME)),
                        rollout: recorded
                            .rollout
                            .as_deref()
                            .map(|token| capped(token, caps::TOKEN)),
                    }),
            },
            rotation: (spec.rotation.is_some() || restarts_wanted).then(|| {
                let said = status.as_ref().and_then(|status| status.rotation.as_ref());
                Box::new(RotationRule::new(spec, said))
            }),
            restart: restart.map(Arc::new),
            fault: fault.map(Arc::new),
        }
    }

    /// The name of the Secret.
    pub fn target<'a>(&'a self, key: &'a ObjectKey) -> &'a str {
        self.spec.target.as_deref().unwrap_or(&key.name)
    }

    /// The keys of the Secret whose change restarts, all where there are none; `None` where restarts are disabled.
    pub fn trigger(&self) -> Option<&[Box<str>]> {
        match (&self.restart, &self.fault) {
            (Some(restarts), _) => Some(&restarts.trigger),
            (None, Some(fault)) => fault.trigger.as_deref(),
            (None, None) => None,
        }
    }
}

impl Entry {
    /// Whether restarts are disabled. A fault in the spec may leave open whether they are.
    pub fn disables_restarts(&self) -> bool {
        self.restart.is_none() && self.fault.is_none()
    }
}

impl RestartFault {
    /// What is wrong with a live object; none if nothing is.
    fn of(object: &ExternalSecret, default: RestartMode) -> Option<Self> {
        let spec = &object.spec;
        let wanted = spec.restart_mode(default) != RestartMode::Disabled;
        let invalid = spec
            .validate_restart()
            .err()
            .or_else(|| spec.validate_rotation().err().filter(|_| wanted))?;
        Some(Self {
            message: capped(&invalid.to_string(), caps::SENTENCE),
            said: object.status.as_ref().map_or(0, digest_of_restarts),
            trigger: wanted.then(|| trigger_of(spec)),
        })
    }
}

fn trigger_of(spec: &ExternalSecretSpec) -> Box<[Box<str>]> {
    spec.trigger_keys()
        .iter()
        .map(|key| key.as_str().into())
        .collect()
}

impl Restarts {
    /// What a live object says about restarts; none where they are disabled.
    pub fn of(object: &ExternalSecret, default: RestartMode) -> Option<Self> {
        let ExternalSecret {
            metadata,
            spec,
            status,
        } = object;
        let policy = spec.restart_policy(default)?;
        let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let rotation = status.as_ref().and_then(|status| status.rotation.as_ref());
        let found_out = || RotationStrategy::parse(rotation?.strategy.as_deref()?);
        let strategy = spec
            .rotation_strategy()
            .or_else(found_out)
            .filter(|strategy| *strategy != RotationStrategy::Auto)
            .unwrap_or(RotationStrategy::Opaque);
        let state = rotation.and_then(|rotation| rotation.state.as_deref());
        Some(Self {
            policy,
            approved: annotation(annotation::APPROVE).map(|token| capped(token, caps::TOKEN)),
            resumed: annotation(annotation::RESUME).map(|token| capped(token, caps::TOKEN)),
            suspended: Suspension::parse(annotation(annotation::SUSPEND_RESTARTS_UNTIL)),
            strategy,
            deadline: rotation
                .and_then(|rotation| rotation.deadline.as_ref())
                .map(|at| at.0),
            rotating: matches!(state, Some("InProgress" | "Stuck")),
            rotated_at: rotation
                .and_then(|rotation| rotation.last_rotated.as_ref())
                .map(|at| at.0),
            reverted: status
                .as_ref()
                .and_then(|status| reverted(status.restart.as_ref()?)),
            said: status.as_ref().map_or(0, digest_of_restarts),
            trigger: trigger_of(spec),
        })
    }
}

/// What the spec needs, in the order of its entries; nothing of a spec that `validate` refuses for its size. Equal texts are
/// held once.
fn needs(spec: &ExternalSecretSpec) -> Box<[Need]> {
    if spec.remote_size() > caps::REMOTE_KEYS {
        return Box::default();
    }
    let mut keys: HashMap<&str, Arc<str>> = HashMap::new();
    let mut selectors: HashMap<Option<&str>, Selector> = HashMap::new();
    let needs = spec.entries().map(|entry| {
        let (key, version) = (entry.remote.key.as_str(), entry.remote.version.as_deref());
        let key = keys.entry(key).or_insert_with(|| key.into());
        let selector = selectors
            .entry(version)
            .or_insert_with(|| Selector::parse(version));
        Need {
            key: key.clone(),
            selector: selector.clone(),
        }
    });
    needs.collect()
}

/// As many workloads as a status names at most.
const REVERTED: usize = 50;

/// The rollout of this status and the workloads that took it back.
fn reverted(status: &RestartStatus) -> Option<Reverted> {
    let rollout = status.rollout.as_deref()?;
    let reverted = status
        .exceptions
        .iter()
        .flatten()
        .filter(|exception| exception.reason == Reason::Reverted.as_str())
        .take(REVERTED)
        .map(|exception| {
            (
                capped(&exception.kind, caps::TOKEN),
                capped(&exception.name, caps::NAME),
            )
        })
        .collect();
    Some((capped(rollout, caps::TOKEN), reverted))
}

/// The end of the message of `RestartsComplete`, which names the rollout that it is about.
pub fn rollout_note(rollout: &str) -> String {
    let short: String = rollout.chars().take(ROLLOUT_NOTED).collect();
    format!(" (rollout {short})")
}

/// How many characters of a rollout token a message has: enough to compare, and the status has all.
const ROLLOUT_NOTED: usize = 12;

/// A number that changes with what the status says of restarts, times of transition aside; 0 where it says nothing.
pub fn digest_of_restarts(status: &ExternalSecretStatus) -> u64 {
    let condition = status::condition(status, ConditionType::RestartsComplete);
    if status.restart.is_none() && condition.is_none() {
        return 0;
    }
    // Where the spec is wrong, the progress of restarts stays as it was last.
    let is_invalid = condition.is_some_and(|condition| condition.reason == Reason::InvalidSpec.as_str());
    let restart = status.restart.as_ref().filter(|_| !is_invalid);
    // An earlier version did not name the rollout, and the status has it anyway.
    let note = status
        .restart
        .as_ref()
        .and_then(|restart| restart.rollout.as_deref())
        .map(rollout_note)
        .unwrap_or_default();
    let condition = condition.map(|condition| {
        let Condition {
            status,
            reason,
            message,
            observed_generation,
            type_: _,
            last_transition_time: _,
        } = condition;
        let message = message.strip_suffix(&note).unwrap_or(message);
        (status, reason, message, observed_generation)
    });
    let text = serde_json::to_vec(&(restart, condition)).unwrap_or_default();
    digest64(&[&text])
}

/// The labels and annotations of an ExternalSecret that its Secret carries too; `others` are names and domains that
/// administrators left out.
pub fn carried(all: Option<&BTreeMap<String, String>>, others: &[String]) -> BTreeMap<String, String> {
    all.into_iter()
        .flatten()
        .filter(|(name, value)| names::is_copied(name, value, others))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn digest64(parts: &[&[u8]]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    context
        .finish()
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
