//! Credentials, one set per identity: got once, kept, refreshed early, by one caller at a time.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_secretsmanager::{config::http::HttpResponse, error::SdkError};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{self, Notify},
    time::{Instant, sleep_until, timeout},
};

use super::{
    client::ClientSettings,
    error::{Cause, Class},
    identity::{Base, Caller, Identity, Role},
    kube_tokens::KubeTokens,
    limit::{Bucket, Urgency},
    metrics::Metrics,
    origins::{AT_ONCE, Health, IN_USE, KubeObject, MadeFrom, PAUSE, Schedule, Snapshot},
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
pub(super) struct CredentialSet {
    pub(super) credentials: Credentials,
    got: Instant,
    refresh: Instant,
    ends: Option<Instant>,
    /// Which state of the identity's origin it was made from.
    epoch: u64,
    proven: sync::OnceCell<Proven>,
}

impl CredentialSet {
    /// A set to be asked for again after `refresh`.
    pub(super) fn new(credentials: Credentials, refresh: Duration, ends: Option<Duration>) -> Self {
        let got = Instant::now();
        Self {
            credentials,
            got,
            refresh: got + refresh,
            ends: ends.map(|ends| got + ends),
            epoch: 0,
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

impl fmt::Debug for CredentialSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSet")
            .field("proven", &self.proven.get())
            .finish_non_exhaustive()
    }
}

/// What all caches share.
pub(super) struct CredentialCaches {
    pub(super) settings: Arc<ClientSettings>,
    pub(super) tokens: Arc<dyn KubeTokens>,
    sts: Bucket,
    metrics: Metrics,
    caches: Mutex<HashMap<Identity, Weak<CredentialCache>>>,
    /// Who makes credentials from which object of Kubernetes.
    users: Mutex<HashMap<KubeObject, Vec<Weak<CredentialCache>>>>,
    schedule: Mutex<Schedule>,
    /// Rings when a look is due sooner than before.
    sooner: Notify,
    /// Those whose origin has changed, until somebody takes note of it.
    renewed: Mutex<Vec<Arc<CredentialCache>>>,
    news: Notify,
}

impl fmt::Debug for CredentialCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCaches").finish_non_exhaustive()
    }
}

