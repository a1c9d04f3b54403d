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
    apply::Looked,
    block::Word,
    memory::Memory,
    model::{Pod, Wishes, WorkloadKey},
    queue::{self, Decisions, Go, State},
    report::{self, Seen},
    say::{Statuses, Wanted},
    space::{Space, instant},
    step::{self, Step},
    target::{self, Listed, ObjectFacts, Observed, Setting, Standing, Target},
};
use crate::{
    api::ObjectKey,
    cluster::{self, Change, Changes, Class, Control},
};

/// Restarts that are carried out at once.
const AT_ONCE: usize = 32;
/// Namespaces whose pods are listed at once.
const LISTS: usize = 4;
/// Decisions are at least this far apart.
const DECISIONS: Duration = Duration::from_millis(100);
/// A decision that did not hold when its workload was read again is not repeated before.
const REST: Duration = Duration::from_secs(2);
/// A request that has not ended by then has gone astray.
const ASTRAY: Duration = Duration::from_mins(1);
/// How long the first lists of pods may take before it is told what happens.
const WARM: Duration = Duration::from_mins(1);
/// How long a status waits for what is not known yet.
const UNKNOWN: Duration = Duration::from_secs(30);
/// How often what is gone is forgotten.
const SWEEP: Duration = Duration::from_mins(5);
/// How long requests under way may take to end.
const GRACE: Duration = Duration::from_secs(15);

