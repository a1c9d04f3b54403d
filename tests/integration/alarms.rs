//! What people hear without looking: an alert at a web hook, and what `keyturn status` answers them.

use std::{
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use testbed::wait;
use tokio::net::TcpListener;

use crate::{
    harness::{Bed, SOON, quarried, same},
    operator::Operator,
    rolling::{doomed, web},
};

/// What a web hook was sent.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Value>>>);

impl Received {
    fn reasons(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter_map(|alert| alert["reason"].as_str().map(ToOwned::to_owned))
            .collect()
    }

    fn first(&self) -> Option<Value> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first()
            .cloned()
    }
}

async fn receive(State(received): State<Received>, request: Request) {
    let body = to_bytes(request.into_body(), 4096).await.unwrap_or_default();
    let alert = serde_json::from_slice(&body).unwrap_or(Value::Null);
    received
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(alert);
}

/// What the command prints, and its exit code.
async fn status(bed: &Bed, operator: &Operator, more: &[&str]) -> Result<(String, Option<i32>)> {
    let leases = Api::<Lease>::namespaced(bed.client.clone(), operator.namespace());
    let leases = leases.list(&ListParams::default()).await?;
    let lease = leases
        .iter()
        .next()
        .context("the operator has a Lease")?
        .name_any();
    let output = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .arg("status")
        .arg("--kubeconfig")
        .arg(bed.cluster.kubeconfig())
        .args([
            "--operator-namespace",
            operator.namespace(),
            "--lease-name",
            &lease,
        ])
        .args(["--namespace", &bed.namespace])
        .args(more)
        .output()
        .context("run keyturn status")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((text, output.status.code()))
}

#[tokio::test]
async fn a_failed_restart_calls_somebody_who_is_told_what_to_do() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let received = Received::default();
    let router = Router::new().fallback(receive).with_state(received.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let hook = format!("--alert-url=http://{address}/hook?token=canary-in-the-url");
    quarried(
        "alarms",
        &[&hook, "--cluster-name=testbed"],
        async |bed, operator| {
            let source = bed.restarting("db", json!({})).await?;
            bed.run_workloads([
                doomed(web("a-broken", "db"), "crash-loop-with", "db"),
                web("b-web", "db"),
            ])
            .await?;
            let (text, code) = status(bed, operator, &[]).await?;
            ensure!(code == Some(0) && !text.contains("Halted"), "{text}");

            let token = bed.rotate(&source, "canary-value").await?;
            bed.restarts("db", &["Halted"]).await?;
            wait::until("two alerts", SOON, async || {
                Ok((received.reasons().len() >= 2).then_some(()))
            })
            .await?;
            same(
                "alerts",
                &received.reasons(),
                &["RestartFailed", "RestartHalted"].map(ToOwned::to_owned).to_vec(),
            )?;
            let alert = received.first().context("an alert")?;
            for (field, expected) in [
                ("kind", "ExternalSecret"),
                ("namespace", bed.namespace.as_str()),
                ("name", "db"),
                ("cluster", "testbed"),
            ] {
                same(field, &alert[field].as_str(), &Some(expected))?;
            }
            let message = alert["message"].as_str().unwrap_or_default();
            ensure!(message.contains("Deployment a-broken"), "{message}");

            let (text, code) = status(bed, operator, &[]).await?;
            ensure!(code == Some(1), "{text}");
            let metrics = operator.metrics().await?;
            same("stale pods", &metrics.sum("keyturn_restart_stale_pods"), &1.0)?;
            let halted = metrics.sum_where("keyturn_restart_workloads", &[("state", "halted")]);
            same("halted workloads", &halted, &1.0)?;
            for part in ["Halted", "a-broken", &format!("keyturn.dev/resume={token}")] {
                ensure!(text.contains(part), "{part} is missing in {text}");
            }
            let (text, _) = status(bed, operator, &["--output=json"]).await?;
            serde_json::from_str::<Value>(&text).context("JSON")?;

            // One that is gone is silent, and that is said first.
            operator.terminate().await?;
            let (text, _) = status(bed, operator, &[]).await?;
            let first = text.lines().next().unwrap_or_default();
            ensure!(!first.is_empty() && text.contains("a-broken"), "{text}");
            println!("{text}");
            for text in [operator.log()?, alert.to_string(), text] {
                ensure!(
                    !text.contains("canary"),
                    "a value or the token of the URL is told: {text}"
                );
            }
            Ok(())
        },
    )
    .await?;
    serving.abort();
    Ok(())
}
