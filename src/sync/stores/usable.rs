//! What an ExternalSecret may read through the store that it means.

use std::sync::Arc;

use crate::{
    api::{
        ObjectKey, Reason, SourceId, StoreKind, StoreSpec,
        allowed::{AllowedKeys, Home},
        arn,
    },
    aws::{self, Source},
    cluster::{Indexed, NamespaceEntry},
    objects::{Need, StoreEntry, StoreRef, Suspension},
    sync::resolve::{Asked, Refusal, Rules, full_key},
};

use super::{
    Good, Stores,
    conditions::Admission,
    judge::{inspect, policy},
    verdicts::VerdictScope,
};

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
    /// The store's generation.
    pub generation: i64,
    /// The store's spec.
    pub spec: Arc<StoreSpec>,
}

impl Usable {
    /// The account and region that keys without them mean.
    pub fn home(&self) -> Home<'_> {
        Home {
            region: &self.source.region,
            account: self.account.as_deref(),
        }
    }

    /// Whether one of these needs names an ARN, whose account only AWS can compare with the store's.
    pub fn names_arn(&self, needs: &[Need]) -> bool {
        needs.iter().any(|need| arn::is_arn(&full_key(&self.spec, need)))
    }

    /// What verdicts on keys that `namespace` reads rest on.
    pub fn verdict_scope(&self, namespace: &str) -> Arc<VerdictScope> {
        Arc::new(VerdictScope {
            store: self.uid.clone(),
            generation: self.generation,
            account: self.account.clone(),
            namespace: namespace.into(),
        })
    }
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

/// A store as the ExternalSecrets of one namespace use it. Pure.
#[derive(Clone, Copy, Debug)]
pub struct StoreUse<'a> {
    /// The store's name.
    pub store: &'a StoreRef,
    /// The store.
    pub entry: &'a StoreEntry,
    /// The namespace of the ExternalSecrets.
    pub namespace: &'a str,
    /// That namespace, once it is known.
    pub labels: Option<&'a NamespaceEntry>,
}

impl<'a> StoreUse<'a> {
    /// What the namespace may read, by the spec of the store alone: AWS is not asked who the store is. `intern` numbers the
    /// source.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a command that shows a plan will call it")
    )]
    pub fn usable(self, rules: &Rules, intern: impl FnOnce(&Source) -> SourceId) -> Result<Usable, Unusable> {
        let key = Stores::key(self.store, self.namespace);
        let sound = inspect(rules, self.store, &key, self.entry)?;
        self.admit(&sound.admission)?;
        let (source, _) = self.source(rules)?;
        Ok(self.entry.usable(intern(&source), source))
    }

    /// Whether the conditions of a ClusterSecretStore admit the namespace.
    fn admit(self, conditions: &Admission) -> Result<(), Unusable> {
        let Self { store, namespace, .. } = self;
        if store.kind == StoreKind::SecretStore {
            return Ok(());
        }
        // Without labels a selector such as "without label x" would admit whoever is seen before his namespace is; its
        // arrival wakes those who wait.
        let tenant = self.labels.ok_or(Unusable::NotYet)?;
        if conditions.admits(namespace, &tenant.labels) {
            return Ok(());
        }
        Err(Refusal::new(
            Reason::NamespaceNotAllowed,
            format!(
                "{store} does not admit namespace {namespace}: use another store, or ask the store's administrator \
                 to admit the namespace in spec.conditions"
            ),
        )
        .into())
    }

    /// Where the namespace reads, and the namespace itself if the identity depends on it.
    fn source(self, rules: &Rules) -> Result<(Source, Option<&'a NamespaceEntry>), Refusal> {
        let key = Stores::key(self.store, self.namespace);
        let asked = Asked::new(self.entry, self.store, &key);
        let source = asked.source(rules, self.namespace)?;
        let tenant = self.labels.filter(|_| asked.is_per_namespace());
        Ok(match tenant {
            Some(tenant) => (source.of_tenant(&tenant.uid), Some(tenant)),
            None => (source, None),
        })
    }
}

impl StoreEntry {
    /// The store as it gives this source, whose account is not known yet.
    fn usable(&self, id: SourceId, source: Source) -> Usable {
        Usable {
            id,
            source,
            account: None,
            uid: self.uid.clone(),
            generation: self.generation,
            spec: self.spec.clone(),
        }
    }
}

fn other_kind(kind: StoreKind) -> StoreKind {
    match kind {
        StoreKind::SecretStore => StoreKind::ClusterSecretStore,
        StoreKind::ClusterSecretStore => StoreKind::SecretStore,
    }
}

