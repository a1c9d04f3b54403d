use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

const MINIMUM: Duration = Duration::from_secs(30);

fn spec() -> Value {
    json!({
        "secretStoreRef": {"name": "aws"},
        "refreshInterval": "1h",
        "data": [{"secretKey": "password", "remoteRef": {"key": "prod/db", "property": "password"}}],
    })
}

/// An ExternalSecret with `change` merged into it, member by member.
fn object(change: &Value) -> ExternalSecret {
    let mut object = json!({
        "apiVersion": "keyturn.dev/v1",
        "kind": "ExternalSecret",
        "metadata": {
            "name": "db",
            "namespace": "shop",
            "uid": "u1",
            "generation": 1,
            "labels": {"team": "a"},
            "annotations": {"note": "n", "keyturn.dev/refresh": "1"},
        },
        "spec": spec(),
    });
    put(&mut object, change);
    serde_json::from_value(object).unwrap()
}

fn put(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, change) in change {
                put(target.entry(name.clone()).or_insert(Value::Null), change);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn entry(change: &Value) -> Entry {
    Entry::of(
        &ObjectKey::new("shop", "db"),
        &object(change),
        MINIMUM,
        RestartMode::Disabled,
    )
}

fn annotated(name: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {name: value}}})
}

#[test]
fn what_a_pass_looks_at_makes_another_revision() {
    let suspend = "keyturn.dev/suspend-sync-until";
    let changes = [
        json!({}),
        json!({"metadata": {"generation": 2}}),
        json!({"metadata": {"labels": {"team": "b"}}}),
        json!({"metadata": {"labels": {"more": "b"}}}),
        annotated("note", "other"),
        annotated("keyturn.dev/refresh", "2"),
        annotated("keyturn.dev/refresh", ""),
        annotated(suspend, "2026-11-01T08:00:00Z"),
        annotated(suspend, "2026-11-01T09:00:00Z"),
        annotated(suspend, ""),
    ];
    let revisions: BTreeSet<u64> = changes.iter().map(|change| entry(change).revision).collect();
    assert_eq!(revisions.len(), changes.len());
}

#[test]
fn what_no_pass_looks_at_makes_none() {
    let status = json!({"status": {
        "observedGeneration": 1,
        "target": {"name": "db", "rollout": "r"},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Synced", "message": "",
            "lastTransitionTime": "2026-11-01T08:00:00Z",
        }],
    }});
    let before = entry(&json!({}));
    for change in [
        status,
        json!({"metadata": {"resourceVersion": "9", "labels": {"app.kubernetes.io/managed-by": "Helm"}}}),
        annotated("kubectl.kubernetes.io/last-applied-configuration", "{}"),
        annotated("argocd.argoproj.io/tracking-id", "x"),
        annotated("keyturn.dev/approve", "x"),
    ] {
        let after = entry(&change);
        assert_eq!(after.revision, before.revision, "{change}");
        assert_eq!(after.spec.made_from, before.spec.made_from, "{change}");
    }
}

