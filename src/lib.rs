//! Keyturn keeps Kubernetes Secrets equal to what AWS Secrets Manager says.
//!
//! The rooms, in the order a value travels; `ARCHITECTURE.md` says which may use which.

pub mod api;

mod cluster;

mod objects;

mod track;

mod aws;

mod value;

mod sync;

mod restart;

mod telemetry;

pub mod cli;
