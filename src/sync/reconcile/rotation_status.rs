//! Where the rotation stands, looked at in each pass and said with the rest.

use std::time::Duration;

use kube::runtime::events::EventType;

use super::Context;
use crate::{
    api::{ConditionType, EventReason, ExternalSecret, ObjectKey, Reason},
    sync::{
        decide::references::ReadRequest,
        entry::Entry,
        events,
        rotation::{self, Judged, Seen, Traces},
        status::{self, Draft, RotationPart},
    },
};

impl Context {
    /// What is to be said of the rotation.
    pub(super) fn rotation(&self, object: &ObjectKey, entry: &Entry, needs: &[ReadRequest]) -> RotationPart {
        let Some(rule) = &entry.rotation else {
            return RotationPart::Gone;
        };
        let now = self.time.now();
        let memory = self.recall(object);
        let mut rule = (**rule).clone();
        // What we said a moment ago the index may not show yet.
        rule.said = memory.rotation.map(|said| *said).or(rule.said);
        let Judged { draft, traces, again } = self.tracking.ask(|tracker| {
            let seen: Vec<_> = needs
                .iter()
                .map(|need| Seen {
                    key: &need.key,
                    rotation: tracker.rotation(need.source, &need.key),
                    hidden: tracker.stages_hidden(need.source, &need.key),
                })
                .collect();
            rotation::judge(
                now,
                &rule,
                &seen,
                memory.traces.map(|traces| *traces).unwrap_or_default(),
            )
        });
        // `rotated` and `moved` are spent only once the status that follows from them is written.
        self.remember(object, |memory| memory.judged = Some(Box::new(traces)));
        if let Some(again) = again {
            let wait = Duration::try_from(again.duration_since(now)).unwrap_or_default();
            self.work
                .push_after(object.clone(), wait.max(Duration::from_secs(1)));
        }
        draft.map_or(RotationPart::Kept, |draft| RotationPart::Said(Box::new(draft)))
    }

    /// The rotation was said, or need not be: what it was judged from is spent.
    pub(super) fn rotation_said(&self, object: &ObjectKey, draft: &Draft) {
        let RotationPart::Said(said) = &draft.rotation else {
            return;
        };
        self.remember(object, |memory| {
            memory.rotation = Some(Box::new(said.status.clone()));
            if let Some(traces) = memory.judged.take() {
                memory.traces = (*traces != Traces::default()).then_some(traces);
            }
        });
    }

    /// Events about the rotation, each once: what the status said before is from the live object.
    pub(super) fn tell_rotation(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        live: &ExternalSecret,
        draft: &Draft,
    ) {
        let RotationPart::Said(said) = &draft.rotation else {
            return;
        };
        let status = live.status.as_ref();
        let before = status.and_then(|status| status.rotation.as_ref());
        let was = status.and_then(|status| status::condition(status, ConditionType::RotationHealthy));
        let regarding = || events::reference("ExternalSecret", object, &entry.uid);
        if before
            .is_some_and(|before| before.state.is_some() && said.status.last_rotated > before.last_rotated)
        {
            self.events.emit(
                regarding(),
                EventType::Normal,
                EventReason::RotationCommitted.as_str(),
                "Sync",
                "AWS rotated the secret: AWSCURRENT is on the new version",
            );
        }
        if said.verdict.reason == Reason::RotationStuck
            && was.is_none_or(|was| was.reason != Reason::RotationStuck.as_str())
        {
            self.events.emit(
                regarding(),
                EventType::Warning,
                EventReason::RotationStuck.as_str(),
                "Sync",
                &said.verdict.message,
            );
        }
    }
}