#[test]
fn the_data_are_made_from_everything_but_how_often() {
    let before = entry(&json!({})).spec.made_from;
    for change in [
        json!({"spec": {"refreshInterval": "2h"}}),
        json!({"spec": {"refreshInterval": null}}),
        json!({"spec": {"refreshPolicy": "OnChange"}}),
        json!({"spec": {"restart": {"mode": "Automatic", "trigger": {"keys": ["password"]}}}}),
        json!({"spec": {"rotation": {"strategy": "SingleUser"}}}),
        json!({"metadata": {"generation": 9, "uid": "u2"}}),
        annotated("keyturn.dev/refresh", "2"),
    ] {
        assert_eq!(entry(&change).spec.made_from, before, "{change}");
    }
    let remote = |remote: Value| json!({"spec": {"data": [{"secretKey": "password", "remoteRef": remote}]}});
    let changes = [
        json!({}),
        remote(json!({"key": "prod/other", "property": "password"})),
        remote(json!({"key": "prod/db", "property": "user"})),
        remote(json!({"key": "prod/db", "property": "password", "version": "AWSPREVIOUS"})),
        json!({"spec": {"dataFrom": [{"extract": {"key": "prod/db"}}]}}),
        json!({"spec": {"secretStoreRef": {"name": "other"}}}),
        json!({"spec": {"secretStoreRef": {"kind": "ClusterSecretStore"}}}),
        json!({"spec": {"target": {"name": "other"}}}),
        json!({"spec": {"target": {"creationPolicy": "Orphan"}}}),
        json!({"spec": {"target": {"deletionPolicy": "Merge"}}}),
        json!({"metadata": {"labels": {"team": "b"}}}),
        // The same pair, once as a label and once as an annotation.
        json!({"metadata": {"labels": {"x": "y"}}}),
        annotated("x", "y"),
    ];
    let digests: BTreeSet<_> = changes
        .iter()
        .map(|change| entry(change).spec.made_from)
        .collect();
    assert_eq!(digests.len(), changes.len());
}

#[test]
fn how_often_follows_policy_and_interval() {
    let every = |secs| Refresh::Every(Duration::from_secs(secs));
    for (policy, interval, refresh, raised) in [
        (None, None, every(3600), false),
        (None, Some("10m"), every(600), false),
        (None, Some("30s"), every(30), false),
        (None, Some("1s"), every(30), true),
        (None, Some("0"), Refresh::Once, false),
        (Some("Periodic"), Some("0s"), Refresh::Once, false),
        (Some("OnChange"), Some("1h"), Refresh::OnChange, false),
        (Some("OnChange"), Some("0"), Refresh::OnChange, false),
        (Some("CreatedOnce"), Some("1h"), Refresh::Once, false),
        // It is said to be wrong, and nothing is read by it.
        (None, Some("soon"), Refresh::Once, false),
    ] {
        let entry = entry(&json!({"spec": {"refreshPolicy": policy, "refreshInterval": interval}}));
        assert_eq!(entry.spec.refresh, refresh, "{policy:?} {interval:?}");
        assert_eq!(entry.spec.raised, raised, "{policy:?} {interval:?}");
        assert_eq!(
            entry.spec.invalid.is_some(),
            interval == Some("soon"),
            "{interval:?}"
        );
    }
}

#[test]
fn a_suspension_is_a_time_or_said_to_be_none() {
    let until = |text: &str| Suspension::Until(text.parse().unwrap());
    for (annotation, suspension) in [
        (None, Suspension::None),
        (Some("2026-11-01T08:00:00Z"), until("2026-11-01T08:00:00Z")),
        (Some("2026-11-01T08:00:00+01:00"), until("2026-11-01T07:00:00Z")),
        (Some(""), Suspension::Unreadable),
        (Some("tomorrow"), Suspension::Unreadable),
        (Some("2026-11-01"), Suspension::Unreadable),
        (Some("2026-11-01T08:00:00"), Suspension::Unreadable),
        (Some("true"), Suspension::Unreadable),
    ] {
        assert_eq!(Suspension::parse(annotation), suspension, "{annotation:?}");
    }
}

#[test]
fn the_target_is_the_objects_own_name_unless_named() {
    let key = ObjectKey::new("shop", "db");
    for (target, kept, name) in [
        (json!({}), None, "db"),
        (json!({"spec": {"target": {"name": "db"}}}), None, "db"),
        (
            json!({"spec": {"target": {"name": "other"}}}),
            Some("other"),
            "other",
        ),
    ] {
        let entry = entry(&target);
        assert_eq!(entry.spec.target.as_deref(), kept);
        assert_eq!(entry.target(&key), name);
    }
}

#[test]
fn a_recorded_target_of_another_name_is_a_former_one() {
    let recorded = |name: &str| {
        entry(&json!({"status": {"target": {"name": name, "rollout": "r"}}}))
            .status
            .recorded
    };
    let rollout = Some("r".into());
    assert_eq!(entry(&json!({})).status.recorded, None);
    assert_eq!(
        recorded("db"),
        Some(RecordedTarget {
            former: None,
            rollout: rollout.clone()
        })
    );
    assert_eq!(
        recorded("old"),
        Some(RecordedTarget {
            former: Some("old".into()),
            rollout
        })
    );
}

