//! Each rule of the tracker.

use std::time::Duration;

use super::world::{ACCOUNT, REGION, S, State, World, current, mins, object, policy, secs, stages, version};
use crate::{
    api::Selector,
    track::{
        Call, Cause, Config, Detection, Effect, Failure, Known, Refresh, SourcePolicy, Why,
        tests::world::State as Secret,
    },
};

const MINUTE: Refresh = Refresh::Every(Duration::from_mins(1));
const HOUR: Refresh = Refresh::Every(Duration::from_hours(1));

fn detect(detection: Detection) -> SourcePolicy {
    SourcePolicy {
        detection,
        ..policy()
    }
}

fn fleet(world: &mut World, count: usize, refresh: Refresh, recorded: bool) {
    for n in 0..count {
        let name = format!("prod/db-{n}");
        world.put(&name, "v1");
        world.subscribe(n, refresh, &[(&name, current(), recorded.then_some("v1"))]);
    }
}

fn fail(call: Call, key: &'static str, failure: Failure) -> super::world::Fault {
    Box::new(move |_, at, shown| (at == call && shown == key).then(|| failure.clone()))
}

#[test]
fn batches_of_twenty_check_two_thousand_secrets_a_minute_in_a_hundred_calls() {
    let mut world = World::with(policy());
    fleet(&mut world, 2000, MINUTE, false);
    world.run(mins(1));
    for _ in 0..5 {
        world.calls.clear();
        world.run(mins(1));
        assert_eq!(world.counts(), (0, 0, 100));
    }
    assert_eq!(world.tracker.mode(S).unwrap().detection, Detection::Read);
    assert_eq!(world.tracker.mode(S).unwrap().why, Why::ShortIntervals);
    assert!(world.wakes.is_empty(), "nothing has changed");
}

#[test]
fn batches_stay_full_after_half_of_the_secrets_are_gone() {
    let mut world = World::with(detect(Detection::Read));
    fleet(&mut world, 400, MINUTE, false);
    world.run(mins(2));
    for n in (0..400).step_by(2) {
        world.tracker.unsubscribe(&object(n));
    }
    world.run(mins(2));
    world.calls.clear();
    world.run(mins(1));
    assert_eq!(world.counts(), (0, 0, 10));
}

#[test]
fn one_sweep_an_hour_checks_two_thousand_secrets() {
    let mut world = World::with(policy());
    fleet(&mut world, 2000, HOUR, false);
    world.run(mins(60));
    world.calls.clear();
    world.run(mins(60));
    // Twenty pages each.
    assert_eq!(world.counts(), (1, 0, 0));
    assert_eq!(world.tracker.mode(S).unwrap().detection, Detection::List);
    assert!(world.tracker.checked(&object(7)).unwrap() + mins(61) > world.now);
}

#[test]
fn auto_takes_the_cheapest_call_that_keeps_the_promise() {
    let cases = [
        (
            "few and slow: a batch costs no more than a sweep",
            policy(),
            20,
            HOUR,
            Detection::Read,
        ),
        ("many and slow", policy(), 41, HOUR, Detection::List),
        ("many and fast", policy(), 41, MINUTE, Detection::Read),
        (
            "fast, with events",
            SourcePolicy {
                events: true,
                ..policy()
            },
            41,
            MINUTE,
            Detection::List,
        ),
        (
            "asked for List",
            detect(Detection::List),
            3,
            MINUTE,
            Detection::List,
        ),
        (
            "asked for Describe",
            detect(Detection::Describe),
            41,
            HOUR,
            Detection::Describe,
        ),
        (
            "asked for Read",
            detect(Detection::Read),
            41,
            HOUR,
            Detection::Read,
        ),
    ];
    for (name, policy, count, refresh, expected) in cases {
        let mut world = World::with(policy);
        fleet(&mut world, count, refresh, false);
        world.run(secs(1));
        assert_eq!(world.tracker.mode(S).unwrap().detection, expected, "{name}");
    }
}

#[test]
fn a_sweep_over_a_large_account_is_given_up_for_batches() {
    let mut world = World::with(policy());
    fleet(&mut world, 100, HOUR, true);
    for n in 0..3000 {
        world.put(&format!("other/{n}"), "v1");
    }
    world.run(mins(2));
    assert_eq!(world.count(Call::List), 1);
    assert_eq!(world.tracker.mode(S).unwrap().detection, Detection::Read);
}

#[test]
fn the_shortest_interval_of_its_subscribers_counts() {
    let mut world = World::with(detect(Detection::Describe));
    world.put("a", "v1");
    world.subscribe(1, HOUR, &[("a", current(), None)]);
    world.subscribe(2, MINUTE, &[("a", current(), None)]);
    world.run(mins(10));
    assert!(
        (9..=11).contains(&world.count(Call::Describe)),
        "{:?}",
        world.counts()
    );
    world.tracker.unsubscribe(&object(2));
    world.calls.clear();
    world.run(mins(30));
    assert!(world.count(Call::Describe) <= 1, "{:?}", world.counts());
}

