//! Carrying decisions out: one at a time for a workload, each judged again right before its request.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    panics::caught,
    step::{self, Step},
};
use crate::{
    cluster::{self, Class, Verb},
    restart::{
        controller::{Controller, Done},
        judge::{
            assess,
            model::{ObservedWorkload, PodList, Restart, Setting},
        },
        observed::{
            live::FreshWorkload,
            managed_secrets::ManagedSecrets,
            model::{Annotations, Pod},
        },
        schedule::in_flight::RequestPhase,
    },
};

/// Restarts that are carried out at once.
const AT_ONCE: usize = 32;

impl Controller {
    /// Begins to carry a decision out.
    pub(in crate::restart) fn start(&mut self, restart: Restart, now: Instant) {
        let busy = self
            .phases
            .values()
            .filter(|phase| matches!(phase, RequestPhase::Busy(_)));
        if self.phases.contains_key(&restart.key) || busy.count() >= AT_ONCE {
            return;
        }
        self.phases.insert(restart.key.clone(), RequestPhase::Busy(now));
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let looked = caught(Verb::Get, &restart.key.key, context.read_fresh(&restart.key)).await;
            Done::Looked { restart, looked }
        });
    }

    /// A workload was read again: judge again, and send.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "handed over by the task that carried it"
    )]
    pub(in crate::restart) fn looked(
        &mut self,
        restart: Restart,
        looked: Result<Option<FreshWorkload>, cluster::Error>,
        now: Instant,
    ) {
        let namespace = Arc::clone(&restart.key.key.namespace);
        let looked = match looked {
            Ok(Some(looked)) => looked,
            Ok(None) => return self.rest(&restart, now),
            Err(error) => {
                tracing::warn!(workload = %restart.key, %error, "a workload was not read before its restart; it is tried again");
                return self.rest(&restart, now);
            }
        };
        let FreshWorkload {
            observed,
            workload,
            pods,
            at,
            control,
        } = looked;
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                tracing::warn!(workload = %restart.key, %error, "a workload is not restarted before keyturn-control is read; it is tried again");
                self.rest(&restart, now);
                if let Some(phase) = self.phases.get_mut(&restart.key) {
                    phase.blinded(&error);
                }
                return;
            }
        };
        let time = self.context.time.now();
        let view = self.namespaces.get(&namespace);
        let concerning = view
            .map(|view| view.managed_secrets.concerning(&workload))
            .unwrap_or_default();
        let current = concerning
            .into_iter()
            .filter_map(|secret| self.context.managed_secret(secret.key()));
        let secrets = ManagedSecrets::new(current.collect());
        let annotations: Annotations = self.context.namespace_annotations(&namespace);
        let setting = Setting {
            now: time,
            control: control.as_ref(),
            evict_allowed: self.context.evict_allowed,
        };
        let own: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let seen = ObservedWorkload {
            key: &restart.key,
            workload: &workload,
            namespace: &annotations,
            pods: Some(PodList { pods: &own, at }),
        };
        let judge = || {
            let fresh = assess::assess(&setting, &secrets, &seen, &mut self.memory);
            fresh.map_or(Step::Nothing, |fresh| {
                step::step(&restart, &observed.resource_version, &seen, &fresh)
            })
        };
        let step = catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|_| {
            tracing::error!(workload = %restart.key, %namespace, "judging a workload panicked; this is a bug, please report it");
            Step::Nothing
        });
        let uid = workload.uid.clone();
        if let Some(view) = self.namespaces.get_mut(&namespace) {
            view.keep(restart.key.clone(), uid, at, pods);
        }
        let (restart, evicted) = match &step {
            Step::Nothing => return self.rest(&restart, now),
            Step::Patch { restart, .. } => (restart.clone(), None),
            Step::Evict { restart, pod, .. } => (restart.clone(), Some(pod.clone())),
        };
        self.memory.sending(&restart, time);
        self.phases.insert(restart.key.clone(), RequestPhase::Busy(now));
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let sent = caught(
                Verb::Patch,
                &restart.key.key,
                context.send(&restart.key, &observed, step),
            )
            .await;
            Done::Sent {
                restart,
                evicted,
                sent,
            }
        });
    }

    pub(in crate::restart) fn sent(
        &mut self,
        restart: &Restart,
        evicted: Option<&str>,
        sent: Result<(), cluster::Error>,
        now: Instant,
    ) {
        self.doubts.remove(&restart.key);
        // What is remembered of the request must be seen before anything else is decided: it holds a slot.
        self.phases.insert(restart.key.clone(), RequestPhase::Answered);
        if let Some(view) = self.namespaces.get_mut(&restart.key.key.namespace) {
            view.touch(&restart.key, now);
        }
        let time = self.context.time.now();
        let error = match sent {
            Ok(()) => {
                self.memory.taken(restart, time);
                self.seen.triggered(restart);
                let verb = if evicted.is_some() { "evict" } else { "patch" };
                self.context.tell_triggered(restart, verb, evicted);
                return;
            }
            Err(error) => error,
        };
        match &error.class {
            Class::Conflict | Class::UidMismatch | Class::NotFound | Class::AlreadyExists => {
                self.memory.conflicted(restart);
                self.rest(restart, now);
            }
            Class::Disruption => self.memory.evict_later(restart, time, &error.to_string()),
            Class::Throttled { .. } | Class::NotLeading | Class::Unauthorized => {
                tracing::warn!(workload = %restart.key, %error, "a restart was not taken; it is tried again");
                self.memory.conflicted(restart);
                self.rest(restart, now);
            }
            Class::Timeout | Class::Unavailable { .. } => {
                // It may have been taken all the same: the workload will tell.
                tracing::warn!(workload = %restart.key, %error, "nothing is known of a restart; it is looked at again");
                self.memory.doubted(restart, time, &error.to_string());
                if evicted.is_none() {
                    self.doubts.insert(restart.key.clone(), (restart.clone(), now));
                    self.resolve(&restart.key, now);
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
                tracing::warn!(workload = %restart.key, %error, "a restart was refused; it is tried again later");
                let first = !self.memory.was_refused(&restart.uid);
                self.memory.refused(restart, time, &why);
                self.context.metrics.count(restart.key.kind.as_str(), "refused");
                if first {
                    self.context.tell_refused(restart, &why);
                }
            }
        }
    }

    /// The decision did not hold; it is not taken again at once.
    pub(in crate::restart) fn rest(&mut self, restart: &Restart, now: Instant) {
        let wait = Duration::try_from(self.memory.rest(&restart.uid)).unwrap_or_default();
        self.phases
            .insert(restart.key.clone(), RequestPhase::Resting(now + wait));
        if let Some(view) = self.namespaces.get_mut(&restart.key.key.namespace) {
            view.touch(&restart.key, now);
        }
    }
}
