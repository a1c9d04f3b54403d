//! What people see of restarts: status, condition, events and numbers.

pub(super) mod derive;
pub mod report;
pub(super) mod status_writer;

#[cfg(test)]
mod tests;
