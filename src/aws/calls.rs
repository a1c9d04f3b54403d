//! AWS as all identities see it: their sources, and each call within its source's slots and its account's budget.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    client::{AwsConfig, Client, ClientSettings, Subscribers},
    credentials::{CredentialCaches, CredentialSet},
    error::{Cause, Class, Error},
    identity::Source,
    limit::{Budgets, Operation, Urgency},
    metrics::Metrics,
    pages::Pages,
    remote::{Description, Proven, RemoteValue, ValueMeter},
    service::{Batch, Home, Reply, Service},
    trust::TrustError,
};
use crate::api::{Selector, SourceId};

/// AWS, as seen by all identities.
pub struct Aws {
    settings: Arc<ClientSettings>,
    caches: Arc<CredentialCaches>,
    pub(super) subscribers: Subscribers,
    budgets: Budgets,
    metrics: Metrics,
    pub(super) meter: ValueMeter,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    last: u32,
    ids: HashMap<Source, SourceId>,
    clients: HashMap<SourceId, Arc<Client>>,
}

impl Aws {
    /// With endpoints, proxies, trusted authorities, region and own credentials from the environment.
    pub async fn from_environment(config: AwsConfig, metrics: Metrics) -> Result<Self, TrustError> {
        let settings =
            ClientSettings::from_environment(config.region.as_deref(), config.instance_metadata).await?;
        Ok(Self::new(settings, config, metrics))
    }

    pub(super) fn new(settings: ClientSettings, config: AwsConfig, metrics: Metrics) -> Self {
        let AwsConfig {
            tokens,
            subscribers,
            region: _,
            instance_metadata: _,
        } = config;
        let settings = Arc::new(settings);
        Self {
            caches: CredentialCaches::new(settings.clone(), tokens, metrics.clone()),
            settings,
            subscribers,
            budgets: Budgets::default(),
            meter: ValueMeter::new(metrics.values()),
            metrics,
            sources: Mutex::default(),
        }
    }

    /// The operator's own region, if its environment names one.
    pub fn region(&self) -> Option<&str> {
        self.settings.region()
    }

    /// The number that stands for this source until it is forgotten.
    pub fn intern(&self, source: Source) -> SourceId {
        let mut sources = self.sources();
        if let Some(id) = sources.ids.get(&source) {
            return *id;
        }
        sources.last = sources.last.wrapping_add(1);
        let id = SourceId(sources.last);
        let cache = self.caches.cache(&source.identity, &source.region);
        sources.clients.insert(
            id,
            Arc::new(Client::new(id, source.clone(), &self.settings, cache)),
        );
        sources.ids.insert(source, id);
        id
    }

