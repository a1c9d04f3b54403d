//! kubectl, kstatus and people read the same from a status.

use std::time::Duration;

use anyhow::{Result, ensure};
use keyturn::api::ExternalSecret;
use serde_json::{Value, json};
use testbed::wait;

use crate::harness::{Bed, STORE, bed, entry};

/// What kstatus makes of a custom resource
/// (<https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md>).
pub(crate) fn kstatus(object: &Value) -> &'static str {
    if object["metadata"].get("deletionTimestamp").is_some() {
        return "Terminating";
    }
    if let Some(observed) = object["status"]["observedGeneration"].as_i64()
        && Some(observed) != object["metadata"]["generation"].as_i64()
    {
        return "InProgress";
    }
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is = |type_: &str, status: &str| {
        conditions
            .iter()
            .any(|c| c["type"] == type_ && c["status"] == status)
    };
    if is("Reconciling", "True") {
        return "InProgress";
    }
    if is("Stalled", "True") {
        return "Failed";
    }
    if is("Ready", "False") || is("Ready", "Unknown") {
        return "InProgress";
    }
    "Current"
}

/// Whether `kubectl wait --for=condition=Ready` is satisfied now.
async fn kubectl_waits(bed: &Bed, name: &str, timeout: &str) -> bool {
    let object = format!("externalsecret.keyturn.dev/{name}");
    let timeout = format!("--timeout={timeout}");
    bed.cluster
        .kubectl([
            "wait",
            "-n",
            &bed.namespace,
            "--for=condition=Ready",
            object.as_str(),
            timeout.as_str(),
        ])
        .await
        .is_ok()
}

async fn raw(bed: &Bed, name: &str) -> Result<Value> {
    Ok(serde_json::to_value(bed.get(name).await?)?)
}

