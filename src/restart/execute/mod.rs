//! Carrying decisions out: a workload is read and judged again, and one request is sent.

pub(super) mod carry_out;
pub(super) mod panics;
pub mod patch;
pub(super) mod record_writes;
pub(super) mod requests;
pub mod step;

#[cfg(test)]
mod tests;