#[test]
fn five_hundred_objects_on_one_secret_cost_one_check_and_all_are_woken() {
    let mut world = World::with(policy());
    world.put("a", "v1");
    for n in 0..500 {
        world.subscribe(n, MINUTE, &[("a", current(), None)]);
    }
    world.run(mins(5));
    assert!((4..=6).contains(&world.count(Call::Read)), "{:?}", world.counts());
    world.rotate("a", "v2");
    world.run(mins(1) + secs(2));
    assert!((0..500).all(|n| world.holds(n, "a") == Some(&version("v2"))));
}

#[test]
fn a_list_only_marks_due_and_absence_from_it_is_not_gone() {
    let mut world = World::with(detect(Detection::List));
    fleet(&mut world, 3, Refresh::Every(mins(10)), false);
    world.run(mins(12));
    world.rotate("prod/db-1", "v2");
    world.calls.clear();
    world.run(mins(10));
    assert_eq!(world.counts(), (1, 1, 0));
    assert_eq!(world.holds(1, "prod/db-1"), Some(&version("v2")));

    // A sweep that lags an hour does not show what is three minutes old: Describe does.
    let mut world = World::with(detect(Detection::List));
    world.put("elsewhere", "v1");
    world.run(mins(60));
    world.put("young", "v1");
    world.secrets.get_mut("young").unwrap().insert(0, (secs(0), None));
    world.subscribe(9, Refresh::Every(mins(10)), &[("young", current(), None)]);
    world.lag.0 = mins(60);
    world.run(mins(15));
    assert!(world.count(Call::Describe) >= 1);
    assert_eq!(world.woken(9, Cause::Gone), 0);
    assert_eq!(
        world.tracker.known(S, "young", &current()),
        Known::Version(version("v1"))
    );
}

#[test]
fn only_describe_decides_that_a_secret_is_gone() {
    for deleted in [false, true] {
        let mut world = World::with(policy());
        fleet(&mut world, 1, MINUTE, false);
        world.run(mins(2));
        let marked = Secret {
            deleted: true,
            ..world.state("prod/db-0", world.now).unwrap()
        };
        world.set("prod/db-0", deleted.then_some(marked.clone()));
        world.fault = fail(
            Call::Describe,
            "prod/db-0",
            Failure::Transient { throttled: false },
        );
        world.run(mins(3));
        assert!(
            matches!(world.tracker.known(S, "prod/db-0", &current()), Known::Failing(_)),
            "not decided"
        );
        assert_eq!(world.woken(0, Cause::Gone), 0);
        world.fault = Box::new(|_, _, _| None);
        world.run(mins(10));
        assert_eq!(
            world.tracker.known(S, "prod/db-0", &current()),
            Known::Gone { deleted }
        );
        assert_eq!(world.woken(0, Cause::Gone), 1);
        // Re-checked at its interval, and back when it is there.
        world.set(
            "prod/db-0",
            Some(Secret {
                deleted: false,
                ..marked
            }),
        );
        world.run(mins(2));
        assert_eq!(
            world.tracker.known(S, "prod/db-0", &current()),
            Known::Version(version("v1"))
        );
        assert_eq!(world.woken(0, Cause::Recovered), 1);
    }
}

#[test]
fn a_move_back_waits_for_a_second_describe_a_minute_later() {
    let mut world = World::with(policy());
    fleet(&mut world, 1, MINUTE, false);
    world.run(mins(2));
    world.rotate("prod/db-0", "v2");
    world.run(mins(2));
    assert_eq!(world.holds(0, "prod/db-0"), Some(&version("v2")));
    world.rotate("prod/db-0", "v1");
    let back = world.now;
    world.calls.clear();
    world.run(mins(4));
    let applied = world.wakes.last().unwrap().0;
    assert_eq!(world.holds(0, "prod/db-0"), Some(&version("v1")));
    assert!(applied >= back + mins(1), "applied at {applied:?}");
    assert_eq!(world.count(Call::Describe), 2);
}

#[test]
fn a_version_left_long_ago_is_accepted_at_once() {
    let mut world = World::with(policy());
    fleet(&mut world, 1, MINUTE, false);
    world.run(mins(2));
    world.rotate("prod/db-0", "v2");
    world.run(mins(12));
    world.rotate("prod/db-0", "v1");
    world.run(mins(1) + secs(1));
    assert_eq!(world.holds(0, "prod/db-0"), Some(&version("v1")));
    assert_eq!(world.count(Call::Describe), 0);
}

#[test]
fn an_older_version_in_a_batch_is_held() {
    let mut world = World::with(policy());
    fleet(&mut world, 1, MINUTE, false);
    let value = |id: &str, created| crate::track::Observation::Value {
        source: S,
        key: "prod/db-0".into(),
        selector: current(),
        version: version(id),
        arn: "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/db-0-AbCdEf".into(),
        name: "prod/db-0".into(),
        created: Some(created),
    };
    world.tracker.observe(world.now, value("v5", 500));
    world.tracker.observe(world.now, value("v4", 400));
    let held = Known::Held {
        accepted: Some(version("v5")),
        suspect: version("v4"),
    };
    assert_eq!(world.tracker.known(S, "prod/db-0", &current()), held);
    world.tracker.observe(world.now, value("v6", 600));
    assert_eq!(
        world.tracker.known(S, "prod/db-0", &current()),
        Known::Version(version("v6"))
    );
}

