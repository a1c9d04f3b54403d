//! The main path: from an ExternalSecret to a Secret, and all its changes.

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::{requests, wait};

use crate::harness::{Bed, DELETION, SELDOM, SOON, STORE, bed, common, entry, property};

#[tokio::test]
async fn an_external_secret_becomes_a_secret_and_follows_aws() -> Result<()> {
    bed("main", async |bed| {
        let arn = bed.secret("prod/db", r#"{"user":"app","password":"first"}"#)?;
        bed.external_secret(
            "db",
            json!({"target": {"name": "db-credentials"},
                "data": [property("password", "prod/db", "password"), property("user", "prod/db", "user")]}),
        )
        .await?;
        bed.holds("db-credentials", &[("password", "first"), ("user", "app")])
            .await?;
        bed.synced("db").await?;
        bed.condition("db", "Current", &["Checked"]).await?;
        ensure!(
            bed.events("ExternalSecret", "db").await?.is_empty(),
            "a plain first sync is no event"
        );
        let status = bed.get("db").await?.status.unwrap_or_default();
        let source = status.sources.unwrap_or_default();
        let [source] = source.as_slice() else {
            anyhow::bail!("{source:?}")
        };
        ensure!(
            source.store == format!("SecretStore/{STORE}")
                && source.key == "prod/db"
                && source.stage == "AWSCURRENT"
        );
        ensure!(
            source.version_id == bed.aws.stages(&arn)?["AWSCURRENT"],
            "{source:?}"
        );
        let target = status.target.unwrap_or_default();
        ensure!(
            target.name == "db-credentials" && target.content.is_some() && target.changed_at.is_none(),
            "{target:?}"
        );

        bed.aws
            .put_secret_value(&arn, r#"{"user":"app","password":"second"}"#)?;
        bed.holds("db-credentials", &[("password", "second"), ("user", "app")])
            .await?;
        bed.event("db", "Updated").await?;
        // The status follows the Secret.
        wait::until("the status to say when the data changed", SOON, async || {
            let status = bed.get("db").await?.status.unwrap_or_default();
            Ok(status.target.and_then(|target| target.changed_at))
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_first_sync_takes_three_requests() -> Result<()> {
    let operator = &common().await?.operator;
    bed("three", async |bed| {
        bed.store_ready(STORE, &["Valid"]).await?;
        for n in 0..10 {
            bed.secret(&format!("app/{n}"), "first")?;
        }
        let mark = requests::mark(bed.cluster)?;
        for n in 0..10 {
            bed.external_secret(
                &format!("db-{n}"),
                json!({"data": [entry("value", &format!("app/{n}"))], "refreshInterval": SELDOM}),
            )
            .await?;
        }
        for n in 0..10 {
            bed.holds(&format!("db-{n}"), &[("value", "first")]).await?;
            bed.synced(&format!("db-{n}")).await?;
        }
        // What would come after has come when a later one is done.
        let later = Bed::make(&common().await?.place, "later").await?;
        later.store(STORE, json!({})).await?;
        later
            .run(None, async |later| {
                later.secret("app/db", "later")?;
                later.plain("db", "app/db").await?;
                later.synced("db").await
            })
            .await?;
        let made = requests::since(bed.cluster, mark)?
            .of(operator.user())
            .only(|request| {
                request.namespace == bed.namespace
                    && request.verb != "watch"
                    && request.verb != "list"
                    && !request.resource.ends_with("/token")
                    && !request.resource.starts_with("secretstores")
            });
        // A Secret that its watch shows before the answer to its POST is looked at once more.
        let repeated = made.count("get", "externalsecrets").saturating_sub(10);
        ensure!(repeated <= 5, "{repeated} of 10 objects were read twice");
        ensure!(
            made.0.len() - repeated <= 30,
            "{} requests for 10 objects: {:?}",
            made.0.len(),
            made.counts()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_edit_is_followed_without_waiting_for_the_interval() -> Result<()> {
    bed("edit", async |bed| {
        bed.secret("app/one", "one")?;
        bed.secret("app/two", "two")?;
        let spec = |key: &str| json!({"data": [entry("value", key)], "refreshInterval": "24h"});
        bed.external_secret("db", spec("app/one")).await?;
        bed.holds("db", &[("value", "one")]).await?;
        bed.external_secret("db", spec("app/two")).await?;
        bed.holds("db", &[("value", "two")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn what_is_deleted_is_no_longer_asked_for() -> Result<()> {
    bed("deleted", async |bed| {
        bed.secret("app/kept", "kept")?;
        let arn = bed.secret("app/db", "first")?;
        bed.plain("kept", "app/kept").await?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.delete::<keyturn::api::ExternalSecret>("db").await?;
        bed.gone("db").await?;
        // What was on its way when it was deleted may still come.
        bed.rounds(3).await?;
        let mark = bed.aws.mark();
        bed.rounds(5).await?;
        let asked = bed
            .calls_since(mark)
            .0
            .into_iter()
            .filter(|call| call.resource.as_deref() == Some(arn.as_str()))
            .count();
        ensure!(asked == 0, "asked {asked} times for a secret that nobody wants");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_external_secret_made_again_is_another_one() -> Result<()> {
    bed("again", async |bed| {
        bed.secret("app/db", "first")?;
        for round in 0..3 {
            bed.plain("db", "app/db").await?;
            bed.holds("db", &[("value", "first")]).await?;
            bed.synced("db").await?;
            let object = bed.get("db").await?;
            let owners = bed
                .written("db")
                .await?
                .metadata
                .owner_references
                .unwrap_or_default();
            ensure!(
                owners
                    .iter()
                    .any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref()),
                "round {round}: {owners:?}"
            );
            // Not waiting for the garbage collector: the next one may meet the former's Secret.
            bed.delete::<keyturn::api::ExternalSecret>("db").await?;
        }
        bed.gone("db").await
    })
    .await
}

#[tokio::test]
async fn metrics_and_health_are_served() -> Result<()> {
    let operator = &common().await?.operator;
    bed("metrics", async |bed| {
        bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        let metrics = operator.metrics().await?;
        ensure!(!metrics.0.is_empty(), "no metrics");
        ensure!(
            metrics.0.keys().any(|name| name.starts_with("keyturn_")),
            "none of ours: {:?}",
            metrics.0.keys()
        );
        // Other tests have objects too, so how many there are is not known.
        wait::until("the objects to be counted", SOON, async || {
            let said = [("condition", "Ready"), ("status", "True"), ("reason", "Synced")];
            let metrics = operator.metrics().await?;
            let counted = metrics.sum_where("keyturn_externalsecrets", &said);
            Ok((counted >= 1.0).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn the_audit_log_says_who_got_what() -> Result<()> {
    let operator = &common().await?.operator;
    bed("audit", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        bed.store("denied", json!({"allowedKeys": ["other/*"]})).await?;
        bed.external_secret(
            "denied",
            json!({"data": [entry("v", "app/db")], "secretStoreRef": {"name": "denied"}}),
        )
        .await?;
        bed.ready("denied", "KeyNotAllowed").await?;
        bed.aws.delete_secret(&arn)?;
        bed.external_secret(
            "db",
            json!({"data": [entry("value", "app/db")], "target": {"deletionPolicy": "Delete"}}),
        )
        .await?;
        bed.gone_within(DELETION, "db").await?;
        let object = format!("{}/db", bed.namespace);
        for (action, parts) in [
            ("read", vec![object.as_str(), "app/db"]),
            ("write", vec![object.as_str()]),
            ("refusal", vec!["KeyNotAllowed"]),
            ("delete", vec![object.as_str()]),
            ("token", vec!["reader"]),
        ] {
            let log = operator.log()?;
            let is = format!("\"action\":\"{action}\"");
            let found = log.lines().any(|line| {
                line.contains(&is)
                    && line.contains(&bed.namespace)
                    && parts.iter().all(|part| line.contains(part))
                    && !line.contains("withheld")
                    && !line.contains("missing")
            });
            ensure!(found, "no line of the audit log says {action} with {parts:?}");
        }
        Ok(())
    })
    .await
}
