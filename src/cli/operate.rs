//! The operator's wiring: rooms made, joined and run until the end.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{FutureExt as _, future::FusedFuture as _};
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    api::{ObjectKey, RestartMode, SourceId},
    aws::{self, Aws, AwsConfig, Reader},
    cluster::{self, Access, Changes, Cluster, Events, Lease, Pace, Scope, Tokens, Watches, Writer},
    objects::{ClusterSecretStores, ExternalSecrets, SecretStores},
    restart,
    sync::{
        self, Rules,
        driver::Tracking,
        reconcile::{Context, ValueBudget, WriteSlots},
        stores::{Parts, Stores},
        work::{Clock, Work},
    },
    telemetry::{self, Alert, AlertSink, Readiness, Webhook},
    track::{self, Tracker},
};

/// Passes under way at once. Most of them wait for AWS; the write slots bound what they do to Kubernetes.
const PASSES: usize = 512;
/// Stores proved at once.
const STORES: usize = 16;
/// How often it is looked when the watches were last heard of.
const ATTEND: Duration = Duration::from_secs(5);
/// Longer than a watch may be silent and be opened again.
const DEAF: Duration = Duration::from_mins(4);

/// What `keyturn run` was asked for.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) cluster_name: String,
    pub(super) default_store: Option<String>,
    /// All namespaces where empty.
    pub(super) namespaces: Vec<String>,
    pub(super) operator_namespace: String,
    pub(super) pod_name: String,
    pub(super) min_refresh_interval: Duration,
    pub(super) periodic_reads: bool,
    pub(super) allow_operator_identity: bool,
    pub(super) status_writes_per_second: u32,
    pub(super) lease_name: String,
    pub(super) watch_silence: Duration,
    /// Beside the operator's own.
    pub(super) protected_namespaces: Vec<String>,
    pub(super) token_audiences: Vec<String>,
    pub(super) restarts: RestartSettings,
}

/// What concerns restarts.
#[derive(Debug)]
pub(super) struct RestartSettings {
    /// The mode of ExternalSecrets that say nothing of it.
    pub(super) default: RestartMode,
    /// Workloads that roll out at once.
    pub(super) max_concurrent: NonZeroU32,
    /// The same in one namespace.
    pub(super) max_concurrent_per_namespace: NonZeroU32,
    /// Whether pods may be evicted.
    pub(super) allow_evict: bool,
    /// An http or https URL, for alerts.
    pub(super) alert_url: Option<SecretString>,
}

/// The rooms' metrics.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    aws: aws::Metrics,
    cluster: cluster::Metrics,
    sync: sync::metrics::Metrics,
    restart: restart::Metrics,
    alerts: telemetry::alerts::Metrics,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let Self {
            aws,
            cluster,
            sync,
            restart,
            alerts,
        } = self;
        aws.register(registry);
        cluster.register(registry);
        sync.register(registry);
        restart.register(registry);
        alerts.register(registry);
    }
}