#[test]
fn after_a_start_a_stale_replica_rolls_nothing_back_and_a_real_change_is_applied() {
    let cases = [
        (
            "rotated while away",
            vec![("v3", "AWSCURRENT"), ("v2", "AWSPREVIOUS")],
            true,
        ),
        (
            "rolled back while away",
            vec![("v1", "AWSCURRENT"), ("v2", "AWSPREVIOUS")],
            true,
        ),
        (
            "a replica that knows v2 only as pending",
            vec![("v1", "AWSCURRENT"), ("v2", "AWSPENDING")],
            false,
        ),
        (
            "a replica that does not know v2",
            vec![("v1", "AWSCURRENT")],
            false,
        ),
    ];
    for (name, shown, at_once) in cases {
        for detection in [Detection::Read, Detection::Describe, Detection::List] {
            let mut world = World::with(detect(detection));
            let state = State {
                stages: stages(&shown),
                deleted: false,
                suffix: "AbCdEf",
            };
            world.set("a", Some(state));
            world.subscribe(0, MINUTE, &[("a", current(), Some("v2"))]);
            world.run(mins(1) + secs(2));
            let expected = if at_once { shown[0].0 } else { "v2" };
            assert_eq!(
                world.holds(0, "a"),
                Some(&version(expected)),
                "{name}, {detection:?}"
            );
            // Shown for good, it is true.
            world.run(mins(2));
            assert_eq!(
                world.holds(0, "a"),
                Some(&version(shown[0].0)),
                "{name}, {detection:?}"
            );
        }
    }
}

#[test]
fn a_stale_replica_is_overruled_by_a_fresh_one() {
    let mut world = World::with(policy());
    world.set(
        "a",
        Some(State {
            stages: stages(&[("v1", "AWSCURRENT")]),
            deleted: false,
            suffix: "AbCdEf",
        }),
    );
    world.subscribe(0, MINUTE, &[("a", current(), Some("v2"))]);
    world.run(mins(1) + secs(2));
    assert!(matches!(
        world.tracker.known(S, "a", &current()),
        Known::Held { accepted: None, .. }
    ));
    world.rotate("a", "v2");
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, "a", &current()),
        Known::Version(version("v2"))
    );
    assert_eq!(
        world.written.values().next().unwrap().len(),
        1,
        "nothing else was ever written"
    );
}

#[test]
fn an_object_that_lags_behind_the_tracker_is_woken() {
    let mut world = World::with(policy());
    fleet(&mut world, 1, MINUTE, false);
    world.run(mins(2));
    world.rotate("prod/db-0", "v2");
    world.run(mins(2));
    world.subscribe(5, MINUTE, &[("prod/db-0", current(), Some("v1"))]);
    world.run(secs(1));
    assert_eq!(world.woken(5, Cause::Changed), 1);
}

#[test]
fn an_object_whose_write_is_refused_is_not_woken_by_asking_again() {
    let mut world = World::with(policy());
    fleet(&mut world, 1, MINUTE, false);
    world.run(mins(2));
    world.rotate("prod/db-0", "v2");
    world.run(mins(2));
    // Each pass subscribes anew, with the version that its Secret still holds.
    for _ in 0..5 {
        world.subscribe(5, MINUTE, &[("prod/db-0", current(), Some("v1"))]);
        world.run(secs(1));
    }
    assert_eq!(world.woken(5, Cause::Changed), 1);
}

#[test]
fn a_hint_is_followed_until_its_version_shows_at_most_six_times() {
    let mut world = World::with(SourcePolicy {
        events: true,
        ..policy()
    });
    fleet(&mut world, 41, HOUR, false);
    world.run(mins(61));
    world.calls.clear();
    let arn = format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:prod/db-3-AbCdEf");
    world.tracker.hint(world.now, S, &arn, Some(version("v2")));
    world.run(secs(5));
    world.rotate("prod/db-3", "v2");
    world.run(secs(10));
    assert_eq!(world.holds(3, "prod/db-3"), Some(&version("v2")));
    assert!(
        (2..=4).contains(&world.count(Call::Describe)),
        "{:?}",
        world.counts()
    );

    world.calls.clear();
    world
        .tracker
        .hint(world.now, S, "prod/db-4", Some(version("never")));
    world.tracker.hint(world.now, S, "prod/db-3", Some(version("v2")));
    world.tracker.hint(world.now, S, "unknown", None);
    world.run(mins(10));
    assert_eq!((world.count(Call::Describe), world.count(Call::Read)), (6, 0));
    assert_eq!(
        world.holds(4, "prod/db-4"),
        Some(&version("v1")),
        "a hint is no state"
    );
}

#[test]
fn after_a_start_one_sweep_checks_what_is_unchanged() {
    let mut world = World::with(policy());
    fleet(&mut world, 500, HOUR, true);
    world.run(mins(1));
    assert_eq!(world.counts(), (1, 0, 0));
    assert!((0..500).all(|n| world.tracker.checked(&object(n)).is_some()));
    assert!(world.wakes.is_empty());
}

