use std::time::Duration;

use crate::{
    api::WorkloadKind,
    restart::{
        judge::rollout::{
            Failure, Health, Rollout, broken, crashed_lately, health, healthy, obstacle, rolled_out, steady,
        },
        observed::model::{Pod, Progress, UpdateStrategy, Workload},
        tests::{at, pod, workload},
    },
};

fn of(workload: &Workload, new: Option<&[&Pod]>, stale: Option<bool>, now: i64) -> Health {
    let rollout = Rollout {
        kind: WorkloadKind::Deployment,
        workload,
        progress: at(10),
        timeout: Duration::from_mins(10),
        new,
        lost: &[],
        blocking: None,
        stale,
        failed: false,
    };
    health(&rollout, at(now))
}

/// One of two pods is of the new template.
fn half() -> Workload {
    let mut workload = workload("api");
    workload.controller.progress = Progress {
        desired: 2,
        total: 3,
        updated: 1,
        available: 2,
        ready: 2,
        one_revision: false,
        ..workload.controller.progress
    };
    workload
}

fn waiting(reason: &str, restarts: i32) -> Pod {
    let mut pod = pod("api", 20);
    pod.ready = false;
    pod.containers[0].waiting = Some(reason.into());
    pod.containers[0].restarts = restarts;
    pod.containers[0].ready = false;
    pod
}

type Row<'a> = (&'a str, Option<&'a [&'a Pod]>, Option<bool>, i64, Health);

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_kind_says_in_its_own_way_that_it_is_done() {
    use WorkloadKind::{DaemonSet, Deployment, Rollout, StatefulSet};
    let full = workload("api").controller.progress;
    let table: [(&str, WorkloadKind, Progress, UpdateStrategy, bool); 11] = [
        (
            "all",
            Deployment,
            full,
            UpdateStrategy::Rolling { partition: 0 },
            true,
        ),
        (
            "old left",
            Deployment,
            Progress { total: 2, ..full },
            UpdateStrategy::Rolling { partition: 0 },
            false,
        ),
        (
            "not there",
            Deployment,
            Progress { available: 0, ..full },
            UpdateStrategy::Rolling { partition: 0 },
            false,
        ),
        (
            "none",
            Deployment,
            Progress {
                desired: 0,
                total: 0,
                updated: 0,
                ready: 0,
                available: 0,
                ..full
            },
            UpdateStrategy::Rolling { partition: 0 },
            true,
        ),
        (
            "all",
            StatefulSet,
            full,
            UpdateStrategy::Rolling { partition: 0 },
            true,
        ),
        (
            "two revisions",
            StatefulSet,
            Progress {
                one_revision: false,
                ..full
            },
            UpdateStrategy::Rolling { partition: 0 },
            false,
        ),
        (
            "partition",
            StatefulSet,
            Progress {
                one_revision: false,
                updated: 0,
                ..full
            },
            UpdateStrategy::Rolling { partition: 1 },
            true,
        ),
        (
            "not ready",
            StatefulSet,
            Progress { ready: 0, ..full },
            UpdateStrategy::Rolling { partition: 0 },
            false,
        ),
        ("all", DaemonSet, full, UpdateStrategy::OnDelete, true),
        (
            "some",
            DaemonSet,
            Progress { updated: 0, ..full },
            UpdateStrategy::Rolling { partition: 0 },
            false,
        ),
        (
            "canary",
            Rollout,
            Progress {
                phase_healthy: false,
                ..full
            },
            UpdateStrategy::Rolling { partition: 0 },
            false,
        ),
    ];
    for (name, kind, progress, update, expected) in table {
        let mut workload = workload("api");
        (workload.controller.progress, workload.controller.update) = (progress, update);
        assert_eq!(rolled_out(kind, &workload), expected, "{kind} {name}");
        workload.generation = 2;
        assert!(
            !rolled_out(kind, &workload),
            "{kind} {name}: an older generation is no answer"
        );
    }
    let mut rollout = workload("api");
    rollout.controller.restart_at = Some(at(11));
    assert!(!rolled_out(Rollout, &rollout));
    rollout.controller.progress.restarted_at = Some(at(11));
    assert!(rolled_out(Rollout, &rollout));
}

