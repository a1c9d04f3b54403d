//! What fails is called for seldom, and hides nothing else. The world asserts by itself that no version that is known to
//! fail is called for twice within ten seconds.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use proptest::prelude::*;

use super::world::{ACCOUNT, REGION, S, World, current, mins, object, policy, secs, version};
use crate::{
    api::Selector,
    track::{
        Call, Cause, Detection, Effect, Failure, Known, Observation, Refresh, SourcePolicy, Subscription,
        Want, dice::Dice, view::at_stage,
    },
};

const NAME: &str = "shop/db";

/// Which calls fail at present: by stage or version id, or by the name of the call.
type Outcomes = Rc<RefCell<BTreeMap<String, Failure>>>;

fn stage(name: &str) -> Selector {
    Selector::parse(Some(name))
}

fn arn() -> String {
    format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{NAME}-AbCdEf")
}

/// A world in which woken objects are read as the reconciler does, with one secret.
fn world(detection: Detection, outcomes: &Outcomes) -> World {
    let mut world = World::with(SourcePolicy {
        detection,
        ..policy()
    });
    world.passes = true;
    let outcomes = outcomes.clone();
    world.fault = Box::new(move |_, call, shown| {
        let outcomes = outcomes.borrow();
        let of = |name: &str| outcomes.get(name).cloned();
        match call {
            Call::List => of("list"),
            Call::Describe => of("describe"),
            Call::Read if shown == "*" => of("batch"),
            Call::Read => of(shown
                .rsplit_once(' ')
                .map_or("AWSCURRENT", |(_, selector)| selector)),
        }
    });
    world.put(NAME, "v1");
    world.run(mins(1));
    world
}

/// An object of a person, which is looked at as soon as it is made.
fn make(world: &mut World, n: usize, wants: &[(&str, Selector)]) {
    let wants = wants
        .iter()
        .map(|(key, selector)| ((*key).into(), selector.clone()));
    world.wants.insert(object(n), wants.collect());
    world.edit(&object(n));
}

fn calls(world: &World) -> usize {
    world.calls.len()
}

#[test]
fn two_stages_that_are_missing_cost_a_call_a_minute_and_delay_nobody() {
    for detection in [
        Detection::Auto,
        Detection::Describe,
        Detection::Read,
        Detection::List,
    ] {
        let outcomes = Outcomes::default();
        let mut world = world(detection, &outcomes);
        make(&mut world, 0, &[(NAME, current())]);
        make(&mut world, 1, &[(NAME, stage("BLUE"))]);
        make(&mut world, 2, &[(&arn(), stage("GREEN"))]);
        world.run(mins(5));
        for (key, selector) in [(NAME.to_owned(), stage("BLUE")), (arn(), stage("GREEN"))] {
            assert_eq!(
                world.tracker.known(S, &key, &selector),
                Known::Failing(Failure::StageNotFound(selector.clone()))
            );
        }
        world.calls.clear();
        world.wakes.clear();
        world.run(mins(10));
        assert!(calls(&world) <= 21, "{detection:?}: {:?}", world.calls);
        assert!(world.wakes.is_empty(), "{detection:?}: {:?}", world.wakes);
        world.rotate(NAME, "v2");
        world.run(mins(7));
        assert_eq!(world.holds(0, NAME), Some(&version("v2")), "{detection:?}");
        assert!(world.tracker.checked(&object(0)).unwrap() + mins(7) > world.now);
    }
}

