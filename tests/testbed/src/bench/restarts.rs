//! What it costs to restart many workloads of one secret: writes, looks, time and memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use serde_json::json;
use testbed::conditions::{condition, external_secrets};
use testbed::history::History;
use testbed::operator::Operator;
use testbed::workloads::{self, Use, is_complete, workload};
use testbed::{manifest, requests, wait};

use super::report::Report;
use super::world::{CONNECTIONS, World, external_secret, first_value, since};
use super::{MIB, bytes, count};
use crate::terminal::{Terminal, seconds};

const NAMESPACE: &str = "bench-restarts";
/// Workloads in flight at once.
const SLOTS: usize = 20;
/// The limit of the cluster that leaves so many: a quarter of it is reserved for rotations that AWS shows.
const CLUSTER: usize = 26;
/// Until memory and caches are what they stay at.
const SETTLE: Duration = Duration::from_secs(15);
/// For the slowest part: two seconds for each workload would be very slow.
const LIMIT: Duration = Duration::from_mins(15);
/// Settling and coalescing before the first patch.
const BEFORE: f64 = 10.0;
/// More than this over the bound is slots that stand empty.
const SLACK: f64 = 1.25;
/// An ExternalSecret, made first: nothing rolls while it is.
const OBJECT: &str = "restarts";

/// One rotation of the secret that `workloads` Deployments with a pod each use.
#[expect(clippy::too_many_lines, reason = "one measurement, in order")]
pub(super) async fn measure(
    world: &World,
    terminal: &Terminal,
    report: &mut Report,
    workloads: usize,
) -> Result<()> {
    let part = "restarts";
    let begun = Instant::now();
    manifest::apply(
        &world.client,
        &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"),
    )
    .await?;
    world.set_mode("Read").await?;
    let arguments = [
        format!("--max-concurrent-restarts={CLUSTER}"),
        format!("--max-concurrent-restarts-per-namespace={SLOTS}"),
        "--min-refresh-interval=1s".to_owned(),
    ];
    let (operator, _) = world.start_with(&arguments).await?;
    let mut object = external_secret(OBJECT, "2s", 0)?;
    object.data["spec"]["restart"] = json!({"mode": "Automatic", "pacing": {"maxConcurrent": SLOTS}});
    external_secrets(&world.client, NAMESPACE)
        .create(&PostParams::default(), &object)
        .await
        .context("create the ExternalSecret")?;
    said(world, "Ready", &["Synced"]).await?;
    tokio::time::sleep(SETTLE).await;
    let without = operator.usage()?;

    make(world, workloads).await?;
    tokio::time::sleep(SETTLE).await;
    let with = operator.usage()?;
    terminal.say(&format!(
        "{workloads} Deployments run, {} after this part began.",
        seconds(begun.elapsed())
    ));
    let history = History::begin(&world.client, &[NAMESPACE]).await?;
    let mark = requests::mark(&world.cluster)?;
    let started = jiff::Timestamp::now();
    let arn = world.arns.first().context("there is no secret")?;
    world
        .aws
        .put_secret_value(arn, first_value(0) + " It was rotated.")?;
    done(world, &operator, workloads).await?;
    let time = since(started);
    let after = operator.usage()?;
    let asked = requests::since(&world.cluster, mark)?
        .of(operator.user())
        .only(|request| request.namespace == NAMESPACE);

    let arrivals = history.arrivals().await?.len();
    let most = history.most_in_flight(|_| true).await?;
    let rollouts = history.rollouts().await?;
    ensure!(
        arrivals == workloads && rollouts.len() == workloads,
        "{arrivals} templates and {} rollouts of {workloads} workloads",
        rollouts.len()
    );
    let mean = rollouts.iter().map(Duration::as_secs_f64).sum::<f64>() / count(workloads);
    let bound = count(workloads) * mean / count(SLOTS.min(workloads));
    terminal.say(&format!(
        "{workloads} workloads were restarted in {}, each in {mean:.2} s, {most} at once.",
        seconds(time)
    ));

    let writes = |resource: &str| {
        count(
            asked
                .only(|request| request.writes() && request.resource == resource)
                .0
                .len(),
        )
    };
    let all = count(workloads);
    report.add(
        part,
        format!("patches of {workloads} workloads"),
        writes("deployments"),
        "",
        Some(all),
    );
    // One in 5 s, and a few of the sync.
    let statuses = (time.as_secs_f64() / 5.0).ceil() + 5.0;
    report.add(
        part,
        "writes of status",
        writes("externalsecrets/status"),
        "",
        Some(statuses),
    );
    report.add(
        part,
        "lists of pods for each workload",
        count(asked.count("list", "pods")) / all,
        "",
        Some(4.0),
    );
    report.add(part, "in flight at once", count(most), "", Some(count(SLOTS)));
    report.add(part, "one rollout, on average", mean, "s", None);
    report.add(
        part,
        format!("all, {SLOTS} at once; at most {SLACK} x the bound + {BEFORE} s"),
        time.as_secs_f64(),
        "s",
        Some(bound * SLACK + BEFORE),
    );
    let more = |now: u64, before: u64| (bytes(now) - bytes(before)) / MIB;
    for (name, more) in [
        (
            "memory for the workloads, at rest",
            more(with.resident, without.resident),
        ),
        (
            "memory for them, after the restarts",
            more(after.resident, without.resident),
        ),
        ("memory for them, at the most", more(after.peak, without.peak)),
    ] {
        report.add(part, name, more, "MiB", Some(20.0));
    }
    report.detail(
        "restarts: memory in MiB",
        json!(
            [without, with, after].map(
                |usage| json!({"resident": bytes(usage.resident) / MIB, "peak": bytes(usage.peak) / MIB})
            )
        ),
    );
    report.add(part, "CPU", after.cpu_seconds - with.cpu_seconds, "s", None);
    report.detail("restarts: Kubernetes requests", json!(super::counts(&asked)));
    terminal.show(&super::lines(&super::counts(&asked)));
    drop(history);
    let status = operator.terminate().await?;
    ensure!(status.success(), "the operator ended with {status}");
    terminal.say(&format!("The restarts took {} in all.", seconds(begun.elapsed())));
    Ok(())
}

