//! Writing the Secret: from answers to a plan, to one request.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::runtime::events::EventType;
use zeroize::Zeroize as _;

use super::{
    deletion_policy::Missing,
    outcome::{Outcome, Stop, TargetConflict},
    pass::{Live, Pass},
    report::{READ_ONLY, synced_message},
    timing::{BEHIND, FIGHT},
    write_places::{SLOW, WriteEnd},
};
use crate::{
    api::{
        CreationPolicy, DeletionPolicy, EventReason, ExternalSecret, ObjectKey, Reason,
        names::{SYNC_MANAGER, annotation},
        token,
    },
    cluster::{self, Absent, CALL_TIMEOUT, FENCED_TIMEOUT, Observed, SecretEntry, TimeLimit},
    sync::{
        decide::{
            answers::Answer,
            comparison::Comparison,
            render::{Template, absent, render},
        },
        entry::Entry,
        plan::{self, Plan, Times, Why, Written},
        rotation::Users,
        status::{SourceDraft, TargetDraft, Verdict},
    },
};

/// How often a plan is made again because the Secret changed meanwhile, before others get their turn.
const PLANS: usize = 3;

/// A request that was answered.
struct Sent<'a> {
    answer: &'a cluster::Written,
    /// What the patch was for; none if the Secret was made.
    why: Option<Why>,
    /// What the Secret says of itself now.
    written: &'a Written,
    /// The user that it had before.
    former_user: Option<&'a str>,
}

