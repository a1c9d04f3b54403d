//! An error in `restart` or `rotation` stops restarts, not values, and nothing is lost meanwhile.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::workloads::{Use, workload};

use crate::{
    harness::{bed, entry, same},
    rolling::{Anchor, restarted, web},
};

#[tokio::test]
async fn values_go_on_while_a_block_is_wrong_and_what_is_due_follows_once_it_is_right() -> Result<()> {
    bed("wrong-block", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let other = bed.restarting("other", json!({})).await?;
        let both = workload("Deployment", "both", &[("db", Use::Env), ("other", Use::Env)])?;
        bed.run_workloads([web("web", "db"), both]).await?;
        let mut anchor = Anchor::drop(bed).await?;
        let history = bed.history().await?;
        let first = bed.rotate(&source, "second").await?;
        for name in ["web", "both"] {
            bed.follows(("Deployment", name), "db", &first).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        let before = bed.restart_status("db").await?;

        // The API server cannot see it: keys are compared with other parts of the spec.
        bed.re_restarting("db", json!({"trigger": {"keys": ["valeu"]}}))
            .await?;
        let said = bed.condition("db", "RestartsComplete", &["InvalidSpec"]).await?;
        same("status", &said.status.as_str(), &"False")?;
        ensure!(
            said.message.starts_with("spec.restart.trigger.keys[0] "),
            "{}",
            said.message
        );
        bed.synced("db").await?;
        same("the progress", &bed.restart_status("db").await?, &before)?;

        let second = bed.rotate(&source, "third").await?;
        bed.synced("db").await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1), ("Deployment both", 1)]).await?;
        // Workloads go on for other Secrets.
        let of_other = bed.rotate(&other, "second").await?;
        bed.follows(("Deployment", "both"), "other", &of_other).await?;
        restarted(&history, &[("Deployment web", 1), ("Deployment both", 2)]).await?;
        bed.condition("db", "RestartsComplete", &["InvalidSpec"]).await?;

        bed.re_restarting("db", json!({"trigger": {"keys": ["value"]}}))
            .await?;
        ensure!(
            bed.rollout("db").await? == second,
            "what counts is another change now"
        );
        bed.follows(("Deployment", "web"), "db", &second).await?;
        bed.restarts("db", &["Complete"]).await?;
        anchor.holds().await?;
        // The pods of the one that followed the other Secret meanwhile hold this one as well.
        restarted(&history, &[("Deployment web", 2), ("Deployment both", 2)]).await
    })
    .await
}

#[tokio::test]
async fn a_block_that_was_never_right_is_reported_beside_a_good_secret_and_taken_back() -> Result<()> {
    bed("never-right", async |bed| {
        bed.secret("app/db", "first")?;
        let spec = |restart: Value| json!({"data": [entry("value", "app/db")], "restart": restart});
        let wrong = json!({"mode": "Automatic", "trigger": {"keys": ["value", "valeu"]}});
        bed.external_secret("db", spec(wrong)).await?;
        bed.synced("db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.condition("db", "RestartsComplete", &["InvalidSpec"]).await?;
        // What is disabled is told of an error too, and what is right is told of none.
        bed.external_secret(
            "db",
            spec(json!({"mode": "Disabled", "trigger": {"keys": ["valeu"]}})),
        )
        .await?;
        bed.condition("db", "RestartsComplete", &["InvalidSpec"]).await?;
        bed.external_secret("db", spec(json!({"mode": "Disabled"})))
            .await?;
        testbed::wait::until("the condition to go", crate::harness::SOON, async || {
            let status = bed.get("db").await?.status.unwrap_or_default();
            let mut conditions = status.conditions.iter().flatten();
            Ok(conditions
                .all(|condition| condition.type_ != "RestartsComplete")
                .then_some(()))
        })
        .await
    })
    .await
}
