//! What tests of restarts rest on: a record of every template, and requests that are stopped at a point.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;
use testbed::controlplane::ControlPlane;
use testbed::history::History;
use testbed::proxy::{ApiProxy, Point, Write};
use testbed::wait;
use testbed::workloads::{Use, is_complete, resource, workload};

use super::SOON;

async fn make(client: &Client, namespace: &str, kind: &str, name: &str) -> Result<Api<DynamicObject>> {
    let api = Api::namespaced_with(client.clone(), namespace, &resource(kind));
    let object = serde_json::from_value(workload(kind, name, &[("db", Use::Env)])?)?;
    api.create(&PostParams::default(), &object).await?;
    complete(&api, kind, name).await?;
    Ok(api)
}

async fn complete(api: &Api<DynamicObject>, kind: &str, name: &str) -> Result<()> {
    wait::until(&format!("{kind} {name} to be complete"), SOON, async || {
        Ok(is_complete(kind, &api.get(name).await?).then_some(()))
    })
    .await
}

fn token(token: &str) -> Patch<serde_json::Value> {
    let annotations = json!({"restart.keyturn.dev/0123": token, "example.com/other": token});
    Patch::Merge(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
}

#[tokio::test]
async fn every_template_that_brings_a_token_is_recorded() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.namespace("history").await?;
    let parameters = PatchParams {
        field_manager: Some("keyturn-restart".to_owned()),
        ..PatchParams::default()
    };
    let mut kinds = Vec::new();
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let name = kind.to_lowercase();
        let api = make(&client, &namespace, kind, &name).await?;
        kinds.push((kind, name, api));
    }
    let history = History::begin(&client, &[&namespace]).await?;
    for (kind, name, api) in &kinds {
        api.patch(name, &parameters, &token("a")).await?;
        complete(api, kind, name).await?;
    }
    ensure!(history.most_in_flight(|_| true).await? == 1);
    for (_, name, api) in &kinds {
        api.patch(name, &parameters, &token("b")).await?;
    }
    for (kind, name, api) in &kinds {
        complete(api, kind, name).await?;
        // The same once more is nothing.
        api.patch(name, &parameters, &token("b")).await?;
    }
    for (kind, name, _) in &kinds {
        let tokens: Vec<_> = history
            .of(kind, name)
            .await?
            .into_iter()
            .map(|arrival| (arrival.tokens["0123"].clone(), arrival.patched.is_some()))
            .collect();
        ensure!(
            tokens == [("a".to_owned(), true), ("b".to_owned(), true)],
            "{kind}: {tokens:?}"
        );
    }
    ensure!(history.most_in_flight(|_| true).await? >= 2);
    Ok(())
}

#[tokio::test]
async fn requests_are_stopped_before_they_are_sent_or_answered() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.namespace("proxy").await?;
    let account = format!("--serviceaccount={namespace}:default");
    cluster
        .kubectl([
            "-n",
            &namespace,
            "create",
            "rolebinding",
            "edit",
            "--clusterrole=edit",
            &account,
        ])
        .await?;
    let proxy = ApiProxy::start(cluster).await?;
    let kubeconfig = cluster
        .kubeconfig_through(&namespace, "default", proxy.url())
        .await?;
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    let through = Api::<Secret>::namespaced(Client::try_from(config)?, &namespace);
    let direct = Api::<Secret>::namespaced(client, &namespace);
    let secret =
        |name: &str| -> Result<Secret> { Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?) };
    wait::until("the role to count", SOON, async || {
        through.create(&PostParams::default(), &secret("first")?).await?;
        Ok(Some(()))
    })
    .await?;
    for (point, done) in [(Point::Before, false), (Point::After, true), (Point::Lost, true)] {
        let name = format!("{point:?}").to_lowercase();
        let armed = proxy.arm(Write::Secret, point, 1);
        through
            .create(&PostParams::default(), &secret(&format!("{name}-passes"))?)
            .await?;
        let (api, object) = (through.clone(), secret(&name)?);
        let sent = tokio::spawn(async move { api.create(&PostParams::default(), &object).await });
        let path = armed.sprung(SOON).await.context("it came by")?;
        ensure!(path.ends_with("/secrets"), "{path}");
        let answered = tokio::time::timeout(Duration::from_secs(1), sent).await;
        match point {
            Point::Lost => ensure!(matches!(answered, Ok(Ok(Err(_)))), "{answered:?}"),
            Point::Before | Point::After => ensure!(answered.is_err(), "{answered:?}"),
        }
        let is_there = direct.get_opt(&name).await?.is_some();
        ensure!(is_there == done, "{point:?}");
    }
    // Nobody waits for it any more: it lets all pass.
    ensure!(
        proxy
            .arm(Write::Secret, Point::Before, 0)
            .sprung(Duration::from_millis(10))
            .await
            .is_none()
    );
    through.create(&PostParams::default(), &secret("last")?).await?;
    Ok(())
}

