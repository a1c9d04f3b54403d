//! What a source was denied is remembered, but not for ever, and tried again when somebody may have allowed it.

use std::{sync::Arc, time::Duration};

use super::world::{S, World, current, mins, object, policy, secs};
use crate::track::{Call, Cause, Config, Detection, Failure, Known, Refresh, SourcePolicy, Trial};

const MINUTE: Refresh = Refresh::Every(Duration::from_mins(1));
const HOUR: Refresh = Refresh::Every(Duration::from_hours(1));

fn detect(detection: Detection) -> SourcePolicy {
    SourcePolicy {
        detection,
        ..policy()
    }
}

fn denied(calls: &'static [Call]) -> super::world::Fault {
    Box::new(move |_, call, _| {
        calls.contains(&call).then_some(match call {
            Call::List => Failure::ListDenied,
            Call::Read => Failure::BatchDenied,
            Call::Describe => Failure::Denied,
        })
    })
}

fn keys(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

/// Ten secrets that are described each, which is denied.
fn undescribed() -> World {
    let mut world = World::with(detect(Detection::Describe));
    world.fault = denied(&[Call::Describe]);
    for n in 0..10 {
        let name = format!("db-{n}");
        world.put(&name, "v1");
        world.subscribe(n, MINUTE, &[(&name, current(), None)]);
    }
    world.run(mins(30));
    assert_eq!(world.count(Call::Describe), 10, "each is denied once");
    world.calls.clear();
    world
}

/// Thirty secrets of a source that may neither list nor read in batches.
fn unlisted() -> World {
    let mut world = World::with(policy());
    world.fault = denied(&[Call::List, Call::Read]);
    for n in 0..30 {
        let name = format!("db-{n}");
        world.put(&name, "v1");
        let interval = if n == 0 { MINUTE } else { HOUR };
        world.subscribe(n, interval, &[(&name, current(), Some("v1"))]);
    }
    world.run(mins(70));
    world
}

#[test]
fn a_denied_describe_is_tried_again_after_a_day() {
    let mut world = undescribed();
    world.run(mins(23 * 60));
    assert_eq!(world.count(Call::Describe), 0);
    world.run(mins(60));
    assert_eq!(world.count(Call::Describe), 10, "still denied, and told nobody");
    assert_eq!(world.woken(0, Cause::Failing), 0);
    world.fault = Box::new(|_, _, _| None);
    world.run(mins(24 * 60));
    world.calls.clear();
    world.run(mins(10));
    let (_, describes, reads) = world.counts();
    assert_eq!(reads, 0, "allowed: nothing is read to see whether it changed");
    assert!(describes >= 90, "{describes}");
}

#[test]
fn another_identity_or_an_edit_of_the_store_has_everything_denied_tried_again() {
    let mut world = unlisted();
    let mode = world.tracker.mode(S).unwrap();
    assert!(!mode.batch && !mode.list, "{mode:?}");
    world.fault = Box::new(|_, _, _| None);
    world.tracker.retry(world.now, S);
    world.run(secs(5));
    let mode = world.tracker.mode(S).unwrap();
    assert!(mode.batch && mode.list, "{mode:?}");

    let mut world = undescribed();
    world.fault = Box::new(|_, _, _| None);
    world.tracker.retry(world.now, S);
    world.run(mins(5));
    assert_eq!(world.count(Call::Read), 0);
    assert!(world.count(Call::Describe) >= 40);
}

#[test]
fn a_store_that_is_edited_all_the_time_calls_no_more_often_than_every_ten_seconds() {
    let mut world = World::with(policy());
    world.put("db", "v1");
    world.subscribe(0, MINUTE, &[("db", current(), None)]);
    world.run(secs(10));
    world.fault = Box::new(|_, _, _| Some(Failure::Transient { throttled: false }));
    world.run(mins(30));
    world.calls.clear();
    for n in 0..600 {
        if n % 2 == 0 {
            world.tracker.retry(world.now, S);
        } else {
            let detection = if n % 4 == 1 {
                Detection::Describe
            } else {
                Detection::Auto
            };
            world.tracker.set_source(world.now, S, detect(detection));
        }
        world.run(Duration::from_millis(100));
    }
    let (lists, describes, reads) = world.counts();
    // Each early end of a pause begins a new back-off: a probe at once, and a few after it.
    assert!(
        (6..=30).contains(&(lists + describes + reads)),
        "{:?}",
        world.counts()
    );
}

#[test]
fn what_failed_is_asked_for_at_once_by_another_identity_and_not_before() {
    for failure in [
        Failure::Denied,
        Failure::KeyDenied,
        Failure::Identity,
        Failure::Transient { throttled: false },
    ] {
        let mut world = World::with(policy());
        for n in 0..50 {
            let name = format!("db-{n}");
            world.put(&name, "v1");
            world.subscribe(n, HOUR, &[(&name, current(), None)]);
        }
        world.run(secs(10));
        let failed = failure.clone();
        world.fault = Box::new(move |_, _, _| Some(failed.clone()));
        for n in 0..50 {
            world.read_on_own(&format!("db-{n}"), &current());
        }
        world.run(secs(20));
        world.fault = Box::new(|_, _, _| None);
        world.tracker.retry(world.now, S);
        world.run(secs(2));
        for n in 0..50 {
            let known = world.tracker.known(S, &format!("db-{n}"), &current());
            assert!(matches!(known, Known::Version(_)), "{failure:?}: {known:?}");
        }
    }
}

#[test]
fn the_end_of_an_identity_is_told_to_all_who_want_something_of_it() {
    let mut world = World::with(policy());
    for n in 0..30 {
        let name = format!("db-{n}");
        world.put(&name, "v1");
        world.subscribe(n, HOUR, &[(&name, current(), Some("v1"))]);
    }
    world.run(secs(30));
    world.fault = Box::new(|_, _, _| Some(Failure::Identity));
    for _ in 0..3 {
        world.tracker.lose_identity(world.now, S, &"lost".into());
        world.run(secs(8));
    }
    for n in 0..30 {
        assert_eq!(world.woken(n, Cause::Failing), 1, "object {n} is told once");
    }
    world
        .tracker
        .lose_identity(world.now, crate::api::SourceId(99), &"lost".into());
}

#[test]
fn a_storm_of_refreshes_tries_what_is_denied_once_in_five_minutes_and_flips_nothing() {
    let mut world = unlisted();
    let mode = world.tracker.mode(S).unwrap();
    assert!(!mode.batch && !mode.list, "{mode:?}");
    let mut trials = Vec::new();
    for second in 0..1200 {
        let now = world.now;
        if let Some(trial) = world.tracker.trial(now, S, &keys(&["unknown", "db-3"])) {
            trials.push((second, trial));
        }
        world.run(secs(1));
        assert_eq!(world.tracker.mode(S), Some(mode));
    }
    let seconds: Vec<_> = trials.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [0, 300, 600, 900]);
    assert!(trials.iter().all(|(_, trial)| trial.list && trial.batch));
}

