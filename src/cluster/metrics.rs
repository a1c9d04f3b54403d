//! What this room counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Metrics of the calls to the API server, the watches and the indexes. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) requests: Family<Request, Counter>,
    pub(super) restarts: Family<WatchRestart, Counter>,
    pub(super) malformed: Family<OfKind, Counter>,
    pub(super) indexed: Family<OfKind, Gauge>,
    pub(super) events_dropped: Counter,
    pub(super) alerts_dropped: Counter,
    pub(super) leading: Gauge,
}

/// Labels of a call.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) verb: &'static str,
    pub(super) kind: &'static str,
    pub(super) result: &'static str,
}

/// Labels of a watch that had to start again.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct WatchRestart {
    pub(super) kind: &'static str,
    pub(super) cause: &'static str,
}

/// Labels of what is counted by kind only.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfKind {
    pub(super) kind: &'static str,
}

impl Metrics {
    /// Registers them all under the given registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            requests,
            restarts,
            malformed,
            indexed,
            events_dropped,
            alerts_dropped,
            leading,
        } = self.clone();
        registry.register(
            "kubernetes_requests",
            "Calls to the API server by result",
            requests,
        );
        registry.register(
            "watch_restarts",
            "Watches that failed or had to list again",
            restarts,
        );
        registry.register("malformed_objects", "Objects that could not be read", malformed);
        registry.register("indexed_objects", "Objects in the indexes", indexed);
        registry.register(
            "events_dropped",
            "Events not sent: queue full, refused or late",
            events_dropped,
        );
        registry.register(
            "alerts_dropped",
            "Alerts that nobody took in time",
            alerts_dropped,
        );
        registry.register("leader", "1 while this replica holds the lease", leading);
    }
}