#[test]
fn a_policy_that_allows_get_alone_checks_each_version_by_itself() {
    let outcomes = Outcomes::default();
    for (call, failure) in [
        ("list", Failure::ListDenied),
        ("batch", Failure::BatchDenied),
        ("describe", Failure::Denied),
    ] {
        outcomes.borrow_mut().insert(call.into(), failure);
    }
    let mut world = world(Detection::Auto, &outcomes);
    make(&mut world, 0, &[(NAME, current())]);
    make(&mut world, 1, &[(NAME, stage("AWSPREVIOS"))]);
    make(&mut world, 2, &[("shop/bd", current())]);
    world.run(mins(10));
    world.calls.clear();
    world.wakes.clear();
    world.run(mins(10));
    assert!(calls(&world) <= 33, "{:?}", world.calls);
    assert!(world.wakes.is_empty(), "{:?}", world.wakes);
    world.rotate(NAME, "v2");
    world.run(mins(2));
    assert_eq!(world.holds(0, NAME), Some(&version("v2")));
    assert!(world.tracker.checked(&object(0)).unwrap() + mins(2) > world.now);
    assert_eq!(world.tracker.checked(&object(1)), None, "it was never read");
    assert_eq!(
        world.woken(1, Cause::Failing) + world.woken(1, Cause::Recovered),
        0
    );
    // The typo becomes a label.
    let mut state = world.state(NAME, world.now).unwrap();
    state
        .stages
        .entry(version("v1"))
        .or_default()
        .push("AWSPREVIOS".into());
    world.set(NAME, Some(state));
    world.run(mins(2));
    assert_eq!(
        world.tracker.known(S, NAME, &stage("AWSPREVIOS")),
        Known::Version(version("v1"))
    );
}

#[test]
fn a_previous_version_that_cannot_be_decrypted_hides_no_change_of_the_current_one() {
    for detection in [Detection::Auto, Detection::Describe, Detection::List] {
        let outcomes = Outcomes::default();
        outcomes
            .borrow_mut()
            .insert("AWSPREVIOUS".into(), Failure::KeyDenied);
        let mut world = world(detection, &outcomes);
        world.rotate(NAME, "v2");
        make(&mut world, 0, &[(NAME, current())]);
        make(&mut world, 1, &[(NAME, stage("AWSPREVIOUS"))]);
        // One object may want both.
        make(&mut world, 2, &[(NAME, current()), (NAME, stage("AWSPREVIOUS"))]);
        world.run(mins(15));
        world.wakes.clear();
        world.calls.clear();
        world.run(mins(10));
        assert!(calls(&world) <= 22, "{detection:?}: {:?}", world.calls);
        assert!(world.wakes.is_empty(), "{detection:?}: {:?}", world.wakes);
        world.rotate(NAME, "v3");
        world.run(mins(7));
        assert_eq!(world.holds(0, NAME), Some(&version("v3")), "{detection:?}");
        outcomes.borrow_mut().clear();
        world.run(mins(7));
        assert_eq!(
            world.tracker.known(S, NAME, &stage("AWSPREVIOUS")),
            Known::Version(version("v2")),
            "{detection:?}"
        );
        assert_eq!(world.holds(2, NAME), Some(&version("v3")), "{detection:?}");
    }
}

#[test]
fn a_new_secret_without_a_value_is_called_for_seldom_and_found_when_it_has_one() {
    for detection in [Detection::Auto, Detection::Describe, Detection::List] {
        let outcomes = Outcomes::default();
        let mut world = world(detection, &outcomes);
        let mut state = world.state(NAME, world.now).unwrap();
        let full = state.clone();
        state.stages.clear();
        world.set(NAME, Some(state));
        for n in 0..3 {
            make(&mut world, n, &[(NAME, current())]);
        }
        world.run(mins(5));
        world.calls.clear();
        world.run(mins(10));
        assert!(calls(&world) <= 22, "{detection:?}: {:?}", world.calls);
        world.set(NAME, Some(full));
        world.run(mins(7));
        assert!(
            (0..3).all(|n| world.holds(n, NAME) == Some(&version("v1"))),
            "{detection:?}"
        );
    }
}

#[test]
fn a_version_id_that_does_not_exist_fails_alone() {
    let outcomes = Outcomes::default();
    let mut world = world(Detection::Auto, &outcomes);
    let missing = Selector::Version(version("none"));
    let name = missing.to_string();
    outcomes
        .borrow_mut()
        .insert(name, Failure::StageNotFound(missing.clone()));
    make(&mut world, 0, &[(NAME, current())]);
    make(&mut world, 1, &[(NAME, missing.clone())]);
    world.run(mins(10));
    assert!(matches!(
        world.tracker.known(S, NAME, &missing),
        Known::Failing(_)
    ));
    assert_eq!(
        world.tracker.known(S, NAME, &current()),
        Known::Version(version("v1"))
    );
    world.calls.clear();
    world.run(mins(10));
    assert!(calls(&world) <= 22, "{:?}", world.calls);
}

