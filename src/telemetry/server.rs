//! Health, readiness and metrics over plain HTTP/1.
//!
//! Every connection serves one request and ends after 10 s at the latest, and at most 32 are open at once, so that
//! nobody who reaches the port can hold the process up; more wait in the kernel's queue.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Sleep, sleep},
};

use super::Error;

/// Connections open at once: probes, two scrapers and some patience.
const CONNECTIONS: usize = 32;
/// How long a connection may take for its one request, from accept to the last byte.
const LIFETIME: Duration = Duration::from_secs(10);
/// OpenMetrics' own media type.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the process can do its work; a standby is ready too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, or no longer; says what is awaited.
    Waiting(&'static str),
    /// All is there.
    Ready,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting(what) => write!(f, "waiting for {what}"),
            Self::Ready => f.write_str("ok"),
        }
    }
}

/// A bound port that does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    lifetime: Duration,
}

impl Server {
    /// Takes the port, so that a wrong address fails the process at its start.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        Ok(Self {
            listener,
            lifetime: LIFETIME,
        })
    }

    /// Where it listens: the port that was chosen where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` resolves and the open connections have ended: `/healthz` always, `/readyz` by
    /// `readiness`, `/metrics` from `registry`.
    pub async fn serve(
        self,
        registry: Arc<Registry>,
        readiness: watch::Receiver<Readiness>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let Self { listener, lifetime } = self;
        let bounded = Bounded {
            listener,
            open: Arc::new(Semaphore::new(CONNECTIONS)),
            lifetime,
        };
        axum::serve(bounded, router(registry, readiness))
            .with_graceful_shutdown(stop)
            .await
            .map_err(Error::Serve)
    }
}

fn router(registry: Arc<Registry>, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
        .layer(axum::middleware::map_response(one_request))
}

async fn ready(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, String) {
    let now = *readiness.borrow();
    let status = match now {
        Readiness::Ready => StatusCode::OK,
        Readiness::Waiting(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, now.to_string())
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn one_request(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Accepts only while fewer than [`CONNECTIONS`] are open.
struct Bounded {
    listener: TcpListener,
    open: Arc<Semaphore>,
    lifetime: Duration,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.open).acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        (
            Connection {
                stream,
                end: Box::pin(sleep(self.lifetime)),
                _permit: permit,
            },
            peer,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails after its time, whatever the peer does or leaves undone.
struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn within<T>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll(Pin::new(&mut self.stream), context)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.within(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.within(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within(cx, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
        time::timeout,
    };

    use super::*;
    use crate::telemetry::metrics;

    struct Running {
        address: SocketAddr,
        readiness: watch::Sender<Readiness>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<Result<(), Error>>,
    }

    async fn running(lifetime: Duration) -> Running {
        let mut server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        server.lifetime = lifetime;
        let address = server.address().unwrap();
        let (readiness, state) = watch::channel(Readiness::Waiting("the first lists"));
        let (stop, stopped) = oneshot::channel();
        let registry = Arc::new(metrics::compose(|_| ()));
        let task = tokio::spawn(server.serve(registry, state, async {
            let _gone = stopped.await;
        }));
        Running {
            address,
            readiness,
            stop,
            task,
        }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: keyturn\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(Duration::from_secs(5), read)
            .await
            .expect("the server ends the connection")
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn it_lives_from_the_start_and_is_ready_when_told() {
        let Running {
            address,
            readiness,
            stop: _stop,
            task: _task,
        } = running(LIFETIME).await;
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let waiting = get(address, "/readyz").await;
        assert!(
            waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("waiting for the first lists"),
            "{waiting}"
        );
        readiness.send_replace(Readiness::Ready);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.contains(OPEN_METRICS) && metrics.contains("keyturn_build_info"),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn silent_peers_are_cut_off_and_do_not_keep_others_out() {
        let Running {
            address,
            readiness: _readiness,
            stop: _stop,
            task: _task,
        } = running(Duration::from_millis(300)).await;
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        for mut peer in silent {
            let mut rest = Vec::new();
            let cut = timeout(Duration::from_secs(5), peer.read_to_end(&mut rest)).await;
            assert!(cut.is_ok(), "a silent connection stays open");
        }
    }

    #[tokio::test]
    async fn it_stops_when_told_and_frees_the_port() {
        let Running {
            address,
            readiness: _readiness,
            stop,
            task,
        } = running(LIFETIME).await;
        stop.send(()).unwrap();
        timeout(Duration::from_secs(5), task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        Server::bind(address).await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.address().unwrap();
        let refused = Server::bind(address).await.unwrap_err().to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
    }
}
