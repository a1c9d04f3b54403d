//! How many roll out at once: of an ExternalSecret, in a namespace, in the cluster.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{
    candidate::Candidate,
    per_object::{ObjectPace, ObjectPaces},
};
use crate::{
    api::{ObjectKey, WorkloadState},
    restart::{
        judge::{
            memory::Memory,
            model::{Claim, HeldSlot, Judgement},
            state::Hold,
        },
        observed::model::Limits,
    },
};

/// How much a namespace is due: whether the workload needs no slot of its own, what was given and is held, the last turn.
type Rank<'a> = (bool, u64, usize, u64, &'a str);

/// Whether the workload needs no slot of its namespace or the cluster besides those that it holds.
const fn holds_all(candidate: &Candidate<'_>) -> bool {
    matches!(candidate.judgement.slot, HeldSlot::Cluster)
}

/// Slots that are held, and how many there are.
pub(super) struct Slots<'a> {
    now: Timestamp,
    limits: &'a Limits,
    objects: &'a ObjectPaces<'a>,
    of_object: BTreeMap<&'a ObjectKey, usize>,
    /// Objects that took one in this pass.
    started: BTreeSet<&'a ObjectKey>,
    in_namespace: BTreeMap<&'a str, usize>,
    /// How many of the namespace's workloads were given a slot in this pass.
    given: BTreeMap<&'a str, u64>,
    in_cluster: ClusterSlots<'a>,
}

/// The slots of the cluster that are held. A part of them is reserved for workloads whose credential a rotation is about to end,
/// one for each namespace: rollouts that hang, of whoever else, do not hold these up.
#[derive(Default)]
struct ClusterSlots<'a> {
    /// Of those that count against what is not reserved.
    ordinary: usize,
    /// Namespaces that hold one for a rotation.
    rotating: BTreeSet<&'a str>,
}

impl<'a> ClusterSlots<'a> {
    /// How many of `limit` are reserved.
    const fn reserve(limit: usize) -> usize {
        limit / 4
    }

    /// Whether a workload of the namespace finds one; `rotates`: for a rotation.
    fn is_free(&self, limit: usize, namespace: &str, rotates: bool) -> bool {
        let reserve = Self::reserve(limit);
        let held = self.rotating.len();
        let reserved = rotates && held < reserve && !self.rotating.contains(namespace);
        reserved || self.ordinary + held.saturating_sub(reserve) < limit - reserve
    }

    fn take(&mut self, namespace: &'a str, rotates: bool) {
        if !rotates || !self.rotating.insert(namespace) {
            self.ordinary += 1;
        }
    }
}

