//! Membership, stale pods, the health of rollouts, and what follows from them for one workload.

mod assess;
mod membership;
mod rollout;
mod staleness;
