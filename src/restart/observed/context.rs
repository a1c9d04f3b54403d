//! What restarts are decided from, as the indexes have it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use tokio::{sync::watch, time::Instant};

use super::{
    managed_secrets::ManagedSecret,
    model::{Annotations, Content, Limits, Pod, Workload, WorkloadKey},
    pods::Pods,
    workload::{self, IndexedWorkload, Kind as _},
};
use crate::{
    api::{
        ConditionType, ObjectKey, Reason, WorkloadKind,
        names::{RESTART_DOMAIN, restart_annotation},
    },
    cluster::{Control, Demand, Index, Indexed, Pace, Rollout, Watches},
    objects::{Entry, RestartFault, View, ownership},
    restart::metrics::Metrics,
};

/// What the controller of restarts works with.
pub struct Context {
    /// The cluster.
    pub view: View,
    /// Workloads.
    pub workloads: Workloads,
    /// How many workloads roll out at once.
    pub limits: Limits,
    /// Whether pods may be evicted.
    pub evict_allowed: bool,
    /// Of writes of status.
    pub pace: Pace,
    /// When the clock of `pace` was at zero.
    pub started: Instant,
    /// Counts.
    pub metrics: Metrics,
}

/// What restarts are told at the start.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many workloads roll out at once.
    pub limits: Limits,
    /// Whether pods may be evicted.
    pub evict_allowed: bool,
    /// Writes of status a second.
    pub status_writes: u32,
}

/// The workloads of all kinds.
#[derive(Debug)]
pub struct Workloads {
    deployments: Arc<Index<IndexedWorkload>>,
    stateful_sets: Arc<Index<IndexedWorkload>>,
    daemon_sets: Arc<Index<IndexedWorkload>>,
    rollouts: Arc<Index<IndexedWorkload>>,
    rollouts_known: watch::Receiver<bool>,
}

const KINDS: [WorkloadKind; 4] = [
    Deployment::KIND,
    StatefulSet::KIND,
    DaemonSet::KIND,
    Rollout::KIND,
];

impl Workloads {
    /// Adds their watches, after that of the ExternalSecrets, which demand them. Rollouts are followed once the cluster has
    /// them.
    pub fn watch(watches: &mut Watches, demand: &Demand) -> Self {
        let (rollouts, rollouts_known) =
            watches.optional(workload::WorkloadProjection::<Rollout>::default(), demand);
        Self {
            deployments: watches
                .watch_on_demand(workload::WorkloadProjection::<Deployment>::default(), demand),
            stateful_sets: watches
                .watch_on_demand(workload::WorkloadProjection::<StatefulSet>::default(), demand),
            daemon_sets: watches
                .watch_on_demand(workload::WorkloadProjection::<DaemonSet>::default(), demand),
            rollouts,
            rollouts_known,
        }
    }

    /// Returns once the Rollouts are known too, or that there are none.
    pub async fn known(&self) {
        let mut known = self.rollouts_known.clone();
        // An error is the end of the watches, which ends the process.
        let _end = known.wait_for(|known| *known).await;
    }

    /// Whether all workloads of a namespace are known in which an ExternalSecret enables restarts. Before that, waves,
    /// limits and progress cannot be computed. Rollouts count once the cluster has them.
    pub fn cover(&self, namespace: &str) -> bool {
        KINDS.iter().all(|kind| self.of(*kind).covers(namespace))
    }

    fn of(&self, kind: WorkloadKind) -> &Index<IndexedWorkload> {
        match kind {
            WorkloadKind::Deployment => &self.deployments,
            WorkloadKind::StatefulSet => &self.stateful_sets,
            WorkloadKind::DaemonSet => &self.daemon_sets,
            WorkloadKind::Rollout => &self.rollouts,
        }
    }

    /// The workload, if it is known and restarts can concern it.
    pub fn get(&self, key: &WorkloadKey) -> Option<Arc<IndexedWorkload>> {
        match self.of(key.kind).get(&key.key)? {
            Indexed::Entry(known) => known.is_some().then_some(known),
            Indexed::Malformed(_) => None,
        }
    }

    /// Whether the workload exists, also where restarts cannot concern it.
    pub fn exists(&self, key: &WorkloadKey) -> bool {
        self.of(key.kind).with(&key.key, |_| ()).is_some()
    }

    /// Sorts the pods of a namespace, listed after `at`, by workload.
    pub fn sort_pods(&self, namespace: &Arc<str>, at: Timestamp, pods: Vec<Pod>) -> Pods {
        Pods::new(at, pods, |name| {
            let key = ObjectKey::new(Arc::clone(namespace), name);
            [&self.deployments, &self.rollouts]
                .iter()
                .any(|index| index.with(&key, |_| ()).is_some())
        })
    }

