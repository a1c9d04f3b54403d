//! Having workloads say what became of their restarts: one small write each, and with it the alert, so that a failure is told
//! once whoever leads.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    controller::{Controller, Done},
    model::WorkloadKey,
    note::Note,
    phase::caught,
    report::Happening,
    target::Target,
};
use crate::{
    api::EventReason,
    cluster::{self, Class, Verb},
};

/// Workloads that are written to at once.
const AT_ONCE: usize = 8;
/// How long a write waits after somebody else wrote first, and after one that failed otherwise.
const CONFLICTED: Duration = Duration::from_secs(2);
const FAILED: Duration = Duration::from_secs(10);

impl Controller {
    /// Begins to write what workloads are to say of themselves.
    pub(super) fn record(&mut self, now: Instant) {
        self.records
            .retain(|_, until| until.is_none_or(|until| now < until));
        let busy = self.records.values().filter(|until| until.is_none()).count();
        let is_due = |target: &&Target| {
            !target.notes.is_empty()
                && !self.phases.contains_key(&target.key)
                && !self.records.contains_key(&target.key)
        };
        let targets = self.spaces.values().flat_map(|space| &space.targets);
        let due: Vec<Due> = targets
            .filter(is_due)
            .take(AT_ONCE.saturating_sub(busy))
            .map(|target| (target.key.clone(), target.uid.clone(), target.notes.clone()))
            .collect();
        for (key, uid, notes) in due {
            self.records.insert(key.clone(), None);
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let written = context.write_notes(&key, &uid, &notes);
                let written = caught(Verb::Patch, &key.key, written).await;
                Done::Recorded {
                    key,
                    uid,
                    notes,
                    written,
                }
            });
        }
    }

    /// A workload says what it was to say, or does not.
    pub(super) fn recorded(
        &mut self,
        key: &WorkloadKey,
        uid: &str,
        notes: &[Note],
        written: Result<(), cluster::Error>,
        now: Instant,
    ) {
        let Err(error) = written else {
            self.records.remove(key);
            self.settle(key, uid, notes, now, |memory, note| memory.noted(uid, note));
            return;
        };
        tracing::warn!(workload = %key, %error, "a workload was not told what became of its restart");
        let (wait, refused) = match &error.class {
            // The next leader tells.
            Class::NotLeading | Class::Unauthorized => {
                self.records.insert(key.clone(), Some(now + FAILED));
                return;
            }
            Class::Conflict | Class::UidMismatch | Class::NotFound | Class::AlreadyExists => {
                (CONFLICTED, false)
            }
            Class::Throttled { .. } | Class::Timeout | Class::Unavailable { .. } | Class::Disruption => {
                (FAILED, false)
            }
            Class::Forbidden
            | Class::Invalid { .. }
            | Class::FieldConflict { .. }
            | Class::TooLarge
            | Class::Expired
            | Class::Rejected { .. }
            | Class::Malformed(_) => (FAILED, true),
        };
        self.records.insert(key.clone(), Some(now + wait));
        self.settle(key, uid, notes, now, |memory, note| {
            memory.not_noted(uid, note, refused)
        });
    }

    fn settle(
        &mut self,
        key: &WorkloadKey,
        uid: &str,
        notes: &[Note],
        now: Instant,
        mut alerts: impl FnMut(&mut super::memory::Memory, &Note) -> bool,
    ) {
        for note in notes {
            if let (true, Some(sentence)) = (alerts(&mut self.memory, note), &note.alert) {
                let happened = Happening {
                    object: note.object.clone(),
                    workload: Some(key.clone()),
                    event: EventReason::RestartFailed,
                    sentence: format!("{key}: {sentence}"),
                    changed_at: None,
                };
                self.context.tell(&happened, &HashMap::from([(key, uid)]));
            }
        }
        if let Some(space) = self.spaces.get_mut(&key.key.namespace) {
            space.forget_notes(key);
            space.touch(key, now);
        }
    }
}

type Due = (WorkloadKey, Box<str>, Vec<Note>);
