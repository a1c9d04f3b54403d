//! Pods by the workload that they may belong to. Pure.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::model::{Expression, Pod, PodSelector, Texts, Workload, WorkloadKey};
use crate::api::WorkloadKind;

/// The time of a list that lacks pods: before any change, so that what it does not show proves nothing.
pub const PROVES_NOTHING: Timestamp = Timestamp::UNIX_EPOCH;

/// Pods of one namespace. Selectors may overlap, by mistake or on purpose: a pod that bears a workload's name is assigned
/// to that workload only. So no pod is counted twice, and judging takes hardly longer than the list is long.
#[derive(Debug)]
pub struct Pods {
    at: Timestamp,
    named: HashMap<Box<str>, Vec<Arc<Pod>>>,
    /// Pods of `ReplicaSets` that bear no workload's name: another workload may have adopted them, as its selector shows.
    strays: Vec<Arc<Pod>>,
    /// The positions of strays by each of their labels, so that few of them are compared for a workload.
    labelled: HashMap<Box<str>, HashMap<Box<str>, Vec<usize>>>,
}

/// The pods that may belong to one workload.
#[derive(Debug)]
pub struct OwnPods<'a> {
    /// A time before they were listed; long before it where some may be missing.
    pub at: Timestamp,
    /// The pods.
    pub pods: Vec<&'a Arc<Pod>>,
}

/// A workload for which more strays than that would have to be gone through is not taken for done by its pods.
const STRAYS: usize = 5000;

impl Pods {
    /// Sorts `pods`, listed after `at`; `is_workload` tells whether a Deployment or a Rollout of a name exists.
    pub fn new(at: Timestamp, pods: Vec<Pod>, is_workload: impl Fn(&str) -> bool) -> Self {
        let mut sorted = Self {
            at,
            named: HashMap::new(),
            strays: Vec::new(),
            labelled: HashMap::new(),
        };
        for pod in pods {
            let name = match &pod.controller {
                Some((kind, controller)) if **kind == *"ReplicaSet" => {
                    base(controller).filter(|name| is_workload(name))
                }
                Some((_, controller)) => Some(&**controller),
                // Only a set of its name adopts it.
                None => match base(&pod.name) {
                    Some(name) => Some(name),
                    None => continue,
                },
            };
            match name {
                Some(name) => sorted.named.entry(name.into()).or_default().push(Arc::new(pod)),
                None => sorted.stray(pod),
            }
        }
        sorted
    }

    fn stray(&mut self, pod: Pod) {
        for (label, value) in pod.labels.iter() {
            let values = self.labelled.entry(label.clone()).or_default();
            values.entry(value.clone()).or_default().push(self.strays.len());
        }
        self.strays.push(Arc::new(pod));
    }

    /// Those that may belong to the workload of this name and selector.
    pub fn of(&self, name: &str, selector: &PodSelector) -> OwnPods<'_> {
        let named = self.named.get(name).into_iter().flatten();
        // Each label of the selector must be theirs: the rarest one leaves the fewest.
        let with = |label: &str, value: &str| {
            let found = self.labelled.get(label).and_then(|values| values.get(value));
            found.map_or(&[][..], Vec::as_slice)
        };
        let labels = selector.labels.iter();
        let rarest = labels
            .map(|(label, value)| with(label, value))
            .min_by_key(|found| found.len());
        let (strays, count): (Vec<&Arc<Pod>>, usize) = match rarest {
            Some(found) => {
                let strays = found.iter().filter_map(|at| self.strays.get(*at));
                (strays.take(STRAYS).collect(), found.len())
            }
            None => (self.strays.iter().take(STRAYS).collect(), self.strays.len()),
        };
        OwnPods {
            at: if count > STRAYS { PROVES_NOTHING } else { self.at },
            pods: named.chain(strays).collect(),
        }
    }
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
    let bears_name = || {
        let controller = pod.controller.as_ref();
        controller.is_some_and(|(_, name)| base(name) == Some(&*key.key.name))
    };
    controls(key, pod)
        && (selects(&workload.selector, &pod.labels) || borrows_selector(workload) && bears_name())
}

/// Whether the workload is a Rollout that has its selector, like its template, of another workload (`spec.workloadRef`).
/// Its pods are those of the `ReplicaSets` that bear its name, as Argo Rollouts makes them for it.
pub fn borrows_selector(workload: &Workload) -> bool {
    let PodSelector { labels, expressions } = &workload.selector;
    workload.controller.borrowed_template && labels.is_empty() && expressions.is_empty()
}

/// The label by which Argo Rollouts marks the pods of its `ReplicaSets`.
pub const OF_ROLLOUT: &str = "rollouts-pod-template-hash";

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
