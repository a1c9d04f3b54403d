//! Another key of the tokens, on purpose: what is read and written for it, and that nothing else follows.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyturn::api::names::{TOKEN_KEY_SECRET, annotation as names};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use serde_json::json;
use testbed::wait;

use crate::{
    harness::{API_SERVER, Bed, DELETION, SOON, STORE, annotation, data, entry, quarried, same},
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
                    let other = |token: &&str| annotation(&now, token) != annotation(was, token);
                    Ok(TOKENS.iter().all(|token| other(&token)).then_some(now))
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