#[test]
fn needs_come_in_the_order_of_the_entries() {
    let entry = entry(&json!({"spec": {
        "data": [
            {"secretKey": "a", "remoteRef": {"key": "one", "version": "AWSPREVIOUS"}},
            {"secretKey": "b", "remoteRef": {"key": "two", "version": "uuid/v7"}},
        ],
        "dataFrom": [{"extract": {"key": "three"}}],
    }}));
    let needs: Vec<_> = entry
        .spec
        .needs
        .iter()
        .map(|need| format!("{} {}", need.key, need.selector))
        .collect();
    assert_eq!(needs, ["three AWSCURRENT", "one AWSPREVIOUS", "two uuid/v7"]);
    assert_eq!(entry.spec.store.unwrap().kind, StoreKind::SecretStore);
}

#[test]
fn what_the_status_says_of_ready_and_stale_is_kept() {
    let condition = |type_: &str, status: &str, reason: &str| {
        json!({
            "type": type_, "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-11-01T08:00:00Z",
        })
    };
    for (conditions, ready, stale) in [
        (json!([]), None, false),
        (json!([condition("Ready", "True", "Synced")]), Some(true), false),
        (
            json!([
                condition("Ready", "False", "AccessDenied"),
                condition("Current", "False", "Stale")
            ]),
            Some(false),
            true,
        ),
        (json!([condition("Current", "False", "Suspended")]), None, false),
    ] {
        let entry = entry(&json!({"status": {"conditions": conditions}}));
        assert_eq!(
            (entry.status.ready, entry.status.stale),
            (ready, stale),
            "{conditions}"
        );
    }
}

#[test]
fn nothing_is_kept_of_restarts_where_they_are_disabled() {
    for restart in [json!(null), json!({}), json!({"mode": "Disabled"})] {
        assert_eq!(entry(&json!({"spec": {"restart": restart}})).restart, None);
    }
    let object = object(&json!({}));
    let key = ObjectKey::new("shop", "db");
    let enabled = Entry::of(&key, &object, MINIMUM, RestartMode::Manual);
    assert_eq!(enabled.restart.unwrap().policy.mode, RestartMode::Manual);
}

#[test]
fn restarts_know_what_people_and_the_status_say() {
    let restarts = entry(&json!({
        "metadata": {"annotations": {
            "keyturn.dev/approve": "r1",
            "keyturn.dev/resume": "r2",
            "keyturn.dev/suspend-restarts-until": "2026-11-01T08:00:00Z",
        }},
        "spec": {"restart": {"mode": "Automatic", "trigger": {"keys": ["password"]}}},
        "status": {
            "rotation": {
                "state": "InProgress", "strategy": "AlternatingUsers", "deadline": "2026-11-03T08:00:00Z",
            },
            "restart": {"rollout": "r1", "exceptions": [
                {"kind": "Deployment", "name": "api", "reason": "Reverted"},
                {"kind": "Deployment", "name": "web", "reason": "Paused"},
            ]},
        },
    }))
    .restart
    .unwrap();
    assert_eq!(restarts.approved.as_deref(), Some("r1"));
    assert_eq!(restarts.resumed.as_deref(), Some("r2"));
    assert_eq!(
        restarts.suspended,
        Suspension::Until("2026-11-01T08:00:00Z".parse().unwrap())
    );
    assert_eq!(restarts.strategy, RotationStrategy::AlternatingUsers);
    assert_eq!(restarts.deadline, Some("2026-11-03T08:00:00Z".parse().unwrap()));
    assert!(restarts.rotating && restarts.said != 0);
    assert_eq!(
        restarts.reverted,
        Some(("r1".into(), vec![("Deployment".into(), "api".into())]))
    );
    assert_eq!(*restarts.trigger, [Box::<str>::from("password")]);
}

