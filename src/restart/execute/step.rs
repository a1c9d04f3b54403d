//! The one request for a workload that is to restart, once it and its pods were read again. Pure.

use super::patch;
use crate::{
    api::RestartStrategy,
    cluster::JsonPatch,
    restart::{
        judge::{
            model::{Cause, Judgement, ObservedWorkload, PodList, Restart, Stamp, Standing},
            rollout, staleness,
        },
        observed::{
            model::{PatchBase, Pod},
            pods,
        },
        timing::{CREATED_MARGIN, later},
    },
};

/// The one request that restarts a workload, or a part of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A patch of the workload.
    Patch {
        /// Its body.
        body: JsonPatch,
        /// What it is for: what was decided on and still holds.
        restart: Restart,
    },
    /// An eviction.
    Evict {
        /// The pod's name.
        pod: Box<str>,
        /// Its uid.
        uid: Box<str>,
        /// What it is for.
        restart: Restart,
    },
    /// Nothing: what was decided on does not hold any more.
    Nothing,
}

/// The request for `restart`, given `fresh`: the judgement of the workload as it is now, with pods that were just listed.
pub fn step(restart: &Restart, base: &PatchBase, observed: &ObservedWorkload<'_>, fresh: &Judgement) -> Step {
    let holds = |cause: &&Cause| {
        fresh.claims.iter().any(|claim| {
            let content = &claim.object.content;
            *claim.object.key() == cause.object
                && content.token == cause.stamp.record.token
                && claim.hold.is_none()
                && claim.terms.strategy == restart.strategy
                && claim.attempt == cause.stamp.record.attempt
                && matches!(claim.standing, Standing::Stale(_))
        })
    };
    if fresh.uid != restart.uid {
        return Step::Nothing;
    }
    let causes: Vec<Cause> = restart.causes.iter().filter(holds).cloned().collect();
    if causes.is_empty() {
        return Step::Nothing;
    }
    let mut restart = Restart {
        causes,
        ..restart.clone()
    };
    for cause in &mut restart.causes {
        cause.stamp.record.was_healthy = fresh.healthy;
    }
    let stamps: Vec<Stamp> = restart.causes.iter().map(|cause| cause.stamp.clone()).collect();
    match patch::patch(restart.strategy, observed.workload, base, &stamps) {
        Some(body) => Step::Patch { body, restart },
        None if restart.strategy == RestartStrategy::Evict => evict(restart, observed, fresh),
        None => Step::Nothing,
    }
}

/// The pod to evict: one that does not work anyway, or any pod while all others work.
fn evict(restart: Restart, observed: &ObservedWorkload<'_>, fresh: &Judgement) -> Step {
    let ObservedWorkload { key, workload, .. } = *observed;
    let listed = observed.pods.map_or(&[][..], |listed| listed.pods);
    let mut pods = pods::pods_of(key, workload, listed.iter().copied());
    // Nobody evicts what stands on a node that does not answer.
    if let Some(PodList { at, .. }) = observed.pods {
        pods.retain(|pod| !pod.is_lost(at));
    }
    let mut stale: Vec<&Pod> = fresh
        .claims
        .iter()
        .filter(|claim| {
            restart
                .causes
                .iter()
                .any(|cause| cause.object == *claim.object.key())
        })
        .flat_map(|claim| {
            let margin = later(claim.changed_at, CREATED_MARGIN);
            let stale = staleness::stale(claim.terms, workload, &claim.object.content, &pods);
            stale.into_iter().filter(move |pod| pod.created <= margin)
        })
        .collect();
    stale.sort_by(|a, b| (a.ready, a.created, &a.name).cmp(&(b.ready, b.created, &b.name)));
    let Some(first) = stale.first() else {
        return Step::Nothing;
    };
    let ending = pods.iter().any(|pod| pod.ending);
    // Its status may be old: its controller may not have seen yet that the last pod is gone.
    let working = pods.iter().filter(|pod| pod.lives() && pod.ready).count();
    let all_work = usize::try_from(workload.controller.progress.desired)
        .is_ok_and(|desired| working >= desired)
        && rollout::steady(key.kind, workload);
    if ending || (first.ready && !all_work) {
        return Step::Nothing;
    }
    Step::Evict {
        pod: first.name.clone(),
        uid: first.uid.clone(),
        restart,
    }
}