#[test]
fn five_hundred_new_objects_that_fail_cost_a_call_each_ten_seconds() {
    let outcomes = Outcomes::default();
    outcomes
        .borrow_mut()
        .insert("AWSCURRENT".into(), Failure::KeyDenied);
    let mut world = world(Detection::Auto, &outcomes);
    for n in 0..500 {
        make(&mut world, n, &[(NAME, current())]);
        world.run(Duration::from_millis(20));
    }
    // The world counts calls of passes in `last_call` only, and has asserted how far they are apart.
    assert_eq!(
        world.woken(0, Cause::Failing),
        1,
        "told once: {:?}",
        world.wakes.len()
    );
    outcomes.borrow_mut().clear();
    world.run(mins(2));
    assert!((0..500).all(|n| world.holds(n, NAME) == Some(&version("v1"))));
}

#[test]
fn an_edit_calls_again_after_ten_seconds_whatever_the_back_off_is() {
    let outcomes = Outcomes::default();
    outcomes.borrow_mut().insert("AWSCURRENT".into(), Failure::Denied);
    let mut world = World::with(policy());
    world.passes = true;
    let fault = outcomes.clone();
    world.fault = Box::new(move |_, call, _| {
        (call == Call::Read)
            .then(|| fault.borrow().get("AWSCURRENT").cloned())
            .flatten()
    });
    world.put(NAME, "v1");
    make(&mut world, 0, &[(NAME, current())]);
    world.run(mins(30));
    outcomes.borrow_mut().clear();
    world.edit(&object(0));
    world.run(secs(11));
    assert_eq!(world.holds(0, NAME), Some(&version("v1")));
}

/// However it is edited meanwhile, a call that is answered is over.
#[test]
fn a_read_that_fails_after_its_only_want_has_changed_is_not_taken_for_lost() {
    for refresh in [Refresh::Every(mins(1)), Refresh::Once] {
        let mut world = World::with(SourcePolicy {
            detection: Detection::Read,
            ..policy()
        });
        world.put(NAME, "v1");
        world.subscribe(0, Refresh::Every(mins(1)), &[(NAME, current(), Some("v1"))]);
        let is_read = |effect: &Effect| matches!(effect, Effect::Read { .. });
        while !world.tracker.poll(world.now).iter().any(is_read) {
            world.now = world.tracker.next_due().unwrap().max(world.now + secs(1));
        }
        let want = Want {
            source: S,
            key: NAME.into(),
            selector: stage("AWSPREVIOUS"),
            recorded: Some(version("v0")),
        };
        let (rotation, wants) = (false, vec![want]);
        let edited = Subscription {
            refresh,
            rotation,
            wants,
        };
        world.tracker.subscribe(world.now, &object(0), edited);
        world.tracker.poll(world.now);
        world.now += secs(1);
        let failed = Observation::Failed {
            source: S,
            call: Call::Read,
            keys: vec![NAME.into()],
            failure: Failure::Transient { throttled: false },
            begun: world.now,
        };
        world.tracker.observe(world.now, failed);
        world.run(mins(2));
        assert!(calls(&world) > 0, "{refresh:?}: nothing is called for any more");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Outcome(usize, usize),
    Rotate,
    Edit(usize),
    Wake(usize),
    Make(usize),
    Drop(usize),
    /// The store was edited, or its identity is another one.
    Renew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..400u64).prop_map(Step::Wait),
        4 => (0..CALLS.len(), 0..5usize).prop_map(|(call, outcome)| Step::Outcome(call, outcome)),
        2 => Just(Step::Rotate),
        3 => (0..OBJECTS).prop_map(Step::Edit),
        3 => (0..OBJECTS).prop_map(Step::Wake),
        1 => (0..OBJECTS).prop_map(Step::Make),
        1 => (0..OBJECTS).prop_map(Step::Drop),
        2 => Just(Step::Renew),
    ]
}

const OBJECTS: usize = 10;
/// Calls that may fail. AWSCURRENT never does.
const CALLS: [&str; 6] = ["AWSPREVIOUS", "BLUE", "uuid/v1", "describe", "batch", "list"];

