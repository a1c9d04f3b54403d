//! The calls to Secrets Manager, each within its source's slots and its account's budget.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_secretsmanager::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, get_secret_value::GetSecretValueOutput},
    primitives::{Blob, DateTime},
    types::{RotationRulesType, SecretValueEntry},
};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    client::{AwsConfig, Client, Ground, Subscribers},
    credentials::{Bank, Held},
    error::{Cause, Class, Error, account_of},
    identity::Source,
    limit::{Budgets, Operation, Urgency},
    metrics::Metrics,
    pages::Pages,
    remote::{Description, Proven, RemoteValue, Scales},
    suspects::Run,
    trust::TrustError,
};
use crate::api::{ObjectKey, Selector, SourceId, VersionId, remote::AWSCURRENT};

/// Most ids of a `BatchGetSecretValue`.
pub(super) const BATCH: usize = 20;
/// Subscribers on one line of the audit log.
const AUDITED: usize = 100;

/// AWS, as seen by all identities.
pub struct Aws {
    ground: Arc<Ground>,
    bank: Arc<Bank>,
    subscribers: Subscribers,
    budgets: Budgets,
    metrics: Metrics,
    pub(super) scales: Scales,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    last: u32,
    ids: HashMap<Source, SourceId>,
    clients: HashMap<SourceId, Arc<Client>>,
}

impl Aws {
    /// With endpoints, proxies, trusted authorities, region and own credentials from the environment.
    pub async fn from_environment(config: AwsConfig, metrics: Metrics) -> Result<Self, TrustError> {
        let ground = Ground::from_environment(config.region.as_deref(), config.instance_metadata).await?;
        Ok(Self::new(ground, config, metrics))
    }

    pub(super) fn new(ground: Ground, config: AwsConfig, metrics: Metrics) -> Self {
        let AwsConfig {
            tokens,
            subscribers,
            region: _,
            instance_metadata: _,
        } = config;
        let ground = Arc::new(ground);
        Self {
            bank: Bank::new(ground.clone(), tokens, metrics.clone()),
            ground,
            subscribers,
            budgets: Budgets::default(),
            scales: Scales::new(metrics.values()),
            metrics,
            sources: Mutex::default(),
        }
    }

    /// The operator's own region, if its environment names one.
    pub fn region(&self) -> Option<&str> {
        self.ground.region()
    }

    /// The number that stands for this source until it is forgotten.
    pub fn intern(&self, source: Source) -> SourceId {
        let mut sources = self.sources();
        if let Some(id) = sources.ids.get(&source) {
            return *id;
        }
        sources.last = sources.last.wrapping_add(1);
        let id = SourceId(sources.last);
        let wallet = self.bank.wallet(&source.identity, &source.region);
        sources.clients.insert(
            id,
            Arc::new(Client::new(id, source.clone(), &self.ground, wallet)),
        );
        sources.ids.insert(source, id);
        id
    }

    /// What the number stands for.
    #[cfg(test)]
    pub fn source(&self, id: SourceId) -> Option<Source> {
        self.sources()
            .clients
            .get(&id)
            .map(|client| client.source.clone())
    }

    /// Drops the source with its client, and its credentials if no other source has the same identity.
    pub fn forget(&self, id: SourceId) {
        let mut sources = self.sources();
        if let Some(client) = sources.clients.remove(&id) {
            sources.ids.remove(&client.source);
        }
    }

