//! Events on objects, for people. Never awaited by what emits them: late, refused or surplus ones are dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::{sync::mpsc, time::timeout};

use super::{client::Cluster, lease::Leadership, metrics::Metrics, time::ServerTime};
use crate::api::EventReason;

/// Events waiting to be sent; more are dropped. Events mark transitions, a burst of them is an incident.
const QUEUE: usize = 256;
/// Those of one namespace among them: one where much happens must not silence the others.
const SHARE: usize = 128;
/// A recorder remembers each event for six minutes, so as to count those that come again: after so many it is let go.
const REMEMBERED: usize = 256;
/// The longest note the API server takes, in bytes.
const NOTE: usize = 1024;
/// How long an event may take. Longer ones are given up.
const EMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Alerts waiting to be taken; more are dropped.
const ALERTS: usize = 64;
/// The kinds of the objects that alerts are about.
const ALERTED: [&str; 3] = ["ExternalSecret", "SecretStore", "ClusterSecretStore"];
/// The events that somebody may want to be called for.
const ALERTING: [EventReason; 5] = [
    EventReason::DeletionHeld,
    EventReason::RestartFailed,
    EventReason::RestartHalted,
    EventReason::RotationStuck,
    EventReason::RestartReverted,
];

/// Where events are put in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Event)>,
    waiting: Waiting,
    alerts: Arc<Mutex<Option<mpsc::Sender<Alert>>>>,
    time: ServerTime,
    metrics: Metrics,
}

/// How many events of a namespace wait.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<Mutex<HashMap<String, usize>>>);

impl Waiting {
    /// Counts one more, if there is room for it.
    fn begin(&self, regarding: &ObjectReference) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(namespace(regarding)).or_default();
        let room = *count < SHARE;
        *count += usize::from(room);
        room
    }

    fn end(&self, regarding: &ObjectReference) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = namespace(regarding);
        if let Some(count) = counts.get_mut(&namespace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&namespace);
            }
        }
    }
}

fn namespace(regarding: &ObjectReference) -> String {
    regarding.namespace.clone().unwrap_or_default()
}

/// An event that somebody may want to be called for, besides the event itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The event's reason, such as `RestartFailed`.
    pub reason: &'static str,
    /// The kind of the object that it is about.
    pub kind: String,
    /// Its namespace; empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What happened, in a sentence. It holds no value.
    pub note: String,
    /// When, by the API server's clock.
    pub time: Timestamp,
}

/// Sends what was put in, one after another.
pub struct EventWorker {
    queue: mpsc::Receiver<(ObjectReference, Event)>,
    waiting: Waiting,
    client: kube::Client,
    reporter: Reporter,
    leadership: Arc<Leadership>,
    metrics: Metrics,
}

impl Events {
    /// A queue and its worker; `instance` is the reporting replica.
    pub fn new(cluster: &Cluster, leadership: Arc<Leadership>, instance: &str) -> (Self, EventWorker) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            controller: "keyturn.dev/keyturn".to_owned(),
            instance: Some(instance.to_owned()),
        };
        let metrics = cluster.metrics.clone();
        let waiting = Waiting::default();
        let worker = EventWorker {
            queue: receiver,
            waiting: waiting.clone(),
            client: cluster.client.clone(),
            reporter,
            leadership,
            metrics: metrics.clone(),
        };
        (
            Self {
                queue: sender,
                waiting,
                alerts: Arc::default(),
                time: cluster.time().clone(),
                metrics,
            },
            worker,
        )
    }

    /// From now on alerts go to the receiver that is returned, and to no earlier one. It waits for none: what is not
    /// taken in time is dropped.
    pub fn alerts(&self) -> mpsc::Receiver<Alert> {
        let (sender, receiver) = mpsc::channel(ALERTS);
        *self.alerts.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Puts an event in, or drops it if the queue is full. `note` must hold no value; it is cut at 1 kB.
    pub fn emit(
        &self,
        regarding: ObjectReference,
        type_: EventType,
        reason: &'static str,
        action: &'static str,
        note: &str,
    ) {
        self.alert(&regarding, reason, note);
        let event = Event {
            type_,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: Some(cut(note).to_owned()),
            secondary: None,
        };
        if !self.waiting.begin(&regarding) {
            self.metrics.events_dropped.inc();
            return;
        }
        if let Err(full) = self.queue.try_send((regarding, event)) {
            self.waiting.end(&full.into_inner().0);
            self.metrics.events_dropped.inc();
        }
    }

    fn alert(&self, regarding: &ObjectReference, reason: &'static str, note: &str) {
        // What concerns a workload is told on it and on its ExternalSecret: nobody wants to be called twice.
        let twice = !regarding
            .kind
            .as_deref()
            .is_some_and(|kind| ALERTED.contains(&kind));
        if twice || !ALERTING.iter().any(|alerting| alerting.as_str() == reason) {
            return;
        }
        let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(alerts) = alerts.as_ref() else { return };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let alert = Alert {
            reason,
            kind: text(&regarding.kind),
            namespace: text(&regarding.namespace),
            name: text(&regarding.name),
            note: cut(note).to_owned(),
            time: self.time.now(),
        };
        if alerts.try_send(alert).is_err() {
            self.metrics.alerts_dropped.inc();
        }
    }
}

impl EventWorker {
    /// Sends events until every [`Events`] is gone.
    pub async fn run(mut self) {
        let mut recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let mut remembered = 0;
        while let Some((regarding, event)) = self.queue.recv().await {
            self.waiting.end(&regarding);
            if remembered >= REMEMBERED {
                recorder = Recorder::new(self.client.clone(), self.reporter.clone());
                remembered = 0;
            }
            remembered += 1;
            let Some(_turn) = Leadership::turn(Arc::clone(&self.leadership)).await else {
                self.metrics.events_dropped.inc();
                continue;
            };
            let sent = timeout(EMIT_TIMEOUT, recorder.publish(&event, &regarding)).await;
            if !matches!(sent, Ok(Ok(()))) {
                self.metrics.events_dropped.inc();
                tracing::warn!(
                    reason = event.reason,
                    namespace = regarding.namespace,
                    name = regarding.name,
                    timed_out = sent.is_err(),
                    "failed to send an event"
                );
            }
        }
    }
}

fn cut(note: &str) -> &str {
    let end = (0..=note.len().min(NOTE))
        .rev()
        .find(|end| note.is_char_boundary(*end))
        .unwrap_or(0);
    note.get(..end).unwrap_or_default()
}
