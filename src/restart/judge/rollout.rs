//! How the rollout of a restart goes: complete, rolling or failed. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::WorkloadKind,
    restart::{
        observed::{
            model::{Container, Pod, UpdateStrategy, Workload},
            records::RECOVERED,
        },
        timing::{RECOVERY_PROOF, RESTART_AT, START_STUCK, later},
    },
};

/// Containers that were restarted this often crash.
const CRASHES: i32 = 3;

/// How a rollout goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All pods are of the present template and work.
    Complete,
    /// It is under way.
    Rolling,
    /// It does not get there.
    Failed(Failure),
    /// The controller has replaced the pods that it may; the others must be deleted by hand.
    AwaitingPodDeletion,
    /// Its time is over, and only its pods show how it ended.
    Unknown,
}

/// Why a rollout does not get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its controller gave up.
    DeadlineExceeded,
    /// It made no progress for too long.
    TimedOut,
    /// A new pod does not start: the reason that its container gives.
    Pod(Box<str>),
    /// Its controller cannot create pods.
    NoPod,
    /// An old pod is not ready, and the `StatefulSet` replaces none before it is: its name, if that is known.
    Ordered(Option<Box<str>>),
    /// A pod stands on a node that does not answer, and the controller replaces no others meanwhile.
    NodeLost,
    /// The workload has a record of the failure; its pods were not listed yet.
    Recorded,
    /// The record on the workload cannot be read.
    Unreadable,
}

impl Failure {
    /// The reason of the failure, one word, as it is recorded.
    pub fn reason(&self) -> &str {
        match self {
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::TimedOut => "TimedOut",
            Self::Pod(reason) => reason,
            Self::NoPod => REPLICA_FAILURE,
            Self::Ordered(_) => ORDERED_READY,
            Self::NodeLost => NODE_LOST,
            Self::Recorded => "Recorded",
            Self::Unreadable => "Unreadable",
        }
    }

    /// The failure of a recorded reason.
    pub fn of(reason: &str) -> Self {
        match reason {
            "DeadlineExceeded" => Self::DeadlineExceeded,
            "TimedOut" => Self::TimedOut,
            "Unreadable" => Self::Unreadable,
            REPLICA_FAILURE => Self::NoPod,
            ORDERED_READY => Self::Ordered(None),
            NODE_LOST => Self::NodeLost,
            reason => Self::Pod(reason.into()),
        }
    }

    /// The failure in a sentence, and what to do.
    pub fn sentence(&self, was_healthy: bool) -> String {
        let why = self.why();
        if was_healthy {
            format!("{why}; look at its pods")
        } else {
            format!("{why}; it was not healthy before the restart either")
        }
    }

    fn why(&self) -> String {
        match self {
            Self::DeadlineExceeded => "its controller gave up on the rollout".to_owned(),
            Self::TimedOut => {
                "its rollout made no progress for the time in restart.health.timeout".to_owned()
            }
            Self::Pod(reason) => format!("a new pod does not start: {reason}"),
            Self::NoPod => {
                "its controller cannot create pods (ReplicaFailure). A quota or an admission policy refuses them: \
                 read the condition ReplicaFailure of the workload"
                    .to_owned()
            }
            Self::Ordered(pod) => {
                let pod = pod.as_deref().map_or_else(|| "an old pod".to_owned(), |name| format!("pod {name}"));
                format!(
                    "{pod} is not ready, and a StatefulSet with podManagementPolicy OrderedReady replaces no pod before \
                     it is (kubernetes#67250). Delete {pod}: the StatefulSet then creates it from the new template"
                )
            }
            Self::NodeLost => "a pod stands on a node that does not answer, and the controller replaces no other pods before it \
                               is back or deleted (kubectl delete node)"
                .to_owned(),
            Self::Recorded => "an earlier look found that its rollout failed".to_owned(),
            Self::Unreadable => {
                "an annotation restart.keyturn.dev/*.failed on it cannot be read, so it counts as failed \
                 until its rollout is complete: remove the annotation"
                    .to_owned()
            }
        }
    }
}

const REPLICA_FAILURE: &str = "ReplicaFailure";
const ORDERED_READY: &str = "OrderedReady";
const NODE_LOST: &str = "NodeLost";

