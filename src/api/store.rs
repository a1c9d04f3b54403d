//! `SecretStore` and `ClusterSecretStore`: where secrets are read, as whom, and who may.

use std::ops::Deref;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{refused, schema, status::StoreStatus};

/// A store for its own namespace.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keyturn.dev",
    version = "v1",
    kind = "SecretStore",
    namespaced,
    status = "StoreStatus",
    shortname = "kss",
    category = "keyturn",
    derive = "PartialEq",
    doc = "Where ExternalSecrets of its namespace read from AWS Secrets Manager, and as whom.",
    printcolumn = r#"{"name": "Region", "type": "string", "jsonPath": ".spec.provider.aws.region"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Role", "type": "string", "priority": 1, "jsonPath": ".spec.provider.aws.role"}"#,
    printcolumn = r#"{"name": "Mode", "type": "string", "priority": 1, "jsonPath": ".status.mode"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type=='Ready')].message"}"#
)]
#[serde(transparent)]
#[schemars(transform = refused::namespaced_store)]
pub struct SecretStoreSpec(pub StoreSpec);

/// A store for all namespaces that it admits.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "keyturn.dev",
    version = "v1",
    kind = "ClusterSecretStore",
    status = "StoreStatus",
    shortname = "kcss",
    category = "keyturn",
    derive = "PartialEq",
    doc = "Where ExternalSecrets of the namespaces that it admits read from AWS Secrets Manager, and as whom.",
    printcolumn = r#"{"name": "Region", "type": "string", "jsonPath": ".spec.provider.aws.region"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Role", "type": "string", "priority": 1, "jsonPath": ".spec.provider.aws.role"}"#,
    printcolumn = r#"{"name": "Mode", "type": "string", "priority": 1, "jsonPath": ".status.mode"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type=='Ready')].message"}"#
)]
#[serde(transparent)]
pub struct ClusterSecretStoreSpec(pub StoreSpec);

impl Deref for SecretStoreSpec {
    type Target = StoreSpec;

    fn deref(&self) -> &StoreSpec {
        &self.0
    }
}

impl Deref for ClusterSecretStoreSpec {
    type Target = StoreSpec;

    fn deref(&self) -> &StoreSpec {
        &self.0
    }
}

/// What both kinds of stores say.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::store)]
pub struct StoreSpec {
    /// Where secrets are read, and as whom.
    pub provider: Provider,
    /// The namespaces that may use a ClusterSecretStore: any entry suffices. Without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub conditions: Option<Vec<StoreCondition>>,
    /// Globs on whole keys, with the prefix: what may be read through this store. `*` stops at `/`, `**` does not,
    /// `{namespace}` is the ExternalSecret's namespace. Without it, whatever AWS permits; an empty list lets nothing be
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 2048)), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_keys: Option<Vec<String>>,
}

impl StoreSpec {
    /// The AWS part.
    pub fn aws(&self) -> &AwsProvider {
        &self.provider.aws
    }

    /// The namespaces that may use the store: any entry suffices, none at all admits everyone.
    pub fn conditions(&self) -> &[StoreCondition] {
        self.conditions.as_deref().unwrap_or_default()
    }
}

/// Where secrets are read.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    /// AWS, the only provider.
    pub aws: AwsProvider,
}

/// Where secrets are read in AWS, and as whom.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::aws)]
pub struct AwsProvider {
    /// The service: `SecretsManager`, the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 32))]
    pub service: Option<Service>,
    /// The region, such as `eu-central-1`. Without it, the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = schema::REGION))]
    pub region: Option<String>,
    /// Put in front of every key as it is, without a separator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// The ARN of a role that is assumed on top of the identity that `auth` gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = schema::ROLE_ARN))]
    pub role: Option<String>,
    /// The external id that the role's trust policy asks for.
    #[serde(default, rename = "externalID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1224))]
    pub external_id: Option<String>,
    /// The identity. Without it, the operator's own, which a SecretStore may not use unless the operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// How changes are found: `Auto` (the default) takes the cheapest call that keeps the refresh interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_detection: Option<ChangeDetection>,
}

impl AwsProvider {
    /// The service.
    pub fn service(&self) -> Service {
        self.service.unwrap_or_default()
    }

    /// What is put in front of every key.
    pub fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// The region, or the operator's own.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref().filter(|region| !region.is_empty())
    }

    /// The role to assume; an empty one means none.
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref().filter(|role| !role.is_empty())
    }

    /// The external id; an empty one means none.
    pub fn external_id(&self) -> Option<&str> {
        self.external_id.as_deref().filter(|id| !id.is_empty())
    }

    /// How changes are found.
    pub fn change_detection(&self) -> ChangeDetection {
        self.change_detection.unwrap_or_default()
    }
}

/// A service of AWS that keeps secrets.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// AWS Secrets Manager.
    #[default]
    SecretsManager,
}

/// How changes are found.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(description = "")]
pub enum ChangeDetection {
    /// By the cheapest call that keeps the refresh interval.
    #[default]
    Auto,
    /// By listing the account's secrets, then reading what moved.
    List,
    /// By describing each secret, then reading what moved.
    Describe,
    /// By reading the values, in batches.
    Read,
}

/// An identity in AWS: one of `jwt` and `secretRef`.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::auth)]
pub struct Auth {
    /// The role of a ServiceAccount (IRSA), by its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtAuth>,
    /// Static keys of an IAM user, from Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyAuth>,
}

/// The role of a ServiceAccount.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtAuth {
    /// The ServiceAccount. It must carry the annotation `eks.amazonaws.com/role-arn`.
    pub service_account_ref: ServiceAccountRef,
}

/// Names a ServiceAccount.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace. A SecretStore's own; in a ClusterSecretStore without it, the ExternalSecret's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Audiences of the token besides `sts.amazonaws.com`. The operator's admission policy must allow them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub audiences: Option<Vec<String>>,
}

/// Static keys of an IAM user.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyAuth {
    /// The access key id.
    #[serde(rename = "accessKeyIDSecretRef")]
    pub access_key_id_secret_ref: SecretKeyRef,
    /// The secret access key.
    pub secret_access_key_secret_ref: SecretKeyRef,
    /// The session token of temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_secret_ref: Option<SecretKeyRef>,
}

/// Names a key of a Secret.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// The Secret's namespace. A SecretStore's own; in a ClusterSecretStore without it, the ExternalSecret's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

/// Namespaces that may use a ClusterSecretStore: those that match any of its fields.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = refused::condition)]
pub struct StoreCondition {
    /// Namespaces by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Namespaces by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub namespaces: Option<Vec<String>>,
    /// Namespaces by regular expressions that must match the whole name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub namespace_regexes: Option<Vec<String>>,
}
