//! The namespaces that an index covers. Of kinds that are large and many, such as workloads, only the objects of the
//! namespaces that demand them are kept.
//!
//! A namespace that is demanded while the kind is being followed is listed by itself, beside the watch. The watch and that
//! list may each be ahead of the other, so neither overrides the other by arriving later: resource versions tell which is
//! newer. What the watch says while the list is under way is put aside; when the list ends, what is newer than the list is
//! applied to it, and what the watch says later but is older than the list is dropped.
//!
//! Resource versions of one kind can be compared as numbers: Kubernetes promises that from 1.35 on, and it was so before.
//! Where one is no number, the watch has the last word: the index may show an older state for a moment, and is right again
//! once the watch has caught up.

mod joining;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Index, Indexed, Slot, demand::is_in, own_writes::Sight, version::Version};
use crate::api::ObjectKey;

/// The namespaces that an index covers.
#[derive(Debug)]
pub(super) enum Coverage<E> {
    /// All.
    Everywhere,
    /// Those that are demanded.
    Demanded {
        /// The places in which the kind was listed. Before, and where the cluster does not have it, no namespace lacks anything.
        listed: HashSet<Arc<str>>,
        /// How far each namespace is.
        stages: HashMap<Arc<str>, Stage<E>>,
    },
}

/// How far the index is with a namespace.
#[derive(Debug)]
pub(super) enum Stage<E> {
    /// The list of the whole place, which is under way, brings its objects.
    Awaited,
    /// Its objects are being listed beside the watch. What the watch said of each meanwhile, last.
    Listing(HashMap<ObjectKey, News<E>>),
    /// All its objects are known. Up to this version, what the watch says is old.
    Complete(Version),
}

/// What the watch said of an object.
#[derive(Debug)]
pub(super) struct News<E> {
    version: Version,
    /// None if it was deleted.
    object: Option<Indexed<E>>,
}

/// What became of the index by an event or an object of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is as it was.
    Nothing,
    /// It is as it was, since it held our write already that the watch shows now.
    Shown,
    /// It changed.
    Changed,
}

impl<E> Coverage<E> {
    /// None so far.
    pub(super) fn demanded() -> Self {
        Self::Demanded {
            listed: HashSet::new(),
            stages: HashMap::new(),
        }
    }

    fn stages(&self) -> Option<&HashMap<Arc<str>, Stage<E>>> {
        match self {
            Self::Everywhere => None,
            Self::Demanded { stages, .. } => Some(stages),
        }
    }

    fn stages_mut(&mut self) -> Option<&mut HashMap<Arc<str>, Stage<E>>> {
        match self {
            Self::Everywhere => None,
            Self::Demanded { stages, .. } => Some(stages),
        }
    }
}

impl<E: PartialEq> Index<E> {
    /// Whether all objects of the namespace are known: false while it is demanded and not listed yet.
    pub fn covers(&self, namespace: &str) -> bool {
        match &self.read().coverage {
            Coverage::Everywhere => true,
            Coverage::Demanded { listed, stages } => {
                let is_listed = listed.contains("") || listed.contains(namespace);
                !is_listed || matches!(stages.get(namespace), Some(Stage::Complete(_)))
            }
        }
    }

    /// Whether anything of the namespace is kept, so that its objects are worth parsing.
    pub(super) fn admits(&self, namespace: &str) -> bool {
        let map = self.read();
        let stages = map.coverage.stages();
        stages.is_none_or(|stages| stages.contains_key(namespace))
    }

    /// Takes in what the watch, or the list of the whole place, says of an object: none if it was deleted.
    pub(super) fn take(
        &self,
        key: &ObjectKey,
        object: Option<Indexed<E>>,
        version: Version,
        epoch: u32,
    ) -> Taken {
        let mut map = self.write();
        let sight = map.writes.see(key, object.as_ref(), version);
        if sight == Sight::Old {
            return Taken::Nothing;
        }
        if let Some(stages) = map.coverage.stages_mut() {
            match stages.get_mut(&key.namespace) {
                None => return Taken::Nothing,
                Some(Stage::Listing(news)) => {
                    news.insert(key.clone(), News { version, object });
                    return Taken::Nothing;
                }
                Some(Stage::Complete(listed)) if listed.includes(version) => return Taken::Nothing,
                Some(Stage::Awaited | Stage::Complete(_)) => {}
            }
        }
        match (self.put(&mut map, key, object, epoch), sight) {
            (true, _) => Taken::Changed,
            (false, Sight::Own) => Taken::Shown,
            (false, _) => Taken::Nothing,
        }
    }

