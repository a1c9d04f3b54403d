//! The reconciler of ExternalSecrets and of the stores: observe, plan, apply.
//!
//! It promises: a Secret is written whole or not at all, in one request, and only if it is ours; an error never empties
//! it; whoever may not read a key is refused before AWS is asked; what is as it should be costs no call and no write; one
//! bad object delays no other.

pub mod decide;
pub mod deletions;
pub mod driver;
mod events;
pub mod metrics;
pub mod plan;
pub mod queue;
pub mod reconcile;
mod resolve;
pub mod rotation;
pub mod run;
#[cfg(test)]
mod second_service;
mod slice;
mod start;
pub mod stores;
pub mod work;

pub use resolve::Rules;
pub use start::{Settings, StoreIndexes, start};
