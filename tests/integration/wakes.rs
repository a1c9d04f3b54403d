//! What must be looked at again is, and what cannot be mended by looking is not looked at over and over.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyturn::api::{ExternalSecret, SecretStore};
use kube::ResourceExt;
use serde_json::json;
use testbed::{requests, wait};

use crate::harness::{
    API_SERVER, Bed, OFTEN, SELDOM, SOON, STORE, annotation, bed, common, entry, from_now, property, quarried,
};

/// Watched for as long.
const SPAN: Duration = Duration::from_secs(10);

/// The operator's requests in the bed's namespace within [`SPAN`].
async fn requests_of(bed: &Bed) -> Result<usize> {
    let operator = &common().await?.operator;
    let mark = requests::mark(bed.cluster)?;
    tokio::time::sleep(SPAN).await;
    let namespace = bed.namespace.as_str();
    let made = requests::since(bed.cluster, mark)?
        .of(operator.user())
        .only(|request| request.namespace == namespace);
    Ok(made.counts().values().sum())
}

#[tokio::test]
async fn a_new_version_that_cannot_be_used_is_no_hot_loop() -> Result<()> {
    bed("loop", async |bed| {
        let arn = bed.secret("app/db", r#"{"password": "first"}"#)?;
        let spec = json!({"data": [property("value", "app/db", "password")], "refreshInterval": OFTEN});
        bed.external_secret("db", spec).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.aws.put_secret_value(&arn, r#"{"user": "other"}"#)?;
        bed.ready("db", "PropertyNotFound").await?;
        bed.rounds(2).await?;
        let made = requests_of(bed).await?;
        ensure!(made < 30, "{made} requests in 10 s");
        bed.aws.put_secret_value(&arn, r#"{"password": "second"}"#)?;
        bed.holds("db", &[("value", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

/// The number in a resourceVersion: of one API server's objects they tell which was written first.
fn revision(object: &impl ResourceExt) -> Result<u64> {
    Ok(object
        .resource_version()
        .context("an object without resourceVersion")?
        .parse()?)
}

/// Objects that share a secret.
const OBJECTS: usize = 60;
/// One status a second, and one of restarts: far slower than any machine writes Secrets.
const SLOW: [&str; 1] = ["--status-writes-per-second=2"];

/// Many objects share a secret, and it has changed: their Secrets are written, and most of their statuses wait. Gives the
/// revision of the last Secret.
async fn changed_for_many(bed: &Bed) -> Result<u64> {
    let arn = bed.secret("app/shared", "first")?;
    for n in 0..OBJECTS {
        bed.plain(&format!("db-{n}"), "app/shared").await?;
    }
    for n in 0..OBJECTS {
        bed.synced(&format!("db-{n}")).await?;
    }
    bed.aws.put_secret_value(&arn, "second")?;
    let mut last = 0;
    for n in 0..OBJECTS {
        let secret = bed.holds(&format!("db-{n}"), &[("value", "second")]).await?;
        last = last.max(revision(&secret)?);
    }
    Ok(last)
}

/// The object, if its status tells of the content that its Secret has.
async fn telling(bed: &Bed, name: &str) -> Result<Option<ExternalSecret>> {
    let rollout = annotation(&bed.written(name).await?, "keyturn.dev/rollout").map(str::to_owned);
    let object = bed.get(name).await?;
    let target = object.status.as_ref().and_then(|status| status.target.as_ref());
    Ok((target.is_some_and(|target| target.rollout == rollout)).then_some(object))
}

#[tokio::test]
async fn secrets_do_not_wait_for_the_pace_of_statuses() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("many", &SLOW, async |bed, _| {
        let last = changed_for_many(bed).await?;
        let mut after = 0;
        for n in 0..OBJECTS {
            let name = format!("db-{n}");
            let what = format!("{name} to say what was written");
            let said = wait::until(&what, SOON, async || telling(bed, &name).await).await?;
            after += usize::from(revision(&said)? > last);
        }
        // Were the pace's waits held within the 32 slots of writes, the last Secret would come after half of the statuses.
        ensure!(
            after > OBJECTS * 2 / 3,
            "only {after} of {OBJECTS} statuses were written after the last Secret"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_answer_to_an_edit_does_not_wait_for_the_statuses_of_others() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("answers", &SLOW, async |bed, _| {
        bed.secret("app/mine", "mine")?;
        bed.plain("mine", "app/mine").await?;
        bed.synced("mine").await?;
        changed_for_many(bed).await?;
        bed.annotate("mine", "keyturn.dev/suspend-sync-until", Some(&from_now(3600)))
            .await?;
        bed.condition("mine", "Current", &["Suspended"]).await?;
        let mut behind = 0;
        for n in 0..OBJECTS {
            behind += usize::from(telling(bed, &format!("db-{n}")).await?.is_none());
        }
        // At one a second it would be the last.
        ensure!(
            behind > OBJECTS / 3,
            "only {behind} of {OBJECTS} others were still to be said"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_suspension_of_the_store_that_is_taken_back_wakes_its_objects() -> Result<()> {
    bed("resumed", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.external_secret("db", json!({"data": [entry("value", "app/db")], "refreshInterval": OFTEN})).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        let suspended = |until: Option<String>| json!({"metadata": {"annotations": {"keyturn.dev/suspend-sync-until": until}}});
        bed.patch::<SecretStore>(STORE, suspended(Some(from_now(3600)))).await?;
        bed.condition("db", "Current", &["Suspended"]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.patch::<SecretStore>(STORE, suspended(None)).await?;
        bed.condition("db", "Current", &["Checked"]).await?;
        bed.holds("db", &[("value", "second")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_secret_deleted_right_after_it_was_made_is_made_again() -> Result<()> {
    bed("snatched", async |bed| {
        bed.secret("app/db", "first")?;
        for n in 0..10 {
            let name = format!("db-{n}");
            bed.external_secret(
                &name,
                json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM}),
            )
            .await?;
            while bed.find(&name).await?.is_none() {}
            bed.delete::<Secret>(&name).await?;
        }
        for n in 0..10 {
            bed.holds(&format!("db-{n}"), &[("value", "first")]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_object_made_again_waits_for_the_end_of_its_former_secret() -> Result<()> {
    bed("again", async |bed| {
        bed.secret("app/db", "first")?;
        let spec = json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM});
        // The garbage collector learns of new kinds every 30 s, which is longer than a leftover is waited for.
        bed.external_secret("first", spec.clone()).await?;
        bed.synced("first").await?;
        bed.delete::<ExternalSecret>("first").await?;
        bed.gone("first").await?;
        bed.external_secret("db", spec.clone()).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        for _ in 0..5 {
            bed.delete::<ExternalSecret>("db").await?;
            bed.external_secret("db", spec.clone()).await?;
            bed.synced("db").await?;
            bed.holds("db", &[("value", "first")]).await?;
        }
        let events = bed.events("ExternalSecret", "db").await?;
        ensure!(
            events.iter().all(|(reason, _)| reason != "TargetConflict"),
            "{events:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_foreign_secret_is_looked_at_again_without_reading_aws() -> Result<()> {
    bed("foreign", async |bed| {
        bed.secret("app/db", "first")?;
        let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"mine": "kept"}});
        bed.create(foreign).await?;
        bed.external_secret("db", json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM})).await?;
        bed.ready("db", "TargetConflict").await?;
        let mark = bed.aws.mark();
        tokio::time::sleep(Duration::from_secs(70)).await;
        ensure!(bed.values_since(mark) == 0, "AWS was read to see a Secret");
        bed.delete::<Secret>("db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn what_is_deleted_with_its_object_does_not_come_back() -> Result<()> {
    bed("ending", async |bed| {
        bed.secret("app/db", "first")?;
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "refreshInterval": SELDOM}),
        )
        .await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.patch::<ExternalSecret>("db", json!({"metadata": {"finalizers": ["test.example/hold"]}}))
            .await?;
        let api = bed.all::<ExternalSecret>();
        api.delete("db", &kube::api::DeleteParams::foreground()).await?;
        bed.gone("db").await?;
        let mark = requests::mark(bed.cluster)?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(bed.find("db").await?.is_none(), "the Secret came back");
        let operator = &common().await?.operator;
        let made = requests::since(bed.cluster, mark)?
            .of(operator.user())
            .only(|request| request.writes() && request.namespace == bed.namespace);
        ensure!(made.counts().is_empty(), "{:?}", made.counts());
        bed.patch::<ExternalSecret>("db", json!({"metadata": {"finalizers": null}}))
            .await
    })
    .await
}
