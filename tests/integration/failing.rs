//! What fails is called for seldom, says so, and holds up nothing that is well.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use testbed::aws::documents;

use crate::harness::{Bed, READS, REGION, bed};

/// Long enough for what calls without end to be seen, and for two steps of the shortest back-off.
const WATCHED: Duration = Duration::from_secs(20);
/// The version of a spec that AWS does not have.
const NO_VERSION: &str = "uuid/00000000-0000-4000-8000-000000000009";

fn versioned(key: &str, version: &str) -> Value {
    json!({"data": [{"secretKey": "value", "remoteRef": {"key": key, "version": version}}]})
}

/// Counts the calls that AWS refuses while nothing changes: for each of `failing` secrets and versions one in 10 s, and
/// one more for when the time begins. Each may be a read and a Describe.
async fn few_fail(bed: &Bed, what: &str, failing: usize) -> Result<()> {
    let mark = bed.aws.mark();
    tokio::time::sleep(WATCHED).await;
    let calls = bed.calls_since(mark);
    let mut refused: BTreeMap<_, usize> = BTreeMap::new();
    for call in calls.requests().filter(|call| call.error.is_some()) {
        *refused
            .entry((call.operation.clone(), call.resource.clone(), call.error.clone()))
            .or_default() += 1;
    }
    let count: usize = refused.values().sum();
    assert!(
        count <= failing * 3 * 2,
        "{what}: {count} refused calls: {refused:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_fails_is_called_for_seldom_and_holds_up_no_other() -> Result<()> {
    bed("failing", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.aws.create_empty_secret(&bed.account, REGION, "app/empty")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "second")]).await?;
        for (name, key, version, reason) in [
            ("blue", "app/db", "BLUE", "StageNotFound"),
            ("green", &*arn, "GREEN", "StageNotFound"),
            ("pinned", "app/db", NO_VERSION, "StageNotFound"),
            ("empty", "app/empty", "AWSCURRENT", "StageNotFound"),
            ("none", "app/none", "AWSCURRENT", "SecretNotFound"),
        ] {
            bed.external_secret(name, versioned(key, version)).await?;
            bed.ready(name, reason).await?;
        }
        few_fail(bed, "all is permitted", 5).await?;
        bed.aws.put_secret_value(&arn, "third")?;
        bed.holds("db", &[("value", "third")]).await?;

        bed.permit(&[&documents::allow(&["secretsmanager:GetSecretValue"], &["*"])])?;
        // What is permitted is learnt by a call each.
        bed.rounds(20).await?;
        // Batch and Describe of three secrets and List may be tried once more.
        few_fail(bed, "Get alone is permitted", 6).await?;
        bed.aws.put_secret_value(&arn, "fourth")?;
        bed.holds("db", &[("value", "fourth")]).await?;
        bed.condition("db", "Current", &["Checked"]).await?;

        // What was missing comes.
        bed.permit(&[&documents::allow(&READS, &["*"])])?;
        let version = bed.aws.stages(&arn)?["AWSCURRENT"].clone();
        bed.aws.move_stage(&arn, "BLUE", &version)?;
        bed.holds("blue", &[("value", "fourth")]).await?;
        bed.synced("blue").await?;
        bed.ready("green", "StageNotFound").await?;
        Ok(())
    })
    .await
}
