//! What passes by itself turns nothing red while its Secret is good, and its end brings no storm.

use anyhow::Result;
use serde_json::json;
use testbed::aws::{Fault, Match};

use crate::harness::{Bed, STORE, assert_actionable, bed};

/// The rule for what this account asks of Secrets Manager.
fn reads(bed: &Bed) -> Match {
    [
        "GetSecretValue",
        "BatchGetSecretValue",
        "DescribeSecret",
        "ListSecrets",
    ]
    .into_iter()
    .fold(bed.here(), Match::operation)
}

/// An outage begins with a good Secret: nothing is said and nothing written until it ends, then all goes on.
async fn passes(name: &str, fault: Fault) -> Result<()> {
    bed(name, async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        bed.condition("db", "Current", &["Checked"]).await?;
        let (object, secret) = (bed.get("db").await?, bed.written("db").await?);
        let outage = bed.aws.add_fault(reads(bed), fault);
        bed.aws.put_secret_value(&arn, "second")?;
        let mark = bed.aws.mark();
        let failed =
            |calls: &testbed::aws::Calls| calls.requests().filter(|call| call.error.is_some()).count() >= 3;
        bed.called("three failed calls", mark, failed).await?;
        assert_eq!(
            bed.get("db").await?.metadata.resource_version,
            object.metadata.resource_version,
            "the object was written"
        );
        assert_eq!(
            bed.written("db").await?.metadata.resource_version,
            secret.metadata.resource_version
        );
        assert!(
            bed.events("ExternalSecret", "db").await?.is_empty(),
            "an outage is no event of an object"
        );
        bed.aws.remove_fault(outage);
        bed.holds("db", &[("value", "second")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn throttling_turns_no_good_object_red() -> Result<()> {
    passes("throttled", Fault::Throttle { probability: 1.0 }).await
}

#[tokio::test]
async fn an_unreachable_aws_turns_no_good_object_red() -> Result<()> {
    passes("unreachable", Fault::Reset { probability: 1.0 }).await
}

#[tokio::test]
async fn server_errors_turn_no_good_object_red() -> Result<()> {
    passes("errors", Fault::server_error()).await
}

#[tokio::test]
async fn an_outage_before_the_first_secret_is_said() -> Result<()> {
    bed("first", async |bed| {
        bed.store_ready(STORE, &["Valid"]).await?;
        for (name, fault, reason) in [
            ("throttled", Fault::Throttle { probability: 1.0 }, "Throttled"),
            ("broken", Fault::server_error(), "ProviderUnavailable"),
            ("reset", Fault::Reset { probability: 1.0 }, "ProviderUnavailable"),
        ] {
            // Each its own: a value that was just read may serve who asks a moment later.
            let key = format!("app/{name}");
            bed.secret(&key, "first")?;
            let outage = bed.aws.add_fault(reads(bed), fault);
            bed.plain(name, &key).await?;
            let said = bed.ready(name, reason).await?;
            assert_eq!(said.status, "False");
            assert_actionable(&said.message, &[&key]);
            assert!(bed.find(name).await?.is_none());
            bed.aws.remove_fault(outage);
            bed.holds(name, &[("value", "first")]).await?;
            bed.synced(name).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_outage_of_sts_is_one_event_on_the_store() -> Result<()> {
    bed("sts", async |bed| {
        bed.secret("app/db", "first")?;
        let outage = bed.aws.add_fault(bed.here().operation("AssumeRoleWithWebIdentity"), Fault::server_error());
        bed.store("late", json!({})).await?;
        for n in 0..5 {
            let spec = json!({"data": [crate::harness::entry("value", "app/db")], "secretStoreRef": {"name": "late"}});
            bed.external_secret(&format!("db{n}"), spec).await?;
        }
        for n in 0..5 {
            bed.condition(&format!("db{n}"), "Ready", &["ProviderUnavailable", "StoreNotReady", "IdentityError"]).await?;
        }
        bed.aws.remove_fault(outage);
        for n in 0..5 {
            bed.holds(&format!("db{n}"), &[("value", "first")]).await?;
            bed.synced(&format!("db{n}")).await?;
        }
        let failures = bed.events("SecretStore", "late").await?;
        let failures = failures.iter().filter(|(reason, _)| reason == "SyncFailed").count();
        assert!(failures <= 1, "{failures} events for one outage");
        Ok(())
    })
    .await
}
