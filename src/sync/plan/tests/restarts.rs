//! What restarts follow from: the scope of the tokens, the keys that count, and since when restarts are wanted.

use super::*;
use crate::api::token;

fn stamp<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    annotation_in(secret, name)
}

fn changed_at(wish: &Wish, live: &Secret) -> Option<String> {
    let after = apply(Some(live), &wish.plan(Some(live)));
    stamp(&after, annotation::CHANGED_AT).map(str::to_owned)
}

fn on(pairs: &[(&str, &str)], trigger: &[&str]) -> Wish {
    Wish {
        trigger: trigger.iter().map(|key| (*key).to_owned()).collect(),
        restarts: RestartWish::Enabled(FirstWrite::Ignore),
        ..Wish::of(pairs)
    }
}

/// The Secret of `wish`, whose content changed at `THEN`.
fn changed_then(wish: &Wish) -> Secret {
    let mut secret = wish.made();
    annotate(&mut secret, annotation::CHANGED_AT, Some(THEN));
    secret
}

#[test]
fn a_first_write_is_a_change_only_where_the_spec_says_so() {
    let pairs = [("password", "1")];
    let wish = |restarts| Wish {
        restarts,
        ..Wish::of(&pairs)
    };
    for (restarts, changes) in [
        (RestartWish::Enabled(FirstWrite::Restart), true),
        (RestartWish::Enabled(FirstWrite::Ignore), false),
        (RestartWish::Disabled, false),
        (RestartWish::Unknown, false),
    ] {
        let made = written(&wish(restarts).plan_at(NOW, None)).clone();
        assert_eq!(made.changed_at.is_some(), changes, "{restarts:?}");
        // It asks for restarts, since they are wanted from then on.
        assert!(made.changed_at.is_none() || made.changed_at >= made.restart_since);
    }
    // A Secret that is made again with what it held is none.
    let first = wish(RestartWish::Enabled(FirstWrite::Restart));
    let made = written(&first.plan_at(THEN, None)).clone();
    let again = first.after(&made);
    assert_eq!(written(&again.plan_at(NOW, None)).changed_at, Some(time(THEN)));
}

#[test]
fn only_the_chosen_keys_count() {
    let live = on(&[("password", "1"), ("host", "a")], &["password"]).made();
    for (pairs, counts) in [
        (&[("password", "1"), ("host", "b")][..], false),
        (&[("password", "1")], false),
        (&[("password", "1"), ("host", "a"), ("more", "x")], false),
        (&[("password", "2"), ("host", "a")], true),
        (&[("host", "a")], true),
    ] {
        let wish = on(pairs, &["password"]);
        let plan = wish.plan(Some(&live));
        assert_eq!(written(&plan).changed_at.is_some(), counts, "{pairs:?}");
        let after = apply(Some(&live), &plan);
        let same = stamp(&after, annotation::ROLLOUT) == stamp(&live, annotation::ROLLOUT);
        assert_eq!(same, !counts, "{pairs:?}");
    }
}

#[test]
fn other_keys_that_count_are_no_change() {
    let pairs = [("password", "1"), ("host", "a")];
    for (before, after) in [
        (&[][..], &["password"][..]),
        (&["password"], &[]),
        (&["password"], &["host", "password"]),
        (&["host"], &["password"]),
    ] {
        let live = changed_then(&on(&pairs, before));
        let wish = on(&pairs, after);
        assert_eq!(
            changed_at(&wish, &live).as_deref(),
            Some(THEN),
            "{before:?} {after:?}"
        );
        // Neither is it where the new keys never changed, nor once it was written.
        let never = on(&pairs, before).made();
        assert_eq!(changed_at(&wish, &never), None);
        let once = apply(Some(&never), &wish.plan(Some(&never)));
        assert!(matches!(wish.plan(Some(&once)), Plan::Nothing(_)));
        // A Secret edited by hand meanwhile is repaired, as far as we know what it held.
        let mut drifted = live.clone();
        drifted.data = Some(data(&[("password", "x"), ("host", "x")]));
        assert_eq!(changed_at(&wish, &drifted).as_deref(), Some(THEN));
        // A new value is a change, whatever else is new.
        let new = on(&[("password", "2"), ("host", "b")], after);
        assert_eq!(changed_at(&new, &live).as_deref(), Some(NOW));
    }
}

