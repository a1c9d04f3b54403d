//! The operator's wiring: rooms made, joined and run until the end.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use futures::{FutureExt as _, future::FusedFuture as _};
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::settings::{ClusterSettings, RestartSettings, SyncSettings, named};
use crate::{
    api::{ObjectKey, TokenKey},
    aws,
    cluster::{
        self, Access, Changes, Cluster, Events, FirstLists, Leadership, Lease, Scope, Watches, Writer,
    },
    objects::{ExternalSecrets, View},
    restart,
    sync::{self, StoreIndexes},
    telemetry::{self, Alert, AlertSink, Readiness, Webhook, alerts::AlertFormat},
};

/// How often it is looked when the watches were last heard of.
const ATTEND: Duration = Duration::from_secs(5);
/// Longer than a watch may be silent and be opened again.
const DEAF: Duration = Duration::from_mins(4);

/// The rooms' metrics.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    aws: aws::Metrics,
    cluster: cluster::Metrics,
    sync: sync::metrics::Metrics,
    restart: restart::Metrics,
    alerts: telemetry::alerts::Metrics,
    pub(super) audit: telemetry::audit::Metrics,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let Self {
            aws,
            cluster,
            sync,
            restart,
            alerts,
            audit,
        } = self;
        aws.register(registry);
        cluster.register(registry);
        sync.register(registry);
        restart.register(registry);
        alerts.register(registry);
        audit.register(registry);
    }
}

/// The operator, as the command line wants it.
pub(super) struct Operator {
    pub(super) cluster: ClusterSettings,
    pub(super) sync: SyncSettings,
    pub(super) restart: RestartSettings,
    /// An http or https URL.
    pub(super) alert_url: Option<SecretString>,
    pub(super) alert_format: AlertFormat,
    pub(super) metrics: Metrics,
}

/// The reconcilers, each with what tells it of changes.
struct Reconcilers {
    syncs: (Arc<sync::reconcile::Context>, Changes),
    restarts: (Arc<restart::Context>, Changes),
}

