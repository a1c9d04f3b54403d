//! What is shown, letter by letter.

use insta::assert_snapshot;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::{
    report::{ClusterState, Lookup, Object, OperatorState, Report, Verdict, report},
    stores::Store,
    table::table,
};
use crate::{
    api::{ObjectKey, StoreKind},
    cluster::Control,
};

fn at(time: &str) -> Timestamp {
    format!("2026-11-23T{time}Z").parse().unwrap()
}

fn lease(holder: &str, renewed: &str) -> Lookup<Lease> {
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 30,
        "renewTime": format!("2026-11-23T{renewed}.000000Z")});
    Lookup::Found(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
}

fn control(pairs: &[(&str, &str)]) -> Lookup<Control> {
    let data = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Lookup::Found(Control::read(&data.collect()))
}

/// The report at 20:00:00 on `objects`, with a replica that works and nothing held up.
fn facts(objects: Vec<Value>) -> ClusterState {
    ClusterState {
        now: at("20:00:00"),
        lease_key: ObjectKey::new("keyturn", "keyturn"),
        lease: lease("keyturn-7d9f_00c0ffee", "19:59:57"),
        control: Lookup::Absent,
        objects: objects
            .into_iter()
            .map(|object| serde_json::from_value::<Object>(object).unwrap())
            .collect(),
        unreadable: 0,
        stores: Vec::new(),
        unlisted: Vec::new(),
    }
}

fn shown(facts: ClusterState) -> String {
    table(&report(facts))
}

fn condition(type_: &str, status: &str, reason: &str, since: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": format!("2026-11-23T{since}Z")})
}

#[expect(clippy::needless_pass_by_value, reason = "a table reads better with values")]
fn object(name: &str, status: Value) -> Value {
    let mut object =
        json!({"metadata": {"namespace": "shop", "name": name, "generation": 1}, "status": status});
    object["status"]["observedGeneration"] = 1.into();
    object
}

fn ready() -> Value {
    condition("Ready", "True", "Synced", "10:00:00", "the Secret is as AWS says")
}

fn well(name: &str) -> Value {
    let conditions = [
        ready(),
        condition("Current", "True", "Checked", "10:00:00", "AWS was asked in time"),
        condition(
            "RotationHealthy",
            "True",
            "Idle",
            "10:00:00",
            "no rotation is under way",
        ),
        condition("RestartsComplete", "True", "Complete", "10:00:00", "all hold it"),
    ];
    let restart = json!({"rollout": "v1.k.aaaa", "progress": "3/3", "done": 3});
    object(name, json!({"conditions": conditions, "restart": restart}))
}

