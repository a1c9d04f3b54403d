//! The limits, by tables and over random sequences of deletions, times and confirmations.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    set::{KEPT, TOKENS},
    *,
};

fn object(n: usize) -> ObjectKey {
    ObjectKey::new("shop", format!("db-{n}"))
}

fn store(n: usize) -> ObjectKey {
    ObjectKey::new("shop", format!("aws-{n}"))
}

fn place(account: &str) -> Place {
    Place {
        account: account.into(),
        region: "eu-central-1".into(),
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn moment(now: Duration) -> Moment {
    Moment { now, time: 0 }
}

fn target<'a>(store: &'a ObjectKey, place: Option<&'a Place>, exists: bool) -> DeletionTarget<'a> {
    DeletionTarget { store, place, exists }
}

/// `count` ExternalSecrets of one store.
fn fleet(count: usize) -> Deletions {
    let mut deletions = Deletions::default();
    for n in 0..count {
        deletions.see(secs(0), &object(n), target(&store(0), Some(&place("1")), true));
    }
    deletions
}

fn decide(deletions: &mut Deletions, now: u64, n: usize) -> Decision {
    deletions.decide(moment(secs(now)), &object(n), &format!("t{n}"), false)
}

/// How many of `losing` go, one after another in one moment, when nothing is known of the others before.
fn go(all: usize, losing: usize) -> usize {
    let mut deletions = fleet(all);
    (0..losing)
        .filter(|n| decide(&mut deletions, 1, *n) == Decision::Go)
        .count()
}

#[test]
fn a_few_go_and_many_are_held() {
    for (all, losing, expected) in [
        (1, 1, 1),
        // All of at least two: the last one is held.
        (2, 2, 1),
        (3, 3, 2),
        // More than 3 and 20 %.
        (10, 4, 3),
        (20, 4, 4),
        (20, 5, 4),
        (24, 5, 4),
        (25, 5, 5),
        (25, 6, 5),
        // More than 10 and 5 %.
        (100, 11, 10),
        (200, 11, 10),
        (220, 11, 11),
        (220, 12, 11),
        (10_000, 500, 500),
        (10_000, 501, 500),
    ] {
        assert_eq!(go(all, losing), expected, "{losing} of {all}");
    }
}

#[test]
fn what_is_expected_together_is_held_together() {
    let mut deletions = fleet(10);
    for n in 0..10 {
        deletions.expect(secs(0), &object(n), &format!("t{n}"));
    }
    for n in 0..10 {
        assert_eq!(decide(&mut deletions, 60, n), Decision::Held, "{n}");
    }
    assert_eq!(deletions.held(), 10);
}

#[test]
fn the_window_ends_and_what_is_held_stays_held() {
    let mut deletions = fleet(10);
    for n in 0..3 {
        assert_eq!(decide(&mut deletions, 0, n), Decision::Go);
        deletions.see(secs(1), &object(n), target(&store(0), None, false));
    }
    assert_eq!(decide(&mut deletions, 1, 3), Decision::Held);
    assert_eq!(decide(&mut deletions, 700, 3), Decision::Held);
    // Another one, later.
    assert_eq!(decide(&mut deletions, 700, 4), Decision::Go);
    deletions.withdraw(&object(3));
    assert_eq!(deletions.held(), 0);
    assert_eq!(decide(&mut deletions, 701, 3), Decision::Go);
}

#[test]
fn what_waits_for_a_person_holds_others_for_ten_minutes_only() {
    let mut deletions = Deletions::default();
    // Ten ExternalSecrets of one tenant and one of another, by stores of their own in one account.
    for n in 0..11 {
        deletions.see(
            secs(0),
            &object(n),
            target(&store(usize::from(n == 10)), Some(&place("1")), true),
        );
    }
    for n in 0..10 {
        deletions.expect(secs(0), &object(n), &format!("t{n}"));
    }
    for n in 0..10 {
        assert_eq!(decide(&mut deletions, n as u64, n), Decision::Held, "{n}");
    }
    assert_eq!(decide(&mut deletions, 9, 10), Decision::Held);
    deletions.withdraw(&object(10));
    // The last of them were held too recently.
    assert_eq!(decide(&mut deletions, 604, 10), Decision::Held);
    deletions.withdraw(&object(10));
    assert_eq!(decide(&mut deletions, 609, 10), Decision::Go);
    // They themselves wait on, and asking again makes them no newer.
    for n in 0..10 {
        assert_eq!(decide(&mut deletions, 5000, n), Decision::Held, "{n}");
    }
    deletions.see(
        secs(5001),
        &object(11),
        target(&store(0), Some(&place("1")), true),
    );
    assert_eq!(
        decide(&mut deletions, 5001, 11),
        Decision::Go,
        "of the same store"
    );
    // All at once are held again, however long others waited before.
    for n in 12..20 {
        deletions.see(secs(6000), &object(n), target(&store(0), Some(&place("1")), true));
        deletions.expect(secs(6000), &object(n), &format!("t{n}"));
    }
    for n in 12..20 {
        assert_eq!(decide(&mut deletions, 6000, n), Decision::Held, "{n}");
    }
    assert_eq!(deletions.ends.len(), 8);
}

#[test]
fn what_aws_never_confirms_holds_others_for_ten_minutes_only() {
    let mut deletions = Deletions::default();
    for n in 0..12 {
        let store = store(usize::from(n == 11));
        deletions.see(secs(0), &object(n), target(&store, Some(&place("1")), true));
    }
    // One tenant's secrets are gone, as it seems, and it sees to it that AWS is asked no second time.
    for n in 0..11 {
        deletions.expect(secs(0), &object(n), &format!("t{n}"));
    }
    assert_eq!(decide(&mut deletions, 599, 11), Decision::Held);
    deletions.withdraw(&object(11));
    // That they show once more makes them no newer.
    for n in 0..11 {
        deletions.expect(secs(599), &object(n), &format!("t{n}"));
    }
    assert_eq!(decide(&mut deletions, 600, 11), Decision::Go);
    assert!(deletions.ends.is_empty());
    // Once AWS confirms them after all, they count like any others.
    let held = (0..11).filter(|n| decide(&mut deletions, 5000, *n) == Decision::Held);
    assert_eq!(held.count(), 8);
}

#[test]
fn accounts_and_regions_count_over_all_their_stores() {
    let mut deletions = Deletions::default();
    for n in 0..10 {
        deletions.see(secs(0), &object(n), target(&store(n), Some(&place("1")), true));
        deletions.see(
            secs(0),
            &object(n + 100),
            target(&store(n), Some(&place("2")), true),
        );
        deletions.see(secs(0), &object(n + 200), target(&store(n), None, true));
    }
    let went = (0..10)
        .filter(|n| decide(&mut deletions, 1, *n) == Decision::Go)
        .count();
    assert_eq!(went, 3);
    assert_eq!(decide(&mut deletions, 1, 100), Decision::Go);
}

#[test]
fn one_token_confirms_what_it_was_shown_for_and_only_once() {
    let mut deletions = fleet(10);
    for n in 0..5 {
        deletions.expect(secs(0), &object(n), &format!("t{n}"));
    }
    for n in 0..5 {
        assert_eq!(decide(&mut deletions, 60, n), Decision::Held);
    }
    assert_eq!(deletions.show(secs(61)), [], "more may come");
    let [shown] = &deletions.show(secs(80))[..] else {
        panic!("nothing is shown")
    };
    let shown = shown.clone();
    assert_eq!((shown.held, shown.of, &shown.store), (5, 10, &store(0)));
    assert_eq!(deletions.show(secs(90)), [], "once");
    // A later one is not covered.
    assert_eq!(decide(&mut deletions, 91, 5), Decision::Held);
    let wrong = Confirmed::Wrong {
        current: shown.token.clone(),
    };
    assert_eq!(deletions.confirm_store(secs(92), &store(0), "other"), wrong);
    assert_eq!(
        deletions.confirm_store(secs(92), &store(0), "other"),
        Confirmed::Nothing,
        "told once"
    );
    let Confirmed::All(objects) = deletions.confirm_store(secs(92), &store(0), &shown.token) else {
        panic!("the token is not known")
    };
    assert_eq!(objects, (0..5).map(object).collect::<Vec<_>>());
    for n in 0..5 {
        assert_eq!(decide(&mut deletions, 92, n), Decision::Go, "{n}");
        // A write that failed is tried again.
        assert_eq!(decide(&mut deletions, 93, n), Decision::Go, "{n}");
    }
    assert_eq!(decide(&mut deletions, 94, 5), Decision::Held);
    // The same token again covers nothing.
    assert_eq!(
        deletions.confirm_store(secs(94), &store(0), &shown.token),
        Confirmed::All(vec![])
    );
    assert_eq!(decide(&mut deletions, 95, 5), Decision::Held);
    // One of them by a token of its own.
    assert!(!deletions.confirm(secs(95), &object(5), "t4"));
    assert!(deletions.confirm(secs(95), &object(5), "t5"));
    assert_eq!(decide(&mut deletions, 96, 5), Decision::Go);
    assert!(!deletions.confirm(secs(96), &object(5), "t5"), "used up");
    assert_eq!(deletions.stores(), []);
}

#[test]
fn what_stays_held_is_told_again_before_its_event_is_gone() {
    let mut deletions = fleet(1);
    assert_eq!(
        deletions.decide(moment(secs(1)), &object(0), "t0", true),
        Decision::Held
    );
    let mut told = Vec::new();
    for now in (0..20_000).step_by(10) {
        for shown in deletions.show(secs(now)) {
            told.push((now, shown.alert, shown.token));
        }
    }
    let token = told[0].2.clone();
    let expected: Vec<_> = (0..7).map(|n| (20 + n * 3000, n == 0, token.clone())).collect();
    assert_eq!(told, expected);
    // What is back in AWS is told no more.
    deletions.withdraw(&object(0));
    assert_eq!(deletions.show(secs(40_000)), []);
}

#[test]
fn the_namespaces_with_most_of_what_is_held_are_counted() {
    let mut deletions = Deletions::default();
    for (namespace, count) in [("a", 1), ("b", 3), ("c", 2), ("d", 5)] {
        for n in 0..count {
            let object = ObjectKey::new(namespace, format!("db-{n}"));
            deletions.see(secs(0), &object, target(&store(0), None, true));
            assert_eq!(
                deletions.decide(moment(secs(0)), &object, "t", true),
                Decision::Held
            );
        }
    }
    let shown = deletions.show(secs(20));
    let expected = [("d".into(), 5), ("b".into(), 3), ("c".into(), 2)];
    assert_eq!((shown[0].held, &shown[0].namespaces[..]), (11, &expected[..]));
}

/// One of two deletions is held; the other one was carried out.
fn toggled() -> (Deletions, String) {
    let mut deletions = fleet(2);
    assert_eq!(decide(&mut deletions, 0, 0), Decision::Go);
    assert_eq!(decide(&mut deletions, 0, 1), Decision::Held);
    let shown = deletions.show(secs(20));
    assert!(shown[0].alert);
    (deletions, shown[0].token.clone())
}

/// The policy keeps everything, then follows deletions again.
fn toggle(deletions: &mut Deletions, now: u64) -> Decision {
    deletions.forget(&object(1));
    deletions.see(secs(now), &object(1), target(&store(0), Some(&place("1")), true));
    deletions.decide(moment(secs(now)), &object(1), "t1", true)
}

#[test]
fn the_same_deletion_held_once_more_is_no_news_and_keeps_its_token() {
    let (mut deletions, token) = toggled();
    for now in 21..1000 {
        assert_eq!(toggle(&mut deletions, now), Decision::Held);
        assert_eq!(deletions.show(secs(now)), [], "{now}");
    }
    assert_eq!(deletions.sets.len(), 1);
    let confirmed = Confirmed::All(vec![object(1)]);
    assert_eq!(deletions.confirm_store(secs(1000), &store(0), &token), confirmed);

    // After an hour it is news, and nothing is kept of what is not held.
    let (mut deletions, token) = toggled();
    deletions.forget(&object(1));
    assert_eq!(deletions.stores(), []);
    assert_eq!(
        deletions.confirm_store(secs(1000), &store(0), "other"),
        Confirmed::Nothing,
        "nothing is held"
    );
    deletions.show(secs(20 + 3600));
    assert!(deletions.sets.is_empty());
    assert_eq!(toggle(&mut deletions, 3700), Decision::Held);
    let shown = deletions.show(secs(3720));
    assert!(shown[0].alert && shown[0].token == token);
}

#[test]
fn a_used_token_does_not_cover_what_was_not_held_as_it_was_used() {
    let mut deletions = fleet(3);
    for n in 0..2 {
        let token = format!("t{n}");
        assert_eq!(
            deletions.decide(moment(secs(0)), &object(n), &token, true),
            Decision::Held
        );
    }
    let first = deletions.show(secs(20))[0].token.clone();
    // It is back for a while.
    deletions.withdraw(&object(1));
    let confirmed = Confirmed::All(vec![object(0)]);
    assert_eq!(deletions.confirm_store(secs(25), &store(0), &first), confirmed);
    assert_eq!(
        deletions.decide(moment(secs(30)), &object(1), "t1", true),
        Decision::Held
    );
    let Confirmed::All(none) = deletions.confirm_store(secs(31), &store(0), &first) else {
        panic!("the last token is no wrong one")
    };
    assert_eq!(none, []);
    let shown = deletions.show(secs(50));
    assert_eq!(shown.len(), 1, "it needs a token that covers it");
    let current = shown[0].token.clone();
    assert_eq!(
        deletions.confirm_store(secs(50), &store(0), &first),
        Confirmed::Wrong {
            current: current.clone()
        }
    );
    assert_eq!(
        deletions.confirm_store(secs(51), &store(0), &current),
        Confirmed::All(vec![object(1)])
    );
}

/// One deletion of three is held, and shown at 20 s.
fn asked() -> (Deletions, String) {
    let mut deletions = fleet(3);
    for n in 0..2 {
        assert_eq!(decide(&mut deletions, 0, n), Decision::Go);
    }
    assert_eq!(decide(&mut deletions, 0, 2), Decision::Held);
    let token = deletions.show(secs(20))[0].token.clone();
    (deletions, token)
}

/// The store carries `stale` while a deletion is held: it is asked for another token, which confirms it.
fn asks_anew(deletions: &mut Deletions, now: u64, stale: &str) {
    assert_eq!(decide(deletions, now, 2), Decision::Held);
    // As often as anybody looks.
    for after in 0..20 {
        let confirmed = deletions.confirm_store(secs(now + after), &store(0), stale);
        assert!(
            !matches!(confirmed, Confirmed::All(all) if !all.is_empty()),
            "{after}"
        );
    }
    let current = deletions.show(secs(now + 20))[0].token.clone();
    assert_ne!(current, stale);
    let wrong = Confirmed::Wrong {
        current: current.clone(),
    };
    assert_eq!(deletions.confirm_store(secs(now + 21), &store(0), stale), wrong);
    assert_eq!(decide(deletions, now + 21, 2), Decision::Held);
    let confirmed = Confirmed::All(vec![object(2)]);
    assert_eq!(
        deletions.confirm_store(secs(now + 22), &store(0), &current),
        confirmed
    );
    assert_eq!(decide(deletions, now + 22, 2), Decision::Go);
}

#[test]
fn a_token_that_was_used_confirms_no_later_deletion_though_nothing_was_carried_out() {
    for later in [30, 300] {
        let (mut deletions, token) = asked();
        let confirmed = Confirmed::All(vec![object(2)]);
        assert_eq!(deletions.confirm_store(secs(21), &store(0), &token), confirmed);
        // Suspended before it was carried out, and then the secret is back.
        deletions.withdraw(&object(2));
        asks_anew(&mut deletions, later, &token);
    }
}

#[test]
fn a_token_that_came_too_late_or_before_it_was_asked_for_confirms_nothing() {
    // The secret is back, and then somebody confirms its deletion.
    let (mut deletions, token) = asked();
    deletions.withdraw(&object(2));
    deletions.confirm_store(secs(21), &store(0), &token);
    asks_anew(&mut deletions, 30, &token);
    // So late that nothing is known of the token.
    let (mut deletions, token) = asked();
    deletions.withdraw(&object(2));
    deletions.show(secs(7200));
    assert!(deletions.sets.is_empty());
    assert_eq!(
        deletions.confirm_store(secs(7200), &store(0), &token),
        Confirmed::Nothing
    );
    for n in 0..2 {
        assert_eq!(decide(&mut deletions, 7200, n), Decision::Go);
    }
    asks_anew(&mut deletions, 7200, &token);
    // What an earlier process asked for may be answered already.
    let (_, token) = asked();
    let mut deletions = fleet(3);
    assert_eq!(
        deletions.decide(moment(secs(0)), &object(2), "t2", true),
        Decision::Held
    );
    assert_eq!(
        deletions.confirm_store(secs(1), &store(0), &token),
        Confirmed::Nothing
    );
    assert_eq!(deletions.show(secs(20))[0].token, token);
    let confirmed = Confirmed::All(vec![object(2)]);
    assert_eq!(deletions.confirm_store(secs(21), &store(0), &token), confirmed);
}

#[test]
fn a_new_process_goes_on_from_the_token_that_is_asked_for() {
    let (mut deletions, _) = asked();
    deletions.reject(&object(2));
    let asked_for = deletions.text(&object(2)).unwrap();
    let mut deletions = fleet(3);
    let held = deletions.decide(moment(secs(0)), &object(2), "t2", true);
    assert_eq!(
        (held, deletions.text(&object(2)).as_deref()),
        (Decision::Held, Some("t2"))
    );
    deletions.resume(&object(2), |text| text == "something else");
    assert_eq!(deletions.text(&object(2)).as_deref(), Some("t2"));
    deletions.resume(&object(2), |text| text == asked_for);
    assert_eq!(deletions.text(&object(2)), Some(asked_for.clone()));
    assert!(!deletions.confirm(secs(1), &object(2), "t2"), "that one is old");
    assert!(deletions.confirm(secs(1), &object(2), &asked_for));
}

#[test]
fn the_token_of_a_store_that_was_used_confirms_nothing_in_a_new_process() {
    let (mut deletions, token) = asked();
    let confirmed = Confirmed::All(vec![object(2)]);
    assert_eq!(deletions.confirm_store(secs(21), &store(0), &token), confirmed);
    deletions.withdraw(&object(2));
    assert_eq!(decide(&mut deletions, 30, 2), Decision::Held);
    let asked_for = deletions.text(&object(2)).unwrap();
    let mut deletions = fleet(3);
    let held = deletions.decide(moment(secs(0)), &object(2), "t2", true);
    assert_eq!(held, Decision::Held);
    deletions.resume(&object(2), |text| text == asked_for);
    assert_eq!(
        deletions.confirm_store(secs(1), &store(0), &token),
        Confirmed::Nothing
    );
    assert_ne!(deletions.show(secs(20))[0].token, token);
    let Confirmed::Wrong { .. } = deletions.confirm_store(secs(21), &store(0), &token) else {
        panic!("it is taken for a confirmation");
    };
}

#[test]
fn the_token_of_an_external_secret_is_used_up_as_well() {
    let (mut deletions, _) = asked();
    assert_eq!(deletions.text(&object(2)).as_deref(), Some("t2"));
    assert!(deletions.confirm(secs(21), &object(2), "t2"));
    deletions.withdraw(&object(2));
    assert_eq!(decide(&mut deletions, 30, 2), Decision::Held);
    assert!(!deletions.confirm(secs(31), &object(2), "t2"));
    let second = deletions.text(&object(2)).unwrap();
    assert_ne!(second, "t2");
    // That one stood there already.
    deletions.reject(&object(2));
    assert!(!deletions.confirm(secs(31), &object(2), &second));
    let third = deletions.text(&object(2)).unwrap();
    assert!(deletions.confirm(secs(31), &object(2), &third));
    assert_eq!(decide(&mut deletions, 32, 2), Decision::Go);
}

#[test]
fn a_confirmation_that_is_not_carried_out_is_void_after_an_hour_or_when_the_secret_is_back() {
    let confirmed = || {
        let (mut deletions, token) = asked();
        deletions.confirm_store(secs(21), &store(0), &token);
        deletions
    };
    for (now, decision) in [(3620, Decision::Go), (3621, Decision::Held)] {
        let mut deletions = confirmed();
        deletions.show(secs(now));
        assert_eq!(
            deletions.decide(moment(secs(now)), &object(2), "t2", true),
            decision
        );
    }
    let mut deletions = confirmed();
    assert_eq!(decide(&mut deletions, 22, 2), Decision::Go);
    assert_eq!(decide(&mut deletions, 23, 2), Decision::Go, "tried again");
    deletions.withdraw(&object(2));
    assert_eq!(decide(&mut deletions, 24, 2), Decision::Held);
}

#[test]
fn a_set_that_grows_without_end_calls_people_every_five_minutes_and_every_token_is_good_for_an_hour() {
    let mut deletions = fleet(400);
    let (mut told, mut alerts) = (Vec::new(), Vec::new());
    for now in 0..7200 {
        if now % 20 == 0 {
            let n = usize::try_from(now / 20).unwrap();
            let token = format!("t{n}");
            assert_eq!(
                deletions.decide(moment(secs(now)), &object(n), &token, true),
                Decision::Held
            );
        }
        for shown in deletions.show(secs(now)) {
            told.push((now, shown.token));
            if shown.alert {
                alerts.push(now);
            }
        }
        let known = &deletions.sets[&store(0)].shown;
        for (at, token) in told.iter().rev().take_while(|(at, _)| at + 3600 > now) {
            assert!(known.iter().any(|shown| shown.text == *token), "{at} {now}");
        }
    }
    assert!(
        alerts.windows(2).all(|pair| pair[1] - pair[0] >= 300),
        "{alerts:?}"
    );
    assert!((20..=24).contains(&alerts.len()), "{alerts:?}");
    // What was told without an alert is made up for, also if nothing is added.
    let mut deletions = fleet(2);
    let mut held = |now, n: usize| {
        let token = format!("t{n}");
        deletions.decide(moment(secs(now)), &object(n), &token, true);
        let shown = deletions.show(secs(now + 20));
        (shown.len(), shown[0].alert)
    };
    assert_eq!((held(0, 0), held(40, 1)), ((1, true), (1, false)));
    assert_eq!(deletions.show(secs(319)), []);
    assert!(deletions.show(secs(320))[0].alert);
    assert_eq!(deletions.show(secs(700)), []);
}

#[test]
fn a_token_that_was_used_covers_no_later_deletion_of_the_same_secrets() {
    let mut deletions = fleet(2);
    for n in 0..2 {
        deletions.expect(secs(0), &object(n), "first");
    }
    assert_eq!(
        deletions.decide(moment(secs(60)), &object(0), "first", false),
        Decision::Held
    );
    assert!(deletions.confirm(secs(60), &object(0), "first"));
    assert_eq!(
        deletions.decide(moment(secs(61)), &object(0), "first", false),
        Decision::Go
    );
    // Made again and deleted again.
    deletions.see(secs(62), &object(0), target(&store(0), None, true));
    deletions.expect(secs(62), &object(0), "second");
    assert_eq!(
        deletions.decide(moment(secs(122)), &object(0), "second", false),
        Decision::Held
    );
    assert!(!deletions.confirm(secs(122), &object(0), "first"));
}

#[test]
fn a_new_process_knows_what_an_earlier_one_carried_out_and_held() {
    let mut deletions = Deletions::default();
    for n in 0..3 {
        deletions.recall(&object(n), &store(0), secs(0), 5);
    }
    for n in 3..10 {
        deletions.see(secs(1), &object(n), target(&store(0), Some(&place("1")), true));
    }
    assert_eq!(deletions.time_of(&object(0)), Some(5));
    assert_eq!(decide(&mut deletions, 60, 3), Decision::Held);
    // Held by an earlier one, whatever is known of others.
    let mut deletions = fleet(1);
    assert_eq!(
        deletions.decide(moment(secs(1)), &object(0), "t0", true),
        Decision::Held
    );
    assert!(deletions.confirm(secs(1), &object(0), "t0"));
    assert_eq!(
        deletions.decide(moment(secs(2)), &object(0), "t0", true),
        Decision::Go
    );
}

#[test]
fn what_is_forgotten_still_counts_until_the_window_ends() {
    let mut deletions = fleet(10);
    for n in 0..3 {
        assert_eq!(decide(&mut deletions, 0, n), Decision::Go);
        deletions.forget(&object(n));
    }
    deletions.lose(&object(9));
    assert_eq!(
        deletions.members.len(),
        9,
        "what has no Secret counts for nothing"
    );
    assert_eq!(decide(&mut deletions, 1, 3), Decision::Held);
    deletions.forget(&object(3));
    assert_eq!(deletions.held(), 0);
    for n in 4..10 {
        deletions.forget(&object(n));
    }
    deletions.show(secs(600));
    assert!(deletions.members.is_empty() && deletions.tallies.is_empty() && deletions.sets.is_empty());
    assert!(deletions.recent.is_empty() && deletions.ends.is_empty());
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    See(usize, bool),
    Expect(usize),
    Decide(usize),
    Withdraw(usize),
    Forget(usize),
    Confirm(usize),
    ConfirmStore(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let object = 0_usize..14;
    let step = prop_oneof![
        2 => (1_u64..400).prop_map(Step::Wait),
        3 => (object.clone(), any::<bool>()).prop_map(|(n, exists)| Step::See(n, exists)),
        3 => object.clone().prop_map(Step::Expect),
        8 => object.clone().prop_map(Step::Decide),
        1 => object.clone().prop_map(Step::Withdraw),
        1 => object.clone().prop_map(Step::Forget),
        1 => object.prop_map(Step::Confirm),
        1 => (0_usize..2).prop_map(Step::ConfirmStore),
    ];
    prop::collection::vec(step, 1..120)
}

/// What the tallies must be.
fn recount(deletions: &Deletions) -> HashMap<Group, Count> {
    let mut tallies: HashMap<Group, Count> = HashMap::new();
    for member in deletions.members.values() {
        for group in member.groups() {
            let tally = tallies.entry(group).or_default();
            tally.all += member.tally().all;
            tally.losing += member.tally().losing;
        }
    }
    tallies
}

proptest! {
    #[test]
    fn a_token_confirms_at_most_once_and_only_what_it_was_asked_for_before(steps in steps()) {
        let mut deletions = fleet(14);
        for n in 7..14 {
            deletions.see(secs(0), &object(n), target(&store(1), Some(&place("1")), true));
        }
        let of = |n: usize| usize::from(n >= 7);
        let mut now = 0;
        // What people wrote on the stores, and when; what was shown last; what is used up.
        let mut carried: [Option<(usize, String)>; 2] = [None, None];
        let mut own: [Option<String>; 14] = Default::default();
        let mut last: [Option<String>; 2] = [None, None];
        let mut used = BTreeSet::new();
        // What the status says, and since when it is held without having been asked for before.
        let mut said = [false; 14];
        let mut held: [Option<usize>; 14] = [None; 14];
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Wait(time) => now += time,
                Step::See(n, true) => deletions.see(secs(now), &object(n), target(&store(of(n)), Some(&place("1")), true)),
                Step::Expect(n) => deletions.expect(secs(now), &object(n), &format!("t{n}")),
                // A suspension leaves what the status says; a secret that is back does not.
                Step::See(n, false) => deletions.withdraw(&object(n)),
                Step::Withdraw(n) | Step::Forget(n) => {
                    deletions.withdraw(&object(n));
                    said[n] = false;
                }
                Step::Confirm(n) => {
                    if let Some(text) = deletions.text(&object(n)).filter(|_| said[n]) {
                        own[n] = Some(text);
                    }
                }
                Step::ConfirmStore(n) => carried[n] = last[n].clone().map(|token| (at, token)),
                Step::Decide(n) => {
                    let was = deletions.text(&object(n)).is_some();
                    let token = format!("t{n}");
                    let mut decision = deletions.decide(moment(secs(now)), &object(n), &token, said[n]);
                    if decision == Decision::Held && !was {
                        held[n] = Some(at).filter(|_| !said[n]);
                    }
                    let text = deletions.text(&object(n));
                    if let Some(text) = text.filter(|text| own[n].as_ref() == Some(text)) {
                        if said[n] {
                            prop_assert!(deletions.confirm(secs(now), &object(n), &text));
                            prop_assert!(used.insert(text), "used twice on {}", object(n));
                            decision = deletions.decide(moment(secs(now)), &object(n), &token, true);
                            prop_assert_eq!(decision, Decision::Go);
                        } else {
                            deletions.reject(&object(n));
                        }
                    }
                    said[n] = decision == Decision::Held;
                }
            }
            for (n, written) in carried.iter().enumerate() {
                if let Some((written, token)) = written
                    && let Confirmed::All(all) = deletions.confirm_store(secs(now), &store(n), token)
                    && !all.is_empty()
                {
                    prop_assert!(used.insert(token.clone()), "used twice on {}", store(n));
                    for object in (0..14).filter(|n| all.contains(&object(*n))) {
                        prop_assert!(held[object].is_none_or(|since| since < *written), "answered before");
                    }
                }
            }
            for shown in deletions.show(secs(now)) {
                prop_assert!(!used.contains(&shown.token), "asked for once more");
                last[usize::from(shown.store == store(1))] = Some(shown.token);
            }
            prop_assert!(deletions.sets.values().all(|set| set.used.len() <= TOKENS));
        }
    }

    #[test]
    fn what_is_not_carried_out_counts_for_ten_minutes_however_often_it_shows(steps in steps()) {
        let mut deletions = fleet(14);
        let mut now = 0;
        let token = |n: usize| format!("t{n}");
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::See(n, exists) => deletions.see(secs(now), &object(n), target(&store(0), None, exists)),
                Step::Expect(n) => deletions.expect(secs(now), &object(n), &token(n)),
                Step::Decide(n) => drop(decide(&mut deletions, now, n)),
                Step::Withdraw(n) => deletions.withdraw(&object(n)),
                Step::Forget(n) => deletions.forget(&object(n)),
                Step::Confirm(n) => drop(deletions.confirm(secs(now), &object(n), &token(n))),
                Step::ConfirmStore(_) => {}
            }
        }
        for _ in 0..10 {
            now += 60;
            for member in deletions.members.clone().into_iter().filter(|(_, member)| member.state.token().is_some()) {
                let token = member.1.state.token().unwrap_or_default().to_owned();
                deletions.expect(secs(now), &member.0, &token);
            }
        }
        deletions.expire(secs(now));
        prop_assert!(deletions.tallies.values().all(|tally| tally.losing == 0), "{:?}", deletions.tallies);
        prop_assert!(deletions.recent.is_empty());
        // A confirmation, which counts for nothing, ends as well.
        deletions.expire(secs(now) + KEPT);
        prop_assert!(deletions.ends.is_empty());
    }

    #[test]
    fn never_more_than_the_limits_go_unconfirmed_and_nothing_waits_in_silence(steps in steps()) {
        let mut deletions = fleet(14);
        for n in 7..14 {
            deletions.see(secs(0), &object(n), target(&store(1), Some(&place("1")), true));
        }
        let of = |n: usize| store(usize::from(n >= 7));
        let token = |n: usize, turn: u64| format!("t{n}-{turn}");
        let (mut now, mut turn) = (0, [0_u64; 14]);
        // When which of them went without a confirmation.
        let mut went: Vec<(u64, usize)> = Vec::new();
        let mut confirmed: BTreeSet<usize> = BTreeSet::new();
        let mut tokens: [Option<String>; 2] = [None, None];
        let mut alerted: [Option<u64>; 2] = [None, None];
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::See(n, exists) => deletions.see(secs(now), &object(n), target(&of(n), Some(&place("1")), exists)),
                Step::Expect(n) => deletions.expect(secs(now), &object(n), &token(n, turn[n])),
                Step::Withdraw(n) => {
                    deletions.withdraw(&object(n));
                    confirmed.remove(&n);
                }
                Step::Forget(n) => {
                    deletions.forget(&object(n));
                    confirmed.remove(&n);
                    deletions.see(secs(now), &object(n), target(&of(n), Some(&place("1")), true));
                }
                Step::Confirm(n) => {
                    if let Some(text) = deletions.text(&object(n)) && deletions.confirm(secs(now), &object(n), &text) {
                        confirmed.insert(n);
                    }
                }
                Step::ConfirmStore(n) => {
                    if let Some(token) = tokens[n].take()
                        && let Confirmed::All(all) = deletions.confirm_store(secs(now), &store(n), &token)
                    {
                        confirmed.extend((0..14).filter(|n| all.contains(&object(*n))));
                    }
                }
                Step::Decide(n) => {
                    deletions.see(secs(now), &object(n), target(&of(n), Some(&place("1")), true));
                    let decision = deletions.decide(moment(secs(now)), &object(n), &token(n, turn[n]), false);
                    let agreed = confirmed.remove(&n);
                    prop_assert!(!agreed || decision == Decision::Go, "confirmed, and held");
                    if decision == Decision::Go {
                        turn[n] += 1;
                        if !agreed {
                            went.push((now, n));
                        }
                        // Each group by itself.
                        for members in [0..7, 7..14, 0..14] {
                            let recent: BTreeSet<_> = went
                                .iter()
                                .filter(|(at, gone)| at + 600 > now && members.contains(gone))
                                .map(|(_, gone)| *gone)
                                .collect();
                            let all = members.len();
                            let losing = recent.len();
                            prop_assert!(
                                agreed || !members.contains(&n) || losing <= 3 || losing * 5 <= all,
                                "{losing} of {all} went in ten minutes"
                            );
                            prop_assert!(agreed || !members.contains(&n) || losing < all);
                        }
                    }
                }
            }
            prop_assert_eq!(&recount(&deletions), &deletions.tallies);
            // What waits counts against others within the window, and no longer.
            let ends: BTreeSet<_> = deletions
                .members
                .iter()
                .filter_map(|(object, member)| Some((member.state.until()?, object.clone())))
                .collect();
            prop_assert_eq!(&deletions.ends, &ends);
            deletions.expire(secs(now));
            prop_assert!(deletions.ends.iter().all(|(end, _)| *end > secs(now)));
            let held = deletions.members.values().filter(|member| matches!(member.state, DeletionState::Held { .. })).count();
            prop_assert_eq!(held, deletions.held());
            for shown in deletions.show(secs(now)) {
                let at = &mut alerted[usize::from(shown.store == store(1))];
                prop_assert!(!shown.alert || at.is_none_or(|at| at + 300 <= now), "two alerts");
                *at = shown.alert.then_some(now).or(*at);
                tokens[usize::from(shown.store == store(1))] = Some(shown.token);
            }
            // What is held was shown, or is about to be.
            for (store, set) in &deletions.sets {
                let shown = set.held.keys().all(|number| set.covers(*number));
                prop_assert!(shown || set.news.is_some(), "{store} holds in silence");
                prop_assert!(set.shown.len() <= TOKENS && set.released.len() <= 14);
            }
            prop_assert!(deletions.recent.len() <= 120 && deletions.members.len() <= 14);
        }
    }
}
