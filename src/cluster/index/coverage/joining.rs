//! Listing the namespaces that come to be demanded, beside the watch, and dropping those that no longer are.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::ExponentialBackoff;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    super::follow::{Follower, pauses},
    Version,
};
use crate::{
    api::ObjectKey,
    cluster::{
        Change, Project,
        call::Verb,
        error::{Class, Error},
    },
};

/// Namespaces of one kind that are listed at once. Those whose list failed before may take long to fail again, and begin only
/// while no other list runs: they leave a place to those that did not fail.
const AT_ONCE: usize = 2;
/// How long the list of one namespace may take, which bounds what the watch says meanwhile. After five minutes the API server
/// has forgotten the version of the list anyway.
const LONGEST_LIST: Duration = Duration::from_mins(5);
/// A namespace is dropped once it was not demanded for so long: longer than a rollout that was asked for before can count
/// against the limits of the cluster (10 minutes), and long enough that an edit and its undoing cost nothing.
pub(super) const UNDEMANDED: Duration = Duration::from_mins(15);

/// A list failed.
struct Failed {
    /// When the next one may begin.
    until: Instant,
    pauses: ExponentialBackoff,
}

impl<P: Project> Follower<P> {
    /// Keeps the coverage of the index equal to what is demanded while the kind is followed. Never ends; dropped, it leaves
    /// lists unfinished, and their namespaces to the next list of the whole place.
    pub(in super::super) async fn cover(&self) {
        let Some(mut demand) = self.demand.clone() else {
            return pending().await;
        };
        let place = &*self.place.namespace;
        let mut failures: HashMap<Arc<str>, Failed> = HashMap::new();
        let mut undemanded: HashMap<Arc<str>, Instant> = HashMap::new();
        let mut lists = FuturesUnordered::new();
        loop {
            let (demanded, now) = (demand.namespaces(place), Instant::now());
            let surplus = self.index.surplus(place, &demanded);
            undemanded.retain(|namespace, _| surplus.contains(namespace));
            for namespace in surplus {
                let since = *undemanded.entry(Arc::clone(&namespace)).or_insert(now);
                if now >= since + UNDEMANDED {
                    undemanded.remove(&namespace);
                    self.drop_namespace(&namespace);
                }
            }
            failures.retain(|namespace, _| demanded.contains(namespace));
            let is_due =
                |namespace: &Arc<str>| failures.get(namespace).is_none_or(|failed| failed.until <= now);
            let mut due: Vec<_> = self.index.lacks(&demanded).into_iter().filter(is_due).collect();
            let has_failed = |namespace: &Arc<str>| failures.contains_key(namespace);
            due.sort_by_key(has_failed);
            for namespace in due {
                let places = if has_failed(&namespace) {
                    AT_ONCE - 1
                } else {
                    AT_ONCE
                };
                if lists.len() >= places {
                    break;
                }
                self.index.join(&namespace);
                let began = Instant::now();
                lists.push(async move {
                    let listed = self.list_namespace(&namespace).await;
                    (namespace, began.elapsed(), listed)
                });
            }
            self.measure_coverage();
            let retries = failures.values().map(|failed| failed.until);
            let drops = undemanded.values().map(|since| *since + UNDEMANDED);
            let alarm = retries.filter(|until| *until > now).chain(drops).min();
            tokio::select! {
                Some((namespace, took, listed)) = lists.next(), if !lists.is_empty() => match listed {
                    Ok(()) => drop(failures.remove(&namespace)),
                    Err(error) => {
                        self.index.postpone(&namespace);
                        tracing::warn!(
                            %error,
                            "the workloads of a namespace could not be listed, so none is restarted there; it is tried again"
                        );
                        let failed = failures.entry(namespace).or_insert_with(|| Failed { until: now, pauses: pauses() });
                        let pause = failed.pauses.next().unwrap_or(LONGEST_LIST);
                        failed.until = Instant::now() + pause.max(took);
                    }
                },
                () = demand.changed() => {}
                () = sleep_until(alarm.unwrap_or(now)), if alarm.is_some() => {}
            }
        }
    }

    fn drop_namespace(&self, namespace: &Arc<str>) {
        for key in self.index.leave(namespace) {
            self.changes.push(self.project.change(key));
        }
        self.measure();
    }

    /// Lists one namespace and takes its objects in, all of them or none.
    async fn list_namespace(&self, namespace: &Arc<str>) -> Result<(), Error> {
        let place = ObjectKey::new(Arc::clone(namespace), "");
        let objects = Mutex::new(Vec::new());
        let take = |object: &serde_json::value::RawValue| {
            let Some(meta) = self.head(object) else { return };
            let (key, indexed) = self.read(meta, object);
            self.warn_of(&key, &indexed);
            objects
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((key, indexed));
        };
        let listed = match timeout(LONGEST_LIST, self.pages(&place, None, take)).await {
            Ok(listed) => listed,
            Err(_) => Err(Self::call(Verb::List, &place).failed(Class::Timeout)),
        };
        let version = Version::of(&listed?);
        let objects = objects.into_inner().unwrap_or_else(PoisonError::into_inner);
        for key in self.index.joined(namespace, objects, version) {
            self.changes.push(self.project.change(key));
        }
        self.changes.push(Change::Covered(Arc::clone(namespace)));
        self.measure();
        Ok(())
    }
}
