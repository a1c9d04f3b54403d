//! What three hostile namespaces cost a fourth: how long its rotations take beside them, and alone.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testbed::conditions::external_secrets;
use testbed::manifest;
use tokio::task::JoinSet;

use super::delays::{self, Secrets};
use super::report::{Report, quantile};
use super::world::{ACCOUNT, NAMESPACE, REGION, World, key, name};
use crate::terminal::Terminal;

/// Objects of the namespace that is measured.
const OBJECTS: usize = 20;
/// The hostile ones.
const HOSTILE: [&str; 3] = [
    "bench-hostile-values",
    "bench-hostile-annotations",
    "bench-hostile-refreshes",
];
/// Until they are at work.
const SETTLE: Duration = Duration::from_secs(10);
/// A rotation beside them shall take at most so many times what it takes alone.
const TARGET: f64 = 1.5;
/// A store whose patterns almost match.
const COSTLY: &str = "
apiVersion: keyturn.dev/v1
kind: ClusterSecretStore
metadata: {name: costly}
spec:
  provider: {aws: {region: eu-central-1}}
  allowedKeys: [PATTERN]
";

/// Rotations alone, then beside three hostile namespaces.
pub(super) async fn measure(
    world: &World,
    terminal: &Terminal,
    report: &mut Report,
    rotations: usize,
) -> Result<()> {
    let rotations = rotations.min(OBJECTS).min(world.arns.len());
    world.set_mode("Read").await?;
    world.create(NAMESPACE, rotations, "1h", |number| number).await?;
    let (operator, _) = world.first_sync(rotations).await?;
    let mut secrets = Secrets::watch(&world.client);
    let alone = delays::on_demand(world, &mut secrets, rotations).await?;

    for namespace in HOSTILE {
        let yaml = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}");
        manifest::apply(&world.client, &yaml).await?;
    }
    let [values, annotations, refreshes] = HOSTILE;
    large_values(world, values).await?;
    long_annotations(world, annotations).await?;
    costly_patterns(world, annotations).await?;
    failing_references(world, refreshes).await?;
    let mut storm = storm(world, refreshes).await?;
    tokio::time::sleep(SETTLE).await;
    let beside = delays::on_demand(world, &mut secrets, rotations).await?;
    storm.shutdown().await;
    operator.terminate().await?;
    for namespace in HOSTILE.into_iter().chain([NAMESPACE]) {
        world.clear(namespace).await?;
    }

    let (alone, beside) = (quantile(&alone, 0.5), quantile(&beside, 0.5));
    let part = "tenants";
    terminal.say(&format!(
        "A rotation takes {alone:.0} ms alone and {beside:.0} ms beside three hostile namespaces."
    ));
    report.add(part, "rotation alone, median", alone, "ms", None);
    report.add(
        part,
        "beside three hostile namespaces, median",
        beside,
        "ms",
        None,
    );
    report.add(part, "as a multiple of alone", beside / alone, "", Some(TARGET));
    Ok(())
}

async fn create(world: &World, namespace: &str, object: Value) -> Result<()> {
    let object = serde_json::from_value(object).context("describe an ExternalSecret")?;
    external_secrets(&world.client, namespace)
        .create(&PostParams::default(), &object)
        .await
        .context("create an ExternalSecret")
        .map(drop)
}

fn object(name: &str, store: &str, data: &[Value], annotations: &Value) -> Value {
    json!({
        "apiVersion": "keyturn.dev/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "secretStoreRef": {"name": store, "kind": "ClusterSecretStore"},
            "refreshInterval": "30s",
            "data": data,
        },
    })
}

/// Two objects of as many large values as an object may have, and of one that does not exist.
async fn large_values(world: &World, namespace: &str) -> Result<()> {
    let value = "x".repeat(64 << 10);
    let mut data = Vec::new();
    for number in 0..120 {
        let key = format!("large/{number}");
        world.aws.create_secret(ACCOUNT, REGION, &key, value.as_str())?;
        data.push(json!({"secretKey": format!("k{number}"), "remoteRef": {"key": key}}));
    }
    data.push(json!({"secretKey": "missing", "remoteRef": {"key": "large/missing"}}));
    for name in ["hoard-a", "hoard-b"] {
        create(world, namespace, object(name, "aws", &data, &json!({}))).await?;
    }
    Ok(())
}

async fn long_annotations(world: &World, namespace: &str) -> Result<()> {
    let flood = "x".repeat(200 << 10);
    for number in 0..40 {
        let data = [json!({"secretKey": "value", "remoteRef": {"key": key(0)}})];
        let annotations = json!({"keyturn.dev/approve": flood});
        create(
            world,
            namespace,
            object(&name(number), "aws", &data, &annotations),
        )
        .await?;
    }
    Ok(())
}

async fn costly_patterns(world: &World, namespace: &str) -> Result<()> {
    let pattern = format!("\"{}b\"", "a*".repeat(16));
    let patterns = vec![pattern; 100].join(", ");
    manifest::apply(&world.client, &COSTLY.replace("PATTERN", &patterns)).await?;
    for number in 0..50 {
        let key = format!("{}{number}", "a".repeat(2000));
        let data = [json!({"secretKey": "value", "remoteRef": {"key": key}})];
        let name = format!("costly-{number}");
        create(world, namespace, object(&name, "costly", &data, &json!({}))).await?;
    }
    Ok(())
}

/// References to a secret of the measured namespace that fail in two ways.
async fn failing_references(world: &World, namespace: &str) -> Result<()> {
    for number in 0..2 {
        let entry = |n: usize| {
            let remote = json!({"key": key(0), "version": format!("NO-LABEL-{number}-{n}")});
            json!({"secretKey": format!("k{n}"), "remoteRef": remote})
        };
        let name = format!("failing-{number}");
        create(
            world,
            namespace,
            object(&name, "aws", &[entry(0), entry(1)], &json!({})),
        )
        .await?;
    }
    Ok(())
}

/// Objects that are asked to refresh without end.
async fn storm(world: &World, namespace: &'static str) -> Result<JoinSet<()>> {
    world.create(namespace, OBJECTS, "1h", |_| 0).await?;
    let api = external_secrets(&world.client, namespace);
    let mut storm = JoinSet::new();
    storm.spawn(async move {
        for round in 0_u64.. {
            for number in 0..OBJECTS {
                let asked = json!({"metadata": {"annotations": {"keyturn.dev/refresh": round.to_string()}}});
                // One that fails is one less.
                let _sent = api
                    .patch(&name(number), &PatchParams::default(), &Patch::Merge(&asked))
                    .await;
            }
        }
    });
    Ok(storm)
}