    /// Drops the credentials of the source's identity, so that the next call gets them anew.
    #[cfg(test)]
    pub(super) fn invalidate(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.wallet.forget();
        }
    }

    /// Looks at the ServiceAccounts and Secrets that identities in use are made from, each when its time has come, until it
    /// is dropped. Only the leader should.
    pub async fn look_after_identities(&self) {
        self.bank.look_after().await;
    }

    /// Waits until what some identities are made from has changed, and gives the sources that have new credentials from now on,
    /// or none.
    pub async fn renewed(&self) -> Vec<SourceId> {
        let renewed = self.bank.renewed().await;
        let is_renewed = |client: &Client| {
            let root = client.wallet.root();
            renewed
                .iter()
                .any(|wallet| std::ptr::eq(&raw const **wallet, root))
        };
        let sources = self.sources();
        let mut ids: Vec<_> = sources
            .clients
            .iter()
            .filter(|(_, client)| is_renewed(client))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Looks at what the source's identity is made from, unless that was done in the last seconds: if it changed, the next
    /// call has new credentials.
    pub async fn recheck(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.wallet.suspect(None).await;
        }
    }

    /// Proves the source's identity, and says whom AWS takes it for.
    pub async fn prove(&self, id: SourceId) -> Result<Proven, Error> {
        let error = |identity: Arc<str>| move |cause| Error::Prove { identity, cause };
        let client = self.client(id).map_err(error("a store's identity".into()))?;
        Box::pin(client.wallet.proven())
            .await
            .map_err(error(client.wallet.name().clone()))
    }

    /// What is known of the source's rights.
    #[cfg(test)]
    pub(super) fn rights(&self, id: SourceId) -> super::client::Denied {
        self.client(id).map(|client| client.denied()).unwrap_or_default()
    }

    /// Has what the source's identity is made from looked at soon, and does not wait for it.
    pub fn recheck_soon(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.wallet.look_soon();
        }
    }

    /// Whether the source may read in batches, found out by a batch of this secret alone.
    pub async fn try_batch(&self, id: SourceId, key: &Arc<str>) -> Result<(), Error> {
        let tried = async {
            let client = self.client(id)?;
            let call = client.sdk.batch_get_secret_value().secret_id_list(&**key);
            let call = || call.clone().send();
            let answer = self
                .call(&client, Operation::Batch, Urgency::Periodic, call)
                .await;
            client.note(|denied| denied.batch = denied.batch.after(&answer));
            let (held, answer) = answer?;
            let request_id: Arc<str> = answer.request_id().unwrap_or_default().into();
            for entry in answer.secret_values.unwrap_or_default() {
                if let Ok(value) = self.value(&client, &held, request_id.clone(), entry.into()) {
                    audit(key, &value, &(self.subscribers)(id, key));
                }
            }
            Ok(())
        };
        tried.await.map_err(|cause| Error::Batch { count: 1, cause })
    }

    /// Forgets what was denied, so that it is tried again: after an edit of the store.
    pub fn retry_denied(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.note(|denied| *denied = super::client::Denied::default());
        }
    }

    /// Whether the reader must do without batches.
    pub(super) fn is_batch_denied(&self, id: SourceId) -> bool {
        self.client(id)
            .is_ok_and(|client| client.denied().batch.is_denied())
    }

    /// Lists all secrets that the source's account has in its region, those marked for deletion too.
    pub fn list(&self, id: SourceId) -> Pages<'_> {
        Pages::new(self, id)
    }

    /// One secret's versions, without a value. A secret marked for deletion is described too.
    pub async fn describe(&self, id: SourceId, key: &str) -> Result<Description, Error> {
        let described = async {
            let client = self.client(id)?;
            let call = || client.sdk.describe_secret().secret_id(key).send();
            let (_, answer) = self
                .call(&client, Operation::Describe, Urgency::Periodic, call)
                .await?;
            let (Some(arn), Some(name)) = (answer.arn, answer.name) else {
                return Err(Cause::new(Class::Unavailable, "AWS's answer names no secret"));
            };
            let (rotation_window, rotation_schedule) = rules(answer.rotation_rules);
            Ok(Description {
                arn: arn.into(),
                name: name.into(),
                stages: stages(answer.version_ids_to_stages),
                deleted: answer.deleted_date.is_some(),
                rotation_enabled: answer.rotation_enabled.unwrap_or_default(),
                last_rotated: answer.last_rotated_date.map(|date| date.secs()),
                next_rotation: answer.next_rotation_date.map(|date| date.secs()),
                rotation_window,
                rotation_schedule,
            })
        };
        described.await.map_err(|cause| Error::Describe {
            key: key.into(),
            cause,
        })
    }

    /// One version of one secret.
    pub async fn get(
        &self,
        id: SourceId,
        key: &Arc<str>,
        selector: &Selector,
    ) -> Result<Arc<RemoteValue>, Error> {
        let value = self.get_as(id, key, selector, Urgency::Periodic).await?;
        audit(key, &value, &(self.subscribers)(id, key));
        Ok(value)
    }

    /// The AWSCURRENT versions of some secrets, in the order of `keys`. An error of the whole is one that concerns no
    /// single key: `BatchGetSecretValue` denied, throttled, unavailable.
    pub async fn batch(&self, id: SourceId, keys: &[Arc<str>]) -> Result<Vec<Answered>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(BATCH) {
            let answers = self.batch_once(id, keys, Urgency::Periodic).await?;
            let complete = keys
                .iter()
                .zip(answers)
                .map(|(key, answer)| self.complete(id, key, answer));
            values.extend(join_all(complete).await);
        }
        Ok(values)
    }

    async fn complete(&self, id: SourceId, key: &Arc<str>, answer: Option<Answered>) -> Answered {
        let Some(answer) = answer else {
            return self.get(id, key, &Selector::Stage(AWSCURRENT.into())).await;
        };
        let value = answer?;
        audit(key, &value, &(self.subscribers)(id, key));
        Ok(value)
    }

    pub(super) async fn get_as(
        &self,
        id: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        urgency: Urgency,
    ) -> Result<Arc<RemoteValue>, Error> {
        let read = async {
            let client = self.client(id)?;
            let (stage, version) = match selector {
                selector if selector.is_current() => (None, None),
                Selector::Stage(stage) => (Some(stage.to_string()), None),
                Selector::Version(version) => (None, Some(version.to_string())),
            };
            let call = client.sdk.get_secret_value().secret_id(&**key);
            let call = call.set_version_stage(stage).set_version_id(version);
            let call = || call.clone().send();
            let (held, answer) = self.call(&client, Operation::Get, urgency, call).await?;
            let request_id = answer.request_id().unwrap_or_default().into();
            self.value(&client, &held, request_id, answer.into())
        };
        read.await.map_err(|cause| Error::Read {
            key: key.clone(),
            selector: selector.clone(),
            alone: true,
            cause,
        })
    }

    /// At most [`BATCH`] keys, by one call unless a batch with some of them has failed twice. What is not answered is to be
    /// read alone: an id that the answer leaves out, one of another account (AWS documents no batches over that border), all
    /// if one malformed id has spoilt the call, one that spoils each batch.
    pub(super) async fn batch_once(
        &self,
        id: SourceId,
        keys: &[Arc<str>],
        urgency: Urgency,
    ) -> Result<Vec<Option<Answered>>, Error> {
        let whole = |cause| Error::Batch {
            count: keys.len(),
            cause,
        };
        let client = self.client(id).map_err(whole)?;
        let account = client.wallet.held().await.map_err(whole)?.account();
        let is_home = |key: &&Arc<str>| account_of(key).is_none_or(|of| account.as_deref() == Some(of));
        let mut run = Run::new(keys.iter().filter(is_home).cloned());
        let mut answers = HashMap::new();
        loop {
            let part = run.next(&client.suspects(), Instant::now());
            let Some(part) = part else { break };
            let cause = match self.part(&client, &part, urgency).await {
                Ok(answered) => {
                    run.answer(&mut client.suspects(), &part);
                    answers.extend(answered);
                    continue;
                }
                Err(cause) => cause,
            };
            let goes_on = match cause.class {
                Class::Invalid => continue,
                // Too many calls, or an identity that is not accepted, are no fault of a key.
                Class::Unavailable => run.fail(&mut client.suspects(), part, Instant::now()),
                _ => {
                    run.give_back(part);
                    false
                }
            };
            if goes_on {
                continue;
            }
            if !run.was_answered() {
                return Err(whole(cause));
            }
            // Each may still be allowed alone.
            if cause.class != Class::AccessDenied {
                let left = run.left(&client.suspects(), Instant::now());
                answers.extend(left.into_iter().map(|key| {
                    let error = batch_error(&key, false, cause.clone());
                    (key, Err(error))
                }));
            }
            break;
        }
        Ok(keys.iter().map(|key| answers.remove(key)).collect())
    }

    /// One batch: what it answers, by key.
    async fn part(
        &self,
        client: &Client,
        keys: &[Arc<str>],
        urgency: Urgency,
    ) -> Result<Vec<(Arc<str>, Answered)>, Cause> {
        let ids: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let call = client.sdk.batch_get_secret_value().set_secret_id_list(Some(ids));
        let call = || call.clone().send();
        let answer = self.call(client, Operation::Batch, urgency, call).await;
        client.note(|denied| denied.batch = denied.batch.after(&answer));
        let (held, answer) = answer?;
        let request_id: Arc<str> = answer.request_id().unwrap_or_default().into();
        let values = answer.secret_values.unwrap_or_default().into_iter();
        let values: Vec<_> = values
            .filter_map(|entry| self.value(client, &held, request_id.clone(), entry.into()).ok())
            .collect();
        let errors = answer.errors.unwrap_or_default();
        let account = held.account();
        let home: Vec<_> = account.as_deref().into_iter().collect();
        let answer = |key: &Arc<str>| {
            if let Some(value) = values.iter().find(|value| is_meant(key, value)) {
                return Some((key.clone(), Ok(value.clone())));
            }
            let error = errors.iter().find(|error| error.secret_id() == Some(key))?;
            let cause = Cause::answered(error.error_code()?, error.message().unwrap_or_default(), &home);
            let error = batch_error(key, true, cause);
            Some((key.clone(), Err(error)))
        };
        Ok(keys.iter().filter_map(answer).collect())
    }

    /// Makes a call; once more with new credentials if AWS no longer takes those that were held.
    pub(super) async fn call<T, E, F>(
        &self,
        client: &Client,
        operation: Operation,
        urgency: Urgency,
        send: impl Fn() -> F,
    ) -> Result<(Arc<Held>, T), Cause>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut may_repeat = true;
        loop {
            let held = client.wallet.held().await?;
            let budget = client.budget(&self.budgets, &held);
            let waited = budget.turn(operation, urgency, &client.caller).await?;
            let slot = client.slot(urgency).await?;
            let running = self.metrics.start(operation.name(), waited);
            let account = held.account();
            let home: Vec<_> = account.as_deref().into_iter().collect();
            // A call of the SDK is tens of KB: it is made only when it is its turn.
            let answer = Box::pin(send()).await.map_err(|error| Cause::of(&error, &home));
            running.end(answer.as_ref().err());
            drop(slot);
            let renewed = match answer.as_ref().err().map(|cause| cause.class) {
                Some(Class::Identity) => client.wallet.refused(&held),
                // The ServiceAccount may have got another role since.
                Some(Class::AccessDenied | Class::KeyAccessDenied) => {
                    client.wallet.suspect(Some(&held)).await
                }
                _ => false,
            };
            if renewed && may_repeat {
                may_repeat = false;
                continue;
            }
            return answer.map(|answer| (held, answer));
        }
    }

    fn value(
        &self,
        client: &Client,
        held: &Held,
        request_id: Arc<str>,
        answer: Answer,
    ) -> Result<Arc<RemoteValue>, Cause> {
        let payload = match (answer.string, answer.binary) {
            (Some(string), _) => string.into_bytes(),
            (None, Some(binary)) => binary.into_inner(),
            (None, None) => return Err(Cause::new(Class::StageNotFound, "the secret has no value")),
        };
        let (Some(arn), Some(name), Some(version)) = (answer.arn, answer.name, answer.version) else {
            drop(zeroize::Zeroizing::new(payload));
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
        value.identity = held.arn().unwrap_or_else(|| client.wallet.name().clone());
        let value = Arc::new(value.weighed(&self.scales));
        Ok(value)
    }

    pub(super) fn client(&self, id: SourceId) -> Result<Arc<Client>, Cause> {
        let client = self.sources().clients.get(&id).cloned();
        client.ok_or_else(|| Cause::new(Class::Unavailable, "its store was changed meanwhile"))
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that a value was read, and for whom: each once, though it may wait with several entries.
pub(super) fn audit(key: &str, value: &RemoteValue, subscribers: &[ObjectKey]) {
    let each: BTreeSet<&ObjectKey> = subscribers.iter().collect();
    let each: Vec<&ObjectKey> = each.into_iter().collect();
    let mut lines = each.chunks(AUDITED);
    let mut next = Some(lines.next().unwrap_or_default());
    while let Some(line) = next {
        let line: Vec<_> = line.iter().map(ToString::to_string).collect();
        tracing::info!(
            target: "audit",
            action = "read",
            request_id = &*value.request_id,
            identity = &*value.identity,
            key,
            version = &*value.version.0,
            subscribers = line.join(" "),
        );
        next = lines.next();
    }
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws")
            .field("region", &self.region())
            .finish_non_exhaustive()
    }
}

/// What came of one key.
pub(super) type Answered = Result<Arc<RemoteValue>, Error>;

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

/// Why a batch gives nothing for the key: for it `alone`, or for all.
fn batch_error(key: &Arc<str>, alone: bool, cause: Cause) -> Error {
    Error::Read {
        key: key.clone(),
        selector: Selector::Stage(AWSCURRENT.into()),
        alone,
        cause,
    }
}

/// Versions without a label are left out: they are deprecated, and no answer of AWS should hold them.
pub(super) fn stages(versions: Option<HashMap<String, Vec<String>>>) -> BTreeMap<VersionId, Vec<Arc<str>>> {
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

/// Whether a key means the secret that was answered: by name, by ARN, or by ARN without its suffix of a hyphen and six
/// characters.
fn is_meant(key: &str, value: &RemoteValue) -> bool {
    let without_suffix = value
        .arn
        .len()
        .checked_sub(7)
        .and_then(|end| value.arn.get(..end));
    key == &*value.name || key == &*value.arn || (key.starts_with("arn:") && without_suffix == Some(key))
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GetSecretValue",
            Self::Batch => "BatchGetSecretValue",
            Self::Describe => "DescribeSecret",
            Self::List => "ListSecrets",
        }
    }
}

/// The window and the schedule of a rotation.
pub(super) fn rules(rules: Option<RotationRulesType>) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let rules = rules.map(|rules| (rules.duration, rules.schedule_expression));
    let (window, schedule) = rules.unwrap_or_default();
    (window.map(Into::into), schedule.map(Into::into))
}
