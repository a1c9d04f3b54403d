//! Credentials, one set per identity: got once, kept, refreshed early, by one caller at a time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_secretsmanager::{config::http::HttpResponse, error::SdkError};
use aws_sdk_sts::{
    operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
    types::{AssumedRoleUser, Credentials as Session},
};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync,
    time::{Instant, timeout},
};

use super::{
    client::Ground,
    error::{Cause, Class, account_of},
    identity::{Base, Identity, KeyRef, Role},
    kube_tokens::{KubeTokenError, KubeTokens},
    limit::{Bucket, Urgency},
    metrics::Metrics,
    remote::Proven,
};

/// How long before their end credentials are refreshed, unless a third of their life is less.
const EARLY: Duration = Duration::from_mins(5);
/// Keys in Secrets are read again after this, and no longer used after twice this.
const STATIC: Duration = Duration::from_mins(5);
/// Own credentials that name no end are asked for again after this, as AWS's SDKs do.
const ENDLESS: Duration = Duration::from_mins(15);
/// A session of a role assumed by another role ends after an hour at the latest.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining>
const SESSION: i32 = 3600;
/// Reading the ServiceAccount, its token, then STS: each has a time-out of its own, this is for all.
const FETCH: Duration = Duration::from_secs(25);
/// A failure is the answer for all who ask within this; so is a set that AWS refuses as soon as it was got.
const FAILED: Duration = Duration::from_secs(5);
/// While a set is still good, a failed refresh is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// A set of credentials.
pub(super) struct Held {
    pub(super) credentials: Credentials,
    got: Instant,
    refresh: Instant,
    ends: Option<Instant>,
    proven: sync::OnceCell<Proven>,
}

impl Held {
    fn new(credentials: Credentials, refresh: Duration, ends: Option<Duration>) -> Self {
        let got = Instant::now();
        Self {
            credentials,
            got,
            refresh: got + refresh,
            ends: ends.map(|ends| got + ends),
            proven: sync::OnceCell::new(),
        }
    }

    /// A set that ends after `life`.
    fn session(credentials: Credentials, life: Duration) -> Self {
        Self::new(credentials, life.saturating_sub(EARLY.min(life / 3)), Some(life))
    }

    /// Whether the other holds the same keys, so that what is proven of one is proven of both.
    fn is_same_set(&self, other: &Self) -> bool {
        self.credentials.access_key_id() == other.credentials.access_key_id()
            && self.credentials.secret_access_key() == other.credentials.secret_access_key()
            && self.credentials.session_token() == other.credentials.session_token()
    }

    fn is_good(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }

    /// The account, as far as is known.
    pub(super) fn account(&self) -> Option<Arc<str>> {
        let proven = self.proven.get().map(|proven| proven.account.clone());
        proven.or_else(|| {
            self.credentials
                .account_id()
                .map(|account| account.as_str().into())
        })
    }

    /// What the audit log calls it.
    pub(super) fn arn(&self) -> Option<Arc<str>> {
        self.proven.get().map(|proven| proven.arn.clone())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("proven", &self.proven.get())
            .finish_non_exhaustive()
    }
}

/// What all wallets share.
pub(super) struct Bank {
    ground: Arc<Ground>,
    tokens: Arc<dyn KubeTokens>,
    sts: Bucket,
    metrics: Metrics,
    wallets: Mutex<HashMap<Identity, Weak<Wallet>>>,
}

impl fmt::Debug for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bank").finish_non_exhaustive()
    }
}

impl Bank {
    pub(super) fn new(ground: Arc<Ground>, tokens: Arc<dyn KubeTokens>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            ground,
            tokens,
            sts: Bucket::sts(),
            metrics,
            wallets: Mutex::default(),
        })
    }

    /// The wallet of this identity, in whatever region it was asked for first: a session is good in all.
    pub(super) fn wallet(self: &Arc<Self>, identity: &Identity, region: &Arc<str>) -> Arc<Wallet> {
        let from = match identity.parent() {
            Some((parent, role)) => From::Role(self.wallet(&parent, region), role),
            None => From::Base(identity.base.clone()),
        };
        let mut wallets = self.wallets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wallet) = wallets.get(identity).and_then(Weak::upgrade) {
            return wallet;
        }
        wallets.retain(|_, wallet| wallet.strong_count() > 0);
        let wallet = Arc::new(Wallet {
            name: identity.to_string().into(),
            session_name: identity.session_name.clone(),
            from,
            region: region.clone(),
            bank: self.clone(),
            state: Mutex::default(),
            fetching: sync::Mutex::default(),
        });
        wallets.insert(identity.clone(), Arc::downgrade(&wallet));
        wallet
    }

    async fn sts<T, E>(
        &self,
        operation: &'static str,
        home: &[&str],
        call: BoxFuture<'static, Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Cause>
    where
        E: aws_sdk_sts::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        let waited = self.sts.turn(Urgency::Fresh).await?;
        let running = self.metrics.start(operation, waited);
        let answer = call.await.map_err(|error| Cause::of_sts(&error, home));
        running.end(answer.as_ref().err());
        answer
    }
}

