use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{
        DeadlinePolicy, ObjectKey, OnFailure, RestartStrategy, RestartWindow, RotationStrategy, Window,
        WorkloadKind, WorkloadState,
    },
    objects::Restarts,
    restart::{
        judge::{
            membership::Terms,
            memory::Memory,
            model::{Claim, HeldSlot, Judgement, Standing},
            rollout::Failure,
            state::Hold,
        },
        observed::{managed_secrets::ManagedSecret, model::Limits},
        schedule::decide::{Decisions, decide},
        tests::{at, key, object, seconds, with},
    },
};

fn target(name: &str, object: &ManagedSecret, standing: Standing) -> Judgement {
    let rolling = standing == Standing::Rolling;
    let mut key = key(WorkloadKind::Deployment, name);
    key.key.namespace = object.key().namespace.clone();
    Judgement {
        key,
        uid: name.into(),
        claims: vec![Claim {
            object: object.clone(),
            changed_at: object.content.changed_at.unwrap(),
            there_at: object.content.changed_at.unwrap(),
            terms: Terms {
                wave: 0,
                strategy: RestartStrategy::Template,
                hot_reload: false,
                uses: true,
            },
            standing,
            hold: None,
            attempt: 1,
            rolling,
        }],
        rolling,
        slot: if rolling {
            HeldSlot::Cluster
        } else {
            HeldSlot::None
        },
        healthy: true,
        patched_at: None,
        changing_since: Some(at(0)),
        obstacle: None,
        refused: None,
        pods_wanted: None,
        notes: Vec::new(),
    }
}

pub fn stale(name: &str, object: &ManagedSecret) -> Judgement {
    target(name, object, Standing::Stale(1))
}

fn failed(name: &str, object: &ManagedSecret) -> Judgement {
    let failure = Failure::TimedOut;
    target(
        name,
        object,
        Standing::Failed {
            failure,
            was_healthy: true,
        },
    )
}

fn in_wave(wave: i32, mut target: Judgement) -> Judgement {
    target.claims[0].terms.wave = wave;
    target
}

fn blocked(state: WorkloadState, mut target: Judgement) -> Judgement {
    target.claims[0].hold = Some(Hold::new(state, "why", None));
    target
}

fn decide_with(now: Timestamp, limits: &Limits, targets: &[Judgement], memory: &mut Memory) -> Decisions {
    let targets: Vec<&Judgement> = targets.iter().collect();
    decide(now, limits, &targets, memory)
}

fn at_time(now: Timestamp, targets: &[Judgement]) -> Decisions {
    decide_with(now, &Limits::default(), targets, &mut Memory::default())
}

/// Who goes at `second`.
fn goes(second: i64, targets: &[Judgement]) -> Vec<String> {
    names(&at_time(at(second), targets))
}

fn names(decisions: &Decisions) -> Vec<String> {
    decisions
        .restarts
        .iter()
        .map(|restart| restart.key.key.name.to_string())
        .collect()
}

fn state(decisions: &Decisions, name: &str) -> WorkloadState {
    decisions
        .states
        .iter()
        .find(|state| *state.key.key.name == *name)
        .unwrap()
        .state
}

fn db(change: impl FnOnce(&mut Restarts)) -> ManagedSecret {
    with(&object("db", "t"), change)
}

/// Open from a day after the change at 02:00 UTC.
fn nightly(restarts: &mut Restarts) {
    restarts.policy.windows = vec![
        Window::parse(&RestartWindow {
            cron: "0 2 * * *".to_owned(),
            duration: "2h".to_owned(),
            time_zone: None,
        })
        .unwrap(),
    ];
}

/// Seconds from the change, at 08:00:00 UTC, to the next opening.
const OPENS: i64 = 18 * 3600;

