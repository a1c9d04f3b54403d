//! What follows from AWS's answers.

use std::{sync::Arc, time::Duration};

use crate::{
    api::{
        Selector, VersionId,
        remote::{AWSCURRENT, AWSPENDING},
    },
    track::{
        Call, Cause, Described, Failure, Now, Observation, Refresh, Rotation,
        backoff::{Gate, SHORTEST},
        failure::FailedCall,
        objects::Object,
        remote::{FACTS, Lane, Over, Remote, RemoteId, Turn},
        source::{Context, Source, Task},
        view::{Evidence, Verdict, at_stage},
    },
};

/// What was denied is tried again after this.
const DENIED: Duration = Duration::from_hours(24);
/// A sweep may be this old in what it shows.
const LAG: Duration = Duration::from_mins(5);

/// A value that was read, by what the tracker knows of it.
struct ReadValue {
    version: VersionId,
    arn: Arc<str>,
    name: Arc<str>,
    created: Option<i64>,
}

impl Source {
    pub(super) fn observe(&mut self, observation: Observation, context: &mut Context<'_>) {
        match observation {
            Observation::Value {
                key,
                selector,
                version,
                arn,
                name,
                created,
                ..
            } => {
                let value = ReadValue {
                    version,
                    arn,
                    name,
                    created,
                };
                self.read(&key, &selector, &value, context);
            }
            Observation::Described {
                key, secret, begun, ..
            } => self.described(&key, &secret, begun, context),
            Observation::Listed {
                entries, complete, ..
            } => self.listed(&entries, complete, context),
            Observation::Failed {
                call,
                keys,
                failure,
                begun,
                ..
            } => {
                let failed = FailedCall {
                    call,
                    failure,
                    text: None,
                    begun,
                    described: false,
                };
                self.failed(&keys, failed, context);
            }
            Observation::Unread {
                key,
                selector,
                failure,
                text,
                begun,
                described,
                alone,
                ..
            } => {
                if let Some(id) = self.names.get(&key).copied() {
                    let failure = self.fare_one((id, Some(selector.clone())), failure, alone, context);
                    let failed = FailedCall {
                        call: Call::Read,
                        failure,
                        text: Some(text),
                        begun,
                        described,
                    };
                    self.unread(id, &selector, failed, context);
                } else {
                    self.fare(&failure, context);
                }
            }
        }
        self.trim();
    }

    fn read(&mut self, key: &str, selector: &Selector, value: &ReadValue, context: &mut Context<'_>) {
        let ReadValue {
            version,
            arn,
            name,
            created,
        } = value;
        self.answer(context.now);
        let Some(id) = self.names.get(key).copied() else {
            return;
        };
        self.calls.doubts.remove(&(id, Some(selector.clone())));
        let ours = self.land(id, Some(selector)).is_some();
        let id = self.join(id, arn, name, context);
        let now = context.now;
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        // Whoever failed to read it before, and whoever a call of ours reads it for, does not know of this answer.
        let failed = remote.view(selector).is_some_and(|view| view.trouble.is_some());
        let news = ours || failed || remote.trouble.is_some();
        let over = remote.succeed_read(selector);
        let evidence = Evidence::Read {
            created: *created,
            confirms: remote.undescribed,
        };
        let verdict = remote.see(now, selector, version, evidence);
        if remote.undescribed {
            remote.follow_hint(|expected| expected == version);
        }
        if verdict.is_some() && (remote.views.len() == 1 || remote.checked.is_none()) {
            remote.checked = Some(now);
        }
        // Set for the case that nobody reads it.
        remote.urgent = remote.urgent.filter(|at| *at <= now);
        // One Describe tells where the rotation stands.
        if verdict == Some(Verdict::Moved)
            && let Some(facts) = &mut remote.facts
        {
            facts.moved(now);
            remote.urgent = Some(now);
        }
        match verdict {
            Some(Verdict::Moved) => self.wake_moved(id, selector, context),
            Some(Verdict::First) if news => self.wake_first(id, selector, context),
            _ => {}
        }
        self.recovered(id, &over, context);
        self.end_turn(id, selector);
        self.refreshed(id, context);
        self.requeue(id);
    }

