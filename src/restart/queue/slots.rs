//! How many roll out at once: of an ExternalSecret, in a namespace, in the cluster.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Candidate, Limits, object::Objects};
use crate::{
    api::ObjectKey,
    restart::{
        block::{Block, Word},
        memory::Memory,
        target::{Claim, Target},
    },
};

/// How much a namespace is due: whether the workload needs no slot of its own, what was given and is held, the last turn.
type Rank<'a> = (bool, u64, usize, u64, &'a str);

/// Slots that are held, and how many there are.
pub(super) struct Slots<'a> {
    now: Timestamp,
    limits: &'a Limits,
    objects: &'a Objects<'a>,
    of_object: BTreeMap<&'a ObjectKey, usize>,
    /// Objects that took one in this pass.
    started: BTreeSet<&'a ObjectKey>,
    in_namespace: BTreeMap<&'a str, usize>,
    /// How many of the namespace's workloads were given a slot in this pass.
    given: BTreeMap<&'a str, u64>,
    in_cluster: usize,
}

impl<'a> Slots<'a> {
    pub(super) fn new(
        now: Timestamp,
        limits: &'a Limits,
        targets: &[&'a Target],
        objects: &'a Objects<'a>,
    ) -> Self {
        let mut slots = Self {
            now,
            limits,
            objects,
            of_object: BTreeMap::new(),
            started: BTreeSet::new(),
            in_namespace: BTreeMap::new(),
            given: BTreeMap::new(),
            in_cluster: 0,
        };
        for target in targets {
            if target.holds {
                *slots.in_namespace.entry(&target.key.key.namespace).or_default() += 1;
            }
            for claim in target.claims.iter().filter(|claim| claim.rolling) {
                *slots.of_object.entry(claim.object.key()).or_default() += 1;
            }
        }
        // Whatever workloads of a namespace say of themselves, they take no more of the cluster's than their own.
        let held = slots.in_namespace.values();
        slots.in_cluster = held.map(|held| (*held).min(limits.namespace)).sum();
        slots
    }

    /// The next candidate that there is a slot for: of the namespace that has the fewest and waits the longest.
    pub(super) fn next(&self, candidates: &[Candidate<'a>], memory: &Memory) -> Option<usize> {
        let mut best: Option<(Rank<'_>, usize)> = None;
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let namespace = &*candidate.target.key.key.namespace;
            // In order within a namespace: only its first one that fits counts.
            if (seen.contains(namespace) && !candidate.target.holds) || !self.fits(candidate) {
                continue;
            }
            seen.insert(namespace);
            let held = self.in_namespace.get(namespace).copied().unwrap_or_default();
            let given = self.given.get(namespace).copied().unwrap_or_default();
            let rank = (
                !candidate.target.holds,
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

    /// Gives the workload a slot, which counts for all that it goes for.
    pub(super) fn take(&mut self, candidate: &Candidate<'a>) {
        let target = candidate.target;
        for claim in &candidate.claims {
            self.started.insert(claim.object.key());
            if !claim.rolling {
                *self.of_object.entry(claim.object.key()).or_default() += 1;
            }
        }
        let namespace = &*target.key.key.namespace;
        *self.given.entry(namespace).or_default() += 1;
        if !target.holds {
            self.in_cluster += 1;
            *self.in_namespace.entry(namespace).or_default() += 1;
        }
    }

    /// What the candidate's claim waits for.
    pub(super) fn wait(&self, candidate: &Candidate<'_>, claim: &Claim) -> Block {
        let pause = |claim: &Claim| {
            let until = self.objects.get(claim.object.key())?.not_before?;
            (until > self.now).then_some(until)
        };
        let own = pause(claim);
        let others = !self.pressing(candidate).all(|claim| self.has_room(claim));
        let (sentence, until) = if own.is_some() {
            let sentence = "restart.pacing.minInterval has not passed since the last restart";
            (sentence, own)
        } else if others && self.has_room(claim) {
            let sentence =
                "another Secret that it uses changed too and waits for its turn: one restart brings all";
            (sentence, self.pressing(candidate).filter_map(pause).max())
        } else {
            let sentence = "other workloads roll out; it follows when one of them is done";
            (sentence, None)
        };
        Block::new(Word::WaitingForTurn, sentence, until)
    }

    fn fits(&self, candidate: &Candidate<'_>) -> bool {
        let target = candidate.target;
        let namespace = self.in_namespace.get(&*target.key.key.namespace).copied();
        let free = target.holds
            || (self.in_cluster < self.limits.cluster
                && namespace.unwrap_or_default() < self.limits.namespace);
        free && self.pressing(candidate).all(|claim| self.has_room(claim))
    }

    /// What must have room for the candidate to go; one restart brings the rest as well. What is urgent does not wait for
    /// what is not.
    fn pressing<'c>(&self, candidate: &'c Candidate<'a>) -> impl Iterator<Item = &'c Claim> {
        let urgent = |claim: &&Claim| !candidate.urgent || self.objects.urgent(claim.object.key());
        candidate.claims.iter().copied().filter(urgent)
    }

    fn has_room(&self, claim: &Claim) -> bool {
        let object = claim.object.key();
        if claim.rolling {
            return true;
        }
        let Some(pace) = self.objects.get(object) else {
            return false;
        };
        let held = self.of_object.get(object).copied().unwrap_or_default();
        // With a least time between two, one in a pass.
        let in_time = pace.not_before.is_none_or(|time| time <= self.now);
        held < pace.limit && in_time && !(pace.spaced && self.started.contains(object))
    }
}
