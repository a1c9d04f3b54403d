//! What follows when secrets are gone in AWS, and what never follows when they only seem to be.

use anyhow::Result;
use serde_json::{Value, json};
use testbed::aws::{Fault, KmsKey, documents};

use crate::harness::{Bed, DELETION, READS, bed, entry, property};

fn policy(policy: &str, data: Value) -> Value {
    json!({"data": data, "target": {"deletionPolicy": policy}})
}

#[tokio::test]
async fn with_delete_the_secret_goes_when_everything_is_gone() -> Result<()> {
    bed("delete", async |bed| {
        let one = bed.secret("app/one", "1")?;
        let two = bed.secret("app/two", "2")?;
        bed.external_secret(
            "db",
            policy(
                "Delete",
                json!([entry("one", "app/one"), entry("two", "app/two")]),
            ),
        )
        .await?;
        bed.holds("db", &[("one", "1"), ("two", "2")]).await?;
        bed.synced("db").await?;
        let uid = bed.written("db").await?.metadata.uid;
        bed.aws.delete_secret(&one)?;
        let left = bed.holds_within(DELETION, "db", &[("two", "2")]).await?;
        assert_eq!(left.metadata.uid, uid, "made again rather than changed");
        assert!(
            bed.calls().count("DescribeSecret") > 0,
            "a removal is confirmed by DescribeSecret"
        );
        bed.aws.force_delete_secret(&two)?;
        bed.gone_within(DELETION, "db").await?;
        bed.ready("db", "Deleted").await?;
        bed.event("db", "Deleted").await?;
        bed.aws.restore_secret(&one)?;
        bed.secret("app/two", "2 again")?;
        bed.holds("db", &[("one", "1"), ("two", "2 again")]).await?;
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn with_merge_keys_go_and_the_secret_stays() -> Result<()> {
    bed("merge", async |bed| {
        let one = bed.secret("app/one", "1")?;
        let two = bed.secret("app/two", "2")?;
        bed.external_secret(
            "db",
            policy("Merge", json!([entry("one", "app/one"), entry("two", "app/two")])),
        )
        .await?;
        let made = bed.holds("db", &[("one", "1"), ("two", "2")]).await?;
        bed.aws.delete_secret(&one)?;
        bed.holds_within(DELETION, "db", &[("two", "2")]).await?;
        bed.aws.delete_secret(&two)?;
        let left = bed.holds_within(DELETION, "db", &[]).await?;
        assert_eq!(left.metadata.uid, made.metadata.uid);
        bed.aws.restore_secret(&two)?;
        bed.holds("db", &[("two", "2")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn with_retain_everything_stays() -> Result<()> {
    bed("retain", async |bed| {
        let one = bed.secret("app/one", "1")?;
        bed.secret("app/two", "2")?;
        bed.external_secret(
            "db",
            policy(
                "Retain",
                json!([entry("one", "app/one"), entry("two", "app/two")]),
            ),
        )
        .await?;
        let made = bed.holds("db", &[("one", "1"), ("two", "2")]).await?;
        bed.synced("db").await?;
        bed.aws.delete_secret(&one)?;
        bed.condition("db", "Ready", &["MarkedForDeletion", "Retained"])
            .await?;
        bed.rounds(3).await?;
        assert_eq!(
            bed.written("db").await?.metadata.resource_version,
            made.metadata.resource_version
        );
        Ok(())
    })
    .await
}

/// With every policy that deletes, what `harm` does never does.
async fn never_deletes(
    name: &str,
    spec: Value,
    reason: &[&str],
    harm: impl AsyncFn(&Bed, &str) -> Result<()>,
) -> Result<()> {
    for deletion in ["Delete", "Merge"] {
        bed(name, async |bed| {
            let arn = bed.secret("app/db", r#"{"password":"first"}"#)?;
            let version = bed.aws.stages(&arn)?["AWSCURRENT"].clone();
            bed.aws.move_stage(&arn, "BLUE", &version)?;
            let mut spec = spec.clone();
            spec["target"] = json!({"deletionPolicy": deletion});
            bed.external_secret("db", spec).await?;
            let made = bed.holds("db", &[("password", "first")]).await?;
            bed.synced("db").await?;
            let mark = bed.aws.mark();
            harm(bed, &arn).await?;
            if reason.is_empty() {
                let failed = |calls: &testbed::aws::Calls| {
                    calls.requests().filter(|call| call.error.is_some()).count() >= 3
                };
                bed.called("three failed calls", mark, failed).await?;
            } else {
                bed.condition("db", "Ready", reason).await?;
            }
            let now = bed.written("db").await?;
            assert_eq!(
                now.metadata.resource_version, made.metadata.resource_version,
                "{deletion}: written"
            );
            bed.holds("db", &[("password", "first")]).await?;
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn password(version: Option<&str>) -> Value {
    let mut entry = property("password", "app/db", "password");
    if let Some(version) = version {
        entry["remoteRef"]["version"] = json!(version);
    }
    json!({"data": [entry]})
}

#[tokio::test]
async fn a_denial_never_deletes() -> Result<()> {
    never_deletes("denial", password(None), &["AccessDenied"], async |bed, _| {
        bed.permit(&[&documents::allow(
            &READS,
            &["arn:aws:secretsmanager:*:*:secret:other/*"],
        )])
    })
    .await
}

#[tokio::test]
async fn a_gone_secret_that_describe_may_not_confirm_never_deletes() -> Result<()> {
    never_deletes(
        "unconfirmed",
        password(None),
        &["AccessDenied", "SecretNotFound"],
        async |bed, arn| {
            bed.permit(&[&documents::allow(
                &[
                    "secretsmanager:GetSecretValue",
                    "secretsmanager:BatchGetSecretValue",
                    "secretsmanager:ListSecrets",
                ],
                &["*"],
            )])?;
            bed.aws.force_delete_secret(arn)?;
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_missing_stage_never_deletes() -> Result<()> {
    never_deletes(
        "stage",
        password(Some("BLUE")),
        &["StageNotFound"],
        async |bed, arn| Ok(bed.aws.remove_stage(arn, "BLUE")?),
    )
    .await
}

#[tokio::test]
async fn a_missing_property_never_deletes() -> Result<()> {
    never_deletes(
        "property",
        password(None),
        &["PropertyNotFound"],
        async |bed, arn| {
            bed.aws.put_secret_value(arn, "{}")?;
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn an_empty_extract_never_deletes() -> Result<()> {
    let extract = json!({"dataFrom": [{"extract": {"key": "app/db"}}]});
    never_deletes("extract", extract, &["NothingFound"], async |bed, arn| {
        bed.aws.put_secret_value(arn, "{}")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_disabled_key_never_deletes() -> Result<()> {
    never_deletes("kms", password(None), &["KeyAccessDenied"], async |bed, arn| {
        Ok(bed.aws.set_kms_state(arn, KmsKey::Disabled)?)
    })
    .await
}

#[tokio::test]
async fn an_outage_never_deletes() -> Result<()> {
    never_deletes("outage", password(None), &[], async |bed, _| {
        bed.aws.add_fault(bed.here(), Fault::server_error());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lost_identity_never_deletes() -> Result<()> {
    never_deletes(
        "identity",
        password(None),
        &["IdentityError", "StoreNotReady"],
        async |bed, _| {
            let rights = documents::allow(&READS, &["*"]);
            bed.role_for(
                crate::harness::READER,
                "system:serviceaccount:elsewhere:reader",
                &[&rights],
            )?;
            bed.end_session().await
        },
    )
    .await
}
