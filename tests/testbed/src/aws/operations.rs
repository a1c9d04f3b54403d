//! The operations of Secrets Manager (awsJson1.1): input checked, rights checked, worked, answered.

mod lifecycle;
mod list;
mod read;
mod write;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    State,
    error::ApiError,
    faults::Site,
    iam::Principal,
    policy::{Context, Decision},
    secrets::{Secret, SecretId, Store},
    versions::{SecretState, SecretValue},
};

/// Largest value, in bytes.
const MAX_VALUE: usize = 65_536;

/// One call to Secrets Manager.
pub(super) struct Request<'a> {
    pub(super) state: &'a State,
    pub(super) operation: &'a str,
    pub(super) principal: &'a Principal,
    pub(super) region: &'a str,
}

/// What came of a call.
pub(super) struct Outcome {
    /// ARN of what the call was about, or the id as given.
    pub(super) resource: Option<Arc<str>>,
    /// The secrets a batch read, each with its error code.
    pub(super) reads: Vec<(Arc<str>, Option<String>)>,
    pub(super) result: Result<Value, ApiError>,
}

impl From<Result<Value, ApiError>> for Outcome {
    fn from(result: Result<Value, ApiError>) -> Self {
        Self {
            resource: None,
            reads: Vec::new(),
            result,
        }
    }
}

/// The ids of the secrets a request names, for the rules of faults.
pub(super) fn ids(body: &[u8]) -> Vec<Cow<'static, str>> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Ids {
        secret_id: Option<String>,
        name: Option<String>,
        secret_id_list: Option<Vec<String>>,
    }
    let ids: Ids = serde_json::from_slice(body).unwrap_or_default();
    ids.secret_id
        .or(ids.name)
        .into_iter()
        .chain(ids.secret_id_list.unwrap_or_default())
        .map(Cow::Owned)
        .collect()
}

/// Works one call.
pub(super) fn dispatch(request: &Request<'_>, body: &[u8]) -> Outcome {
    match request.operation {
        "GetSecretValue" => read::get(request, body),
        "BatchGetSecretValue" => read::batch(request, body),
        "DescribeSecret" => read::describe(request, body),
        "ListSecretVersionIds" => read::version_ids(request, body),
        "ListSecrets" => list::list(request, body).into(),
        "CreateSecret" => write::create(request, body),
        "PutSecretValue" => write::put(request, body),
        "UpdateSecret" => write::update(request, body),
        "UpdateSecretVersionStage" => write::move_stage(request, body),
        "RotateSecret" => lifecycle::rotate(request, body),
        "CancelRotateSecret" => lifecycle::cancel_rotation(request, body),
        "DeleteSecret" => lifecycle::delete(request, body),
        "RestoreSecret" => lifecycle::restore(request, body),
        "TagResource" => write::tag(request, body),
        "UntagResource" => write::untag(request, body),
        _ => Err(ApiError::new("UnknownOperationException", "")).into(),
    }
}

fn input<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // The parse error is not passed on: it may quote a value.
    serde_json::from_slice(body)
        .map_err(|_| ApiError::new("SerializationException", "The request could not be read."))
}

/// A secret that was found and that the caller may use.
struct Found {
    secret: Arc<Secret>,
    /// As the caller sees it: maybe a former state.
    state: Arc<SecretState>,
    store: Arc<Store>,
}

