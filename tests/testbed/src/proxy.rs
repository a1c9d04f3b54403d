//! A way to the API server on which requests can be stopped: before they are sent, before they are answered, or with the
//! answer lost. So a test can kill the operator at the very point where it hurts. Requests can also be slow, as with an
//! admission webhook that does not answer, and watches can fall silent, as on a connection that is only half open.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::controlplane::ControlPlane;

/// How long the API server works on a write at most, whatever the caller asks for.
const SERVERS_OWN_LIMIT: Duration = Duration::from_secs(34);
/// The largest object that Kubernetes keeps is far smaller.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// What is written, as far as a test tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// A patch of a workload.
    Workload,
    /// A Secret, made or changed.
    Secret,
    /// The status of an `ExternalSecret`.
    Status,
}

impl Write {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Workload, Self::Secret, Self::Status];

    fn of(method: &Method, path: &str) -> Option<Self> {
        if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            return None;
        }
        let steps: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match *steps.as_slice() {
            ["apis", "apps", _, "namespaces", _, _, _]
            | ["apis", "argoproj.io", _, "namespaces", _, "rollouts", _] => Some(Self::Workload),
            ["api", "v1", "namespaces", _, "secrets"] | ["api", "v1", "namespaces", _, "secrets", _] => {
                Some(Self::Secret)
            }
            [
                "apis",
                "keyturn.dev",
                _,
                "namespaces",
                _,
                "externalsecrets",
                _,
                "status",
            ] => Some(Self::Status),
            _ => None,
        }
    }
}

/// Where a request is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// It never reaches the API server, and is never answered.
    Before,
    /// The API server has done it; the answer is held for ever.
    After,
    /// The API server has done it; the connection breaks instead of an answer.
    Lost,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::After, Self::Lost];
}

/// A trap for one request.
struct Trap {
    write: Write,
    point: Point,
    /// Requests of the kind that pass before.
    skip: usize,
    sprung: oneshot::Sender<String>,
}

/// Tells when a request went into the trap.
pub struct Armed(oneshot::Receiver<String>);

impl Armed {
    /// The path of the request, once one is stopped; `None` if none is within `limit`, and then none will be.
    pub async fn sprung(mut self, limit: Duration) -> Option<String> {
        tokio::time::timeout(limit, &mut self.0).await.ok()?.ok()
    }
}

/// Whether a request, by its method and path, is meant.
type Matching = Box<dyn Fn(&Method, &str) -> bool + Send + Sync>;

/// Requests that are slow for as long as this is held. Counts those that came by.
pub struct Slow(Arc<Slowness>);

struct Slowness {
    matching: Matching,
    delay: Duration,
    counts: Mutex<SlowCounts>,
}

/// What a [`Slow`] has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlowCounts {
    /// Requests that wait now.
    pub waiting: usize,
    /// The most that ever waited at once.
    pub most: usize,
    /// Those that were sent on after their delay.
    pub sent: usize,
    /// Those that were given up: by the API server's own limit, or by the caller.
    pub given_up: usize,
}

impl Slow {
    /// What it has seen so far.
    pub fn counts(&self) -> SlowCounts {
        *lock(&self.0.counts)
    }
}

/// A request that waits; counted as given up if it is dropped before it is sent on.
struct Delayed {
    slowness: Arc<Slowness>,
    sent: bool,
}

impl Delayed {
    fn begin(slowness: Arc<Slowness>) -> Self {
        {
            let mut counts = lock(&slowness.counts);
            counts.waiting += 1;
            counts.most = counts.most.max(counts.waiting);
        }
        Self {
            slowness,
            sent: false,
        }
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        let mut counts = lock(&self.slowness.counts);
        counts.waiting -= 1;
        if self.sent {
            counts.sent += 1;
        } else {
            counts.given_up += 1;
        }
    }
}

/// A watch under way: its path, and how to silence it.
struct Watch {
    path: String,
    silence: watch::Sender<bool>,
}

struct Shared {
    server: Uri,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    traps: Mutex<VecDeque<Trap>>,
    slow: Mutex<Vec<Weak<Slowness>>>,
    watches: Mutex<Vec<Watch>>,
}

