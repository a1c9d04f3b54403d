//! What is worth saying, out of what the API server showed. Pure.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::Lease,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    api::{
        ConditionType, ExternalSecretStatus, ObjectKey, Reason, RestartException, RotationStatus, Status,
        WorkloadState, external_secret::StoreRef, names::CONTROL_CONFIG_MAP,
    },
    cluster::Control,
};

use super::{
    causes::by_cause,
    stores::{Store, StoreCounts},
};

/// The part of an ExternalSecret that is read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Object {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: ObjectSpec,
    #[serde(default)]
    pub(super) status: ExternalSecretStatus,
}

/// The part of an ExternalSecret's spec that is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectSpec {
    #[serde(default)]
    pub(super) secret_store_ref: Option<StoreRef>,
}

/// An object that was asked for.
#[derive(Clone, Debug)]
pub(super) enum Lookup<T> {
    Found(T),
    Absent,
    /// It may not be read.
    Forbidden,
}

/// What the API server showed.
#[derive(Debug)]
pub(super) struct ClusterState {
    /// By the API server's clock.
    pub(super) now: Timestamp,
    pub(super) lease_key: ObjectKey,
    pub(super) lease: Lookup<Lease>,
    pub(super) control: Lookup<Control>,
    pub(super) objects: Vec<Object>,
    /// ExternalSecrets and stores that are there and could not be read.
    pub(super) unreadable: usize,
    pub(super) stores: Vec<Store>,
    /// Kinds of stores that may not be listed.
    pub(super) unlisted: Vec<&'static str>,
}

/// What is worth saying.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(serialize_with = "seconds")]
    pub(super) time: Timestamp,
    pub(super) verdict: Verdict,
    pub(super) operator: Operator,
    /// What `keyturn-control` holds up, if it does, or that it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) control: Option<Hold>,
    pub(super) counts: Counts,
    pub(super) stores: StoreCounts,
    /// What is not well or not idle: stores first, then ExternalSecrets in order, each cause once.
    pub(super) findings: Vec<Finding>,
}

/// The report in a word; the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Verdict {
    /// Nothing needs a person.
    Well,
    /// Something needs a person.
    Attention,
    /// Nothing that was seen needs a person, and not all could be seen.
    Unknown,
}

/// Whether somebody works.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Operator {
    pub(super) state: OperatorState,
    /// When the Lease was last renewed.
    #[serde(serialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub(super) renewed: Option<Timestamp>,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum OperatorState {
    /// A replica leads.
    Running,
    /// The Lease ran out.
    Silent,
    /// The last leader gave the Lease up, and none took it.
    Vacant,
    /// There is no Lease.
    Missing,
    /// The Lease may not be read.
    Unknown,
}

/// What `keyturn-control` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hold {
    pub(super) sync: bool,
    pub(super) restarts: bool,
    #[serde(serialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
    /// All, where none is named.
    pub(super) namespaces: Vec<String>,
    pub(super) message: String,
}

/// How many ExternalSecrets there are, and how they are. They overlap.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    pub(super) external_secrets: usize,
    /// `Ready` is true.
    pub(super) synced: usize,
    pub(super) not_ready: usize,
    /// AWS was not asked in time.
    pub(super) stale: usize,
    /// A person suspended them.
    pub(super) suspended: usize,
    /// AWS rotates what they hold.
    pub(super) rotating: usize,
    /// Workloads wait or roll out.
    pub(super) restarting: usize,
    /// They are there, and are not what this version knows.
    pub(super) unreadable: usize,
}

/// Something that is not well or not idle.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    /// Empty for a ClusterSecretStore.
    pub(super) namespace: String,
    /// The ExternalSecret or the store.
    pub(super) name: String,
    pub(super) what: FindingKind,
    /// Whether a person should act. An object that runs or waits by itself, or that was suspended on purpose, needs no action.
    pub(super) attention: bool,
    /// The kind and name of the store that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store: Option<String>,
    /// Further ExternalSecrets that have the same cause, as `namespace/name`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) affected: BTreeSet<String>,
    /// The workload that it is about, as `Deployment api`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workload: Option<String>,
    pub(super) reason: String,
    #[serde(serialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    #[serde(serialize_with = "maybe_seconds", skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum FindingKind {
    /// The operator has not looked at it, or not at its last edit.
    NotSeen,
    NotReady,
    /// Something is gone in AWS, and the Secret is kept until a person decides.
    Kept,
    Stale,
    /// A person suspended it.
    Suspended,
    /// A store that is missing, or whose identity is not proved.
    Store,
    Rotating,
    RotationStuck,
    /// Its restarts as a whole.
    Restarts,
    /// One workload of them.
    Workload,
}