    /// The list of a place begins, which brings all objects of the namespaces that are `demanded` and of those that are
    /// covered. Lists beside the watch have ended with the watch.
    pub(super) fn expect(&self, place: &str, demanded: &HashSet<Arc<str>>) {
        let mut map = self.write();
        let Some(stages) = map.coverage.stages_mut() else {
            return;
        };
        for (namespace, stage) in stages.iter_mut() {
            if is_in(place, namespace) {
                *stage = match stage {
                    // What it says is not old, whatever its version: it names each object by its last change.
                    Stage::Complete(_) => Stage::Complete(Version::NONE),
                    Stage::Awaited | Stage::Listing(_) => Stage::Awaited,
                };
            }
        }
        for namespace in demanded {
            stages.entry(Arc::clone(namespace)).or_insert(Stage::Awaited);
        }
    }

    /// The list of a place is complete. Returns the namespaces that it was the first list of.
    pub(super) fn complete(&self, place: &str) -> Vec<Arc<str>> {
        let mut map = self.write();
        let Coverage::Demanded { listed, stages } = &mut map.coverage else {
            return Vec::new();
        };
        listed.insert(place.into());
        let awaited = stages
            .iter_mut()
            .filter(|(namespace, stage)| is_in(place, namespace) && matches!(stage, Stage::Awaited));
        awaited
            .map(|(namespace, stage)| {
                *stage = Stage::Complete(Version::NONE);
                Arc::clone(namespace)
            })
            .collect()
    }

    /// The kind is gone from a place.
    pub(super) fn forget(&self, place: &str) {
        if let Coverage::Demanded { listed, stages } = &mut self.write().coverage {
            listed.remove(place);
            stages.retain(|namespace, _| !is_in(place, namespace));
        }
    }

    /// The namespaces of which nothing is kept, of those `demanded`.
    pub(super) fn lacks(&self, demanded: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
        let map = self.read();
        let Some(stages) = map.coverage.stages() else {
            return Vec::new();
        };
        let lacking = demanded
            .iter()
            .filter(|namespace| !stages.contains_key(*namespace));
        lacking.cloned().collect()
    }

    /// The namespaces in `place` that are covered and not `demanded`.
    pub(super) fn surplus(&self, place: &str, demanded: &HashSet<Arc<str>>) -> HashSet<Arc<str>> {
        let map = self.read();
        let stages = map.coverage.stages().into_iter().flatten();
        let surplus = stages.filter(|(namespace, stage)| {
            is_in(place, namespace) && matches!(stage, Stage::Complete(_)) && !demanded.contains(*namespace)
        });
        surplus.map(|(namespace, _)| Arc::clone(namespace)).collect()
    }

    /// A namespace is about to be listed by itself.
    pub(super) fn join(&self, namespace: &Arc<str>) {
        if let Some(stages) = self.write().coverage.stages_mut() {
            stages
                .entry(Arc::clone(namespace))
                .or_insert_with(|| Stage::Listing(HashMap::new()));
        }
    }

    /// A namespace was listed by itself, as of `listed`. Returns what is in it.
    pub(super) fn joined(
        &self,
        namespace: &Arc<str>,
        objects: Vec<(ObjectKey, Indexed<E>)>,
        listed: Version,
    ) -> Vec<ObjectKey> {
        let mut map = self.write();
        let Some(stages) = map.coverage.stages_mut() else {
            return Vec::new();
        };
        let Some(Stage::Listing(news)) = stages.get_mut(namespace) else {
            return Vec::new();
        };
        let mut found: HashMap<ObjectKey, Indexed<E>> = objects.into_iter().collect();
        for (key, News { version, object }) in std::mem::take(news) {
            if listed.includes(version) {
                continue;
            }
            match object {
                Some(object) => found.insert(key, object),
                None => found.remove(&key),
            };
        }
        stages.insert(Arc::clone(namespace), Stage::Complete(listed));
        let keys = found.keys().cloned().collect();
        // Any number will do: the next list of the place has another one.
        let epoch = map.epoch;
        let slots = found
            .into_iter()
            .map(|(key, object)| (key, Slot { epoch, object }));
        map.objects.extend(slots);
        keys
    }

    /// A namespace could not be listed by itself: nothing of it is kept until that is tried again.
    pub(super) fn postpone(&self, namespace: &Arc<str>) {
        if let Some(stages) = self.write().coverage.stages_mut()
            && matches!(stages.get(namespace), Some(Stage::Listing(_)))
        {
            stages.remove(namespace);
        }
    }

    /// Nothing of a namespace is kept any more. Returns what was.
    pub(super) fn leave(&self, namespace: &Arc<str>) -> Vec<ObjectKey> {
        let mut map = self.write();
        if let Some(stages) = map.coverage.stages_mut() {
            stages.remove(namespace);
        }
        let gone = map.remove_where(|key, _| key.namespace == *namespace);
        map.namespaces.remove(namespace);
        gone
    }
}
