//! The labels, annotations and owners of the target, and what is to change of them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde_json::{Map, Value, json};

use super::DesiredSecret;
use crate::{
    api::{
        CreationPolicy,
        names::{self, annotation},
        time::seconds,
    },
    objects::status::Written,
};

/// The part of the metadata that differs from what is wanted.
pub(super) fn metadata_changes(
    wanted: &DesiredSecret<'_>,
    live: &Secret,
    written: &Written,
) -> Map<String, Value> {
    let ours = fields_of_ours(live);
    let mut changes = Map::new();

    let wanted_labels = labels(wanted)
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .collect();
    let differing = difference(live.metadata.labels.as_ref(), wanted_labels, &ours.labels);
    if !differing.is_empty() {
        changes.insert("labels".to_owned(), Value::Object(differing));
    }
    let differing = difference(
        live.metadata.annotations.as_ref(),
        annotations(wanted, written),
        &ours.annotations,
    );
    if !differing.is_empty() {
        changes.insert("annotations".to_owned(), Value::Object(differing));
    }

    let owners = live.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owner(wanted);
    let (own, others): (Vec<_>, Vec<_>) = owners.iter().partition(|owner| owner.uid == wanted.uid);
    if !own.iter().copied().eq(&owner) {
        let owners: Vec<_> = others.into_iter().chain(&owner).collect();
        changes.insert("ownerReferences".to_owned(), json!(owners));
    }
    changes
}

/// Whether nothing differs but the record of the source, which is no reason to write: Secrets of a version that kept none
/// stay as they are.
pub(super) fn is_only_source(changes: &Map<String, Value>) -> bool {
    let annotations = changes.get("annotations").and_then(Value::as_object);
    changes.len() == 1
        && annotations.is_some_and(|changes| changes.len() == 1 && changes.contains_key(annotation::SOURCE))
}

/// A merge patch from `live` to `wanted` (`None`: must be absent); names that we once wrote and no longer want go.
fn difference(
    live: Option<&BTreeMap<String, String>>,
    mut wanted: BTreeMap<String, Option<String>>,
    ours: &BTreeSet<String>,
) -> Map<String, Value> {
    for name in ours {
        wanted.entry(name.clone()).or_insert(None);
    }
    wanted
        .into_iter()
        .filter(|(name, value)| live.and_then(|live| live.get(name)) != value.as_ref())
        .map(|(name, value)| (name, value.map_or(Value::Null, Value::String)))
        .collect()
}

pub(super) fn labels(wanted: &DesiredSecret<'_>) -> BTreeMap<String, String> {
    let mut labels = wanted.labels.clone();
    labels.insert(names::MANAGED_LABEL.to_owned(), "true".to_owned());
    labels
}

pub(super) fn annotations(wanted: &DesiredSecret<'_>, written: &Written) -> BTreeMap<String, Option<String>> {
    let changed_at = written.changed_at.map(seconds);
    let restart_since = written.restart_since.map(seconds);
    let key_changes = written.key_changes.as_ref().and_then(|changes| changes.text());
    let mut all: BTreeMap<_, _> = wanted
        .annotations
        .iter()
        .map(|(name, value)| (name.clone(), Some(value.clone())))
        .collect();
    for (name, value) in [
        (annotation::OWNER, Some(&*wanted.object.name)),
        (annotation::CONTENT, Some(&*written.content)),
        (annotation::INPUTS, Some(wanted.inputs)),
        (annotation::VERSIONS, Some(wanted.versions)),
        (annotation::SOURCE, wanted.source),
        (annotation::ROLLOUT, Some(&*written.rollout)),
        (annotation::CHANGED_AT, changed_at.as_deref()),
        (annotation::SCOPE, Some(&*written.scope)),
        (annotation::RESCOPED, written.rescoped.as_deref()),
        (annotation::RESTART_SINCE, restart_since.as_deref()),
        (annotation::KEY_CHANGES, key_changes.as_deref()),
        (annotation::USER, wanted.user),
    ] {
        all.insert(name.to_owned(), value.map(str::to_owned));
    }
    all
}

pub(super) fn owner(wanted: &DesiredSecret<'_>) -> Option<OwnerReference> {
    (wanted.creation == CreationPolicy::Owner).then(|| OwnerReference {
        api_version: names::API_VERSION.to_owned(),
        kind: "ExternalSecret".to_owned(),
        name: wanted.object.name.to_string(),
        uid: wanted.uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// The labels and annotations that our field manager wrote, by the API server's own record.
#[derive(Default)]
pub(super) struct Ours {
    pub(super) labels: BTreeSet<String>,
    pub(super) annotations: BTreeSet<String>,
}

pub(super) fn fields_of_ours(live: &Secret) -> Ours {
    let mut ours = Ours::default();
    for entry in live.metadata.managed_fields.iter().flatten() {
        if entry.manager.as_deref() != Some(names::SYNC_MANAGER) {
            continue;
        }
        let Some(metadata) = entry
            .fields_v1
            .as_ref()
            .and_then(|fields| fields.0.get("f:metadata"))
        else {
            continue;
        };
        let names = |part: &str| {
            metadata
                .get(part)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(field, _)| field.strip_prefix("f:").map(str::to_owned))
        };
        ours.labels.extend(names("f:labels"));
        ours.annotations.extend(names("f:annotations"));
    }
    ours
}
