use crate::{
    api::WorkloadKind,
    restart::{
        observed::{
            model::{Expression, Pod},
            pods::pods_of,
        },
        tests::{at, content, key, pod, workload},
    },
};

#[test]
fn a_change_counts_only_since_restarts_are_wanted() {
    let table: [(Option<i64>, Option<i64>, bool); 5] = [
        (None, None, false),
        (Some(0), None, true),
        (Some(0), Some(0), true),
        (Some(0), Some(1), false),
        (None, Some(0), false),
    ];
    for (changed, since, expected) in table {
        let mut content = content("db", "t");
        (content.changed_at, content.since) = (changed.map(at), since.map(at));
        assert_eq!(content.asks_for_restarts(), expected, "{changed:?} {since:?}");
    }
}

#[test]
fn pods_belong_by_controller_and_labels() {
    let controlled = |kind: &str, name: &str| Pod {
        controller: Some((kind.into(), name.into())),
        ..pod("api", 0)
    };
    let bare = Pod {
        controller: None,
        ..pod("api", 0)
    };
    let table = [
        // The set of these pods was deleted and created again: it adopts them in a moment.
        (WorkloadKind::StatefulSet, bare.clone(), true),
        (WorkloadKind::DaemonSet, bare.clone(), true),
        (
            WorkloadKind::StatefulSet,
            Pod {
                name: "other-0".into(),
                ..bare.clone()
            },
            false,
        ),
        (WorkloadKind::Deployment, controlled("ReplicaSet", "api-1"), true),
        (WorkloadKind::Deployment, controlled("Job", "api"), false),
        (WorkloadKind::Deployment, bare, false),
        (WorkloadKind::StatefulSet, controlled("StatefulSet", "api"), true),
        (
            WorkloadKind::StatefulSet,
            controlled("StatefulSet", "other"),
            false,
        ),
        (WorkloadKind::DaemonSet, controlled("DaemonSet", "api"), true),
        (WorkloadKind::Deployment, pod("other", 0), false),
    ];
    for (kind, pod, expected) in table {
        let found = pods_of(&key(kind, "api"), &workload("api"), [&pod]);
        assert_eq!(!found.is_empty(), expected, "{kind} {:?}", pod.controller);
    }
}

#[test]
fn expressions_choose_as_kubernetes_does() {
    let table: [(&str, &str, &[&str], bool); 9] = [
        ("app", "In", &["x", "api"], true),
        ("app", "In", &["x"], false),
        ("app", "NotIn", &["x"], true),
        ("app", "NotIn", &["api"], false),
        ("none", "NotIn", &["x"], true),
        ("app", "Exists", &[], true),
        ("none", "Exists", &[], false),
        ("none", "DoesNotExist", &[], true),
        ("app", "Gt", &["0"], false),
    ];
    for (label, operator, values, expected) in table {
        let mut workload = workload("api");
        workload.selector.labels.clear();
        workload.selector.expressions.push(Expression {
            key: label.into(),
            operator: operator.into(),
            values: values.iter().map(|value| (*value).into()).collect(),
        });
        let pod = pod("api", 0);
        let found = pods_of(&key(WorkloadKind::Deployment, "api"), &workload, [&pod]);
        assert_eq!(!found.is_empty(), expected, "{label} {operator} {values:?}");
    }
    let mut unread = workload("api");
    unread.selector.labels.clear();
    assert!(pods_of(&key(WorkloadKind::Deployment, "api"), &unread, [&pod("api", 0)]).is_empty());
}

#[test]
fn pods_of_a_rollout_and_of_the_deployment_whose_template_it_borrows_are_told_apart() {
    let of = |kind, pod: &Pod| pods_of(&key(kind, "api"), &workload("api"), [pod]).len();
    let own = pod("api", 0);
    let mut argos = own.clone();
    argos
        .labels
        .insert("rollouts-pod-template-hash".into(), "6d4f".into());
    assert_eq!(
        (
            of(WorkloadKind::Deployment, &own),
            of(WorkloadKind::Rollout, &own)
        ),
        (1, 0)
    );
    assert_eq!(
        (
            of(WorkloadKind::Deployment, &argos),
            of(WorkloadKind::Rollout, &argos)
        ),
        (0, 1)
    );
}
