//! Turns of long computations: a loop over many objects or keys lets other tasks run now and then.

use std::time::Duration;

use super::{queue::Now, work::Clock};

/// How long a pass may compute before other tasks get a turn. The runtime has two threads, and the Lease is renewed on one
/// of them.
const SLICE: Duration = Duration::from_millis(2);

/// A share of a thread's time.
#[derive(Debug)]
pub(super) struct TimeSlice {
    clock: Clock,
    since: Now,
}

impl TimeSlice {
    /// A slice that begins now.
    pub(super) fn start(clock: Clock) -> Self {
        Self {
            clock,
            since: clock.now(),
        }
    }

    /// Lets other tasks run if the slice is used up.
    pub(super) async fn yield_if_spent(&mut self) {
        if self.clock.now().saturating_sub(self.since) >= SLICE {
            tokio::task::yield_now().await;
            self.since = self.clock.now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_get_a_turn_once_a_slice_is_spent_and_not_before() {
        static TURNS: AtomicUsize = AtomicUsize::new(0);
        let turns = || TURNS.load(Ordering::Relaxed);
        tokio::spawn(async {
            loop {
                TURNS.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let mut slice = TimeSlice::start(Clock::start());
        for _ in 0..1000 {
            slice.yield_if_spent().await;
        }
        assert_eq!(turns(), 0);
        for spent in 1..4 {
            tokio::time::advance(SLICE).await;
            let before = turns();
            slice.yield_if_spent().await;
            assert!(turns() > before, "no turn after slice {spent}");
        }
    }
}
