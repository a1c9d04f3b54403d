//! What is kept of Namespaces.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;

use super::{Change, Project};
use crate::api::{
    ObjectKey,
    caps::{self, capped},
    names::annotation,
};

/// A Namespace, as far as stores and people choose by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceEntry {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations that Keyturn reads, without `keyturn.dev/`: suspensions and defaults.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is being deleted with all that is in it.
    pub ending: bool,
}

/// The annotations that are read on a Namespace.
const READ: [&str; 5] = [
    annotation::RESTART,
    annotation::RESTART_STRATEGY,
    annotation::HOT_RELOAD,
    annotation::SUSPEND_RESTARTS_UNTIL,
    annotation::SUSPEND_SYNC_UNTIL,
];

/// Namespaces, all of them.
pub(super) struct Namespaces;

impl Project for Namespaces {
    type Kind = Namespace;
    type Object = Namespace;
    type Entry = NamespaceEntry;

    const CLUSTER_WIDE: bool = true;

    fn project(&self, _key: &ObjectKey, object: Namespace) -> NamespaceEntry {
        let ending = object.metadata.deletion_timestamp.is_some();
        let annotations = object.metadata.annotations.unwrap_or_default();
        let read = |name: &&str| {
            let value = capped(annotations.get(*name)?, caps::WORD);
            Some((name.strip_prefix("keyturn.dev/")?.to_owned(), value.into()))
        };
        NamespaceEntry {
            uid: object.metadata.uid.unwrap_or_default().into(),
            labels: object.metadata.labels.unwrap_or_default(),
            annotations: READ.iter().filter_map(read).collect(),
            ending,
        }
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::Namespace(key.name)
    }
}
