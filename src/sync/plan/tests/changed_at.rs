//! `changed-at`: only what pods that use the Secret would notice counts as a change.

use super::*;
use crate::api::time::seconds;

/// What the Secret says after the plan was carried out, which is what the plan said.
fn changed_at(wish: &Wish, live: Option<&Secret>) -> Option<String> {
    let plan = wish.plan(live);
    let after = apply(live, &plan);
    let said = annotation_in(&after, annotation::CHANGED_AT).map(str::to_owned);
    assert_eq!(written(&plan).changed_at.map(seconds), said);
    assert_eq!(
        annotation_in(&after, annotation::ROLLOUT),
        Some(&*written(&plan).rollout)
    );
    said
}

/// The Secret after a change at `THEN`, and what was written then.
fn changed() -> (Secret, Written) {
    let first = Wish::of(&[("password", "first")]).made();
    let plan = Wish::default().plan_at(THEN, Some(&first));
    (apply(Some(&first), &plan), written(&plan).clone())
}

fn agreed(pairs: &[(&str, &str)]) -> Secret {
    let mut secret = foreign(pairs);
    annotate(&mut secret, annotation::ADOPT, Some("db"));
    secret
}

#[test]
fn a_creation_is_no_change() {
    assert_eq!(changed_at(&Wish::default(), None), None);
}

#[test]
fn another_value_is_a_change_now() {
    let live = Wish::of(&[("password", "old")]).made();
    assert_eq!(changed_at(&Wish::default(), Some(&live)).as_deref(), Some(NOW));
    let (live, _) = changed();
    let next = Wish::of(&[("password", "third")]);
    assert_eq!(changed_at(&next, Some(&live)).as_deref(), Some(NOW));
}

#[test]
fn fractions_of_seconds_are_left_out() {
    let live = Wish::of(&[("password", "old")]).made();
    let plan = Wish::default().plan_at("2026-11-02T09:30:00.987Z", Some(&live));
    assert_eq!(written(&plan).changed_at, Some(time(NOW)));
}

#[test]
fn adoption_is_a_change_only_if_the_data_differ() {
    let wish = Wish {
        adopt_existing: true,
        ..Wish::default()
    };
    let (equal, other) = (agreed(&[("password", "new")]), agreed(&[("password", "old")]));
    assert_eq!(changed_at(&wish, Some(&equal)), None);
    assert_eq!(changed_at(&wish, Some(&other)).as_deref(), Some(NOW));
    // Though the status remembers that the same data were here before: another's came between.
    let (_, written) = changed();
    let remembering = wish.after(&written);
    assert_eq!(changed_at(&remembering, Some(&equal)), None);
    assert_eq!(changed_at(&remembering, Some(&other)).as_deref(), Some(NOW));
}

#[test]
fn a_secret_made_again_is_compared_with_the_status() {
    let (_, was) = changed();
    let same = Wish::default().after(&was);
    assert_eq!(changed_at(&same, None).as_deref(), Some(THEN));
    let other = Wish::of(&[("password", "third")]).after(&was);
    assert_eq!(changed_at(&other, None).as_deref(), Some(NOW));

    let plan = Wish::default().plan(None);
    let never_changed = Wish::default().after(written(&plan));
    assert_eq!(changed_at(&never_changed, None), None);
    // A status of another target says nothing of this one.
    let mut renamed = other;
    renamed.recorded.as_mut().unwrap().0 = "former".into();
    assert_eq!(changed_at(&renamed, None), None);
}

#[test]
fn what_pods_do_not_notice_keeps_it() {
    let (live, was) = changed();
    let wish = Wish::default();
    let mut drifted = live.clone();
    drifted.data = Some(data(&[("password", "by hand"), ("more", "x")]));
    let rekeyed = Wish {
        key: [8; 32],
        ..wish.clone()
    };
    let edited = Wish {
        inputs: "other".into(),
        versions: "{}".into(),
        labels: map(&[("a", "b")]),
        ..wish.clone()
    };
    let orphan = Wish {
        creation: CreationPolicy::Orphan,
        ..wish.clone()
    };
    for (case, wish, live) in [
        ("nothing", &wish, &live),
        ("drift repaired", &wish, &drifted),
        ("tokens of another key", &rekeyed, &live),
        ("other metadata", &edited, &live),
        ("another owner", &orphan, &live),
    ] {
        assert_eq!(changed_at(wish, Some(live)).as_deref(), Some(THEN), "{case}");
    }

    // Neither does drift repair make a change of what never changed.
    let mut drifted = wish.made();
    drifted.data = Some(data(&[("password", "by hand")]));
    assert_eq!(changed_at(&wish, Some(&drifted)), None);
    // Annotations that were taken off by hand are remembered by the status.
    for data in [live.data.clone(), drifted.data] {
        let mut bare = live.clone();
        bare.metadata.annotations = None;
        bare.data = data;
        assert_eq!(
            changed_at(&wish.clone().after(&was), Some(&bare)).as_deref(),
            Some(THEN)
        );
    }
}

#[test]
fn a_time_that_is_none_is_put_right() {
    let wish = Wish::default();
    for (text, kept) in [
        ("yesterday", None),
        ("", None),
        ("2026-11-01T09:00:00.5+01:00", Some(THEN)),
    ] {
        let mut live = wish.made();
        annotate(&mut live, annotation::CHANGED_AT, Some(text));
        assert_eq!(changed_at(&wish, Some(&live)).as_deref(), kept, "{text}");
    }
}

#[test]
fn a_write_that_may_take_long_dates_its_change_ahead_and_nothing_else() {
    let times = Times {
        now: time(NOW),
        change: time("2026-11-02T09:30:20Z"),
    };
    let live = Wish::of(&[("password", "old")]).made();
    let wish = Wish {
        restarts: RestartWish::Enabled(FirstWrite::Ignore),
        ..Wish::default()
    };
    let changing = wish.plan_with(times, Some(&live));
    assert_eq!(written(&changing).changed_at, Some(times.change));
    assert!(times.dates(written(&changing)));
    // From when restarts are wanted must not be later than a change that follows at once.
    assert_eq!(written(&changing).restart_since, Some(times.now));
    // What was changed before keeps its time.
    let changed = apply(Some(&live), &wish.plan_at(THEN, Some(&live)));
    let again = Wish {
        versions: r#"{"0":"v2"}"#.into(),
        ..wish.clone()
    };
    let annotating = again.plan_with(times, Some(&changed));
    assert_eq!(written(&annotating).changed_at, Some(time(THEN)));
    assert!(!times.dates(written(&annotating)));
    // Nor does a Secret that is made name a change.
    assert!(!times.dates(written(&wish.plan_with(times, None))));
}