#[test]
fn after_a_start_without_list_checks_are_spread_over_the_interval() {
    let mut world = World::with(detect(Detection::Describe));
    fleet(&mut world, 600, HOUR, true);
    for _ in 0..6 {
        world.calls.clear();
        world.run(mins(10));
        assert!(
            (70..130).contains(&world.count(Call::Describe)),
            "{:?}",
            world.counts()
        );
    }
}

/// Few enough that reading them is the cheaper way to check.
const FEW: usize = 15;

#[test]
fn after_a_start_one_listing_looks_at_what_is_read_else() {
    for (interval, lists) in [(HOUR, 1), (Refresh::Every(mins(1440)), 1), (MINUTE, 0)] {
        let mut world = World::with(policy());
        for n in 0..300 {
            world.put(&format!("other-{n:03}"), "v1");
        }
        fleet(&mut world, FEW, interval, true);
        world.put("gone", "v1");
        world.subscribe(FEW, interval, &[("gone", current(), Some("v1"))]);
        world.set("gone", None);
        world.rotate("prod/db-3", "v2");
        world.run(secs(10));
        assert_eq!(world.count(Call::List), lists, "{interval:?}");
        if lists == 0 {
            // Their turns come soon enough.
            continue;
        }
        assert_eq!(
            world.tracker.mode(S).map(|mode| mode.detection),
            Some(Detection::Read),
            "{interval:?}"
        );
        assert_eq!((world.count(Call::Describe), world.count(Call::Read)), (2, 0));
        assert!((0..FEW).all(|n| world.tracker.checked(&object(n)).is_some()));
        assert_eq!(world.holds(3, "prod/db-3"), Some(&version("v2")));
        assert_eq!(world.woken(FEW, Cause::Gone), 1);
        world.run(mins(300));
        assert_eq!(world.count(Call::List), 1, "once is enough");
    }
}

#[test]
fn a_first_look_costs_no_more_calls_than_describing_each() {
    // The world answers with all pages at once; that the rest is not asked for is the driver's part.
    let mut world = World::with(policy());
    for n in 0..1_000 {
        world.put(&format!("other-{n:04}"), "v1");
    }
    fleet(&mut world, 5, HOUR, true);
    let mut pages = Vec::new();
    world.run(secs(5));
    assert_eq!(world.count(Call::List), 1);
    for page in 1..=6 {
        let (now, others) = (world.now, Vec::new());
        world.tracker.observe(
            now,
            crate::track::Observation::Listed {
                source: S,
                entries: others,
                complete: false,
            },
        );
        pages.push((page, world.tracker.is_listing(S)));
    }
    let expected: Vec<_> = (1..=6).map(|page| (page, page < 5)).collect();
    assert_eq!(pages, expected);
    world.run(mins(120));
    assert_eq!(world.count(Call::List), 1);
    assert!((0..5).all(|n| world.tracker.checked(&object(n)).is_some()));
}

#[test]
fn a_first_look_that_is_denied_leaves_all_to_their_turns() {
    let mut world = World::with(policy());
    fleet(&mut world, FEW, HOUR, true);
    world.fault = fail(Call::List, "*", Failure::Denied);
    world.run(secs(30));
    assert_eq!(world.counts(), (1, 0, 0));
    world.run(mins(60));
    assert_eq!(world.count(Call::List), 1);
    assert!((0..FEW).all(|n| world.tracker.checked(&object(n)).is_some()));
}

#[test]
fn what_is_new_needs_no_first_look() {
    let mut world = World::with(policy());
    fleet(&mut world, FEW, HOUR, false);
    world.run(mins(20));
    assert_eq!(world.count(Call::List), 0);
}

#[test]
fn a_new_want_is_left_to_its_reader_but_not_forgotten() {
    for (detection, refresh) in [
        (Detection::Auto, MINUTE),
        (Detection::Describe, MINUTE),
        (Detection::List, MINUTE),
        (Detection::Auto, Refresh::Once),
    ] {
        let mut world = World::with(detect(detection));
        world.put("a", "v1");
        world.fault =
            Box::new(|now, call, _| (call == Call::Read && now < secs(1001)).then_some(Failure::Unanswered));
        // The reader's own read told nothing of use.
        world.tracker.subscribe(
            world.now,
            &object(0),
            crate::track::Subscription {
                refresh,
                rotation: false,
                wants: vec![crate::track::Want {
                    source: S,
                    key: "a".into(),
                    selector: current(),
                    recorded: None,
                }],
            },
        );
        world.run(secs(25));
        assert_eq!(world.counts(), (0, 0, 0), "{detection:?}");
        world.run(mins(5));
        assert_eq!(
            world.tracker.known(S, "a", &current()),
            Known::Version(version("v1")),
            "{detection:?}"
        );
        assert_eq!(world.woken(0, Cause::Changed), 1, "{detection:?} {refresh:?}");
    }
}