impl<'a> Slots<'a> {
    pub(super) fn new(
        now: Timestamp,
        limits: &'a Limits,
        judgements: &[&'a Judgement],
        objects: &'a ObjectPaces<'a>,
    ) -> Self {
        let mut slots = Self {
            now,
            limits,
            objects,
            of_object: BTreeMap::new(),
            started: BTreeSet::new(),
            in_namespace: BTreeMap::new(),
            given: BTreeMap::new(),
            in_cluster: ClusterSlots::default(),
        };
        // By namespace, and whether one of them is for a rotation.
        let mut in_cluster: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
        for judgement in judgements {
            let namespace = &*judgement.key.key.namespace;
            if judgement.slot >= HeldSlot::Namespace {
                *slots.in_namespace.entry(namespace).or_default() += 1;
            }
            if judgement.slot >= HeldSlot::Cluster {
                let (held, rotates) = in_cluster.entry(namespace).or_default();
                let mut rolling = judgement.claims.iter().filter(|claim| claim.rolling);
                *held += 1;
                *rotates |= rolling.any(|claim| objects.rotation_seen(claim.object.key()));
            }
            for claim in judgement.claims.iter().filter(|claim| claim.rolling) {
                *slots.of_object.entry(claim.object.key()).or_default() += 1;
            }
        }
        // Workloads record their own rollouts, and people can forge that: a namespace takes no more of the cluster's
        // slots than its own.
        for (namespace, (held, rotates)) in in_cluster {
            for first in 0..held.min(limits.namespace) {
                slots.in_cluster.take(namespace, rotates && first == 0);
            }
        }
        slots
    }

    /// The next candidate that there is a slot for: of the namespace that has the fewest and waits the longest.
    pub(super) fn next(&self, candidates: &[Candidate<'a>], memory: &Memory) -> Option<usize> {
        let mut best: Option<(Rank<'_>, usize)> = None;
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let namespace = &*candidate.judgement.key.key.namespace;
            // In order within a namespace: only its first one that fits counts.
            if (seen.contains(namespace) && !holds_all(candidate)) || !self.fits(candidate) {
                continue;
            }
            seen.insert(namespace);
            let held = self.in_namespace.get(namespace).copied().unwrap_or_default();
            let given = self.given.get(namespace).copied().unwrap_or_default();
            let rank = (
                !holds_all(candidate),
                given,
                held,
                memory.served(namespace),
                namespace,
            );
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// Gives the workload a slot, which counts for all contents that it is restarted for.
    pub(super) fn take(&mut self, candidate: &Candidate<'a>) {
        let judgement = candidate.judgement;
        for claim in &candidate.claims {
            self.started.insert(claim.object.key());
            if !claim.rolling {
                *self.of_object.entry(claim.object.key()).or_default() += 1;
            }
        }
        let namespace = &*judgement.key.key.namespace;
        *self.given.entry(namespace).or_default() += 1;
        if judgement.slot < HeldSlot::Namespace {
            *self.in_namespace.entry(namespace).or_default() += 1;
        }
        if judgement.slot < HeldSlot::Cluster {
            self.in_cluster.take(namespace, candidate.rotation_seen);
        }
    }

    /// What each claim of a candidate that was not restarted waits for.
    pub(super) fn waits<'c>(&self, candidate: &'c Candidate<'a>) -> Vec<(&'c Claim, Hold)> {
        let wait =
            |sentence: Cow<'static, str>, until| Hold::new(WorkloadState::WaitingForTurn, sentence, until);
        let turn = || {
            wait(
                "other workloads roll out; it follows when one of them is done".into(),
                None,
            )
        };
        let mut own: Vec<(&Claim, Hold)> = Vec::new();
        if !self.lets(candidate) {
            let pressing = || self.pressing(candidate);
            let full = pressing().filter(|claim| !self.has_slot(claim));
            own.extend(full.map(|claim| (claim, turn())));
            if candidate.urgent || own.is_empty() {
                let paused = pressing().filter_map(|claim| {
                    let until = self.objects.get(claim.object.key())?.not_before?;
                    let sentence = "restart.pacing.minInterval has not passed since the last restart";
                    (self.has_slot(claim) && until > self.now)
                        .then(|| (claim, wait(sentence.into(), Some(until))))
                });
                own.extend(paused);
            }
        }
        let of = |claim: &Claim| {
            let is_its = |(other, _): &&(&Claim, Hold)| other.object.key() == claim.object.key();
            match (own.iter().find(is_its), own.first()) {
                (Some((_, hold)), _) => hold.clone(),
                (None, Some((other, Hold { until, .. }))) => {
                    let secret = &other.object.content.secret;
                    let sentence = format!(
                        "Secret {secret} changed too and waits for its turn: one restart brings both"
                    );
                    wait(sentence.into(), *until)
                }
                (None, None) => turn(),
            }
        };
        candidate.claims.iter().map(|claim| (*claim, of(claim))).collect()
    }

    fn fits(&self, candidate: &Candidate<'_>) -> bool {
        let judgement = candidate.judgement;
        let namespace = &*judgement.key.key.namespace;
        let held = self.in_namespace.get(namespace).copied().unwrap_or_default();
        let is_free = || {
            let limit = self.limits.cluster;
            self.in_cluster.is_free(limit, namespace, candidate.rotation_seen)
        };
        let in_cluster = judgement.slot >= HeldSlot::Cluster || is_free();
        let in_namespace = judgement.slot >= HeldSlot::Namespace || held < self.limits.namespace;
        in_cluster && in_namespace && self.lets(candidate)
    }

    /// Whether the ExternalSecrets of the candidate let it restart. One restart applies the contents of all of them, so
    /// it waits for a slot of each. It does not wait for the `minInterval` of all, which may be a day away, nor with a
    /// credential that expires meanwhile.
    fn lets(&self, candidate: &Candidate<'_>) -> bool {
        let mut pressing = self.pressing(candidate);
        if candidate.urgent {
            pressing.any(|claim| self.has_slot(claim) && self.is_time(claim))
        } else {
            candidate.claims.iter().all(|claim| self.has_slot(claim))
                && pressing.any(|claim| self.is_time(claim))
        }
    }

    /// The urgent claims of an urgent candidate; all of another.
    fn pressing<'c>(&self, candidate: &'c Candidate<'_>) -> impl Iterator<Item = &'c Claim> {
        let presses = |claim: &&Claim| !candidate.urgent || self.objects.urgent(claim.object.key());
        candidate.claims.iter().copied().filter(presses)
    }

    fn has_slot(&self, claim: &Claim) -> bool {
        let object = claim.object.key();
        let held = self.of_object.get(object).copied().unwrap_or_default();
        claim.rolling || self.objects.get(object).is_some_and(|pace| held < pace.limit)
    }

    fn is_time(&self, claim: &Claim) -> bool {
        let object = claim.object.key();
        // With a least time between two, one in a pass.
        let in_time = |pace: &ObjectPace| {
            pace.not_before.is_none_or(|time| time <= self.now)
                && !(pace.spaced && self.started.contains(object))
        };
        claim.rolling || self.objects.get(object).is_some_and(in_time)
    }
}
