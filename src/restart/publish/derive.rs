//! What follows from decisions for people: events, numbers, statuses.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::report;
use crate::{
    api::{EventReason, ObjectKey},
    restart::{
        controller::Controller,
        judge::{model::Standing, state::WorkloadState},
        observed::{managed_secrets::ManagedSecret, model::WorkloadKey},
        schedule::decide::{Decisions, WorkloadStatus},
        timing::{AWAIT_PODS, WARM_UP},
    },
};

impl Controller {
    /// Events and numbers of what happened.
    pub(in crate::restart) fn tell(&mut self, decisions: &Decisions, now: Instant) {
        let mut counts = report::count(decisions.states.iter());
        let halted = decisions
            .states
            .iter()
            .filter(|status| status.state == WorkloadState::Halted)
            .count();
        counts.pending = counts.pending.saturating_sub(halted);
        for (status, count) in [
            ("pending", counts.pending),
            ("in_flight", counts.in_flight),
            ("failed", counts.failed),
            ("halted", halted),
        ] {
            self.context.metrics.state(status, count);
        }
        self.measure();
        let looking = decisions
            .states
            .iter()
            .any(|status| status.state == WorkloadState::Looking);
        self.warm |= !looking || now >= self.started + WARM_UP;
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
        let judgements = self.namespaces.values().flat_map(|view| &view.judgements);
        let untold: HashSet<&ObjectKey> = judgements
            .flat_map(|judgement| &judgement.notes)
            .filter(|note| note.alert.is_some())
            .map(|note| &note.object)
            .collect();
        let (held, happened): (Vec<_>, Vec<_>) = happened.into_iter().partition(|happening| {
            happening.event == EventReason::RestartHalted && untold.contains(&happening.object)
        });
        self.held = held;
        let judgements = self.namespaces.values().flat_map(|view| &view.judgements);
        let uids: HashMap<&WorkloadKey, &str> = judgements
            .map(|judgement| (&judgement.key, &*judgement.uid))
            .collect();
        for happened in &happened {
            self.context.tell(happened, &uids);
        }
    }

    /// What is left to do: stale pods, and until when.
    fn measure(&self) {
        let judgements = self.namespaces.values().flat_map(|view| &view.judgements);
        let (mut pods, mut deadline) = (0, None::<Timestamp>);
        for claim in judgements.flat_map(|judgement| &judgement.claims) {
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
        let mut of: HashMap<&ObjectKey, &[WorkloadStatus]> = HashMap::new();
        for states in decisions.states.chunk_by(|a, b| a.object == b.object) {
            if let Some(first) = states.first() {
                of.insert(&first.object, states);
            }
        }
        let mut wanted: Vec<ManagedSecret> = Vec::new();
        for view in self.namespaces.values_mut() {
            let fresh = std::mem::take(&mut view.fresh);
            for secret in view.managed_secrets.iter() {
                let states = of.get(secret.key()).copied().unwrap_or_default();
                let same = self.reported.get(secret.key()).copied() == digest(states);
                if !same || fresh.contains(&secret.key().name) {
                    wanted.push(secret.clone());
                }
            }
        }
        for secret in wanted {
            let object = secret.key();
            let states = of.get(object).copied().unwrap_or_default();
            if states.iter().any(|status| status.state == WorkloadState::Looking) {
                let since = *self.unknown.entry(object.clone()).or_insert(now);
                let reported = secret.restarts.reverted.as_ref().map(|(rollout, _)| &**rollout);
                if now < since + AWAIT_PODS && report::awaits_pods(&secret.content, states, reported) {
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
                    .map(|status| (object.clone(), status.clone()))
                    .into_iter()
                    .collect(),
                ..Decisions::default()
            };
            let report = report::report(&secret.content, &part);
            if let Some(identity) = self.context.identity(object) {
                let said = secret.restarts.said;
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
fn digest(states: &[WorkloadStatus]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    states.hash(&mut hasher);
    (!states.is_empty()).then(|| hasher.finish())
}
