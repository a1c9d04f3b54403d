//! A namespace that comes back from a backup: every object is another one, by its uid, and no status is left.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, ServiceAccount},
};
use keyturn::api::{ExternalSecret, SecretStore, names};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use testbed::wait;
use tokio::time::sleep;

use crate::{
    harness::{API_SERVER, Bed, DELETION, READER, SOON, STORE, annotation, bed, entry, quarried, same},
    operator::Operator,
    rolling::{Anchor, restarted, web},
};

/// Their secrets are gone in AWS when the backup is restored.
const GONE: [&str; 3] = ["gone-a", "gone-b", "gone-c"];

/// Objects as a backup tool makes them again: name, labels and annotations, and nothing else that a server wrote.
struct Backup {
    /// The key of the tokens, of the operator's own namespace.
    key: Secret,
    /// In the order in which they are restored: what pods need, pods, custom resources.
    objects: Vec<Value>,
}

fn bare(object: impl serde::Serialize) -> Value {
    let mut object = json!(object);
    if let Some(all) = object.as_object_mut() {
        all.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|field, _| matches!(field.as_str(), "name" | "labels" | "annotations"));
    }
    object["metadata"]["labels"]["velero.io/restore-name"] = json!("after-the-fire");
    object
}

impl Backup {
    async fn take(bed: &Bed, operator: &Operator, secrets: &[&str], workloads: &[&str]) -> Result<Self> {
        let mut objects = vec![bare(bed.all::<ServiceAccount>().get(READER).await?)];
        for name in secrets {
            objects.push(bare(bed.written(name).await?));
        }
        for name in workloads {
            objects.push(bare(bed.all::<Deployment>().get(name).await?));
        }
        objects.push(bare(bed.all::<SecretStore>().get(STORE).await?));
        for name in secrets {
            objects.push(bare(bed.get(name).await?));
        }
        let key = serde_json::from_value(bare(keys(bed, operator).get(names::TOKEN_KEY_SECRET).await?))?;
        Ok(Self { key, objects })
    }

