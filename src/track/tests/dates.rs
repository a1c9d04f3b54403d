//! When AWS shows the date of a rotation: seconds after it moved the label, or on demand.

use std::time::Duration;

use super::world::{S, World, current, mins, policy, secs};
use crate::track::{Call, Detection, Refresh, Schedule, SourcePolicy};

const HOUR: Refresh = Refresh::Every(Duration::from_hours(1));
const MINUTE: Refresh = Refresh::Every(Duration::from_mins(1));

fn rotated(last: i64) -> Schedule {
    Schedule {
        enabled: true,
        last: Some(last),
        ..Schedule::default()
    }
}

/// Whether what is known of the secret shows this date.
fn shows(world: &World, last: i64) -> bool {
    let known = world.tracker.rotation(S, "a").unwrap();
    known.schedule.last == Some(last)
}

/// Secret `a`, whose rotation an object follows. Batches read it, unless its source has it described.
fn world(detection: Detection, refresh: Refresh) -> World {
    let mut world = World::with(SourcePolicy {
        detection,
        ..policy()
    });
    world.put("a", "v1");
    world.schedules.insert("a".into(), vec![(secs(0), rotated(1))]);
    world.subscribe_rotation(0, refresh, true, &[("a", current(), None)]);
    world.run(mins(31));
    assert!(shows(&world, 1));
    world.calls.clear();
    world
}

#[test]
fn a_date_that_comes_after_the_label_is_seen_within_a_minute() {
    for detection in [Detection::Read, Detection::Describe] {
        for (late, limit) in [(0, 62), (3, 67), (15, 82), (50, 122)] {
            let mut world = world(detection, MINUTE);
            world.rotate("a", "v2");
            let date = (world.now + secs(late), rotated(2));
            world.schedules.get_mut("a").unwrap().push(date);
            world.run(secs(limit));
            assert!(shows(&world, 2), "{detection:?}, {late} s late");
        }
    }
}

#[test]
fn a_date_that_never_comes_costs_three_more_calls() {
    let mut world = world(Detection::Read, MINUTE);
    world.rotate("a", "v2");
    world.run(mins(10));
    let describes = world.count(Call::Describe);
    assert!((4..=5).contains(&describes), "{describes}");
}

#[test]
fn a_refresh_describes_the_rotation_once_in_ten_seconds() {
    let mut world = world(Detection::Read, HOUR);
    world
        .schedules
        .get_mut("a")
        .unwrap()
        .push((world.now, rotated(2)));
    for _ in 0..5 {
        world.tracker.refresh_facts(world.now, &super::world::object(0));
        world.run(secs(1));
    }
    assert!(shows(&world, 2));
    world.run(secs(20));
    assert_eq!(
        world.count(Call::Describe),
        2,
        "one at once, one after ten seconds"
    );
}

#[test]
fn a_refresh_describes_nothing_where_no_rotation_is_followed() {
    let mut world = World::with(policy());
    world.put("a", "v1");
    world.subscribe(0, HOUR, &[("a", current(), None)]);
    world.run(mins(31));
    world.calls.clear();
    world.tracker.refresh_facts(world.now, &super::world::object(0));
    world.run(secs(20));
    assert_eq!(world.count(Call::Describe), 0);
}
