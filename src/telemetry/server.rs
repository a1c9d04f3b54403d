//! Health, readiness and metrics over plain HTTP/1.
//!
//! Health has a port of its own, so that whatever reaches the metrics leaves the probes alone. The port of the metrics
//! serves health too: that is where the probes of earlier charts look. Every connection serves one request.

use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::FutureExt as _;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{net::TcpListener, sync::watch};

use super::{
    Error,
    connections::{Bounded, Limits},
    exposition::{Format, plain_text},
    listen,
};

/// Of the port of health: answers are short, and the kubelet gives up after 5 s.
const HEALTH: Limits = Limits {
    connections: 128,
    request: Duration::from_secs(3),
    lifetime: Duration::from_secs(5),
};
/// Of the port of metrics: a page that is written out takes memory.
const METRICS: Limits = Limits {
    connections: 32,
    request: Duration::from_secs(5),
    lifetime: Duration::from_secs(10),
};
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

/// Bound ports that do not answer yet.
#[derive(Debug)]
pub struct Server {
    metrics: Port,
    health: Option<Port>,
}

#[derive(Debug)]
struct Port {
    listener: TcpListener,
    limits: Limits,
}

impl Port {
    /// Takes the port, so that a wrong address fails the process at its start.
    fn bind(address: SocketAddr, limits: Limits) -> Result<Self, Error> {
        let listener = TcpListener::from_std(listen::bind(address)?)
            .map_err(|source| Error::Listen { address, source })?;
        Ok(Self { listener, limits })
    }

    async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        axum::serve(Bounded::new(self.listener, self.limits), router)
            .with_graceful_shutdown(stop)
            .await
            .map_err(Error::Serve)
    }
}

