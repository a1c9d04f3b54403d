//! Events on workloads and ExternalSecrets, and lines of the audit log.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::ObjectReference;

use super::event_detector::RestartEvent;
use crate::{
    api::{EventReason, ObjectKey, WorkloadKind, names::API_VERSION},
    cluster::EventDraft,
    restart::{
        judge::model::{Cause, Restart},
        observed::{Context, managed_secrets::ManagedSecret, model::WorkloadKey},
    },
};

impl Context {
    /// A restart was taken by the API server.
    pub fn emit_triggered(&self, restart: &Restart, pod: Option<&str>) {
        let secrets: Vec<&str> = restart.causes.iter().map(|cause| &*cause.secret).collect();
        let secrets = secrets.join(", ");
        let note = match pod {
            None => format!("{} is restarted, since Secret {secrets} changed", restart.key),
            Some(pod) => format!(
                "Pod {pod} of {} is evicted, since Secret {secrets} changed",
                restart.key
            ),
        };
        self.emit_on_both(EventReason::RestartTriggered, restart, &note);
        self.metrics.count(restart.key.kind.as_str(), "triggered");
        let verb = if pod.is_some() { "evict" } else { "patch" };
        let join = |part: fn(&Cause) -> String| restart.causes.iter().map(part).collect::<Vec<_>>().join(" ");
        let workload = format!("{} {}", restart.key.kind, restart.key.key);
        let evicted = pod.map(|pod| format!("Pod {}/{pod}", restart.key.key.namespace));
        tracing::info!(
            target: "audit",
            action = "restart",
            external_secrets = join(|cause| cause.object.to_string()),
            secrets = join(|cause| format!("{}/{}", cause.object.namespace, cause.secret)),
            rollouts = join(|cause| cause.stamp.record.token.to_string()),
            workload,
            verb,
            object = evicted.as_deref().unwrap_or(&workload),
            urgent = if restart.urgent { "true" } else { "false" },
        );
    }

    /// A restart was refused.
    pub fn emit_refused(&self, restart: &Restart, why: &str) {
        let note = format!("{}: {why}", restart.key);
        self.emit_on_both(EventReason::RestartFailed, restart, &note);
    }

    /// Something happened to a workload or to all of an ExternalSecret's.
    pub fn emit_event(&self, happened: &RestartEvent, uids: &HashMap<&WorkloadKey, &str>) {
        let RestartEvent {
            object,
            workload,
            event,
            sentence,
            changed_at,
        } = happened;
        let about = self.object_reference(object);
        let on = workload
            .as_ref()
            .map(|key| (reference(key, uids.get(key).copied()), uids.contains_key(key)));
        if let Some(about) = &about {
            self.emit(*event, about, on.as_ref().map(|(on, _)| on), sentence);
        }
        let Some(key) = workload else { return };
        if let Some((on, true)) = &on {
            self.emit(*event, on, about.as_ref(), sentence);
        }
        let kind = key.kind.as_str();
        match event {
            EventReason::RestartCompleted => self.metrics.count(kind, "completed"),
            EventReason::RestartFailed => self.metrics.count(kind, "failed"),
            EventReason::RestartReverted => {
                self.metrics.reverted.inc();
            }
            _ => {}
        }
        if let Some(changed_at) = changed_at {
            let lag = self.view.time.now().duration_since(*changed_at);
            self.metrics.lag.observe(lag.as_secs_f64().max(0.0));
        }
    }

    /// On the workload and on each ExternalSecret that has it restarted.
    fn emit_on_both(&self, event: EventReason, restart: &Restart, note: &str) {
        let workload = reference(&restart.key, Some(&restart.uid));
        let objects = restart.causes.iter();
        let objects: Vec<_> = objects
            .filter_map(|cause| self.object_reference(&cause.object))
            .collect();
        self.emit(event, &workload, objects.first(), note);
        for object in &objects {
            self.emit(event, object, Some(&workload), note);
        }
    }

    fn object_reference(&self, object: &ObjectKey) -> Option<ObjectReference> {
        let (uid, _) = self.identity(object)?;
        Some(ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some("ExternalSecret".to_owned()),
            name: Some(object.name.to_string()),
            namespace: Some(object.namespace.to_string()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        })
    }

    fn emit(
        &self,
        event: EventReason,
        about: &ObjectReference,
        related: Option<&ObjectReference>,
        note: &str,
    ) {
        self.view.events.emit(EventDraft {
            regarding: about.clone(),
            related: related.cloned(),
            reason: event,
            action: "Restart",
            note,
        });
    }
}

/// Restarts for a content were approved.
pub fn log_approval(secret: &ManagedSecret) {
    let content = &secret.content;
    tracing::info!(
        target: "audit",
        action = "approval",
        external_secret = %content.object,
        secret = format!("{}/{}", content.object.namespace, content.secret),
        rollout = &*content.rollout,
    );
}

fn reference(key: &WorkloadKey, uid: Option<&str>) -> ObjectReference {
    let version = match key.kind {
        WorkloadKind::Rollout => "argoproj.io/v1alpha1",
        WorkloadKind::Deployment | WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => "apps/v1",
    };
    let text = |text: &Arc<str>| Some(text.to_string());
    ObjectReference {
        api_version: Some(version.to_owned()),
        kind: Some(key.kind.as_str().to_owned()),
        name: text(&key.key.name),
        namespace: text(&key.key.namespace),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}