#[test]
fn what_is_wanted_once_is_checked_no_more() {
    let mut world = World::with(policy());
    world.put("a", "v1");
    world.subscribe(0, Refresh::Once, &[("a", current(), None)]);
    world.subscribe(1, Refresh::Every(Duration::ZERO), &[("a", current(), None)]);
    world.run(mins(300));
    assert_eq!(world.counts(), (0, 0, 0));
}

#[test]
fn a_version_by_id_is_described_for_being_there_only() {
    let mut world = World::with(policy());
    world.put("a", "v1");
    world.subscribe(0, HOUR, &[("a", Selector::Version(version("v1")), None)]);
    world.rotate("a", "v2");
    world.run(mins(180));
    assert_eq!(world.count(Call::Read), 0);
    assert!(
        (2..=3).contains(&world.count(Call::Describe)),
        "{:?}",
        world.counts()
    );
    assert!(world.wakes.is_empty());
    world.set("a", None);
    world.run(mins(60));
    assert_eq!(world.woken(0, Cause::Gone), 1);
}

#[test]
fn stages_other_than_current_are_described_and_a_missing_one_fails() {
    let mut world = World::with(policy());
    world.put("a", "v1");
    let previous = Selector::parse(Some("AWSPREVIOUS"));
    world.subscribe(0, MINUTE, &[("a", previous.clone(), None)]);
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, "a", &previous),
        Known::Failing(Failure::StageNotFound(previous.clone()))
    );
    assert_eq!(world.count(Call::Read), 0);
    world.rotate("a", "v2");
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, "a", &previous),
        Known::Version(version("v1"))
    );
    assert_eq!(world.woken(0, Cause::Recovered), 1);
}

#[test]
fn names_and_arns_of_one_secret_are_joined_and_part_when_it_is_made_anew() {
    let mut world = World::with(policy());
    world.put("prod/db", "v1");
    let arn = format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:prod/db");
    let full = format!("{arn}-AbCdEf");
    world.subscribe(0, MINUTE, &[(&full, current(), None)]);
    world.subscribe(1, MINUTE, &[("prod/db", current(), None)]);
    world.subscribe(2, MINUTE, &[(&arn, current(), None)]);
    world.run(mins(2));
    world.calls.clear();
    world.run(mins(5));
    let keys: usize = world
        .calls
        .iter()
        .map(|(_, call)| match call {
            Effect::Read { keys, .. } => keys.len(),
            _ => 100,
        })
        .sum();
    assert_eq!(keys, 5, "{:?}", world.calls);
    let anew = State {
        stages: stages(&[("w1", "AWSCURRENT")]),
        deleted: false,
        suffix: "ZzZzZz",
    };
    world.set("prod/db", Some(anew));
    world.run(mins(3));
    assert_eq!(world.holds(1, "prod/db"), Some(&version("w1")));
    assert_eq!(world.holds(2, &arn), Some(&version("w1")));
    assert_eq!(world.holds(0, &full), Some(&version("v1")));
    assert_eq!(
        world.tracker.known(S, &full, &current()),
        Known::Gone { deleted: false }
    );
    assert_eq!((world.woken(0, Cause::Gone), world.woken(1, Cause::Gone)), (1, 0));
}

#[test]
fn arns_of_other_accounts_are_described_never_batched_nor_listed() {
    for policy in [policy(), detect(Detection::List), detect(Detection::Read)] {
        let mut world = World::with(policy);
        fleet(&mut world, 30, MINUTE, false);
        world.put("theirs", "v1");
        let arn = format!("arn:aws:secretsmanager:{REGION}:999988887777:secret:theirs-AbCdEf");
        world.subscribe(99, MINUTE, &[(&arn, current(), None)]);
        world.run(mins(5));
        let described = world
            .calls
            .iter()
            .filter(|(_, call)| matches!(call, Effect::Describe { .. }))
            .count();
        assert!((4..=6).contains(&described), "{:?}", world.counts());
        for (_, call) in &world.calls {
            if let Effect::Read { keys, .. } = call {
                assert!(keys.iter().all(|key| !key.starts_with("arn:")), "{keys:?}");
            }
        }
    }
}

#[test]
fn one_failing_secret_is_asked_for_alone_and_delays_no_other() {
    let mut world = World::with(policy());
    fleet(&mut world, 20, MINUTE, false);
    world.run(mins(2));
    world.fault = fail(Call::Read, "prod/db-7", Failure::KeyDenied);
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, "prod/db-7", &current()),
        Known::Failing(Failure::KeyDenied)
    );
    assert_eq!(world.woken(7, Cause::Failing), 1);
    world.rotate("prod/db-8", "v2");
    world.calls.clear();
    world.run(mins(5));
    assert_eq!(world.holds(8, "prod/db-8"), Some(&version("v2")));
    let alone = world
        .calls
        .iter()
        .filter(|(_, call)| matches!(call, Effect::Read { keys, .. } if keys.len() == 1));
    assert_eq!(alone.count(), 5);
    assert_eq!(world.woken(7, Cause::Failing), 1, "told once");
    world.fault = Box::new(|_, _, _| None);
    world.run(mins(2));
    assert_eq!(world.woken(7, Cause::Recovered), 1);
    world.calls.clear();
    world.run(mins(1));
    assert_eq!(world.counts(), (0, 0, 1), "back in its batch");
}

