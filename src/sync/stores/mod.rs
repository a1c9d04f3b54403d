//! The stores: proves each one's identity, says so in its status, and wakes those who wait for it.

mod conditions;
mod judge;
mod renewal;
mod say;
pub mod usable;
mod verdicts;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;

pub use self::usable::{Unusable, Usable};
use self::{conditions::Admission, verdicts::Verdicts};
use crate::{
    api::{ObjectKey, Reason, SourceId, StoreKind},
    aws::Aws,
    cluster::{Events, Index, Indexed, ServerTime, Writer},
    objects::{StoreEntry, StoreRef, Suspension},
    sync::{
        driver::Tracking,
        resolve::{Refusal, Rules},
        work::Work,
    },
    track::SourcePolicy,
};

/// What is known of a store's identity.
#[derive(Clone, Debug)]
struct Standing {
    /// The store that this is of.
    uid: Arc<str>,
    generation: i64,
    admission: Arc<Admission>,
    /// What it is good for.
    good: Good,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Good {
    /// Its identity was proved, or cannot be before a namespace asks.
    Proved { account: Option<Arc<str>> },
    /// It could not be proved for a reason that passes: nobody is kept from trying.
    Unproved,
    /// A person must mend it.
    Bad(Refusal),
}

/// All stores and what is known of them.
pub struct Stores {
    /// SecretStores.
    pub namespaced: Arc<Index<StoreEntry>>,
    /// ClusterSecretStores; their keys have no namespace.
    pub cluster: Arc<Index<StoreEntry>>,
    /// What decides over identities.
    pub rules: Rules,
    /// The ClusterSecretStore of those that name none.
    pub default_store: Option<Arc<str>>,
    /// The queue of stores to prove.
    pub work: Work,
    aws: Arc<Aws>,
    tracking: Arc<Tracking>,
    writer: Writer,
    events: Events,
    time: ServerTime,
    known: Mutex<Known>,
    verdicts: Verdicts,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Known {
    standings: HashMap<ObjectKey, Standing>,
    /// Stores that were suspended when they were last looked at.
    suspended: HashSet<ObjectKey>,
    /// Sources in use, the store that each is of, and what the tracker was told of it: nothing while it is not proved.
    sources: HashMap<SourceId, (ObjectKey, Option<SourcePolicy>)>,
    /// Accounts of identities that depend on the namespace.
    accounts: HashMap<SourceId, Arc<str>>,
    /// The namespaces, by name and uid, of sources that are only theirs.
    tenants: HashMap<SourceId, (Arc<str>, Arc<str>)>,
}

impl Known {
    /// Takes out a source.
    fn remove(&mut self, id: SourceId) {
        let Self {
            standings: _,
            suspended: _,
            sources,
            accounts,
            tenants,
        } = self;
        sources.remove(&id);
        accounts.remove(&id);
        tenants.remove(&id);
    }

