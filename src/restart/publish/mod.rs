//! What people see of restarts: status, condition, events, audit log and numbers.

pub mod event_detector;
mod events;
pub(super) mod publisher;
pub mod report;
mod status_writer;

pub(super) use events::log_approval;

#[cfg(test)]
mod tests;
