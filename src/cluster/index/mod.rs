//! Compact maps of the watched objects. They trigger work; a decision to write starts from a live object.
//!
//! An object is cut down to an entry when it arrives and dropped. A list, the first or a later one, updates
//! entries in place and removes at its end those it did not name, so that listing again needs no second map.

mod changes;
mod control;
mod coverage;
mod demand;
mod follow;
mod namespaces;
mod own_writes;
mod secrets;
#[cfg(test)]
mod tests;
mod version;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::Resource;
use serde::de::DeserializeOwned;
use tokio::sync::watch as channel;

pub use self::{
    changes::{Change, Changes},
    control::Control,
    demand::Demand,
    namespaces::NamespaceEntry,
    secrets::SecretEntry,
    watch::{FirstLists, Scope, Watches},
};
use self::{coverage::Coverage, own_writes::OwnWrites, version::Version};
use crate::api::{ApiGroup, ObjectKey};

/// What is kept of the objects of one kind.
pub trait Project: Send + Sync + 'static {
    /// The kind that is watched.
    type Kind: Resource<DynamicType = ()>;
    /// What is read of an object: the kind itself, or less.
    type Object: DeserializeOwned;
    /// What is kept. An entry equal to the one before is no change.
    type Entry: PartialEq + Send + Sync + 'static;

    /// Only objects with these labels, all if `None`.
    const LABELS: Option<&'static str> = None;
    /// Only the object of this name, all if `None`.
    const NAME: Option<&'static str> = None;
    /// Whether the kind has no namespaces.
    const CLUSTER_WIDE: bool = false;
    /// The API group that keys of the objects tell.
    const GROUP: ApiGroup = ApiGroup::Keyturn;

    /// Cuts an object down. Parts of `key` can be shared by cloning them.
    fn project(&self, key: &ObjectKey, object: Self::Object) -> Self::Entry;

    /// The change to report when the object `key` was made, changed or deleted.
    fn change(&self, key: ObjectKey) -> Change;

    /// The change to report when the watch shows our own write, which the index held already.
    fn shown(&self, key: ObjectKey) -> Change {
        self.change(key)
    }

    /// Whether the object needs the kinds of its namespace that are kept on [`Demand`] only.
    fn demands(_entry: &Self::Entry) -> bool {
        false
    }
}

/// An object as an index knows it.
#[derive(Debug, PartialEq)]
pub enum Indexed<E> {
    /// It could be read.
    Entry(Arc<E>),
    /// It exists but could not be read: neither act on it nor take it for deleted.
    Malformed(Arc<Malformed>),
}

impl<E> Indexed<E> {
    /// The entry, if the object could be read.
    pub fn entry(&self) -> Option<&E> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Malformed(_) => None,
        }
    }
}

impl<E> Clone for Indexed<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Entry(entry) => Self::Entry(Arc::clone(entry)),
            Self::Malformed(malformed) => Self::Malformed(Arc::clone(malformed)),
        }
    }
}

/// An object that does not match its kind, made by a newer schema or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Its uid.
    pub uid: String,
    /// Its generation; 0 for kinds without.
    pub generation: i64,
    /// What was expected, in our words: the object's own text is not in it.
    pub expected: String,
}

/// The objects of one kind. The key's namespace is empty for kinds without namespaces.
#[derive(Debug)]
pub struct Index<E> {
    map: RwLock<Map<E>>,
    demands: fn(&E) -> bool,
    /// How many objects demand other kinds, by namespace.
    demand: channel::Sender<demand::Counts>,
}

#[derive(Debug)]
struct Map<E> {
    objects: HashMap<ObjectKey, Slot<E>>,
    /// Namespaces are shared by their objects' keys.
    namespaces: HashSet<Arc<str>>,
    epoch: u32,
    coverage: Coverage<E>,
    writes: OwnWrites<E>,
}

#[derive(Debug)]
struct Slot<E> {
    /// The list that named it last, or that was the last when it arrived.
    epoch: u32,
    object: Indexed<E>,
}

impl<E> Default for Index<E> {
    fn default() -> Self {
        Self::new(|_| false, Coverage::Everywhere)
    }
}

impl<E> Map<E> {
    /// Removes and returns those that `unwanted` chooses.
    fn remove_where(&mut self, mut unwanted: impl FnMut(&ObjectKey, &Slot<E>) -> bool) -> Vec<ObjectKey> {
        let objects = self.objects.iter();
        let gone = objects.filter(|(key, slot)| unwanted(key, slot));
        let gone: Vec<ObjectKey> = gone.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.objects.remove(key);
        }
        if self.objects.len() < self.objects.capacity() / 4 {
            let twice = self.objects.len() * 2;
            self.objects.shrink_to(twice);
        }
        gone
    }
}

impl<E> Index<E> {
    fn new(demands: fn(&E) -> bool, coverage: Coverage<E>) -> Self {
        Self {
            map: RwLock::new(Map {
                objects: HashMap::new(),
                namespaces: HashSet::new(),
                epoch: 0,
                coverage,
                writes: OwnWrites::default(),
            }),
            demands,
            demand: channel::Sender::default(),
        }
    }

