//! The words of the room: workloads, pods and Secrets, cut down to what restarts depend on. Pure.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use litemap::LiteMap;

use crate::{
    api::{KeyChanges, ObjectKey, RestartStrategy, WorkloadKind},
    objects::Suspension,
    restart::timing::{NODE_SILENT, later},
};

/// Texts by name. Few of them: a sorted list takes a fraction of a tree.
pub type Texts = LiteMap<Box<str>, Box<str>>;

/// A workload by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Which kind.
    pub kind: WorkloadKind,
    /// Where, and its name.
    pub key: ObjectKey,
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key.name)
    }
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its uid.
    pub uid: Box<str>,
    /// Its generation.
    pub generation: i64,
    /// Whether it is being deleted.
    pub ending: bool,
    /// Its own labels: targets choose by them.
    pub labels: Texts,
    /// What people wrote on it about restarts.
    pub annotations: Annotations,
    /// stakater Reloader's annotations on it and on its template: full name and value, those of the template winning.
    pub reloader: BTreeMap<Box<str>, Box<str>>,
    /// Chooses its pods.
    pub selector: PodSelector,
    /// The Secrets that its pods use, sorted by name, each once.
    pub uses: Vec<Use>,
    /// What our restarts wrote on it.
    pub stamps: Stamps,
    /// How its pods are replaced.
    pub controller: ControllerState,
    /// It has more labels, references and annotations than are kept of one workload ([`WORKLOAD`](crate::api::caps::WORKLOAD)), and the rest was left
    /// out: it is not restarted. Without any [`uses`](Self::uses) it may use any Secret.
    pub oversized: bool,
}

impl Workload {
    /// How its pods use the Secret with this name, if they do.
    pub fn use_of(&self, secret: &str) -> Option<&Use> {
        let at = self
            .uses
            .binary_search_by(|found| (*found.secret).cmp(secret))
            .ok()?;
        self.uses.get(at)
    }
}

/// What a patch of a workload rests on, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchBase {
    /// Its uid.
    pub uid: Box<str>,
    /// Its generation, which every change of its spec moves and no change of its status.
    pub generation: i64,
    /// Those of its own annotations that decide over restarts; none if it has no annotations at all.
    pub annotations: Option<BTreeMap<String, String>>,
    /// What its pod template has for annotations.
    pub template: TemplateAnnotations,
}

/// Where an annotation of a pod template can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateAnnotations {
    /// The template has no metadata.
    NoMetadata,
    /// Its metadata have no annotations.
    None,
    /// It has some.
    Some,
}

/// What Keyturn wrote on a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// Our annotations on its pod template: the hash of the Secret's name (without the domain) and the token.
    pub tokens: Texts,
    /// Our annotations on the workload itself: what was asked for last, by the same hash.
    pub records: LiteMap<Box<str>, Record>,
    /// Our other annotations on the workload itself: which rollout failed, by the same hash; none where one cannot be read.
    pub failures: LiteMap<Box<str>, Option<FailureRecord>>,
    /// When our last patch of it was taken, by the API server's record of field managers.
    pub patched_at: Option<Timestamp>,
}

/// What the controller of a workload is to do with its pods, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ControllerState {
    /// The generation that it has observed.
    pub observed_generation: i64,
    /// `spec.paused`.
    pub paused: bool,
    /// How it replaces pods.
    pub update: UpdateStrategy,
    /// A StatefulSet that replaces no pod while another one is not ready (`podManagementPolicy: OrderedReady`).
    pub ordered: bool,
    /// How many pods may be unavailable while it does: `maxUnavailable` as a number, at least 1.
    pub max_unavailable: i32,
    pub progress: Progress,
    /// A Rollout's `spec.restartAt`.
    pub restart_at: Option<Timestamp>,
    /// A Rollout that replaces its pods at once when its template changes, without steps or pauses.
    pub plain_canary: bool,
    /// A Rollout that borrows its template from another workload (`spec.workloadRef`), which we do not follow.
    pub borrowed_template: bool,
}

