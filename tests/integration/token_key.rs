//! Another key of the tokens, on purpose: what is read and written for it, and that nothing else follows.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use keyturn::api::{
    ObjectKey, TokenKey,
    names::{TOKEN_KEY_SECRET, annotation as names},
};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use serde_json::json;
use testbed::wait;

use crate::{
    harness::{API_SERVER, Bed, DELETION, SELDOM, SOON, STORE, annotation, data, entry, quarried, same},
    operator::Operator,
    rolling::{Anchor, restarted, web, with},
};

/// The annotations that hold tokens of what a Secret is and was made from.
const TOKENS: [&str; 3] = [names::CONTENT, names::INPUTS, names::SOURCE];

fn keys(bed: &Bed, operator: &Operator) -> Api<Secret> {
    Api::namespaced(bed.client.clone(), operator.namespace())
}

#[tokio::test]
async fn another_token_key_reads_each_value_once_and_restarts_nothing() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("rekeyed", &[], async |bed, operator| {
        // Finds changes without reading values, so that reads can be counted.
        bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
        let db = bed.restarting("db", json!({})).await?;
        let waiting = bed.restarting("waiting", json!({})).await?;
        let moved = bed.restarting("moved", json!({})).await?;
        let plain = bed.secret("app/plain", "plain")?;
        bed.external_secret(
            "plain",
            json!({"data": [entry("value", "app/plain")], "target": {"deletionPolicy": "Delete"}}),
        )
        .await?;
        bed.synced("plain").await?;
        let paused = with(web("paused", "waiting"), &["paused"], json!(false));
        bed.run_workloads([web("web", "db"), web("moved-web", "moved"), paused])
            .await?;
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": true}}))
            .await?;
        let token = bed.rotate(&db, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        // Still to be restarted when the key changes.
        let pending = bed.rotate(&waiting, "second").await?;
        bed.exception("waiting", ("Deployment", "paused"), &["Paused"])
            .await?;

        let named = ["db", "waiting", "moved", "plain"];
        let mut before = Vec::new();
        for name in named {
            before.push(bed.written(name).await?);
        }
        let former = keys(bed, operator).get(TOKEN_KEY_SECRET).await?;
        same("immutable", &former.immutable, &Some(true))?;

        // The process that runs keeps the key that it has read.
        keys(bed, operator)
            .delete(TOKEN_KEY_SECRET, &DeleteParams::default())
            .await?;
        bed.rounds(10).await?;
        for (name, was) in named.iter().zip(&before) {
            let now = bed.written(name).await?;
            same(
                name,
                &now.metadata.resource_version,
                &was.metadata.resource_version,
            )?;
        }
        ensure!(keys(bed, operator).get_opt(TOKEN_KEY_SECRET).await?.is_none());

        operator.terminate().await?;
        bed.aws.put_secret_value(&moved.arn, "second")?;
        let history = bed.history().await?;
        let mark = bed.aws.mark();
        operator.start().await?;
        let key = keys(bed, operator).get(TOKEN_KEY_SECRET).await?;
        ensure!(key.data != former.data, "it is the same key");
        for (name, was) in named.iter().zip(&before) {
            let now = wait::until(
                &format!("{name} to bear the new key's tokens"),
                SOON,
                async || {
                    let now = bed.written(name).await?;
                    let other = |token: &str| annotation(&now, token) != annotation(was, token);
                    Ok(TOKENS.iter().all(|token| other(token)).then_some(now))
                },
            )
            .await?;
            same(name, &now.uid(), &was.uid())?;
            if *name != "moved" {
                same(name, &data(&now), &data(was))?;
                let changed_at = annotation(was, names::CHANGED_AT);
                same(name, &annotation(&now, names::CHANGED_AT), &changed_at)?;
                // No pod carries the token of a content that never changed.
                if changed_at.is_some() {
                    let rollout = annotation(was, names::ROLLOUT);
                    same(name, &annotation(&now, names::ROLLOUT), &rollout)?;
                }
            }
            bed.synced(name).await?;
        }
        // What moved meanwhile is a change like any other.
        let next = bed.rollout("moved").await?;
        bed.holds("moved", &[("value", "second")]).await?;
        bed.follows(("Deployment", "moved-web"), "moved", &next).await?;
        // What was due still is, and pods that hold their content are left alone.
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": false}}))
            .await?;
        bed.follows(("Deployment", "paused"), "waiting", &pending).await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        let due = [("Deployment moved-web", 1), ("Deployment paused", 1)];
        restarted(&history, &due).await?;
        let values = bed.calls_since(mark).values_read();
        for arn in [&db.arn, &waiting.arn, &moved.arn, &plain] {
            let reads = values.iter().filter(|(_, secret)| **secret == **arn).count();
            same(arn, &reads, &1)?;
        }

        // The record of what a Secret was made from is of the new key, so a deletion in AWS is followed.
        bed.aws.force_delete_secret(&plain)?;
        bed.gone_within(DELETION, "plain").await?;
        let token = bed.rotate(&db, "third").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        restarted(&history, &[&due[..], &[("Deployment web", 1)]].concat())
            .await
            .context("the next rotation")
    })
    .await
}

/// Whoever has the key can make another value look like the one that Keyturn wrote.
#[tokio::test]
async fn what_was_forged_with_a_stolen_key_is_corrected_under_a_new_one() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("forged", &[], async |bed, operator| {
        // Nothing is read for its interval's sake, which would correct it too.
        bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
        bed.restarting_with("db", json!({"refreshInterval": SELDOM}))
            .await?;
        bed.run_workloads([web("web", "db")]).await?;
        let key = keys(bed, operator).get(TOKEN_KEY_SECRET).await?;
        let bytes = key.data.and_then(|mut data| data.remove("key")).context("key")?.0;
        let stolen = TokenKey::new(bytes.as_slice().try_into()?);
        let forged = BTreeMap::from([("value".to_owned(), ByteString(b"forged".to_vec()))]);
        let secret = ObjectKey::new(bed.namespace.as_str(), "db");
        let content = stolen.content(&secret, "Opaque", &forged);
        let annotations = json!({names::CONTENT: content});
        bed.patch::<Secret>(
            "db",
            json!({"data": forged, "metadata": {"annotations": annotations}}),
        )
        .await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        bed.holds("db", &[("value", "forged")]).await?;

        let history = bed.history().await?;
        keys(bed, operator)
            .delete(TOKEN_KEY_SECRET, &DeleteParams::default())
            .await?;
        operator.terminate().await?;
        operator.start().await?;
        bed.holds("db", &[("value", "first")]).await?;
        let token = bed.rollout("db").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}
