//! The sink against a receiver on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use prometheus_client::encoding::text::encode;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;

/// Patience of tests: short, but long enough for a busy machine.
const QUICK: RetryPolicy = RetryPolicy {
    answer: Duration::from_millis(300),
    shortest: Duration::from_millis(20),
    longest: Duration::from_millis(100),
    alert: Duration::from_secs(20),
    end: Duration::from_millis(200),
};

/// What the receiver does with one request.
#[derive(Clone, Copy)]
enum Does {
    Answer(u16),
    /// 429, and when to come again, in seconds.
    Later(u64),
    Nothing,
}

/// A receiver: what it was sent, and how often it was asked.
#[derive(Clone, Default)]
struct Receiver {
    script: Arc<Mutex<VecDeque<Does>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
}

async fn receive(State(receiver): State<Receiver>, request: Request) -> Response {
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/hook?token=canary");
    assert_eq!(request.headers()["content-type"], "application/json");
    let body = axum::body::to_bytes(request.into_body(), 4096).await.unwrap();
    receiver.asked.fetch_add(1, Ordering::SeqCst);
    let does = receiver.script.lock().unwrap().pop_front();
    match does.unwrap_or(Does::Answer(204)) {
        Does::Nothing => std::future::pending().await,
        Does::Later(seconds) => (
            http::StatusCode::TOO_MANY_REQUESTS,
            [("retry-after", seconds.to_string())],
        )
            .into_response(),
        Does::Answer(status) => {
            if status < 300 {
                let body = serde_json::from_slice(&body).unwrap();
                receiver.bodies.lock().unwrap().push(body);
            }
            let location = [("location", "/elsewhere")];
            (http::StatusCode::from_u16(status).unwrap(), location).into_response()
        }
    }
}

/// A receiver that does this, then takes everything.
async fn receiver(script: &[Does]) -> (Receiver, SocketAddr) {
    let receiver = Receiver::default();
    receiver.script.lock().unwrap().extend(script);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(receive).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (receiver, address)
}

