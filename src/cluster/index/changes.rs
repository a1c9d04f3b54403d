//! What changed, each object once however often it changed: the receiver looks at the present state.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use tokio::sync::Notify;

use crate::api::{ObjectKey, WorkloadKind};

/// Something in an index is not what it was: made, changed or gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// An ExternalSecret.
    ExternalSecret(ObjectKey),
    /// A Secret with our label. Losing the label looks like a deletion.
    Secret(ObjectKey),
    /// The watch shows a Secret as this process wrote it.
    OwnSecret(ObjectKey),
    /// A SecretStore.
    SecretStore(ObjectKey),
    /// A ClusterSecretStore, by name.
    ClusterSecretStore(Arc<str>),
    /// A Namespace, by name.
    Namespace(Arc<str>),
    /// A workload.
    Workload(WorkloadKind, ObjectKey),
    /// All workloads of a kind are known in a namespace that came to be demanded.
    Covered(Arc<str>),
    /// The ConfigMap by which people hold everything up.
    Control,
    /// Every index holds its first complete list. Comes once.
    Ready,
}

/// Changes that were not received yet, oldest first. Bounded by the number of objects: an object waits in it
/// once. Clones share it; one of them receives.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    added: Notify,
    forks: RwLock<Vec<Changes>>,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<Change>,
    known: HashSet<Change>,
}

impl Changes {
    /// Another queue that is given every change from now on, for another receiver.
    #[must_use]
    pub fn fork(&self) -> Self {
        let fork = Self::default();
        let mut forks = self.0.forks.write().unwrap_or_else(PoisonError::into_inner);
        forks.push(fork.clone());
        fork
    }

    /// Adds a change, unless it waits already.
    pub fn push(&self, change: Change) {
        for fork in self.0.forks.read().unwrap_or_else(PoisonError::into_inner).iter() {
            fork.push(change.clone());
        }
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.known.insert(change.clone()) {
            waiting.order.push_back(change);
            drop(waiting);
            self.0.added.notify_one();
        }
    }

    /// The oldest change, once there is one. May be dropped while waiting without losing anything.
    pub async fn next(&self) -> Change {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.0.added.notified().await;
        }
    }

    /// The oldest change, if there is one.
    pub fn try_next(&self) -> Option<Change> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let change = waiting.order.pop_front()?;
        waiting.known.remove(&change);
        if waiting.order.is_empty() {
            // The burst of the first list is over: give its memory back.
            waiting.order.shrink_to(64);
            waiting.known.shrink_to(64);
        }
        Some(change)
    }
}
