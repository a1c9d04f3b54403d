//! What all calls share: one HTTP client, the operator's surroundings, and for each source an SDK client of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig,
    ecs::EcsCredentialsProvider,
    environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider},
    identity::IdentityCache,
    imds::credentials::ImdsCredentialsProvider,
    meta::{credentials::CredentialsProviderChain, region::ProvideRegion},
    profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig,
    retry::RetryConfig,
    timeout::TimeoutConfig,
    web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_sts::config::retry::{RetryPartition, TokenBucket};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_types::sdk_ua_metadata::FrameworkMetadata;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::{
    credentials::{CredentialCache, CredentialSet},
    error::{Cause, Class, Place},
    identity::{Caller, Source},
    kube_tokens::KubeTokens,
    limit::{Budget, Budgets, Urgency},
    service::Calls,
    suspects::Suspects,
    trust::{Trust, TrustError},
};
use crate::api::{ObjectKey, Selector, SourceId};

/// Tells which ExternalSecrets want a version of a secret of a source, by the key as they give it: for the audit log of the
/// tracker's checks.
pub type Subscribers = Arc<dyn Fn(SourceId, &Arc<str>, &Selector) -> Vec<ObjectKey> + Send + Sync>;

/// What this room must be told.
pub struct AwsConfig {
    /// The operator's own region; without it, the environment's.
    pub region: Option<Arc<str>>,
    /// Whether the node's instance metadata may give credentials: off unless asked for, since a tenant must never fall
    /// back to the node's role.
    pub instance_metadata: bool,
    /// Where ServiceAccounts, their tokens and keys in Secrets come from.
    pub tokens: Arc<dyn KubeTokens>,
    /// For the audit log.
    pub subscribers: Subscribers,
}

/// The connect time-out that AWS's SDKs share.
const CONNECT: Duration = Duration::from_millis(3100);
/// One attempt, of at most three.
const ATTEMPT: Duration = Duration::from_secs(5);
/// A call with all its attempts.
const OPERATION: Duration = Duration::from_secs(15);
/// A check at least every 30 s finds its connection still open.
const IDLE: Duration = Duration::from_mins(1);
/// Calls of one source at a time; with two of them kept for what is fresh.
const SLOTS: usize = 6;
const PERIODIC_SLOTS: usize = 4;
/// How long a call may wait for a slot: six calls that time out, and six more.
const SLOT: Duration = Duration::from_secs(30);

/// The settings of all clients, and the operator's own credentials.
#[derive(Debug)]
pub(super) struct ClientSettings {
    sdk: SdkConfig,
    pub(super) own: SharedCredentialsProvider,
}

impl ClientSettings {
    /// What the environment says. Endpoints come from here and nowhere else.
    pub(super) async fn from_environment(
        region: Option<&str>,
        instance_metadata: bool,
    ) -> Result<Self, TrustError> {
        let http = http_client(&Trust::from_environment().await?);
        let region = match region {
            Some(region) => Some(Region::new(region.to_owned())),
            None => EnvironmentVariableRegionProvider::new().region().await,
        };
        let sdk = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(region.clone())
            .http_client(http.clone())
            .no_credentials()
            .load()
            .await;
        let surroundings = ProviderConfig::without_region()
            .with_region(region)
            .with_http_client(http)
            .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
            .with_timeout_config(timeouts())
            .with_retry_config(retries());
        Ok(Self::new(&sdk, timeouts(), own(&surroundings, instance_metadata)))
    }

    /// With these settings, and those that every client has.
    pub(super) fn new(sdk: &SdkConfig, timeouts: TimeoutConfig, own: SharedCredentialsProvider) -> Self {
        let mut sdk = sdk
            .to_builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .timeout_config(timeouts)
            .retry_config(retries())
            .identity_cache(IdentityCache::no_cache());
        if let Ok(keyturn) = FrameworkMetadata::new("keyturn", Some(env!("CARGO_PKG_VERSION"))) {
            sdk = sdk.framework_metadata(keyturn);
        }
        Self {
            sdk: sdk.build(),
            own,
        }
    }

    pub(super) fn region(&self) -> Option<&str> {
        self.sdk.region().map(AsRef::as_ref)
    }

    /// A client of STS in `region` with these credentials, or with none for the call that is not signed.
    pub(super) fn sts(&self, region: &str, credentials: Option<Credentials>) -> aws_sdk_sts::Client {
        let mut config = aws_sdk_sts::config::Builder::from(&self.sdk)
            .region(Region::new(region.to_owned()))
            .retry_partition(
                RetryPartition::custom("sts")
                    .token_bucket(TokenBucket::default())
                    .build(),
            );
        config.set_credentials_provider(credentials.map(SharedCredentialsProvider::new));
        aws_sdk_sts::Client::from_conf(config.build())
    }

    /// The settings of all clients.
    pub(super) fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }

    /// The time as the SDK takes it, by which AWS's credentials expire.
    pub(super) fn now(&self) -> std::time::SystemTime {
        self.sdk.time_source().unwrap_or_default().now()
    }
}

pub(super) fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build()
}

/// Said in full, so that a change of the SDK's defaults shifts nothing.
fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(3)
}

