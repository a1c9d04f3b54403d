//! Deleting a Secret: everything in AWS is gone, or the target has another name. Only what is ours goes.

use k8s_openapi::api::core::v1::Secret;

use super::{outcome::Stop, pass::Pass, timing::RECHECK_CONFLICT, write::wipe};
use crate::{
    api::{EventReason, ObjectKey, Reason},
    cluster::{self, EventDraft, Observed},
    objects::{
        controller,
        status::{Draft, Verdict},
    },
    sync::{plan, resolve::Refusal},
};

impl Pass<'_> {
    /// All remote secrets are gone and the policy is Delete: the Secret goes, if it is ours.
    pub(super) async fn delete(&self, target: &ObjectKey) -> Result<Draft, Stop> {
        let cluster = self.context.view.writer.cluster();
        let secret = cluster.find::<Secret>(target).await;
        if let Some(mut secret) = secret.map_err(|error| self.kubernetes(&error))? {
            let ours = plan::is_ours(self.object, &self.entry.uid, &target.name, &secret);
            let observed = Observed::of(&secret);
            wipe(&mut secret);
            if !ours {
                let message = format!(
                    "everything in AWS is gone, but Secret {target} is not of this ExternalSecret, so it was not deleted"
                );
                let refusal = Refusal::new(Reason::TargetConflict, message);
                return Err(Stop::from(refusal).again_after(RECHECK_CONFLICT));
            }
            self.delete_target(target, &observed.ok_or(Stop::Retry)?).await?;
        }
        let message = format!(
            "Secret {} was deleted, since everything that it was made from is gone from AWS and target.deletionPolicy is Delete",
            target.name
        );
        let ready = Verdict::holds(Reason::Deleted, message);
        Ok(self.draft(ready, Vec::new(), &[]))
    }

    async fn delete_target(&self, target: &ObjectKey, observed: &Observed) -> Result<(), Stop> {
        self.may_delete().await?;
        match self.context.view.writer.delete_secret(target, observed).await {
            Ok(()) => {
                self.context.deletions().lose(self.object);
                self.deleted(target, "everything that it was made from is gone from AWS");
                Ok(())
            }
            Err(error) => match error.class {
                cluster::Class::NotFound => Ok(()),
                cluster::Class::Conflict | cluster::Class::UidMismatch => Err(Stop::Retry),
                _ => Err(self.kubernetes(&error)),
            },
        }
    }

    /// After a rename: the Secret of the former name goes, if this very object controls it.
    pub(super) async fn delete_former(&self, former: &str) -> Result<(), Stop> {
        let key = ObjectKey::new(self.object.namespace.clone(), former);
        let secret = self.context.view.writer.cluster().find::<Secret>(&key).await;
        let Some(mut secret) = secret.map_err(|error| self.kubernetes(&error))? else {
            return Ok(());
        };
        let ours = controller(&secret).is_some_and(|controller| controller.uid == *self.entry.uid);
        let observed = Observed::of(&secret);
        wipe(&mut secret);
        let (true, Some(observed)) = (ours, observed) else {
            return Ok(());
        };
        self.may_delete().await?;
        match self.context.view.writer.delete_secret(&key, &observed).await {
            Ok(()) => {
                self.deleted(&key, "target.name is another one now");
                Ok(())
            }
            Err(error) if error.class == cluster::Class::NotFound => Ok(()),
            Err(error) => Err(self.kubernetes(&error)),
        }
    }

    fn deleted(&self, secret: &ObjectKey, why: &str) {
        tracing::info!(target: "audit", action = "delete", external_secret = %self.object, %secret, reason = why);
        let note = format!("Secret {} was deleted: {why}", secret.name);
        self.context.view.events.emit(EventDraft::new(
            self.reference(),
            EventReason::Deleted,
            "Sync",
            &note,
        ));
    }
}
