//! Restarts of the workloads that use a Secret, after its content changed.
//!
//! It promises: at most one restart by us for a workload and a content, and none without a live pod that holds older
//! content; no intent is lost over a crash, since what is asked for stands on the pod template and what is missing is found
//! again from Secrets and pods; no more workloads roll out at once than the limits say; what fails stops what follows.

mod apply;
pub mod block;
mod carry;
mod context;
mod controller;
pub mod door;
pub mod facts;
pub mod health;
pub mod member;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod need;
pub mod note;
pub mod patch;
mod phase;
pub mod pods;
pub mod queue;
mod records;
pub mod reloader;
pub mod report;
mod say;
mod share;
mod space;
pub mod step;
pub mod target;
mod told;
pub mod uses;
pub mod wishes;
pub mod workload;

pub use context::{Context, Workloads};
pub use controller::run;

#[cfg(test)]
mod tests;
