//! While nothing changes nothing is written, and AWS is asked per secret, never per object.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::requests;

use crate::harness::{Bed, STORE, bed, common, entry, same, stays};

/// Watched for as long; at an interval of a second.
const SPAN: Duration = Duration::from_secs(20);

/// `objects` over `secrets`, all as AWS says and said so.
async fn settle(bed: &Bed, detection: &str, objects: usize, secrets: usize) -> Result<()> {
    bed.store(STORE, json!({"changeDetection": detection})).await?;
    for n in 0..secrets {
        bed.secret(&format!("app/{n}"), "first")?;
    }
    for n in 0..objects {
        bed.external_secret(
            &format!("db-{n}"),
            json!({"data": [entry("value", &format!("app/{}", n % secrets))]}),
        )
        .await?;
    }
    for n in 0..objects {
        bed.synced(&format!("db-{n}")).await?;
        bed.condition(&format!("db-{n}"), "Current", &["Checked"]).await?;
    }
    bed.rounds(3).await
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() -> Result<()> {
    let operator = &common().await?.operator;
    for (detection, reads) in [("Read", true), ("Describe", false), ("List", false)] {
        bed(&format!("steady-{}", detection.to_lowercase()), async |bed| {
            settle(bed, detection, 30, 5).await?;
            let (mark, asked, begun) = (bed.aws.mark(), requests::mark(bed.cluster)?, Instant::now());
            let namespace = bed.namespace.as_str();
            stays(SPAN, async || {
                let written = requests::since(bed.cluster, asked)?
                    .of(operator.user())
                    .only(|request| request.writes() && request.namespace == namespace);
                same(detection, &written.counts(), &std::collections::BTreeMap::new())
            })
            .await?;
            let events = bed
                .all::<k8s_openapi::api::events::v1::Event>()
                .list(&kube::api::ListParams::default())
                .await?;
            ensure!(
                events.items.is_empty(),
                "{detection}: {} events",
                events.items.len()
            );
            let calls = bed.calls_since(mark);
            let seconds = begun.elapsed().as_secs_f64().ceil();
            // 5 secrets fit in one batch or page; Describe asks for each.
            let each = if detection == "Describe" { 5.0 } else { 1.0 };
            let allowed = each * (seconds + 2.0);
            let made = f64::from(u32::try_from(calls.requests().count())?);
            ensure!(
                made <= allowed,
                "{detection}: {made} calls in {seconds} s for 30 objects over 5 secrets: {:?}",
                calls.counts()
            );
            ensure!(
                made >= seconds / 4.0 * each,
                "{detection}: only {made} calls in {seconds} s: {:?}",
                calls.counts()
            );
            ensure!(
                reads || calls.values_read().is_empty(),
                "{detection}: {} values were read",
                calls.values_read().len()
            );
            ensure!(calls.errors().is_empty(), "{detection}: {:?}", calls.errors());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_permanent_failure_is_said_once() -> Result<()> {
    let operator = &common().await?.operator;
    bed("failing", async |bed| {
        bed.plain("absent", "app/absent").await?;
        bed.external_secret(
            "storeless",
            json!({"data": [entry("v", "x")], "secretStoreRef": {"name": "no"}}),
        )
        .await?;
        bed.secret("app/text", "text")?;
        bed.external_secret(
            "text",
            json!({"data": [crate::harness::property("v", "app/text", "a")]}),
        )
        .await?;
        for (name, reason) in [
            ("absent", "SecretNotFound"),
            ("storeless", "StoreNotFound"),
            ("text", "InvalidValue"),
        ] {
            bed.ready(name, reason).await?;
            bed.event(name, "SyncFailed").await?;
        }
        bed.rounds(3).await?;
        let asked = requests::mark(bed.cluster)?;
        let namespace = bed.namespace.as_str();
        stays(Duration::from_secs(10), async || {
            let written = requests::since(bed.cluster, asked)?
                .of(operator.user())
                .only(|request| request.writes() && request.namespace == namespace);
            same(
                "a failure that is already said",
                &written.counts(),
                &std::collections::BTreeMap::new(),
            )
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_lease_is_renewed_and_little_else_is_asked() -> Result<()> {
    let operator = &common().await?.operator;
    bed("lease", async |bed| {
        settle(bed, "Read", 5, 5).await?;
        let asked = requests::mark(bed.cluster)?;
        let lease = |request: &requests::Request| {
            request.resource == "leases" && request.namespace == operator.namespace()
        };
        testbed::wait::until("the Lease to be renewed", crate::harness::SOON, async || {
            let renewals = requests::since(bed.cluster, asked)?
                .of(operator.user())
                .only(|r| lease(r) && r.writes());
            Ok((renewals.0.len() >= 2).then_some(()))
        })
        .await?;
        // Reads of this namespace's objects are none either: decisions come from what the watches brought.
        let namespace = bed.namespace.as_str();
        let reads = requests::since(bed.cluster, asked)?
            .of(operator.user())
            .only(|request| request.namespace == namespace && request.verb != "watch");
        same(
            "requests about objects at rest",
            &reads.counts(),
            &std::collections::BTreeMap::new(),
        )
    })
    .await
}
