//! What follows when an identity is made from something else than before: a ServiceAccount got another role, was deleted or
//! made again, a Secret with keys came late or was rotated, the operator may read what it may not before.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::{
    api::{ObjectKey, SourceId},
    sync::queue::Class,
};

use super::Stores;

/// While so many identities are proved, further changes wait.
const AT_ONCE: usize = 16;

impl Stores {
    /// Proves identities that have changed and has all who depend on them look again, until it is dropped. `wake` is told of
    /// a store that can be used again, and of the namespace if that goes for one only.
    pub async fn follow_identities(
        self: Arc<Self>,
        wake: impl Fn(&ObjectKey, Option<&str>) + Clone + Send + Sync + 'static,
    ) {
        let mut renewing = JoinSet::new();
        loop {
            tokio::select! {
                sources = self.aws.renewed(), if renewing.len() < AT_ONCE => {
                    for source in sources {
                        let (stores, wake) = (self.clone(), wake.clone());
                        renewing.spawn(async move { stores.renew(source, &wake).await });
                    }
                }
                Some(ended) = renewing.join_next(), if !renewing.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "proving a changed identity ended abnormally");
                    }
                }
            }
        }
    }

    async fn renew(&self, source: SourceId, wake: &(impl Fn(&ObjectKey, Option<&str>) + Sync)) {
        let (store, tenant) = {
            let known = self.lock();
            let Some((store, _)) = known.sources.get(&source) else {
                return;
            };
            let tenant = known.tenants.get(&source).map(|(namespace, _)| namespace.clone());
            (store.clone(), tenant)
        };
        let proven = self.aws.prove(source).await;
        if let Ok(proven) = &proven {
            if let Some(account) = self.lock().accounts.get_mut(&source) {
                *account = proven.account.clone();
            }
            self.aws.retry_denied(source);
            self.tracking.tell(|tracker, now| tracker.retry(now, source));
        }
        match (tenant, proven) {
            // Its status says what came of it, and whoever waits for it is woken.
            (None, _) => self.work.push(store, Class::Urgent),
            (Some(namespace), Ok(_)) => wake(&store, Some(&namespace)),
            // No status of a store speaks for one namespace: its ExternalSecrets do.
            (Some(_), Err(error)) if !error.class().is_transient() => {
                let text = error.to_string().into();
                self.tracking
                    .tell(|tracker, now| tracker.lose_identity(now, source, &text));
            }
            (Some(_), Err(_)) => {}
        }
    }

    /// Somebody edited an ExternalSecret or asks for a refresh of it, and its store is not ready: it is looked at again.
    pub fn retry(&self, store: &ObjectKey) {
        for source in self.sources_of(store) {
            self.aws.recheck_soon(source);
        }
        self.work.push(store.clone(), Class::Periodic);
    }
}