#[test]
fn a_change_settles_and_others_are_waited_for() {
    let calm = db(|_| {});
    let urgent = db(|restarts| restarts.strategy = RotationStrategy::SingleUser);
    for (object, second, expected) in [(&calm, 9, 0), (&calm, 10, 1), (&urgent, 5, 0), (&urgent, 6, 1)] {
        assert_eq!(goes(second, &[stale("a", object)]).len(), expected, "{second}");
    }
    let decisions = at_time(at(3), &[stale("a", &calm)]);
    assert_eq!(
        (state(&decisions, "a"), decisions.wake),
        (WorkloadState::Settling, Some(at(10)))
    );
}

#[test]
fn windows_hold_what_is_not_urgent() {
    let change = object("db", "t").content.changed_at.unwrap();
    assert_eq!(change.to_string(), "2027-01-15T08:00:00Z");
    let calm = db(nightly);
    let urgent = |policy| {
        db(|restarts| {
            nightly(restarts);
            restarts.strategy = RotationStrategy::SingleUser;
            restarts.policy.deadline = policy;
        })
    };
    let table = [
        ("before", &calm, OPENS - 1, false),
        ("as it opens", &calm, OPENS, true),
        ("before it closes", &calm, OPENS + 7199, true),
        ("as it closes", &calm, OPENS + 7200, false),
        ("after a window that was missed", &calm, OPENS + 86_400, true),
        ("urgent", &urgent(DeadlinePolicy::Bypass), 60, true),
        ("urgent that waits", &urgent(DeadlinePolicy::Wait), 60, false),
        ("urgent that waited", &urgent(DeadlinePolicy::Wait), OPENS, true),
    ];
    for (name, object, second, expected) in table {
        assert_eq!(
            !goes(second, &[stale("a", object)]).is_empty(),
            expected,
            "{name}"
        );
    }
    let decisions = at_time(at(60), &[stale("a", &calm)]);
    assert_eq!(
        (state(&decisions, "a"), decisions.wake),
        (WorkloadState::WaitingForWindow, Some(at(OPENS)))
    );
}

#[test]
fn a_window_that_closes_lets_what_runs_go_on_and_nothing_follow() {
    let calm = db(nightly);
    let targets = [target("a", &calm, Standing::Rolling), stale("b", &calm)];
    let decisions = at_time(at(OPENS + 7200), &targets);
    assert!(decisions.restarts.is_empty());
    assert_eq!(
        (state(&decisions, "a"), state(&decisions, "b")),
        (WorkloadState::RollingOut, WorkloadState::WaitingForWindow)
    );
}

#[test]
fn the_deadline_opens_in_time() {
    use RotationStrategy::{AlternatingUsers, Opaque, Overlap};

    let near = |strategy, deadline: Option<i64>| {
        db(|restarts| {
            nightly(restarts);
            restarts.strategy = strategy;
            restarts.deadline = deadline.map(at);
        })
    };
    // An hour of margin, and a minute for the one workload.
    let table = [
        (AlternatingUsers, Some(20_000), 20_000 - 3661, false),
        (AlternatingUsers, Some(20_000), 20_000 - 3660, true),
        (Overlap, Some(20_000), 20_000 - 3660, true),
        (Opaque, Some(20_000), 20_000 - 3660, false),
        (AlternatingUsers, None, 20_000, false),
        (AlternatingUsers, Some(100), 60, true),
    ];
    for (strategy, deadline, second, expected) in table {
        let object = near(strategy, deadline);
        let went = !goes(second, &[stale("a", &object)]).is_empty();
        assert_eq!(went, expected, "{strategy:?} {deadline:?} {second}");
    }
    let object = near(AlternatingUsers, Some(20_000));
    assert_eq!(
        at_time(at(60), &[stale("a", &object)]).wake,
        Some(at(20_000 - 3660))
    );
    // Six workloads, five at once: two rounds.
    let six: Vec<Judgement> = (0..6)
        .map(|number| stale(&format!("w{number}"), &object))
        .collect();
    assert_eq!(goes(20_000 - 3721, &six).len(), 0);
    assert_eq!(goes(20_000 - 3720, &six).len(), 5);
}