#[test]
fn a_storm_for_some_secrets_uses_up_no_trial_of_another() {
    let mut world = undescribed();
    let mut tried = vec![Vec::new(); 10];
    for second in 0..600 {
        let wanted: &[&str] = if second == 200 {
            &["db-9"]
        } else {
            &["db-0", "db-1"]
        };
        // However many ask in one second.
        for _ in 0..5 {
            if let Some(trial) = world.tracker.trial(world.now, S, &keys(wanted)) {
                assert!(!trial.list && !trial.batch, "not denied");
                let key = trial.describe.unwrap();
                tried[key["db-".len()..].parse::<usize>().unwrap()].push(second);
            }
        }
        world.run(secs(1));
    }
    assert_eq!(tried[0], [0, 300]);
    assert_eq!(tried[1], [1, 301]);
    assert_eq!(tried[9], [200]);
}

#[test]
fn trials_of_describe_are_one_a_second_for_a_source() {
    let mut world = undescribed();
    let all: Vec<_> = (0..10).map(|n| format!("db-{n}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut tried = 0;
    for _ in 0..5 {
        for _ in 0..20 {
            tried += usize::from(world.tracker.trial(world.now, S, &keys(&all)).is_some());
        }
        world.run(secs(1));
    }
    assert_eq!(tried, 5);
}

#[test]
fn a_trial_that_goes_well_ends_the_denial() {
    let mut world = undescribed();
    let trial = world
        .tracker
        .trial(world.now, S, &keys(&["none", "db-3", "db-4"]))
        .unwrap();
    let expected = Trial {
        describe: Some("db-3".into()),
        ..Trial::default()
    };
    assert_eq!(trial, expected);
    world.fault = Box::new(|_, _, _| None);
    world.tracker.permit(world.now, S, Call::Describe);
    world.run(mins(5));
    let (_, describes, reads) = world.counts();
    assert!(describes >= 40 && reads <= 10, "{describes} {reads}");
    world.run(mins(10));
    assert_eq!(
        world.tracker.trial(world.now, S, &keys(&["db-3"])),
        None,
        "nothing is denied"
    );

    let mut world = unlisted();
    let trial = world.tracker.trial(world.now, S, &keys(&["db-0"])).unwrap();
    assert_eq!((trial.list, trial.batch, trial.describe), (true, true, None));
    world.fault = Box::new(|_, _, _| None);
    world.tracker.permit(world.now, S, Call::List);
    world.run(secs(5));
    let mode = world.tracker.mode(S).unwrap();
    assert!(mode.list && !mode.batch, "{mode:?}");
    world.tracker.permit(world.now, S, Call::Read);
    world.run(secs(5));
    let mode = world.tracker.mode(S).unwrap();
    assert!(mode.list && mode.batch, "{mode:?}");
}

#[test]
fn a_denied_describe_of_one_secret_is_remembered_for_that_one_alone() {
    let mut world = World::new(Config {
        seed: 5,
        ..Config::default()
    });
    world
        .tracker
        .set_source(world.now, S, detect(Detection::Describe));
    world.fault = Box::new(|_, call, key| (call == Call::Describe && key == "a").then_some(Failure::Denied));
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        world.put(name, "v1");
        world.subscribe(n, MINUTE, &[(name, current(), None)]);
    }
    world.run(mins(48 * 60));
    let described = |world: &World, name: &str| {
        let of = |effect: &crate::track::Effect| matches!(effect, crate::track::Effect::Describe { key, .. } if **key == *name);
        world.calls.iter().filter(|(_, effect)| of(effect)).count()
    };
    let tries = described(&world, "a");
    assert!((2..=4).contains(&tries), "{tries} tries in two days");
    assert!(described(&world, "b") > 2800);
    assert_eq!(world.woken(0, Cause::Failing), 0);
    world.tracker.unsubscribe(&object(0));
    world.run(mins(48 * 60));
    assert_eq!(described(&world, "a"), tries);
}
