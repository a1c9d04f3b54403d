//! The operator's wiring: rooms made, joined and run until the end.

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::telemetry::Readiness;

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
    pub(super) lease_name: String,
    /// Beside the operator's own.
    pub(super) protected_namespaces: Vec<String>,
    pub(super) token_audiences: Vec<String>,
}

/// The rooms' metrics.
#[derive(Debug, Default)]
pub(super) struct Metrics {}

impl Metrics {
    pub(super) fn register(&self, _registry: &mut Registry) {
        let Self {} = self;
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
        lease_name,
        protected_namespaces,
        token_audiences,
    } = settings;
    tracing::info!(
        cluster_name,
        ?default_store,
        ?namespaces,
        operator_namespace,
        pod_name,
        ?min_refresh_interval,
        periodic_reads,
        allow_operator_identity,
        lease_name,
        ?protected_namespaces,
        ?token_audiences,
        "settings"
    );
    let Metrics {} = metrics;
    drop((shutdown, readiness));
    anyhow::bail!("this build has no reconciler to run")
}
