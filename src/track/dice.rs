//! Randomness for phases and jitter, the same in every run with the same seed.

use std::time::Duration;

/// The generator splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from `from` to `to`, in milliseconds.
    pub(super) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_millis();
        let part = (u128::from(self.roll()) * span) >> 64;
        from + Duration::from_millis(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolls_lie_between_and_spread() {
        let mut dice = Dice::new(7);
        let (from, to) = (Duration::from_secs(10), Duration::from_secs(20));
        let rolls: Vec<_> = (0..1000).map(|_| dice.between(from, to)).collect();
        assert!(rolls.iter().all(|roll| (from..to).contains(roll)));
        let low = rolls.iter().filter(|roll| roll.as_secs() < 15).count();
        assert!((400..600).contains(&low), "{low}");
    }
}
