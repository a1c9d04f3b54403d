//! What is read of workloads and pods as the API server has them. Unknown fields and nulls never fail: what we cannot read
//! whole must not hide the object.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use litemap::LiteMap;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{
    annotations,
    model::{
        Annotations, Container, ControllerState, Expression, FailureRecord, PatchBase, Pod, PodSelector,
        Progress, Record, Stamps, TemplateAnnotations, Texts, UpdateStrategy, Use, Workload,
    },
    records,
    uses::{self, PodSpec},
};
use crate::api::{
    WorkloadKind, caps,
    names::{GROUP, RESTART_DOMAIN, RESTART_MANAGER},
};

type AnnotationMap = BTreeMap<String, String>;

/// A workload of any kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WireWorkload {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
    #[serde(deserialize_with = "nullable")]
    status: Status,
}

/// A pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WirePod {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    uid: String,
    #[serde(deserialize_with = "nullable")]
    resource_version: String,
    #[serde(deserialize_with = "nullable")]
    generation: i64,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "nullable")]
    labels: AnnotationMap,
    #[serde(deserialize_with = "nullable")]
    annotations: AnnotationMap,
    #[serde(deserialize_with = "nullable")]
    owner_references: Vec<Owner>,
    #[serde(deserialize_with = "nullable")]
    managed_fields: Vec<Managed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    #[serde(deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    controller: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Managed {
    manager: Option<String>,
    time: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    replicas: Option<i32>,
    #[serde(deserialize_with = "nullable")]
    paused: bool,
    #[serde(deserialize_with = "nullable")]
    selector: Selector,
    #[serde(deserialize_with = "nullable")]
    template: Template,
    #[serde(deserialize_with = "nullable")]
    update_strategy: WireUpdateStrategy,
    #[serde(deserialize_with = "nullable")]
    strategy: WireStrategy,
    restart_at: Option<String>,
    pod_management_policy: Option<String>,
    workload_ref: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    #[serde(deserialize_with = "nullable")]
    match_labels: AnnotationMap,
    #[serde(deserialize_with = "nullable")]
    match_expressions: Vec<Requirement>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement {
    #[serde(deserialize_with = "nullable")]
    key: Box<str>,
    #[serde(deserialize_with = "nullable")]
    operator: Box<str>,
    #[serde(deserialize_with = "nullable")]
    values: Vec<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Option<TemplateMeta>,
    #[serde(deserialize_with = "nullable")]
    spec: PodSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateMeta {
    #[serde(deserialize_with = "nullable")]
    annotations: AnnotationMap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireUpdateStrategy {
    #[serde(rename = "type")]
    type_: Option<String>,
    #[serde(deserialize_with = "nullable")]
    rolling_update: RollingUpdate,
}

/// Of a Deployment or a Rollout.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireStrategy {
    rolling_update: Option<RollingUpdate>,
    canary: Option<RollingUpdate>,
    blue_green: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RollingUpdate {
    partition: Option<i32>,
    max_unavailable: Option<Amount>,
    #[serde(deserialize_with = "nullable")]
    steps: Vec<serde::de::IgnoredAny>,
}

/// A number of pods, or a percentage.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(i32),
    Text(String),
    Other(serde::de::IgnoredAny),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: Option<Generation>,
    #[serde(deserialize_with = "nullable")]
    replicas: i32,
    #[serde(deserialize_with = "nullable")]
    updated_replicas: i32,
    #[serde(deserialize_with = "nullable")]
    ready_replicas: i32,
    #[serde(deserialize_with = "nullable")]
    available_replicas: i32,
    #[serde(deserialize_with = "nullable")]
    desired_number_scheduled: i32,
    #[serde(deserialize_with = "nullable")]
    current_number_scheduled: i32,
    #[serde(deserialize_with = "nullable")]
    updated_number_scheduled: i32,
    #[serde(deserialize_with = "nullable")]
    number_ready: i32,
    #[serde(deserialize_with = "nullable")]
    number_available: i32,
    current_revision: Option<String>,
    update_revision: Option<String>,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    phase: Option<String>,
    restarted_at: Option<String>,
}

/// A Rollout writes it as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Generation {
    Number(i64),
    Text(String),
}

