//! A way to the API server on which requests can be stopped: before they are sent, before they are answered, or with the
//! answer lost. So a test can kill the operator at the very point where it hurts.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
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
use tokio::sync::oneshot;

use crate::controlplane::ControlPlane;

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

struct Shared {
    server: Uri,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    traps: Mutex<VecDeque<Trap>>,
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
}

/// A panic elsewhere leaves nothing half made in a list of traps.
fn lock(traps: &Mutex<VecDeque<Trap>>) -> MutexGuard<'_, VecDeque<Trap>> {
    traps.lock().unwrap_or_else(PoisonError::into_inner)
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
        let answer = self.client.request(request).await.context("ask the API server")?;
        Ok(answer.map(Body::new))
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
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
