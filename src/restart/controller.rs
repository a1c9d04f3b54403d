//! The loop of restarts: changes mark namespaces, namespaces are judged, decisions follow from judgements, requests and reports
//! from decisions. One task owns all that is remembered; requests run in tasks beside it and hand back what they saw.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    execute::{
        carry_out::{Executor, LoopState, Response},
        panics::{caught, joined},
    },
    judge::{memory::Memory, model::Setting},
    observed::{
        Context,
        model::{Pod, WorkloadKey},
    },
    publish::{log_approval, publisher::Publisher},
    schedule::{
        decide,
        namespace::{Assessor, NamespaceView, Namespaces, WorkloadCoverage, instant},
    },
    timing::{DECIDE, GRACE, ROLLOUTS_WAIT, SWEEP},
};
use crate::{
    api::{ConditionType, ObjectKey},
    cluster::{self, Change, Changes, Verb},
};

/// Namespaces whose pods are listed at once.
const LISTS: usize = 4;

/// Works until `stop` completes, then lets requests under way end. Begin with complete indexes, as the leader.
pub async fn run(context: Arc<Context>, changes: Changes, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    tokio::select! {
        biased;
        () = &mut stop => return,
        // A workload that is not known takes no part in waves, nor in the count of what rolls out.
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
            Some(done) = controller.executor.next() => controller.executed(done),
            Some(done) = controller.lists.join_next() => controller.listed(done),
            Some(done) = controller.publisher.next() => {
                controller.undecided = true;
                if let Some(response) = done {
                    controller.publisher.written(response, Instant::now());
                }
            }
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

/// The pods of a namespace, and a time before they were listed.
struct PodsListed {
    namespace: Arc<str>,
    pods: Result<(Timestamp, Vec<Pod>), cluster::Error>,
}

struct Controller {
    context: Arc<Context>,
    namespaces: Namespaces,
    memory: Memory,
    executor: Executor,
    publisher: Publisher,
    lists: JoinSet<PodsListed>,
    undecided: bool,
    decided: Instant,
    /// How long the last decision took.
    took: Duration,
    wake: Option<Instant>,
    swept: Instant,
}

impl Controller {
    fn new(context: Arc<Context>) -> Self {
        let now = Instant::now();
        Self {
            executor: Executor::new(Arc::clone(&context)),
            publisher: Publisher::new(Arc::clone(&context), now),
            context,
            namespaces: BTreeMap::new(),
            memory: Memory::default(),
            lists: JoinSet::new(),
            undecided: true,
            decided: now.checked_sub(DECIDE.least).unwrap_or(now),
            took: Duration::ZERO,
            wake: None,
            swept: now,
        }
    }

    /// Looks at everything that the indexes hold, without pods: what rolls out is known before anything is decided.
    fn begin(&mut self) {
        let (mut objects, mut others) = (Vec::new(), Vec::new());
        self.context.view.objects.for_each(|key, indexed| {
            let Some(entry) = indexed.entry() else { return };
            let reported = entry.status.reasons.of_condition(ConditionType::RestartsComplete);
            if entry.restart.is_some() {
                objects.push(key.clone());
            } else if entry.fault.is_some() || reported.is_some() {
                others.push(key.clone());
            }
        });
        for object in others {
            self.publisher.report_without_restarts(&object, false);
        }
        for object in objects {
            let view = self.namespaces.entry(object.namespace).or_default();
            view.objects.insert(object.name);
        }
        // Asked before the workloads are, so that none is missing where all are known.
        let now = Instant::now();
        for (namespace, view) in &mut self.namespaces {
            if self.context.workloads.cover(namespace) {
                view.coverage = WorkloadCoverage::Complete;
            }
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
            Change::Secret(secret) | Change::OwnSecret(secret) => {
                if let Some(view) = self.namespaces.get_mut(&secret.namespace) {
                    view.mark(now);
                }
            }
            Change::ExternalSecret(object) => self.learn_object(object, now),
            Change::Workload(kind, key) => {
                let key = WorkloadKey { kind, key };
                let resolved = self.executor.resolve(&key, &mut self.memory, now);
                if let Some(outcome) = resolved {
                    self.publisher.executed(outcome);
                }
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
        let wants = self.context.view.objects.with(&object, |indexed| {
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
        self.publisher.report_without_restarts(&object, removed);
    }

    /// Does what is due, and returns when it is to be called again at the latest.
    fn turn(&mut self) -> Instant {
        let now = Instant::now();
        self.judge(now);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if now >= self.decide_at() && (self.undecided || is_due(self.wake) || is_due(self.phases_end())) {
            self.decide(now);
        }
        self.list(now);
        self.publisher.write(now);
        if now >= self.swept + SWEEP {
            self.sweep(now);
        }
        let namespaces = self.namespaces.values();
        let listing = self.lists.len() < LISTS;
        let times = namespaces.flat_map(|view| [view.next_look(), view.next_list().filter(|_| listing)]);
        let decide_at = self.decide_at();
        let decisions = [self.undecided.then_some(decide_at), self.wake, self.phases_end()];
        let alarm = times
            .flatten()
            .chain(decisions.into_iter().flatten().map(|at| at.max(decide_at)))
            .chain(self.publisher.next_write())
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
        let ends = self.executor.next_end().into_iter();
        ends.chain(self.publisher.warm_up_end()).min()
    }

    /// Judges the namespaces that are due.
    fn judge(&mut self, now: Instant) {
        let is_due = |view: &NamespaceView| view.next_look().is_some_and(|due| due <= now);
        if !self.namespaces.values().any(is_due) {
            return;
        }
        let control = self.context.control();
        let setting = Setting {
            now: self.context.view.time.now(),
            control: control.as_ref(),
            evict_allowed: self.context.evict_allowed,
        };
        let mut assessor = Assessor {
            context: &self.context,
            setting: &setting,
            memory: &mut self.memory,
        };
        for (namespace, view) in &mut self.namespaces {
            if is_due(view) {
                let approved = view.judge(namespace, &mut assessor, now);
                approved.iter().for_each(log_approval);
                self.executor.in_flight.judged(namespace);
                self.undecided = true;
            }
        }
    }

    /// Lists pods where it is due.
    fn list(&mut self, now: Instant) {
        let namespaces = self.namespaces.iter_mut();
        let mut due: Vec<_> = namespaces
            .filter_map(|(namespace, view)| {
                Some((view.next_list().filter(|at| *at <= now)?, namespace, view))
            })
            .collect();
        due.sort_by_key(|(at, ..)| *at);
        for (_, namespace, view) in due.into_iter().take(LISTS.saturating_sub(self.lists.len())) {
            view.lists();
            let (context, namespace) = (Arc::clone(&self.context), Arc::clone(namespace));
            self.lists.spawn(async move {
                let all = ObjectKey::new(Arc::clone(&namespace), "");
                let pods = caught(Verb::List, &all, context.pods(&namespace, None)).await;
                PodsListed { namespace, pods }
            });
        }
    }

    fn decide(&mut self, now: Instant) {
        (self.undecided, self.decided, self.wake) = (false, now, None);
        let time = self.context.view.time.now();
        self.executor.in_flight.expire(now);
        let judgements = self.namespaces.values().flat_map(|view| &view.judgements);
        let (busy, mut judgements) = self.executor.in_flight.split(judgements, time, now);
        judgements.extend(&busy);
        let mut decisions = decide::decide(time, &self.context.limits, &judgements, &mut self.memory);
        self.wake = decisions.wake.map(|wake| instant(wake, time, now));
        for restart in std::mem::take(&mut decisions.restarts) {
            self.executor.start(restart, now);
        }
        self.executor.write_notes(&self.namespaces, now);
        self.publisher
            .decided(&decisions, &mut self.namespaces, time, now);
        self.took = now.elapsed();
    }

    /// Follows the response to a request.
    fn executed(&mut self, response: Option<Response>) {
        self.undecided = true;
        let Some(response) = response else { return };
        let mut state = LoopState {
            namespaces: &mut self.namespaces,
            memory: &mut self.memory,
            now: Instant::now(),
        };
        let outcomes = self.executor.ended(response, &mut state);
        for outcome in outcomes {
            self.publisher.executed(outcome);
        }
    }

    fn listed(&mut self, done: Result<PodsListed, JoinError>) {
        self.undecided = true;
        let Some(PodsListed { namespace, pods }) = joined(done) else {
            return;
        };
        let pods = pods
            .inspect_err(|error| tracing::warn!(%error, "pods were not listed; it is tried again"))
            .ok();
        if let Some(view) = self.namespaces.get_mut(&namespace) {
            view.listed(&self.context, &namespace, pods, Instant::now());
        }
    }

    /// Forgets what is gone.
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.namespaces
            .retain(|_, view| !view.is_empty() || view.is_listing());
        self.executor.sweep(&self.namespaces, now);
        let mut uids: HashSet<Box<str>> = HashSet::new();
        self.context.workloads.for_each(|_, workload| {
            uids.insert(workload.uid.clone());
        });
        let objects = &self.context.view.objects;
        self.memory.retain(
            |uid| uids.contains(uid),
            |object| objects.with(object, |_| ()).is_some(),
        );
        self.publisher.sweep();
    }

    /// Lets requests that change something end.
    async fn end(mut self) {
        self.executor.stop();
        let all = async {
            while self.executor.is_busy()
                && let Some(done) = self.executor.next().await
            {
                self.executed(done);
            }
        };
        if timeout(GRACE, all).await.is_err() {
            tracing::warn!("some restarts did not end in time; the next leader sees what became of them");
        }
    }
}
