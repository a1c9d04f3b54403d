//! Restarts at work: changes make namespaces worth a look, looks make decisions, decisions requests. One task owns all that
//! is remembered; what waits for the API server runs beside it and hands back what it saw.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Context,
    execute::{panics::caught, record_writes},
    judge::{
        memory::Memory,
        model::{Cause, Judgement, Note, Restart, Setting},
    },
    observed::{
        live::FreshWorkload,
        model::{Pod, WorkloadKey},
    },
    publish::{
        report::{EventDetector, RestartEvent, report_of_fault},
        status_writer::{StatusWrite, StatusWriter},
    },
    schedule::{
        decide,
        in_flight::RequestPhase,
        namespace::{NamespaceView, instant},
    },
    timing::{DECIDE, GRACE, REQUEST_LOST, ROLLOUTS_WAIT, SWEEP, WARM_UP},
};
use crate::{
    api::{ConditionType, ObjectKey},
    cluster::{self, Change, Changes, Control, Verb},
};

/// Namespaces whose pods are listed at once.
const LISTS: usize = 4;

/// Works until `stop` completes, then lets requests under way end. Begin with complete indexes, as the leader.
pub async fn run(context: Arc<Context>, changes: Changes, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    tokio::select! {
        biased;
        () = &mut stop => return,
        // What nobody knows of takes no part in waves, nor in what rolls out.
        known = timeout(ROLLOUTS_WAIT, context.workloads.known()) => if known.is_err() {
            tracing::warn!("Rollouts could not be listed; the restarts begin without them");
        },
    }
    let mut controller = Controller::new(context);
    controller.begin();
    loop {
        let alarm = controller.turn();
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(done) = controller.tasks.join_next(), if !controller.tasks.is_empty() => controller.ended(done),
            change = changes.next() => {
                let mut next = Some(change);
                while let Some(change) = next {
                    controller.learn(change);
                    next = changes.try_next();
                }
            }
            () = sleep_until(alarm) => {}
        }
    }
    controller.end().await;
}

/// What a task hands back.
pub(super) enum Done {
    Listed {
        namespace: Arc<str>,
        pods: Result<(Timestamp, Vec<Pod>), cluster::Error>,
    },
    Looked {
        restart: Restart,
        looked: Result<Option<FreshWorkload>, cluster::Error>,
    },
    Sent {
        restart: Restart,
        evicted: Option<Box<str>>,
        sent: Result<(), cluster::Error>,
    },
    Said {
        object: ObjectKey,
        wanted: StatusWrite,
        written: Result<(), cluster::Error>,
    },
    Recorded {
        key: WorkloadKey,
        uid: Box<str>,
        notes: Vec<Note>,
        written: Result<(), cluster::Error>,
    },
}

pub(super) struct Controller {
    pub(super) context: Arc<Context>,
    pub(super) namespaces: BTreeMap<Arc<str>, NamespaceView>,
    pub(super) memory: Memory,
    pub(super) seen: EventDetector,
    /// What happened and is told once something else is.
    pub(super) held: Vec<RestartEvent>,
    pub(super) phases: HashMap<WorkloadKey, RequestPhase>,
    /// Workloads that are being written to that they say something: not again before, or before that ends.
    pub(super) records: HashMap<WorkloadKey, Option<Instant>>,
    pub(super) record_turns: record_writes::WriteTurns,
    pub(super) statuses: StatusWriter,
    /// What was reported last of an object, as a digest of its states.
    pub(super) reported: HashMap<ObjectKey, u64>,
    /// Patches whose answers were lost, until a workload shows them or they are given up.
    pub(super) doubts: HashMap<WorkloadKey, (Restart, Instant)>,
    /// Since when something of an object is not known.
    pub(super) unknown: HashMap<ObjectKey, Instant>,
    pub(super) control: Option<Control>,
    pub(super) tasks: JoinSet<Done>,
    pub(super) lists: usize,
    pub(super) undecided: bool,
    pub(super) decided: Instant,
    /// How long the last decision took.
    pub(super) took: Duration,
    pub(super) wake: Option<Instant>,
    pub(super) swept: Instant,
    pub(super) started: Instant,
    pub(super) warm: bool,
}

