//! The objects that want secrets.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    api::{ObjectKey, Selector, SourceId},
    track::{Cause, Refresh},
};

pub(super) type ObjectId = u32;

#[derive(Debug)]
pub(super) struct Object {
    pub(super) key: ObjectKey,
    pub(super) refresh: Refresh,
    pub(super) rotation: bool,
    pub(super) wants: Box<[Wanted]>,
    /// Secrets whose check it waits for, having asked for a refresh.
    pub(super) awaited: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) source: SourceId,
    pub(super) key: Arc<str>,
    pub(super) selector: Selector,
}

/// All objects, by number; numbers are not given twice.
#[derive(Debug, Default)]
pub(super) struct Objects {
    ids: HashMap<ObjectKey, ObjectId>,
    all: HashMap<ObjectId, Object>,
    last: ObjectId,
}

impl Objects {
    pub(super) fn id(&self, key: &ObjectKey) -> Option<ObjectId> {
        self.ids.get(key).copied()
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<&Object> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ObjectId) -> Option<&mut Object> {
        self.all.get_mut(&id)
    }

    /// Puts the object in place of an earlier one, which is given back.
    pub(super) fn put(&mut self, object: Object) -> (ObjectId, Option<Object>) {
        let id = self.ids.get(&object.key).copied().unwrap_or_else(|| {
            self.last = self.last.wrapping_add(1);
            while self.all.contains_key(&self.last) {
                self.last = self.last.wrapping_add(1);
            }
            self.ids.insert(object.key.clone(), self.last);
            self.last
        });
        (id, self.all.insert(id, object))
    }

    pub(super) fn take(&mut self, key: &ObjectKey) -> Option<(ObjectId, Object)> {
        let id = self.ids.remove(key)?;
        Some((id, self.all.remove(&id)?))
    }
}

/// Objects to be woken, each once for a cause, in the order of the causes' first call.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    order: Vec<(ObjectKey, Cause)>,
    set: BTreeSet<(ObjectKey, Cause)>,
}

impl Wakes {
    pub(super) fn add(&mut self, object: &ObjectKey, cause: Cause) {
        if self.set.insert((object.clone(), cause)) {
            self.order.push((object.clone(), cause));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<(ObjectKey, Cause)> {
        self.set.clear();
        std::mem::take(&mut self.order)
    }
}
