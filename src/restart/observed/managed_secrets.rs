//! The ExternalSecrets whose Secrets workloads follow, found by what a workload names. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use super::model::{Content, RestartFlag, Workload};
use crate::{
    api::{ObjectKey, RestartMode, token},
    objects::Restarts,
};

/// How many characters of a token that people wrote a reply shows.
const SHOWN: usize = 32;

/// An ExternalSecret with its Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedSecret {
    /// What pods must hold.
    pub content: Arc<Content>,
    /// Its settings for restarts.
    pub restarts: Arc<Restarts>,
}

impl ManagedSecret {
    /// The ExternalSecret.
    pub fn key(&self) -> &ObjectKey {
        &self.content.object
    }

    /// As it is for `workload`, which may use only some of the keys.
    pub fn for_workload(&self, workload: &Workload) -> Self {
        let content = workload
            .use_of(&self.content.secret)
            .and_then(|found| self.content.of_use(found))
            .map_or_else(|| Arc::clone(&self.content), Arc::new);
        Self {
            content,
            restarts: Arc::clone(&self.restarts),
        }
    }

    /// Whether this content needs an approval and has none.
    pub fn lacks_approval(&self) -> bool {
        self.is_manual() && !self.is_approved()
    }

    /// Whether this content needed an approval and has it.
    pub fn takes_approval(&self) -> bool {
        self.is_manual() && self.is_approved()
    }

    /// The reply to a `keyturn.dev/approve` that does not approve this content.
    pub fn approval_reply(&self) -> Option<String> {
        self.reply("approve", self.restarts.approved.as_deref())
    }

    /// The reply to a `keyturn.dev/resume` that does not resume the restarts for this content.
    pub fn resumption_reply(&self) -> Option<String> {
        self.reply("resume", self.restarts.resumed.as_deref())
    }

    fn reply(&self, verb: &str, given: Option<&str>) -> Option<String> {
        let given = given.filter(|given| *given != &*self.content.rollout)?;
        let shown: String = given.chars().take(SHOWN).collect();
        Some(if token::is_text(given) {
            format!("Token {shown} {verb}s another version")
        } else {
            format!("The annotation keyturn.dev/{verb} is {shown:?}, which is not a valid token")
        })
    }

    fn is_manual(&self) -> bool {
        self.restarts.policy.mode == RestartMode::Manual
    }

    fn is_approved(&self) -> bool {
        self.restarts.approved.as_ref() == Some(&self.content.rollout)
    }
}

/// All managed Secrets of a namespace. A workload depends on few of them, and only those are compared with it.
#[derive(Clone, Debug, Default)]
pub struct ManagedSecrets {
    /// Sorted by Secret.
    all: Vec<ManagedSecret>,
    /// The first of those with a Secret, by the hash of its name.
    hashes: HashMap<Box<str>, usize>,
    /// Those that name targets.
    naming: Vec<usize>,
}

impl ManagedSecrets {
    /// Those of `all`.
    pub fn new(mut all: Vec<ManagedSecret>) -> Self {
        all.sort_by(|a, b| (&a.content.secret, a.key()).cmp(&(&b.content.secret, b.key())));
        let mut hashes = HashMap::with_capacity(all.len());
        for (index, secret) in all.iter().enumerate() {
            hashes.entry(secret.content.hash.clone()).or_insert(index);
        }
        let naming = (0..all.len())
            .filter(|index| {
                all.get(*index)
                    .is_some_and(|secret| !secret.restarts.policy.targets.is_empty())
            })
            .collect();
        Self { all, hashes, naming }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ManagedSecret> {
        self.all.iter()
    }

    /// Those that `workload` may have to follow, or was restarted for.
    pub fn concerning(&self, workload: &Workload) -> Vec<&ManagedSecret> {
        let used = workload.uses.iter().map(|found| &*found.secret);
        let asked = workload
            .stamps
            .tokens
            .keys()
            .chain(workload.stamps.records.keys());
        let asked = asked
            .filter_map(|hash| self.all.get(*self.hashes.get(hash)?))
            .map(|secret| &*secret.content.secret);
        let mut found: BTreeSet<usize> = used.chain(asked).flat_map(|secret| self.of(secret)).collect();
        // What does not name the Secret follows it only where both it and the ExternalSecret say so.
        if workload.annotations.restart == RestartFlag::Yes {
            found.extend(&self.naming);
        }
        found
            .into_iter()
            .filter_map(|index| self.all.get(index))
            .collect()
    }

    fn of(&self, name: &str) -> Range<usize> {
        let start = self.all.partition_point(|secret| *secret.content.secret < *name);
        let end = self.all.partition_point(|secret| *secret.content.secret <= *name);
        start..end
    }
}
