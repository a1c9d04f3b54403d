//! Pods by the workload that they may belong to. Pure.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::model::{Pod, PodSelector};
use crate::restart::judge::staleness;

/// The time of a list that lacks pods: before any change, so that what it does not show proves nothing.
pub const PROVES_NOTHING: Timestamp = Timestamp::UNIX_EPOCH;

/// Pods of one namespace. Selectors may overlap, by mistake or on purpose: what bears a workload's name is looked at for that
/// one only, so that no pod is counted twice and a look is hardly longer than the list.
#[derive(Debug)]
pub struct Pods {
    at: Timestamp,
    named: HashMap<Box<str>, Vec<Arc<Pod>>>,
    /// Those of `ReplicaSets` that bear no workload's name: whoever adopted them, their selector tells.
    strays: Vec<Arc<Pod>>,
    /// The places of strays by each of their labels, so that a workload goes through few of them.
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
    /// Sorts `pods`, listed after `at`; `is_workload` says whether there is a Deployment or a Rollout of a name.
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
                    staleness::base(controller).filter(|name| is_workload(name))
                }
                Some((_, controller)) => Some(&**controller),
                // A set of its name adopts it; nobody else does.
                None => match staleness::base(&pod.name) {
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
