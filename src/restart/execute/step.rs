//! What is done for a workload that may go, once it and its pods were read again. Pure.

use serde_json::Value;

use super::patch::{self, Asked};
use crate::{
    api::RestartStrategy,
    restart::{
        judge::{
            assess::{Observed, Standing, Target},
            rollout,
            staleness::{self, CREATED_MARGIN, later},
        },
        observed::model::Pod,
        schedule::decide::{Carried, Go},
    },
};

/// The one request that restarts a workload, or a part of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A JSON merge patch of the workload.
    Patch {
        /// Its body.
        body: Value,
        /// What it is for: what was decided on and still holds.
        go: Go,
    },
    /// An eviction.
    Evict {
        /// The pod's name.
        pod: Box<str>,
        /// Its uid.
        uid: Box<str>,
        /// What it is for.
        go: Go,
    },
    /// Nothing: what was decided on does not hold any more.
    Nothing,
}

/// What is done for `go`, given `fresh`, the workload as it is now with pods that were listed just now.
pub fn step(go: &Go, resource_version: &str, observed: &Observed<'_>, fresh: &Target) -> Step {
    let holds = |carried: &&Carried| {
        fresh.claims.iter().any(|claim| {
            let content = &claim.object.content;
            *claim.object.key() == carried.object
                && content.token == carried.asked.record.token
                && claim.block.is_none()
                && claim.terms.strategy == go.strategy
                && claim.attempt == carried.asked.record.attempt
                && matches!(claim.standing, Standing::Stale(_))
        })
    };
    if fresh.uid != go.uid {
        return Step::Nothing;
    }
    let carried: Vec<Carried> = go.carried.iter().filter(holds).cloned().collect();
    if carried.is_empty() {
        return Step::Nothing;
    }
    let mut go = Go {
        carried,
        ..go.clone()
    };
    for carried in &mut go.carried {
        carried.asked.record.was_healthy = fresh.healthy;
    }
    let asked: Vec<Asked> = go.carried.iter().map(|carried| carried.asked.clone()).collect();
    match patch::patch(go.strategy, observed.workload, resource_version, &asked) {
        Some(body) => Step::Patch { body, go },
        None if go.strategy == RestartStrategy::Evict => evict(go, observed, fresh),
        None => Step::Nothing,
    }
}

/// The pod to evict: one that does not work anyway, or any while all others work.
fn evict(go: Go, observed: &Observed<'_>, fresh: &Target) -> Step {
    let Observed { key, workload, .. } = *observed;
    let listed = observed.pods.map_or(&[][..], |listed| listed.pods);
    let pods = staleness::pods_of(key, workload, listed.iter().copied());
    let mut stale: Vec<&Pod> = fresh
        .claims
        .iter()
        .filter(|claim| {
            go.carried
                .iter()
                .any(|carried| carried.object == *claim.object.key())
        })
        .flat_map(|claim| {
            let margin = later(claim.changed_at, CREATED_MARGIN);
            let stale = staleness::stale(&claim.terms, workload, &claim.object.content, &pods);
            stale.into_iter().filter(move |pod| pod.created <= margin)
        })
        .collect();
    stale.sort_by(|a, b| (a.ready, a.created, &a.name).cmp(&(b.ready, b.created, &b.name)));
    let Some(first) = stale.first() else {
        return Step::Nothing;
    };
    let ending = pods.iter().any(|pod| pod.ending);
    // Its status may be old: nobody may have seen yet that the last pod is gone.
    let working = pods
        .iter()
        .filter(|pod| staleness::lives(pod) && pod.ready)
        .count();
    let all_work = usize::try_from(workload.progress.desired).is_ok_and(|desired| working >= desired)
        && rollout::steady(key.kind, workload);
    if ending || (first.ready && !all_work) {
        return Step::Nothing;
    }
    Step::Evict {
        pod: first.name.clone(),
        uid: first.uid.clone(),
        go,
    }
}