#[test]
fn a_rotation_that_begins_while_pods_are_stale_is_urgent_unless_opaque() {
    for (strategy, expected) in [
        (RotationStrategy::AlternatingUsers, 1),
        (RotationStrategy::Overlap, 1),
        (RotationStrategy::Opaque, 0),
    ] {
        let object = db(|restarts| {
            nightly(restarts);
            (restarts.strategy, restarts.rotating) = (strategy, true);
        });
        assert_eq!(goes(60, &[stale("a", &object)]).len(), expected, "{strategy:?}");
    }
}

#[test]
fn a_wave_waits_for_those_before_it_but_not_for_what_can_never_go() {
    let object = db(|_| {});
    let first = |standing| target("first", &object, standing);
    let table = [
        ("done", first(Standing::Done), true),
        ("stale", stale("first", &object), false),
        ("rolling", first(Standing::Rolling), false),
        ("unknown", first(Standing::Unknown), false),
        (
            "paused",
            blocked(WorkloadState::Paused, stale("first", &object)),
            false,
        ),
        (
            "suspended",
            blocked(WorkloadState::Suspended, stale("first", &object)),
            false,
        ),
        (
            "left to Reloader",
            blocked(WorkloadState::LeftToReloader, stale("first", &object)),
            true,
        ),
        (
            "reverted",
            blocked(WorkloadState::Reverted, stale("first", &object)),
            true,
        ),
        (
            "on delete",
            blocked(WorkloadState::AwaitingPodDeletion, stale("first", &object)),
            true,
        ),
    ];
    for (name, first, expected) in table {
        let decisions = at_time(at(60), &[first, in_wave(1, stale("second", &object))]);
        assert_eq!(
            names(&decisions).contains(&"second".to_owned()),
            expected,
            "{name}"
        );
        if !expected {
            assert_eq!(
                state(&decisions, "second"),
                WorkloadState::WaitingForWave,
                "{name}"
            );
        }
    }
    let order = [in_wave(1, stale("a", &object)), in_wave(-1, stale("z", &object))];
    assert_eq!(goes(60, &order), ["z"]);
}

#[test]
fn one_failure_halts_and_two_halt_what_is_urgent() {
    let go_on = |restarts: &mut Restarts| restarts.policy.on_failure = OnFailure::Continue;
    let urgent = |restarts: &mut Restarts| restarts.strategy = RotationStrategy::SingleUser;
    let table: [(&str, ManagedSecret, usize, bool); 6] = [
        ("one", db(|_| {}), 1, true),
        ("continue", db(go_on), 3, false),
        ("urgent, one", db(urgent), 1, false),
        ("urgent, two", db(urgent), 2, true),
        (
            "resumed",
            db(|restarts| restarts.resumed = Some("t".into())),
            2,
            false,
        ),
        (
            "an older content resumed",
            db(|restarts| restarts.resumed = Some("s".into())),
            1,
            true,
        ),
    ];
    for (name, object, failures, halted) in table {
        let mut targets: Vec<Judgement> = (0..failures)
            .map(|number| failed(&format!("f{number}"), &object))
            .collect();
        targets.push(stale("next", &object));
        let decisions = at_time(at(60), &targets);
        assert_eq!(decisions.objects[object.key()].halted, halted, "{name}");
        let reply = decisions.objects[object.key()].reply.as_deref();
        let wrong = (name == "an older content resumed").then_some("Token s resumes another version");
        assert_eq!(reply, wrong, "{name}");
        assert_eq!(decisions.restarts.is_empty(), halted, "{name}");
    }
    let object = db(|_| {});
    let mut before = failed("broken", &object);
    before.claims[0].standing = Standing::Failed {
        failure: Failure::TimedOut,
        was_healthy: false,
    };
    assert_eq!(goes(60, &[before, stale("next", &object)]), ["next"]);
}

