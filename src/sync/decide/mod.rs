//! The decisions of a pass over an ExternalSecret, without the pass. Pure.
//!
//! In the order in which a pass makes them: whether the object is admitted, what it reads, whether its Secret is as it
//! should be, and what the Secret should hold. The reconciler calls them, and a command line can: none of them needs a
//! Lease, events, the queue or an API server.

pub mod admission;
pub mod answers;
pub mod comparison;
pub mod contest;
pub mod record;
pub mod references;
pub mod render;
pub mod versions;

#[cfg(test)]
mod tests;