impl CredentialCaches {
    pub(super) fn new(
        settings: Arc<ClientSettings>,
        tokens: Arc<dyn KubeTokens>,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            tokens,
            sts: Bucket::sts(),
            metrics,
            caches: Mutex::default(),
            users: Mutex::default(),
            schedule: Mutex::default(),
            sooner: Notify::new(),
            renewed: Mutex::default(),
            news: Notify::new(),
        })
    }

    /// The cache of this identity, in whatever region it was asked for first: a session is good in all.
    pub(super) fn cache(self: &Arc<Self>, identity: &Identity, region: &Arc<str>) -> Arc<CredentialCache> {
        let from = match identity.parent() {
            Some((parent, role)) => Origin::Role(self.cache(&parent, region), role),
            None => Origin::Base(identity.base.clone()),
        };
        let objects = match &from {
            Origin::Base(base) => KubeObject::of(base),
            Origin::Role(..) => BTreeSet::new(),
        };
        let mut caches = lock(&self.caches);
        if let Some(cache) = caches.get(identity).and_then(Weak::upgrade) {
            return cache;
        }
        caches.retain(|_, cache| cache.strong_count() > 0);
        let cache = Arc::new(CredentialCache {
            name: identity.to_string().into(),
            caller: identity.caller(),
            session_name: identity.session_name.clone(),
            from,
            region: region.clone(),
            caches: self.clone(),
            objects,
            epoch: AtomicU64::new(0),
            state: Mutex::default(),
            fetching: sync::Mutex::default(),
        });
        caches.insert(identity.clone(), Arc::downgrade(&cache));
        let mut users = lock(&self.users);
        users.retain(|_, users| {
            users.retain(|user| user.strong_count() > 0);
            !users.is_empty()
        });
        for object in &cache.objects {
            let user = Arc::downgrade(&cache);
            users.entry(object.clone()).or_default().push(user);
        }
        cache
    }

    /// Looks at the objects that identities in use are made from, each when it is due, a few at once, until it is dropped.
    pub(super) async fn look_after(&self) {
        let mut looks = FuturesUnordered::new();
        let mut free = Instant::now();
        loop {
            let due = lock(&self.schedule).next().filter(|_| looks.len() < AT_ONCE);
            let at_due = async {
                match due {
                    Some(due) => sleep_until(due.max(free)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(()) = looks.next() => {}
                () = self.sooner.notified() => {}
                () = at_due => {}
            }
            let now = Instant::now();
            if looks.len() >= AT_ONCE || now < free {
                continue;
            }
            let object = lock(&self.schedule).take(now);
            if let Some(object) = object {
                looks.push(async move { self.look_at(&object).await });
                free = now + PAUSE;
            }
        }
    }

    /// Reads the object and ends the sessions that were made from what it no longer is.
    async fn look_at(&self, object: &KubeObject) {
        let seen = object.read(&*self.tokens).await;
        let users: Vec<_> = {
            let users = lock(&self.users);
            let users = users.get(object).into_iter().flatten();
            users.filter_map(Weak::upgrade).collect()
        };
        let mut health = None;
        for user in users {
            let Some(of_user) = user.health() else { continue };
            health = health.max(Some(of_user));
            let Some(seen) = seen.as_ref().filter(|seen| user.is_outdated(object, seen)) else {
                continue;
            };
            // What is broken is tried again at each look that could not show why.
            let mut is_news = true;
            if of_user == Health::Good {
                if user.has_same_keys().await {
                    continue;
                }
                is_news = !user.has_same_role(object, seen);
                tracing::info!(identity = %user.name, "what an identity is made from has changed; its sessions end");
            }
            user.restart();
            if is_news {
                self.announce(user);
            }
        }
        lock(&self.schedule).looked(Instant::now(), object, health);
    }

    fn announce(&self, cache: Arc<CredentialCache>) {
        let mut renewed = lock(&self.renewed);
        if !renewed.iter().any(|known| Arc::ptr_eq(known, &cache)) {
            renewed.push(cache);
        }
        self.news.notify_one();
    }

    /// Waits for identities whose origin has changed.
    pub(super) async fn renewed(&self) -> Vec<Arc<CredentialCache>> {
        loop {
            let renewed = std::mem::take(&mut *lock(&self.renewed));
            if !renewed.is_empty() {
                return renewed;
            }
            self.news.notified().await;
        }
    }

    /// A call to STS, within the budget that all of them share.
    pub(super) async fn sts<T, E>(
        &self,
        caller: &Caller,
        operation: &'static str,
        home: &[&str],
        call: BoxFuture<'static, Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Cause>
    where
        E: aws_sdk_sts::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        let waited = self.sts.turn(Urgency::Fresh, caller).await?;
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
    Role(Arc<CredentialCache>, Role),
}

/// One identity's credentials.
#[derive(Debug)]
pub(super) struct CredentialCache {
    pub(super) name: Arc<str>,
    pub(super) caller: Caller,
    pub(super) session_name: Arc<str>,
    pub(super) from: Origin,
    pub(super) region: Arc<str>,
    pub(super) caches: Arc<CredentialCaches>,
    /// What of Kubernetes first credentials come from.
    objects: BTreeSet<KubeObject>,
    /// Counts the changes of what first credentials come from: sessions made before the last one are not used.
    epoch: AtomicU64,
    state: Mutex<State>,
    /// Locked by the caller that fetches. A caller that is cancelled meanwhile leaves it to the next one.
    fetching: sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Arc<CredentialSet>>,
    /// When the next refresh may be tried, after one has failed.
    again: Option<Instant>,
    failed: Option<Failed>,
    /// When somebody last asked for these credentials, or for some that are made from them.
    asked: Option<Instant>,
    /// What the last attempt was made from.
    made_from: MadeFrom,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    epoch: u64,
    cause: Cause,
}

impl CredentialCache {
    /// What the identity is called in messages.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Credentials that are good now.
    pub(super) fn held(&self) -> BoxFuture<'_, Result<Arc<CredentialSet>, Cause>> {
        Box::pin(async {
            let root = self.root();
            root.state().asked = Some(Instant::now());
            let good = match self.look() {
                CacheState::Use(held) => return Ok(held),
                CacheState::Failed(cause) => return Err(cause),
                CacheState::Refresh(held) => Some(held),
                CacheState::Fetch => None,
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
                CacheState::Use(held) => return Ok(held),
                CacheState::Failed(cause) => return Err(cause),
                CacheState::Refresh(_) | CacheState::Fetch => {}
            }
            let late = |_| {
                Cause::new(
                    Class::Unavailable,
                    format!("credentials of {} did not come in time", self.name),
                )
            };
            let epoch = root.epoch();
            let mut made_from = MadeFrom::new();
            let fetching = timeout(FETCH, self.fetch(&mut made_from));
            let fetched = fetching.await.map_err(late).flatten();
            self.keep(fetched, made_from, epoch)
        })
    }

    /// Takes note that AWS has refused these credentials: they are not used again. A set refused as soon as it was got
    /// stays for a moment, since another one will hardly do better.
    /// The answer is whether the next call has others.
    pub(super) fn refused(&self, refused: &Arc<CredentialSet>) -> bool {
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
        {
            let mut state = self.state();
            state.held = None;
            state.again = None;
            state.failed = None;
        }
        if let Origin::Role(parent, _) = &self.from {
            parent.forget();
        }
    }

    /// Looks at what the identity is made from, unless that was done a moment ago: AWS has denied something, or a person asks.
    /// The answer is whether the next call has others than `denied`.
    pub(super) async fn suspect(&self, denied: Option<&CredentialSet>) -> bool {
        let root = self.root();
        for object in &root.objects {
            let free = lock(&self.caches.schedule).claim(Instant::now(), object);
            if free {
                self.caches.look_at(object).await;
            } else {
                self.caches.sooner.notify_one();
            }
        }
        denied.is_some_and(|denied| denied.epoch != root.epoch())
    }

    /// Has what the identity is made from looked at soon.
    pub(super) fn look_soon(&self) {
        for object in &self.root().objects {
            lock(&self.caches.schedule).hurry(Instant::now(), object);
        }
        self.caches.sooner.notify_one();
    }

    /// The cache that the chain begins with.
    pub(super) fn root(&self) -> &Self {
        let mut root = self;
        while let Origin::Role(parent, _) = &root.from {
            root = parent;
        }
        root
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Ends all sessions that come from here.
    fn restart(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the last attempt was made from something else than the object is now.
    fn is_outdated(&self, object: &KubeObject, now: &Snapshot) -> bool {
        let state = self.state();
        let before = state.made_from.get(object);
        before.is_some_and(|before| before.is_outdated(now))
    }

    /// Whether Secrets hold the keys that are in use: only their metadata, or other keys in them, have changed. If so that
    /// is what they count as made from.
    async fn has_same_keys(&self) -> bool {
        if !matches!(self.from, Origin::Base(Base::StaticKeys { .. })) {
            return false;
        }
        let compare = async {
            let _turn = self.fetching.lock().await;
            let epoch = self.epoch();
            let held = self.state().held.clone();
            let Some(held) = held.filter(|held| held.epoch == epoch) else {
                return false;
            };
            let mut made_from = MadeFrom::new();
            match self.fetch(&mut made_from).await {
                Ok(fetched) if fetched.is_same_set(&held) => self.keep(Ok(fetched), made_from, epoch).is_ok(),
                _ => false,
            }
        };
        timeout(FETCH, compare).await.unwrap_or(false)
    }

    /// Whether sessions that are in use are of the role that the object still gives.
    fn has_same_role(&self, object: &KubeObject, now: &Snapshot) -> bool {
        let state = self.state();
        let before = state.made_from.get(object);
        state.held.is_some() && before.is_some_and(|before| before.is_same_role(now))
    }

    /// Whether there are credentials; `None` if nobody uses them.
    fn health(&self) -> Option<Health> {
        let epoch = self.epoch();
        let state = self.state();
        state.asked.filter(|asked| asked.elapsed() < IN_USE)?;
        let failed = state.failed.as_ref().filter(|failed| failed.epoch == epoch);
        Some(match failed {
            Some(failed) if !failed.cause.class.is_transient() => Health::Broken,
            _ => Health::Good,
        })
    }

    /// Whom AWS takes the identity for: the answer to AssumeRole says it, else STS is asked once for each set.
    pub(super) async fn proven(&self) -> Result<Proven, Cause> {
        let held = self.held().await?;
        let ask = async {
            let sts = self
                .caches
                .settings
                .sts(&self.region, Some(held.credentials.clone()));
            let answer = self
                .caches
                .sts(
                    &self.caller,
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

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn look(&self) -> CacheState {
        let epoch = self.root().epoch();
        let state = self.state();
        let now = Instant::now();
        let usable = |held: &&Arc<CredentialSet>| held.epoch == epoch && held.is_good();
        if let Some(held) = state.held.as_ref().filter(usable) {
            let may_refresh = state.again.is_none_or(|again| again <= now);
            return if held.refresh <= now && may_refresh {
                CacheState::Refresh(held.clone())
            } else {
                CacheState::Use(held.clone())
            };
        }
        match &state.failed {
            Some(failed) if failed.epoch == epoch && failed.at.elapsed() < FAILED => {
                CacheState::Failed(failed.cause.clone())
            }
            _ => CacheState::Fetch,
        }
    }

    /// Takes the outcome of an attempt that began in `epoch`.
    fn keep(
        &self,
        fetched: Result<CredentialSet, Cause>,
        made_from: MadeFrom,
        epoch: u64,
    ) -> Result<Arc<CredentialSet>, Cause> {
        let passes = fetched.as_ref().is_err_and(|cause| cause.class.is_transient());
        let health = match &fetched {
            Err(_) if !passes => Health::Broken,
            _ => Health::Good,
        };
        self.plan_look(health);
        let mut state = self.state();
        let unchanged = passes || made_from == state.made_from;
        if !passes {
            state.made_from = made_from;
        }
        match fetched {
            Ok(held) => {
                let held = CredentialSet { epoch, ..held };
                let before = state.held.as_ref().filter(|before| before.is_same_set(&held));
                let held = match before.and_then(|before| before.proven.get()) {
                    Some(proven) => held.proved(proven.clone()),
                    None => held,
                };
                let held = Arc::new(held);
                state.held = Some(held.clone());
                state.again = None;
                state.failed = None;
                Ok(held)
            }
            Err(cause) => {
                let now = Instant::now();
                // What is still good was made from the same, or nobody knows from what.
                let usable = |held: &Arc<CredentialSet>| unchanged && held.epoch == epoch && held.is_good();
                if let Some(held) = state.held.clone().filter(usable) {
                    tracing::warn!(identity = %self.name, %cause, "refreshing credentials failed; the old ones are still good");
                    state.again = Some(now + AGAIN);
                    return Ok(held);
                }
                state.held = None;
                state.again = None;
                state.failed = Some(Failed {
                    at: now,
                    epoch,
                    cause: cause.clone(),
                });
                Err(cause)
            }
        }
    }

    /// The objects have just been read: says when that is due again.
    fn plan_look(&self, health: Health) {
        let now = Instant::now();
        let mut schedule = lock(&self.caches.schedule);
        let mut sooner = false;
        for object in &self.objects {
            sooner |= schedule.read(now, object, health);
        }
        drop(schedule);
        if sooner {
            self.caches.sooner.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a look at the cache says.
enum CacheState {
    Use(Arc<CredentialSet>),
    /// Still good, due for a refresh.
    Refresh(Arc<CredentialSet>),
    Fetch,
    Failed(Cause),
}

/// Gives a cache's credentials to the SDK.
#[derive(Debug)]
pub(super) struct CachedCredentials(pub(super) Arc<CredentialCache>);

impl ProvideCredentials for CachedCredentials {
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
