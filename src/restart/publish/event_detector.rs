//! What happened to restarts between two decisions, to be reported as events. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    api::{EventReason, ObjectKey, WorkloadState},
    restart::{
        judge::model::Restart,
        observed::model::WorkloadKey,
        schedule::decide::{Decisions, WorkloadStatus},
    },
};

/// What happened, to be reported as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartEvent {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The workload; none if it is about all of them.
    pub workload: Option<WorkloadKey>,
    /// What.
    pub event: EventReason,
    /// In a sentence.
    pub sentence: String,
    /// For a workload that is done: when the content changed.
    pub changed_at: Option<Timestamp>,
}

/// The states before, to find what happened since. Bounded by what exists: new states replace the former ones.
#[derive(Clone, Debug, Default)]
pub struct EventDetector {
    states: BTreeMap<(ObjectKey, WorkloadKey), (Box<str>, WorkloadState)>,
    halted: BTreeSet<ObjectKey>,
    started: bool,
}

impl EventDetector {
    /// A restart was taken by the API server.
    pub fn triggered(&mut self, restart: &Restart) {
        for cause in &restart.causes {
            let key = (cause.object.clone(), restart.key.clone());
            self.states
                .insert(key, (cause.stamp.record.token.clone(), WorkloadState::RollingOut));
        }
    }

    /// What happened since the decisions before. The first ones report nothing: a start is not an event.
    pub fn changes(&mut self, decisions: &Decisions) -> Vec<RestartEvent> {
        let mut happened = Vec::new();
        let mut states = BTreeMap::new();
        for status in &decisions.states {
            let key = (status.object.clone(), status.key.clone());
            let before = self
                .states
                .get(&key)
                .filter(|(token, _)| *token == status.token)
                .map(|(_, state)| *state);
            if let Some((event, sentence)) = event(before, status).filter(|_| self.started) {
                happened.push(RestartEvent {
                    object: status.object.clone(),
                    workload: Some(status.key.clone()),
                    event,
                    sentence,
                    changed_at: (event == EventReason::RestartCompleted).then_some(status.changed_at),
                });
            }
            states.insert(key, (status.token.clone(), status.state));
        }
        let halted: BTreeSet<ObjectKey> = decisions
            .objects
            .iter()
            .filter(|(_, status)| status.halted)
            .map(|(key, _)| key.clone())
            .collect();
        for object in halted.difference(&self.halted).filter(|_| self.started) {
            happened.push(RestartEvent {
                object: object.clone(),
                workload: None,
                event: EventReason::RestartHalted,
                sentence: "no more workloads are restarted, since one did not become healthy".to_owned(),
                changed_at: None,
            });
        }
        (self.states, self.halted, self.started) = (states, halted, true);
        happened
    }
}

fn event(before: Option<WorkloadState>, status: &WorkloadStatus) -> Option<(EventReason, String)> {
    let key = &status.key;
    match (before, status.state) {
        (
            Some(WorkloadState::RollingOut | WorkloadState::Failed | WorkloadState::StillUnhealthy),
            WorkloadState::Done,
        ) => Some((
            EventReason::RestartCompleted,
            format!("{key} holds the new content"),
        )),
        (before, WorkloadState::Reverted) if before != Some(WorkloadState::Reverted) => Some((
            EventReason::RestartReverted,
            format!("{key}: {}", status.sentence),
        )),
        _ => None,
    }
}
