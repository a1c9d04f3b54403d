//! The operator from outside: a real API server, an emulator of AWS, the chart's own rights, one process of `keyturn`.
//!
//! All tests share one control plane, one emulator and one operator, each in a namespace and an AWS account of its own
//! ([`harness::bed`]). Those that kill, restart or drown something use a second control plane ([`harness::quarry`]) with
//! operators of their own, each confined to its namespace.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests measure how long things take, print what they found, and fail by a panic"
)]
#![expect(
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    reason = "manifests made in place read best as arguments, and a failure is told once"
)]

mod admission;
mod alarms;
mod batches;
mod canary;
mod conditions;
mod control;
mod deletion;
mod emergency;
mod failing;
mod faults;
mod harness;
mod identities;
mod leases;
mod operator;
mod outages;
mod ownership;
mod probes;
mod reading;
mod refresh;
mod release;
mod removal;
mod restart_control;
mod restart_coverage;
mod restart_crashes;
mod restart_evict;
mod restart_failing;
mod restart_faults;
mod restart_gitops;
mod restart_health;
mod restart_keys;
mod restart_limits;
mod restart_need;
mod restart_rollouts;
mod restart_scope;
mod restart_steady;
mod restart_windows;
mod restart_writes;
mod restore;
mod retention;
mod rolling;
mod rotation;
mod slow_server;
mod status;
mod steady_state;
mod stores;
mod sync;
mod tenancy;
mod tenants;
mod token_key;
mod unobserved;
mod upgrade;
mod wakes;
mod weather;
