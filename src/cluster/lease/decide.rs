//! Who leads, as a state machine of what was read and written, when. No IO, no clock.
//!
//! Times are of this replica's monotonic clock. The times in the Lease, written by another machine's clock,
//! decide nothing: a holder is taken for gone when the Lease did not change for its whole duration *while we
//! looked*. A holder counts its own time from before it sent the renewal that succeeded, so it always stops
//! before anyone else can begin.

use std::time::{Duration, Instant};

/// How long a Lease holds after its last renewal.
pub(super) const DURATION: Duration = Duration::from_secs(30);
/// After how long without a successful renewal a holder gives up and sends nothing more. What was sent before
/// arrives or times out in the 10 s that are left until another replica can begin.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(20);
/// How often a holder renews and others look.
pub(super) const RETRY: Duration = Duration::from_secs(4);
/// A Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The holder; `None` if it was vacated.
    pub holder: Option<String>,
    /// How long it holds after a change.
    pub duration: Duration,
    /// Its uid.
    pub uid: String,
    /// Changes with every write.
    pub resource_version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Create the Lease: there is none.
    Create,
    /// Become its holder, by a write that rests on the view last observed.
    Take,
    /// Renew it, by a write that rests on the view last observed.
    Renew,
    /// Another holds it.
    Wait,
    /// It was ours and is not any more, or could not be renewed in time: end the process.
    Lost,
}

/// One replica's knowledge of the Lease.
#[derive(Clone, Debug)]
pub(super) struct Elector {
    me: String,
    /// The Lease as last read, and when this state of it was first seen.
    seen: Option<(View, Instant)>,
    /// When the last write that made or kept us the holder was sent.
    held: Option<Instant>,
    /// The Lease was deleted under its holder, who may not know yet: nobody begins before this.
    orphaned_until: Option<Instant>,
}

impl Elector {
    /// `me` must differ in every process that ever runs, also after a restart of the same Pod.
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            seen: None,
            held: None,
            orphaned_until: None,
        }
    }

    /// The Lease was read; `None` if there is none.
    pub(super) fn observe(&mut self, view: Option<View>, now: Instant) {
        self.seen = match (self.seen.take(), view) {
            (Some((old, since)), Some(view)) if old == view => Some((view, since)),
            (old, view) => {
                if let Some((
                    View {
                        holder: Some(_),
                        uid,
                        duration,
                        ..
                    },
                    _,
                )) = old
                    && view.as_ref().is_none_or(|view| view.uid != uid)
                {
                    self.orphaned_until = Some(now + duration);
                }
                view.map(|view| (view, now))
            }
        };
    }

    /// Our write, sent at `sent`, was accepted and left the Lease like this.
    pub(super) fn wrote(&mut self, view: View, sent: Instant, now: Instant) {
        self.held = (view.holder.as_deref() == Some(&self.me)).then_some(sent);
        self.observe(Some(view), now);
    }

    /// The view that a write must rest on.
    pub(super) fn seen(&self) -> Option<&View> {
        self.seen.as_ref().map(|(view, _)| view)
    }

    /// What to do at `now`, right after an observation.
    pub(super) fn decide(&self, now: Instant) -> Decision {
        if let Some(sent) = self.held {
            return if self.is_holder() && now < sent + RENEW_DEADLINE {
                Decision::Renew
            } else {
                Decision::Lost
            };
        }
        if self.orphaned_until.is_some_and(|until| now < until) {
            return Decision::Wait;
        }
        match &self.seen {
            // At once, so that a new installation begins at once. The price: if the Lease is deleted by hand and this
            // process never saw it, two may lead until the holder's next renewal, 4 s on a good network; writes
            // still carry their preconditions.
            None => Decision::Create,
            Some((View { holder: None, .. }, _)) => Decision::Take,
            // Our own name without a write of ours that was answered: like any other holder. Either the
            // answer was lost, or another process has our name.
            Some((View { duration, .. }, since)) if now >= *since + *duration => Decision::Take,
            Some(_) => Decision::Wait,
        }
    }

    /// Until when writes may be sent.
    pub(super) fn may_write_until(&self) -> Option<Instant> {
        self.held.map(|sent| sent + RENEW_DEADLINE)
    }

    /// Whether the Lease as last read names us.
    pub(super) fn is_holder(&self) -> bool {
        self.seen().and_then(|view| view.holder.as_deref()) == Some(&self.me)
    }

    /// Whether we hold the Lease, as far as we know.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }
}
