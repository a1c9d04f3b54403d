//! Events on objects, for people. Never awaited by what emits them: late, refused or surplus ones are dropped.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::{sync::mpsc, time::timeout};

use super::{client::Cluster, lease::Leadership, metrics::Metrics};

/// Events waiting to be sent; more are dropped. Events mark transitions, a burst of them is an incident.
const QUEUE: usize = 256;
/// The longest note the API server takes, in bytes.
const NOTE: usize = 1024;
/// How long an event may take. Longer ones are given up.
const EMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where events are put in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Event)>,
    metrics: Metrics,
}

/// Sends what was put in, one after another.
pub struct EventWorker {
    queue: mpsc::Receiver<(ObjectReference, Event)>,
    recorder: Recorder,
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
        let worker = EventWorker {
            queue: receiver,
            recorder: Recorder::new(cluster.client.clone(), reporter),
            leadership,
            metrics: metrics.clone(),
        };
        (
            Self {
                queue: sender,
                metrics,
            },
            worker,
        )
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
        let event = Event {
            type_,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: Some(cut(note).to_owned()),
            secondary: None,
        };
        if self.queue.try_send((regarding, event)).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

impl EventWorker {
    /// Sends events until every [`Events`] is gone.
    pub async fn run(mut self) {
        while let Some((regarding, event)) = self.queue.recv().await {
            let Some(_turn) = Leadership::turn(Arc::clone(&self.leadership)).await else {
                self.metrics.events_dropped.inc();
                continue;
            };
            let sent = timeout(EMIT_TIMEOUT, self.recorder.publish(&event, &regarding)).await;
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
