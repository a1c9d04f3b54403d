//! Credentials, one set per identity: got once, kept, refreshed early, by one caller at a time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_secretsmanager::{config::http::HttpResponse, error::SdkError};
use futures::future::BoxFuture;
use tokio::{
    sync,
    time::{Instant, timeout},
};

use super::{
    client::Ground,
    error::{Cause, Class},
    identity::{Base, Identity, Role},
    kube_tokens::KubeTokens,
    limit::{Bucket, Urgency},
    metrics::Metrics,
    remote::Proven,
};

/// How long before their end credentials are refreshed, unless a third of their life is less.
const EARLY: Duration = Duration::from_mins(5);
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
    /// A set to be asked for again after `refresh`.
    pub(super) fn new(credentials: Credentials, refresh: Duration, ends: Option<Duration>) -> Self {
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
    pub(super) fn session(credentials: Credentials, life: Duration) -> Self {
        Self::new(credentials, life.saturating_sub(EARLY.min(life / 3)), Some(life))
    }

    /// The same set, known to be whose it is.
    pub(super) fn proved(self, proven: Proven) -> Self {
        Self {
            proven: sync::OnceCell::new_with(Some(proven)),
            ..self
        }
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
    pub(super) ground: Arc<Ground>,
    pub(super) tokens: Arc<dyn KubeTokens>,
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
            Some((parent, role)) => Origin::Role(self.wallet(&parent, region), role),
            None => Origin::Base(identity.base.clone()),
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

    /// A call to STS, within the budget that all of them share.
    pub(super) async fn sts<T, E>(
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
pub(super) enum Origin {
    Base(Base),
    Role(Arc<Wallet>, Role),
}

/// One identity's credentials.
#[derive(Debug)]
pub(super) struct Wallet {
    pub(super) name: Arc<str>,
    pub(super) session_name: Arc<str>,
    pub(super) from: Origin,
    pub(super) region: Arc<str>,
    pub(super) bank: Arc<Bank>,
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
    /// The answer is whether the next call has others.
    pub(super) fn refused(&self, refused: &Arc<Held>) -> bool {
        let mut state = self.state();
        let is_present = state.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, refused));
        if is_present && refused.got.elapsed() > FAILED {
            state.held = None;
            if let Origin::Role(parent, _) = &self.from {
                parent.forget();
            }
        }
        state.held.as_ref().is_none_or(|held| !Arc::ptr_eq(held, refused))
    }

    /// Drops what is held, so that the next who asks gets it anew.
    pub(super) fn forget(&self) {
        *self.state() = State::default();
        if let Origin::Role(parent, _) = &self.from {
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
            Ok(held) => {
                let before = state.held.as_ref().filter(|before| before.is_same_set(&held));
                let held = match before.and_then(|before| before.proven.get()) {
                    Some(proven) => held.proved(proven.clone()),
                    None => held,
                };
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
