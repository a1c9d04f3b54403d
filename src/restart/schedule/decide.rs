//! Which workloads restart now, which wait, and for what. Pure and level-triggered: the same facts give the same
//! decisions.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;

use super::{
    candidate::Candidate,
    debounce::{settled_at, settling},
    per_object::{ObjectPaces, ObjectState},
    slots::Slots,
};
use crate::{
    api::{ObjectKey, WorkloadState},
    restart::{
        judge::{
            memory::Memory,
            model::{Claim, Judgement, Restart, Standing},
            rollout::Failure,
            state::Hold,
        },
        observed::model::{Limits, WorkloadKey},
        timing::{SETTLE, later},
    },
};

/// What follows from the facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// The workloads to restart now, in order.
    pub restarts: Vec<Restart>,
    /// Where every workload stands with every content, by ExternalSecret and workload.
    pub states: Vec<WorkloadStatus>,
    /// What holds for all workloads of an ExternalSecret.
    pub objects: BTreeMap<ObjectKey, ObjectState>,
    /// When time alone may change a decision.
    pub wake: Option<Timestamp>,
}

/// Where a workload stands with a content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadStatus {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The workload.
    pub key: WorkloadKey,
    /// The content's token.
    pub token: Box<str>,
    /// When it changed.
    pub changed_at: Timestamp,
    /// In a word.
    pub state: WorkloadState,
    /// In a sentence.
    pub sentence: Cow<'static, str>,
    /// Whether something keeps its rollout from going on.
    pub is_obstructed: bool,
    /// When that may change by itself.
    pub until: Option<Timestamp>,
}

/// Decides. `targets` are all workloads of the cluster that have to do with restarts, each once.
pub fn decide(now: Timestamp, limits: &Limits, judgements: &[&Judgement], memory: &mut Memory) -> Decisions {
    let objects = ObjectPaces::new(now, judgements, memory);
    let mut slots = Slots::new(now, limits, judgements, &objects);
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    let mut waits: BTreeMap<(&ObjectKey, &WorkloadKey), Hold> = BTreeMap::new();
    for &judgement in judgements {
        let mut ready = Vec::new();
        for claim in stale(judgement) {
            match judgement.refused.clone().or_else(|| objects.wait(now, claim)) {
                Some(hold) => {
                    waits.insert((claim.object.key(), &judgement.key), hold);
                }
                None => ready.push(claim),
            }
        }
        if ready.is_empty() {
            continue;
        }
        let urgent = ready.iter().any(|claim| objects.urgent(claim.object.key()));
        let at = settled_at(judgement, &ready, urgent, &objects);
        let is_settled = |claim: &&Claim| later(claim.there_at, SETTLE) <= now;
        if now >= at && ready.iter().any(is_settled) {
            ready.retain(|claim| {
                let settled = is_settled(claim);
                if !settled {
                    let at = later(claim.there_at, SETTLE);
                    waits.insert((claim.object.key(), &judgement.key), settling(at));
                }
                settled
            });
        }
        if now < at {
            for claim in ready {
                waits.insert((claim.object.key(), &judgement.key), settling(at));
            }
            continue;
        }
        let candidate = Candidate::new(judgement, ready, &objects);
        for claim in &candidate.left {
            waits.insert((claim.object.key(), &judgement.key), other_strategy());
        }
        candidates.push(candidate);
    }
    candidates.sort_by(|a, b| a.order.cmp(&b.order));
    let mut restarts = Vec::new();
    while let Some(next) = slots.next(&candidates, memory) {
        let candidate = candidates.remove(next);
        slots.take(&candidate);
        restarts.extend(candidate.restart());
    }
    for candidate in &candidates {
        for (claim, hold) in slots.waits(candidate) {
            waits.insert((claim.object.key(), &candidate.judgement.key), hold);
        }
    }
    let states = states(now, judgements, &waits);
    let times = states.iter().filter_map(|status| status.until);
    let wake = times
        .chain(judgements.iter().filter_map(|judgement| judgement.pods_wanted))
        .chain(objects.wakes())
        .filter(|time| *time > now)
        .min();
    Decisions {
        restarts,
        objects: objects.states(),
        states,
        wake,
    }
}

fn stale(judgement: &Judgement) -> impl Iterator<Item = &Claim> {
    let stale = |claim: &&Claim| matches!(claim.standing, Standing::Stale(_));
    judgement.claims.iter().filter(stale)
}

fn other_strategy() -> Hold {
    Hold::new(
        WorkloadState::WaitingForTurn,
        "it follows another Secret first, by another strategy",
        None,
    )
}

fn states(
    now: Timestamp,
    judgements: &[&Judgement],
    waits: &BTreeMap<(&ObjectKey, &WorkloadKey), Hold>,
) -> Vec<WorkloadStatus> {
    let mut states = Vec::new();
    for judgement in judgements {
        for claim in &judgement.claims {
            let object = claim.object.key();
            let (state, sentence, until) = match waits.get(&(object, &judgement.key)) {
                Some(Hold {
                    state,
                    sentence,
                    until,
                }) => (*state, sentence.clone(), *until),
                None => plain(judgement, claim),
            };
            states.push(WorkloadStatus {
                object: object.clone(),
                key: judgement.key.clone(),
                token: claim.object.content.token.clone(),
                changed_at: claim.changed_at,
                state,
                sentence,
                is_obstructed: matches!(state, WorkloadState::RollingOut | WorkloadState::Done)
                    && judgement.obstacle.is_some(),
                until: until.filter(|until| *until > now && *until < Timestamp::MAX),
            });
        }
    }
    states.sort_by(|a, b| (&a.object, &a.key).cmp(&(&b.object, &b.key)));
    states
}

/// Where a workload stands that does not wait.
fn plain(judgement: &Judgement, claim: &Claim) -> (WorkloadState, Cow<'static, str>, Option<Timestamp>) {
    match &claim.standing {
        Standing::Done => {
            let but_for = judgement.obstacle.clone();
            let sentence = but_for.map_or_else(|| "its pods hold the content".into(), Cow::Owned);
            (WorkloadState::Done, sentence, None)
        }
        // It is restarted by this very decision.
        Standing::Stale(_) | Standing::Rolling => {
            let obstacle = judgement.obstacle.clone();
            let sentence = obstacle.map_or_else(|| "it rolls out".into(), Cow::Owned);
            (WorkloadState::RollingOut, sentence, None)
        }
        // A recorded failure halts the others meanwhile.
        Standing::Unknown
        | Standing::Failed {
            failure: Failure::Recorded,
            ..
        } => (
            WorkloadState::Looking,
            "its pods are being looked at".into(),
            judgement.pods_wanted,
        ),
        Standing::Failed { failure, was_healthy } => {
            let state = if *was_healthy {
                WorkloadState::Failed
            } else {
                WorkloadState::StillUnhealthy
            };
            (state, failure.sentence(*was_healthy).into(), None)
        }
    }
}