impl FindingKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotSeen => "NotSeen",
            Self::NotReady => "NotReady",
            Self::Kept => "Kept",
            Self::Stale => "Stale",
            Self::Suspended => "Suspended",
            Self::Store => "Store",
            Self::Rotating => "Rotating",
            Self::RotationStuck => "RotationStuck",
            Self::Restarts => "Restarts",
            Self::Workload => "Workload",
        }
    }
}

/// Says it.
pub(super) fn report(facts: ClusterState) -> Report {
    let ClusterState {
        now,
        lease_key,
        lease,
        control,
        mut objects,
        unreadable,
        stores,
        unlisted,
    } = facts;
    objects.sort_by(|a, b| place(&a.metadata).cmp(&place(&b.metadata)));
    let mut counts = Counts {
        external_secrets: objects.len() + unreadable,
        unreadable,
        ..Counts::default()
    };
    let mut found_of = Vec::new();
    for object in &objects {
        count(&object.status, &mut counts);
        found_of.extend(found(object).into_iter().map(|finding| (object, finding)));
    }
    let findings = by_cause(super::stores::found(&stores), found_of);
    let operator = operator(now, &lease_key, lease);
    let control = hold(now, control);
    Report {
        time: now,
        verdict: verdict(&operator, control.as_ref(), &findings, unreadable),
        operator,
        control,
        counts,
        stores: StoreCounts::of(&stores, unlisted),
        findings,
    }
}

/// What is known to need a person goes before what could not be found out.
fn verdict(operator: &Operator, control: Option<&Hold>, findings: &[Finding], unreadable: usize) -> Verdict {
    let works = match operator.state {
        OperatorState::Running => Verdict::Well,
        OperatorState::Silent | OperatorState::Vacant | OperatorState::Missing => Verdict::Attention,
        OperatorState::Unknown => Verdict::Unknown,
    };
    let held = match control {
        None => Verdict::Well,
        Some(hold) if hold.sync || hold.restarts => Verdict::Attention,
        Some(_) => Verdict::Unknown,
    };
    let found = findings.iter().any(|finding| finding.attention);
    let all = [works, held];
    if found || all.contains(&Verdict::Attention) {
        Verdict::Attention
    } else if unreadable > 0 || all.contains(&Verdict::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Well
    }
}

fn operator(now: Timestamp, key: &ObjectKey, lease: Lookup<Lease>) -> Operator {
    let said = |state, renewed, message| Operator {
        state,
        renewed,
        message,
    };
    let spec = match lease {
        Lookup::Found(lease) => lease.spec.unwrap_or_default(),
        Lookup::Absent => {
            let message = format!(
                "no operator: there is no Lease {key}; --operator-namespace and --lease-name tell where it is"
            );
            return said(OperatorState::Missing, None, message);
        }
        Lookup::Forbidden => {
            let message =
                format!("you may not read the Lease {key}: whether the operator works is not known");
            return said(OperatorState::Unknown, None, message);
        }
    };
    let renewed = spec.renew_time.map(|time| time.0);
    let age = renewed.map_or(SignedDuration::MAX, |renewed| now.duration_since(renewed));
    let ago = renewed.map_or_else(
        || "at an unknown time".to_owned(),
        |_| format!("{} ago", words(age)),
    );
    let holds = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into());
    let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else {
        let message = format!("no operator: the last one ended and gave up the Lease {key} {ago}");
        return said(OperatorState::Vacant, renewed, message);
    };
    if age > holds {
        let message = format!(
            "the operator is silent: {holder} renewed the Lease {key} {ago}; what follows is what it wrote before"
        );
        return said(OperatorState::Silent, renewed, message);
    }
    let message = format!("{holder} works; it renewed the Lease {key} {ago}");
    said(OperatorState::Running, renewed, message)
}