/// What keeps a rollout from going on at present. It may pass: a node is added, a volume is detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The failure that it becomes if it does not pass.
    pub failure: Failure,
    /// The pod that does not start.
    pub pod: Option<Box<str>>,
}

impl Obstacle {
    /// The obstacle in a sentence.
    pub fn sentence(&self) -> String {
        match (&self.failure, &self.pod) {
            (Failure::Pod(reason), Some(pod)) => format!(
                "it rolls out, but its new pod {pod} has not started for a minute: {reason}. If it stays so, look at the \
                 events of the pod"
            ),
            (Failure::NodeLost, Some(pod)) => format!(
                "it rolls out, but the node of pod {pod} does not answer. Its controller may replace no other pods before the \
                 node is back or deleted (kubectl delete node)"
            ),
            (failure, _) => format!("it rolls out, but {}", failure.why()),
        }
    }
}

/// What is known of a rollout.
#[derive(Clone, Copy, Debug)]
pub struct Rollout<'a> {
    /// Which kind of workload.
    pub kind: WorkloadKind,
    /// The workload.
    pub workload: &'a Workload,
    /// When it last made progress: when we asked for it, at least.
    pub progress: Timestamp,
    /// How long it may take without progress.
    pub timeout: Duration,
    /// Its pods that were made for it; none if they were not listed.
    pub new: Option<&'a [&'a Pod]>,
    /// Its pods on nodes that do not answer.
    pub lost: &'a [&'a Pod],
    /// An old pod that keeps its `StatefulSet` from replacing any.
    pub blocking: Option<&'a Pod>,
    /// Whether pods hold old content; none if that is not known.
    pub stale: Option<bool>,
    /// Whether it was seen to fail.
    pub failed: bool,
}

/// Whether every pod is of the present template and works, by the status that its controller writes.
pub fn rolled_out(kind: WorkloadKind, workload: &Workload) -> bool {
    let progress = &workload.controller.progress;
    if workload.controller.observed_generation < workload.generation {
        return false;
    }
    let desired = progress.desired;
    match kind {
        WorkloadKind::Deployment => {
            progress.updated == desired && progress.total == desired && progress.available == desired
        }
        WorkloadKind::StatefulSet => {
            let partition = match workload.controller.update {
                UpdateStrategy::Rolling { partition } => partition.max(0),
                UpdateStrategy::OnDelete => 0,
            };
            progress.updated >= desired.saturating_sub(partition)
                && progress.ready == desired
                && (partition > 0 || progress.one_revision)
        }
        WorkloadKind::DaemonSet => progress.updated == desired && progress.available == desired,
        WorkloadKind::Rollout => {
            progress.phase_healthy
                && progress.updated == desired
                && progress.available >= desired
                && workload
                    .controller
                    .restart_at
                    .is_none_or(|asked| progress.restarted_at.is_some_and(|done| done >= asked))
        }
    }
}

/// Whether every pod is new and works but for those on nodes that do not answer, and only these are missing.
fn is_complete_elsewhere(rollout: &Rollout<'_>) -> bool {
    let Rollout {
        kind,
        workload,
        new,
        stale,
        ..
    } = *rollout;
    let missing = i32::try_from(missing(rollout).count()).unwrap_or(i32::MAX);
    let works = |pods: &[&Pod]| pods.iter().filter(|pod| pod.lives()).all(|pod| pod.ready);
    missing > 0
        && stale == Some(false)
        && workload.controller.observed_generation >= workload.generation
        && working(kind, workload).saturating_add(missing) >= workload.controller.progress.desired
        && new.is_some_and(works)
}

/// Pods on nodes that do not answer whose place nobody takes. A controller that names its pods anew makes another one for a pod
/// that is being deleted.
fn missing<'a>(rollout: &Rollout<'a>) -> impl Iterator<Item = &'a Pod> {
    let waits = matches!(rollout.kind, WorkloadKind::StatefulSet | WorkloadKind::DaemonSet);
    let lost = rollout.lost.iter().copied();
    lost.filter(move |pod| waits || !pod.ending)
}