#[tokio::test]
async fn requests_are_slow_and_watches_fall_silent() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.namespace("slow-proxy").await?;
    let account = format!("--serviceaccount={namespace}:default");
    cluster
        .kubectl([
            "-n",
            &namespace,
            "create",
            "rolebinding",
            "edit",
            "--clusterrole=edit",
            &account,
        ])
        .await?;
    let proxy = ApiProxy::start(cluster).await?;
    let kubeconfig = cluster
        .kubeconfig_through(&namespace, "default", proxy.url())
        .await?;
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    let through = Client::try_from(config)?;
    let secrets = Api::<Secret>::namespaced(through.clone(), &namespace);
    let direct = Api::<Secret>::namespaced(client, &namespace);
    let secret =
        |name: &str| -> Result<Secret> { Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?) };
    wait::until("the role to count", SOON, async || {
        secrets.create(&PostParams::default(), &secret("first")?).await?;
        Ok(Some(()))
    })
    .await?;

    // A caller that allows for the delay is served; one that does not is told so, and nothing is done.
    let post = |name: &str, limit: &str| -> Result<http::Request<Vec<u8>>> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets?timeout={limit}");
        let request = http::Request::post(path).header("content-type", "application/json");
        Ok(request.body(serde_json::to_vec(&secret(name)?)?)?)
    };
    let slow = proxy.slow(|method, _| *method == http::Method::POST, Duration::from_secs(2));
    through.request::<Secret>(post("patient", "29s")?).await?;
    let late = through.request::<Secret>(post("hasty", "1s")?).await;
    ensure!(
        matches!(&late, Err(kube::Error::Api(status)) if status.code == 504),
        "{late:?}"
    );
    ensure!(direct.get_opt("hasty").await?.is_none());
    let counts = slow.counts();
    ensure!(
        (counts.most, counts.sent, counts.given_up) == (1, 1, 1),
        "{counts:?}"
    );
    drop(slow);
    through.request::<Secret>(post("other", "1s")?).await?;

    let version = secrets
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version;
    let version = version.context("a list has a version")?;
    let parameters = WatchParams::default();
    let watched = || secrets.watch(&parameters, &version);
    let mut silenced = std::pin::pin!(watched().await?);
    ensure!(proxy.silence_watches(|path| path.ends_with("/pods")) == 0);
    ensure!(proxy.silence_watches(|path| path.ends_with("/secrets")) == 1);
    direct.create(&PostParams::default(), &secret("unseen")?).await?;
    let mut fresh = std::pin::pin!(watched().await?);
    let seen = tokio::time::timeout(SOON, fresh.next())
        .await?
        .context("it goes on")??;
    ensure!(
        matches!(&seen, WatchEvent::Added(secret) if secret.name_any() == "unseen"),
        "{seen:?}"
    );
    let silence = tokio::time::timeout(Duration::from_secs(1), silenced.next()).await;
    ensure!(silence.is_err(), "{silence:?}");
    Ok(())
}
