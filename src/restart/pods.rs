//! Pods by the workload that they may belong to. Pure.

use std::{collections::HashMap, sync::Arc};

use super::{model::Pod, need};

/// Pods of one namespace. Selectors may overlap, by mistake or on purpose: what bears a workload's name is looked at for that
/// one only, so that no pod is counted twice and a look is hardly longer than the list.
#[derive(Debug, Default)]
pub struct Pods {
    named: HashMap<Box<str>, Vec<Arc<Pod>>>,
    /// Those of `ReplicaSets` that bear no workload's name: whoever adopted them, their selector tells.
    strays: Vec<Arc<Pod>>,
    /// Whether there were more of these than are held against every workload.
    too_many: bool,
}

/// So many strays are held against every workload.
const STRAYS: usize = 500;

impl Pods {
    /// Sorts `pods`; `is_workload` says whether there is a Deployment or a Rollout of a name.
    pub fn new(pods: Vec<Pod>, is_workload: impl Fn(&str) -> bool) -> Self {
        let mut sorted = Self::default();
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
        sorted.too_many = sorted.strays.len() > STRAYS;
        sorted.strays.truncate(STRAYS);
        sorted
    }

    /// Whether all pods are there: else what they do not show proves nothing.
    pub fn is_whole(&self) -> bool {
        !self.too_many
    }

    /// Those that may belong to a workload of this name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.named.get(name).into_iter().flatten().chain(&self.strays)
    }
}
