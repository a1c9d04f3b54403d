//! All times of restarts: how long what is waited for, how often what is done, and how much of the time work may take. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

// What is observed.

/// A pod made this soon after the change may still have been given the old content: kubelets read from a cache, and times
/// have whole seconds.
pub(super) const CREATED_MARGIN: SignedDuration = SignedDuration::from_secs(10);
/// A container started later than this after the change holds the new content in an old pod, too: by then the kubelet's
/// cache is renewed.
pub(super) const STARTED_MARGIN: SignedDuration = SignedDuration::from_secs(60);
/// The node of a pod counts as lost after it has not answered for so long, by what the control plane wrote on the pod.
pub(super) const NODE_SILENT: SignedDuration = SignedDuration::from_secs(60);
/// Pods that were never listed are listed at least this long after the last list.
pub(super) const LIST_FIRST: Duration = Duration::from_secs(1);
/// After a change of a workload, pods are listed again at least this long after the last list.
pub(super) const LIST_AGAIN: Duration = Duration::from_secs(5);
/// While something rolls out, pods are listed this often.
pub(super) const LIST_ROLLING: Duration = Duration::from_secs(10);
/// While something is broken, pods are listed this often.
pub(super) const LIST_BROKEN: Duration = Duration::from_mins(1);
/// While something waits, pods are listed this often: a controller that replaces them changes the workload, which is seen.
pub(super) const LIST_WAITING: Duration = Duration::from_mins(5);
/// After a list that failed, pods are listed again at least this long after it.
pub(super) const LIST_FAILED: Duration = Duration::from_secs(10);
/// How long restarts wait for the first list of Rollouts, which readiness does not wait for.
pub(super) const ROLLOUTS_WAIT: Duration = Duration::from_secs(30);

// What is judged.

/// How long a rollout may take whose ExternalSecret is gone, from the restart on.
pub(super) const ROLLOUT_TIMEOUT: std::time::Duration = std::time::Duration::from_mins(10);
/// A rollout that takes longer holds no slot of the cluster any more, so that other namespaces do not wait indefinitely.
pub(super) const SLOT_HELD: SignedDuration = SignedDuration::from_mins(30);
/// Clocks of API servers differ by less. A patch dated further ahead was not made by Keyturn.
pub(super) const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);
/// A container that crashed counts as working again after it ran for so long: between two crashes it may look well.
pub(super) const RECOVERY_PROOF: SignedDuration = SignedDuration::from_secs(60);
/// A container that waits without restarts counts as broken after this time: an image may be slow, a Secret late.
pub(super) const START_STUCK: SignedDuration = SignedDuration::from_secs(60);
/// How long an index may lag behind a patch that was sent, and how long after a patch was taken back the second one is
/// tried.
pub(super) const PATCH_SHOWN: SignedDuration = SignedDuration::from_secs(30);
/// How long an eviction that a disruption budget refused waits.
pub(super) const EVICT_AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// The back-off of a refused request, the first time and at most, in seconds.
pub(super) const BACK_OFF_FIRST: i64 = 10;
pub(super) const BACK_OFF_LONGEST: i64 = 300;
/// How long a decision rests that did not hold when the workload was read again, the first time and at most.
pub(super) const REST_FIRST: SignedDuration = SignedDuration::from_secs(2);
pub(super) const REST_LONGEST: SignedDuration = SignedDuration::from_secs(30);
/// Windows that do not open within four years are computed again after this time.
pub(super) const WINDOWS_AGAIN: SignedDuration = SignedDuration::from_hours(24);

// What is scheduled.

/// A change that comes at most this long after a rotation that AWS reports is taken for its own: the Secret may follow it by a
/// refresh interval.
pub(super) const ROTATION_FOLLOWED: SignedDuration = SignedDuration::from_hours(24);
/// A write of a Secret ends after so long, whatever becomes of it.
pub(super) const WRITE_AT_MOST: SignedDuration = SignedDuration::from_secs(30);
/// A change settles: kubelets and the systems that know the credential follow with a delay. Five seconds, and one more since
/// times of changes are cut to whole seconds.
pub(super) const SETTLE: SignedDuration = SignedDuration::from_secs(6);
/// Further changes are waited for, so that they make one restart.
pub(super) const COALESCE: SignedDuration = SignedDuration::from_secs(10);
/// Changes that follow each other without a pause are followed after this time all the same.
pub(super) const COALESCE_AT_MOST: SignedDuration = SignedDuration::from_secs(60);
/// A pod that takes an evicted one's place carries no token: only one made so late is known to hold the new content. Times
/// have whole seconds.
pub(super) const EVICT_SETTLE: SignedDuration = CREATED_MARGIN.saturating_add(SignedDuration::from_secs(2));
/// The time of one round of workloads that roll out together, in seconds.
pub(super) const ROUND: i64 = 60;
/// A request that has not ended by then is taken for lost.
pub(super) const REQUEST_LOST: Duration = Duration::from_mins(1);
/// How much of the time decisions take.
pub(super) const DECIDE: DutyCycle = DutyCycle {
    part: 10,
    least: Duration::from_millis(100),
    longest: Duration::from_secs(10),
};
/// How much of the time judging one namespace takes. Changes that come together are judged together. However much a tenant
/// puts into a namespace, the others keep nearly all of the time.
pub(super) const JUDGE_NAMESPACE: DutyCycle = DutyCycle {
    part: 20,
    least: Duration::from_millis(200),
    longest: Duration::from_hours(1),
};
/// How much of the time judging single workloads takes.
pub(super) const JUDGE_WORKLOADS: DutyCycle = DutyCycle {
    least: Duration::from_millis(20),
    ..JUDGE_NAMESPACE
};
/// How often what is gone is forgotten.
pub(super) const SWEEP: Duration = Duration::from_mins(5);

// What is sent.

/// A Rollout's `spec.restartAt` lies this long after the change: pods made before it are replaced, and one second more makes
/// a pod fresh.
pub(super) const RESTART_AT: SignedDuration = SignedDuration::from_secs(11);
/// How long a note waits after another writer came first, and after a write that failed otherwise.
pub(super) const NOTE_CONFLICTED: Duration = Duration::from_secs(2);
pub(super) const NOTE_FAILED: Duration = Duration::from_secs(10);
/// How long requests under way may take to end.
pub(super) const GRACE: Duration = Duration::from_secs(15);

// What is published.

/// How long the first lists of pods may take before events and statuses are published without them.
pub(super) const WARM_UP: Duration = Duration::from_mins(1);
/// How long a status waits for pods that are not known yet.
pub(super) const AWAIT_PODS: Duration = Duration::from_secs(30);
/// The least time between two writes of one status.
pub(super) const STATUS_GAP: Duration = Duration::from_secs(5);
/// How long the index has to show a status that was written. A status that it does not show by then was changed by another
/// writer.
pub(super) const STATUS_SHOWN: Duration = Duration::from_secs(30);

/// `time` and `by` later, at most the end of time.
pub(super) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// A share of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct DutyCycle {
    /// At most one part in so many goes into the work...
    pub(super) part: u32,
    /// ...which is never begun again before this time...
    pub(super) least: Duration,
    /// ...nor, even if it takes longer than its share, put off for longer than this.
    pub(super) longest: Duration,
}

impl DutyCycle {
    /// The pause after work that `took` so long.
    pub(super) fn after(self, took: Duration) -> Duration {
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
