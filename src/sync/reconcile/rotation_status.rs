//! Where the rotation stands, looked at in each pass and said with the rest.

use std::time::Duration;

use super::pass::Pass;
use crate::{
    api::{ConditionType, EventReason, ExternalSecret, Reason},
    cluster::EventDraft,
    objects::status::{self, Draft, RotationPart},
    sync::{
        decide::references::ReadRequest,
        rotation::{self, Judged, Seen, Traces},
    },
};

impl Pass<'_> {
    /// What is to be said of the rotation.
    pub(super) fn rotation(&self, needs: &[ReadRequest]) -> RotationPart {
        let Some(rule) = &self.latest().rotation else {
            return RotationPart::Gone;
        };
        let now = self.context.view.time.now();
        let memory = self.recall();
        let mut rule = (**rule).clone();
        // What we said a moment ago the index may not show yet.
        rule.said = memory.rotation.said.map(|said| *said).or(rule.said);
        let Judged { draft, traces, again } = self.context.provider.tracking.ask(|tracker| {
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
                memory.rotation.traces.map(|traces| *traces).unwrap_or_default(),
            )
        });
        // `rotated` and `moved` are spent only once the status that follows from them is written.
        self.remember(|memory| memory.rotation.judged = Some(Box::new(traces)));
        if let Some(again) = again {
            let wait = Duration::try_from(again.duration_since(now)).unwrap_or_default();
            self.context
                .work
                .push_after(self.object.clone(), wait.max(Duration::from_secs(1)));
        }
        draft.map_or(RotationPart::Kept, |draft| RotationPart::Said(Box::new(draft)))
    }

    /// The rotation was said, or need not be: what it was judged from is spent.
    pub(super) fn rotation_reported(&self, draft: &Draft) {
        let RotationPart::Said(said) = &draft.rotation else {
            return;
        };
        self.remember(|memory| {
            let memory = &mut memory.rotation;
            memory.said = Some(Box::new(said.status.clone()));
            if let Some(traces) = memory.judged.take() {
                memory.traces = (*traces != Traces::default()).then_some(traces);
            }
        });
    }

    /// Events about the rotation, each once: what the status said before is from the live object.
    pub(super) fn emit_rotation(&self, live: &ExternalSecret, draft: &Draft) {
        let RotationPart::Said(said) = &draft.rotation else {
            return;
        };
        let status = live.status.as_ref();
        let before = status.and_then(|status| status.rotation.as_ref());
        let was = status.and_then(|status| status::condition(status, ConditionType::RotationHealthy));
        if before
            .is_some_and(|before| before.state.is_some() && said.status.last_rotated > before.last_rotated)
        {
            self.context.view.events.emit(EventDraft::new(
                self.reference(),
                EventReason::RotationCommitted,
                "Sync",
                "AWS rotated the secret: AWSCURRENT is on the new version",
            ));
        }
        if said.verdict.reason == Reason::RotationStuck
            && was.is_none_or(|was| was.reason != Reason::RotationStuck.as_str())
        {
            self.context.view.events.emit(EventDraft::new(
                self.reference(),
                EventReason::RotationStuck,
                "Sync",
                &said.verdict.message,
            ));
        }
    }
}
