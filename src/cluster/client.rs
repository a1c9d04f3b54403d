//! The client: how the API server is reached.

use std::{borrow::Cow, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, header::USER_AGENT};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::{
    Client, Config, Resource,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer as _, ServiceExt as _, util::option_layer};

use super::{
    call::Call,
    error::{Class, Error},
    metrics::Metrics,
    time::{ServerTime, TimeLayer},
};
use crate::api::ObjectKey;

/// Reads under way at once. kube speaks HTTP/1.1, so that this and the 40 slots in which the reconciler writes
/// bound the connections, besides one per watch.
const READS: usize = 32;

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// After this time without a byte the kernel asks the peer whether it is still there, so often, and so many times.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

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
        let client = client(config, &time).map_err(AccessError::Build)?;
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
}

/// kube's client, but that the kernel probes idle connections: a peer that went away without a word is noticed within a
/// minute, where it would be within the quarter of an hour for which TCP retransmits, or never on a watch.
fn client(config: Config, time: &ServerTime) -> Result<Client, kube::Error> {
    let limits = TimeLayer(time.clone());
    if config.proxy_url.is_some() {
        // The connection is one to the proxy, and kube's own.
        return Ok(ClientBuilder::try_from(config)?.with_layer(&limits).build());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
    // As kube builds its own.
    let service = config.extra_headers_layer()?.layer(pool.map_err(BoxError::from));
    let service = option_layer(config.auth_layer()?).layer(service);
    let service = config.base_uri_layer().layer(service);
    Ok(ClientBuilder::new(service, config.default_namespace)
        .with_layer(&limits)
        .build())
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
        let ObjectKey { namespace, name, .. } = self.key;
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The kernel's view of our end of connections to `port`: the kind of timer that runs, 2 for keep-alive (proc(5)).
    fn timers(port: u16) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let remote = format!("0100007F:{port:04X}");
        let fields = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields
            .filter(|fields| fields.get(2) == Some(&&*remote))
            .filter_map(|fields| Some(fields.get(5)?.split(':').next()?.to_owned()))
            .collect()
    }

    #[tokio::test]
    async fn idle_connections_are_probed() {
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
        let client = client(config, &ServerTime::default()).unwrap();
        let request = http::Request::get("/version").body(Vec::new()).unwrap();
        let asking = tokio::spawn(async move { client.send(request.map(Body::from)).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        // Once it has asked, it waits without any data on its way.
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096])
            .await
            .unwrap();
        let probed = async {
            while timers(port) != ["02"] {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let probed = tokio::time::timeout(Duration::from_secs(10), probed).await;
        assert!(probed.is_ok(), "{:?}", timers(port));
        asking.abort();
    }
}