fn hold(now: Timestamp, control: Lookup<Control>) -> Option<Hold> {
    let Control {
        sync,
        restarts,
        until,
        namespaces,
        unreadable,
    } = match control {
        Lookup::Found(control) => control,
        Lookup::Absent => return None,
        Lookup::Forbidden => {
            return Some(Hold {
                sync: false,
                restarts: false,
                until: None,
                namespaces: Vec::new(),
                message: format!(
                    "you may not read the ConfigMap {CONTROL_CONFIG_MAP}: whether it holds anything up is not known"
                ),
            });
        }
    };
    let what = match (sync, restarts) {
        (false, false) => return None,
        (true, false) => "syncing",
        (false, true) => "restarts",
        (true, true) => "syncing and restarts",
    };
    if until.is_some_and(|until| until <= now) {
        return None;
    }
    let namespaces: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
    let place = if namespaces.is_empty() {
        "all namespaces".to_owned()
    } else {
        namespaces.join(", ")
    };
    let end = until.map_or_else(
        || "without an end".to_owned(),
        |until| format!("until {until:.0}"),
    );
    let mut message = format!("{CONTROL_CONFIG_MAP} holds up {what} in {place}, {end}");
    if !unreadable.is_empty() {
        message.push_str("; what it says of ");
        message.push_str(&unreadable.join(", "));
        message.push_str(" cannot be read and counts as a hold");
    }
    Some(Hold {
        sync,
        restarts,
        until,
        namespaces,
        message,
    })
}

fn count(status: &ExternalSecretStatus, counts: &mut Counts) {
    let ready = condition(status, ConditionType::Ready);
    if ready.is_some_and(|ready| is(ready, Status::True)) {
        counts.synced += 1;
    } else {
        counts.not_ready += 1;
    }
    let current = condition(status, ConditionType::Current);
    if let Some(current) = current.filter(|current| is(current, Status::False)) {
        let of = if is_suspended(current) {
            &mut counts.suspended
        } else {
            &mut counts.stale
        };
        *of += 1;
    }
    counts.rotating += usize::from(status.rotation.as_ref().is_some_and(is_rotating));
    let restarting = status.restart.as_ref().is_some_and(|restart| {
        restart.pending.unwrap_or_default() > 0 || restart.in_flight.unwrap_or_default() > 0
    });
    counts.restarting += usize::from(restarting);
}

fn is_rotating(rotation: &RotationStatus) -> bool {
    matches!(rotation.state.as_deref(), Some("InProgress" | "Stuck"))
}

fn found(object: &Object) -> Vec<Finding> {
    let Object {
        metadata,
        spec: _,
        status,
    } = object;
    let (namespace, name) = place(metadata);
    let finding = |what, reason: &str, since, message: String| Finding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        what,
        attention: needs_a_person(what, reason),
        store: None,
        affected: BTreeSet::new(),
        workload: None,
        reason: reason.to_owned(),
        since,
        until: None,
        message,
    };
    let of = |what, condition: &Condition| {
        finding(
            what,
            &condition.reason,
            Some(condition.last_transition_time.0),
            condition.message.clone(),
        )
    };
    let mut findings = Vec::new();
    match condition(status, ConditionType::Ready) {
        None => {
            let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
            let message =
                "the operator has not looked at it: is it running, and does it watch this namespace?";
            findings.push(finding(
                FindingKind::NotSeen,
                "NoStatus",
                created,
                message.to_owned(),
            ));
        }
        Some(ready) => {
            if metadata.generation > status.observed_generation {
                let message = "the operator has not looked at the last edit yet";
                findings.push(finding(
                    FindingKind::NotSeen,
                    "NotObserved",
                    None,
                    message.to_owned(),
                ));
            }
            if !is(ready, Status::True) {
                findings.push(of(FindingKind::NotReady, ready));
            }
            let kept = [Reason::Retained, Reason::DeletionHeld];
            if kept.iter().any(|reason| reason.as_str() == ready.reason) {
                findings.push(of(FindingKind::Kept, ready));
            }
        }
    }
    findings.extend(outdated(status).map(|(what, current)| of(what, current)));
    let healthy = condition(status, ConditionType::RotationHealthy);
    let stuck = healthy.filter(|healthy| is(healthy, Status::False));
    let pending = status.rotation.as_ref().filter(|rotation| is_rotating(rotation));
    let since = pending.and_then(|rotation| rotation.pending_since.as_ref());
    if let Some(invalid) = stuck.filter(|stuck| is_invalid(stuck)) {
        findings.push(of(FindingKind::Rotating, invalid));
    } else if let Some(stuck) = stuck {
        let mut finding = of(FindingKind::RotationStuck, stuck);
        finding.since = since.map(|time| time.0).or(finding.since);
        findings.push(finding);
    } else if let Some(rotation) = pending {
        let version = rotation.pending_version_id.as_deref().unwrap_or("a version");
        let message = format!("AWS rotates: {version} carries AWSPENDING and is not current yet");
        findings.push(finding(
            FindingKind::Rotating,
            Reason::InProgress.as_str(),
            since.map(|time| time.0),
            message,
        ));
    }
    let complete = condition(status, ConditionType::RestartsComplete);
    if let Some(invalid) = complete.filter(|complete| is_invalid(complete)) {
        findings.push(of(FindingKind::Restarts, invalid));
    } else if let Some(restart) = &status.restart {
        if let Some(complete) = complete.filter(|complete| is(complete, Status::False)) {
            let mut finding = of(FindingKind::Restarts, complete);
            finding.message = super::restarts::progress(object, complete, restart);
            findings.push(finding);
        }
        // What the condition says already is not said of a workload once more.
        let said = findings.last().map(|finding| finding.message.clone());
        let exceptions = restart.exceptions.iter().flatten();
        for exception in
            exceptions.filter(|exception| exception.message.is_none() || exception.message != said)
        {
            findings.push(workload(namespace, name, exception));
        }
    }
    findings
}

