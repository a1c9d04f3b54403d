//! Two replicas, one leader; the other one waits, warm and silent.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{API_SERVER, Bed, quarried};

/// The credentials that an account was asked with: each process has its own session.
fn credentials(bed: &Bed) -> BTreeSet<String> {
    bed.calls()
        .0
        .iter()
        .filter_map(|call| call.access_key.as_deref().map(ToOwned::to_owned))
        .collect()
}

#[tokio::test]
async fn one_of_two_replicas_leads_and_the_other_takes_over() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("leases", &[], async |bed, operator| {
        let (first, _) = operator.led(&bed.client, None).await?;
        let mut second = operator.another().await?;
        // Ready while it waits: a rolling update needs it.
        second.wait_ready().await?;

        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.rounds(5).await?;
        ensure!(
            credentials(bed).len() == 1,
            "a standby asks AWS: {:?}",
            credentials(bed)
        );
        ensure!(operator.holder(&bed.client).await?.as_deref() == Some(first.as_str()));

        operator.kill()?;
        bed.aws.put_secret_value(&arn, "second")?;
        let (holder, took) = operator.led(&bed.client, Some(&first)).await?;
        ensure!(holder.contains(second.pod_name()), "{holder} leads");
        // 30 s of the Lease, seen at most 4 s late; the rest is for busy machines.
        ensure!(
            took < Duration::from_secs(50),
            "the standby took over after {} s",
            took.as_secs()
        );
        ensure!(
            took > Duration::from_secs(15),
            "the standby took over after {} s: sooner than the Lease ends",
            took.as_secs()
        );
        bed.holds("db", &[("value", "second")]).await?;
        ensure!(credentials(bed).len() == 2);

        // A graceful end hands over without waiting for the Lease to end.
        let mut third = operator.another().await?;
        third.wait_ready().await?;
        let begun = std::time::Instant::now();
        let status = second.terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        bed.aws.put_secret_value(&arn, "third")?;
        let (holder, _) = operator.led(&bed.client, Some(&holder)).await?;
        let took = begun.elapsed();
        ensure!(holder.contains(third.pod_name()), "{holder} leads");
        ensure!(
            took < Duration::from_secs(20),
            "hand-over took {} s",
            took.as_secs()
        );
        bed.holds("db", &[("value", "third")]).await?;
        let status = third.terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_ends() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("usurped", &[], async |bed, operator| {
        operator.led(&bed.client, None).await?;
        let leases = kube::Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
            bed.client.clone(),
            operator.namespace(),
        );
        for lease in leases.list(&kube::api::ListParams::default()).await? {
            let patch = kube::api::Patch::Merge(json!({"spec": {"holderIdentity": "usurper"}}));
            leases
                .patch(
                    &kube::ResourceExt::name_any(&lease),
                    &kube::api::PatchParams::default(),
                    &patch,
                )
                .await?;
        }
        let status = testbed::wait::until("the former leader to end", crate::harness::SOON, async || {
            operator.process()?.ended()
        })
        .await?;
        ensure!(!status.success(), "a lost Lease is an error: {status}");
        Ok(())
    })
    .await
}
