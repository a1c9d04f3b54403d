//! Rollouts that take long: time counts from their last progress, and slots are held until they end.

use super::{
    simulation::{Cluster, Nature},
    with,
};
use crate::{
    api::RotationStrategy,
    restart::{judge::memory::Memory, observed::model::Limits},
};

/// Ten pods that are replaced one after the other, each ready after 100 s, and a workload that follows.
fn slow() -> Cluster {
    let mut cluster = Cluster::new(&[Nature::Ready(100), Nature::Ready(1)]);
    cluster.workloads[0].scale(10);
    cluster.change(0, "t1");
    cluster
}

fn never_failed(cluster: &Cluster) {
    let words = cluster.words();
    assert_eq!(words[0].2, "RollingOut", "{} s: {words:?}", cluster.second);
    assert_eq!(
        cluster.taken.len(),
        1,
        "{} s: {:?}",
        cluster.second,
        cluster.taken
    );
}

#[test]
fn content_settles_from_when_it_is_there_however_long_its_write_took() {
    for urgent in [false, true] {
        let mut cluster = Cluster::new(&[Nature::Ready(5)]);
        cluster.objects[0] = with(&cluster.objects[0], |restarts| {
            if urgent {
                restarts.strategy = RotationStrategy::SingleUser;
            }
        });
        cluster.run(20);
        let there = cluster.second;
        cluster.change_slowly(0, "t1", 9);
        cluster.run(60);
        let taken: Vec<i64> = cluster.taken.iter().map(|taken| taken.second).collect();
        let [first] = taken[..] else { panic!("{taken:?}") };
        let least = if urgent { 6 } else { 10 };
        assert!(first >= there + least, "{first} {there}");
        assert!(first <= there + least + 2, "{first} {there}");
        // Another leader does not wait for what was written long ago.
        cluster.change_slowly(0, "t2", 40);
        cluster.memory = Memory::default();
        let started = cluster.second;
        cluster.run(5);
        let second = cluster.taken.last().unwrap().second;
        assert!(
            cluster.taken.len() == 2 && second <= started + 2,
            "{second} {started}"
        );
    }
}

#[test]
fn a_rollout_that_takes_longer_than_its_time_but_moves_on_is_no_failure() {
    let mut cluster = slow();
    cluster.run(15);
    while cluster.workloads[0].is_rolling() {
        never_failed(&cluster);
        cluster.run(1);
    }
    assert!(cluster.second > 1000, "{}", cluster.second);
    cluster.run(60);
    assert!(cluster.is_done(), "{:?}", cluster.words());
    assert!(cluster.alerts.is_empty());
}

#[test]
fn the_next_leader_sees_from_the_pods_that_it_moves_on() {
    let mut cluster = slow();
    cluster.run(15);
    while cluster.workloads[0].is_rolling() {
        never_failed(&cluster);
        cluster.run(1);
        if cluster.second % 7 == 0 {
            cluster.memory = Memory::default();
        }
    }
    cluster.run(60);
    assert!(cluster.is_done(), "{:?}", cluster.words());
}

#[test]
fn a_rollout_that_stops_fails_after_its_time_from_its_last_progress() {
    let mut cluster = slow();
    cluster.run(850);
    never_failed(&cluster);
    // The pods of now become ready within 100 s; those that follow do not.
    cluster.workloads[0].nature = Nature::Ready(100_000);
    let begun = cluster.second;
    while cluster.words()[0].2 == "RollingOut" {
        cluster.run(1);
    }
    assert_eq!(cluster.words()[0].2, "Failed");
    assert!(
        (500..=700).contains(&(cluster.second - begun)),
        "{}",
        cluster.second - begun
    );
    assert_eq!(cluster.alerts.len(), 1);
}

#[test]
fn pods_that_come_and_go_are_no_progress() {
    let mut cluster = Cluster::new(&[Nature::Ready(100_000), Nature::Ready(1)]);
    cluster.change(0, "t1");
    for _ in 0..1000 {
        // A pod of the rollout is deleted, and made again.
        if cluster.second % 50 == 0 {
            cluster.workloads[0].pods.retain(|pod| pod.ready);
        }
        cluster.run(1);
    }
    assert_eq!(cluster.words()[0].2, "Failed", "{:?}", cluster.words());
    assert_eq!(cluster.alerts.len(), 1);
}

#[test]
fn a_readiness_that_flaps_is_no_progress() {
    let mut cluster = Cluster::new(&[Nature::Blinking(20, 10), Nature::Ready(1)]);
    cluster.workloads[0].min_ready = 30;
    cluster.change(0, "t1");
    cluster.run(1000);
    assert_eq!(cluster.words()[0].2, "Failed", "{:?}", cluster.words());
}

/// A slot of the cluster is held for half an hour, those of object and namespace for as long as it rolls out.
#[test]
fn a_long_rollout_lets_other_namespaces_go_on_but_not_its_own() {
    for (object, namespace, expected) in [(1, 20, 1), (20, 1, 1), (20, 20, 2)] {
        let mut cluster = Cluster::new(&[Nature::Ready(300), Nature::Ready(1)]);
        cluster.workloads[0].scale(8);
        cluster.limits = Limits {
            namespace,
            cluster: 1,
        };
        cluster.objects[0] = with(&cluster.objects[0], |restarts| {
            restarts.policy.max_concurrent = object;
        });
        cluster.change(0, "t1");
        cluster.run(1790);
        assert_eq!(cluster.taken.len(), 1, "{object} {namespace}");
        cluster.run(100);
        assert!(cluster.workloads[0].is_rolling());
        assert_eq!(cluster.taken.len(), expected, "{object} {namespace}");
        // A new leader knows nothing, and holds to it.
        cluster.memory = Memory::default();
        cluster.run(5);
        assert_eq!(cluster.taken.len(), expected, "{object} {namespace}");
    }
}
