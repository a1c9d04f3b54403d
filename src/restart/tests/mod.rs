//! What the decisions promise.

mod failing;
mod hands;
mod properties;
mod simulation;
mod slow;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use litemap::LiteMap;

use super::observed::{
    managed_secrets::ManagedSecret,
    model::{
        Annotations, Container, Content, ControllerState, PatchBase, Pod, PodSelector, Progress, Stamps,
        TemplateAnnotations, Texts, UpdateStrategy, Use, Workload, WorkloadKey,
    },
};
use crate::{
    api::{
        DeadlinePolicy, Discovery, FirstWrite, ObjectKey, OnFailure, Reloader, RestartMode, RestartPolicy,
        RotationStrategy, WorkloadKind,
    },
    objects::{Restarts, Suspension},
};

/// When the content changed: seconds in tests count from here.
const CHANGED: i64 = 1_800_000_000;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(CHANGED + second).unwrap()
}

pub(super) fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

pub(super) fn key(kind: WorkloadKind, name: &str) -> WorkloadKey {
    WorkloadKey {
        kind,
        key: ObjectKey::new("shop", name),
    }
}

pub(super) fn policy() -> RestartPolicy {
    RestartPolicy {
        mode: RestartMode::Automatic,
        discovery: Discovery::Auto,
        targets: Vec::new(),
        on_first_write: FirstWrite::Ignore,
        reloader: Reloader::Defer,
        max_concurrent: 1,
        urgent_max_concurrent: 5,
        min_interval: Duration::ZERO,
        windows: Vec::new(),
        deadline: DeadlinePolicy::Bypass,
        margin: Duration::from_hours(1),
        timeout: Duration::from_mins(10),
        on_failure: OnFailure::Halt,
    }
}

pub(super) fn restarts() -> Restarts {
    Restarts {
        policy: policy(),
        approved: None,
        resumed: None,
        suspended: Suspension::None,
        strategy: RotationStrategy::Opaque,
        deadline: None,
        rotating: false,
        rotated_at: None,
        reverted: None,
        said: 0,
        trigger: Box::default(),
    }
}

/// The content `token` of the Secret `secret`, changed at 0.
pub(super) fn content(secret: &str, token: &str) -> Content {
    Content {
        object: ObjectKey::new("shop", secret),
        secret: secret.into(),
        hash: format!("hash-{secret}").into(),
        rollout: token.into(),
        token: token.into(),
        changed_at: Some(at(0)),
        key_changes: None,
        since: None,
        reloader: Arc::default(),
    }
}

pub(super) fn object(secret: &str, token: &str) -> ManagedSecret {
    ManagedSecret {
        content: Arc::new(content(secret, token)),
        restarts: Arc::new(restarts()),
    }
}

/// `object` with another policy or other words.
pub(super) fn with(object: &ManagedSecret, change: impl FnOnce(&mut Restarts)) -> ManagedSecret {
    let mut restarts = (*object.restarts).clone();
    change(&mut restarts);
    ManagedSecret {
        content: Arc::clone(&object.content),
        restarts: Arc::new(restarts),
    }
}

/// Its container `app` has the Secret in its environment.
pub(super) fn env(secret: &str) -> Use {
    Use {
        secret: secret.into(),
        fixed: vec!["app".into()],
        init: false,
        mounted: false,
        keys: Vec::new(),
    }
}

/// A healthy workload of one pod, labelled `app: <name>`, with the Secret `db` in its environment; made long ago.
pub(super) fn workload(name: &str) -> Workload {
    Workload {
        uid: format!("uid-{name}").into(),
        generation: 1,
        ending: false,
        labels: Texts::from_iter([("app".into(), name.into())]),
        annotations: Annotations::default(),
        reloader: BTreeMap::new(),
        selector: PodSelector {
            labels: Texts::from_iter([("app".into(), name.into())]),
            expressions: Vec::new(),
        },
        uses: vec![env("db")],
        stamps: Stamps {
            tokens: Texts::new_vec(),
            records: LiteMap::new_vec(),
            failures: LiteMap::new_vec(),
            patched_at: None,
        },
        controller: ControllerState {
            observed_generation: 1,
            paused: false,
            update: UpdateStrategy::Rolling { partition: 0 },
            ordered: false,
            max_unavailable: 1,
            progress: Progress {
                desired: 1,
                total: 1,
                updated: 1,
                ready: 1,
                available: 1,
                one_revision: true,
                deadline_exceeded: false,
                replica_failure: false,
                phase_healthy: true,
                restarted_at: None,
            },
            restart_at: None,
            plain_canary: false,
            borrowed_template: false,
        },
        oversized: false,
    }
}

/// What a patch of the workload rests on: it has annotations, none of ours, and its template has none.
pub(super) fn base(workload: &Workload) -> PatchBase {
    PatchBase {
        uid: workload.uid.clone(),
        generation: workload.generation,
        annotations: Some(BTreeMap::new()),
        template: TemplateAnnotations::None,
    }
}

/// A ready pod of the workload `name`, made at `created`.
pub(super) fn pod(name: &str, created: i64) -> Pod {
    Pod {
        name: format!("{name}-{created}").into(),
        uid: format!("pod-{name}-{created}").into(),
        created: at(created),
        labels: Texts::from_iter([("app".into(), name.into())]),
        controller: Some(("ReplicaSet".into(), format!("{name}-abc").into())),
        tokens: Texts::new_vec(),
        containers: vec![container("app", created)],
        ready: true,
        unscheduled: None,
        readiness_since: None,
        clock_ahead: SignedDuration::ZERO,
        unreachable_since: None,
        ending: false,
        finished: false,
    }
}

/// A container that was started again at `started`, after it had ended.
pub(super) fn restarted(name: &str, started: i64) -> Container {
    Container {
        restarts: 1,
        ..container(name, started)
    }
}

pub(super) fn container(name: &str, started: i64) -> Container {
    Container {
        name: name.into(),
        started: Some(at(started)),
        restarts: 0,
        ready: true,
        waiting: None,
    }
}
