//! Restarts of the workloads that use a Secret, after its content changed.
//!
//! It promises: at most one restart by us for a workload and a content, and none without a live pod that holds older
//! content; no intent is lost over a crash, since what is asked for stands on the pod template and what is missing is found
//! again from Secrets and pods; no more workloads roll out at once than the limits say; what fails stops what follows.

mod controller;
mod execute;
mod judge;
mod metrics;
mod observed;
mod publish;
mod schedule;
mod timing;

pub use controller::run;
pub use metrics::Metrics;
pub use observed::{Context, Settings, Workloads, model::Limits};

#[cfg(test)]
mod tests;
