//! Carrying a decision out: the workload and its pods are read again, judged again, and one request is sent.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};

use super::{patch, step::Step};
use crate::{
    api::{
        ObjectKey, WorkloadKind,
        names::{RECORD_MANAGER, RESTART_MANAGER},
    },
    cluster::{Error, Rollout, TestedPatch, TimeLimit},
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
        let Some((base, workload)) = self.read(key).await? else {
            return Ok(());
        };
        if *workload.uid != *uid {
            return Ok(());
        }
        match patch::note_patch(&workload, &base, notes) {
            Some(body) => {
                let patch = TestedPatch {
                    limit: TimeLimit::Usual,
                    manager: RECORD_MANAGER,
                    body,
                };
                self.patch(key, uid, patch).await
            }
            None => Ok(()),
        }
    }

    /// Sends the one request.
    pub async fn send(&self, key: &WorkloadKey, uid: &str, step: Step) -> Result<(), Error> {
        let object = &key.key;
        let body = match step {
            Step::Nothing => return Ok(()),
            Step::Evict {
                pod,
                uid: of_pod,
                restart: _,
            } => {
                let pod = ObjectKey::new(object.namespace.clone(), pod);
                return self.view.writer.evict(&pod, &of_pod).await;
            }
            Step::Patch { body, restart: _ } => body,
        };
        let patch = TestedPatch {
            limit: TimeLimit::Fenced,
            manager: RESTART_MANAGER,
            body,
        };
        self.patch(key, uid, patch).await
    }

    async fn patch(&self, key: &WorkloadKey, uid: &str, patch: TestedPatch<'_>) -> Result<(), Error> {
        let (writer, object) = (&self.view.writer, &key.key);
        match key.kind {
            WorkloadKind::Deployment => writer.patch::<Deployment>(object, uid, patch).await,
            WorkloadKind::StatefulSet => writer.patch::<StatefulSet>(object, uid, patch).await,
            WorkloadKind::DaemonSet => writer.patch::<DaemonSet>(object, uid, patch).await,
            WorkloadKind::Rollout => writer.patch::<Rollout>(object, uid, patch).await,
        }
        .map(|_| ())
    }
}
