//! What changes no content restarts nothing.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyturn::api::ExternalSecret;
use serde_json::json;

use testbed::{wait, workloads::Use};

use crate::{
    harness::{API_SERVER, OFTEN, SELDOM, SOON, annotation, bed, common, entry, property, quarried, same},
    rolling::{Anchor, annotated, restarted, user, web},
};

#[tokio::test]
async fn what_changes_no_content_restarts_nothing() -> Result<()> {
    common().await?;
    bed("nothing", async |bed| {
        let names = ["created", "equal", "stages", "drifted", "edited", "remade", "removed"];
        let mut sources = Vec::new();
        // The workloads are there first: the first creation of each Secret is one of the cases.
        bed.run_workloads(names.map(|name| web(&format!("{name}-web"), name)))
            .await?;
        let history = bed.history().await?;
        for name in names {
            sources.push(bed.restarting(name, json!({})).await?);
        }
        let [_, equal, stages, ..] = sources.as_slice() else {
            unreachable!()
        };

        // Adoption with equal data.
        bed.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "adopted",
            "annotations": {"keyturn.dev/adopt": "adopted"}}, "stringData": {"value": "first"}}))
            .await?;
        bed.run_workloads([web("adopted-web", "adopted")]).await?;
        bed.restarting_with("adopted", json!({"target": {"adoptExisting": true}}))
            .await?;

        // The same value put again.
        bed.aws.put_secret_value(&equal.arn, "first")?;
        // A stage moved forth and back while nobody looks: the interval is too long to see it.
        let spec = |interval: &str| {
            json!({"data": [entry("value", "app/stages")], "refreshInterval": interval,
                "restart": {"mode": "Automatic"}})
        };
        bed.external_secret("stages", spec(SELDOM)).await?;
        bed.synced("stages").await?;
        let before = bed.aws.stages(&stages.arn)?;
        bed.aws.put_secret_value(&stages.arn, "second")?;
        bed.aws
            .move_stage(&stages.arn, "AWSCURRENT", &before["AWSCURRENT"])?;
        bed.external_secret("stages", spec(OFTEN)).await?;

        bed.patch::<Secret>("drifted", json!({"stringData": {"value": "by hand"}}))
            .await?;
        bed.event("drifted", "DriftRepaired").await?;

        bed.external_secret(
            "edited",
            json!({"data": [{"secretKey": "value", "remoteRef": {"key": "app/edited", "version": "AWSCURRENT"}}],
                "metadata": {"labels": {"team": "a"}}, "refreshInterval": "2s",
                "restart": {"mode": "Automatic", "pacing": {"maxConcurrent": 2}}}),
        )
        .await?;
        bed.synced("edited").await?;

        bed.delete::<Secret>("remade").await?;
        bed.holds("remade", &[("value", "first")]).await?;

        bed.delete::<ExternalSecret>("removed").await?;
        bed.gone("removed").await?;
        bed.rounds(3).await?;

        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;
        for name in ["created", "adopted", "equal", "stages", "drifted", "edited", "remade"] {
            same(name, &bed.changed_at(name).await?, &None)?;
            bed.restarts(name, &["NothingPending", "Complete"]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn adoption_with_other_data_restarts() -> Result<()> {
    bed("adopts", async |bed| {
        bed.create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db",
            "annotations": {"keyturn.dev/adopt": "db"}}, "stringData": {"value": "older"}}),
        )
        .await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        bed.restarting_with("db", json!({"target": {"adoptExisting": true}}))
            .await?;
        let token = bed.rollout("db").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_first_write_restarts_older_pods_where_the_spec_says_so() -> Result<()> {
    bed("first-write", async |bed| {
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let source = bed.restarting("db", json!({"onFirstWrite": "Restart"})).await?;
        let first = bed.rollout("db").await?;
        bed.follows(("Deployment", "web"), "db", &first).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        // Deleted and made again around a rotation.
        bed.delete::<ExternalSecret>("db").await?;
        bed.gone("db").await?;
        bed.aws.put_secret_value(&source.arn, "second")?;
        bed.re_restarting("db", json!({"onFirstWrite": "Restart"}))
            .await?;
        bed.holds("db", &[("value", "second")]).await?;
        let second = bed.rollout("db").await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        bed.restarts("db", &["Complete"]).await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 2)]).await
    })
    .await
}

