//! The key of the content tokens: made once, kept in a Secret beside the operator.
//!
//! A new key would make every token on every Secret wrong, so an existing Secret is never overwritten.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    call::{Call, TimeLimit, Verb},
    client::Cluster,
    error::{Class, Error},
    writes::Written,
};
use crate::api::{ObjectKey, TokenKey, names::TOKEN_KEY_SECRET};

/// Its only entry.
const ENTRY: &str = "key";
/// As long as the output of HMAC-SHA256 (RFC 2104, section 3).
const LENGTH: usize = 32;

/// Reads the key, or makes it if its Secret does not exist. Of several replicas that start at once one makes
/// it and the others read that one.
pub async fn token_key(cluster: &Cluster, namespace: &str) -> Result<TokenKey, Error> {
    let key = ObjectKey::new(namespace, TOKEN_KEY_SECRET);
    if let Some(secret) = cluster.find::<Secret>(&key).await? {
        return of_secret(&key, secret);
    }
    let call = Call {
        verb: Verb::Create,
        kind: "Secret",
        key: &key,
    };
    let mut bytes = Zeroizing::new([0; LENGTH]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice())
        .map_err(|_| call.failed(Class::Malformed("the machine gives no random numbers")))?;
    let mut secret = Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(TOKEN_KEY_SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(bytes.to_vec()))])),
        immutable: Some(true),
        ..Secret::default()
    };
    let created: Result<Written, _> = cluster.create(TimeLimit::Fenced, &key, &secret).await;
    wipe(&mut secret);
    match created {
        Ok(_) => Ok(TokenKey::new(&bytes)),
        // Another replica won, or our create succeeded and its answer was lost.
        Err(Error {
            class: Class::AlreadyExists | Class::Timeout,
            ..
        }) => of_secret(&key, cluster.get_secret(&key).await?),
        Err(err) => Err(err),
    }
}

fn of_secret(key: &ObjectKey, mut secret: Secret) -> Result<TokenKey, Error> {
    let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
    let bytes = entry.and_then(|ByteString(bytes)| <[u8; LENGTH]>::try_from(bytes.as_slice()).ok());
    wipe(&mut secret);
    let call = Call {
        verb: Verb::Get,
        kind: "Secret",
        key,
    };
    bytes
        .map(Zeroizing::new)
        .map(|bytes| TokenKey::new(&bytes))
        .ok_or_else(|| {
            call.failed(Class::Malformed(
                "it holds no entry `key` of 32 bytes; restore it, it is never overwritten",
            ))
        })
}

fn wipe(secret: &mut Secret) {
    for ByteString(bytes) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.zeroize();
    }
}
