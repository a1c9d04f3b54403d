//! What is kept of Namespaces.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;

use super::{Change, Project};
use crate::api::ObjectKey;

/// A Namespace, as far as stores and people choose by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceEntry {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations of `keyturn.dev/`, without that prefix: suspensions and defaults.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is being deleted with all that is in it.
    pub ending: bool,
}

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
        let ours = |(name, value): (String, String)| {
            name.strip_prefix("keyturn.dev/")
                .map(|name| (name.to_owned(), value))
        };
        NamespaceEntry {
            uid: object.metadata.uid.unwrap_or_default().into(),
            labels: object.metadata.labels.unwrap_or_default(),
            annotations: annotations.into_iter().filter_map(ours).collect(),
            ending,
        }
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::Namespace(key.name)
    }
}