impl Server {
    /// Listens for metrics and health.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        Ok(Self {
            metrics: Port::bind(address, METRICS)?,
            health: None,
        })
    }

    /// Listens for health alone, besides.
    pub fn with_health(self, address: SocketAddr) -> Result<Self, Error> {
        Ok(Self {
            health: Some(Port::bind(address, HEALTH)?),
            ..self
        })
    }

    /// Where it listens: the port that was chosen where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.metrics.listener.local_addr()
    }

    /// Where it listens for health alone.
    pub fn health_address(&self) -> Option<io::Result<SocketAddr>> {
        self.health.as_ref().map(|port| port.listener.local_addr())
    }

    /// Answers until `stop` resolves and the open connections have ended: `/livez` and `/healthz` always, `/readyz` by
    /// `readiness`, and `/metrics` from `registry`.
    pub async fn serve(
        self,
        registry: Arc<Registry>,
        readiness: watch::Receiver<Readiness>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let Self { metrics, health } = self;
        let stop = stop.boxed().shared();
        let page = Router::new().route("/metrics", get(self::metrics).with_state(registry));
        let metrics = metrics.serve(
            finished(health_pages(readiness.clone()).merge(page)),
            stop.clone(),
        );
        let health = async {
            match health {
                Some(port) => port.serve(finished(health_pages(readiness)), stop).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(metrics, health).map(|((), ())| ())
    }
}

fn health_pages(readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok"))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready).with_state(readiness))
}

fn finished(router: Router) -> Router {
    router.layer(axum::middleware::map_response(one_request))
}

async fn ready(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, String) {
    let now = *readiness.borrow();
    let status = match now {
        Readiness::Ready => StatusCode::OK,
        Readiness::Waiting(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, now.to_string())
}

async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT);
    let format = Format::accepted(accept.iter().filter_map(|value| value.to_str().ok()));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => {
            let text = match format {
                Format::OpenMetrics => text,
                Format::PlainText => plain_text(&text),
            };
            ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
        }
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn one_request(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
        task::JoinHandle,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::telemetry::metrics;

    const SOON: Duration = Duration::from_secs(20);
    /// So long that nothing of a test ends by it.
    const PATIENT: Limits = Limits {
        connections: 32,
        request: Duration::from_mins(10),
        lifetime: Duration::from_mins(10),
    };

    struct Running {
        address: SocketAddr,
        health: SocketAddr,
        readiness: watch::Sender<Readiness>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<Result<(), Error>>,
    }

    impl Running {
        fn ports(&self) -> [SocketAddr; 2] {
            [self.address, self.health]
        }
    }

    fn bound(address: &str) -> Server {
        let address = address.parse().unwrap();
        Server::bind(address).unwrap().with_health(address).unwrap()
    }

    fn serve(server: Server) -> Running {
        let address = server.address().unwrap();
        let health = server.health_address().unwrap().unwrap();
        let (readiness, state) = watch::channel(Readiness::Waiting("the first lists"));
        let (stop, stopped) = oneshot::channel();
        let registry = Arc::new(metrics::compose(|_| ()));
        let task = tokio::spawn(server.serve(registry, state, async {
            let _gone = stopped.await;
        }));
        Running {
            address,
            health,
            readiness,
            stop,
            task,
        }
    }

    fn running() -> Running {
        serve(bound("127.0.0.1:0"))
    }

    fn limited(limits: Limits) -> Running {
        let mut server = bound("127.0.0.1:0");
        server.metrics.limits = limits;
        server.health.as_mut().unwrap().limits = limits;
        serve(server)
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        get_as(address, path, "").await
    }

    async fn get_as(address: SocketAddr, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: keyturn\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(SOON, read)
            .await
            .expect("the server ends the connection")
            .unwrap();
        answer
    }

    /// Whether the server ended the connection.
    async fn ends(mut peer: TcpStream) -> bool {
        let mut rest = Vec::new();
        timeout(SOON, peer.read_to_end(&mut rest)).await.is_ok()
    }

    #[tokio::test]
    async fn it_lives_from_the_start_and_is_ready_when_told() {
        let server = running();
        for port in server.ports() {
            for path in ["/livez", "/healthz"] {
                assert!(get(port, path).await.starts_with("HTTP/1.1 200"), "{path}");
            }
            let waiting = get(port, "/readyz").await;
            assert!(
                waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("waiting for the first lists"),
                "{waiting}"
            );
        }
        server.readiness.send_replace(Readiness::Ready);
        for port in server.ports() {
            assert!(get(port, "/readyz").await.starts_with("HTTP/1.1 200"));
            assert!(get(port, "/other").await.starts_with("HTTP/1.1 404"));
        }
        let metrics = get(server.address, "/metrics").await;
        assert!(
            metrics.contains(Format::PlainText.media_type()) && metrics.contains("keyturn_build_info"),
            "{metrics}"
        );
        let accept = "accept: application/openmetrics-text;version=1.0.0\r\n";
        let metrics = get_as(server.address, "/metrics", accept).await;
        assert!(
            metrics.contains(Format::OpenMetrics.media_type()) && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        assert!(get(server.health, "/metrics").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn probes_are_answered_whatever_idle_connections_there_are() {
        let server = limited(PATIENT);
        let mut idle = Vec::new();
        for port in server.ports() {
            for number in 0..300 {
                let mut peer = TcpStream::connect(port).await.unwrap();
                // Some have begun a request.
                if number % 3 == 0 {
                    peer.write_all(b"GET /livez HTTP/1.1\r\nhost: ").await.unwrap();
                }
                idle.push(peer);
            }
        }
        for port in server.ports() {
            for path in ["/livez", "/healthz", "/readyz"] {
                let answer = get(port, path).await;
                assert!(answer.starts_with("HTTP/1.1"), "{answer}");
            }
        }
        assert!(
            get(server.address, "/metrics")
                .await
                .contains("keyturn_build_info")
        );
        // The oldest of each port made room, the youngest are open.
        let youngest = idle.split_off(2 * 300 - PATIENT.connections / 2);
        assert!(ends(idle.swap_remove(0)).await);
        for mut peer in youngest {
            let mut byte = [0];
            let read = timeout(Duration::from_millis(1), peer.read(&mut byte)).await;
            assert!(read.is_err(), "a young connection ended");
        }
    }

    #[tokio::test]
    async fn silent_and_slow_peers_are_cut_off() {
        let server = limited(Limits {
            request: Duration::from_millis(300),
            ..PATIENT
        });
        for port in server.ports() {
            assert!(ends(TcpStream::connect(port).await.unwrap()).await, "silent");
            let (reader, mut writer) = TcpStream::connect(port).await.unwrap().into_split();
            let slow = tokio::spawn(async move {
                // A header that never ends, a byte at a time.
                if writer.write_all(b"GET /livez HTTP/1.1\r\nx: ").await.is_err() {
                    return;
                }
                while writer.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
            });
            timeout(SOON, slow)
                .await
                .expect("a slow peer is cut off")
                .unwrap();
            drop(reader);
        }
    }

    #[tokio::test]
    async fn both_families_of_addresses_are_answered() {
        let server = serve(bound("[::]:0"));
        for port in server.ports() {
            let mut loopbacks = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
            // Where the machine has IPv6.
            if port.is_ipv6() {
                loopbacks.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
            }
            for address in loopbacks {
                let answer = get((address, port.port()).into(), "/livez").await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{address} {answer}");
            }
        }
    }

    #[tokio::test]
    async fn it_stops_when_told_and_frees_the_ports() {
        let server = running();
        let idle = TcpStream::connect(server.health).await.unwrap();
        let ports = server.ports();
        server.stop.send(()).unwrap();
        timeout(SOON, server.task).await.unwrap().unwrap().unwrap();
        drop(idle);
        for port in ports {
            Server::bind(port).unwrap();
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bound("127.0.0.1:0");
        let address = first.address().unwrap();
        let refused = Server::bind(address).unwrap_err().to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
        let other = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let refused = other.with_health(all).unwrap_err().to_string();
        assert!(refused.contains(&address.port().to_string()), "{refused}");
    }
}