impl Generation {
    fn number(self) -> i64 {
        match self {
            Self::Number(number) => number,
            Self::Text(text) => text.parse().unwrap_or_default(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    #[serde(rename = "type", deserialize_with = "nullable")]
    type_: String,
    #[serde(deserialize_with = "nullable")]
    status: String,
    #[serde(deserialize_with = "nullable")]
    reason: String,
    last_transition_time: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    reason: Option<String>,
    start_time: Option<String>,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable")]
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    #[serde(deserialize_with = "nullable")]
    name: Box<str>,
    #[serde(deserialize_with = "nullable")]
    restart_count: i32,
    #[serde(deserialize_with = "nullable")]
    ready: bool,
    #[serde(deserialize_with = "nullable")]
    state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    running: Option<Running>,
    waiting: Option<Waiting>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Running {
    started_at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: Option<Box<str>>,
}

fn nullable<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl WireWorkload {
    /// What a patch may rest on; none if the API server never gave it out.
    pub fn patch_base(&self) -> Option<PatchBase> {
        let Meta {
            uid,
            generation,
            annotations,
            ..
        } = &self.metadata;
        let decides = |name: &str| is_ours(name) || annotations::RELOADER.contains(&name);
        (!uid.is_empty()).then(|| PatchBase {
            uid: uid.as_str().into(),
            generation: *generation,
            annotations: (!annotations.is_empty()).then(|| {
                let deciding = annotations.iter().filter(|(name, _)| decides(name));
                deciding
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect()
            }),
            template: match &self.spec.template.metadata {
                None => TemplateAnnotations::NoMetadata,
                Some(metadata) if metadata.annotations.is_empty() => TemplateAnnotations::None,
                Some(_) => TemplateAnnotations::Some,
            },
        })
    }

    /// The workload, if restarts can ever concern it: it uses Secrets, or has an annotation of Keyturn.
    pub fn workload(self, kind: WorkloadKind) -> Option<Workload> {
        let Self {
            metadata,
            spec,
            status,
        } = self;
        let uses = uses::uses(&spec.template.spec);
        let no_annotations = AnnotationMap::new();
        let template = spec
            .template
            .metadata
            .as_ref()
            .map_or(&no_annotations, |metadata| &metadata.annotations);
        let concerned = !uses.is_empty()
            || metadata
                .annotations
                .keys()
                .chain(template.keys())
                .any(|name| is_ours(name));
        if !concerned {
            return None;
        }
        let borrowed_template = kind == WorkloadKind::Rollout && spec.workload_ref.is_some();
        let update = spec.update(kind);
        let plain_canary = spec.is_plain_canary();
        let progress = progress(kind, spec.replicas, &status);
        let ordered = kind == WorkloadKind::StatefulSet
            && spec
                .pod_management_policy
                .as_deref()
                .is_none_or(|policy| policy == "OrderedReady");
        let max_unavailable = spec.max_unavailable(kind, progress.desired);
        let observed_generation = status.observed_generation.map_or(0, Generation::number);
        let Selector {
            match_labels,
            match_expressions,
        } = spec.selector;
        let theirs = metadata.annotations.iter().chain(template);
        let mut kept = SizeBudget::default();
        Some(Workload {
            annotations: Annotations::read(|name| metadata.annotations.get(name).map(String::as_str)),
            // In this order it is kept until there is too much.
            selector: kept.keep(
                PodSelector {
                    labels: texts(match_labels),
                    expressions: match_expressions
                        .into_iter()
                        .map(|requirement| Expression {
                            key: requirement.key,
                            operator: requirement.operator,
                            values: requirement.values,
                        })
                        .collect(),
                },
                selector_size,
            ),
            stamps: Stamps {
                tokens: kept.keep(tokens(template), texts_size),
                records: kept.keep(records(&metadata.annotations), |records| {
                    texts_sum(records.iter().map(|(hash, record)| (&**hash, &*record.token)))
                }),
                failures: kept.keep(failures(&metadata.annotations), |failures| {
                    let texts = failures.iter().map(|(hash, said)| {
                        let token = said.as_ref().map_or("", |said| &*said.token);
                        (&**hash, token)
                    });
                    texts_sum(texts)
                }),
                patched_at: metadata
                    .managed_fields
                    .iter()
                    .filter(|entry| entry.manager.as_deref() == Some(RESTART_MANAGER))
                    .filter_map(|entry| time(entry.time.as_deref()))
                    .max(),
            },
            uses: kept.keep(uses, |uses| uses.iter().map(use_size).sum()),
            reloader: kept.keep(
                theirs
                    .filter(|(name, _)| annotations::RELOADER.contains(&name.as_str()))
                    .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                    .collect(),
                |all: &BTreeMap<Box<str>, Box<str>>| {
                    texts_sum(all.iter().map(|(name, value)| (&**name, &**value)))
                },
            ),
            labels: kept.keep(texts(metadata.labels), texts_size),
            oversized: kept.is_too_much,
            uid: metadata.uid.into(),
            generation: metadata.generation,
            ending: metadata.deletion_timestamp.is_some(),
            controller: ControllerState {
                observed_generation,
                paused: spec.paused,
                update,
                ordered,
                max_unavailable,
                progress,
                restart_at: time(spec.restart_at.as_deref()),
                plain_canary,
                borrowed_template,
            },
        })
    }
}

impl Spec {
    fn update(&self, kind: WorkloadKind) -> UpdateStrategy {
        let WireUpdateStrategy {
            type_,
            rolling_update,
        } = &self.update_strategy;
        match kind {
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet if type_.as_deref() == Some("OnDelete") => {
                UpdateStrategy::OnDelete
            }
            WorkloadKind::StatefulSet => UpdateStrategy::Rolling {
                partition: rolling_update.partition.unwrap_or_default(),
            },
            _ => UpdateStrategy::Rolling { partition: 0 },
        }
    }

    /// Whether a Rollout replaces its pods at once when its template changes, as a Deployment does: by a canary without steps.
    fn is_plain_canary(&self) -> bool {
        let WireStrategy {
            canary, blue_green, ..
        } = &self.strategy;
        let plain = |canary: &RollingUpdate| canary.steps.is_empty();
        blue_green.is_none() && self.workload_ref.is_none() && canary.as_ref().is_some_and(plain)
    }

    /// How many of the `desired` pods may be unavailable during a rollout, rounded as the controller does; at least 1.
    fn max_unavailable(&self, kind: WorkloadKind, desired: i32) -> i32 {
        let rolling = match kind {
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => Some(&self.update_strategy.rolling_update),
            WorkloadKind::Deployment => self.strategy.rolling_update.as_ref(),
            WorkloadKind::Rollout => self.strategy.canary.as_ref(),
        };
        let amount = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let part = |percent: i32| i64::from(desired) * i64::from(percent);
        let percent = |percent: i32| match kind {
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => (part(percent) + 99) / 100,
            WorkloadKind::Deployment | WorkloadKind::Rollout => part(percent) / 100,
        };
        let pods = match (kind, amount) {
            (_, Some(Amount::Number(pods))) => i64::from(*pods),
            (_, Some(Amount::Text(text))) => {
                let text = text.strip_suffix('%').and_then(|text| text.parse().ok());
                text.map_or(1, percent)
            }
            // The API server sets the default of a Deployment. That of a Rollout stays unset.
            (WorkloadKind::Rollout, None) if rolling.is_some() => percent(25),
            (_, None | Some(Amount::Other(_))) => 1,
        };
        i32::try_from(pods).unwrap_or(i32::MAX).max(1)
    }
}

fn progress(kind: WorkloadKind, replicas: Option<i32>, status: &Status) -> Progress {
    let condition = |type_: &str| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    };
    let phase = status.phase.as_deref();
    let common = Progress {
        desired: replicas.unwrap_or(1),
        total: status.replicas,
        updated: status.updated_replicas,
        ready: status.ready_replicas,
        available: status.available_replicas,
        one_revision: true,
        deadline_exceeded: false,
        replica_failure: matches!(kind, WorkloadKind::Deployment | WorkloadKind::Rollout)
            && condition("ReplicaFailure").is_some_and(|condition| condition.status == "True"),
        phase_healthy: true,
        restarted_at: None,
    };
    match kind {
        WorkloadKind::Deployment => Progress {
            deadline_exceeded: condition("Progressing").is_some_and(|condition| {
                condition.status == "False" && condition.reason == "ProgressDeadlineExceeded"
            }),
            ..common
        },
        WorkloadKind::StatefulSet => Progress {
            one_revision: status.current_revision == status.update_revision,
            ..common
        },
        WorkloadKind::DaemonSet => Progress {
            desired: status.desired_number_scheduled,
            total: status.current_number_scheduled,
            updated: status.updated_number_scheduled,
            ready: status.number_ready,
            available: status.number_available,
            ..common
        },
        WorkloadKind::Rollout => Progress {
            deadline_exceeded: phase == Some("Degraded"),
            phase_healthy: phase == Some("Healthy"),
            restarted_at: time(status.restarted_at.as_deref()),
            ..common
        },
    }
}

impl WirePod {
    /// The pod; none without a name or the time when it was made, of which all depends.
    pub fn pod(self) -> Option<Pod> {
        let Self { metadata, status } = self;
        if metadata.name.is_empty() {
            return None;
        }
        let created = time(metadata.creation_timestamp.as_deref())?;
        let containers = status
            .init_container_statuses
            .into_iter()
            // Sidecars run beside the containers. Other init containers matter only while they wait or run.
            .filter(|container| container.state.running.is_some() || container.state.waiting.is_some())
            .chain(status.container_statuses)
            .map(|container| {
                let ContainerStatus {
                    name,
                    restart_count,
                    ready,
                    state,
                } = container;
                Container {
                    name,
                    started: state
                        .running
                        .and_then(|running| time(running.started_at.as_deref())),
                    restarts: restart_count,
                    ready,
                    waiting: state.waiting.map(|waiting| waiting.reason.unwrap_or_default()),
                }
            })
            .collect();
        let condition = |type_: &str| {
            status
                .conditions
                .iter()
                .find(|condition| condition.type_ == type_)
        };
        let ready = condition("Ready");
        // The kubelet dates the first, with the clock of its node, once it has seen what the scheduler dates the second with.
        let seen_at = time(status.start_time.as_deref());
        let scheduled = condition("PodScheduled").filter(|scheduled| scheduled.status == "True");
        let scheduled_at = scheduled.and_then(|scheduled| time(scheduled.last_transition_time.as_deref()));
        let clock_ahead = seen_at
            .zip(scheduled_at)
            .map(|(seen, scheduled)| seen.duration_since(scheduled).max(SignedDuration::ZERO));
        let unscheduled = condition("PodScheduled").filter(|scheduled| scheduled.status == "False");
        Some(Pod {
            tokens: tokens(&metadata.annotations),
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            created,
            labels: texts(metadata.labels),
            controller: metadata
                .owner_references
                .into_iter()
                .find(|owner| owner.controller)
                .map(|owner| (owner.kind.into(), owner.name.into())),
            containers,
            ready: ready.is_some_and(|ready| ready.status == "True"),
            unscheduled: unscheduled.map(|unscheduled| match unscheduled.reason.as_str() {
                "" => "Pending".into(),
                reason => reason.into(),
            }),
            clock_ahead: clock_ahead.unwrap_or_default(),
            unreachable_since: match &metadata.deletion_timestamp {
                Some(due) => time(Some(due)),
                None => ready
                    .filter(|ready| status.reason.as_deref() == Some("NodeLost") || is_unexplained(ready))
                    .and_then(|ready| time(ready.last_transition_time.as_deref())),
            },
            readiness_since: ready.and_then(|ready| time(ready.last_transition_time.as_deref())),
            ending: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        })
    }
}

/// Whether the pod is not ready and its kubelet has not said why: so the control plane marks pods of nodes that do not answer.
fn is_unexplained(ready: &Condition) -> bool {
    ready.status != "True" && ready.reason.is_empty()
}

/// Counts what is kept of one workload, in bytes.
#[derive(Default)]
struct SizeBudget {
    bytes: usize,
    is_too_much: bool,
}

impl SizeBudget {
    /// The part, or nothing of it if all that was kept so far leaves no room for it.
    fn keep<T: Default>(&mut self, part: T, size: impl FnOnce(&T) -> usize) -> T {
        let bytes = self.bytes + size(&part);
        if bytes > caps::WORKLOAD {
            self.is_too_much = true;
            return T::default();
        }
        self.bytes = bytes;
        part
    }
}

/// Bytes that a pair of texts takes besides them.
const PAIR: usize = 48;

fn texts_sum<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
    pairs.map(|(name, value)| PAIR + name.len() + value.len()).sum()
}

fn texts_size(texts: &Texts) -> usize {
    texts_sum(texts.iter().map(|(name, value)| (&**name, &**value)))
}

fn selector_size(selector: &PodSelector) -> usize {
    let PodSelector { labels, expressions } = selector;
    let expression = |expression: &Expression| {
        let Expression {
            key,
            operator,
            values,
        } = expression;
        let values = values.iter().map(|value| (&**value, ""));
        PAIR + key.len() + operator.len() + texts_sum(values)
    };
    texts_size(labels) + expressions.iter().map(expression).sum::<usize>()
}

fn use_size(found: &Use) -> usize {
    let names = found.fixed.iter().chain(&found.keys);
    PAIR + found.secret.len() + texts_sum(names.map(|name| (&**name, "")))
}

fn texts(texts: AnnotationMap) -> Texts {
    let texts = texts.into_iter();
    texts.map(|(name, value)| (name.into(), value.into())).collect()
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

fn is_ours(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain == GROUP || domain == RESTART_DOMAIN)
}

/// The hash out of the name of one of our annotations.
fn hash(name: &str) -> Option<&str> {
    name.strip_prefix(RESTART_DOMAIN)?.strip_prefix('/')
}

fn tokens(annotations: &AnnotationMap) -> Texts {
    annotations
        .iter()
        .filter_map(|(name, value)| Some((hash(name)?.into(), value.as_str().into())))
        .collect()
}

fn records(annotations: &AnnotationMap) -> LiteMap<Box<str>, Record> {
    annotations
        .iter()
        .filter_map(|(name, value)| {
            let hash = hash(name).filter(|hash| records::failed(hash).is_none())?;
            Some((hash.into(), records::parse(value)?))
        })
        .collect()
}

fn failures(annotations: &AnnotationMap) -> LiteMap<Box<str>, Option<FailureRecord>> {
    annotations
        .iter()
        .filter_map(|(name, value)| {
            Some((
                records::failed(hash(name)?)?.into(),
                records::parse_failure(value),
            ))
        })
        .collect()
}
