//! What this room counts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::time::Instant;

/// Metrics of the calls to the API server, the watches and the indexes. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) requests: Family<Request, Counter>,
    pub(super) restarts: Family<WatchRestart, Counter>,
    pub(super) malformed: Family<OfKind, Counter>,
    pub(super) indexed: Family<OfKind, Gauge>,
    pub(super) uncovered: Family<OfKind, Gauge>,
    pub(super) watches: WatchAges,
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
            uncovered,
            watches,
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
            "Watches that failed, fell silent or had to list again",
            restarts,
        );
        registry.register_collector(Box::new(watches));
        registry.register("malformed_objects", "Objects that could not be read", malformed);
        registry.register("indexed_objects", "Objects in the indexes", indexed);
        registry.register(
            "uncovered_namespaces",
            "Namespaces in which an ExternalSecret asks for restarts and whose workloads are not all listed yet",
            uncovered,
        );
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

/// When the watches of a process were last heard of. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct WatchAges(Arc<Mutex<Vec<WatchAge>>>);

/// A watch by its kind.
type WatchAge = (&'static str, Weak<Heard>);

/// When one watch was last heard of. It is known for as long as it is held.
#[derive(Debug)]
pub(super) struct Heard(Mutex<Instant>);

impl Heard {
    /// A sign of life.
    pub(super) fn now(&self) {
        *lock(&self.0) = Instant::now();
    }
}

impl WatchAges {
    /// A watch begins.
    pub(super) fn begin(&self, kind: &'static str) -> Arc<Heard> {
        let heard = Arc::new(Heard(Mutex::new(Instant::now())));
        let mut watches = lock(&self.0);
        watches.retain(|(_, heard)| heard.strong_count() > 0);
        watches.push((kind, Arc::downgrade(&heard)));
        heard
    }

    /// For how long none of them has been heard of; none where nothing is watched.
    pub fn silence(&self) -> Option<Duration> {
        self.ages().map(|(_, age)| age).min()
    }

    fn ages(&self) -> impl Iterator<Item = (&'static str, Duration)> + use<> {
        let watches = lock(&self.0).clone();
        watches.into_iter().filter_map(|(kind, heard)| {
            let heard = *lock(&heard.upgrade()?.0);
            Some((kind, heard.elapsed()))
        })
    }
}

impl Collector for WatchAges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut oldest: BTreeMap<&'static str, Duration> = BTreeMap::new();
        for (kind, age) in self.ages() {
            let oldest = oldest.entry(kind).or_default();
            *oldest = age.max(*oldest);
        }
        let mut family = encoder.encode_descriptor(
            "watch_silence",
            "Time since the API server last sent something to the watch of a kind, of several the longest",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (kind, age) in oldest {
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&OfKind { kind })?)?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
