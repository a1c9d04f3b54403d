//! One secret for which AWS fails the whole batch holds up none of the others.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use kube::api::ListParams;
use testbed::{
    aws::{Calls, Fault, FaultId},
    wait,
};

use crate::harness::{Bed, SOON, bed, data};

const COUNT: usize = 20;
const BAD: usize = 7;
/// Time in which each secret is checked some twenty times.
const WATCHED: Duration = Duration::from_secs(20);

fn key(n: usize) -> String {
    format!("app/{n}")
}

/// From now on AWS is not well whenever a value of the bad secret is read.
fn break_one(bed: &Bed) -> FaultId {
    let reads = bed
        .here()
        .operation("GetSecretValue")
        .operation("BatchGetSecretValue");
    bed.aws.add_fault(reads.secret(&key(BAD)), Fault::server_error())
}

/// Waits until all Secrets but the bad one's hold this.
async fn others_hold(bed: &Bed, value: &str) -> Result<()> {
    wait::until(&format!("the other Secrets to hold {value}"), SOON, async || {
        let secrets = bed.all::<k8s_openapi::api::core::v1::Secret>();
        let secrets = secrets.list(&ListParams::default()).await?;
        let held: BTreeMap<_, _> = secrets
            .iter()
            .filter_map(|secret| Some((secret.metadata.name.clone()?, data(secret).get("value")?.clone())))
            .collect();
        let right = (0..COUNT)
            .filter(|n| *n != BAD)
            .all(|n| held.get(&format!("app-{n}")).is_some_and(|held| held == value));
        Ok(right.then_some(()))
    })
    .await
}

fn refused(calls: &Calls, operation: &str) -> usize {
    let of = |call: &&testbed::aws::Call| call.operation == operation && call.error.is_some();
    calls.requests().filter(of).count()
}

/// The others are read in full batches, and the bad secret by itself, seldom.
async fn few_calls(bed: &Bed) {
    let mark = bed.aws.mark();
    tokio::time::sleep(WATCHED).await;
    let calls = bed.calls_since(mark);
    let counts = calls.counts();
    assert_eq!(refused(&calls, "BatchGetSecretValue"), 0, "{counts:?}");
    assert!(
        calls.batches().iter().all(|(_, secrets)| *secrets == COUNT - 1),
        "{:?}",
        calls.batches()
    );
    // A batch a second, and a read a second of the one, each tried three times.
    let batches = counts.get("BatchGetSecretValue").copied().unwrap_or_default();
    assert!((1..=25).contains(&batches), "{counts:?}");
    let alone = counts.get("GetSecretValue").copied().unwrap_or_default();
    assert!(alone <= 3 * 25, "{counts:?}");
}

#[tokio::test]
async fn nineteen_follow_a_rotation_though_one_breaks_their_batch() -> Result<()> {
    bed("batches", async |bed| {
        let mut arns = Vec::new();
        for n in 0..COUNT {
            arns.push(bed.secret(&key(n), "first")?);
            bed.plain(&format!("app-{n}"), &key(n)).await?;
        }
        others_hold(bed, "first").await?;
        bed.holds(&format!("app-{BAD}"), &[("value", "first")]).await?;
        let broken = break_one(bed);
        for arn in &arns {
            bed.aws.put_secret_value(arn, "second")?;
        }
        others_hold(bed, "second").await?;
        few_calls(bed).await;
        for arn in &arns {
            bed.aws.put_secret_value(arn, "third")?;
        }
        others_hold(bed, "third").await?;
        // It is no failure of the store, nor of the good Secret that is there.
        bed.holds(&format!("app-{BAD}"), &[("value", "first")]).await?;
        bed.synced(&format!("app-{BAD}")).await?;
        bed.aws.remove_fault(broken);
        bed.holds(&format!("app-{BAD}"), &[("value", "third")]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nineteen_are_made_though_one_breaks_their_batch() -> Result<()> {
    bed("newbatch", async |bed| {
        let broken = break_one(bed);
        for n in 0..COUNT {
            bed.secret(&key(n), "first")?;
            bed.plain(&format!("app-{n}"), &key(n)).await?;
        }
        others_hold(bed, "first").await?;
        let said = bed.ready(&format!("app-{BAD}"), "ProviderUnavailable").await?;
        assert!(said.message.contains(&key(BAD)), "{}", said.message);
        bed.aws.remove_fault(broken);
        bed.holds(&format!("app-{BAD}"), &[("value", "first")]).await?;
        Ok(())
    })
    .await
}
