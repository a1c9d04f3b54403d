//! How long a change takes: from AWS, or from a new object, to the Secret, as a watch sees it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use testbed::conditions::external_secrets;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::world::{ACCOUNT, NAMESPACE, REGION, World, external_secret, first_value, key, name};

/// Beyond a refresh interval of a minute.
const LIMIT: Duration = Duration::from_secs(100);

/// The Secrets of the measured objects, as they change.
pub(super) struct Secrets {
    seen: mpsc::UnboundedReceiver<(String, String, Instant)>,
    task: JoinHandle<()>,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Secrets {
    /// Begins to watch; what is there already comes first.
    pub(super) fn watch(client: &Client) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let api = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
        let task = tokio::spawn(async move {
            let mut changes = std::pin::pin!(
                watcher(api, watcher::Config::default())
                    .default_backoff()
                    .applied_objects()
            );
            while let Some(change) = changes.next().await {
                let Ok(secret) = change else { continue };
                let versions = secret.annotations().get("keyturn.dev/versions").cloned();
                let new = (secret.name_any(), versions.unwrap_or_default(), Instant::now());
                if sender.send(new).is_err() {
                    return;
                }
            }
        });
        Self { seen, task }
    }

    /// When each of the Secrets first held this version; a version of no text is any.
    async fn hold(&mut self, mut wanted: HashMap<String, String>) -> Result<HashMap<String, Instant>> {
        let mut times = HashMap::new();
        let all = async {
            while !wanted.is_empty() {
                let Some((name, versions, when)) = self.seen.recv().await else {
                    bail!("the watch of Secrets ended");
                };
                if wanted
                    .get(&name)
                    .is_some_and(|version| versions.contains(version.as_str()))
                {
                    wanted.remove(&name);
                    times.insert(name, when);
                }
            }
            Ok(())
        };
        let Ok(done) = tokio::time::timeout(LIMIT, all).await else {
            bail!(
                "{} Secrets did not follow within {} s",
                wanted.len(),
                LIMIT.as_secs()
            );
        };
        done.map(|()| times)
    }
}

/// Puts new values and asks for them by the annotation; sorted milliseconds from the put to the Secret.
pub(super) async fn on_demand(world: &World, secrets: &mut Secrets, rotations: usize) -> Result<Vec<f64>> {
    let api = external_secrets(&world.client, NAMESPACE);
    let mut delays = Vec::new();
    for (number, arn) in world.arns.iter().enumerate().take(rotations) {
        let started = Instant::now();
        let version = world.aws.put_secret_value(arn, first_value(number) + "2")?;
        let patch = json!({"metadata": {"annotations": {"keyturn.dev/refresh": version}}});
        api.patch(&name(number), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .context("annotate an ExternalSecret")?;
        let times = secrets.hold(HashMap::from([(name(number), version)])).await?;
        delays.extend(times.values().map(|when| milliseconds(*when - started)));
        // Refreshes of a namespace are limited to one a second.
        tokio::time::sleep(Duration::from_millis(1100).saturating_sub(started.elapsed())).await;
    }
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

/// Puts new values and lets the interval find them; sorted milliseconds from each put to the Secret.
pub(super) async fn by_interval(world: &World, secrets: &mut Secrets, rotations: usize) -> Result<Vec<f64>> {
    let mut started = HashMap::new();
    let mut wanted = HashMap::new();
    // From the far end: the others were just refreshed. Steps that share nothing with the cohorts' size.
    let step = (world.arns.len() / rotations.max(1)).max(1);
    for (number, arn) in world.arns.iter().enumerate().rev().step_by(step).take(rotations) {
        started.insert(name(number), Instant::now());
        wanted.insert(
            name(number),
            world.aws.put_secret_value(arn, first_value(number) + "3")?,
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let times = secrets.hold(wanted).await?;
    let mut delays: Vec<f64> = times
        .iter()
        .filter_map(|(name, when)| Some(milliseconds(when.saturating_duration_since(*started.get(name)?))))
        .collect();
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

/// Makes one new ExternalSecret of a new secret after another; sorted milliseconds from the request to the Secret.
pub(super) async fn new_objects(
    world: &World,
    secrets: &mut Secrets,
    prefix: &str,
    count: usize,
) -> Result<Vec<f64>> {
    let api = external_secrets(&world.client, NAMESPACE);
    let taken = world.arns.len();
    let mut delays = Vec::new();
    for number in 0..count {
        let object_name = format!("{prefix}-{number}");
        let mut object = external_secret(&object_name, "1m", taken)?;
        let secret = format!("{}/{object_name}", key(taken));
        world.aws.create_secret(ACCOUNT, REGION, &secret, "new")?;
        object.data["spec"]["data"][0]["remoteRef"]["key"] = json!(secret);
        let started = Instant::now();
        api.create(&PostParams::default(), &object)
            .await
            .context("create an ExternalSecret")?;
        let times = secrets
            .hold(HashMap::from([(object_name, String::new())]))
            .await?;
        delays.extend(times.values().map(|when| milliseconds(*when - started)));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

/// Puts a new value into every secret.
pub(super) async fn rotate_all(world: &World) -> Result<()> {
    let puts = world.arns.iter().enumerate().map(|(number, arn)| {
        let put = world.aws.put_secret_value(arn, first_value(number) + "4");
        async move { put.context("put a value").map(|_version| ()) }
    });
    futures::stream::iter(puts)
        .buffer_unordered(1)
        .try_collect()
        .await
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