    /// Those of a namespace that restarts can concern, in no order.
    pub fn keys_in(&self, namespace: &str) -> Vec<WorkloadKey> {
        let mut keys = Vec::new();
        for kind in KINDS {
            let is_in = |key: &ObjectKey, indexed: &Indexed<IndexedWorkload>| {
                *key.namespace == *namespace && indexed.entry().is_some_and(Option::is_some)
            };
            let found = self.of(kind).keys_where(is_in);
            keys.extend(found.into_iter().map(|key| WorkloadKey { kind, key }));
        }
        keys
    }

    /// Those that restarts can concern, in no order.
    pub fn for_each(&self, mut look: impl FnMut(WorkloadKey, &Workload)) {
        for kind in KINDS {
            self.of(kind).for_each(|key, indexed| {
                if let Some(workload) = indexed.entry().and_then(Option::as_deref) {
                    let key = key.clone();
                    look(WorkloadKey { kind, key }, workload);
                }
            });
        }
    }
}

impl Context {
    /// What the controller of restarts works with.
    pub fn new(view: View, workloads: Workloads, settings: Settings, metrics: Metrics) -> Self {
        let Settings {
            limits,
            evict_allowed,
            status_writes,
        } = settings;
        Self {
            view,
            workloads,
            limits,
            evict_allowed,
            pace: Pace::new(status_writes),
            started: Instant::now(),
            metrics,
        }
    }

    /// An ExternalSecret with its Secret, if workloads are to follow it.
    pub fn managed_secret(&self, object: &ObjectKey) -> Option<ManagedSecret> {
        let (restarts, target, uid) = self.view.objects.with(object, |indexed| {
            let entry = indexed.entry().filter(|entry| !entry.ending)?;
            let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
            Some((Arc::clone(entry.restart.as_ref()?), target, entry.uid.clone()))
        })??;
        let content = self.view.secrets.with(&target, |indexed| {
            let secret = indexed.entry()?;
            if !ownership(object, &uid, secret).is_own() {
                return None;
            }
            let annotation = restart_annotation(&target.name);
            let hash = annotation.strip_prefix(RESTART_DOMAIN)?.strip_prefix('/')?;
            Some(Content {
                object: object.clone(),
                secret: (*target.name).into(),
                hash: hash.into(),
                rollout: secret.rollout.clone()?,
                token: secret.rollout.clone()?,
                // Without `restart-since` on the Secret, an old change could be taken for a new one.
                changed_at: secret.changed_at.filter(|_| secret.restart_since.is_some()),
                key_changes: secret.key_changes(),
                since: secret.restart_since,
                reloader: secret.reloader(),
            })
        })??;
        Some(ManagedSecret {
            content: Arc::new(content),
            restarts,
        })
    }

    /// The annotations of a Namespace.
    pub fn namespace_annotations(&self, namespace: &Arc<str>) -> Annotations {
        let key = ObjectKey::new("", Arc::clone(namespace));
        let annotations = self.view.namespaces.with(&key, |indexed| {
            let entry = indexed.entry()?;
            Some(Annotations::of_namespace(&entry.annotations))
        });
        annotations.flatten().unwrap_or_default()
    }

    /// The ConfigMap, if there is one.
    pub fn control(&self) -> Option<Control> {
        let mut found = None;
        self.view
            .control
            .for_each(|_, indexed| found = indexed.entry().cloned());
        found
    }

    /// Whether the status of an ExternalSecret shows that an approval is missing.
    pub fn awaits_approval(&self, object: &ObjectKey) -> bool {
        self.reported(object) == Some(Reason::AwaitingApproval)
    }

    /// The reason of the condition `RestartsComplete` in the status of an ExternalSecret.
    pub fn reported(&self, object: &ObjectKey) -> Option<Reason> {
        let reason = |indexed: &Indexed<Entry>| {
            let reasons = indexed.entry()?.status.reasons;
            reasons.of_condition(ConditionType::RestartsComplete)
        };
        self.view.objects.with(object, reason).flatten()
    }

    /// The fault in the `restart` or `rotation` of an ExternalSecret.
    pub fn fault(&self, object: &ObjectKey) -> Option<Arc<RestartFault>> {
        let fault = |indexed: &Indexed<Entry>| {
            let entry = indexed.entry().filter(|entry| !entry.ending)?;
            entry.fault.clone()
        };
        self.view.objects.with(object, fault).flatten()
    }

    /// The uid and generation of an ExternalSecret.
    pub fn identity(&self, object: &ObjectKey) -> Option<(Box<str>, i64)> {
        let identity = |indexed: &Indexed<Entry>| {
            let entry = indexed.entry()?;
            Some((entry.uid.clone(), entry.generation))
        };
        self.view.objects.with(object, identity).flatten()
    }
}
