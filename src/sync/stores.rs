//! The stores: proves each one's identity, says so in its status, and wakes those who wait for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::runtime::events::EventType;

use crate::{
    api::{
        Capabilities, ChangeDetection, ClusterSecretStore, ConditionType, EventReason, ObjectKey, Reason,
        SecretStore, SourceId, StoreKind, StoreSpec, StoreStatus,
        names::{self, annotation},
        validate::StoreScope,
    },
    aws::{Aws, Source},
    cluster::{Change, Events, Index, Indexed, NamespaceEntry, Project, ServerTime, Writer},
    sync::{
        admit::Admission,
        driver::{OutageKind, Tracking},
        entry::{StoreRef, Suspension},
        events,
        resolve::{Asked, Refusal, Rules},
        status::Verdict,
        work::Work,
    },
    track::{Detection, SourcePolicy},
};

/// A store, whole: they are few.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreEntry {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its generation.
    pub generation: i64,
    /// Its spec.
    pub spec: Arc<StoreSpec>,
    /// Its suspend annotation.
    pub suspended: Suspension,
    /// Its status.
    pub status: Option<StoreStatus>,
}

/// Keeps SecretStores.
#[derive(Debug)]
pub struct SecretStores;

/// Keeps ClusterSecretStores.
#[derive(Debug)]
pub struct ClusterSecretStores;

impl Project for SecretStores {
    type Kind = SecretStore;
    type Object = SecretStore;
    type Entry = StoreEntry;

    fn project(&self, _: &ObjectKey, object: SecretStore) -> StoreEntry {
        StoreEntry::new(&object.metadata, object.spec.0, object.status)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::SecretStore(key)
    }
}

impl Project for ClusterSecretStores {
    type Kind = ClusterSecretStore;
    type Object = ClusterSecretStore;
    type Entry = StoreEntry;

    const CLUSTER_WIDE: bool = true;

    fn project(&self, _: &ObjectKey, object: ClusterSecretStore) -> StoreEntry {
        StoreEntry::new(&object.metadata, object.spec.0, object.status)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::ClusterSecretStore(key.name)
    }
}

impl StoreEntry {
    fn new(metadata: &kube::api::ObjectMeta, spec: StoreSpec, status: Option<StoreStatus>) -> Self {
        let suspended = metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(annotation::SUSPEND_SYNC_UNTIL));
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            generation: metadata.generation.unwrap_or_default(),
            spec: spec.into(),
            suspended: Suspension::parse(suspended.map(String::as_str)),
            status,
        }
    }
}

/// What is known of a store's identity.
#[derive(Clone, Debug)]
struct Standing {
    /// The store that this is of.
    uid: Arc<str>,
    generation: i64,
    admission: Arc<Admission>,
    /// What it is good for.
    good: Good,
}

#[derive(Clone, Debug)]
enum Good {
    /// Its identity was proved, or cannot be before a namespace asks.
    Proved { account: Option<Arc<str>> },
    /// It could not be proved for a reason that passes: nobody is kept from trying.
    Unproved,
    /// A person must mend it.
    Bad(Refusal),
}

/// A store that can be read through, for one namespace.
#[derive(Clone, Debug)]
pub struct Usable {
    /// Where to read.
    pub id: SourceId,
    /// The same, in full.
    pub source: Source,
    /// The account, once known.
    pub account: Option<Arc<str>>,
    /// The store's uid.
    pub uid: Arc<str>,
    /// The store's spec.
    pub spec: Arc<StoreSpec>,
}

