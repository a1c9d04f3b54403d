//! What identities for AWS are made of: ServiceAccounts, their tokens, and static keys in Secrets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    api::{GetParams, PostParams},
    core::{PartialObjectMeta, request},
};
use secrecy::SecretString;
use zeroize::Zeroize as _;

use super::{
    call::{Call, UNBUILDABLE, Verb},
    client::{Cluster, path_of},
    error::{Class, Error},
};
use crate::{
    api::{ObjectKey, names::annotation},
    aws::{
        KubeTokenError, KubeTokens, SecretKeyValue, ServiceAccountFacts, ServiceAccountToken, TokenFuture,
    },
};

/// How long a token is asked to live: the shortest life the API server gives, since it is traded for AWS credentials
/// at once.
const LIFETIME: Duration = Duration::from_mins(10);

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

    async fn facts(&self, key: &ObjectKey) -> Result<ServiceAccountFacts, Error> {
        let ServiceAccount { metadata, .. } = self.cluster.get(key).await?;
        let mut annotations = metadata.annotations.unwrap_or_default();
        let mut take = |name| annotations.remove(name).map(Arc::from);
        Ok(ServiceAccountFacts {
            uid: metadata.uid.unwrap_or_default().into(),
            role_arn: take(annotation::IRSA_ROLE),
            audience: take(annotation::IRSA_AUDIENCE),
        })
    }

    async fn request(&self, key: &ObjectKey, audiences: &[String]) -> Result<ServiceAccountToken, Error> {
        let call = Call {
            verb: Verb::Create,
            kind: "TokenRequest",
            key,
        };
        if audiences.is_empty() || !audiences.iter().all(|audience| self.audiences.contains(audience)) {
            return Err(call.failed(Class::Forbidden));
        }
        let body = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.to_vec(),
                expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
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
        tracing::info!(
            target: "audit",
            action = "token",
            service_account = %key,
            audiences = audiences.join(" "),
        );
        Ok(ServiceAccountToken {
            token: status.token.into(),
        })
    }

    async fn entry(&self, key: &ObjectKey, entry: &str) -> Result<Option<SecretKeyValue>, Error> {
        let call = Call {
            verb: Verb::Get,
            kind: "Secret",
            key,
        };
        let Secret { metadata, data, .. } = self.cluster.get(key).await?;
        tracing::info!(target: "audit", action = "credential", secret = %key, entry);
        let mut data: BTreeMap<String, ByteString> = data.unwrap_or_default();
        let value = data
            .remove(entry)
            .map(|ByteString(bytes)| String::from_utf8(bytes));
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        let value = match value {
            None => return Ok(None),
            Some(Ok(text)) => SecretString::from(text),
            Some(Err(binary)) => {
                binary.into_bytes().zeroize();
                return Err(call.failed(Class::Malformed("the named key of it is not UTF-8")));
            }
        };
        let version = version(metadata);
        Ok(Some(SecretKeyValue { value, version }))
    }

    async fn version(&self, key: &ObjectKey) -> Result<Arc<str>, Error> {
        let call = Call {
            verb: Verb::Get,
            kind: "Secret",
            key,
        };
        let request = request::Request::new(path_of::<Secret>(&key.namespace))
            .get_metadata(&key.name, &GetParams::default())
            .map_err(|_| call.failed(UNBUILDABLE))?;
        let answer: PartialObjectMeta<Secret> = self.cluster.call(call, request).await?;
        Ok(version(answer.metadata))
    }
}

impl KubeTokens for Tokens {
    fn service_account<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> TokenFuture<'a, ServiceAccountFacts> {
        Box::pin(async move {
            let key = ObjectKey::new(namespace, name);
            self.facts(&key)
                .await
                .map_err(|err| refused("ServiceAccount", &err))
        })
    }

    fn token<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        audiences: &'a [String],
    ) -> TokenFuture<'a, ServiceAccountToken> {
        Box::pin(async move {
            let key = ObjectKey::new(namespace, name);
            self.request(&key, audiences)
                .await
                .map_err(|err| refused("ServiceAccount", &err))
        })
    }

    fn secret_key<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        key: &'a str,
    ) -> TokenFuture<'a, SecretKeyValue> {
        Box::pin(async move {
            let secret = ObjectKey::new(namespace, name);
            let found = self
                .entry(&secret, key)
                .await
                .map_err(|err| refused("Secret", &err))?;
            found.ok_or_else(|| KubeTokenError::NotFound(format!("key {key} of Secret {secret}").into()))
        })
    }

    fn secret_version<'a>(&'a self, namespace: &'a str, name: &'a str) -> TokenFuture<'a, Arc<str>> {
        Box::pin(async move {
            let secret = ObjectKey::new(namespace, name);
            self.version(&secret).await.map_err(|err| refused("Secret", &err))
        })
    }
}

/// Differs whenever the object does, also from another one of its name.
fn version(metadata: ObjectMeta) -> Arc<str> {
    let uid = metadata.uid.unwrap_or_default();
    format!("{uid}/{}", metadata.resource_version.unwrap_or_default()).into()
}

/// `kind` is the object's that a store names; a token is asked of a ServiceAccount.
fn refused(kind: &str, err: &Error) -> KubeTokenError {
    let Error { key, class, .. } = err;
    match class {
        Class::NotFound => KubeTokenError::NotFound(format!("{kind} {key}").into()),
        Class::Forbidden | Class::Refused(_) if err.kind == "TokenRequest" => {
            KubeTokenError::Forbidden(format!("a token of {kind} {key} for this audience").into())
        }
        Class::Forbidden | Class::Refused(_) => {
            KubeTokenError::Forbidden(format!("reading {kind} {key}").into())
        }
        class if class.is_transient() => {
            KubeTokenError::Unavailable(format!("when asked for {kind} {key}").into())
        }
        _ => KubeTokenError::Invalid(err.to_string().into()),
    }
}