fn deployments(world: &World) -> Api<DynamicObject> {
    Api::namespaced_with(
        world.client.clone(),
        NAMESPACE,
        &workloads::resource("Deployment"),
    )
}

async fn make(world: &World, workloads: usize) -> Result<()> {
    let api = deployments(world);
    let made = (0..workloads).map(|number| {
        let api = api.clone();
        async move {
            let mut object = workload("Deployment", &format!("web-{number:04}"), &[(OBJECT, Use::Env)])?;
            workloads::set(&mut object, &["spec", "replicas"], json!(1));
            workloads::set(&mut object, &["spec", "revisionHistoryLimit"], json!(0));
            let object: DynamicObject = serde_json::from_value(object).context("describe a Deployment")?;
            api.create(&PostParams::default(), &object)
                .await
                .context("create a Deployment")
                .map(drop)
        }
    });
    futures::stream::iter(made)
        .buffer_unordered(CONNECTIONS)
        .try_collect::<()>()
        .await?;
    wait::until("all Deployments to be complete", LIMIT, async || {
        // A look at all of them costs the API server something.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let all = api.list(&ListParams::default()).await?;
        let complete = all
            .iter()
            .filter(|object| is_complete("Deployment", object))
            .count();
        if complete == workloads {
            return Ok(Some(()));
        }
        bail!("{complete} are")
    })
    .await
}

/// Waits for a condition of the ExternalSecret.
async fn said(world: &World, kind: &str, reasons: &[&str]) -> Result<()> {
    let api = external_secrets(&world.client, NAMESPACE);
    wait::until(
        &format!("{kind} to give {}", reasons.join(" or ")),
        LIMIT,
        async || {
            let found = condition(&api.get(OBJECT).await?, kind);
            if found
                .as_ref()
                .is_some_and(|found| reasons.contains(&found.reason.as_str()))
            {
                return Ok(Some(()));
            }
            bail!("it is {found:?}")
        },
    )
    .await
}

/// Waits until the ExternalSecret says that all workloads have followed the new content.
async fn done(world: &World, operator: &Operator, workloads: usize) -> Result<()> {
    let api = external_secrets(&world.client, NAMESPACE);
    let progress = format!("{workloads}/{workloads}");
    wait::until("all workloads to be restarted", LIMIT, async || {
        ensure!(operator.is_ready().await, "the operator is not ready");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let object = api.get(OBJECT).await?;
        let restart = &object.data["status"]["restart"];
        let found = condition(&object, "RestartsComplete");
        if found.is_some_and(|found| found.reason == "Complete") && restart["progress"] == progress.as_str() {
            return Ok(Some(()));
        }
        bail!("it says {restart}")
    })
    .await
}
