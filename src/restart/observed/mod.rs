//! What restarts are decided from: ExternalSecrets with their Secrets, workloads and pods, cut down to what counts.

pub mod annotations;
mod context;
pub(super) mod live;
pub mod managed_secrets;
pub mod model;
pub mod pods;
pub mod records;
pub mod uses;
pub mod wire;
pub mod workload;

pub use context::{Context, Settings, Workloads};

#[cfg(test)]
mod tests;
