//! What the kinds say of themselves. Nothing here changes while nothing changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeyChange;

/// The generation that a status speaks of before any operator wrote one: the default of the definitions.
pub const UNOBSERVED: i64 = -1;

/// The status of an ExternalSecret. `restart` and `RestartsComplete` are the field manager `keyturn-restart`'s, the rest
/// `keyturn-sync`'s.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalSecretStatus {
    /// The generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Current`, `RotationHealthy` and `RestartsComplete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,
    /// The remote secrets that the Secret was made from, at most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub sources: Option<Vec<SourceStatus>>,
    /// The Secret as it was written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,
    /// When data of the Secret, or all of it, was last deleted because it was gone in AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Time>,
    /// The rotation of the remote secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// The restarts that the last change asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStatus>,
}

/// A remote secret that the Secret was made from.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The kind and name of the store, as `ClusterSecretStore/aws`.
    #[serde(default)]
    pub store: String,
    /// The key in AWS, as the spec has it.
    #[serde(default)]
    pub key: String,
    /// The staging label, or `uuid/` and the version id that the spec asks for.
    #[serde(default)]
    pub stage: String,
    /// The version that was read.
    #[serde(default)]
    pub version_id: String,
    /// When this version was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Time>,
}

/// The Secret as it was written last.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The keyed token of its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The keyed token that pods must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// When `rollout` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Time>,
    /// Since when restarts are wanted: what changed before asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_since: Option<Time>,
    /// Which keys changed when, the latest change first, where not all changed together. A change restarts only workloads
    /// that use one of its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65), extend("x-kubernetes-list-type" = "atomic"))]
    pub key_changes: Option<Vec<KeyChange>>,
}

/// The rotation of the remote secrets.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// `Idle`, `InProgress` or `Stuck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The version that carries AWSPENDING and is not current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_version_id: Option<String>,
    /// When that version was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_since: Option<Time>,
    /// How the credential rotates, as told or as found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// When AWS rotated last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotated: Option<Time>,
    /// When AWS rotates next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
    /// Until when workloads must hold the new credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
}

/// The restarts that the last change asked for.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// The token that the workloads are brought to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Done of all, such as `7/10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// How many workloads wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i32>,
    /// How many roll out now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<i32>,
    /// How many hold the new content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<i32>,
    /// How many did not become healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<i32>,
    /// Whether no more workloads are restarted until restarts are resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<bool>,
    /// The workloads that are neither done nor simply waiting, at most 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub exceptions: Option<Vec<RestartException>>,
}

/// A workload that is neither done nor simply waiting.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartException {
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Why, in a word.
    #[serde(default)]
    pub reason: String,
    /// Why, in a sentence, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When that may change by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// The status of a store.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// The generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the identity is proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,
    /// The calls that save others and that AWS permits, as far as they were tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// How changes are found, and why so: `List`, `Describe` or `Read` and a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// The calls that save others and that AWS permits; absent ones were not tried.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Whether `secretsmanager:BatchGetSecretValue` is permitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<bool>,
    /// Whether `secretsmanager:ListSecrets` is permitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<bool>,
}
