//! A secret whose calls alone get no answer holds up no other.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use proptest::prelude::*;

use super::world::{S, World, current, mins, object, policy, secs, version};
use crate::{
    api::Selector,
    track::{Call, Cause, Detection, Effect, Failure, Known, Refresh, SourcePolicy, dice::Dice},
};

const OUTAGE: Failure = Failure::Transient { throttled: false };
const MINUTE: Refresh = Refresh::Every(Duration::from_mins(1));

/// What fails at present: names of secrets, or all.
#[derive(Default)]
struct Weather {
    bad: BTreeSet<String>,
    outage: bool,
}

fn name(n: usize) -> String {
    format!("prod/db-{n}")
}

/// Secrets that are described each by itself, once a minute.
fn world(count: usize) -> (World, Rc<RefCell<Weather>>) {
    let mut world = World::with(SourcePolicy {
        detection: Detection::Describe,
        ..policy()
    });
    let weather = Rc::<RefCell<Weather>>::default();
    let now = weather.clone();
    world.fault = Box::new(move |_, _, key| {
        let weather = now.borrow();
        (weather.outage || weather.bad.contains(key)).then_some(OUTAGE)
    });
    for n in 0..count {
        world.put(&name(n), "v1");
        world.subscribe(n, MINUTE, &[(&name(n), current(), None)]);
    }
    world.run(mins(2));
    (world, weather)
}

/// The calls for these secrets, and how many there are of others.
fn calls(world: &World, of: &str) -> (usize, usize) {
    let keys = world.calls.iter().flat_map(|(_, effect)| match effect {
        Effect::Describe { key, .. } | Effect::ReadVersion { key, .. } => vec![key.to_string()],
        Effect::Read { keys, .. } => keys.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    });
    let (those, others): (Vec<_>, Vec<_>) = keys.partition(|key| key == of);
    (those.len(), others.len())
}

#[test]
fn a_secret_that_is_never_described_backs_off_by_itself() {
    let (mut world, weather) = world(40);
    weather.borrow_mut().bad.insert(name(7));
    world.run(mins(3));
    world.calls.clear();
    world.run(mins(20));
    let (bad, others) = calls(&world, &name(7));
    assert!((20..=22).contains(&bad), "{bad} calls for the one that fails");
    assert_eq!(others, 39 * 20, "each of the others is checked each minute");
    assert!(
        world.wakes.iter().all(|(_, _, cause)| *cause == Cause::Changed),
        "{:?}",
        world.wakes
    );
    assert!(world.tracker.is_unanswered(S, &name(7)));
    assert_eq!(world.tracker.unanswered(&object(7)).as_deref(), Some(&*name(7)));
    assert_eq!(world.tracker.unanswered(&object(8)), None);
    assert_eq!(
        world.tracker.known(S, &name(7), &current()),
        Known::Version(version("v1"))
    );
    assert!(
        world.tracker.checked(&object(7)).unwrap() + mins(20) < world.now,
        "its age tells"
    );
    // It is answered again.
    weather.borrow_mut().bad.clear();
    world.rotate(&name(7), "v2");
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, &name(7), &current()),
        Known::Version(version("v2"))
    );
    assert!(!world.tracker.is_unanswered(S, &name(7)));
}

#[test]
fn a_secret_that_is_never_read_leaves_the_others_their_batches() {
    let mut world = World::with(SourcePolicy {
        detection: Detection::Read,
        ..policy()
    });
    let weather = Rc::<RefCell<Weather>>::default();
    let now = weather.clone();
    // A batch answers for the others.
    world.fault = Box::new(move |_, call, key| {
        let is_bad = call == Call::Read && now.borrow().bad.contains(key);
        is_bad.then_some(OUTAGE)
    });
    for n in 0..40 {
        world.put(&name(n), "v1");
        world.subscribe(n, MINUTE, &[(&name(n), current(), None)]);
    }
    world.run(mins(2));
    weather.borrow_mut().bad.insert(name(7));
    world.run(mins(5));
    world.calls.clear();
    world.run(mins(20));
    let (bad, others) = calls(&world, &name(7));
    assert!(bad <= 22, "{bad} calls for the one that fails");
    assert_eq!(others, 39 * 20);
    let batches = world
        .calls
        .iter()
        .filter(|(_, effect)| matches!(effect, Effect::Read { keys, .. } if keys.len() > 1));
    assert_eq!(batches.count(), 40, "two full batches a minute");
}

