//! The ConfigMap `keyturn-control`, by which people suspend everything, and suspensions that begin during a pass.

use super::{Context, outcome::Stop, pass::Pass, timing::BEHIND};
use crate::{
    api::{ObjectKey, names::CONTROL_CONFIG_MAP},
    cluster::Control,
    objects::Entry,
    sync::{decide::admission::check_suspensions, queue::Class},
};

impl Context {
    /// What holds up the objects of `namespace` now, if anything does.
    pub(super) fn held(&self, namespace: &str) -> Option<Control> {
        self.view
            .control
            .in_force(self.view.time.now(), namespace)
            .filter(|control| control.sync)
    }

    /// The ConfigMap changed: what it holds up now is asked for no more from this moment on, before each object's turn to
    /// report it comes; and all of them are looked at.
    pub fn control_changed(&self) {
        for object in self.view.objects.keys_where(|_, _| true) {
            if self.held(&object.namespace).is_some() {
                self.unsubscribe(&object);
            }
            self.work.push(object, Class::Periodic);
        }
    }

    fn is_suspended(&self, object: &ObjectKey, entry: &Entry) -> bool {
        check_suspensions(object, entry, &self.surroundings(&object.namespace, entry)).is_err()
    }
}

impl Pass<'_> {
    /// Whether people have suspended the object since its pass began, as far as the indexes know. It is looked at right before
    /// each write of its Secret.
    pub(super) fn is_stopped(&self) -> bool {
        let Self { context, object, .. } = self;
        let entry = context.view.objects.get(object);
        context.held(&object.namespace).is_some()
            || entry.is_some_and(|indexed| {
                indexed
                    .entry()
                    .is_some_and(|entry| context.is_suspended(object, entry))
            })
    }

    /// Whether data may be deleted right now. The ConfigMap is read for it: the index may lag behind by as long as a broken
    /// connection goes unnoticed.
    pub(super) async fn may_delete(&self) -> Result<(), Stop> {
        let Self { context, object, .. } = self;
        match context
            .view
            .writer
            .cluster()
            .control(&context.view.operator_namespace)
            .await
        {
            Ok(control) => {
                let now = context.view.time.now();
                if control.is_some_and(|control| control.sync && control.applies(now, &object.namespace)) {
                    tracing::info!(%object, "nothing is deleted: ConfigMap {CONTROL_CONFIG_MAP} suspends it");
                    return Err(Stop::Retry);
                }
            }
            Err(error) => {
                tracing::warn!(%object, %error, "nothing is deleted: ConfigMap {CONTROL_CONFIG_MAP} cannot be read");
                return Err(Stop::Retry);
            }
        }
        if self.is_stopped() {
            return Err(Stop::WaitFor(Some(BEHIND)));
        }
        Ok(())
    }
}
