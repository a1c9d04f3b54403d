//! Does a live pod hold old content? Pure.

use jiff::Timestamp;

use super::{membership::Terms, rollout};
use crate::restart::{
    observed::model::{Container, Content, Pod, UpdateStrategy, Use, Workload, WorkloadKey},
    timing::{CREATED_MARGIN, STARTED_MARGIN, later},
};

/// Those of the workload's `pods` that hold content from before the last change.
pub fn stale<'a>(terms: Terms, workload: &Workload, content: &Content, pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let Some(changed) = content.changed_at.filter(|_| content.asks_for_restarts()) else {
        return Vec::new();
    };
    let found = workload.use_of(&content.secret);
    if terms.hot_reload && found.is_some_and(|found| found.fixed.is_empty()) {
        return Vec::new();
    }
    let stale = |pod: &&Pod| {
        pod.lives()
            && pod.tokens.get(&content.hash) != Some(&content.token)
            && pod.created <= later(changed, CREATED_MARGIN)
            && !found.is_some_and(|found| acquitted(found, pod, changed))
    };
    pods.iter().copied().filter(stale).collect()
}

/// Whether it is known without its pods that nothing is stale: its template carries the token and its controller has
/// replaced every pod. The age of a workload proves nothing: a workload that was deleted and created again may have
/// adopted the pods of its predecessor.
pub fn told_by_template(key: &WorkloadKey, workload: &Workload, content: &Content) -> bool {
    content.changed_at.is_none()
        || workload.stamps.tokens.get(&content.hash) == Some(&content.token)
            && workload.controller.update == (UpdateStrategy::Rolling { partition: 0 })
            && !workload.controller.borrowed_template
            && rollout::rolled_out(key.kind, workload)
}

/// Whether the pod's containers were started again so late that they were given the new content. A plain mount is renewed by
/// the kubelet, but an application may have read it at its start, and any container may be the one: so all of them count. The
/// first start of a container proves nothing that the age of the pod does not: only the clock of its node could tell it apart.
fn acquitted(found: &Use, pod: &Pod, changed: Timestamp) -> bool {
    let late = later(later(changed, STARTED_MARGIN), pod.clock_ahead);
    let started_late = |container: &Container| {
        container.restarts > 0 && container.started.is_some_and(|started| started > late)
    };
    if found.init || pod.containers.is_empty() {
        return false;
    }
    if found.mounted {
        return pod.containers.iter().all(started_late);
    }
    let mut holders = found.fixed.iter();
    holders.all(|name| {
        pod.containers
            .iter()
            .find(|container| container.name == *name)
            .is_some_and(started_late)
    })
}