/// How credentials come about.
#[derive(Debug)]
enum From {
    Base(Base),
    Role(Arc<Wallet>, Role),
}

/// One identity's credentials.
#[derive(Debug)]
pub(super) struct Wallet {
    name: Arc<str>,
    session_name: Arc<str>,
    from: From,
    region: Arc<str>,
    bank: Arc<Bank>,
    state: Mutex<State>,
    /// Held by the one who fetches; whoever is cancelled meanwhile leaves it to the next.
    fetching: sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Arc<Held>>,
    /// When the next refresh may be tried, after one has failed.
    again: Option<Instant>,
    failed: Option<(Instant, Cause)>,
}

impl Wallet {
    /// What the identity is called in messages.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Credentials that are good now.
    pub(super) fn held(&self) -> BoxFuture<'_, Result<Arc<Held>, Cause>> {
        Box::pin(async {
            let good = match self.look() {
                Look::Use(held) => return Ok(held),
                Look::Failed(cause) => return Err(cause),
                Look::Refresh(held) => Some(held),
                Look::Fetch => None,
            };
            let _turn = match good {
                // Nobody waits for a refresh while the old set is good.
                Some(held) => match self.fetching.try_lock() {
                    Ok(turn) => turn,
                    Err(_) => return Ok(held),
                },
                None => self.fetching.lock().await,
            };
            match self.look() {
                Look::Use(held) => return Ok(held),
                Look::Failed(cause) => return Err(cause),
                Look::Refresh(_) | Look::Fetch => {}
            }
            let late = |_| {
                Cause::new(
                    Class::Unavailable,
                    format!("credentials of {} did not come in time", self.name),
                )
            };
            let fetched = timeout(FETCH, self.fetch()).await.map_err(late).flatten();
            self.keep(fetched)
        })
    }

    /// Takes note that AWS has refused these credentials: they are not used again. A set refused as soon as it was got
    /// stays for a moment, since another one will hardly do better.
    pub(super) fn refused(&self, refused: &Arc<Held>) {
        let mut state = self.state();
        let is_present = state.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, refused));
        if is_present && refused.got.elapsed() > FAILED {
            state.held = None;
            if let From::Role(parent, _) = &self.from {
                parent.forget();
            }
        }
    }

    /// Drops what is held, so that the next who asks gets it anew.
    pub(super) fn forget(&self) {
        *self.state() = State::default();
        if let From::Role(parent, _) = &self.from {
            parent.forget();
        }
    }

    /// Whom AWS takes the identity for: the answer to AssumeRole says it, else STS is asked once for each set.
    pub(super) async fn proven(&self) -> Result<Proven, Cause> {
        let held = self.held().await?;
        let ask = async {
            let sts = self.bank.ground.sts(&self.region, Some(held.credentials.clone()));
            let answer = self
                .bank
                .sts(
                    "GetCallerIdentity",
                    &[],
                    Box::pin(sts.get_caller_identity().send()),
                )
                .await;
            if answer.as_ref().is_err_and(|cause| cause.class == Class::Identity) {
                self.refused(&held);
            }
            let answer = answer?;
            match (answer.account(), answer.arn()) {
                (Some(account), Some(arn)) => Ok(Proven {
                    account: account.into(),
                    arn: arn.into(),
                }),
                _ => Err(Cause::new(Class::Unavailable, "STS named no account")),
            }
        };
        held.proven.get_or_try_init(|| ask).await.cloned()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Look {
        let state = self.state();
        let now = Instant::now();
        if let Some(held) = state.held.as_ref().filter(|held| held.is_good()) {
            let may_refresh = state.again.is_none_or(|again| again <= now);
            return if held.refresh <= now && may_refresh {
                Look::Refresh(held.clone())
            } else {
                Look::Use(held.clone())
            };
        }
        match &state.failed {
            Some((at, cause)) if at.elapsed() < FAILED => Look::Failed(cause.clone()),
            _ => Look::Fetch,
        }
    }

    fn keep(&self, fetched: Result<Held, Cause>) -> Result<Arc<Held>, Cause> {
        let mut state = self.state();
        match fetched {
            Ok(mut held) => {
                if let Some(before) = state.held.as_ref().filter(|before| before.is_same_set(&held))
                    && let Some(proven) = before.proven.get()
                {
                    held.proven = sync::OnceCell::new_with(Some(proven.clone()));
                }
                let held = Arc::new(held);
                *state = State {
                    held: Some(held.clone()),
                    again: None,
                    failed: None,
                };
                Ok(held)
            }
            Err(cause) => {
                let now = Instant::now();
                if let Some(held) = state.held.clone().filter(|held| held.is_good()) {
                    tracing::warn!(identity = %self.name, %cause, "refreshing credentials failed; the old ones are still good");
                    state.again = Some(now + AGAIN);
                    return Ok(held);
                }
                *state = State {
                    held: None,
                    again: None,
                    failed: Some((now, cause.clone())),
                };
                Err(cause)
            }
        }
    }

    async fn fetch(&self) -> Result<Held, Cause> {
        match &self.from {
            From::Base(Base::Own) => self.own().await,
            From::Base(Base::ServiceAccount {
                namespace,
                name,
                uid,
                audiences,
            }) => {
                self.service_account(namespace, name, uid.as_ref(), audiences)
                    .await
            }
            From::Base(Base::StaticKeys {
                access_key_id,
                secret_access_key,
                session_token,
                secrets: _,
            }) => {
                self.static_keys(access_key_id, secret_access_key, session_token.as_ref())
                    .await
            }
            From::Role(parent, role) => self.assume(parent, role).await,
        }
    }

    async fn own(&self) -> Result<Held, Cause> {
        let credentials = self
            .bank
            .ground
            .own
            .provide_credentials()
            .await
            .map_err(|error| of_chain(&error))?;
        Ok(match credentials.expiry().map(|end| self.until(end)) {
            Some(life) => Held::session(credentials, life),
            None => Held::new(credentials, ENDLESS, None),
        })
    }

    async fn service_account(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&Arc<str>>,
        audiences: &[Arc<str>],
    ) -> Result<Held, Cause> {
        let facts = self
            .bank
            .tokens
            .service_account(namespace, name)
            .await
            .map_err(|error| of_kubernetes(&error))?;
        if uid.is_some_and(|uid| *uid != facts.uid) {
            let detail = format!("ServiceAccount {namespace}/{name} was deleted and made again");
            return Err(Cause::new(Class::Identity, detail));
        }
        let Some(role) = facts.role_arn else {
            let detail =
                format!("ServiceAccount {namespace}/{name} has no annotation eks.amazonaws.com/role-arn");
            return Err(Cause::new(Class::Identity, detail));
        };
        let own_audience = facts
            .audience
            .as_deref()
            .unwrap_or("sts.amazonaws.com")
            .to_owned();
        let mut wanted = vec![own_audience];
        for audience in audiences {
            if !wanted.iter().any(|known| **known == **audience) {
                wanted.push(audience.to_string());
            }
        }
        let token = self
            .bank
            .tokens
            .token(namespace, name, &wanted)
            .await
            .map_err(|error| of_kubernetes(&error))?;
        let call = self
            .bank
            .ground
            .sts(&self.region, None)
            .assume_role_with_web_identity()
            .role_arn(&*role)
            .role_session_name(&*self.session_name)
            .web_identity_token(token.token.expose_secret())
            .duration_seconds(SESSION)
            .send();
        let home: Vec<_> = account_of(&role).into_iter().collect();
        let answer = self
            .bank
            .sts("AssumeRoleWithWebIdentity", &home, Box::pin(call))
            .await
            .map_err(|cause| {
                let detail = format!(
                    "ServiceAccount {namespace}/{name} may not assume {role}: {}",
                    cause.detail
                );
                refine(cause, detail)
            })?;
        self.session(answer.credentials, answer.assumed_role_user)
    }

    async fn assume(&self, parent: &Self, role: &Role) -> Result<Held, Cause> {
        let with = parent.held().await?;
        let call = self
            .bank
            .ground
            .sts(&self.region, Some(with.credentials.clone()))
            .assume_role()
            .role_arn(&*role.arn)
            .role_session_name(&*self.session_name)
            .set_external_id(role.external_id.as_deref().map(Into::into))
            .duration_seconds(SESSION)
            .send();
        let account = with.account();
        let home: Vec<_> = account_of(&role.arn)
            .into_iter()
            .chain(account.as_deref())
            .collect();
        let answer = self.bank.sts("AssumeRole", &home, Box::pin(call)).await;
        let answer = answer.map_err(|cause| {
            if matches!(cause.code.as_deref(), Some(code) if code != "AccessDenied")
                && cause.class == Class::Identity
            {
                parent.refused(&with);
            }
            let detail = format!("{} may not assume {}: {}", parent.name, role.arn, cause.detail);
            refine(cause, detail)
        })?;
        self.session(answer.credentials, answer.assumed_role_user)
    }

    async fn static_keys(&self, id: &KeyRef, secret: &KeyRef, token: Option<&KeyRef>) -> Result<Held, Cause> {
        let (id, secret) = (self.key(id).await?, self.key(secret).await?);
        let token = match token {
            Some(token) => Some(self.key(token).await?),
            None => None,
        };
        // A value pasted with a line end is an invalid header, and would be quoted in an error.
        let mut credentials = Credentials::builder()
            .access_key_id(id.expose_secret().trim())
            .secret_access_key(secret.expose_secret().trim())
            .provider_name("secretRef");
        credentials.set_session_token(token.map(|token| token.expose_secret().trim().to_owned()));
        Ok(Held::new(credentials.build(), STATIC, Some(2 * STATIC)))
    }

    async fn key(&self, of: &KeyRef) -> Result<SecretString, Cause> {
        let KeyRef { namespace, name, key } = of;
        let read = self
            .bank
            .tokens
            .secret_key(namespace, name, key)
            .await
            .map_err(|error| of_kubernetes(&error))?;
        Ok(read.value)
    }

    fn session(&self, session: Option<Session>, user: Option<AssumedRoleUser>) -> Result<Held, Cause> {
        let Some((session, user)) = session.zip(user) else {
            return Err(Cause::new(Class::Unavailable, "STS gave no session"));
        };
        let ends = SystemTime::try_from(*session.expiration())
            .map_err(|_| Cause::new(Class::Unavailable, "STS gave a session whose end is no time"))?;
        let account = account_of(user.arn()).unwrap_or_default();
        let credentials = Credentials::builder()
            .access_key_id(session.access_key_id())
            .secret_access_key(session.secret_access_key())
            .session_token(session.session_token())
            .expiry(ends)
            .account_id(account)
            .provider_name("sts")
            .build();
        let proven = Proven {
            account: account.into(),
            arn: user.arn().into(),
        };
        let held = Held::session(credentials, self.until(ends));
        Ok(Held {
            proven: sync::OnceCell::new_with(Some(proven)),
            ..held
        })
    }

    fn until(&self, end: SystemTime) -> Duration {
        end.duration_since(self.bank.ground.now()).unwrap_or_default()
    }
}