impl Request<'_> {
    fn action(&self) -> String {
        format!("secretsmanager:{}", self.operation)
    }

    fn store(&self) -> Arc<Store> {
        self.state.stores.of(&self.principal.account, self.region)
    }

    /// Which moment's state of the secret this call sees.
    fn as_of(&self, ids: &[Cow<'_, str>]) -> Option<Instant> {
        self.state.faults.as_of(&Site {
            operation: self.operation,
            ids,
            principal: &self.principal.arn,
            owner: &self.principal.owner_arn,
            account: &self.principal.account,
            region: self.region,
        })
    }

    /// Finds a secret for `action`, telling `resource` what it is.
    fn find(
        &self,
        id: &str,
        action: &str,
        label: Option<&str>,
        resource: &mut Option<Arc<str>>,
    ) -> Result<Found, ApiError> {
        check_id(id)?;
        *resource = Some(id.into());
        let place = SecretId::parse(id).place();
        let foreign = place.is_some_and(|(account, _)| account != &*self.principal.account);
        let (account, region) = place.unwrap_or((&self.principal.account, self.region));
        // An ARN of another region is not found at this region's endpoint; another account needs the full ARN.
        let reachable =
            region == self.region && (!foreign || matches!(SecretId::parse(id), SecretId::FullArn { .. }));
        let store = self.state.stores.of(account, self.region);
        let found = Some(&store)
            .filter(|_| reachable)
            .and_then(|store| store.find(id));
        let found = found.and_then(|secret| {
            let ids = [Cow::Borrowed(&*secret.arn)];
            Some((secret.at(self.as_of(&ids))?, secret))
        });
        let Some((state, secret)) = found else {
            // What does not exist is judged by the id as given, so a name is denied unless the policy allows `*`.
            self.authorize(action, id, &Context::default())?;
            return Err(ApiError::secret_not_found());
        };
        *resource = Some(secret.arn.clone());
        self.authorize_secret(action, label, &secret, &state, None)?;
        Ok(Found { secret, state, store })
    }

    fn authorize_secret(
        &self,
        action: &str,
        label: Option<&str>,
        secret: &Secret,
        state: &SecretState,
        request_tags: Option<&BTreeMap<String, String>>,
    ) -> Result<(), ApiError> {
        let label = label.map(|label| ("secretsmanager:VersionStage".to_owned(), label.to_owned()));
        let context = Context {
            resource_tags: Some(&state.tags),
            request_tags,
            principal: Some(self.principal),
            extra: label.into_iter().collect(),
        };
        let identity = self.state.iam.decide(action, &secret.arn, &context);
        let resource = state
            .resource_policy
            .as_ref()
            .map_or(Decision::ImplicitDeny, |policy| {
                policy.decide_for(action, self.principal, &context).0
            });
        if identity == Decision::ExplicitDeny {
            return Err(self.denied(
                action,
                &secret.arn,
                "with an explicit deny in an identity-based policy",
            ));
        }
        if resource == Decision::ExplicitDeny {
            return Err(self.denied(
                action,
                &secret.arn,
                "with an explicit deny in a resource-based policy",
            ));
        }
        let foreign = secret.account != self.principal.account;
        if foreign && resource != Decision::Allow {
            let why = format!("because no resource-based policy allows the {action} action");
            return Err(self.denied(action, &secret.arn, &why));
        }
        if identity != Decision::Allow && (foreign || resource != Decision::Allow) {
            return Err(self.denied(action, &secret.arn, &no_identity_policy(action)));
        }
        if foreign && state.kms_key_id.is_none() {
            return Err(ApiError::request(
                "You can't access a secret from a different AWS account if you encrypt the secret with the default \
                 KMS service key.",
            ));
        }
        Ok(())
    }

    /// Asks the identity policies only.
    fn authorize(&self, action: &str, resource: &str, context: &Context<'_>) -> Result<(), ApiError> {
        let context = Context {
            principal: Some(self.principal),
            extra: context.extra.clone(),
            ..*context
        };
        match self.state.iam.decide(action, resource, &context) {
            Decision::Allow => Ok(()),
            Decision::ExplicitDeny => Err(self.denied(
                action,
                resource,
                "with an explicit deny in an identity-based policy",
            )),
            Decision::ImplicitDeny => Err(self.denied(action, resource, &no_identity_policy(action))),
        }
    }

    fn denied(&self, action: &str, resource: &str, why: &str) -> ApiError {
        ApiError::new(
            "AccessDeniedException",
            format!(
                "User: {} is not authorized to perform: {action} on resource: {resource} {why}",
                self.principal.arn
            ),
        )
    }
}

fn no_identity_policy(action: &str) -> String {
    format!("because no identity-based policy allows the {action} action")
}

