//! How much of the time work takes that changes ask for again and again. Pure.

use std::time::Duration;

/// A share of the time.
#[derive(Clone, Copy, Debug)]
pub(in crate::restart) struct DutyCycle {
    /// At most one part in so many goes into the work...
    pub(in crate::restart) part: u32,
    /// ...which is never begun again before this time...
    pub(in crate::restart) least: Duration,
    /// ...nor, even if it takes longer than its share, put off for longer than this.
    pub(in crate::restart) longest: Duration,
}

impl DutyCycle {
    /// The pause after work that `took` so long.
    pub(in crate::restart) fn after(self, took: Duration) -> Duration {
        took.saturating_mul(self.part).clamp(self.least, self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_rests_longer_within_bounds() {
        let share = DutyCycle {
            part: 10,
            least: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        };
        for (took, rests) in [(0, 100), (5, 100), (20, 200), (900, 9_000), (5_000, 10_000)] {
            assert_eq!(
                share.after(Duration::from_millis(took)),
                Duration::from_millis(rests)
            );
        }
        assert_eq!(share.after(Duration::MAX), share.longest);
    }
}