/// `other` is the other kind of store, if there is one of this name that the ExternalSecret could mean.
fn not_found(store: &StoreRef, other: Option<StoreKind>) -> Refusal {
    let way_out = match other {
        Some(kind) => format!(
            "A {kind} of that name exists: set kind: {kind} in spec.secretStoreRef to use it, or create the {}",
            store.kind
        ),
        None => "Create it, or correct spec.secretStoreRef".to_owned(),
    };
    Refusal::new(
        Reason::StoreNotFound,
        format!("{store} does not exist. {way_out}"),
    )
}

impl Stores {
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

    /// What `namespace` may read through `store`.
    pub fn usable(
        &self,
        store: &StoreRef,
        namespace: &str,
        labels: Option<&NamespaceEntry>,
    ) -> Result<Usable, Unusable> {
        let key = Self::key(store, namespace);
        let entry = match self.entry(&key) {
            Some(Indexed::Entry(entry)) => entry,
            Some(Indexed::Malformed(_)) => {
                return Err(Refusal::new(
                    Reason::StoreNotReady,
                    format!("{store} cannot be read by this version of the operator: apply a store that its CRD allows"),
                )
                .into());
            }
            None => {
                let other = StoreRef {
                    kind: other_kind(store.kind),
                    name: store.name.clone(),
                };
                let exists = self.entry(&Self::key(&other, namespace)).is_some();
                return Err(not_found(store, exists.then_some(other.kind)).into());
            }
        };
        let Some(standing) = self.standing(&key, &entry) else {
            return Err(Unusable::NotYet);
        };
        let usage = StoreUse {
            store,
            entry: &entry,
            namespace,
            labels,
        };
        usage.admit(&standing.admission)?;
        let mut account = match standing.good {
            Good::Proved { account } => account,
            Good::Unproved => None,
            Good::Bad(refusal) => {
                return Err(
                    Refusal::new(Reason::StoreNotReady, format!("{store} is not ready: {refusal}")).into(),
                );
            }
        };
        let (source, tenant) = usage.source(&self.rules)?;
        let id = self.aws.intern(source.clone());
        if let Some(tenant) = tenant {
            let of = || (namespace.into(), (*tenant.uid).into());
            self.lock().tenants.entry(id).or_insert_with(of);
        }
        if account.is_none() {
            account = self.lock().accounts.get(&id).cloned();
        }
        self.announce(&key, id, policy(&entry.spec, account.clone(), &source));
        Ok(Usable {
            account,
            ..entry.usable(id, source)
        })
    }

    /// Whether the store lets a namespace ask AWS for `key`: `allowed` and `usable` are of the store and that namespace, as
    /// `scope` is.
    pub fn allows(
        &self,
        usable: &Usable,
        allowed: AllowedKeys<'_>,
        scope: &Arc<VerdictScope>,
        key: &Arc<str>,
    ) -> bool {
        let judge = || allowed.allows(key, usable.home());
        if allowed.is_unlimited() {
            return judge();
        }
        self.verdicts.of(scope, key, judge)
    }

    /// Proves an identity that depends on the namespace, once; its account is known afterwards.
    pub async fn prove(&self, usable: &mut Usable) -> Result<(), aws::Error> {
        if usable.account.is_some() {
            return Ok(());
        }
        let proven = self.aws.prove(usable.id).await?;
        self.lock().accounts.insert(usable.id, proven.account.clone());
        usable.account = Some(proven.account);
        Ok(())
    }

    /// The token by which a person confirms held deletions of the store.
    pub fn confirmed(&self, store: &ObjectKey) -> Option<Arc<str>> {
        self.entry(store)?.entry()?.confirmed.clone()
    }

    /// When the store's suspension ends, if it is suspended.
    pub fn suspended(&self, store: &StoreRef, namespace: &str) -> Suspension {
        match self.entry(&Self::key(store, namespace)) {
            Some(Indexed::Entry(entry)) => entry.suspended,
            _ => Suspension::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_the_other_kind_is_named_with_the_field_to_set() {
        let store = |kind| StoreRef {
            kind,
            name: "aws".into(),
        };
        for (kind, other, hint) in [
            (
                StoreKind::SecretStore,
                Some(StoreKind::ClusterSecretStore),
                "SecretStore aws does not exist. A ClusterSecretStore of that name exists: set kind: ClusterSecretStore in",
            ),
            (
                StoreKind::ClusterSecretStore,
                Some(StoreKind::SecretStore),
                "ClusterSecretStore aws does not exist. A SecretStore of that name exists: set kind: SecretStore in",
            ),
            (
                StoreKind::SecretStore,
                None,
                "SecretStore aws does not exist. Create it, or correct spec.secretStoreRef",
            ),
        ] {
            let refusal = not_found(&store(kind), other);
            assert_eq!(refusal.reason, Reason::StoreNotFound);
            assert!(refusal.message.starts_with(hint), "{refusal}");
        }
    }
}
