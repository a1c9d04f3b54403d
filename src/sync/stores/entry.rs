//! A store as its index keeps it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{
        ClusterSecretStore, ConditionType, ObjectKey, SecretStore, StoreKind, StoreSpec, StoreStatus,
        names::annotation,
    },
    cluster::{Change, Project},
    sync::{
        entry::{StoreRef, Suspension},
        resolve::Asked,
    },
};

/// A store, whole: they are few.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreEntry {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its generation.
    pub generation: i64,
    /// Its spec.
    pub spec: Arc<StoreSpec>,
    /// Its suspend annotation.
    pub suspended: Suspension,
    /// Its status.
    pub status: Option<StoreStatus>,
}

/// Keeps SecretStores.
#[derive(Debug)]
pub struct SecretStores;

/// Keeps ClusterSecretStores.
#[derive(Debug)]
pub struct ClusterSecretStores;

impl Project for SecretStores {
    type Kind = SecretStore;
    type Object = SecretStore;
    type Entry = StoreEntry;

    fn project(&self, _: &ObjectKey, object: SecretStore) -> StoreEntry {
        StoreEntry::new(&object.metadata, object.spec.0, object.status)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::SecretStore(key)
    }
}

impl Project for ClusterSecretStores {
    type Kind = ClusterSecretStore;
    type Object = ClusterSecretStore;
    type Entry = StoreEntry;

    const CLUSTER_WIDE: bool = true;

    fn project(&self, _: &ObjectKey, object: ClusterSecretStore) -> StoreEntry {
        StoreEntry::new(&object.metadata, object.spec.0, object.status)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::ClusterSecretStore(key.name)
    }
}

impl StoreEntry {
    pub(super) fn new(
        metadata: &kube::api::ObjectMeta,
        spec: StoreSpec,
        status: Option<StoreStatus>,
    ) -> Self {
        let suspended = metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(annotation::SUSPEND_SYNC_UNTIL));
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            generation: metadata.generation.unwrap_or_default(),
            spec: spec.into(),
            suspended: Suspension::parse(suspended.map(String::as_str)),
            status,
        }
    }

    /// The store, ready to be asked for an identity.
    pub(super) fn asked<'a>(&'a self, store: &'a StoreRef, key: &'a ObjectKey) -> Asked<'a> {
        Asked {
            store,
            uid: &self.uid,
            namespace: (store.kind == StoreKind::SecretStore).then_some(&*key.namespace),
            spec: &self.spec,
        }
    }

    /// What the status says of `Ready`.
    pub(super) fn ready(&self) -> Option<&Condition> {
        self.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == ConditionType::Ready.as_str())
    }
}
