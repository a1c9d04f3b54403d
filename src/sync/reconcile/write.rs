//! Writing the Secret: from values to data, to a plan, to one request.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::runtime::events::EventType;
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Context, Ended,
    deletion_policy::Answered,
    places::{Outcome, SLOW},
    sooner,
    status_writer::{READ_ONLY, synced_message},
};
use crate::{
    api::{
        CreationPolicy, DeletionPolicy, EventReason, ExternalSecret, ObjectKey, Reason, SecretArn,
        names::{SYNC_MANAGER, annotation},
        token,
    },
    cluster::{self, Absent, CALL_TIMEOUT, FENCED_TIMEOUT, Observed, SecretEntry, TimeLimit},
    sync::{
        decide::{
            answers::Answer,
            record::{self, Origin},
            references::{ReadRequest, Resolved},
            versions,
        },
        entry::{Entry, carried},
        events,
        plan::{self, Data, Plan, Times, Why, Written},
        resolve::{Refusal, fingerprint},
        rotation::Users,
        status::{TargetDraft, Verdict},
    },
    value,
};

/// How often what stands in the way of a write is looked at again.
pub(super) const RECHECK_CONFLICT: Duration = Duration::from_mins(1);
/// How long the index has to show an edit that a live read has shown, which then wakes the object.
pub(super) const BEHIND: Duration = Duration::from_secs(1);
/// Within this time a Secret is mended at most so often: whoever changes it as fast as that is another controller, and
/// neither the API server nor AWS is to bear the fight.
pub(super) const FIGHT: Duration = Duration::from_mins(1);
pub(super) const MENDS: u32 = 20;
/// How often a plan is made anew because the Secret changed meanwhile, before others get their turn.
const PLANS: usize = 3;

/// Why a Secret was not written.
pub(super) enum NotWritten {
    Refused(plan::Conflict, Option<Observed>),
    /// It changes faster than plans can be made.
    Contended,
    /// Somebody suspended it since the pass began.
    Held,
    Kubernetes(cluster::Error),
}