    fn described(&mut self, key: &str, secret: &Described, begun: Now, context: &mut Context<'_>) {
        self.answer(context.now);
        let Some(id) = self.names.get(key).copied() else {
            return;
        };
        self.calls.doubts.remove(&(id, None));
        self.land(id, None);
        let id = self.join(id, &secret.arn, &secret.name, context);
        let now = context.now;
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        remote.checked = Some(now);
        let permitted = std::mem::take(&mut remote.undescribed);
        remote.has_turns = false;
        self.calls.rounds.remove(&id);
        remote.follow_hint(|expected| {
            secret
                .stages
                .get(expected)
                .is_some_and(|labels| labels.iter().any(|label| &**label != AWSPENDING))
        });
        let mut wakes = Vec::new();
        let mut over = Over::default();
        let mut gone = Turn::None;
        let mut missing = Vec::new();
        if secret.deleted {
            let failed = FailedCall {
                call: Call::Describe,
                failure: Failure::MarkedForDeletion,
                text: None,
                begun,
                described: true,
            };
            gone = remote.fail_describe(now, failed);
        } else {
            over = remote.succeed_describe(|selector| match selector {
                Selector::Stage(stage) => at_stage(&secret.stages, stage).is_some(),
                Selector::Version(_) => true,
            });
            for view in &mut remote.views {
                let Selector::Stage(stage) = &view.selector else {
                    continue;
                };
                let Some(version) = at_stage(&secret.stages, stage) else {
                    missing.push(view.selector.clone());
                    continue;
                };
                let verdict = view.see(now, version, Evidence::Described(&secret.stages));
                if verdict == Verdict::Moved {
                    // Of another version than the one that failed.
                    view.trouble = None;
                }
                wakes.push((view.selector.clone(), verdict));
            }
        }
        if wakes.iter().any(|(_, verdict)| *verdict == Verdict::Moved)
            && let Some(facts) = &mut remote.facts
        {
            facts.moved(now);
        }
        for selector in missing {
            if let Some(remote) = self.remotes.get_mut(&id) {
                let turn = remote.miss(now, begun, &selector);
                self.turned(id, turn, Some(&selector), context);
            }
        }
        for (selector, verdict) in wakes {
            match verdict {
                Verdict::Moved => self.wake_moved(id, &selector, context),
                Verdict::First => self.wake_first(id, &selector, context),
                Verdict::Same | Verdict::Doubtful => {}
            }
        }
        if permitted {
            self.forget_denied_describes();
        }
        self.turned(id, gone, None, context);
        self.recovered(id, &over, context);
        self.rotates(id, secret, true, context);
        self.refreshed(id, context);
        self.requeue(id);
    }

    fn listed(&mut self, entries: &[Described], complete: bool, context: &mut Context<'_>) {
        let now = context.now;
        self.answer(now);
        self.keep_sweeping(now);
        for entry in entries {
            self.sweep.seen += 1;
            let Some(id) = self.find(&entry.name).or_else(|| self.find(&entry.arn)) else {
                continue;
            };
            let id = self.join(id, &entry.arn, &entry.name, context);
            self.listed_one(id, entry, now);
            self.rotates(id, entry, false, context);
            self.requeue(id);
        }
        self.sweep.pages += 1;
        if !complete && self.looks_too_long() {
            self.end_sweep();
            self.end_look();
        }
        if !complete || !self.end_sweep() {
            return;
        }
        if self.sweep.total != self.sweep.seen {
            self.sweep.total = self.sweep.seen;
            self.checking.replan = true;
        }
        let next = self
            .sweep_interval()
            .map(|interval| self.sweep.started + interval);
        self.queue_sweep(next);
        let number = self.sweep.number;
        let absent: Vec<_> = self
            .remotes
            .iter()
            .filter(|(_, remote)| remote.swept != number && self.is_swept(remote))
            .map(|(id, _)| *id)
            .collect();
        self.end_look();
        for id in absent {
            self.mark(id, now);
            self.requeue(id);
        }
    }

