//! What is read of workloads and pods, whatever stands beside it.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{WirePod, WireWorkload};
use crate::{
    api::{WorkloadKind, caps},
    restart::observed::model::{Pod, Progress, Record, RestartFlag, UpdateStrategy, Workload},
};

const TIME: &str = "2026-01-01T00:00:00Z";

fn workload(kind: WorkloadKind, object: &Value) -> Option<Workload> {
    serde_json::from_value::<WireWorkload>(object.clone())
        .unwrap()
        .workload(kind)
}

fn pod(object: &Value) -> Option<Pod> {
    serde_json::from_value::<WirePod>(object.clone()).unwrap().pod()
}

/// A Deployment that uses a Secret, with `change` on top of it.
fn deployment(change: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": TIME, "labels": {"app": "web"},
        },
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "main", "envFrom": [{"secretRef": {"name": "db"}}]},
            ]}},
        },
        "status": {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2},
    });
    put(&mut object, change);
    object
}

fn put(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change {
                put(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

#[test]
fn a_deployment_is_read() {
    let web = workload(WorkloadKind::Deployment, &deployment(&json!({}))).unwrap();
    assert_eq!(
        (&*web.uid, web.generation, web.controller.observed_generation),
        ("u1", 3, 3)
    );
    assert_eq!(
        web.uses.iter().map(|found| &*found.secret).collect::<Vec<_>>(),
        ["db"]
    );
    assert_eq!(web.selector.labels.get("app").map(|value| &**value), Some("web"));
    assert_eq!(web.controller.update, UpdateStrategy::Rolling { partition: 0 });
    let progress = Progress {
        desired: 2,
        total: 2,
        updated: 1,
        ready: 2,
        available: 2,
        one_revision: true,
        deadline_exceeded: false,
        replica_failure: false,
        phase_healthy: true,
        restarted_at: None,
    };
    assert_eq!(web.controller.progress, progress);
    assert!(
        !web.ending
            && !web.controller.paused
            && web.stamps.patched_at.is_none()
            && web.stamps.records.is_empty()
    );
}

#[test]
fn what_restarts_cannot_concern_is_not_kept() {
    let without = json!({"spec": {"template": {"spec": {"containers": [{"name": "main"}]}}}});
    assert_eq!(workload(WorkloadKind::Deployment, &deployment(&without)), None);
    for annotations in [
        json!({"metadata": {"annotations": {"keyturn.dev/restart": "true"}}}),
        json!({"metadata": {"annotations": {"restart.keyturn.dev/0badcafe0badcafe": "t.1"}}}),
        json!({"spec": {"template": {"metadata": {"annotations": {"restart.keyturn.dev/0badcafe0badcafe": "t"}}}}}),
    ] {
        let mut object = deployment(&without);
        put(&mut object, &annotations);
        assert!(
            workload(WorkloadKind::Deployment, &object).is_some(),
            "{annotations}"
        );
    }
}

#[test]
fn our_marks_and_those_of_others_are_told_apart() {
    let web = workload(
        WorkloadKind::Deployment,
        &deployment(&json!({
            "metadata": {
                "annotations": {
                    "keyturn.dev/restart": "false",
                    "restart.keyturn.dev/0badcafe0badcafe": "token.2.unhealthy",
                    "restart.keyturn.dev/1badcafe1badcafe": "nonsense",
                    "reloader.stakater.com/auto": "false",
                    "other": "x",
                },
                "managedFields": [
                    {"manager": "keyturn-restart", "operation": "Update", "time": "2026-01-01T00:00:05Z"},
                    {"manager": "keyturn-restart", "operation": "Update", "time": "2026-01-01T00:00:09Z"},
                    {"manager": "kubectl", "operation": "Update", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:x": {}}},
                    {"manager": "keyturn-restart", "operation": "Update"},
                ],
            },
            "spec": {"template": {"metadata": {"annotations": {
                "restart.keyturn.dev/0badcafe0badcafe": "token",
                "reloader.stakater.com/auto": "true",
                "secret.reloader.stakater.com/reload": "db",
            }}}},
        })),
    )
    .unwrap();
    assert_eq!(web.annotations.restart, RestartFlag::No);
    assert_eq!(
        web.stamps.patched_at,
        Some("2026-01-01T00:00:09Z".parse().unwrap())
    );
    assert_eq!(
        web.stamps.tokens,
        [("0badcafe0badcafe".into(), "token".into())]
            .into_iter()
            .collect()
    );
    let record = Record {
        token: "token".into(),
        attempt: 2,
        was_healthy: false,
    };
    assert_eq!(
        web.stamps.records,
        [("0badcafe0badcafe".into(), record)].into_iter().collect()
    );
    let theirs = [
        ("reloader.stakater.com/auto".into(), "true".into()),
        ("secret.reloader.stakater.com/reload".into(), "db".into()),
    ];
    assert_eq!(web.reloader, theirs.into());
}

#[test]
fn nulls_and_fields_of_other_versions_fail_nothing() {
    let nulls = json!({
        "metadata": {"labels": null, "annotations": null, "managedFields": null, "ownerReferences": null,
            "generation": null, "creationTimestamp": null, "new": {"a": 1}},
        "spec": {"replicas": null, "paused": null, "updateStrategy": null, "strategy": {"type": "Recreate"}, "new": []},
        "status": null,
    });
    let web = workload(WorkloadKind::Deployment, &deployment(&nulls)).unwrap();
    // It might be of any age, and nothing is known to be as it should.
    assert_eq!(
        (web.controller.progress.desired, web.controller.progress.available),
        (1, 0)
    );
    for empty in [json!({}), json!({"metadata": null, "spec": null, "status": null})] {
        assert_eq!(workload(WorkloadKind::Deployment, &empty), None);
        assert_eq!(pod(&empty), None);
    }
}

#[test]
fn each_kind_says_in_its_own_words_how_far_it_is() {
    let progress = |kind, change: Value| workload(kind, &deployment(&change)).unwrap();
    let given_up = json!({"status": {"conditions": [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}});
    assert!(
        progress(WorkloadKind::Deployment, given_up)
            .controller
            .progress
            .deadline_exceeded
    );
    let set = progress(
        WorkloadKind::StatefulSet,
        json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            "status": {"currentRevision": "a", "updateRevision": "b"}}),
    );
    assert_eq!(set.controller.update, UpdateStrategy::Rolling { partition: 2 });
    assert!(!set.controller.progress.one_revision);
    let daemons = progress(
        WorkloadKind::DaemonSet,
        json!({"spec": {"updateStrategy": {"type": "OnDelete"}}, "status": {
            "desiredNumberScheduled": 5, "currentNumberScheduled": 4, "updatedNumberScheduled": 3,
            "numberReady": 2, "numberAvailable": 1}}),
    );
    assert_eq!(daemons.controller.update, UpdateStrategy::OnDelete);
    let Progress {
        desired,
        total,
        updated,
        ready,
        available,
        ..
    } = daemons.controller.progress;
    assert_eq!((desired, total, updated, ready, available), (5, 4, 3, 2, 1));
    let rollout = progress(
        WorkloadKind::Rollout,
        json!({"spec": {"restartAt": TIME, "workloadRef": {"kind": "Deployment", "name": "web"}},
            "status": {"observedGeneration": "3", "phase": "Degraded", "restartedAt": TIME}}),
    );
    assert_eq!(rollout.controller.observed_generation, 3);
    assert_eq!(
        rollout.controller.restart_at,
        rollout.controller.progress.restarted_at
    );
    assert!(
        rollout.controller.borrowed_template
            && rollout.controller.progress.deadline_exceeded
            && !rollout.controller.progress.phase_healthy
    );
}

#[test]
fn a_canary_without_steps_is_told_from_what_waits_on_its_way() {
    let plain = |kind: WorkloadKind, spec: Value| {
        workload(kind, &deployment(&json!({"spec": spec})))
            .unwrap()
            .controller
            .plain_canary
    };
    let rollout = |spec: Value| plain(WorkloadKind::Rollout, spec);
    assert!(rollout(json!({"strategy": {"canary": {}}})));
    assert!(rollout(
        json!({"strategy": {"canary": {"steps": null, "maxSurge": 1}}})
    ));
    for spec in [
        json!({"strategy": {"canary": {"steps": [{"pause": {}}]}}}),
        json!({"strategy": {"blueGreen": {"activeService": "web"}}}),
        json!({"strategy": {"canary": {}}, "workloadRef": {"kind": "Deployment", "name": "web"}}),
        json!({"strategy": {}}),
        json!({}),
    ] {
        assert!(!rollout(spec.clone()), "{spec}");
    }
    assert!(!plain(
        WorkloadKind::Deployment,
        json!({"strategy": {"type": "RollingUpdate"}})
    ));
}

#[test]
fn a_pod_is_read() {
    let web = pod(&json!({
        "metadata": {"name": "web-1", "uid": "p1", "creationTimestamp": TIME, "labels": {"app": "web"},
            "annotations": {"restart.keyturn.dev/0badcafe0badcafe": "token", "other": "x"},
            "ownerReferences": [{"kind": "Node", "name": "n"}, {"kind": "ReplicaSet", "name": "web-7", "controller": true}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [
                {"name": "migrate", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "proxy", "restartCount": 1, "state": {"running": {"startedAt": TIME}}}],
            "containerStatuses": [{"name": "main", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
    }))
    .unwrap();
    assert_eq!(web.controller, Some(("ReplicaSet".into(), "web-7".into())));
    assert_eq!(web.tokens.len(), 1);
    let containers: Vec<_> = web
        .containers
        .iter()
        .map(|container| (&*container.name, container.started.is_some(), container.restarts))
        .collect();
    // What ran to its end has nothing to say any more; a sidecar has.
    assert_eq!(containers, [("proxy", true, 1), ("main", false, 4)]);
    assert_eq!(web.containers[1].waiting.as_deref(), Some("CrashLoopBackOff"));
    assert!(web.ready && !web.ending && !web.finished);
}

#[test]
fn how_far_the_clock_of_a_node_is_ahead_is_read_from_the_pod() {
    let of = |start: Value, scheduled: &str, status: &str| {
        let pod = pod(&json!({
            "metadata": {"name": "web-1", "creationTimestamp": TIME},
            "status": {"startTime": start, "conditions": [
                {"type": "PodScheduled", "status": status, "lastTransitionTime": scheduled}]},
        }));
        pod.unwrap().clock_ahead.as_secs()
    };
    let scheduled = "2026-11-01T08:00:00Z";
    assert_eq!(of(json!("2026-11-01T08:02:00Z"), scheduled, "True"), 120);
    // A clock that is behind makes nothing look older, nor does what is not known.
    assert_eq!(of(json!("2026-11-01T07:58:00Z"), scheduled, "True"), 0);
    assert_eq!(of(json!(null), scheduled, "True"), 0);
    assert_eq!(of(json!("2026-11-01T08:02:00Z"), scheduled, "False"), 0);
    assert_eq!(of(json!("2026-11-01T08:02:00Z"), "soon", "True"), 0);
}

#[test]
fn a_pod_is_lost_a_minute_after_its_node_went_silent() {
    let now: Timestamp = "2026-11-01T08:01:00Z".parse().unwrap();
    let (then, lately) = ("2026-11-01T08:00:00Z", "2026-11-01T08:00:01Z");
    let ready = |status: &str, reason: Value, since: &str| json!({"conditions": [{"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": since}]});
    let mut gone = ready("False", json!(null), then);
    gone["reason"] = json!("NodeLost");
    for (deletion, status, lost) in [
        // The control plane gives no reason, the kubelet does.
        (None, ready("False", json!(null), then), true),
        (None, ready("Unknown", json!(null), then), true),
        (None, ready("False", json!(null), lately), false),
        (None, ready("False", json!("ContainersNotReady"), then), false),
        (None, ready("True", json!(null), then), false),
        (None, gone, true),
        (None, json!({}), false),
        // A pod that is not gone a minute after its grace.
        (Some(then), ready("True", json!(null), then), true),
        (Some(lately), ready("True", json!(null), then), false),
        (Some(then), json!({"phase": "Succeeded"}), false),
    ] {
        let mut object = json!({"metadata": {"name": "web-1", "creationTimestamp": TIME}, "status": status});
        if let Some(deletion) = deletion {
            object["metadata"]["deletionTimestamp"] = json!(deletion);
        }
        assert_eq!(pod(&object).unwrap().is_lost(now), lost, "{object}");
    }
}

#[test]
fn a_pod_whose_age_is_not_known_is_no_pod_that_could_be_judged() {
    assert_eq!(
        pod(&json!({"metadata": {"name": "web-1", "creationTimestamp": null}})),
        None
    );
    for (status, ending, finished) in [
        (json!({"phase": "Succeeded"}), false, true),
        (json!({"phase": "Failed"}), false, true),
        (json!(null), false, false),
    ] {
        let web = pod(&json!({"metadata": {"name": "web-1", "creationTimestamp": TIME}, "status": status}))
            .unwrap();
        assert_eq!((web.ending, web.finished, web.ready), (ending, finished, false));
    }
}

/// All text that is kept shows in it.
fn kept(workload: &Workload) -> usize {
    format!("{workload:?}").len()
}

/// Pairs, or other things, that take `bytes` in all.
fn many<T>(bytes: usize, each: usize, make: impl Fn(usize) -> T) -> Vec<T> {
    (0..bytes / each.max(1)).map(make).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_people_write_on_a_workload_it_takes_no_more_than_its_share(
        // What the API server takes in one object, spread over what is read of it.
        [labels, annotations, template, expressions, secrets] in prop::array::uniform5(0..300_000_usize),
        each in 1..63_usize,
    ) {
        let long = "x".repeat(each);
        let pairs = |bytes, prefix: &str| {
            let pairs = many(bytes, each + prefix.len() + 6, |n| (format!("{prefix}{n}"), Value::from(long.clone())));
            Value::Object(pairs.into_iter().collect())
        };
        let mut own = pairs(annotations, "restart.keyturn.dev/");
        let flood = "y".repeat(annotations);
        for name in ["keyturn.dev/restart", "keyturn.dev/unknown", "secret.reloader.stakater.com/reload", "other"] {
            own[name] = flood.clone().into();
        }
        let containers = many(secrets, 2 * each + 80, |n| json!({
            "name": format!("{long}{n}"), "envFrom": [{"secretRef": {"name": format!("{long}{n}")}}],
        }));
        let expressions = many(expressions, each, |n| json!({"key": format!("{n}"), "operator": "In", "values": [long]}));
        let hostile = json!({
            "metadata": {"labels": pairs(labels, ""), "annotations": own},
            "spec": {
                "selector": {"matchExpressions": expressions},
                "template": {
                    "metadata": {"annotations": pairs(template, "restart.keyturn.dev/")},
                    "spec": {"containers": containers},
                },
            },
        });
        let web = workload(WorkloadKind::Deployment, &deployment(&hostile)).unwrap();
        // The names of fields take more in this form than in memory.
        prop_assert!(kept(&web) < 4 * caps::WORKLOAD, "{}", kept(&web));
        prop_assert_eq!(web.annotations.restart, RestartFlag::Unreadable);
        let text = [&web.labels, &web.stamps.tokens, &web.selector.labels];
        let text: usize = text.iter().flat_map(|texts| texts.iter()).map(|(name, value)| name.len() + value.len()).sum();
        prop_assert!(text <= caps::WORKLOAD);
    }
}

#[test]
fn a_workload_of_two_hundred_secrets_is_kept_whole() {
    let containers = many(
        200,
        1,
        |n| json!({"name": "main", "envFrom": [{"secretRef": {"name": format!("{n}-{}", "s".repeat(200))}}]}),
    );
    let large = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let web = workload(WorkloadKind::Deployment, &deployment(&large)).unwrap();
    assert!(!web.oversized);
    assert_eq!(web.uses.len(), 200);
}

#[test]
fn what_a_workload_says_of_its_rollouts_is_read_apart_from_what_was_asked_for() {
    let web = deployment(&json!({"metadata": {"annotations": {
        "restart.keyturn.dev/0badcafe0badcafe": "token.1",
        "restart.keyturn.dev/0badcafe0badcafe.failed": "token.CrashLoopBackOff",
        "restart.keyturn.dev/1badcafe1badcafe.failed": "token.1",
        "restart.keyturn.dev/2badcafe2badcafe.failing": "token.TimedOut",
        "example.com/3badcafe3badcafe.failed": "token.TimedOut",
    }}}));
    let web = workload(WorkloadKind::Deployment, &web).unwrap();
    let records: Vec<&str> = web.stamps.records.keys().map(|hash| &**hash).collect();
    assert_eq!(records, ["0badcafe0badcafe"]);
    let failures: Vec<(&str, Option<&str>)> = web
        .stamps
        .failures
        .iter()
        .map(|(hash, said)| (&**hash, said.as_ref().map(|said| &*said.reason)))
        .collect();
    // What cannot be read is not passed over.
    assert_eq!(
        failures,
        [
            ("0badcafe0badcafe", Some("CrashLoopBackOff")),
            ("1badcafe1badcafe", None)
        ]
    );
}

#[test]
fn the_update_budget_is_rounded_as_the_controller_does_and_is_one_pod_at_least() {
    let budget = |kind: WorkloadKind, spec: serde_json::Value| {
        let mut object = json!({"metadata": {"uid": "u", "annotations": {"keyturn.dev/restart": "true"}},
            "spec": {"replicas": 10}, "status": {"desiredNumberScheduled": 10}});
        for (name, value) in spec.as_object().unwrap() {
            object["spec"][name] = value.clone();
        }
        let wire: WireWorkload = serde_json::from_value(object).unwrap();
        wire.workload(kind).unwrap().controller.max_unavailable
    };
    let rolling = |amount: serde_json::Value| json!({"rollingUpdate": {"maxUnavailable": amount}});
    for (amount, down, up) in [
        (json!("25%"), 2, 3),
        (json!("100%"), 10, 10),
        (json!("0%"), 1, 1),
        (json!(0), 1, 1),
        (json!(4), 4, 4),
        (json!(null), 1, 1),
        (json!("a few"), 1, 1),
        (json!({}), 1, 1),
    ] {
        let of = |kind, field: &str| budget(kind, json!({field: rolling(amount.clone())}));
        assert_eq!(of(WorkloadKind::Deployment, "strategy"), down, "{amount}");
        assert_eq!(of(WorkloadKind::StatefulSet, "updateStrategy"), up, "{amount}");
        assert_eq!(of(WorkloadKind::DaemonSet, "updateStrategy"), up, "{amount}");
    }
    let recreate = json!({"strategy": {"type": "Recreate"}});
    assert_eq!(budget(WorkloadKind::Deployment, recreate), 1);
    let rollout = |strategy: serde_json::Value| budget(WorkloadKind::Rollout, json!({"strategy": strategy}));
    assert_eq!(rollout(json!({"canary": {}})), 2);
    assert_eq!(rollout(json!({"canary": {"maxUnavailable": "50%"}})), 5);
    assert_eq!(rollout(json!({"blueGreen": {}})), 1);
}

#[test]
fn why_a_pod_has_no_node_and_why_there_is_no_pod_is_read() {
    let scheduled = |status: &str, reason: Value| {
        let status = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": status, "reason": reason}]});
        let object = json!({"metadata": {"name": "web-1", "creationTimestamp": TIME}, "status": status});
        pod(&object).unwrap().unscheduled
    };
    let found = scheduled("False", json!("Unschedulable"));
    assert_eq!(found.as_deref(), Some("Unschedulable"));
    assert_eq!(scheduled("False", json!(null)).as_deref(), Some("Pending"));
    assert_eq!(scheduled("True", json!(null)), None);
    for (kind, expected) in [
        (WorkloadKind::Deployment, true),
        (WorkloadKind::Rollout, true),
        (WorkloadKind::StatefulSet, false),
    ] {
        let failing = json!({"status": {"conditions": [{"type": "ReplicaFailure", "status": "True"}]}});
        let web = workload(kind, &deployment(&failing)).unwrap();
        assert_eq!(web.controller.progress.replica_failure, expected, "{kind}");
    }
    for (kind, policy, expected) in [
        (WorkloadKind::StatefulSet, json!("OrderedReady"), true),
        (WorkloadKind::StatefulSet, json!(null), true),
        (WorkloadKind::StatefulSet, json!("Parallel"), false),
        (WorkloadKind::Deployment, json!(null), false),
    ] {
        let set = workload(
            kind,
            &deployment(&json!({"spec": {"podManagementPolicy": policy}})),
        )
        .unwrap();
        assert_eq!(set.controller.ordered, expected, "{kind} {policy}");
    }
}