#[test]
fn permanent_failures_are_rechecked_at_five_minutes_or_the_interval() {
    // The first pauses are 10, 20, 40, 80 and 160 s.
    for (refresh, expected) in [(MINUTE, 31..=34), (HOUR, 9..=11), (Refresh::Once, 9..=12)] {
        let mut world = World::with(detect(Detection::Describe));
        world.fault = Box::new(|_, _, _| Some(Failure::Denied));
        world.put("a", "v1");
        world.subscribe(0, refresh, &[("a", current(), None)]);
        world.run(mins(30));
        assert!(
            expected.contains(&world.calls.len()),
            "{refresh:?}: {:?}",
            world.counts()
        );
        assert_eq!(world.woken(0, Cause::Failing), 1);
    }
}

#[test]
fn what_is_wanted_once_is_rechecked_until_its_first_success_only() {
    for failure in [Failure::Denied, Failure::KeyDenied, Failure::NotFound] {
        let mut world = World::with(policy());
        world.put("a", "v1");
        let mended = world.now + mins(12);
        let fails = failure.clone();
        world.fault = Box::new(move |now, _, key| (key == "a" && now < mended).then(|| fails.clone()));
        world.subscribe(0, Refresh::Once, &[("a", current(), None)]);
        world.run(mins(11));
        assert!(
            (5..=14).contains(&world.calls.len()),
            "{failure:?}: {:?}",
            world.calls
        );
        world.run(mins(6));
        world.read_again();
        assert_eq!(world.holds(0, "a"), Some(&version("v1")), "{failure:?}");
        world.calls.clear();
        world.run(mins(600));
        assert_eq!(world.counts(), (0, 0, 0), "{failure:?}");
    }
}

#[test]
fn what_is_wanted_once_is_not_rechecked_for_others_that_are_gone() {
    for (what, failure) in [("denied", Some(Failure::Denied)), ("missing", None)] {
        let mut world = World::with(policy());
        world.put("a", "v1");
        world.subscribe(0, Refresh::Once, &[("a", current(), Some("v1"))]);
        world.subscribe(1, MINUTE, &[("a", current(), Some("v1"))]);
        world.run(mins(2));
        match failure {
            Some(failure) => world.fault = Box::new(move |_, _, _| Some(failure.clone())),
            None => world.set(
                "a",
                Some(super::world::State {
                    stages: super::world::stages(&[("v1", "AWSPREVIOUS")]),
                    deleted: false,
                    suffix: "AbCdEf",
                }),
            ),
        }
        world.run(mins(10));
        assert!(world.woken(1, Cause::Failing) > 0, "{what}: {:?}", world.wakes);
        world.tracker.unsubscribe(&object(1));
        world.calls.clear();
        world.wakes.clear();
        world.run(mins(600));
        assert_eq!(world.counts(), (0, 0, 0), "{what}");
        assert_eq!(world.woken(0, Cause::Recovered), 1, "{what}");
    }
}

#[test]
fn an_outage_turns_nothing_red_and_its_end_brings_no_storm() {
    let mut world = World::with(policy());
    fleet(&mut world, 2000, MINUTE, false);
    world.run(mins(2));
    world.fault = Box::new(|_, _, _| Some(Failure::Transient { throttled: false }));
    world.calls.clear();
    world.run(mins(60));
    assert!(world.calls.len() < 60, "{} calls", world.calls.len());
    assert!(world.wakes.is_empty());
    assert_eq!(
        world.tracker.known(S, "prod/db-0", &current()),
        Known::Version(version("v1"))
    );
    world.fault = Box::new(|_, _, _| None);
    world.calls.clear();
    world.run(mins(6));
    assert!(world.calls.len() <= 100 * 7, "{} calls", world.calls.len());
    assert!((0..2000).all(|n| world.tracker.checked(&object(n)).unwrap() + mins(6) > world.now));
    world.calls.clear();
    world.run(mins(1));
    assert_eq!(world.counts(), (0, 0, 100), "phases are kept");
}

#[test]
fn one_throttled_source_delays_no_other() {
    let mut world = World::with(policy());
    fleet(&mut world, 1, MINUTE, false);
    let other = crate::api::SourceId(2);
    world.tracker.set_source(world.now, other, policy());
    world.fault = Box::new(|_, _, _| Some(Failure::Transient { throttled: true }));
    let want = crate::track::Want {
        source: other,
        key: "b".into(),
        selector: current(),
        recorded: None,
    };
    world.tracker.subscribe(
        world.now,
        &object(9),
        crate::track::Subscription {
            refresh: MINUTE,
            rotation: false,
            wants: vec![want],
        },
    );
    world.run(mins(3));
    let reads = world
        .calls
        .iter()
        .filter(|(_, call)| matches!(call, Effect::Read { source, .. } if *source == other));
    // Never answered: our model answers only for the first source.
    assert_eq!(reads.count(), 1);
}