#[test]
fn what_the_spec_says_of_the_strategy_goes_before_what_was_found_out() {
    for (spec, status, strategy) in [
        (None, None, RotationStrategy::Opaque),
        (Some("Auto"), None, RotationStrategy::Opaque),
        (Some("Auto"), Some("SingleUser"), RotationStrategy::SingleUser),
        (Some("Overlap"), Some("SingleUser"), RotationStrategy::Overlap),
        (None, Some("Auto"), RotationStrategy::Opaque),
        (None, Some("new"), RotationStrategy::Opaque),
    ] {
        let entry = entry(&json!({
            "spec": {"restart": {"mode": "Automatic"}, "rotation": {"strategy": spec}},
            "status": {"rotation": {"strategy": status}},
        }));
        assert_eq!(entry.restart.unwrap().strategy, strategy, "{spec:?} {status:?}");
    }
}

/// The digest is in `keyturn.dev/inputs` of every Secret: one made another way reads every value again.
#[test]
fn the_data_are_made_from_what_earlier_versions_said() {
    let everything = json!({
        "metadata": {"labels": {"app": "x", "helm.sh/chart": "c"}, "annotations": {"note": "\"n\" \u{e4}\n"}},
        "spec": {
            "secretStoreRef": {"name": "aws", "kind": "ClusterSecretStore"},
            "refreshPolicy": "OnChange",
            "target": {
                "name": "credentials", "creationPolicy": "Orphan", "deletionPolicy": "Delete", "adoptExisting": true,
                "immutable": false,
            },
            "data": [
                {"secretKey": "a", "remoteRef": {"key": "prod/db", "property": "", "version": "AWSPREVIOUS"}},
                {"secretKey": "b", "remoteRef": {"key": "prod/\u{fc}\"\\", "property": "a.b"}},
            ],
            "dataFrom": [{"extract": {"key": "prod/all"}}, {"extract": {"key": "prod/all", "version": "uuid/1"}}],
            "restart": {"mode": "Automatic"},
        },
    });
    let policies = |creation: &str, deletion: &str| json!({"spec": {"target": {"creationPolicy": creation, "deletionPolicy": deletion}}});
    for (change, earlier) in [
        (json!({}), "046b457d879712f9bd1ce6d58dc31d15"),
        (everything, "5a41c097adfd9e7aaa9ac69758d1303c"),
        (
            json!({"spec": {"secretStoreRef": null, "target": {}, "data": [], "dataFrom": []}}),
            "b6b681fb04f7a6ae8ba504be764c9521",
        ),
        (
            json!({"spec": {"data": null, "dataFrom": [{"extract": {"key": "prod/all"}}]}}),
            "f0ee41dbdbf0b83b982be3e2dcec61bc",
        ),
        (
            json!({"metadata": {"labels": null, "annotations": null}}),
            "016ec1fc8dfc2e7a2aaa0e134a4c6fac",
        ),
        (policies("Owner", "Retain"), "0a1658ae30f94ff47718008f9a21365d"),
        (policies("None", "Merge"), "4bce9bb6991f3450c8949fa3489cf29d"),
    ] {
        let made_from = u128::from_be_bytes(entry(&change).spec.made_from);
        assert_eq!(format!("{made_from:032x}"), earlier, "{change}");
    }
    assert_eq!(
        format!("{:016x}", entry(&json!({})).annotations.refresh.0),
        "031dc88d0ec0c52d"
    );
}

/// All text that is kept shows in it.
fn kept(entry: &Entry) -> usize {
    format!("{entry:?}").len()
}

fn with_restarts(change: &Value) -> Entry {
    Entry::of(
        &ObjectKey::new("shop", "db"),
        &object(change),
        MINIMUM,
        RestartMode::Automatic,
    )
}

