//! Which keys changed when: what a Secret says of it, so that a change restarts only those that use a changed key.

use super::*;
use crate::api::KeyChanges;

const LATER: &str = "2026-11-03T10:00:00Z";

fn on(pairs: &[(&str, &str)]) -> Wish {
    Wish {
        restarts: RestartWish::Enabled(FirstWrite::Ignore),
        ..Wish::of(pairs)
    }
}

/// The Secret after `wish` at `now`.
fn after(live: &Secret, wish: &Wish, now: &str) -> Secret {
    apply(Some(live), &wish.plan_at(now, Some(live)))
}

/// For each key the token and the time of what pods must hold that use only this key.
fn held(secret: &Secret, key: &str) -> (String, Option<String>) {
    let says = |name| annotation_in(secret, name).map(str::to_owned);
    let (rollout, changed_at) = (says(annotation::ROLLOUT).unwrap(), says(annotation::CHANGED_AT));
    let changes = says(annotation::KEY_CHANGES).map(|text| {
        let at = changed_at.as_deref().map(time);
        KeyChanges::parse(&text, &rollout, at).expect("what we write we can read")
    });
    match changes.as_ref().and_then(|changes| changes.latest_of(&[key])) {
        Some(change) => (change.rollout.clone(), change.at().map(crate::api::time::seconds)),
        None => (rollout, changed_at),
    }
}

#[test]
fn a_change_of_one_key_leaves_the_others_where_they_were() {
    let first = on(&[("a", "1"), ("b", "1")]).made();
    let second = after(&first, &on(&[("a", "1"), ("b", "2")]), NOW);
    assert_eq!(held(&second, "a"), held(&first, "a"));
    assert_eq!(held(&second, "b").1.as_deref(), Some(NOW));
    assert_ne!(held(&second, "b").0, held(&first, "b").0);
    let third = after(&second, &on(&[("a", "2"), ("b", "2")]), LATER);
    assert_eq!(held(&third, "a").1.as_deref(), Some(LATER));
    assert_eq!(held(&third, "b"), held(&second, "b"));
    // A key that comes or goes is a change of this key.
    let fourth = after(&third, &on(&[("a", "2"), ("c", "1")]), "2026-11-04T00:00:00Z");
    assert_eq!(held(&fourth, "a"), held(&third, "a"));
    for key in ["b", "c"] {
        assert_eq!(
            held(&fourth, key).1.as_deref(),
            Some("2026-11-04T00:00:00Z"),
            "{key}"
        );
    }
}

#[test]
fn what_an_earlier_version_wrote_stays_what_pods_hold() {
    let mut former = on(&[("a", "1"), ("b", "1")]).made();
    annotate(&mut former, annotation::CHANGED_AT, Some(THEN));
    let wish = on(&[("a", "1"), ("b", "1")]);
    assert!(
        matches!(wish.plan(Some(&former)), Plan::Nothing(_)),
        "an upgrade writes nothing"
    );
    let next = after(&former, &on(&[("a", "1"), ("b", "2")]), NOW);
    assert_eq!(held(&next, "a"), held(&former, "a"));
    assert_eq!(held(&next, "a").1.as_deref(), Some(THEN));
}

#[test]
fn what_an_earlier_version_changes_meanwhile_counts_for_all_keys() {
    let first = on(&[("a", "1"), ("b", "1")]).made();
    let mut second = after(&first, &on(&[("a", "1"), ("b", "2")]), NOW);
    assert!(annotation_in(&second, annotation::KEY_CHANGES).is_some());
    // It knows nothing of the annotation.
    let wish = on(&[("a", "2"), ("b", "2")]);
    let third = after(&second, &wish, LATER);
    for name in [annotation::ROLLOUT, annotation::CHANGED_AT, annotation::CONTENT] {
        annotate(&mut second, name, annotation_in(&third, name));
    }
    second.data = third.data;
    let plan = wish.plan(Some(&second));
    assert_eq!(written(&plan).key_changes, None);
    assert_eq!(written(&plan).changed_at, Some(time(LATER)));
    assert_eq!(
        annotation_in(&apply(Some(&second), &plan), annotation::KEY_CHANGES),
        None
    );
}

#[test]
fn a_change_counts_for_all_where_nobody_knows_or_the_spec_says_so() {
    let first = on(&[("a", "1"), ("b", "1")]).made();
    let counts_for_all = |live: &Secret, wish: &Wish| {
        let next = after(live, wish, NOW);
        ["a", "b"]
            .iter()
            .all(|key| held(&next, key).1.as_deref() == Some(NOW))
            && annotation_in(&next, annotation::KEY_CHANGES).is_none()
    };
    let both = on(&[("a", "2"), ("b", "2")]);
    assert!(counts_for_all(&first, &both));
    let chosen = Wish {
        trigger: vec!["b".into()],
        ..on(&[("a", "1"), ("b", "2")])
    };
    assert!(counts_for_all(&first, &chosen));
    // Somebody wrote the new value by hand before us.
    let mut by_hand = first.clone();
    by_hand.data = Some(data(&[("a", "1"), ("b", "2")]));
    assert!(counts_for_all(&by_hand, &on(&[("a", "1"), ("b", "2")])));
    // Key names that would not fit.
    let long = "k".repeat(253);
    let many: Vec<String> = (0..70).map(|number| format!("{number}{}", &long[3..])).collect();
    let of = |value| {
        let mut pairs: Vec<(&str, &str)> = many.iter().map(|key| (&**key, value)).collect();
        pairs.push(("other", "1"));
        on(&pairs)
    };
    let next = after(&of("1").made(), &of("2"), NOW);
    assert_eq!(held(&next, "other").1.as_deref(), Some(NOW));
}

#[test]
fn nothing_but_a_change_moves_what_is_known_of_keys() {
    let first = on(&[("a", "1"), ("b", "1")]).made();
    let wish = on(&[("a", "1"), ("b", "2")]);
    let plan = wish.plan(Some(&first));
    let second = apply(Some(&first), &plan);
    let wish = wish.after(written(&plan));
    let is_kept = |live: Option<&Secret>, wish: &Wish| {
        let next = apply(live, &wish.plan_at(LATER, live));
        ["a", "b"]
            .iter()
            .all(|key| held(&next, key) == held(&second, key))
    };
    assert!(matches!(wish.plan(Some(&second)), Plan::Nothing(_)));
    let mut drifted = second.clone();
    drifted.data = Some(data(&[("a", "x")]));
    assert!(is_kept(Some(&drifted), &wish), "drift");
    let mut wiped = second.clone();
    annotate(&mut wiped, annotation::KEY_CHANGES, None);
    assert!(is_kept(Some(&wiped), &wish), "taken off by hand");
    annotate(&mut wiped, annotation::KEY_CHANGES, Some("[]"));
    assert!(is_kept(Some(&wiped), &wish), "overwritten by hand");
    assert!(is_kept(None, &wish), "deleted by hand");
    let chosen = Wish {
        trigger: vec!["b".into()],
        ..wish.clone()
    };
    assert!(is_kept(Some(&second), &chosen), "other keys that count");
    let keyed = Wish { key: [8; 32], ..wish };
    assert!(is_kept(Some(&second), &keyed), "another token key");
}
