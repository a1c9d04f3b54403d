//! Carrying decisions out: one at a time for a workload, each judged again right before its request.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    requests::Looked,
    step::{self, Step},
};
use crate::{
    cluster::{self, Class, Verb},
    restart::{
        controller::{Controller, Done},
        judge::assess::{self, Listed, Observed, Setting},
        observed::{
            managed_secrets::Facts,
            model::{Pod, Wishes},
        },
        schedule::{
            decide::Go,
            in_flight::{Phase, caught},
        },
    },
};

/// Restarts that are carried out at once.
const AT_ONCE: usize = 32;

impl Controller {
    /// Begins to carry a decision out.
    pub(in crate::restart) fn go(&mut self, go: Go, now: Instant) {
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
            let looked = caught(Verb::Get, &go.key.key, context.look_again(&go.key)).await;
            Done::Looked { go, looked }
        });
    }

    /// A workload was read again: judge again, and send.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "handed over by the task that carried it"
    )]
    pub(in crate::restart) fn looked(
        &mut self,
        go: Go,
        looked: Result<Option<Looked>, cluster::Error>,
        now: Instant,
    ) {
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
            control,
        } = looked;
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                tracing::warn!(workload = %go.key, %error, "a workload is not restarted before keyturn-control is read; it is tried again");
                self.rest(&go, now);
                if let Some(phase) = self.phases.get_mut(&go.key) {
                    phase.blinded(&error);
                }
                return;
            }
        };
        let time = self.context.time.now();
        let space = self.spaces.get(&namespace);
        let concerning = space
            .map(|space| space.facts.concerning(&workload))
            .unwrap_or_default();
        let facts = concerning
            .into_iter()
            .filter_map(|facts| self.context.facts(facts.key()));
        let facts = Facts::new(facts.collect());
        let wishes: Wishes = self.context.wishes(&namespace);
        let setting = Setting {
            now: time,
            control: control.as_ref(),
            evict_allowed: self.context.evict_allowed,
        };
        let own: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let seen = Observed {
            key: &go.key,
            workload: &workload,
            namespace: &wishes,
            pods: Some(Listed { pods: &own, at }),
        };
        let judge = || {
            let fresh = assess::assess(&setting, &facts, &seen, &mut self.memory);
            fresh.map_or(Step::Nothing, |fresh| {
                step::step(&go, &observed.resource_version, &seen, &fresh)
            })
        };
        let step = catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|_| {
            tracing::error!(workload = %go.key, %namespace, "judging a workload panicked; this is a bug, please report it");
            Step::Nothing
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
            let sent = caught(Verb::Patch, &go.key.key, context.send(&go.key, &observed, step)).await;
            Done::Sent { go, evicted, sent }
        });
    }

    pub(in crate::restart) fn sent(
        &mut self,
        go: &Go,
        evicted: Option<&str>,
        sent: Result<(), cluster::Error>,
        now: Instant,
    ) {
        self.doubts.remove(&go.key);
        // What is remembered of the request must be seen before anything else is decided: it holds a slot.
        self.phases.insert(go.key.clone(), Phase::Answered);
        if let Some(space) = self.spaces.get_mut(&go.key.key.namespace) {
            space.touch(&go.key, now);
        }
        let time = self.context.time.now();
        let error = match sent {
            Ok(()) => {
                self.memory.taken(go, time);
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
                self.rest(go, now);
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
                self.memory.doubted(go, time, &error.to_string());
                if evicted.is_none() {
                    self.doubts.insert(go.key.clone(), (go.clone(), now));
                    self.resolve(&go.key, now);
                }
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
                let first = !self.memory.was_refused(&go.uid);
                self.memory.refused(go, time, &why);
                self.context.metrics.count(go.key.kind.as_str(), "refused");
                if first {
                    self.context.tell_refused(go, &why);
                }
            }
        }
    }

    /// The decision did not hold; it is not taken again at once.
    pub(in crate::restart) fn rest(&mut self, go: &Go, now: Instant) {
        let wait = Duration::try_from(self.memory.rest(&go.uid)).unwrap_or_default();
        self.phases.insert(go.key.clone(), Phase::Resting(now + wait));
        if let Some(space) = self.spaces.get_mut(&go.key.key.namespace) {
            space.touch(&go.key, now);
        }
    }
}
