//! Identities, pooled clients, batched reads, classes of errors, rate limits. The only place that names the AWS SDK.
//!
//! It promises: two stores never share credentials, whatever they are called; STS is asked once per identity and
//! session; a session ends within a minute of a change of the ServiceAccount or the keys that it was made from; a secret is
//! read once however many wait for it; every call ends in time, within the account's budget, in a classified error that holds
//! neither a value nor a request id; a value is in memory only while somebody needs it; every value that is read leaves a
//! line in the audit log.

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
mod secrets;
mod sessions;
mod suspects;
mod trust;

pub use client::{AwsConfig, Subscribers};
pub use error::{Cause, Class, Error};
pub use identity::{Base, Identity, KeyRef, Role, Service, Source, session_name};
pub use kube_tokens::{
    KubeTokenError, KubeTokens, SecretKeyValue, ServiceAccountFacts, ServiceAccountToken, TokenFuture,
};
pub use limit::Urgency;
pub use metrics::Metrics;
pub use pages::Pages;
pub use reader::{Ask, Reader, Reading};
pub use remote::{Description, Proven, RemoteValue};
pub use secrets::{Aws, Capabilities};
pub use trust::TrustError;

#[cfg(test)]
mod tests;
