//! Kubernetes plumbing: slim watches and indexes, writes with preconditions, events, lease, server time.
//!
//! The only room that builds kube clients and watches. It promises:
//! - every call ends within its [`TimeLimit`], a dead connection included; only reads are retried;
//! - an [`Error`] never carries text of the API server, which quotes values;
//! - no value of a Secret stays in memory or reaches a log: the Secret watch keeps tokens only;
//! - writes exist on [`Writer`] only, carry preconditions, and are not sent without a valid lease.

mod call;
mod client;
mod error;
mod event_history;
mod events;
mod find;
mod index;
mod key;
mod lease;
mod metrics;
mod pace;
mod rollout;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod time;
mod tokens;
mod writes;

pub use call::{CALL_TIMEOUT, FENCED_TIMEOUT, TimeLimit, Verb};
pub use client::{Access, Cluster};
pub use error::{Class, Error};
pub use events::{Alert, EventDraft, Events};
pub use find::Found;
pub use index::{
    Change, Changes, Control, Demand, FirstLists, Index, Indexed, Malformed, NamespaceEntry, Project, Scope,
    SecretEntry, Watches,
};
pub use key::token_key;
pub use lease::{Leadership, Lease};
pub use metrics::{Metrics, WatchAges};
pub use pace::Pace;
pub use rollout::Rollout;
pub use time::ServerTime;
pub use tokens::Tokens;
pub use writes::{JsonPatch, Observed, TestedPatch, Writer};