struct Running {
    alerts: mpsc::Sender<Alert>,
    metrics: Metrics,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn sink(address: SocketAddr, patience: RetryPolicy) -> Running {
    let metrics = Metrics::default();
    let webhook = Webhook::parse(&format!("http://{address}/hook?token=canary")).unwrap();
    let mut sink = AlertSink::new(webhook, AlertFormat::default(), metrics.clone()).unwrap();
    sink.patience = patience;
    let (alerts, queue) = mpsc::channel(64);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(sink.run(queue, |alert| alert, async {
        let _gone = stopped.await;
    }));
    Running {
        alerts,
        metrics,
        stop,
        task,
    }
}

fn alert(name: &str) -> Alert {
    Alert {
        reason: "RestartFailed".to_owned(),
        kind: "ExternalSecret".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        message: "Deployment api did not become healthy in 10m".to_owned(),
        time: "2026-11-23T20:00:00.5Z".parse().unwrap(),
        cluster: "prod".to_owned(),
    }
}

impl Running {
    /// Sends no more, and waits for the end of what was sent.
    async fn finish(self) -> String {
        drop(self.alerts);
        timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the sink ends when nobody is left to send")
            .unwrap();
        shown(&self.metrics)
    }
}

fn shown(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

fn names(receiver: &Receiver) -> Vec<String> {
    let bodies = receiver.bodies.lock().unwrap();
    bodies
        .iter()
        .map(|body| body["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn an_alert_is_delivered_once_with_the_agreed_fields() {
    let (receiver, address) = receiver(&[]).await;
    let running = sink(address, QUICK);
    running.alerts.send(alert("db")).await.unwrap();
    let metrics = running.finish().await;
    assert_eq!(
        *receiver.bodies.lock().unwrap(),
        [
            json!({"reason": "RestartFailed", "kind": "ExternalSecret", "namespace": "shop", "name": "db",
            "message": "Deployment api did not become healthy in 10m", "time": "2026-11-23T20:00:00Z",
            "cluster": "prod"})
        ]
    );
    assert_eq!(receiver.asked.load(Ordering::SeqCst), 1);
    assert!(
        metrics.contains("alerts_total{result=\"delivered\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_passes_is_tried_again_and_order_is_kept() {
    let script = [
        Does::Answer(500),
        Does::Nothing,
        Does::Answer(408),
        Does::Answer(204),
        Does::Answer(503),
    ];
    let (receiver, address) = receiver(&script).await;
    let running = sink(address, QUICK);
    for name in ["a", "b", "c"] {
        running.alerts.send(alert(name)).await.unwrap();
    }
    let metrics = running.finish().await;
    assert_eq!(names(&receiver), ["a", "b", "c"]);
    assert_eq!(receiver.asked.load(Ordering::SeqCst), 7);
    assert!(
        metrics.contains("alerts_total{result=\"delivered\"} 3"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_is_refused_is_not_tried_again_and_holds_up_nobody() {
    let script = [Does::Answer(400), Does::Answer(307), Does::Answer(410)];
    let (receiver, address) = receiver(&script).await;
    let running = sink(address, QUICK);
    for name in ["a", "b", "c", "d"] {
        running.alerts.send(alert(name)).await.unwrap();
    }
    let metrics = running.finish().await;
    assert_eq!(names(&receiver), ["d"]);
    assert_eq!(
        receiver.asked.load(Ordering::SeqCst),
        4,
        "a redirect is not followed"
    );
    assert!(
        metrics.contains("alerts_total{result=\"refused\"} 3"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let (receiver, address) = receiver(&[Does::Later(1)]).await;
    let running = sink(address, QUICK);
    let began = Instant::now();
    running.alerts.send(alert("a")).await.unwrap();
    running.finish().await;
    assert_eq!(names(&receiver), ["a"]);
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn what_is_not_taken_in_time_is_given_up() {
    // Nobody listens there any more.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let running = sink(
        address,
        RetryPolicy {
            alert: Duration::from_millis(300),
            ..QUICK
        },
    );
    running.alerts.send(alert("a")).await.unwrap();
    let metrics = running.finish().await;
    assert!(
        metrics.contains("alerts_total{result=\"given_up\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn more_than_may_wait_are_dropped_and_counted() {
    let (_receiver, address) = receiver(&[Does::Nothing]).await;
    let running = sink(
        address,
        RetryPolicy {
            answer: Duration::from_mins(1),
            ..QUICK
        },
    );
    let send = async |namespace: String, count: usize| {
        for _ in 0..count {
            let alert = Alert {
                namespace: namespace.clone(),
                ..alert("a")
            };
            running.alerts.send(alert).await.unwrap();
        }
    };
    let dropped = async |count: usize| {
        let line = format!("alerts_total{{result=\"dropped\"}} {count}\n");
        let counted = async {
            while !shown(&running.metrics).contains(&line) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), counted)
            .await
            .expect("as many are counted");
    };
    // One is being posted and 32 of its namespace wait.
    send("loud".to_owned(), SHARE + 4).await;
    dropped(3).await;
    // 256 of all.
    for namespace in 1..QUEUE / SHARE {
        send(format!("n{namespace}"), SHARE).await;
    }
    send("late".to_owned(), 2).await;
    dropped(5).await;
}

#[tokio::test]
async fn a_wait_that_no_clock_can_hold_ends_with_the_alert() {
    let (_receiver, address) = receiver(&[Does::Later(u64::MAX)]).await;
    let running = sink(address, QUICK);
    running.alerts.send(alert("a")).await.unwrap();
    let given_up = "alerts_total{result=\"given_up\"} 1";
    let counted = async {
        while !shown(&running.metrics).contains(given_up) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), counted)
        .await
        .expect("it is given up");
}

#[tokio::test]
async fn the_end_hangs_on_no_receiver() {
    let (receiver, address) = receiver(&[Does::Nothing; 8]).await;
    let running = sink(
        address,
        RetryPolicy {
            answer: Duration::from_mins(1),
            ..QUICK
        },
    );
    for name in ["a", "b"] {
        running.alerts.send(alert(name)).await.unwrap();
    }
    while receiver.asked.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    running.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), running.task)
        .await
        .expect("the sink ends though the sender lives and the receiver is silent")
        .unwrap();
    let metrics = shown(&running.metrics);
    assert!(
        metrics.contains("alerts_total{result=\"dropped\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_waits_at_the_end_is_still_delivered() {
    let (receiver, address) = receiver(&[]).await;
    let running = sink(
        address,
        RetryPolicy {
            end: Duration::from_secs(20),
            ..QUICK
        },
    );
    for name in ["a", "b", "c"] {
        running.alerts.send(alert(name)).await.unwrap();
    }
    running.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), running.task)
        .await
        .expect("the sink ends when all are delivered")
        .unwrap();
    assert_eq!(names(&receiver), ["a", "b", "c"]);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let long = Alert {
        message: "\u{e4}".repeat(MESSAGE),
        ..alert("a")
    };
    let body: Value = serde_json::from_slice(&AlertFormat::Keyturn.body(&long)).unwrap();
    assert_eq!(body["message"].as_str().unwrap().len(), MESSAGE);
}