/// That a workload is done, and which of its pods were left out: `lost`, and so many others.
pub fn done_but_for(lost: &Pod, others: usize) -> String {
    let others = match others {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    format!(
        "its pods hold the content, but for pod {}{others}: the node does not answer. If the node is gone for good, delete it \
         (kubectl delete node)",
        lost.name
    )
}

/// Whether as many pods work as there should be, of whatever template.
pub fn steady(kind: WorkloadKind, workload: &Workload) -> bool {
    let progress = &workload.controller.progress;
    working(kind, workload) >= progress.desired && !progress.deadline_exceeded
}

/// Whether the workload is healthy: no more of its pods are missing than may be while it rolls out, and one works at least.
pub fn healthy(kind: WorkloadKind, workload: &Workload) -> bool {
    let progress = &workload.controller.progress;
    let least = progress
        .desired
        .saturating_sub(workload.controller.max_unavailable);
    working(kind, workload) >= least.max(progress.desired.min(1)) && !progress.deadline_exceeded
}

const fn working(kind: WorkloadKind, workload: &Workload) -> i32 {
    let progress = &workload.controller.progress;
    match kind {
        WorkloadKind::StatefulSet => progress.ready,
        WorkloadKind::Deployment | WorkloadKind::DaemonSet | WorkloadKind::Rollout => progress.available,
    }
}

/// How the rollout goes.
pub fn health(rollout: &Rollout<'_>, now: Timestamp) -> Health {
    let Rollout {
        kind,
        workload,
        new,
        stale,
        ..
    } = *rollout;
    if rolled_out(kind, workload) || is_complete_elsewhere(rollout) {
        return Health::Complete;
    }
    let observed = workload.controller.observed_generation >= workload.generation;
    if workload.controller.update == UpdateStrategy::OnDelete && observed {
        return Health::AwaitingPodDeletion;
    }
    let end = rollout.end();
    let ours = || ours(rollout, end);
    if let Some(reason) = ours().find_map(|pod| broken(pod, now)) {
        return Health::Failed(Failure::Pod(reason));
    }
    let blocking = rollout.blocking.filter(|_| observed);
    if let Some(pod) = blocking.filter(|pod| broken(pod, now).is_some()) {
        return Health::Failed(Failure::Ordered(Some(pod.name.clone())));
    }
    let over = now >= end;
    if observed && workload.controller.progress.deadline_exceeded && (!over || stale == Some(true)) {
        return Health::Failed(Failure::DeadlineExceeded);
    }
    if !over {
        return Health::Rolling;
    }
    match (new, stale) {
        (None, _) | (_, None) => Health::Unknown,
        (Some(_), Some(stale)) if stale || ours().any(|pod| !pod.ready) => {
            let obstacle = obstacle(rollout, now);
            Health::Failed(obstacle.map_or(Failure::TimedOut, |obstacle| obstacle.failure))
        }
        // The rollout ended; what is wrong now was caused by another change.
        _ => Health::Complete,
    }
}

/// What keeps the rollout from going on.
pub fn obstacle(rollout: &Rollout<'_>, now: Timestamp) -> Option<Obstacle> {
    let controller = &rollout.workload.controller;
    if controller.observed_generation < rollout.workload.generation {
        return None;
    }
    if let Some(pod) = rollout.blocking {
        let failure = Failure::Ordered(Some(pod.name.clone()));
        return Some(Obstacle { failure, pod: None });
    }
    if let Some(pod) = missing(rollout).next() {
        return Some(Obstacle {
            failure: Failure::NodeLost,
            pod: Some(pod.name.clone()),
        });
    }
    let mut ours = ours(rollout, rollout.end());
    let stuck = ours.find_map(|pod| Some((pod, waits(pod, now)?)));
    if let Some((pod, reason)) = stuck {
        return Some(Obstacle {
            failure: Failure::Pod(reason),
            pod: Some(pod.name.clone()),
        });
    }
    controller.progress.replica_failure.then_some(Obstacle {
        failure: Failure::NoPod,
        pod: None,
    })
}

/// What the pod, which is not young, waits for before its containers are created: a node, or volumes and a network.
fn waits(pod: &Pod, now: Timestamp) -> Option<Box<str>> {
    if pod.ready || later(pod.created, START_STUCK) > now {
        return None;
    }
    let creating = |container: &Container| {
        let reason = container.waiting.as_ref()?;
        (**reason == *"ContainerCreating").then(|| reason.clone())
    };
    let unscheduled = pod.unscheduled.clone();
    unscheduled.or_else(|| pod.containers.iter().find_map(creating))
}

/// Whether the rollout, which failed and now looks `well`, recovered for good: pods that were listed not before `listed`
/// show it. None if that is not known.
pub fn recovered(rollout: &Rollout<'_>, well: &Health, listed: Timestamp) -> Option<bool> {
    rollout.new?;
    let proven = || !ours(rollout, rollout.end()).any(|pod| crashed_lately(pod, listed));
    Some(*well == Health::Complete && proven())
}

impl Rollout<'_> {
    /// When its time is over.
    fn end(&self) -> Timestamp {
        let timeout = SignedDuration::try_from(self.timeout).unwrap_or(SignedDuration::MAX);
        later(self.progress, timeout)
    }
}

