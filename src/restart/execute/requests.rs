//! Carrying a decision out: the workload and its pods are read again, judged again, and one request is sent.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};

use super::{patch, step::Step};
use crate::{
    api::{
        ObjectKey, WorkloadKind,
        names::{RECORD_MANAGER, RESTART_MANAGER},
    },
    cluster::{Error, MergePatch, Observed, Rollout, TimeLimit},
    restart::{
        judge::model::Note,
        observed::{Context, model::WorkloadKey},
    },
};

impl Context {
    /// Has the workload of this uid say `notes`, unless it does or they do not hold any more.
    pub async fn write_notes(&self, key: &WorkloadKey, uid: &str, notes: &[Note]) -> Result<(), Error> {
        if !notes.iter().any(|note| note.what.is_written()) {
            return Ok(());
        }
        let Some((observed, workload)) = self.read(key).await? else {
            return Ok(());
        };
        if *workload.uid != *uid {
            return Ok(());
        }
        match patch::note_patch(&workload, &observed.resource_version, notes) {
            Some(body) => {
                let patch = MergePatch {
                    limit: TimeLimit::Usual,
                    manager: RECORD_MANAGER,
                    body,
                };
                self.patch(key, &observed, patch).await
            }
            None => Ok(()),
        }
    }

    /// Sends the one request.
    pub async fn send(&self, key: &WorkloadKey, observed: &Observed, step: Step) -> Result<(), Error> {
        let object = &key.key;
        let body = match step {
            Step::Nothing => return Ok(()),
            Step::Evict { pod, uid, restart: _ } => {
                let pod = ObjectKey::new(object.namespace.clone(), pod);
                return self.view.writer.evict(&pod, &uid).await;
            }
            Step::Patch { body, restart: _ } => body,
        };
        let patch = MergePatch {
            limit: TimeLimit::Fenced,
            manager: RESTART_MANAGER,
            body,
        };
        self.patch(key, observed, patch).await
    }

    async fn patch(
        &self,
        key: &WorkloadKey,
        observed: &Observed,
        patch: MergePatch<'_>,
    ) -> Result<(), Error> {
        let (writer, object) = (&self.view.writer, &key.key);
        match key.kind {
            WorkloadKind::Deployment => writer.patch::<Deployment>(object, observed, patch).await,
            WorkloadKind::StatefulSet => writer.patch::<StatefulSet>(object, observed, patch).await,
            WorkloadKind::DaemonSet => writer.patch::<DaemonSet>(object, observed, patch).await,
            WorkloadKind::Rollout => writer.patch::<Rollout>(object, observed, patch).await,
        }
        .map(|_| ())
    }
}