impl Controller {
    fn new(context: Arc<Context>) -> Self {
        let now = Instant::now();
        Self {
            context,
            namespaces: BTreeMap::new(),
            memory: Memory::default(),
            seen: EventDetector::default(),
            held: Vec::new(),
            phases: HashMap::new(),
            records: HashMap::new(),
            record_turns: record_writes::WriteTurns::default(),
            statuses: StatusWriter::default(),
            reported: HashMap::new(),
            doubts: HashMap::new(),
            unknown: HashMap::new(),
            control: None,
            tasks: JoinSet::new(),
            lists: 0,
            undecided: true,
            decided: now.checked_sub(DECIDE.least).unwrap_or(now),
            took: Duration::ZERO,
            wake: None,
            swept: now,
            started: now,
            warm: false,
        }
    }

    /// Looks at everything that the indexes hold, without pods: what rolls out is known before anything is decided.
    fn begin(&mut self) {
        let (mut objects, mut others) = (Vec::new(), Vec::new());
        self.context.objects.for_each(|key, indexed| {
            let Some(entry) = indexed.entry() else { return };
            let reported = entry.reasons.of_condition(ConditionType::RestartsComplete);
            if entry.restart.is_some() {
                objects.push(key.clone());
            } else if entry.fault.is_some() || reported.is_some() {
                others.push(key.clone());
            }
        });
        for object in others {
            self.report_without_restarts(&object, false);
        }
        for object in objects {
            let view = self.namespaces.entry(object.namespace).or_default();
            view.objects.insert(object.name);
        }
        // Asked before the workloads are, so that none is missing where all are known.
        let now = Instant::now();
        for (namespace, view) in &mut self.namespaces {
            view.known_since = self.context.workloads.cover(namespace).then_some(now);
        }
        let mut workloads = Vec::new();
        self.context.workloads.for_each(|key, _| workloads.push(key));
        for key in workloads {
            let view = self.namespaces.entry(Arc::clone(&key.key.namespace)).or_default();
            view.workloads.insert(key);
        }
        for view in self.namespaces.values_mut() {
            view.mark_at(now);
        }
    }

    /// Tells of a restart whose answer was lost, if the workload shows that it was taken.
    pub(super) fn resolve(&mut self, key: &WorkloadKey, now: Instant) {
        let Some((restart, since)) = self.doubts.remove(key) else {
            return;
        };
        let known = self.context.workloads.get(key);
        let taken = known
            .as_deref()
            .and_then(Option::as_deref)
            .is_some_and(|workload| {
                let shows = |cause: &Cause| {
                    let stamp = &cause.stamp;
                    workload.records.get(&stamp.hash) == Some(&stamp.record)
                };
                workload.uid == restart.uid && restart.causes.iter().all(shows)
            });
        if taken {
            self.memory.taken(&restart, self.context.time.now());
            self.seen.triggered(&restart);
            self.context.tell_triggered(&restart, "patch", None);
        } else if now < since + REQUEST_LOST {
            self.doubts.insert(key.clone(), (restart, since));
        }
    }

    /// Notes what a change is about.
    fn learn(&mut self, change: Change) {
        let now = Instant::now();
        match change {
            Change::Ready | Change::SecretStore(_) | Change::ClusterSecretStore(_) => {}
            Change::Control => {
                for view in self.namespaces.values_mut() {
                    view.mark_at(now);
                }
            }
            Change::Namespace(name) | Change::Covered(name) => {
                if let Some(view) = self.namespaces.get_mut(&name) {
                    view.mark(now);
                }
            }
            Change::Secret(secret) => {
                if let Some(view) = self.namespaces.get_mut(&secret.namespace) {
                    view.mark(now);
                }
            }
            Change::ExternalSecret(object) => self.learn_object(object, now),
            Change::Workload(kind, key) => {
                let key = WorkloadKey { kind, key };
                self.resolve(&key, now);
                if self.context.workloads.get(&key).is_some() {
                    let view = self.namespaces.entry(Arc::clone(&key.key.namespace)).or_default();
                    view.touch(&key, now);
                    view.workloads.insert(key);
                } else if let Some(view) = self.namespaces.get_mut(&key.key.namespace) {
                    view.forget(&key);
                    view.touch(&key, now);
                }
            }
        }
    }