/// Works until `shutdown` turns true, or cannot go on; a lost Lease is an error. Ready when the watches are filled.
pub(super) async fn operate(
    settings: Settings,
    metrics: Metrics,
    shutdown: watch::Receiver<bool>,
    readiness: watch::Sender<Readiness>,
) -> anyhow::Result<()> {
    let Settings {
        cluster_name,
        default_store,
        namespaces,
        operator_namespace,
        pod_name,
        min_refresh_interval,
        periodic_reads,
        allow_operator_identity,
        status_writes_per_second,
        lease_name,
        watch_silence,
        protected_namespaces,
        token_audiences,
        restarts: restart_settings,
    } = settings;

    let sink = restart_settings
        .alert_url
        .map(|url| AlertSink::new(Webhook::parse(url.expose_secret())?, metrics.alerts))
        .transpose()?;
    let cluster = Cluster::connect(&Access::default(), metrics.cluster.clone()).await?;
    readiness.send_replace(Readiness::Waiting("the key of the tokens"));
    let key = cluster::token_key(&cluster, &operator_namespace)
        .await
        .context("no key for the tokens on Secrets")?;

    let changes = Changes::default();
    let restart_changes = changes.fork();
    let scope = if namespaces.is_empty() {
        Scope::Cluster
    } else {
        Scope::Namespaces(
            namespaces
                .iter()
                .map(|namespace| namespace.as_str().into())
                .collect(),
        )
    };
    let mut watches = Watches::new(cluster.clone(), scope, changes.clone(), watch_silence);
    let namespaces = watches.namespaces();
    let control = watches.control(&operator_namespace);
    let secret_stores = watches.watch(SecretStores);
    let cluster_secret_stores = watches.watch(ClusterSecretStores);
    let secrets = watches.secrets(key.clone());
    let restart_default = restart_settings.default;
    let objects = watches.watch(ExternalSecrets {
        min_interval: min_refresh_interval,
        restart_default,
    });
    let workloads = restart::Workloads::watch(&mut watches, &objects.demand());
    let mut listed = watches.ready();
    let attending = attend(&readiness, watches.ready(), watches.ages());
    let watching = watches.run();

    let lease = ObjectKey::new(operator_namespace.as_str(), lease_name);
    let (lease, leadership) = Lease::new(cluster.clone(), lease, &pod_name)?;
    let writer = Writer::new(cluster.clone(), leadership.clone());
    let (events, event_worker) = Events::new(&cluster, leadership.clone(), &pod_name);

    let (released, release) = watch::channel(false);
    let alerts = sink.map(|sink| (sink, events.alerts()));
    let alerting = alerting(alerts, cluster_name.clone(), release.clone());

    let clock = Clock::start();
    let tracking = Arc::new(Tracking::new(
        clock,
        Tracker::new(track::Config {
            min_interval: min_refresh_interval,
            periodic_reads,
            seed: seed(&pod_name),
        }),
    ));
    let subscribers = tracking.clone();
    let config = AwsConfig {
        region: None,
        instance_metadata: false,
        tokens: Arc::new(Tokens::new(cluster.clone(), token_audiences)),
        subscribers: Arc::new(move |source: SourceId, key: &Arc<str>| {
            subscribers.ask(|tracker| tracker.subscribers(source, key))
        }),
    };
    let aws = Arc::new(Aws::from_environment(config, metrics.aws.clone()).await?);
    let reader = Arc::new(Reader::new(aws.clone()));
    let stores = Arc::new(Stores::new(Parts {
        namespaced: secret_stores,
        cluster: cluster_secret_stores,
        rules: Rules {
            cluster: cluster_name,
            region: aws.region().map(Into::into),
            allow_operator_identity,
        },
        default_store: default_store.map(Into::into),
        aws: aws.clone(),
        tracking: tracking.clone(),
        writer: writer.clone(),
        events: events.clone(),
        time: cluster.time().clone(),
        work: Work::new(clock, STORES, seed(&pod_name)),
    }));
    let at_once = |limit: NonZeroU32| usize::try_from(limit.get()).unwrap_or(usize::MAX);
    // Statuses of restarts do not queue behind those of an outage.
    let of_restarts = (status_writes_per_second / 5).max(1);
    let of_syncs = status_writes_per_second.saturating_sub(of_restarts).max(1);
    let restarts = Arc::new(restart::Context {
        objects: objects.clone(),
        secrets: secrets.clone(),
        namespaces: namespaces.clone(),
        control: control.clone(),
        operator_namespace: operator_namespace.as_str().into(),
        workloads,
        writer: writer.clone(),
        events: events.clone(),
        time: cluster.time().clone(),
        limits: restart::Limits {
            namespace: at_once(restart_settings.max_concurrent_per_namespace),
            cluster: at_once(restart_settings.max_concurrent),
        },
        evict_allowed: restart_settings.allow_evict,
        pace: Pace::new(of_restarts),
        started: tokio::time::Instant::now(),
        metrics: metrics.restart,
    });
    let context = Arc::new(Context {
        objects,
        secrets,
        namespaces,
        control,
        operator_namespace: operator_namespace.as_str().into(),
        stores,
        tracking,
        aws,
        reader,
        writer,
        events,
        time: cluster.time().clone(),
        clock,
        key,
        work: Arc::new(Work::new(clock, PASSES, seed(&pod_name))),
        min_interval: min_refresh_interval,
        restart_default,
        protected: protected_namespaces
            .into_iter()
            .chain([operator_namespace])
            .collect(),
        metrics: metrics.sync,
        values: ValueBudget::default(),
        slots: WriteSlots::default(),
        pace: Pace::new(of_syncs),
        memory: sync::reconcile::Memories::default(),
        deletions: std::sync::Mutex::default(),
    });

    readiness.send_replace(Readiness::Waiting("the first lists of the API server"));
    let mut wanted_end = shutdown.clone();
    let work = async {
        listed
            .wait_for(|listed| *listed)
            .await
            .context("the watches ended before their first lists")?;
        readiness.send_replace(Readiness::Ready);
        tokio::select! {
            biased;
            () = ended(&mut wanted_end) => return Ok(()),
            () = leadership.acquired() => {}
            // The leader begins with all that the indexes hold: what changed before would only pile up.
            () = async { loop { changes.next().await; } } => {}
            () = async { loop { restart_changes.next().await; } } => {}
        }
        tracing::info!("leading");
        let syncs = async {
            sync::run::run(context, changes, ended(&mut wanted_end.clone())).await;
            anyhow::ensure!(*wanted_end.borrow(), "a part of the reconciler ended");
            Ok(())
        };
        let restarts = async {
            restart::run(restarts, restart_changes, ended(&mut wanted_end.clone())).await;
            anyhow::ensure!(*wanted_end.borrow(), "the restarts ended");
            Ok(())
        };
        tokio::try_join!(syncs, restarts).map(|((), ())| ())
    };
    let mut stop_lease = release;
    // The Lease outlives the work, so that the next leader begins when our last write has ended. It is renewed in a task of
    // its own: however long a decision thinks, it is not lost.
    let mut lease_task = JoinSet::new();
    lease_task.spawn(lease.run(async move { ended(&mut stop_lease).await }));
    let leading = async move {
        match lease_task.join_next().await {
            Some(Ok(led)) => anyhow::Ok(led?),
            Some(Err(_)) | None => {
                anyhow::bail!("the task of the Lease panicked; this is a bug, please report it")
            }
        }
    };
    let mut leading = std::pin::pin!(leading);
    let mut alerting = std::pin::pin!(alerting.fuse());
    let mut event_worker = Box::pin(event_worker.run());
    let mut watching = std::pin::pin!(watching);
    let mut work = std::pin::pin!(work);
    let mut attending = std::pin::pin!(attending);
    let mut events_end = false;
    let worked = loop {
        tokio::select! {
            biased;
            lost = &mut leading => {
                lost?;
                anyhow::bail!("the Lease was given up before the work ended");
            }
            end = &mut watching => return Err(end.into()),
            worked = &mut work => break worked,
            () = &mut event_worker, if !events_end => events_end = true,
            () = &mut alerting => {}
            () = &mut attending => {}
        }
    };
    // An event under way would hold up the end of the Lease, which waits for all that writes.
    drop(event_worker);
    released.send_replace(true);
    let (left, ()) = tokio::join!(leading, async {
        if !alerting.is_terminated() {
            alerting.await;
        }
    });
    left?;
    worked
}