    /// Which service the source reads from, if there is such a source.
    pub fn service(&self, id: SourceId) -> Option<&'static Service> {
        self.client(id).ok().map(|client| client.source.service)
    }

    /// What the number stands for.
    #[cfg(test)]
    pub fn source(&self, id: SourceId) -> Option<Source> {
        self.sources()
            .clients
            .get(&id)
            .map(|client| client.source.clone())
    }

    /// Drops the source with its client, and its credentials if no other source has the same identity.
    pub fn forget(&self, id: SourceId) {
        let mut sources = self.sources();
        if let Some(client) = sources.clients.remove(&id) {
            sources.ids.remove(&client.source);
        }
    }

    /// Drops the credentials of the source's identity, so that the next call gets new ones.
    #[cfg(test)]
    pub(super) fn invalidate(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.cache.forget();
        }
    }

    /// Looks at the ServiceAccounts and Secrets that identities in use are made from, each when its time has come, until it
    /// is dropped. Only the leader should.
    pub async fn look_after_identities(&self) {
        self.caches.look_after().await;
    }

    /// Waits until what some identities are made from has changed, and gives the sources that have new credentials from now on,
    /// or none.
    pub async fn renewed(&self) -> Vec<SourceId> {
        let renewed = self.caches.renewed().await;
        let is_renewed = |client: &Client| {
            let root = client.cache.root();
            renewed.iter().any(|cache| std::ptr::eq(&raw const **cache, root))
        };
        let sources = self.sources();
        let mut ids: Vec<_> = sources
            .clients
            .iter()
            .filter(|(_, client)| is_renewed(client))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Looks at what the source's identity is made from, unless that was done in the last seconds: if it changed, the next
    /// call has new credentials.
    pub async fn recheck(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.cache.suspect(None).await;
        }
    }

    /// Proves the source's identity, and says whom AWS takes it for.
    pub async fn prove(&self, id: SourceId) -> Result<Proven, Error> {
        let error = |identity: Arc<str>| move |cause| Error::Prove { identity, cause };
        let client = self.client(id).map_err(error("a store's identity".into()))?;
        Box::pin(client.cache.proven())
            .await
            .map_err(error(client.cache.name().clone()))
    }

    /// What is known of the source's rights.
    #[cfg(test)]
    pub(super) fn rights(&self, id: SourceId) -> super::client::Denied {
        self.client(id).map(|client| client.denied()).unwrap_or_default()
    }

    /// Has what the source's identity is made from looked at soon, and does not wait for it.
    pub fn recheck_soon(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.cache.look_soon();
        }
    }

    /// Forgets what was denied, so that it is tried again: after an edit of the store.
    pub fn retry_denied(&self, id: SourceId) {
        if let Ok(client) = self.client(id) {
            client.note(|denied| *denied = super::client::Denied::default());
        }
    }

    /// Whether the reader must do without batches.
    pub(super) fn is_batch_denied(&self, id: SourceId) -> bool {
        self.client(id)
            .is_ok_and(|client| client.denied().batch.is_denied())
    }

    /// Lists all secrets that the source's account has in its region, those marked for deletion too.
    pub fn list(&self, id: SourceId) -> Pages<'_> {
        Pages::new(self, id)
    }

    /// One secret's versions, without a value. A secret marked for deletion is described too.
    pub async fn describe(&self, id: SourceId, key: &Arc<str>) -> Result<Description, Error> {
        let described = async {
            let client = self.client(id)?;
            let call = |home| client.calls.describe(key.clone(), home);
            let answer = self.call(&client, Operation::Describe, Urgency::Periodic, call);
            Ok(answer.await?.1)
        };
        described.await.map_err(|cause| Error::Describe {
            key: key.clone(),
            cause,
        })
    }

    /// One version of one secret.
    pub(super) async fn get(
        &self,
        id: SourceId,
        key: &Arc<str>,
        selector: &Selector,
        urgency: Urgency,
    ) -> Result<Arc<RemoteValue>, Error> {
        let read = async {
            let client = self.client(id)?;
            let call = |home| client.calls.get(key.clone(), selector.clone(), home);
            let (held, value) = self.call(&client, Operation::Get, urgency, call).await?;
            Ok(self.read_by(&client, &held, value))
        };
        read.await.map_err(|cause| Error::Read {
            key: key.clone(),
            selector: selector.clone(),
            alone: true,
            cause,
        })
    }

    /// One batch of current versions, no larger than the service takes.
    pub(super) async fn batch(
        &self,
        client: &Client,
        keys: &[Arc<str>],
        urgency: Urgency,
    ) -> Result<(Vec<Arc<RemoteValue>>, Vec<(String, Cause)>), Cause> {
        let call = |home| client.calls.batch(keys, home);
        let answer = self.call(client, Operation::Batch, urgency, call).await;
        client.note(|denied| denied.batch = denied.batch.after(&answer));
        let (held, Batch { values, errors }) = answer?;
        let values = values.into_iter();
        let values = values.map(|value| self.read_by(client, &held, value));
        let place = client.place(&held);
        let errors = errors.into_iter();
        let errors = errors.map(|(key, cause)| (key, cause.at(place.clone(), &client.endpoint)));
        Ok((values.collect(), errors.collect()))
    }

    /// Makes a call; once more with new credentials if AWS no longer takes those that were held.
    pub(super) async fn call<T>(
        &self,
        client: &Client,
        operation: Operation,
        urgency: Urgency,
        send: impl Fn(Home) -> Reply<T>,
    ) -> Result<(Arc<CredentialSet>, T), Cause> {
        let mut may_repeat = true;
        loop {
            let held = client.cache.held().await?;
            let budget = client.budget(&self.budgets, &held);
            let waited = budget.turn(operation, urgency, &client.caller).await?;
            let slot = client.slot(urgency).await?;
            let name = client.source.service.operation(operation);
            let running = self.metrics.start(name, waited);
            let answer = send(held.account()).await;
            running.end(answer.as_ref().err());
            drop(slot);
            let renewed = match answer.as_ref().err().map(|cause| cause.class) {
                Some(Class::Identity) => client.cache.refused(&held),
                // The ServiceAccount may have got another role since.
                Some(Class::AccessDenied | Class::KeyAccessDenied) => client.cache.suspect(Some(&held)).await,
                _ => false,
            };
            if renewed && may_repeat {
                may_repeat = false;
                continue;
            }
            let place = client.place(&held);
            return match answer {
                Ok(answer) => Ok((held, answer)),
                Err(cause) => Err(cause.at(place, &client.endpoint)),
            };
        }
    }

    /// A value that was read with these credentials.
    fn read_by(&self, client: &Client, held: &CredentialSet, mut value: RemoteValue) -> Arc<RemoteValue> {
        value.identity = held.arn().unwrap_or_else(|| client.cache.name().clone());
        Arc::new(value.weighed(&self.meter))
    }

    pub(super) fn client(&self, id: SourceId) -> Result<Arc<Client>, Cause> {
        let client = self.sources().clients.get(&id).cloned();
        client.ok_or_else(|| Cause::new(Class::Unavailable, "its store was changed meanwhile"))
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws")
            .field("region", &self.region())
            .finish_non_exhaustive()
    }
}
