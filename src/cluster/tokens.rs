//! What identities for AWS are made of: `ServiceAccount`s, their tokens, and static keys in Secrets.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Secret, ServiceAccount},
    },
};
use kube::{api::PostParams, core::request};
use secrecy::SecretString;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    call::{Call, UNBUILDABLE, Verb},
    client::{Cluster, path_of},
    error::{Class, Error},
};
use crate::api::ObjectKey;

/// The shortest life that the API server gives a token.
const SHORTEST: Duration = Duration::from_mins(10);
/// The longest life we ask for.
const LONGEST: Duration = Duration::from_hours(1);

/// A token of a `ServiceAccount`.
#[derive(Clone, Debug)]
pub struct ServiceAccountToken {
    /// The token.
    pub token: SecretString,
    /// When the API server says that it ends.
    pub expires_at: Timestamp,
}

/// What of a `ServiceAccount` matters for an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountRecord {
    /// Its uid: another one of the same name is another identity.
    pub uid: String,
    /// Its annotations, among them the role.
    pub annotations: BTreeMap<String, String>,
}

/// Reads what identities need, for listed audiences only.
#[derive(Clone)]
pub struct Tokens {
    cluster: Cluster,
    audiences: Vec<String>,
}

impl Tokens {
    /// Tokens are asked for these audiences only, whatever a store wants.
    pub fn new(cluster: Cluster, audiences: Vec<String>) -> Self {
        Self { cluster, audiences }
    }

    /// A token of a `ServiceAccount` for `audiences`, valid for about `lifetime` (600 to 3600 s). Every call asks
    /// for a new one: the caller keeps it.
    pub async fn token(
        &self,
        key: &ObjectKey,
        audiences: &[String],
        lifetime: Duration,
    ) -> Result<ServiceAccountToken, Error> {
        let call = Call {
            verb: Verb::Create,
            kind: "TokenRequest",
            key,
        };
        if audiences.is_empty() || !audiences.iter().all(|audience| self.audiences.contains(audience)) {
            return Err(call.failed(Class::Forbidden));
        }
        let seconds = lifetime.clamp(SHORTEST, LONGEST).as_secs();
        let body = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.to_vec(),
                expiration_seconds: i64::try_from(seconds).ok(),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let request = serde_json::to_vec(&body)
            .ok()
            .and_then(|body| {
                let path = request::Request::new(path_of::<ServiceAccount>(&key.namespace));
                path.create_subresource("token", &key.name, &PostParams::default(), body)
                    .ok()
            })
            .ok_or_else(|| call.failed(UNBUILDABLE))?;
        let answer: TokenRequest = self.cluster.call(call, request).await?;
        let status = answer
            .status
            .ok_or_else(|| call.failed(Class::Malformed("the answer has no token")))?;
        Ok(ServiceAccountToken {
            token: status.token.into(),
            expires_at: status.expiration_timestamp.0,
        })
    }

    /// Reads a `ServiceAccount`.
    pub async fn service_account(&self, key: &ObjectKey) -> Result<ServiceAccountRecord, Error> {
        let ServiceAccount { metadata, .. } = self.cluster.get(key).await?;
        Ok(ServiceAccountRecord {
            uid: metadata.uid.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        })
    }

    /// Reads entries of a Secret, all from one state of it, and that state's resource version. A missing
    /// entry or one that is no text is [`Class::Malformed`].
    pub async fn secret_entries(
        &self,
        key: &ObjectKey,
        entries: &[&str],
    ) -> Result<(Vec<Zeroizing<String>>, String), Error> {
        let call = Call {
            verb: Verb::Get,
            kind: "Secret",
            key,
        };
        let mut secret: Secret = self.cluster.get(key).await?;
        let mut data = secret.data.take().unwrap_or_default();
        let read = entries.iter().map(|entry| {
            let ByteString(bytes) = data.get(*entry)?;
            std::str::from_utf8(bytes)
                .ok()
                .map(|text| Zeroizing::new(text.to_owned()))
        });
        let values: Option<Vec<_>> = read.collect();
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        let values =
            values.ok_or_else(|| call.failed(Class::Malformed("a named entry is missing or is not text")))?;
        Ok((values, secret.metadata.resource_version.unwrap_or_default()))
    }
}