#[test]
fn the_limit_of_an_external_secret_is_raised_by_urgency() {
    let four = |object: &ManagedSecret| -> Vec<Judgement> {
        (0..4).map(|n| stale(&format!("w{n}"), object)).collect()
    };
    assert_eq!(goes(60, &four(&db(|_| {}))), ["w0"]);
    assert_eq!(
        goes(60, &four(&db(|restarts| restarts.policy.max_concurrent = 3))).len(),
        3
    );
    let urgent = db(|restarts| {
        restarts.strategy = RotationStrategy::SingleUser;
        restarts.policy.urgent_max_concurrent = 2;
    });
    assert_eq!(goes(60, &four(&urgent)).len(), 2);
}

#[test]
fn who_rolls_out_with_older_content_keeps_its_slot_and_goes_at_once() {
    let object = db(|_| {});
    let mut rolling = stale("z", &object);
    (rolling.rolling, rolling.claims[0].rolling) = (true, true);
    assert_eq!(goes(60, &[stale("a", &object), rolling]), ["z"]);
}

/// An ExternalSecret of a namespace that lets 100 workloads go at once.
fn of(namespace: &str) -> ManagedSecret {
    let mut object = db(|restarts| restarts.policy.max_concurrent = 100);
    let mut content = (*object.content).clone();
    content.object = ObjectKey::new(namespace, "db");
    object.content = content.into();
    object
}

#[test]
fn namespaces_take_turns() {
    let mut targets: Vec<Judgement> = (0..9).map(|n| stale(&format!("w{n}"), &of("big"))).collect();
    targets.push(stale("x", &of("small")));
    let limits = Limits {
        namespace: 5,
        cluster: 2,
    };
    let decisions = decide_with(at(60), &limits, &targets, &mut Memory::default());
    assert_eq!(names(&decisions), ["w0", "x"]);
    // One slot: whoever was served last waits.
    let limits = Limits {
        namespace: 5,
        cluster: 1,
    };
    let mut memory = Memory::default();
    let mut order = Vec::new();
    for _ in 0..4 {
        let decisions = decide_with(at(60), &limits, &targets, &mut memory);
        let restart = &decisions.restarts[0];
        memory.sending(restart, at(60));
        order.push(restart.key.key.namespace.to_string());
    }
    assert_eq!(order, ["big", "small", "big", "small"]);
}

#[test]
fn the_least_time_between_two_restarts_holds() {
    let object = db(|restarts| {
        restarts.policy.min_interval = Duration::from_mins(5);
        restarts.policy.max_concurrent = 3;
    });
    assert_eq!(goes(60, &[stale("a", &object), stale("b", &object)]), ["a"]);
    let mut done = target("a", &object, Standing::Done);
    done.patched_at = Some(at(60));
    let decisions = at_time(at(359), &[done.clone(), stale("b", &object)]);
    assert_eq!((decisions.restarts.len(), decisions.wake), (0, Some(at(360))));
    assert_eq!(goes(360, &[done, stale("b", &object)]), ["b"]);
}

#[test]
fn a_refused_workload_frees_its_slot() {
    let object = db(|_| {});
    let mut refused = stale("a", &object);
    refused.refused = Some(Hold::new(WorkloadState::Refused, "why", Some(at(90))));
    let decisions = at_time(at(60), &[refused, stale("b", &object)]);
    assert_eq!(names(&decisions), ["b"]);
    assert_eq!(
        (state(&decisions, "a"), decisions.wake),
        (WorkloadState::Refused, Some(at(90)))
    );
}

#[test]
fn decisions_do_not_depend_on_the_order_of_the_facts() {
    let object = db(|restarts| restarts.policy.max_concurrent = 2);
    let mut targets: Vec<Judgement> = (0..5).map(|n| stale(&format!("w{n}"), &object)).collect();
    let forward = at_time(at(60), &targets);
    targets.reverse();
    assert_eq!(at_time(at(60), &targets), forward);
}