    fn learn_object(&mut self, object: ObjectKey, now: Instant) {
        let wants = self.context.objects.with(&object, |indexed| {
            indexed.entry().is_some_and(|entry| entry.restart.is_some())
        });
        if wants == Some(true) {
            let view = self.namespaces.entry(object.namespace).or_default();
            view.objects.insert(object.name);
            view.mark(now);
            return;
        }
        let view = self.namespaces.get_mut(&object.namespace);
        let removed = view.is_some_and(|view| {
            let removed = view.objects.remove(&object.name);
            if removed {
                view.mark(now);
            }
            removed
        });
        if removed {
            self.reported.remove(&object);
        }
        self.report_without_restarts(&object, removed);
    }

    /// Reports what is wrong with an ExternalSecret for which nothing is restarted. What was said of restarts holds no more
    /// where they are disabled: `former` if something may have been said that the index does not show. Where the object is gone
    /// there is nobody to say it to.
    fn report_without_restarts(&mut self, object: &ObjectKey, former: bool) {
        let Some(identity) = self.context.identity(object) else {
            return;
        };
        let time = self.context.time.now();
        if let Some(fault) = self.context.fault(object) {
            let report = report_of_fault(&fault.message);
            self.statuses
                .want(object, identity, fault.said, Some(report), time);
        } else if former || self.context.reported(object).is_some() {
            self.statuses.want(object, identity, 1, None, time);
        }
    }

