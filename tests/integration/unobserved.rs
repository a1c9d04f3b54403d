//! What waits for an object must not take it for finished before Keyturn looked at it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::requests;

use crate::{
    harness::{Bed, bed, common, entry, external_secret, from_now, quarry, same},
    status::kstatus,
};

const KINDS: [&str; 2] = ["externalsecret.keyturn.dev", "secretstore.keyturn.dev"];

async fn raw(bed: &Bed, kind: &str, name: &str) -> Result<Value> {
    let got = bed
        .cluster
        .kubectl(["get", kind, name, "-n", &bed.namespace, "-o", "json"])
        .await?;
    Ok(serde_json::from_str(&got)?)
}

/// Nothing was looked at.
async fn unobserved(bed: &Bed, kind: &str, name: &str) -> Result<()> {
    let object = raw(bed, kind, name).await?;
    same(kind, &object["status"], &json!({"observedGeneration": -1}))?;
    same(kind, &kstatus(&object), &"InProgress")
}

fn store() -> Value {
    json!({
        "apiVersion": "keyturn.dev/v1", "kind": "SecretStore", "metadata": {"name": "db"},
        "spec": {"provider": {"aws": {"region": "eu-central-1", "auth": {"jwt": {"serviceAccountRef": {"name": "reader"}}}}}},
    })
}

fn file(folder: &Path, name: &str, object: &Value) -> Result<String> {
    let path = folder.join(name);
    fs::write(&path, object.to_string())?;
    Ok(path.display().to_string())
}

/// A place without an operator.
async fn abandoned(name: &str, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    let bed = Bed::make(quarry().await?, name).await?;
    bed.run(None, test).await
}

#[tokio::test]
async fn an_object_that_no_operator_saw_is_in_progress_however_it_was_made() -> Result<()> {
    abandoned("unobserved", async |bed| {
        let folder = tempfile::tempdir()?;
        let objects = [
            external_secret("db", json!({"data": [entry("value", "app/db")]})),
            store(),
        ];
        for (kind, object) in KINDS.into_iter().zip(objects) {
            let path = file(folder.path(), "object.json", &object)?;
            let kubectl = async |arguments: &[&str]| {
                let place = ["-n", &bed.namespace, "-f", &path];
                bed.cluster.kubectl(arguments.iter().chain(&place)).await
            };
            for way in [&["create"][..], &["apply"], &["apply", "--server-side"]] {
                kubectl(way).await.with_context(|| format!("{kind} {way:?}"))?;
                unobserved(bed, kind, "db").await?;
                if way != ["create"] {
                    // The default is no difference to what was applied.
                    let diff: Vec<&str> = ["diff"].iter().chain(way.iter().skip(1)).copied().collect();
                    kubectl(&diff).await.with_context(|| format!("{kind} {diff:?}"))?;
                    // The first write after the one that made the object stores it; applying again changes nothing.
                    kubectl(way).await?;
                    let before = raw(bed, kind, "db").await?;
                    kubectl(way).await?;
                    same(kind, &raw(bed, kind, "db").await?, &before)?;
                }
                kubectl(&["replace"])
                    .await
                    .with_context(|| format!("{kind} replace"))?;
                unobserved(bed, kind, "db").await?;
                kubectl(&["delete"]).await?;
            }
        }
        Ok(())
    })
    .await
}

/// What restarts write of a status comes without `observedGeneration`, which belongs to the rest.
#[tokio::test]
async fn the_generation_stays_whichever_part_of_a_status_is_written_first() -> Result<()> {
    abandoned("parts", async |bed| {
        bed.external_secret("db", json!({"data": [entry("value", "app/db")]}))
            .await?;
        let restarts = json!({"restart": {"progress": "0/1"}});
        let folder = tempfile::tempdir()?;
        let write = async |manager: &str, status: Value| {
            let object = json!({
                "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret",
                "metadata": {"name": "db", "namespace": bed.namespace}, "status": status,
            });
            let path = file(folder.path(), "status.json", &object)?;
            let manager = format!("--field-manager={manager}");
            bed.cluster
                .kubectl([
                    "apply",
                    "--server-side",
                    "--force-conflicts",
                    "--subresource=status",
                    &manager,
                    "-f",
                    &path,
                ])
                .await?;
            let object = raw(bed, KINDS[0], "db").await?;
            Ok::<_, anyhow::Error>(object["status"]["observedGeneration"].clone())
        };
        same(
            "restarts first",
            &write("keyturn-restart", restarts.clone()).await?,
            &json!(-1),
        )?;
        same(
            "the rest",
            &write("keyturn-sync", json!({"observedGeneration": 1})).await?,
            &json!(1),
        )?;
        same(
            "restarts again",
            &write("keyturn-restart", restarts).await?,
            &json!(1),
        )?;
        same(
            "restarts taken back",
            &write("keyturn-restart", json!({})).await?,
            &json!(1),
        )
    })
    .await
}

