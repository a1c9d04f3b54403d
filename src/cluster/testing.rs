//! An API server whose answers are written in the test. What is not asked for in the test must not be asked.

use std::time::Duration;

use futures::{
    StreamExt as _,
    future::ready,
    stream::{once, pending, unfold},
};
use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tower::Layer as _;
use tower_test::mock::{self, Handle, SendResponse};

use super::{Cluster, Metrics, ServerTime, time::TimeLayer};

pub(super) struct Server(Handle<Request<Body>, Response<axum::body::Body>>);

/// A request that waits for its answer.
pub(super) struct Asked {
    pub(super) method: String,
    /// Without `timeout`, which every call has.
    pub(super) target: String,
    /// The parameter `timeout`; watches have none.
    pub(super) timeout: Option<String>,
    pub(super) content_type: String,
    pub(super) accept: String,
    pub(super) body: Value,
    answer: SendResponse<Response<axum::body::Body>>,
}

pub(super) fn cluster() -> (Cluster, Server) {
    let (service, handle) = mock::pair::<Request<Body>, Response<axum::body::Body>>();
    let time = ServerTime::default();
    let client = Client::new(TimeLayer(time.clone()).layer(service), "default");
    (Cluster::new(client, time, Metrics::default()), Server(handle))
}

impl Server {
    /// The next request, which must come within a minute (of the paused clock, mostly).
    pub(super) async fn next(&mut self) -> Asked {
        let next = timeout(Duration::from_mins(1), self.0.next_request()).await;
        let (request, answer) = next.expect("a request comes").expect("the client lives");
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let header = |name| {
            let value = parts.headers.get(name);
            value
                .map_or("", |value: &http::HeaderValue| value.to_str().unwrap())
                .to_owned()
        };
        let target = parts.uri.to_string();
        let (target, timeout) = match target.rsplit_once("timeout=") {
            Some((target, limit)) => {
                let target = target.strip_suffix(['&', '?']).unwrap_or(target);
                (target.to_owned(), Some(limit.to_owned()))
            }
            None => (target, None),
        };
        Asked {
            method: parts.method.to_string(),
            target,
            timeout,
            content_type: header(http::header::CONTENT_TYPE),
            accept: header(http::header::ACCEPT),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            answer,
        }
    }

    /// The next request, which must be this one.
    pub(super) async fn expect(&mut self, method: &str, target: &str) -> Asked {
        let asked = self.next().await;
        assert_eq!((asked.method.as_str(), asked.target.as_str()), (method, target));
        asked
    }

    /// Nothing is asked for `time`.
    pub(super) async fn stays_silent(&mut self, time: Duration) {
        if let Ok(Some((request, _))) = timeout(time, self.0.next_request()).await {
            panic!("unexpected {} {}", request.method(), request.uri());
        }
    }
}

impl Asked {
    pub(super) fn answer(self, code: u16, body: &Value) {
        self.answer_with(code, &[], body.to_string());
    }

    pub(super) fn answer_with(self, code: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) {
        let mut response = Response::builder().status(code);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.answer
            .send_response(response.body(body.into().into()).unwrap());
    }

    /// An answer of metadata only, as much as a write needs.
    pub(super) fn written(self, uid: &str, version: &str) {
        self.answer(
            200,
            &json!({"metadata": {"uid": uid, "resourceVersion": version}}),
        );
    }

    /// An answer that begins and never goes on.
    pub(super) fn hangs(self) {
        let silence = axum::body::Body::from_stream(pending::<std::io::Result<Vec<u8>>>());
        self.answer.send_response(Response::new(silence));
    }

    /// An answer of `first`, then of `again` so often, for ever.
    pub(super) fn goes_on(self, first: String, every: Duration, again: String) {
        let rest = unfold(again, move |again| async move {
            sleep(every).await;
            Some((again.clone(), again))
        });
        let body = once(ready(first)).chain(rest).map(std::io::Result::Ok);
        self.answer
            .send_response(Response::new(axum::body::Body::from_stream(body)));
    }

    /// A connection that breaks.
    pub(super) fn breaks(self) {
        self.answer
            .send_error(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    }
}
