//! The ConfigMap by which people hold everything up.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testbed::wait;

use crate::{
    harness::{API_SERVER, Bed, SOON, from_now, quarried, stays},
    operator::Operator,
};

const NAME: &str = "keyturn-control";

fn map(bed: &Bed, operator: &Operator) -> Api<ConfigMap> {
    Api::namespaced(bed.client.clone(), operator.namespace())
}

/// Writes the ConfigMap; what was in it before and is not named goes.
async fn hold(bed: &Bed, operator: &Operator, data: Value) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data});
    let parameters = PatchParams::apply("tests").force();
    map(bed, operator)
        .patch(NAME, &parameters, &Patch::Apply(&object))
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_control_holds_up_reads_and_writes_until_it_ends_or_goes() -> Result<()> {
    let _up = API_SERVER.read().await;
    quarried("control", &[], async |bed, operator| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;

        hold(bed, operator, json!({"suspendSync": "true"})).await?;
        let said = bed.condition("db", "Current", &["Suspended"]).await?;
        assert_eq!(said.status, "False");
        for part in [NAME, "names no end", "suspendSync"] {
            ensure!(said.message.contains(part), "{part}: {}", said.message);
        }
        wait::until("the metric", SOON, async || {
            let held = async |what: &str| -> Result<f64> {
                let metrics = operator.metrics().await?;
                Ok(metrics.sum_where("keyturn_held_up", &[("what", what)]))
            };
            Ok(((held("sync").await?, held("restarts").await?) == (1.0, 0.0)).then_some(()))
        })
        .await?;
        let mark = bed.aws.mark();
        bed.aws.put_secret_value(&arn, "second")?;
        bed.patch::<Secret>("db", json!({"stringData": {"value": "by hand"}}))
            .await?;
        bed.refresh("db").await?;
        stays(Duration::from_secs(4), async || {
            ensure!(
                bed.data("db").await?["value"] == "by hand",
                "written while held up"
            );
            let calls = bed.calls_since(mark);
            ensure!(
                calls.requests().count() == 0,
                "AWS was asked: {:?}",
                calls.counts()
            );
            Ok(())
        })
        .await?;
        let ready = bed.said("db", "Ready").await?.map(|condition| condition.reason);
        assert_eq!(ready.as_deref(), Some("Synced"));
        // A new object waits too.
        bed.plain("new", "app/db").await?;
        wait::until("the new object to be held up", SOON, async || {
            let said = bed.said("new", "Current").await?;
            Ok(said.filter(|said| said.reason == "Suspended").map(drop))
        })
        .await?;
        ensure!(
            bed.find("new").await?.is_none(),
            "a Secret was made while held up"
        );

        // It ends by itself.
        let until = from_now(8);
        hold(bed, operator, json!({"suspendSync": "true", "until": until})).await?;
        for name in ["db", "new"] {
            bed.holds(name, &[("value", "second")]).await?;
            bed.condition(name, "Current", &["Checked"]).await?;
        }
        ensure!(from_now(0) >= until, "it ended before its time");

        // What cannot be read holds up, and its removal ends it.
        hold(bed, operator, json!({"suspendSync": "yes"})).await?;
        let said = bed.condition("db", "Current", &["Suspended"]).await?;
        ensure!(
            said.message.contains("suspendSync cannot be read"),
            "{}",
            said.message
        );
        bed.aws.put_secret_value(&arn, "third")?;
        map(bed, operator).delete(NAME, &DeleteParams::default()).await?;
        bed.holds("db", &[("value", "third")]).await?;
        bed.condition("db", "Current", &["Checked"]).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn the_control_speaks_of_its_namespaces_and_outlives_the_process() -> Result<()> {
    let _up = API_SERVER.read().await;
    quarried("control-some", &[], async |bed, operator| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        hold(
            bed,
            operator,
            json!({"suspendSync": "true", "namespaces": "another"}),
        )
        .await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;

        let namespaces = format!("another,{}", bed.namespace);
        hold(
            bed,
            operator,
            json!({"suspendSync": "true", "namespaces": namespaces}),
        )
        .await?;
        bed.condition("db", "Current", &["Suspended"]).await?;
        bed.aws.put_secret_value(&arn, "third")?;
        operator.terminate().await?;
        let mark = bed.aws.mark();
        operator.start().await?;
        operator.led(&bed.client, None).await?;
        stays(Duration::from_secs(3), async || {
            ensure!(
                bed.data("db").await?["value"] == "second",
                "written after a start"
            );
            ensure!(bed.values_since(mark) == 0, "read after a start");
            Ok(())
        })
        .await?;
        map(bed, operator).delete(NAME, &DeleteParams::default()).await?;
        bed.holds("db", &[("value", "third")]).await.map(drop)
    })
    .await
}
