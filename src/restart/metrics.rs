//! Numbers of restarts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// The labels of restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RestartLabels {
    /// The workload's kind.
    pub kind: &'static str,
    /// `triggered`, `completed`, `failed` or `refused`.
    pub result: &'static str,
}

/// The label of workloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// `pending`, `in_flight`, `failed` or `halted`.
    pub state: &'static str,
}

/// The metrics of this room.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Restarts.
    pub restarts: Family<RestartLabels, Counter>,
    /// Workloads that are not as they should be.
    pub workloads: Family<StateLabels, Gauge>,
    /// Pods that hold older content.
    pub stale_pods: Gauge,
    /// The first deadline of what is not done: seconds since 1970, 0 without one.
    pub deadline: Gauge,
    /// Restarts that were taken back.
    pub reverted: Counter,
    /// From the change of the Secret until a workload is healthy with it.
    pub lag: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            restarts: Family::default(),
            workloads: Family::default(),
            stale_pods: Gauge::default(),
            deadline: Gauge::default(),
            reverted: Counter::default(),
            // 5 s to about a day.
            lag: Histogram::new(exponential_buckets(5.0, 3.0, 10)),
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            restarts,
            workloads,
            stale_pods,
            deadline,
            reverted,
            lag,
        } = self;
        registry.register(
            "restarts",
            "Restarts of workloads, by kind and what came of them",
            restarts.clone(),
        );
        registry.register(
            "restart_workloads",
            "Workloads that do not hold the present content, by state",
            workloads.clone(),
        );
        registry.register(
            "restart_stale_pods",
            "Pods of workloads that wait for a restart, as far as they are known, that hold older content of a Secret",
            stale_pods.clone(),
        );
        registry.register_with_unit(
            "restart_deadline_timestamp",
            "When the first old credential dies that a workload still has to leave, as a Unix time; 0 where none is known",
            Unit::Seconds,
            deadline.clone(),
        );
        registry.register(
            "restart_reverted",
            "Restarts that somebody took back",
            reverted.clone(),
        );
        registry.register_with_unit(
            "restart_lag",
            "From the change of a Secret until a workload is healthy with it",
            Unit::Seconds,
            lag.clone(),
        );
    }

    /// Counts one restart.
    pub(super) fn count(&self, kind: &'static str, result: &'static str) {
        self.restarts.get_or_create(&RestartLabels { kind, result }).inc();
    }

    /// Says how many workloads are in a state.
    pub(super) fn state(&self, state: &'static str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.workloads.get_or_create(&StateLabels { state }).set(count);
    }
}
