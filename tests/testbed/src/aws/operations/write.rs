//! Operations that change what a secret holds.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        error::ApiError,
        secrets::{KmsKey, Secret, check_name},
        versions::{CURRENT, SecretState, SecretValue},
        wire::uuid,
    },
    Found, Outcome, Request, check_stage, check_token, input, value,
};

const MAX_STAGES: usize = 20;
const MAX_TAGS: usize = 50;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

fn tags(list: Vec<Tag>) -> Result<BTreeMap<String, String>, ApiError> {
    let mut tags = BTreeMap::new();
    for Tag { key, value } in list {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(ApiError::constraint(
                "tags.member.key",
                "Member must have length between 1 and 128",
            ));
        }
        if value.chars().count() > 256 {
            return Err(ApiError::constraint(
                "tags.member.value",
                "Member must have length less than or equal to 256",
            ));
        }
        if key.starts_with("aws:") {
            return Err(ApiError::parameter("Tag keys that start with aws: are reserved."));
        }
        if tags.insert(key, value).is_some() {
            return Err(ApiError::parameter("Tag keys must be unique."));
        }
    }
    Ok(tags)
}

fn fits(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if tags.len() > MAX_TAGS {
        return Err(ApiError::parameter(
            "You can't attach more than 50 tags to a secret.",
        ));
    }
    Ok(())
}

/// The `ClientRequestToken`, which becomes the version's id. The SDKs always send one.
pub(super) fn token(token: Option<String>) -> Result<String, ApiError> {
    match token {
        Some(token) => check_token("clientRequestToken", &token).map(|()| token),
        None => Ok(uuid()),
    }
}

/// A new version is encrypted: the key must be usable.
fn encrypt(secret: &Secret) -> Result<(), ApiError> {
    match secret.kms() {
        KmsKey::Enabled => Ok(()),
        KmsKey::Disabled => Err(ApiError::new(
            "EncryptionFailure",
            "Secrets Manager can't encrypt the protected secret text using the provided KMS key.",
        )),
        KmsKey::Denied => Err(ApiError::new(
            "AccessDeniedException",
            "Access to KMS is not allowed",
        )),
    }
}

pub(super) fn about(secret: &Secret, more: &[(&str, Value)]) -> Value {
    let mut answer = json!({"ARN": &*secret.arn, "Name": &*secret.name});
    if let Some(answer) = answer.as_object_mut() {
        answer.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    }
    answer
}