impl Context {
    /// Writes what the answers make of the Secret, and says so.
    #[expect(
        clippy::too_many_arguments,
        reason = "the facts of one pass, used nowhere else"
    )]
    pub(super) async fn write(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        needs: &[ReadRequest],
        answers: &[Answer],
        inputs: &str,
        indexed: bool,
    ) -> Ended {
        // The spec is rendered from the live object: the values were read for just this state of it.
        let live = match self.writer.cluster().find::<ExternalSecret>(object).await {
            Ok(Some(live)) => live,
            Ok(None) => return Ended::Well,
            Err(error) => return self.kubernetes_failed(object, entry, None, &error).await,
        };
        let same = Entry::of(object, &live, self.min_interval, self.restart_default);
        if same.uid != entry.uid || same.revision != entry.revision {
            return Ended::Again(BEHIND);
        }
        let versions = match versions::of(needs, answers) {
            Ok(versions) => versions,
            Err(refusal) => {
                let ended = self.refuse(object, &same, Some(&live), refusal).await;
                return sooner(ended, Self::recheck(entry));
            }
        };

        let built = value::build(&live.spec, |index| match answers.get(index) {
            Some(Answer::Value(value)) => value.fetched(),
            Some(Answer::Gone { .. }) | None => value::Fetched::Gone,
        });
        let built = match built {
            Ok(built) => built,
            Err(error) => {
                let refusal = Refusal::new(error.reason(), error.to_string());
                let ended = self.refuse(object, &same, Some(&live), refusal).await;
                return sooner(ended, Self::recheck(entry));
            }
        };
        let gone = answers
            .iter()
            .filter(|answer| matches!(answer, Answer::Gone { .. }))
            .count();
        if gone > 0 && entry.creation != CreationPolicy::None {
            let pass = Answered {
                object,
                entry: &same,
                live: &live,
                resolved,
                needs,
                answers,
                data: &built.data,
            };
            if let Err(ended) = self.follow_gone(pass).await {
                return ended;
            }
            if gone == answers.len() && entry.deletion == DeletionPolicy::Delete {
                return self.delete(object, &same, &live).await;
            }
        } else {
            self.deletions().withdraw(object);
        }
        if built.dropped_empty_keys > 0 {
            let regarding = events::reference("ExternalSecret", object, &entry.uid);
            let note = format!(
                "{} members without a name were left out: keys of a Secret need one",
                built.dropped_empty_keys
            );
            self.events.emit(
                regarding,
                EventType::Warning,
                EventReason::Updated.as_str(),
                "Sync",
                &note,
            );
        }
        let sources = answers
            .iter()
            .enumerate()
            .filter_map(|(index, answer)| match answer {
                Answer::Value(value) => Some((index, value.version.clone())),
                Answer::Gone { .. } => None,
            });
        let sources = Self::sources(entry, resolved, sources);
        if entry.creation == CreationPolicy::None {
            self.remember(object, |memory| {
                memory.read = Some(Box::new((inputs.to_owned(), versions.clone())));
            });
            let draft = self.draft(
                object,
                entry,
                Verdict::holds(Reason::Synced, READ_ONLY),
                sources,
                None,
                needs,
            );
            return self.say(object, &same, draft, Some(&live), Ended::Well).await;
        }

        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        // One user name, or several in the order of the entries: enough to see that it changed.
        let mut names = Zeroizing::new(String::new());
        for answer in answers {
            if let Answer::Value(value) = answer
                && let Some(name) = value.username()
            {
                names.push_str(&name);
                names.push('\0');
            }
        }
        let user = (!names.is_empty()).then(|| self.key.user(&target, &names).to_string());
        let mut data: Data = built
            .data
            .into_iter()
            .map(|(name, mut value)| (name, ByteString(std::mem::take(&mut *value))))
            .collect();
        let source = self.source(&target, resolved, needs, answers, inputs, &versions);
        let labels = carried(live.metadata.labels.as_ref());
        let annotations = carried(live.metadata.annotations.as_ref());
        let recorded = plan::Recorded::of(&live);
        let wanted = plan::DesiredSecret {
            object,
            uid: &entry.uid,
            target: &target.name,
            recorded,
            creation: entry.creation,
            adopt_existing: live.spec.adopt_existing(),
            immutable: live.spec.immutable(),
            labels: &labels,
            annotations: &annotations,
            data: &data,
            inputs,
            versions: &versions,
            source: Some(&source),
            user: user.as_deref(),
            trigger: live.spec.trigger_keys(),
            restarts: same.trigger().is_some(),
        };
        let applied = self.apply(&wanted, &target, indexed).await;
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        let written = match applied {
            Ok(written) => written,
            Err(NotWritten::Refused(conflict, observed)) => {
                let immutable = conflict.is_immutable();
                let refusal = Refusal::new(conflict.reason(), conflict.to_string());
                let ended = self.refuse(object, &same, Some(&live), refusal).await;
                // Only what was said need not be said again.
                if !matches!(ended, Ended::Failed | Ended::Unsaid(_)) {
                    self.remember(object, |memory| {
                        if immutable {
                            memory.refused = Some(Box::new((entry.revision, versions.clone())));
                        } else {
                            memory.conflict = observed.map(|observed| Box::new((entry.revision, observed)));
                        }
                    });
                }
                return if immutable {
                    ended
                } else {
                    sooner(ended, RECHECK_CONFLICT)
                };
            }
            Err(NotWritten::Contended) => return Ended::Failed,
            Err(NotWritten::Held) => return Ended::Again(BEHIND),
            Err(NotWritten::Kubernetes(error)) => {
                return self.kubernetes_failed(object, &same, Some(&live), &error).await;
            }
        };
        self.remember(object, |memory| {
            memory.refused = None;
            memory.conflict = None;
        });
        // Our own writes bring no further pass that would see the Secret.
        self.count_in(object, &same, resolved, true);
        if let Some(former) = recorded.filter(|recorded| *recorded.name != *target.name)
            && let Err(ended) = self.remove_former(object, &same, &live, former.name).await
        {
            return ended;
        }
        let absent = absent(needs, answers).map(|need| &*need.key);
        let message = synced_message(&target.name, needs.len(), &absent.collect::<Vec<_>>());
        let target = TargetDraft {
            name: target.name.to_string(),
            written,
        };
        let draft = self.draft(
            object,
            entry,
            Verdict::holds(Reason::Synced, message),
            sources,
            Some(target),
            needs,
        );
        self.say(object, &same, draft, Some(&live), Ended::Well).await
    }

    /// What the Secret is to record of where it is made from.
    fn source(
        &self,
        target: &ObjectKey,
        resolved: &Resolved,
        needs: &[ReadRequest],
        answers: &[Answer],
        inputs: &str,
        versions: &str,
    ) -> String {
        let account = needs.iter().zip(answers).find_map(|(need, answer)| match answer {
            Answer::Value(value) if !need.key.starts_with("arn:") => SecretArn::parse(&value.arn),
            _ => None,
        });
        let origin = Origin {
            key: &self.key,
            secret: target,
            source: &fingerprint(&resolved.usable.source, ""),
            account: account.as_ref().map_or("", |arn| arn.account),
        };
        let absent = absent(needs, answers).map(|need| need.hash.as_str());
        record::text(origin, inputs, versions, absent)
    }

    /// Carries out the plan; planned again from another live read when the Secret changed meanwhile.
    pub(super) async fn apply(
        &self,
        wanted: &plan::DesiredSecret<'_>,
        target: &ObjectKey,
        indexed: bool,
    ) -> Result<Written, NotWritten> {
        let object = wanted.object;
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
            if self.is_stopped(object) {
                live.as_mut().map(wipe);
                return Err(NotWritten::Held);
            }
            let times = self.times(&object.namespace);
            let plan = plan::plan(&self.key, times, wanted, live.as_ref());
            if let Some(live) = &mut live {
                wipe(live);
            }
            let began = self.clock.now();
            let (sent, why, written) = match plan {
                Plan::Nothing(written) => return Ok(written),
                Plan::Refuse(conflict) => return Err(NotWritten::Refused(conflict, observed)),
                Plan::Create(mut secret, written) => {
                    let limit = times.limit_of(&written);
                    let sent = self.writer.create_secret_within(limit, &secret).await;
                    wipe(&mut secret);
                    (sent, None, written)
                }
                Plan::Patch { body, why, written } => {
                    let Some(observed) = &observed else {
                        return Err(NotWritten::Contended);
                    };
                    let limit = times.limit_of(&written);
                    let writer = &self.writer;
                    let sent = writer.patch_within::<Secret>(limit, target, observed, SYNC_MANAGER, body);
                    (sent.await, Some(why), written)
                }
            };
            // A refusal that comes at once tells nothing of writes; one that comes late does. A write without any answer is
            // noted where its error is told.
            let took = self.clock.now().saturating_sub(began);
            let late = took >= SLOW
                && sent
                    .as_ref()
                    .is_err_and(|error| error.class != cluster::Class::Timeout);
            if sent.is_ok() || late {
                self.slots
                    .secrets
                    .ended(&object.namespace, Outcome::Answered(took));
            }
            match sent {
                Ok(answer) => {
                    if why == Some(Why::Updated) {
                        let moved = (self.time.now(), Users::compare(user.as_deref(), wanted.user));
                        self.remember(wanted.object, |memory| {
                            memory.traces.get_or_insert_default().moved = Some(moved);
                        });
                    }
                    self.wrote(wanted, target, &answer, why, &written);
                    return Ok(written);
                }
                Err(error) => match error.class {
                    cluster::Class::AlreadyExists
                    | cluster::Class::Conflict
                    | cluster::Class::NotFound
                    | cluster::Class::UidMismatch => live = self.find_secret(target).await?,
                    _ => return Err(NotWritten::Kubernetes(error)),
                },
            }
        }
        tracing::info!(%object, secret = %target, "the Secret changes faster than it can be written; trying again later");
        Err(NotWritten::Contended)
    }

    /// What a write in `namespace` puts on a Secret as the times of what it does.
    ///
    /// Restarts take a pod for old that was made up to 10 s after the change (`CREATED_MARGIN`), so a change must arrive
    /// within 10 s of its time: it has no longer than any call. Where writes are slow it has the whole time of a fenced write
    /// and is dated ahead by the difference. Then a pod that is new may be taken for old, but none that is old for new.
    fn times(&self, namespace: &str) -> Times {
        let now = self.time.now();
        let ahead = if self.slots.secrets.is_slow(namespace) {
            FENCED_TIMEOUT.saturating_sub(CALL_TIMEOUT)
        } else {
            Duration::ZERO
        };
        Times {
            now,
            change: now.saturating_add(ahead).unwrap_or(now),
        }
    }

    async fn find_secret(&self, target: &ObjectKey) -> Result<Option<Secret>, NotWritten> {
        self.writer
            .cluster()
            .find::<Secret>(target)
            .await
            .map_err(NotWritten::Kubernetes)
    }

    /// Remembers, audits and tells of a write.
    fn wrote(
        &self,
        wanted: &plan::DesiredSecret<'_>,
        target: &ObjectKey,
        answer: &cluster::Written,
        why: Option<Why>,
        written: &Written,
    ) {
        let object = wanted.object;
        tracing::info!(
            target: "audit",
            action = "write",
            external_secret = %object,
            secret = %target,
            verb = if why.is_some() { "patch" } else { "create" },
            versions = wanted.versions,
        );
        let now = self.clock.now();
        self.remember(object, |memory| {
            let written = SecretEntry {
                uid: answer.uid.as_str().into(),
                resource_version: answer.resource_version.as_str().into(),
                owner: Some(object.name.clone()),
                controller_uid: (wanted.creation == CreationPolicy::Owner).then(|| wanted.uid.into()),
                content: written.content.as_str().into(),
                content_intact: true,
                inputs: Some(wanted.inputs.into()),
                versions: Some(wanted.versions.into()),
                absent: wanted.source.and_then(Absent::of),
                rollout: Some(written.rollout.as_str().into()),
                changed_at: written.changed_at,
                scope: written
                    .rescoped
                    .as_deref()
                    .and_then(token::rescoped)
                    .map_or_else(|| token::short(&written.scope), |(scope, _)| token::short(scope)),
                restart_since: written.restart_since,
                reloader: None,
                immutable: wanted.immutable,
                type_: None,
            };
            memory.written = Some(Box::new((now, target.clone(), written)));
            if !matches!(why, Some(Why::Updated | Why::Adopted)) {
                let mends = match memory.mends.as_deref() {
                    Some((since, count)) if now < *since + FIGHT => (*since, count + 1),
                    _ => (now, 1),
                };
                memory.mends = Some(Box::new(mends));
            }
        });
        let (reason, note) = match why {
            Some(Why::Updated) => (
                EventReason::Updated,
                format!("Secret {} was updated from AWS", target.name),
            ),
            Some(Why::DriftRepaired) => (
                EventReason::DriftRepaired,
                format!(
                    "Secret {} had been changed by hand; its data were restored",
                    target.name
                ),
            ),
            Some(Why::Adopted) => (
                EventReason::Updated,
                format!("Secret {} was taken over", target.name),
            ),
            Some(Why::Annotated) | None => return,
        };
        let regarding = events::reference("ExternalSecret", object, wanted.uid);
        self.events
            .emit(regarding, EventType::Normal, reason.as_str(), "Sync", &note);
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

/// The needs that are gone.
fn absent<'a>(needs: &'a [ReadRequest], answers: &'a [Answer]) -> impl Iterator<Item = &'a ReadRequest> {
    let each = needs.iter().zip(answers);
    each.filter(|(_, answer)| matches!(answer, Answer::Gone { .. }))
        .map(|(need, _)| need)
}

/// Overwrites the values of a Secret that is not needed any more.
pub(super) fn wipe(secret: &mut Secret) {
    for ByteString(bytes) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.zeroize();
    }
}
