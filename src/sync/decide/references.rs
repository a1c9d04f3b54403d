//! From the entries of an ExternalSecret to what is read: each key in full, and allowed by the store. Pure.

use std::sync::Arc;

use crate::{
    api::{AllowedKeys, ObjectKey, Reason, Selector, SourceId, StoreKind, VersionId, token},
    objects::{Entry, Need, StoreRef},
    sync::{
        resolve::{Asked, Refusal},
        stores::Usable,
    },
};

/// One entry as it is read: what, where, and what the Secret has of it already.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Where it is read.
    pub source: SourceId,
    /// The key in full, a name or an ARN.
    pub key: Arc<str>,
    /// Which version.
    pub selector: Selector,
    /// Its name in `keyturn.dev/versions`.
    pub hash: String,
    /// The version that the Secret was made from.
    pub recorded: Option<VersionId>,
    /// The Secret records that it was made without it, since it was gone.
    pub absent: bool,
}

/// An ExternalSecret whose references were all found good.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// `Kind/name` of the store, as the status has it.
    pub label: String,
    /// The store, for the namespace of the ExternalSecret.
    pub usable: Usable,
    /// What is read, in the order of the spec's entries.
    pub needs: Vec<ReadRequest>,
}

/// A key that the store's `allowedKeys` keep from the namespace.
#[derive(Debug)]
pub struct Denied {
    /// The key in full.
    pub key: Arc<str>,
    /// The condition to show.
    pub refusal: Refusal,
}

/// Resolves the references of one namespace through one store.
#[derive(Debug)]
pub struct Resolver<'a> {
    asked: Asked<'a>,
    usable: &'a Usable,
    namespace: &'a str,
    allowed: AllowedKeys<'a>,
}

impl<'a> Resolver<'a> {
    /// The store as `namespace` uses it.
    pub fn new(store: &'a StoreRef, namespace: &'a str, usable: &'a Usable) -> Result<Self, Refusal> {
        let patterns = usable.spec.allowed_keys.as_deref();
        let allowed = AllowedKeys::new(patterns, namespace)
            .map_err(|bad| Refusal::new(Reason::StoreNotReady, format!("{store}: {bad}")))?;
        let asked = Asked {
            store,
            uid: &usable.uid,
            namespace: (store.kind == StoreKind::SecretStore).then_some(namespace),
            spec: &usable.spec,
        };
        Ok(Self {
            asked,
            usable,
            namespace,
            allowed,
        })
    }

    /// What the entry reads. `allows` judges the key in full.
    pub fn request(
        &self,
        need: &Need,
        allows: impl FnOnce(AllowedKeys<'_>, &Arc<str>) -> bool,
    ) -> Result<ReadRequest, Denied> {
        let key = self.asked.key(need);
        if !allows(self.allowed, &key) {
            let refusal = self.asked.denied(self.namespace, &key);
            return Err(Denied { key, refusal });
        }
        let StoreRef { kind, name } = self.asked.store;
        Ok(ReadRequest {
            source: self.usable.id,
            hash: token::remote_hash(*kind, name, &key, &need.selector),
            key,
            selector: need.selector.clone(),
            recorded: None,
            absent: false,
        })
    }
}

impl Resolved {
    /// Needs that were all found good.
    pub fn new(store: &StoreRef, usable: Usable, needs: Vec<ReadRequest>) -> Self {
        Self {
            label: format!("{}/{}", store.kind, store.name),
            usable,
            needs,
        }
    }
}

/// What `entry` reads through the store. A pass resolves the same entries in time slices, and by verdicts on `allowedKeys` that
/// the stores remember.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "a command that shows a plan will call it")
)]
pub fn resolve(
    object: &ObjectKey,
    entry: &Entry,
    store: &StoreRef,
    usable: Usable,
) -> Result<Resolved, Refusal> {
    let resolver = Resolver::new(store, &object.namespace, &usable)?;
    let requests = entry.spec.needs.iter().map(|need| {
        resolver
            .request(need, |allowed, key| allowed.allows(key, usable.home()))
            .map_err(|denied| denied.refusal)
    });
    let needs = requests.collect::<Result<_, _>>()?;
    Ok(Resolved::new(store, usable, needs))
}