    /// The namespaces in which its objects demand other kinds.
    pub fn demand(&self) -> Demand {
        Demand(self.demand.subscribe())
    }

    /// Whether the object demands other kinds in its namespace.
    fn is_demanding(&self, object: &Indexed<E>) -> bool {
        object.entry().is_some_and(self.demands)
    }
}

impl<E: PartialEq> Index<E> {
    /// The object, if it is known.
    pub fn get(&self, key: &ObjectKey) -> Option<Indexed<E>> {
        self.read().objects.get(key).map(|slot| slot.object.clone())
    }

    /// Looks at an object without cloning it. Do not use the index in `look`.
    pub fn with<R>(&self, key: &ObjectKey, look: impl FnOnce(&Indexed<E>) -> R) -> Option<R> {
        self.read().objects.get(key).map(|slot| look(&slot.object))
    }

    /// Looks at every object, in no order. Do not use the index in `look`.
    pub fn for_each(&self, mut look: impl FnMut(&ObjectKey, &Indexed<E>)) {
        for (key, slot) in &self.read().objects {
            look(key, &slot.object);
        }
    }

    /// The keys of the objects that `wanted` chooses, in no order.
    pub fn keys_where(&self, mut wanted: impl FnMut(&ObjectKey, &Indexed<E>) -> bool) -> Vec<ObjectKey> {
        let map = self.read();
        let chosen = map.objects.iter().filter(|(key, slot)| wanted(key, &slot.object));
        chosen.map(|(key, _)| key.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of an object, its namespace shared with the other keys.
    fn key(&self, namespace: &str, name: &str) -> ObjectKey {
        if let Some(known) = self.read().namespaces.get(namespace) {
            return ObjectKey::new(Arc::clone(known), name);
        }
        let namespace: Arc<str> = namespace.into();
        self.write().namespaces.insert(Arc::clone(&namespace));
        ObjectKey::new(namespace, name)
    }

    /// A list of this namespace, or of all if it is empty, begins; its number is for [`Self::put`] and [`Self::sweep`].
    fn begin(&self, namespace: &str) -> u32 {
        let mut map = self.write();
        let epoch = map.epoch.wrapping_add(1);
        map.epoch = epoch;
        map.writes.begin(namespace);
        epoch
    }

    /// Holds the object from now on, or nothing if it is none. Returns whether that changed something.
    fn put(&self, map: &mut Map<E>, key: &ObjectKey, object: Option<Indexed<E>>, epoch: u32) -> bool {
        let demands = object.as_ref().is_some_and(|object| self.is_demanding(object));
        let (before, changed) = match (map.objects.get_mut(key), object) {
            (Some(slot), Some(object)) => {
                slot.epoch = epoch;
                let (before, changed) = (self.is_demanding(&slot.object), slot.object != object);
                if changed {
                    slot.object = object;
                }
                (before, changed)
            }
            (None, Some(object)) => {
                map.objects.insert(key.clone(), Slot { epoch, object });
                (false, true)
            }
            (_, None) => {
                let removed = map.objects.remove(key);
                let before = removed
                    .as_ref()
                    .is_some_and(|slot| self.is_demanding(&slot.object));
                (before, removed.is_some())
            }
        };
        demand::count(&self.demand, &key.namespace, before, demands);
        changed
    }

    /// The list `epoch` of this namespace, or of all if it is empty, is complete, as of `listed`: removes what it did not name.
    /// Returns what changed.
    fn sweep(&self, namespace: &str, epoch: u32, listed: Version) -> Vec<ObjectKey> {
        let mut map = self.write();
        let Map { objects, writes, .. } = &mut *map;
        let replaced = writes.end(namespace, listed, |key| {
            if let Some(slot) = objects.get_mut(key) {
                slot.epoch = epoch;
            }
        });
        let replaced = replaced.into_iter().filter_map(|(key, object)| {
            let changed = self.put(&mut map, &key, object, epoch);
            changed.then_some(key)
        });
        let mut changed: Vec<_> = replaced.collect();
        let gone = map.remove_where(|key, slot| {
            let is_gone = slot.epoch != epoch && demand::is_in(namespace, &key.namespace);
            if is_gone {
                demand::count(
                    &self.demand,
                    &key.namespace,
                    self.is_demanding(&slot.object),
                    false,
                );
            }
            is_gone
        });
        changed.extend(gone);
        map.namespaces
            .retain(|namespace| Arc::strong_count(namespace) > 1);
        changed
    }

    /// A bookmark: the watch has shown all that happened in this namespace, or everywhere if it is empty, up to `version`.
    /// Returns what changed.
    fn reach(&self, namespace: &str, version: Version) -> Vec<ObjectKey> {
        let mut map = self.write();
        let unseen = map.writes.reach(namespace, version);
        for key in &unseen {
            self.put(&mut map, key, None, 0);
        }
        unseen
    }

    fn read(&self) -> RwLockReadGuard<'_, Map<E>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Map<E>> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}