    /// Takes out the sources of a namespace of this name, but those of the one that is there now.
    fn leave(&mut self, namespace: &str, live: Option<&str>) -> Vec<SourceId> {
        let left = |(name, uid): &(Arc<str>, Arc<str>)| **name == *namespace && Some(&**uid) != live;
        let gone: Vec<_> = self
            .tenants
            .iter()
            .filter(|(_, tenant)| left(tenant))
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            self.remove(*id);
        }
        gone
    }
}

/// What a [`Stores`] is made of.
pub struct Parts {
    /// SecretStores.
    pub namespaced: Arc<Index<StoreEntry>>,
    /// ClusterSecretStores.
    pub cluster: Arc<Index<StoreEntry>>,
    /// What decides over identities.
    pub rules: Rules,
    /// The ClusterSecretStore of those that name none.
    pub default_store: Option<Arc<str>>,
    /// AWS.
    pub aws: Arc<Aws>,
    /// The tracker.
    pub tracking: Arc<Tracking>,
    /// Kubernetes.
    pub writer: Writer,
    /// Events.
    pub events: Events,
    /// The API server's clock.
    pub time: ServerTime,
    /// The queue of stores to prove.
    pub work: Work,
}

/// A store that a person must mend is tried again after this, though nothing of it changed: the mend may be in AWS.
const RECHECK: Duration = Duration::from_mins(5);

impl Stores {
    /// Stores, none of them looked at yet.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            namespaced,
            cluster,
            rules,
            default_store,
            aws,
            tracking,
            writer,
            events,
            time,
            work,
        } = parts;
        Self {
            namespaced,
            cluster,
            rules,
            default_store,
            work,
            aws,
            tracking,
            writer,
            events,
            time,
            known: Mutex::default(),
            verdicts: Verdicts::default(),
        }
    }

    /// The key of a store as its index has it: without namespace for a ClusterSecretStore.
    pub fn key(store: &StoreRef, namespace: &str) -> ObjectKey {
        match store.kind {
            StoreKind::SecretStore => ObjectKey::new(namespace, store.name.clone()),
            StoreKind::ClusterSecretStore => ObjectKey::new("", store.name.clone()),
        }
    }

    /// A store as the index has it.
    pub fn entry(&self, key: &ObjectKey) -> Option<Indexed<StoreEntry>> {
        if key.namespace.is_empty() {
            self.cluster.get(key)
        } else {
            self.namespaced.get(key)
        }
    }

    /// Proves stores as they come, until it is dropped. `wake` is told of each store that changed its standing.
    pub async fn run(self: Arc<Self>, wake: impl Fn(&ObjectKey) + Clone + Send + Sync + 'static) {
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                (key, _) = self.work.next() => {
                    let (stores, wake) = (self.clone(), wake.clone());
                    tasks.spawn(async move {
                        // A panic is an error of this store.
                        let looked = AssertUnwindSafe(stores.reconcile(&key, &wake)).catch_unwind().await;
                        let again = looked.unwrap_or(After::BackOff);
                        let well = matches!(again, After::Change);
                        stores.work.done(&key, well);
                        match again {
                            After::Change => {}
                            After::Wait(wait) => stores.work.push_after(key, wait),
                            After::BackOff => drop(stores.work.push_failed(&key)),
                        }
                    });
                }
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "proving a store ended abnormally");
                    }
                }
            }
        }
    }

    /// The sources in use of a store, the same one first each time.
    pub fn sources_of(&self, store: &ObjectKey) -> Vec<SourceId> {
        let mut sources: Vec<_> = {
            let known = self.lock();
            let of = known.sources.iter().filter(|(_, (of, _))| of == store);
            of.map(|(id, _)| *id).collect()
        };
        sources.sort_unstable();
        sources
    }

    /// How many stores let every namespace read whatever their identity may read.
    pub fn unrestricted(&self) -> usize {
        let mut count = 0;
        self.cluster.for_each(|_, indexed| {
            let ready = indexed.entry().and_then(StoreEntry::ready);
            count += usize::from(ready.is_some_and(|ready| ready.reason == Reason::Unrestricted.as_str()));
        });
        count
    }

    /// The store of a source, for whom its check mode has changed.
    pub fn store_of(&self, source: SourceId) -> Option<ObjectKey> {
        self.lock().sources.get(&source).map(|(store, _)| store.clone())
    }

    async fn reconcile(&self, key: &ObjectKey, wake: &(impl Fn(&ObjectKey) + Sync)) -> After {
        let Some(indexed) = self.entry(key) else {
            {
                let mut known = self.lock();
                known.standings.remove(key);
                known.suspended.remove(key);
            }
            self.forget_sources(key, None);
            wake(key);
            return After::Change;
        };
        let Indexed::Entry(entry) = indexed else {
            wake(key);
            return After::Change;
        };
        let now = self.time.now();
        if let Suspension::Until(until) = entry.suspended
            && until > now
        {
            self.lock().suspended.insert(key.clone());
            wake(key);
            let left = Duration::try_from(until.duration_since(now)).unwrap_or(RECHECK);
            return After::Wait(left.min(Duration::from_hours(24)));
        }
        let store = StoreRef {
            kind: kind_of(key),
            name: key.name.clone(),
        };
        let (admission, good, ready) = self.judge(&store, key, &entry).await;
        let after = match &good {
            Good::Proved { .. } => After::Change,
            Good::Unproved => After::BackOff,
            Good::Bad(_) => After::Wait(RECHECK),
        };
        let standing = Standing {
            uid: entry.uid.clone(),
            generation: entry.generation,
            admission,
            good: good.clone(),
        };
        let changed = {
            let mut known = self.lock();
            // Those who waited for the end of a suspension learn of it, early or not.
            let resumed = known.suspended.remove(key);
            let before = known.standings.insert(key.clone(), standing);
            let same = before.is_some_and(|before| {
                before.uid == entry.uid && before.generation == entry.generation && before.good == good
            });
            resumed || !same
        };
        if changed {
            wake(key);
            if let Some(open) = ready
                .as_ref()
                .filter(|ready| ready.reason == Reason::Unrestricted)
            {
                self.warn_of_open(key, &entry, open);
            }
        }
        match self.say(key, &entry, ready).await {
            Ok(()) => after,
            Err(error) => {
                tracing::warn!(%error, store = %key, "the status of a store was not written");
                After::BackOff
            }
        }
    }

    /// Tells the tracker of a source, once and when it changes.
    fn announce(&self, key: &ObjectKey, id: SourceId, policy: SourcePolicy) {
        {
            let mut known = self.lock();
            let told = known.sources.get(&id).and_then(|(_, told)| told.as_ref());
            if told == Some(&policy) {
                return;
            }
            known.sources.insert(id, (key.clone(), Some(policy.clone())));
        }
        self.tracking
            .tell(|tracker, now| tracker.set_source(now, id, policy));
    }

    /// The source is the store's, whether it can be proved or not: it goes with the store.
    fn adopt(&self, key: &ObjectKey, id: SourceId) {
        let mut known = self.lock();
        known.sources.entry(id).or_insert_with(|| (key.clone(), None));
    }

    /// Drops the sources of a store but `but`: their credentials, their checks.
    fn forget_sources(&self, key: &ObjectKey, but: Option<SourceId>) {
        let gone: Vec<_> = {
            let mut known = self.lock();
            let gone: Vec<_> = known
                .sources
                .iter()
                .filter(|(id, (store, _))| store == key && Some(**id) != but)
                .map(|(id, _)| *id)
                .collect();
            for id in &gone {
                known.remove(*id);
            }
            gone
        };
        self.forget(gone);
    }

    /// Drops the sources that only a namespace had that is there no more; `live` is the uid of the one of its name that
    /// is there now.
    pub fn leave_namespace(&self, namespace: &str, live: Option<&str>) {
        let gone = self.lock().leave(namespace, live);
        self.forget(gone);
    }

    fn forget(&self, gone: Vec<SourceId>) {
        for id in gone {
            self.tracking.remove_source(id);
            self.aws.forget(id);
        }
    }

    /// What is known of a store in its present state.
    fn standing(&self, key: &ObjectKey, entry: &StoreEntry) -> Option<Standing> {
        let standing = self.lock().standings.get(key).cloned()?;
        (standing.uid == entry.uid && standing.generation == entry.generation).then_some(standing)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a store is looked at again.
enum After {
    Change,
    Wait(Duration),
    BackOff,
}

/// Which kind of store the key of an index means.
fn kind_of(key: &ObjectKey) -> StoreKind {
    if key.namespace.is_empty() {
        StoreKind::ClusterSecretStore
    } else {
        StoreKind::SecretStore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_a_namespace_go_with_it_and_no_others() {
        let store = ObjectKey::new("", "aws");
        for (live, expected) in [
            (None, vec![1, 2]),
            (Some("u2"), vec![1]),
            (Some("u3"), vec![1, 2]),
        ] {
            let mut known = Known::default();
            for (id, tenant) in [
                (1, Some(("shop", "u1"))),
                (2, Some(("shop", "u2"))),
                (3, Some(("shop-2", "u1"))),
                (4, None),
            ] {
                let id = SourceId(id);
                known
                    .sources
                    .insert(id, (store.clone(), Some(SourcePolicy::default())));
                known.accounts.insert(id, "111122223333".into());
                if let Some((name, uid)) = tenant {
                    known.tenants.insert(id, (name.into(), uid.into()));
                }
            }
            let mut gone = known.leave("shop", live);
            gone.sort_unstable();
            let expected: Vec<_> = expected.into_iter().map(SourceId).collect();
            assert_eq!(gone, expected, "{live:?}");
            assert_eq!(known.sources.len(), 4 - gone.len());
            assert_eq!(known.accounts.len(), 4 - gone.len());
            assert_eq!(known.tenants.len(), 3 - gone.len());
        }
    }
}
