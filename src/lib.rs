//! Keyturn keeps Kubernetes Secrets equal to what AWS Secrets Manager says.
//!
//! The rooms, in the order a value travels; `ARCHITECTURE.md` says which may use which.

pub mod api;

pub mod cluster;

pub mod track;

pub mod aws;

pub mod value;

pub mod sync;

pub mod restart;

pub mod telemetry;

pub mod cli;
