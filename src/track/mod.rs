//! Which remote secrets are wanted, by whom, how fresh; when to check, with which call; what changed. Pure: events
//! in, effects out, the time an argument.
//!
//! It promises: what is wanted is asked once however many want it; a version that moved wakes every object that wants
//! it; no version that a stale replica shows is accepted within ten minutes of having been left, nor over a restart;
//! only Describe decides that a secret is gone; nothing is asked twice at the same time; one failing secret, one
//! failing source delays no other; an event costs time by its size and the logarithm of what is known.

mod absence;
mod answers;
mod backoff;
mod checks;
mod cohort;
mod dice;
mod effect;
mod failure;
mod joining;
mod lanes;
mod names;
mod objects;
mod observation;
mod plan;
mod remote;
mod round;
mod source;
mod tracker;
mod view;
mod want;

pub use effect::{Cause, Effect, Known, Mode, Trial, Why, Withheld};
pub use observation::{Call, Described, Failure, Observation, Rotation, Schedule, Stages};
pub use tracker::Tracker;
pub use want::{CallSizes, Config, Detection, Freshness, Now, Refresh, SourcePolicy, Subscription, Want};

#[cfg(test)]
mod tests;
