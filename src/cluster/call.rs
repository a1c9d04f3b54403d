//! One call to the API server: bounded in time, classified when it fails, silent about its content.
//!
//! kube's own `request` logs the whole answer when it cannot be parsed, and the status of each refusal; both
//! may hold values. So requests are built by kube and sent by its client, and answers are read here.

use std::{fmt, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use http::Request;
use kube::{client::Body, core::Status};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroize as _;

use super::{
    client::Cluster,
    error::{Class, Error},
    metrics,
};
use crate::api::ObjectKey;

/// How long a call may take, its retries and its wait for a turn included, unless it carries its own fence.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a write may take that carries its own fence: longer than one admission webhook may take by default (10 s), and
/// less than the 34 s after which the API server ends every write.
pub const FENCED_TIMEOUT: Duration = Duration::from_secs(30);
/// The API server and the connection give up this long before the call does: the pool then drops a dead connection.
const BEFORE_THE_END: Duration = Duration::from_secs(1);

/// The longest wait that an answer can ask for.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// How long a call may take. It travels with the request, as one of its extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeLimit {
    /// [`CALL_TIMEOUT`]: reads, and every write that only the Lease keeps from being sent by two replicas. Such a write has
    /// ended before another replica can lead, since none is sent in the last 10 s of the Lease.
    #[default]
    Usual,
    /// [`FENCED_TIMEOUT`]: a write that the API server refuses once another replica has written, and which therefore may
    /// arrive after the Lease has ended.
    ///
    /// - A patch or delete names the uid and resourceVersion that it rests on. After any other write the API server refuses
    ///   it; without one the object is as it was when the write was decided on, and the next leader, which reads the object
    ///   before it writes, finds it as if the write had come before the change of leaders.
    /// - A POST of a Secret is refused if a Secret of that name exists. Otherwise it creates the Secret with its owner: the
    ///   next leader's own POST is refused, and it reads, compares and corrects the Secret as any that it did not write. If
    ///   the ExternalSecret is gone, the garbage collector removes the Secret.
    /// - The time of a change that a write puts on a Secret must not be earlier than its arrival by more than restarts allow
    ///   for: see where Secrets are written.
    /// - A restart that arrives late takes a slot that the next leader believed free: at most those under way go beyond a
    ///   limit, once. The record on the workload keeps the content from restarting it twice.
    Fenced,
}

impl TimeLimit {
    /// How long the whole call may take.
    pub const fn of_call(self) -> Duration {
        match self {
            Self::Usual => CALL_TIMEOUT,
            Self::Fenced => FENCED_TIMEOUT,
        }
    }

    /// How long the API server may take to begin an answer. It is told so by `?timeout=`, so that it does not finish what
    /// nobody waits for any more.
    pub const fn of_answer(self) -> Duration {
        self.of_call().saturating_sub(BEFORE_THE_END)
    }

    /// That of a request.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or_default()
    }
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read all objects of a kind.
    List,
    /// Follow the changes of a kind.
    Watch,
    /// Create an object that must not exist.
    Create,
    /// Change parts of an object that must exist.
    Patch,
    /// Server-side apply.
    Apply,
    /// Delete.
    Delete,
    /// Ask that a pod makes room, which its `PodDisruptionBudget` may refuse.
    Evict,
}

impl Verb {
    /// The verb in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Apply => "apply",
            Self::Delete => "delete",
            Self::Evict => "evict",
        }
    }

    /// Whether one object is named, not a kind.
    pub(super) fn is_of_one(self) -> bool {
        !matches!(self, Self::List | Self::Watch)
    }

    /// Whether something may have been changed.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }

    fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::List)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is attempted, for errors and metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    pub(super) kind: &'static str,
    pub(super) key: &'a ObjectKey,
}

impl Call<'_> {
    pub(super) fn failed(&self, class: Class) -> Error {
        Error {
            verb: self.verb,
            kind: self.kind,
            key: self.key.clone(),
            class,
        }
    }
}

/// A request that could not be built: a name that is no path, a body that is no JSON.
pub(super) const UNBUILDABLE: Class = Class::Malformed("the request cannot be built");

const UNREADABLE: Class = Class::Malformed("the API server's answer is not what was asked for");