/// What people wrote on a workload or a Namespace about restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `keyturn.dev/restart`; anything but `true` and `false` is [`RestartFlag::Unreadable`].
    pub restart: RestartFlag,
    /// `keyturn.dev/restart-strategy`.
    pub strategy: AnnotationValue<RestartStrategy>,
    /// `keyturn.dev/hot-reload`.
    pub hot_reload: AnnotationValue<bool>,
    /// `keyturn.dev/suspend-restarts-until`.
    pub suspended: Suspension,
}

/// The value of an annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AnnotationValue<T> {
    /// The annotation is not set.
    #[default]
    Unset,
    /// The annotation has this value.
    Is(T),
    /// The annotation has this text, cut short, which is not a valid value. The workload is not restarted, and that is
    /// reported: a default could be the opposite of what the text means.
    Unreadable(Box<str>),
}

impl<T: Copy> AnnotationValue<T> {
    /// The value; `None` where the annotation is not set or cannot be read.
    pub const fn value(&self) -> Option<T> {
        match self {
            Self::Is(value) => Some(*value),
            Self::Unset | Self::Unreadable(_) => None,
        }
    }

    /// This value, or `other` where the annotation is not set.
    pub const fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        match self {
            Self::Unset => other,
            Self::Is(_) | Self::Unreadable(_) => self,
        }
    }
}

/// The value of `keyturn.dev/restart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartFlag {
    /// Not set.
    #[default]
    Unset,
    /// `true`.
    Yes,
    /// `false`.
    No,
    /// Neither: the workload is not restarted, and that is reported.
    Unreadable,
}

/// How a workload's pods use one Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The Secret's name.
    pub secret: Box<str>,
    /// Containers that have it in their environment or mounted by `subPath`: what they hold is what was there when they
    /// started. Init containers count; sorted.
    pub fixed: Vec<Box<str>>,
    /// Whether an init container uses it in any way, which only another pod runs again (a sidecar, an init container with
    /// `restartPolicy: Always`, is a container in this).
    pub init: bool,
    /// Whether a container mounts it in a way in which the kubelet renews the files.
    pub mounted: bool,
    /// The keys that they use, sorted; without any, all.
    pub keys: Vec<Box<str>>,
}

/// What we wrote on the workload itself beside its template, in the same patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The token that was put on the template.
    pub token: Box<str>,
    /// The number of the attempt: 1, or 2 after the first one was taken back.
    pub attempt: u8,
    /// Whether the workload was healthy before.
    pub was_healthy: bool,
}

/// What we wrote on the workload itself when its rollout failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRecord {
    /// The token that the rollout was for.
    pub token: Box<str>,
    /// The reason of the failure, one word.
    pub reason: Box<str>,
}

