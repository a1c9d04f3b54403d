//! Which workloads restart now: slots, waves, windows and halts over all namespaces, and when a namespace is judged again.

mod candidate;
mod debounce;
pub mod decide;
pub(super) mod in_flight;
pub(super) mod namespace;
pub mod per_object;
mod slots;

#[cfg(test)]
pub mod tests;