#[test]
fn annotations_of_any_length_keep_a_few_bytes_and_stay_what_they_are() {
    let flood = "x".repeat(256 << 10);
    let names = [
        "keyturn.dev/approve",
        "keyturn.dev/resume",
        "keyturn.dev/refresh",
        "keyturn.dev/suspend-sync-until",
        "keyturn.dev/suspend-restarts-until",
        "keyturn.dev/unknown",
        "note",
    ];
    let flooded = names.map(|name| (name.to_owned(), Value::from(flood.clone())));
    let annotations = Value::Object(flooded.into_iter().collect());
    let usual = kept(&with_restarts(&json!({})));
    let hostile = with_restarts(&json!({"metadata": {"annotations": annotations}}));
    assert!(kept(&hostile) < usual + 512, "{}", kept(&hostile));
    assert_eq!(hostile.annotations.suspended, Suspension::Unreadable);
    let restarts = hostile.restart.as_deref().unwrap();
    assert_eq!(restarts.suspended, Suspension::Unreadable);
    // Cut, an approval still is one of something else: it is neither lost nor taken for another.
    let approved = restarts.approved.as_deref().unwrap();
    assert!(
        approved.len() <= caps::TOKEN + 3
            && approved.starts_with('x')
            && !crate::api::token::is_text(approved)
    );
}

#[test]
fn a_status_of_any_length_keeps_a_few_kilobytes() {
    let flood = "x".repeat(64 << 10);
    let reverted = json!({"kind": flood, "name": flood, "reason": "Reverted", "message": flood});
    let usual = kept(&with_restarts(&json!({})));
    let hostile = with_restarts(&json!({"status": {
        "target": {"name": flood, "rollout": flood, "content": flood},
        "restart": {"rollout": flood, "exceptions": vec![reverted; 200]},
        "rotation": {"state": flood, "strategy": flood, "pendingVersionId": flood},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": flood, "message": flood,
            "lastTransitionTime": "2026-11-01T08:00:00Z",
        }],
    }}));
    assert!(kept(&hostile) < usual + 24 * 1024, "{}", kept(&hostile));
}

#[test]
fn a_spec_that_is_too_large_is_refused_and_not_kept() {
    let key = |n: usize| format!("{n}-{}", "k".repeat(2000));
    let entry = |n: usize, key: &str| json!({"secretKey": format!("k{n}"), "remoteRef": {"key": key}});
    let many: Vec<_> = (0..500).map(|n| entry(n, &key(n))).collect();
    let hostile = entry_of_data(&many);
    assert!(
        hostile
            .spec
            .invalid
            .as_deref()
            .is_some_and(|invalid| invalid.contains("split it"))
    );
    assert!(
        hostile.spec.needs.is_empty() && kept(&hostile) < 4096,
        "{}",
        kept(&hostile)
    );

    // One key, however long, is held once.
    let same: Vec<_> = (0..500).map(|n| entry(n, &key(0))).collect();
    let shared = entry_of_data(&same);
    assert_eq!(
        (shared.spec.invalid.as_deref(), shared.spec.needs.len()),
        (None, 500)
    );
    assert!(
        shared
            .spec
            .needs
            .iter()
            .all(|need| Arc::ptr_eq(&need.key, &shared.spec.needs[0].key))
    );
    // As many entries as there may be, of secrets of another account.
    let arn = |n: usize| {
        format!(
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret:{n:03}-{}",
            "k".repeat(90)
        )
    };
    let arns: Vec<_> = (0..500).map(|n| entry(n, &arn(n))).collect();
    assert_eq!(entry_of_data(&arns).spec.invalid, None);
}

fn entry_of_data(data: &[Value]) -> Entry {
    entry(&json!({"spec": {"data": data}}))
}