fn workload(namespace: &str, name: &str, exception: &RestartException) -> Finding {
    let RestartException {
        kind,
        name: of,
        reason,
        message,
        until,
    } = exception;
    Finding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        what: FindingKind::Workload,
        attention: needs_a_person(FindingKind::Workload, reason),
        store: None,
        affected: BTreeSet::new(),
        workload: Some(format!("{kind} {of}")),
        reason: reason.clone(),
        since: None,
        until: until.as_ref().map(|time| time.0),
        message: message.clone().unwrap_or_default(),
    }
}

pub(super) fn place(metadata: &ObjectMeta) -> (&str, &str) {
    let ObjectMeta { namespace, name, .. } = metadata;
    (
        namespace.as_deref().unwrap_or_default(),
        name.as_deref().unwrap_or_default(),
    )
}

fn condition(status: &ExternalSecretStatus, type_: ConditionType) -> Option<&Condition> {
    let conditions = status.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str())
}

fn is_invalid(condition: &Condition) -> bool {
    condition.reason == Reason::InvalidSpec.as_str()
}

fn is_suspended(condition: &Condition) -> bool {
    condition.reason == Reason::Suspended.as_str()
}

/// Why AWS was not asked in time, unless the object is not ready: then `Ready` has told why.
fn outdated(status: &ExternalSecretStatus) -> Option<(FindingKind, &Condition)> {
    let current = condition(status, ConditionType::Current).filter(|current| is(current, Status::False))?;
    if is_suspended(current) {
        return Some((FindingKind::Suspended, current));
    }
    let ready = condition(status, ConditionType::Ready)?;
    is(ready, Status::True).then_some((FindingKind::Stale, current))
}

/// Whether this reason of a finding asks for a person; one that this version does not know does.
fn needs_a_person(what: FindingKind, reason: &str) -> bool {
    let one_of = |reasons: &[Reason]| reasons.iter().any(|known| known.as_str() == reason);
    match what {
        FindingKind::NotSeen
        | FindingKind::NotReady
        | FindingKind::Kept
        | FindingKind::Stale
        | FindingKind::Store
        | FindingKind::RotationStuck => true,
        FindingKind::Suspended => false,
        FindingKind::Rotating => reason != Reason::InProgress.as_str(),
        FindingKind::Restarts => !one_of(&[
            Reason::Pending,
            Reason::WaitingForWindow,
            Reason::InProgress,
            Reason::LeftToReloader,
        ]),
        FindingKind::Workload => ![
            WorkloadState::Done,
            WorkloadState::TakenBack,
            WorkloadState::Suspended,
            WorkloadState::Paused,
            WorkloadState::LeftToReloader,
        ]
        .iter()
        .any(|known| known.as_str() == reason),
    }
}

pub(super) fn is(condition: &Condition, status: Status) -> bool {
    condition.status == status.as_str()
}

/// A time that passed, in words: one unit is enough.
fn words(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

fn seconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.0}"))
}

#[expect(clippy::ref_option, reason = "as serde calls it")]
fn maybe_seconds<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}