#[test]
fn a_describe_without_an_answer_keeps_no_secret_from_its_batch() {
    let mut world = World::with(SourcePolicy {
        detection: Detection::Read,
        ..policy()
    });
    world.fault = Box::new(move |_, call, key| match call {
        // Else lists would tell of the rotation.
        Call::List => Some(Failure::ListDenied),
        Call::Describe if key == name(7) => Some(OUTAGE),
        Call::Describe | Call::Read => None,
    });
    for n in 0..20 {
        world.put(&name(n), "v1");
        // What the rotation shows is described beside it.
        world.subscribe_rotation(n, MINUTE, n == 7, &[(&name(n), current(), None)]);
    }
    world.run(mins(90));
    assert!(world.tracker.is_unanswered(S, &name(7)));
    world.calls.clear();
    world.rotate(&name(7), "v2");
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, &name(7), &current()),
        Known::Version(version("v2"))
    );
    assert_eq!(world.count(Call::Read), 2, "the batch is read whole");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn in_an_outage_no_more_is_called_and_after_it_every_good_secret_is_checked(
        bad in prop::collection::btree_set(0..30usize, 0..4),
        steps in prop::collection::vec((1..15u64, 1..30u64), 1..5),
        seed in any::<u64>(),
    ) {
        let (mut world, weather) = world(30);
        world.dice = Dice::new(seed);
        weather.borrow_mut().bad = bad.iter().map(|n| name(*n)).collect();
        for (well, ill) in steps {
            world.run(mins(well));
            weather.borrow_mut().outage = true;
            world.calls.clear();
            world.run(mins(ill));
            // A call for each step of the source's back-off, after those that were under way when it began.
            let steps = 10 + usize::try_from(ill).unwrap() / 2;
            prop_assert!(world.calls.len() <= 30 + bad.len() + steps, "{} calls in {} minutes", world.calls.len(), ill);
            weather.borrow_mut().outage = false;
            world.run(mins(12));
            world.calls.clear();
            world.run(mins(5));
            for n in (0..30).filter(|n| !bad.contains(n)) {
                let checked = world.tracker.checked(&object(n));
                prop_assert!(checked.is_some_and(|checked| checked + secs(70) > world.now), "{}: {:?}", n, checked);
            }
            for n in &bad {
                // One call for each step of its own back-off, which is a minute by then or shorter for a moment.
                let (calls, _) = calls(&world, &name(*n));
                prop_assert!(calls <= 8, "{} calls", calls);
            }
        }
    }
}

#[test]
fn a_secret_that_only_passes_read_backs_off_by_itself_too() {
    let (mut world, weather) = world(40);
    // Wanted once: no check of its own asks for it.
    weather.borrow_mut().bad.insert("prod/once".into());
    world.put("prod/once", "v1");
    world.subscribe(40, Refresh::Once, &[("prod/once", current(), None)]);
    let read = |world: &mut World, time, pause| {
        let end = world.now + time;
        while world.now < end {
            world.read_on_own("prod/once", &current());
            world.run(pause);
        }
    };
    read(&mut world, mins(1), secs(1));
    assert!(world.tracker.is_unanswered(S, "prod/once"));
    // However often passes come.
    world.calls.clear();
    read(&mut world, mins(10), Duration::from_millis(100));
    let (tried, others) = calls(&world, "prod/once");
    assert_eq!(others, 40 * 10, "each of the others is checked each minute");
    assert!(tried <= 20, "{tried} calls of the tracker's own in ten minutes");
    weather.borrow_mut().bad.clear();
    world.read_on_own("prod/once", &current());
    world.run(mins(6));
    assert!(!world.tracker.is_unanswered(S, "prod/once"));
    assert_eq!(
        world.tracker.known(S, "prod/once", &current()),
        Known::Version(version("v1"))
    );
}

#[test]
fn many_passes_that_fail_at_once_are_one_doubt() {
    let (mut world, weather) = world(2);
    weather.borrow_mut().outage = true;
    for _ in 0..100 {
        world.read_on_own(&name(0), &current());
    }
    assert!(!world.tracker.is_unanswered(S, &name(0)), "all may be ill");
    weather.borrow_mut().outage = false;
    weather.borrow_mut().bad.insert(name(0));
    world.run(secs(5));
    world.read_on_own(&name(1), &current());
    world.run(secs(5));
    world.read_on_own(&name(0), &current());
    assert!(world.tracker.is_unanswered(S, &name(0)), "it alone is");
}

#[test]
fn throttling_is_never_one_secrets_own() {
    let (mut world, _) = world(40);
    world.fault = Box::new(|_, _, key| (key == name(7)).then_some(Failure::Transient { throttled: true }));
    world.run(mins(10));
    assert!(!world.tracker.is_unanswered(S, &name(7)));
    let stage = Selector::parse(None);
    assert_eq!(
        world.tracker.known(S, &name(7), &stage),
        Known::Version(version("v1"))
    );
}
