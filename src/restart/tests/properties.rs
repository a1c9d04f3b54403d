//! The laws, over random lives of a small cluster.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    simulation::{Cluster, Fate, Nature},
    with,
};
use crate::restart::observed::model::{AnnotationValue, Limits};

fn natures() -> impl Strategy<Value = Vec<Nature>> {
    prop::collection::vec((1_i64..40).prop_map(Nature::Ready), 1..6)
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        3 => Just(Fate::Taken),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Conflict),
        1 => Just(Fate::Denied),
        1 => Just(Fate::CrashBefore),
        2 => Just(Fate::CrashAfter),
    ];
    prop::collection::vec(fate, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// At most one restart for a content, none without a stale pod, none forgotten, no more at once than allowed, and none
    /// done while a pod is older:
    /// whatever is lost, refused or crashes, and without any status.
    #[test]
    fn every_stale_workload_is_restarted_exactly_once_and_never_more_at_once_than_allowed(
        natures in natures(),
        fates in fates(),
        limit in 1_u32..4,
        crashes in prop::collection::btree_set(1_i64..400, 0..6),
    ) {
        let mut cluster = Cluster::new(&natures);
        cluster.objects[0] = with(&cluster.objects[0], |restarts| restarts.policy.max_concurrent = limit);
        let mut fates = fates.into_iter();
        cluster.run(3);
        cluster.change(0, "t1");
        for _ in 0..2400 {
            if crashes.contains(&cluster.second) {
                cluster.memory = crate::restart::judge::memory::Memory::default();
            }
            cluster.tick(|_| fates.next().unwrap_or(Fate::Taken));
            prop_assert!(!cluster.forgets_a_pod(), "{:?}", cluster.words());
            if cluster.second > 400 && cluster.is_done() {
                break;
            }
        }
        cluster.run(100);
        for index in 0..natures.len() {
            prop_assert_eq!(cluster.count(index, "t1"), 1, "workload {}", index);
            prop_assert!(!cluster.is_stale(index));
        }
        prop_assert!(cluster.most_rolling <= limit as usize, "{} at once", cluster.most_rolling);
        prop_assert!(cluster.words().iter().all(|(_, _, state)| *state == "Done"), "{:?}", cluster.words());
    }

    /// A workload is restarted for the last change of a key that it uses, and never for a change of other keys: whatever
    /// crashes, and however changes follow each other.
    #[test]
    fn only_a_change_of_a_used_key_restarts(
        natures in natures(),
        used in prop::collection::vec(prop::sample::subsequence(vec!["a", "b", "c"], 0..=3), 6),
        changes in prop::collection::vec((0_i64..90, prop::sample::subsequence(vec!["a", "b", "c"], 1..=2)), 1..6),
        crash in 0_i64..300,
    ) {
        let mut cluster = Cluster::new(&natures);
        for (simulated, keys) in cluster.workloads.iter_mut().zip(&used) {
            simulated.workload.uses[0].keys = keys.iter().map(|key| (*key).into()).collect();
        }
        cluster.run(3);
        for (number, (pause, keys)) in changes.iter().enumerate() {
            cluster.change_keys(0, &format!("t{}", number + 1), keys);
            cluster.run(*pause);
        }
        for _ in 0..1500 {
            if cluster.second == crash {
                cluster.memory = crate::restart::judge::memory::Memory::default();
            }
            cluster.tick(|_| Fate::Taken);
            if cluster.second > 300 && cluster.is_done() {
                break;
            }
        }
        for (index, used) in used.iter().enumerate().take(natures.len()) {
            let concerns = |keys: &[&str]| used.is_empty() || keys.iter().any(|key| used.contains(key));
            let numbered = changes.iter().enumerate();
            let concerning: Vec<String> = numbered
                .filter(|(_, (_, keys))| concerns(keys))
                .map(|(number, _)| format!("t{}", number + 1))
                .collect();
            for number in 1..=changes.len() {
                let token = format!("t{number}");
                let most = usize::from(concerning.contains(&token));
                prop_assert!(cluster.count(index, &token) <= most, "{index} {token} {:?}", cluster.taken);
            }
            let last = concerning.last().map_or(1, |token| cluster.count(index, token));
            prop_assert_eq!(last, 1, "workload {} of {:?} {:?}", index, used, &cluster.taken);
        }
        prop_assert!(cluster.words().iter().all(|(_, _, state)| *state == "Done"), "{:?}", cluster.words());
    }

    /// The newest content wins: changes at any time, also in one second.
    #[test]
    fn the_newest_content_arrives_and_each_content_costs_one_restart_at_most(
        natures in natures(),
        changes in prop::collection::vec(0_i64..60, 1..5),
        crash in 0_i64..300,
    ) {
        let mut cluster = Cluster::new(&natures);
        for (number, pause) in changes.iter().enumerate() {
            for _ in 0..*pause {
                cluster.tick(|_| Fate::Taken);
            }
            cluster.change(0, &format!("t{}", number + 1));
        }
        for _ in 0..1500 {
            if cluster.second == crash {
                cluster.memory = crate::restart::judge::memory::Memory::default();
            }
            cluster.tick(|_| Fate::Taken);
            if cluster.second > 300 && cluster.is_done() {
                break;
            }
        }
        cluster.run(100);
        for index in 0..natures.len() {
            for number in 1..=changes.len() {
                let token = format!("t{number}");
                prop_assert!(cluster.count(index, &token) <= 1);
            }
            prop_assert!(!cluster.is_stale(index));
        }
    }

    /// One restart for several Secrets, within the limits: each workload uses the one of its number and the next.
    #[test]
    fn secrets_that_change_together_make_one_restart_however_few_go_at_once(
        natures in natures(),
        fates in fates(),
        limits in prop::collection::vec(1_u32..4, 6),
        intervals in prop::collection::vec(prop_oneof![Just(0), Just(30)], 6),
    ) {
        let mut cluster = Cluster::new(&natures);
        let secrets = natures.len() + 1;
        cluster.objects = (0..secrets)
            .map(|number| {
                let mut object = super::object(&format!("s{number}"), "t0");
                Arc::make_mut(&mut object.content).changed_at = None;
                with(&object, |restarts| {
                    restarts.policy.max_concurrent = limits[number];
                    restarts.policy.min_interval = std::time::Duration::from_secs(intervals[number]);
                })
            })
            .collect();
        for (number, simulated) in cluster.workloads.iter_mut().enumerate() {
            let uses = [number, number + 1].map(|number| super::env(&format!("s{number}")));
            simulated.workload.uses = uses.to_vec();
        }
        for number in 0..secrets {
            cluster.change(number, &format!("t{number}"));
        }
        let mut fates = fates.into_iter();
        for _ in 0..1500 {
            cluster.tick(|_| fates.next().unwrap_or(Fate::Taken));
            for (number, limit) in limits.iter().enumerate().take(secrets) {
                let users = cluster.workloads.iter().enumerate();
                let rolling = users.filter(|(user, simulated)| (*user == number || user + 1 == number) && simulated.is_rolling());
                prop_assert!(rolling.count() <= *limit as usize, "s{} at {}", number, cluster.second);
            }
            if cluster.second > 60 && cluster.is_done() {
                break;
            }
        }
        prop_assert!(cluster.is_done(), "{:?}", cluster.words());
        for index in 0..natures.len() {
            let taken: Vec<_> = cluster.taken.iter().filter(|taken| taken.workload == index).collect();
            prop_assert_eq!(taken.len(), 1, "{:?}", cluster.taken);
            prop_assert_eq!(taken[0].tokens.len(), 2);
        }
    }

    /// Changes that follow each other closely make one restart, as far as they rest for ten seconds at least once a
    /// minute.
    #[test]
    fn nothing_goes_before_the_change_has_settled(natures in natures(), changes in prop::collection::vec(11_i64..60, 1..5)) {
        let mut cluster = Cluster::new(&natures);
        for (number, pause) in changes.iter().enumerate() {
            cluster.run(*pause);
            cluster.change(0, &format!("t{}", number + 1));
            let (changed, before) = (cluster.second, cluster.taken.len());
            cluster.run(9);
            prop_assert_eq!(cluster.taken.len(), before, "changed at {}: {:?}", changed, cluster.taken);
        }
    }

    /// A restart that is taken back is tried twice at most: a self-healer strips the annotation within seconds, again and
    /// again, and the process crashes.
    #[test]
    fn who_is_taken_back_is_tried_twice_at_most(
        ready in 10_i64..60,
        crashes in prop::collection::btree_set(1_i64..300, 0..6),
        fates in fates(),
    ) {
        let mut cluster = Cluster::new(&[Nature::Ready(ready)]);
        cluster.workloads[0].healed = true;
        let mut fates = fates.into_iter();
        cluster.change(0, "t1");
        for _ in 0..900 {
            if crashes.contains(&cluster.second) {
                cluster.memory = crate::restart::judge::memory::Memory::default();
            }
            cluster.tick(|_| fates.next().unwrap_or(Fate::Taken));
        }
        prop_assert!(cluster.count(0, "t1") <= 2);
        if cluster.is_stale(0) {
            prop_assert_eq!(cluster.words()[0].2, "Reverted");
        }
    }

    /// A halt: after a failure nothing follows, until other content comes.
    #[test]
    fn a_failure_stops_what_follows(count in 2_usize..6, ready in 1_i64..20) {
        let mut natures = vec![Nature::Crashing];
        natures.resize(count, Nature::Ready(ready));
        let mut cluster = Cluster::new(&natures);
        cluster.change(0, "t1");
        cluster.run(700);
        prop_assert_eq!(cluster.taken.len(), 1);
        prop_assert_eq!(cluster.words()[0].2, "Failed");
        prop_assert!(cluster.words()[1..].iter().all(|(_, _, state)| *state == "Halted"));
        cluster.workloads[0].nature = Nature::Ready(ready);
        cluster.change(0, "t2");
        cluster.run(400);
        for index in 0..count {
            prop_assert_eq!(cluster.count(index, "t2"), 1);
            prop_assert!(!cluster.is_stale(index));
        }
    }

    /// Nothing is restarted without a change: adoption, starts, resyncs, scaling and other rollouts.
    #[test]
    fn without_a_change_nothing_is_restarted(natures in natures(), deploys in prop::collection::vec(0_i64..60, 0..4)) {
        let mut cluster = Cluster::new(&natures);
        for pause in deploys {
            cluster.run(pause);
            cluster.workloads[0].deploy();
            cluster.memory = crate::restart::judge::memory::Memory::default();
        }
        cluster.run(120);
        prop_assert_eq!(cluster.taken.len(), 0);
    }
}

