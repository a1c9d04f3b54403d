//! The operator from outside: a real API server, an emulator of AWS, the chart's own rights, one process of `keyturn`.
//!
//! All tests share one control plane, one emulator and one operator, each in a namespace and an AWS account of its own
//! ([`harness::bed`]). Those that kill, restart or drown something use a second control plane ([`harness::quarry`]) with
//! operators of their own, each confined to its namespace.

mod admission;
mod canary;
mod conditions;
mod deletion;
mod faults;
mod harness;
mod leases;
mod operator;
mod outages;
mod ownership;
mod reading;
mod refresh;
mod status;
mod steady_state;
mod stores;
mod sync;
mod tenancy;
mod wakes;
mod weather;
