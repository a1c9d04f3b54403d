//! AWS as it is: slow, throttling, half failing, with calls denied, replicas behind and lists that lag.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail};
use serde_json::json;
use testbed::{
    aws::{Calls, Fault, Staleness, documents},
    wait,
};

use crate::harness::{Bed, READS, SELDOM, SOON, STORE, bed, data, entry};

/// Makes `count` secrets `many/0` ... with an ExternalSecret each, and gives their ARNs.
async fn many(bed: &Bed, count: usize) -> Result<Vec<String>> {
    let mut arns = Vec::new();
    for n in 0..count {
        arns.push(bed.secret(&format!("many/{n}"), "first")?);
    }
    for n in 0..count {
        bed.plain(&format!("many-{n}"), &format!("many/{n}")).await?;
    }
    Ok(arns)
}

/// Waits until all Secrets of [`many`] hold this.
async fn all_hold(bed: &Bed, count: usize, value: &str) -> Result<()> {
    wait::until(&format!("all Secrets to hold {value}"), SOON, async || {
        let secrets = bed
            .all::<k8s_openapi::api::core::v1::Secret>()
            .list(&kube::api::ListParams::default())
            .await?;
        let right = secrets
            .iter()
            .filter(|secret| data(secret).get("value").is_some_and(|is| is == value))
            .count();
        if right == count {
            return Ok(Some(()));
        }
        bail!("{right} of {count} do")
    })
    .await
}

