//! `ExternalSecret`: which remote secrets make up which Kubernetes Secret.

use std::{collections::BTreeSet, fmt, time::Duration};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    block, caps,
    interval::{BadInterval, Interval},
    refused,
    restart::{RestartSpec, RotationSpec},
    schema,
    status::ExternalSecretStatus,
};

/// What an ExternalSecret asks for.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "keyturn.dev",
    version = "v1",
    kind = "ExternalSecret",
    namespaced,
    status = "ExternalSecretStatus",
    shortname = "kes",
    category = "keyturn",
    derive = "PartialEq",
    doc = "Keeps one Secret of its namespace equal to what AWS Secrets Manager says.",
    selectable = ".spec.secretStoreRef.name",
    selectable = ".spec.secretStoreRef.kind",
    selectable = ".spec.target.name",
    selectable = ".spec.refreshInterval",
    printcolumn = r#"{"name": "Store", "type": "string", "jsonPath": ".spec.secretStoreRef.name"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name": "Current", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Current')].reason"}"#,
    printcolumn = r#"{"name": "Changed", "type": "date", "jsonPath": ".status.target.changedAt"}"#,
    printcolumn = r#"{"name": "Restarts", "type": "string", "jsonPath": ".status.restart.progress"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Secret", "type": "string", "priority": 1, "jsonPath": ".status.target.name"}"#,
    printcolumn = r#"{"name": "Version", "type": "string", "priority": 1, "jsonPath": ".status.sources[0].versionId"}"#,
    printcolumn = r#"{"name": "Rotation", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type=='RotationHealthy')].reason"}"#,
    printcolumn = r#"{"name": "Restarting", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type=='RestartsComplete')].reason"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type=='Ready')].message"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::external_secret)]
pub struct ExternalSecretSpec {
    /// The store that entries are read through. Without it, the operator's default store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_store_ref: Option<StoreRef>,
    /// When AWS is asked again: `Periodic` (the default), `OnChange` (only when this object changes) or `CreatedOnce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_policy: Option<RefreshPolicy>,
    /// How fresh the Secret must be, as a Go duration such as `1h` (the default) or `1m30s`; `0` reads once. Below the
    /// operator's minimum (30s) it is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), transform = schema::duration)]
    pub refresh_interval: Option<String>,
    /// The Secret to write. Without it, one of this object's name, owned by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// One key of the Secret each. They win over `dataFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["secretKey"]))]
    pub data: Option<Vec<DataEntry>>,
    /// Several keys of the Secret each; later entries win over earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub data_from: Option<Vec<DataFromEntry>>,
    /// How the credential rotates.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "block::lenient"
    )]
    pub rotation: Option<RotationSpec>,
    /// How the workloads that use the Secret follow its changes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "block::lenient"
    )]
    pub restart: Option<RestartSpec>,
}

/// When AWS is asked again.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum RefreshPolicy {
    /// Every `refreshInterval`, and when the object changes.
    #[default]
    Periodic,
    /// When the object changes.
    OnChange,
    /// Until the first success, never again.
    CreatedOnce,
}

/// Names a store.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// The store's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The store's kind: `SecretStore` (the default) of the same namespace, or `ClusterSecretStore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<StoreKind>,
}

impl StoreRef {
    /// The store's kind.
    pub fn kind(&self) -> StoreKind {
        self.kind.unwrap_or_default()
    }
}

/// The kinds of stores.
#[derive(
    JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[schemars(description = "")]
pub enum StoreKind {
    /// For its own namespace.
    #[default]
    SecretStore,
    /// For all namespaces that it admits.
    ClusterSecretStore,
}

impl StoreKind {
    /// The kind as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SecretStore => "SecretStore",
            Self::ClusterSecretStore => "ClusterSecretStore",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The Secret to write.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::target)]
pub struct Target {
    /// The Secret's name. Without it, the ExternalSecret's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub name: Option<String>,
    /// `Owner` (the default): the Secret is made and goes with the ExternalSecret. `Orphan`: it is made and stays.
    /// `None`: AWS is read, nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 32))]
    pub creation_policy: Option<CreationPolicy>,
    /// When secrets in AWS are gone: `Retain` (the default) keeps the last good Secret, `Delete` deletes it once all are
    /// gone and removes single keys before, `Merge` removes their keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Whether a Secret that exists may be taken over. It must also agree, by the annotation `keyturn.dev/adopt` with the
    /// ExternalSecret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt_existing: Option<bool>,
    /// Whether the Secret is made immutable. A change in AWS then shows in the conditions and is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}

/// What is done about the Secret.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CreationPolicy {
    /// Made, and garbage-collected with the ExternalSecret.
    #[default]
    Owner,
    /// Made, and left when the ExternalSecret goes.
    Orphan,
    /// Not written at all.
    None,
}