#[test]
fn a_crash_loop_fails_at_its_third_restart_and_what_cannot_start_after_a_minute() {
    let table = [
        ("CrashLoopBackOff", 2, 500, None),
        ("CrashLoopBackOff", 3, 21, Some("CrashLoopBackOff")),
        ("ImagePullBackOff", 0, 79, None),
        ("ImagePullBackOff", 0, 80, Some("ImagePullBackOff")),
        (
            "CreateContainerConfigError",
            0,
            80,
            Some("CreateContainerConfigError"),
        ),
        ("ErrImageNeverPull", 0, 79, None),
        ("ErrImageNeverPull", 0, 80, Some("ErrImageNeverPull")),
        ("CreateContainerError", 0, 80, Some("CreateContainerError")),
        ("RunContainerError", 1, 80, Some("RunContainerError")),
        ("ContainerCreating", 2, 500, None),
        // Whatever it does at the moment.
        ("ContainerCreating", 3, 21, Some("CrashLoopBackOff")),
        ("", 2, 500, None),
        ("", 3, 21, Some("CrashLoopBackOff")),
    ];
    for (reason, restarts, now, expected) in table {
        let mut pod = waiting(reason, restarts);
        if reason.is_empty() {
            // It runs, or has just ended.
            pod.containers[0].waiting = None;
        }
        let found = of(&half(), Some(&[&pod]), Some(true), now);
        let expected = expected.map_or(Health::Rolling, |reason| {
            Health::Failed(Failure::Pod(reason.into()))
        });
        assert_eq!(found, expected, "{reason} {restarts} {now}");
    }
}

#[test]
fn what_takes_too_long_fails_unless_it_is_another_s() {
    let slow = Pod {
        ready: false,
        ..pod("api", 20)
    };
    let later = Pod {
        ready: false,
        ..pod("api", 5000)
    };
    let broke_later = Pod {
        readiness_since: Some(at(5000)),
        ..waiting("CrashLoopBackOff", 9)
    };
    let never_ready = Pod {
        ready: false,
        readiness_since: Some(at(20)),
        ..pod("api", 20)
    };
    let table: [Row<'_>; 8] = [
        (
            "what befell it later",
            Some(&[&broke_later]),
            Some(false),
            6000,
            Health::Complete,
        ),
        (
            "it never got ready",
            Some(&[&never_ready]),
            Some(false),
            6000,
            Health::Failed(Failure::TimedOut),
        ),
        ("in time", Some(&[&slow]), Some(true), 609, Health::Rolling),
        (
            "old pods left",
            Some(&[]),
            Some(true),
            610,
            Health::Failed(Failure::TimedOut),
        ),
        (
            "ours not ready",
            Some(&[&slow]),
            Some(false),
            610,
            Health::Failed(Failure::TimedOut),
        ),
        (
            "another's pod",
            Some(&[&later]),
            Some(false),
            6000,
            Health::Complete,
        ),
        ("nothing is known", None, None, 6000, Health::Unknown),
        ("all ready", Some(&[]), Some(false), 610, Health::Complete),
    ];
    for (name, new, stale, now, expected) in table {
        assert_eq!(of(&half(), new, stale, now), expected, "{name}");
    }
    let mut gave_up = half();
    gave_up.controller.progress.deadline_exceeded = true;
    assert_eq!(
        of(&gave_up, None, None, 20),
        Health::Failed(Failure::DeadlineExceeded)
    );
    assert_eq!(
        of(&gave_up, None, None, 6000),
        Health::Unknown,
        "that may be another's rollout"
    );
    gave_up.generation = 2;
    assert_eq!(
        of(&gave_up, None, None, 20),
        Health::Rolling,
        "it speaks of an older generation"
    );
}

#[test]
fn on_delete_is_no_failure() {
    let mut workload = half();
    workload.controller.update = UpdateStrategy::OnDelete;
    assert_eq!(of(&workload, None, None, 99_999), Health::AwaitingPodDeletion);
}

#[test]
fn steady_is_who_has_the_pods_that_it_should() {
    assert!(steady(WorkloadKind::Deployment, &half()));
    let mut down = half();
    down.controller.progress.available = 1;
    assert!(!steady(WorkloadKind::Deployment, &down));
}

