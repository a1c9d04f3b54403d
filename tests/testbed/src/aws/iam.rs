//! Who may call: roles, users, their policies, their access keys, and sessions of roles.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context as _;
use jiff::Timestamp;

use super::{
    policy::{Context, Decision, Policy},
    wire::random,
};

const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Expired keys are kept so that their use is answered as expired; each time so many are there they are forgotten.
const SWEEP_KEYS: usize = 20_000;

/// The one who asks: a user, or a session of a role.
#[derive(Debug, Clone)]
pub(super) struct Principal {
    pub(super) account: Arc<str>,
    /// `arn:aws:iam::…:user/NAME` or `arn:aws:sts::…:assumed-role/ROLE/SESSION`.
    pub(super) arn: Arc<str>,
    /// The user or role whose policies count.
    pub(super) owner_arn: Arc<str>,
    pub(super) session_name: Option<Arc<str>>,
    pub(super) user_id: Arc<str>,
    /// Tags of the user or role, and of the session.
    pub(super) tags: BTreeMap<String, String>,
    /// Tags of the session that a further session inherits.
    pub(super) transitive: BTreeMap<String, String>,
    pub(super) session_policy: Option<Policy>,
}

impl Default for Principal {
    fn default() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            account: empty.clone(),
            arn: empty.clone(),
            owner_arn: empty.clone(),
            session_name: None,
            user_id: empty,
            tags: BTreeMap::new(),
            transitive: BTreeMap::new(),
            session_policy: None,
        }
    }
}

impl Principal {
    pub(super) fn role_arn(&self) -> Option<Arc<str>> {
        self.session_name.as_ref().map(|_| self.owner_arn.clone())
    }
}

/// An access key and what it stands for.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// `AKIA…` or `ASIA…`.
    pub(super) id: Arc<str>,
    pub(super) secret: String,
    pub(super) token: Option<String>,
    pub(super) expires: Option<Timestamp>,
    pub(super) principal: Arc<Principal>,
}

/// A user or a role.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) account: Arc<str>,
    pub(super) arn: Arc<str>,
    pub(super) id: Arc<str>,
    /// Of a role.
    pub(super) trust: Option<Policy>,
    policies: Vec<Policy>,
    pub(super) tags: BTreeMap<String, String>,
    /// Longest session of a role, in seconds.
    pub(super) max_session: u32,
}

/// What a session is started with.
pub(super) struct SessionRequest {
    pub(super) name: String,
    pub(super) seconds: u32,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) transitive: BTreeMap<String, String>,
    pub(super) policy: Option<Policy>,
}

#[derive(Default)]
pub(super) struct Iam {
    identities: RwLock<HashMap<Arc<str>, Arc<Identity>>>,
    keys: RwLock<HashMap<Arc<str>, Arc<Key>>>,
}

impl Iam {
    /// Adds or replaces a role. Sessions that exist follow the new policies, as in AWS.
    pub(super) fn set_role(&self, arn: &str, trust: &str, policies: &[&str]) -> anyhow::Result<()> {
        let trust = Policy::with_principals(trust).with_context(|| format!("trust policy of {arn}"))?;
        let mut role = identity(arn, "role", "AROA", policies)?;
        role.trust = Some(trust);
        self.set(role);
        Ok(())
    }