/// What a look at the wallet says.
enum Look {
    Use(Arc<Held>),
    /// Still good, due for a refresh.
    Refresh(Arc<Held>),
    Fetch,
    Failed(Cause),
}

/// Gives a wallet's credentials to the SDK.
#[derive(Debug)]
pub(super) struct Pass(pub(super) Arc<Wallet>);

impl ProvideCredentials for Pass {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let held = self.0.held().await.map_err(CredentialsError::provider_error)?;
            provider::Result::Ok(held.credentials.clone())
        })
    }
}

/// Says in a refusal who wanted what.
fn refine(cause: Cause, detail: String) -> Cause {
    if cause.class == Class::Identity {
        Cause {
            detail: detail.into(),
            ..cause
        }
    } else {
        cause
    }
}

fn of_kubernetes(error: &KubeTokenError) -> Cause {
    let class = match error {
        KubeTokenError::Unavailable(_) => Class::Unavailable,
        KubeTokenError::NotFound(_) | KubeTokenError::Forbidden(_) | KubeTokenError::Invalid(_) => {
            Class::Identity
        }
    };
    Cause::new(class, error.to_string())
}

/// The default chain's error. It may quote files, so only its kind is told, and what STS says.
fn of_chain(error: &CredentialsError) -> Cause {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = next {
        if let Some(sts) = inner.downcast_ref::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>() {
            return Cause::of_sts(sts, &[]);
        }
        if let Some(file) = inner.downcast_ref::<std::io::Error>()
            && file.kind() == std::io::ErrorKind::NotFound
        {
            let detail = "a file that the operator's environment names for its credentials does not exist";
            return Cause::new(Class::Identity, detail);
        }
        next = inner.source();
    }
    let (class, detail) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            Class::Identity,
            "the operator has no credentials of its own: neither its environment, nor IRSA, nor Pod Identity gives any",
        ),
        CredentialsError::InvalidConfiguration(_) => (
            Class::Identity,
            "the operator's environment describes its credentials in a way that cannot be used",
        ),
        CredentialsError::ProviderTimedOut(_) => (
            Class::Unavailable,
            "the operator's own credentials did not come in time",
        ),
        _ => (Class::Unavailable, "the operator's own credentials cannot be got"),
    };
    Cause::new(class, detail)
}
