//! What follows from decisions for people: events, numbers, statuses.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::{task::JoinSet, time::Instant};

use super::{
    event_detector::{EventDetector, RestartEvent},
    report::{self, Report},
    status_writer::{ShownStatus, StatusWrite, StatusWriter},
};
use crate::{
    api::{EventReason, ObjectKey, Reason, WorkloadState},
    cluster::{self, Verb},
    restart::{
        execute::{
            carry_out::Outcome,
            panics::{caught, joined},
            record_writes::Alert,
        },
        judge::{model::Standing, targets::MissingTarget},
        observed::{Context, managed_secrets::ManagedSecret, model::WorkloadKey},
        schedule::{
            decide::{Decisions, WorkloadStatus},
            namespace::Namespaces,
        },
        timing::{AWAIT_PODS, WARM_UP},
    },
};

/// Derives events, numbers and statuses from decisions, and writes the statuses.
pub struct Publisher {
    context: Arc<Context>,
    detector: EventDetector,
    /// Halts that are reported after the failure that caused them.
    delayed: Vec<RestartEvent>,
    statuses: StatusWriter,
    /// What was reported last of an object, as a digest of its states.
    reported: HashMap<ObjectKey, u64>,
    /// The objects whose targets were reported as missing.
    untargeted: HashSet<ObjectKey>,
    /// Since when something of an object is not known.
    unknown: HashMap<ObjectKey, Instant>,
    started: Instant,
    /// Whether the first lists of pods are over.
    warm: bool,
    tasks: JoinSet<StatusResponse>,
}

/// What a task hands back.
pub struct StatusResponse {
    object: ObjectKey,
    wanted: StatusWrite,
    written: Result<(), cluster::Error>,
}

impl Publisher {
    pub fn new(context: Arc<Context>, now: Instant) -> Self {
        Self {
            context,
            detector: EventDetector::default(),
            delayed: Vec::new(),
            statuses: StatusWriter::default(),
            reported: HashMap::new(),
            untargeted: HashSet::new(),
            unknown: HashMap::new(),
            started: now,
            warm: false,
            tasks: JoinSet::new(),
        }
    }

