//! Where each workload stands with each Secret that it follows, and what holds it up.

pub mod assess;
pub mod hold;
pub mod membership;
pub mod memory;
pub mod model;
pub mod progress;
pub mod reloader;
pub mod rollout;
pub mod staleness;
pub mod state;
pub mod targets;

#[cfg(test)]
mod tests;
