//! What is known of failures of one remote secret, and when it is called for again.

use std::{sync::Arc, time::Duration};

use crate::track::{Call, Failure, Freshness, Now, absence::Absence};

/// The first pause before what failed is asked for again; it doubles up to the longest. Passes that a person asked for keep
/// this much apart, too.
pub(super) const FIRST_STEP: Duration = Duration::from_secs(10);

/// A failure that waiting does not mend, or an id that gave no usable answer: of Describe, or of one view.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) failure: Failure,
    /// In words, where AWS gave some.
    pub(super) text: Option<Arc<str>>,
    /// The call that failed. A view whose label Describe does not show fails by Describe.
    pub(super) call: Call,
    /// When the call began that has shown it last.
    pub(super) at: Now,
    /// When anybody last called for it.
    pub(super) called: Now,
    pub(super) next: Now,
    pub(super) tries: u8,
    /// Describe is to tell first whether the label that a read has missed is there.
    pub(super) describe_first: bool,
    /// When the view was last checked before it began to fail.
    pub(super) good: Option<Now>,
    /// Since when Describe shows that it is gone.
    pub(super) absence: Option<Absence>,
}

impl Trouble {
    /// Whether users are told.
    pub(super) fn is_told(&self) -> bool {
        self.failure != Failure::Unanswered
    }

    /// Whether Describe, rather than a read, tells of its end.
    pub(super) fn is_described(&self) -> bool {
        self.call == Call::Describe || self.describe_first
    }

    pub(super) fn is_gone(&self) -> bool {
        self.call == Call::Describe && self.failure.may_be_gone()
    }

    /// Whether what it says is all that the pass wants to know.
    pub(super) fn answers(&self, freshness: Freshness) -> bool {
        match freshness {
            Freshness::Known(_) => true,
            Freshness::Asked(since) => self.at >= since,
        }
    }

    /// Another call for it starts.
    pub(super) fn call_again(&mut self, now: Now, longest: Duration) {
        self.called = now;
        self.next = now + pause(&self.failure, self.tries.saturating_add(1), longest);
    }
}

/// A call that failed.
pub(super) struct FailedCall {
    pub(super) call: Call,
    pub(super) failure: Failure,
    pub(super) text: Option<Arc<str>>,
    /// When the call began.
    pub(super) begun: Now,
    /// Whether the secret was described since.
    pub(super) described: bool,
}

/// Takes a failure into its place. Gives whether users learn something new.
pub(super) fn take_failure(
    place: &mut Option<Box<Trouble>>,
    now: Now,
    failed: FailedCall,
    longest: Duration,
    good: Option<Now>,
) -> bool {
    let FailedCall {
        call,
        failure,
        text,
        begun,
        described: _,
    } = failed;
    if let Some(told) = place
        .as_mut()
        .filter(|told| told.is_told() && failure == Failure::Unanswered)
    {
        // Nothing new: what users were told of stands, and its end is told too.
        told.tries = told.tries.saturating_add(1);
        told.next = now + pause(&told.failure, told.tries, longest);
        return false;
    }
    let before = place.take();
    let tries = before.as_ref().map_or(0, |before| before.tries).saturating_add(1);
    // What only another call words differently is the same.
    let text = text.or_else(|| {
        let before = before.as_ref().filter(|before| before.failure == failure)?;
        before.text.clone()
    });
    let trouble = Trouble {
        next: now + pause(&failure, tries, longest),
        failure,
        text,
        call,
        at: begun,
        called: before.as_ref().map_or(begun, |before| before.called.max(begun)),
        tries,
        describe_first: before.as_ref().is_some_and(|before| before.describe_first),
        good: before.as_ref().map_or(good, |before| before.good),
        absence: None,
    };
    let same = before.as_ref().is_some_and(|before| {
        before.failure == trouble.failure
            && before.is_gone() == trouble.is_gone()
            && (before.text == trouble.text || before.text.is_none())
    });
    let news = trouble.is_told() && !same;
    *place = Some(Box::new(trouble));
    news
}

/// How long a failure waits until its call is made again.
fn pause(failure: &Failure, tries: u8, longest: Duration) -> Duration {
    let doublings = u32::from(tries.saturating_sub(1).min(9));
    match failure {
        Failure::Unanswered => Duration::from_secs(1 << tries.min(12)).min(longest),
        _ => FIRST_STEP
            .saturating_mul(1 << doublings)
            .min(longest.max(FIRST_STEP)),
    }
}
