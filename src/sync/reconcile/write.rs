//! Writing the Secret: from answers to a plan, to one request.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use zeroize::Zeroize as _;

use super::{
    deletion_policy::Missing,
    memory::ReadVersions,
    outcome::{Stop, TargetConflict},
    pass::{Live, Pass},
    report::{READ_ONLY, synced_message},
    timing::BEHIND,
    write_places::{SLOW, WriteEnd},
};
use crate::{
    api::{
        ConditionType, CreationPolicy, DeletionPolicy, EventReason, ExternalSecret, ExternalSecretSpec,
        ObjectKey, Reason, names::annotation,
    },
    cluster::{self, CALL_TIMEOUT, EventDraft, FENCED_TIMEOUT, Observed, SecretEntry, TimeLimit},
    objects::{
        Entry,
        status::{Draft, SourceDraft, TargetDraft, Verdict, Written},
    },
    sync::{
        decide::{
            answers::Answer,
            comparison::Comparison,
            contest::Contest,
            render::{Template, absent, render},
        },
        plan::{self, Plan, Times, Why},
        queue::Class,
        rotation::Users,
    },
};

/// How often a plan is made again because the Secret changed meanwhile, before others get their turn.
const PLANS: usize = 3;

impl Pass<'_> {
    /// Writes what the answers make of the Secret.
    pub(super) async fn write(&self, comparison: &Comparison, answers: &[Answer]) -> Result<Draft, Stop> {
        // The spec is rendered from the live object: the values were read for just this state of it.
        let cluster = self.context.view.writer.cluster();
        let live = cluster.find::<ExternalSecret>(self.object).await;
        let live = live.map_err(|error| self.kubernetes(&error))?.ok_or(Stop::Gone)?;
        let live = self.keep_live(self.same_revision(live)?);
        let rendered = render(&self.context.key, &live.object, comparison, answers)
            .map_err(|refusal| self.refuse(refusal))?;
        if answers.iter().any(Answer::is_gone) && self.entry.spec.creation != CreationPolicy::None {
            let missing = Missing {
                live,
                comparison,
                answers,
                data: &rendered.data,
            };
            self.follow_gone(missing).await?;
            if missing.is_all() && self.entry.spec.deletion == DeletionPolicy::Delete {
                return self.delete(&comparison.target).await;
            }
        } else {
            self.context.deletions().withdraw(self.object);
        }
        self.warn_of_dropped(rendered.dropped_empty_keys);
        let needs = &comparison.resolved.needs;
        let sources = self.sources_of(comparison, answers);
        if self.entry.spec.creation == CreationPolicy::None {
            let read = ReadVersions {
                inputs: comparison.inputs.clone(),
                versions: rendered.versions.clone(),
            };
            self.remember(|memory| memory.target.read = Some(Box::new(read)));
            let ready = Verdict::holds(Reason::Synced, READ_ONLY);
            return Ok(self.draft(ready, sources, needs));
        }

        let template = Template::new(
            self.object,
            &live.entry,
            &live.object,
            &self.context.settings.never_copied,
        );
        let desired = template.desired(rendered.content(comparison));
        let target = &comparison.target;
        let written = self.apply(&desired, target, comparison.secret.is_some()).await?;
        drop(rendered);
        self.remember(|memory| (memory.target.refused, memory.target.conflict) = (None, None));
        // Our own writes bring no further pass that would see the Secret.
        self.count_in(comparison, true);
        if let Some(former) = live.former(&target.name) {
            self.delete_former(former.name).await?;
        }
        let absent = absent(needs, answers).map(|need| &*need.key);
        let message = synced_message(&target.name, needs.len(), &absent.collect::<Vec<_>>());
        let target = TargetDraft {
            name: target.name.to_string(),
            written,
        };
        let ready = self.synced(&target.name, message);
        let mut draft = self.draft(ready, sources, needs);
        draft.target = Some(target);
        Ok(draft)
    }

    /// The live object, if it is in the state that the pass is for. If not, the index is about to show another one, which wakes
    /// the object.
    pub(super) fn same_revision(&self, object: ExternalSecret) -> Result<Live, Stop> {
        let Self { context, entry, .. } = self;
        let live = Entry::of(
            self.object,
            &object,
            context.settings.min_interval,
            context.settings.restart_default,
        );
        if live.uid != entry.uid || live.revision != entry.revision {
            return Err(Stop::WaitFor(Some(BEHIND)));
        }
        Ok(Live { object, entry: live })
    }

    fn warn_of_dropped(&self, members: usize) {
        if members == 0 {
            return;
        }
        let note = format!("{members} members without a name were left out: keys of a Secret need one");
        self.context.view.events.emit(EventDraft::new(
            self.reference(),
            EventReason::Updated,
            "Sync",
            &note,
        ));
    }

    /// The sources of what was read.
    fn sources_of(&self, comparison: &Comparison, answers: &[Answer]) -> Vec<SourceDraft> {
        let versions = answers
            .iter()
            .enumerate()
            .filter_map(|(index, answer)| Some((index, answer.value()?.version.clone())));
        self.sources(comparison, versions)
    }

    /// Carries out the plan; planned again from another live read when the Secret changed meanwhile.
    pub(super) async fn apply(
        &self,
        desired: &plan::DesiredSecret<'_>,
        target: &ObjectKey,
        indexed: bool,
    ) -> Result<Written, Stop> {
        let Self { context, object, .. } = self;
        // What the index knows to be absent need not be looked for: POST says if it is there after all.
        let mut live = if indexed {
            self.find_secret(target).await?
        } else {
            None
        };
        for _ in 0..PLANS {
            let observed = live.as_ref().and_then(Observed::of);
            let by = live.as_ref().and_then(plan::contender);
            let user = live.as_ref().and_then(|live| {
                let annotations = live.metadata.annotations.as_ref()?;
                annotations.get(annotation::USER).cloned()
            });
            if self.is_stopped() {
                live.as_mut().map(wipe);
                return Err(Stop::WaitFor(Some(BEHIND)));
            }
            let times = self.times();
            let plan = plan::plan(&context.key, times, desired, live.as_ref());
            if let Some(live) = &mut live {
                wipe(live);
            }
            let began = context.clock.now();
            let writer = &context.view.writer;
            let (sent, done, written) = match plan {
                Plan::Nothing(written) => return Ok(written),
                Plan::Refuse(conflict) => {
                    return Err(Stop::Conflict(Box::new(TargetConflict {
                        conflict,
                        observed,
                        versions: desired.versions.to_owned(),
                    })));
                }
                Plan::Create(mut secret, written) => {
                    let limit = times.limit_of(&written);
                    let sent = writer.create_secret(limit, &secret).await;
                    wipe(&mut secret);
                    (sent, Done::Created, written)
                }
                Plan::Patch { body, why, written } => {
                    let observed = observed.as_ref().ok_or(Stop::Retry)?;
                    let limit = times.limit_of(&written);
                    let done = Done::Patched {
                        repaired: self.repaired(why, &body),
                        why,
                        users: Users::compare(user.as_deref(), desired.user),
                    };
                    let sent = writer.patch_secret(limit, target, observed, body);
                    (sent.await, done, written)
                }
            };
            self.note_speed(began, &sent);
            match sent {
                Ok(answer) => {
                    let entry = SecretEntry::of(&context.key, target, answer);
                    // Another content, as by an admission webhook, is left to the watch, which wakes the object.
                    if entry.content_intact && !context.view.secrets.wrote(target, entry) {
                        context.work.push(self.object.clone(), Class::Urgent);
                    }
                    self.note_write(desired, target, done, by);
                    return Ok(written);
                }
                Err(error) => match error.class {
                    cluster::Class::AlreadyExists
                    | cluster::Class::Conflict
                    | cluster::Class::NotFound
                    | cluster::Class::UidMismatch => live = self.find_secret(target).await?,
                    _ => return Err(self.kubernetes(&error)),
                },
            }
        }
        tracing::info!(%object, secret = %target, "the Secret changes faster than it can be written; trying again later");
        Err(Stop::Retry)
    }

    /// A refusal that comes at once tells nothing of writes; one that comes late does. A write without any answer is noted where
    /// its error is reported.
    fn note_speed(&self, began: Duration, sent: &Result<Secret, cluster::Error>) {
        let took = self.context.clock.now().saturating_sub(began);
        let is_late = |error: &cluster::Error| took >= SLOW && error.class != cluster::Class::Timeout;
        if sent.as_ref().err().is_none_or(is_late) {
            let slots = &self.context.capacity.slots.secrets;
            slots.ended(&self.object.namespace, WriteEnd::Answered(took));
        }
    }

    /// What a write in this namespace puts on a Secret as the times of what it does.
    ///
    /// Restarts take a pod for old that was made up to 10 s after the change (`CREATED_MARGIN`), so a change must arrive
    /// within 10 s of its time: it has no longer than any call. Where writes are slow it has the whole time of a fenced write
    /// and is dated ahead by the difference. Then a pod that is new may be taken for old, but none that is old for new.
    fn times(&self) -> Times {
        let now = self.context.view.time.now();
        let ahead = if self
            .context
            .capacity
            .slots
            .secrets
            .is_slow(&self.object.namespace)
        {
            FENCED_TIMEOUT.saturating_sub(CALL_TIMEOUT)
        } else {
            Duration::ZERO
        };
        Times {
            now,
            change: now.saturating_add(ahead).unwrap_or(now),
        }
    }

    /// Whether the Secret existed under this name when the status was last written. One that Keyturn has deleted did not.
    fn had_secret(&self) -> bool {
        let status = &self.entry.status;
        let recorded = status.recorded.as_ref();
        recorded.is_some_and(|recorded| recorded.former.is_none())
            && status.reasons.of_condition(ConditionType::Ready) != Some(Reason::Deleted)
    }

    pub(super) async fn find_secret(&self, target: &ObjectKey) -> Result<Option<Secret>, Stop> {
        let found = self.context.view.writer.cluster().find::<Secret>(target).await;
        found.map_err(|error| self.kubernetes(&error))
    }

    /// What a patch repairs of the data, in words, if it does.
    fn repaired(&self, why: Why, body: &serde_json::Value) -> Option<String> {
        let spec = self.live().map(|live| &live.spec);
        let is_public = |key: &str| {
            let mut entries = spec.into_iter().flat_map(ExternalSecretSpec::entries);
            entries.any(|entry| entry.secret_key == Some(key))
        };
        (why == Why::DriftRepaired).then(|| plan::repaired(body, is_public))
    }

    /// Remembers, audits and emits an event of a write. `by` is the other field manager that last changed the Secret.
    fn note_write(
        &self,
        desired: &plan::DesiredSecret<'_>,
        target: &ObjectKey,
        done: Done,
        by: Option<Box<str>>,
    ) {
        let why = match &done {
            Done::Created => None,
            Done::Patched { why, .. } => Some(*why),
        };
        if let Done::Patched {
            why: Why::Updated,
            users,
            ..
        } = done
        {
            let moved = (self.context.view.time.now(), users);
            self.remember(|memory| memory.rotation.traces.get_or_insert_default().moved = Some(moved));
        }
        tracing::info!(
            target: "audit",
            action = "write",
            external_secret = %self.object,
            secret = %target,
            verb = if why.is_some() { "patch" } else { "create" },
            versions = desired.versions,
        );
        let now = self.context.clock.now();
        self.remember(|memory| {
            if !matches!(why, Some(Why::Updated | Why::Adopted)) {
                let before = memory.target.contest.take().map(|contest| *contest);
                memory.target.contest = Some(Box::new(Contest::repaired(before, now, by)));
            }
        });
        let name = &target.name;
        let (reason, note) = match done {
            Done::Patched {
                why: Why::Updated, ..
            } => (
                EventReason::Updated,
                format!("Secret {name} was updated from AWS"),
            ),
            Done::Patched {
                why: Why::DriftRepaired,
                repaired,
                ..
            } => (
                EventReason::DriftRepaired,
                format!(
                    "Secret {name} was changed by another client. {}",
                    repaired.unwrap_or_default()
                ),
            ),
            Done::Patched {
                why: Why::Adopted, ..
            } => (EventReason::Updated, format!("Secret {name} was taken over")),
            Done::Created if self.had_secret() => (
                EventReason::DriftRepaired,
                format!("Secret {name} was deleted by another client. Keyturn created it again."),
            ),
            Done::Patched {
                why: Why::Annotated, ..
            }
            | Done::Created => return,
        };
        self.context
            .view
            .events
            .emit(EventDraft::new(self.reference(), reason, "Sync", &note));
    }
}

/// What a write has done.
enum Done {
    Created,
    Patched {
        why: Why,
        /// Which keys it has repaired, in words.
        repaired: Option<String>,
        /// The user that the Secret had before, and the one that it has now.
        users: Users,
    },
}

impl Times {
    /// How long the write may take that leaves a Secret like this.
    fn limit_of(self, written: &Written) -> TimeLimit {
        let dated_now = self.change == self.now && self.dates(written);
        if dated_now {
            TimeLimit::Usual
        } else {
            TimeLimit::Fenced
        }
    }
}

/// Overwrites the values of a Secret that is not needed any more.
pub(super) fn wipe(secret: &mut Secret) {
    for ByteString(bytes) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.zeroize();
    }
}