/// A proxy on a port of 127.0.0.1, in plain HTTP, on threads of its own. Whoever calls keeps his own token.
pub struct ApiProxy {
    url: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl ApiProxy {
    /// Starts in front of the API server of this control plane.
    pub async fn start(cluster: &ControlPlane) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).context("read the kubeconfig")?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("use the kubeconfig")?;
        let mut roots = RootCertStore::empty();
        for certificate in config.root_cert.iter().flatten() {
            roots
                .add(CertificateDer::from(certificate.clone()))
                .context("trust the cluster's authority")?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose versions of TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let shared = Arc::new(Shared {
            server: config.cluster_url,
            client: Client::builder(TokioExecutor::new()).build(connector),
            traps: Mutex::default(),
            slow: Mutex::default(),
            watches: Mutex::default(),
        });
        let listener =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for the proxy")?;
        listener.set_nonblocking(true).context("listen for the proxy")?;
        let url = format!(
            "http://{}",
            listener.local_addr().context("find the proxy's port")?
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("api-proxy")
            .enable_all()
            .build()
            .context("start the proxy's thread")?;
        let router = Router::new().fallback(forward).with_state(shared.clone());
        runtime.spawn(async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!("the proxy ended: {error}");
            }
        });
        Ok(Self {
            url,
            shared,
            runtime: Some(runtime),
        })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the request of this kind that comes after `skip` others. Traps are independent of each other.
    pub fn arm(&self, write: Write, point: Point, skip: usize) -> Armed {
        let (sprung, armed) = oneshot::channel();
        lock(&self.shared.traps).push_back(Trap {
            write,
            point,
            skip,
            sprung,
        });
        Armed(armed)
    }

    /// Lets requests of this kind take so much longer, as an admission webhook does. Like the API server it gives up on one
    /// that says by `timeout` that it may not take so long.
    pub fn slow(
        &self,
        matching: impl Fn(&Method, &str) -> bool + Send + Sync + 'static,
        delay: Duration,
    ) -> Slow {
        let slowness = Arc::new(Slowness {
            matching: Box::new(matching),
            delay,
            counts: Mutex::default(),
        });
        let mut slow = lock(&self.shared.slow);
        slow.retain(|slowness| slowness.strong_count() > 0);
        slow.push(Arc::downgrade(&slowness));
        Slow(slowness)
    }

    /// Silences the watches under way of these paths: nothing comes any more, and nothing is closed. Those that begin later
    /// are as ever. How many there were.
    pub fn silence_watches(&self, matching: impl Fn(&str) -> bool) -> usize {
        let mut watches = lock(&self.shared.watches);
        let mut silenced = 0;
        watches.retain(|watch| {
            if !matching(&watch.path) {
                return true;
            }
            silenced += usize::from(watch.silence.send(true).is_ok());
            false
        });
        silenced
    }
}

