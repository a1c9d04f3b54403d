//! Events on objects, for people. Never awaited by what emits them: late, refused or surplus ones are dropped.
//!
//! Each text is an event of its own; one that comes again is counted on the first (see `event_history`).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event as EventObject, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    client::Cluster,
    event_history::{AlertHistory, EventHistory, EventKey, Next},
    lease::Leadership,
    metrics::Metrics,
    pace::Pace,
    time::ServerTime,
};
use crate::api::EventReason;

/// Events waiting to be sent; more are dropped. Events mark transitions, a burst of them is an incident.
const QUEUE: usize = 256;
/// Those of one namespace among them: few where much happens must not silence the others.
const SHARE: usize = 32;
/// Events a second: each is an object in etcd for an hour.
const PER_SECOND: u32 = 10;
/// The reporting controller.
const CONTROLLER: &str = "keyturn.dev/keyturn";
/// The namespace of events about objects without one.
const NO_NAMESPACE: &str = "default";
/// The most of an object's name that goes into an event's: names have 253 characters.
const NAME: usize = 200;
/// The longest note the API server takes, in bytes.
const NOTE: usize = 1024;
/// How long an event may take. Longer ones are given up.
const EMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Alerts waiting to be taken; more are dropped.
const ALERTS: usize = 64;
/// Those of one namespace among them.
const ALERTS_SHARE: usize = 16;
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

/// An event that is to be emitted.
#[derive(Debug)]
pub struct EventDraft<'a> {
    /// The object.
    pub regarding: ObjectReference,
    /// Another object that it concerns.
    pub related: Option<ObjectReference>,
    /// Why; it decides whether the event is a warning.
    pub reason: EventReason,
    /// The condition's reason, or what was done.
    pub action: &'a str,
    /// In a sentence. It must hold no value, and is cut at 1 kB.
    pub note: &'a str,
}

impl<'a> EventDraft<'a> {
    /// One that concerns a single object.
    pub fn new(regarding: ObjectReference, reason: EventReason, action: &'a str, note: &'a str) -> Self {
        Self {
            regarding,
            related: None,
            reason,
            action,
            note,
        }
    }
}

/// Where events are put in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Emitted>,
    waiting: Waiting,
    alerts: Arc<Mutex<Option<Alerts>>>,
    time: ServerTime,
    metrics: Metrics,
}

/// An event and what it is about.
struct Emitted {
    regarding: ObjectReference,
    event: Event,
    place: Place,
}

/// Where alerts go, and those that went there.
#[derive(Debug)]
struct Alerts {
    queue: mpsc::Sender<Alert>,
    waiting: Waiting,
    history: AlertHistory,
}

/// How many wait in a queue, of each namespace.
#[derive(Clone, Debug)]
struct Waiting {
    counts: Arc<Mutex<HashMap<String, usize>>>,
    most: usize,
    of_namespace: usize,
}

/// Held by one that waits.
#[derive(Debug)]
struct Place {
    waiting: Waiting,
    namespace: String,
}

impl Waiting {
    fn new(most: usize, of_namespace: usize) -> Self {
        Self {
            counts: Arc::default(),
            most,
            of_namespace,
        }
    }

    /// A place for one more, if there is room for it.
    fn begin(&self, regarding: &ObjectReference) -> Option<Place> {
        let namespace = namespace(regarding);
        let mut counts = self.counts();
        let all: usize = counts.values().sum();
        let count = counts.get(&namespace).copied().unwrap_or_default();
        if all >= self.most || count >= self.of_namespace {
            return None;
        }
        counts.insert(namespace.clone(), count + 1);
        Some(Place {
            waiting: self.clone(),
            namespace,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.waiting.counts();
        if let Some(count) = counts.get_mut(&self.namespace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.namespace);
            }
        }
    }
}

/// Events to be sent: namespaces in turn, and of each the first. None of the lines is empty.
#[derive(Default)]
struct Turns {
    lines: HashMap<String, VecDeque<Emitted>>,
    turns: VecDeque<String>,
}

impl Turns {
    fn put(&mut self, emitted: Emitted) {
        let namespace = namespace(&emitted.regarding);
        let line = self.lines.entry(namespace.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(namespace);
        }
        line.push_back(emitted);
    }

    fn next(&mut self) -> Option<Emitted> {
        let namespace = self.turns.pop_front()?;
        let line = self.lines.get_mut(&namespace)?;
        let next = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        next
    }
}

fn namespace(regarding: &ObjectReference) -> String {
    regarding.namespace.clone().unwrap_or_default()
}

/// An event that somebody may want to be called for, besides the event itself.
#[derive(Debug)]
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
    _place: Place,
}

/// Sends what was put in, one after another, namespaces in turn.
pub struct EventWorker {
    queue: mpsc::Receiver<Emitted>,
    client: kube::Client,
    instance: String,
    leadership: Arc<Leadership>,
    time: ServerTime,
    metrics: Metrics,
}

