//! What tests, the demo and the bench do to the emulator, past the wire.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use jiff::Timestamp;

use super::{
    State,
    error::ApiError,
    faults::{Fault, FaultId, Match},
    iam::{Key, SessionRequest, is_account},
    jwt::Provider,
    policy::Policy,
    record::{Calls, Mark},
    rotation::Rotation,
    secrets::{KmsKey, Secret, Store, check_name},
    versions::{CURRENT, PENDING, SecretState, SecretValue},
    wire::uuid,
};

/// The audience a web identity provider is registered for unless told otherwise.
const STS_AUDIENCE: &str = "sts.amazonaws.com";

/// Credentials to give to a client.
#[derive(Clone)]
pub struct Keys {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`; only of a role's session.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keys").field(&self.access_key_id).finish()
    }
}

impl From<&Key> for Keys {
    fn from(key: &Key) -> Self {
        Self {
            access_key_id: key.id.to_string(),
            secret_access_key: key.secret.clone(),
            session_token: key.token.clone(),
        }
    }
}

/// A handle on the emulator. Secrets are named by their full ARN; what is done here needs no rights, is not recorded
/// and meets no faults, but follows the same rules as the calls, and fails with the same errors.
#[derive(Clone)]
pub struct Control {
    state: Arc<State>,
}

impl Control {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    // Secrets.

    /// Creates a secret and gives its ARN.
    pub fn create_secret(
        &self,
        account: &str,
        region: &str,
        name: &str,
        value: impl Into<SecretValue>,
    ) -> Result<String, ApiError> {
        self.create(account, region, name, |state| {
            state.put(&uuid(), value.into(), &[CURRENT.to_owned()])
        })
    }

    /// Creates a secret that has no version yet and gives its ARN.
    pub fn create_empty_secret(&self, account: &str, region: &str, name: &str) -> Result<String, ApiError> {
        self.create(account, region, name, |_| Ok(()))
    }

    fn create(
        &self,
        account: &str,
        region: &str,
        name: &str,
        fill: impl FnOnce(&mut SecretState) -> Result<(), ApiError>,
    ) -> Result<String, ApiError> {
        check_name(name)?;
        if !is_account(account) {
            return Err(ApiError::parameter("An account id has 12 digits."));
        }
        let store = self.state.stores.of(account, region);
        let mut state = SecretState::new(None, None, BTreeMap::new());
        fill(&mut state)?;
        store
            .insert(name, store.new_arn(name), state)
            .map(|secret| secret.arn.to_string())
            .map_err(|_| {
                ApiError::new(
                    "ResourceExistsException",
                    format!("The operation failed because the secret {name} already exists."),
                )
            })
    }

    /// Puts a new value as AWSCURRENT and gives its version id.
    pub fn put_secret_value(&self, arn: &str, value: impl Into<SecretValue>) -> Result<String, ApiError> {
        let version = uuid();
        self.put_secret_version(arn, &version, value, &[CURRENT])?;
        Ok(version)
    }

    /// Puts a value as the version with this id under these labels.
    pub fn put_secret_version(
        &self,
        arn: &str,
        version_id: &str,
        value: impl Into<SecretValue>,
        stages: &[&str],
    ) -> Result<(), ApiError> {
        let stages: Vec<String> = stages.iter().map(|s| (*s).to_owned()).collect();
        self.change(arn, |state| state.put(version_id, value.into(), &stages))
    }

    /// Moves a label, as `UpdateSecretVersionStage` does. It is taken from wherever it is.
    pub fn move_stage(&self, arn: &str, stage: &str, to_version: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            let from = state.holder(stage).map(ToOwned::to_owned);
            state.move_label(stage, Some(to_version), from.as_deref())
        })
    }

    /// Takes a label off; not AWSCURRENT.
    pub fn remove_stage(&self, arn: &str, stage: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            let from = state.holder(stage).map(ToOwned::to_owned);
            state.move_label(stage, None, from.as_deref())
        })
    }

    /// The labels of a secret and the versions they are on.
    pub fn stages(&self, arn: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let state = self
            .secret(arn)?
            .1
            .state()
            .ok_or_else(ApiError::secret_not_found)?;
        let stages = state.stages();
        Ok(stages
            .iter()
            .flat_map(|(version, labels)| labels.iter().map(|l| ((*l).to_owned(), (*version).to_owned())))
            .collect())
    }

    /// Marks a secret for deletion; it can be restored.
    pub fn delete_secret(&self, arn: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.alive()?;
            state.deleted = Some(Timestamp::now());
            state.changed = Timestamp::now();
            Ok(())
        })
    }

    /// Deletes a secret at once.
    pub fn force_delete_secret(&self, arn: &str) -> Result<(), ApiError> {
        let (store, secret) = self.secret(arn)?;
        store.purge(&secret);
        Ok(())
    }

    /// Takes back a deletion.
    pub fn restore_secret(&self, arn: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.deleted = None;
            state.changed = Timestamp::now();
            Ok(())
        })
    }

    /// Sets a tag.
    pub fn tag_secret(&self, arn: &str, key: &str, value: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.tags.insert(key.to_owned(), value.to_owned());
            state.changed = Timestamp::now();
            Ok(())
        })
    }

    /// Removes a tag.
    pub fn untag_secret(&self, arn: &str, key: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.tags.remove(key);
            state.changed = Timestamp::now();
            Ok(())
        })
    }

    /// Sets the description.
    pub fn set_description(&self, arn: &str, description: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.description = Some(description.to_owned());
            state.changed = Timestamp::now();
            Ok(())
        })
    }

    /// Encrypts with a customer key: only such a secret can be shared with another account.
    pub fn set_kms_key_id(&self, arn: &str, key_id: &str) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.kms_key_id = Some(key_id.to_owned());
            state.changed = Timestamp::now();
            Ok(())
        })
    }

    /// Sets what state the key that protects the secret is in.
    pub fn set_kms_state(&self, arn: &str, key: KmsKey) -> Result<(), ApiError> {
        self.secret(arn)?.1.set_kms(key);
        Ok(())
    }

    /// Sets the resource policy, or removes it.
    pub fn set_resource_policy(&self, arn: &str, policy: Option<&str>) -> anyhow::Result<()> {
        let policy = policy.map(Policy::with_principals).transpose()?.map(Arc::new);
        self.change(arn, |state| {
            state.resource_policy = policy;
            Ok(())
        })?;
        Ok(())
    }

    /// Switches rotation on, every so many days; nothing rotates by itself.
    pub fn enable_rotation(&self, arn: &str, lambda_arn: &str, every_days: i64) -> Result<(), ApiError> {
        self.change(arn, |state| {
            state.alive()?;
            state.rotation.enabled = true;
            state.rotation.lambda_arn = Some(lambda_arn.to_owned());
            state.rotation.every_days = Some(every_days);
            Ok(())
        })
    }

    /// Begins a rotation as `RotateSecret` does: AWSPENDING on a new version without a value. Then play the four
    /// steps on the answer; leave it to have a stuck rotation.
    pub fn begin_rotation(&self, arn: &str) -> Result<Rotation, ApiError> {
        let version = uuid();
        let from = self.change(arn, |state| {
            state.begin_rotation(&version)?;
            Ok(state.holder(CURRENT).map(ToOwned::to_owned))
        })?;
        Ok(Rotation {
            control: self.clone(),
            arn: arn.to_owned(),
            version,
            from,
        })
    }

    /// The rotation that a call of `RotateSecret` began, if one is in progress.
    pub fn rotation(&self, arn: &str) -> Result<Option<Rotation>, ApiError> {
        let stages = self.stages(arn)?;
        let (pending, current) = (stages.get(PENDING), stages.get(CURRENT));
        Ok(pending.filter(|_| pending != current).map(|version| Rotation {
            control: self.clone(),
            arn: arn.to_owned(),
            version: version.clone(),
            from: current.cloned(),
        }))
    }

    pub(super) fn secret(&self, arn: &str) -> Result<(Arc<Store>, Arc<Secret>), ApiError> {
        self.state
            .stores
            .by_arn(arn)
            .ok_or_else(ApiError::secret_not_found)
    }

    pub(super) fn change<T>(
        &self,
        arn: &str,
        change: impl FnOnce(&mut SecretState) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.secret(arn)?.1.change(change)
    }

    // Identities.

    /// Adds or replaces a role with its trust policy and identity policies (JSON). Its sessions last at most an hour,
    /// see [`Self::set_max_session`].
    pub fn create_role(&self, arn: &str, trust_policy: &str, policies: &[&str]) -> anyhow::Result<()> {
        self.state.iam.set_role(arn, trust_policy, policies)
    }

    /// Sets how long sessions of a role may last, in seconds (3600 to 43200).
    pub fn set_max_session(&self, role_arn: &str, seconds: u32) -> anyhow::Result<()> {
        self.state.iam.alter(role_arn, |role| role.max_session = seconds)
    }

    /// Tags a role. Sessions started afterwards carry the tag.
    pub fn tag_role(&self, role_arn: &str, key: &str, value: &str) -> anyhow::Result<()> {
        self.state.iam.alter(role_arn, |role| {
            role.tags.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Adds or replaces a user with its identity policies (JSON) and gives it a further access key.
    pub fn create_user(&self, arn: &str, policies: &[&str]) -> anyhow::Result<Keys> {
        Ok(Keys::from(&*self.state.iam.set_user(arn, policies)?))
    }

    /// Removes a user or role; its keys are refused from now on.
    pub fn remove_identity(&self, arn: &str) {
        self.state.iam.remove(arn);
    }

    /// Gives credentials of a session of a role, asking no trust policy.
    pub fn session(&self, role_arn: &str, name: &str) -> anyhow::Result<Keys> {
        let role = self
            .state
            .iam
            .identity(role_arn)
            .ok_or_else(|| anyhow::anyhow!("there is no role {role_arn}"))?;
        let request = SessionRequest {
            name: name.to_owned(),
            seconds: role.max_session,
            tags: BTreeMap::new(),
            transitive: BTreeMap::new(),
            policy: None,
        };
        Ok(Keys::from(&*self.state.iam.start_session(&role, request)))
    }

    /// Makes all credentials of a role or user expire now.
    pub fn expire_credentials(&self, arn: &str) {
        self.state.iam.expire(arn);
    }

    /// Registers a web identity provider (in every account) with its keys, for the audience `sts.amazonaws.com`.
    pub fn set_oidc_provider(&self, issuer: &str, jwks_json: &str) -> anyhow::Result<()> {
        self.set_oidc_provider_for(issuer, jwks_json, &[STS_AUDIENCE])
    }

    /// Registers a web identity provider for these audiences.
    pub fn set_oidc_provider_for(
        &self,
        issuer: &str,
        jwks_json: &str,
        audiences: &[&str],
    ) -> anyhow::Result<()> {
        let provider = Provider::new(jwks_json, audiences.iter().map(|a| (*a).to_owned()).collect())?;
        let mut providers = self
            .state
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        providers.insert(issuer.to_owned(), Arc::new(provider));
        Ok(())
    }

    // Faults.

    /// Adds a rule; it holds until it is removed. Rules add up.
    pub fn add_fault(&self, matching: Match, fault: Fault) -> FaultId {
        self.state.faults.add(matching, fault)
    }

    /// Removes a rule.
    pub fn remove_fault(&self, id: FaultId) {
        self.state.faults.remove(id);
    }

    /// Removes every rule.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// While set, every connection, old or new, is reset before a request is read. Such attempts are not recorded.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state.unreachable.store(unreachable, Ordering::Relaxed);
    }

    // The record.

    /// All calls recorded since the last reset.
    pub fn calls(&self) -> Calls {
        self.state.record.all()
    }

    /// The point the record has reached.
    pub fn mark(&self) -> Mark {
        self.state.record.mark()
    }

    /// The calls recorded since `mark`.
    pub fn calls_since(&self, mark: Mark) -> Calls {
        self.state.record.since(mark)
    }

    /// Calls by operation since the last reset: exact, also when lines had to be dropped.
    pub fn call_totals(&self) -> BTreeMap<String, u64> {
        self.state.record.totals()
    }

    /// Lines that were dropped because the record was full.
    pub fn calls_dropped(&self) -> u64 {
        self.state.record.dropped()
    }

    /// Empties the record.
    pub fn reset_calls(&self) {
        self.state.record.reset();
    }
}