    /// Does what is due, and says when it is to be called again at the latest.
    fn turn(&mut self) -> Instant {
        let now = Instant::now();
        self.look(now);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if now >= self.decide_at() && (self.undecided || is_due(self.wake) || is_due(self.phases_end())) {
            self.decide(now);
        }
        self.list(now);
        for (object, wanted) in self.statuses.due(now) {
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let written = caught(Verb::Apply, &object, context.write_status(&object, &wanted)).await;
                Done::Said {
                    object,
                    wanted,
                    written,
                }
            });
        }
        if now >= self.swept + SWEEP {
            self.sweep(now);
        }
        let namespaces = self.namespaces.values();
        let listing = self.lists < LISTS;
        let times = namespaces.flat_map(|view| [view.next_look(), view.list_at.filter(|_| listing)]);
        let decide_at = self.decide_at();
        let decisions = [self.undecided.then_some(decide_at), self.wake, self.phases_end()];
        let alarm = times
            .flatten()
            .chain(decisions.into_iter().flatten().map(|at| at.max(decide_at)))
            .chain(self.statuses.next())
            .fold(self.swept + SWEEP, Instant::min);
        // What is due is done: a time that has come would come again and again.
        debug_assert!(alarm > now, "the turn spins");
        alarm
    }

    /// When it may be decided again.
    fn decide_at(&self) -> Instant {
        self.decided + DECIDE.after(self.took)
    }

    /// When a phase ends by time alone, or the time of warming up.
    fn phases_end(&self) -> Option<Instant> {
        let phases = self.phases.values().filter_map(RequestPhase::end);
        let phases = phases.chain(self.records.values().copied().flatten());
        phases.chain((!self.warm).then_some(self.started + WARM_UP)).min()
    }

    /// Looks at the namespaces that are due.
    fn look(&mut self, now: Instant) {
        let is_due = |view: &NamespaceView| view.next_look().is_some_and(|due| due <= now);
        if !self.namespaces.values().any(is_due) {
            return;
        }
        self.control = self.context.control();
        let setting = Setting {
            now: self.context.time.now(),
            control: self.control.as_ref(),
            evict_allowed: self.context.evict_allowed,
        };
        for (namespace, view) in &mut self.namespaces {
            if is_due(view) {
                view.look(&self.context, namespace, &setting, &mut self.memory, now);
                self.phases.retain(|key, phase| {
                    !(matches!(phase, RequestPhase::Answered) && key.key.namespace == *namespace)
                });
                self.undecided = true;
            }
        }
    }

    /// Lists pods where it is due.
    fn list(&mut self, now: Instant) {
        let namespaces = self.namespaces.iter_mut();
        let mut due: Vec<_> = namespaces
            .filter_map(|(namespace, view)| Some((view.list_at.filter(|at| *at <= now)?, namespace, view)))
            .collect();
        due.sort_by_key(|(at, ..)| *at);
        for (_, namespace, view) in due.into_iter().take(LISTS.saturating_sub(self.lists)) {
            view.lists();
            self.lists += 1;
            let (context, namespace) = (Arc::clone(&self.context), Arc::clone(namespace));
            self.tasks.spawn(async move {
                let all = ObjectKey::new(Arc::clone(&namespace), "");
                let pods = caught(Verb::List, &all, context.pods(&namespace, None)).await;
                Done::Listed { namespace, pods }
            });
        }
    }

    fn decide(&mut self, now: Instant) {
        (self.undecided, self.decided, self.wake) = (false, now, None);
        let time = self.context.time.now();
        self.phases
            .retain(|_, phase| phase.end().is_none_or(|end| now < end));
        let namespaces = self.namespaces.values();
        let (busy, others): (Vec<&Judgement>, Vec<&Judgement>) = namespaces
            .flat_map(|view| &view.judgements)
            .partition(|judgement| self.phases.contains_key(&judgement.key));
        let busy: Vec<Judgement> = busy
            .into_iter()
            .filter_map(|judgement| Some(self.phases.get(&judgement.key)?.seen(judgement, time, now)))
            .collect();
        let judgements: Vec<&Judgement> = others.into_iter().chain(&busy).collect();
        let mut decisions = decide::decide(time, &self.context.limits, &judgements, &mut self.memory);
        self.wake = decisions.wake.map(|wake| instant(wake, time, now));
        for restart in std::mem::take(&mut decisions.restarts) {
            self.start(restart, now);
        }
        self.record(now);
        self.tell(&decisions, now);
        self.report(&decisions, time, now);
        self.took = now.elapsed();
    }

    fn ended(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = Instant::now();
        self.undecided = true;
        match done {
            Ok(Done::Listed { namespace, pods }) => self.listed(&namespace, pods, now),
            Ok(Done::Looked { restart, looked }) => self.looked(restart, looked, now),
            Ok(Done::Sent {
                restart,
                evicted,
                sent,
            }) => self.sent(&restart, evicted.as_deref(), sent, now),
            Ok(Done::Said {
                object,
                wanted,
                written,
            }) => self.statuses.done(&object, wanted, written, now),
            Ok(Done::Recorded {
                key,
                uid,
                notes,
                written,
            }) => self.recorded(&key, &uid, &notes, written, now),
            // Panics are caught in the task, and nobody aborts it.
            Err(_) => tracing::error!("a request of restarts was lost; this is a bug, please report it"),
        }
    }

    fn listed(
        &mut self,
        namespace: &Arc<str>,
        pods: Result<(Timestamp, Vec<Pod>), cluster::Error>,
        now: Instant,
    ) {
        self.lists = self.lists.saturating_sub(1);
        let pods = pods
            .inspect_err(|error| tracing::warn!(%error, "pods were not listed; it is tried again"))
            .ok();
        if let Some(view) = self.namespaces.get_mut(namespace) {
            view.listed(&self.context, namespace, pods, now);
        }
    }

    /// Forgets what is gone.
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.namespaces.retain(|_, view| !view.is_empty() || view.listing);
        self.doubts.retain(|_, (_, since)| now < *since + REQUEST_LOST);
        let namespaces = &self.namespaces;
        self.phases.retain(|key, phase| {
            !matches!(phase, RequestPhase::Answered) || namespaces.contains_key(&key.key.namespace)
        });
        let mut uids: HashSet<Box<str>> = HashSet::new();
        self.context.workloads.for_each(|_, workload| {
            uids.insert(workload.uid.clone());
        });
        let objects = &self.context.objects;
        self.memory.retain(
            |uid| uids.contains(uid),
            |object| objects.with(object, |_| ()).is_some(),
        );
        self.unknown
            .retain(|object, _| objects.with(object, |_| ()).is_some());
        self.reported
            .retain(|object, _| objects.with(object, |_| ()).is_some());
    }

    /// Lets requests that change something end.
    async fn end(mut self) {
        let busy = |controller: &Self| {
            let mut phases = controller.phases.values();
            phases.any(|phase| matches!(phase, RequestPhase::Busy(_)))
                || controller.records.values().any(Option::is_none)
        };
        let all = async {
            while busy(&self)
                && let Some(done) = self.tasks.join_next().await
            {
                match done {
                    // Nothing more begins.
                    Ok(Done::Looked { restart, .. }) => {
                        self.phases.remove(&restart.key);
                    }
                    done => self.ended(done),
                }
            }
        };
        if timeout(GRACE, all).await.is_err() {
            tracing::warn!("some restarts did not end in time; the next leader sees what became of them");
        }
    }
}