#[test]
fn a_back_off_grows_to_five_minutes() {
    let object = db(|_| {});
    let decisions = at_time(at(60), &[stale("a", &object)]);
    let restart = &decisions.restarts[0];
    let mut memory = Memory::default();
    let mut waits = Vec::new();
    for _ in 0..40 {
        memory.refused(restart, at(0), "why");
        waits.push(memory.refusal("a", at(0)).unwrap().until.duration_since(at(0)));
    }
    assert_eq!(waits[..6], [10, 20, 40, 80, 160, 300].map(seconds));
    assert_eq!(waits[39], seconds(300));
    memory.retain(|_| false, |_| false);
    assert_eq!(memory.len(), 0);
}

#[test]
fn a_namespace_takes_no_more_of_the_clusters_slots_than_its_own() {
    // Their own annotations make them look as if they rolled out for us.
    let forged = (0..50).map(|n| target(&format!("w{n}"), &of("big"), Standing::Rolling));
    let targets: Vec<Judgement> = forged
        .chain([stale("v", &of("big")), stale("x", &of("small"))])
        .collect();
    // Of seven, one is reserved for rotations.
    let limits = Limits {
        namespace: 5,
        cluster: 7,
    };
    let decisions = decide_with(at(60), &limits, &targets, &mut Memory::default());
    assert_eq!(names(&decisions), ["x"]);
}

/// The Secret of a single user in the namespace, which AWS rotated at `rotated`.
fn single_user(namespace: &str, rotated: Option<i64>) -> ManagedSecret {
    with(&of(namespace), |restarts| {
        restarts.strategy = RotationStrategy::SingleUser;
        restarts.rotated_at = rotated.map(at);
    })
}

#[test]
fn a_quarter_of_the_clusters_slots_is_for_rotations_that_aws_showed() {
    let limits = Limits {
        namespace: 4,
        cluster: 8,
    };
    // Tenants whose rollouts hang hold all that they can get.
    let hung: Vec<Judgement> = (0..8)
        .map(|number| {
            let object = single_user(&format!("hung{}", number % 4), None);
            target(&format!("hung-{number}"), &object, Standing::Rolling)
        })
        .collect();
    let goes = |hung: &[Judgement], others: &[Judgement]| {
        let all: Vec<Judgement> = hung.iter().chain(others).cloned().collect();
        names(&decide_with(at(60), &limits, &all, &mut Memory::default()))
    };
    let declared = stale("declared", &single_user("a", None));
    let long_ago = stale("long-ago", &single_user("b", Some(-90_000)));
    let seen = |name: &str, namespace: &str| stale(name, &single_user(namespace, Some(-300)));
    // Six are for all, two for rotations.
    assert_eq!(goes(&hung[..5], std::slice::from_ref(&declared)), ["declared"]);
    assert_eq!(goes(&hung[..6], &[declared, long_ago]), [""; 0]);
    let rotations = [
        seen("one", "c"),
        seen("two", "c"),
        seen("three", "d"),
        seen("four", "e"),
    ];
    assert_eq!(goes(&hung[..6], &rotations), ["one", "three"]);
    // One that rolls out already holds its namespace's.
    let rolling = target("rolling", &single_user("c", Some(-300)), Standing::Rolling);
    let held: Vec<Judgement> = hung[..6].iter().cloned().chain([rolling]).collect();
    assert_eq!(goes(&held, &rotations), ["three"]);
    // Where there are fewer than four slots, none is reserved.
    let few = Limits {
        namespace: 3,
        cluster: 3,
    };
    let all: Vec<Judgement> = hung[..2]
        .iter()
        .cloned()
        .chain([stale("any", &of("f"))])
        .collect();
    assert_eq!(
        names(&decide_with(at(60), &few, &all, &mut Memory::default())),
        ["any"]
    );
}

