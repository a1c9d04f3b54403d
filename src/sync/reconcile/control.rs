//! Holding everything up, by the ConfigMap that people write in an incident.

use std::time::Duration;

use super::{Context, Ended, write::BEHIND};
use crate::{
    api::{ObjectKey, Reason, names::CONTROL_CONFIG_MAP},
    cluster::Control,
    sync::{
        decide::admission::control_message,
        entry::Entry,
        queue::Class,
        status::{Draft, Verdict},
    },
};

/// A far end is looked at again before it: clocks change.
const FAR: Duration = Duration::from_hours(24);

impl Context {
    /// What holds up the objects of `namespace` now, if anything does.
    pub(super) fn held(&self, namespace: &str) -> Option<Control> {
        self.control
            .in_force(self.time.now(), namespace)
            .filter(|control| control.sync)
    }

    /// Whether people have suspended the object since its pass began, as far as the indexes know. It is looked at right before
    /// each write of its Secret.
    pub(super) fn is_stopped(&self, object: &ObjectKey) -> bool {
        let suspended = |entry: &Entry| !matches!(self.suspension(object, entry), Ok(None));
        let entry = self.objects.get(object);
        self.held(&object.namespace).is_some()
            || entry.is_some_and(|indexed| indexed.entry().is_some_and(suspended))
    }

    /// Whether data may be deleted right now. The ConfigMap is read for it: the index may lag behind by as long as a broken
    /// connection goes unnoticed. `Err` ends the pass.
    pub(super) async fn may_delete(&self, object: &ObjectKey) -> Result<(), Ended> {
        match self.writer.cluster().control(&self.operator_namespace).await {
            Ok(control) => {
                let now = self.time.now();
                if control.is_some_and(|control| control.sync && control.applies(now, &object.namespace)) {
                    tracing::info!(%object, "nothing is deleted: ConfigMap {CONTROL_CONFIG_MAP} suspends it");
                    return Err(Ended::Failed);
                }
            }
            Err(error) => {
                tracing::warn!(%object, %error, "nothing is deleted: ConfigMap {CONTROL_CONFIG_MAP} cannot be read");
                return Err(Ended::Failed);
            }
        }
        if self.is_stopped(object) {
            return Err(Ended::Again(BEHIND));
        }
        Ok(())
    }

    /// Nothing is read and nothing written of the object, whatever else is said of it.
    pub(super) async fn hold(&self, object: &ObjectKey, entry: &Entry, control: &Control) -> Ended {
        self.unsubscribe(object);
        // AWS is not asked meanwhile: whether a secret is still gone is asked afterwards.
        self.deletions().withdraw(object);
        // Nothing is promised meanwhile.
        self.remember(object, |memory| memory.wanted_since = None);
        let draft = Draft {
            current: Some(Verdict::fails(Reason::Suspended, control_message(control))),
            ..Draft::default()
        };
        let ended = match control.until {
            Some(until) => {
                let left = Duration::try_from(until.duration_since(self.time.now())).unwrap_or_default();
                Ended::Again(left.clamp(Duration::from_secs(1), FAR))
            }
            None => Ended::Well,
        };
        self.say(object, entry, draft, None, ended).await
    }

    /// The ConfigMap changed: what it holds up now is asked for no more from this moment on, before each object's turn to
    /// say so comes; and all of them are looked at.
    pub fn control_changed(&self) {
        for object in self.objects.keys_where(|_, _| true) {
            if self.held(&object.namespace).is_some() {
                self.unsubscribe(&object);
            }
            self.work.push(object, Class::Periodic);
        }
    }
}
