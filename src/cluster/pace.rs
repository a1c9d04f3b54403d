//! A rate that nobody exceeds.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Gives turns, one after another, at most so many a second. Nobody waits here: whoever has a turn comes back at it, and
/// holds nothing meanwhile that others need.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    next: Mutex<Duration>,
}

impl Pace {
    /// At most `per_second` a second.
    pub fn new(per_second: u32) -> Self {
        Self {
            gap: Duration::from_secs(1) / per_second.max(1),
            next: Mutex::default(),
        }
    }

    /// The next free turn by the clock of `now`, which all callers share: now itself, if nobody else's is close.
    pub fn turn(&self, now: Duration) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*next);
        *next = turn + self.gap;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_a_second_and_no_more() {
        let pace = Pace::new(50);
        let now = Duration::from_secs(7);
        let turns: Vec<_> = (0..101).map(|_| pace.turn(now)).collect();
        assert_eq!(turns.first(), Some(&now));
        assert_eq!(turns.last(), Some(&(now + Duration::from_secs(2))));
    }

    #[test]
    fn what_nobody_used_is_not_saved_up() {
        let pace = Pace::new(50);
        pace.turn(Duration::from_secs(1));
        let now = Duration::from_mins(1);
        assert_eq!(pace.turn(now), now);
        assert_eq!(pace.turn(now), now + Duration::from_millis(20));
    }
}
