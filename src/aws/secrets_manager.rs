//! AWS Secrets Manager.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_config::Region;
use aws_sdk_secretsmanager::{
    Client,
    config::{
        Builder,
        http::HttpResponse,
        retry::{RetryPartition, TokenBucket},
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        RequestId as _, batch_get_secret_value::BatchGetSecretValueOutput,
        describe_secret::DescribeSecretOutput, get_secret_value::GetSecretValueOutput,
        list_secrets::ListSecretsOutput,
    },
    primitives::{Blob, DateTime},
    types::{RotationRulesType, SecretListEntry, SecretValueEntry},
};
use zeroize::Zeroizing;

use super::{
    client::ClientSettings,
    credentials::{CachedCredentials, CredentialCache},
    error::{Cause, Class},
    limit::Operation,
    queue::Rate,
    remote::{Description, RemoteValue},
    service::{Batch, Calls, Home, Operations, Page, Reply, Service},
};
use crate::api::{Selector, VersionId};

/// Most secrets of a page of `ListSecrets`.
const PAGE: u8 = 100;

/// AWS Secrets Manager.
pub static SECRETS_MANAGER: Service = Service {
    name: "SecretsManager",
    prefix: "secretsmanager",
    operations: Operations {
        get: "GetSecretValue",
        batch: "BatchGetSecretValue",
        describe: "DescribeSecret",
        list: "ListSecrets",
    },
    batch: 20,
    page: PAGE as usize,
    rate,
    lost_page: "InvalidNextTokenException",
    connect: |settings, region, cache| Arc::new(SecretsManager::new(settings, region, cache)),
};

/// AWS allows 100 Batch and 100 List, 10,000 Get and 40,000 Describe a second, per account and region. Within the
/// first second after a pause at most 80 batches leave: 1,600 secrets, and the rest of the account goes on. Get
/// costs a KMS call each; those quotas are lower in small regions (from 5,500/s), so it is kept far below them.
fn rate(operation: Operation) -> Rate {
    match operation {
        Operation::Batch => Rate {
            per_second: 20,
            burst: 60,
        },
        Operation::List => Rate {
            per_second: 20,
            burst: 20,
        },
        Operation::Get => Rate {
            per_second: 200,
            burst: 200,
        },
        Operation::Describe => Rate {
            per_second: 400,
            burst: 400,
        },
    }
}

/// The codes of this service alone.
pub(super) fn classify(code: &str, text: &str) -> Option<Class> {
    Some(match code {
        "ResourceNotFoundException" if is_about_a_version(text) => Class::StageNotFound,
        "ResourceNotFoundException" => Class::NotFound,
        "InvalidRequestException" if is_about_deletion(text) => Class::MarkedForDeletion,
        "DecryptionFailure" | "DecryptionFailureException" => Class::KeyAccessDenied,
        "InvalidNextTokenException" => Class::Unavailable,
        _ => return None,
    })
}

/// "Secrets Manager can't find the specified secret value for staging label: X", "... value for `VersionId`: X", "...
/// secret version". The missing secret's text is "Secrets Manager can't find the specified secret."
fn is_about_a_version(text: &str) -> bool {
    ["secret value", "staging label", "secret version", "VersionId"]
        .iter()
        .any(|part| text.contains(part))
}

/// "You can't perform this operation on the secret because it was marked for deletion.", "... because it was deleted.",
/// "You tried to perform the operation on a secret that's currently marked deleted."
fn is_about_deletion(text: &str) -> bool {
    [
        "marked for deletion",
        "marked deleted",
        "scheduled for deletion",
        "was deleted",
    ]
    .iter()
    .any(|part| text.contains(part))
}

/// Its calls for one source, with a retry quota of its own.
#[derive(Debug)]
struct SecretsManager(Client);

impl SecretsManager {
    fn new(settings: &ClientSettings, region: &str, cache: Arc<CredentialCache>) -> Self {
        let config = Builder::from(settings.sdk())
            .region(Region::new(region.to_owned()))
            .retry_partition(
                RetryPartition::custom("source")
                    .token_bucket(TokenBucket::default())
                    .build(),
            )
            .credentials_provider(CachedCredentials(cache))
            .build();
        Self(Client::from_conf(config))
    }
}

impl Calls for SecretsManager {
    fn get(&self, key: Arc<str>, selector: Selector, home: Home) -> Reply<RemoteValue> {
        let (stage, version) = match selector {
            selector if selector.is_current() => (None, None),
            Selector::Stage(stage) => (Some(stage.to_string()), None),
            Selector::Version(version) => (None, Some(version.to_string())),
        };
        let call = self.0.get_secret_value().secret_id(&*key);
        let call = call.set_version_stage(stage).set_version_id(version).send();
        Box::pin(async move {
            let answer = call.await.map_err(|error| failed(&error, &home))?;
            let request_id = answer.request_id().unwrap_or_default().into();
            value(answer.into(), request_id)
        })
    }

    fn batch(&self, keys: &[Arc<str>], home: Home) -> Reply<Batch> {
        let ids: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let call = self.0.batch_get_secret_value();
        let call = call.set_secret_id_list(Some(ids)).send();
        Box::pin(async move {
            let answer = call.await.map_err(|error| failed(&error, &home))?;
            let request_id: Arc<str> = answer.request_id().unwrap_or_default().into();
            let BatchGetSecretValueOutput {
                secret_values,
                errors,
                ..
            } = answer;
            let values = secret_values.unwrap_or_default().into_iter();
            let errors = errors.unwrap_or_default().into_iter();
            Ok(Batch {
                values: values
                    .filter_map(|entry| value(entry.into(), request_id.clone()).ok())
                    .collect(),
                errors: errors
                    .filter_map(|error| {
                        let text = error.message().unwrap_or_default();
                        let home = home.as_deref();
                        let cause = Cause::answered(error.error_code()?, text, home.as_slice(), classify);
                        Some((error.secret_id?, cause))
                    })
                    .collect(),
            })
        })
    }

