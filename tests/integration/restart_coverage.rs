//! Workloads are kept of the namespaces only in which an ExternalSecret asks for restarts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use keyturn::api::names;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use testbed::{requests, wait};

use crate::{
    harness::{API_SERVER, Bed, SOON, annotation, bed, common, quarried, same, stays},
    operator::Operator,
    rolling::{Anchor, Source, restarted, web, with},
};

/// Workloads without pods, with 20 kB each in their templates.
async fn crowd(bed: &Bed, count: u32) -> Result<()> {
    let flood = "x".repeat(20_000);
    stream::iter(0..count)
        .map(|n| {
            let object = with(web(&format!("crowd-{n}"), "db"), &["replicas"], json!(0));
            let note = ["template", "metadata", "annotations", "example.com/flood"];
            bed.apply(with(object, &note, json!(flood)))
        })
        .buffer_unordered(8)
        .try_collect()
        .await
}

/// How many Deployments the operator keeps, and in how many namespaces it has yet to list them.
async fn kept(operator: &Operator) -> Result<(f64, f64)> {
    let (metrics, kind) = (operator.metrics().await?, [("kind", "Deployment")]);
    Ok((
        metrics.sum_where("keyturn_indexed_objects", &kind),
        metrics.sum_where("keyturn_uncovered_namespaces", &kind),
    ))
}

async fn keeps(operator: &Operator, deployments: f64) -> Result<()> {
    let what = format!("{deployments} Deployments to be kept");
    wait::until(&what, SOON, async || {
        let kept = kept(operator).await?;
        ensure!(kept == (deployments, 0.0), "it is {kept:?}");
        Ok(Some(()))
    })
    .await
}

/// Lets the operator list Deployments in the bed's namespace, or not.
async fn may_list_deployments(bed: &Bed, may: bool) -> Result<()> {
    let roles = Api::<Role>::namespaced(bed.client.clone(), &bed.namespace);
    let is_of_deployments = |rule: &&mut PolicyRule| {
        rule.resources
            .iter()
            .flatten()
            .any(|resource| resource == "deployments")
    };
    let mut changed = 0;
    for role in roles.list(&ListParams::default()).await? {
        let mut granted = role.rules.clone().unwrap_or_default();
        for rule in granted.iter_mut().filter(is_of_deployments) {
            rule.verbs.retain(|verb| verb != "list");
            if may {
                rule.verbs.push("list".to_owned());
            }
            changed += 1;
        }
        let patch = Patch::Merge(json!({"rules": granted}));
        roles
            .patch(&role.name_any(), &PatchParams::default(), &patch)
            .await?;
    }
    ensure!(changed > 0, "no Role of {} is about Deployments", bed.namespace);
    Ok(())
}

/// Waits until the Secret says since when restarts are wanted: changes from then on count.
async fn wanted(bed: &Bed, secret: &str) -> Result<()> {
    wait::until(
        "the Secret to say since when restarts are wanted",
        SOON,
        async || {
            let secret = bed.written(secret).await?;
            Ok(annotation(&secret, names::annotation::RESTART_SINCE).map(drop))
        },
    )
    .await
}

#[tokio::test]
async fn a_rotation_that_comes_before_the_workloads_are_known_restarts_once_and_late() -> Result<()> {
    const CROWD: u32 = 300;
    let _api_server = API_SERVER.read().await;
    quarried("uncovered", &[], async |bed, operator| {
        let source = Source {
            name: "db".to_owned(),
            arn: bed.secret("app/db", "first")?,
        };
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        bed.run_workloads([web("web", "db")]).await?;
        crowd(bed, CROWD).await?;
        bed.rounds(3).await?;
        same("kept", &kept(operator).await?, &(0.0, 0.0))?;

        may_list_deployments(bed, false).await?;
        let history = bed.history().await?;
        bed.re_restarting("db", json!({})).await?;
        wanted(bed, "db").await?;
        let second = bed.rotate(&source, "second").await?;
        let refused = [("verb", "list"), ("kind", "Deployment"), ("result", "forbidden")];
        wait::until("the list to be tried again", SOON, async || {
            let metrics = operator.metrics().await?;
            Ok((metrics.sum_where("keyturn_kubernetes_requests_total", &refused) >= 2.0).then_some(()))
        })
        .await?;
        // Longer than a change that is known takes to be followed.
        stays(Duration::from_secs(20), async || {
            same("kept", &kept(operator).await?, &(0.0, 1.0))?;
            let said = bed.said("db", "RestartsComplete").await?;
            ensure!(said.is_none(), "nothing is known, and it says {said:?}");
            restarted(&history, &[]).await
        })
        .await?;
        let log = operator.log()?;
        let line = log.lines().find(|line| line.contains("could not be listed"));
        let line = line.context("nothing is logged")?;
        ensure!(line.contains(&bed.namespace), "which namespace? {line}");

        may_list_deployments(bed, true).await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        bed.restarts("db", &["Complete"]).await?;
        let all = f64::from(CROWD + 1);
        keeps(operator, all).await?;
        // Those without pods hold nothing old.
        restarted(&history, &[("Deployment web", 1)]).await?;

        // Off and on: at once, and while no process remembers anything.
        bed.re_restarting("db", json!({"mode": "Disabled"})).await?;
        bed.synced("db").await?;
        bed.re_restarting("db", json!({})).await?;
        bed.restarts("db", &["Complete", "NothingPending"]).await?;
        bed.re_restarting("db", json!({"mode": "Disabled"})).await?;
        bed.synced("db").await?;
        operator.terminate().await?;
        operator.start().await?;
        keeps(operator, 0.0).await?;
        bed.re_restarting("db", json!({})).await?;
        keeps(operator, all).await?;
        bed.restarts("db", &["Complete", "NothingPending"]).await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        let third = bed.rotate(&source, "third").await?;
        bed.follows(("Deployment", "web"), "db", &third).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 2)]).await
    })
    .await
}

#[tokio::test]
async fn the_workloads_of_a_namespace_are_listed_once_and_only_for_restarts() -> Result<()> {
    let operator = &common().await?.operator;
    bed("covered", async |bed| {
        let source = Source {
            name: "db".to_owned(),
            arn: bed.secret("app/db", "first")?,
        };
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let mark = requests::mark(bed.cluster)?;
        bed.plain("db", "app/db").await?;
        bed.synced("db").await?;
        bed.rounds(3).await?;
        let lists = || -> Result<Vec<usize>> {
            let asked = bed.asked(operator, mark)?;
            let kinds = ["deployments", "statefulsets", "daemonsets", "rollouts"];
            Ok(kinds.map(|kind| asked.count("list", kind)).to_vec())
        };
        same("lists", &lists()?, &vec![0; 4])?;
        bed.re_restarting("db", json!({})).await?;
        wanted(bed, "db").await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        // A second ExternalSecret, and the first one off and on, need none.
        bed.restarting("other", json!({})).await?;
        bed.re_restarting("db", json!({"mode": "Disabled"})).await?;
        bed.synced("db").await?;
        bed.re_restarting("db", json!({})).await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        same("lists", &lists()?, &vec![1; 4])
    })
    .await
}
