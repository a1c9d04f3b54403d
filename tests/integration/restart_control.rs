//! People decide what is restarted and when; any no wins.

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use testbed::{requests, wait, workloads::Use};

use crate::{
    harness::{API_SERVER, Bed, assert_actionable, bed, common, from_now, quarried, same},
    operator::Operator,
    rolling::{Anchor, COALESCE, LATER, annotated, patches, restarted, user, web, with},
};

const RESTART: &str = "keyturn.dev/restart";
const SUSPEND: &str = "keyturn.dev/suspend-restarts-until";

#[tokio::test]
async fn manual_restarts_wait_for_the_approval_of_each_content() -> Result<()> {
    bed("manual", async |bed| {
        let source = bed.restarting("db", json!({"mode": "Manual"})).await?;
        bed.run_workloads([web("web", "db")]).await?;
        let history = bed.history().await?;
        let mut anchor = Anchor::drop(bed).await?;
        let second = bed.rotate(&source, "second").await?;
        bed.restarts("db", &["AwaitingApproval"]).await?;
        // An approval of something else is none.
        bed.annotate("db", "keyturn.dev/approve", Some("another")).await?;
        anchor.holds().await?;
        restarted(&history, &[]).await?;
        bed.annotate("db", "keyturn.dev/approve", Some(&second)).await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        bed.restarts("db", &["Complete"]).await?;
        // It was for that content.
        let third = bed.rotate(&source, "third").await?;
        bed.restarts("db", &["AwaitingApproval"]).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        bed.annotate("db", "keyturn.dev/approve", Some(&third)).await?;
        bed.follows(("Deployment", "web"), "db", &third).await?;
        let log = common().await?.operator.log()?;
        let approvals: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(r#""action":"approval""#) && line.contains(&bed.namespace))
            .collect();
        for approved in [&second, &third] {
            let lines = approvals.iter().filter(|line| line.contains(&**approved));
            ensure!(lines.count() == 1, "{approved} was approved once: {approvals:?}");
        }
        ensure!(approvals.len() == 2, "nothing else was: {approvals:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_opts_out_is_left_alone_until_he_opts_in() -> Result<()> {
    bed("out", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let says = |name: &str, word: &str| annotated(web(name, "db"), &[(RESTART, word)]);
        bed.run_workloads([web("web", "db"), says("out", "false"), says("typo", "no")])
            .await?;
        let history = bed.history().await?;
        let second = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        // What cannot be read is a no, and is said.
        let said = bed
            .exception("db", ("Deployment", "typo"), &["Unreadable"])
            .await?;
        assert_actionable(&said.message.unwrap_or_default(), &[RESTART]);
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment web", 1)]).await?;
        bed.annotate_workload(("Deployment", "out"), RESTART, None)
            .await?;
        bed.follows(("Deployment", "out"), "db", &second).await?;

        // A Namespace speaks for all who say nothing themselves.
        bed.annotate_namespace(RESTART, Some("false")).await?;
        bed.annotate_workload(("Deployment", "typo"), RESTART, Some("true"))
            .await?;
        let third = bed.rotate(&source, "third").await?;
        bed.follows(("Deployment", "typo"), "db", &third).await?;
        bed.restarts("db", &["Complete"]).await?;
        let typo = history.of("Deployment", "typo").await?.len();
        ensure!((1..=2).contains(&typo), "{typo} templates");
        restarted(
            &history,
            &[
                ("Deployment web", 1),
                ("Deployment out", 1),
                ("Deployment typo", typo),
            ],
        )
        .await
    })
    .await
}

#[tokio::test]
async fn opt_in_restarts_those_that_say_so_or_whose_namespace_does() -> Result<()> {
    bed("opt-in", async |bed| {
        let source = bed.restarting("db", json!({"discovery": "OptIn"})).await?;
        let says = |name: &str, word: &str| annotated(web(name, "db"), &[(RESTART, word)]);
        bed.run_workloads([web("web", "db"), says("in", "true"), says("out", "false")])
            .await?;
        let history = bed.history().await?;
        let second = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "in"), "db", &second).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment in", 1)]).await?;
        bed.annotate_namespace(RESTART, Some("true")).await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment in", 1), ("Deployment web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_misspelt_target_is_named_until_it_exists() -> Result<()> {
    bed("misspelt", async |bed| {
        let targets = json!([{"kind": "Deployment", "name": "wbe"}]);
        bed.restarting("db", json!({"discovery": "Explicit", "targets": targets}))
            .await?;
        bed.run_workloads([web("web", "db")]).await?;
        bed.restarts("db", &["TargetNotFound"]).await?;
        bed.event("db", "TargetNotFound").await?;
        let said = bed
            .exception("db", ("Deployment", "wbe"), &["TargetNotFound"])
            .await?;
        assert_actionable(&said.message.unwrap_or_default(), &["wbe", "targets[0]"]);
        bed.run_workloads([web("web", "db"), web("wbe", "db")]).await?;
        bed.restarts("db", &["NothingPending"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn explicit_restarts_what_is_listed() -> Result<()> {
    bed("explicit", async |bed| {
        let targets = json!([
            {"kind": "Deployment", "name": "named"},
            {"kind": "StatefulSet", "selector": {"matchLabels": {"tier": "data"}}},
            // These do not use the Secret: one of them wants it nevertheless.
            {"kind": "Deployment", "name": "unrelated"},
            {"kind": "Deployment", "name": "sidekick"},
        ]);
        let source = bed
            .restarting("db", json!({"discovery": "Explicit", "targets": targets}))
            .await?;
        let mut labelled = user("StatefulSet", "labelled", "db", Use::Env);
        labelled["metadata"]["labels"]["tier"] = json!("data");
        bed.run_workloads([
            web("named", "db"),
            web("unlisted", "db"),
            labelled,
            user("StatefulSet", "unlabelled", "db", Use::Env),
            web("unrelated", "another"),
            annotated(web("sidekick", "another"), &[(RESTART, "true")]),
        ])
        .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        for workload in [
            ("Deployment", "named"),
            ("StatefulSet", "labelled"),
            ("Deployment", "sidekick"),
        ] {
            bed.follows(workload, "db", &token).await?;
        }
        bed.restarts("db", &["Complete"]).await?;
        restarted(
            &history,
            &[
                ("Deployment named", 1),
                ("Deployment sidekick", 1),
                ("StatefulSet labelled", 1),
            ],
        )
        .await
    })
    .await
}

#[tokio::test]
async fn suspended_workloads_wait_and_follow() -> Result<()> {
    bed("suspended", async |bed| {
        let held = bed.restarting("held", json!({})).await?;
        let free = bed.restarting("free", json!({})).await?;
        bed.annotate("held", SUSPEND, Some(&from_now(3600))).await?;
        bed.run_workloads([
            web("of-held", "held"),
            web("of-free", "free"),
            annotated(web("asleep", "free"), &[(SUSPEND, &from_now(3600))]),
            annotated(web("typo", "free"), &[(SUSPEND, "tomorrow")]),
        ])
        .await?;
        let history = bed.history().await?;
        let held_token = bed.rotate(&held, "second").await?;
        let token = bed.rotate(&free, "second").await?;
        bed.follows(("Deployment", "of-free"), "free", &token).await?;
        for name in ["asleep", "typo"] {
            bed.exception("free", ("Deployment", name), &["Suspended"])
                .await?;
        }
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment of-free", 1)]).await?;

        // The Namespace's word holds for all, the anchor too.
        bed.annotate_namespace(SUSPEND, Some(&from_now(3600))).await?;
        for name in ["asleep", "typo"] {
            bed.annotate_workload(("Deployment", name), SUSPEND, None).await?;
        }
        bed.annotate("held", SUSPEND, None).await?;
        bed.exception("free", ("Deployment", "asleep"), &["Suspended"])
            .await?;
        let now = Timestamp::now();
        bed.past(now + COALESCE).await?;
        restarted(&history, &[("Deployment of-free", 1)]).await?;
        // What ends by itself needs no one.
        bed.annotate_namespace(SUSPEND, Some(&from_now(3))).await?;
        for name in ["asleep", "typo"] {
            bed.follows(("Deployment", name), "free", &token).await?;
        }
        bed.follows(("Deployment", "of-held"), "held", &held_token)
            .await?;
        restarted(
            &history,
            &[
                ("Deployment asleep", 1),
                ("Deployment of-free", 1),
                ("Deployment of-held", 1),
                ("Deployment typo", 1),
            ],
        )
        .await
    })
    .await
}

#[tokio::test]
async fn a_paused_deployment_resumes_in_one_rollout() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("paused", &[], async |bed, operator| {
        let source = bed
            .restarting("db", json!({"pacing": {"maxConcurrent": 2}}))
            .await?;
        bed.run_workloads([web("web", "db"), web("paused", "db")]).await?;
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": true}}))
            .await?;
        let history = bed.history().await?;
        let second = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &second).await?;
        bed.exception("db", ("Deployment", "paused"), &["Paused"]).await?;
        let third = bed.rotate(&source, "third").await?;
        bed.follows(("Deployment", "web"), "db", &third).await?;
        operator.kill()?;
        operator.expire_lease(&bed.client).await?;
        operator.start().await?;
        bed.exception("db", ("Deployment", "paused"), &["Paused"]).await?;
        restarted(&history, &[("Deployment web", 2)]).await?;
        bed.patch_workload("Deployment", "paused", json!({"spec": {"paused": false}}))
            .await?;
        bed.follows(("Deployment", "paused"), "db", &third).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment web", 2), ("Deployment paused", 1)]).await
    })
    .await
}

/// Workloads as stakater Reloader's users have them.
async fn reloaders_users(bed: &Bed) -> Result<()> {
    let says = |name: &str, key: &str, value: &str| annotated(web(name, "db"), &[(key, value)]);
    bed.run_workloads([
        web("plain", "db"),
        says("auto", "reloader.stakater.com/auto", "true"),
        says("secrets-auto", "secret.reloader.stakater.com/auto", "true"),
        says("named", "secret.reloader.stakater.com/reload", "other, d."),
        says("other", "secret.reloader.stakater.com/reload", "other"),
    ])
    .await
}

/// What a rotation restarts beside them, with what `restart` says.
async fn beside_reloader(name: &str, restart: serde_json::Value, expected: &[&str]) -> Result<()> {
    bed(name, async |bed| {
        let source = bed.restarting("db", restart).await?;
        reloaders_users(bed).await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        for name in expected {
            bed.follows(("Deployment", name), "db", &token).await?;
        }
        let mut anchor = Anchor::drop(bed).await?;
        anchor.holds().await?;
        let names: Vec<_> = expected.iter().map(|name| format!("Deployment {name}")).collect();
        restarted(
            &history,
            &names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>(),
        )
        .await?;
        let left = bed
            .restart_status("db")
            .await?
            .exceptions
            .into_iter()
            .flatten()
            .filter(|exception| exception.reason == "LeftToReloader")
            .count();
        let reloaders = if expected.contains(&"auto") { 0 } else { 3 };
        same("left to Reloader", &left, &reloaders)
    })
    .await
}

#[tokio::test]
async fn reloaders_workloads_are_left_to_it() -> Result<()> {
    beside_reloader("defer", json!({}), &["plain", "other"]).await
}

#[tokio::test]
async fn reloaders_annotations_are_honoured_in_its_place() -> Result<()> {
    let restart = json!({"reloader": "Honour", "discovery": "OptIn"});
    beside_reloader("honour", restart, &["auto", "secrets-auto", "named"]).await
}

#[tokio::test]
async fn reloaders_annotations_may_be_ignored() -> Result<()> {
    let all = ["plain", "auto", "secrets-auto", "named", "other"];
    beside_reloader(
        "ignore",
        json!({"reloader": "Ignore", "pacing": {"maxConcurrent": 3}}),
        &all,
    )
    .await
}

/// Writes `keyturn-control`, or removes it.
async fn control(bed: &Bed, operator: &Operator, data: Option<serde_json::Value>) -> Result<Timestamp> {
    let api = Api::<ConfigMap>::namespaced(bed.client.clone(), operator.namespace());
    match data {
        Some(data) => {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keyturn-control"}, "data": data});
            let parameters = PatchParams::apply("tests").force();
            api.patch("keyturn-control", &parameters, &Patch::Apply(map))
                .await?;
        }
        None => {
            api.delete("keyturn-control", &DeleteParams::default()).await?;
        }
    }
    Ok(Timestamp::now())
}

#[tokio::test]
async fn the_control_config_map_stops_restarts_within_a_second() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("control", &[], async |bed, operator| {
        let source = bed.restarting("db", json!({})).await?;
        let names: Vec<_> = (0..6).map(|n| format!("web-{n}")).collect();
        // Each takes some seconds.
        let slow = |name: &String| with(web(name, "db"), &["minReadySeconds"], json!(3));
        bed.run_workloads(names.iter().map(slow)).await?;
        let history = bed.history().await?;
        for (round, namespaces) in [("whole", None), ("named", Some(bed.namespace.clone()))] {
            let mark = requests::mark(bed.cluster)?;
            let before = history.arrivals().await?.len();
            let token = bed.rotate(&source, round).await?;
            wait::until("the first of them", LATER, async || {
                Ok((history.arrivals().await?.len() > before).then_some(()))
            })
            .await?;
            let mut data = json!({"suspendRestarts": "true"});
            if let Some(namespaces) = namespaces {
                data["namespaces"] = json!(format!("elsewhere, {namespaces}"));
            }
            let frozen = control(bed, operator, Some(data)).await?;
            // Long enough for the next one, if nobody held it up.
            bed.past(frozen + SignedDuration::from_secs(12)).await?;
            let late: Vec<_> = patches(&bed.asked(operator, mark)?)
                .into_iter()
                .filter(|time| *time > frozen + SignedDuration::from_secs(1))
                .collect();
            ensure!(
                late.is_empty(),
                "{round}: patched at {late:?}, frozen at {frozen}"
            );
            ensure!(history.arrivals().await?.len() < before + names.len());
            control(bed, operator, None).await?;
            for name in &names {
                bed.follows(("Deployment", name), "db", &token).await?;
            }
            bed.restarts("db", &["Complete"]).await?;
        }
        // Another namespace's word is nothing to this one; nor is one that has ended.
        for data in [
            json!({"suspendRestarts": "true", "namespaces": "elsewhere"}),
            json!({"suspendRestarts": "true", "until": from_now(-1)}),
        ] {
            control(bed, operator, Some(data)).await?;
            let token = bed
                .rotate(&source, &format!("after {}", Timestamp::now()))
                .await?;
            bed.follows(("Deployment", "web-0"), "db", &token).await?;
            bed.restarts("db", &["Complete"]).await?;
        }
        let all = 4 * names.len();
        same("templates", &history.arrivals().await?.len(), &all)?;
        Ok(())
    })
    .await
}