impl Events {
    /// A queue and its worker; `instance` is the reporting replica.
    pub fn new(cluster: &Cluster, leadership: Arc<Leadership>, instance: &str) -> (Self, EventWorker) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let metrics = cluster.metrics.clone();
        let worker = EventWorker {
            queue: receiver,
            client: cluster.client.clone(),
            instance: instance.to_owned(),
            leadership,
            time: cluster.time().clone(),
            metrics: metrics.clone(),
        };
        (
            Self {
                queue: sender,
                waiting: Waiting::new(QUEUE, SHARE),
                alerts: Arc::default(),
                time: cluster.time().clone(),
                metrics,
            },
            worker,
        )
    }

    /// From now on alerts go to the receiver that is returned, and to no earlier one. It waits for none: what is not
    /// taken in time is dropped. One that says the same of the same object as one before is left out for as long as an
    /// equal event would be counted on the first.
    pub fn alerts(&self) -> mpsc::Receiver<Alert> {
        let (queue, receiver) = mpsc::channel(ALERTS);
        let history = AlertHistory::default();
        *self.alerts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Alerts {
            queue,
            waiting: Waiting::new(ALERTS, ALERTS_SHARE),
            history,
        });
        receiver
    }

    /// Puts an event in, or drops it if the queue is full.
    pub fn emit(&self, event: EventDraft<'_>) {
        self.alert(&event.regarding, event.reason, event.note);
        self.put(event);
    }

    /// Puts in an event whose alert has another text, or that is no alert this time.
    pub fn emit_apart(&self, event: EventDraft<'_>, alert: Option<&str>) {
        if let Some(alert) = alert {
            self.alert(&event.regarding, event.reason, alert);
        }
        self.put(event);
    }

    fn put(&self, event: EventDraft<'_>) {
        let EventDraft {
            regarding,
            related,
            reason,
            action,
            note,
        } = event;
        let type_ = if reason.is_warning() {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            reason: reason.as_str().to_owned(),
            action: action.to_owned(),
            note: Some(cut(note).to_owned()),
            secondary: related,
        };
        let emitted = self.waiting.begin(&regarding).map(|place| Emitted {
            regarding,
            event,
            place,
        });
        if emitted.is_none_or(|emitted| self.queue.try_send(emitted).is_err()) {
            self.metrics.events_dropped.inc();
        }
    }

    fn alert(&self, regarding: &ObjectReference, reason: EventReason, note: &str) {
        // What concerns a workload is told on it and on its ExternalSecret: nobody wants to be called twice.
        let twice = !regarding
            .kind
            .as_deref()
            .is_some_and(|kind| ALERTED.contains(&kind));
        if twice || !ALERTING.contains(&reason) {
            return;
        }
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(alerts) = alerts.as_mut() else { return };
        let now = self.time.now();
        let note = cut(note);
        if !alerts.history.is_new(now, regarding, reason.as_str(), note) {
            return;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let alert = alerts.waiting.begin(regarding).map(|place| Alert {
            reason: reason.as_str(),
            kind: text(&regarding.kind),
            namespace: text(&regarding.namespace),
            name: text(&regarding.name),
            note: note.to_owned(),
            time: now,
            _place: place,
        });
        if alert.is_some_and(|alert| alerts.queue.try_send(alert).is_ok()) {
            alerts.history.told(now, regarding, reason.as_str(), note);
        } else {
            self.metrics.alerts_dropped.inc();
        }
    }
}

impl EventWorker {
    /// Sends events until every [`Events`] is gone.
    pub async fn run(mut self) {
        let (mut history, pace, started) = (EventHistory::default(), Pace::new(PER_SECOND), Instant::now());
        let mut turns = Turns::default();
        loop {
            while let Ok(emitted) = self.queue.try_recv() {
                turns.put(emitted);
            }
            let next = match turns.next() {
                Some(next) => Some(next),
                None => self.queue.recv().await,
            };
            let Some(next) = next else { break };
            let Emitted {
                regarding,
                event,
                place,
            } = next;
            drop(place);
            let key = EventKey::of(&regarding, &event);
            let next = history.next(self.time.now(), &key);
            if next == Next::Drop {
                self.metrics.events_dropped.inc();
                continue;
            }
            sleep_until(started + pace.turn(started.elapsed())).await;
            let Some(_turn) = Leadership::turn(Arc::clone(&self.leadership)).await else {
                self.metrics.events_dropped.inc();
                continue;
            };
            let sent = timeout(EMIT_TIMEOUT, self.send(&regarding, &event, next)).await;
            if let Ok(Ok((name, count))) = sent {
                history.sent(self.time.now(), key, name, count);
            } else {
                history.forget(&key);
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

    /// The event's name, and how often it has come.
    async fn send(
        &self,
        regarding: &ObjectReference,
        event: &Event,
        next: Next,
    ) -> Result<(String, i32), kube::Error> {
        let namespace = regarding.namespace.as_deref().unwrap_or(NO_NAMESPACE);
        let events: Api<EventObject> = Api::namespaced(self.client.clone(), namespace);
        let now = self.time.now();
        if let Next::Count { name, count } = next {
            let series = EventSeries {
                count,
                last_observed_time: MicroTime(now),
            };
            let patch = Patch::Merge(json!({"series": series}));
            events.patch(&name, &PatchParams::default(), &patch).await?;
            return Ok((name, count));
        }
        let object = self.object(regarding, event, now);
        let created = events.create(&PostParams::default(), &object).await?;
        let name = created.metadata.name.or(object.metadata.name);
        Ok((name.unwrap_or_default(), 1))
    }

    fn object(&self, regarding: &ObjectReference, event: &Event, now: Timestamp) -> EventObject {
        let type_ = match event.type_ {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        let about = regarding.name.as_deref().unwrap_or("keyturn");
        let about = about.get(..NAME).unwrap_or(about).trim_end_matches(['.', '-']);
        EventObject {
            action: Some(event.action.clone()),
            event_time: Some(MicroTime(now)),
            metadata: ObjectMeta {
                namespace: regarding.namespace.clone(),
                // One event is sent at a time, so no two have one time.
                name: Some(format!("{about}.{:x}", now.as_nanosecond())),
                ..ObjectMeta::default()
            },
            note: event.note.clone(),
            reason: Some(event.reason.clone()),
            regarding: Some(regarding.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_.to_owned()),
            ..EventObject::default()
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
