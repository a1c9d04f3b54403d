//! Carrying restarts out: one at a time for a workload, each judged again right before its request.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use super::{
    panics::{caught, joined},
    record_writes::{Alert, NoteWrite, RecordWriter},
    step::{self, Step},
};
use crate::{
    cluster::{self, Class, Verb},
    restart::{
        judge::{
            assess,
            memory::Memory,
            model::{Cause, ObservedWorkload, PodList, Restart, Setting},
        },
        observed::{
            Context,
            live::FreshWorkload,
            managed_secrets::ManagedSecrets,
            model::{Annotations, Pod, WorkloadKey},
        },
        schedule::{
            in_flight::{InFlight, RequestPhase},
            namespace::Namespaces,
        },
        timing::REQUEST_LOST,
    },
};

/// Restarts that are carried out at once.
const AT_ONCE: usize = 32;

/// Carries out what was decided, and writes the notes of workloads.
pub struct Executor {
    context: Arc<Context>,
    pub in_flight: InFlight,
    /// Patches whose answers were lost, until a workload shows them or they are given up.
    doubts: HashMap<WorkloadKey, (Restart, Instant)>,
    records: RecordWriter,
    tasks: JoinSet<Response>,
    stopping: bool,
}

/// What a task hands back.
pub enum Response {
    Read {
        restart: Restart,
        fresh: Result<Option<Box<FreshWorkload>>, cluster::Error>,
    },
    Sent {
        restart: Restart,
        evicted: Option<Box<str>>,
        sent: Result<(), cluster::Error>,
    },
    Noted {
        due: NoteWrite,
        written: Result<(), cluster::Error>,
    },
}

/// What the loop of restarts lends while a response is followed.
pub struct LoopState<'a> {
    pub namespaces: &'a mut Namespaces,
    pub memory: &'a mut Memory,
    pub now: Instant,
}

/// What became of a request, for people.
pub enum Outcome {
    /// The API server took it: the patch of the workload, or the eviction of this pod.
    Triggered {
        restart: Restart,
        evicted: Option<Box<str>>,
    },
    /// It was refused.
    Refused { restart: Restart, why: String },
    /// A rollout failed.
    Failed(Alert),
}