#[test]
fn another_key_of_the_tokens_is_no_change() {
    let live = changed_then(&on(&[("password", "1")], &[]));
    let rekeyed = Wish {
        key: [8; 32],
        ..on(&[("password", "1")], &[])
    };
    let plan = rekeyed.plan(Some(&live));
    let after = apply(Some(&live), &plan);
    // Pods carry the token of the change, so it stays; what counts now is noted beside it.
    for name in [annotation::CHANGED_AT, annotation::ROLLOUT, annotation::SCOPE] {
        assert_eq!(stamp(&after, name), stamp(&live, name), "{name}");
    }
    let rescoped = stamp(&after, annotation::RESCOPED).and_then(token::rescoped);
    let (scope, rollout) = rescoped.unwrap();
    assert_ne!(Some(scope), stamp(&live, annotation::SCOPE));
    assert_ne!(Some(rollout), stamp(&live, annotation::ROLLOUT));
    // A new value ends that.
    let new = Wish {
        data: data(&[("password", "2")]),
        ..rekeyed
    };
    let after = apply(Some(&after), &new.plan(Some(&after)));
    assert_eq!(stamp(&after, annotation::CHANGED_AT), Some(NOW));
    assert_eq!(stamp(&after, annotation::SCOPE), Some(scope));
    assert_eq!(stamp(&after, annotation::RESCOPED), None);
}

/// Everything that may be edited while pods carry the token of a change.
#[test]
fn pods_that_were_restarted_for_a_change_hold_it_whatever_counts_later() {
    let pairs = [("password", "1"), ("host", "a")];
    let keys = |trigger: &[&str]| on(&pairs, trigger);
    let rekeyed = |trigger: &[&str]| Wish {
        key: [8; 32],
        ..on(&pairs, trigger)
    };
    for steps in [
        vec![keys(&["password"])],
        vec![keys(&["password", "host"]), keys(&["host", "password"])],
        vec![keys(&["password"]), keys(&["host"]), keys(&[])],
        vec![rekeyed(&[])],
        vec![rekeyed(&["host"]), keys(&["host"]), rekeyed(&["password"])],
    ] {
        for remembers in [false, true] {
            let mut live = changed_then(&keys(&[]));
            let token = stamp(&live, annotation::ROLLOUT).unwrap().to_owned();
            let mut was = None;
            for step in &steps {
                let wish = match &was {
                    Some(was) if remembers => step.clone().after(was),
                    _ => step.clone(),
                };
                let plan = wish.plan(Some(&live));
                was = Some(written(&plan).clone());
                live = apply(Some(&live), &plan);
                assert_eq!(stamp(&live, annotation::ROLLOUT), Some(&*token));
                assert_eq!(stamp(&live, annotation::CHANGED_AT), Some(THEN));
                assert!(matches!(wish.plan(Some(&live)), Plan::Nothing(_)));
            }
            let last = steps.last().unwrap();
            // What does not count now is no change, though the token is of another scope.
            let counts = |key: &str| last.trigger.is_empty() || last.trigger.iter().any(|name| name == key);
            for key in ["password", "host"] {
                let mut new = last.clone();
                new.data.extend(data(&[(key, "new")]));
                let after = apply(Some(&live), &new.plan(Some(&live)));
                let changed = stamp(&after, annotation::CHANGED_AT) == Some(NOW);
                assert_eq!(changed, counts(key), "{key} {:?}", last.trigger);
                let same = stamp(&after, annotation::ROLLOUT) == Some(&*token);
                assert_eq!(same, !counts(key), "{key} {:?}", last.trigger);
            }
            // A Secret deleted and made again still has the token of that change.
            let made = apply(None, &last.clone().after(&was.unwrap()).plan(None));
            assert_eq!(stamp(&made, annotation::ROLLOUT), Some(&*token));
            assert_eq!(stamp(&made, annotation::CHANGED_AT), Some(THEN));
            assert!(matches!(last.plan(Some(&made)), Plan::Nothing(_)));
        }
    }
}

