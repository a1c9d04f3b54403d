//! Alerts: what a person should look at, posted to one webhook as JSON, in the form that its receiver takes.
//!
//! One after another, in the order in which they came. What is not taken is tried again for ten minutes, then given up,
//! counted and logged; an outage of the receiver costs a bounded queue and nothing else. The URL may hold a token: only its
//! scheme and host are ever logged. An alert has agreed fields only and can hold no value of a Secret. One that was taken
//! without an answer comes twice.

mod format;
mod post;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::{
    FutureExt as _,
    future::{Fuse, FusedFuture as _},
};
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::{Serialize, Serializer};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

pub use self::format::AlertFormat;
use self::post::{PostError, WebhookClient};
pub use self::post::{Webhook, WebhookError};

/// Alerts that wait; those that come while as many do are dropped.
const QUEUE: usize = 256;
/// Those of one namespace among them: one that raises many must not silence the others.
const SHARE: usize = 32;
/// The longest message, in bytes.
const MESSAGE: usize = 1024;

/// What a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// In a word: the reason of the event that goes with it.
    pub reason: String,
    /// The kind of what it is about.
    pub kind: String,
    /// The namespace of what it is about.
    pub namespace: String,
    /// The name of what it is about.
    pub name: String,
    /// In a sentence, which holds no value.
    pub message: String,
    /// When.
    #[serde(serialize_with = "seconds")]
    pub time: Timestamp,
    /// The cluster, as the operator calls it.
    pub cluster: String,
}

fn seconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.0}"))
}

/// What became of alerts. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    results: Family<Labels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

impl Metrics {
    /// Registers them under the given registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("alerts", "Alerts by what became of them", self.results.clone());
    }

    fn count(&self, end: DeliveryOutcome) {
        let result = end.as_str();
        self.results.get_or_create(&Labels { result }).inc();
    }
}

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryOutcome {
    /// The receiver took it.
    Delivered,
    /// The receiver will never take it.
    Refused,
    /// The receiver did not take it in time.
    GivenUp,
    /// Too many waited, or the process ended.
    Dropped,
}

impl DeliveryOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::GivenUp => "given_up",
            Self::Dropped => "dropped",
        }
    }
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
struct RetryPolicy {
    /// For one answer.
    answer: Duration,
    /// After the first failure; doubled up to `longest`.
    shortest: Duration,
    longest: Duration,
    /// For one alert, since it came.
    alert: Duration,
    /// For those that wait when the process ends.
    end: Duration,
}

const PATIENCE: RetryPolicy = RetryPolicy {
    answer: Duration::from_secs(10),
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    alert: Duration::from_mins(10),
    end: Duration::from_secs(5),
};

/// Posts alerts to a webhook.
pub struct AlertSink {
    poster: WebhookClient,
    format: AlertFormat,
    patience: RetryPolicy,
    metrics: Metrics,
}

impl AlertSink {
    /// Posts to `webhook` in this form; nothing is sent yet.
    pub fn new(webhook: Webhook, format: AlertFormat, metrics: Metrics) -> Result<Self, WebhookError> {
        Ok(Self {
            poster: WebhookClient::new(webhook)?,
            format,
            patience: PATIENCE,
            metrics,
        })
    }

    /// Posts what comes, one alert after another, until nobody is left to send, or `stop`: what waits then has a few seconds
    /// left, and is dropped after them.
    pub async fn run<A>(
        self,
        mut alerts: mpsc::Receiver<A>,
        alert: impl Fn(A) -> Alert,
        stop: impl Future<Output = ()>,
    ) {
        let mut waiting = VecDeque::new();
        let (mut open, mut last) = (true, None);
        let mut stop = std::pin::pin!(stop);
        let mut posting = std::pin::pin!(Fuse::terminated());
        loop {
            if posting.is_terminated() {
                match waiting.pop_front() {
                    Some((next, since)) => posting.set(self.post(next, since).fuse()),
                    None if open => {}
                    None => return,
                }
            }
            tokio::select! {
                biased;
                () = &mut stop, if last.is_none() => {
                    alerts.close();
                    last = Some(Instant::now() + self.patience.end);
                }
                () = until(last) => break,
                () = &mut posting => {}
                next = alerts.recv(), if open => match next {
                    Some(next) => self.queue(&mut waiting, alert(next)),
                    None => open = false,
                },
            }
        }
        let left = waiting.len() + 1;
        tracing::warn!(left, webhook = %self.poster.webhook(), "alerts were dropped since the process ends");
        for _ in 0..left {
            self.metrics.count(DeliveryOutcome::Dropped);
        }
    }

    fn queue(&self, waiting: &mut VecDeque<(Alert, Instant)>, alert: Alert) {
        let of_namespace = waiting
            .iter()
            .filter(|(other, _)| other.namespace == alert.namespace);
        if of_namespace.count() >= SHARE {
            self.end(&alert, DeliveryOutcome::Dropped, "too many of its namespace wait");
        } else if waiting.len() >= QUEUE {
            self.end(&alert, DeliveryOutcome::Dropped, "too many wait");
        } else {
            waiting.push_back((alert, Instant::now()));
        }
    }

    /// Posts an alert until it is taken or refused, or too old, and says so.
    async fn post(&self, alert: Alert, since: Instant) {
        let (end, why) = self.posted(&alert, since).await;
        self.end(&alert, end, why);
    }

    async fn posted(&self, alert: &Alert, since: Instant) -> (DeliveryOutcome, &'static str) {
        let deadline = since + self.patience.alert;
        let body = self.format.body(alert);
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(self.patience.shortest)
            .with_max_delay(self.patience.longest)
            .without_max_times()
            .with_jitter()
            .build();
        loop {
            let refused = match self.poster.post(body.clone(), self.patience.answer).await {
                Ok(()) => return (DeliveryOutcome::Delivered, ""),
                Err(refused) => refused,
            };
            let PostError {
                why,
                again,
                retry_after,
            } = refused;
            if !again {
                return (DeliveryOutcome::Refused, why);
            }
            let wait = waits.next().unwrap_or(self.patience.longest);
            // Also a wait that no clock can hold ends with the alert's time.
            let wait = retry_after.map_or(wait, |asked| asked.max(wait).min(self.patience.alert));
            if Instant::now() + wait >= deadline {
                return (DeliveryOutcome::GivenUp, why);
            }
            sleep(wait).await;
        }
    }

    fn end(&self, alert: &Alert, end: DeliveryOutcome, why: &'static str) {
        self.metrics.count(end);
        let Alert {
            reason,
            kind,
            namespace,
            name,
            message: _,
            time: _,
            cluster: _,
        } = alert;
        if end == DeliveryOutcome::Delivered {
            tracing::debug!(reason, kind, namespace, name, "an alert was delivered");
        } else {
            let (webhook, end) = (self.poster.webhook(), end.as_str());
            tracing::warn!(reason, kind, namespace, name, %webhook, end, why, "an alert was not delivered");
        }
    }
}

/// Never, without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