impl Cluster {
    /// Sends a request and parses the answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        request: Request<Vec<u8>>,
    ) -> Result<T, Error> {
        self.call_with(call, request, |body| serde_json::from_slice(body))
            .await
    }

    /// Sends a request and hands the answer to `parse`; reads are tried again when the server is busy or away.
    pub(super) async fn call_with<T>(
        &self,
        call: Call<'_>,
        request: Request<Vec<u8>>,
        parse: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<T, Error> {
        call.check_names()?;
        let limit = TimeLimit::of(&request);
        let request = limited(request, limit).ok_or_else(|| call.failed(UNBUILDABLE))?;
        let deadline = Instant::now() + limit.of_call();
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(3)
            .with_jitter()
            .build();
        loop {
            let outcome = match timeout_at(deadline, self.attempt(call.verb, clone(&request), &parse)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Class::Timeout),
            };
            self.count(call, outcome.as_ref().err());
            let class = match outcome {
                Ok(answer) => return Ok(answer),
                Err(class) => class,
            };
            let wait = if call.verb.is_read() && class.retries_read() {
                waits.next()
            } else {
                None
            };
            let Some(wait) = wait else {
                return Err(call.failed(class));
            };
            let wait = class.retry_after().map_or(wait, |asked| asked.max(wait));
            if Instant::now() + wait >= deadline {
                return Err(call.failed(class));
            }
            sleep(wait).await;
        }
    }

    pub(super) fn count(&self, call: Call<'_>, failure: Option<&Class>) {
        let result = failure.map_or("ok", Class::label);
        let labels = metrics::Request {
            verb: call.verb.as_str(),
            kind: call.kind,
            result,
        };
        self.metrics.requests.get_or_create(&labels).inc();
    }

    async fn attempt<T>(
        &self,
        verb: Verb,
        request: Request<Vec<u8>>,
        parse: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<T, Class> {
        // A write was allowed for now, not for later, and the lease must not wait behind reads: its callers
        // bound how many there are. Never closed, so an error cannot come.
        let _slot = if verb.is_read() {
            Some(self.reads.acquire().await.map_err(|_| Class::Timeout)?)
        } else {
            None
        };
        let response = self
            .client
            .send(request.map(Body::from))
            .await
            .map_err(|err| class_of(&err))?;
        let code = response.status().as_u16();
        let retry_after = seconds(response.headers());
        let body = response
            .into_body()
            .collect_bytes()
            .await
            .map_err(|err| class_of(&err))?;
        let outcome = if code < 400 {
            parse(&body).map_err(|_| UNREADABLE)
        } else {
            let status: Option<Status> = serde_json::from_slice(&body).ok();
            Err(with_retry_after(
                Class::of_status(code, status.as_ref()),
                retry_after,
            ))
        };
        if let Ok(mut buffer) = body.try_into_mut() {
            buffer.as_mut().zeroize();
        }
        outcome
    }
}

/// The class of an error that is no answer. A refusal that kube parsed has a status.
pub(super) fn class_of(err: &kube::Error) -> Class {
    match err {
        kube::Error::Api(status) => Class::of_status(status.code, Some(status)),
        kube::Error::Service(inner) if inner.is::<tokio::time::error::Elapsed>() => Class::Timeout,
        _ => Class::Unavailable {
            code: None,
            retry_after: None,
        },
    }
}

fn seconds(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    let asked = text.parse().ok().map(Duration::from_secs)?;
    // Nobody waits so long; and times that leave the calendar are none.
    Some(asked.min(LONGEST_WAIT))
}

fn with_retry_after(class: Class, header: Option<Duration>) -> Class {
    match class {
        Class::Throttled { retry_after } => Class::Throttled {
            retry_after: header.or(retry_after),
        },
        Class::Unavailable { code, retry_after } => Class::Unavailable {
            code,
            retry_after: header.or(retry_after),
        },
        other => other,
    }
}

/// The request, with its limit for the API server.
fn limited(mut request: Request<Vec<u8>>, limit: TimeLimit) -> Option<Request<Vec<u8>>> {
    let uri = request.uri();
    let (query, and) = uri.query().map_or(("", ""), |query| (query, "&"));
    let seconds = limit.of_answer().as_secs();
    let limited = format!("{}?{query}{and}timeout={seconds}s", uri.path());
    *request.uri_mut() = limited.parse().ok()?;
    Some(request)
}

fn clone(request: &Request<Vec<u8>>) -> Request<Vec<u8>> {
    let mut copy = Request::new(request.body().clone());
    copy.extensions_mut().insert(TimeLimit::of(request));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}