#[test]
fn keys_that_count_again_leave_no_trace() {
    let pairs = [("password", "1"), ("host", "a")];
    let live = changed_then(&on(&pairs, &["password"]));
    let other = on(&pairs, &["host"]);
    let rescoped = apply(Some(&live), &other.plan(Some(&live)));
    assert!(stamp(&rescoped, annotation::RESCOPED).is_some());
    let wish = on(&pairs, &["password"]);
    let back = apply(Some(&rescoped), &wish.plan(Some(&rescoped)));
    assert_eq!(back.metadata.annotations, live.metadata.annotations);
    // What changed while it did not count is no change once it counts.
    let changed = on(&[("password", "2"), ("host", "a")], &["host"]);
    let unseen = apply(Some(&rescoped), &changed.plan(Some(&rescoped)));
    let wish = on(&[("password", "2"), ("host", "a")], &["password"]);
    let back = apply(Some(&unseen), &wish.plan(Some(&unseen)));
    assert_eq!(stamp(&back, annotation::CHANGED_AT), Some(THEN));
    assert_eq!(
        stamp(&back, annotation::ROLLOUT),
        stamp(&live, annotation::ROLLOUT)
    );
    assert!(matches!(wish.plan(Some(&back)), Plan::Nothing(_)));
}

#[test]
fn a_token_of_another_scope_that_was_edited_by_hand_comes_back_from_the_status() {
    let pairs = [("password", "1"), ("host", "a")];
    let live = changed_then(&on(&pairs, &["password"]));
    let wish = on(&pairs, &["host"]);
    let plan = wish.plan(Some(&live));
    let after = apply(Some(&live), &plan);
    let remembering = wish.after(written(&plan));
    for value in [None, Some("x")] {
        let mut edited = after.clone();
        annotate(&mut edited, annotation::ROLLOUT, value);
        let repaired = apply(Some(&edited), &remembering.plan(Some(&edited)));
        assert_eq!(
            repaired.metadata.annotations, after.metadata.annotations,
            "{value:?}"
        );
    }
}

#[test]
fn a_value_that_somebody_wrote_by_hand_before_us_is_a_change() {
    let mut live = on(&[("password", "1")], &[]).made();
    live.data = Some(data(&[("password", "2")]));
    let wish = on(&[("password", "2")], &[]);
    assert_eq!(changed_at(&wish, &live).as_deref(), Some(NOW));
    let after = apply(Some(&live), &wish.plan(Some(&live)));
    assert!(matches!(
        wish.plan_at("2026-11-03T09:30:00Z", Some(&after)),
        Plan::Nothing(_)
    ));
}

#[test]
fn a_secret_without_a_scope_is_taken_as_it_is() {
    let wish = on(&[("password", "1")], &["password"]);
    // As an earlier version left it: tokens over all keys, no scope.
    let earlier = Wish {
        trigger: Vec::new(),
        ..wish.clone()
    };
    for changed in [None, Some(THEN)] {
        let mut live = earlier.made();
        annotate(&mut live, annotation::SCOPE, None);
        annotate(&mut live, annotation::CHANGED_AT, changed);
        assert_eq!(changed_at(&wish, &live).as_deref(), changed);
        let new = on(&[("password", "2")], &["password"]);
        assert_eq!(changed_at(&new, &live).as_deref(), Some(NOW));
        live.data = Some(data(&[("password", "by hand")]));
        assert_eq!(changed_at(&wish, &live).as_deref(), changed);
    }
}

#[test]
fn stamps_edited_by_hand_are_no_change() {
    let wish = on(&[("password", "1")], &[]);
    for name in [annotation::ROLLOUT, annotation::SCOPE, annotation::CONTENT] {
        for value in [None, Some("x")] {
            let mut live = changed_then(&wish);
            annotate(&mut live, name, value);
            let after = apply(Some(&live), &wish.plan(Some(&live)));
            assert_eq!(
                after.metadata.annotations,
                changed_then(&wish).metadata.annotations,
                "{name} {value:?}"
            );
        }
    }
}

#[test]
fn a_value_that_moves_forth_and_back_within_a_pass_is_no_change() {
    let wish = on(&[("password", "1")], &[]);
    let live = wish.made();
    let put_again = Wish {
        versions: r#"{"0":"v3"}"#.into(),
        ..wish
    };
    let plan = put_again.plan(Some(&live));
    assert_eq!(why(&plan), Why::Annotated);
    assert_eq!(written(&plan).changed_at, None);
}

