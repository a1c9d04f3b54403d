//! Entries of `restart.targets` that stand for no workload. Pure.

use crate::api::{RestartTarget, WorkloadKind};

/// An entry of `restart.targets` that stands for no workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingTarget {
    /// The place of the entry in the list.
    pub index: usize,
    /// The kind.
    pub kind: WorkloadKind,
    /// The name; none where the entry selects by labels.
    pub name: Option<Box<str>>,
}

/// The entries of `targets` that stand for no workload, where `is_known` tells whether an entry stands for any.
pub fn missing(targets: &[RestartTarget], is_known: impl Fn(&RestartTarget) -> bool) -> Vec<MissingTarget> {
    let entries = targets.iter().enumerate();
    entries
        .filter(|(_, target)| !is_known(target))
        .map(|(index, target)| MissingTarget {
            index,
            kind: target.kind,
            name: target
                .name
                .as_deref()
                .filter(|_| target.selector.is_none())
                .map(Into::into),
        })
        .collect()
}

impl MissingTarget {
    /// What is wrong, and what to do, in a sentence.
    pub fn sentence(&self) -> String {
        let Self { index, kind, name } = self;
        match name {
            Some(name) => format!(
                "{kind} {name} in spec.restart.targets[{index}] does not exist. Correct its kind or name, create the \
                 workload, or remove the target"
            ),
            None => format!(
                "spec.restart.targets[{index}] selects no {kind} that uses a Secret. Correct its kind or labels, create \
                 the workload, or remove the target"
            ),
        }
    }
}