fn outcome(call: &str, outcome: usize) -> Option<Failure> {
    match (call, outcome) {
        ("describe", 0) => Some(Failure::Denied),
        ("batch", 0) => Some(Failure::BatchDenied),
        ("list", 0) => Some(Failure::ListDenied),
        ("describe" | "batch" | "list", _) => None,
        (_, 0) => Some(Failure::Denied),
        (_, 1) => Some(Failure::KeyDenied),
        (_, 2) => Some(Failure::Invalid),
        (call, 3) => Some(Failure::StageNotFound(stage(call))),
        _ => None,
    }
}

/// What the objects want: the first is well whatever the others meet.
fn wants(n: usize) -> Vec<(String, Selector)> {
    let key = if n % 4 == 3 { arn() } else { NAME.to_owned() };
    match n {
        1 | 2 => vec![(key, stage("AWSPREVIOUS"))],
        3 | 4 => vec![(key, stage("BLUE"))],
        5 => vec![(key, stage("uuid/v1"))],
        6 => vec![(key.clone(), current()), (key, stage("AWSPREVIOUS"))],
        7 => vec![(key.clone(), stage("AWSPREVIOUS")), (key, stage("BLUE"))],
        _ => vec![(key, current())],
    }
}

fn make_of(world: &mut World, n: usize) {
    let wants = wants(n);
    let wants: Vec<_> = wants
        .iter()
        .map(|(key, selector)| (&**key, selector.clone()))
        .collect();
    make(world, n, &wants);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// The world asserts that what is known to fail is called for once in ten seconds at most, whatever wakes the objects.
    #[test]
    fn a_failing_version_is_called_for_seldom_and_hides_no_other(
        detection in prop_oneof![
            Just(Detection::Auto),
            Just(Detection::List),
            Just(Detection::Describe),
            Just(Detection::Read),
        ],
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let outcomes = Outcomes::default();
        let mut world = world(detection, &outcomes);
        world.dice = Dice::new(seed);
        for n in 0..OBJECTS {
            make_of(&mut world, n);
        }
        let mut latest = 1;
        let mut rotated = world.now;
        for step in steps {
            match step {
                Step::Wait(time) => world.run(secs(time)),
                Step::Outcome(call, which) => {
                    let call = CALLS[call];
                    match outcome(call, which) {
                        Some(failure) => outcomes.borrow_mut().insert(call.into(), failure),
                        None => outcomes.borrow_mut().remove(call),
                    };
                }
                Step::Rotate => {
                    latest += 1;
                    world.rotate(NAME, &format!("v{latest}"));
                    rotated = world.now;
                }
                Step::Edit(n) => world.edit(&object(n)),
                Step::Wake(n) => world.pass(&object(n)),
                Step::Make(n) => make_of(&mut world, n),
                Step::Renew => world.tracker.retry(world.now, S),
                Step::Drop(n) => {
                    if n > 0 {
                        world.tracker.unsubscribe(&object(n));
                        world.wants.remove(&object(n));
                    }
                }
            }
            // A sweep may find a change only when its time has come.
            if world.now >= rotated + mins(3) {
                let expected = version(&format!("v{latest}"));
                prop_assert_eq!(world.holds(0, NAME), Some(&expected), "the healthy object stands still");
                let checked = world.tracker.checked(&object(0));
                prop_assert!(
                    checked.is_some_and(|checked| checked + mins(3) > world.now),
                    "checked at {:?}, now {:?}", checked, world.now
                );
            }
        }
        outcomes.borrow_mut().clear();
        world.run(mins(15));
        for (object, wants) in world.wants.clone() {
            for (key, selector) in wants {
                let state = world.state(NAME, world.now).unwrap();
                let truth = match &selector {
                    Selector::Stage(label) => at_stage(&state.stages, label).cloned(),
                    Selector::Version(version) => Some(version.clone()),
                };
                let known = match world.tracker.known(S, &key, &selector) {
                    // An object that holds an older version, and cannot be written, has it confirmed now and then.
                    Known::Held { accepted: Some(accepted), suspect } if accepted == suspect => Known::Version(accepted),
                    known => known,
                };
                let expected = match truth {
                    Some(truth) => Known::Version(truth),
                    None => Known::Failing(Failure::StageNotFound(selector.clone())),
                };
                prop_assert_eq!(known, expected, "{} {}", object, selector);
            }
        }
    }
}
