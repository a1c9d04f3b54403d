//! Evictions replace the pods that hold old content and nothing else, and never against a budget.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use testbed::{
    requests, wait,
    workloads::{Use, workload},
};

use crate::{
    harness::{API_SERVER, Bed, bed, common, quarried, same},
    rolling::{Anchor, LATER, annotated, restarted, user, web, with},
};

fn evicted(object: Value) -> Value {
    annotated(object, &[("keyturn.dev/restart-strategy", "Evict")])
}

async fn budget(bed: &Bed, name: &str, spec: Value) -> Result<()> {
    let mut whole = json!({"selector": {"matchLabels": {"app": name}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": whole});
    bed.apply(object).await
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn uids(bed: &Bed, app: &str) -> Result<BTreeSet<Option<String>>> {
    Ok(bed.pods(app).await?.iter().map(kube::ResourceExt::uid).collect())
}

/// Waits until none of the former pods is left and there are as many new ones.
async fn replaced(bed: &Bed, app: &str, former: &BTreeSet<Option<String>>, at_least: usize) -> Result<()> {
    wait::until(&format!("the pods of {app} to be replaced"), LATER, async || {
        let pods = bed.pods(app).await?;
        let well = pods.iter().filter(|pod| ready(pod)).count();
        if well < at_least {
            return Ok(Some(Err(anyhow::anyhow!("only {well} pods of {app} are ready"))));
        }
        let left = pods.iter().filter(|pod| former.contains(&pod.uid())).count();
        Ok((left == 0 && well == former.len()).then_some(Ok(())))
    })
    .await?
}

#[tokio::test]
async fn stale_pods_are_evicted_one_at_a_time() -> Result<()> {
    let operator = &common().await?.operator;
    bed("evict", async |bed| {
        let source = bed
            .restarting("db", json!({"pacing": {"maxConcurrent": 2}}))
            .await?;
        let three = with(
            workload("Deployment", "three", &[("db", Use::Env)])?,
            &["replicas"],
            json!(3),
        );
        let set = with(
            workload("StatefulSet", "set", &[("db", Use::Env)])?,
            &["updateStrategy"],
            json!({"type": "OnDelete"}),
        );
        bed.run_workloads([evicted(three), evicted(set), web("web", "db")])
            .await?;
        budget(bed, "three", json!({"minAvailable": 2})).await?;
        let (threes, sets) = (uids(bed, "three").await?, uids(bed, "set").await?);
        let history = bed.history().await?;
        let mark = requests::mark(bed.cluster)?;
        let token = bed.rotate(&source, "second").await?;
        replaced(bed, "three", &threes, 2).await?;
        replaced(bed, "set", &sets, 1).await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        for (kind, name) in [("Deployment", "three"), ("StatefulSet", "set")] {
            let now = bed.get_workload(kind, name).await?;
            same(name, &now.metadata.generation, &Some(1))?;
        }
        let evictions = bed
            .asked(operator, mark)?
            .only(|request| request.resource == "pods/eviction" && request.code < 300);
        same("evictions", &evictions.0.len(), &5)
    })
    .await
}

#[tokio::test]
async fn a_budget_that_allows_nothing_is_waited_for() -> Result<()> {
    bed("budget", async |bed| {
        let source = bed
            .restarting("db", json!({"pacing": {"maxConcurrent": 2}}))
            .await?;
        bed.run_workloads([evicted(web("a-held", "db")), web("b-web", "db")])
            .await?;
        budget(bed, "a-held", json!({"maxUnavailable": 0})).await?;
        let former = uids(bed, "a-held").await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "b-web"), "db", &token).await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        ensure!(uids(bed, "a-held").await? == former, "evicted against its budget");
        ensure!(bed.restart_status("db").await?.halted != Some(true));
        budget(bed, "a-held", json!({"maxUnavailable": 1})).await?;
        replaced(bed, "a-held", &former, 0).await?;
        bed.restarts("db", &["Complete"]).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn nothing_is_evicted_by_an_operator_that_may_not() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("no-evict", &[], async |bed, operator| {
        let source = bed.restarting("db", json!({})).await?;
        let pods = user("Deployment", "a-evicted", "db", Use::Env);
        bed.run_workloads([evicted(pods), web("b-web", "db")]).await?;
        let former = uids(bed, "a-evicted").await?;
        let mark = requests::mark(bed.cluster)?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "b-web"), "db", &token).await?;
        let said = bed
            .exception("db", ("Deployment", "a-evicted"), &["EvictNotAllowed"])
            .await?;
        crate::harness::assert_actionable(&said.message.unwrap_or_default(), &[]);
        ensure!(uids(bed, "a-evicted").await? == former);
        let evictions = bed
            .asked(operator, mark)?
            .only(|request| request.resource == "pods/eviction");
        same("evictions", &evictions.0.len(), &0)
    })
    .await
}