impl CreationPolicy {
    /// The policy as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Orphan => "Orphan",
            Self::None => "None",
        }
    }
}

/// What is done when a secret in AWS is gone.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum DeletionPolicy {
    /// The last good Secret stays.
    #[default]
    Retain,
    /// The Secret is deleted once everything is gone; before, the keys of what is gone are removed.
    Delete,
    /// The keys of what is gone are removed; the Secret stays, in the end empty.
    Merge,
}

impl DeletionPolicy {
    /// The policy as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retain => "Retain",
            Self::Delete => "Delete",
            Self::Merge => "Merge",
        }
    }
}

/// One key of the Secret.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::data_entry)]
pub struct DataEntry {
    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SECRET_KEY))]
    pub secret_key: String,
    /// What it holds.
    pub remote_ref: RemoteRef,
}

/// Several keys of the Secret.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::data_from_entry)]
pub struct DataFromEntry {
    /// A remote secret that is a JSON object: each of its members becomes a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<RemoteRef>,
}

/// A remote secret, or a part of it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::remote_ref)]
pub struct RemoteRef {
    /// The name or ARN in AWS Secrets Manager. The store's `prefix` is put in front.
    #[schemars(length(min = 1, max = 2048))]
    pub key: String,
    /// The part of a JSON value: member names, joined by dots. Without it, the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub property: Option<String>,
    /// A staging label (`AWSCURRENT` by default), or `uuid/` and a version id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub version: Option<String>,
}

impl RemoteRef {
    /// The version that is wanted.
    pub fn selector(&self) -> super::Selector {
        super::Selector::parse(self.version.as_deref())
    }

    /// The part that is wanted; an empty one means the whole value.
    pub fn property(&self) -> Option<&str> {
        self.property.as_deref().filter(|property| !property.is_empty())
    }
}

/// Where an entry stands in the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryPath {
    /// `dataFrom[i].extract`.
    Extract(usize),
    /// `data[i]`.
    Data(usize),
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extract(index) => write!(f, "dataFrom[{index}].extract"),
            Self::Data(index) => write!(f, "data[{index}]"),
        }
    }
}

/// One thing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it stands in the spec.
    pub path: EntryPath,
    /// The key in the Secret; `None` where each member of the value becomes one.
    pub secret_key: Option<&'a str>,
    /// What to read.
    pub remote: &'a RemoteRef,
}

impl ExternalSecretSpec {
    /// When AWS is asked again.
    pub fn policy(&self) -> RefreshPolicy {
        self.refresh_policy.unwrap_or_default()
    }

    /// How fresh the Secret must be, at least `minimum` apart.
    pub fn interval(&self, minimum: Duration) -> Result<Interval, BadInterval> {
        Interval::parse(self.refresh_interval.as_deref(), minimum)
    }

    /// The Secret's name, for the ExternalSecret `name`.
    pub fn target_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.target
            .as_ref()
            .and_then(|target| target.name.as_deref())
            .unwrap_or(name)
    }

    /// What is done about the Secret.
    pub fn creation_policy(&self) -> CreationPolicy {
        self.target
            .as_ref()
            .and_then(|target| target.creation_policy)
            .unwrap_or_default()
    }

    /// What is done when a secret in AWS is gone.
    pub fn deletion_policy(&self) -> DeletionPolicy {
        self.target
            .as_ref()
            .and_then(|target| target.deletion_policy)
            .unwrap_or_default()
    }

    /// Whether a Secret that exists may be taken over.
    pub fn adopt_existing(&self) -> bool {
        self.target
            .as_ref()
            .and_then(|target| target.adopt_existing)
            .unwrap_or_default()
    }

    /// Whether the Secret is made immutable.
    pub fn immutable(&self) -> bool {
        self.target
            .as_ref()
            .and_then(|target| target.immutable)
            .unwrap_or_default()
    }

    /// Bytes that its entries take in memory: all keys, stages and versions that they name, each counted once.
    pub fn remote_size(&self) -> usize {
        let mut texts = BTreeSet::new();
        let mut entries = 0_usize;
        for entry in self.entries() {
            entries += 1;
            texts.insert(entry.remote.key.as_str());
            texts.extend(entry.remote.version.as_deref());
        }
        entries * caps::ITEM + texts.iter().map(|text| text.len()).sum::<usize>()
    }

    /// What to read, in the order in which later entries win: `dataFrom`, then `data`.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let extracts = self
            .data_from
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, entry)| {
                let remote = entry.extract.as_ref()?;
                Some(Entry {
                    path: EntryPath::Extract(index),
                    secret_key: None,
                    remote,
                })
            });
        let data = self
            .data
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, entry)| Entry {
                path: EntryPath::Data(index),
                secret_key: Some(&entry.secret_key),
                remote: &entry.remote_ref,
            });
        extracts.chain(data)
    }
}