#[test]
fn what_is_well_is_one_line_of_counts() {
    assert_snapshot!(shown(facts(vec![well("db"), well("cart")])), @"
    operator: keyturn-7d9f_00c0ffee works; it renewed the Lease keyturn/keyturn 3 seconds ago
    2 ExternalSecrets: 2 synced, 0 not ready, 0 stale, 0 suspended, 0 rotating, 0 restarting
    0 stores: 0 ready, 0 not ready
    ");
}

#[test]
fn a_silent_operator_is_said_before_anything_else() {
    for (lease, state, line) in [
        (
            lease("keyturn-0_1", "19:48:00"),
            OperatorState::Silent,
            "WARNING: the operator is silent: keyturn-0_1 renewed the Lease keyturn/keyturn 12 minutes ago; what \
             follows is what it wrote before",
        ),
        (
            lease("keyturn-0_1", "19:59:29"),
            OperatorState::Silent,
            "WARNING: the operator is silent: keyturn-0_1 renewed the Lease keyturn/keyturn 31 seconds ago; what \
             follows is what it wrote before",
        ),
        (
            lease("keyturn-0_1", "19:59:30"),
            OperatorState::Running,
            "operator: keyturn-0_1 works; it renewed the Lease keyturn/keyturn 30 seconds ago",
        ),
        (
            lease("", "17:00:00"),
            OperatorState::Vacant,
            "WARNING: no operator: the last one ended and gave up the Lease keyturn/keyturn 3 hours ago",
        ),
        (
            Lookup::Absent,
            OperatorState::Missing,
            "WARNING: no operator: there is no Lease keyturn/keyturn; --operator-namespace and --lease-name tell \
             where it is",
        ),
        (
            Lookup::Forbidden,
            OperatorState::Unknown,
            "WARNING: you may not read the Lease keyturn/keyturn: whether the operator works is not known",
        ),
    ] {
        let report = report(ClusterState {
            lease,
            ..facts(vec![well("db")])
        });
        assert_eq!(report.operator.state, state);
        assert_eq!(table(&report).lines().next(), Some(line));
    }
}

#[test]
fn what_is_held_up_comes_next() {
    for (control, line) in [
        (
            control(&[
                ("suspendRestarts", "true"),
                ("until", "2026-11-23T22:00:00Z"),
                ("namespaces", "shop bank"),
            ]),
            Some("HELD UP: keyturn-control holds up restarts in shop, bank, until 2026-11-23T22:00:00Z"),
        ),
        (
            control(&[("suspendSync", "true"), ("suspendRestarts", "true")]),
            Some("HELD UP: keyturn-control holds up syncing and restarts in all namespaces, without an end"),
        ),
        (
            control(&[("suspendSync", "true"), ("until", "tomorrow")]),
            Some(
                "HELD UP: keyturn-control holds up syncing in all namespaces, without an end; what it says of until \
                 cannot be read and counts as a hold",
            ),
        ),
        (
            control(&[("suspendRestarts", "true"), ("until", "2026-11-23T20:00:00Z")]),
            None,
        ),
        (control(&[("suspendRestarts", "false")]), None),
        (
            Lookup::Forbidden,
            Some(
                "WARNING: you may not read the ConfigMap keyturn-control: whether it holds anything up is not known",
            ),
        ),
    ] {
        let text = shown(ClusterState {
            control,
            ..facts(Vec::new())
        });
        assert_eq!(
            text.lines().find(|line| line.contains("keyturn-control")),
            line,
            "{text}"
        );
    }
}

#[test]
fn what_is_not_well_says_why_and_since_when() {
    let denied = object(
        "denied",
        json!({"conditions": [condition("Ready", "False", "AccessDenied", "19:55:00",
            "failed to read prod/x: AccessDeniedException\u{1b}[2J\nallow GetSecretValue")]}),
    );
    let stale = object(
        "stale",
        json!({"conditions": [ready(), condition("Current", "False", "Stale", "18:00:00", "AWS throttles")]}),
    );
    let stuck = object(
        "stuck",
        json!({"conditions": [ready(), condition("RotationHealthy", "False", "RotationStuck", "19:30:00",
                "AWSPENDING is on version v9 for longer than 30m")],
            "rotation": {"state": "Stuck", "pendingVersionId": "v9", "pendingSince": "2026-11-23T19:00:00Z"}}),
    );
    let rotating = object(
        "rotating",
        json!({"conditions": [ready()],
            "rotation": {"state": "InProgress", "pendingVersionId": "v9", "pendingSince": "2026-11-23T19:58:30Z"}}),
    );
    let new = json!({"metadata": {"namespace": "bank", "name": "new", "generation": 1,
        "creationTimestamp": "2026-11-21T19:00:00Z"}});
    let mut edited = well("edited");
    edited["metadata"]["generation"] = 2.into();
    let report = report(ClusterState {
        unreadable: 1,
        ..facts(vec![denied, stale, stuck, rotating, new, edited])
    });
    assert_snapshot!(table(&report), @"
    operator: keyturn-7d9f_00c0ffee works; it renewed the Lease keyturn/keyturn 3 seconds ago

    NAMESPACE   NAME       WHAT            SINCE   WHY
    bank        new        NotSeen         2d      NoStatus: the operator has not looked at it: is it running, and does it watch this namespace?
    shop        denied     NotReady        5m      AccessDenied: failed to read prod/x: AccessDeniedException [2J allow GetSecretValue
    shop        edited     NotSeen         -       NotObserved: the operator has not looked at the last edit yet
    shop        rotating   Rotating        90s     InProgress: AWS rotates: v9 carries AWSPENDING and is not current yet
    shop        stale      Stale           2h      AWS throttles
    shop        stuck      RotationStuck   60m     AWSPENDING is on version v9 for longer than 30m

    7 ExternalSecrets: 4 synced, 2 not ready, 1 stale, 0 suspended, 2 rotating, 0 restarting, 1 that this version cannot read
    0 stores: 0 ready, 0 not ready
    ");
}

fn restarting() -> Value {
    object(
        "db",
        json!({"conditions": [ready(), condition("RestartsComplete", "False", "WaitingForWindow", "19:00:00",
            "6 workloads wait for the window of 2026-11-24T02:00:00Z")],
        "rotation": {"state": "Idle", "strategy": "AlternatingUsers", "deadline": "2026-12-01T00:00:00Z"},
        "restart": {"rollout": "v1.k.aaaa", "progress": "3/10", "pending": 6, "inFlight": 1, "done": 3,
            "exceptions": [
                {"kind": "Deployment", "name": "api", "reason": "Paused", "message": "spec.paused is true"},
                {"kind": "StatefulSet", "name": "queue", "reason": "Suspended",
                    "message": "its annotation says so", "until": "2026-11-23T23:00:00Z"},
            ]}}),
    )
}

#[test]
fn an_error_in_restart_or_rotation_is_shown_whatever_was_said_before() {
    let error = "spec.restart.mode is wrong";
    let never = object(
        "never",
        json!({"conditions": [ready(), condition("RestartsComplete", "False", "InvalidSpec", "19:00:00", error)]}),
    );
    let rotation = "spec.rotation.pendingTimeout is wrong";
    let before = object(
        "before",
        json!({"conditions": [ready(), condition("RotationHealthy", "False", "InvalidSpec", "19:00:00", rotation),
            condition("RestartsComplete", "False", "InvalidSpec", "19:00:00", error)],
            "restart": {"rollout": "v1.k.aaaa", "progress": "3/3", "done": 3}}),
    );
    assert_snapshot!(shown(facts(vec![never, before])), @"
    operator: keyturn-7d9f_00c0ffee works; it renewed the Lease keyturn/keyturn 3 seconds ago

    NAMESPACE   NAME     WHAT       SINCE   WHY
    shop        before   Rotating   60m     InvalidSpec: spec.rotation.pendingTimeout is wrong
    shop        before   Restarts   60m     InvalidSpec: spec.restart.mode is wrong
    shop        never    Restarts   60m     InvalidSpec: spec.restart.mode is wrong

    2 ExternalSecrets: 2 synced, 0 not ready, 0 stale, 0 suspended, 0 rotating, 0 restarting
    0 stores: 0 ready, 0 not ready
    ");
}

#[test]
fn restarts_say_who_waits_for_what() {
    let approval = object(
        "manual",
        json!({"conditions": [ready(), condition("RestartsComplete", "False", "AwaitingApproval", "19:59:00",
                "2 workloads wait for an approval")],
            "restart": {"rollout": "v1.k.bbbb", "progress": "0/2", "pending": 2}}),
    );
    let halted = object(
        "halted",
        json!({"conditions": [ready(), condition("RestartsComplete", "False", "Halted", "19:50:00",
                "Deployment api did not become healthy")],
            "restart": {"rollout": "v1.k.cccc", "progress": "1/3", "pending": 1, "failed": 1, "halted": true,
                "exceptions": [{"kind": "Deployment", "name": "api", "reason": "Failed",
                    "message": "a container waits in CrashLoopBackOff"}]}}),
    );
    assert_snapshot!(shown(facts(vec![restarting(), approval, halted])), @"
    operator: keyturn-7d9f_00c0ffee works; it renewed the Lease keyturn/keyturn 3 seconds ago

    NAMESPACE   NAME     WHAT                SINCE   WHY
    shop        db       Restarts            60m     WaitingForWindow: 3/10 done, 1 rolling out, 6 waiting; 6 workloads wait for the window of 2026-11-24T02:00:00Z; the old credential may die from 2026-12-01T00:00:00Z on
    shop        db       Deployment api      -       Paused: spec.paused is true
    shop        db       StatefulSet queue   -       Suspended: its annotation says so (until 2026-11-23T23:00:00Z)
    shop        halted   Restarts            10m     Halted: 1/3 done, 1 waiting, 1 failed; to resume: kubectl annotate kes halted -n shop --overwrite keyturn.dev/resume=v1.k.cccc
    shop        halted   Deployment api      -       Failed: a container waits in CrashLoopBackOff
    shop        manual   Restarts            60s     AwaitingApproval: 0/2 done, 2 waiting; to approve: kubectl annotate kes manual -n shop --overwrite keyturn.dev/approve=v1.k.bbbb

    3 ExternalSecrets: 3 synced, 0 not ready, 0 stale, 0 suspended, 0 rotating, 3 restarting
    0 stores: 0 ready, 0 not ready
    ");
}

#[test]
fn a_status_of_any_length_is_shown_as_far_as_it_fits() {
    let object = object(
        "db",
        json!({"conditions": [condition("Ready", "False", "AccessDenied", "19:50:00", &"x".repeat(70_000))]}),
    );
    let text = shown(facts(vec![object]));
    assert!(
        text.len() < 5000 && text.contains("AccessDenied: xxx"),
        "{}",
        text.len()
    );
}

#[test]
fn what_a_condition_says_of_a_workload_is_said_once() {
    let message = "Deployment wbe in spec.restart.targets[0] does not exist";
    let object = object(
        "db",
        json!({"conditions": [ready(), condition("RestartsComplete", "False", "TargetNotFound", "19:50:00", message)],
        "restart": {"exceptions": [
            {"kind": "Deployment", "name": "wbe", "reason": "TargetNotFound", "message": message},
            {"kind": "Deployment", "name": "api", "reason": "Paused", "message": "spec.paused is true"},
        ]}}),
    );
    let text = shown(facts(vec![object]));
    assert_eq!(text.matches(message).count(), 1, "{text}");
    assert!(text.contains("Paused"), "{text}");
}

#[test]
fn a_token_that_is_none_is_not_offered_for_a_shell() {
    let forged = object(
        "db",
        json!({"conditions": [condition("RestartsComplete", "False", "Halted", "19:50:00", "it failed")],
            "restart": {"rollout": "x; rm -rf ~", "halted": true}}),
    );
    let text = shown(facts(vec![forged]));
    assert!(!text.contains("rm -rf") && !text.contains("kubectl"), "{text}");
}

#[test]
fn json_says_the_same() {
    let Report { findings, .. } = report(facts(vec![restarting()]));
    assert_eq!(findings.len(), 3);
    let json = serde_json::to_string_pretty(&report(ClusterState {
        control: control(&[("suspendRestarts", "true")]),
        ..facts(vec![restarting()])
    }));
    assert_snapshot!(json.unwrap(), @r#"
    {
      "time": "2026-11-23T20:00:00Z",
      "verdict": "Attention",
      "operator": {
        "state": "Running",
        "renewed": "2026-11-23T19:59:57Z",
        "message": "keyturn-7d9f_00c0ffee works; it renewed the Lease keyturn/keyturn 3 seconds ago"
      },
      "control": {
        "sync": false,
        "restarts": true,
        "namespaces": [],
        "message": "keyturn-control holds up restarts in all namespaces, without an end"
      },
      "counts": {
        "externalSecrets": 1,
        "synced": 1,
        "notReady": 0,
        "stale": 0,
        "suspended": 0,
        "rotating": 0,
        "restarting": 1,
        "unreadable": 0
      },
      "stores": {
        "stores": 0,
        "ready": 0,
        "notReady": 0
      },
      "findings": [
        {
          "namespace": "shop",
          "name": "db",
          "what": "Restarts",
          "attention": false,
          "reason": "WaitingForWindow",
          "since": "2026-11-23T19:00:00Z",
          "message": "3/10 done, 1 rolling out, 6 waiting; 6 workloads wait for the window of 2026-11-24T02:00:00Z; the old credential may die from 2026-12-01T00:00:00Z on"
        },
        {
          "namespace": "shop",
          "name": "db",
          "what": "Workload",
          "attention": false,
          "workload": "Deployment api",
          "reason": "Paused",
          "message": "spec.paused is true"
        },
        {
          "namespace": "shop",
          "name": "db",
          "what": "Workload",
          "attention": false,
          "workload": "StatefulSet queue",
          "reason": "Suspended",
          "until": "2026-11-23T23:00:00Z",
          "message": "its annotation says so"
        }
      ]
    }
    "#);
}

fn store(kind: StoreKind, namespace: Option<&str>, name: &str, ready: &Value) -> Store {
    let object =
        json!({"metadata": {"namespace": namespace, "name": name}, "status": {"conditions": [ready]}});
    Store {
        kind,
        object: serde_json::from_value(object).unwrap(),
    }
}

fn of_store(name: &str, store: &Value, conditions: &[Value]) -> Value {
    let mut object = object(name, json!({"conditions": conditions}));
    object["spec"]["secretStoreRef"] = store.clone();
    object
}

#[test]
fn a_broken_store_is_told_once_with_those_that_need_it() {
    let broken = condition(
        "Ready",
        "False",
        "IdentityError",
        "19:00:00",
        "AWS rejects the role. Correct its trust policy.",
    );
    let valid = condition("Ready", "True", "Valid", "10:00:00", "AWS knows it");
    let aws = json!({"name": "aws", "kind": "ClusterSecretStore"});
    let waits = |name: &str| {
        let message = format!("{name}: ClusterSecretStore aws is not ready");
        let ready = condition("Ready", "False", "StoreNotReady", "19:00:00", &message);
        of_store(name, &aws, &[ready])
    };
    let stale = condition("Current", "False", "Stale", "19:30:00", "AWS gives no answers");
    let absent = condition(
        "Ready",
        "False",
        "StoreNotFound",
        "19:10:00",
        "SecretStore gone does not exist.",
    );
    let gone = json!({"name": "gone"});
    let report = report(ClusterState {
        stores: vec![
            store(StoreKind::ClusterSecretStore, None, "aws", &broken),
            store(StoreKind::SecretStore, Some("shop"), "aws", &valid),
        ],
        ..facts(vec![
            waits("a"),
            waits("b"),
            waits("c"),
            waits("d"),
            of_store("e", &aws, &[ready(), stale]),
            of_store("f", &gone, std::slice::from_ref(&absent)),
            of_store("g", &gone, &[absent]),
        ])
    });
    assert_eq!(report.verdict, Verdict::Attention);
    assert_snapshot!(table(&report), @"
    operator: keyturn-7d9f_00c0ffee works; it renewed the Lease keyturn/keyturn 3 seconds ago

    NAMESPACE   NAME   WHAT                 SINCE   WHY
    -           aws    ClusterSecretStore   60m     IdentityError: AWS rejects the role. Correct its trust policy; affects shop/a, shop/b, shop/c and 2 more
    shop        gone   SecretStore          50m     StoreNotFound: SecretStore gone does not exist; affects shop/f, shop/g

    7 ExternalSecrets: 1 synced, 6 not ready, 1 stale, 0 suspended, 0 rotating, 0 restarting
    2 stores: 1 ready, 1 not ready
    ");
}

#[test]
fn a_suspended_object_is_suspended_and_not_stale() {
    let suspended = |name: &str| {
        let message = "suspended until 2026-11-24T00:00:00Z by the annotation on Namespace shop";
        let current = condition("Current", "False", "Suspended", "19:00:00", message);
        object(name, json!({"conditions": [ready(), current]}))
    };
    let report = report(facts(vec![suspended("a"), suspended("b")]));
    assert_eq!(report.verdict, Verdict::Well);
    assert_eq!((report.counts.stale, report.counts.suspended), (0, 2));
    assert_snapshot!(table(&report).lines().nth(3).unwrap(), @"shop        a      Suspended   60m     suspended until 2026-11-24T00:00:00Z by the annotation on Namespace shop; also shop/b");
}

#[test]
fn what_is_not_ready_is_not_called_stale_as_well() {
    let denied = condition("Ready", "False", "AccessDenied", "18:00:00", "IAM denies it");
    let stale = condition("Current", "False", "Stale", "19:00:00", "IAM denies it");
    let report = report(facts(vec![object("db", json!({"conditions": [denied, stale]}))]));
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn the_verdict_tells_a_person_from_time_and_from_the_unknown() {
    let of = |status, reason: &str| {
        let complete = condition("RestartsComplete", status, reason, "19:00:00", "it waits");
        let restart = json!({"rollout": "v1.k.bbbb", "progress": "0/2", "pending": 2});
        facts(vec![object(
            "db",
            json!({"conditions": [ready(), complete], "restart": restart}),
        )])
    };
    let well = || facts(vec![well("db")]);
    let cases = [
        (well(), Verdict::Well),
        (facts(Vec::new()), Verdict::Well),
        (of("False", "InProgress"), Verdict::Well),
        (of("False", "WaitingForWindow"), Verdict::Well),
        (of("False", "AwaitingApproval"), Verdict::Attention),
        (of("False", "Halted"), Verdict::Attention),
        (of("False", "SomethingOfAnotherVersion"), Verdict::Attention),
        (
            ClusterState {
                lease: lease("keyturn-0_1", "19:48:00"),
                ..well()
            },
            Verdict::Attention,
        ),
        (
            ClusterState {
                control: control(&[("suspendSync", "true")]),
                ..well()
            },
            Verdict::Attention,
        ),
        (
            ClusterState {
                lease: Lookup::Forbidden,
                ..well()
            },
            Verdict::Unknown,
        ),
        (
            ClusterState {
                control: Lookup::Forbidden,
                ..well()
            },
            Verdict::Unknown,
        ),
        (
            ClusterState {
                unreadable: 1,
                ..well()
            },
            Verdict::Unknown,
        ),
        (
            ClusterState {
                lease: Lookup::Forbidden,
                ..of("False", "Halted")
            },
            Verdict::Attention,
        ),
    ];
    for (index, (facts, verdict)) in cases.into_iter().enumerate() {
        assert_eq!(report(facts).verdict, verdict, "case {index}");
    }
}
