//! What holds whatever AWS does.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{S, World, current, mins, object, policy, secs, version};
use crate::{
    api::Selector,
    track::{Detection, Failure, Known, Refresh, SourcePolicy, dice::Dice, view::at_stage},
};

fn detection() -> impl Strategy<Value = Detection> {
    prop_oneof![
        Just(Detection::Auto),
        Just(Detection::List),
        Just(Detection::Describe),
        Just(Detection::Read)
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Rotate(usize),
    RollBack(usize),
    Subscribe(usize, usize, u64),
    Unsubscribe(usize),
    Refresh(usize),
    Hint(usize),
    Edit(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..900u64).prop_map(Step::Wait),
        3 => (0..30usize).prop_map(Step::Rotate),
        1 => (0..30usize).prop_map(Step::RollBack),
        2 => (0..40usize, 0..30usize, prop_oneof![Just(60u64), Just(600), Just(3600)])
            .prop_map(|(object, secret, interval)| Step::Subscribe(object, secret, interval)),
        1 => (0..40usize).prop_map(Step::Unsubscribe),
        1 => (0..40usize).prop_map(Step::Refresh),
        1 => (0..30usize).prop_map(Step::Hint),
        1 => any::<bool>().prop_map(Step::Edit),
    ]
}

fn key(n: usize) -> String {
    // Some are wanted by ARN as well: three keys a secret.
    let name = format!("s{}", n / 3);
    match n % 3 {
        0 => name,
        1 => format!("arn:aws:secretsmanager:eu-central-1:111122223333:secret:{name}"),
        _ => format!("arn:aws:secretsmanager:eu-central-1:111122223333:secret:{name}-AbCdEf"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The world asserts by itself that no call is in flight twice, no batch is over 20 and the tracker never spins.
    #[test]
    fn every_subscriber_gets_every_version_and_never_a_stale_one(
        detection in detection(),
        events in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
        faulty in 0..30u64,
    ) {
        let mut world = World::with(SourcePolicy { detection, events, ..policy() });
        world.dice = Dice::new(seed);
        // Replicas lag less than the minute after which Describe is asked again; List lags five.
        world.lag = (mins(5), secs(45));
        let mut dice = Dice::new(seed ^ 1);
        world.fault = Box::new(move |_, call, _| {
            let roll = dice.between(Duration::ZERO, Duration::from_secs(1)).as_millis();
            (roll < u128::from(faulty * 10)).then_some(match (roll % 5, call) {
                (0, crate::track::Call::Read) => Failure::Unanswered,
                (1, crate::track::Call::List) => Failure::ListDenied,
                (2, _) => Failure::Denied,
                (throttled, _) => Failure::Transient { throttled: throttled == 3 },
            })
        });
        for n in 0..10 {
            world.put(&format!("s{n}"), "v0");
        }
        let mut latest = [0; 10];
        for step in steps {
            match step {
                Step::Wait(time) => world.run(secs(time)),
                Step::Rotate(n) => {
                    latest[n / 3] += 1;
                    let id = format!("v{}", latest[n / 3]);
                    world.rotate(&format!("s{}", n / 3), &id);
                }
                Step::RollBack(n) => {
                    let name = format!("s{}", n / 3);
                    let state = world.state(&name, world.now).unwrap();
                    if let Some(previous) = at_stage(&state.stages, "AWSPREVIOUS").cloned() {
                        world.rotate(&name, &previous.0);
                    }
                }
                Step::Subscribe(n, secret, interval) => {
                    let every = Refresh::Every(secs(interval));
                    world.subscribe(n, every, &[(&key(secret), current(), None)]);
                }
                Step::Unsubscribe(n) => {
                    world.tracker.unsubscribe(&object(n));
                    world.wants.remove(&object(n));
                }
                Step::Refresh(n) => world.tracker.refresh(world.now, &object(n)),
                Step::Hint(n) => {
                    let id = version(&format!("v{}", latest[n / 3]));
                    world.tracker.hint(world.now, S, &key(n), Some(id));
                }
                Step::Edit(events) => {
                    world.tracker.set_source(world.now, S, SourcePolicy { detection, events, ..policy() });
                }
            }
        }
        // All is well again: within two intervals and the pauses of failures everybody knows.
        world.fault = Box::new(|_, _, _| None);
        world.read_again();
        world.run(mins(140));
        for (object, wants) in &world.wants {
            for (key, selector) in wants {
                let name = key.rsplit(':').next().unwrap().trim_end_matches("-AbCdEf").to_owned();
                let state = world.state(&name, world.now).unwrap();
                let truth = at_stage(&state.stages, "AWSCURRENT").unwrap();
                let known = world.tracker.known(S, key, selector);
                prop_assert_eq!(&known, &Known::Version(truth.clone()), "{} {}", object, key);
                let held = world.written.get(&(object.clone(), key.to_string(), selector.clone()));
                prop_assert_eq!(held.and_then(|held| held.last()), Some(truth), "{} {}", object, key);
            }
        }
        prop_assert!(world.tracker.next_due().is_some() || world.wants.values().all(Vec::is_empty));
    }

    #[test]
    fn no_secret_goes_back_while_aws_goes_forward(
        detection in detection(),
        rotations in prop::collection::vec(1..1200u64, 1..20),
        recorded in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut world = World::with(SourcePolicy { detection, ..policy() });
        world.dice = Dice::new(seed);
        world.lag = (mins(5), secs(50));
        world.put("a", "v100");
        world.run(mins(10));
        if recorded {
            // Written by the process before, which saw it a moment ago.
            world.rotate("a", "v101");
        }
        for n in 0..3 {
            let held = recorded.then_some("v101");
            world.subscribe(n, Refresh::Every(secs(60)), &[("a", current(), held)]);
        }
        for (n, pause) in rotations.iter().enumerate() {
            world.run(secs(*pause));
            world.rotate("a", &format!("v{}", n + 102));
        }
        world.run(mins(15));
        for ((object, _, _), held) in &world.written {
            prop_assert!(held.is_sorted(), "{}: {:?}", object, held);
            prop_assert_eq!(&*held.last().unwrap().0, format!("v{}", rotations.len() + 101));
        }
        let stage = Selector::parse(Some("AWSCURRENT"));
        prop_assert!(matches!(world.tracker.known(S, "a", &stage), Known::Version(_)));
    }
}