/// Finds the secret for an operation that has its own right of the same name, and works it.
pub(super) fn with_secret<T: serde::de::DeserializeOwned>(
    request: &Request<'_>,
    body: &[u8],
    id: impl FnOnce(&T) -> &str,
    work: impl FnOnce(Found, T) -> Result<Value, ApiError>,
) -> Outcome {
    let mut resource = None;
    let result = (|| {
        let input: T = input(body)?;
        let found = request.find(id(&input), &request.action(), None, &mut resource)?;
        work(found, input)
    })();
    Outcome {
        resource,
        reads: Vec::new(),
        result,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Create {
    name: String,
    description: Option<String>,
    kms_key_id: Option<String>,
    client_request_token: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
    tags: Option<Vec<Tag>>,
}

pub(super) fn create(request: &Request<'_>, body: &[u8]) -> Outcome {
    let mut resource = None;
    let result = (|| {
        let Create {
            name,
            description,
            kms_key_id,
            client_request_token,
            secret_string,
            secret_binary,
            tags: list,
        } = input(body)?;
        check_name(&name)?;
        let version = token(client_request_token)?;
        let value = value(secret_string, secret_binary.as_deref())?;
        let tags = tags(list.unwrap_or_default())?;
        fits(&tags)?;
        let store = request.store();
        let arn = store.new_arn(&name);
        resource = Some(Arc::from(arn.as_str()));
        let context = super::Context {
            request_tags: Some(&tags),
            ..super::Context::default()
        };
        request.authorize("secretsmanager:CreateSecret", &arn, &context)?;
        if !tags.is_empty() {
            request.authorize("secretsmanager:TagResource", &arn, &context)?;
        }
        let mut state = SecretState::new(description, kms_key_id, tags);
        if let Some(value) = &value {
            state.put(&version, value.clone(), &[CURRENT.to_owned()])?;
        }
        let created = value.is_some();
        let secret = match store.insert(&name, arn, state) {
            Ok(secret) => secret,
            Err(former) => existing(former, &version, value.as_ref())?,
        };
        resource = Some(secret.arn.clone());
        let version = created.then(|| ("VersionId", json!(version)));
        Ok(about(&secret, version.as_slice()))
    })();
    Outcome {
        resource,
        reads: Vec::new(),
        result,
    }
}

/// The same request sent again answers as the first one did; another one for the same name is refused.
fn existing(
    former: Arc<Secret>,
    version: &str,
    value: Option<&SecretValue>,
) -> Result<Arc<Secret>, ApiError> {
    let state = former.state().ok_or_else(ApiError::secret_not_found)?;
    if state.deleted.is_some() {
        return Err(ApiError::request(
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
        ));
    }
    if value.is_some() && state.version(version).is_some_and(|v| v.value.as_ref() == value) {
        return Ok(former);
    }
    Err(ApiError::new(
        "ResourceExistsException",
        format!(
            "The operation failed because the secret {} already exists.",
            former.name
        ),
    ))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Put {
    secret_id: String,
    client_request_token: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
    version_stages: Option<Vec<String>>,
}

pub(super) fn put(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &Put| &input.secret_id,
        |found, input| {
            let version = token(input.client_request_token)?;
            let value = value(input.secret_string, input.secret_binary.as_deref())?
                .ok_or_else(|| ApiError::request("You must provide either SecretString or SecretBinary."))?;
            let stages = input.version_stages.unwrap_or_else(|| vec![CURRENT.to_owned()]);
            if stages.is_empty() || stages.len() > MAX_STAGES {
                return Err(ApiError::constraint(
                    "versionStages",
                    "Member must have length between 1 and 20",
                ));
            }
            stages.iter().try_for_each(|stage| check_stage(stage))?;
            encrypt(&found.secret)?;
            let stages = found.secret.change(|state| {
                state.put(&version, value, &stages)?;
                Ok(json!(state.stages_of(&version)))
            })?;
            Ok(about(
                &found.secret,
                &[("VersionId", json!(version)), ("VersionStages", stages)],
            ))
        },
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Update {
    secret_id: String,
    client_request_token: Option<String>,
    description: Option<String>,
    kms_key_id: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
}

pub(super) fn update(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &Update| &input.secret_id,
        |found, input| {
            let version = token(input.client_request_token)?;
            let value = value(input.secret_string, input.secret_binary.as_deref())?;
            let has_value = value.is_some();
            if has_value {
                encrypt(&found.secret)?;
            }
            found.secret.change(|state| {
                state.alive()?;
                state.description = input.description.or_else(|| state.description.take());
                state.kms_key_id = input.kms_key_id.or_else(|| state.kms_key_id.take());
                state.changed = Timestamp::now();
                value.map_or(Ok(()), |value| state.put(&version, value, &[CURRENT.to_owned()]))
            })?;
            let version = has_value.then(|| ("VersionId", json!(version)));
            Ok(about(&found.secret, version.as_slice()))
        },
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MoveStage {
    secret_id: String,
    version_stage: String,
    move_to_version_id: Option<String>,
    remove_from_version_id: Option<String>,
}

pub(super) fn move_stage(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &MoveStage| &input.secret_id,
        |found, input| {
            let MoveStage {
                version_stage,
                move_to_version_id: to,
                remove_from_version_id: from,
                ..
            } = input;
            check_stage(&version_stage)?;
            found
                .secret
                .change(|state| state.move_label(&version_stage, to.as_deref(), from.as_deref()))?;
            Ok(about(&found.secret, &[]))
        },
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagResource {
    secret_id: String,
    tags: Vec<Tag>,
}

pub(super) fn tag(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &TagResource| &input.secret_id,
        |found, input| {
            let tags = tags(input.tags)?;
            found.secret.change(|state| {
                state.alive()?;
                state.tags.extend(tags);
                state.changed = Timestamp::now();
                fits(&state.tags)
            })?;
            Ok(json!({}))
        },
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UntagResource {
    secret_id: String,
    tag_keys: Vec<String>,
}

pub(super) fn untag(request: &Request<'_>, body: &[u8]) -> Outcome {
    with_secret(
        request,
        body,
        |input: &UntagResource| &input.secret_id,
        |found, input| {
            found.secret.change(|state| {
                state.alive()?;
                state.tags.retain(|key, _| !input.tag_keys.contains(key));
                state.changed = Timestamp::now();
                Ok(())
            })?;
            Ok(json!({}))
        },
    )
}
