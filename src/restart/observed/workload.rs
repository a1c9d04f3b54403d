//! Workloads as the watches keep them.

use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::Resource;

use super::{model::Workload, wire::WireWorkload};
use crate::{
    api::{ObjectKey, WorkloadKind},
    cluster::{Change, Project, Rollout},
};

/// What is kept of a workload: nothing of one that restarts can never concern, so that it costs its name.
pub type IndexedWorkload = Option<Box<Workload>>;

/// A kind of workload.
pub trait Kind: Resource<DynamicType = ()> + Send + Sync + 'static {
    /// Which.
    const KIND: WorkloadKind;
}

impl Kind for Deployment {
    const KIND: WorkloadKind = WorkloadKind::Deployment;
}

impl Kind for StatefulSet {
    const KIND: WorkloadKind = WorkloadKind::StatefulSet;
}

impl Kind for DaemonSet {
    const KIND: WorkloadKind = WorkloadKind::DaemonSet;
}

impl Kind for Rollout {
    const KIND: WorkloadKind = WorkloadKind::Rollout;
}

/// The workloads of one kind.
#[derive(Debug)]
pub struct WorkloadProjection<K>(PhantomData<fn() -> K>);

impl<K> Default for WorkloadProjection<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K: Kind> Project for WorkloadProjection<K> {
    type Kind = K;
    type Object = WireWorkload;
    type Entry = IndexedWorkload;

    fn project(&self, _key: &ObjectKey, object: WireWorkload) -> IndexedWorkload {
        object.workload(K::KIND).map(Box::new)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::Workload(K::KIND, key)
    }
}