    /// Whether the listing under way checks this secret.
    fn is_swept(&self, remote: &Remote) -> bool {
        remote.lane == Lane::Sweep || (self.sweep.looking && self.is_unseen(remote))
    }

    /// The first look after the start is over; it is not had twice.
    fn end_look(&mut self) {
        self.sweep.done = true;
        self.sweep.looking = false;
    }

    /// Marks the secret due, unless it is re-checked for its trouble anyway.
    fn mark(&mut self, id: RemoteId, now: Now) {
        if let Some(remote) = self.remotes.get_mut(&id)
            && remote.trouble.is_none()
            && remote.asked.is_none()
        {
            remote.urgent = Some(now);
        }
    }

    fn listed_one(&mut self, id: RemoteId, entry: &Described, now: Now) {
        let number = self.sweep.number;
        let swept = self.remotes.get(&id).is_some_and(|remote| self.is_swept(remote));
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        remote.swept = number;
        if !swept || remote.trouble.is_some() {
            return;
        }
        let mut moved = entry.deleted;
        for view in &mut remote.views {
            let Selector::Stage(stage) = &view.selector else {
                continue;
            };
            moved |= match at_stage(&entry.stages, stage) {
                Some(version) => view.see(now, version, Evidence::Listed) == Verdict::Doubtful,
                None => !view.is_missing(),
            };
        }
        if moved {
            self.mark(id, now);
        } else {
            remote.checked = Some(now);
        }
    }

    /// What a failure says of the source as a whole.
    fn fare(&mut self, failure: &Failure, context: &mut Context<'_>) {
        let now = context.now;
        match failure {
            Failure::Transient { .. } => self.backoff.fail(now, context.dice),
            // Given up already: one lost identity fails many reads.
            Failure::Identity if matches!(self.backoff.gate(now), Gate::Until(_)) => {}
            Failure::Identity => {
                let soonest = self.remotes.values().map(|remote| remote.recheck()).min();
                self.backoff
                    .give_up(now, soonest.unwrap_or(Duration::MAX), context.dice);
            }
            _ => self.answer(now),
        }
    }

    /// A call was answered.
    fn answer(&mut self, now: Now) {
        self.backoff.succeed(now);
        self.calls.answered = Some(now);
    }

    /// What a failure says that concerns one secret, of a read of a version or, without a selector, of Describe. Gives what
    /// the failure is. One that passes, of a call for this secret alone, and that comes again though the source has answered
    /// others since, is the secret's own.
    fn fare_one(
        &mut self,
        (id, selector): (RemoteId, Option<Selector>),
        failure: Failure,
        alone: bool,
        context: &mut Context<'_>,
    ) -> Failure {
        let now = context.now;
        let Some(remote) = self
            .remotes
            .get(&id)
            .filter(|_| failure == (Failure::Transient { throttled: false }))
        else {
            self.calls.doubts.remove(&(id, selector));
            self.fare(&failure, context);
            return failure;
        };
        let trouble = match &selector {
            Some(selector) => remote.view(selector).and_then(|view| view.trouble.as_deref()),
            None => remote.trouble.as_deref(),
        };
        let asked = remote.asked.is_some();
        let mut own = trouble.is_some_and(|trouble| trouble.failure == Failure::Unanswered);
        if alone {
            let doubt = self.calls.doubts.entry((id, selector)).or_insert(now);
            // Several passes may fail at once.
            if now >= *doubt + SHORTEST {
                own |= self.calls.answered.is_some_and(|answered| answered > *doubt);
                *doubt = now;
            }
        }
        if own {
            // A pass is no probe of the source.
            if asked {
                self.backoff.fail_alone(now, context.dice);
            }
            return Failure::Unanswered;
        }
        self.fare(&failure, context);
        failure
    }