impl Operator {
    /// Works until `shutdown` turns true, or cannot go on; a lost Lease is an error. Ready when the watches are filled.
    pub(super) async fn operate(
        self,
        shutdown: watch::Receiver<bool>,
        readiness: watch::Sender<Readiness>,
    ) -> anyhow::Result<()> {
        let Self {
            cluster: settings,
            sync,
            restart,
            alert_url,
            alert_format,
            metrics,
        } = self;
        let sink = alert_url
            .map(|url| {
                let webhook = Webhook::parse(url.expose_secret())?;
                AlertSink::new(webhook, alert_format, metrics.alerts)
            })
            .transpose()?;
        let cluster = Cluster::connect(&Access::default(), metrics.cluster.clone()).await?;
        readiness.send_replace(Readiness::Waiting("the key of the tokens"));
        let key = cluster::token_key(&cluster, &settings.operator_namespace)
            .await
            .context("no key for the tokens on Secrets")?;

        let changes = Changes::default();
        let restart_changes = changes.fork();
        let scope = scope(named(&settings.namespaces));
        let mut watches = Watches::new(cluster.clone(), scope, changes.clone(), settings.watch_silence);
        let lease = ObjectKey::new(&*settings.operator_namespace, &*settings.lease_name);
        let (lease, leadership) = Lease::new(cluster.clone(), lease, &settings.pod_name)?;
        let writer = Writer::new(cluster.clone(), leadership.clone());
        let (events, event_worker) = Events::new(&cluster, leadership.clone(), &settings.pod_name);
        let namespaces = watches.namespaces();
        let control = watches.control(&settings.operator_namespace);
        let stores = StoreIndexes::watch(&mut watches);
        let secrets = watches.secrets(key.clone());
        let objects = watches.watch(ExternalSecrets {
            min_interval: sync.min_refresh_interval,
            restart_default: restart.restart_default,
        });
        let workloads = restart::Workloads::watch(&mut watches, &objects.demand());
        let alerts = sink.map(|sink| (sink, events.alerts()));
        let view = View {
            objects,
            secrets,
            namespaces,
            control,
            operator_namespace: settings.operator_namespace.as_str().into(),
            writer,
            events,
            time: cluster.time().clone(),
        };
        let restart_settings = restart_settings(&sync, &restart);
        let sync_settings = sync_settings(&settings, sync, &restart, key);
        let restarts = restart::Context::new(view.clone(), workloads, restart_settings, metrics.restart);
        let syncs = sync::start(view, stores, sync_settings, metrics.sync, metrics.aws).await?;
        let reconcilers = Reconcilers {
            syncs: (syncs, changes),
            restarts: (Arc::new(restarts), restart_changes),
        };

        readiness.send_replace(Readiness::Waiting("the first lists of the API server"));
        let (released, release) = watch::channel(false);
        let alerting = alerting(alerts, settings.cluster_name, release.clone());
        let attending = attend(&readiness, watches.first_lists(), watches.ages());
        let lists = watches.first_lists();
        let leading = lead(lease, watches.first_lists(), release);
        let watching = watches.run();
        let work = reconcilers.run(lists, leadership, &readiness, shutdown);
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
}

impl Reconcilers {
    /// Reconciles while this replica leads, until `shutdown`.
    async fn run(
        self,
        mut lists: FirstLists,
        leadership: Arc<Leadership>,
        readiness: &watch::Sender<Readiness>,
        mut shutdown: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let Self { syncs, restarts } = self;
        ensure!(
            lists.complete().await,
            "the watches ended before their first lists"
        );
        readiness.send_replace(Readiness::Ready);
        tokio::select! {
            biased;
            () = ended(&mut shutdown) => return Ok(()),
            () = leadership.acquired() => {}
            // The leader begins with all that the indexes hold: what changed before would only pile up.
            () = async { loop { syncs.1.next().await; } } => {}
            () = async { loop { restarts.1.next().await; } } => {}
        }
        tracing::info!("leading");
        let syncs = async {
            sync::run::run(syncs.0, syncs.1, ended(&mut shutdown.clone())).await;
            ensure!(*shutdown.borrow(), "a part of the reconciler ended");
            Ok(())
        };
        let restarts = async {
            restart::run(restarts.0, restarts.1, ended(&mut shutdown.clone())).await;
            ensure!(*shutdown.borrow(), "the restarts ended");
            Ok(())
        };
        tokio::try_join!(syncs, restarts).map(|((), ())| ())
    }
}

/// Of the writes of status, those of restarts: they do not queue behind those of an outage.
fn status_writes_of_restarts(sync: &SyncSettings) -> u32 {
    (sync.status_writes_per_second / 5).max(1)
}

fn restart_settings(sync: &SyncSettings, restart: &RestartSettings) -> restart::Settings {
    let at_once = |limit: NonZeroU32| usize::try_from(limit.get()).unwrap_or(usize::MAX);
    restart::Settings {
        limits: restart::Limits {
            namespace: at_once(restart.max_concurrent_restarts_per_namespace),
            cluster: at_once(restart.max_concurrent_restarts),
        },
        evict_allowed: restart.allow_evict,
        status_writes: status_writes_of_restarts(sync),
    }
}

fn sync_settings(
    cluster: &ClusterSettings,
    sync: SyncSettings,
    restart: &RestartSettings,
    key: TokenKey,
) -> sync::Settings {
    let of_restarts = status_writes_of_restarts(&sync);
    let protected = named(&sync.protected_namespaces).into_iter();
    sync::Settings {
        cluster_name: cluster.cluster_name.clone(),
        default_store: Some(sync.default_store).filter(|store| !store.is_empty()),
        min_interval: sync.min_refresh_interval,
        periodic_reads: sync.periodic_reads,
        allow_operator_identity: sync.allow_operator_identity,
        restart_default: restart.restart_default,
        protected: protected.chain([cluster.operator_namespace.clone()]).collect(),
        never_copied: named(&sync.never_copied),
        token_audiences: named(&cluster.token_audiences),
        status_writes: sync.status_writes_per_second.saturating_sub(of_restarts).max(1),
        seed: seed(&cluster.pod_name),
        key,
    }
}

/// All namespaces, or those named.
fn scope(namespaces: Vec<String>) -> Scope {
    if namespaces.is_empty() {
        return Scope::Cluster;
    }
    Scope::Namespaces(namespaces.into_iter().map(Into::into).collect())
}

/// Takes part in the election until `released`, in a task of its own: however long a decision thinks, the Lease is renewed. It
/// outlives the work, so that the next leader begins when our last write has ended.
async fn lead(lease: Lease, lists: FirstLists, mut released: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        tokio::select! {
            biased;
            () = ended(&mut released) => return Ok(()),
            () = lists.before_election() => {}
        }
        lease.run(async move { ended(&mut released).await }).await
    });
    match task.join_next().await {
        Some(Ok(led)) => Ok(led?),
        Some(Err(_)) | None => {
            anyhow::bail!("the task of the Lease panicked; this is a bug, please report it")
        }
    }
}

/// Once the first lists are there: not ready while no watch at all is heard of. A kind that is forbidden or absent changes
/// nothing as long as any other is followed.
async fn attend(readiness: &watch::Sender<Readiness>, mut lists: FirstLists, ages: cluster::WatchAges) {
    // Their end ends the process.
    lists.complete().await;
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