    /// Reports what became of a request.
    pub fn executed(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Triggered { restart, evicted } => {
                self.detector.triggered(&restart);
                self.context.emit_triggered(&restart, evicted.as_deref());
            }
            Outcome::Refused { restart, why } => self.context.emit_refused(&restart, &why),
            Outcome::Failed(alert) => {
                let Alert {
                    object,
                    key,
                    uid,
                    sentence,
                } = alert;
                let event = RestartEvent {
                    object,
                    workload: Some(key.clone()),
                    event: EventReason::RestartFailed,
                    sentence,
                    changed_at: None,
                };
                self.context.emit_event(&event, &HashMap::from([(&key, &*uid)]));
            }
        }
    }

    /// Reports what is wrong with an ExternalSecret for which nothing is restarted. Where restarts are disabled, what was
    /// reported of them is removed: `former` if something may have been reported that the index does not show. Nothing is
    /// reported of an object that is gone.
    pub fn report_without_restarts(&mut self, object: &ObjectKey, former: bool) {
        if former {
            self.reported.remove(object);
        }
        let time = self.context.view.time.now();
        if let Some(fault) = self.context.fault(object) {
            let report = report::report_of_fault(&fault.message);
            self.want(object, fault.said, Some(report), time);
        } else if former || self.context.reported(object).is_some() {
            self.want(object, 1, None, time);
        }
    }

    /// Requests a write of the status of an object, unless it is gone; `said` is what its status says of restarts.
    fn want(&mut self, object: &ObjectKey, said: u64, report: Option<Report>, time: Timestamp) {
        if let Some((uid, generation)) = self.context.identity(object) {
            let shown = ShownStatus {
                uid,
                generation,
                said,
            };
            self.statuses.want(object, shown, report, time);
        }
    }

    /// Reports what was decided.
    pub fn decided(
        &mut self,
        decisions: &Decisions,
        namespaces: &mut Namespaces,
        time: Timestamp,
        now: Instant,
    ) {
        self.report_events(decisions, namespaces, now);
        self.report_statuses(decisions, namespaces, time, now);
    }

    /// Begins to write the statuses that are due.
    pub fn write(&mut self, now: Instant) {
        for (object, wanted) in self.statuses.due(now) {
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let written = caught(Verb::Apply, &object, context.write_status(&object, &wanted)).await;
                StatusResponse {
                    object,
                    wanted,
                    written,
                }
            });
        }
    }

    /// The response of the next write that ends, or `None` without a write.
    pub async fn next(&mut self) -> Option<Option<StatusResponse>> {
        self.tasks.join_next().await.map(joined)
    }

    /// Follows a response.
    pub fn written(&mut self, response: StatusResponse, now: Instant) {
        let StatusResponse {
            object,
            wanted,
            written,
        } = response;
        self.statuses.done(&object, wanted, written, now);
    }

    /// When a status is due next.
    pub fn next_write(&self) -> Option<Instant> {
        self.statuses.next()
    }

    /// When decisions are reported though pods are still unknown.
    pub fn warm_up_end(&self) -> Option<Instant> {
        (!self.warm).then_some(self.started + WARM_UP)
    }

    /// Forgets what is gone.
    pub fn sweep(&mut self) {
        let objects = &self.context.view.objects;
        self.unknown
            .retain(|object, _| objects.with(object, |_| ()).is_some());
        self.reported
            .retain(|object, _| objects.with(object, |_| ()).is_some());
        self.untargeted
            .retain(|object| objects.with(object, |_| ()).is_some());
    }

    /// Events and numbers of what happened.
    fn report_events(&mut self, decisions: &Decisions, namespaces: &Namespaces, now: Instant) {
        let mut counts = report::count(decisions.states.iter());
        let halted = decisions
            .states
            .iter()
            .filter(|status| status.state == WorkloadState::Halted)
            .count();
        counts.pending = counts.pending.saturating_sub(halted);
        for (status, count) in [
            ("pending", counts.pending),
            ("in_flight", counts.in_flight),
            ("failed", counts.failed),
            ("halted", halted),
        ] {
            self.context.metrics.state(status, count);
        }
        self.measure(namespaces);
        let looking = decisions
            .states
            .iter()
            .any(|status| status.state == WorkloadState::Looking);
        self.warm |= !looking || now >= self.started + WARM_UP;
        if !self.warm {
            // A state that this process found at its start is not an event.
            return;
        }
        let mut happened = std::mem::take(&mut self.delayed);
        happened.extend(self.detector.changes(decisions));
        if happened.is_empty() {
            return;
        }
        // The halt of the others is reported after the failure, which is reported along with its record.
        let judgements = namespaces.values().flat_map(|view| &view.judgements);
        let untold: HashSet<&ObjectKey> = judgements
            .flat_map(|judgement| &judgement.notes)
            .filter(|note| note.alert.is_some())
            .map(|note| &note.object)
            .collect();
        let (held, happened): (Vec<_>, Vec<_>) = happened.into_iter().partition(|happening| {
            happening.event == EventReason::RestartHalted && untold.contains(&happening.object)
        });
        self.delayed = held;
        let judgements = namespaces.values().flat_map(|view| &view.judgements);
        let uids: HashMap<&WorkloadKey, &str> = judgements
            .map(|judgement| (&judgement.key, &*judgement.uid))
            .collect();
        for happened in &happened {
            self.context.emit_event(happened, &uids);
        }
    }

    /// What is left to do: stale pods, and until when.
    fn measure(&self, namespaces: &Namespaces) {
        let judgements = namespaces.values().flat_map(|view| &view.judgements);
        let (mut pods, mut deadline) = (0, None::<Timestamp>);
        for claim in judgements.flat_map(|judgement| &judgement.claims) {
            if claim.standing == Standing::Done {
                continue;
            }
            if let Standing::Stale(count) = claim.standing {
                pods += count;
            }
            deadline = deadline.into_iter().chain(claim.object.restarts.deadline).min();
        }
        let metrics = &self.context.metrics;
        metrics.stale_pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        metrics.deadline.set(deadline.map_or(0, Timestamp::as_second));
    }

    /// Emits an event where a report begins to name targets that stand for no workload. What the status says already, of
    /// another process, is not an event.
    fn report_targets(&mut self, object: &ObjectKey, report: &Report) {
        let is_missing = report.reason == Reason::TargetNotFound;
        if !is_missing {
            self.untargeted.remove(object);
        } else if self.untargeted.insert(object.clone())
            && self.context.reported(object) != Some(Reason::TargetNotFound)
        {
            let event = RestartEvent {
                object: object.clone(),
                workload: None,
                event: EventReason::TargetNotFound,
                sentence: report.message.clone(),
                changed_at: None,
            };
            self.context.emit_event(&event, &HashMap::new());
        }
    }

    /// Sees to the statuses of the objects of which something changed.
    fn report_statuses(
        &mut self,
        decisions: &Decisions,
        namespaces: &mut Namespaces,
        time: Timestamp,
        now: Instant,
    ) {
        let mut of: HashMap<&ObjectKey, &[WorkloadStatus]> = HashMap::new();
        for states in decisions.states.chunk_by(|a, b| a.object == b.object) {
            if let Some(first) = states.first() {
                of.insert(&first.object, states);
            }
        }
        let mut wanted: Vec<(ManagedSecret, Vec<MissingTarget>)> = Vec::new();
        for view in namespaces.values_mut() {
            let fresh = std::mem::take(&mut view.fresh);
            for secret in view.managed_secrets.iter() {
                let states = of.get(secret.key()).copied().unwrap_or_default();
                let same = self.reported.get(secret.key()).copied() == digest(states);
                if !same || fresh.contains(&secret.key().name) {
                    let missing = view.missing.get(&secret.key().name);
                    wanted.push((secret.clone(), missing.cloned().unwrap_or_default()));
                }
            }
        }
        for (secret, missing) in wanted {
            let object = secret.key();
            let states = of.get(object).copied().unwrap_or_default();
            if states.iter().any(|status| status.state == WorkloadState::Looking) {
                let since = *self.unknown.entry(object.clone()).or_insert(now);
                let reported = secret.restarts.reverted.as_ref().map(|(rollout, _)| &**rollout);
                if now < since + AWAIT_PODS && report::awaits_pods(&secret.content, states, reported) {
                    continue;
                }
            } else {
                self.unknown.remove(object);
            }
            let part = Decisions {
                states: states.to_vec(),
                objects: decisions
                    .objects
                    .get(object)
                    .map(|status| (object.clone(), status.clone()))
                    .into_iter()
                    .collect(),
                ..Decisions::default()
            };
            let report = report::report(&secret.content, &part, &missing);
            self.report_targets(object, &report);
            self.want(object, secret.restarts.said, Some(report), time);
            match digest(states) {
                Some(digest) => self.reported.insert(object.clone(), digest),
                None => self.reported.remove(object),
            };
        }
    }
}

/// A number that changes with the states; none without any.
fn digest(states: &[WorkloadStatus]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    states.hash(&mut hasher);
    (!states.is_empty()).then(|| hasher.finish())
}
