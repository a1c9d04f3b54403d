//! One pass over one ExternalSecret: observe, plan, apply.
//!
//! A pass starts from what the indexes and the tracker know and ends at once where nothing is to be done. Values are
//! read before a write slot is taken; what is written starts from live objects.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::runtime::events::EventType;
use tokio::sync::Semaphore;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    api::{
        ConditionType, CreationPolicy, DeletionPolicy, EventReason, ExternalSecret, ObjectKey, Reason, Selector,
        SourceId, StoreKind, TokenKey, VersionId,
        allowed::{AllowedKeys, Home},
        names::{self, annotation},
        token,
    },
    aws::{self, Aws, Reader, RemoteValue, Urgency},
    cluster::{self, Events, Index, Indexed, Malformed, NamespaceEntry, Observed, SecretEntry, ServerTime, Writer},
    sync::{
        driver::{self, Tracking},
        entry::{Entry, Refresh, Suspension, carried},
        events,
        metrics::Metrics,
        pace::Pace,
        plan::{self, Data, Plan, Why, Written, seconds},
        queue::Class,
        resolve::{Asked, Refusal},
        status::{self, Draft, SourceDraft, TargetDraft, Verdict},
        stores::{Stores, Unusable, Usable},
        work::{Clock, Work},
    },
    track::{self, Known, Subscription, Want},
    value,
};

/// How many objects write to Kubernetes at once.
pub const WRITE_SLOTS: usize = 32;
/// How often what stands in the way of a write is looked at again.
const RECHECK_CONFLICT: Duration = Duration::from_mins(1);
/// How often what a person must mend is looked at again, at least.
const RECHECK_PERMANENT: Duration = Duration::from_mins(5);
/// How often a plan is made anew because the Secret changed meanwhile, before others get their turn.
const PLANS: usize = 3;
/// How long a Secret that we wrote may be missing in the index before it counts as deleted.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// The suspend annotation as the index of Namespaces has it.
const SUSPEND_SHORT: &str = "suspend-sync-until";
/// An object is read on demand at most this often.
const ON_DEMAND: Duration = Duration::from_secs(10);
/// `Current` allows at least this much time without a successful check.
const STALE_FLOOR: Duration = Duration::from_mins(10);

/// What every pass shares.
pub struct Context {
    /// ExternalSecrets.
    pub objects: Arc<Index<Entry>>,
    /// Managed Secrets.
    pub secrets: Arc<Index<SecretEntry>>,
    /// Namespaces; empty in namespaced mode.
    pub namespaces: Arc<Index<NamespaceEntry>>,
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
    pub key: Arc<TokenKey>,
    /// The queue.
    pub work: Arc<Work>,
    /// Intervals below are raised to it.
    pub min_interval: Duration,
    /// Namespaces whose Secrets are never written.
    pub protected: Vec<String>,
    /// Numbers.
    pub metrics: Metrics,
    /// Places to write, [`WRITE_SLOTS`] of them.
    pub slots: Semaphore,
    /// The rate of status writes after an object's first.
    pub pace: Pace,
    /// What the process remembers.
    pub memory: Memories,
}

/// What the process remembers of all objects.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<ObjectKey, Memory>>);

/// What a process remembers of an object; losing it costs at most a read.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// The refresh annotation that was last answered, and when.
    asked: Option<(u64, Duration)>,
    /// The versions that an immutable target refused.
    refused: Option<String>,
    /// The Secret as our last write left it, and when, until the watch shows it or a later one.
    written: Option<(Duration, ObjectKey, SecretEntry)>,
    /// The uid and revision that the last pass saw.
    seen: Option<(Box<str>, u64)>,
    /// When the first pass wanted something of AWS.
    wanted_since: Option<Duration>,
    /// The generation that was said to be malformed.
    malformed: Option<i64>,
    /// With creationPolicy None: the inputs and versions that were last read.
    read: Option<(String, String)>,
}

/// How a pass ended.
pub enum Ended {
    /// All is as it should be, until something changes.
    Well,
    /// Look again after this time though nothing changes.
    Again(Duration),
    /// It failed for a reason that may pass: look again after the next back-off.
    Failed,
}

/// A resolved need: what to read, and where.
#[derive(Clone, Debug)]
struct Wanted {
    source: SourceId,
    key: Arc<str>,
    selector: Selector,
    /// Its name in `keyturn.dev/versions`.
    hash: String,
    recorded: Option<VersionId>,
}

/// An ExternalSecret whose references were all found good.
struct Resolved {
    /// `Kind/name` of the store, as the status has it.
    label: String,
    usable: Usable,
    allowed: AllowedKeys,
    needs: Vec<Wanted>,
}

impl Resolved {
    fn home(&self) -> Home<'_> {
        Home { region: &self.usable.source.region, account: self.usable.account.as_deref() }
    }
}

/// Why a Secret was not written.
enum NotWritten {
    Refused(plan::Refusal),
    /// It changes faster than plans can be made.
    Contended,
    Kubernetes(cluster::Error),
}

/// One entry's answer from AWS.
enum Answer {
    Value(Arc<RemoteValue>),
    /// Proven by DescribeSecret.
    Gone { deleted: bool },
}

