//! A workload that crashes in a loop looks well between two crashes: it stays failed all the same, whoever leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod, events::v1::Event};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use testbed::{requests, wait, workloads::Use};

use crate::{
    harness::{API_SERVER, Bed, annotation, assert_actionable, bed, quarried, same},
    rolling::{Anchor, LATER, brought, doomed, patches, restarted, user, web, with},
};

const HANGS: &str = "never-ready-with";
/// A pod is down for so long, then up.
const DOWN: Duration = Duration::from_secs(4);
const UP: Duration = Duration::from_secs(8);

/// The kubelet of pods that crash in a loop: they are ready in between, and never for long.
struct CrashLoop {
    task: tokio::task::JoinHandle<()>,
    up: Arc<AtomicBool>,
}

impl Drop for CrashLoop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CrashLoop {
    fn of(bed: &Bed, apps: &[&str]) -> Self {
        let pods = bed.all::<Pod>();
        let chosen = ListParams::default().labels(&format!("app in ({})", apps.join(",")));
        let up = Arc::new(AtomicBool::new(false));
        let key = keyturn::api::names::restart_annotation("db");
        let state = Arc::clone(&up);
        let task = tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            loop {
                let elapsed = begun.elapsed().as_secs();
                let (down, all) = (DOWN.as_secs(), (DOWN + UP).as_secs());
                let is_up = elapsed % all >= down;
                let found = pods
                    .list(&chosen)
                    .await
                    .map(|list| list.items)
                    .unwrap_or_default();
                for pod in found {
                    let runs =
                        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
                    let shown = pod
                        .status
                        .iter()
                        .flat_map(|status| status.conditions.iter().flatten())
                        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
                    let doomed =
                        annotation(&pod, &key).is_some() && pod.metadata.deletion_timestamp.is_none();
                    let crashed = pod
                        .status
                        .iter()
                        .flat_map(|status| status.container_statuses.iter().flatten())
                        .any(|container| container.restart_count > 0);
                    if !runs || !doomed || (shown == is_up && crashed) {
                        continue;
                    }
                    let restarts = i32::try_from(3 + elapsed / all).unwrap_or(i32::MAX);
                    let _gone = pods
                        .patch_status(
                            &pod.name_any(),
                            &PatchParams::default(),
                            &Patch::Strategic(status(is_up, restarts)),
                        )
                        .await;
                }
                state.store(is_up, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Self { task, up }
    }

    /// Waits until the pods look well, or do not.
    async fn is(&self, up: bool) -> Result<()> {
        wait::until("the pods to turn", LATER, async || {
            Ok((self.up.load(Ordering::Relaxed) == up).then_some(()))
        })
        .await
    }
}

fn status(is_up: bool, restarts: i32) -> serde_json::Value {
    let now = Timestamp::from_second(Timestamp::now().as_second())
        .unwrap_or_default()
        .to_string();
    let ready = if is_up { "True" } else { "False" };
    let state = if is_up {
        json!({"running": {"startedAt": now}, "waiting": null})
    } else {
        json!({"running": null, "waiting": {"reason": "CrashLoopBackOff"}})
    };
    json!({"status": {
        "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": now},
            {"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
        ],
        "containerStatuses": [{"name": "main", "image": "example.com/main:1", "imageID": "", "ready": is_up,
            "restartCount": restarts, "state": state}],
    }})
}

/// How often people were told that a workload failed.
async fn alerts(bed: &Bed, kind: &str, name: &str) -> Result<i32> {
    let events = bed.all::<Event>().list(&ListParams::default()).await?;
    Ok(events
        .into_iter()
        .filter(|event| {
            let about = event.regarding.as_ref();
            event.reason.as_deref() == Some("RestartFailed")
                && about.is_some_and(|about| {
                    about.kind.as_deref() == Some(kind) && about.name.as_deref() == Some(name)
                })
        })
        .map(|event| event.series.map_or(1, |series| series.count))
        .sum())
}

/// What a workload says of its rollout.
async fn says(bed: &Bed, name: &str) -> Result<Option<String>> {
    let object = bed.get_workload("Deployment", name).await?;
    let key = format!("{}.failed", keyturn::api::names::restart_annotation("db"));
    Ok(annotation(&object, &key).map(ToOwned::to_owned))
}

#[tokio::test]
async fn what_crashes_in_a_loop_halts_the_rest_until_somebody_says_so_whoever_leads() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("crash-loops", &[], async |bed, operator| {
        let source = bed.restarting("db", json!({})).await?;
        let names: Vec<String> = (0..12).map(|number| format!("web-{number:02}")).collect();
        let broken = ["web-02", "web-07"];
        let objects = names.iter().map(|name| {
            let object = user("Deployment", name, "db", Use::Env);
            if !broken.contains(&name.as_str()) {
                return object;
            }
            // Its pods are never well for so long: the old ones stay.
            with(doomed(object, HANGS, "db"), &["minReadySeconds"], json!(60))
        });
        bed.run_workloads(objects.collect::<Vec<_>>()).await?;
        let history = bed.history().await?;
        let mark = requests::mark(bed.cluster)?;
        let mut anchor = Anchor::drop(bed).await?;
        let crashes = CrashLoop::of(bed, &broken);
        let second = bed.rotate(&source, "second").await?;
        let said = bed.restarts("db", &["Halted"]).await?;
        assert_actionable(&said.message, &["web-02"]);
        let first = [
            ("Deployment web-00", 1),
            ("Deployment web-01", 1),
            ("Deployment web-02", 1),
        ];
        wait::until("the workload to say that it failed", LATER, async || {
            let said = says(bed, "web-02").await?;
            Ok((said == Some(format!("{second}.CrashLoopBackOff"))).then_some(()))
        })
        .await?;
        bed.workload_event(("Deployment", "web-02"), "RestartFailed")
            .await?;
        // It looks well and crashes again, several times.
        for up in [true, false, true, false] {
            crashes.is(up).await?;
            anchor.holds().await?;
        }
        restarted(&history, &first).await?;
        bed.restarts("db", &["Halted"]).await?;

        // The next leader begins while it looks well.
        crashes.is(true).await?;
        operator.kill()?;
        operator.expire_lease(&bed.client).await?;
        operator.start().await?;
        for up in [false, true, false] {
            anchor.holds().await?;
            crashes.is(up).await?;
        }
        restarted(&history, &first).await?;
        bed.restarts("db", &["Halted"]).await?;
        same("alerts", &alerts(bed, "Deployment", "web-02").await?, &1)?;
        let failed = operator
            .metrics()
            .await?
            .sum_where("keyturn_restarts_total", &[("result", "failed")]);
        ensure!(
            failed.abs() < f64::EPSILON,
            "the next leader told of it again: {failed}"
        );
        // One patch for the restart, one for what it says: that one is no restart, and no later one.
        let asked = bed.asked(operator, mark)?;
        let of_it = asked.only(|request| request.name == "web-02");
        same("patches", &patches(&of_it).len(), &2)?;
        let moments = history.moments().await?;
        let mut patched: Vec<_> = moments
            .iter()
            .filter(|moment| moment.workload.name == "web-02")
            .filter_map(|moment| moment.patched)
            .collect();
        patched.dedup();
        same("times of a restart", &patched.len(), &1)?;

        // Somebody lets the others go.
        bed.annotate("db", "keyturn.dev/resume", Some(&second)).await?;
        for name in names.iter().filter(|name| !broken.contains(&name.as_str())) {
            bed.follows(("Deployment", name), "db", &second).await?;
        }
        wait::until("the other one to fail", LATER, async || {
            Ok(says(bed, "web-07").await?.map(drop))
        })
        .await?;
        let all: Vec<(String, usize)> = names
            .iter()
            .map(|name| (format!("Deployment {name}"), 1))
            .collect();
        let all: Vec<(&str, usize)> = all.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        restarted(&history, &all).await?;

        // Other content starts over, and fails again.
        let third = bed.rotate(&source, "third").await?;
        wait::until("another try", LATER, async || {
            let tokens = brought(&history.of("Deployment", "web-02").await?, "db");
            Ok((tokens == [second.clone(), third.clone()]).then_some(()))
        })
        .await?;
        bed.restarts("db", &["Halted"]).await?;
        anchor.holds().await?;
        let arrivals = brought(&history.of("Deployment", "web-03").await?, "db");
        same("the next one", &arrivals, &vec![second])
    })
    .await
}

