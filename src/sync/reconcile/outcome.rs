//! How a pass ends, and when the object is looked at again.

use std::time::Duration;

use crate::{
    aws,
    cluster::Observed,
    objects::status::Verdict,
    sync::{decide::admission::Suspended, plan, resolve::Refusal, stores::Unusable},
};

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

impl From<Unusable> for Stop {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::NotYet => Self::WaitFor(None),
            Unusable::Refused(refusal) => refusal.into(),
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

impl NextPass {
    /// After this time, if there is one.
    pub(super) fn after(wait: Option<Duration>) -> Self {
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
