//! One pass over one ExternalSecret: observe, plan, apply.
//!
//! A pass starts from what the indexes and the tracker know and ends at once where nothing is to be done. Values are
//! read before a write slot is taken; what is written starts from live objects.

mod budget;
mod control;
mod delete;
mod deletion_hold;
mod deletion_policy;
mod memory;
mod places;
mod read;
mod resolve;
mod restart_annotations;
mod rotation_status;
mod shares;
mod slots;
mod status_writer;
mod write;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;

pub use self::{budget::ValueBudget, memory::Memories, slots::WriteSlots};
use crate::{
    api::{CreationPolicy, ObjectKey, Reason, RestartMode, TokenKey, VersionId},
    aws::{self, Aws, Reader},
    cluster::{
        self, Control, Events, Index, Indexed, NamespaceEntry, Observed, Pace, SecretEntry, ServerTime,
        Writer,
    },
    sync::{
        decide::{
            answers::Answer,
            comparison::{inputs_of_source, is_ours},
            references::{ReadRequest, Resolved},
            versions,
        },
        deletions::Deletions,
        driver::{self, Tracking},
        entry::{Entry, Refresh},
        metrics::Metrics,
        queue::Class,
        resolve::Refusal,
        stores::Stores,
        work::{Clock, Work},
    },
    track::{self, Known, Subscription, Want},
};

/// How often what a person must mend is looked at again, at least.
const RECHECK_PERMANENT: Duration = Duration::from_mins(5);
/// How often it is asked again for a version that is doubted, should its end wake nobody.
const RECHECK_HELD: Duration = Duration::from_mins(1);
/// How long the garbage collector has for the Secret of an earlier object of the same name.
const LEFTOVER: Duration = Duration::from_secs(30);
/// How often it is looked after.
const RECHECK_LEFTOVER: Duration = Duration::from_secs(5);

/// What every pass shares.
pub struct Context {
    /// ExternalSecrets.
    pub objects: Arc<Index<Entry>>,
    /// Managed Secrets.
    pub secrets: Arc<Index<SecretEntry>>,
    /// Namespaces; empty in namespaced mode.
    pub namespaces: Arc<Index<NamespaceEntry>>,
    /// The ConfigMap by which people hold everything up.
    pub control: Arc<Index<Control>>,
    /// Where it lies.
    pub operator_namespace: Arc<str>,
    /// Stores and what they are good for.
    pub stores: Arc<Stores>,
    /// The tracker.
    pub tracking: Arc<Tracking>,
    /// AWS.
    pub aws: Arc<Aws>,
    /// Values.
    pub reader: Arc<Reader>,
    /// Kubernetes.
    pub writer: Writer,
    /// Events.
    pub events: Events,
    /// The API server's clock.
    pub time: ServerTime,
    /// The process's clock.
    pub clock: Clock,
    /// The key of the tokens.
    pub key: TokenKey,
    /// The queue.
    pub work: Arc<Work>,
    /// Intervals below are raised to it.
    pub min_interval: Duration,
    /// What applies to restarts where a spec says nothing.
    pub restart_default: RestartMode,
    /// Namespaces whose Secrets are never written.
    pub protected: Vec<String>,
    /// Numbers.
    pub metrics: Metrics,
    /// Memory for values.
    pub values: ValueBudget,
    /// Places to write.
    pub slots: WriteSlots,
    /// The rate of status writes that nobody waits for.
    pub pace: Pace,
    /// What the process remembers.
    pub memory: Memories,
    /// What is deleted because it is gone in AWS, and how much of it at once.
    pub deletions: Mutex<Deletions>,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    /// All is as it should be, until something changes.
    Well,
    /// Look again after this time though nothing changes.
    Again(Duration),
    /// What it came to has yet to be said: many objects have something to say, and the turn of this one comes after this
    /// time. The Secret is written already; the next pass finds the same again and says it.
    Unsaid(Duration),
    /// It failed for a reason that may pass: look again after the next back-off.
    Failed,
}