#[tokio::test]
async fn what_is_forged_or_pruned_on_a_workload_makes_nothing_go_and_no_loop() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("forged", &[], async |bed, operator| {
        let source = bed.restarting("db", json!({})).await?;
        let broken = with(
            doomed(web("a-broken", "db"), HANGS, "db"),
            &["minReadySeconds"],
            json!(60),
        );
        bed.run_workloads([broken, web("b-web", "db")]).await?;
        let key = format!("{}.failed", keyturn::api::names::restart_annotation("db"));
        // Nonsense on a workload that is well is no obstacle.
        bed.annotate_workload(("Deployment", "b-web"), &key, Some("no such thing"))
            .await?;
        let history = bed.history().await?;
        let mark = requests::mark(bed.cluster)?;
        let mut anchor = Anchor::drop(bed).await?;
        let crashes = CrashLoop::of(bed, &["a-broken"]);
        let second = bed.rotate(&source, "second").await?;
        bed.restarts("db", &["Halted"]).await?;
        wait::until("the workload to say that it failed", LATER, async || {
            Ok(says(bed, "a-broken").await?.map(drop))
        })
        .await?;
        // Somebody prunes it, again and again.
        for up in [true, false, true] {
            bed.annotate_workload(("Deployment", "a-broken"), &key, None)
                .await?;
            crashes.is(up).await?;
            anchor.holds().await?;
        }
        same("what it says", &says(bed, "a-broken").await?, &None)?;
        restarted(&history, &[("Deployment a-broken", 1)]).await?;
        bed.restarts("db", &["Halted"]).await?;
        let asked = bed.asked(operator, mark)?;
        let of_it = asked.only(|request| request.name == "a-broken");
        same("patches", &patches(&of_it).len(), &2)?;
        bed.annotate("db", "keyturn.dev/resume", Some(&second)).await?;
        bed.follows(("Deployment", "b-web"), "db", &second).await?;
        restarted(&history, &[("Deployment a-broken", 1), ("Deployment b-web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn pods_of_replica_sets_of_nobody_keep_nothing_from_being_done() -> Result<()> {
    bed("strays", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        // Its pods hold the Secret too, and no workload that is restarted has them.
        let stray: ReplicaSet = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "bare"},
            "spec": {"replicas": 510, "selector": {"matchLabels": {"app": "bare"}},
                "template": {"metadata": {"labels": {"app": "bare"}},
                    "spec": {"containers": [{"name": "main", "image": "example.com/main:1"}]}}}}))?;
        let sets = Api::<ReplicaSet>::namespaced(bed.client.clone(), &bed.namespace);
        sets.create(&PostParams::default(), &stray)
            .await
            .context("make the ReplicaSet")?;
        wait::until("its pods", LATER, async || {
            Ok((bed.pods("bare").await?.len() == 510).then_some(()))
        })
        .await?;
        let partition = with(
            user("StatefulSet", "parts", "db", Use::Env),
            &["updateStrategy", "rollingUpdate", "partition"],
            json!(1),
        );
        bed.run_workloads([web("web", "db"), partition]).await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.exception("db", ("StatefulSet", "parts"), &["AwaitingPodDeletion"])
            .await?;
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        bed.past(changed_at + crate::rolling::SKEW + jiff::SignedDuration::from_secs(2))
            .await?;
        for pod in bed.pods("parts").await? {
            bed.all::<Pod>()
                .delete(&pod.name_any(), &DeleteParams::default())
                .await?;
        }
        // Only a list of pods tells that it is done.
        bed.restarts("db", &["Complete"]).await.map(drop)
    })
    .await
}
