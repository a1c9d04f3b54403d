//! Who holds a slot, what an eviction amounts to, and which ExternalSecrets are looked at at all.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    api::{ObjectKey, RestartStrategy, RestartTarget, WorkloadKind, WorkloadState},
    objects::{Restarts, Suspension},
    restart::{
        judge::{
            assess::assess,
            memory::Memory,
            model::{
                Cause, HeldSlot, Judgement, ObservedWorkload, PodList, Restart, Setting, Stamp, Standing,
            },
            rollout::Failure,
            state::Hold,
        },
        observed::{
            managed_secrets::{ManagedSecret, ManagedSecrets},
            model::{AnnotationValue, Annotations, Pod, PodSelector, Record, RestartFlag, Texts, Workload},
            pods::{OF_ROLLOUT, PROVES_NOTHING, Pods},
        },
        tests::{at, content, key, object, pod, restarts, with, workload},
    },
};

const DEPLOYMENT: WorkloadKind = WorkloadKind::Deployment;

fn look(
    now: Timestamp,
    facts: &ManagedSecrets,
    workload: &Workload,
    pods: &[Pod],
    memory: &mut Memory,
) -> Option<Judgement> {
    let setting = Setting {
        now,
        control: None,
        evict_allowed: true,
    };
    let pods: Vec<&Pod> = pods.iter().collect();
    let observed = ObservedWorkload {
        key: &key(DEPLOYMENT, "api"),
        workload,
        namespace: &Annotations::default(),
        pods: Some(PodList { pods: &pods, at: now }),
    };
    assess(&setting, facts, &observed, memory)
}

/// `api` was patched at `patched` and has not begun to roll out.
fn patched(patched: i64) -> Workload {
    let mut workload = workload("api");
    workload.stamps.tokens.insert("hash-db".into(), "t".into());
    workload.stamps.records.insert(
        "hash-db".into(),
        Record {
            token: "t".into(),
            attempt: 1,
            was_healthy: true,
        },
    );
    workload.generation = 2;
    workload.stamps.patched_at = Some(at(patched));
    workload
}

fn with_timeout(timeout: Duration) -> ManagedSecrets {
    ManagedSecrets::new(vec![with(&object("db", "t"), |restarts| {
        restarts.policy.timeout = timeout;
    })])
}

#[test]
fn a_rollout_holds_a_slot_of_the_cluster_for_half_an_hour_at_most_and_of_its_namespace_until_it_ends() {
    let facts = with_timeout(Duration::from_hours(24));
    let holds = |workload: &Workload, now: i64| {
        let target = look(
            at(now),
            &facts,
            workload,
            &[pod("api", -1000)],
            &mut Memory::default(),
        )
        .unwrap();
        assert!(target.rolling, "{now}");
        target.slot
    };
    assert_eq!(holds(&patched(20), 20), HeldSlot::Cluster);
    assert_eq!(holds(&patched(20), 20 + 1799), HeldSlot::Cluster);
    assert_eq!(holds(&patched(20), 20 + 1800), HeldSlot::Namespace);
    assert_eq!(holds(&patched(20), 20 + 80_000), HeldSlot::Namespace);
    // A clock of another API server is a little ahead; a time of nobody's clock is written by hand.
    assert_eq!(holds(&patched(80), 20), HeldSlot::Cluster);
    assert_eq!(holds(&patched(81), 20), HeldSlot::None);
    // Somebody holds it up: no other workload waits for that.
    let mut paused = patched(20);
    paused.controller.paused = true;
    assert_eq!(holds(&paused, 20), HeldSlot::None);
}

#[test]
fn what_is_left_on_a_node_that_does_not_answer_is_named_and_waited_for_by_nobody() {
    let facts = with_timeout(Duration::from_mins(10));
    let mut workload = patched(20);
    workload.controller.observed_generation = 2;
    let progress = &mut workload.controller.progress;
    (progress.desired, progress.updated, progress.available) = (2, 1, 1);
    let mut new = pod("api", 25);
    new.tokens.insert("hash-db".into(), "t".into());
    let mut lost = pod("api", -500);
    (lost.ready, lost.unreachable_since) = (false, Some(at(30)));
    let looks = |now: i64, pods: &[Pod]| {
        let found = look(at(now), &facts, &workload, pods, &mut Memory::default()).unwrap();
        (found.claims[0].standing.clone(), found.obstacle)
    };
    // Within the first minute it may only be slow.
    assert_eq!(looks(60, &[new.clone(), lost.clone()]), (Standing::Rolling, None));
    let (standing, left_out) = looks(90, &[new.clone(), lost.clone()]);
    assert_eq!(standing, Standing::Done);
    let left_out = left_out.unwrap();
    assert!(
        left_out.contains("but for pod api--500: the node does not answer"),
        "{left_out}"
    );
    // What holds the new content already is missed by nobody.
    lost.tokens.insert("hash-db".into(), "t".into());
    assert_eq!(looks(90, &[new, lost]), (Standing::Done, None));
}

