//! What other hands do to workloads and ExternalSecrets: nothing of it makes us restart what needs no restart.

use super::{
    simulation::{Cluster, Fate, Nature},
    with,
};
use crate::{
    api::{RestartMode, RestartTarget, WorkloadKind},
    objects::Suspension,
    restart::{
        judge::memory::Memory,
        observed::model::{RestartFlag, UpdateStrategy},
    },
};

fn two() -> Cluster {
    Cluster::new(&[Nature::Ready(5), Nature::Ready(5)])
}

fn word(cluster: &Cluster, name: &str) -> &'static str {
    let words = cluster.words();
    words
        .iter()
        .find(|(_, found, _)| found == name)
        .map_or("", |(_, _, word)| *word)
}

/// A rollout that was undone by hand is not repeated.
#[test]
fn a_rollout_that_is_undone_is_not_done_again() {
    let mut cluster = two();
    cluster.change(0, "t1");
    cluster.run(120);
    assert_eq!((cluster.taken.len(), cluster.is_done()), (2, true));
    // `kubectl rollout undo`: the template of before, whose pods are made anew.
    for workload in &mut cluster.workloads {
        workload.workload.stamps.tokens.clear();
        workload.workload.generation += 1;
    }
    cluster.run(60);
    cluster.memory = Memory::default();
    cluster.run(300);
    assert_eq!((cluster.taken.len(), cluster.is_done()), (2, true));
}

/// Disabling restarts, or removing the object, ends what is pending.
#[test]
fn what_nobody_wants_any_more_is_not_restarted() {
    type End = fn(&mut Cluster);
    let ends: [End; 3] = [
        // The ExternalSecret is deleted, or its restarts are disabled.
        |cluster| cluster.objects.clear(),
        |cluster| {
            for workload in &mut cluster.workloads {
                workload.workload.annotations.restart = RestartFlag::No;
            }
        },
        |cluster| {
            for workload in &mut cluster.workloads {
                workload.workload.ending = true;
            }
        },
    ];
    for (index, end) in ends.into_iter().enumerate() {
        let mut cluster = two();
        cluster.change(0, "t1");
        // The first one rolls out.
        cluster.run(12);
        assert_eq!(cluster.taken.len(), 1, "{index}");
        end(&mut cluster);
        cluster.run(60);
        cluster.memory = Memory::default();
        cluster.run(300);
        assert_eq!(cluster.taken.len(), 1, "{index}");
    }
}

/// A workload that waits until its pods are deleted by hand holds up no later wave.
#[test]
fn who_waits_for_pods_to_be_deleted_holds_nobody_up_and_is_done_once_they_are() {
    for update in [UpdateStrategy::OnDelete, UpdateStrategy::Rolling { partition: 1 }] {
        let mut cluster = two();
        cluster.objects[0] = with(&cluster.objects[0], |restarts| {
            // An earlier wave, too.
            restarts.policy.targets.push(RestartTarget {
                kind: WorkloadKind::Deployment,
                name: Some("w0".to_owned()),
                selector: None,
                wave: Some(-1),
                strategy: None,
            });
        });
        cluster.workloads[0].workload.controller.update = update;
        cluster.change(0, "t1");
        cluster.run(300);
        assert_eq!(word(&cluster, "w0"), "AwaitingPodDeletion", "{update:?}");
        assert_eq!(
            (cluster.count(0, "t1"), cluster.count(1, "t1")),
            (0, 1),
            "{update:?}"
        );
        assert!(cluster.decisions.objects.values().all(|object| !object.halted));
        cluster.workloads[0].pods.clear();
        cluster.run(60);
        assert!(cluster.is_done(), "{update:?}: {:?}", cluster.words());
        assert_eq!(cluster.taken.len(), 1);
    }
}

/// Every hold ends: the workload follows then, and once only.
#[test]
fn who_is_held_up_follows_once_he_may_and_once_only() {
    type Hold = fn(&mut Cluster, bool);
    let holds: [(Hold, &str); 4] = [
        (
            |cluster, held| cluster.workloads[0].workload.controller.paused = held,
            "Paused",
        ),
        (
            |cluster, held| {
                let until = if held {
                    Suspension::Unreadable
                } else {
                    Suspension::None
                };
                cluster.workloads[0].workload.annotations.suspended = until;
            },
            "Suspended",
        ),
        (
            |cluster, held| {
                let suspended = if held {
                    Suspension::Unreadable
                } else {
                    Suspension::None
                };
                cluster.objects[0] = with(&cluster.objects[0], |restarts| restarts.suspended = suspended);
            },
            "Suspended",
        ),
        (
            |cluster, held| {
                let approved = (!held).then(|| "t1".into());
                cluster.objects[0] = with(&cluster.objects[0], |restarts| {
                    (restarts.policy.mode, restarts.approved) = (RestartMode::Manual, approved);
                });
            },
            "AwaitingApproval",
        ),
    ];
    for (index, (hold, why)) in holds.into_iter().enumerate() {
        let mut cluster = Cluster::new(&[Nature::Ready(5)]);
        hold(&mut cluster, true);
        cluster.change(0, "t1");
        cluster.run(100);
        assert_eq!((word(&cluster, "w0"), cluster.taken.len()), (why, 0), "{index}");
        cluster.memory = Memory::default();
        cluster.run(100);
        assert_eq!((word(&cluster, "w0"), cluster.taken.len()), (why, 0), "{index}");
        hold(&mut cluster, false);
        cluster.run(100);
        assert_eq!(
            (word(&cluster, "w0"), cluster.taken.len()),
            ("Done", 1),
            "{index}"
        );
    }
}

/// No workload waits indefinitely for others, also with a least time between two restarts.
#[test]
fn a_workload_that_is_always_refused_does_not_keep_the_others_waiting() {
    for interval in [0, 60] {
        let mut cluster = Cluster::new(&[Nature::Ready(5), Nature::Ready(5), Nature::Ready(5)]);
        cluster.objects[0] = with(&cluster.objects[0], |restarts| {
            restarts.policy.min_interval = std::time::Duration::from_secs(interval);
        });
        cluster.change(0, "t1");
        for _ in 0..900 {
            cluster.tick(|taken| {
                if taken.workload == 0 {
                    Fate::Denied
                } else {
                    Fate::Taken
                }
            });
        }
        let counts = [0, 1, 2].map(|workload| cluster.count(workload, "t1"));
        assert_eq!(counts, [0, 1, 1], "{interval}");
        assert_eq!(word(&cluster, "w0"), "Refused");
    }
}

/// No restart is lost over a crash, and a retry sends the same patch.
#[test]
fn a_process_that_dies_before_its_request_asks_again_in_the_same_words() {
    let mut cluster = Cluster::new(&[Nature::Ready(5)]);
    cluster.change(0, "t1");
    let mut asked = Vec::new();
    for _ in 0..200 {
        cluster.tick(|taken| {
            asked.push(taken.tokens.clone());
            if asked.len() < 3 {
                Fate::CrashBefore
            } else {
                Fate::Taken
            }
        });
    }
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|tokens| *tokens == asked[0]));
    assert!(cluster.is_done());
}
