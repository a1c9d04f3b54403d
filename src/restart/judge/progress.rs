//! When a rollout last made progress, as its new pods show. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::restart::{observed::model::Pod, timing::later};

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutProgress {
    /// How many new pods there are.
    pub updated: usize,
    /// How many of them are ready.
    pub ready: usize,
    /// When a pod was last made or became ready.
    pub at: Timestamp,
}

impl RolloutProgress {
    /// The progress of the rollout that began at `since` and has these `new` pods. What happened when the rollout had
    /// made no progress for `timeout` belongs to another rollout.
    pub fn new<'a>(since: Timestamp, timeout: SignedDuration, new: impl Iterator<Item = &'a Pod>) -> Self {
        let (mut updated, mut ready) = (0, 0);
        let mut times: Vec<Timestamp> = Vec::new();
        for pod in new.filter(|pod| pod.lives()) {
            updated += 1;
            times.push(pod.created);
            if pod.ready {
                ready += 1;
                times.extend(pod.readiness_since);
            }
        }
        times.sort_unstable();
        let at = times.into_iter().fold(since, |at, time| {
            if time <= later(at, timeout) {
                at.max(time)
            } else {
                at
            }
        });
        Self { updated, ready, at }
    }

    /// Whether it is further than `before`. Pods that come and go, or are ready now and then, are not progress.
    pub const fn is_beyond(&self, before: &Self) -> bool {
        self.updated > before.updated || self.ready > before.ready
    }
}