/// Works until `stop` completes, then lets requests under way end. Begin with complete indexes, as the leader.
pub async fn run(context: Arc<Context>, changes: Changes, stop: impl Future<Output = ()>) {
    let mut controller = Controller::new(context);
    controller.begin();
    let mut stop = std::pin::pin!(stop);
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
enum Done {
    Listed {
        namespace: Arc<str>,
        pods: Result<(Timestamp, Vec<Pod>), cluster::Error>,
    },
    Looked {
        go: Go,
        looked: Result<Option<Looked>, cluster::Error>,
    },
    Sent {
        go: Go,
        evicted: Option<Box<str>>,
        sent: Result<(), cluster::Error>,
    },
    Said {
        object: ObjectKey,
        wanted: Wanted,
        written: Result<(), cluster::Error>,
    },
}

/// How a decision is being carried out.
enum Phase {
    /// A request is under way since then.
    Busy(Instant),
    /// It did not hold; not again before.
    Resting(Instant),
}

struct Controller {
    context: Arc<Context>,
    spaces: BTreeMap<Arc<str>, Space>,
    memory: Memory,
    seen: Seen,
    phases: HashMap<WorkloadKey, Phase>,
    statuses: Statuses,
    /// What was reported last of an object, as a number of its states.
    reported: HashMap<ObjectKey, Vec<State>>,
    /// Since when something of an object is not known.
    unknown: HashMap<ObjectKey, Instant>,
    control: Option<Control>,
    tasks: JoinSet<Done>,
    lists: usize,
    undecided: bool,
    decided: Instant,
    wake: Option<Instant>,
    swept: Instant,
    started: Instant,
    warm: bool,
}

impl Controller {
    fn new(context: Arc<Context>) -> Self {
        let now = Instant::now();
        Self {
            context,
            spaces: BTreeMap::new(),
            memory: Memory::default(),
            seen: Seen::default(),
            phases: HashMap::new(),
            statuses: Statuses::default(),
            reported: HashMap::new(),
            unknown: HashMap::new(),
            control: None,
            tasks: JoinSet::new(),
            lists: 0,
            undecided: true,
            decided: now.checked_sub(DECISIONS).unwrap_or(now),
            wake: None,
            swept: now,
            started: now,
            warm: false,
        }
    }

    /// Looks at everything that the indexes hold, without pods: what rolls out is known before anything is decided.
    fn begin(&mut self) {
        let mut objects = Vec::new();
        self.context.objects.for_each(|key, indexed| {
            if indexed.entry().is_some_and(|entry| entry.restart.is_some()) {
                objects.push(key.clone());
            }
        });
        for object in objects {
            let space = self.spaces.entry(object.namespace).or_default();
            space.objects.insert(object.name);
        }
        let mut workloads = Vec::new();
        self.context.workloads.for_each(|key, _| workloads.push(key));
        for key in workloads {
            let space = self.spaces.entry(Arc::clone(&key.key.namespace)).or_default();
            space.workloads.insert(key);
        }
        let now = Instant::now();
        for space in self.spaces.values_mut() {
            space.mark_at(now);
        }
    }

    /// Notes what a change is about.
    fn learn(&mut self, change: Change) {
        let now = Instant::now();
        match change {
            Change::Ready | Change::SecretStore(_) | Change::ClusterSecretStore(_) => {}
            Change::Control => {
                for space in self.spaces.values_mut() {
                    space.mark_at(now);
                }
            }
            Change::Namespace(name) => {
                if let Some(space) = self.spaces.get_mut(&name) {
                    space.mark(now);
                }
            }
            Change::Secret(secret) => {
                if let Some(space) = self.spaces.get_mut(&secret.namespace) {
                    space.mark(now);
                }
            }
            Change::ExternalSecret(object) => self.learn_object(object, now),
            Change::Workload(kind, key) => {
                let key = WorkloadKey { kind, key };
                if self.context.workloads.get(&key).is_some() {
                    let space = self.spaces.entry(Arc::clone(&key.key.namespace)).or_default();
                    space.workloads.insert(key);
                    space.touch(now);
                } else if let Some(space) = self.spaces.get_mut(&key.key.namespace) {
                    space.forget(&key);
                    space.touch(now);
                }
            }
        }
    }

    fn learn_object(&mut self, object: ObjectKey, now: Instant) {
        let wants = self.context.objects.with(&object, |indexed| {
            indexed.entry().is_some_and(|entry| entry.restart.is_some())
        });
        if wants == Some(true) {
            let space = self.spaces.entry(object.namespace).or_default();
            space.objects.insert(object.name);
            space.mark(now);
            return;
        }
        let Some(space) = self.spaces.get_mut(&object.namespace) else {
            return;
        };
        if !space.objects.remove(&object.name) {
            return;
        }
        space.mark(now);
        self.reported.remove(&object);
        // What was said of restarts holds no more; where the object is gone there is nobody to say it to.
        if let Some(identity) = self.context.identity(&object) {
            self.statuses
                .want(&object, identity, 1, None, self.context.time.now());
        }
    }

    /// Does what is due, and says when it is to be called again at the latest.
    fn turn(&mut self) -> Instant {
        let now = Instant::now();
        self.look(now);
        if self.undecided && now >= self.decided + DECISIONS || self.wake.is_some_and(|wake| wake <= now) {
            self.decide(now);
        }
        self.list(now);
        for (object, wanted) in self.statuses.due(now) {
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let written = context.write_status(&object, &wanted).await;
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
        let spaces = self.spaces.values();
        let listing = self.lists < LISTS;
        let times = spaces.flat_map(|space| [space.due, space.list_at.filter(|_| listing)]);
        let resting = self.phases.values().map(|phase| match phase {
            Phase::Busy(since) => *since + ASTRAY,
            Phase::Resting(until) => *until,
        });
        times
            .flatten()
            .chain(self.wake)
            .chain(self.undecided.then_some(self.decided + DECISIONS))
            .chain(self.statuses.next())
            .chain(resting)
            .chain([self.swept + SWEEP])
            .chain((!self.warm).then_some(self.started + WARM))
            .min()
            .unwrap_or(now + SWEEP)
    }

    /// Looks at the namespaces that are due.
    fn look(&mut self, now: Instant) {
        if self
            .spaces
            .values()
            .all(|space| space.due.is_none_or(|due| due > now))
        {
            return;
        }
        self.control = self.context.control();
        let setting = Setting {
            now: self.context.time.now(),
            control: self.control.as_ref(),
            evict_allowed: self.context.evict_allowed,
        };
        for (namespace, space) in &mut self.spaces {
            if space.due.is_some_and(|due| due <= now) {
                space.look(&self.context, namespace, &setting, &mut self.memory, now);
                self.undecided = true;
            }
        }
    }

    /// Lists pods where it is due.
    fn list(&mut self, now: Instant) {
        for (namespace, space) in &mut self.spaces {
            if self.lists >= LISTS {
                return;
            }
            if space.list_at.is_none_or(|at| at > now) {
                continue;
            }
            space.lists(now);
            self.lists += 1;
            let (context, namespace) = (Arc::clone(&self.context), Arc::clone(namespace));
            self.tasks.spawn(async move {
                let pods = context.pods(&namespace, None).await;
                Done::Listed { namespace, pods }
            });
        }
    }

    fn decide(&mut self, now: Instant) {
        (self.undecided, self.decided, self.wake) = (false, now, None);
        let time = self.context.time.now();
        self.phases.retain(|_, phase| match phase {
            Phase::Busy(since) => now < *since + ASTRAY,
            Phase::Resting(until) => now < *until,
        });
        let spaces = self.spaces.values();
        let mut targets: Vec<Target> = spaces.flat_map(|space| space.targets.iter().cloned()).collect();
        for target in &mut targets {
            if matches!(self.phases.get(&target.key), Some(Phase::Busy(_))) {
                hold(target);
            }
        }
        let mut decisions = queue::decide(time, &self.context.limits, &targets, &self.memory);
        self.wake = decisions.wake.map(|wake| instant(wake, time, now));
        for go in std::mem::take(&mut decisions.go) {
            self.go(go, now);
        }
        self.tell(&targets, &decisions, now);
        self.report(&decisions, time, now);
    }

    /// Begins to carry a decision out.
    fn go(&mut self, go: Go, now: Instant) {
        let busy = self
            .phases
            .values()
            .filter(|phase| matches!(phase, Phase::Busy(_)));
        if self.phases.contains_key(&go.key) || busy.count() >= AT_ONCE {
            return;
        }
        self.phases.insert(go.key.clone(), Phase::Busy(now));
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let looked = context.look_again(&go.key).await;
            Done::Looked { go, looked }
        });
    }

    /// Events and numbers of what happened.
    fn tell(&mut self, targets: &[Target], decisions: &Decisions, now: Instant) {
        let mut counts = report::count(decisions.states.iter());
        let halted = decisions
            .states
            .iter()
            .filter(|state| state.word == Word::Halted)
            .count();
        counts.pending = counts.pending.saturating_sub(halted);
        for (state, count) in [
            ("pending", counts.pending),
            ("in_flight", counts.in_flight),
            ("failed", counts.failed),
            ("halted", halted),
        ] {
            self.context.metrics.state(state, count);
        }
        let looking = decisions.states.iter().any(|state| state.word == Word::Looking);
        self.warm |= !looking || now >= self.started + WARM;
        if !self.warm {
            // What stands as it did before this process began is no event.
            return;
        }
        let happened = self.seen.look(decisions);
        if happened.is_empty() {
            return;
        }
        let uids: HashMap<&WorkloadKey, &str> =
            targets.iter().map(|target| (&target.key, &*target.uid)).collect();
        for happened in &happened {
            self.context.tell(happened, &uids);
        }
    }

    /// Sees to the statuses of the objects of which something changed.
    fn report(&mut self, decisions: &Decisions, time: Timestamp, now: Instant) {
        let mut of: HashMap<&ObjectKey, &[State]> = HashMap::new();
        for states in decisions.states.chunk_by(|a, b| a.object == b.object) {
            if let Some(first) = states.first() {
                of.insert(&first.object, states);
            }
        }
        let mut wanted: Vec<ObjectFacts> = Vec::new();
        for space in self.spaces.values_mut() {
            let fresh = std::mem::take(&mut space.fresh);
            for facts in &space.facts {
                let states = of.get(facts.key()).copied().unwrap_or_default();
                let same = self.reported.get(facts.key()).map_or(&[][..], Vec::as_slice) == states;
                if fresh || !same {
                    wanted.push(facts.clone());
                }
            }
        }
        for facts in wanted {
            let object = facts.key();
            let states = of.get(object).copied().unwrap_or_default();
            if states.iter().any(|state| state.word == Word::Looking) {
                let since = *self.unknown.entry(object.clone()).or_insert(now);
                if now < since + UNKNOWN {
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
                    .map(|state| (object.clone(), state.clone()))
                    .into_iter()
                    .collect(),
                ..Decisions::default()
            };
            let report = report::report(&facts.content, &part);
            if let Some(identity) = self.context.identity(object) {
                let said = facts.restarts.said;
                self.statuses.want(object, identity, said, Some(report), time);
            }
            if states.is_empty() {
                self.reported.remove(object);
            } else {
                self.reported.insert(object.clone(), part.states);
            }
        }
    }

    fn ended(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = Instant::now();
        self.undecided = true;
        match done {
            Ok(Done::Listed { namespace, pods }) => self.listed(&namespace, pods, now),
            Ok(Done::Looked { go, looked }) => self.looked(go, looked, now),
            Ok(Done::Sent { go, evicted, sent }) => self.sent(&go, evicted.as_deref(), sent, now),
            Ok(Done::Said {
                object,
                wanted,
                written,
            }) => self.statuses.done(&object, wanted, written, now),
            // The panic's own text stays inside.
            Err(_) => tracing::error!("a request of restarts panicked; this is a bug, please report it"),
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
        if let Some(space) = self.spaces.get_mut(namespace) {
            space.listed(&self.context, pods, now);
        }
    }

    /// A workload was read again: judge again, and send.
    fn looked(&mut self, go: Go, looked: Result<Option<Looked>, cluster::Error>, now: Instant) {
        let namespace = Arc::clone(&go.key.key.namespace);
        let looked = match looked {
            Ok(Some(looked)) => looked,
            Ok(None) => return self.rest(&go, now),
            Err(error) => {
                tracing::warn!(workload = %go.key, %error, "a workload was not read before its restart; it is tried again");
                return self.rest(&go, now);
            }
        };
        let Looked {
            observed,
            workload,
            pods,
            at,
        } = looked;
        let time = self.context.time.now();
        let names: Vec<Arc<str>> = self
            .spaces
            .get(&namespace)
            .map(|space| space.objects.iter().cloned().collect())
            .unwrap_or_default();
        let facts: Vec<ObjectFacts> = names
            .into_iter()
            .filter_map(|name| self.context.facts(&ObjectKey::new(Arc::clone(&namespace), name)))
            .collect();
        let wishes: Wishes = self.context.wishes(&namespace);
        let control = self.context.control();
        let setting = Setting {
            now: time,
            control: control.as_ref(),
            evict_allowed: self.context.evict_allowed,
        };
        let seen = Observed {
            key: &go.key,
            workload: &workload,
            namespace: &wishes,
            pods: Some(Listed { pods: &pods, at }),
        };
        let fresh = target::assess(&setting, &facts, &seen, &mut self.memory);
        let step = fresh.map_or(Step::Nothing, |fresh| {
            step::step(&go, &observed.resource_version, &seen, &fresh)
        });
        let uid = workload.uid.clone();
        if let Some(space) = self.spaces.get_mut(&namespace) {
            space.keep(go.key.clone(), uid, at, pods);
        }
        let (go, evicted) = match &step {
            Step::Nothing => return self.rest(&go, now),
            Step::Patch { go, .. } => (go.clone(), None),
            Step::Evict { go, pod, .. } => (go.clone(), Some(pod.clone())),
        };
        self.memory.sending(&go, time);
        self.phases.insert(go.key.clone(), Phase::Busy(now));
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let sent = context.send(&go.key, &observed, step).await;
            Done::Sent { go, evicted, sent }
        });
    }

    fn sent(&mut self, go: &Go, evicted: Option<&str>, sent: Result<(), cluster::Error>, now: Instant) {
        self.phases.remove(&go.key);
        if let Some(space) = self.spaces.get_mut(&go.key.key.namespace) {
            space.touch(now);
        }
        let time = self.context.time.now();
        let error = match sent {
            Ok(()) => {
                self.memory.taken(go);
                self.seen.triggered(go);
                let verb = if evicted.is_some() { "evict" } else { "patch" };
                self.context.tell_triggered(go, verb, evicted);
                return;
            }
            Err(error) => error,
        };
        match &error.class {
            Class::Conflict | Class::UidMismatch | Class::NotFound | Class::AlreadyExists => {
                self.memory.conflicted(go);
            }
            Class::Disruption => self.memory.evict_later(go, time, &error.to_string()),
            Class::Throttled { .. } | Class::NotLeading | Class::Unauthorized => {
                tracing::warn!(workload = %go.key, %error, "a restart was not taken; it is tried again");
                self.memory.conflicted(go);
                self.rest(go, now);
            }
            Class::Timeout | Class::Unavailable { .. } => {
                // It may have been taken all the same: the workload will tell.
                tracing::warn!(workload = %go.key, %error, "nothing is known of a restart; it is looked at again");
            }
            Class::Forbidden
            | Class::Invalid { .. }
            | Class::FieldConflict { .. }
            | Class::TooLarge
            | Class::Expired
            | Class::Rejected { .. }
            | Class::Malformed(_) => {
                let why = format!(
                    "{error}: allow it in the operator's role, or mend the admission policy or webhook that refuses it"
                );
                tracing::warn!(workload = %go.key, %error, "a restart was refused; it is tried again later");
                let first = self.memory.refusal(&go.uid).is_none();
                self.memory.refused(go, time, &why);
                self.context.metrics.count(go.key.kind.as_str(), "refused");
                if first {
                    self.context.tell_refused(go, &why);
                }
            }
        }
    }

    /// The decision did not hold; it is not taken again at once.
    fn rest(&mut self, go: &Go, now: Instant) {
        self.phases.insert(go.key.clone(), Phase::Resting(now + REST));
        if let Some(space) = self.spaces.get_mut(&go.key.key.namespace) {
            space.touch(now);
        }
    }

    /// Forgets what is gone.
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.spaces.retain(|_, space| !space.is_empty() || space.listing);
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
        let busy = |phases: &HashMap<WorkloadKey, Phase>| {
            phases.values().any(|phase| matches!(phase, Phase::Busy(_)))
        };
        let all = async {
            while busy(&self.phases)
                && let Some(done) = self.tasks.join_next().await
            {
                match done {
                    // Nothing more begins.
                    Ok(Done::Looked { go, .. }) => {
                        self.phases.remove(&go.key);
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

/// Takes a workload whose restart is being carried out for one that rolls out, so that its slot is taken.
fn hold(target: &mut Target) {
    target.rolling = true;
    for claim in &mut target.claims {
        if matches!(claim.standing, Standing::Stale(_)) && claim.block.is_none() {
            claim.standing = Standing::Rolling;
            claim.rolling = true;
        }
    }
}
