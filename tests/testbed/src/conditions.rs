//! What Keyturn's objects say of themselves.

use anyhow::{Context as _, Result, bail};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

/// A condition as it stands in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// For instance `Synced`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// ExternalSecrets of all namespaces.
pub fn all_external_secrets(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &external_secret())
}

/// ExternalSecrets of one namespace.
pub fn external_secrets(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &external_secret())
}

fn external_secret() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("keyturn.dev", "v1", "ExternalSecret"))
}

/// The condition of this type, once the object has it for its present generation.
pub fn condition(object: &DynamicObject, kind: &str) -> Option<Condition> {
    let status = object.data.get("status")?;
    let seen = status.get("observedGeneration").and_then(Value::as_i64);
    if seen != object.metadata.generation {
        return None;
    }
    let conditions = status.get("conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))?;
    let text = |name: &str| {
        let text = found.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Some(Condition {
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
    })
}

/// `Some` when `Ready` has this status and reason; otherwise the error says what it has.
pub async fn is_ready(
    client: &Client,
    namespace: &str,
    name: &str,
    status: &str,
    reason: &str,
) -> Result<Option<Condition>> {
    let object = external_secrets(client, namespace)
        .get(name)
        .await
        .with_context(|| format!("get the ExternalSecret {namespace}/{name}"))?;
    let Some(ready) = condition(&object, "Ready") else {
        return Ok(None);
    };
    if ready.status == status && ready.reason == reason {
        return Ok(Some(ready));
    }
    bail!("it is {}/{}: {}", ready.status, ready.reason, ready.message)
}
