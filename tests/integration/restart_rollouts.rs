//! Argo Rollouts are asked to restart, in their own words. The test plays their controller.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testbed::{
    wait,
    workloads::{Use, workload},
};

use crate::{
    harness::{API_SERVER, Bed, SOON, quarried, same},
    rolling::{LATER, annotated, web},
};

/// Every `spec.restartAt` that was seen.
type Seen = Arc<Mutex<BTreeSet<String>>>;

/// Plays the controller for one Rollout, whose pods a `ReplicaSet` makes.
struct Controller {
    task: tokio::task::JoinHandle<()>,
    seen: Seen,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    async fn of(bed: &Bed, name: &str) -> Result<Self> {
        let rollout = bed.get_workload("Rollout", name).await?;
        let mut set = workload("Deployment", name, &[("db", Use::Env)])?;
        set["kind"] = json!("ReplicaSet");
        set["metadata"]["name"] = json!(format!("{name}-1"));
        set["spec"]["template"]["metadata"]["labels"]["rollouts-pod-template-hash"] = json!("1");
        set["metadata"]["ownerReferences"] = json!([{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
            "name": name, "uid": rollout.uid(), "controller": true}]);
        bed.apply(set).await?;
        let set = format!("{name}-1");
        wait::until("the pods of the Rollout", SOON, async || {
            let set = bed.all::<ReplicaSet>().get(&set).await?;
            Ok((set.status.and_then(|status| status.ready_replicas) == Some(2)).then_some(()))
        })
        .await?;
        let seen = Seen::default();
        let (rollouts, pods) = (bed.workloads("Rollout"), bed.all::<Pod>());
        report(&rollouts, name, None).await?;
        let (into, name) = (seen.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let outcome = work(&rollouts, &pods, &name, &into).await;
                if let Err(error) = outcome {
                    println!("the Rollout's controller: {error:#}");
                }
            }
        });
        Ok(Self { task, seen })
    }

    fn asked(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One look of the controller: pods that are older than `restartAt` go, once it is reached.
async fn work(rollouts: &Api<DynamicObject>, pods: &Api<Pod>, name: &str, seen: &Seen) -> Result<()> {
    let rollout = rollouts.get(name).await?;
    let Some(at) = rollout.data.pointer("/spec/restartAt").and_then(Value::as_str) else {
        return report(rollouts, name, None).await;
    };
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(at.to_owned());
    let restart: Timestamp = at.parse()?;
    if restart > Timestamp::now() {
        return Ok(());
    }
    let all = pods
        .list(&ListParams::default().labels(&format!("app={name}")))
        .await?;
    let old = |pod: &&Pod| pod.creation_timestamp().is_some_and(|made| made.0 < restart);
    let ready = |pod: &&Pod| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    if let Some(pod) = all.iter().find(old) {
        if pod.metadata.deletion_timestamp.is_none() && all.iter().filter(ready).count() >= 2 {
            pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
        }
        return Ok(());
    }
    if all.iter().filter(ready).count() >= 2 {
        report(rollouts, name, Some(at)).await?;
    }
    Ok(())
}

async fn report(rollouts: &Api<DynamicObject>, name: &str, restarted: Option<&str>) -> Result<()> {
    let rollout = rollouts.get(name).await?;
    let status = json!({"phase": "Healthy", "observedGeneration": rollout.metadata.generation.unwrap_or_default().to_string(),
        "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2, "restartedAt": restarted});
    let current = rollout.data.get("status");
    let same = status.as_object().into_iter().flatten().all(|(field, value)| {
        let now = current.and_then(|status| status.get(field));
        now == Some(value) || (value.is_null() && now.is_none())
    });
    if !same {
        let patch = Patch::Merge(json!({"status": status}));
        rollouts
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(())
}

async fn restart_at(bed: &Bed, name: &str) -> Result<Option<Timestamp>> {
    let rollout = bed.get_workload("Rollout", name).await?;
    let at = rollout.data.pointer("/spec/restartAt").and_then(Value::as_str);
    Ok(at.map(str::parse).transpose()?)
}

#[tokio::test]
async fn a_rollout_restarts_at_the_same_time_in_every_retry() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("rollouts", &[], async |bed, operator| {
        let source = bed.restarting("db", json!({})).await?;
        // After the Rollout, by the order of kinds and waves.
        let targets = json!([{"kind": "Rollout", "name": "argo", "wave": -1}]);
        bed.re_restarting("db", json!({"targets": targets})).await?;
        bed.run_workloads([
            web("web", "db"),
            workload("Rollout", "argo", &[("db", Use::Env)])?,
        ])
        .await?;
        let controller = Controller::of(bed, "argo").await?;
        let template = bed.get_workload("Rollout", "argo").await?.data["spec"]["template"].clone();
        let history = bed.history().await?;
        for (round, value) in ["second", "third"].into_iter().enumerate() {
            let token = bed.rotate(&source, value).await?;
            let changed_at = bed.changed_at("db").await?.context("it changed")?;
            let expected = changed_at.round(jiff::Unit::Second)?;
            let asked = wait::until("restartAt", LATER, async || {
                Ok(restart_at(bed, "argo").await?.filter(|at| *at > changed_at))
            })
            .await?;
            let off = asked
                .duration_since(expected + SignedDuration::from_secs(11))
                .abs();
            ensure!(
                off <= SignedDuration::from_secs(1),
                "{asked} for a change at {changed_at}"
            );
            operator.kill()?;
            operator.expire_lease(&bed.client).await?;
            operator.start().await?;
            bed.follows(("Deployment", "web"), "db", &token).await?;
            bed.restarts("db", &["Complete"]).await?;
            same("restartAt", &restart_at(bed, "argo").await?, &Some(asked))?;
            same("times asked", &controller.asked(), &(round + 1))?;
            for pod in bed.pods("argo").await? {
                let made = pod.creation_timestamp().context("it was made")?.0;
                ensure!(made >= changed_at, "a pod of the old content is left");
            }
            // The Deployment of the next wave waited for it.
            let arrivals = history.of("Deployment", "web").await?;
            same("templates", &arrivals.len(), &(round + 1))?;
            ensure!(arrivals[round].patched.is_some_and(|patched| patched >= asked));
        }
        let now = bed.get_workload("Rollout", "argo").await?;
        same("its template", &now.data["spec"]["template"], &template)
    })
    .await
}

#[tokio::test]
async fn a_rollout_takes_the_token_where_somebody_says_so() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("template", &[], async |bed, _| {
        let source = bed.restarting("db", json!({})).await?;
        let rollout = workload("Rollout", "argo", &[("db", Use::Env)])?;
        bed.run_workloads([annotated(
            rollout,
            &[("keyturn.dev/restart-strategy", "Template")],
        )])
        .await?;
        let _controller = Controller::of(bed, "argo").await?;
        let token = bed.rotate(&source, "second").await?;
        let key = keyturn::api::names::restart_annotation("db");
        wait::until("the token on the template", LATER, async || {
            let rollout = bed.get_workload("Rollout", "argo").await?;
            let found = &rollout.data["spec"]["template"]["metadata"]["annotations"][&key];
            Ok((*found == json!(token)).then_some(()))
        })
        .await?;
        same("restartAt", &restart_at(bed, "argo").await?, &None)
    })
    .await
}