/// A panic elsewhere leaves nothing half made here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The trap that this request goes into, if it does.
    fn trapped(&self, write: Write) -> Option<Trap> {
        let mut traps = lock(&self.traps);
        // Nobody waits for those any more.
        traps.retain(|trap| !trap.sprung.is_closed());
        let at = traps.iter().position(|trap| trap.write == write)?;
        if let Some(trap) = traps.get_mut(at).filter(|trap| trap.skip > 0) {
            trap.skip -= 1;
            return None;
        }
        traps.remove(at)
    }

    async fn send(&self, mut request: Request) -> Result<Response> {
        let mut parts = self.server.clone().into_parts();
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts).context("make the address of a request")?;
        let headers = request.headers_mut();
        headers.remove(header::HOST);
        headers.remove(header::CONNECTION);
        let path = request.uri().path().to_owned();
        let watches = parameter(request.uri(), "watch").is_some_and(|value| value == "true" || value == "1");
        let answer = self.client.request(request).await.context("ask the API server")?;
        let answer = answer.map(Body::new);
        Ok(if watches { self.watch(path, answer) } else { answer })
    }

    /// The answer of a watch, which can be silenced.
    fn watch(&self, path: String, answer: Response) -> Response {
        let (silence, silenced) = watch::channel(false);
        {
            let mut watches = lock(&self.watches);
            watches.retain(|watch| !watch.silence.is_closed());
            watches.push(Watch { path, silence });
        }
        answer.map(|body| {
            let state = (body.into_data_stream(), silenced);
            Body::from_stream(futures::stream::unfold(
                state,
                async |(mut data, mut silenced)| {
                    let silence = async {
                        if silenced.wait_for(|silence| *silence).await.is_err() {
                            // Nobody is left who could silence it.
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::select! {
                        biased;
                        // What comes is not read, so that the API server's end stays open too.
                        () = silence => std::future::pending().await,
                        next = data.next() => next.map(|next| (next, (data, silenced))),
                    }
                },
            ))
        })
    }

    /// Waits as long as this request is slow; an answer if that is longer than it may take.
    async fn delay(&self, method: &Method, uri: &Uri) -> Option<Response> {
        let slowness = lock(&self.slow)
            .iter()
            .filter_map(Weak::upgrade)
            .find(|slow| (slow.matching)(method, uri.path()))?;
        let delay = slowness.delay;
        let mut delayed = Delayed::begin(slowness);
        let limit = parameter(uri, "timeout")
            .and_then(|limit| limit.strip_suffix('s')?.parse().ok())
            .map_or(SERVERS_OWN_LIMIT, Duration::from_secs);
        if limit < delay {
            tokio::time::sleep(limit).await;
            let status = serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Timeout", "code": 504,
                "message": "request did not complete within requested timeout",
            });
            let json = [(header::CONTENT_TYPE, "application/json")];
            return Some((StatusCode::GATEWAY_TIMEOUT, json, status.to_string()).into_response());
        }
        tokio::time::sleep(delay).await;
        delayed.sent = true;
        None
    }
}

/// The value of a parameter of the query.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?
        .split('&')
        .filter_map(|parameter| parameter.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    if let Some(answer) = shared.delay(&method, &uri).await {
        return answer;
    }
    let path = uri.path().to_owned();
    let trap = Write::of(&method, &path).and_then(|write| shared.trapped(write));
    let answer = match trap {
        None => shared.send(request).await,
        Some(Trap {
            point: Point::Before,
            sprung,
            ..
        }) => {
            // Nobody to tell is nobody to kill: the connection just hangs.
            let _told = sprung.send(path);
            std::future::pending().await
        }
        Some(Trap { point, sprung, .. }) => done(&shared, request, path, point, sprung).await,
    };
    answer.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response())
}

/// Has the API server do what it is asked, and keeps the answer.
async fn done(
    shared: &Shared,
    request: Request,
    path: String,
    point: Point,
    sprung: oneshot::Sender<String>,
) -> Result<Response> {
    let answer = shared.send(request).await?;
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY)
        .await
        .context("read the API server's answer")?;
    let _told = sprung.send(path);
    if point == Point::After {
        std::future::pending::<()>().await;
    }
    // Announced as long as it was, and broken off before its first byte.
    let broken = futures::stream::once(async {
        Err::<Vec<u8>, _>(anyhow!("the answer is lost").into_boxed_dyn_error())
    });
    let mut response = Response::from_parts(parts, Body::from_stream(broken));
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_apart_by_their_paths() {
        for (method, path, write) in [
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/shop/deployments/web",
                Some(Write::Workload),
            ),
            (Method::GET, "/apis/apps/v1/namespaces/shop/deployments/web", None),
            (
                Method::PATCH,
                "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/web",
                Some(Write::Workload),
            ),
            (
                Method::POST,
                "/api/v1/namespaces/shop/secrets",
                Some(Write::Secret),
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/shop/secrets/db",
                Some(Write::Secret),
            ),
            (
                Method::PATCH,
                "/apis/keyturn.dev/v1/namespaces/shop/externalsecrets/db/status",
                Some(Write::Status),
            ),
            (
                Method::PATCH,
                "/apis/keyturn.dev/v1/namespaces/shop/externalsecrets/db",
                None,
            ),
            (
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/shop/events",
                None,
            ),
        ] {
            assert_eq!(Write::of(&method, path), write, "{method} {path}");
        }
    }
}