#[tokio::test]
async fn helm_waits_for_an_object_that_no_operator_saw() -> Result<()> {
    abandoned("helm-waits", async |bed| {
        let folder = tempfile::tempdir()?;
        let chart = folder.path();
        fs::create_dir(chart.join("templates"))?;
        fs::write(
            chart.join("Chart.yaml"),
            "apiVersion: v2\nname: app\nversion: 1.0.0\n",
        )?;
        let object = external_secret("db", json!({"data": [entry("value", "app/db")]}));
        file(&chart.join("templates"), "object.yaml", &object)?;
        let chart = chart.display().to_string();
        let waited = bed
            .cluster
            .helm([
                "install",
                "app",
                &chart,
                "-n",
                &bed.namespace,
                "--wait",
                "--timeout=10s",
            ])
            .await;
        let error = format!("{:#}", waited.err().context("helm did not wait")?);
        ensure!(
            error.contains("not ready") || error.contains("deadline"),
            "{error}"
        );
        unobserved(bed, KINDS[0], "db").await
    })
    .await
}

#[tokio::test]
async fn a_new_object_that_is_suspended_is_in_progress_until_it_is_synced() -> Result<()> {
    let operator = &common().await?.operator;
    bed("asleep", async |bed| {
        bed.secret("app/db", "first")?;
        let until = json!({"keyturn.dev/suspend-sync-until": from_now(3600)});
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "metadata": {"annotations": until}}),
        )
        .await?;
        // Not by `condition`, which waits for a status of this generation.
        testbed::wait::until("the suspension to be said", crate::harness::SOON, async || {
            let said = bed.said("db", "Current").await?;
            Ok(said.filter(|said| said.reason == "Suspended").map(|_| ()))
        })
        .await?;
        let object = raw(bed, KINDS[0], "db").await?;
        same("suspended", &object["status"]["observedGeneration"], &json!(-1))?;
        same("suspended", &kstatus(&object), &"InProgress")?;
        // What was said is not said again.
        let mark = requests::mark(bed.cluster)?;
        let namespace = bed.namespace.as_str();
        crate::harness::stays(Duration::from_secs(3), async || {
            let written = requests::since(bed.cluster, mark)?
                .of(operator.user())
                .only(|request| request.writes() && request.namespace == namespace);
            same("suspended", &written.counts(), &std::collections::BTreeMap::new())
        })
        .await?;
        bed.annotate("db", "keyturn.dev/suspend-sync-until", None).await?;
        bed.synced("db").await?;
        let synced = bed.get("db").await?;
        let observed = synced
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        same("synced", &observed, &synced.metadata.generation)
    })
    .await
}

/// Objects of before the upgrade that have no status get the default as they are read, and are not rewritten for it.
#[tokio::test]
async fn the_default_comes_to_objects_of_before_without_a_write() -> Result<()> {
    let place = crate::harness::bare(testbed::controlplane::Options::default()).await?;
    let bed = Bed::make(&place, "before").await?;
    bed.run(None, async |bed| {
        let crd = "crd/externalsecrets.keyturn.dev";
        let field = "/spec/versions/0/schema/openAPIV3Schema/properties/status/default";
        let patch = async |operation: Value| {
            let patch = json!([operation]).to_string();
            bed.cluster
                .kubectl(["patch", crd, "--type=json", "-p", &patch])
                .await
        };
        patch(json!({"op": "remove", "path": field})).await?;
        let made = testbed::wait::until("an object without a status", crate::harness::SOON, async || {
            bed.external_secret("db", json!({"data": [entry("value", "app/db")]}))
                .await?;
            let object = raw(bed, KINDS[0], "db").await?;
            if object.get("status").is_some() {
                bed.delete::<keyturn::api::ExternalSecret>("db").await?;
                return Ok(None);
            }
            Ok(Some(object))
        })
        .await?;
        patch(json!({"op": "add", "path": field, "value": {"observedGeneration": -1}})).await?;
        testbed::wait::until("the default", crate::harness::SOON, async || {
            let object = raw(bed, KINDS[0], "db").await?;
            let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
            same("the version", &version(&object), &version(&made))?;
            Ok((object["status"] == json!({"observedGeneration": -1})).then_some(()))
        })
        .await?;
        Ok(())
    })
    .await
}
