//! When a secret counts as deleted.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{S, World, current, mins, object, policy, secs};
use crate::{
    api::Selector,
    track::{Call, Cause, Known, Refresh, dice::Dice},
};

const KEY: &str = "prod/db";
const HOUR: Refresh = Refresh::Every(Duration::from_hours(1));

/// A world in which the secret is gone, as one Describe has shown.
fn gone() -> World {
    let mut world = World::with(policy());
    world.put(KEY, "v1");
    world.subscribe(0, HOUR, &[(KEY, current(), None)]);
    world.run(mins(2));
    world.set(KEY, None);
    world.tracker.refresh(world.now, &super::world::object(0));
    world.run(secs(2));
    assert_eq!(
        world.tracker.known(S, KEY, &current()),
        Known::Gone { deleted: false }
    );
    assert_eq!(world.woken(0, Cause::Gone), 1);
    world.calls.clear();
    world
}

fn confirm(world: &mut World) -> bool {
    world.tracker.confirm_gone(world.now, S, KEY)
}

#[test]
fn a_gone_secret_is_confirmed_by_one_describe_a_minute_later_which_wakes() {
    let mut world = gone();
    assert!(!confirm(&mut world));
    world.run(secs(50));
    assert_eq!(
        world.count(Call::Describe),
        2,
        "as for any failure, after 10 s and 20 s more"
    );
    assert_eq!(world.woken(0, Cause::Gone), 1, "too early");
    assert!(!confirm(&mut world));
    world.run(secs(15));
    assert_eq!(
        world.count(Call::Describe),
        3,
        "a minute after the first, not 70 s"
    );
    assert_eq!(world.woken(0, Cause::Gone), 2);
    assert!(confirm(&mut world));
    // What is decided is looked at as often as before, and told no more.
    world.run(mins(60));
    assert_eq!(
        world.count(Call::Describe),
        16,
        "after 80 s, 160 s, and every 5 minutes"
    );
    assert_eq!(world.woken(0, Cause::Gone), 2);
    assert!(confirm(&mut world));
}

#[test]
fn where_nobody_waits_for_it_no_describe_is_made_for_the_confirmation() {
    let mut world = gone();
    world.run(mins(4));
    assert_eq!(
        world.count(Call::Describe),
        4,
        "as for any failure: after 10, 30, 70 and 150 s"
    );
    assert_eq!(world.woken(0, Cause::Gone), 1);
}

#[test]
fn a_secret_that_was_restored_meanwhile_begins_anew() {
    let mut world = gone();
    assert!(!confirm(&mut world));
    world.run(secs(30));
    world.put(KEY, "v1");
    world.tracker.refresh(world.now, &super::world::object(0));
    world.run(secs(5));
    assert!(!confirm(&mut world));
    world.set(KEY, None);
    world.tracker.refresh(world.now, &super::world::object(0));
    world.run(secs(40));
    assert!(
        !confirm(&mut world),
        "a minute after the first, but not after the last restore"
    );
    world.run(secs(60));
    assert!(confirm(&mut world));
}

#[test]
fn a_secret_that_is_there_or_unknown_is_never_confirmed() {
    let mut world = World::with(policy());
    world.put(KEY, "v1");
    world.subscribe(0, HOUR, &[(KEY, current(), None)]);
    world.run(mins(3));
    assert!(!confirm(&mut world));
    assert!(!world.tracker.confirm_gone(world.now, S, "other"));
}

/// What object `n` wants of the secret.
fn wants(n: usize) -> Vec<Selector> {
    let [previous, pinned] = ["AWSPREVIOUS", "uuid/v1"].map(|label| Selector::parse(Some(label)));
    match n {
        0 => vec![previous],
        1 => vec![pinned],
        2 => vec![current(), previous],
        _ => vec![current()],
    }
}

const OBJECTS: usize = 5;

/// A world of passes in which objects want a secret that has two versions.
fn wanted() -> World {
    let mut world = World::with(policy());
    world.passes = true;
    world.put(KEY, "v1");
    world.run(secs(1));
    world.rotate(KEY, "v2");
    for n in 0..OBJECTS {
        let wants = wants(n).into_iter().map(|selector| (KEY.into(), selector));
        world.wants.insert(object(n), wants.collect());
        world.edit(&object(n));
    }
    world.run(mins(2));
    world
}

#[test]
fn a_refresh_of_what_is_gone_calls_once_in_ten_seconds_however_often_it_is_asked_for() {
    let mut world = wanted();
    world.set(KEY, None);
    world.run(mins(5));
    assert_eq!(
        world.tracker.known(S, KEY, &current()),
        Known::Gone { deleted: false }
    );
    world.called = 0;
    for _ in 0..600 {
        for n in 0..OBJECTS {
            world.ask(&object(n));
        }
        world.run(Duration::from_millis(100));
    }
    // A read and a Describe each time.
    assert!(
        (2..=2 * 7).contains(&world.called),
        "{} calls in a minute",
        world.called
    );
    // An edit that asks for no refresh calls for nothing that is gone.
    let called = world.called;
    world.asked.clear();
    for n in 0..OBJECTS {
        world.edit(&object(n));
    }
    world.run(mins(1));
    assert_eq!(world.called, called);
}

#[test]
fn a_refresh_finds_what_is_back_within_ten_seconds() {
    let mut world = wanted();
    world.set(KEY, None);
    world.run(mins(30));
    world.put(KEY, "v3");
    world.ask(&object(3));
    world.run(secs(11));
    assert_eq!(world.holds(3, KEY), Some(&super::world::version("v3")));
    assert!(world.asked.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Vanish(bool),
    Return,
    Ask(usize),
    Edit(usize),
    Wake(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..2000u64, 0..100_000u64].prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Vanish),
        1 => Just(Step::Return),
        4 => (0..OBJECTS).prop_map(Step::Ask),
        2 => (0..OBJECTS).prop_map(Step::Edit),
        2 => (0..OBJECTS).prop_map(Step::Wake),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// The world asserts that what is known to be gone is called for once in ten seconds at most, whatever is asked for.
    #[test]
    fn what_is_gone_is_called_for_seldom_and_no_refresh_of_it_is_lost(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut world = wanted();
        world.dice = Dice::new(seed);
        let full = world.state(KEY, world.now);
        for step in steps {
            match step {
                Step::Wait(millis) => world.run(Duration::from_millis(millis)),
                Step::Vanish(marked) => {
                    let marked = full.clone().filter(|_| marked);
                    world.set(KEY, marked.map(|state| super::world::State { deleted: true, ..state }));
                }
                Step::Return => world.set(KEY, full.clone()),
                Step::Ask(n) => world.ask(&object(n)),
                Step::Edit(n) => world.edit(&object(n)),
                Step::Wake(n) => world.pass(&object(n)),
            }
        }
        world.set(KEY, full.clone());
        world.run(mins(15));
        prop_assert!(world.asked.is_empty(), "{:?} were not answered", world.asked);
        for n in 0..OBJECTS {
            for selector in wants(n) {
                let known = world.tracker.known(S, KEY, &selector);
                prop_assert!(matches!(known, Known::Version(_)), "{} {:?}", selector, known);
            }
        }
    }
}