#[test]
fn denied_calls_are_done_without_and_tried_again_after_a_day() {
    let mut world = World::with(policy());
    world.fault = fail(Call::List, "*", Failure::ListDenied);
    fleet(&mut world, 100, HOUR, true);
    world.run(mins(61));
    assert_eq!(world.counts(), (1, 0, 5));
    let mode = world.tracker.mode(S).unwrap();
    assert_eq!(
        (mode.detection, mode.why, mode.list),
        (Detection::Read, Why::ListDenied, false)
    );
    world.fault = fail(Call::Read, "*", Failure::BatchDenied);
    world.run(mins(121));
    let mode = world.tracker.mode(S).unwrap();
    assert_eq!(
        (mode.detection, mode.why, mode.batch),
        (Detection::Describe, Why::BothDenied, false)
    );
    assert!(
        (100..=250).contains(&world.count(Call::Describe)),
        "{:?}",
        world.counts()
    );
    world.fault = Box::new(|_, _, _| None);
    world.calls.clear();
    world.run(Duration::from_hours(25));
    assert!(world.count(Call::List) >= 1);
    assert_eq!(world.tracker.mode(S).unwrap().detection, Detection::List);
    // An edit of the store tries at once.
    world.fault = fail(Call::List, "*", Failure::ListDenied);
    world.run(Duration::from_hours(2));
    assert!(!world.tracker.mode(S).unwrap().list);
    world.tracker.set_source(
        world.now,
        S,
        SourcePolicy {
            events: true,
            ..policy()
        },
    );
    world.run(secs(1));
    assert!(world.tracker.mode(S).unwrap().list);
}

#[test]
fn where_describe_is_denied_a_read_alone_has_to_do() {
    let mut world = World::with(detect(Detection::Describe));
    world.fault = Box::new(|_, call, _| (call == Call::Describe).then_some(Failure::Denied));
    world.put("a", "v1");
    world.subscribe(0, MINUTE, &[("a", current(), None)]);
    world.run(mins(2));
    world.rotate("a", "v2");
    world.run(mins(2));
    assert_eq!(world.holds(0, "a"), Some(&version("v2")));
    assert_eq!(world.count(Call::Describe), 1);
    world.rotate("a", "v1");
    world.run(mins(4));
    assert_eq!(world.holds(0, "a"), Some(&version("v1")), "confirmed by reads");
}

#[test]
fn without_periodic_reads_nothing_is_read_and_intervals_are_ten_minutes() {
    let mut world = World::new(Config {
        periodic_reads: false,
        seed: 3,
        ..Config::default()
    });
    world.tracker.set_source(world.now, S, detect(Detection::Read));
    fleet(&mut world, 200, MINUTE, false);
    world.run(mins(40));
    assert_eq!(world.count(Call::Read), 0);
    assert!((3..=5).contains(&world.count(Call::List)), "{:?}", world.counts());
    assert!(world.tracker.mode(S).unwrap().raised);
}

#[test]
fn a_refresh_checks_now_and_wakes_even_without_a_change() {
    let mut world = World::with(policy());
    fleet(&mut world, 2, HOUR, false);
    world.run(mins(1));
    world.calls.clear();
    world.tracker.refresh(world.now, &object(0));
    world.run(secs(2));
    assert_eq!(world.counts(), (0, 1, 0));
    assert_eq!(
        (world.woken(0, Cause::Refreshed), world.woken(1, Cause::Refreshed)),
        (1, 0)
    );
    // An object without wants has nothing to wait for.
    world.subscribe(7, HOUR, &[]);
    world.tracker.refresh(world.now, &object(7));
    world.run(secs(1));
    assert_eq!(world.woken(7, Cause::Refreshed), 1);
}

#[test]
fn facts_of_rotations_come_from_sweeps_or_from_describe() {
    let pending = stages(&[("v1", "AWSCURRENT"), ("v2", "AWSPENDING")]);
    for (listed, denied) in [(1, false), (1, true)] {
        let mut world = World::with(policy());
        if denied {
            world.fault = fail(Call::List, "*", Failure::ListDenied);
        }
        world.put("a", "v1");
        world.subscribe_rotation(0, MINUTE, true, &[("a", current(), None)]);
        world.run(mins(40));
        assert_eq!(world.tracker.rotation(S, "a").unwrap().pending, None);
        world.set(
            "a",
            Some(State {
                stages: pending.clone(),
                deleted: false,
                suffix: "AbCdEf",
            }),
        );
        world.calls.clear();
        world.run(mins(60));
        assert_eq!(
            world.tracker.rotation(S, "a").unwrap().pending,
            Some(version("v2")),
            "{denied}"
        );
        assert_eq!(world.woken(0, Cause::Rotation), 2);
        let (list, describe, _) = world.counts();
        if denied {
            assert_eq!(list, 0);
            assert!((1..=3).contains(&describe), "{describe}");
        } else {
            assert!((5..=7).contains(&list), "{list}");
            assert!(describe <= listed, "{describe}");
        }
    }
}

