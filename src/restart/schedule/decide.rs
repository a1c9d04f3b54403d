//! Who goes now, who waits and for what. Pure and level-triggered: the same facts give the same decisions.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};

use super::{
    per_object::{ObjectPace, ObjectPaces},
    slots::Slots,
};
use crate::{
    api::{ObjectKey, RestartStrategy},
    restart::{
        execute::patch::Stamp,
        judge::{
            assess::{Claim, Judgement, Standing},
            hold::{Hold, WorkloadState},
            memory::Memory,
            rollout::Failure,
            staleness::{CREATED_MARGIN, later},
        },
        observed::model::{Record, WorkloadKey},
    },
};

/// A change settles: kubelets and the systems that know the credential follow with a delay. Five seconds, and one more since
/// times of changes are cut to whole seconds.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(6);
/// Other changes are waited for, so that they make one restart.
pub const COALESCE: SignedDuration = SignedDuration::from_secs(10);
/// What never rests is followed after this time all the same.
pub const COALESCE_AT_MOST: SignedDuration = SignedDuration::from_secs(60);

/// A pod that takes an evicted one's place carries no token: only one made so late is known to hold the new content. Times
/// have whole seconds.
pub const EVICT: SignedDuration = CREATED_MARGIN.saturating_add(SignedDuration::from_secs(2));

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

/// A workload to restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its name.
    pub key: WorkloadKey,
    /// Its uid.
    pub uid: Box<str>,
    /// How.
    pub strategy: RestartStrategy,
    /// For which contents: never empty.
    pub causes: Vec<Cause>,
    /// Whether the old credential is dead or about to die.
    pub urgent: bool,
}

/// One content that a restart is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The Secret's name.
    pub secret: Box<str>,
    /// What is written.
    pub stamp: Stamp,
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
    /// When that may change by itself.
    pub until: Option<Timestamp>,
}

/// What holds for all workloads of an ExternalSecret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectState {
    /// Whether the old credential is dead or about to die.
    pub urgent: bool,
    /// Whether nothing more is restarted, after failures.
    pub halted: bool,
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
        let is_settled = |claim: &&Claim| later(claim.changed_at, SETTLE) <= now;
        if now >= at && ready.iter().any(is_settled) {
            ready.retain(|claim| {
                let settled = is_settled(claim);
                if !settled {
                    let at = later(claim.changed_at, SETTLE);
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

/// A workload that may go, if there is a slot.
pub(super) struct Candidate<'a> {
    pub(super) judgement: &'a Judgement,
    /// What it goes for.
    pub(super) claims: Vec<&'a Claim>,
    /// What another strategy than theirs is for.
    left: Vec<&'a Claim>,
    pub(super) urgent: bool,
    order: Priority<'a>,
}

/// Urgent ones first, then by deadline, wave, age and name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority<'a> {
    later: bool,
    deadline: Timestamp,
    wave: i32,
    changed_at: Timestamp,
    key: &'a WorkloadKey,
}

impl<'a> Candidate<'a> {
    fn new(judgement: &'a Judgement, mut ready: Vec<&'a Claim>, objects: &ObjectPaces<'_>) -> Self {
        // One patch is of one strategy: the one of the first content that is pressing.
        ready.sort_by_key(|claim| (!objects.urgent(claim.object.key()), claim.object.key().clone()));
        let strategy = ready.first().map(|claim| claim.terms.strategy);
        let is_of = |claim: &&Claim| Some(claim.terms.strategy) == strategy;
        let (claims, left): (Vec<_>, Vec<_>) = ready.into_iter().partition(is_of);
        let urgent = claims.iter().any(|claim| objects.urgent(claim.object.key()));
        let first = |of: fn(&Claim) -> Timestamp| {
            claims
                .iter()
                .map(|claim| of(claim))
                .min()
                .unwrap_or(Timestamp::MAX)
        };
        let order = Priority {
            later: !urgent,
            deadline: first(|claim| claim.object.restarts.deadline.unwrap_or(Timestamp::MAX)),
            wave: claims
                .iter()
                .map(|claim| claim.terms.wave)
                .min()
                .unwrap_or_default(),
            changed_at: first(|claim| claim.changed_at),
            key: &judgement.key,
        };
        Self {
            judgement,
            claims,
            left,
            urgent,
            order,
        }
    }

    fn restart(&self) -> Option<Restart> {
        let judgement = self.judgement;
        let causes = self
            .claims
            .iter()
            .map(|claim| {
                let content = &claim.object.content;
                Cause {
                    object: content.object.clone(),
                    secret: content.secret.clone(),
                    stamp: Stamp {
                        hash: content.hash.clone(),
                        record: Record {
                            token: content.token.clone(),
                            attempt: claim.attempt,
                            was_healthy: judgement.healthy,
                        },
                        changed_at: claim.changed_at,
                    },
                }
            })
            .collect();
        Some(Restart {
            key: judgement.key.clone(),
            uid: judgement.uid.clone(),
            strategy: self.claims.first()?.terms.strategy,
            causes,
            urgent: self.urgent,
        })
    }
}

fn stale(judgement: &Judgement) -> impl Iterator<Item = &Claim> {
    let stale = |claim: &&Claim| matches!(claim.standing, Standing::Stale(_));
    judgement.claims.iter().filter(stale)
}

/// When the workload may go for what is `ready`.
fn settled_at(judgement: &Judgement, ready: &[&Claim], urgent: bool, objects: &ObjectPaces<'_>) -> Timestamp {
    let pressing = |claim: &&&Claim| !urgent || objects.urgent(claim.object.key());
    let times = || ready.iter().filter(pressing).map(|claim| claim.changed_at);
    let (Some(oldest), Some(latest)) = (times().min(), times().max()) else {
        return Timestamp::MAX;
    };
    let first = judgement.changing_since.map_or(oldest, |since| since.min(oldest));
    let rest = if urgent { SETTLE } else { COALESCE };
    let at = later(latest, rest).min(later(first, COALESCE_AT_MOST));
    let evicts = ready
        .iter()
        .any(|claim| claim.terms.strategy == RestartStrategy::Evict);
    if evicts { at.max(later(latest, EVICT)) } else { at }
}

fn settling(at: Timestamp) -> Hold {
    Hold::new(
        WorkloadState::Settling,
        "the Secret changed a moment ago; other changes are waited for",
        Some(at),
    )
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
        Standing::Done => (WorkloadState::Done, "its pods hold the content".into(), None),
        // It goes in this very pass.
        Standing::Stale(_) | Standing::Rolling => (WorkloadState::RollingOut, "it rolls out".into(), None),
        // What failed holds others up meanwhile.
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

/// Whether a failure speaks against going on.
pub(super) fn is_failure(claim: &Claim) -> bool {
    matches!(
        claim.standing,
        Standing::Failed {
            was_healthy: true,
            ..
        }
    )
}

/// Whether later waves need not wait for the claim.
pub(super) fn is_passed(claim: &Claim, pace: &ObjectPace) -> bool {
    match (&claim.standing, &claim.hold) {
        (Standing::Done, _) => true,
        // Where failures hold up, they do so as such.
        (Standing::Failed { was_healthy, .. }, _) => !was_healthy || pace.goes_on,
        (Standing::Stale(_), Some(hold)) => hold.state.stays(),
        (Standing::Stale(_), None) | (Standing::Unknown | Standing::Rolling, _) => false,
    }
}
