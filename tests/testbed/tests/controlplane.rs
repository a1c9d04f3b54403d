//! The control plane is a real one, and leaves nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use testbed::controlplane::{Binaries, ControlPlane, Options};
use testbed::wait;

#[path = "controlplane/recording.rs"]
mod recording;

const SOON: Duration = Duration::from_mins(1);

#[tokio::test]
async fn workloads_become_ready_and_roll_when_their_template_changes() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = cluster.namespace("roll").await?;
    // As many of a DaemonSet as there are nodes.
    let kinds = [
        ("Deployment", "web", 3),
        ("StatefulSet", "db", 2),
        ("DaemonSet", "log", 3),
    ];
    for (kind, name, replicas) in kinds {
        create(cluster, &namespace, &workload(kind, name, replicas, &json!({}))).await?;
    }
    for (kind, name, replicas) in kinds {
        rolled(cluster, &namespace, kind, name).await?;
        let before = pods(cluster, &namespace, name).await?;
        assert_eq!(before.len(), replicas, "{kind}");

        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/roll": "1"}}}}});
        cluster
            .kubectl([
                "--namespace",
                &namespace,
                "patch",
                kind,
                name,
                "--patch",
                &patch.to_string(),
            ])
            .await?;
        rolled(cluster, &namespace, kind, name).await?;
        let after = wait::until("the old pods to be gone", SOON, async || {
            let pods = pods(cluster, &namespace, name).await?;
            Ok((pods.len() == replicas).then_some(pods))
        })
        .await?;
        for pod in after {
            assert!(
                before.iter().all(|old| old.metadata.uid != pod.metadata.uid),
                "{kind}: same pod"
            );
            assert_eq!(
                pod.metadata.annotations.unwrap_or_default()["example.com/roll"],
                "1"
            );
            let status = pod
                .status
                .context("status")?
                .container_statuses
                .context("containers")?;
            assert!(
                status[0]
                    .state
                    .as_ref()
                    .unwrap()
                    .running
                    .as_ref()
                    .unwrap()
                    .started_at
                    .is_some()
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn pods_fail_once_they_carry_the_named_annotation() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = cluster.namespace("fail").await?;
    let cases = [
        ("never-ready-with", "slow", None),
        ("crash-loop-with", "broken", Some("CrashLoopBackOff")),
    ];
    for (annotation, name, reason) in cases {
        let annotations = json!({format!("testbed.keyturn.dev/{annotation}"): "example.com/roll"});
        create(
            cluster,
            &namespace,
            &workload("Deployment", name, 1, &annotations),
        )
        .await?;
        rolled(cluster, &namespace, "Deployment", name).await?;

        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/roll": "1"}}}}});
        cluster
            .kubectl([
                "--namespace",
                &namespace,
                "patch",
                "deployment",
                name,
                "--patch",
                &patch.to_string(),
            ])
            .await?;
        wait::until("a running pod that is not ready", SOON, async || {
            let pods = pods(cluster, &namespace, name).await?;
            let states = pods
                .iter()
                .filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()?.first());
            let bad = states.filter(|container| !container.ready).find(|container| {
                let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
                waiting.and_then(|waiting| waiting.reason.as_deref()) == reason
            });
            Ok(bad.map(|_| ()))
        })
        .await?;
        // The pod that was well stays, as in a cluster.
        assert_eq!(pods(cluster, &namespace, name).await?.len(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn tokens_name_the_issuer_and_verify_against_its_keys() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = cluster.namespace("token").await?;
    let token = cluster
        .token(&namespace, "default", &["sts.amazonaws.com"], 600)
        .await?;

    let (signed, signature) = token.rsplit_once('.').context("a token has three parts")?;
    let (header, claims) = signed.split_once('.').context("a token has three parts")?;
    let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header)?)?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims)?)?;
    assert_eq!(claims["iss"], cluster.issuer());
    assert_eq!(claims["aud"], json!(["sts.amazonaws.com"]));
    assert_eq!(
        claims["sub"],
        format!("system:serviceaccount:{namespace}:default")
    );

    assert_eq!(header["alg"], "RS256");
    let keys: Value = serde_json::from_slice(&cluster.jwks().await?)?;
    let keys = keys["keys"].as_array().context("a key set has keys")?;
    let key = keys
        .iter()
        .find(|key| key["kid"] == header["kid"])
        .context("the key of the token is served")?;
    let part = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap_or_default());
    RsaPublicKeyComponents {
        n: part("n")?,
        e: part("e")?,
    }
    .verify(
        &RSA_PKCS1_2048_8192_SHA256,
        signed.as_bytes(),
        &BASE64_URL_SAFE_NO_PAD.decode(signature)?,
    )
    .context("verify the token's signature")?;
    Ok(())
}

