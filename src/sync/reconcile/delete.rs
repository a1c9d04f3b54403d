//! Removing a Secret: everything in AWS is gone, or the target has another name. Only what is ours goes.

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::events::EventType;

use super::{
    Context, Ended, sooner,
    write::{RECHECK_CONFLICT, wipe},
};
use crate::{
    api::{EventReason, ExternalSecret, ObjectKey, Reason},
    cluster::{self, Observed},
    sync::{entry::Entry, events, plan, resolve::Refusal, status::Verdict},
};

impl Context {
    /// All remote secrets are gone and the policy is Delete: the Secret goes, if it is ours.
    pub(super) async fn delete(&self, object: &ObjectKey, entry: &Entry, live: &ExternalSecret) -> Ended {
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
                return sooner(
                    self.refuse(object, entry, Some(live), refusal).await,
                    RECHECK_CONFLICT,
                );
            }
            let Some(observed) = observed else {
                return Ended::Failed;
            };
            if let Err(ended) = self.may_delete(object).await {
                return ended;
            }
            match self.writer.delete_secret(&target, &observed).await {
                Ok(()) => {
                    self.deletions().lose(object);
                    self.deleted(
                        object,
                        entry,
                        &target,
                        "everything that it was made from is gone from AWS",
                    );
                }
                Err(error) if error.class == cluster::Class::NotFound => {}
                Err(error)
                    if matches!(
                        error.class,
                        cluster::Class::Conflict | cluster::Class::UidMismatch
                    ) =>
                {
                    return Ended::Failed;
                }
                Err(error) => return self.kubernetes_failed(object, entry, Some(live), &error).await,
            }
        }
        let message = format!(
            "Secret {} was deleted, since everything that it was made from is gone from AWS and target.deletionPolicy is Delete",
            target.name
        );
        let draft = self.draft(
            object,
            entry,
            Verdict::holds(Reason::Deleted, message),
            Vec::new(),
            None,
            &[],
        );
        self.say(object, entry, draft, Some(live), Ended::Well).await
    }

    /// After a rename: the Secret of the former name goes, if this very object controls it.
    pub(super) async fn remove_former(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        live: &ExternalSecret,
        former: &str,
    ) -> Result<(), Ended> {
        let failed = async |error| self.kubernetes_failed(object, entry, Some(live), &error).await;
        let key = ObjectKey::new(object.namespace.clone(), former);
        let mut secret = match self.writer.cluster().find::<Secret>(&key).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Ok(()),
            Err(error) => return Err(failed(error).await),
        };
        let ours = plan::controller(&secret).is_some_and(|controller| controller.uid == *entry.uid);
        let observed = Observed::of(&secret);
        wipe(&mut secret);
        let (true, Some(observed)) = (ours, observed) else {
            return Ok(());
        };
        self.may_delete(object).await?;
        match self.writer.delete_secret(&key, &observed).await {
            Ok(()) => {
                self.deleted(object, entry, &key, "target.name is another one now");
                Ok(())
            }
            Err(error) if error.class == cluster::Class::NotFound => Ok(()),
            Err(error) => Err(failed(error).await),
        }
    }

    fn deleted(&self, object: &ObjectKey, entry: &Entry, secret: &ObjectKey, why: &str) {
        tracing::info!(target: "audit", action = "delete", external_secret = %object, %secret, reason = why);
        self.remember(object, |memory| memory.written = None);
        let regarding = events::reference("ExternalSecret", object, &entry.uid);
        let note = format!("Secret {} was deleted: {why}", secret.name);
        self.events.emit(
            regarding,
            EventType::Normal,
            EventReason::Deleted.as_str(),
            "Sync",
            &note,
        );
    }
}