#[test]
fn facts_that_are_denied_are_asked_for_seldom_and_known_to_be_hidden() {
    let mut world = World::with(policy());
    world.fault = Box::new(|_, call, _| match call {
        Call::List => Some(Failure::ListDenied),
        Call::Describe => Some(Failure::Denied),
        Call::Read => None,
    });
    world.put("a", "v1");
    world.subscribe_rotation(0, HOUR, true, &[("a", current(), None)]);
    assert!(!world.tracker.stages_hidden(S, "a"));
    world.run(mins(60));
    assert_eq!(world.tracker.rotation(S, "a"), None);
    assert!(world.tracker.stages_hidden(S, "a"));
    world.calls.clear();
    world.run(mins(180));
    let (_, describes, reads) = world.counts();
    assert!(describes + reads <= 12, "{describes} {reads}");
}

#[test]
fn facts_are_asked_for_of_those_alone_that_want_them() {
    let mut world = World::with(policy());
    world.fault = fail(Call::List, "*", Failure::ListDenied);
    for name in ["a", "b"] {
        world.put(name, "v1");
    }
    world.subscribe_rotation(0, MINUTE, true, &[("a", current(), None)]);
    world.subscribe(1, MINUTE, &[("b", current(), None)]);
    world.run(mins(120));
    let described = |name: &str| {
        let of = |(_, effect): &&(Duration, Effect)| matches!(effect, Effect::Describe { key, .. } if **key == *name);
        world.calls.iter().filter(of).count()
    };
    assert!((4..=6).contains(&described("a")), "{}", described("a"));
    assert_eq!(described("b"), 0);
    assert!(world.tracker.rotation(S, "a").is_some());
    assert_eq!(world.tracker.rotation(S, "b"), None);
}

#[test]
fn a_stage_that_one_object_misses_hides_no_rotation_from_another_and_is_seen_when_it_comes() {
    let mut world = World::with(detect(Detection::Describe));
    world.put("a", "v1");
    let pending = Selector::parse(Some("AWSPENDING"));
    world.subscribe_rotation(0, MINUTE, true, &[("a", current(), None)]);
    world.subscribe(1, MINUTE, &[("a", pending.clone(), None)]);
    world.tracker.observe(
        world.now,
        crate::track::Observation::Failed {
            source: S,
            call: Call::Read,
            keys: vec!["a".into()],
            failure: Failure::StageNotFound(pending.clone()),
            begun: world.now,
        },
    );
    world.run(mins(5));
    world.set(
        "a",
        Some(State {
            stages: stages(&[("v1", "AWSCURRENT"), ("v2", "AWSPENDING")]),
            deleted: false,
            suffix: "AbCdEf",
        }),
    );
    world.run(mins(5));
    assert_eq!(
        world.tracker.rotation(S, "a").unwrap().pending,
        Some(version("v2"))
    );
    assert_eq!(
        world.tracker.known(S, "a", &pending),
        Known::Version(version("v2"))
    );
}

#[test]
fn one_describe_tells_the_facts_when_a_version_moved() {
    let mut world = World::with(policy());
    world.put("a", "v1");
    world.subscribe_rotation(0, MINUTE, true, &[("a", current(), None)]);
    world.run(mins(11));
    world.calls.clear();
    world.rotate("a", "v2");
    world.run(mins(1));
    assert_eq!(world.count(Call::Describe), 1);
}

#[test]
fn a_call_without_an_answer_is_made_again_after_five_minutes() {
    let mut world = World::with(detect(Detection::Describe));
    world.put("a", "v1");
    world.subscribe(0, MINUTE, &[("a", current(), None)]);
    let lost = (0..200).find_map(|n| {
        let now = world.now + secs(n);
        (!world
            .tracker
            .poll(now)
            .iter()
            .all(|effect| matches!(effect, Effect::Mode { .. })))
        .then_some(now)
    });
    let lost = lost.unwrap();
    assert!(world.tracker.poll(lost + secs(299)).is_empty());
    assert_eq!(world.tracker.next_due(), Some(lost + secs(300)));
    assert_eq!(
        world.tracker.poll(lost + secs(300)),
        [Effect::Describe {
            source: S,
            key: "a".into()
        }]
    );
}

#[test]
fn a_removed_source_is_asked_no_more_and_forgotten_with_its_last_object() {
    let mut world = World::with(policy());
    fleet(&mut world, 30, MINUTE, false);
    world.run(mins(2));
    world.tracker.remove_source(S);
    world.calls.clear();
    world.run(mins(10));
    assert_eq!(world.counts(), (0, 0, 0));
    assert_eq!(
        world.tracker.known(S, "prod/db-0", &current()),
        Known::Version(version("v1"))
    );
    world.tracker.set_source(world.now, S, policy());
    world.run(mins(2));
    assert!(world.count(Call::Read) >= 2);
    world.tracker.remove_source(S);
    for n in 0..30 {
        world.tracker.unsubscribe(&object(n));
    }
    world.run(mins(1));
    assert_eq!(world.tracker.mode(S), None);
    assert_eq!(world.tracker.next_due(), None);
}

#[test]
fn a_secret_takes_little_memory() {
    // There are a hundred thousand of them, with a key and a version id of some fifty bytes each besides.
    assert!(size_of::<crate::track::remote::Remote>() <= 224);
    assert!(size_of::<crate::track::view::View>() <= 64);
}
