//! What differs from one service of AWS to the next: its calls, and how large, frequent and fallible these are.
//!
//! A further service is one file beside `secrets_manager`, with a type for its calls and a [`Service`] that makes it. All else
//! (credentials, rate limits, time-outs, batching, the audit log, the tracker) is the same for each.

use std::{
    fmt,
    future::Future,
    hash::{Hash, Hasher},
    pin::Pin,
    sync::Arc,
};

use super::{
    client::ClientSettings,
    credentials::CredentialCache,
    error::Cause,
    limit::Operation,
    queue::Rate,
    remote::{Description, RemoteValue},
};
use crate::api::Selector;

/// A service of AWS that holds secrets. Two of one name are the same.
pub struct Service {
    /// Its name: two words of letters, such as `SecretsManager`.
    pub name: &'static str,
    /// What its rights are called in a policy, before the colon.
    pub prefix: &'static str,
    /// What its operations are called.
    pub operations: Operations,
    /// Most keys of one batch.
    pub batch: usize,
    /// Most secrets on a page of a list.
    pub page: usize,
    /// How often each operation may be called, for an account in a region.
    pub(super) rate: fn(Operation) -> Rate,
    /// The code of an answer that says that a list cannot go on from where it was.
    pub(super) lost_page: &'static str,
    /// The calls in a region, signed with the credentials of a cache.
    pub(super) connect: fn(&ClientSettings, &str, Arc<CredentialCache>) -> Arc<dyn Calls>,
}

/// What a service calls its operations.
#[derive(Debug)]
pub struct Operations {
    /// Reads one version of one secret.
    pub get: &'static str,
    /// Reads the current versions of several.
    pub batch: &'static str,
    /// Shows the versions of one, without values.
    pub describe: &'static str,
    /// Shows those of all, page by page.
    pub list: &'static str,
}

/// The calls to a service for one source. Each is one request, which the SDK may repeat; what comes before and after (whose
/// turn it is, credentials that AWS no longer takes, metrics) is not theirs.
///
/// `home` is the account that asks, if it is known: errors may name it, and no other.
pub(super) trait Calls: fmt::Debug + Send + Sync {
    /// Reads one version of one secret.
    fn get(&self, key: Arc<str>, selector: Selector, home: Home) -> Reply<RemoteValue>;

    /// Reads the current versions of at most [`Service::batch`] secrets.
    fn batch(&self, keys: &[Arc<str>], home: Home) -> Reply<Batch>;

    /// Shows the versions of one secret, also of one that is marked for deletion.
    fn describe(&self, key: Arc<str>, home: Home) -> Reply<Description>;

    /// Shows a page of all secrets of the account, those marked for deletion too.
    fn list(&self, page: Option<String>, home: Home) -> Reply<Page>;
}

/// The account that asks.
pub(super) type Home = Option<Arc<str>>;

/// A call that begins when it is polled. It is tens of KB: make it when it is its turn.
pub(super) type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Cause>> + Send>>;

/// What a batch has answered. A key may be in neither.
#[derive(Debug)]
pub(super) struct Batch {
    /// Values, in no order.
    pub(super) values: Vec<RemoteValue>,
    /// Errors of single keys, as they were given.
    pub(super) errors: Vec<(String, Cause)>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) secrets: Vec<Description>,
    /// The token of the next page, if there is one.
    pub(super) next: Option<String>,
}

impl Service {
    /// What the operation is called.
    pub(super) fn operation(&self, operation: Operation) -> &'static str {
        let Operations {
            get,
            batch,
            describe,
            list,
        } = self.operations;
        match operation {
            Operation::Get => get,
            Operation::Batch => batch,
            Operation::Describe => describe,
            Operation::List => list,
        }
    }
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Service {}

impl Hash for Service {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