#[tokio::test]
async fn a_service_account_may_do_only_what_its_role_says() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = cluster.namespace("rbac").await?;
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig_for(&namespace, "default").await?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let api = Api::<ConfigMap>::namespaced(Client::try_from(config)?, &namespace);
    let denied = api.list(&ListParams::default()).await;
    assert!(
        matches!(&denied, Err(kube::Error::Api(status)) if status.code == 403),
        "{denied:?}"
    );

    let subject = format!("--serviceaccount={namespace}:default");
    cluster
        .kubectl([
            "-n",
            &namespace,
            "create",
            "rolebinding",
            "view",
            "--clusterrole=view",
            &subject,
        ])
        .await?;
    wait::until("the role to count", SOON, async || {
        Ok(Some(api.list(&ListParams::default()).await.map(|_| ())?))
    })
    .await?;

    // A given cluster keeps its log to itself.
    let Some(log) = cluster.audit_log() else {
        return Ok(());
    };
    let log = fs::read_to_string(log)?;
    let user = format!("system:serviceaccount:{namespace}:default");
    let codes: Vec<i64> = log
        .lines()
        .map(serde_json::from_str::<Value>)
        .filter_map(Result::ok)
        .filter(|event| event["user"]["username"] == user && event["objectRef"]["resource"] == "configmaps")
        .filter_map(|event| event["responseStatus"]["code"].as_i64())
        .collect();
    assert_eq!(
        (codes.first(), codes.last()),
        (Some(&403), Some(&200)),
        "{codes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn helm_and_kubectl_are_of_the_pinned_versions() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    assert!(cluster.helm(["version", "--short"]).await?.starts_with("v4.3.1"));
    assert!(
        cluster
            .helm(["list", "--all-namespaces"])
            .await?
            .contains("NAMESPACE")
    );
    let versions: Value = serde_json::from_str(&cluster.kubectl(["version", "--output=json"]).await?)?;
    for side in ["clientVersion", "serverVersion"] {
        assert_eq!(versions[side]["gitVersion"], "v1.37.2", "{side}");
        assert_eq!(versions[side]["minor"], "37", "{side}");
    }
    let error = cluster.kubectl(["get", "nothing"]).await.unwrap_err();
    assert!(error.to_string().contains("kubectl get nothing"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_api_server_comes_back_and_nothing_stays_after_a_drop() -> Result<()> {
    let cluster = start(Options {
        audit: false,
        nodes: 1,
        ..Options::default()
    })
    .await?;
    let client = cluster.client().await?;
    let api = Api::<ConfigMap>::namespaced(client.clone(), "default");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("kept".into());
    api.create(&PostParams::default(), &map).await?;

    cluster.stop_apiserver()?;
    assert!(api.get("kept").await.is_err(), "an outage");
    cluster.start_apiserver().await?;
    api.get("kept").await?;
    cluster.restart_apiserver().await?;
    api.get("kept").await?;
    // The controllers and kwok get over it as well.
    create(&cluster, "default", &workload("Deployment", "web", 1, &json!({}))).await?;
    rolled(&cluster, "default", "Deployment", "web").await?;

    let folder = cluster.folder().to_owned();
    assert!(
        running_in(&folder) >= 6,
        "etcd, API server, controller manager, scheduler, kwok, reaper"
    );
    drop(cluster);
    assert_eq!((running_in(&folder), folder.exists()), (0, false));
    Ok(())
}

#[tokio::test]
async fn nothing_stays_after_the_process_is_killed() -> Result<()> {
    let mut testbed = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["controlplane", "run"])
        .stdout(Stdio::piped())
        .spawn()
        .context("run the testbed")?;
    let mut kubeconfig = String::new();
    BufReader::new(testbed.stdout.take().context("its output")?).read_line(&mut kubeconfig)?;
    let folder = Path::new(kubeconfig.trim())
        .parent()
        .context("a folder")?
        .to_owned();
    ensure!(running_in(&folder) >= 6, "it runs in {}", folder.display());

    testbed.kill()?;
    testbed.wait()?;
    wait::until("all to end", SOON, async || {
        Ok((running_in(&folder) == 0 && !folder.exists()).then_some(()))
    })
    .await
}

async fn start(options: Options) -> Result<ControlPlane> {
    let binaries =
        tokio::task::spawn_blocking(|| Binaries::ensure(&|line| tracing::info!("{line}"))).await??;
    ControlPlane::start(&binaries, options).await
}

/// How many processes name the folder in their command lines.
#[allow(clippy::unwrap_used, reason = "a test without /proc has no use")]
fn running_in(folder: &Path) -> usize {
    let folder = folder.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(&folder))
        .count()
}

fn workload(kind: &str, name: &str, replicas: usize, annotations: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations},
                "spec": {"containers": [{"name": "main", "image": "example.com/main:1"}]},
            },
        },
    });
    // It has one on every node, and refuses to be told.
    if let Some(spec) = object["spec"].as_object_mut().filter(|_| kind == "DaemonSet") {
        spec.remove("replicas");
    }
    object
}

async fn create(cluster: &ControlPlane, namespace: &str, object: &Value) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), object.to_string())?;
    let path = file.path().display().to_string();
    cluster
        .kubectl(["--namespace", namespace, "create", "--filename", &path])
        .await?;
    Ok(())
}

async fn rolled(cluster: &ControlPlane, namespace: &str, kind: &str, name: &str) -> Result<()> {
    let workload = format!("{kind}/{name}");
    cluster
        .kubectl([
            "--namespace",
            namespace,
            "rollout",
            "status",
            &workload,
            "--timeout=60s",
        ])
        .await?;
    Ok(())
}

async fn pods(cluster: &ControlPlane, namespace: &str, app: &str) -> Result<Vec<Pod>> {
    let api = Api::<Pod>::namespaced(cluster.client().await?, namespace);
    Ok(api
        .list(&ListParams::default().labels(&format!("app={app}")))
        .await?
        .items)
}
