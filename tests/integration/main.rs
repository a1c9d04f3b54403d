//! The operator from outside: a real API server, an emulator of AWS, the chart's own rights, one process of `keyturn`.
//!
//! All tests share one control plane, one emulator and one operator, each in a namespace and an AWS account of its own
//! ([`harness::bed`]). Those that kill, restart or drown something use a second control plane ([`harness::quarry`]) with
//! operators of their own, each confined to its namespace.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::similar_names,
    reason = "the helpers of tests are tests too: what they print is captured, and their clock decides nothing"
)]

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
