//! Others write to workloads as well: what they take back is not fought over, what they own is not touched.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{
    requests, wait,
    workloads::{Use, is_complete, workload},
};

use crate::{
    harness::{API_SERVER, Bed, assert_actionable, bed, quarried, same},
    operator::Operator,
    rolling::{Anchor, LATER, patches, restarted, web, with},
};

const TEMPLATE: &str = "/spec/template/metadata/annotations";

#[tokio::test]
async fn a_token_that_is_taken_back_afterwards_is_not_put_again() -> Result<()> {
    bed("stripped", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("stripped", "db"), web("undone", "db")])
            .await?;
        let history = bed.history().await?;
        let second = bed.rotate(&source, "second").await?;
        for name in ["stripped", "undone"] {
            bed.follows(("Deployment", name), "db", &second).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        let key = keyturn::api::names::restart_annotation("db");
        let stripped = json!({"spec": {"template": {"metadata": {"annotations": {key: null}}}}});
        bed.patch_workload("Deployment", "stripped", stripped).await?;
        bed.cluster
            .kubectl(["-n", &bed.namespace, "rollout", "undo", "deployment/undone"])
            .await?;
        for name in ["stripped", "undone"] {
            let object = bed.complete("Deployment", name).await?;
            ensure!(
                object
                    .data
                    .pointer(TEMPLATE)
                    .is_none_or(|all| all.get("testbed").is_none()),
                "{}",
                object.data
            );
        }
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment stripped", 1), ("Deployment undone", 1)]).await?;
        bed.restarts("db", &["Complete"]).await?;
        // The next content is another matter.
        let third = bed.rotate(&source, "third").await?;
        for name in ["stripped", "undone"] {
            bed.follows(("Deployment", name), "db", &third).await?;
        }
        restarted(&history, &[("Deployment stripped", 2), ("Deployment undone", 2)]).await
    })
    .await
}

/// Plays a controller of Argo CD's sort that takes back whatever Git does not say, as long as it lives.
struct SelfHealer {
    task: tokio::task::JoinHandle<()>,
    healed: Arc<AtomicUsize>,
    asleep: Arc<AtomicBool>,
}

impl SelfHealer {
    fn of(bed: &Bed, name: &str) -> Self {
        let (healed, asleep) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, rests) = (healed.clone(), asleep.clone());
        let (api, name) = (bed.workloads("Deployment"), name.to_owned());
        let task = tokio::spawn(async move {
            let key = keyturn::api::names::restart_annotation("db");
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if rests.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(object) = api.get(&name).await else {
                    continue;
                };
                let ours = object.data.pointer(TEMPLATE).and_then(|all| all.get(&key));
                if ours.is_none() {
                    continue;
                }
                let patch = json!({"spec": {"template": {"metadata": {"annotations": {&key: null}}}}});
                let manager = PatchParams {
                    field_manager: Some("argocd-controller".to_owned()),
                    ..PatchParams::default()
                };
                if api.patch(&name, &manager, &Patch::Merge(&patch)).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { task, healed, asleep }
    }
}

impl Drop for SelfHealer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often the operator put a template on the workload of this name.
fn puts(bed: &Bed, operator: &Operator, mark: requests::Mark, name: &str) -> Result<usize> {
    let asked = bed.asked(operator, mark)?;
    Ok(patches(&asked.only(|request| request.name == name)).len())
}

#[tokio::test]
async fn a_self_healer_is_given_way_to_after_two_attempts() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("reverted", &[], async |bed, operator| {
        let source = bed
            .restarting("db", json!({"pacing": {"maxConcurrent": 2}}))
            .await?;
        // Its old pods outlive what is taken back at once.
        let healed = with(
            workload("Deployment", "healed", &[("db", Use::Env)])?,
            &["minReadySeconds"],
            json!(5),
        );
        let healed = with(
            healed,
            &["strategy"],
            json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        );
        bed.run_workloads([healed, web("web", "db")]).await?;
        let history = bed.history().await?;
        let mark = requests::mark(bed.cluster)?;
        let argo = SelfHealer::of(bed, "healed");
        let second = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        let said = bed
            .exception("db", ("Deployment", "healed"), &["Reverted"])
            .await?;
        assert_actionable(&said.message.unwrap_or_default(), &["ignoreDifferences"]);
        bed.restarts("db", &["Reverted"]).await?;
        bed.event("db", "RestartReverted").await?;
        bed.workload_event(("Deployment", "healed"), "RestartReverted")
            .await?;
        same("attempts", &puts(bed, operator, mark, "healed")?, &2)?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        // Another process knows it as well.
        operator.kill()?;
        operator.expire_lease(&bed.client).await?;
        operator.start().await?;
        anchor.holds().await?;
        same("attempts", &puts(bed, operator, mark, "healed")?, &2)?;
        bed.restarts("db", &["Reverted"]).await?;
        ensure!(argo.healed.load(Ordering::Relaxed) == 2);
        // New content is tried anew; now it is let be.
        argo.asleep.store(true, Ordering::Relaxed);
        let third = bed.rotate(&source, "third").await?;
        bed.follows(("Deployment", "healed"), "db", &third).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 2), ("Deployment healed", 3)]).await
    })
    .await
}