#[test]
fn a_rollout_that_gave_its_slot_up_needs_one_for_newer_content() {
    let object = db(|restarts| restarts.policy.max_concurrent = 100);
    let mut late = stale("a", &object);
    (late.rolling, late.claims[0].rolling) = (true, true);
    let limits = Limits {
        namespace: 5,
        cluster: 1,
    };
    let other = target("b", &object, Standing::Rolling);
    for (slot, expected) in [
        (HeldSlot::Cluster, vec!["a"]),
        (HeldSlot::Namespace, vec![]),
        (HeldSlot::None, vec![]),
    ] {
        late.slot = slot;
        let targets = [late.clone(), other.clone()];
        let decisions = decide_with(at(60), &limits, &targets, &mut Memory::default());
        assert_eq!(names(&decisions), expected, "{slot:?}");
    }
}

#[test]
fn an_opening_is_found_once_and_again_when_it_ends_or_the_windows_change() {
    let mut memory = Memory::default();
    let object = db(nightly);
    let decisions = decide_with(at(60), &Limits::default(), &[stale("a", &object)], &mut memory);
    let state = &decisions.states[0];
    assert_eq!(state.state, WorkloadState::WaitingForWindow);
    let next = decisions.wake.unwrap();
    assert!(
        state.sentence.contains(&format!("{next:.0}")),
        "{}",
        state.sentence
    );
    for (now, opens) in [(at(61), false), (next, true), (at(60), false)] {
        let decisions = decide_with(now, &Limits::default(), &[stale("a", &object)], &mut memory);
        assert_eq!(!decisions.restarts.is_empty(), opens, "{now}");
    }
    let always = db(|_| {});
    let decisions = decide_with(at(60), &Limits::default(), &[stale("a", &always)], &mut memory);
    assert_eq!(names(&decisions), ["a"]);
}

/// A workload that uses the Secrets of several, all of them stale.
fn stale_of_all(name: &str, objects: &[&ManagedSecret]) -> Judgement {
    let mut target = stale(name, objects[0]);
    for object in &objects[1..] {
        target.claims.extend(stale(name, object).claims);
    }
    target
}

/// Where the workload `both` stands: by object, the word, whether it waits for another one's turn, and until when.
fn stands(decisions: &Decisions) -> Vec<(&str, WorkloadState, bool, Option<Timestamp>)> {
    let own = decisions
        .states
        .iter()
        .filter(|state| *state.key.key.name == *"both");
    own.map(|state| {
        let object = &*state.object.name;
        (
            object,
            state.state,
            state.sentence.contains("one restart brings both"),
            state.until,
        )
    })
    .collect()
}

#[test]
fn who_uses_two_secrets_waits_for_a_slot_of_both_and_one_restart_brings_them() {
    let (db, mail) = (object("db", "t"), object("mail", "m"));
    let both = || stale_of_all("both", &[&db, &mail]);
    let decisions = at_time(at(60), &[both(), target("first", &db, Standing::Rolling)]);
    assert_eq!(names(&decisions), Vec::<String>::new());
    let expected = [
        ("db", WorkloadState::WaitingForTurn, false, None),
        ("mail", WorkloadState::WaitingForTurn, true, None),
    ];
    assert_eq!(stands(&decisions), expected);
    let mail_says = &decisions
        .states
        .iter()
        .find(|state| *state.object.name == *"mail")
        .unwrap()
        .sentence;
    assert!(mail_says.starts_with("Secret db changed too"), "{mail_says}");

    let decisions = at_time(at(60), &[both(), target("first", &db, Standing::Done)]);
    assert_eq!(names(&decisions), ["both"]);
    assert_eq!(decisions.restarts[0].causes.len(), 2);
    // It counts for both.
    assert_eq!(
        goes(60, &[both(), stale("z-db", &db), stale("z-mail", &mail)]),
        ["both"]
    );
}