impl Pass<'_> {
    /// Writes what the answers make of the Secret.
    pub(super) async fn write(&self, comparison: &Comparison, answers: &[Answer]) -> Result<Outcome, Stop> {
        // The spec is rendered from the live object: the values were read for just this state of it.
        let cluster = self.context.writer.cluster();
        let live = cluster.find::<ExternalSecret>(self.object).await;
        let live = live.map_err(|error| self.kubernetes(&error))?.ok_or(Stop::Gone)?;
        let live = self.keep_live(self.same_revision(live)?);
        let rendered = render(&self.context.key, &live.object, comparison, answers)
            .map_err(|refusal| self.refuse(refusal))?;
        if answers.iter().any(Answer::is_gone) && self.entry.creation != CreationPolicy::None {
            let missing = Missing {
                live,
                comparison,
                answers,
                data: &rendered.data,
            };
            self.follow_gone(missing).await?;
            if missing.is_all() && self.entry.deletion == DeletionPolicy::Delete {
                return self.delete(&comparison.target).await;
            }
        } else {
            self.context.deletions().withdraw(self.object);
        }
        self.warn_of_dropped(rendered.dropped_empty_keys);
        let needs = &comparison.resolved.needs;
        let sources = self.sources_of(comparison, answers);
        if self.entry.creation == CreationPolicy::None {
            let read = (comparison.inputs.clone(), rendered.versions.clone());
            self.remember(|memory| memory.read = Some(Box::new(read)));
            let ready = Verdict::holds(Reason::Synced, READ_ONLY);
            return Ok(Outcome {
                draft: self.draft(ready, sources, needs),
                again: None,
            });
        }

        let template = Template::new(self.object, &live.entry, &live.object);
        let desired = template.desired(rendered.content(comparison));
        let target = &comparison.target;
        let written = self.apply(&desired, target, comparison.secret.is_some()).await?;
        drop(rendered);
        self.remember(|memory| {
            memory.refused = None;
            memory.conflict = None;
        });
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
        let mut draft = self.draft(Verdict::holds(Reason::Synced, message), sources, needs);
        draft.target = Some(target);
        Ok(Outcome { draft, again: None })
    }

    /// The live object, if it is in the state that the pass is for. If not, the index is about to show another one, which wakes
    /// the object.
    pub(super) fn same_revision(&self, object: ExternalSecret) -> Result<Live, Stop> {
        let Self { context, entry, .. } = self;
        let live = Entry::of(
            self.object,
            &object,
            context.min_interval,
            context.restart_default,
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
        self.context.events.emit(
            self.reference(),
            EventType::Warning,
            EventReason::Updated.as_str(),
            "Sync",
            &note,
        );
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
            let writer = &context.writer;
            let (sent, why, written) = match plan {
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
                    (sent, None, written)
                }
                Plan::Patch { body, why, written } => {
                    let observed = observed.as_ref().ok_or(Stop::Retry)?;
                    let limit = times.limit_of(&written);
                    let sent = writer.patch::<Secret>(limit, target, observed, SYNC_MANAGER, body);
                    (sent.await, Some(why), written)
                }
            };
            self.note_speed(began, &sent);
            match sent {
                Ok(answer) => {
                    let sent = Sent {
                        answer: &answer,
                        why,
                        written: &written,
                        former_user: user.as_deref(),
                    };
                    self.note_write(desired, target, &sent);
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
    fn note_speed(&self, began: Duration, sent: &Result<cluster::Written, cluster::Error>) {
        let took = self.context.clock.now().saturating_sub(began);
        let is_late = |error: &cluster::Error| took >= SLOW && error.class != cluster::Class::Timeout;
        if sent.as_ref().err().is_none_or(is_late) {
            let slots = &self.context.slots.secrets;
            slots.ended(&self.object.namespace, WriteEnd::Answered(took));
        }
    }

    /// What a write in this namespace puts on a Secret as the times of what it does.
    ///
    /// Restarts take a pod for old that was made up to 10 s after the change (`CREATED_MARGIN`), so a change must arrive
    /// within 10 s of its time: it has no longer than any call. Where writes are slow it has the whole time of a fenced write
    /// and is dated ahead by the difference. Then a pod that is new may be taken for old, but none that is old for new.
    fn times(&self) -> Times {
        let now = self.context.time.now();
        let ahead = if self.context.slots.secrets.is_slow(&self.object.namespace) {
            FENCED_TIMEOUT.saturating_sub(CALL_TIMEOUT)
        } else {
            Duration::ZERO
        };
        Times {
            now,
            change: now.saturating_add(ahead).unwrap_or(now),
        }
    }

    pub(super) async fn find_secret(&self, target: &ObjectKey) -> Result<Option<Secret>, Stop> {
        let found = self.context.writer.cluster().find::<Secret>(target).await;
        found.map_err(|error| self.kubernetes(&error))
    }

    /// Remembers, audits and emits an event of a write.
    fn note_write(&self, desired: &plan::DesiredSecret<'_>, target: &ObjectKey, sent: &Sent<'_>) {
        let why = sent.why;
        if why == Some(Why::Updated) {
            let users = Users::compare(sent.former_user, desired.user);
            let moved = (self.context.time.now(), users);
            self.remember(|memory| memory.traces.get_or_insert_default().moved = Some(moved));
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
            memory.written = Some(Box::new((now, target.clone(), entry_of(desired, sent))));
            if !matches!(why, Some(Why::Updated | Why::Adopted)) {
                let mends = match memory.mends.as_deref() {
                    Some((since, count)) if now < *since + FIGHT => (*since, count + 1),
                    _ => (now, 1),
                };
                memory.mends = Some(Box::new(mends));
            }
        });
        let name = &target.name;
        let (reason, note) = match why {
            Some(Why::Updated) => (
                EventReason::Updated,
                format!("Secret {name} was updated from AWS"),
            ),
            Some(Why::DriftRepaired) => (
                EventReason::DriftRepaired,
                format!("Secret {name} had been changed by hand; its data were restored"),
            ),
            Some(Why::Adopted) => (EventReason::Updated, format!("Secret {name} was taken over")),
            Some(Why::Annotated) | None => return,
        };
        self.context.events.emit(
            self.reference(),
            EventType::Normal,
            reason.as_str(),
            "Sync",
            &note,
        );
    }
}

/// The Secret as the index will show it.
fn entry_of(desired: &plan::DesiredSecret<'_>, sent: &Sent<'_>) -> SecretEntry {
    let Sent { answer, written, .. } = sent;
    SecretEntry {
        uid: answer.uid.as_str().into(),
        resource_version: answer.resource_version.as_str().into(),
        owner: Some(desired.object.name.clone()),
        controller_uid: (desired.creation == CreationPolicy::Owner).then(|| desired.uid.into()),
        content: written.content.as_str().into(),
        content_intact: true,
        inputs: Some(desired.inputs.into()),
        versions: Some(desired.versions.into()),
        absent: desired.source.and_then(Absent::of),
        rollout: Some(written.rollout.as_str().into()),
        changed_at: written.changed_at,
        scope: written
            .rescoped
            .as_deref()
            .and_then(token::rescoped)
            .map_or_else(|| token::short(&written.scope), |(scope, _)| token::short(scope)),
        restart_since: written.restart_since,
        reloader: None,
        immutable: desired.immutable,
        type_: None,
    }
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
