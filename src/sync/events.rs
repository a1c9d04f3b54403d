//! Whom an event is about.

use k8s_openapi::api::core::v1::ObjectReference;

use crate::api::{ObjectKey, names};

/// An object of ours, by kind.
pub(super) fn reference(kind: &str, key: &ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(names::API_VERSION.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(key.name.to_string()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}
