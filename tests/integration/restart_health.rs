//! A restart that harms one workload is the last one, until somebody knows better.

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use testbed::{
    wait,
    workloads::{Use, workload},
};

use crate::{
    harness::{SOON, assert_actionable, bed, same},
    rolling::{Anchor, LATER, SKEW, annotated, brought, doomed, restarted, user, web, with},
};

const CRASHES: &str = "crash-loop-with";
const HANGS: &str = "never-ready-with";

#[tokio::test]
async fn an_unhealthy_rollout_halts_the_rest() -> Result<()> {
    bed("halts", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        bed.run_workloads([doomed(web("a-broken", "db"), CRASHES, "db"), web("b-web", "db")])
            .await?;
        let history = bed.history().await?;
        let mut anchor = Anchor::drop(bed).await?;
        let second = bed.rotate(&source, "second").await?;
        let said = bed.restarts("db", &["Halted"]).await?;
        assert_actionable(&said.message, &["a-broken"]);
        let status = bed.restart_status("db").await?;
        same(
            "halted, failed",
            &(status.halted, status.failed),
            &(Some(true), Some(1)),
        )?;
        for reason in ["RestartHalted", "RestartFailed"] {
            bed.event("db", reason).await?;
        }
        bed.workload_event(("Deployment", "a-broken"), "RestartFailed")
            .await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment a-broken", 1)]).await?;

        // New content is tried; that it fails as well halts again.
        let third = bed.rotate(&source, "third").await?;
        wait::until("another try", LATER, async || {
            let tokens = brought(&history.of("Deployment", "a-broken").await?, "db");
            Ok((tokens == [second.clone(), third.clone()]).then_some(()))
        })
        .await?;
        bed.restarts("db", &["Halted"]).await?;
        // A resumption of what is over is none.
        bed.annotate("db", "keyturn.dev/resume", Some(&second)).await?;
        anchor.holds().await?;
        restarted(&history, &[("Deployment a-broken", 2)]).await?;
        bed.annotate("db", "keyturn.dev/resume", Some(&third)).await?;
        bed.follows(("Deployment", "b-web"), "db", &third).await?;
        restarted(&history, &[("Deployment a-broken", 2), ("Deployment b-web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_halt_ends_when_the_workload_recovers() -> Result<()> {
    bed("recovers", async |bed| {
        let source = bed
            .restarting("db", json!({"health": {"timeout": "15s"}}))
            .await?;
        // It runs and never becomes ready, which only time can tell.
        bed.run_workloads([doomed(web("a-broken", "db"), HANGS, "db"), web("b-web", "db")])
            .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        bed.restarts("db", &["Halted"]).await?;
        restarted(&history, &[("Deployment a-broken", 1)]).await?;
        // Somebody mends it by a template of his own.
        let path = format!("testbed.keyturn.dev/{HANGS}");
        let mended = json!({"spec": {"template": {"metadata": {"annotations": {path: null}}}}});
        bed.patch_workload("Deployment", "a-broken", mended).await?;
        bed.complete("Deployment", "a-broken").await?;
        bed.follows(("Deployment", "b-web"), "db", &token).await?;
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment a-broken", 1), ("Deployment b-web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_failure_is_passed_over_where_the_spec_says_so() -> Result<()> {
    bed("continues", async |bed| {
        let restart = json!({"health": {"onFailure": "Continue"}});
        let source = bed.restarting("db", restart).await?;
        bed.run_workloads([doomed(web("a-broken", "db"), CRASHES, "db"), web("b-web", "db")])
            .await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "b-web"), "db", &token).await?;
        let status = bed.restart_status("db").await?;
        ensure!(status.halted != Some(true), "it halted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn urgent_work_halts_at_the_second_failure() -> Result<()> {
    bed("urgent-halt", async |bed| {
        let restart = json!({"mode": "Automatic", "pacing": {"urgentMaxConcurrent": 1}});
        let source = bed
            .restarting_with(
                "db",
                json!({"restart": restart, "rotation": {"strategy": "SingleUser"}}),
            )
            .await?;
        bed.run_workloads([
            doomed(web("a-broken", "db"), CRASHES, "db"),
            doomed(web("b-broken", "db"), CRASHES, "db"),
            web("c-web", "db"),
        ])
        .await?;
        let history = bed.history().await?;
        let mut anchor = Anchor::drop(bed).await?;
        bed.rotate(&source, "second").await?;
        bed.restarts("db", &["Halted"]).await?;
        anchor.holds().await?;
        restarted(
            &history,
            &[("Deployment a-broken", 1), ("Deployment b-broken", 1)],
        )
        .await
    })
    .await
}

#[tokio::test]
async fn a_workload_that_was_unhealthy_before_halts_nothing() -> Result<()> {
    bed("sick", async |bed| {
        let source = bed
            .restarting("db", json!({"health": {"timeout": "10s"}}))
            .await?;
        // Names its own annotation: no pod of it is ever ready.
        let key = format!("testbed.keyturn.dev/{HANGS}");
        let sick = with(
            web("a-sick", "db"),
            &["template", "metadata", "annotations", &key],
            json!(key),
        );
        bed.apply(sick).await?;
        bed.run_workloads([web("b-web", "db")]).await?;
        wait::until("the pod of a-sick", SOON, async || {
            Ok((bed.pods("a-sick").await?.len() == 1).then_some(()))
        })
        .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "b-web"), "db", &token).await?;
        ensure!(bed.restart_status("db").await?.halted != Some(true));
        restarted(&history, &[("Deployment a-sick", 1), ("Deployment b-web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn pods_that_somebody_must_delete_are_waited_for() -> Result<()> {
    bed("on-delete", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let on_delete = |object| with(object, &["updateStrategy"], json!({"type": "OnDelete"}));
        let partition = workload("StatefulSet", "c-parts", &[("db", Use::Env)])?;
        let partition = with(
            partition,
            &["updateStrategy", "rollingUpdate", "partition"],
            json!(1),
        );
        bed.run_workloads([
            on_delete(user("StatefulSet", "a-set", "db", Use::Env)),
            on_delete(user("DaemonSet", "b-daemon", "db", Use::Env)),
            partition,
            web("d-web", "db"),
        ])
        .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        let waiting = [
            ("StatefulSet", "a-set"),
            ("DaemonSet", "b-daemon"),
            ("StatefulSet", "c-parts"),
        ];
        bed.follows(("Deployment", "d-web"), "db", &token).await?;
        for workload in waiting {
            bed.exception("db", workload, &["AwaitingPodDeletion"]).await?;
        }
        ensure!(bed.restart_status("db").await?.halted != Some(true));
        let changed_at = bed.changed_at("db").await?.context("it changed")?;
        bed.past(changed_at + SKEW + SignedDuration::from_secs(2)).await?;
        for (_, name) in waiting {
            for pod in bed.pods(name).await? {
                bed.all::<Pod>()
                    .delete(&pod.name_any(), &DeleteParams::default())
                    .await?;
            }
        }
        bed.restarts("db", &["Complete"]).await?;
        restarted(&history, &[("Deployment d-web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_workload_that_may_not_be_patched_holds_up_no_other() -> Result<()> {
    bed("denied", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        // So much that an annotation more is too much: the API server's own validation.
        let full = web("b-full", "db");
        let path = ["template", "metadata", "annotations", "example.com/large"];
        let full = with(full, &path, json!("x".repeat(256 * 1024 - 40)));
        bed.run_workloads([web("a-denied", "db"), full, web("c-web", "db")]).await?;
        let name = format!("tests-{}", bed.namespace);
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name}, "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                    "operations": ["UPDATE"], "resources": ["deployments"], "resourceNames": ["a-denied"]}]},
                "validations": [{"reason": "Forbidden", "message": "changes need a ticket",
                    "expression": "object.metadata.generation == oldObject.metadata.generation"}]}});
        let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": bed.namespace}}}}});
        bed.apply(policy).await?;
        bed.apply(binding).await?;
        let parameters = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        wait::until("the policy to be in force", SOON, async || {
            let change = Patch::Merge(json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}));
            let tried = bed.workloads("Deployment").patch("a-denied", &parameters, &change).await;
            Ok(tried.is_err().then_some(()))
        })
        .await?;
        let history = bed.history().await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "c-web"), "db", &token).await?;
        for name in ["a-denied", "b-full"] {
            let said = bed
                .exception("db", ("Deployment", name), &["Refused"])
                .await?;
            assert_actionable(&said.message.unwrap_or_default(), &[]);
        }
        restarted(&history, &[("Deployment c-web", 1)]).await?;
        ensure!(bed.restart_status("db").await?.halted != Some(true));
        // Allowed again, it follows.
        let api = kube::Api::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>::all(
            bed.client.clone(),
        );
        api.delete(&name, &DeleteParams::default()).await?;
        let policies = kube::Api::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy>::all(
            bed.client.clone(),
        );
        policies.delete(&name, &DeleteParams::default()).await?;
        bed.follows(("Deployment", "a-denied"), "db", &token).await?;
        restarted(&history, &[("Deployment a-denied", 1), ("Deployment c-web", 1)]).await
    })
    .await
}

#[tokio::test]
async fn a_strategy_that_fits_no_workload_is_the_usual_one() -> Result<()> {
    bed("unfit", async |bed| {
        let source = bed.restarting("db", json!({})).await?;
        let strategy = [("keyturn.dev/restart-strategy", "RestartAt")];
        bed.run_workloads([annotated(web("web", "db"), &strategy)])
            .await?;
        let token = bed.rotate(&source, "second").await?;
        bed.follows(("Deployment", "web"), "db", &token).await
    })
    .await
}