/// Why a pass does not get to write.
enum Stop {
    /// A person must mend it; the Secret stays as it is.
    Refused(Refusal),
    /// AWS was not called, since the failure is known already. It may be called after this time.
    Known(Refusal, Option<Duration>),
    /// It passes by itself.
    Transient(Refusal),
    /// Nothing to say yet; something else wakes the object.
    Waiting,
    /// Nothing to say yet: the pass comes again after this time.
    Later(Duration),
    /// The API server did not give what the pass needs.
    Kubernetes(cluster::Error),
}

impl Stop {
    /// What an error of AWS means for the pass.
    fn of(error: &aws::Error) -> Self {
        let refusal = Refusal::new(error.reason(), error.to_string());
        if error.class().is_transient() {
            Self::Transient(refusal)
        } else {
            Self::Refused(refusal)
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Context {
    /// One pass over `object`.
    pub async fn reconcile(&self, object: &ObjectKey, class: Class) -> Ended {
        let entry = match self.objects.get(object) {
            None => {
                self.tracking.tell(|tracker, _| tracker.unsubscribe(object));
                self.memory.lock().remove(object);
                self.deletions().forget(object);
                return Ended::Well;
            }
            // What is deleted with it must not come back meanwhile.
            Some(Indexed::Entry(entry)) if entry.ending => {
                let now = self.clock.now();
                self.remember(object, |memory| {
                    memory.see(&entry.uid, entry.revision, now);
                    memory.wanted_since = None;
                });
                self.tracking.tell(|tracker, _| tracker.unsubscribe(object));
                self.deletions().forget(object);
                return Ended::Well;
            }
            Some(Indexed::Entry(entry)) => entry,
            Some(Indexed::Malformed(malformed)) => return self.say_malformed(object, &malformed).await,
        };
        let now = self.clock.now();
        self.remember(object, |memory| {
            memory.see(&entry.uid, entry.revision, now);
            memory.wanted_since.get_or_insert(now);
        });
        if let Some(control) = self.held(&object.namespace) {
            return self.hold(object, &entry, &control).await;
        }
        match self.suspension(object, &entry) {
            Ok(None) => {}
            Ok(Some((until, by))) => return self.suspend(object, &entry, until, &by).await,
            Err(refusal) => {
                self.unsubscribe(object);
                return self.refuse(object, &entry, None, refusal).await;
            }
        }
        let resolved = match self.resolve(object, &entry).await {
            Ok(resolved) => resolved,
            Err(Stop::Waiting) => return Ended::Well,
            Err(Stop::Later(wait)) => return Ended::Again(wait),
            Err(Stop::Kubernetes(error)) => {
                return self.kubernetes_failed(object, &entry, None, &error).await;
            }
            Err(Stop::Refused(refusal)) => {
                self.unsubscribe(object);
                self.retry_store(object, &entry, &refusal);
                let wait = Self::recheck(&entry);
                return sooner(self.refuse(object, &entry, None, refusal).await, wait);
            }
            Err(Stop::Known(refusal, again)) => {
                return self.refuse_again(object, &entry, refusal, again).await;
            }
            Err(Stop::Transient(refusal)) => {
                return match self.defer(object, &entry, refusal).await {
                    Ended::Well => Ended::Failed,
                    other => other,
                };
            }
        };
        self.sync(object, &entry, &resolved, class).await
    }

    /// From resolved needs to a written Secret.
    async fn sync(&self, object: &ObjectKey, entry: &Entry, resolved: &Resolved, class: Class) -> Ended {
        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        let secret = self.secret(object, &target);
        let memory = self.recall(object);
        let inputs = self.inputs(entry, &target, resolved);

        let (recorded_inputs, recorded_versions) = match (&secret, entry.creation) {
            (_, CreationPolicy::None) => memory.read.as_deref().cloned().unzip(),
            (Some(secret), _) => (
                secret.inputs.as_deref().map(str::to_owned),
                secret.versions.as_deref().map(str::to_owned),
            ),
            (None, _) => (None, None),
        };
        let same_inputs = recorded_inputs.as_deref() == Some(&*inputs);
        let recorded = versions::parse(if same_inputs {
            recorded_versions.as_deref()
        } else {
            None
        });
        let absent = secret
            .as_ref()
            .filter(|_| same_inputs && entry.creation != CreationPolicy::None)
            .and_then(|secret| secret.absent.as_deref());
        let needs: Vec<ReadRequest> = resolved
            .needs
            .iter()
            .map(|need| ReadRequest {
                recorded: recorded.get(&need.hash).map(|id| VersionId(id.as_str().into())),
                absent: absent.is_some_and(|absent| absent.contains(&need.hash)),
                ..need.clone()
            })
            .collect();
        self.subscribe(object, entry, &needs);

        // On demand: not more often than every 10 s, and never lost.
        let asked_now = entry.asked != 0 && memory.answered != Some(entry.asked) && !same_inputs;
        if asked_now && let Some(left) = memory.wait_for(entry.asked, self.clock.now()) {
            return Ended::Again(left);
        }

        let once = !matches!(entry.refresh, Refresh::Every(_));
        let ours = secret
            .as_ref()
            .is_some_and(|secret| is_ours(object, entry, secret));
        self.count_in(object, entry, resolved, ours);
        let intact = match entry.creation {
            CreationPolicy::None => memory.read.is_some(),
            CreationPolicy::Owner | CreationPolicy::Orphan => {
                ours && secret.as_ref().is_some_and(|secret| {
                    secret.content_intact
                        && secret.owner.as_deref() == Some(&*object.name)
                        && (entry.creation == CreationPolicy::Owner)
                            == (secret.controller_uid.as_deref() == Some(&*entry.uid))
                })
            }
        };
        let settled = needs.iter().all(|need| {
            let known = || {
                self.tracking
                    .ask(|tracker| tracker.known(need.source, &need.key, &need.selector))
            };
            match &need.recorded {
                Some(_) if once => true,
                Some(recorded) => match known() {
                    Known::Unknown | Known::Held { .. } => true,
                    Known::Version(version) => version == *recorded,
                    Known::Gone { .. } | Known::Failing(_) => false,
                },
                // The Secret was made without it, and it is still gone.
                None if need.absent => match known() {
                    Known::Gone { .. } => true,
                    Known::Unknown => !once,
                    Known::Version(_) | Known::Held { .. } | Known::Failing(_) => false,
                },
                None => false,
            }
        });
        // Where nothing is written, the Secret of a former name is left alone too.
        let renamed = entry.creation != CreationPolicy::None
            && entry
                .recorded
                .as_ref()
                .is_some_and(|recorded| recorded.former.is_some());
        if intact && same_inputs && settled && !renamed {
            self.deletions().withdraw(object);
            let secret = match secret {
                Some(secret)
                    if entry.creation != CreationPolicy::None
                        && !self.is_stamped(entry, &target, &secret) =>
                {
                    if let Err(ended) = self.stamp(object, entry, &target, &inputs).await {
                        return ended;
                    }
                    self.secret(object, &target)
                }
                other => other,
            };
            let draft = self.draft_synced(object, entry, resolved, &needs, secret.as_ref());
            let ended = self.unseen(object, &target).map_or(Ended::Well, Ended::Again);
            return self.say(object, entry, draft, None, ended).await;
        }
        // What was refused is found out once more, and said again.
        if self.lost_status(object, entry) {
            self.remember(object, |memory| (memory.refused, memory.conflict) = (None, None));
        }
        let memory = self.recall(object);
        if let Some(ended) = self.stands(object, entry, &target, secret.as_ref()).await {
            return self.say_current(object, entry, ended).await;
        }
        if let Some(secret) = &secret
            && secret.immutable
            && intact
            && memory
                .refused
                .is_some_and(|refused| *refused == (entry.revision, self.known_versions(&needs)))
        {
            let ended = self.unseen(object, &target).map_or(Ended::Well, Ended::Again);
            return self.say_current(object, entry, ended).await;
        }

        // Nothing is read that could not be written soon.
        if let Some(wait) = self.slots.secrets.full(&object.namespace) {
            return self.say_current(object, entry, Ended::Again(wait)).await;
        }
        // An edit asks for what AWS says now, and nothing would correct an answer from a moment before it.
        let edited = entry.refresh == Refresh::OnChange && secret.is_some() && !same_inputs;
        if asked_now {
            let now = self.clock.now();
            self.remember(object, |memory| memory.call_for(entry.asked, now));
            self.aws.recheck(resolved.usable.id).await;
        }
        let read = self.read(
            object,
            entry,
            resolved,
            &needs,
            class,
            asked_now || edited,
            once && same_inputs,
        );
        let (read, ()) = tokio::join!(read, self.try_denied(resolved, asked_now));
        let answers = match read {
            Ok(answers) => answers,
            Err(Stop::Waiting) => return Ended::Again(RECHECK_HELD),
            Err(Stop::Later(wait)) => return Ended::Again(wait),
            Err(Stop::Kubernetes(error)) => return self.kubernetes_failed(object, entry, None, &error).await,
            Err(Stop::Refused(refusal)) => {
                // The tracker asks again for what AWS refuses; what was refused of an answer it knows nothing of.
                let ours = refusal.reason == Reason::KeyNotAllowed;
                let ended = self.refuse(object, entry, None, refusal).await;
                return if ours {
                    sooner(ended, Self::recheck(entry))
                } else {
                    ended
                };
            }
            Err(Stop::Known(refusal, again)) => {
                return self.refuse_again(object, entry, refusal, again).await;
            }
            Err(Stop::Transient(refusal)) => return self.defer(object, entry, refusal).await,
        };
        if asked_now {
            self.remember(object, |memory| memory.answered = Some(entry.asked));
        }
        // What is gone is judged by the account that was asked. To find it out may take long, and holds no place to write.
        let gone = |answer: &Answer| answer.is_gone();
        if entry.creation != CreationPolicy::None
            && answers.all.iter().any(gone)
            && let Err(error) = self.aws.prove(resolved.usable.id).await
        {
            return self.unproven(object, entry, None, &error).await;
        }
        let places = &self.slots.secrets;
        // The one place for large values is given back where writes take long: they are read again then.
        let slot = if answers.are_large() {
            places.take_soon(&object.namespace).await
        } else {
            places.take(&object.namespace).await
        };
        let _slot = match slot {
            Ok(slot) => slot,
            Err(wait) => return Ended::Again(wait),
        };
        self.write(
            object,
            entry,
            resolved,
            &needs,
            &answers.all,
            &inputs,
            secret.is_some(),
        )
        .await
    }

    /// Says what is known to fail, and looks again when AWS may be called for it.
    async fn refuse_again(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        refusal: Refusal,
        again: Option<Duration>,
    ) -> Ended {
        let ended = self.refuse(object, entry, None, refusal).await;
        match again {
            Some(again) => sooner(ended, again),
            None => ended,
        }
    }

    /// The store of an object that was edited, or whose refresh somebody asks for, is looked at again if it is not ready.
    fn retry_store(&self, object: &ObjectKey, entry: &Entry, refusal: &Refusal) {
        if refusal.reason == Reason::StoreNotReady
            && self.recall(object).edited
            && let Ok(store) = self.stores.meant(entry.store.as_ref())
        {
            self.stores.retry(&Stores::key(&store, &object.namespace));
        }
    }

    /// Somebody asks for a refresh: what the source was denied is tried again, if that is due.
    async fn try_denied(&self, resolved: &Resolved, asked: bool) {
        if asked {
            let keys: Vec<_> = resolved.needs.iter().map(|need| need.key.clone()).collect();
            driver::try_denied(&self.tracking, &self.aws, resolved.usable.id, &keys).await;
        }
    }

    /// Whether a Secret stands in the way as it did, or is fought over, so that no value need be read now.
    async fn stands(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        target: &ObjectKey,
        secret: Option<&SecretEntry>,
    ) -> Option<Ended> {
        let now = self.clock.now();
        let leftover = secret.is_some_and(|secret| {
            secret.owner.as_deref() == Some(&*object.name)
                && secret
                    .controller_uid
                    .as_deref()
                    .is_some_and(|controller| *controller != *entry.uid)
        });
        let mut since = None;
        self.remember(object, |memory| {
            memory.leftover = leftover.then(|| memory.leftover.unwrap_or(now));
            since = memory.leftover;
        });
        // An object deleted and made again: its former Secret goes by itself, which wakes it.
        if since.is_some_and(|since| now < since + LEFTOVER) {
            return Some(Ended::Again(RECHECK_LEFTOVER));
        }
        let memory = self.recall(object);
        if let Some((since, count)) = memory.mends.map(|mends| *mends)
            && count >= write::MENDS
            && let Some(left) = (since + write::FIGHT).checked_sub(now)
        {
            tracing::warn!(%object, secret = %target, "somebody changes the Secret as fast as it is mended; pausing");
            return Some(Ended::Again(left));
        }
        let (revision, observed) = *memory.conflict?;
        if revision != entry.revision {
            return None;
        }
        match self.writer.cluster().find::<Secret>(target).await {
            Ok(Some(mut live)) => {
                let same = Observed::of(&live).is_some_and(|live| live == observed);
                write::wipe(&mut live);
                same.then_some(Ended::Again(write::RECHECK_CONFLICT))
            }
            Ok(None) | Err(_) => None,
        }
    }

    /// What the data are made from besides values. A refresh annotation is part of it, so that none is lost.
    fn inputs(&self, entry: &Entry, target: &ObjectKey, resolved: &Resolved) -> String {
        inputs_of_source(&self.key, entry, entry.asked, target, resolved).unwrap_or_else(|| {
            let asked = entry.asked.to_be_bytes();
            // Read once: edits of the spec are no reason to read again.
            self.key.inputs(target, [asked.as_slice()]).to_string()
        })
    }

    fn subscribe(&self, object: &ObjectKey, entry: &Entry, needs: &[ReadRequest]) {
        let wants = needs
            .iter()
            .map(|need| Want {
                source: need.source,
                key: need.key.clone(),
                selector: need.selector.clone(),
                recorded: need.recorded.clone(),
            })
            .collect();
        let refresh = match entry.refresh {
            Refresh::Every(interval) => track::Refresh::Every(interval),
            Refresh::OnChange | Refresh::Once => track::Refresh::Once,
        };
        self.tracking.subscribe(
            object,
            Subscription {
                refresh,
                rotation: entry.rotation.is_some(),
                wants,
            },
        );
    }

    /// The versions that the tracker holds to be right, as they would be recorded.
    fn known_versions(&self, needs: &[ReadRequest]) -> String {
        let known = needs.iter().filter_map(|need| {
            match self
                .tracking
                .ask(|tracker| tracker.known(need.source, &need.key, &need.selector))
            {
                Known::Version(version) => Some((need.hash.clone(), version.0.to_string())),
                _ => need
                    .recorded
                    .as_ref()
                    .map(|version| (need.hash.clone(), version.0.to_string())),
            }
        });
        versions::json(&known.collect())
    }

    /// How soon what a person must mend is looked at again.
    fn recheck(entry: &Entry) -> Duration {
        match entry.refresh {
            Refresh::Every(interval) => interval.min(RECHECK_PERMANENT),
            Refresh::OnChange | Refresh::Once => RECHECK_PERMANENT,
        }
    }
}

fn sooner(ended: Ended, wait: Duration) -> Ended {
    match ended {
        Ended::Well => Ended::Again(wait),
        Ended::Again(other) => Ended::Again(other.min(wait)),
        // The turn is kept: to come before it would only ask again.
        Ended::Unsaid(_) | Ended::Failed => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_look_wins_and_a_failure_keeps_its_back_off() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
        for (ended, wait, expected) in [
            (Ended::Well, long, Some(long)),
            (Ended::Again(short), long, Some(short)),
            (Ended::Again(long), short, Some(short)),
            (Ended::Failed, short, None),
            (Ended::Unsaid(long), short, Some(long)),
        ] {
            let after = match sooner(ended, wait) {
                Ended::Again(wait) | Ended::Unsaid(wait) => Some(wait),
                Ended::Failed => None,
                Ended::Well => panic!("a wait was forgotten"),
            };
            assert_eq!(after, expected, "{ended:?} {wait:?}");
        }
    }
}