#[test]
fn ten_thousand_targets_are_refused_and_restart_nothing() {
    let target = |n: usize| json!({"kind": "Deployment", "name": format!("{n}-{}", "t".repeat(240))});
    let of = |count: usize| {
        let targets: Vec<_> = (0..count).map(target).collect();
        with_restarts(&json!({"spec": {"restart": {"mode": "Automatic", "targets": targets}}}))
    };
    let hostile = of(10_000);
    let fault = hostile.fault.clone().unwrap();
    assert!(fault.message.starts_with("spec.restart"), "{}", fault.message);
    assert_eq!((&hostile.spec.invalid, &hostile.restart), (&None, &None));
    assert!(kept(&hostile) < 4096, "{}", kept(&hostile));
    let most = of(100);
    assert_eq!((&most.spec.invalid, &most.fault), (&None, &None));
    assert_eq!(most.restart.unwrap().policy.targets.len(), 100);
}

#[test]
fn an_error_in_restart_or_rotation_stops_restarts_and_no_sync() {
    let wrong_window = json!([{"cron": "0 25 * * *", "duration": "2h"}]);
    let none: Option<&[&str]> = None;
    for (restart, rotation, path, trigger) in [
        (
            json!({"mode": "Automatic", "windows": wrong_window}),
            json!(null),
            "spec.restart.windows[0].cron",
            Some(&[][..]),
        ),
        (
            json!({"mode": "Manual", "trigger": {"keys": ["password"]}, "pacing": {"maxConcurrent": 2000}}),
            json!(null),
            "spec.restart.pacing.maxConcurrent",
            Some(&["password"][..]),
        ),
        // Which key was meant is not known: each may count.
        (
            json!({"mode": "Automatic", "trigger": {"keys": ["pasword"]}}),
            json!(null),
            "spec.restart.trigger.keys[0]",
            Some(&[]),
        ),
        (
            json!({"mode": "Automtic"}),
            json!(null),
            "spec.restart.mode",
            none,
        ),
        (
            json!({"mode": "Automatic", "pacing": 1}),
            json!(null),
            "spec.restart.pacing",
            Some(&[]),
        ),
        (
            json!({"mode": "Automatic"}),
            json!({"pendingTimeout": "1s"}),
            "spec.rotation.pendingTimeout",
            Some(&[]),
        ),
        (
            json!({"mode": "Automatic"}),
            json!({"strategy": "Twice"}),
            "spec.rotation.strategy",
            Some(&[]),
        ),
        (
            json!({"mode": "Disabled", "windows": wrong_window}),
            json!(null),
            "spec.restart.windows[0].cron",
            none,
        ),
    ] {
        let spec = json!({"spec": {"restart": restart, "rotation": rotation}});
        let entry = entry(&spec);
        assert_eq!((&entry.spec.invalid, &entry.restart), (&None, &None), "{spec}");
        let fault = entry.fault.clone().unwrap();
        assert!(
            fault.message.starts_with(&format!("{path} ")),
            "{}",
            fault.message
        );
        let found: Option<Vec<&str>> = entry
            .trigger()
            .map(|keys| keys.iter().map(|key| &**key).collect());
        assert_eq!(found.as_deref(), trigger, "{spec}");
    }
    // Where nothing is restarted, an error in `rotation` is told by its own condition.
    let rotation = entry(&json!({"spec": {"rotation": {"pendingTimeout": "1s"}}}));
    assert_eq!((rotation.fault, rotation.spec.invalid), (None, None));
    assert!(rotation.rotation.unwrap().invalid.is_some());
}

#[test]
fn the_progress_of_restarts_counts_for_nothing_where_the_spec_is_wrong() {
    let status = |reason: &str, done: Option<i32>| -> ExternalSecretStatus {
        let restart = done.map(|done| json!({"done": done}));
        serde_json::from_value(json!({"restart": restart, "conditions": [{
            "type": "RestartsComplete", "status": "False", "reason": reason, "message": "m",
            "lastTransitionTime": "2026-11-01T08:00:00Z",
        }]}))
        .unwrap()
    };
    let of = |reason, done| digest_of_restarts(&status(reason, done));
    assert_eq!(of("InvalidSpec", None), of("InvalidSpec", Some(1)));
    assert_ne!(of("InvalidSpec", Some(1)), of("Pending", Some(1)));
    assert_ne!(of("Pending", Some(2)), of("Pending", Some(1)));
}