/// Once the first lists are there: not ready while no watch at all is heard of. A kind that is forbidden or absent changes
/// nothing as long as any other is followed.
async fn attend(
    readiness: &watch::Sender<Readiness>,
    mut listed: watch::Receiver<bool>,
    ages: cluster::WatchAges,
) {
    // An error is the end of the watches, which ends the process.
    let _end = listed.wait_for(|listed| *listed).await;
    loop {
        tokio::time::sleep(ATTEND).await;
        let now = heard(ages.silence());
        readiness.send_if_modified(|said| std::mem::replace(said, now) != now);
    }
}

/// Whether a process is ready whose watches have all been silent for so long.
fn heard(silence: Option<Duration>) -> Readiness {
    if silence.is_some_and(|silence| silence > DEAF) {
        Readiness::Waiting("the API server, from which no watch has heard for 4 minutes")
    } else {
        Readiness::Ready
    }
}

/// Posts alerts until `released` turns true; without a webhook there is nothing to do.
async fn alerting(
    alerts: Option<(AlertSink, mpsc::Receiver<cluster::Alert>)>,
    cluster: String,
    mut released: watch::Receiver<bool>,
) {
    let Some((sink, alerts)) = alerts else {
        return;
    };
    let alert = |alert: cluster::Alert| {
        let cluster::Alert {
            reason,
            kind,
            namespace,
            name,
            note,
            time,
            ..
        } = alert;
        Alert {
            reason: reason.to_owned(),
            kind,
            namespace,
            name,
            message: note,
            time,
            cluster: cluster.clone(),
        }
    };
    sink.run(alerts, alert, async move { ended(&mut released).await })
        .await;
}

/// Returns once `signal` turned true, or nobody is left to turn it.
async fn ended(signal: &mut watch::Receiver<bool>) {
    // An error is the sender's end, which ends the work too.
    let _end = signal.wait_for(|end| *end).await;
}

/// Differs between pods, so that their back-offs do.
fn seed(pod: &str) -> u64 {
    pod.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_ready_once_no_watch_is_heard_of_and_ready_where_any_is() {
        assert_eq!(heard(None), Readiness::Ready);
        assert_eq!(heard(Some(DEAF)), Readiness::Ready);
        let deaf = heard(Some(DEAF + Duration::from_secs(1)));
        assert!(deaf.to_string().contains("4 minutes"), "{deaf}");
        assert_eq!(DEAF.as_secs() / 60, 4);
    }
}