    fn describe(&self, key: Arc<str>, home: Home) -> Reply<Description> {
        let call = self.0.describe_secret().secret_id(&*key).send();
        Box::pin(async move {
            let answer = call.await.map_err(|error| failed(&error, &home))?;
            described(answer).ok_or_else(|| Cause::new(Class::Unavailable, "AWS's answer names no secret"))
        })
    }

    fn list(&self, page: Option<String>, home: Home) -> Reply<Page> {
        let call = self
            .0
            .list_secrets()
            .include_planned_deletion(true)
            .max_results(PAGE.into());
        let call = call.set_next_token(page).send();
        Box::pin(async move {
            let answer = call.await.map_err(|error| failed(&error, &home))?;
            let ListSecretsOutput {
                secret_list,
                next_token,
                ..
            } = answer;
            let secrets = secret_list.unwrap_or_default().into_iter();
            Ok(Page {
                secrets: secrets.filter_map(listed).collect(),
                next: next_token.filter(|token| !token.is_empty()),
            })
        })
    }
}

fn failed<E>(error: &SdkError<E, HttpResponse>, home: &Home) -> Cause
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    Cause::of(error, home.as_deref().as_slice(), classify)
}

/// What Get and Batch have in common.
struct Answer {
    arn: Option<String>,
    name: Option<String>,
    version: Option<String>,
    stages: Option<Vec<String>>,
    created: Option<DateTime>,
    string: Option<String>,
    binary: Option<Blob>,
}

impl From<GetSecretValueOutput> for Answer {
    fn from(answer: GetSecretValueOutput) -> Self {
        Self {
            arn: answer.arn,
            name: answer.name,
            version: answer.version_id,
            stages: answer.version_stages,
            created: answer.created_date,
            string: answer.secret_string,
            binary: answer.secret_binary,
        }
    }
}

impl From<SecretValueEntry> for Answer {
    fn from(entry: SecretValueEntry) -> Self {
        Self {
            arn: entry.arn,
            name: entry.name,
            version: entry.version_id,
            stages: entry.version_stages,
            created: entry.created_date,
            string: entry.secret_string,
            binary: entry.secret_binary,
        }
    }
}

fn value(answer: Answer, request_id: Arc<str>) -> Result<RemoteValue, Cause> {
    let payload = match (answer.string, answer.binary) {
        (Some(string), _) => string.into_bytes(),
        (None, Some(binary)) => binary.into_inner(),
        (None, None) => return Err(Cause::new(Class::StageNotFound, "the secret has no value")),
    };
    let (Some(arn), Some(name), Some(version)) = (answer.arn, answer.name, answer.version) else {
        drop(Zeroizing::new(payload));
        return Err(Cause::new(
            Class::Unavailable,
            "AWS's answer names no secret and version",
        ));
    };
    let mut value = RemoteValue::new(&arn, &name, VersionId(version.into()), payload);
    value.stages = answer
        .stages
        .unwrap_or_default()
        .into_iter()
        .map(Into::into)
        .collect();
    value.created = answer.created.map(|date| date.secs());
    value.request_id = request_id;
    Ok(value)
}

fn described(answer: DescribeSecretOutput) -> Option<Description> {
    let (rotation_window, rotation_schedule) = rules(answer.rotation_rules);
    Some(Description {
        arn: answer.arn?.into(),
        name: answer.name?.into(),
        stages: stages(answer.version_ids_to_stages),
        deleted: answer.deleted_date.is_some(),
        rotation_enabled: answer.rotation_enabled.unwrap_or_default(),
        last_rotated: answer.last_rotated_date.map(|date| date.secs()),
        next_rotation: answer.next_rotation_date.map(|date| date.secs()),
        rotation_window,
        rotation_schedule,
    })
}

fn listed(entry: SecretListEntry) -> Option<Description> {
    let (rotation_window, rotation_schedule) = rules(entry.rotation_rules);
    Some(Description {
        arn: entry.arn?.into(),
        name: entry.name?.into(),
        stages: stages(entry.secret_versions_to_stages),
        deleted: entry.deleted_date.is_some(),
        rotation_enabled: entry.rotation_enabled.unwrap_or_default(),
        last_rotated: entry.last_rotated_date.map(|date| date.secs()),
        next_rotation: entry.next_rotation_date.map(|date| date.secs()),
        rotation_window,
        rotation_schedule,
    })
}

/// Versions without a label are left out: they are deprecated, and no answer of AWS should hold them.
fn stages(versions: Option<HashMap<String, Vec<String>>>) -> BTreeMap<VersionId, Vec<Arc<str>>> {
    let versions = versions
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, labels)| !labels.is_empty());
    versions
        .map(|(version, labels)| {
            (
                VersionId(version.into()),
                labels.into_iter().map(Into::into).collect(),
            )
        })
        .collect()
}

/// The window and the schedule of a rotation.
fn rules(rules: Option<RotationRulesType>) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let rules = rules.map(|rules| (rules.duration, rules.schedule_expression));
    let (window, schedule) = rules.unwrap_or_default();
    (window.map(Into::into), schedule.map(Into::into))
}