#[tokio::test]
async fn nothing_but_the_annotations_is_written() -> Result<()> {
    bed("bytes", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let mut full = workload("Deployment", "full", &[("db", Use::Env), ("other", Use::Volume)])?;
        full["spec"]["template"]["spec"]["initContainers"] =
            json!([{"name": "sidecar", "image": "example.com/sidecar:1", "restartPolicy": "Always"}]);
        // Younger than the types that the operator was built with.
        full["spec"]["template"]["spec"]["containers"][0]["restartPolicy"] = json!("Never");
        full["spec"]["template"]["spec"]["containers"][0]["restartPolicyRules"] =
            json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        full["spec"]["template"]["metadata"]["annotations"] = json!({"example.com/own": "1", "a.b/c": ""});
        let full = with(full, &["minReadySeconds"], json!(4));
        bed.run_workloads([full, web("other", "other")]).await?;
        let before = bed.get_workload("Deployment", "full").await?;
        let rules = before
            .data
            .pointer("/spec/template/spec/containers/0/restartPolicyRules");
        ensure!(
            rules.is_some(),
            "this API server knows no field that is new: {}",
            before.data
        );
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        wait::until("the rollout", LATER, async || {
            Ok((!history.of("Deployment", "full").await?.is_empty()).then_some(()))
        })
        .await?;
        // An autoscaler has other ideas in the middle of it.
        let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
        bed.workloads("Deployment")
            .patch_scale("full", &PatchParams::default(), &scale)
            .await?;
        bed.follows(("Deployment", "full"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        let after = bed.get_workload("Deployment", "full").await?;
        ensure!(is_complete("Deployment", &after));
        let (mut was, mut is) = (before.data.clone(), after.data.clone());
        was["spec"]["replicas"] = json!(4);
        let key = keyturn::api::names::restart_annotation("db");
        let annotations = is.pointer_mut(TEMPLATE).and_then(Value::as_object_mut);
        let ours = annotations.context("its annotations")?.remove(&key);
        same("our annotation", &ours, &Some(json!(token)))?;
        ensure!(
            serde_json::to_string(&was["spec"])? == serde_json::to_string(&is["spec"])?,
            "{}\nbecame\n{}",
            was["spec"],
            is["spec"]
        );
        let metadata = |object: &kube::api::DynamicObject| {
            let mut all = object.metadata.annotations.clone().unwrap_or_default();
            all.retain(|name, _| {
                !name.starts_with("restart.keyturn.dev/") && !name.starts_with("deployment.kubernetes.io/")
            });
            (
                object.metadata.labels.clone(),
                object.metadata.owner_references.clone(),
                all,
            )
        };
        same("metadata", &metadata(&after), &metadata(&before))
    })
    .await
}
