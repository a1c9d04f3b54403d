//! The first steps after the operator was taken over, and the way back.

use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use testbed::{operator as testbed_operator, wait};

use crate::{
    harness::{API_SERVER, SOON, quarried, same},
    rolling::{restarted, web},
};

#[tokio::test]
async fn without_its_service_account_a_copied_token_is_worth_nothing_and_an_upgrade_brings_all_back()
-> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("emergency", &[], async |bed, operator| {
        let db = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let account = operator.user().rsplit(':').next().context("a user")?.to_owned();
        let own = operator.namespace().to_owned();
        let stolen = bed.cluster.kubeconfig_for(&own, &account).await?;
        let stolen = format!("--kubeconfig={}", stolen.display());
        let list = || {
            bed.cluster
                .kubectl([&stolen, "get", "secrets", "--namespace", &bed.namespace])
        };
        list().await.context("a thief reads")?;

        let accounts = Api::<ServiceAccount>::namespaced(bed.client.clone(), &own);
        let former = accounts.get(&account).await?;
        accounts.delete(&account, &DeleteParams::default()).await?;
        wait::until("the token to end", SOON, async || match list().await {
            Ok(_) => Ok(None),
            Err(error) if format!("{error:#}").contains("Unauthorized") => Ok(Some(())),
            Err(error) => Err(error),
        })
        .await?;
        let deployments = Api::<Deployment>::namespaced(bed.client.clone(), &own);
        let deployment = deployments.list(&ListParams::default()).await?;
        let deployment = deployment.items.first().context("a Deployment")?.name_any();
        deployments.delete(&deployment, &DeleteParams::default()).await?;
        let written = bed.written("db").await?;
        bed.aws.put_secret_value(&db.arn, "second")?;
        operator.kill()?;
        let now = bed.written("db").await?;
        same(
            "the Secret",
            &now.metadata.resource_version,
            &written.metadata.resource_version,
        )?;

        // The pods are gone, and so is their Lease.
        operator.expire_lease(&bed.client).await?;
        let (chart, binary) = (Path::new(testbed_operator::CHART), testbed_operator::built()?);
        operator.upgrade(chart, &binary).await?;
        deployments
            .get(&deployment)
            .await
            .context("the Deployment is back")?;
        let account = accounts.get(&account).await?;
        anyhow::ensure!(account.uid() != former.uid(), "it is the same ServiceAccount");
        let history = bed.history().await?;
        operator.start().await?;
        bed.holds("db", &[("value", "second")]).await?;
        let token = bed.rollout("db").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}
