//! What this room wants from Kubernetes; `cluster` gives it.

use std::sync::Arc;

use futures::future::BoxFuture;
use secrecy::SecretString;

/// An answer to come.
pub type TokenFuture<'a, T> = BoxFuture<'a, Result<T, KubeTokenError>>;

/// Reads the Kubernetes objects that identities are made from. Every call ends within its own time-out.
pub trait KubeTokens: Send + Sync + 'static {
    /// The ServiceAccount's uid and what its annotations say of AWS.
    fn service_account<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> TokenFuture<'a, ServiceAccountFacts>;

    /// A token of the ServiceAccount (TokenRequest).
    fn token<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        audiences: &'a [String],
    ) -> TokenFuture<'a, ServiceAccountToken>;

    /// One key of a Secret, for `auth.secretRef`.
    fn secret_key<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        key: &'a str,
    ) -> TokenFuture<'a, SecretKeyValue>;

    /// The Secret's uid and resourceVersion as in [`SecretKeyValue`], read without its data.
    fn secret_version<'a>(&'a self, namespace: &'a str, name: &'a str) -> TokenFuture<'a, Arc<str>>;
}

/// What a ServiceAccount says of AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountFacts {
    /// Its uid.
    pub uid: Arc<str>,
    /// Annotation `eks.amazonaws.com/role-arn`.
    pub role_arn: Option<Arc<str>>,
    /// Annotation `eks.amazonaws.com/audience`.
    pub audience: Option<Arc<str>>,
}

/// A token of a ServiceAccount.
#[derive(Clone, Debug)]
pub struct ServiceAccountToken {
    /// The token.
    pub token: SecretString,
}

/// One key of a Secret.
#[derive(Clone, Debug)]
pub struct SecretKeyValue {
    /// Its value.
    pub value: SecretString,
    /// The Secret's uid and resourceVersion.
    pub version: Arc<str>,
}

/// Why Kubernetes did not give what an identity needs. Texts name objects, never contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeTokenError {
    /// The object, or the key in it, is not there.
    #[error("{0} does not exist")]
    NotFound(Arc<str>),
    /// The operator may not.
    #[error("Kubernetes forbids {0}")]
    Forbidden(Arc<str>),
    /// The API server did not answer, or not in time.
    #[error("Kubernetes did not answer {0}")]
    Unavailable(Arc<str>),
    /// What is there cannot be used, a value that is not UTF-8 say.
    #[error("{0}")]
    Invalid(Arc<str>),
}
