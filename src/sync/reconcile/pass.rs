//! One pass over one ExternalSecret, and what comes of it.

use std::{sync::OnceLock, time::Duration};

use super::{
    Context, memory::Memory, write::RECHECK_CONFLICT, write_places::Outcome as WriteOutcome,
    write_slots::Slot,
};
use crate::{
    api::{ExternalSecret, ObjectKey, Reason},
    aws,
    cluster::{self, Observed},
    sync::{
        decide::admission::Suspended,
        entry::{Entry, Refresh},
        plan,
        queue::Class,
        resolve::Refusal,
        status::{Draft, Verdict},
    },
};

/// How often what a person must correct is looked at again, at least.
const RECHECK_PERMANENT: Duration = Duration::from_mins(5);
/// A far end of a suspension is looked at again before it: clocks and annotations change.
const FAR: Duration = Duration::from_hours(24);

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

/// The Secret is as it should be.
pub(super) struct Outcome {
    /// What the status is to say.
    pub(super) draft: Draft,
    /// When to look again though nothing changes.
    pub(super) again: Option<Duration>,
}

/// Why a pass ends without a Secret that is as it should be.
#[derive(Debug)]
pub(super) enum Stop {
    /// People have suspended the object.
    Suspended(Suspended),
    /// The Secret stays as it is, and `Ready` says why.
    Refused(Refused),
    /// A Secret that is not to be changed has the target's name.
    Conflict(Box<TargetConflict>),
    /// It passes by itself.
    Transient(Refusal),
    /// What was reported still holds. The object is looked at again after this time, or when something changes.
    Unchanged(Option<Duration>),
    /// There is nothing to report yet. The object is looked at again after this time, or when something changes.
    WaitFor(Option<Duration>),
    /// There is nothing to report. The object is tried again after the next back-off.
    Retry,
    /// The object does not exist any more.
    Gone,
}

/// A Secret that is left as it is.
#[derive(Debug)]
pub(super) struct Refused {
    /// What `Ready` is to say.
    pub(super) ready: Verdict,
    /// When to look again though nothing changes.
    pub(super) again: Option<Duration>,
}

/// A Secret in the way.
#[derive(Debug)]
pub(super) struct TargetConflict {
    pub(super) conflict: plan::Conflict,
    /// The state of the Secret that was refused.
    pub(super) observed: Option<Observed>,
    /// The versions that were not written.
    pub(super) versions: String,
}

/// When an object is looked at again, though nothing changes.
#[derive(Clone, Copy, Debug)]
pub enum NextPass {
    /// When something changes.
    OnChange,
    /// After this time.
    After(Duration),
    /// What the pass came to has yet to be reported: many objects have something to report, and the turn of this one comes
    /// after this time. The Secret is written already; the next pass finds the same again and reports it.
    AtStatusTurn(Duration),
    /// After the next back-off: it failed for a reason that may pass.
    AfterBackOff,
}

impl From<Verdict> for Stop {
    fn from(ready: Verdict) -> Self {
        Self::Refused(Refused { ready, again: None })
    }
}

impl From<Refusal> for Stop {
    fn from(Refusal { reason, message }: Refusal) -> Self {
        Verdict::fails(reason, message).into()
    }
}

impl From<&aws::Error> for Stop {
    fn from(error: &aws::Error) -> Self {
        let refusal = Refusal::new(error.reason(), error.to_string());
        if error.class().is_transient() {
            Self::Transient(refusal)
        } else {
            refusal.into()
        }
    }
}

impl Stop {
    /// The same, and a refused object is looked at again after this time.
    pub(super) fn again_after(self, wait: Duration) -> Self {
        match self {
            Self::Refused(Refused { ready, .. }) => Self::Refused(Refused {
                ready,
                again: Some(wait),
            }),
            other => other,
        }
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
            Ok(Outcome { draft, again }) => self.report(draft, self.live(), NextPass::after(again)).await,
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

    async fn steps(&self) -> Result<Outcome, Stop> {
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
            cluster::Class::Forbidden => Refusal::new(
                Reason::Forbidden,
                format!(
                    "{error}: allow it in the operator's role for namespace {namespace}, or mend the admission policy that \
                     refuses it"
                ),
            ),
            cluster::Class::TooLarge => {
                Refusal::new(Reason::TooLarge, format!("{error}: select fewer values"))
            }
            cluster::Class::Invalid { .. } | cluster::Class::Rejected { .. } => Refusal::new(
                Reason::InvalidSpec,
                format!("{error}: mend the target's name, labels or annotations"),
            ),
            class => {
                if *class == cluster::Class::Timeout && error.verb.is_write() {
                    self.context.slots.secrets.ended(namespace, WriteOutcome::TimedOut);
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
        match self.entry.refresh {
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

    async fn report_suspended(&self, suspended: Suspended) -> NextPass {
        let draft = Draft {
            current: Some(Verdict::fails(Reason::Suspended, suspended.message)),
            ..Draft::default()
        };
        let left = suspended.until.map(|until| {
            let left = Duration::try_from(until.duration_since(self.context.time.now())).unwrap_or_default();
            left.clamp(Duration::from_secs(1), FAR)
        });
        self.report(draft, None, NextPass::after(left)).await
    }

    async fn report_refused(&self, Refused { ready, again }: Refused) -> NextPass {
        let draft = Draft {
            generation: Some(self.latest().generation),
            ready: Some(ready),
            current: Some(self.current()),
            ..Draft::default()
        };
        let next = self.report(draft, self.live(), NextPass::OnChange).await;
        again.map_or(next, |again| next.sooner(again))
    }

    async fn report_conflict(&self, conflict: TargetConflict) -> NextPass {
        let TargetConflict {
            conflict,
            observed,
            versions,
        } = conflict;
        let ready = Verdict::fails(conflict.reason(), conflict.to_string());
        let next = self.report_refused(Refused { ready, again: None }).await;
        // Only what was reported need not be reported again.
        if !matches!(next, NextPass::AfterBackOff | NextPass::AtStatusTurn(_)) {
            let revision = self.entry.revision;
            self.remember(|memory| {
                if conflict.is_immutable() {
                    memory.refused = Some(Box::new((revision, versions)));
                } else {
                    memory.conflict = observed.map(|observed| Box::new((revision, observed)));
                }
            });
        }
        if conflict.is_immutable() {
            next
        } else {
            next.sooner(RECHECK_CONFLICT)
        }
    }
}

impl NextPass {
    /// After this time, if there is one.
    fn after(wait: Option<Duration>) -> Self {
        wait.map_or(Self::OnChange, Self::After)
    }

    /// After `wait` at the latest.
    pub(super) fn sooner(self, wait: Duration) -> Self {
        match self {
            Self::OnChange => Self::After(wait),
            Self::After(other) => Self::After(other.min(wait)),
            // The turn is kept: to come before it would only ask again.
            Self::AtStatusTurn(_) | Self::AfterBackOff => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_look_wins_and_a_failure_keeps_its_back_off() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
        for (next, wait, expected) in [
            (NextPass::OnChange, long, Some(long)),
            (NextPass::After(short), long, Some(short)),
            (NextPass::After(long), short, Some(short)),
            (NextPass::AfterBackOff, short, None),
            (NextPass::AtStatusTurn(long), short, Some(long)),
        ] {
            let after = match next.sooner(wait) {
                NextPass::After(wait) | NextPass::AtStatusTurn(wait) => Some(wait),
                NextPass::AfterBackOff => None,
                NextPass::OnChange => panic!("a wait was forgotten"),
            };
            assert_eq!(after, expected, "{next:?} {wait:?}");
        }
    }
}
