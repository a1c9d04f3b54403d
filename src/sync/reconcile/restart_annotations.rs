//! What restarts need on a Secret whose content is right: put there from the live Secret, without a read of AWS.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use zeroize::Zeroize as _;

use super::{
    Context, Ended,
    write::{BEHIND, NotWritten, wipe},
};
use crate::{
    api::{ExternalSecret, ObjectKey, names::annotation},
    cluster::SecretEntry,
    sync::{
        entry::{Entry, carried},
        plan,
    },
};

impl Context {
    /// Whether the Secret says all that restarts follow from. Where they are disabled that is nothing: what an earlier
    /// version wrote is left as it is, so that an upgrade writes no Secret.
    pub(super) fn is_stamped(&self, entry: &Entry, target: &ObjectKey, secret: &SecretEntry) -> bool {
        let Some(trigger) = entry.trigger() else {
            return true;
        };
        // What the status recorded is the token as we wrote it: another one was edited by hand, or comes from a write that
        // the status does not show yet, which costs a look.
        let recorded = entry
            .recorded
            .as_ref()
            .filter(|recorded| recorded.former.is_none())
            .and_then(|recorded| recorded.rollout.as_deref());
        recorded.is_none_or(|recorded| secret.rollout.as_deref() == Some(recorded))
            && secret.restart_since.is_some()
            && secret.scope == Some(self.key.scope(target, trigger).short())
    }

    /// Writes what is missing: restarts were enabled, or other keys count, or the key of the tokens is another one.
    pub(super) async fn stamp(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        target: &ObjectKey,
        inputs: &str,
    ) -> Result<(), Ended> {
        let slot = self.slots.secrets.take(&object.namespace).await;
        let _slot = slot.map_err(Ended::Again)?;
        let failed = async |error| self.kubernetes_failed(object, entry, None, &error).await;
        let live = match self.writer.cluster().find::<ExternalSecret>(object).await {
            Ok(Some(live)) => live,
            Ok(None) => return Err(Ended::Well),
            Err(error) => return Err(failed(error).await),
        };
        let same = Entry::of(object, &live, self.min_interval, self.restart_default);
        if same.uid != entry.uid || same.revision != entry.revision {
            return Err(Ended::Again(BEHIND));
        }
        let mut secret = match self.writer.cluster().find::<Secret>(target).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(Ended::Again(BEHIND)),
            Err(error) => return Err(failed(error).await),
        };
        let mut data = secret.data.take().unwrap_or_default();
        let said = |name: &str| {
            secret
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(name))
                .map(String::as_str)
        };
        let type_ = secret.type_.as_deref().unwrap_or(crate::api::names::OPAQUE);
        let content = self.key.content(target, type_, &data);
        let right =
            said(annotation::CONTENT) == Some(content.as_str()) && said(annotation::INPUTS) == Some(inputs);
        let labels = carried(live.metadata.labels.as_ref());
        let annotations = carried(live.metadata.annotations.as_ref());
        let wanted = plan::DesiredSecret {
            object,
            uid: &entry.uid,
            target: &target.name,
            recorded: plan::Recorded::of(&live),
            creation: entry.creation,
            adopt_existing: false,
            immutable: live.spec.immutable(),
            labels: &labels,
            annotations: &annotations,
            data: &data,
            inputs,
            versions: said(annotation::VERSIONS).unwrap_or_default(),
            source: said(annotation::SOURCE),
            user: said(annotation::USER),
            trigger: live.spec.trigger_keys(),
            restarts: same.trigger().is_some(),
        };
        // It changed a moment ago, which wakes the object.
        let applied = if right {
            Some(self.apply(&wanted, target, true).await)
        } else {
            None
        };
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        wipe(&mut secret);
        match applied {
            Some(Ok(_)) => Ok(()),
            Some(Err(NotWritten::Kubernetes(error))) => Err(failed(error).await),
            Some(Err(NotWritten::Refused(..) | NotWritten::Contended)) => Err(Ended::Failed),
            Some(Err(NotWritten::Held)) | None => Err(Ended::Again(BEHIND)),
        }
    }
}
