//! How a source waits after failures that pass by themselves.

use std::time::Duration;

use crate::track::{Now, dice::Dice};

/// The shortest pause.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);
/// How often an edit may end a pause.
const CUT: Duration = Duration::from_secs(10);

/// Closed while all is well; after a failure nothing is asked until a time, then one call probes.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempt: u32,
    until: Option<Now>,
    probing: bool,
    /// When an edit last ended a pause.
    cut: Option<Now>,
}

/// Whether the source may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Closed until then.
    Until(Now),
    /// One call may go.
    Probe,
    /// The probe is under way.
    Probing,
}

impl Backoff {
    pub(super) fn gate(&self, now: Now) -> Gate {
        match self.until {
            None => Gate::Open,
            Some(until) if now < until => Gate::Until(until),
            Some(_) if self.probing => Gate::Probing,
            Some(_) => Gate::Probe,
        }
    }

    pub(super) fn probe(&mut self) {
        self.probing = true;
    }

    /// A failure. Those of calls that were under way when the first one failed count once.
    pub(super) fn fail(&mut self, now: Now, dice: &mut Dice) {
        if matches!(self.gate(now), Gate::Until(_)) {
            return;
        }
        self.attempt = self.attempt.saturating_add(1);
        self.wait(now, dice);
    }

    /// A failure that only a person mends: at once a pause of as long as such failures may go unchecked.
    pub(super) fn give_up(&mut self, now: Now, unchecked: Duration, dice: &mut Dice) {
        if !matches!(self.gate(now), Gate::Until(_)) {
            self.attempt = 9;
            let longest = unchecked.clamp(SHORTEST, LONGEST);
            self.until = Some(now + dice.between(longest / 2, longest));
            self.probing = false;
        }
    }

    /// A failure that is one secret's own. It says nothing of a source that works; to one that is being waited for it is a
    /// failure like any other, so that an outage brings no more calls than it would without.
    pub(super) fn fail_alone(&mut self, now: Now, dice: &mut Dice) {
        if self.until.is_some() {
            self.fail(now, dice);
        }
    }

    fn wait(&mut self, now: Now, dice: &mut Dice) {
        let longest = SHORTEST.saturating_mul(1 << self.attempt.min(9)).min(LONGEST);
        self.until = Some(now + dice.between(SHORTEST, longest));
        self.probing = false;
    }

    /// An answer that shows that the source works. It ends no pause that has begun.
    pub(super) fn succeed(&mut self, now: Now) {
        if !matches!(self.gate(now), Gate::Until(_)) {
            *self = Self {
                cut: self.cut,
                ..Self::default()
            };
        }
    }

    /// What failed may work by now, since an identity or a store was changed. However often they are changed, a pause ends
    /// early only once in ten seconds.
    pub(super) fn cut(&mut self, now: Now) {
        let free = self.cut.map_or(now, |cut| now.max(cut + CUT));
        if free == now {
            *self = Self {
                cut: Some(now),
                ..Self::default()
            };
        } else {
            self.until = self.until.map(|until| until.min(free));
        }
    }

    /// The probe got lost.
    pub(super) fn lose(&mut self) {
        self.probing = false;
    }
}
