//! Keyturn goes, and the Secrets stay.

use std::{panic::AssertUnwindSafe, time::Duration};

use anyhow::{Result, bail};
use futures::FutureExt as _;
use keyturn::api::ExternalSecret;
use serde_json::json;
use testbed::{controlplane::Options, wait};

use crate::{
    harness::{Bed, SOON, STORE, bare, data, same, stays},
    operator::Operator,
    rolling::{restarted, web},
};

#[tokio::test]
async fn secrets_outlive_keyturn_where_they_were_orphaned_first() -> Result<()> {
    let place = bare(Options::default()).await?;
    let bed = Bed::named(&place, "removal", "333333333333").await?;
    bed.store(STORE, json!({})).await?;
    let mut operator = Operator::installed(&place).await?;
    operator.start().await?;
    let outcome = AssertUnwindSafe(remove(&bed, &mut operator)).catch_unwind().await;
    bed.finish(Some(&operator), outcome).await
}

/// In the order of the runbook.
async fn remove(bed: &Bed, operator: &mut Operator) -> Result<()> {
    let db = bed.restarting("db", json!({})).await?;
    bed.run_workloads([web("web", "db")]).await?;
    let token = bed.rotate(&db, "second").await?;
    bed.follows(("Deployment", "web"), "db", &token).await?;

    let target = json!({"creationPolicy": "Orphan", "deletionPolicy": "Retain"});
    bed.patch::<ExternalSecret>("db", json!({"spec": {"target": target}}))
        .await?;
    let kept = wait::until("the Secret to have no owner", SOON, async || {
        let secret = bed.written("db").await?;
        match &secret.metadata.owner_references {
            None => Ok(Some(secret)),
            Some(owners) => bail!("it has {owners:?}"),
        }
    })
    .await?;
    let history = bed.history().await?;

    let (kubectl, helm) = (
        async |arguments: &[&str]| bed.cluster.kubectl(arguments).await.map(drop),
        async |arguments: &[&str]| bed.cluster.helm(arguments).await.map(drop),
    );
    kubectl(&["delete", "kes", "--all", "--all-namespaces"]).await?;
    kubectl(&["delete", "kss", "--all", "--all-namespaces"]).await?;
    kubectl(&["delete", "kcss", "--all"]).await?;
    operator.terminate().await?;
    helm(&["uninstall", "keyturn", "--namespace", operator.namespace()]).await?;
    kubectl(&[
        "delete",
        "crd",
        "externalsecrets.keyturn.dev",
        "secretstores.keyturn.dev",
        "clustersecretstores.keyturn.dev",
    ])
    .await?;
    kubectl(&["delete", "namespace", operator.namespace()]).await?;

    // As long as the garbage collector takes for what lost its owner, several times over.
    stays(Duration::from_secs(15), async || {
        let now = bed.written("db").await?;
        same("the Secret", &now.metadata.uid, &kept.metadata.uid)?;
        same("its data", &data(&now), &data(&kept))
    })
    .await?;
    bed.complete("Deployment", "web").await?;
    restarted(&history, &[]).await
}
