//! Writing the status: what a pass came to as conditions, with an event where `Ready` turned.

use k8s_openapi::api::core::v1::ObjectReference;

use super::{Context, memory::WrittenStatus, outcome::NextPass, pass::Pass, write_places::WriteEnd};
use crate::{
    api::{ConditionType, EventReason, ExternalSecret, ObjectKey, Reason, Status, names},
    cluster::{self, EventDraft, Malformed},
    objects::status::{self, Draft, Verdict},
    sync::events,
};

impl Context {
    /// An object that this version cannot read: it is told so, where it can be told at all.
    pub(super) async fn report_malformed(&self, object: &ObjectKey, malformed: &Malformed) -> NextPass {
        self.unsubscribe(object);
        tracing::warn!(%object, expected = malformed.expected, "an ExternalSecret cannot be read; it is left alone");
        let message = format!(
            "this version of the operator cannot read the object: {}. Apply one that its CRD allows; the Secret stays as it is",
            malformed.expected
        );
        let verdict = Verdict::fails(Reason::InvalidSpec, message);
        let now = self.view.time.now();
        let mut draft = Draft {
            generation: Some(malformed.generation),
            ready: Some(verdict),
            ..Draft::default()
        };
        status::Digest::default().complete(now, &mut draft);
        let again = {
            let mut memories = self.memory.lock();
            let memory = memories.entry(object.clone()).or_default();
            let said = memory.status.malformed.replace(Box::new(malformed.generation));
            said.as_deref() == Some(&malformed.generation)
        };
        if again {
            return NextPass::OnChange;
        }
        let status = status::compose(now, &draft, None);
        match self
            .view
            .writer
            .apply_status::<ExternalSecret>(object, &malformed.uid, names::SYNC_MANAGER, &status)
            .await
        {
            Ok(_) => NextPass::OnChange,
            Err(error) => {
                self.remember(object, |memory| memory.status.malformed = None);
                tracing::warn!(%object, %error, "the status was not written");
                NextPass::AfterBackOff
            }
        }
    }
}

impl Pass<'_> {
    /// Writes the status where it differs, and an event where it turned. `live` is the object, if it was read for a write.
    pub(super) async fn write_status(
        &self,
        mut draft: Draft,
        live: Option<&ExternalSecret>,
        next: NextPass,
    ) -> NextPass {
        let Self { context, object, .. } = self;
        // A deletion that was decided, but not carried out yet, is not reported.
        let carried_out = draft
            .ready
            .as_ref()
            .is_some_and(|ready| matches!(ready.reason, Reason::Deleted | Reason::Synced));
        draft.deleted_at = context.deletions().time_of(object).filter(|_| carried_out);
        let (said, believed) = self.said();
        let turns = said.complete(context.view.time.now(), &mut draft);
        let next = turns.map_or(next, |left| next.sooner(left));
        if !said.differs(&draft) {
            self.note_reported(&draft);
            return match believed {
                // The index may be behind, or another client has changed the status since: the next pass can tell.
                Some(left) if self.latest().status.said.differs(&draft) => next.sooner(left),
                _ => next,
            };
        }
        // Whoever waits for a first status, or for an answer to an edit, gets it at once; of the others none waits here,
        // holding a place and a slot that the next Secret needs.
        if !said.is_silent()
            && let Some(wait) = self.turn()
        {
            return NextPass::AtStatusTurn(wait);
        }
        let fetched;
        let live = match live {
            Some(live) => live,
            None => match context.view.writer.cluster().find::<ExternalSecret>(object).await {
                Ok(Some(found)) if found.metadata.uid.as_deref() == Some(&*self.entry.uid) => {
                    fetched = found;
                    &fetched
                }
                Ok(_) => return NextPass::OnChange,
                Err(error) => return self.unwritten(&error),
            },
        };
        if !status::Digest::of(live.status.as_ref()).differs(&draft) {
            self.note_reported(&draft);
            return next;
        }
        self.apply_status(live, &draft, next).await
    }

    async fn apply_status(&self, live: &ExternalSecret, draft: &Draft, next: NextPass) -> NextPass {
        let Self { context, object, .. } = self;
        let _slot = match context.capacity.slots.statuses.take(&object.namespace).await {
            Ok(slot) => slot,
            Err(wait) => return NextPass::AtStatusTurn(wait),
        };
        let status = status::compose(context.view.time.now(), draft, live.status.as_ref());
        let began = context.clock.now();
        let written = context
            .view
            .writer
            .apply_status::<ExternalSecret>(object, &self.entry.uid, names::SYNC_MANAGER, &status)
            .await;
        let outcome = match &written {
            Err(error) if error.class == cluster::Class::Timeout => WriteEnd::TimedOut,
            _ => WriteEnd::Answered(context.clock.now().saturating_sub(began)),
        };
        context.capacity.slots.statuses.ended(&object.namespace, outcome);
        match written {
            Ok(_) => {
                let written = WrittenStatus {
                    at: context.clock.now(),
                    digest: status::Digest::of(Some(&status)),
                };
                self.remember(|memory| memory.status.written = Some(written));
                self.note_reported(draft);
                self.emit_transition(live, draft);
                self.emit_rotation(live, draft);
                next
            }
            Err(error)
                if matches!(
                    error.class,
                    cluster::Class::NotFound | cluster::Class::UidMismatch
                ) =>
            {
                NextPass::OnChange
            }
            Err(error) => self.unwritten(&error),
        }
    }

    fn unwritten(&self, error: &cluster::Error) -> NextPass {
        let object = self.object;
        tracing::warn!(%object, %error, "the status was not written");
        NextPass::AfterBackOff
    }

    /// The status says what `draft` does.
    fn note_reported(&self, draft: &Draft) {
        self.remember(|memory| memory.edited = false);
        self.rotation_reported(draft);
    }

    /// The object, for events.
    pub(super) fn reference(&self) -> ObjectReference {
        events::reference("ExternalSecret", self.object, &self.entry.uid)
    }

    /// Events on transitions only, none for a plain first sync.
    fn emit_transition(&self, live: &ExternalSecret, draft: &Draft) {
        let Some(ready) = &draft.ready else { return };
        let was = live
            .status
            .as_ref()
            .and_then(|status| status::condition(status, ConditionType::Ready));
        let reason = match (was.map(|was| was.status.as_str()), ready.status == Status::True) {
            (Some("False"), true) => EventReason::Recovered,
            (_, false) if was.is_none_or(|was| was.reason != ready.reason.as_str()) => {
                if ready.reason == Reason::TargetConflict {
                    EventReason::TargetConflict
                } else {
                    EventReason::SyncFailed
                }
            }
            _ => return,
        };
        // An outage is told once, on the store.
        if matches!(ready.reason, Reason::Throttled | Reason::ProviderUnavailable) {
            return;
        }
        let regarding = self.reference();
        let action = ready.reason.as_str();
        self.context
            .view
            .events
            .emit(EventDraft::new(regarding, reason, action, &ready.message));
    }
}
