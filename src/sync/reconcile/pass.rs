//! One pass over one ExternalSecret, and what comes of it.

use std::{sync::OnceLock, time::Duration};

use super::{
    Context,
    memory::Memory,
    outcome::{NextPass, Stop},
    timing::RECHECK_PERMANENT,
    write_places::WriteEnd,
    write_slots::Slot,
};
use crate::{
    api::{ExternalSecret, ObjectKey, Reason},
    aws, cluster,
    objects::{Entry, Refresh, status::Draft},
    sync::{plan, queue::Class, resolve::Refusal},
};

/// A pass over one ExternalSecret: what all passes share, and what this one knows of its object.
pub(super) struct Pass<'a> {
    /// What all passes share.
    pub(super) context: &'a Context,
    /// The ExternalSecret.
    pub(super) object: &'a ObjectKey,
    /// The object as the index had it when the pass began.
    pub(super) entry: &'a Entry,
    /// Whether somebody waits for the pass.
    pub(super) class: Class,
    /// The object as the API server has it, once values were read for just this state of it.
    live: OnceLock<Live>,
    /// The place to write, which is held until the status is written too.
    slot: OnceLock<Slot<'a>>,
}

/// A live ExternalSecret.
pub(super) struct Live {
    pub(super) object: ExternalSecret,
    pub(super) entry: Entry,
}

impl Live {
    /// The target that the status records, if it is not the one of this name.
    pub(super) fn former(&self, name: &str) -> Option<plan::Recorded<'_>> {
        plan::Recorded::of(&self.object).filter(|recorded| *recorded.name != *name)
    }
}

impl<'a> Pass<'a> {
    pub(super) fn new(context: &'a Context, object: &'a ObjectKey, entry: &'a Entry, class: Class) -> Self {
        Self {
            context,
            object,
            entry,
            class,
            live: OnceLock::new(),
            slot: OnceLock::new(),
        }
    }

    /// Works on the object, and reports what came of it.
    pub(super) async fn run(&self) -> NextPass {
        match self.steps().await {
            Ok(draft) => self.write_status(draft, self.live(), NextPass::OnChange).await,
            Err(Stop::Suspended(suspended)) => self.report_suspended(suspended).await,
            Err(Stop::Refused(refused)) => self.report_refused(refused).await,
            Err(Stop::Conflict(conflict)) => self.report_conflict(*conflict).await,
            Err(Stop::Transient(refusal)) => self.report_transient(refusal).await,
            Err(Stop::Unchanged(wait)) => self.report_current(NextPass::after(wait)).await,
            Err(Stop::WaitFor(wait)) => NextPass::after(wait),
            Err(Stop::Retry) => NextPass::AfterBackOff,
            Err(Stop::Gone) => NextPass::OnChange,
        }
    }

    async fn steps(&self) -> Result<Draft, Stop> {
        self.admit()?;
        let resolved = self.resolve().await?;
        let comparison = self.compare(resolved)?;
        if comparison.is_same(self.entry, |need| self.known(need)) {
            return self.confirm(comparison).await;
        }
        self.check_target(&comparison).await?;
        let answers = self.read(&comparison).await?;
        self.write(&comparison, &answers.all).await
    }

    /// The object as it was seen last.
    pub(super) fn latest(&self) -> &Entry {
        self.live.get().map_or(self.entry, |live| &live.entry)
    }

    /// The live object, once it was read for a write.
    pub(super) fn live(&self) -> Option<&ExternalSecret> {
        self.live.get().map(|live| &live.object)
    }

    /// Keeps the live object for the rest of the pass.
    pub(super) fn keep_live(&self, live: Live) -> &Live {
        self.live.get_or_init(|| live)
    }

    /// Keeps a place to write until the status is written.
    pub(super) fn keep_slot(&self, slot: Slot<'a>) {
        let _kept = self.slot.set(slot);
    }

    /// A person must correct something, which is looked at again now and then: the correction may be elsewhere.
    pub(super) fn refuse(&self, refusal: Refusal) -> Stop {
        Stop::from(refusal).again_after(self.recheck())
    }

    /// The account of the store's identity could not be found out.
    pub(super) fn unproven(&self, error: &aws::Error) -> Stop {
        Stop::from(error).again_after(self.recheck())
    }

    /// The API server refused a call or did not answer.
    pub(super) fn kubernetes(&self, error: &cluster::Error) -> Stop {
        let (object, namespace) = (self.object, &self.object.namespace);
        self.refuse(match &error.class {
            cluster::Class::Refused(refuser) => Refusal::new(
                Reason::Forbidden,
                format!("{error}. {}", refuser.advice(namespace)),
            ),
            cluster::Class::Forbidden => Refusal::new(
                Reason::Forbidden,
                format!("{error}. Allow it in the operator's role for namespace {namespace}"),
            ),
            cluster::Class::TooLarge => {
                Refusal::new(Reason::TooLarge, format!("{error}: select fewer values"))
            }
            cluster::Class::Invalid { .. } | cluster::Class::Rejected { .. } => Refusal::new(
                Reason::InvalidSpec,
                format!("{error}: correct the target's name, labels or annotations"),
            ),
            class => {
                if *class == cluster::Class::Timeout && error.verb.is_write() {
                    self.context
                        .capacity
                        .slots
                        .secrets
                        .ended(namespace, WriteEnd::TimedOut);
                }
                tracing::warn!(%object, %error, "trying again");
                return Stop::Retry;
            }
        })
    }

    /// The Secret that the object wants.
    pub(super) fn target(&self) -> ObjectKey {
        ObjectKey::new(self.object.namespace.clone(), self.entry.target(self.object))
    }

    /// How soon what a person must correct is looked at again.
    pub(super) fn recheck(&self) -> Duration {
        match self.entry.spec.refresh {
            Refresh::Every(interval) => interval.min(RECHECK_PERMANENT),
            Refresh::OnChange | Refresh::Once => RECHECK_PERMANENT,
        }
    }

    pub(super) fn recall(&self) -> Memory {
        self.context.recall(self.object)
    }

    pub(super) fn remember(&self, remember: impl FnOnce(&mut Memory)) {
        self.context.remember(self.object, remember);
    }
}
