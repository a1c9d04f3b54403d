//! When AWS is asked: on demand, when something changes, not while suspended.

use std::time::Instant;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::harness::{Bed, SELDOM, STORE, bed, entry, from_now};

const SUSPEND: &str = "keyturn.dev/suspend-sync-until";

fn seldom(key: &str) -> Value {
    json!({"data": [entry("value", key)], "refreshInterval": SELDOM})
}

#[tokio::test]
async fn a_new_refresh_annotation_reads_now() -> Result<()> {
    bed("demand", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        for (name, spec) in [
            ("seldom", seldom("app/db")),
            (
                "once",
                json!({"data": [entry("value", "app/db")], "refreshPolicy": "CreatedOnce"}),
            ),
            (
                "onchange",
                json!({"data": [entry("value", "app/db")], "refreshPolicy": "OnChange"}),
            ),
        ] {
            bed.external_secret(name, spec).await?;
            bed.holds(name, &[("value", "first")]).await?;
            bed.synced(name).await?;
        }
        bed.aws.put_secret_value(&arn, "second")?;
        for name in ["seldom", "once", "onchange"] {
            bed.refresh(name).await?;
            bed.holds(name, &[("value", "second")]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn on_demand_an_object_is_read_at_most_once_in_ten_seconds() -> Result<()> {
    bed("often", async |bed| {
        let arn = bed.secret("app/db", "0")?;
        bed.external_secret("db", seldom("app/db")).await?;
        bed.holds("db", &[("value", "0")]).await?;
        bed.synced("db").await?;
        let mark = bed.aws.mark();
        let begun = Instant::now();
        for n in 1..=5 {
            bed.aws.put_secret_value(&arn, n.to_string())?;
            bed.refresh("db").await?;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        // The last one asked for is not lost: it is read when its time comes.
        bed.holds("db", &[("value", "5")]).await?;
        let reads = bed.values_since(mark);
        let allowed = 1 + usize::try_from(begun.elapsed().as_secs() / 10)?;
        assert!(
            reads <= allowed,
            "{reads} reads in {} s",
            begun.elapsed().as_secs()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_refresh_of_what_does_not_exist_calls_at_most_once_in_ten_seconds_and_is_not_lost() -> Result<()> {
    bed("often-gone", async |bed| {
        let keys = ["app/a", "app/b", "app/c"];
        let entries: Vec<_> = keys.iter().map(|key| entry(&key[4..], key)).collect();
        bed.external_secret("db", json!({"data": entries, "refreshInterval": SELDOM}))
            .await?;
        bed.ready("db", "SecretNotFound").await?;
        let mark = bed.aws.mark();
        let begun = Instant::now();
        for _ in 0..40 {
            bed.refresh("db").await?;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        let refused = bed.calls_since(mark);
        let refused = refused.requests().filter(|call| call.error.is_some()).count();
        // A batch or a read and a Describe of each, and what the tracker does by itself: Describe after 10, 20, 40 s.
        let times = 1 + usize::try_from(begun.elapsed().as_secs() / 10)?;
        assert!(
            refused <= keys.len() * 3 * times,
            "{refused} calls in {} s",
            begun.elapsed().as_secs()
        );
        for key in keys {
            bed.secret(key, key)?;
        }
        bed.refresh("db").await?;
        bed.holds("db", &[("a", "app/a"), ("b", "app/b"), ("c", "app/c")])
            .await?;
        Ok(())
    })
    .await
}

/// While suspended by `place` nothing of `db` is read, written or repaired, `Ready` stays, and `Current` says until when.
async fn suspends(name: &str, set: impl AsyncFn(&Bed, Option<&str>) -> Result<()>) -> Result<()> {
    bed(name, async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        let until = from_now(3600);
        set(bed, Some(&until)).await?;
        let said = bed.condition("db", "Current", &["Suspended"]).await?;
        assert_eq!(said.status, "False");
        assert!(said.message.contains(&until), "{}", said.message);
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "second")?;
        bed.patch::<Secret>("db", json!({"stringData": {"value": "by hand"}}))
            .await?;
        bed.refresh("db").await?;
        // Another object of another namespace is worked meanwhile: the operator is not asleep.
        let elsewhere = Bed::make(&crate::harness::common().await?.place, "elsewhere").await?;
        elsewhere.store(STORE, json!({})).await?;
        elsewhere
            .run(None, async |other| {
                other.secret("app/db", "awake")?;
                other.plain("db", "app/db").await?;
                other.holds("db", &[("value", "awake")]).await?;
                other.rounds(3).await
            })
            .await?;
        assert_eq!(
            bed.data("db").await?["value"],
            "by hand",
            "written while suspended"
        );
        assert_eq!(bed.values_since(mark), 0, "read while suspended");
        let ready = bed.said("db", "Ready").await?.map(|condition| condition.reason);
        assert_eq!(ready.as_deref(), Some("Synced"));
        set(bed, None).await?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.condition("db", "Current", &["Checked"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_external_secret_can_be_suspended() -> Result<()> {
    suspends("suspended", async |bed, until| {
        bed.annotate("db", SUSPEND, until).await
    })
    .await
}

#[tokio::test]
async fn a_store_can_be_suspended() -> Result<()> {
    suspends("suspended-store", async |bed, until| {
        bed.patch::<keyturn::api::SecretStore>(STORE, json!({"metadata": {"annotations": {SUSPEND: until}}}))
            .await
    })
    .await
}

#[tokio::test]
async fn a_namespace_can_be_suspended() -> Result<()> {
    suspends("suspended-namespace", async |bed, until| {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {SUSPEND: until}}}));
        let namespaces = Api::<Namespace>::all(bed.client.clone());
        namespaces
            .patch(&bed.namespace, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_suspension_ends_by_itself() -> Result<()> {
    bed("ends", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.annotate("db", SUSPEND, Some(&from_now(25))).await?;
        bed.condition("db", "Current", &["Suspended"]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.condition("db", "Current", &["Checked"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_suspension_that_is_no_time_is_said() -> Result<()> {
    bed("untimely", async |bed| {
        bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        bed.annotate("db", SUSPEND, Some("tomorrow")).await?;
        let said = bed.ready("db", "InvalidSpec").await?;
        crate::harness::assert_actionable(&said.message.replace("T08:00:00Z", ""), &[SUSPEND]);
        bed.annotate("db", SUSPEND, None).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn created_once_is_made_once_and_keeps_trying_until_then() -> Result<()> {
    bed("once", async |bed| {
        let spec = json!({"data": [entry("value", "app/db")], "refreshPolicy": "CreatedOnce", "refreshInterval": "1s"});
        bed.external_secret("db", spec).await?;
        bed.ready("db", "SecretNotFound").await?;
        let arn = bed.secret("app/db", "first")?;
        // By itself within five minutes.
        bed.refresh("db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.secret("app/other", "other")?;
        bed.plain("other", "app/other").await?;
        bed.rounds(4).await?;
        bed.holds("db", &[("value", "first")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn on_change_reads_when_the_object_is_edited() -> Result<()> {
    bed("onchange", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        let spec = |key: &str| json!({"data": [entry(key, "app/db")], "refreshPolicy": "OnChange"});
        bed.external_secret("db", spec("one")).await?;
        bed.holds("db", &[("one", "first")]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.external_secret("db", spec("two")).await?;
        bed.holds("db", &[("two", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn without_a_store_the_default_one_is_used() -> Result<()> {
    bed("default", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "secretStoreRef": null}),
        )
        .await?;
        let said = bed.ready("db", "StoreNotFound").await?;
        crate::harness::assert_actionable(&said.message, &[crate::operator::DEFAULT_STORE]);
        let jwt = json!({"serviceAccountRef": {"name": crate::harness::READER}});
        let store = json!({"apiVersion": "keyturn.dev/v1", "kind": "ClusterSecretStore",
            "metadata": {"name": crate::operator::DEFAULT_STORE},
            "spec": {"provider": {"aws": {"region": crate::harness::REGION, "auth": {"jwt": jwt}}},
                "allowedKeys": ["**"]}});
        bed.apply(store).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.cluster
            .kubectl([
                "delete",
                "clustersecretstore.keyturn.dev",
                crate::operator::DEFAULT_STORE,
            ])
            .await?;
        Ok(())
    })
    .await
}