    /// Deletes all of a namespace, with what depends on it.
    async fn lose(bed: &Bed, secrets: &[&str], workloads: &[&str]) -> Result<()> {
        for name in workloads {
            bed.delete::<Deployment>(name).await?;
        }
        for name in secrets {
            bed.delete::<ExternalSecret>(name).await?;
        }
        bed.delete::<SecretStore>(STORE).await?;
        bed.delete::<ServiceAccount>(READER).await?;
        for name in secrets {
            bed.gone(name).await?;
        }
        for name in workloads {
            wait::until(&format!("the pods of {name} to be gone"), SOON, async || {
                Ok(bed.pods(name).await?.is_empty().then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn restore(self, bed: &Bed, workloads: &[&str]) -> Result<()> {
        for object in self.objects {
            bed.create(object).await?;
        }
        for name in workloads {
            bed.complete("Deployment", name).await?;
        }
        Ok(())
    }
}

async fn lose_key(bed: &Bed, operator: &Operator) -> Result<()> {
    let keys = keys(bed, operator);
    keys.delete(names::TOKEN_KEY_SECRET, &DeleteParams::default())
        .await
        .context("delete the key of the tokens")
        .map(drop)
}

fn keys(bed: &Bed, operator: &Operator) -> Api<Secret> {
    Api::namespaced(bed.client.clone(), operator.namespace())
}

#[tokio::test]
async fn a_restored_namespace_keeps_its_secrets_and_restarts_only_what_is_due() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("restored", &[], async |bed, operator| {
        // Finds changes without reading values, so that reads can be counted.
        bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
        let resting = bed.restarting("resting", json!({})).await?;
        let moved = bed.restarting("moved", json!({})).await?;
        bed.run_workloads([web("resting-web", "resting"), web("moved-web", "moved")])
            .await?;
        // Each workload carries the token of a restart, as it does in a cluster that has run for a while.
        for (source, workload) in [(&resting, "resting-web"), (&moved, "moved-web")] {
            let token = bed.rotate(source, "second").await?;
            bed.follows(("Deployment", workload), &source.name, &token)
                .await?;
            bed.restarts(&source.name, &["Complete"]).await?;
        }
        let mut gone = Vec::new();
        for name in GONE {
            let key = format!("app/{name}");
            gone.push(bed.secret(&key, "kept")?);
            bed.external_secret(
                name,
                json!({"data": [entry("value", &key)], "target": {"deletionPolicy": "Delete"}}),
            )
            .await?;
            bed.synced(name).await?;
        }

        let secrets = [&["resting", "moved"][..], &GONE].concat();
        let workloads = ["resting-web", "moved-web"];
        operator.terminate().await?;
        let token = bed.rollout("resting").await?;
        let changed_at = bed.changed_at("resting").await?;
        let backup = Backup::take(bed, operator, &secrets, &workloads).await?;
        Backup::lose(bed, &secrets, &workloads).await?;
        lose_key(bed, operator).await?;
        // AWS has gone on since the backup was taken.
        bed.aws.put_secret_value(&moved.arn, "third")?;
        for arn in &gone {
            bed.aws.force_delete_secret(arn)?;
        }
        keys(bed, operator)
            .create(&PostParams::default(), &backup.key)
            .await?;
        backup.restore(bed, &workloads).await?;

        let mut restored = Vec::new();
        for name in &secrets {
            restored.push(bed.written(name).await?.uid());
        }
        let history = bed.history().await?;
        let mark = bed.aws.mark();
        operator.start().await?;
        bed.holds("moved", &[("value", "third")]).await?;
        let third = bed.rollout("moved").await?;
        bed.follows(("Deployment", "moved-web"), "moved", &third).await?;
        for name in ["resting", "moved"] {
            bed.synced(name).await?;
            bed.restarts(name, &["Complete"]).await?;
            let owner = bed.written(name).await?.metadata.owner_references;
            let uid = owner
                .unwrap_or_default()
                .into_iter()
                .next()
                .map(|owner| owner.uid);
            same("the owner", &uid, &bed.get(name).await?.uid())?;
        }
        let read = |arn: &str| {
            let values = bed.calls_since(mark).values_read();
            values.iter().filter(|(_, secret)| **secret == *arn).count()
        };
        same("reads of what rested", &read(&resting.arn), &1)?;
        same("its rollout", &bed.rollout("resting").await?, &token)?;
        same(
            "the time of its change",
            &bed.changed_at("resting").await?,
            &changed_at,
        )?;

        // All that the store has of them is gone, which a person is asked about.
        for name in GONE {
            wait::until(&format!("{name} to be held"), DELETION, async || {
                let ready = bed.said(name, "Ready").await?;
                Ok(ready
                    .filter(|ready| ready.status == "True" && ready.reason == "DeletionHeld")
                    .map(drop))
            })
            .await?;
        }
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment moved-web", 1)]).await?;
        for (name, restored) in secrets.iter().zip(&restored) {
            same(name, &bed.written(name).await?.uid(), restored)?;
        }
        // It works on as before.
        let token = bed.rotate(&resting, "third").await?;
        bed.follows(("Deployment", "resting-web"), "resting", &token)
            .await?;
        restarted(
            &history,
            &[("Deployment moved-web", 1), ("Deployment resting-web", 1)],
        )
        .await
    })
    .await
}

/// The key of the tokens was not in the backup, and nothing of the Secrets was either.
#[tokio::test]
async fn what_comes_back_without_its_secret_and_key_is_made_and_restarts_nothing() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("unkept", &[], async |bed, operator| {
        let db = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let token = bed.rotate(&db, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        operator.terminate().await?;
        let mut backup = Backup::take(bed, operator, &["db"], &["web"]).await?;
        Backup::lose(bed, &["db"], &["web"]).await?;
        lose_key(bed, operator).await?;
        backup.objects.retain(|object| object["kind"] != "Secret");
        for object in backup.objects {
            bed.create(object).await?;
        }
        let history = bed.history().await?;
        operator.start().await?;
        let made = bed.holds("db", &[("value", "second")]).await?;
        ensure!(annotation(&made, names::annotation::CHANGED_AT).is_none());
        bed.complete("Deployment", "web").await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await
    })
    .await
}

/// Somebody deletes a namespace by mistake and has it restored; the operator works on all the time.
#[tokio::test]
async fn under_a_running_operator_a_restored_secret_is_taken_up_and_restarts_nothing() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("mistaken", &[], async |bed, operator| {
        bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
        let db = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let token = bed.rotate(&db, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        let backup = Backup::take(bed, operator, &["db"], &["web"]).await?;
        Backup::lose(bed, &["db"], &["web"]).await?;
        let history = bed.history().await?;
        backup.restore(bed, &["web"]).await?;
        let restored = bed.written("db").await?.uid();
        bed.store_ready(STORE, &["Valid"]).await?;
        bed.synced("db").await?;
        bed.restarts("db", &["Complete"]).await?;
        same("the rollout", &bed.rollout("db").await?, &token)?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;
        same("the Secret", &bed.written("db").await?.uid(), &restored)?;
        let token = bed.rotate(&db, "third").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_status_that_is_wiped_under_a_running_operator_is_written_again() -> Result<()> {
    bed("wiped", async |bed| {
        let db = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let token = bed.rotate(&db, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        let nothing = Patch::Merge(json!({"status": null}));
        bed.all::<ExternalSecret>()
            .patch_status("db", &PatchParams::default(), &nothing)
            .await?;
        bed.synced("db").await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_status_that_is_wiped_again_and_again_is_written_again_but_not_as_often() -> Result<()> {
    bed("wiped-often", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret("db", json!({"data": [entry("value", "app/db")]}))
            .await?;
        bed.synced("db").await?;
        let objects = bed.all::<ExternalSecret>();
        let nothing = Patch::Merge(json!({"status": null}));
        let (began, mut wiped) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(12) {
            if bed.said("db", "Ready").await?.is_some() {
                objects
                    .patch_status("db", &PatchParams::default(), &nothing)
                    .await?;
                wiped += 1;
            }
            sleep(Duration::from_millis(100)).await;
        }
        bed.synced("db").await?;
        // Wiped at once, and then as often as it is written: every 5 s.
        ensure!((2..=4).contains(&wiped), "wiped {wiped} times");
        Ok(())
    })
    .await
}

/// Wipes the status of an object whose target is refused, in the moment after it was written and later.
async fn refusal_comes_back(bed: &Bed, name: &str, reason: &str) -> Result<()> {
    bed.ready(name, reason).await?;
    for pause in [0, 6] {
        sleep(Duration::from_secs(pause)).await;
        let nothing = Patch::Merge(json!({"status": null}));
        bed.all::<ExternalSecret>()
            .patch_status(name, &PatchParams::default(), &nothing)
            .await?;
        wait::until(reason, Duration::from_secs(20), async || {
            let ready = bed.said(name, "Ready").await?;
            Ok(ready.filter(|ready| ready.reason == reason))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_target_is_said_again_after_the_status_was_wiped() -> Result<()> {
    bed("wiped-refusal", async |bed| {
        let db = bed.secret("app/db", "first")?;
        bed.create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "foreign"}, "stringData": {"a": "b"}}),
        )
        .await?;
        let spec = |target: Value| json!({"refreshInterval": "1h", "target": target, "data": [entry("value", "app/db")]});
        bed.external_secret("foreign", spec(json!({}))).await?;
        refusal_comes_back(bed, "foreign", "TargetConflict").await?;

        bed.external_secret("fixed", spec(json!({"immutable": true}))).await?;
        bed.holds("fixed", &[("value", "first")]).await?;
        bed.synced("fixed").await?;
        bed.aws.put_secret_value(&db, "second")?;
        bed.refresh("fixed").await?;
        refusal_comes_back(bed, "fixed", "TargetImmutable").await
    })
    .await
}
