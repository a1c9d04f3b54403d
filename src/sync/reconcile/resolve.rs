//! What is looked at before AWS is asked: suspensions, the store, its identity, every key.

use std::time::Duration;

use jiff::Timestamp;

use super::{Context, Ended, Stop};
use crate::{
    api::{AllowedKeys, ObjectKey, Reason},
    cluster::Indexed,
    sync::{
        decide::{
            admission::{latest, suspension_of},
            references::{Resolved, Resolver},
        },
        entry::{Entry, Suspension},
        plan::seconds,
        resolve::Refusal,
        slice::TimeSlice,
        status::{Draft, Verdict},
        stores::Unusable,
    },
};

impl Context {
    /// The latest suspension in force and what it is written on.
    pub(super) fn suspension(
        &self,
        object: &ObjectKey,
        entry: &Entry,
    ) -> Result<Option<(Timestamp, String)>, Refusal> {
        let now = self.time.now();
        let key = ObjectKey::new("", object.namespace.clone());
        let namespace = self
            .namespaces
            .with(&key, |indexed| indexed.entry().map(suspension_of));
        let namespace = namespace.flatten().unwrap_or_default();
        let store = self.stores.meant(entry.store.as_ref()).ok();
        let of_store = store.as_ref().map_or(Suspension::None, |store| {
            self.stores.suspended(store, &object.namespace)
        });
        let places = [
            (entry.suspended, format!("ExternalSecret {}", object.name)),
            (namespace, format!("Namespace {}", object.namespace)),
            (
                of_store,
                store.map_or_else(String::new, |store| store.to_string()),
            ),
        ];
        latest(now, places)
    }

    pub(super) async fn suspend(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        until: Timestamp,
        by: &str,
    ) -> Ended {
        self.unsubscribe(object);
        // AWS is not asked meanwhile: whether a secret is still gone is asked afterwards.
        self.deletions().withdraw(object);
        // Nothing is promised meanwhile.
        self.remember(object, |memory| memory.wanted_since = None);
        let message = format!("suspended until {} by the annotation on {by}", seconds(until));
        let draft = Draft {
            current: Some(Verdict::fails(Reason::Suspended, message)),
            ..Draft::default()
        };
        let left = Duration::try_from(until.duration_since(self.time.now())).unwrap_or(Duration::ZERO);
        // Clocks and annotations change: a far end is looked at again before it.
        self.say(
            object,
            entry,
            draft,
            None,
            Ended::Again(left.clamp(Duration::from_secs(1), Duration::from_hours(24))),
        )
        .await
    }

    /// The store, its identity, and every key: all checked before AWS is asked for any of them.
    pub(super) async fn resolve(&self, object: &ObjectKey, entry: &Entry) -> Result<Resolved, Stop> {
        if let Some(invalid) = &entry.invalid {
            return Err(Refusal::new(Reason::InvalidSpec, &**invalid).into());
        }
        if self
            .protected
            .iter()
            .any(|namespace| **namespace == *object.namespace)
        {
            return Err(Refusal::new(
                Reason::NamespaceNotAllowed,
                format!(
                    "namespace {} is protected: the operator writes no Secrets there",
                    object.namespace
                ),
            )
            .into());
        }
        let store = self.stores.meant(entry.store.as_ref())?;
        let namespace = self.namespaces.get(&ObjectKey::new("", object.namespace.clone()));
        // A Namespace is made before what is in it, but comes by another watch, which then wakes its objects.
        if namespace.is_none() && !self.namespaces.is_empty() {
            return Err(Stop::Waiting);
        }
        let labels = namespace.as_ref().and_then(Indexed::entry);
        // Nothing can be made in it any more, and all of it goes.
        if labels.is_some_and(|namespace| namespace.ending) {
            return Err(Stop::Waiting);
        }
        let mut usable = match self.stores.usable(&store, &object.namespace, labels) {
            Ok(usable) => usable,
            Err(Unusable::NotYet) => return Err(Stop::Waiting),
            Err(Unusable::Refused(refusal)) => return Err(refusal.into()),
        };
        // An ARN means the store's account or another one, which only AWS can tell.
        if usable.account.is_none() && usable.names_arn(&entry.needs) {
            self.stores
                .prove(&mut usable)
                .await
                .map_err(|error| Stop::of(&error))?;
        }
        let resolver = Resolver::new(&store, &object.namespace, &usable)?;
        let scope = usable.verdict_scope(&object.namespace);
        let mut slice = TimeSlice::start(self.clock);
        let mut needs = Vec::with_capacity(entry.needs.len());
        for need in &entry.needs {
            slice.yield_if_spent().await;
            let allows =
                |allowed: AllowedKeys<'_>, key: &_| self.stores.allows(&usable, allowed, &scope, key);
            let request = resolver.request(need, allows).map_err(|denied| {
                self.audit_refusal(object, entry, &denied.key);
                denied.refusal
            });
            needs.push(request?);
        }
        Ok(Resolved::new(&store, usable, needs))
    }
}
