//! Identities, pooled clients, batched reads, classes of errors, rate limits. The only place that names the AWS SDK.
//!
//! It promises: two stores never share credentials, whatever they are called; STS is asked once per identity and
//! session; a session ends within a minute of a change of the ServiceAccount or the keys that it was made from; a secret is
//! read once however many wait for it; every call ends in time, within the account's budget, in a classified error that holds
//! neither a value nor a request id; a value is in memory only while somebody needs it; every value that is read leaves a
//! line in the audit log.

mod calls;
mod client;
mod credentials;
mod error;
mod identity;
mod kube_tokens;
mod limit;
mod metrics;
mod origins;
mod pages;
mod queue;
mod reader;
mod remote;
mod secrets_manager;
mod service;
mod sessions;
mod suspects;
mod trust;

pub use calls::Aws;
pub use client::AwsConfig;
pub use error::{Class, Error};
pub use identity::{Base, Identity, KeyRef, Role, Source, session_name};
pub use kube_tokens::{
    KubeTokenError, KubeTokens, SecretKeyValue, ServiceAccountFacts, ServiceAccountToken, TokenFuture,
};
pub use limit::Urgency;
pub use metrics::Metrics;
pub use reader::{Age, Demand, Patience, Read, Reader};
pub use remote::{Description, RemoteValue};
pub use secrets_manager::SECRETS_MANAGER;
pub use service::{Operations, Service};

#[cfg(test)]
pub(crate) mod tests;
