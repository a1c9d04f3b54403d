//! Since when Describe shows that a secret is gone, and whether it has shown so twice.

use std::time::Duration;

use crate::track::Now;

/// A secret that is gone counts as deleted if Describe shows it gone again after at least this.
const CONFIRM: Duration = Duration::from_mins(1);

/// A secret that Describe shows as gone, without a break since the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    first: Now,
    last: Now,
    /// Somebody waits for the confirmation: it is looked for as soon as it can be had, and told.
    wanted: bool,
}

/// What another answer of Describe means for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The first one, or one too early or too late to matter.
    Again,
    /// The confirmation that somebody waits for.
    Confirmed,
}

impl Absence {
    /// Describe has shown the secret as gone; `before` is what was known.
    pub(super) fn see(before: Option<Self>, now: Now) -> (Self, Seen) {
        let Some(before) = before else {
            let first = Self {
                first: now,
                last: now,
                wanted: false,
            };
            return (first, Seen::Again);
        };
        let absence = Self { last: now, ..before };
        let told = absence.wanted && absence.is_confirmed() && !before.is_confirmed();
        let seen = if told { Seen::Confirmed } else { Seen::Again };
        (absence, seen)
    }

    pub(super) fn is_confirmed(self) -> bool {
        self.last >= self.first + CONFIRM
    }

    /// Asks for the confirmation.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// When to describe for the confirmation; none if it is there, or nobody waits for it.
    pub(super) fn due(self) -> Option<Now> {
        (self.wanted && !self.is_confirmed()).then(|| self.first + CONFIRM)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_two_answers_a_minute_apart_confirm_and_one_of_them_is_told(
            steps in prop::collection::vec((0_u64..90, any::<bool>()), 1..20),
        ) {
            let (mut now, mut known, mut first, mut told) = (Duration::ZERO, None::<Absence>, None, 0);
            for (seconds, wanted) in steps {
                now += Duration::from_secs(seconds);
                if let Some(known) = known.as_mut().filter(|_| wanted) {
                    known.want();
                }
                let waits = known.is_some_and(|known| known.due().is_some());
                let (absence, seen) = Absence::see(known, now);
                let first = *first.get_or_insert(now);
                prop_assert_eq!(absence.is_confirmed(), now >= first + CONFIRM);
                prop_assert_eq!(seen == Seen::Confirmed, waits && absence.is_confirmed());
                told += usize::from(seen == Seen::Confirmed);
                known = Some(absence);
            }
            prop_assert!(told <= 1);
        }
    }
}
