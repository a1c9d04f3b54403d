//! What the stores say of themselves. Pure.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::report::{Finding, FindingKind, is, place};
use crate::api::{ConditionType, Status, StoreKind, StoreStatus};

/// A store.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) kind: StoreKind,
    pub(super) object: StoreObject,
}

/// The part of a store that is read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StoreObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) status: StoreStatus,
}

/// How many stores there are, and how they are.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoreCounts {
    pub(super) stores: usize,
    /// `Ready` is true.
    pub(super) ready: usize,
    pub(super) not_ready: usize,
    /// Kinds that may not be listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unlisted: Vec<&'static str>,
}

impl StoreCounts {
    pub(super) fn of(stores: &[Store], unlisted: Vec<&'static str>) -> Self {
        let ready = stores.iter().filter(|store| store.is_ready()).count();
        Self {
            stores: stores.len(),
            ready,
            not_ready: stores.len() - ready,
            unlisted,
        }
    }
}

impl Store {
    fn is_ready(&self) -> bool {
        let conditions = self.object.status.conditions.iter().flatten();
        conditions
            .filter(|condition| condition.type_ == ConditionType::Ready.as_str())
            .any(|ready| is(ready, Status::True))
    }
}

/// One finding for each store that is not ready.
pub(super) fn found(stores: &[Store]) -> Vec<Finding> {
    let mut found: Vec<Finding> = stores
        .iter()
        .filter(|store| !store.is_ready())
        .map(finding)
        .collect();
    found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    found
}

fn finding(store: &Store) -> Finding {
    let Store {
        kind,
        object: StoreObject { metadata, status },
    } = store;
    let (namespace, name) = place(metadata);
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == ConditionType::Ready.as_str());
    let (reason, since, message) = match ready {
        Some(ready) => (
            ready.reason.clone(),
            Some(ready.last_transition_time.0),
            ready.message.clone(),
        ),
        None => (
            "NoStatus".to_owned(),
            metadata.creation_timestamp.as_ref().map(|time| time.0),
            "The operator has not checked this store yet.".to_owned(),
        ),
    };
    Finding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        what: FindingKind::Store,
        attention: true,
        store: Some(label(*kind, name)),
        affected: BTreeSet::new(),
        workload: None,
        reason,
        since,
        until: None,
        message,
    }
}

/// The kind and name of a store.
pub(super) fn label(kind: StoreKind, name: &str) -> String {
    format!("{kind} {name}")
}
