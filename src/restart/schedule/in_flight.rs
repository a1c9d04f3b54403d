//! How far the last decision on each workload is: one request at a time for a workload.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    api::WorkloadState,
    cluster,
    restart::{
        judge::{
            model::{HeldSlot, Judgement, Standing},
            state::Hold,
        },
        observed::model::WorkloadKey,
        timing::{REQUEST_LOST, later},
    },
};

/// How far the last decision on a workload is.
pub enum RequestPhase {
    /// A request is under way since then.
    Busy(Instant),
    /// It was answered; the workload was not judged since.
    Answered,
    /// The decision did not hold; it is not carried out again before this time.
    Resting(Instant),
    /// It could not be read whether restarts are suspended; not again before this time. Why, in a sentence.
    Blind(Instant, Box<str>),
}

impl RequestPhase {
    /// When it ends by time alone.
    fn end(&self) -> Option<Instant> {
        match self {
            Self::Busy(since) => Some(*since + REQUEST_LOST),
            Self::Answered => None,
            Self::Resting(until) | Self::Blind(until, _) => Some(*until),
        }
    }

    /// What rests does so since `keyturn-control` could not be read.
    fn blinded(&mut self, error: &cluster::Error) {
        if let Self::Resting(until) = self {
            let why = format!(
                "the ConfigMap keyturn-control, which may suspend restarts, cannot be read, so the workload is not restarted \
                 now: {error}. Keyturn tries again; if this stays, allow the operator to get the ConfigMap"
            );
            *self = Self::Blind(*until, why.into());
        }
    }

    /// The workload as decisions see it: one whose restart is being carried out rolls out, so that its slot is taken; one
    /// whose restart did not hold waits.
    fn seen(&self, judgement: &Judgement, time: Timestamp, now: Instant) -> Judgement {
        let mut judgement = judgement.clone();
        match self {
            Self::Busy(_) | Self::Answered => {
                (judgement.rolling, judgement.patched_at) = (true, Some(time));
                judgement.slot = HeldSlot::Cluster;
                for claim in &mut judgement.claims {
                    if matches!(claim.standing, Standing::Stale(_)) && claim.hold.is_none() {
                        claim.standing = Standing::Rolling;
                        claim.rolling = true;
                    }
                }
            }
            Self::Resting(until) | Self::Blind(until, _) => {
                let why = match self {
                    Self::Blind(_, why) => why.to_string(),
                    _ => {
                        "it was not as expected when it was read again; it is looked at once more".to_owned()
                    }
                };
                let wait = SignedDuration::try_from(until.saturating_duration_since(now)).unwrap_or_default();
                judgement.refused.get_or_insert_with(|| {
                    Hold::new(WorkloadState::WaitingForTurn, why, Some(later(time, wait)))
                });
            }
        }
        judgement
    }
}

/// The workloads whose last decision is being carried out, or rests.
#[derive(Default)]
pub struct InFlight(HashMap<WorkloadKey, RequestPhase>);

impl InFlight {
    pub fn contains(&self, key: &WorkloadKey) -> bool {
        self.0.contains_key(key)
    }

    pub fn set(&mut self, key: &WorkloadKey, phase: RequestPhase) {
        self.0.insert(key.clone(), phase);
    }

    pub fn remove(&mut self, key: &WorkloadKey) {
        self.0.remove(key);
    }

    /// How many requests are under way.
    pub fn busy(&self) -> usize {
        let phases = self.0.values();
        phases
            .filter(|phase| matches!(phase, RequestPhase::Busy(_)))
            .count()
    }

    /// A workload that rests does so since `keyturn-control` could not be read.
    pub fn blinded(&mut self, key: &WorkloadKey, error: &cluster::Error) {
        if let Some(phase) = self.0.get_mut(key) {
            phase.blinded(error);
        }
    }

    /// The namespace was judged: answers to its requests are part of that.
    pub fn judged(&mut self, namespace: &str) {
        self.0.retain(|key, phase| {
            !(matches!(phase, RequestPhase::Answered) && *key.key.namespace == *namespace)
        });
    }

    /// Forgets answers in namespaces that are not `known` any more.
    pub fn sweep(&mut self, known: impl Fn(&str) -> bool) {
        self.0
            .retain(|key, phase| !matches!(phase, RequestPhase::Answered) || known(&key.key.namespace));
    }

    /// Ends the phases whose time is over.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|_, phase| phase.end().is_none_or(|end| now < end));
    }

    /// When the next phase ends by time alone.
    pub fn next_end(&self) -> Option<Instant> {
        self.0.values().filter_map(RequestPhase::end).min()
    }

    /// The judgements of workloads that rest or have a request under way, as decisions see them; and all others as they are.
    pub fn split<'a>(
        &self,
        judgements: impl Iterator<Item = &'a Judgement>,
        time: Timestamp,
        now: Instant,
    ) -> (Vec<Judgement>, Vec<&'a Judgement>) {
        let (mut busy, mut others) = (Vec::new(), Vec::new());
        for judgement in judgements {
            match self.0.get(&judgement.key) {
                Some(phase) => busy.push(phase.seen(judgement, time, now)),
                None => others.push(judgement),
            }
        }
        (busy, others)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::restart::{
        schedule::tests::decide::stale,
        tests::{at, object},
    };
    use crate::{
        api::{ObjectKey, WorkloadState},
        cluster::{Class, Verb},
    };

    #[test]
    fn a_workload_waits_and_says_so_while_it_is_not_known_whether_restarts_are_suspended() {
        let (judgement, now) = (stale("web", &object("db", "t1")), Instant::now());
        let until = now + Duration::from_secs(2);
        let mut phase = RequestPhase::Resting(until);
        phase.blinded(&cluster::Error {
            verb: Verb::Get,
            kind: "ConfigMap",
            key: ObjectKey::new("keyturn", "keyturn-control"),
            class: Class::Timeout,
        });
        assert_eq!(phase.end(), Some(until));
        let waits = phase.seen(&judgement, at(0), now).refused.unwrap();
        assert_eq!(
            (waits.state, waits.until),
            (WorkloadState::WaitingForTurn, Some(at(2)))
        );
        for part in [
            "ConfigMap keyturn/keyturn-control",
            "no answer in time",
            "not restarted",
        ] {
            assert!(
                waits.sentence.contains(part),
                "{part} is not in {}",
                waits.sentence
            );
        }
    }
}