impl Executor {
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            in_flight: InFlight::default(),
            doubts: HashMap::new(),
            records: RecordWriter::default(),
            tasks: JoinSet::new(),
            stopping: false,
        }
    }

    /// Begins to carry a decision out.
    pub fn start(&mut self, restart: Restart, now: Instant) {
        if self.in_flight.contains(&restart.key) || self.in_flight.busy() >= AT_ONCE {
            return;
        }
        self.in_flight.set(&restart.key, RequestPhase::Busy(now));
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let fresh = caught(Verb::Get, &restart.key.key, context.read_fresh(&restart.key)).await;
            Response::Read { restart, fresh }
        });
    }

    /// Begins to write the notes of workloads that are due.
    pub fn write_notes(&mut self, namespaces: &Namespaces, now: Instant) {
        let judgements = namespaces.values().flat_map(|view| &view.judgements);
        let idle = judgements.filter(|judgement| !self.in_flight.contains(&judgement.key));
        for due in self.records.due(idle, now) {
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let written = context.write_notes(&due.key, &due.uid, &due.notes);
                let written = caught(Verb::Patch, &due.key.key, written).await;
                Response::Noted { due, written }
            });
        }
    }

    /// The response of the next task that ends, or `None` without a task.
    pub async fn next(&mut self) -> Option<Option<Response>> {
        self.tasks.join_next().await.map(joined)
    }

    /// Follows a response.
    pub fn ended(&mut self, response: Response, state: &mut LoopState<'_>) -> Vec<Outcome> {
        match response {
            // Nothing more begins.
            Response::Read { restart, .. } if self.stopping => {
                self.in_flight.remove(&restart.key);
                Vec::new()
            }
            Response::Read { restart, fresh } => {
                self.send(&restart, fresh, state);
                Vec::new()
            }
            Response::Sent {
                restart,
                evicted,
                sent,
            } => {
                let outcome = self.sent(restart, evicted, sent, state);
                outcome.into_iter().collect()
            }
            Response::Noted { due, written } => {
                let Some(alerts) = self.records.written(&due, written, state.memory, state.now) else {
                    return Vec::new();
                };
                if let Some(view) = state.namespaces.get_mut(&due.key.key.namespace) {
                    view.forget_notes(&due.key);
                    view.touch(&due.key, state.now);
                }
                alerts.into_iter().map(Outcome::Failed).collect()
            }
        }
    }

    /// A workload was read again: judges it again, and sends what is left of the restart.
    fn send(
        &mut self,
        restart: &Restart,
        fresh: Result<Option<Box<FreshWorkload>>, cluster::Error>,
        state: &mut LoopState<'_>,
    ) {
        let fresh = match fresh {
            Ok(Some(fresh)) => fresh,
            Ok(None) => return self.rest(restart, state),
            Err(error) => {
                tracing::warn!(workload = %restart.key, %error, "a workload was not read before its restart; it is tried again");
                return self.rest(restart, state);
            }
        };
        let control = match &fresh.control {
            Ok(control) => control.as_ref(),
            Err(error) => {
                tracing::warn!(workload = %restart.key, %error, "a workload is not restarted before keyturn-control is read; it is tried again");
                self.rest(restart, state);
                return self.in_flight.blinded(&restart.key, error);
            }
        };
        let setting = Setting {
            now: self.context.view.time.now(),
            control,
            evict_allowed: self.context.evict_allowed,
        };
        let step = self.judge_again(restart, &fresh, &setting, state);
        let time = setting.now;
        let FreshWorkload {
            base,
            workload,
            pods,
            at,
            ..
        } = *fresh;
        if let Some(view) = state.namespaces.get_mut(&restart.key.key.namespace) {
            view.keep(restart.key.clone(), workload.uid, at, pods);
        }
        let (restart, evicted) = match &step {
            Step::Nothing => return self.rest(restart, state),
            Step::Patch { restart, .. } => (restart.clone(), None),
            Step::Evict { restart, pod, .. } => (restart.clone(), Some(pod.clone())),
        };
        state.memory.sending(&restart, time);
        self.in_flight.set(&restart.key, RequestPhase::Busy(state.now));
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let sent = context.send(&restart.key, &base.uid, step);
            let sent = caught(Verb::Patch, &restart.key.key, sent).await;
            Response::Sent {
                restart,
                evicted,
                sent,
            }
        });
    }

    /// What is to be done for a restart, by the workload as it is now and the ExternalSecrets as the indexes have them now.
    fn judge_again(
        &self,
        restart: &Restart,
        fresh: &FreshWorkload,
        setting: &Setting<'_>,
        state: &mut LoopState<'_>,
    ) -> Step {
        let FreshWorkload {
            base,
            workload,
            pods,
            at,
            ..
        } = fresh;
        let namespace = &restart.key.key.namespace;
        let concerning = state
            .namespaces
            .get(namespace)
            .map(|view| view.managed_secrets.concerning(workload))
            .unwrap_or_default();
        let current = concerning
            .into_iter()
            .filter_map(|secret| self.context.managed_secret(secret.key()));
        let secrets = ManagedSecrets::new(current.collect());
        let annotations: Annotations = self.context.namespace_annotations(namespace);
        let own: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let seen = ObservedWorkload {
            key: &restart.key,
            workload,
            namespace: &annotations,
            pods: Some(PodList { pods: &own, at: *at }),
        };
        let judge = || {
            let fresh = assess::assess(setting, &secrets, &seen, state.memory);
            fresh.map_or(Step::Nothing, |fresh| step::step(restart, base, &seen, &fresh))
        };
        catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|_| {
            tracing::error!(workload = %restart.key, %namespace, "judging a workload panicked; this is a bug, please report it");
            Step::Nothing
        })
    }

    /// A request was answered, or its answer was lost.
    fn sent(
        &mut self,
        restart: Restart,
        evicted: Option<Box<str>>,
        sent: Result<(), cluster::Error>,
        state: &mut LoopState<'_>,
    ) -> Option<Outcome> {
        self.doubts.remove(&restart.key);
        // What is remembered of the request must be seen before anything else is decided: it holds a slot.
        self.in_flight.set(&restart.key, RequestPhase::Answered);
        if let Some(view) = state.namespaces.get_mut(&restart.key.key.namespace) {
            view.touch(&restart.key, state.now);
        }
        let time = self.context.view.time.now();
        let Err(error) = sent else {
            state.memory.taken(&restart, time);
            return Some(Outcome::Triggered { restart, evicted });
        };
        match &error.class {
            Class::Conflict | Class::UidMismatch | Class::NotFound | Class::AlreadyExists => {
                state.memory.conflicted(&restart);
                self.rest(&restart, state);
            }
            Class::Disruption => state.memory.evict_later(&restart, time, &error.to_string()),
            Class::Throttled { .. } | Class::NotLeading | Class::Unauthorized => {
                tracing::warn!(workload = %restart.key, %error, "a restart was not taken; it is tried again");
                state.memory.conflicted(&restart);
                self.rest(&restart, state);
            }
            Class::Timeout | Class::Unavailable { .. } => {
                // The API server may have taken it all the same: the workload will show it.
                tracing::warn!(workload = %restart.key, %error, "nothing is known of a restart; it is looked at again");
                state.memory.doubted(&restart, time, &error.to_string());
                if evicted.is_none() {
                    let key = restart.key.clone();
                    self.doubts.insert(key.clone(), (restart, state.now));
                    return self.resolve(&key, state.memory, state.now);
                }
            }
            Class::Forbidden
            | Class::Refused(_)
            | Class::Invalid { .. }
            | Class::FieldConflict { .. }
            | Class::TooLarge
            | Class::Expired
            | Class::Rejected { .. }
            | Class::Malformed(_) => {
                let why = match &error.class {
                    Class::Refused(refuser) => {
                        format!("{error}. {}", refuser.advice(&restart.key.key.namespace))
                    }
                    Class::Forbidden => format!("{error}. Allow it in the operator's role"),
                    _ => format!(
                        "{error}. Correct the workload, or the admission policy or webhook that changes it"
                    ),
                };
                tracing::warn!(workload = %restart.key, %error, "a restart was refused; it is tried again later");
                let first = !state.memory.was_refused(&restart.uid);
                state.memory.refused(&restart, time, &why);
                self.context.metrics.count(restart.key.kind.as_str(), "refused");
                return first.then_some(Outcome::Refused { restart, why });
            }
        }
        None
    }

    /// Reports a restart whose answer was lost, if the workload shows that it was taken.
    pub fn resolve(&mut self, key: &WorkloadKey, memory: &mut Memory, now: Instant) -> Option<Outcome> {
        let (restart, since) = self.doubts.remove(key)?;
        let known = self.context.workloads.get(key);
        let workload = known.as_deref().and_then(Option::as_deref);
        let taken = workload.is_some_and(|workload| {
            let shows = |cause: &Cause| {
                let stamp = &cause.stamp;
                workload.stamps.records.get(&stamp.hash) == Some(&stamp.record)
            };
            workload.uid == restart.uid && restart.causes.iter().all(shows)
        });
        if taken {
            memory.taken(&restart, self.context.view.time.now());
            return Some(Outcome::Triggered {
                restart,
                evicted: None,
            });
        }
        if now < since + REQUEST_LOST {
            self.doubts.insert(key.clone(), (restart, since));
        }
        None
    }

    /// The decision did not hold; it is not taken again at once.
    fn rest(&mut self, restart: &Restart, state: &mut LoopState<'_>) {
        let wait = Duration::try_from(state.memory.rest(&restart.uid)).unwrap_or_default();
        self.in_flight
            .set(&restart.key, RequestPhase::Resting(state.now + wait));
        if let Some(view) = state.namespaces.get_mut(&restart.key.key.namespace) {
            view.touch(&restart.key, state.now);
        }
    }

    /// Whether requests that change something are under way.
    pub fn is_busy(&self) -> bool {
        self.in_flight.busy() > 0 || self.records.is_busy()
    }

    /// From now on no request begins.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// When something ends by time alone.
    pub fn next_end(&self) -> Option<Instant> {
        self.in_flight
            .next_end()
            .into_iter()
            .chain(self.records.next_end())
            .min()
    }

    /// Forgets what is gone.
    pub fn sweep(&mut self, namespaces: &Namespaces, now: Instant) {
        self.doubts.retain(|_, (_, since)| now < *since + REQUEST_LOST);
        self.in_flight
            .sweep(|namespace| namespaces.contains_key(namespace));
    }
}