fn check_id(id: &str) -> Result<(), ApiError> {
    match id.len() {
        0 => Err(ApiError::constraint(
            "secretId",
            "Member must have length greater than or equal to 1",
        )),
        1..=2048 => Ok(()),
        _ => Err(ApiError::constraint(
            "secretId",
            "Member must have length less than or equal to 2048",
        )),
    }
}

fn check_token(at: &str, token: &str) -> Result<(), ApiError> {
    if (32..=64).contains(&token.len()) {
        return Ok(());
    }
    Err(ApiError::constraint(
        at,
        "Member must have length between 32 and 64",
    ))
}

fn check_stage(stage: &str) -> Result<(), ApiError> {
    if (1..=256).contains(&stage.len()) {
        return Ok(());
    }
    Err(ApiError::constraint(
        "versionStage",
        "Member must have length between 1 and 256",
    ))
}

/// The value of a write; at most one of the two may be given.
fn value(text: Option<String>, binary: Option<&str>) -> Result<Option<SecretValue>, ApiError> {
    let value = match (text, binary) {
        (Some(_), Some(_)) => {
            return Err(ApiError::parameter(
                "You can't specify both a binary secret value and a string secret value in the same secret.",
            ));
        }
        (None, None) => return Ok(None),
        (Some(text), None) => SecretValue::Text(text),
        (None, Some(binary)) => SecretValue::Binary(
            STANDARD
                .decode(binary)
                .map_err(|_| ApiError::new("SerializationException", "SecretBinary is not base64."))?,
        ),
    };
    let (at, len) = match &value {
        SecretValue::Text(text) => ("secretString", text.len()),
        SecretValue::Binary(bytes) => ("secretBinary", bytes.len()),
    };
    match len {
        0 => Err(ApiError::constraint(
            at,
            "Member must have length greater than or equal to 1",
        )),
        1..=MAX_VALUE => Ok(Some(value)),
        _ => Err(ApiError::constraint(
            at,
            "Member must have length less than or equal to 65536",
        )),
    }
}

/// Seconds since 1970 as awsJson1.1 writes them.
fn seconds(at: jiff::Timestamp) -> Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 are far below 2^52"
    )]
    let seconds = at.as_millisecond() as f64 / 1000.0;
    json!(seconds)
}

/// The fields that Describe and List have in common.
fn description(secret: &Secret, state: &SecretState, stages: &str) -> Map<String, Value> {
    let mut entry = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            entry.insert(key.to_owned(), value);
        }
    };
    let rotation = &state.rotation;
    let configured = rotation.lambda_arn.is_some();
    set("ARN", Some(json!(&*secret.arn)));
    set("Name", Some(json!(&*secret.name)));
    set("Description", state.description.as_ref().map(|d| json!(d)));
    set("KmsKeyId", state.kms_key_id.as_ref().map(|k| json!(k)));
    set("RotationEnabled", configured.then(|| json!(rotation.enabled)));
    set(
        "RotationLambdaARN",
        rotation.lambda_arn.as_ref().map(|a| json!(a)),
    );
    set(
        "RotationRules",
        rotation
            .every_days
            .map(|days| json!({"AutomaticallyAfterDays": days})),
    );
    set("LastRotatedDate", rotation.last_rotated.map(seconds));
    set("LastChangedDate", Some(seconds(state.changed)));
    set("LastAccessedDate", secret.accessed().map(|day| json!(day)));
    set("DeletedDate", state.deleted.map(seconds));
    let next = rotation.every_days.filter(|_| rotation.enabled).map(|days| {
        seconds(rotation.last_rotated.unwrap_or(secret.created) + jiff::SignedDuration::from_hours(days * 24))
    });
    set("NextRotationDate", next);
    set("CreatedDate", Some(seconds(secret.created)));
    let tags: Vec<Value> = state
        .tags
        .iter()
        .map(|(k, v)| json!({"Key": k, "Value": v}))
        .collect();
    set("Tags", Some(Value::Array(tags)));
    set(
        stages,
        Some(json!(state.stages())).filter(|stages| stages.as_object().is_some_and(|s| !s.is_empty())),
    );
    entry
}
