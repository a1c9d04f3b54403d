//! When a secret counts as deleted.

use std::time::Duration;

use super::world::{S, World, current, mins, policy, secs};
use crate::track::{Call, Cause, Known, Refresh};

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