#[tokio::test]
async fn what_changed_before_restarts_were_wanted_restarts_nothing() -> Result<()> {
    bed("since", async |bed| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let source = crate::rolling::Source {
            name: "db".to_owned(),
            arn,
        };
        bed.rotate(&source, "second").await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;
        // Switching restarts on is no reason for one.
        bed.re_restarting("db", json!({})).await?;
        bed.restarts("db", &["NothingPending", "Complete"]).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;
        let token = bed.rotate(&source, "third").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        // Switching them off ends them, and takes nothing back.
        bed.re_restarting("db", json!({"mode": "Disabled"})).await?;
        bed.synced("db").await?;
        bed.rotate(&source, "fourth").await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        // What changed in between is no reason for a restart once they are on again.
        bed.re_restarting("db", json!({})).await?;
        bed.restarts("db", &["NothingPending"]).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn another_start_another_leader_and_a_lost_status_restart_nothing() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("lost-status", &[], async |bed, operator| {
        let source = bed.restarting("db", json!({})).await?;
        let waiting = bed.restarting("waiting", json!({})).await?;
        let paused = crate::rolling::with(web("paused", "waiting"), &["paused"], json!(false));
        bed.run_workloads([web("web", "db"), paused]).await?;
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": true}}))
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        let pending = bed.rotate(&waiting, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        bed.restarts("waiting", &["Pending", "InProgress"]).await?;

        // Started anew with all status gone.
        operator.terminate().await?;
        for name in ["db", "waiting"] {
            let api = bed.all::<ExternalSecret>();
            let nothing = kube::api::Patch::Merge(json!({"status": null}));
            api.patch_status(name, &kube::api::PatchParams::default(), &nothing)
                .await?;
            ensure!(
                bed.get(name)
                    .await?
                    .status
                    .is_none_or(|status| status.conditions.is_none())
            );
        }
        operator.start().await?;
        operator.led(&bed.client, None).await?;
        bed.restarts("db", &["Complete", "NothingPending"]).await?;
        bed.restarts("waiting", &["Pending", "InProgress"]).await?;

        // Killed, while another one stands by.
        let (former, _) = operator.led(&bed.client, None).await?;
        let mut second = operator.another().await?;
        second.wait_ready().await?;
        operator.kill()?;
        operator.expire_lease(&bed.client).await?;
        operator.led(&bed.client, Some(&former)).await?;
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": false}}))
            .await?;
        // What was pending still happens; what was done is not done again.
        bed.follows(("Deployment", "paused"), "waiting", &pending).await?;
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1), ("Deployment paused", 1)]).await?;
        let status = second.terminate().await?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    })
    .await
}

/// An urgent restart makes its pods so early that only their token tells that they hold the new content.
#[tokio::test]
async fn pods_of_our_own_restart_hold_the_change_whatever_keys_count_later() -> Result<()> {
    bed("rescoped", async |bed| {
        let arn = bed.secret("app/db", r#"{"user": "u1", "password": "p1"}"#)?;
        let data = json!([
            property("user", "app/db", "user"),
            property("password", "app/db", "password")
        ]);
        let spec = |keys: &[&str]| {
            json!({"data": data, "rotation": {"strategy": "SingleUser"},
                "restart": {"mode": "Automatic", "trigger": {"keys": keys}}})
        };
        bed.external_secret("db", spec(&["password"])).await?;
        bed.synced("db").await?;
        // They use all keys.
        let whole = |name| user("Deployment", name, "db", Use::EnvFrom);
        bed.run_workloads([whole("web"), whole("paused")]).await?;
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": true}}))
            .await?;
        let mut anchor = Anchor::drop(bed).await?;
        let history = bed.history().await?;
        bed.aws
            .put_secret_value(&arn, r#"{"user": "u1", "password": "p2"}"#)?;
        bed.holds("db", &[("user", "u1"), ("password", "p2")]).await?;
        let token = bed.rollout("db").await?;
        let changed_at = bed.changed_at("db").await?;
        bed.follows(("Deployment", "web"), "db", &token).await?;

        for keys in [&["password", "user"][..], &["user"], &[]] {
            bed.external_secret("db", spec(keys)).await?;
            bed.synced("db").await?;
            anchor.holds().await?;
            restarted(&history, &[("Deployment web", 1)]).await?;
            same("the rollout", &bed.rollout("db").await?, &token)?;
            same("its time", &bed.changed_at("db").await?, &changed_at)?;
            let noted = bed.written("db").await?;
            ensure!(annotation(&noted, "keyturn.dev/rescoped").is_some());
        }
        // What was not restarted for the change is still due.
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": false}}))
            .await?;
        bed.follows(("Deployment", "paused"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 1), ("Deployment paused", 1)]).await?;
        // The next change is one, by the keys that count now.
        bed.aws
            .put_secret_value(&arn, r#"{"user": "u2", "password": "p2"}"#)?;
        bed.holds("db", &[("user", "u2"), ("password", "p2")]).await?;
        let next = bed.rollout("db").await?;
        for name in ["web", "paused"] {
            bed.follows(("Deployment", name), "db", &next).await?;
        }
        restarted(&history, &[("Deployment web", 2), ("Deployment paused", 2)]).await?;
        same(
            "what is noted",
            &annotation(&bed.written("db").await?, "keyturn.dev/rescoped"),
            &None,
        )
    })
    .await
}

#[tokio::test]
async fn a_change_is_pending_before_it_is_complete_though_nothing_is_restarted_for_it() -> Result<()> {
    bed("pending", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let hot = |name| {
            let mounted = user("Deployment", name, "db", Use::Volume);
            annotated(mounted, &[("keyturn.dev/hot-reload", "true")])
        };
        bed.run_workloads([hot("one"), hot("two")]).await?;
        let history = bed.history().await?;
        bed.rotate(&source, "second").await?;
        let before = bed.restarts("db", &["Complete"]).await?;
        let token = bed.rotate(&source, "third").await?;
        let first = wait::until("the change to be reported", SOON, async || {
            let status = bed.get("db").await?.status.unwrap_or_default();
            let restart = status.restart.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let complete = conditions
                .into_iter()
                .find(|found| found.type_ == "RestartsComplete");
            Ok(complete.filter(|_| restart.rollout.as_deref() == Some(&*token)))
        })
        .await?;
        same("what is reported first", &first.reason.as_str(), &"Pending")?;
        let named = format!("(rollout {})", &token[..12]);
        ensure!(first.message.ends_with(&named), "{}", first.message);
        let after = bed.restarts("db", &["Complete"]).await?;
        ensure!(after.message.ends_with(&named), "{}", after.message);
        // It was false in between: that is what the time of the condition tells.
        ensure!(
            after.last_transition_time.0 > before.last_transition_time.0,
            "it stayed complete, since {}",
            before.last_transition_time.0
        );
        restarted(&history, &[]).await
    })
    .await
}