/// Why a pass does not get to write.
enum Stop {
    /// A person must mend it; the Secret stays as it is.
    Refused(Refusal),
    /// It passes by itself.
    Transient(Refusal),
    /// Nothing to say yet; something else wakes the object.
    Waiting,
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
                return Ended::Well;
            }
            Some(Indexed::Entry(entry)) => entry,
            Some(Indexed::Malformed(malformed)) => return self.say_malformed(object, &malformed).await,
        };
        let now = self.clock.now();
        self.remember(object, |memory| {
            memory.seen = Some((entry.uid.clone(), entry.revision));
            memory.wanted_since.get_or_insert(now);
        });
        match self.suspension(object, &entry) {
            Ok(None) => {}
            Ok(Some((until, by))) => return self.suspend(object, &entry, until, &by).await,
            Err(refusal) => return self.refuse(object, &entry, None, refusal).await,
        }
        let resolved = match self.resolve(object, &entry).await {
            Ok(resolved) => resolved,
            Err(Stop::Waiting) => return Ended::Well,
            Err(Stop::Refused(refusal)) => {
                self.tracking.tell(|tracker, _| tracker.unsubscribe(object));
                let wait = self.recheck(&entry);
                return sooner(self.refuse(object, &entry, None, refusal).await, wait);
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

    /// The latest suspension in force and what it is written on.
    fn suspension(&self, object: &ObjectKey, entry: &Entry) -> Result<Option<(Timestamp, String)>, Refusal> {
        let now = self.time.now();
        let namespace = self
            .namespaces
            .with(&ObjectKey::new("", object.namespace.clone()), |namespace| {
                let annotation = namespace.entry()?.annotations.get(SUSPEND_SHORT)?;
                Some(Suspension::parse(Some(annotation)))
            })
            .flatten()
            .unwrap_or_default();
        let store = self.stores.meant(entry.store.as_ref()).ok();
        let of_store =
            store.as_ref().map_or(Suspension::None, |store| self.stores.suspended(store, &object.namespace));
        let places = [
            (entry.suspended, format!("ExternalSecret {}", object.name)),
            (namespace, format!("Namespace {}", object.namespace)),
            (of_store, store.map_or_else(String::new, |store| format!("{} {}", store.kind, store.name))),
        ];
        let mut latest: Option<(Timestamp, String)> = None;
        for (suspension, place) in places {
            match suspension {
                Suspension::Unreadable => {
                    return Err(Refusal::new(
                        Reason::InvalidSpec,
                        format!(
                            "annotation {} on {place} is not a time: write one such as 2026-11-01T08:00:00Z",
                            annotation::SUSPEND_SYNC_UNTIL
                        ),
                    ));
                }
                Suspension::Until(until) if until > now && latest.as_ref().is_none_or(|(latest, _)| until > *latest) => {
                    latest = Some((until, place));
                }
                Suspension::Until(_) | Suspension::None => {}
            }
        }
        Ok(latest)
    }

    async fn suspend(&self, object: &ObjectKey, entry: &Entry, until: Timestamp, by: &str) -> Ended {
        self.tracking.tell(|tracker, _| tracker.unsubscribe(object));
        let message = format!("suspended until {} by the annotation on {by}", seconds(until));
        let draft = Draft {
            generation: entry.said.generation(),
            current: Some(Verdict::fails(Reason::Suspended, message)),
            ..Draft::default()
        };
        let left = Duration::try_from(until.duration_since(self.time.now())).unwrap_or(Duration::ZERO);
        // Clocks and annotations change: a far end is looked at again before it.
        self.say(object, entry, draft, None, Ended::Again(left.clamp(Duration::from_secs(1), Duration::from_hours(24)))).await
    }

    /// The store, its identity, and every key: all checked before AWS is asked for any of them.
    async fn resolve(&self, object: &ObjectKey, entry: &Entry) -> Result<Resolved, Stop> {
        if let Some(invalid) = &entry.invalid {
            return Err(Refusal::new(Reason::InvalidSpec, &**invalid).into());
        }
        if self.protected.iter().any(|namespace| **namespace == *object.namespace) {
            return Err(Refusal::new(
                Reason::NamespaceNotAllowed,
                format!("namespace {} is protected: the operator writes no Secrets there", object.namespace),
            )
            .into());
        }
        let store = self.stores.meant(entry.store.as_ref())?;
        let namespace = self.namespaces.get(&ObjectKey::new("", object.namespace.clone()));
        let labels = namespace.as_ref().and_then(Indexed::entry);
        let mut usable = match self.stores.usable(&store, &object.namespace, labels) {
            Ok(usable) => usable,
            Err(Unusable::NotYet) => return Err(Stop::Waiting),
            Err(Unusable::Refused(refusal)) => return Err(refusal.into()),
        };
        let refused = |error: aws::Error| {
            let refusal = Refusal::new(error.reason(), error.to_string());
            if error.class().is_transient() { Stop::Transient(refusal) } else { Stop::Refused(refusal) }
        };
        // An ARN means the store's account or another one, which only AWS can tell.
        if usable.account.is_none() && entry.needs.iter().any(|need| need.key.starts_with("arn:")) {
            self.stores.prove(&mut usable).await.map_err(refused)?;
        }
        let store_key = Stores::key(&store, &object.namespace);
        let scope = (store.kind == StoreKind::SecretStore).then_some(&*store_key.namespace);
        let asked = Asked { store: &store, uid: &usable.uid, namespace: scope, spec: &usable.spec };
        let allowed = AllowedKeys::new(usable.spec.allowed_keys.as_deref(), &object.namespace)
            .map_err(|bad| Refusal::new(Reason::StoreNotReady, format!("{}: {bad}", asked.label())))?;
        let label = format!("{}/{}", store.kind, store.name);
        let mut resolved = Resolved { label, usable: usable.clone(), allowed, needs: Vec::with_capacity(entry.needs.len()) };
        for need in &entry.needs {
            let key = asked.key(need);
            if !resolved.allowed.allows(&key, resolved.home()) {
                tracing::info!(target: "audit", action = "refusal", external_secret = %object, reason = "KeyNotAllowed", subject = %key);
                return Err(asked.denied(&object.namespace, &key).into());
            }
            let hash = token::remote_hash(store.kind, &store.name, &key, &need.selector);
            let selector = need.selector.clone();
            resolved.needs.push(Wanted { source: usable.id, key, selector, hash, recorded: None });
        }
        Ok(resolved)
    }

    /// From resolved needs to a written Secret.
    async fn sync(&self, object: &ObjectKey, entry: &Entry, resolved: &Resolved, class: Class) -> Ended {
        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        let secret = self.secret(object, &target);
        let memory = self.recall(object);
        let inputs = self.inputs(entry, &target, resolved);

        let (recorded_inputs, recorded_versions) = match (&secret, entry.creation) {
            (_, CreationPolicy::None) => memory.read.clone().unzip(),
            (Some(secret), _) => (secret.inputs.as_deref().map(str::to_owned), secret.versions.as_deref().map(str::to_owned)),
            (None, _) => (None, None),
        };
        let same_inputs = recorded_inputs.as_deref() == Some(&*inputs);
        let recorded = parse_versions(if same_inputs { recorded_versions.as_deref() } else { None });
        let needs: Vec<Wanted> = resolved
            .needs
            .iter()
            .map(|need| Wanted { recorded: recorded.get(&need.hash).map(|id| VersionId(id.as_str().into())), ..need.clone() })
            .collect();
        self.subscribe(object, entry, &needs);

        // On demand: not more often than every 10 s, and never lost.
        let asked_now = entry.asked != 0 && memory.asked.is_none_or(|(asked, _)| asked != entry.asked) && !same_inputs;
        if asked_now
            && let Some((_, at)) = memory.asked
            && let Some(left) = (at + ON_DEMAND).checked_sub(self.clock.now())
        {
            return Ended::Again(left);
        }

        let once = !matches!(entry.refresh, Refresh::Every(_));
        let ours = secret.as_ref().is_some_and(|secret| is_ours(object, entry, secret));
        let intact = match entry.creation {
            CreationPolicy::None => memory.read.is_some(),
            CreationPolicy::Owner | CreationPolicy::Orphan => {
                ours && secret.as_ref().is_some_and(|secret| {
                    secret.content_intact && (entry.creation == CreationPolicy::Owner) == (secret.controller_uid.as_deref() == Some(&*entry.uid))
                })
            }
        };
        let settled = needs.iter().all(|need| {
            need.recorded.is_some()
                && (once || match self.tracking.ask(|tracker| tracker.known(need.source, &need.key, &need.selector)) {
                    Known::Unknown | Known::Held { .. } => true,
                    Known::Version(version) => Some(&version) == need.recorded.as_ref(),
                    Known::Gone { .. } | Known::Failing(_) => false,
                })
        });
        if intact && same_inputs && settled && entry.recorded.as_ref().is_none_or(|recorded| recorded.former.is_none()) {
            let draft = self.draft_synced(object, entry, resolved, &needs, secret.as_ref());
            return self.say(object, entry, draft, None, Ended::Well).await;
        }
        if let Some(secret) = &secret
            && secret.immutable
            && intact
            && memory.refused.as_deref() == Some(&*self.known_versions(&needs))
        {
            return Ended::Well;
        }

        let answers = match self.read(object, entry, resolved, &needs, class, asked_now, once && same_inputs).await {
            Ok(answers) => answers,
            Err(Stop::Waiting) => return Ended::Well,
            Err(Stop::Refused(refusal)) => return self.refuse(object, entry, None, refusal).await,
            Err(Stop::Transient(refusal)) => return self.defer(object, entry, refusal).await,
        };
        if asked_now {
            let now = self.clock.now();
            self.remember(object, |memory| memory.asked = Some((entry.asked, now)));
        }
        let Ok(_slot) = self.slots.acquire().await else { return Ended::Failed };
        self.write(object, entry, resolved, &needs, &answers, &inputs, secret.is_some()).await
    }

    /// Reads every need, and stops at the first in the spec's order that cannot be had.
    #[expect(clippy::too_many_arguments, reason = "the facts of one pass, used nowhere else")]
    async fn read(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        needs: &[Wanted],
        class: Class,
        fresh: bool,
        pinned: bool,
    ) -> Result<Vec<Answer>, Stop> {
        let urgency = match class {
            Class::Urgent => Urgency::Fresh,
            Class::Periodic => Urgency::Periodic,
        };
        let reads = needs.iter().map(|need| self.read_one(object, need, urgency, fresh, pinned));
        let mut answers = Vec::with_capacity(needs.len());
        for (answer, need) in future::join_all(reads).await.into_iter().zip(needs) {
            match answer? {
                Answer::Gone { deleted } if entry.deletion == DeletionPolicy::Retain => {
                    return Err(gone(need, deleted).into());
                }
                Answer::Value(value) => {
                    self.admit(object, resolved, &value)?;
                    answers.push(Answer::Value(value));
                }
                gone @ Answer::Gone { .. } => answers.push(gone),
            }
        }
        Ok(answers)
    }

    async fn read_one(&self, object: &ObjectKey, need: &Wanted, urgency: Urgency, fresh: bool, pinned: bool) -> Result<Answer, Stop> {
        let Wanted { source, key, selector, recorded, .. } = need;
        // A drifted Secret that is not to be refreshed gets back what it held, if AWS still has it.
        if pinned
            && let Some(version) = recorded
            && let Ok(value) =
                self.reader.read(*source, key, &Selector::Version(version.clone()), object, urgency).await
        {
            return Ok(Answer::Value(value));
        }
        if let Known::Gone { deleted } = self.tracking.ask(|tracker| tracker.known(*source, key, selector)) {
            // Described as gone: reading it again would only be denied again. The tracker wakes us when it is back.
            if !fresh {
                return Ok(Answer::Gone { deleted });
            }
        }
        let read = if fresh {
            self.reader.read_fresh(*source, key, selector, object, urgency).await
        } else {
            self.reader.read(*source, key, selector, object, urgency).await
        };
        let value = match read {
            Ok(value) => value,
            Err(error) => return self.unread(need, &error).await,
        };
        match self.tracking.saw(*source, key, selector, &value) {
            // What stands is another version than was read: a stale replica answered, or a newer version came between.
            Known::Held { accepted: Some(stands), .. } | Known::Version(stands) if stands != value.version => {
                self.pinned(object, need, &stands, urgency).await
            }
            Known::Held { accepted: None, .. } => match recorded {
                Some(recorded) => self.pinned(object, need, recorded, urgency).await,
                None => Err(Stop::Waiting),
            },
            _ => Ok(Answer::Value(value)),
        }
    }

    async fn pinned(&self, object: &ObjectKey, need: &Wanted, version: &VersionId, urgency: Urgency) -> Result<Answer, Stop> {
        let selector = Selector::Version(version.clone());
        match self.reader.read(need.source, &need.key, &selector, object, urgency).await {
            Ok(value) => Ok(Answer::Value(value)),
            Err(error) => {
                let refusal = Refusal::new(error.reason(), error.to_string());
                Err(if error.class().is_transient() { Stop::Transient(refusal) } else { refusal.into() })
            }
        }
    }

    /// What a failed read means. "Not found" is believed only once DescribeSecret says so too.
    async fn unread(&self, need: &Wanted, error: &aws::Error) -> Result<Answer, Stop> {
        let Wanted { source, key, selector, .. } = need;
        let refusal = Refusal::new(error.reason(), error.to_string());
        if error.class().is_transient() {
            self.tracking.failed(*source, key, selector, error);
            return Err(Stop::Transient(refusal));
        }
        if !matches!(error.class(), aws::Class::NotFound | aws::Class::MarkedForDeletion) {
            self.tracking.failed(*source, key, selector, error);
            return Err(refusal.into());
        }
        let observation = driver::look(&self.aws, *source, key).await;
        let known = self.tracking.tell(|tracker, now| {
            tracker.observe(now, observation);
            tracker.known(*source, key, selector)
        });
        match known {
            Known::Gone { deleted } => Ok(Answer::Gone { deleted }),
            _ => {
                self.tracking.failed(*source, key, selector, error);
                Err(refusal.into())
            }
        }
    }

    /// The name in AWS's answer is checked again: what was asked for and what came must both be allowed.
    fn admit(&self, object: &ObjectKey, resolved: &Resolved, value: &RemoteValue) -> Result<(), Stop> {
        if resolved.allowed.allows_answer(&value.name, &value.arn, resolved.home()) {
            return Ok(());
        }
        tracing::info!(target: "audit", action = "refusal", external_secret = %object, reason = "KeyNotAllowed", subject = %value.arn);
        Err(Refusal::new(
            Reason::KeyNotAllowed,
            format!("{} does not allow what AWS answered: ask the store's administrator", resolved.label),
        )
        .into())
    }
}

impl Context {
    /// Writes what the answers make of the Secret, and says so.
    #[expect(clippy::too_many_arguments, reason = "the facts of one pass, used nowhere else")]
    async fn write(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        needs: &[Wanted],
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
        let same = Entry::of(object, &live, self.min_interval);
        if same.uid != entry.uid || same.revision != entry.revision {
            self.work.push(object.clone(), Class::Urgent);
            return Ended::Well;
        }
        let versions = match versions_json(needs, answers) {
            Ok(versions) => versions,
            Err(refusal) => return self.refuse(object, &same, Some(&live), refusal).await,
        };

        let every_gone = answers.iter().all(|answer| matches!(answer, Answer::Gone { .. }));
        if every_gone && entry.deletion == DeletionPolicy::Delete {
            return self.delete(object, &same, &live).await;
        }
        let built = value::build(&live.spec, |index| match answers.get(index) {
            Some(Answer::Value(value)) => value::Fetched::Value(value.payload()),
            Some(Answer::Gone { .. }) | None => value::Fetched::Gone,
        });
        let built = match built {
            Ok(built) => built,
            Err(error) => {
                let refusal = Refusal::new(error.reason(), error.to_string());
                return self.refuse(object, &same, Some(&live), refusal).await;
            }
        };
        let sources = answers.iter().enumerate().filter_map(|(index, answer)| match answer {
            Answer::Value(value) => Some((index, value.version.clone())),
            Answer::Gone { .. } => None,
        });
        let sources = self.sources(entry, resolved, sources);
        if entry.creation == CreationPolicy::None {
            self.remember(object, |memory| memory.read = Some((inputs.to_owned(), versions.clone())));
            let draft = self.draft(object, entry, Verdict::holds(Reason::Synced, READ_ONLY), sources, None);
            return self.say(object, &same, draft, Some(&live), Ended::Well).await;
        }

        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        // One user name, or several in the order of the entries: enough to see that it changed.
        let mut names = Zeroizing::new(String::new());
        for answer in answers {
            if let Answer::Value(value) = answer
                && let Some(name) = value::username(value.payload())
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
        let labels = carried(live.metadata.labels.as_ref());
        let annotations = carried(live.metadata.annotations.as_ref());
        let recorded = live.status.as_ref().and_then(|status| status.target.as_ref());
        let wanted = plan::Wanted {
            object,
            uid: &entry.uid,
            target: &target.name,
            recorded: recorded.map(|target| plan::Recorded { name: &target.name, rollout: target.rollout.as_deref() }),
            creation: entry.creation,
            adopt_existing: live.spec.adopt_existing(),
            immutable: live.spec.immutable(),
            labels: &labels,
            annotations: &annotations,
            data: &data,
            inputs,
            versions: &versions,
            user: user.as_deref(),
        };
        let applied = self.apply(&wanted, &target, indexed).await;
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        let written = match applied {
            Ok(written) => written,
            Err(NotWritten::Refused(refusal)) => {
                let immutable = matches!(refusal, plan::Refusal::Immutable { .. });
                if immutable {
                    self.remember(object, |memory| memory.refused = Some(versions.clone()));
                }
                let reason = if immutable { Reason::TargetImmutable } else { Reason::TargetConflict };
                let refusal = Refusal::new(reason, refusal.to_string());
                let ended = self.refuse(object, &same, Some(&live), refusal).await;
                return if immutable { Ended::Well } else { sooner(ended, RECHECK_CONFLICT) };
            }
            Err(NotWritten::Contended) => return Ended::Failed,
            Err(NotWritten::Kubernetes(error)) => return self.kubernetes_failed(object, &same, Some(&live), &error).await,
        };
        self.remember(object, |memory| memory.refused = None);
        if let Some(former) = recorded.filter(|recorded| *recorded.name != *target.name)
            && let Err(error) = self.remove_former(object, entry, &former.name).await
        {
            return self.kubernetes_failed(object, &same, Some(&live), &error).await;
        }
        let message = synced_message(&target.name, needs.len());
        let target = TargetDraft { name: target.name.to_string(), written };
        let draft = self.draft(object, entry, Verdict::holds(Reason::Synced, message), sources, Some(target));
        self.say(object, &same, draft, Some(&live), Ended::Well).await
    }

    /// Carries out the plan; planned again from another live read when the Secret changed meanwhile.
    async fn apply(&self, wanted: &plan::Wanted<'_>, target: &ObjectKey, indexed: bool) -> Result<Written, NotWritten> {
        let object = wanted.object;
        // What the index knows to be absent need not be looked for: POST says if it is there after all.
        let mut live = if indexed { self.find_secret(target).await? } else { None };
        for _ in 0..PLANS {
            let observed = live.as_ref().and_then(Observed::of);
            let plan = plan::plan(&self.key, self.time.now(), wanted, live.as_ref());
            if let Some(live) = &mut live {
                wipe(live);
            }
            let (sent, why, written) = match plan {
                Plan::Nothing(written) => return Ok(written),
                Plan::Refuse(refusal) => return Err(NotWritten::Refused(refusal)),
                Plan::Create(mut secret, written) => {
                    let sent = self.writer.create_secret(&secret).await;
                    wipe(&mut secret);
                    (sent, None, written)
                }
                Plan::Patch { body, why, written } => {
                    let Some(observed) = &observed else { return Err(NotWritten::Contended) };
                    (self.writer.patch_secret(target, observed, body).await, Some(why), written)
                }
            };
            match sent {
                Ok(answer) => {
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

    async fn find_secret(&self, target: &ObjectKey) -> Result<Option<Secret>, NotWritten> {
        self.writer.cluster().find::<Secret>(target).await.map_err(NotWritten::Kubernetes)
    }

    /// Remembers, audits and tells of a write.
    fn wrote(&self, wanted: &plan::Wanted<'_>, target: &ObjectKey, answer: &cluster::Written, why: Option<Why>, written: &Written) {
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
                rollout: Some(written.rollout.as_str().into()),
                changed_at: written.changed_at.as_deref().and_then(|at| at.parse().ok()),
                immutable: wanted.immutable,
                type_: None,
            };
            memory.written = Some((now, target.clone(), written));
        });
        let (reason, note) = match why {
            Some(Why::Updated) => (EventReason::Updated, format!("Secret {} was updated from AWS", target.name)),
            Some(Why::DriftRepaired) => {
                (EventReason::DriftRepaired, format!("Secret {} had been changed by hand; its data were restored", target.name))
            }
            Some(Why::Adopted) => (EventReason::Updated, format!("Secret {} was taken over", target.name)),
            Some(Why::Annotated) | None => return,
        };
        let regarding = events::reference("ExternalSecret", object, wanted.uid);
        self.events.emit(regarding, EventType::Normal, reason.as_str(), "Sync", &note);
    }

    /// All remote secrets are gone and the policy is Delete: the Secret goes, if it is ours.
    async fn delete(&self, object: &ObjectKey, entry: &Entry, live: &ExternalSecret) -> Ended {
        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        let secret = match self.writer.cluster().find::<Secret>(&target).await {
            Ok(secret) => secret,
            Err(error) => return self.kubernetes_failed(object, entry, Some(live), &error).await,
        };
        if let Some(mut secret) = secret {
            let ours = plan::is_ours(object, &entry.uid, &target.name, &secret);
            let observed = Observed::of(&secret);
            wipe(&mut secret);
            if !ours {
                let message = format!(
                    "everything in AWS is gone, but Secret {target} is not of this ExternalSecret, so it was not deleted"
                );
                let refusal = Refusal::new(Reason::TargetConflict, message);
                return sooner(self.refuse(object, entry, Some(live), refusal).await, RECHECK_CONFLICT);
            }
            let Some(observed) = observed else { return Ended::Failed };
            match self.writer.delete_secret(&target, &observed).await {
                Ok(()) => self.deleted(object, entry, &target, "everything that it was made from is gone from AWS"),
                Err(error) if error.class == cluster::Class::NotFound => {}
                Err(error) if matches!(error.class, cluster::Class::Conflict | cluster::Class::UidMismatch) => {
                    return Ended::Failed;
                }
                Err(error) => return self.kubernetes_failed(object, entry, Some(live), &error).await,
            }
        }
        let message = format!(
            "Secret {} was deleted, since everything that it was made from is gone from AWS and target.deletionPolicy is Delete",
            target.name
        );
        let draft = self.draft(object, entry, Verdict::holds(Reason::Deleted, message), Vec::new(), None);
        self.say(object, entry, draft, Some(live), Ended::Well).await
    }

    /// After a rename: the Secret of the former name goes, if this very object controls it.
    async fn remove_former(&self, object: &ObjectKey, entry: &Entry, former: &str) -> Result<(), cluster::Error> {
        let key = ObjectKey::new(object.namespace.clone(), former);
        let Some(mut secret) = self.writer.cluster().find::<Secret>(&key).await? else { return Ok(()) };
        let ours = plan::controller(&secret).is_some_and(|controller| controller.uid == *entry.uid);
        let observed = Observed::of(&secret);
        wipe(&mut secret);
        let (true, Some(observed)) = (ours, observed) else { return Ok(()) };
        match self.writer.delete_secret(&key, &observed).await {
            Ok(()) => {
                self.deleted(object, entry, &key, "target.name is another one now");
                Ok(())
            }
            Err(error) if error.class == cluster::Class::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn deleted(&self, object: &ObjectKey, entry: &Entry, secret: &ObjectKey, why: &str) {
        tracing::info!(target: "audit", action = "delete", external_secret = %object, %secret, reason = why);
        self.remember(object, |memory| memory.written = None);
        let regarding = events::reference("ExternalSecret", object, &entry.uid);
        let note = format!("Secret {} was deleted: {why}", secret.name);
        self.events.emit(regarding, EventType::Normal, EventReason::Deleted.as_str(), "Sync", &note);
    }
}

impl Context {
    /// What the data are made from besides values. A refresh annotation is part of it, so that none is lost.
    fn inputs(&self, entry: &Entry, target: &ObjectKey, resolved: &Resolved) -> String {
        let asked = entry.asked.to_be_bytes();
        let token = if entry.refresh == Refresh::Once {
            // Read once: edits of the spec are no reason to read again.
            self.key.inputs(target, [asked.as_slice()])
        } else {
            let usable = &resolved.usable;
            let source = super::resolve::fingerprint(&usable.source, usable.spec.aws().prefix());
            self.key.inputs(target, [asked.as_slice(), &entry.made_from, source.as_bytes()])
        };
        token.to_string()
    }

    fn subscribe(&self, object: &ObjectKey, entry: &Entry, needs: &[Wanted]) {
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
        self.tracking.subscribe(object, Subscription { refresh, rotation: false, wants });
    }

    /// The target as the index knows it, or as our last write left it where the index is behind.
    fn secret(&self, object: &ObjectKey, target: &ObjectKey) -> Option<SecretEntry> {
        let indexed = self.secrets.get(target).and_then(|indexed| indexed.entry().cloned());
        let mut memories = self.memory.lock();
        let Some(memory) = memories.get_mut(object) else { return indexed };
        let Some((at, key, written)) = &memory.written else { return indexed };
        let behind = match &indexed {
            Some(indexed) => older(&indexed.resource_version, &written.resource_version),
            // Not there yet, or deleted since: after a while the index is believed.
            None => self.clock.now() < *at + SEEN_WITHIN,
        };
        if behind && key == target {
            return Some(written.clone());
        }
        memory.written = None;
        indexed
    }

    /// The versions that the tracker holds to be right, as they would be recorded.
    fn known_versions(&self, needs: &[Wanted]) -> String {
        let known = needs.iter().filter_map(|need| {
            match self.tracking.ask(|tracker| tracker.known(need.source, &need.key, &need.selector)) {
                Known::Version(version) => Some((need.hash.clone(), version.0.to_string())),
                _ => need.recorded.as_ref().map(|version| (need.hash.clone(), version.0.to_string())),
            }
        });
        json(&known.collect())
    }

    fn sources<'a>(
        &self,
        entry: &Entry,
        resolved: &Resolved,
        needs: impl Iterator<Item = (usize, VersionId)> + 'a,
    ) -> Vec<SourceDraft> {
        let mut sources: Vec<SourceDraft> = Vec::new();
        for (index, version) in needs {
            let Some(need) = entry.needs.get(index) else { continue };
            let source = SourceDraft {
                store: resolved.label.clone(),
                key: need.key.to_string(),
                stage: need.selector.to_string(),
                version: version.to_string(),
            };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }

    fn draft_synced(&self, object: &ObjectKey, entry: &Entry, resolved: &Resolved, needs: &[Wanted], secret: Option<&SecretEntry>) -> Draft {
        let versions = needs.iter().enumerate().filter_map(|(index, need)| Some((index, need.recorded.clone()?)));
        let sources = self.sources(entry, resolved, versions);
        let (message, target) = match secret {
            Some(secret) if entry.creation != CreationPolicy::None => {
                let written = Written {
                    content: secret.content.to_string(),
                    rollout: secret.rollout.as_deref().unwrap_or_default().to_owned(),
                    changed_at: secret.changed_at.map(seconds),
                };
                let name = entry.target(object).to_owned();
                (synced_message(&name, needs.len()), Some(TargetDraft { name, written }))
            }
            _ => (READ_ONLY.to_owned(), None),
        };
        self.draft(object, entry, Verdict::holds(Reason::Synced, message), sources, target)
    }

    fn draft(&self, object: &ObjectKey, entry: &Entry, ready: Verdict, sources: Vec<SourceDraft>, target: Option<TargetDraft>) -> Draft {
        Draft {
            generation: entry.generation,
            ready: Some(ready),
            current: Some(self.current(object, entry)),
            sources: Some(sources),
            target,
        }
    }

    /// Whether AWS was asked within the promise.
    fn current(&self, object: &ObjectKey, entry: &Entry) -> Verdict {
        match stale_after(entry) {
            None => Verdict::holds(Reason::Checked, "AWS is asked when the object changes or asks for it"),
            Some(limit) if self.is_stale(object, entry) => Verdict::fails(
                Reason::Stale,
                format!(
                    "AWS has not answered for more than {} minutes, so a change there may not have been seen; the Secret is \
                     kept. The condition of the store and the operator's log say why",
                    limit.as_secs() / 60
                ),
            ),
            Some(_) => Verdict::holds(Reason::Checked, "AWS was asked within the refresh interval"),
        }
    }

    /// Whether the last good answer of AWS is older than promised. What was never answered counts from when it was
    /// first wanted.
    pub fn is_stale(&self, object: &ObjectKey, entry: &Entry) -> bool {
        let Some(limit) = stale_after(entry) else { return false };
        let checked = self.tracking.ask(|tracker| tracker.checked(object));
        let since = checked.or_else(|| self.memory.lock().get(object).and_then(|memory| memory.wanted_since));
        since.is_some_and(|since| self.clock.now().saturating_sub(since) > limit)
    }

    /// Whether an object differs from what its last pass saw, in what passes look at.
    pub fn is_news(&self, object: &ObjectKey) -> bool {
        let seen = self.memory.lock().get(object).and_then(|memory| memory.seen.clone());
        let same = self.objects.with(object, |indexed| {
            indexed.entry().is_some_and(|entry| seen == Some((entry.uid.clone(), entry.revision)))
        });
        same != Some(true)
    }

    /// Whether the index shows just what our last write left, so that nothing is to be done.
    pub fn is_own_write(&self, object: &ObjectKey, secret: &ObjectKey) -> bool {
        let mut memories = self.memory.lock();
        let Some(memory) = memories.get_mut(object) else { return false };
        let own = memory.written.as_ref().is_some_and(|(_, key, written)| {
            key == secret
                && self.secrets.with(secret, |indexed| {
                    indexed.entry().is_some_and(|entry| {
                        entry.content_intact && entry.uid == written.uid && entry.resource_version == written.resource_version
                    })
                }) == Some(true)
        });
        if own {
            memory.written = None;
        }
        own
    }

    /// How soon what a person must mend is looked at again.
    fn recheck(&self, entry: &Entry) -> Duration {
        match entry.refresh {
            Refresh::Every(interval) => interval.min(RECHECK_PERMANENT),
            Refresh::OnChange | Refresh::Once => RECHECK_PERMANENT,
        }
    }

    /// Says that a person must mend something; the Secret stays.
    async fn refuse(&self, object: &ObjectKey, entry: &Entry, live: Option<&ExternalSecret>, refusal: Refusal) -> Ended {
        let draft = Draft {
            generation: entry.generation,
            ready: Some(Verdict::fails(refusal.reason, refusal.message)),
            current: Some(self.current(object, entry)),
            ..Draft::default()
        };
        self.say(object, entry, draft, live, Ended::Well).await
    }

    /// Something failed that passes by itself: said only while there is no Secret yet.
    async fn defer(&self, object: &ObjectKey, entry: &Entry, refusal: Refusal) -> Ended {
        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        let has_secret = self.secret(object, &target).is_some_and(|secret| is_ours(object, entry, &secret));
        let ready = (!has_secret && entry.ready != Some(true))
            .then(|| Verdict::fails(refusal.reason, format!("{}; no Secret exists yet", refusal.message)));
        let generation = if ready.is_some() { entry.generation } else { entry.said.generation() };
        if ready.is_none() && entry.said.is_silent() {
            return Ended::Failed;
        }
        let draft = Draft { generation, ready, current: Some(self.current(object, entry)), ..Draft::default() };
        self.say(object, entry, draft, None, Ended::Failed).await
    }

    /// Kubernetes refused a write or did not answer.
    async fn kubernetes_failed(&self, object: &ObjectKey, entry: &Entry, live: Option<&ExternalSecret>, error: &cluster::Error) -> Ended {
        let refusal = match &error.class {
            cluster::Class::Forbidden => Refusal::new(
                Reason::Forbidden,
                format!(
                    "{error}: allow it in the operator's role for namespace {}, or mend the admission policy that refuses it",
                    object.namespace
                ),
            ),
            cluster::Class::TooLarge => Refusal::new(Reason::TooLarge, format!("{error}: select fewer values")),
            cluster::Class::Invalid { .. } | cluster::Class::Rejected { .. } => {
                Refusal::new(Reason::InvalidSpec, format!("{error}: mend the target's name, labels or annotations"))
            }
            _ => {
                tracing::warn!(%object, %error, "trying again");
                return Ended::Failed;
            }
        };
        let wait = self.recheck(entry);
        sooner(self.refuse(object, entry, live, refusal).await, wait)
    }

    /// An object that this version cannot read: it is told so, where it can be told at all.
    async fn say_malformed(&self, object: &ObjectKey, malformed: &Malformed) -> Ended {
        self.tracking.tell(|tracker, _| tracker.unsubscribe(object));
        tracing::warn!(%object, expected = malformed.expected, "an ExternalSecret cannot be read; it is left alone");
        let message = format!(
            "this version of the operator cannot read the object: {}. Apply one that its CRD allows; the Secret stays as it is",
            malformed.expected
        );
        let verdict = Verdict::fails(Reason::InvalidSpec, message);
        let now = self.time.now();
        let draft = Draft { generation: malformed.generation, ready: Some(verdict), ..Draft::default() };
        let again = {
            let mut memories = self.memory.lock();
            let memory = memories.entry(object.clone()).or_default();
            let said = memory.malformed.replace(malformed.generation);
            said == Some(malformed.generation)
        };
        if again {
            return Ended::Well;
        }
        let status = status::compose(now, &draft, None);
        match self.writer.apply_status::<ExternalSecret>(object, &malformed.uid, names::SYNC_MANAGER, &status).await {
            Ok(_) => Ended::Well,
            Err(error) => {
                self.memory.lock().entry(object.clone()).or_default().malformed = None;
                tracing::warn!(%object, %error, "the status was not written");
                Ended::Failed
            }
        }
    }

    /// Writes the status where it differs, and an event where it turned.
    async fn say(&self, object: &ObjectKey, entry: &Entry, draft: Draft, live: Option<&ExternalSecret>, ended: Ended) -> Ended {
        if !entry.said.differs(&draft) {
            return ended;
        }
        let fetched;
        let live = match live {
            Some(live) => live,
            None => match self.writer.cluster().find::<ExternalSecret>(object).await {
                Ok(Some(found)) if found.metadata.uid.as_deref() == Some(&*entry.uid) => {
                    fetched = found;
                    &fetched
                }
                Ok(_) => return Ended::Well,
                Err(error) => {
                    tracing::warn!(%object, %error, "the status was not written");
                    return Ended::Failed;
                }
            },
        };
        if !status::Digest::of(live.status.as_ref()).differs(&draft) {
            return ended;
        }
        if !entry.said.is_silent() {
            self.pace.wait().await;
        }
        let status = status::compose(self.time.now(), &draft, live.status.as_ref());
        match self.writer.apply_status::<ExternalSecret>(object, &entry.uid, names::SYNC_MANAGER, &status).await {
            Ok(_) => {
                self.tell(object, entry, live, &draft);
                ended
            }
            Err(error) if matches!(error.class, cluster::Class::NotFound | cluster::Class::UidMismatch) => Ended::Well,
            Err(error) => {
                tracing::warn!(%object, %error, "the status was not written");
                Ended::Failed
            }
        }
    }

    /// Events on transitions only, none for a plain first sync.
    fn tell(&self, object: &ObjectKey, entry: &Entry, live: &ExternalSecret, draft: &Draft) {
        let Some(ready) = &draft.ready else { return };
        let was = live.status.as_ref().and_then(|status| status::condition(status, ConditionType::Ready));
        let reason = match (was.map(|was| was.status.as_str()), ready.holds) {
            (Some("False"), true) => EventReason::Recovered,
            (_, false) if was.is_none_or(|was| was.reason != ready.reason.as_str()) => {
                if ready.reason == Reason::TargetConflict { EventReason::TargetConflict } else { EventReason::SyncFailed }
            }
            _ => return,
        };
        let type_ = if reason.is_warning() { EventType::Warning } else { EventType::Normal };
        let regarding = events::reference("ExternalSecret", object, &entry.uid);
        self.events.emit(regarding, type_, reason.as_str(), "Sync", &ready.message);
    }

    fn recall(&self, object: &ObjectKey) -> Memory {
        self.memory.lock().get(object).cloned().unwrap_or_default()
    }

    fn remember(&self, object: &ObjectKey, remember: impl FnOnce(&mut Memory)) {
        remember(self.memory.lock().entry(object.clone()).or_default());
    }
}

impl Memories {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after the last good answer `Current` ends; `None` for what is not asked again.
fn stale_after(entry: &Entry) -> Option<Duration> {
    match entry.refresh {
        Refresh::Every(interval) => Some((interval * 2).max(STALE_FLOOR)),
        Refresh::OnChange | Refresh::Once => None,
    }
}

/// What the status says where nothing is written.
const READ_ONLY: &str = "AWS was read; nothing is written, as target.creationPolicy says";

fn synced_message(secret: &str, entries: usize) -> String {
    match entries {
        1 => format!("Secret {secret} holds the value of 1 entry"),
        _ => format!("Secret {secret} holds the values of {entries} entries"),
    }
}

fn gone(need: &Wanted, deleted: bool) -> Refusal {
    let key = &need.key;
    if deleted {
        Refusal::new(
            Reason::MarkedForDeletion,
            format!(
                "secret {key} is marked for deletion in AWS; the Secret is kept. Restore it with \
                 `aws secretsmanager restore-secret`, or remove the entry, or set target.deletionPolicy"
            ),
        )
    } else {
        Refusal::new(
            Reason::SecretNotFound,
            format!(
                "secret {key} does not exist in AWS (ResourceNotFoundException, confirmed by DescribeSecret); a Secret made \
                 before is kept. Create it, mend the key or the store's region, or set target.deletionPolicy"
            ),
        )
    }
}

/// Whether the index's view of a Secret is this object's own.
fn is_ours(object: &ObjectKey, entry: &Entry, secret: &SecretEntry) -> bool {
    match &secret.controller_uid {
        Some(controller) => **controller == *entry.uid,
        None => secret.owner.as_deref() == Some(&*object.name),
    }
}

/// The versions annotation: hash of store and key to version id.
fn versions_json(needs: &[Wanted], answers: &[Answer]) -> Result<String, Refusal> {
    let versions = needs.iter().zip(answers).filter_map(|(need, answer)| match answer {
        Answer::Value(value) => Some((need.hash.clone(), value.version.0.to_string())),
        Answer::Gone { .. } => None,
    });
    let versions = json(&versions.collect());
    if versions.len() > annotation::VERSIONS_LIMIT {
        return Err(Refusal::new(
            Reason::TooLarge,
            format!(
                "the versions of {} entries need {} bytes in annotation {}, which takes {}: split the ExternalSecret",
                needs.len(),
                versions.len(),
                annotation::VERSIONS,
                annotation::VERSIONS_LIMIT
            ),
        ));
    }
    Ok(versions)
}

fn json(versions: &BTreeMap<String, String>) -> String {
    serde_json::to_string(versions).unwrap_or_default()
}

/// What an edited annotation holds instead of JSON counts as nothing: everything is read again.
fn parse_versions(annotation: Option<&str>) -> BTreeMap<String, String> {
    annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whether resourceVersion `one` is older than `other`: since Kubernetes 1.35 they are documented to compare as numbers,
/// and etcd's always did. What is no number is taken for current.
fn older(one: &str, other: &str) -> bool {
    match (one.parse::<u128>(), other.parse::<u128>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}

fn sooner(ended: Ended, wait: Duration) -> Ended {
    match ended {
        Ended::Well => Ended::Again(wait),
        Ended::Again(other) => Ended::Again(other.min(wait)),
        Ended::Failed => Ended::Failed,
    }
}

/// Overwrites the values of a Secret that is not needed any more.
fn wipe(secret: &mut Secret) {
    for ByteString(bytes) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.zeroize();
    }
}