    fn failed(&mut self, keys: &[Arc<str>], failed: FailedCall, context: &mut Context<'_>) {
        let FailedCall {
            call, failure, begun, ..
        } = failed;
        let now = context.now;
        let alone = match keys {
            [key] if call != Call::List => self.names.get(key).copied(),
            _ => None,
        };
        let failure = &if let Some(id) = alone {
            let selector = selector_of(call, &failure);
            self.fare_one((id, selector), failure, true, context)
        } else {
            self.fare(&failure, context);
            failure
        };
        let list_denied =
            *failure == Failure::ListDenied || (call == Call::List && *failure == Failure::Denied);
        if list_denied {
            self.denials.list = Some(now + DENIED);
            self.deny(now);
        }
        if *failure == Failure::BatchDenied {
            self.denials.batch = Some(now + DENIED);
            self.deny(now);
        }
        if call == Call::List && self.end_sweep() && !list_denied {
            // Back-off and, for what is not transient, the interval keep it from being asked at once again.
            let passing = matches!(failure, Failure::Transient { .. } | Failure::Identity);
            if !passing {
                self.end_look();
            }
            let pause = if passing {
                Duration::ZERO
            } else {
                self.sweep_interval().unwrap_or_default().min(LAG)
            };
            self.queue_sweep(Some(now + pause));
        }
        if list_denied {
            self.sweep.looking = false;
        }
        for key in keys {
            if let Some(id) = self.names.get(key).copied() {
                let failed = FailedCall {
                    call,
                    failure: failure.clone(),
                    text: None,
                    begun,
                    described: false,
                };
                self.failed_one(id, failed, context);
            }
        }
    }

    fn deny(&mut self, now: Now) {
        self.queue.insert((now + DENIED, Task::Retry));
        self.checking.replan = true;
    }

    /// A call for the secret has failed, or a batch for it.
    fn failed_one(&mut self, id: RemoteId, failed: FailedCall, context: &mut Context<'_>) {
        if failed.call == Call::Describe {
            return self.undescribed(id, failed, context);
        }
        if let Some(selector) = selector_of(failed.call, &failed.failure) {
            self.unread(id, &selector, failed, context);
        }
    }

    fn undescribed(&mut self, id: RemoteId, failed: FailedCall, context: &mut Context<'_>) {
        let now = context.now;
        let asked = self.land(id, None);
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        let again = match &failed.failure {
            Failure::Transient { .. } => true,
            // Reading its views alone may do.
            Failure::Denied if context.config.periodic_reads => {
                remote.undescribed = true;
                // The first denial decides when all of them are forgotten: one time for all, and one look for it.
                if self.denials.describe.is_none() {
                    self.denials.describe = Some(now + DENIED);
                    self.queue.insert((now + DENIED, Task::Retry));
                }
                true
            }
            _ => false,
        };
        if again {
            if let Some(asked) = asked {
                self.again(id, asked, now);
            }
            self.requeue(id);
            return;
        }
        if failed.failure.may_be_gone() {
            remote.checked = Some(now);
            remote.hint = None;
        }
        let decided = is_decided(&failed.failure);
        let turn = remote.fail_describe(now, failed);
        self.turned(id, turn, None, context);
        if decided {
            self.refreshed(id, context);
        }
        self.requeue(id);
    }

