//! A store as its index keeps it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{
        ClusterSecretStore, ConditionType, ObjectKey, SecretStore, StoreSpec, StoreStatus, names::annotation,
        token,
    },
    cluster::{Change, Project},
    objects::Suspension,
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
    /// `keyturn.dev/confirm-deletion`: the token of held deletions that are meant.
    pub confirmed: Option<Arc<str>>,
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
    pub fn new(metadata: &kube::api::ObjectMeta, spec: StoreSpec, status: Option<StoreStatus>) -> Self {
        let get = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            generation: metadata.generation.unwrap_or_default(),
            spec: spec.into(),
            suspended: Suspension::parse(get(annotation::SUSPEND_SYNC_UNTIL)),
            confirmed: get(annotation::CONFIRM_DELETION)
                .filter(|text| token::is_text(text))
                .map(Into::into),
            status,
        }
    }

    /// What the status says of `Ready`.
    pub fn ready(&self) -> Option<&Condition> {
        self.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == ConditionType::Ready.as_str())
    }
}
