//! What the API server alone needs for the writes of a first sync: one POST of a Secret and one PATCH of a status per
//! object, of the size and form that the operator sends, by a client that does nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use testbed::conditions::external_secrets;

use super::world::{CONNECTIONS, World, first_value, key};

/// Emptied before the operator starts.
pub(super) const NAMESPACE: &str = "floor";

/// The time for all objects over [`CONNECTIONS`] connections.
pub(super) async fn measure(world: &World, objects: usize) -> Result<Duration> {
    let made = world.create(NAMESPACE, objects, "1h", |number| number).await?;
    let api = external_secrets(&world.client, NAMESPACE);
    let secrets = Api::<Secret>::namespaced(world.client.clone(), NAMESPACE);
    let bodies = made
        .iter()
        .enumerate()
        .map(|(number, object)| Ok((object.name_any(), secret(object, number)?, status(object, number))))
        .collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    let writes = bodies.into_iter().map(|(name, secret, status)| {
        let (api, secrets) = (api.clone(), secrets.clone());
        async move {
            secrets
                .create(&PostParams::default(), &secret)
                .await
                .context("create a Secret")?;
            api.patch_status(
                &name,
                &PatchParams::apply("keyturn-sync").force(),
                &Patch::Apply(&status),
            )
            .await
            .context("patch a status")?;
            anyhow::Ok(())
        }
    });
    futures::stream::iter(writes)
        .buffer_unordered(CONNECTIONS)
        .try_collect::<()>()
        .await?;
    let time = started.elapsed();
    world.clear(NAMESPACE).await?;
    Ok(time)
}

fn secret(object: &DynamicObject, number: usize) -> Result<Secret> {
    let token = "0123456789abcdef0123456789abcdef";
    serde_json::from_value(json!({
        "metadata": {
            "name": object.name_any(),
            "labels": {"keyturn.dev/managed": "true"},
            "annotations": {
                "keyturn.dev/owner": object.name_any(),
                "keyturn.dev/content": token,
                "keyturn.dev/inputs": token,
                "keyturn.dev/rollout": token,
                "keyturn.dev/versions": r#"{"0123456789abcdef":"12345678-1234-1234-1234-123456789012"}"#,
            },
            "ownerReferences": [{
                "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret", "name": object.name_any(),
                "uid": object.uid(), "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "type": "Opaque",
        "stringData": {"value": first_value(number)},
    }))
    .context("describe a Secret")
}

fn status(object: &DynamicObject, number: usize) -> Value {
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": "a sentence about what was read and written",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!({
        "apiVersion": "keyturn.dev/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": object.name_any(), "uid": object.uid()},
        "status": {
            "observedGeneration": 1,
            "conditions": [condition("Ready", "Synced"), condition("Current", "Checked")],
            "sources": [{
                "store": "ClusterSecretStore/aws", "key": key(number), "stage": "AWSCURRENT",
                "versionId": "12345678-1234-1234-1234-123456789012", "changedAt": "2026-01-01T00:00:00Z",
            }],
            "target": {"name": object.name_any(), "content": "0123456789abcdef0123456789abcdef"},
        },
    })
}