    /// A read of one view has failed.
    fn unread(&mut self, id: RemoteId, selector: &Selector, failed: FailedCall, context: &mut Context<'_>) {
        let now = context.now;
        let asked = self.land(id, Some(selector));
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        if matches!(
            failed.failure,
            Failure::Transient { .. } | Failure::BatchDenied | Failure::ListDenied
        ) {
            if let Some(asked) = asked {
                let failing = !asked.cohort && remote.read_again(now, selector);
                if !self.repeat_turn(id, selector) && !failing {
                    self.again(id, asked, now);
                }
            }
            self.requeue(id);
            return;
        }
        let decided = is_decided(&failed.failure);
        let turn = remote.fail_read(now, selector, failed);
        self.turned(id, turn, Some(selector), context);
        self.end_turn(id, selector);
        if decided {
            self.refreshed(id, context);
        }
        self.requeue(id);
    }

    /// Tells those who want this view, or the secret at all.
    fn turned(&self, id: RemoteId, turn: Turn, selector: Option<&Selector>, context: &mut Context<'_>) {
        let cause = match turn {
            Turn::None => return,
            Turn::Failing => Cause::Failing,
            Turn::Gone => Cause::Gone,
        };
        self.wake(id, cause, context, |object| {
            selector.is_none_or(|selector| self.wants(object, id, selector))
        });
    }

    fn recovered(&self, id: RemoteId, over: &Over, context: &mut Context<'_>) {
        if !over.all && over.views.is_empty() {
            return;
        }
        self.wake(id, Cause::Recovered, context, |object| {
            over.all || over.views.iter().any(|selector| self.wants(object, id, selector))
        });
    }

    pub(super) fn wants(&self, object: &Object, id: RemoteId, selector: &Selector) -> bool {
        object.wants.iter().any(|want| {
            want.source == self.id && want.selector == *selector && self.names.get(&want.key) == Some(&id)
        })
    }

    fn wake_moved(&self, id: RemoteId, selector: &Selector, context: &mut Context<'_>) {
        self.wake(id, Cause::Changed, context, |object| {
            object.refresh != Refresh::Once && self.wants(object, id, selector)
        });
    }

    fn wake_first(&self, id: RemoteId, selector: &Selector, context: &mut Context<'_>) {
        self.wake(id, Cause::Changed, context, |object| {
            self.wants(object, id, selector)
        });
    }

    /// Objects that asked for a refresh have one answer more.
    fn refreshed(&mut self, id: RemoteId, context: &mut Context<'_>) {
        for object in self.waiting.remove(&id).unwrap_or_default() {
            let Some(object) = context.objects.get_mut(object) else {
                continue;
            };
            object.awaited = object.awaited.saturating_sub(1);
            if object.awaited == 0 {
                context.wakes.add(&object.key, Cause::Refreshed);
            }
        }
    }

    /// Takes the facts of the rotation.
    fn rotates(&mut self, id: RemoteId, secret: &Described, described: bool, context: &mut Context<'_>) {
        let now = context.now;
        let Some(facts) = self.remotes.get_mut(&id).and_then(|remote| remote.facts.as_mut()) else {
            return;
        };
        if described {
            facts.described = Some(now);
            facts.next = facts.next.map(|_| now + FACTS);
        } else if facts.described.is_some_and(|at| now < at + LAG) {
            return;
        }
        let current = at_stage(&secret.stages, AWSCURRENT);
        let pending = at_stage(&secret.stages, AWSPENDING)
            .filter(|pending| Some(*pending) != current)
            .cloned();
        let rotation = Some(Rotation {
            pending,
            schedule: secret.rotation.clone(),
        });
        facts.dated(&secret.rotation);
        if facts.rotation != rotation {
            facts.rotation = rotation;
            self.wake(id, Cause::Rotation, context, |object| object.rotation);
        }
    }
}

/// Which view has failed to be read, whether or not it is still wanted.
fn selector_of(call: Call, failure: &Failure) -> Option<Selector> {
    match (call, failure) {
        (Call::Describe, _) => None,
        (_, Failure::StageNotFound(selector)) => Some(selector.clone()),
        _ => Some(Selector::Stage(AWSCURRENT.into())),
    }
}

/// Whether the failure answers the question that a refresh asks.
fn is_decided(failure: &Failure) -> bool {
    *failure != Failure::Unanswered
}