#[tokio::test]
async fn kstatus_and_kubectl_wait_agree() -> Result<()> {
    bed("kstatus", async |bed| {
        bed.secret("app/db", "first")?;
        bed.plain("good", "app/db").await?;
        bed.plain("bad", "app/absent").await?;
        ensure!(
            kubectl_waits(bed, "good", "60s").await,
            "kubectl wait does not end"
        );
        bed.ready("bad", "SecretNotFound").await?;
        ensure!(kstatus(&raw(bed, "good").await?) == "Current");
        ensure!(kstatus(&raw(bed, "bad").await?) == "InProgress");
        ensure!(!kubectl_waits(bed, "bad", "1s").await);
        // Mended, both turn.
        bed.secret("app/absent", "here")?;
        ensure!(kubectl_waits(bed, "bad", "60s").await);
        bed.synced("bad").await?;
        ensure!(kstatus(&raw(bed, "bad").await?) == "Current");
        // An outage, a suspension: neither turns.
        bed.annotate(
            "good",
            "keyturn.dev/suspend-sync-until",
            Some(&crate::harness::from_now(3600)),
        )
        .await?;
        bed.condition("good", "Current", &["Suspended"]).await?;
        ensure!(
            kstatus(&raw(bed, "good").await?) == "Current",
            "{}",
            raw(bed, "good").await?
        );
        ensure!(kubectl_waits(bed, "good", "30s").await);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tools_give_up_only_where_a_person_must_act() -> Result<()> {
    bed("stalled", async |bed| {
        bed.plain("absent", "app/absent").await?;
        bed.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken"}}))
            .await?;
        bed.secret("app/db", "first")?;
        bed.plain("taken", "app/db").await?;
        bed.ready("taken", "TargetConflict").await?;
        ensure!(kstatus(&raw(bed, "taken").await?) == "Failed");
        bed.ready("absent", "SecretNotFound").await?;
        ensure!(kstatus(&raw(bed, "absent").await?) == "InProgress");
        let failed = wait::until("kstatus to give up", Duration::from_mins(4), async || {
            let object = bed.get("absent").await?;
            let failed = kstatus(&serde_json::to_value(&object)?) == "Failed";
            Ok(failed.then_some(object))
        })
        .await?;
        let since = |type_: &str| {
            let conditions = failed
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            let mut found = conditions.filter(|found| found.type_ == type_);
            found.next().map(|found| found.last_transition_time.0)
        };
        let (ready, stalled) = (since("Ready"), since("Stalled"));
        ensure!(
            stalled
                .zip(ready)
                .is_some_and(|(stalled, ready)| stalled.duration_since(ready).as_secs() >= 119),
            "it failed at {ready:?} and is given up since {stalled:?}"
        );
        bed.secret("app/absent", "here")?;
        bed.synced("absent").await?;
        ensure!(kstatus(&raw(bed, "absent").await?) == "Current");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_edit_is_never_called_ready_by_the_status_of_before() -> Result<()> {
    bed("generation", async |bed| {
        bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        for round in 0..5 {
            let key = if round % 2 == 0 { "app/absent" } else { "app/db" };
            bed.external_secret("db", json!({"data": [entry("value", key)]}))
                .await?;
            // At any moment: either not yet observed, or judged as it is now.
            loop {
                let object = raw(bed, "db").await?;
                let (generation, observed) = (
                    &object["metadata"]["generation"],
                    &object["status"]["observedGeneration"],
                );
                let ready = object["status"]["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|c| c["type"] == "Ready");
                let good = ready.is_some_and(|ready| ready["status"] == "True");
                if generation == observed {
                    ensure!(
                        good == (key == "app/db"),
                        "round {round}: Ready of another spec: {object}"
                    );
                    break;
                }
                ensure!(kstatus(&object) == "InProgress");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_new_object_is_not_current_before_it_was_looked_at() -> Result<()> {
    bed("new", async |bed| {
        // Nothing answers in time: the object is new for long.
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "secretStoreRef": {"name": "absent"}}),
        )
        .await?;
        let said = bed.ready("db", "StoreNotFound").await?;
        ensure!(said.status == "False" && kstatus(&raw(bed, "db").await?) == "InProgress");
        Ok(())
    })
    .await
}

/// Two failures within a moment: what people read of the second is what happened then.
#[tokio::test]
async fn each_failure_is_told_by_an_event_of_its_own() -> Result<()> {
    bed("told", async |bed| {
        let spec =
            |store: &str| json!({"data": [entry("value", "app/absent")], "secretStoreRef": {"name": store}});
        bed.external_secret("db", spec("absent")).await?;
        let first = bed.ready("db", "StoreNotFound").await?;
        bed.external_secret("db", spec(STORE)).await?;
        let second = bed.ready("db", "SecretNotFound").await?;
        for condition in [first, second] {
            let what = format!("an event of {}", condition.reason);
            testbed::wait::until(&what, crate::harness::SOON, async || {
                let events = bed.all::<k8s_openapi::api::events::v1::Event>();
                let events = events.list(&kube::api::ListParams::default()).await?;
                let told = events.items.iter().any(|event| {
                    event.reason.as_deref() == Some("SyncFailed")
                        && event.action.as_ref() == Some(&condition.reason)
                        && event.note.as_ref() == Some(&condition.message)
                });
                Ok(told.then_some(()))
            })
            .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_aws_was_never_asked_for_is_not_called_checked_and_a_suspension_is_shown() -> Result<()> {
    bed("never-asked", async |bed| {
        let shows = async |object: &str, word: &str| {
            let table = bed
                .cluster
                .kubectl(["get", "kes", object, "-n", &bed.namespace])
                .await?;
            ensure!(table.contains(word), "{word} is not in {table}");
            Ok(())
        };
        bed.secret("app/db", "first")?;
        let nowhere = json!({"secretStoreRef": {"name": "nowhere"}, "data": [entry("value", "app/db")]});
        bed.external_secret("lost", nowhere).await?;
        bed.ready("lost", "StoreNotFound").await?;
        bed.condition("lost", "Current", &["NotChecked"]).await?;
        shows("lost", "NotChecked").await?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        shows("db", "Checked").await?;
        let until = crate::harness::from_now(3600);
        bed.annotate("db", "keyturn.dev/suspend-sync-until", Some(&until))
            .await?;
        bed.condition("db", "Current", &["Suspended"]).await?;
        shows("db", "Suspended").await
    })
    .await
}

#[tokio::test]
async fn kubectl_shows_what_matters() -> Result<()> {
    bed("columns", async |bed| {
        bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        let table = bed
            .cluster
            .kubectl(["get", "kes", "-n", &bed.namespace, "-o", "wide"])
            .await?;
        for column in [
            "STORE", "READY", "REASON", "CHANGED", "AGE", "CURRENT", "SECRET", "VERSION", "MESSAGE",
        ] {
            ensure!(table.contains(column), "{column} is not in {table}");
        }
        let row = table.lines().nth(1).unwrap_or_default();
        for cell in [STORE, "True", "Synced"] {
            ensure!(row.contains(cell), "{cell} is not in {row}");
        }
        bed.store_ready(STORE, &["Valid"]).await?;
        let table = bed.cluster.kubectl(["get", "kss", "-n", &bed.namespace]).await?;
        ensure!(
            table.contains("eu-central-1") && table.contains("Valid"),
            "{table}"
        );
        let all = bed
            .cluster
            .kubectl(["get", "keyturn", "-n", &bed.namespace, "-o", "name"])
            .await?;
        ensure!(
            all.contains("externalsecret.keyturn.dev/db") && all.contains("secretstore.keyturn.dev/aws"),
            "{all}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn conditions_are_as_kubernetes_wants_them() -> Result<()> {
    bed("form", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        let times = async || {
            let status = bed.get("db").await?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            for condition in &conditions {
                ensure!(
                    condition.observed_generation == status.observed_generation,
                    "{condition:?}"
                );
                ensure!(
                    !condition.message.is_empty() && !condition.reason.is_empty(),
                    "{condition:?}"
                );
            }
            let ready = conditions
                .into_iter()
                .find(|condition| condition.type_ == "Ready");
            Ok(ready.map(|ready| ready.last_transition_time))
        };
        let first = times().await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.synced("db").await?;
        ensure!(
            times().await? == first,
            "lastTransitionTime moves only with the status"
        );
        let manager = |object: &ExternalSecret| {
            let fields = object.metadata.managed_fields.clone().unwrap_or_default();
            fields
                .into_iter()
                .filter(|entry| entry.subresource.as_deref() == Some("status"))
                .filter_map(|entry| entry.manager)
                .collect::<Vec<_>>()
        };
        let managers = manager(&bed.get("db").await?);
        ensure!(managers == ["keyturn-sync"], "{managers:?}");
        Ok(())
    })
    .await
}
