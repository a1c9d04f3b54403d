//! What follows from decisions for people: events, numbers, statuses.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::report;
use crate::{
    api::{EventReason, ObjectKey},
    restart::{
        controller::{Controller, WARM},
        judge::{assess::Standing, hold::Word},
        observed::{managed_secrets::ObjectFacts, model::WorkloadKey},
        schedule::decide::{Decisions, State},
    },
};

/// How long a status waits for what is not known yet.
const UNKNOWN: Duration = Duration::from_secs(30);

impl Controller {
    /// Events and numbers of what happened.
    pub(in crate::restart) fn tell(&mut self, decisions: &Decisions, now: Instant) {
        let mut counts = report::count(decisions.states.iter());
        let halted = decisions
            .states
            .iter()
            .filter(|state| state.word == Word::Halted)
            .count();
        counts.pending = counts.pending.saturating_sub(halted);
        for (state, count) in [
            ("pending", counts.pending),
            ("in_flight", counts.in_flight),
            ("failed", counts.failed),
            ("halted", halted),
        ] {
            self.context.metrics.state(state, count);
        }
        self.measure();
        let looking = decisions.states.iter().any(|state| state.word == Word::Looking);
        self.warm |= !looking || now >= self.started + WARM;
        if !self.warm {
            // What stands as it did before this process began is no event.
            return;
        }
        let mut happened = std::mem::take(&mut self.held);
        happened.extend(self.seen.look(decisions));
        if happened.is_empty() {
            return;
        }
        // That the others are held up is told after the failure, which is told with its record.
        let targets = self.spaces.values().flat_map(|space| &space.targets);
        let untold: HashSet<&ObjectKey> = targets
            .flat_map(|target| &target.notes)
            .filter(|note| note.alert.is_some())
            .map(|note| &note.object)
            .collect();
        let (held, happened): (Vec<_>, Vec<_>) = happened.into_iter().partition(|happening| {
            happening.event == EventReason::RestartHalted && untold.contains(&happening.object)
        });
        self.held = held;
        let targets = self.spaces.values().flat_map(|space| &space.targets);
        let uids: HashMap<&WorkloadKey, &str> = targets.map(|target| (&target.key, &*target.uid)).collect();
        for happened in &happened {
            self.context.tell(happened, &uids);
        }
    }

    /// What is left to do: stale pods, and until when.
    fn measure(&self) {
        let targets = self.spaces.values().flat_map(|space| &space.targets);
        let (mut pods, mut deadline) = (0, None::<Timestamp>);
        for claim in targets.flat_map(|target| &target.claims) {
            if claim.standing == Standing::Done {
                continue;
            }
            if let Standing::Stale(count) = claim.standing {
                pods += count;
            }
            deadline = deadline.into_iter().chain(claim.object.restarts.deadline).min();
        }
        let metrics = &self.context.metrics;
        metrics.stale_pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        metrics.deadline.set(deadline.map_or(0, Timestamp::as_second));
    }

    /// Sees to the statuses of the objects of which something changed.
    pub(in crate::restart) fn report(&mut self, decisions: &Decisions, time: Timestamp, now: Instant) {
        let mut of: HashMap<&ObjectKey, &[State]> = HashMap::new();
        for states in decisions.states.chunk_by(|a, b| a.object == b.object) {
            if let Some(first) = states.first() {
                of.insert(&first.object, states);
            }
        }
        let mut wanted: Vec<ObjectFacts> = Vec::new();
        for space in self.spaces.values_mut() {
            let fresh = std::mem::take(&mut space.fresh);
            for facts in space.facts.iter() {
                let states = of.get(facts.key()).copied().unwrap_or_default();
                let same = self.reported.get(facts.key()).copied() == digest(states);
                if !same || fresh.contains(&facts.key().name) {
                    wanted.push(facts.clone());
                }
            }
        }
        for facts in wanted {
            let object = facts.key();
            let states = of.get(object).copied().unwrap_or_default();
            if states.iter().any(|state| state.word == Word::Looking) {
                let since = *self.unknown.entry(object.clone()).or_insert(now);
                let reported = facts.restarts.reverted.as_ref().map(|(rollout, _)| &**rollout);
                if now < since + UNKNOWN && report::awaits_pods(&facts.content, states, reported) {
                    continue;
                }
            } else {
                self.unknown.remove(object);
            }
            let part = Decisions {
                states: states.to_vec(),
                objects: decisions
                    .objects
                    .get(object)
                    .map(|state| (object.clone(), state.clone()))
                    .into_iter()
                    .collect(),
                ..Decisions::default()
            };
            let report = report::report(&facts.content, &part);
            if let Some(identity) = self.context.identity(object) {
                let said = facts.restarts.said;
                self.statuses.want(object, identity, said, Some(report), time);
            }
            match digest(states) {
                Some(digest) => self.reported.insert(object.clone(), digest),
                None => self.reported.remove(object),
            };
        }
    }
}

/// A number that changes with the states; none without any.
fn digest(states: &[State]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    states.hash(&mut hasher);
    (!states.is_empty()).then(|| hasher.finish())
}