async fn arrives(name: &str, fault: Fault) -> Result<()> {
    bed(name, async |bed| {
        bed.aws.add_fault(bed.here(), fault);
        let arns = many(bed, 45).await?;
        all_hold(bed, 45, "first").await?;
        for arn in &arns {
            bed.aws.put_secret_value(arn, "second")?;
        }
        all_hold(bed, 45, "second").await?;
        for n in 0..45 {
            bed.synced(&format!("many-{n}")).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn values_arrive_though_one_in_twenty_calls_is_throttled() -> Result<()> {
    arrives("drizzle", Fault::Throttle { probability: 0.05 }).await
}

#[tokio::test]
async fn values_arrive_though_one_in_ten_batch_entries_fails() -> Result<()> {
    arrives(
        "partial",
        Fault::BatchErrors {
            code: "InternalServiceError".to_owned(),
            probability: 0.1,
        },
    )
    .await
}

#[tokio::test]
async fn values_arrive_from_a_slow_aws() -> Result<()> {
    arrives(
        "slow",
        Fault::Latency {
            from: Duration::from_millis(300),
            to: Duration::from_millis(1500),
        },
    )
    .await
}

#[tokio::test]
async fn one_secret_that_fails_does_not_delay_its_batch() -> Result<()> {
    bed("onebad", async |bed| {
        let arns = many(bed, 10).await?;
        all_hold(bed, 10, "first").await?;
        let denied: Vec<_> = arns.iter().skip(1).map(String::as_str).collect();
        bed.permit(&[
            &documents::allow(
                &["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
                &denied,
            ),
            &documents::allow(
                &["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"],
                &["*"],
            ),
        ])?;
        bed.ready("many-0", "AccessDenied").await?;
        for arn in &arns {
            bed.aws.put_secret_value(arn, "second")?;
        }
        all_hold(bed, 9, "second").await?;
        bed.holds("many-0", &[("value", "first")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_the_right_to_batch_values_are_read_one_by_one() -> Result<()> {
    bed("nobatch", async |bed| {
        bed.permit(&[&documents::allow(
            &[
                "secretsmanager:GetSecretValue",
                "secretsmanager:DescribeSecret",
                "secretsmanager:ListSecrets",
            ],
            &["*"],
        )])?;
        let arns = many(bed, 5).await?;
        all_hold(bed, 5, "first").await?;
        for arn in &arns {
            bed.aws.put_secret_value(arn, "second")?;
        }
        all_hold(bed, 5, "second").await?;
        for n in 0..5 {
            bed.synced(&format!("many-{n}")).await?;
        }
        let calls = bed.calls();
        let refused = calls
            .requests()
            .filter(|call| call.operation == "BatchGetSecretValue" && call.error.is_some())
            .count();
        assert!(refused <= 2, "{refused} batches although the first was denied");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_the_right_to_list_changes_are_found_otherwise() -> Result<()> {
    bed("nolist", async |bed| {
        bed.permit(&[&documents::allow(
            &[
                "secretsmanager:GetSecretValue",
                "secretsmanager:DescribeSecret",
                "secretsmanager:BatchGetSecretValue",
            ],
            &["*"],
        )])?;
        bed.store(STORE, json!({"changeDetection": "List"})).await?;
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;
        let calls = bed.calls();
        let denied = calls
            .requests()
            .filter(|call| call.operation == "ListSecrets" && call.error.is_some())
            .count();
        assert!(denied <= 2, "{denied} denied lists: the first one says it");
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn other_accounts_are_read_one_by_one_and_never_listed() -> Result<()> {
    bed("foreign-account", async |bed| {
        let theirs = format!("5{}", &bed.account[1..]);
        let arn = bed
            .aws
            .create_secret(&theirs, "eu-central-1", "app/db", "first")?;
        bed.aws
            .set_kms_key_id(&arn, "arn:aws:kms:eu-central-1:111122223333:key/1")?;
        bed.aws
            .set_resource_policy(&arn, Some(&documents::share_with(&bed.role_arn("reader"))))?;
        bed.plain("db", &arn).await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.holds("db", &[("value", "second")]).await?;
        assert_eq!(bed.calls().count("BatchGetSecretValue"), 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn stale_replicas_never_roll_a_secret_back() -> Result<()> {
    for detection in ["Read", "Describe", "List"] {
        bed("replica", async |bed| {
            bed.store(STORE, json!({"changeDetection": detection})).await?;
            let arn = bed.secret("app/db", "first")?;
            bed.plain("db", "app/db").await?;
            bed.holds("db", &[("value", "first")]).await?;
            let old = bed.aws.mark();
            bed.called("a look at the first version", old, |calls| {
                calls.requests().count() >= 1
            })
            .await?;
            // Replicas that are asked from now on know nothing of what follows, two times of five.
            let behind = Fault::Stale {
                staleness: Staleness::Frozen,
                probability: 0.4,
            };
            let stale = bed.aws.add_fault(bed.here(), behind);
            bed.aws.put_secret_value(&arn, "second")?;
            // A doubt that stale replicas raise before it has arrived is cleared a minute later at the soonest, and of
            // those asked then two in five are stale too.
            bed.holds_within(SOON * 4, "db", &[("value", "second")]).await?;
            // Twelve looks more: all but surely some of them, of each kind, see the former version.
            let mark = bed.aws.mark();
            let looked = |calls: &Calls| calls.requests().count() >= 12;
            let mut seen = BTreeSet::new();
            wait::until("twelve looks at a stale replica", SOON, async || {
                seen.extend(bed.data("db").await?.into_values());
                Ok(looked(&bed.calls_since(mark)).then_some(()))
            })
            .await?;
            bed.aws.remove_fault(stale);
            bed.rounds(2).await?;
            seen.extend(bed.data("db").await?.into_values());
            assert_eq!(
                seen,
                BTreeSet::from(["second".to_owned()]),
                "{detection}: rolled back"
            );
            bed.synced("db").await
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lagging_list_delays_and_never_deletes() -> Result<()> {
    bed("lag", async |bed| {
        bed.store(STORE, json!({"changeDetection": "List"})).await?;
        let lag = bed.aws.add_fault(
            bed.here().operation("ListSecrets"),
            Fault::stale(Staleness::Frozen),
        );
        // The list never shows this secret: that it is not there is for Describe to say.
        bed.secret("app/db", "first")?;
        let spec = json!({"data": [entry("value", "app/db")], "target": {"deletionPolicy": "Delete"}});
        bed.external_secret("db", spec).await?;
        bed.holds("db", &[("value", "first")]).await?;
        let uid = bed.written("db").await?.metadata.uid;
        let mark = bed.aws.mark();
        bed.called("three lists", mark, |calls| calls.count("ListSecrets") >= 3)
            .await?;
        assert_eq!(
            bed.written("db").await?.metadata.uid,
            uid,
            "deleted for its absence from a list"
        );
        bed.aws.remove_fault(lag);
        bed.synced("db").await
    })
    .await
}

#[tokio::test]
async fn values_are_read_twenty_at_a_time() -> Result<()> {
    bed("batches", async |bed| {
        // All are asked for in one moment: when the store appears.
        bed.delete::<keyturn::api::SecretStore>(STORE).await?;
        for n in 0..60 {
            bed.secret(&format!("many/{n}"), "first")?;
            let spec = json!({"data": [entry("value", &format!("many/{n}"))], "refreshInterval": SELDOM});
            bed.external_secret(&format!("many-{n}"), spec).await?;
        }
        for n in 0..60 {
            bed.ready(&format!("many-{n}"), "StoreNotFound").await?;
        }
        let mark = bed.aws.mark();
        bed.store(STORE, json!({})).await?;
        all_hold(bed, 60, "first").await?;
        let calls = bed.calls_since(mark);
        assert_eq!(calls.values_read().len(), 60, "each value once");
        let (batches, gets) = (calls.count("BatchGetSecretValue"), calls.count("GetSecretValue"));
        assert!(
            batches <= 6 && gets <= 1,
            "{batches} batches and {gets} single reads for 60 values"
        );
        assert!(bed.calls().errors().is_empty(), "{:?}", bed.calls().errors());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rights_that_are_enough_are_enough() -> Result<()> {
    bed("least", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.secret("app/secret", "none of its business")?;
        bed.permit(&[
            &documents::allow(
                &["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
                &[&arn],
            ),
            &documents::allow(
                &["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"],
                &["*"],
            ),
        ])?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        assert!(bed.calls().errors().is_empty(), "{:?}", bed.calls().errors());
        bed.permit(&[&documents::allow(&READS, &["*"])])
    })
    .await
}