#[test]
fn who_was_deployed_after_the_change_is_not_restarted() {
    let mut cluster = Cluster::new(&[Nature::Ready(1), Nature::Ready(1)]);
    let hold = |cluster: &mut Cluster, on: bool| {
        cluster.objects[0] = with(&cluster.objects[0], |restarts| {
            restarts.suspended = if on {
                crate::objects::Suspension::Unreadable
            } else {
                crate::objects::Suspension::None
            };
        });
    };
    cluster.change(0, "t1");
    hold(&mut cluster, true);
    cluster.run(20);
    cluster.workloads[0].deploy();
    cluster.run(60);
    hold(&mut cluster, false);
    cluster.run(60);
    assert_eq!((cluster.count(0, "t1"), cluster.count(1, "t1")), (0, 1));
}

#[test]
fn who_has_no_pods_is_not_restarted_neither_then_nor_later() {
    let mut cluster = Cluster::new(&[Nature::Ready(1)]);
    cluster.workloads[0].pods.clear();
    cluster.workloads[0].workload.controller.progress.desired = 0;
    cluster.change(0, "t1");
    cluster.run(60);
    cluster.workloads[0].workload.controller.progress.desired = 2;
    cluster.run(60);
    assert_eq!(cluster.taken, []);
}

#[test]
fn a_paused_workload_goes_once_it_is_resumed_also_over_a_start() {
    let mut cluster = Cluster::new(&[Nature::Ready(1)]);
    cluster.workloads[0].workload.controller.paused = true;
    cluster.change(0, "t1");
    cluster.run(60);
    assert_eq!((cluster.taken.len(), cluster.words()[0].2), (0, "Paused"));
    cluster.memory = crate::restart::judge::memory::Memory::default();
    cluster.workloads[0].workload.controller.paused = false;
    cluster.run(60);
    assert_eq!(cluster.count(0, "t1"), 1);
}

