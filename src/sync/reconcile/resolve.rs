//! What is looked at before AWS is called: suspensions, the store, its identity, every key.

use super::{Context, outcome::Stop, pass::Pass};
use crate::{
    api::{ObjectKey, Reason},
    cluster::Indexed,
    objects::{Entry, Suspension},
    sync::{
        decide::{
            admission::{self, NotAdmitted, Surroundings},
            references::{Resolved, Resolver},
        },
        slice::TimeSlice,
        stores::Stores,
    },
};

impl Context {
    /// What may keep an object of `namespace` from being worked on, as far as the indexes know.
    pub(super) fn surroundings(&self, namespace: &str, entry: &Entry) -> Surroundings<'_> {
        let of_namespace = self
            .view
            .namespaces
            .with(&ObjectKey::new("", namespace), |indexed| {
                indexed.entry().map(Suspension::of_namespace)
            });
        let store = self.stores.meant(entry.spec.store.as_ref()).ok();
        Surroundings {
            now: self.view.time.now(),
            control: self.held(namespace),
            namespace: of_namespace.flatten().unwrap_or_default(),
            store: store.map(|store| {
                let suspension = self.stores.suspended(&store, namespace);
                (store, suspension)
            }),
            protected: &self.settings.protected,
        }
    }
}

impl Pass<'_> {
    /// Whether the object may be worked on.
    pub(super) fn admit(&self) -> Result<(), Stop> {
        let around = self.context.surroundings(&self.object.namespace, self.entry);
        let Err(not_admitted) = admission::admit(self.object, self.entry, &around) else {
            return Ok(());
        };
        self.context.unsubscribe(self.object);
        Err(match not_admitted {
            NotAdmitted::Suspended(suspended) => {
                // AWS is not called meanwhile: whether a secret is still gone is asked afterwards.
                self.context.deletions().withdraw(self.object);
                // Nothing is promised meanwhile.
                self.remember(|memory| memory.wanted_since = None);
                Stop::Suspended(suspended)
            }
            NotAdmitted::Unreadable(refusal) => refusal.into(),
            NotAdmitted::Refused(refusal) => self.refuse(refusal),
        })
    }

    /// The store, its identity, and every key: all checked before AWS is called for any of them.
    pub(super) async fn resolve(&self) -> Result<Resolved, Stop> {
        let resolved = self.find_references().await;
        if let Err(Stop::Refused(refused)) = &resolved {
            self.context.unsubscribe(self.object);
            self.retry_store(refused.ready.reason);
        }
        resolved.map_err(|stop| stop.again_after(self.recheck()))
    }

    async fn find_references(&self) -> Result<Resolved, Stop> {
        let Context { view, stores, .. } = self.context;
        let namespaces = &view.namespaces;
        let store = stores.meant(self.entry.spec.store.as_ref())?;
        let namespace = &self.object.namespace;
        let indexed = namespaces.get(&ObjectKey::new("", namespace.clone()));
        // A Namespace is made before what is in it, but comes by another watch, which then wakes its objects.
        if indexed.is_none() && !namespaces.is_empty() {
            return Err(Stop::WaitFor(None));
        }
        let labels = indexed.as_ref().and_then(Indexed::entry);
        // Nothing can be made in it any more, and all of it goes.
        if labels.is_some_and(|namespace| namespace.ending) {
            return Err(Stop::WaitFor(None));
        }
        let mut usable = stores.usable(&store, namespace, labels)?;
        // An ARN means the store's account or another one, which only AWS can tell.
        if usable.account.is_none() && usable.names_arn(&self.entry.spec.needs) {
            stores
                .prove(&mut usable)
                .await
                .map_err(|error| Stop::from(&error))?;
        }
        let resolver = Resolver::new(&store, namespace, &usable)?;
        let scope = usable.verdict_scope(namespace);
        let mut slice = TimeSlice::start(self.context.clock);
        let mut needs = Vec::with_capacity(self.entry.spec.needs.len());
        for need in &self.entry.spec.needs {
            slice.yield_if_spent().await;
            let request = resolver.request(need, |allowed, key| stores.allows(&usable, allowed, &scope, key));
            needs.push(request.map_err(|denied| {
                self.audit_refusal(Reason::KeyNotAllowed, &denied.key);
                denied.refusal
            })?);
        }
        Ok(Resolved::new(&store, usable, needs))
    }

    /// The store of an object that was edited, or whose refresh somebody asks for, is proved again if it is not ready.
    fn retry_store(&self, reason: Reason) {
        let stores = &self.context.stores;
        if reason == Reason::StoreNotReady
            && self.recall().edited
            && let Ok(store) = stores.meant(self.entry.spec.store.as_ref())
        {
            stores.retry(&Stores::key(&store, &self.object.namespace));
        }
    }
}