#[test]
fn a_workload_is_healthy_within_its_own_budget_while_one_pod_works() {
    // Desired, working, tolerated.
    for (desired, available, max_unavailable, expected) in [
        (0, 0, 1, true),
        (1, 1, 1, true),
        (1, 0, 1, false),
        (2, 1, 1, true),
        (2, 0, 2, false),
        (10, 9, 1, true),
        (10, 8, 1, false),
        (10, 7, 3, true),
        (10, 6, 3, false),
        (10, 0, 10, false),
    ] {
        let mut workload = workload("api");
        workload.controller.max_unavailable = max_unavailable;
        let progress = &mut workload.controller.progress;
        (progress.desired, progress.available) = (desired, available);
        let found = healthy(WorkloadKind::Deployment, &workload);
        assert_eq!(found, expected, "{available} of {desired}, {max_unavailable}");
        workload.controller.progress.deadline_exceeded = true;
        assert!(!healthy(WorkloadKind::Deployment, &workload));
    }
}

#[test]
fn a_container_that_is_ready_does_not_crash_but_proves_itself_for_a_minute() {
    let mut pod = pod("api", 20);
    pod.containers[0].restarts = 5;
    pod.containers[0].started = Some(at(100));
    assert_eq!(broken(&pod, at(110)), None);
    assert!(crashed_lately(&pod, at(159)));
    assert!(!crashed_lately(&pod, at(160)));
    pod.containers[0].ready = false;
    assert!(crashed_lately(&pod, at(500)));
    pod.containers[0].restarts = 2;
    assert!(!crashed_lately(&pod, at(500)));
}

/// A DaemonSet on three nodes, of which two run a new pod and the third does not answer.
fn without_a_node() -> Workload {
    let mut workload = workload("agent");
    workload.controller.progress = Progress {
        desired: 3,
        total: 3,
        updated: 2,
        available: 2,
        ready: 2,
        ..workload.controller.progress
    };
    workload
}

#[test]
fn a_node_that_does_not_answer_holds_up_no_rollout_that_is_done_elsewhere() {
    let workload = without_a_node();
    let lost = pod("agent", -500);
    let (new, mut waiting) = (pod("agent", 20), pod("agent", 21));
    waiting.ready = false;
    let of = |workload: &Workload, lost: &[&Pod], new: &[&Pod], stale| {
        let rollout = Rollout {
            kind: WorkloadKind::DaemonSet,
            workload,
            progress: at(10),
            timeout: Duration::from_mins(10),
            new: Some(new),
            lost,
            blocking: None,
            stale: Some(stale),
            failed: false,
        };
        let why = obstacle(&rollout, at(100)).map(|obstacle| obstacle.sentence());
        (health(&rollout, at(100)), why)
    };
    assert_eq!(of(&workload, &[&lost], &[&new, &new], false).0, Health::Complete);
    // Not while another pod is missing, is not ready, or holds old content.
    let mut fewer = workload.clone();
    fewer.controller.progress.available = 1;
    for (workload, new, stale) in [
        (&fewer, [&new, &new], false),
        (&workload, [&new, &waiting], false),
        (&workload, [&new, &new], true),
    ] {
        let (health, why) = of(workload, &[&lost], &new, stale);
        assert_eq!(health, Health::Rolling);
        let why = why.unwrap();
        assert!(
            why.contains("agent--500") && why.contains("does not answer"),
            "{why}"
        );
    }
    assert_eq!(of(&workload, &[], &[&new, &new], false).0, Health::Rolling);
    let mut unseen = workload.clone();
    unseen.generation += 1;
    assert_eq!(of(&unseen, &[&lost], &[&new, &new], false).0, Health::Rolling);
}

#[test]
fn the_place_of_a_pod_that_is_being_deleted_is_kept_by_its_name_only() {
    let workload = without_a_node();
    let mut lost = pod("agent", -500);
    lost.ending = true;
    let new = pod("agent", 20);
    for (kind, expected) in [
        (WorkloadKind::DaemonSet, Health::Complete),
        (WorkloadKind::StatefulSet, Health::Complete),
        (WorkloadKind::Deployment, Health::Rolling),
        (WorkloadKind::Rollout, Health::Rolling),
    ] {
        let rollout = Rollout {
            kind,
            workload: &workload,
            progress: at(10),
            timeout: Duration::from_mins(10),
            new: Some(&[&new, &new]),
            lost: &[&lost],
            blocking: None,
            stale: Some(false),
            failed: false,
        };
        assert_eq!(health(&rollout, at(100)), expected, "{kind}");
        let named = obstacle(&rollout, at(100)).is_some();
        assert_eq!(named, expected == Health::Complete, "{kind}");
    }
}
