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

use crate::{api::ConditionType, objects::Tally};

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

/// The labels of ExternalSecrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    /// Which condition.
    pub condition: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Its reason; empty where nothing was said yet.
    pub reason: &'static str,
}

impl From<(ConditionType, &'static str, &'static str)> for ConditionLabels {
    fn from((type_, status, reason): (ConditionType, &'static str, &'static str)) -> Self {
        Self {
            condition: type_.as_str(),
            status,
            reason,
        }
    }
}

/// The label of what is held up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HeldLabels {
    /// `sync` or `restarts`.
    pub what: &'static str,
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
    /// ExternalSecrets by what their conditions say.
    pub conditions: Family<ConditionLabels, Gauge>,
    /// What `keyturn-control` holds up.
    pub held: Family<HeldLabels, Gauge>,
    /// Deletions that wait for a person.
    pub deletions_held: Gauge,
    /// Stores that let every namespace read everything.
    pub unrestricted_stores: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            passes: Family::default(),
            // 100 us to about 100 s.
            duration: Histogram::new(exponential_buckets(0.0001, 4.0, 11)),
            queue: Family::default(),
            conditions: Family::default(),
            held: Family::default(),
            deletions_held: Gauge::default(),
            unrestricted_stores: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Shows what is held up.
    pub fn hold(&self, sync: bool, restarts: bool) {
        for (what, held) in [("sync", sync), ("restarts", restarts)] {
            self.held.get_or_create(&HeldLabels { what }).set(i64::from(held));
        }
    }

    /// Shows `now` where `former` was shown.
    pub fn show(&self, former: &Tally, now: &Tally) {
        for (said, count) in now.counts() {
            self.conditions.get_or_create(&said.into()).set(count);
        }
        for said in now.gone(former) {
            self.conditions.remove(&said.into());
        }
    }

    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            passes,
            duration,
            queue,
            conditions,
            held,
            deletions_held,
            unrestricted_stores,
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
        registry.register(
            "externalsecrets",
            "ExternalSecrets, by what each of their conditions says",
            conditions.clone(),
        );
        registry.register(
            "held_up",
            "Whether the ConfigMap keyturn-control holds something up now, in any namespace: 1 or 0",
            held.clone(),
        );
        registry.register(
            "deletions_held",
            "ExternalSecrets whose Secret would lose data that are gone in AWS, once a person confirms it",
            deletions_held.clone(),
        );
        registry.register(
            "unrestricted_stores",
            "ClusterSecretStores that let every namespace read whatever their identity may read",
            unrestricted_stores.clone(),
        );
    }
}
