//! Operations that read one secret, or up to twenty.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    super::{
        error::ApiError,
        faults::Site,
        secrets::{KmsKey, Secret},
        versions::{SecretState, SecretValue},
    },
    Outcome, Request, check_id, check_stage, check_token, description, input, list, seconds,
};

const MAX_BATCH: usize = 20;
const GET: &str = "secretsmanager:GetSecretValue";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    secret_id: String,
    version_id: Option<String>,
    version_stage: Option<String>,
}

pub(super) fn get(request: &Request<'_>, body: &[u8]) -> Outcome {
    let mut resource = None;
    let result = (|| {
        let Get {
            secret_id,
            version_id,
            version_stage,
        } = input(body)?;
        version_id
            .as_deref()
            .map_or(Ok(()), |id| check_token("versionId", id))?;
        version_stage.as_deref().map_or(Ok(()), check_stage)?;
        let found = request.find(&secret_id, GET, version_stage.as_deref(), &mut resource)?;
        answer(
            &found.secret,
            &found.state,
            version_id.as_deref(),
            version_stage.as_deref(),
        )
        .map(Value::Object)
    })();
    Outcome {
        resource,
        reads: Vec::new(),
        result,
    }
}

/// The value as `GetSecretValue` and one entry of a batch answer it.
fn answer(
    secret: &Secret,
    state: &SecretState,
    version: Option<&str>,
    label: Option<&str>,
) -> Result<Map<String, Value>, ApiError> {
    let (id, version) = state.select(version, label)?;
    match secret.kms() {
        KmsKey::Enabled => {}
        KmsKey::Disabled => {
            return Err(ApiError::new(
                "DecryptionFailure",
                "Secrets Manager can't decrypt the protected secret text using the provided KMS key.",
            ));
        }
        KmsKey::Denied => {
            return Err(ApiError::new(
                "AccessDeniedException",
                "Access to KMS is not allowed",
            ));
        }
    }
    secret.touch();
    let mut answer = Map::new();
    answer.insert("ARN".to_owned(), json!(&*secret.arn));
    answer.insert("Name".to_owned(), json!(&*secret.name));
    answer.insert("VersionStages".to_owned(), json!(state.stages_of(&id)));
    answer.insert("VersionId".to_owned(), Value::String(id));
    answer.insert("CreatedDate".to_owned(), seconds(version.created));
    match &version.value {
        Some(SecretValue::Text(text)) => answer.insert("SecretString".to_owned(), json!(text)),
        Some(SecretValue::Binary(bytes)) => {
            answer.insert("SecretBinary".to_owned(), json!(STANDARD.encode(bytes)))
        }
        None => None,
    };
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch {
    secret_id_list: Option<Vec<String>>,
    filters: Option<Vec<list::Filter>>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

pub(super) fn batch(request: &Request<'_>, body: &[u8]) -> Outcome {
    let mut reads = Vec::new();
    let result = (|| {
        let Batch {
            secret_id_list,
            filters,
            max_results,
            next_token,
        } = input(body)?;
        request.authorize(
            "secretsmanager:BatchGetSecretValue",
            "*",
            &super::Context::default(),
        )?;
        let (ids, token) = match (secret_id_list, filters) {
            (Some(_), Some(_)) => {
                return Err(ApiError::parameter(
                    "You can't specify both Filters and SecretIdList in the same request.",
                ));
            }
            (None, None) => {
                return Err(ApiError::parameter(
                    "You must specify either Filters or SecretIdList.",
                ));
            }
            (Some(ids), None) => {
                if max_results.is_some() || next_token.is_some() {
                    return Err(ApiError::parameter(
                        "You can only use MaxResults and NextToken with Filters.",
                    ));
                }
                if ids.is_empty() || ids.len() > MAX_BATCH {
                    return Err(ApiError::constraint(
                        "secretIdList",
                        "Member must have length between 1 and 20",
                    ));
                }
                ids.iter().try_for_each(|id| check_id(id))?;
                (ids, None)
            }
            (None, Some(filters)) => {
                request.authorize("secretsmanager:ListSecrets", "*", &super::Context::default())?;
                let limit = list::limit(max_results, MAX_BATCH)?;
                let page = list::page(
                    request,
                    &list::Query {
                        filters,
                        limit,
                        next_token,
                        ..list::Query::default()
                    },
                )?;
                (
                    page.entries
                        .iter()
                        .map(|(secret, _)| secret.arn.to_string())
                        .collect(),
                    page.next_token,
                )
            }
        };
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for id in &ids {
            let mut resource = None;
            let result = batch_entry(request, id, &mut resource);
            let code = result.as_ref().err().map(|e| e.code.to_string());
            match result {
                Ok(value) => values.push(Value::Object(value)),
                Err(error) => {
                    errors.push(json!({"SecretId": id, "ErrorCode": error.code, "Message": error.message}));
                }
            }
            reads.push((resource.unwrap_or_else(|| Arc::from(id.as_str())), code));
        }
        let mut answer = json!({"SecretValues": values, "Errors": errors});
        if let (Some(token), Some(answer)) = (token, answer.as_object_mut()) {
            answer.insert("NextToken".to_owned(), Value::String(token));
        }
        Ok(answer)
    })();
    Outcome {
        resource: None,
        reads,
        result,
    }
}

fn batch_entry(
    request: &Request<'_>,
    id: &str,
    resource: &mut Option<Arc<str>>,
) -> Result<Map<String, Value>, ApiError> {
    // Batches do not reach into other accounts: such an id is answered as not found.
    if super::SecretId::parse(id)
        .place()
        .is_some_and(|(account, _)| account != &*request.principal.account)
    {
        return Err(ApiError::secret_not_found());
    }
    let found = request.find(id, GET, None, resource)?;
    let failing = request.state.faults.batch_error(&Site {
        operation: request.operation,
        ids: &[Cow::Borrowed(id), Cow::Borrowed(&*found.secret.arn)],
        principal: &request.principal.arn,
        owner: &request.principal.owner_arn,
        account: &request.principal.account,
        region: request.region,
    });
    if let Some(code) = failing {
        return Err(ApiError::with_status(400, code, "The secret could not be read."));
    }
    answer(&found.secret, &found.state, None, None)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Describe {
    secret_id: String,
}

pub(super) fn describe(request: &Request<'_>, body: &[u8]) -> Outcome {
    let mut resource = None;
    let result = (|| {
        let Describe { secret_id } = input(body)?;
        let found = request.find(&secret_id, &request.action(), None, &mut resource)?;
        Ok(Value::Object(description(
            &found.secret,
            &found.state,
            "VersionIdsToStages",
        )))
    })();
    Outcome {
        resource,
        reads: Vec::new(),
        result,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionIds {
    secret_id: String,
    include_deprecated: Option<bool>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

pub(super) fn version_ids(request: &Request<'_>, body: &[u8]) -> Outcome {
    let mut resource = None;
    let result = (|| {
        let VersionIds {
            secret_id,
            include_deprecated,
            max_results,
            next_token,
        } = input(body)?;
        let limit = list::limit(max_results, list::MAX_PAGE)?;
        let found = request.find(&secret_id, &request.action(), None, &mut resource)?;
        found.state.alive()?;
        let mut versions: Vec<_> = found
            .state
            .versions()
            .filter(|(id, v)| next_token.as_ref().is_none_or(|last| *id > last) && v.value.is_some())
            .filter(|(id, _)| include_deprecated == Some(true) || !found.state.stages_of(id).is_empty())
            .take(limit + 1)
            .map(|(id, v)| {
                json!({
                    "VersionId": id,
                    "VersionStages": found.state.stages_of(id),
                    "CreatedDate": seconds(v.created),
                    "KmsKeyIds": [found.state.kms_key_id.as_deref().unwrap_or("DefaultEncryptionKey")],
                })
            })
            .collect();
        let mut answer = json!({"ARN": &*found.secret.arn, "Name": &*found.secret.name});
        if versions.len() > limit {
            versions.truncate(limit);
            if let (Some(last), Some(answer)) = (versions.last(), answer.as_object_mut()) {
                answer.insert(
                    "NextToken".to_owned(),
                    last.get("VersionId").cloned().unwrap_or_default(),
                );
            }
        }
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("Versions".to_owned(), Value::Array(versions));
        }
        Ok(answer)
    })();
    Outcome {
        resource,
        reads: Vec::new(),
        result,
    }
}