/// One connector for the process: a client of the SDK that made its own would load the root certificates again.
pub(super) fn http_client(trust: &Trust) -> SharedHttpClient {
    let connector = Connector::builder()
        .connector_settings(HttpConnectorSettings::builder().connect_timeout(CONNECT).build())
        .proxy_config(ProxyConfig::from_env())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(8)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(trust.context())
        .build();
    let connector = SharedHttpConnector::new(connector);
    http_client_fn(move |_, _| connector.clone())
}

/// The order of AWS's SDKs: environment, profile, web identity (IRSA), container (Pod Identity), node if asked for.
fn own(surroundings: &ProviderConfig, instance_metadata: bool) -> SharedCredentialsProvider {
    let chain =
        CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
            .or_else(
                "Profile",
                ProfileFileCredentialsProvider::builder()
                    .configure(surroundings)
                    .build(),
            )
            .or_else(
                "WebIdentityToken",
                WebIdentityTokenCredentialsProvider::builder()
                    .configure(surroundings)
                    .build(),
            )
            .or_else(
                "EcsContainer",
                EcsCredentialsProvider::builder().configure(surroundings).build(),
            );
    if !instance_metadata {
        return SharedCredentialsProvider::new(chain);
    }
    let node = ImdsCredentialsProvider::builder().configure(surroundings).build();
    SharedCredentialsProvider::new(chain.or_else("Ec2InstanceMetadata", node))
}

/// One source's client, with all that belongs to the source alone.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: SourceId,
    pub(super) source: Source,
    pub(super) caller: Caller,
    pub(super) calls: Arc<dyn Calls>,
    /// What is called, for messages.
    pub(super) endpoint: Arc<str>,
    pub(super) cache: Arc<CredentialCache>,
    slots: Semaphore,
    periodic: Semaphore,
    denied: Mutex<Denied>,
    /// The account that credentials were last known to be of.
    account: Mutex<Option<Arc<str>>>,
    suspects: Mutex<Suspects>,
}

/// When an operation as such was last denied, or seen to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) batch: Right,
    pub(super) list: Right,
}

/// Whether an identity may do something, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Right {
    #[default]
    Unknown,
    Granted,
    DeniedAt(Instant),
}

/// Rights are tried again after a day.
const FORGET_DENIAL: Duration = Duration::from_hours(24);

impl Right {
    /// Whether it was denied less than a day ago.
    pub(super) fn is_denied(self) -> bool {
        matches!(self, Self::DeniedAt(at) if at.elapsed() < FORGET_DENIAL)
    }

    /// What the end of a call says of it: trouble says nothing.
    pub(super) fn after<T>(self, answer: &Result<T, Cause>) -> Self {
        match answer {
            Ok(_) => Self::Granted,
            Err(cause) if cause.class == Class::AccessDenied => Self::DeniedAt(Instant::now()),
            Err(_) => self,
        }
    }
}

impl Client {
    pub(super) fn new(
        id: SourceId,
        source: Source,
        settings: &ClientSettings,
        cache: Arc<CredentialCache>,
    ) -> Self {
        let (service, region) = (source.service, &source.region);
        let batch = service.batch;
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        let endpoint = settings.sdk.endpoint_url().map_or_else(
            || format!("https://{}.{region}.amazonaws.com{suffix}", service.prefix),
            str::to_owned,
        );
        Self {
            id,
            endpoint: endpoint.into(),
            calls: (source.service.connect)(settings, &source.region, cache.clone()),
            caller: source.identity.caller(),
            source,
            cache,
            slots: Semaphore::new(SLOTS),
            periodic: Semaphore::new(PERIODIC_SLOTS),
            denied: Mutex::default(),
            account: Mutex::default(),
            suspects: Mutex::new(Suspects::new(batch)),
        }
    }

    /// Waits for a slot. Those held by periodic calls never are all.
    pub(super) async fn slot(&self, urgency: Urgency) -> Result<Slot<'_>, Cause> {
        let slot = async {
            let periodic = match urgency {
                Urgency::Fresh => None,
                Urgency::Periodic => self.periodic.acquire().await.ok(),
            };
            Slot {
                _periodic: periodic,
                _slot: self.slots.acquire().await.ok(),
            }
        };
        let late = |_| {
            Cause::new(
                Class::Throttled,
                "too many calls of this store are waiting for an answer",
            )
        };
        timeout(SLOT, slot).await.map_err(late)
    }

    /// Where calls with these credentials are made. Once the account is known it stays, so that two errors read the same.
    pub(super) fn place(&self, held: &CredentialSet) -> Place {
        let mut known = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = held.account() {
            *known = Some(account);
        }
        Place {
            region: Some(self.source.region.clone()),
            account: known.clone(),
        }
    }

    /// The budget of the account that is asked, or of the identity while its account is unknown.
    pub(super) fn budget(&self, budgets: &Budgets, held: &CredentialSet) -> Arc<Budget> {
        let account = held
            .account()
            .unwrap_or_else(|| format!("source {}", self.id.0).into());
        budgets.of(&account, &self.source.region, self.source.service)
    }

    pub(super) fn denied(&self) -> Denied {
        *self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Denied)) {
        change(&mut self.denied.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The keys whose batches got no answer.
    pub(super) fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among a source's calls in flight.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _periodic: Option<SemaphorePermit<'a>>,
    _slot: Option<SemaphorePermit<'a>>,
}