#[test]
fn only_pods_of_the_new_revision_show_whether_a_rollout_fails() {
    let facts = with_timeout(Duration::from_mins(10));
    let mut workload = patched(20);
    workload.controller.observed_generation = 2;
    workload.controller.progress.updated = 0;
    let standing = |token: Option<&str>| {
        // The old revision's controller replaced a pod while it was scaled down.
        let mut crashing = pod("api", 25);
        crashing.ready = false;
        (crashing.containers[0].restarts, crashing.containers[0].ready) = (3, false);
        if let Some(token) = token {
            crashing.tokens.insert("hash-db".into(), token.into());
        }
        let target = look(at(60), &facts, &workload, &[crashing], &mut Memory::default()).unwrap();
        target.claims[0].standing.clone()
    };
    assert_eq!(standing(None), Standing::Rolling);
    assert_eq!(standing(Some("before")), Standing::Rolling);
    assert!(matches!(standing(Some("t")), Standing::Failed { .. }));
}

#[test]
fn what_a_new_pod_waits_for_is_named_within_a_minute_and_is_the_failure_in_the_end() {
    type Change = fn(&mut Workload, &mut Pod);
    let facts = with_timeout(Duration::from_mins(10));
    let table: [(&str, Change, &str); 3] = [
        (
            "Unschedulable",
            |_, pod| pod.unscheduled = Some("Unschedulable".into()),
            "api-25",
        ),
        (
            "ContainerCreating",
            |_, pod| pod.containers[0].waiting = Some("ContainerCreating".into()),
            "api-25",
        ),
        (
            "ReplicaFailure",
            |workload, pod| {
                workload.controller.progress.replica_failure = true;
                pod.ready = true;
            },
            "quota",
        ),
    ];
    for (reason, change, part) in table {
        let mut workload = patched(20);
        workload.controller.observed_generation = 2;
        (
            workload.controller.progress.desired,
            workload.controller.progress.updated,
        ) = (2, 1);
        let mut new = pod("api", 25);
        new.ready = false;
        new.tokens.insert("hash-db".into(), "t".into());
        change(&mut workload, &mut new);
        let pods = [pod("api", -1000), new];
        let mut memory = Memory::default();
        let mut look = |now: i64| look(at(now), &facts, &workload, &pods, &mut memory).unwrap();
        let target = look(85);
        assert_eq!(target.claims[0].standing, Standing::Rolling, "{reason}");
        let said = target.obstacle.unwrap();
        assert!(said.contains(reason) && said.contains(part), "{said}");
        match &look(700).claims[0].standing {
            Standing::Failed { failure, .. } => assert_eq!(failure.reason(), reason),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn an_old_pod_that_blocks_a_stateful_set_is_named_at_once_with_the_cure() {
    let facts = with_timeout(Duration::from_mins(10));
    for (restarts, ordered, fails) in [(0, true, false), (3, true, true), (3, false, false)] {
        let mut workload = patched(20);
        workload.controller.ordered = ordered;
        workload.controller.observed_generation = 2;
        (
            workload.controller.progress.updated,
            workload.controller.progress.ready,
        ) = (0, 0);
        let mut old = pod("api", -1000);
        old.ready = false;
        (old.containers[0].ready, old.containers[0].restarts) = (false, restarts);
        let target = look(at(21), &facts, &workload, &[old], &mut Memory::default()).unwrap();
        let said = match &target.claims[0].standing {
            Standing::Failed { failure, was_healthy } => {
                assert!(fails, "{restarts}");
                assert_eq!(failure.reason(), "OrderedReady");
                failure.sentence(*was_healthy)
            }
            Standing::Rolling => {
                assert!(!fails, "{restarts}");
                target.obstacle.unwrap_or_default()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(said.contains("Delete pod api--1000"), ordered, "{said}");
    }
}

#[test]
fn an_annotation_without_our_record_is_no_rollout_of_ours() {
    let nothing = ManagedSecrets::default();
    let mut memory = Memory::default();
    assert!(look(at(30), &nothing, &patched(20), &[], &mut memory).is_some_and(|target| target.rolling));
    let mut forged = patched(20);
    forged.stamps.records.clear();
    assert_eq!(look(at(30), &nothing, &forged, &[], &mut Memory::default()), None);
}

fn evicting() -> ManagedSecrets {
    let change = |restarts: &mut Restarts| {
        restarts.policy.targets.push(RestartTarget {
            kind: DEPLOYMENT,
            name: Some("api".to_owned()),
            selector: None,
            wave: None,
            strategy: Some(RestartStrategy::Evict),
        });
    };
    ManagedSecrets::new(vec![with(&object("db", "t"), change)])
}

fn eviction() -> Restart {
    Restart {
        key: key(DEPLOYMENT, "api"),
        uid: "uid-api".into(),
        strategy: RestartStrategy::Evict,
        causes: vec![Cause {
            object: ObjectKey::new("shop", "db"),
            secret: "db".into(),
            stamp: Stamp {
                hash: "hash-db".into(),
                record: Record {
                    token: "t".into(),
                    attempt: 1,
                    was_healthy: true,
                },
                changed_at: at(0),
            },
        }],
        urgent: false,
    }
}

#[test]
fn an_eviction_holds_a_slot_until_a_budget_refuses_it() {
    let (facts, old) = (evicting(), [pod("api", -1000)]);
    let mut memory = Memory::default();
    let look = |now: i64, memory: &mut Memory| look(at(now), &facts, &workload("api"), &old, memory).unwrap();
    memory.sending(&eviction(), at(20));
    memory.taken(&eviction(), at(20));
    let target = look(21, &mut memory);
    assert_eq!((target.rolling, target.slot), (true, HeldSlot::Cluster));
    memory.evict_later(&eviction(), at(22), "a budget");
    let target = look(23, &mut memory);
    assert_eq!((target.rolling, target.slot), (false, HeldSlot::None));
    assert_eq!(target.refused.unwrap().state, WorkloadState::Refused);
    // Later it is a candidate like any other.
    let target = look(60, &mut memory);
    assert_eq!((target.slot, target.refused), (HeldSlot::None, None));
    assert_eq!(target.claims[0].standing, Standing::Stale(1));
}

#[test]
fn an_eviction_that_is_held_up_holds_no_slot() {
    let mut facts: Vec<ManagedSecret> = evicting().iter().cloned().collect();
    facts[0] = with(&facts[0], |restarts| {
        restarts.suspended = Suspension::Until(at(1000));
    });
    let mut memory = Memory::default();
    memory.sending(&eviction(), at(20));
    let old = [pod("api", -1000)];
    let target = look(
        at(21),
        &ManagedSecrets::new(facts),
        &workload("api"),
        &old,
        &mut memory,
    )
    .unwrap();
    assert_eq!(
        target.claims[0].hold.as_ref().map(|hold| hold.state),
        Some(WorkloadState::Suspended)
    );
    assert_eq!((target.rolling, target.slot), (false, HeldSlot::None));
}

#[test]
fn what_comes_of_an_eviction_is_ours_though_the_next_one_was_refused() {
    let facts = evicting();
    let mut memory = Memory::default();
    memory.sending(&eviction(), at(20));
    memory.taken(&eviction(), at(20));
    memory.evict_later(&eviction(), at(30), "a budget");
    let mut new = pod("api", 21);
    new.ready = false;
    (new.containers[0].restarts, new.containers[0].waiting) = (3, Some("CrashLoopBackOff".into()));
    new.containers[0].ready = false;
    let pods = [pod("api", -1000), new];
    let target = look(at(90), &facts, &workload("api"), &pods, &mut memory).unwrap();
    let failed = Standing::Failed {
        failure: Failure::Pod("CrashLoopBackOff".into()),
        was_healthy: true,
    };
    assert_eq!(target.claims[0].standing, failed);
}

/// Only recovery, other content or the annotation to resume ends a halt.
#[test]
fn a_rollout_that_failed_stays_failed_after_its_time() {
    let facts = with_timeout(Duration::from_mins(10));
    let mut memory = Memory::default();
    let mut crashing = pod("api", 25);
    crashing.ready = false;
    crashing.tokens.insert("hash-db".into(), "t".into());
    (crashing.containers[0].restarts, crashing.containers[0].waiting) = (3, Some("CrashLoopBackOff".into()));
    crashing.containers[0].ready = false;
    let mut workload = patched(20);
    workload.controller.observed_generation = 2;
    workload.controller.progress.available = 0;
    let mut standing = |now: i64, pod: &Pod| {
        let pods = [pod.clone()];
        let target = look(at(now), &facts, &workload, &pods, &mut memory).unwrap();
        target.claims[0].standing.clone()
    };
    assert!(matches!(standing(100, &crashing), Standing::Failed { .. }));
    // It was up for a moment, then crashed again.
    crashing.readiness_since = Some(at(700));
    assert!(matches!(standing(710, &crashing), Standing::Failed { .. }));
    assert!(matches!(standing(5000, &crashing), Standing::Failed { .. }));
}

#[test]
fn replacements_that_never_get_ready_time_out_whoever_began() {
    let facts = evicting();
    let mut new = pod("api", 20);
    new.ready = false;
    let pods = [pod("api", -1000), new];
    for (ours, expected) in [(true, true), (false, false)] {
        let mut memory = Memory::default();
        if ours {
            memory.sending(&eviction(), at(20));
        }
        let mut standing = |now| {
            look(at(now), &facts, &workload("api"), &pods, &mut memory)
                .unwrap()
                .claims[0]
                .standing
                .clone()
        };
        assert_eq!(standing(20), Standing::Rolling);
        assert_eq!(standing(619), Standing::Rolling);
        let failed = Standing::Failed {
            failure: Failure::TimedOut,
            was_healthy: expected,
        };
        assert_eq!(standing(620), failed);
    }
}

#[test]
fn only_what_a_workload_names_is_looked_at_for_it() {
    let named = |facts: &ManagedSecrets, workload: &Workload| -> Vec<String> {
        facts
            .concerning(workload)
            .iter()
            .map(|facts| facts.content.secret.to_string())
            .collect()
    };
    let mut targets = object("targets", "t");
    targets = with(&targets, |restarts| {
        restarts.policy.targets.push(RestartTarget {
            kind: DEPLOYMENT,
            name: Some("api".to_owned()),
            selector: None,
            wave: None,
            strategy: None,
        });
    });
    let facts = ManagedSecrets::new(vec![
        object("z", "t"),
        targets,
        object("db", "t"),
        object("a", "t"),
    ]);
    let mut workload = workload("api");
    assert_eq!(named(&facts, &workload), ["db"]);
    workload.stamps.tokens.insert("hash-z".into(), "t".into());
    assert_eq!(named(&facts, &workload), ["db", "z"]);
    workload.annotations.restart = RestartFlag::Yes;
    assert_eq!(named(&facts, &workload), ["db", "targets", "z"]);
    workload.uses.clear();
    workload.stamps.tokens = Texts::from_iter([("hash-nothing".into(), "t".into())]);
    assert_eq!(named(&facts, &workload), ["targets"]);
}

#[test]
fn a_pod_counts_for_the_workload_whose_name_its_replica_set_bears() {
    let named = |controller: Option<(&str, &str)>, name: &str| {
        let mut pod = pod(name, 0);
        pod.controller = controller.map(|(kind, name)| (kind.into(), name.into()));
        pod
    };
    let listed = at(0);
    let pods = Pods::new(
        listed,
        vec![
            named(Some(("ReplicaSet", "web-6d4f")), "a"),
            named(Some(("ReplicaSet", "web-canary-77b")), "b"),
            named(Some(("ReplicaSet", "adopted")), "c"),
            named(Some(("StatefulSet", "web")), "d"),
            named(None, "e"),
        ],
        |name| ["web", "web-canary"].contains(&name),
    );
    let of = |name: &str| -> Vec<String> {
        let own = pods.of(name, &workload("c").selector);
        assert_eq!(own.at, listed);
        own.pods.into_iter().map(|pod| pod.name.to_string()).collect()
    };
    assert_eq!(of("e"), ["e-0", "c-0"]);
    assert_eq!(of("web"), ["a-0", "d-0", "c-0"]);
    assert_eq!(of("web-canary"), ["b-0", "c-0"]);
    assert_eq!(of("other"), ["c-0"]);
}

#[test]
fn pods_of_others_replica_sets_are_skipped_however_many_there_are() {
    let stray = |n: usize, labels: &[(&str, &str)]| {
        let mut pod = pod("stray", 0);
        pod.name = format!("p{n}").into();
        pod.controller = Some(("ReplicaSet".into(), "bare".into()));
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        pod.labels = labels.collect();
        pod
    };
    let mut all: Vec<Pod> = (0..6000)
        .map(|n| stray(n, &[("team", "shop"), ("app", "bare")]))
        .collect();
    all.push(stray(6000, &[("team", "shop"), ("app", "api")]));
    let pods = Pods::new(at(0), all, |_| false);
    let select = |labels: &[(&str, &str)]| PodSelector {
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        expressions: Vec::new(),
    };
    // It adopted one of them.
    let api = pods.of("api", &select(&[("app", "api"), ("team", "shop")]));
    assert_eq!((api.at, api.pods.len()), (at(0), 1));
    let none = pods.of("web", &select(&[("app", "web")]));
    assert_eq!((none.at, none.pods.len()), (at(0), 0));
    // Of one that may have adopted more than are gone through, nothing is proved; the others do not suffer.
    let all = pods.of("all", &select(&[("team", "shop")]));
    assert_eq!((all.at, all.pods.len()), (PROVES_NOTHING, 5000));
}

#[test]
fn rests_grow_to_half_a_minute_and_end_with_a_request() {
    let mut memory = Memory::default();
    let rests = |count: usize, memory: &mut Memory| -> Vec<i64> {
        (0..count).map(|_| memory.rest("uid-api").as_secs()).collect()
    };
    assert_eq!(rests(6, &mut memory), [2, 4, 8, 16, 30, 30]);
    assert_eq!(rests(60, &mut memory).last(), Some(&30));
    memory.taken(&eviction(), at(20));
    assert_eq!(rests(1, &mut memory), [2]);
}

/// Whoever says no, in the order of who says it.
#[test]
fn what_holds_a_workload_up_is_named_with_what_to_do() {
    type Change = fn(&mut Workload, &mut Restarts);
    let table: &[(Change, Option<WorkloadState>, &str)] = &[
        (|_, _| (), None, ""),
        (
            |workload, _| workload.controller.paused = true,
            Some(WorkloadState::Paused),
            "spec.paused",
        ),
        (
            |workload, _| workload.annotations.suspended = Suspension::Until(at(100)),
            Some(WorkloadState::Suspended),
            "on the workload",
        ),
        (
            |workload, _| workload.annotations.suspended = Suspension::Until(at(60)),
            None,
            "",
        ),
        (
            |workload, _| workload.annotations.suspended = Suspension::Unreadable,
            Some(WorkloadState::Suspended),
            "is no time",
        ),
        (
            |_, restarts| restarts.suspended = Suspension::Until(at(100)),
            Some(WorkloadState::Suspended),
            "on the ExternalSecret",
        ),
        (
            |_, restarts| restarts.suspended = Suspension::Unreadable,
            Some(WorkloadState::Suspended),
            "is no time",
        ),
        (
            |workload, _| workload.annotations.restart = RestartFlag::Unreadable,
            Some(WorkloadState::Unreadable),
            "neither true nor false",
        ),
        (
            |workload, _| workload.annotations.strategy = AnnotationValue::Unreadable("evict".into()),
            Some(WorkloadState::Unreadable),
            "keyturn.dev/restart-strategy on the workload is \"evict\"",
        ),
        (
            |workload, _| workload.annotations.hot_reload = AnnotationValue::Unreadable("True".into()),
            Some(WorkloadState::Unreadable),
            "keyturn.dev/hot-reload on the workload is \"True\"",
        ),
        (
            |workload, restarts| {
                workload.controller.paused = true;
                restarts.policy.mode = crate::api::RestartMode::Manual;
            },
            Some(WorkloadState::Paused),
            "spec.paused",
        ),
        (
            |_, restarts| restarts.policy.mode = crate::api::RestartMode::Manual,
            Some(WorkloadState::AwaitingApproval),
            "keyturn.dev/approve=t",
        ),
        (
            |_, restarts| {
                restarts.policy.mode = crate::api::RestartMode::Manual;
                restarts.approved = Some("t".into());
            },
            None,
            "",
        ),
    ];
    for (index, (change, state, part)) in table.iter().enumerate() {
        let (mut workload, mut restarts) = (workload("api"), restarts());
        change(&mut workload, &mut restarts);
        let facts = ManagedSecrets::new(vec![ManagedSecret {
            content: Arc::new(content("db", "t")),
            restarts: Arc::new(restarts),
        }]);
        let pods = [pod("api", -1000)];
        let target = look(at(60), &facts, &workload, &pods, &mut Memory::default()).unwrap();
        let hold: Option<&Hold> = target.claims[0].hold.as_ref();
        assert_eq!(hold.map(|hold| hold.state), *state, "{index}");
        let sentence = hold.map_or("", |hold| &*hold.sentence);
        assert!(sentence.contains(part), "{index}: {sentence}");
    }
}

#[test]
fn a_token_that_approves_another_version_gets_a_reply() {
    for (given, part) in [
        (
            "abc",
            "Token abc approves another version. Restarts wait for approval: annotate the ExternalSecret with \
             keyturn.dev/approve=t",
        ),
        (
            "yes please",
            "keyturn.dev/approve is \"yes please\", which is not a valid token",
        ),
    ] {
        let facts = ManagedSecrets::new(vec![with(&object("db", "t"), |restarts| {
            restarts.policy.mode = crate::api::RestartMode::Manual;
            restarts.approved = Some(given.into());
        })]);
        let pods = [pod("api", -1000)];
        let judged = look(at(60), &facts, &workload("api"), &pods, &mut Memory::default()).unwrap();
        let hold = judged.claims[0].hold.as_ref().unwrap();
        assert_eq!(hold.state, WorkloadState::AwaitingApproval);
        assert!(hold.sentence.contains(part), "{}", hold.sentence);
    }
}

#[test]
fn a_rollout_that_borrows_its_selector_is_done_only_by_pods_that_are_known() {
    let rollout = |total: i32| {
        let mut rollout = workload("api");
        rollout.controller.borrowed_template = true;
        rollout.controller.progress.total = total;
        rollout.selector = PodSelector::default();
        rollout
    };
    let of_rollout = |set: &str, created: i64| {
        let mut pod = pod("api", created);
        let label = (OF_ROLLOUT.into(), "abc".into());
        pod.labels.extend([label]);
        pod.controller = Some(("ReplicaSet".into(), set.into()));
        pod
    };
    let facts = ManagedSecrets::new(vec![object("db", "t")]);
    let table = [
        (1, vec![of_rollout("api-abc", -1000)], Standing::Stale(1), None),
        (1, vec![of_rollout("api-abc", 60)], Standing::Done, None),
        // The pods of another Rollout, of a Deployment, or none: nothing proves what its own hold.
        (
            1,
            vec![of_rollout("other-abc", 60)],
            Standing::Stale(0),
            Some(WorkloadState::BorrowedTemplate),
        ),
        (
            1,
            vec![pod("api", 60)],
            Standing::Stale(0),
            Some(WorkloadState::BorrowedTemplate),
        ),
        (
            1,
            vec![],
            Standing::Stale(0),
            Some(WorkloadState::BorrowedTemplate),
        ),
        (0, vec![], Standing::Done, None),
    ];
    for (total, pods, standing, held) in table {
        let setting = Setting {
            now: at(100),
            control: None,
            evict_allowed: true,
        };
        let listed: Vec<&Pod> = pods.iter().collect();
        let observed = ObservedWorkload {
            key: &key(WorkloadKind::Rollout, "api"),
            workload: &rollout(total),
            namespace: &Annotations::default(),
            pods: Some(PodList {
                pods: &listed,
                at: at(100),
            }),
        };
        let judged = assess(&setting, &facts, &observed, &mut Memory::default()).unwrap();
        let claim = &judged.claims[0];
        let hold = claim.hold.as_ref().map(|hold| hold.state);
        assert_eq!((&claim.standing, hold), (&standing, held), "{pods:?}");
    }
}
