//! The ExternalSecrets whose Secrets workloads follow, found by what a workload names. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use super::model::{Content, Wish, Workload};
use crate::{
    api::{ObjectKey, RestartMode},
    sync::entry::Restarts,
};

/// An ExternalSecret with its Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectFacts {
    /// What pods must hold.
    pub content: Arc<Content>,
    /// What it says about restarts.
    pub restarts: Arc<Restarts>,
}

impl ObjectFacts {
    /// The ExternalSecret.
    pub fn key(&self) -> &ObjectKey {
        &self.content.object
    }

    /// Whether somebody must approve this content and has not.
    pub fn lacks_approval(&self) -> bool {
        self.is_manual() && !self.is_approved()
    }

    /// Whether somebody had to approve this content and has.
    pub fn takes_approval(&self) -> bool {
        self.is_manual() && self.is_approved()
    }

    fn is_manual(&self) -> bool {
        self.restarts.policy.mode == RestartMode::Manual
    }

    fn is_approved(&self) -> bool {
        self.restarts.approved.as_ref() == Some(&self.content.token)
    }
}

/// All of a namespace. A workload has to do with few of them, and only those are looked at for it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Sorted by Secret.
    all: Vec<ObjectFacts>,
    /// The first of those with a Secret, by the hash of its name.
    hashes: HashMap<Box<str>, usize>,
    /// Those that name targets.
    naming: Vec<usize>,
}

impl Facts {
    /// Those of `all`.
    pub fn new(mut all: Vec<ObjectFacts>) -> Self {
        all.sort_by(|a, b| (&a.content.secret, a.key()).cmp(&(&b.content.secret, b.key())));
        let mut hashes = HashMap::with_capacity(all.len());
        for (index, facts) in all.iter().enumerate() {
            hashes.entry(facts.content.hash.clone()).or_insert(index);
        }
        let naming = (0..all.len())
            .filter(|index| {
                all.get(*index)
                    .is_some_and(|facts| !facts.restarts.policy.targets.is_empty())
            })
            .collect();
        Self { all, hashes, naming }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ObjectFacts> {
        self.all.iter()
    }

    /// Those that `workload` may have to follow, or was restarted for.
    pub fn concerning(&self, workload: &Workload) -> Vec<&ObjectFacts> {
        let used = workload.uses.iter().map(|found| &*found.secret);
        let asked = workload.tokens.keys().chain(workload.records.keys());
        let asked = asked
            .filter_map(|hash| self.all.get(*self.hashes.get(hash)?))
            .map(|facts| &*facts.content.secret);
        let mut found: BTreeSet<usize> = used.chain(asked).flat_map(|secret| self.of(secret)).collect();
        // What does not name the Secret follows it only where both it and the ExternalSecret say so.
        if workload.wishes.restart == Wish::Yes {
            found.extend(&self.naming);
        }
        found
            .into_iter()
            .filter_map(|index| self.all.get(index))
            .collect()
    }

    fn of(&self, secret: &str) -> Range<usize> {
        let start = self.all.partition_point(|facts| *facts.content.secret < *secret);
        let end = self.all.partition_point(|facts| *facts.content.secret <= *secret);
        start..end
    }
}