#[test]
fn no_secret_waits_for_the_least_time_between_two_restarts_of_another() {
    let db = object("db", "t");
    let slow = |name| {
        with(&object(name, "m"), |restarts| {
            restarts.policy.min_interval = Duration::from_hours(24);
        })
    };
    let (mail, files) = (slow("mail"), slow("files"));
    let done = |object| {
        let mut done = target("first", object, Standing::Done);
        done.patched_at = Some(at(60));
        done
    };
    let decisions = at_time(at(90), &[stale_of_all("both", &[&db, &mail]), done(&mail)]);
    assert_eq!(names(&decisions), ["both"]);
    assert_eq!(decisions.restarts[0].causes.len(), 2);
    // Where all have to wait, it goes when the first need not.
    let mut later = done(&files);
    later.key.key.name = "second".into();
    later.patched_at = Some(at(70));
    let targets = [stale_of_all("both", &[&files, &mail]), done(&mail), later];
    let decisions = at_time(at(90), &targets);
    let day = 24 * 3600;
    let expected = [("files", 70 + day), ("mail", 60 + day)];
    assert_eq!(
        stands(&decisions),
        expected.map(|(object, until)| (object, WorkloadState::WaitingForTurn, false, Some(at(until))))
    );
    assert_eq!(decisions.wake, Some(at(60 + day)));
    assert_eq!(goes(60 + day, &targets), ["both"]);
}

#[test]
fn what_is_urgent_waits_for_what_is_urgent_alone_and_takes_the_rest_along() {
    let calm = object("calm", "c");
    let urgent = |name| {
        with(&object(name, "u"), |restarts| {
            restarts.strategy = RotationStrategy::SingleUser;
            restarts.policy.urgent_max_concurrent = 1;
        })
    };
    let (db, mail) = (urgent("db"), urgent("mail"));
    let both = || stale_of_all("both", &[&calm, &db]);
    let decisions = at_time(at(60), &[both(), target("first", &calm, Standing::Rolling)]);
    assert_eq!(names(&decisions), ["both"]);
    assert_eq!(decisions.restarts[0].causes.len(), 2);
    let decisions = at_time(at(60), &[both(), target("first", &db, Standing::Rolling)]);
    assert_eq!(names(&decisions), Vec::<String>::new());
    let expected = [
        ("calm", WorkloadState::WaitingForTurn, true, None),
        ("db", WorkloadState::WaitingForTurn, false, None),
    ];
    assert_eq!(stands(&decisions), expected);
    // Its pods have a dead credential anyway: it does not wait for both.
    let decisions = at_time(
        at(60),
        &[
            stale_of_all("both", &[&db, &mail]),
            target("first", &db, Standing::Rolling),
        ],
    );
    assert_eq!(names(&decisions), ["both"]);
}

#[test]
fn what_is_urgent_but_has_not_settled_makes_nothing_else_urgent() {
    let calm = object("calm", "c");
    let mut urgent = db(|restarts| restarts.strategy = RotationStrategy::SingleUser);
    let mut content = (*urgent.content).clone();
    content.changed_at = Some(at(62));
    urgent.content = content.into();
    // Changes that followed each other without a rest, for a minute.
    let both = stale_of_all("both", &[&calm, &urgent]);
    assert_eq!(both.changing_since, Some(at(0)));
    let decisions = at_time(at(64), &[both.clone(), target("first", &calm, Standing::Rolling)]);
    assert_eq!(names(&decisions), Vec::<String>::new());
    let decisions = at_time(at(64), &[both]);
    assert!(!decisions.restarts[0].urgent);
    assert_eq!(decisions.restarts[0].causes.len(), 1);
}

#[test]
fn what_another_strategy_is_for_waits_and_says_so() {
    let (db, mail) = (object("db", "t"), object("mail", "m"));
    let mut both = stale_of_all("both", &[&db, &mail]);
    both.claims[1].terms.strategy = RestartStrategy::Evict;
    let decisions = at_time(at(60), &[both]);
    let words: Vec<_> = stands(&decisions)
        .into_iter()
        .map(|(object, state, ..)| (object, state))
        .collect();
    assert_eq!(
        words,
        [
            ("db", WorkloadState::RollingOut),
            ("mail", WorkloadState::WaitingForTurn)
        ]
    );
    assert_eq!(decisions.restarts[0].causes.len(), 1);
}
