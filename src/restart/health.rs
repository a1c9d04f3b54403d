//! How the rollout that we asked for goes. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    model::{Container, Pod, Update, Workload},
    need::{later, lives},
};
use crate::api::WorkloadKind;

/// Containers that were restarted this often crash.
const CRASHES: i32 = 3;
/// What needs no restarts to be seen counts after this time: an image may be slow to come, a Secret late.
const STUCK: SignedDuration = SignedDuration::from_secs(60);

/// How a rollout goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All pods are of the present template and work.
    Complete,
    /// It is under way.
    Rolling,
    /// It does not get there.
    Failed(Failure),
    /// The controller has replaced what it may; the others wait for somebody.
    AwaitingPodDeletion,
    /// Its time is over, and only its pods tell how it ended.
    Unknown,
}

/// Why a rollout does not get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its controller gave up.
    DeadlineExceeded,
    /// It takes too long.
    TimedOut,
    /// A new pod does not start: the reason that its container gives.
    Pod(Box<str>),
}

/// What is known of a rollout.
#[derive(Clone, Copy, Debug)]
pub struct Rollout<'a> {
    /// Which kind of workload.
    pub kind: WorkloadKind,
    /// The workload.
    pub workload: &'a Workload,
    /// When we asked for it.
    pub since: Timestamp,
    /// How long it may take.
    pub timeout: Duration,
    /// Its pods that were made for it; none if they were not listed.
    pub new: Option<&'a [&'a Pod]>,
    /// Whether pods hold old content; none if that is not known.
    pub stale: Option<bool>,
    /// Whether it was seen to fail.
    pub failed: bool,
}

/// Whether the workload's controller says that every pod is of the present template, and works.
pub fn rolled_out(kind: WorkloadKind, workload: &Workload) -> bool {
    let progress = &workload.progress;
    if workload.observed_generation < workload.generation {
        return false;
    }
    let desired = progress.desired;
    match kind {
        WorkloadKind::Deployment => {
            progress.updated == desired && progress.total == desired && progress.available == desired
        }
        WorkloadKind::StatefulSet => {
            let partition = match workload.update {
                Update::Rolling { partition } => partition.max(0),
                Update::OnDelete => 0,
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
                    .restart_at
                    .is_none_or(|asked| progress.restarted_at.is_some_and(|done| done >= asked))
        }
    }
}

/// Whether as many pods work as there should be, of whatever template.
pub fn steady(kind: WorkloadKind, workload: &Workload) -> bool {
    let progress = &workload.progress;
    let working = match kind {
        WorkloadKind::StatefulSet => progress.ready,
        _ => progress.available,
    };
    working >= progress.desired && !progress.deadline_exceeded
}

/// How the rollout goes.
pub fn health(rollout: &Rollout<'_>, now: Timestamp) -> Health {
    let Rollout {
        kind,
        workload,
        since,
        timeout,
        new,
        stale,
        failed,
    } = *rollout;
    if rolled_out(kind, workload) {
        return Health::Complete;
    }
    let observed = workload.observed_generation >= workload.generation;
    if workload.update == Update::OnDelete && observed {
        return Health::AwaitingPodDeletion;
    }
    let end = later(
        since,
        SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX),
    );
    // A pod that was made after the end is of another's rollout, and what befell one after it is another's doing, unless
    // the rollout failed before.
    let ours = || {
        new.into_iter().flatten().filter(|pod| {
            let since = pod.readiness_since.unwrap_or(pod.created);
            lives(pod) && pod.created <= end && (failed || since <= end)
        })
    };
    if let Some(reason) = ours().find_map(|pod| broken(pod, now)) {
        return Health::Failed(Failure::Pod(reason));
    }
    let over = now >= end;
    if observed && workload.progress.deadline_exceeded && (!over || stale == Some(true)) {
        return Health::Failed(Failure::DeadlineExceeded);
    }
    if !over {
        return Health::Rolling;
    }
    match (new, stale) {
        (None, _) | (_, None) => Health::Unknown,
        (Some(_), Some(stale)) if stale || ours().any(|pod| !pod.ready) => Health::Failed(Failure::TimedOut),
        // Ours ended; what is not as it should be now is another's.
        _ => Health::Complete,
    }
}

/// Why the pod does not start, if it does not.
pub fn broken(pod: &Pod, now: Timestamp) -> Option<Box<str>> {
    let stuck = later(pod.created, STUCK) <= now;
    let broken = |container: &&Container| match container.waiting.as_deref() {
        Some("CrashLoopBackOff") => container.restarts >= CRASHES,
        Some("ImagePullBackOff" | "ErrImagePull" | "CreateContainerConfigError" | "InvalidImageName") => {
            stuck || container.restarts >= CRASHES
        }
        _ => false,
    };
    pod.containers.iter().find(broken)?.waiting.clone()
}