#[test]
fn a_secret_that_never_rests_is_followed_within_a_minute() {
    let mut cluster = Cluster::new(&[Nature::Ready(1)]);
    for second in 0..70 {
        cluster.change(0, &format!("t{second}"));
        cluster.run(1);
    }
    assert_eq!(cluster.taken.len(), 1, "{:?}", cluster.taken);
    assert!(cluster.taken[0].second >= 60);
}

#[test]
fn two_secrets_that_change_together_make_one_restart() {
    let mut cluster = Cluster::new(&[Nature::Ready(1)]);
    let mut second = super::object("mail", "m0");
    Arc::make_mut(&mut second.content).changed_at = None;
    cluster.objects.push(second);
    cluster.workloads[0].workload.uses.push(super::env("mail"));
    cluster.change(0, "t1");
    cluster.run(4);
    cluster.change(1, "m1");
    cluster.run(60);
    assert_eq!(cluster.taken.len(), 1);
    assert_eq!(cluster.taken[0].tokens.len(), 2);
    cluster.change(0, "t2");
    cluster.run(30);
    cluster.change(1, "m2");
    cluster.run(60);
    assert_eq!(cluster.taken.len(), 3);
}

#[test]
fn a_denied_workload_does_not_hold_up_others_and_is_tried_until_it_is_allowed() {
    let mut cluster = Cluster::new(&[Nature::Ready(1), Nature::Ready(1)]);
    cluster.change(0, "t1");
    let mut denials = 0;
    for _ in 0..60 {
        cluster.tick(|taken| {
            if taken.workload == 0 {
                denials += 1;
                return Fate::Denied;
            }
            Fate::Taken
        });
    }
    assert_eq!((cluster.count(0, "t1"), cluster.count(1, "t1")), (0, 1));
    assert_eq!(cluster.words()[0].2, "Refused");
    assert!((2..6).contains(&denials), "{denials} denials");
    cluster.run(300);
    assert_eq!(cluster.count(0, "t1"), 1);
}

