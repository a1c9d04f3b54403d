//! What Keyturn is developed and shown on.

pub mod aws;
pub mod conditions;
pub mod controlplane;
pub mod history;
pub mod manifest;
pub mod operator;
pub mod proxy;
pub mod requests;
pub mod wait;
pub mod workloads;
