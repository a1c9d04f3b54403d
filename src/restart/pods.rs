//! Pods by the workload that they may belong to. Pure.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::{model::Pod, need};

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
}

/// So many strays are held against every workload.
const STRAYS: usize = 500;

impl Pods {
    /// Sorts `pods`, listed after `at`; `is_workload` says whether there is a Deployment or a Rollout of a name.
    pub fn new(at: Timestamp, pods: Vec<Pod>, is_workload: impl Fn(&str) -> bool) -> Self {
        let mut sorted = Self {
            at,
            named: HashMap::new(),
            strays: Vec::new(),
        };
        for pod in pods {
            let name = match &pod.controller {
                Some((kind, controller)) if **kind == *"ReplicaSet" => {
                    need::base(controller).filter(|name| is_workload(name))
                }
                Some((_, controller)) => Some(&**controller),
                // A set of its name adopts it; nobody else does.
                None => match need::base(&pod.name) {
                    Some(name) => Some(name),
                    None => continue,
                },
            };
            let of = match name {
                Some(name) => sorted.named.entry(name.into()).or_default(),
                None => &mut sorted.strays,
            };
            of.push(Arc::new(pod));
        }
        if sorted.strays.len() > STRAYS {
            sorted.strays.truncate(STRAYS);
            sorted.at = PROVES_NOTHING;
        }
        sorted
    }

    /// A time before they were listed; long before it where some are missing.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Those that may belong to a workload of this name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.named.get(name).into_iter().flatten().chain(&self.strays)
    }
}
