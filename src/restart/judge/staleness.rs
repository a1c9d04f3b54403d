//! Does a live pod hold old content? Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    membership::{Terms, use_of},
    rollout,
};
use crate::{
    api::WorkloadKind,
    restart::observed::model::{
        Container, Content, Expression, Pod, PodSelector, Texts, Update, Use, Workload, WorkloadKey,
    },
};

/// A pod made this soon after the change may still have been given the old content: kubelets read from a cache, and times
/// have whole seconds.
pub const CREATED_MARGIN: SignedDuration = SignedDuration::from_secs(10);
/// A container started later than this after the change holds the new content in an old pod, too: by then the kubelet's
/// cache is renewed.
pub const STARTED_MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// The label by which Argo Rollouts marks the pods of its `ReplicaSets`.
const OF_ROLLOUT: &str = "rollouts-pod-template-hash";

/// Whether the last change of the content asks for restarts at all. What is older than the wish for restarts does not.
pub fn counts(content: &Content) -> bool {
    content
        .changed_at
        .is_some_and(|changed| content.since.is_none_or(|since| changed >= since))
}

/// The workload's pods.
pub fn pods_of<'a>(
    key: &WorkloadKey,
    workload: &Workload,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Vec<&'a Pod> {
    pods.into_iter().filter(|pod| is_of(key, workload, pod)).collect()
}

/// Whether the pod is one of the workload's.
pub fn is_of(key: &WorkloadKey, workload: &Workload, pod: &Pod) -> bool {
    controls(key, pod) && selects(&workload.selector, &pod.labels)
}

/// Those of the workload's `pods` that hold content from before the last change.
pub fn stale<'a>(terms: &Terms, workload: &Workload, content: &Content, pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let Some(changed) = content.changed_at.filter(|_| counts(content)) else {
        return Vec::new();
    };
    let found = use_of(workload, content);
    if terms.hot_reload && found.is_some_and(|found| found.fixed.is_empty()) {
        return Vec::new();
    }
    let stale = |pod: &&Pod| {
        lives(pod)
            && pod.tokens.get(&content.hash) != Some(&content.token)
            && pod.created <= later(changed, CREATED_MARGIN)
            && !found.is_some_and(|found| acquitted(found, pod, changed))
    };
    pods.iter().copied().filter(stale).collect()
}

/// Whether it is known without its pods that nothing is stale: its template carries the token and its controller has replaced
/// every pod. The age of a workload tells nothing: one that was made anew may have adopted the pods of its predecessor.
pub fn told_by_template(key: &WorkloadKey, workload: &Workload, content: &Content) -> bool {
    content.changed_at.is_none()
        || workload.tokens.get(&content.hash) == Some(&content.token)
            && workload.update == (Update::Rolling { partition: 0 })
            && !workload.borrowed_template
            && rollout::rolled_out(key.kind, workload)
}

/// Whether the pod does its work, or is about to.
pub fn lives(pod: &Pod) -> bool {
    !pod.ending && !pod.finished
}

/// `time` and `by` later, at most the end of time.
pub fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Whether the pod's containers started so late that they were given the new content. A plain mount is renewed by the kubelet,
/// but an application may have read it at its start, and any container may be the one: so all of them count.
fn acquitted(found: &Use, pod: &Pod, changed: Timestamp) -> bool {
    let late = later(changed, STARTED_MARGIN);
    let started_late = |container: &Container| container.started.is_some_and(|started| started > late);
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

fn controls(key: &WorkloadKey, pod: &Pod) -> bool {
    let Some((kind, name)) = &pod.controller else {
        // One that lost its set is adopted by the next set of its name, a moment after that was made.
        let adopts = matches!(key.kind, WorkloadKind::StatefulSet | WorkloadKind::DaemonSet);
        return adopts && base(&pod.name) == Some(&*key.key.name);
    };
    match key.kind {
        // A Rollout may borrow the template of a Deployment, and its selector with it.
        WorkloadKind::Deployment => &**kind == "ReplicaSet" && !pod.labels.contains_key(OF_ROLLOUT),
        WorkloadKind::Rollout => &**kind == "ReplicaSet" && pod.labels.contains_key(OF_ROLLOUT),
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
            **kind == *key.kind.as_str() && **name == *key.key.name
        }
    }
}

/// The name of who made what has this name: a hash or a number follows it.
pub fn base(name: &str) -> Option<&str> {
    name.rsplit_once('-').map(|(base, _)| base)
}

fn selects(selector: &PodSelector, labels: &Texts) -> bool {
    let PodSelector {
        labels: wanted,
        expressions,
    } = selector;
    // The API server refuses an empty selector: here it is one that could not be read.
    !(wanted.is_empty() && expressions.is_empty())
        && wanted
            .iter()
            .all(|(label, value)| labels.get(label) == Some(value))
        && expressions.iter().all(|expression| fits(expression, labels))
}

fn fits(expression: &Expression, labels: &Texts) -> bool {
    let Expression {
        key,
        operator,
        values,
    } = expression;
    let value = labels.get(key);
    match &**operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
