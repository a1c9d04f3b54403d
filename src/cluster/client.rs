//! The client: how the API server is reached.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use http::{HeaderValue, header::USER_AGENT};
use kube::{
    Client, Config, Resource,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::Semaphore;

use super::{
    call::Call,
    error::{Class, Error},
    metrics::Metrics,
    time::{ServerTime, TimeLayer},
};
use crate::api::ObjectKey;

/// Reads under way at once. kube speaks HTTP/1.1, so that this and the 32 slots in which the reconciler writes
/// bound the connections, besides one per watch.
const READS: usize = 32;

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig; without one `KUBECONFIG` or `~/.kube/config`, else the Pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than its current one.
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig cannot be used.
    #[error("failed to use the kubeconfig: {0}")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// There is neither a kubeconfig nor a ServiceAccount.
    #[error("failed to find a kubeconfig or a ServiceAccount: {0}")]
    Infer(#[source] kube::config::InferConfigError),
    /// The configuration is not usable, by TLS or credentials.
    #[error("failed to build the Kubernetes client: {0}")]
    Build(#[source] kube::Error),
}

/// The API server, for reading. Clones share connections, clock and metrics.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    pub(super) reads: Arc<Semaphore>,
    pub(super) metrics: Metrics,
    time: ServerTime,
}

impl Cluster {
    /// Makes the client; nothing is sent yet. A TLS provider must be installed.
    pub async fn connect(access: &Access, metrics: Metrics) -> Result<Self, AccessError> {
        let mut config = config(access).await?;
        // Fifteen retries of writes too, up to 1000 s apart, would hold a slot: reads are retried in `call`.
        config.default_retry = false;
        let agent = HeaderValue::from_static(concat!("keyturn/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        let time = ServerTime::default();
        let client = ClientBuilder::try_from(config)
            .map_err(AccessError::Build)?
            .with_layer(&TimeLayer(time.clone()))
            .build();
        Ok(Self::new(client, time, metrics))
    }

    pub(super) fn new(client: Client, time: ServerTime, metrics: Metrics) -> Self {
        Self {
            client,
            reads: Arc::new(Semaphore::new(READS)),
            metrics,
            time,
        }
    }

    /// The API server's clock.
    pub fn time(&self) -> &ServerTime {
        &self.time
    }

    /// The namespace of the kubeconfig's context or of the Pod.
    pub fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }
}

async fn config(access: &Access) -> Result<Config, AccessError> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    match (&access.kubeconfig, &access.context) {
        (Some(path), _) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(AccessError::Kubeconfig)?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(AccessError::Kubeconfig)
        }
        (None, Some(_)) => Config::from_kubeconfig(&options)
            .await
            .map_err(AccessError::Kubeconfig),
        (None, None) => Config::infer().await.map_err(AccessError::Infer),
    }
}

/// The kind of a type known at compile time.
pub(super) fn kind_of<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        Cow::Borrowed(kind) => kind,
        Cow::Owned(_) => "object",
    }
}

/// The path of a kind in a namespace, or of all namespaces where it is empty.
pub(super) fn path_of<K: Resource<DynamicType = ()>>(namespace: &str) -> String {
    K::url_path(&(), Some(namespace).filter(|ns| !ns.is_empty()))
}

impl Call<'_> {
    /// Refuses names that are none before they become part of a path: they come from specs of tenants, and
    /// `x/../../other/secrets/y` would name another tenant's object.
    pub(super) fn check_names(&self) -> Result<(), Error> {
        let ObjectKey { namespace, name } = self.key;
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let subdomain = |s: &str| {
            s.split('.')
                .all(|part| !part.is_empty() && part.bytes().all(label))
        };
        let one = self.verb.is_of_one();
        let named = if one { subdomain(name) } else { name.is_empty() };
        if named && namespace.bytes().all(label) && namespace.len() <= 63 && name.len() <= 253 {
            Ok(())
        } else {
            Err(self.failed(Class::Malformed("the name is not one that Kubernetes allows")))
        }
    }
}
