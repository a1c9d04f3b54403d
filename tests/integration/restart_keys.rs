//! A change of some keys of a Secret restarts only the workloads that use one of them.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use testbed::workloads::Use;

use crate::{
    harness::{annotation, bed, property, same},
    rolling::{Anchor, restarted, user},
};

#[tokio::test]
async fn a_change_of_one_key_restarts_only_those_that_use_it() -> Result<()> {
    bed("keys", async |bed| {
        let arn = bed.secret("app/db", r#"{"url": "u1", "password": "p1"}"#)?;
        // The workloads use the key `value` in their environment and by `subPath`, or all keys.
        let data = json!([
            property("value", "app/db", "url"),
            property("password", "app/db", "password")
        ]);
        let spec = |keys: &[&str]| {
            json!({"data": data, "rotation": {"strategy": "SingleUser"},
                "restart": {"mode": "Automatic", "trigger": {"keys": keys}}})
        };
        bed.external_secret("db", spec(&[])).await?;
        bed.synced("db").await?;
        let uses = [
            ("env", Use::Env),
            ("sub-path", Use::SubPath),
            ("env-from", Use::EnvFrom),
            ("volume", Use::Volume),
        ];
        bed.run_workloads(uses.map(|(name, how)| user("Deployment", name, "db", how)))
            .await?;
        let mut anchor = Anchor::drop(bed).await?;
        let history = bed.history().await?;
        let expect = async |counts: [usize; 4]| {
            let named = uses.map(|(name, _)| format!("Deployment {name}"));
            let counts: Vec<(&str, usize)> = named
                .iter()
                .zip(counts)
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.as_str(), count))
                .collect();
            restarted(&history, &counts).await
        };

        bed.aws
            .put_secret_value(&arn, r#"{"url": "u1", "password": "p2"}"#)?;
        bed.holds("db", &[("value", "u1"), ("password", "p2")]).await?;
        let first = bed.rollout("db").await?;
        for name in ["env-from", "volume"] {
            bed.follows(("Deployment", name), "db", &first).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        anchor.holds().await?;
        expect([0, 0, 1, 1]).await?;

        bed.aws
            .put_secret_value(&arn, r#"{"url": "u2", "password": "p2"}"#)?;
        bed.holds("db", &[("value", "u2"), ("password", "p2")]).await?;
        let second = bed.rollout("db").await?;
        for (name, _) in uses {
            bed.follows(("Deployment", name), "db", &second).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        expect([1, 1, 2, 2]).await?;

        bed.aws
            .put_secret_value(&arn, r#"{"url": "u2", "password": "p3"}"#)?;
        bed.holds("db", &[("value", "u2"), ("password", "p3")]).await?;
        let third = bed.rollout("db").await?;
        for name in ["env-from", "volume"] {
            bed.follows(("Deployment", name), "db", &third).await?;
        }
        bed.restarts("db", &["Complete"]).await?;

        // Neither a Secret that is made again nor other keys that count make pods old.
        let before = bed.written("db").await?;
        let noted = |secret: &Secret| annotation(secret, "keyturn.dev/key-changes").map(str::to_owned);
        ensure!(noted(&before).is_some());
        bed.delete::<Secret>("db").await?;
        bed.holds("db", &[("value", "u2"), ("password", "p3")]).await?;
        same("the changes", &noted(&bed.written("db").await?), &noted(&before))?;
        bed.external_secret("db", spec(&["password"])).await?;
        bed.synced("db").await?;
        anchor.holds().await?;
        expect([1, 1, 3, 3]).await?;

        // Where the spec names the keys, a change of them restarts all.
        bed.aws
            .put_secret_value(&arn, r#"{"url": "u2", "password": "p4"}"#)?;
        bed.holds("db", &[("value", "u2"), ("password", "p4")]).await?;
        let fourth = bed.rollout("db").await?;
        for (name, _) in uses {
            bed.follows(("Deployment", name), "db", &fourth).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        expect([2, 2, 4, 4]).await?;
        same("the changes", &noted(&bed.written("db").await?), &None)
    })
    .await
}
