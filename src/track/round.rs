//! Reading the versions of a secret one by one.

use crate::{api::Selector, track::Now};

/// Views that are read in turn, where Describe is denied.
#[derive(Debug)]
pub(super) struct Round {
    since: Now,
    /// Those that were not asked for yet.
    unasked: Vec<Selector>,
    /// Those that were not answered yet.
    unanswered: Vec<Selector>,
}

impl Round {
    pub(super) fn new(since: Now, views: Vec<Selector>) -> Self {
        Self {
            since,
            unasked: views.clone(),
            unanswered: views,
        }
    }

    /// The next view to read, and whether there are more.
    pub(super) fn next(&mut self) -> Option<(Selector, bool)> {
        let next = self.unasked.pop()?;
        Some((next, !self.unasked.is_empty()))
    }

    /// The view was answered for. Gives when the round began, if it is over.
    pub(super) fn end(&mut self, selector: &Selector) -> Option<Now> {
        for turns in [&mut self.unasked, &mut self.unanswered] {
            turns.retain(|turn| turn != selector);
        }
        self.unanswered.is_empty().then_some(self.since)
    }

    /// The view got no answer. Gives whether it has another turn.
    pub(super) fn repeat(&mut self, selector: &Selector) -> bool {
        let waits = self.unanswered.contains(selector);
        if waits && !self.unasked.contains(selector) {
            self.unasked.push(selector.clone());
        }
        waits
    }
}