/// All stores and what is known of them.
pub struct Stores {
    /// SecretStores.
    pub namespaced: Arc<Index<StoreEntry>>,
    /// ClusterSecretStores; their keys have no namespace.
    pub cluster: Arc<Index<StoreEntry>>,
    /// What decides over identities.
    pub rules: Rules,
    /// The ClusterSecretStore of those that name none.
    pub default_store: Option<Arc<str>>,
    /// The queue of stores to prove.
    pub work: Work,
    aws: Arc<Aws>,
    tracking: Arc<Tracking>,
    writer: Writer,
    events: Events,
    time: ServerTime,
    known: Mutex<Known>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Known {
    standings: HashMap<ObjectKey, Standing>,
    /// Sources in use, the store that each is of, and what the tracker was told of it.
    sources: HashMap<SourceId, (ObjectKey, SourcePolicy)>,
    /// Accounts of identities that depend on the namespace.
    accounts: HashMap<SourceId, Arc<str>>,
}

/// Why a store cannot be used.
#[derive(Clone, Debug)]
pub enum Unusable {
    /// It has not been looked at yet: its first look wakes those who wait.
    NotYet,
    /// The condition to show.
    Refused(Refusal),
}

impl From<Refusal> for Unusable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a [`Stores`] is made of.
pub struct Parts {
    /// SecretStores.
    pub namespaced: Arc<Index<StoreEntry>>,
    /// ClusterSecretStores.
    pub cluster: Arc<Index<StoreEntry>>,
    /// What decides over identities.
    pub rules: Rules,
    /// The ClusterSecretStore of those that name none.
    pub default_store: Option<Arc<str>>,
    /// AWS.
    pub aws: Arc<Aws>,
    /// The tracker.
    pub tracking: Arc<Tracking>,
    /// Kubernetes.
    pub writer: Writer,
    /// Events.
    pub events: Events,
    /// The API server's clock.
    pub time: ServerTime,
    /// The queue of stores to prove.
    pub work: Work,
}

/// A store that a person must mend is tried again after this, though nothing of it changed: the mend may be in AWS.
const RECHECK: Duration = Duration::from_mins(5);

impl Stores {
    /// Stores, none of them looked at yet.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            namespaced,
            cluster,
            rules,
            default_store,
            aws,
            tracking,
            writer,
            events,
            time,
            work,
        } = parts;
        Self {
            namespaced,
            cluster,
            rules,
            default_store,
            work,
            aws,
            tracking,
            writer,
            events,
            time,
            known: Mutex::default(),
        }
    }

    /// The key of a store as its index has it: without namespace for a ClusterSecretStore.
    pub fn key(store: &StoreRef, namespace: &str) -> ObjectKey {
        match store.kind {
            StoreKind::SecretStore => ObjectKey::new(namespace, store.name.clone()),
            StoreKind::ClusterSecretStore => ObjectKey::new("", store.name.clone()),
        }
    }

    /// The store that an ExternalSecret means.
    pub fn meant(&self, named: Option<&StoreRef>) -> Result<StoreRef, Refusal> {
        if let Some(named) = named {
            return Ok(named.clone());
        }
        let Some(name) = &self.default_store else {
            return Err(Refusal::new(
                Reason::InvalidSpec,
                "spec.secretStoreRef is missing and the operator has no default store: name a store",
            ));
        };
        Ok(StoreRef {
            kind: StoreKind::ClusterSecretStore,
            name: name.clone(),
        })
    }

    /// A store as the index has it.
    pub fn entry(&self, key: &ObjectKey) -> Option<Indexed<StoreEntry>> {
        if key.namespace.is_empty() {
            self.cluster.get(key)
        } else {
            self.namespaced.get(key)
        }
    }

    /// What `namespace` may read through `store`.
    pub fn usable(
        &self,
        store: &StoreRef,
        namespace: &str,
        labels: Option<&NamespaceEntry>,
    ) -> Result<Usable, Unusable> {
        let key = Self::key(store, namespace);
        let label = format!("{} {}", store.kind, store.name);
        let entry = match self.entry(&key) {
            Some(Indexed::Entry(entry)) => entry,
            Some(Indexed::Malformed(_)) => {
                return Err(Refusal::new(
                    Reason::StoreNotReady,
                    format!("{label} cannot be read by this version of the operator: apply a store that its CRD allows"),
                )
                .into());
            }
            None => {
                return Err(Refusal::new(
                    Reason::StoreNotFound,
                    format!("{label} does not exist: create it, or mend spec.secretStoreRef"),
                )
                .into());
            }
        };
        let standing = self.lock().standings.get(&key).cloned();
        let Some(standing) = standing.filter(|is| is.uid == entry.uid && is.generation == entry.generation)
        else {
            return Err(Unusable::NotYet);
        };
        // Without labels a selector such as "without label x" would admit whoever is seen before his namespace is; its
        // arrival wakes those who wait.
        let tenant = match store.kind {
            StoreKind::ClusterSecretStore => Some(labels.ok_or(Unusable::NotYet)?),
            StoreKind::SecretStore => None,
        };
        if tenant.is_some_and(|tenant| !standing.admission.admits(namespace, &tenant.labels)) {
            return Err(Refusal::new(
                Reason::NamespaceNotAllowed,
                format!(
                    "{label} does not admit namespace {namespace}: use another store, or ask the store's administrator \
                     to admit the namespace in spec.conditions"
                ),
            )
            .into());
        }
        let mut account = match standing.good {
            Good::Proved { account } => account,
            Good::Unproved => None,
            Good::Bad(refusal) => {
                return Err(
                    Refusal::new(Reason::StoreNotReady, format!("{label} is not ready: {refusal}")).into(),
                );
            }
        };
        let asked = asked(store, &key, &entry);
        let source = asked.source(&self.rules, namespace)?;
        let source = match tenant {
            Some(tenant) if asked.is_per_namespace() => source.of_tenant(&tenant.uid),
            _ => source,
        };
        let id = self.aws.intern(source.clone());
        if account.is_none() {
            account = self.lock().accounts.get(&id).cloned();
        }
        self.announce(&key, id, policy(&entry.spec, account.clone(), &source.region));
        Ok(Usable {
            id,
            source,
            account,
            uid: entry.uid.clone(),
            spec: entry.spec.clone(),
        })
    }

    /// Proves an identity that depends on the namespace, once; its account is known afterwards.
    pub async fn prove(&self, usable: &mut Usable) -> Result<(), crate::aws::Error> {
        if usable.account.is_some() {
            return Ok(());
        }
        let proven = self.aws.prove(usable.id).await?;
        self.lock().accounts.insert(usable.id, proven.account.clone());
        usable.account = Some(proven.account);
        Ok(())
    }

    /// Proves stores as they come, until it is dropped. `wake` is told of each store that changed its standing.
    pub async fn run(self: Arc<Self>, wake: impl Fn(&ObjectKey) + Clone + Send + Sync + 'static) {
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                (key, _) = self.work.next() => {
                    let (stores, wake) = (self.clone(), wake.clone());
                    tasks.spawn(async move {
                        let again = stores.reconcile(&key, &wake).await;
                        let well = matches!(again, After::Change);
                        stores.work.done(&key, well);
                        match again {
                            After::Change => {}
                            After::Wait(wait) => stores.work.push_after(key, wait),
                            After::BackOff => drop(stores.work.push_failed(&key)),
                        }
                    });
                }
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "proving a store ended abnormally");
                    }
                }
            }
        }
    }

    /// The sources in use of a store.
    pub fn sources_of(&self, store: &ObjectKey) -> Vec<SourceId> {
        let known = self.lock();
        known
            .sources
            .iter()
            .filter(|(_, (of, _))| of == store)
            .map(|(id, _)| *id)
            .collect()
    }

    /// The store of a source, for whom its check mode has changed.
    pub fn store_of(&self, source: SourceId) -> Option<ObjectKey> {
        self.lock().sources.get(&source).map(|(store, _)| store.clone())
    }

    async fn reconcile(&self, key: &ObjectKey, wake: &(impl Fn(&ObjectKey) + Sync)) -> After {
        let Some(indexed) = self.entry(key) else {
            self.lock().standings.remove(key);
            self.forget_sources(key, None);
            wake(key);
            return After::Change;
        };
        let Indexed::Entry(entry) = indexed else {
            wake(key);
            return After::Change;
        };
        match entry.suspended {
            Suspension::Until(until) if until > self.time.now() => {
                wake(key);
                let left = Duration::try_from(until.duration_since(self.time.now())).unwrap_or(RECHECK);
                return After::Wait(left.min(Duration::from_hours(24)));
            }
            _ => {}
        }
        let store = StoreRef {
            kind: if key.namespace.is_empty() {
                StoreKind::ClusterSecretStore
            } else {
                StoreKind::SecretStore
            },
            name: key.name.clone(),
        };
        let (admission, good, ready) = self.judge(&store, key, &entry).await;
        let after = match &good {
            Good::Proved { .. } => After::Change,
            Good::Unproved => After::BackOff,
            Good::Bad(_) => After::Wait(RECHECK),
        };
        let standing = Standing {
            uid: entry.uid.clone(),
            generation: entry.generation,
            admission,
            good: good.clone(),
        };
        let changed = {
            let mut known = self.lock();
            let before = known.standings.insert(key.clone(), standing);
            !before.is_some_and(|before| {
                before.uid == entry.uid && before.generation == entry.generation && same(&before.good, &good)
            })
        };
        if changed {
            wake(key);
        }
        match self.say(key, &entry, ready).await {
            Ok(()) => after,
            Err(error) => {
                tracing::warn!(%error, store = %key, "the status of a store was not written");
                After::BackOff
            }
        }
    }

    /// What a store is good for, and what its `Ready` is to say; `None` leaves it as it is.
    async fn judge(
        &self,
        store: &StoreRef,
        key: &ObjectKey,
        entry: &StoreEntry,
    ) -> (Arc<Admission>, Good, Option<Verdict>) {
        let bad = |refusal: Refusal| {
            let verdict = Verdict::fails(refusal.reason, refusal.message.clone());
            (Arc::new(Admission::default()), Good::Bad(refusal), Some(verdict))
        };
        if entry.suspended == Suspension::Unreadable {
            return bad(Refusal::new(
                Reason::InvalidSpec,
                format!(
                    "annotation {} is not a time: write one such as 2026-11-01T08:00:00Z",
                    annotation::SUSPEND_SYNC_UNTIL
                ),
            ));
        }
        let scope = match store.kind {
            StoreKind::SecretStore => StoreScope::Namespace {
                namespace: &key.namespace,
                operator_identity: self.rules.allow_operator_identity,
            },
            StoreKind::ClusterSecretStore => StoreScope::Cluster,
        };
        if let Err(invalid) = entry.spec.validate(scope) {
            return bad(Refusal::new(Reason::InvalidSpec, invalid.to_string()));
        }
        let admission = match Admission::new(entry.spec.conditions()) {
            Ok(admission) => Arc::new(admission),
            Err(error) => return bad(Refusal::new(Reason::InvalidSpec, error.to_string())),
        };
        let asked = asked(store, key, entry);
        // With a namespace that nobody has, the rest of the spec is checked all the same.
        let source = match asked.source(&self.rules, &key.namespace) {
            Ok(source) => source,
            Err(refusal) => return bad(refusal),
        };
        let open = store.kind == StoreKind::ClusterSecretStore
            && entry.spec.conditions.is_none()
            && entry.spec.allowed_keys.is_none();
        if asked.is_per_namespace() {
            let verdict = Verdict::holds(
                Reason::PerNamespace,
                "the identity depends on the namespace of each ExternalSecret and is proved there",
            );
            return (admission, Good::Proved { account: None }, Some(verdict));
        }
        let id = self.aws.intern(source.clone());
        self.forget_sources(key, Some(id));
        match self.aws.prove(id).await {
            Ok(proven) => {
                self.announce(
                    key,
                    id,
                    policy(&entry.spec, Some(proven.account.clone()), &source.region),
                );
                let verdict = if open {
                    Verdict::holds(
                        Reason::Unrestricted,
                        "every namespace may read every key that AWS permits: set spec.conditions or spec.allowedKeys to \
                         restrict it",
                    )
                } else {
                    Verdict::holds(
                        Reason::Valid,
                        format!("AWS knows the store as {}", principal(&proven.arn)),
                    )
                };
                (
                    admission,
                    Good::Proved {
                        account: Some(proven.account),
                    },
                    Some(verdict),
                )
            }
            Err(error) if error.class().is_transient() => {
                let first = entry
                    .status
                    .as_ref()
                    .is_none_or(|status| status.conditions.is_none());
                let verdict = first.then(|| Verdict::fails(Reason::IdentityError, error.to_string()));
                (admission, Good::Unproved, verdict)
            }
            Err(error) => {
                let refusal = Refusal::new(Reason::IdentityError, error.to_string());
                let verdict = Verdict::fails(refusal.reason, refusal.message.clone());
                (admission, Good::Bad(refusal), Some(verdict))
            }
        }
    }

    /// Writes the status of a store where it differs.
    async fn say(
        &self,
        key: &ObjectKey,
        entry: &StoreEntry,
        ready: Option<Verdict>,
    ) -> Result<(), crate::cluster::Error> {
        let nothing = StoreStatus::default();
        let before = entry.status.as_ref().unwrap_or(&nothing);
        let was = before
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == ConditionType::Ready.as_str());
        let condition = ready.map(|verdict| {
            let status = if verdict.holds { "True" } else { "False" };
            let since = was
                .filter(|was| was.status == status)
                .map(|was| was.last_transition_time.clone());
            Condition {
                type_: ConditionType::Ready.as_str().to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: verdict.message,
                observed_generation: Some(entry.generation),
                last_transition_time: since.unwrap_or_else(|| Time(self.time.now())),
            }
        });
        let mode = self.mode(key);
        let status = StoreStatus {
            observed_generation: Some(entry.generation),
            conditions: condition
                .clone()
                .or_else(|| was.cloned())
                .map(|condition| vec![condition]),
            capabilities: mode
                .as_ref()
                .map(|(_, capabilities)| *capabilities)
                .or(before.capabilities),
            mode: mode.map(|(mode, _)| mode).or_else(|| before.mode.clone()),
        };
        if status == *before {
            return Ok(());
        }
        if key.namespace.is_empty() {
            self.writer
                .apply_status::<ClusterSecretStore>(key, &entry.uid, names::SYNC_MANAGER, &status)
                .await?;
        } else {
            self.writer
                .apply_status::<SecretStore>(key, &entry.uid, names::SYNC_MANAGER, &status)
                .await?;
        }
        if let Some(now) = condition {
            self.tell(key, entry, was, &now);
        }
        Ok(())
    }

    /// An event where `Ready` turned; none for a store that was good from the start.
    fn tell(&self, key: &ObjectKey, entry: &StoreEntry, was: Option<&Condition>, now: &Condition) {
        let (type_, reason) = match (was.map(|was| was.status.as_str()), now.status.as_str()) {
            (Some("False"), "True") => (EventType::Normal, EventReason::Recovered),
            (_, "False") if was.is_none_or(|was| was.reason != now.reason) => {
                (EventType::Warning, EventReason::SyncFailed)
            }
            _ => return,
        };
        self.events.emit(
            reference(key, &entry.uid),
            type_,
            reason.as_str(),
            "Prove",
            &now.message,
        );
    }

    /// An outage is one event on the store, and its end another: not one on each object that waits.
    pub fn tell_outage(&self, source: SourceId, outage: Option<OutageKind>) {
        let Some(key) = self.store_of(source) else { return };
        let Some(Indexed::Entry(entry)) = self.entry(&key) else {
            return;
        };
        let (reason, note) = match outage {
            Some(kind) => (
                EventReason::SyncFailed,
                format!(
                    "{kind}, for more than a minute; Secrets stay as they are, and reading goes on by itself"
                ),
            ),
            None => (EventReason::Recovered, "AWS answers again".to_owned()),
        };
        let type_ = if reason.is_warning() {
            EventType::Warning
        } else {
            EventType::Normal
        };
        self.events
            .emit(reference(&key, &entry.uid), type_, reason.as_str(), "Read", &note);
    }

    /// How the store is checked, in words, and what it may call.
    fn mode(&self, key: &ObjectKey) -> Option<(String, Capabilities)> {
        let source = self.sources_of(key).into_iter().next()?;
        let mode = self.tracking.ask(|tracker| tracker.mode(source))?;
        let raised = if mode.raised {
            "; intervals under 10m are raised to it"
        } else {
            ""
        };
        let capabilities = Capabilities {
            batch: Some(mode.batch),
            list: Some(mode.list),
        };
        Some((
            format!("{:?}: {}{raised}", mode.detection, mode.why),
            capabilities,
        ))
    }

    /// Tells the tracker of a source, once and when it changes.
    fn announce(&self, key: &ObjectKey, id: SourceId, policy: SourcePolicy) {
        {
            let mut known = self.lock();
            let told = known.sources.get(&id).is_some_and(|(_, told)| *told == policy);
            if told {
                return;
            }
            known.sources.insert(id, (key.clone(), policy.clone()));
        }
        self.tracking
            .tell(|tracker, now| tracker.set_source(now, id, policy));
    }

    /// Drops the sources of a store but `but`: their credentials, their checks.
    fn forget_sources(&self, key: &ObjectKey, but: Option<SourceId>) {
        let gone: Vec<_> = {
            let mut known = self.lock();
            let gone: Vec<_> = known
                .sources
                .iter()
                .filter(|(id, (store, _))| store == key && Some(**id) != but)
                .map(|(id, _)| *id)
                .collect();
            for id in &gone {
                known.sources.remove(id);
                known.accounts.remove(id);
            }
            gone
        };
        for id in gone {
            self.tracking.tell(|tracker, _| tracker.remove_source(id));
            self.aws.forget(id);
        }
    }

    /// When the store's suspension ends, if it is suspended.
    pub fn suspended(&self, store: &StoreRef, namespace: &str) -> Suspension {
        match self.entry(&Self::key(store, namespace)) {
            Some(Indexed::Entry(entry)) => entry.suspended,
            _ => Suspension::None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(key: &ObjectKey, uid: &str) -> ObjectReference {
    let kind = if key.namespace.is_empty() {
        StoreKind::ClusterSecretStore
    } else {
        StoreKind::SecretStore
    };
    events::reference(kind.as_str(), key, uid)
}

/// When a store is looked at again.
enum After {
    Change,
    Wait(Duration),
    BackOff,
}

fn asked<'a>(store: &'a StoreRef, key: &'a ObjectKey, entry: &'a StoreEntry) -> Asked<'a> {
    let namespace = (store.kind == StoreKind::SecretStore).then_some(&*key.namespace);
    Asked {
        store,
        uid: &entry.uid,
        namespace,
        spec: &entry.spec,
    }
}

fn policy(spec: &StoreSpec, account: Option<Arc<str>>, region: &Arc<str>) -> SourcePolicy {
    let detection = match spec.aws().change_detection() {
        ChangeDetection::Auto => Detection::Auto,
        ChangeDetection::List => Detection::List,
        ChangeDetection::Describe => Detection::Describe,
        ChangeDetection::Read => Detection::Read,
    };
    SourcePolicy {
        detection,
        events: false,
        account,
        region: region.clone(),
    }
}

fn same(one: &Good, other: &Good) -> bool {
    match (one, other) {
        (Good::Proved { account: one }, Good::Proved { account: other }) => one == other,
        (Good::Unproved, Good::Unproved) => true,
        (Good::Bad(one), Good::Bad(other)) => one == other,
        _ => false,
    }
}

/// An ARN without the name of the session, which people know from the store.
fn principal(arn: &str) -> &str {
    if arn.contains(":assumed-role/") {
        arn.rsplit_once('/').map_or(arn, |(role, _)| role)
    } else {
        arn
    }
}
