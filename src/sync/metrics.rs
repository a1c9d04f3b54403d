//! Numbers of the reconciler.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Nothing more to do.
    Well,
    /// Looked at again later.
    Again,
    /// Tried again after a back-off.
    Failed,
    /// A bug: the pass panicked.
    Panicked,
}

/// The label of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassLabels {
    /// How they ended.
    pub outcome: Outcome,
}

/// The label of queues.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabels {
    /// `urgent`, `periodic` or `running`.
    pub state: &'static str,
}

/// The metrics of this room.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes over ExternalSecrets.
    pub passes: Family<PassLabels, Counter>,
    /// How long passes take.
    pub duration: Histogram,
    /// Objects in the queue.
    pub queue: Family<QueueLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            passes: Family::default(),
            // 100 us to about 100 s.
            duration: Histogram::new(exponential_buckets(0.0001, 4.0, 11)),
            queue: Family::default(),
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            passes,
            duration,
            queue,
        } = self;
        registry.register(
            "reconcile_passes",
            "Passes over ExternalSecrets, by how they ended",
            passes.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "How long a pass over an ExternalSecret takes, reads of AWS included",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register(
            "reconcile_queue",
            "ExternalSecrets in the work queue, by state",
            queue.clone(),
        );
    }
}