/// Chooses the pods of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSelector {
    /// Labels with these values.
    pub labels: Texts,
    /// `matchExpressions`.
    pub expressions: Vec<Expression>,
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The label.
    pub key: Box<str>,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`; another one chooses nothing.
    pub operator: Box<str>,
    /// The values.
    pub values: Vec<Box<str>>,
}

/// How a workload's controller replaces pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateStrategy {
    /// By itself; a StatefulSet leaves its first `partition` pods.
    Rolling {
        /// 0 for others.
        partition: i32,
    },
    /// Only pods that are deleted by hand.
    OnDelete,
}

/// How far a workload's controller is, by its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Progress {
    /// Pods that there should be (of a DaemonSet: `desiredNumberScheduled`).
    pub desired: i32,
    /// Pods that there are.
    pub total: i32,
    /// Pods of the present template.
    pub updated: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that have been ready for long enough.
    pub available: i32,
    /// A StatefulSet whose `currentRevision` is its `updateRevision`; true for others.
    pub one_revision: bool,
    /// A Deployment whose condition `Progressing` is `ProgressDeadlineExceeded`, or a Rollout whose phase is `Degraded`.
    pub deadline_exceeded: bool,
    /// Pods cannot be created: the condition `ReplicaFailure` of a Deployment or a Rollout.
    pub replica_failure: bool,
    /// A Rollout whose phase is `Healthy`; true for others.
    pub phase_healthy: bool,
    /// A Rollout's `status.restartedAt`.
    pub restarted_at: Option<Timestamp>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// When it was made.
    pub created: Timestamp,
    /// Its labels: selectors choose by them.
    pub labels: Texts,
    /// The kind and name of its controller, if it has one.
    pub controller: Option<(Box<str>, Box<str>)>,
    /// Our annotations on it: hash of the Secret's name and token.
    pub tokens: Texts,
    /// Its containers and sidecars.
    pub containers: Vec<Container>,
    /// Whether it is ready.
    pub ready: bool,
    /// Why no node was found for it, if none was.
    pub unscheduled: Option<Box<str>>,
    /// Since when it is ready, or is not.
    pub readiness_since: Option<Timestamp>,
    /// By how much the clock of its node is ahead of the API server's at the most; never negative.
    pub clock_ahead: SignedDuration,
    /// Since when its node seems not to answer, if it does: only the kubelet gives a reason where a pod is not ready, and it
    /// removes a pod soon after the time by which it is to be gone.
    pub unreachable_since: Option<Timestamp>,
    /// Whether it is being deleted.
    pub ending: bool,
    /// Whether it ran to its end: its phase is `Succeeded` or `Failed`.
    pub finished: bool,
}

impl Pod {
    /// Whether its node does not answer: nobody can replace the pod before the node is back, or is deleted.
    pub fn is_lost(&self, now: Timestamp) -> bool {
        let lost = |since| later(since, NODE_SILENT) <= now;
        !self.finished && self.unreachable_since.is_some_and(lost)
    }

    /// Whether the pod does its work, or is about to.
    pub const fn lives(&self) -> bool {
        !self.ending && !self.finished
    }
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: Box<str>,
    /// Since when it runs, if it does, by the clock of its node.
    pub started: Option<Timestamp>,
    /// How often it was restarted.
    pub restarts: i32,
    /// Whether it is ready; an init container: whether it has run to its end.
    pub ready: bool,
    /// Why it waits, if it does: `CrashLoopBackOff`, `ImagePullBackOff`, `CreateContainerConfigError`, ...
    pub waiting: Option<Box<str>>,
}

/// A managed Secret, as far as pods must follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The ExternalSecret that it is made for.
    pub object: ObjectKey,
    /// The Secret's name.
    pub secret: Box<str>,
    /// The hash of its name, as in annotations of workloads.
    pub hash: Box<str>,
    /// `keyturn.dev/rollout`: what people approve, resume and wait for.
    pub rollout: Box<str>,
    /// What pods must hold: [`Self::rollout`], or for a workload that uses only some keys, that of their latest change.
    pub token: Box<str>,
    /// When that changed: `keyturn.dev/changed-at`, or the time of the latest change of those keys. Without it no pod can be
    /// stale.
    pub changed_at: Option<Timestamp>,
    /// `keyturn.dev/key-changes`.
    pub key_changes: Option<Arc<KeyChanges>>,
    /// `keyturn.dev/restart-since`. Earlier changes ask for no restart.
    pub since: Option<Timestamp>,
    /// stakater Reloader's annotations on the Secret.
    pub reloader: Arc<BTreeMap<Box<str>, Box<str>>>,
}

impl Content {
    /// What pods with this use of the Secret must hold; none where that is the same for all pods.
    pub fn of_use(&self, found: &Use) -> Option<Self> {
        if found.keys.is_empty() {
            return None;
        }
        let change = self.key_changes.as_ref()?.latest_of(&found.keys)?;
        (*change.rollout != *self.token).then(|| Self {
            token: change.rollout.as_str().into(),
            changed_at: change.at(),
            ..self.clone()
        })
    }

    /// Whether the last change asks for restarts at all. A change from before restarts were enabled does not.
    pub fn asks_for_restarts(&self) -> bool {
        self.changed_at
            .is_some_and(|changed| self.since.is_none_or(|since| changed >= since))
    }
}

/// How many workloads roll out at once, whatever ExternalSecrets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In one namespace.
    pub namespace: usize,
    /// In the cluster.
    pub cluster: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            namespace: 5,
            cluster: 20,
        }
    }
}