#[test]
fn who_was_broken_before_is_restarted_and_holds_up_nobody() {
    let mut cluster = Cluster::new(&[Nature::Crashing, Nature::Ready(1)]);
    for pod in &mut cluster.workloads[0].pods {
        pod.ready = false;
    }
    cluster.change(0, "t1");
    cluster.run(300);
    assert_eq!((cluster.count(0, "t1"), cluster.count(1, "t1")), (1, 1));
    assert_eq!(cluster.words()[0].2, "StillUnhealthy");
}

#[test]
fn one_unready_pod_of_many_before_the_restart_does_not_excuse_its_failure() {
    for count in [2, 10] {
        let mut cluster = Cluster::new(&[Nature::Crashing, Nature::Ready(1)]);
        cluster.workloads[0].scale(count);
        cluster.workloads[0].pods[0].ready = false;
        cluster.change(0, "t1");
        cluster.run(300);
        assert_eq!(
            (cluster.count(0, "t1"), cluster.count(1, "t1")),
            (1, 0),
            "{count}"
        );
        assert_eq!(cluster.words()[0].2, "Failed", "{count}");
        assert_eq!(cluster.words()[1].2, "Halted", "{count}");
    }
}

#[test]
fn the_annotation_stripped_after_completion_is_not_put_back() {
    let mut cluster = Cluster::new(&[Nature::Ready(1)]);
    cluster.change(0, "t1");
    cluster.run(60);
    assert_eq!(cluster.count(0, "t1"), 1);
    cluster.workloads[0].healed = true;
    cluster.memory = crate::restart::judge::memory::Memory::default();
    cluster.run(200);
    assert_eq!(cluster.taken.len(), 1);
}

#[test]
fn evictions_go_one_by_one_until_no_pod_is_old() {
    let mut cluster = Cluster::new(&[Nature::Ready(7), Nature::Ready(7)]);
    cluster.evict_allowed = true;
    for simulated in &mut cluster.workloads {
        simulated.workload.annotations.strategy = AnnotationValue::Is(crate::api::RestartStrategy::Evict);
    }
    cluster.change(0, "t1");
    cluster.run(200);
    assert_eq!(
        (cluster.count(0, "t1"), cluster.count(1, "t1")),
        (2, 2),
        "{:?}",
        cluster.taken
    );
    assert!(!cluster.is_stale(0) && !cluster.is_stale(1));
    // Never a second one before the first one's successor is ready, and one workload after the other.
    for pair in cluster.taken.windows(2) {
        assert!(pair[1].second - pair[0].second >= 7, "{:?}", cluster.taken);
    }
    let order: Vec<usize> = cluster.taken.iter().map(|taken| taken.workload).collect();
    assert_eq!(order, [0, 0, 1, 1]);
}

#[test]
fn the_limits_of_namespace_and_cluster_hold() {
    for (limits, expected) in [
        (
            Limits {
                namespace: 2,
                cluster: 20,
            },
            2,
        ),
        (
            Limits {
                namespace: 5,
                cluster: 3,
            },
            3,
        ),
    ] {
        let mut cluster = Cluster::new(&[Nature::Ready(9); 8]);
        cluster.limits = limits;
        cluster.objects[0] = with(&cluster.objects[0], |restarts| {
            restarts.policy.max_concurrent = 100;
        });
        cluster.change(0, "t1");
        cluster.run(400);
        assert_eq!(cluster.most_rolling, expected);
        assert_eq!(cluster.taken.len(), 8);
    }
}
