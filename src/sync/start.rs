//! The parts of the reconciler, put together.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Rules,
    driver::{Provider, Tracking},
    metrics::Metrics,
    reconcile::{Capacity, Context, Memories, PassSettings, ValueBudget, WriteSlots},
    stores::{Parts, Stores},
    work::{Clock, Work},
};
use crate::{
    api::{RestartMode, Selector, SourceId, TokenKey},
    aws::{self, Aws, AwsConfig, Reader},
    cluster::{Index, Pace, Tokens, Watches},
    objects::{ClusterSecretStores, SecretStores, StoreEntry, View},
    track::{self, Tracker},
};

/// Passes under way at once. Most of them wait for AWS; the write slots bound what they do to Kubernetes.
const PASSES: usize = 512;
/// Stores proved at once.
const STORES: usize = 16;

/// What the reconciler is told at the start.
pub struct Settings {
    /// The name of the cluster in role session names.
    pub cluster_name: String,
    /// The ClusterSecretStore of ExternalSecrets that name none.
    pub default_store: Option<String>,
    /// Shorter refresh intervals are raised to this one.
    pub min_interval: Duration,
    /// Whether values may be read to find out whether they changed.
    pub periodic_reads: bool,
    /// Whether a SecretStore without `auth` may use the operator's own identity.
    pub allow_operator_identity: bool,
    /// What applies to restarts where a spec says nothing.
    pub restart_default: RestartMode,
    /// Namespaces whose Secrets are never written.
    pub protected: Vec<String>,
    /// Names and domains of labels and annotations that are not copied to Secrets.
    pub never_copied: Vec<String>,
    /// Audiences for which tokens may be requested.
    pub token_audiences: Vec<String>,
    /// Writes of status a second.
    pub status_writes: u32,
    /// Makes the back-offs of replicas differ.
    pub seed: u64,
    /// The key of the tokens.
    pub key: TokenKey,
}

/// The indexes of stores.
pub struct StoreIndexes {
    namespaced: Arc<Index<StoreEntry>>,
    cluster: Arc<Index<StoreEntry>>,
}

impl StoreIndexes {
    /// Adds their watches.
    pub fn watch(watches: &mut Watches) -> Self {
        Self {
            namespaced: watches.watch(SecretStores),
            cluster: watches.watch(ClusterSecretStores),
        }
    }
}

/// What passes share, with a client of AWS from the environment.
pub async fn start(
    view: View,
    stores: StoreIndexes,
    settings: Settings,
    metrics: Metrics,
    calls: aws::Metrics,
) -> anyhow::Result<Arc<Context>> {
    let clock = Clock::start();
    let tracking = Arc::new(Tracking::new(
        clock,
        Tracker::new(track::Config {
            min_interval: settings.min_interval,
            periodic_reads: settings.periodic_reads,
            seed: settings.seed,
        }),
    ));
    let subscribers = tracking.clone();
    let config = AwsConfig {
        region: None,
        instance_metadata: false,
        tokens: Arc::new(Tokens::new(
            view.writer.cluster().clone(),
            settings.token_audiences,
        )),
        subscribers: Arc::new(move |source: SourceId, key: &Arc<str>, selector: &Selector| {
            subscribers.ask(|tracker| tracker.subscribers(source, key, selector))
        }),
    };
    let aws = Arc::new(Aws::from_environment(config, calls).await?);
    let stores = Arc::new(Stores::new(Parts {
        namespaced: stores.namespaced,
        cluster: stores.cluster,
        rules: Rules {
            cluster: settings.cluster_name,
            region: aws.region().map(Into::into),
            allow_operator_identity: settings.allow_operator_identity,
        },
        default_store: settings.default_store.map(Into::into),
        aws: aws.clone(),
        tracking: tracking.clone(),
        writer: view.writer.clone(),
        events: view.events.clone(),
        time: view.time.clone(),
        work: Work::new(clock, STORES, settings.seed),
    }));
    Ok(Arc::new(Context {
        view,
        stores,
        provider: Provider {
            tracking,
            reader: Arc::new(Reader::new(aws.clone())),
            aws,
        },
        clock,
        key: settings.key,
        work: Arc::new(Work::new(clock, PASSES, settings.seed)),
        settings: PassSettings {
            min_interval: settings.min_interval,
            restart_default: settings.restart_default,
            protected: settings.protected,
            never_copied: settings.never_copied,
        },
        capacity: Capacity {
            values: ValueBudget::default(),
            slots: WriteSlots::default(),
            pace: Pace::new(settings.status_writes),
        },
        metrics,
        memory: Memories::default(),
        deletions: Mutex::default(),
    }))
}