/// The new pods that show how the rollout goes, which ends at `end`. A pod that was made after the end belongs to another
/// rollout. What happened to a pod after the end was caused by another change, unless the rollout failed before.
fn ours<'a>(rollout: &Rollout<'a>, end: Timestamp) -> impl Iterator<Item = &'a Pod> {
    let failed = rollout.failed;
    rollout.new.into_iter().flatten().copied().filter(move |pod| {
        let since = pod.readiness_since.unwrap_or(pod.created);
        pod.lives() && pod.created <= end && (failed || since <= end)
    })
}

/// Why the pod does not start, if it does not.
pub fn broken(pod: &Pod, now: Timestamp) -> Option<Box<str>> {
    let stuck = later(pod.created, START_STUCK) <= now;
    pod.containers.iter().find_map(|container| {
        let crashes = container.restarts >= CRASHES && !container.ready;
        match container.waiting.as_deref() {
            Some(
                reason @ ("ImagePullBackOff"
                | "ErrImagePull"
                | "ErrImageNeverPull"
                | "ImageInspectError"
                | "RegistryUnavailable"
                | "SignatureValidationFailed"
                | "CreateContainerConfigError"
                | "CreateContainerError"
                | "RunContainerError"
                | "InvalidImageName"),
            ) => (stuck || crashes).then(|| reason.into()),
            // Its present state does not matter: it runs a little, ends, waits.
            _ => crashes.then(|| CRASH_LOOP.into()),
        }
    })
}

/// Whether a container of the pod crashed again and again, and did not run for long since, as seen not before `listed`.
pub fn crashed_lately(pod: &Pod, listed: Timestamp) -> bool {
    let runs = |container: &Container| {
        let proven = |since| later(since, RECOVERY_PROOF) <= listed;
        container.ready && container.started.is_some_and(proven)
    };
    let crashed = |container: &&Container| container.restarts >= CRASHES;
    !pod.containers.iter().filter(crashed).all(runs)
}

const CRASH_LOOP: &str = "CrashLoopBackOff";

/// The record of a rollout on a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// Nothing.
    Nothing,
    /// It failed.
    Failed(Failure),
    /// It failed, and works again.
    Recovered,
}

/// The record of the rollout for the content `token` of the Secret of this hash. A record that cannot be read counts as a
/// failure.
pub fn recorded_outcome(workload: &Workload, hash: &str, token: &str) -> RecordedOutcome {
    match workload.stamps.failures.get(hash) {
        None => RecordedOutcome::Nothing,
        Some(None) => RecordedOutcome::Failed(Failure::Unreadable),
        Some(Some(said)) if *said.token != *token => RecordedOutcome::Nothing,
        Some(Some(said)) if *said.reason == *RECOVERED => RecordedOutcome::Recovered,
        Some(Some(said)) => RecordedOutcome::Failed(Failure::of(&said.reason)),
    }
}

/// A Rollout's `spec.restartAt` for a change: the same in every retry.
pub fn restart_at(changed_at: Timestamp) -> Timestamp {
    // The API server keeps whole seconds.
    let whole = Timestamp::from_second(changed_at.as_second()).unwrap_or(changed_at);
    later(whole, RESTART_AT)
}