#[test]
fn restarts_are_wanted_from_when_they_are_enabled_and_that_stays_while_they_are() {
    let off = Wish::of(&[("password", "1")]);
    let live = off.made();
    assert_eq!(stamp(&live, annotation::RESTART_SINCE), None);
    let wish = on(&[("password", "1")], &[]);
    let enabled = apply(Some(&live), &wish.plan(Some(&live)));
    assert_eq!(stamp(&enabled, annotation::RESTART_SINCE), Some(NOW));
    let later = "2026-11-03T09:30:00Z";
    let faulty = Wish {
        restarts: RestartWish::Unknown,
        ..off.clone()
    };
    for wish in [&wish, &faulty, &on(&[("password", "2")], &[])] {
        let after = apply(Some(&enabled), &wish.plan_at(later, Some(&enabled)));
        assert_eq!(stamp(&after, annotation::RESTART_SINCE), Some(NOW));
    }
    // A change in the same write counts.
    let new = on(&[("password", "2")], &[]);
    let plan = new.plan(Some(&live));
    assert_eq!(written(&plan).changed_at, Some(time(NOW)));
    assert_eq!(written(&plan).restart_since, Some(time(NOW)));
}

#[test]
fn restarts_that_are_enabled_again_are_wanted_from_then_on() {
    let (changed, again) = ("2026-11-03T09:30:00Z", "2026-12-03T09:30:00Z");
    let wish = on(&[("password", "1")], &[]);
    let enabled = apply(None, &wish.plan(None));
    let was = written(&wish.plan(Some(&enabled))).clone();
    assert_eq!(stamp(&enabled, annotation::RESTART_SINCE), Some(NOW));
    for value in ["1", "2"] {
        // A month without restarts, with a change in between or with none.
        let off = Wish::of(&[("password", value)]);
        let plan = off.clone().after(&was).plan_at(changed, Some(&enabled));
        let disabled = apply(Some(&enabled), &plan);
        assert_eq!(stamp(&disabled, annotation::RESTART_SINCE), None, "{value}");
        let wish = on(&[("password", value)], &[]).after(written(&plan));
        let back = apply(Some(&disabled), &wish.plan_at(again, Some(&disabled)));
        assert_eq!(stamp(&back, annotation::RESTART_SINCE), Some(again), "{value}");
        // A Secret made again while restarts are disabled does not remember it either.
        let made = apply(None, &off.after(&was).plan_at(changed, None));
        assert_eq!(stamp(&made, annotation::RESTART_SINCE), None, "{value}");
    }
}

#[test]
fn a_secret_made_again_forgets_no_restart() {
    let wish = on(&[("password", "1")], &[]);
    let live = changed_then(&wish);
    let was = written(&wish.plan(Some(&live))).clone();
    for (wish, changed, since) in [
        // What changed before the deletion and is not done yet is still to be done.
        (wish.clone().after(&was), Some(THEN), Some(THEN)),
        (on(&[("password", "2")], &[]).after(&was), Some(NOW), Some(THEN)),
        // Restarts that are enabled just now are not retroactive.
        (
            Wish {
                recorded_since: None,
                ..wish.clone().after(&was)
            },
            Some(THEN),
            Some(NOW),
        ),
        // Other keys count now, but the content is the same.
        (
            on(&[("password", "1")], &["password"]).after(&was),
            Some(THEN),
            Some(THEN),
        ),
        (wish, None, Some(NOW)),
    ] {
        let made = apply(None, &wish.plan(None));
        assert_eq!(stamp(&made, annotation::CHANGED_AT), changed);
        assert_eq!(stamp(&made, annotation::RESTART_SINCE), since);
    }
}

#[test]
fn adoption_counts_the_chosen_keys() {
    let mut live = foreign(&[("password", "1"), ("host", "a")]);
    annotate(&mut live, annotation::ADOPT, Some("db"));
    for (pairs, counts) in [
        (&[("password", "1"), ("host", "b")][..], false),
        (&[("password", "2"), ("host", "a")], true),
    ] {
        let wish = Wish {
            adopt_existing: true,
            ..on(pairs, &["password"])
        };
        let plan = wish.plan(Some(&live));
        assert_eq!(written(&plan).changed_at.is_some(), counts, "{pairs:?}");
        assert_eq!(written(&plan).restart_since, Some(time(NOW)));
    }
}
