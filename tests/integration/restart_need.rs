//! A rotation restarts each workload that uses the Secret, once.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::json;
use testbed::{
    requests, wait,
    workloads::{Use, workload},
};

use crate::{
    harness::{SOON, bed, common, property, same},
    rolling::{COALESCE, Named, SETTLE, SKEW, brought, patches, restarted, user, web, with},
};

/// Every way in which a workload may use a Secret that counts.
const USERS: [(&str, &str, Use); 7] = [
    ("Deployment", "env", Use::Env),
    ("StatefulSet", "env-from", Use::EnvFrom),
    ("DaemonSet", "volume", Use::Volume),
    ("Deployment", "mounted", Use::Volume),
    ("Deployment", "projected", Use::Projected),
    ("Deployment", "sub-path", Use::SubPath),
    ("Deployment", "init", Use::Init),
];

#[tokio::test]
async fn a_rotation_restarts_every_user_once_and_one_after_another() -> Result<()> {
    let operator = &common().await?.operator;
    bed("kinds", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let first = bed.rollout("db").await?;
        let others = [
            user("Deployment", "pulls", "db", Use::PullSecret),
            web("other", "another"),
            workload("CronJob", "nightly", &[("db", Use::Env)])?,
            workload("Job", "once", &[("db", Use::Env)])?,
            workload("Pod", "bare", &[("db", Use::Env)])?,
        ];
        let users = USERS.map(|(kind, name, how)| user(kind, name, "db", how));
        bed.run_workloads(users.into_iter().chain(others)).await?;
        let bare = bed.all::<Pod>().get("bare").await?;
        let history = bed.history().await?;
        let mark = requests::mark(bed.cluster)?;

        let token = bed.rotate(&source, "second").await?;
        ensure!(token != first);
        for (kind, name, _) in USERS {
            bed.follows((kind, name), "db", &token).await?;
        }
        let said = bed.restarts("db", &["Complete"]).await?;
        same("status", &said.status.as_str(), &"True")?;
        let status = bed.restart_status("db").await?;
        same("done", &(status.done, status.pending), &(Some(7), Some(0)))?;

        restarted(
            &history,
            &USERS
                .map(|(kind, name, _)| format!("{kind} {name}"))
                .iter()
                .map(|name| (name.as_str(), 1))
                .collect::<Vec<_>>(),
        )
        .await?;
        same("in flight at once", &history.most_in_flight(|_| true).await?, &1)?;
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        let asked = bed.asked(operator, mark)?;
        let first_patch = patches(&asked).into_iter().min().context("a patch")?;
        ensure!(
            first_patch >= changed_at + SETTLE,
            "the first patch was at {first_patch}, the Secret written at {changed_at}"
        );
        let written = asked.only(|request| request.resource == "secrets" && request.verb == "patch");
        let written = written.0.last().context("the Secret was written")?.answered;
        ensure!(
            first_patch > written,
            "the workload was patched before the Secret"
        );

        // What ends by itself, and what nobody would make again, is left alone.
        let now = bed.all::<Pod>().get("bare").await?;
        same(
            "the bare pod",
            &now.metadata.resource_version,
            &bare.metadata.resource_version,
        )?;
        for kind in [
            bed.all::<Job>().get("once").await?.metadata,
            bed.all::<CronJob>().get("nightly").await?.metadata,
        ] {
            same("its generation", &kind.generation, &Some(1))?;
        }
        let touched = asked.only(|request| {
            request.writes()
                && ["pods", "jobs", "cronjobs", "replicasets", "pods/eviction"]
                    .contains(&request.resource.as_str())
        });
        same("other writes", &touched.counts(), &BTreeMap::new())?;
        for (kind, name) in [
            ("Deployment", "env"),
            ("StatefulSet", "env-from"),
            ("DaemonSet", "volume"),
        ] {
            for reason in ["RestartTriggered", "RestartCompleted"] {
                bed.workload_event((kind, name), reason).await?;
            }
        }
        bed.event("db", "RestartTriggered").await?;
        bed.event("db", "RestartCompleted").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_secrets_that_change_together_are_one_rollout() -> Result<()> {
    bed("together", async |bed| {
        let (one, two) = (
            bed.restarting("one", json!({})).await?,
            bed.restarting("two", json!({})).await?,
        );
        let both = workload("Deployment", "both", &[("one", Use::Env), ("two", Use::EnvFrom)])?;
        bed.run_workloads([both]).await?;
        let history = bed.history().await?;
        let former = bed.rollout("two").await?;
        bed.aws.put_secret_value(&two.arn, "second")?;
        let first = bed.rotate(&one, "second").await?;
        let second = bed.rotated(&two, "second", &former).await?;
        let workload: Named<'_> = ("Deployment", "both");
        bed.follows(workload, "one", &first).await?;
        bed.follows(workload, "two", &second).await?;
        let arrivals = history.of("Deployment", "both").await?;
        same("templates", &arrivals.len(), &1)?;
        same("tokens at once", &arrivals[0].tokens.len(), &2)?;
        for name in ["one", "two"] {
            bed.restarts(name, &["Complete"]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rotation_in_mid_rollout_wins_and_costs_one_more() -> Result<()> {
    bed("newer", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        // Slow enough to be overtaken: a pod is not available before it has been ready for a while.
        let slow = with(
            workload("Deployment", "slow", &[("db", Use::Env)])?,
            &["minReadySeconds"],
            json!(15),
        );
        let slow = with(
            slow,
            &["strategy"],
            json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        );
        bed.run_workloads([slow]).await?;
        let history = bed.history().await?;
        let second = bed.rotate(&source, "second").await?;
        testbed::wait::until("the first rollout", crate::rolling::LATER, async || {
            Ok((history.of("Deployment", "slow").await?.len() == 1).then_some(()))
        })
        .await?;
        let third = bed.rotate(&source, "third").await?;
        bed.follows(("Deployment", "slow"), "db", &third).await?;
        bed.restarts("db", &["Complete"]).await?;
        let tokens = brought(&history.of("Deployment", "slow").await?, "db");
        same("tokens", &tokens, &vec![second, third])
    })
    .await
}

#[tokio::test]
async fn a_name_of_253_characters_is_followed() -> Result<()> {
    bed("long", async |bed| {
        let names = ["a", "b"].map(|last| format!("{}{last}", "x".repeat(252)));
        let mut sources = Vec::new();
        for name in &names {
            sources.push(bed.restarting(name, json!({})).await?);
        }
        bed.run_workloads([web("web-a", &names[0]), web("web-b", &names[1])])
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&sources[0], "second").await?;
        bed.follows(("Deployment", "web-a"), &names[0], &token).await?;
        bed.restarts(&names[0], &["Complete"]).await?;
        restarted(&history, &[("Deployment web-a", 1)]).await
    })
    .await
}

#[tokio::test]
async fn only_the_trigger_keys_restart() -> Result<()> {
    bed("trigger", async |bed| {
        let arn = bed.secret("app/db", r#"{"user": "u1", "password": "p1"}"#)?;
        let data = json!([property("user", "app/db", "user"), property("password", "app/db", "password")]);
        let spec = |keys: &[&str]| json!({"data": data, "restart": {"mode": "Automatic", "trigger": {"keys": keys}}});
        bed.external_secret("db", spec(&["password"])).await?;
        bed.synced("db").await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let mut anchor = crate::rolling::Anchor::drop(bed).await?;
        let first = bed.rollout("db").await?;

        bed.aws.put_secret_value(&arn, r#"{"user": "u2", "password": "p1"}"#)?;
        bed.holds("db", &[("user", "u2"), ("password", "p1")]).await?;
        same("the rollout", &bed.rollout("db").await?, &first)?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;

        // Editing the keys compares nothing with what was made of others.
        bed.external_secret("db", spec(&["user", "password"])).await?;
        bed.synced("db").await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;

        bed.aws.put_secret_value(&arn, r#"{"user": "u2", "password": "p2"}"#)?;
        bed.holds("db", &[("user", "u2"), ("password", "p2")]).await?;
        let second = bed.rollout("db").await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn pods_that_are_newer_than_the_change_are_not_restarted() -> Result<()> {
    bed("newer-pods", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let zero = with(web("zero", "db"), &["replicas"], json!(0));
        bed.run_workloads([web("web", "db"), zero.clone()]).await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        // Later than a clock that is 10 s off would say.
        bed.past(changed_at + SKEW + jiff::SignedDuration::from_secs(2))
            .await?;
        bed.run_workloads([web("late", "db"), with(zero, &["replicas"], json!(1))])
            .await?;
        let mut anchor = crate::rolling::Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        bed.restarts("db", &["Complete"]).await?;
        ensure!(bed.changed_at("db").await? == Some(changed_at));

        // The next change is for all of them.
        let token = bed.rotate(&source, "third").await?;
        for name in ["web", "late", "zero"] {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        restarted(
            &history,
            &[
                ("Deployment web", 2),
                ("Deployment late", 1),
                ("Deployment zero", 1),
            ],
        )
        .await
    })
    .await
}

/// The usual way to change what cannot be changed, such as the size of volumes.
#[tokio::test]
async fn a_set_that_is_made_anew_over_old_pods_is_restarted() -> Result<()> {
    bed("adopted", async |bed| {
        let source = bed.restarting("db", json!({"mode": "Manual"})).await?;
        let set = user("StatefulSet", "set", "db", Use::Env);
        bed.run_workloads([set.clone()]).await?;
        let token = bed.rotate(&source, "second").await?;
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        bed.past(changed_at + SKEW + jiff::SignedDuration::from_secs(2))
            .await?;
        let uids = async || -> Result<Vec<_>> {
            let pods = bed.pods("set").await?;
            Ok(pods.iter().map(kube::ResourceExt::uid).collect())
        };
        let former = uids().await?;
        let orphan = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            ..DeleteParams::default()
        };
        bed.workloads("StatefulSet").delete("set", &orphan).await?;
        wait::until("the StatefulSet to be gone", SOON, async || {
            let left = bed.workloads("StatefulSet").get_opt("set").await?;
            Ok(left.is_none().then_some(()))
        })
        .await?;
        bed.run_workloads([set]).await?;
        ensure!(uids().await? == former, "its pods were replaced by others");
        bed.restarts("db", &["AwaitingApproval"]).await?;
        bed.annotate("db", "keyturn.dev/approve", Some(&token)).await?;
        bed.follows(("StatefulSet", "set"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        ensure!(uids().await?.iter().all(|uid| !former.contains(uid)));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mounts_that_are_read_again_are_left_alone() -> Result<()> {
    bed("hot", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let hot = |object| crate::rolling::annotated(object, &[("keyturn.dev/hot-reload", "true")]);
        bed.run_workloads([
            hot(user("Deployment", "mounted", "db", Use::Volume)),
            hot(user("Deployment", "projected", "db", Use::Projected)),
            // These hold what they were started with, whatever anybody says.
            hot(user("Deployment", "env", "db", Use::Env)),
            hot(user("Deployment", "sub-path", "db", Use::SubPath)),
            user("Deployment", "cold", "db", Use::Volume),
        ])
        .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        for name in ["env", "sub-path", "cold"] {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        restarted(
            &history,
            &[
                ("Deployment cold", 1),
                ("Deployment env", 1),
                ("Deployment sub-path", 1),
            ],
        )
        .await
    })
    .await
}

#[tokio::test]
async fn changes_in_quick_succession_are_one_rollout_of_the_last() -> Result<()> {
    bed("quick", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let mut token = String::new();
        for value in ["second", "third", "fourth"] {
            token = bed.rotate(&source, value).await?;
        }
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        let arrivals = history.of("Deployment", "web").await?;
        same("tokens", &brought(&arrivals, "db"), &vec![token])?;
        let patched = arrivals[0].patched.context("it was patched by us")?;
        // Times of field managers are whole seconds.
        ensure!(
            patched >= changed_at + COALESCE - jiff::SignedDuration::from_secs(1),
            "patched at {patched}, changed at {changed_at}"
        );
        Ok(())
    })
    .await
}
