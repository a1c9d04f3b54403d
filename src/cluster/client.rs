//! The client: how the API server is reached.

use std::{borrow::Cow, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, Uri, header::USER_AGENT};
use hyper_util::{
    client::{
        legacy::connect::{Connect, HttpConnector, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioExecutor,
};
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
    #[error("failed to use the kubeconfig")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// There is neither a kubeconfig nor a ServiceAccount.
    #[error("failed to find a kubeconfig or a ServiceAccount")]
    Infer(#[source] kube::config::InferConfigError),
    /// The proxy is not one that can be used. Its URL may hold a password.
    #[error(
        "the proxy for the API server, from HTTPS_PROXY or from proxy-url of the kubeconfig, is not an HTTP proxy. Set it to \
         http://HOST:PORT, or name the API server in NO_PROXY"
    )]
    Proxy,
    /// The configuration is not usable, by TLS or credentials.
    #[error("failed to build the Kubernetes client")]
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
        let proxy = proxy(&config, &Environment::read())?;
        let client = client(config, proxy.as_ref(), &time).map_err(AccessError::Build)?;
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

/// The words about proxies in the environment.
#[derive(Debug, Default)]
struct Environment {
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

impl Environment {
    fn read() -> Self {
        let one_of = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(|name| std::env::var(name).ok());
            values.find(|value| !value.is_empty())
        };
        Self {
            https_proxy: one_of(["HTTPS_PROXY", "https_proxy"]),
            no_proxy: one_of(["NO_PROXY", "no_proxy"]),
        }
    }
}

/// The proxy to use. `NO_PROXY` speaks of the one of the environment: `proxy-url` of a kubeconfig is meant for its API server.
fn proxy(config: &Config, environment: &Environment) -> Result<Option<Intercept>, AccessError> {
    let Some(url) = &config.proxy_url else {
        return Ok(None);
    };
    let named = environment
        .https_proxy
        .as_deref()
        .and_then(|url| url.parse::<Uri>().ok());
    let no_proxy = environment
        .no_proxy
        .as_deref()
        .filter(|_| named.as_ref() == Some(url));
    let excepted = Matcher::builder()
        .all("http://proxy.invalid")
        .no(no_proxy.unwrap_or_default())
        .build()
        .intercept(&config.cluster_url)
        .is_none();
    if excepted {
        return Ok(None);
    }
    let proxy = Matcher::builder()
        .all(url.to_string())
        .build()
        .intercept(&config.cluster_url);
    let proxy = proxy.filter(|proxy| proxy.uri().scheme_str() == Some("http") && proxy.raw_auth().is_none());
    proxy.map(Some).ok_or(AccessError::Proxy)
}

/// kube's client, but that the kernel probes idle connections: a peer that went away without a word is noticed within a
/// minute, where it would be within the quarter of an hour for which TCP retransmits, or never on a watch. Also the ones to
/// a proxy, through which TLS goes to the API server itself.
fn client(config: Config, proxy: Option<&Intercept>, time: &ServerTime) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    let Some(proxy) = proxy else {
        let https = config.rustls_https_connector_with_connector(tcp)?;
        return over(config, https, time);
    };
    let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
    if let Some(auth) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(auth.clone());
    }
    let https = config.rustls_https_connector_with_connector(tunnel)?;
    over(config, https, time)
}

/// As kube builds its own.
fn over<C>(config: Config, connector: C, time: &ServerTime) -> Result<Client, kube::Error>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = config.extra_headers_layer()?.layer(pool.map_err(BoxError::from));
    let service = option_layer(config.auth_layer()?).layer(service);
    let service = config.base_uri_layer().layer(service);
    Ok(ClientBuilder::new(service, config.default_namespace)
        .with_layer(&TimeLayer(time.clone()))
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
        let client = client(config, None, &ServerTime::default()).unwrap();
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

    fn configured(cluster: &str, proxy: &str) -> Config {
        let mut config = Config::new(cluster.parse().unwrap());
        config.proxy_url = Some(proxy.parse().unwrap());
        config
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_a_tunnel_with_its_credentials() {
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = configured(
            "https://api.example:6443",
            &format!("http://user:word@127.0.0.1:{port}"),
        );
        let proxy = proxy(&config, &Environment::default()).unwrap();
        let client = client(config, proxy.as_ref(), &ServerTime::default()).unwrap();
        let request = http::Request::get("/version").body(Vec::new()).unwrap();
        let asking = tokio::spawn(async move { client.send(request.map(Body::from)).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let length = tokio::io::AsyncReadExt::read(&mut stream, &mut asked)
            .await
            .unwrap();
        let asked = String::from_utf8_lossy(&asked[..length]).to_ascii_lowercase();
        assert!(
            asked.starts_with("connect api.example:6443 http/1.1\r\n"),
            "{asked}"
        );
        // user:word
        assert!(
            asked.contains("proxy-authorization: basic dxnlcjp3b3jk\r\n"),
            "{asked}"
        );
        asking.abort();
    }

    #[test]
    fn no_proxy_speaks_of_the_proxy_of_the_environment() {
        const PROXY: &str = "http://proxy.example:3128";
        for (cluster, https_proxy, no_proxy, proxied) in [
            ("https://api.example:6443", PROXY, None, true),
            ("https://api.example:6443", PROXY, Some("other.example"), true),
            ("https://api.example:6443", PROXY, Some("api.example"), false),
            (
                "https://api.example:6443",
                PROXY,
                Some("localhost, .example"),
                false,
            ),
            ("https://10.1.2.3:6443", PROXY, Some("10.0.0.0/8"), false),
            ("https://11.1.2.3:6443", PROXY, Some("10.0.0.0/8"), true),
            ("https://api.example:6443", PROXY, Some("*"), false),
            // The kubeconfig names the proxy.
            (
                "https://api.example:6443",
                "http://another.example:1",
                Some("*"),
                true,
            ),
        ] {
            let environment = Environment {
                https_proxy: Some(https_proxy.to_owned()),
                no_proxy: no_proxy.map(str::to_owned),
            };
            let found = proxy(&configured(cluster, PROXY), &environment).unwrap();
            assert_eq!(found.is_some(), proxied, "{cluster} {no_proxy:?}");
        }
    }

    #[test]
    fn a_proxy_that_is_not_http_is_refused_without_its_password() {
        for url in [
            "socks5://user:canary@proxy.example:1080",
            "https://user:canary@proxy.example",
        ] {
            let refused =
                proxy(&configured("https://api.example", url), &Environment::default()).unwrap_err();
            let text = format!("{refused} {refused:?}");
            assert!(
                text.contains("http://HOST:PORT") && !text.contains("canary"),
                "{text}"
            );
        }
    }
}