    /// Changes a user or role that exists.
    pub(super) fn alter(&self, arn: &str, change: impl FnOnce(&mut Identity)) -> anyhow::Result<()> {
        let mut identities = self.identities.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(
            identities
                .get_mut(arn)
                .with_context(|| format!("there is no {arn}"))?,
        ));
        Ok(())
    }

    /// Adds or replaces a user and gives it a further static key.
    pub(super) fn set_user(&self, arn: &str, policies: &[&str]) -> anyhow::Result<Arc<Key>> {
        let user = identity(arn, "user", "AIDA", policies)?;
        let principal = Arc::new(Principal {
            account: user.account.clone(),
            arn: user.arn.clone(),
            owner_arn: user.arn.clone(),
            user_id: user.id.clone(),
            tags: user.tags.clone(),
            ..Principal::default()
        });
        self.set(user);
        Ok(self.add_key(Key {
            id: format!("AKIA{}", random(UPPER, 16)).into(),
            secret: random(BASE64, 40),
            token: None,
            expires: None,
            principal,
        }))
    }

    fn set(&self, mut identity: Identity) {
        let mut identities = self.identities.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = identities.get(&identity.arn) {
            identity.id = former.id.clone();
            identity.tags = former.tags.clone();
            identity.max_session = former.max_session;
        }
        identities.insert(identity.arn.clone(), Arc::new(identity));
    }

    /// Forgets a user or role; its keys are refused from now on.
    pub(super) fn remove(&self, arn: &str) {
        self.identities
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(arn);
        self.keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, key| &*key.principal.owner_arn != arn);
    }

    pub(super) fn identity(&self, arn: &str) -> Option<Arc<Identity>> {
        self.identities
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(arn)
            .cloned()
    }

    pub(super) fn key(&self, access_key: &str) -> Option<Arc<Key>> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(access_key)
            .cloned()
    }

    /// Starts a session of `role`.
    pub(super) fn start_session(&self, role: &Identity, request: SessionRequest) -> Arc<Key> {
        let name = role.arn.rsplit('/').next().unwrap_or_default();
        let mut tags = role.tags.clone();
        tags.extend(request.tags);
        let principal = Arc::new(Principal {
            account: role.account.clone(),
            arn: format!(
                "arn:aws:sts::{}:assumed-role/{name}/{}",
                role.account, request.name
            )
            .into(),
            owner_arn: role.arn.clone(),
            user_id: format!("{}:{}", role.id, request.name).into(),
            session_name: Some(request.name.into()),
            tags,
            transitive: request.transitive,
            session_policy: request.policy,
        });
        self.add_key(Key {
            id: format!("ASIA{}", random(UPPER, 16)).into(),
            secret: random(BASE64, 40),
            token: Some(random(BASE64, 356)),
            expires: Some(Timestamp::now() + jiff::SignedDuration::from_secs(request.seconds.into())),
            principal,
        })
    }

    fn add_key(&self, key: Key) -> Arc<Key> {
        let key = Arc::new(key);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() % SWEEP_KEYS == SWEEP_KEYS - 1 {
            let now = Timestamp::now();
            keys.retain(|_, key| key.expires.is_none_or(|at| at > now));
        }
        keys.insert(key.id.clone(), key.clone());
        key
    }

    /// Makes the sessions of a role (or the static keys of a user) expired now.
    pub(super) fn expire(&self, owner_arn: &str) {
        let now = Timestamp::now();
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        for key in keys
            .values_mut()
            .filter(|key| &*key.principal.owner_arn == owner_arn)
        {
            Arc::make_mut(key).expires = Some(now);
        }
    }

    /// What the identity policies of the caller, and its session policy, say.
    pub(super) fn decide(&self, action: &str, resource: &str, context: &Context<'_>) -> Decision {
        let Some(principal) = context.principal else {
            return Decision::ImplicitDeny;
        };
        let Some(owner) = self.identity(&principal.owner_arn) else {
            return Decision::ImplicitDeny;
        };
        let identity = strictest_allow(owner.policies.iter().map(|p| p.decide(action, resource, context)));
        match (identity, &principal.session_policy) {
            (Decision::Allow, Some(session)) => session.decide(action, resource, context),
            (decision, _) => decision,
        }
    }
}

/// Any deny denies, else any allow allows.
fn strictest_allow(decisions: impl Iterator<Item = Decision>) -> Decision {
    let mut result = Decision::ImplicitDeny;
    for decision in decisions {
        match decision {
            Decision::ExplicitDeny => return Decision::ExplicitDeny,
            Decision::Allow => result = Decision::Allow,
            Decision::ImplicitDeny => {}
        }
    }
    result
}

fn identity(arn: &str, kind: &str, id_prefix: &str, policies: &[&str]) -> anyhow::Result<Identity> {
    let account = arn
        .strip_prefix("arn:aws:iam::")
        .and_then(|rest| rest.split_once(':'))
        .filter(|(account, rest)| is_account(account) && rest.starts_with(&format!("{kind}/")))
        .map(|(account, _)| account)
        .with_context(|| format!("{arn} is not the ARN of a {kind}"))?;
    let policies = policies
        .iter()
        .map(|json| Policy::identity(json))
        .collect::<anyhow::Result<_>>()
        .with_context(|| format!("policy of {arn}"))?;
    Ok(Identity {
        account: account.into(),
        arn: arn.into(),
        id: format!("{id_prefix}{}", random(UPPER, 17)).into(),
        trust: None,
        policies,
        tags: BTreeMap::new(),
        max_session: 3600,
    })
}

pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}
