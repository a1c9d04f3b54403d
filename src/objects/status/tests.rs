use jiff::ToSpan as _;
use proptest::prelude::*;

use super::*;

const THEN: &str = "2026-11-01T08:00:00Z";
const NOW: &str = "2026-11-02T09:30:00Z";

/// A name and what it does to a draft.
type Change = (&'static str, fn(&mut Draft));

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn source(key: &str, version: &str) -> SourceDraft {
    SourceDraft {
        store: "SecretStore/aws".into(),
        key: key.into(),
        stage: "AWSCURRENT".into(),
        version: version.into(),
    }
}

fn target(rollout: &str, changed_at: Option<&str>) -> TargetDraft {
    TargetDraft {
        name: "db".into(),
        written: Written {
            content: "content".into(),
            rollout: rollout.into(),
            changed_at: changed_at.map(time),
            ..Written::default()
        },
    }
}

fn draft() -> Draft {
    Draft {
        generation: Some(3),
        ready: Some(Verdict::holds(Reason::Synced, "all is well")),
        progress: Progress::Settled,
        current: Some(Verdict::holds(Reason::Checked, "asked")),
        sources: Some(vec![source("prod/db", "v1")]),
        target: Some(target("rollout", None)),
        deleted_at: None,
        rotation: RotationPart::Kept,
    }
}

#[test]
fn when_data_were_deleted_is_said_once_and_kept() {
    let deleting = Draft {
        deleted_at: Some(1_800_000_000),
        ..draft()
    };
    let before = compose(time(NOW), &draft(), None);
    assert!(Digest::of(Some(&before)).differs(&deleting));
    let status = compose(time(NOW), &deleting, Some(&before));
    let digest = Digest::of(Some(&status));
    assert_eq!(digest.deleted_at(), Some(1_800_000_000));
    assert!(!digest.differs(&deleting) && !digest.differs(&draft()));
    let later = compose(time(NOW), &draft(), Some(&status));
    assert_eq!(later.deleted_at, status.deleted_at);
    assert_eq!(Digest::of(Some(&before)).deleted_at(), None);
}

fn ready(status: &ExternalSecretStatus) -> &Condition {
    condition(status, ConditionType::Ready).unwrap()
}

/// The status that the definitions give to an object that has none, and what restarts may have put beside it.
#[test]
fn the_default_of_the_definitions_says_nothing() {
    let default = ExternalSecretStatus {
        observed_generation: Some(UNOBSERVED),
        ..ExternalSecretStatus::default()
    };
    let verdict = Verdict::holds(Reason::Complete, "all hold it");
    let restarts = compose_condition(time(NOW), 1, ConditionType::RestartsComplete, &verdict, None);
    let restarted = ExternalSecretStatus {
        conditions: Some(vec![restarts]),
        restart: Some(crate::api::RestartStatus::default()),
        ..default.clone()
    };
    for status in [&default, &restarted] {
        let digest = Digest::of(Some(status));
        assert!(digest.is_silent(), "{status:?}");
        assert!(digest.differs(&draft()));
        let written = compose(time(NOW), &draft(), Some(status));
        assert_eq!(written, compose(time(NOW), &draft(), None));
    }
}

/// One apply without it would remove the field for good, and tools that wait would take the object for finished.
#[test]
fn a_person_is_waited_for_after_two_minutes_of_one_generation() {
    let missing = |generation| Draft {
        generation: Some(generation),
        ready: Some(Verdict::fails(Reason::StoreNotFound, "no store")),
        ..Draft::default()
    };
    let types = |status: &ExternalSecretStatus| -> Vec<String> {
        let conditions = status.conditions.iter().flatten();
        conditions.map(|condition| condition.type_.clone()).collect()
    };
    let start = time(NOW);
    let mut first = missing(1);
    let left = Digest::default().complete(start, &mut first).unwrap();
    assert_eq!(left, Duration::from_mins(2));
    let status = compose(start, &first, None);
    assert_eq!(types(&status), ["Ready", "Reconciling"]);
    // Before that nothing is written, after that once.
    let mut same = missing(1);
    let early = Digest::of(Some(&status)).complete(start + 119.seconds(), &mut same);
    assert_eq!(early, Some(Duration::from_secs(1)));
    assert!(!Digest::of(Some(&status)).differs(&same));
    let mut late = missing(1);
    assert_eq!(
        Digest::of(Some(&status)).complete(start + 120.seconds(), &mut late),
        None
    );
    assert!(Digest::of(Some(&status)).differs(&late));
    let stalled = compose(start + 120.seconds(), &late, Some(&status));
    assert_eq!(types(&stalled), ["Ready", "Stalled"]);
    assert!(!Digest::of(Some(&stalled)).differs(&late));
    // What speaks of something else keeps it.
    let current = Draft {
        current: Some(Verdict::holds(Reason::Checked, "asked")),
        ..Draft::default()
    };
    assert_eq!(
        types(&compose(start, &current, Some(&stalled))),
        ["Ready", "Current", "Stalled"]
    );
    // An edit begins anew.
    let mut edited = missing(2);
    let left = Digest::of(Some(&stalled)).complete(start + 500.seconds(), &mut edited);
    assert_eq!(left, Some(Duration::from_mins(2)));
    let again = compose(start + 500.seconds(), &edited, Some(&status));
    assert_eq!(types(&again), ["Ready", "Reconciling"]);
    let mut fresh = missing(2);
    let left = Digest::of(Some(&again)).complete(start + 501.seconds(), &mut fresh);
    assert_eq!(left, Some(Duration::from_secs(119)));
    let mut well = draft();
    assert_eq!(Digest::of(Some(&again)).complete(start, &mut well), None);
    assert_eq!(types(&compose(start, &well, Some(&again))), ["Ready", "Current"]);
}

#[test]
fn every_status_tells_which_generation_it_speaks_of() {
    let suspended = Draft {
        current: Some(Verdict::fails(Reason::Suspended, "until tomorrow")),
        ..Draft::default()
    };
    let first = compose(time(NOW), &suspended, None);
    assert_eq!(first.observed_generation, Some(UNOBSERVED));
    let current = condition(&first, ConditionType::Current).unwrap();
    assert_eq!(current.observed_generation, Some(0));
    // It was said: it is not said again.
    assert!(!Digest::of(Some(&first)).is_silent() && !Digest::of(Some(&first)).differs(&suspended));
    let resumed = compose(time(NOW), &draft(), Some(&first));
    assert_eq!(resumed.observed_generation, Some(3));
    let again = compose(time(NOW), &suspended, Some(&resumed));
    assert_eq!(again.observed_generation, Some(3));
    assert_eq!(
        condition(&again, ConditionType::Current)
            .unwrap()
            .observed_generation,
        Some(3)
    );
}

#[test]
fn nothing_was_said_before_the_first_status() {
    assert!(Digest::of(None).is_silent());
    let status = compose(time(NOW), &draft(), None);
    assert!(!Digest::of(Some(&status)).is_silent());
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn whatever_reads_otherwise_differs() {
    let said = Digest::of(Some(&compose(time(THEN), &draft(), None)));
    assert!(!said.differs(&draft()));
    let changes: [Change; 10] = [
        ("generation", |draft| draft.generation = Some(4)),
        ("ready holds", |draft| {
            draft.ready = Some(Verdict::fails(Reason::Synced, "all is well"));
        }),
        ("ready reason", |draft| {
            draft.ready = Some(Verdict::holds(Reason::Retained, "all is well"));
        }),
        ("ready message", |draft| {
            draft.ready = Some(Verdict::holds(Reason::Synced, "all is quite well"));
        }),
        ("current", |draft| {
            draft.current = Some(Verdict::fails(Reason::Stale, "asked"));
        }),
        ("a version", |draft| {
            draft.sources = Some(vec![source("prod/db", "v2")]);
        }),
        ("no sources", |draft| draft.sources = Some(Vec::new())),
        ("one more source", |draft| {
            draft.sources = Some(vec![source("prod/db", "v1"), source("prod/x", "v1")]);
        }),
        ("rollout", |draft| draft.target = Some(target("other", None))),
        ("changed-at", |draft| {
            draft.target = Some(target("rollout", Some(NOW)));
        }),
    ];
    for (case, change) in changes {
        let mut other = draft();
        change(&mut other);
        assert!(said.differs(&other), "{case}");
    }
}

#[test]
fn a_condition_turns_only_with_its_status() {
    let before = compose(time(THEN), &draft(), None);
    for (verdict, since) in [
        (Verdict::holds(Reason::Synced, "all is well"), THEN),
        (Verdict::holds(Reason::Retained, "other words"), THEN),
        (Verdict::fails(Reason::AccessDenied, "denied"), NOW),
    ] {
        let next = Draft {
            generation: Some(4),
            ready: Some(verdict.clone()),
            ..draft()
        };
        let status = compose(time(NOW), &next, Some(&before));
        let ready = ready(&status);
        assert_eq!(ready.last_transition_time.0, time(since), "{verdict:?}");
        assert_eq!(ready.reason, verdict.reason.as_str());
        assert_eq!(ready.message, verdict.message);
        assert_eq!(ready.observed_generation, Some(4));
    }
}

#[test]
fn what_a_draft_leaves_out_stays() {
    let before = compose(time(THEN), &draft(), None);
    let stale = Draft {
        current: Some(Verdict::fails(Reason::Stale, "no answer")),
        ..Draft::default()
    };
    assert!(Digest::of(Some(&before)).differs(&stale));
    let status = compose(time(NOW), &stale, Some(&before));
    assert_eq!(ready(&status), ready(&before));
    assert_eq!(status.sources, before.sources);
    assert_eq!(status.target, before.target);
    // What was not judged again is not said to be.
    assert_eq!(status.observed_generation, before.observed_generation);
    assert_eq!(
        condition(&status, ConditionType::Current)
            .unwrap()
            .observed_generation,
        before.observed_generation
    );
    assert!(!Digest::of(Some(&status)).differs(&stale));
}

#[test]
fn the_parts_of_other_managers_are_not_claimed() {
    let before = ExternalSecretStatus {
        restart: Some(crate::api::RestartStatus::default()),
        conditions: Some(vec![Condition {
            type_: "RestartsComplete".into(),
            status: "True".into(),
            reason: "Complete".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(time(THEN)),
        }]),
        ..ExternalSecretStatus::default()
    };
    let status = compose(time(NOW), &draft(), Some(&before));
    assert_eq!(status.restart, None);
    assert_eq!(condition(&status, ConditionType::RestartsComplete), None);
}

#[test]
fn what_is_said_of_the_rotation_stays_until_it_is_said_otherwise_or_unwanted() {
    let said = |rotation| Draft { rotation, ..draft() };
    let stuck = RotationDraft {
        status: RotationStatus {
            state: Some("Stuck".into()),
            ..RotationStatus::default()
        },
        verdict: Verdict::fails(Reason::RotationStuck, "for long"),
    };
    let part = said(RotationPart::Said(Box::new(stuck.clone())));
    let first = compose(time(THEN), &part, None);
    assert!(!Digest::of(Some(&first)).differs(&part));
    let kept = compose(time(NOW), &draft(), Some(&first));
    assert_eq!(kept.rotation, Some(stuck.status));
    let health = |status| condition(status, ConditionType::RotationHealthy).cloned();
    assert_eq!(health(&kept), health(&first));
    assert!(!Digest::of(Some(&first)).differs(&draft()));
    let gone = said(RotationPart::Gone);
    assert!(Digest::of(Some(&first)).differs(&gone));
    let gone_for_good = compose(time(NOW), &gone, Some(&first));
    assert_eq!((&gone_for_good.rotation, health(&gone_for_good)), (&None, None));
    assert!(!Digest::of(Some(&gone_for_good)).differs(&gone));
}

#[test]
fn a_source_keeps_the_time_of_its_version() {
    let before = compose(
        time(THEN),
        &Draft {
            sources: Some(vec![source("a", "v1"), source("b", "v1")]),
            ..draft()
        },
        None,
    );
    let next = Draft {
        // Moved in the list, moved on to another version, new.
        sources: Some(vec![source("b", "v2"), source("a", "v1"), source("c", "v1")]),
        ..draft()
    };
    let status = compose(time(NOW), &next, Some(&before));
    let times: Vec<_> = status
        .sources
        .iter()
        .flatten()
        .map(|source| (&*source.key, source.changed_at.as_ref().unwrap().0))
        .collect();
    assert_eq!(times, [("b", time(NOW)), ("a", time(THEN)), ("c", time(NOW))]);
}

#[test]
fn at_most_64_sources_are_listed() {
    let sources = (0..100).map(|i| source(&i.to_string(), "v1")).collect();
    let many = Draft {
        sources: Some(sources),
        ..draft()
    };
    let status = compose(time(NOW), &many, None);
    assert_eq!(status.sources.as_ref().unwrap().len(), 64);
    assert!(!Digest::of(Some(&status)).differs(&many));
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    (any::<bool>(), prop::sample::select(Reason::ALL), "[ab]{0,2}").prop_map(|(holds, reason, message)| {
        let verdict = if holds { Verdict::holds } else { Verdict::fails };
        verdict(reason, message)
    })
}

prop_compose! {
    fn drafts()(
        generation in prop::option::of(0_i64..4),
        ready in prop::option::of(verdicts()),
        current in prop::option::of(verdicts()),
        sources in prop::option::of(prop::collection::vec(
            ("[ab]", "[vw]").prop_map(|(key, version)| source(&key, &version)),
            0..70,
        )),
        restart_since in prop::option::of((0_i64..9).prop_map(|at| Timestamp::from_second(at).unwrap())),
        target in prop::option::of((
            "[db]",
            "[01]?",
            "[01]?",
            prop::option::of((0_i64..9).prop_map(|at| Timestamp::from_second(at).unwrap())),
        )),
        (deleted_at, rotation) in (prop::option::of(1_i64..9), rotations()),
        progress in prop::sample::select(vec![Progress::Settled, Progress::Reconciling, Progress::Stalled]),
    ) -> Draft {
        Draft {
            generation,
            ready,
            progress,
            current,
            sources,
            target: target.map(|(name, content, rollout, changed_at)| TargetDraft {
                name,
                written: Written { content, rollout, changed_at, restart_since, ..Written::default() },
            }),
            deleted_at,
            rotation,
        }
    }
}

fn rotations() -> impl Strategy<Value = RotationPart> {
    let said = ("(Idle|Stuck)", prop::option::of(0_i64..3), any::<bool>()).prop_map(|(state, at, holds)| {
        let verdict = if holds { Verdict::holds } else { Verdict::unknown };
        RotationPart::Said(Box::new(RotationDraft {
            status: RotationStatus {
                state: Some(state),
                deadline: at.map(|at| Time(Timestamp::from_second(at).unwrap())),
                ..RotationStatus::default()
            },
            verdict: verdict(Reason::Idle, "m"),
        }))
    });
    prop_oneof![Just(RotationPart::Kept), Just(RotationPart::Gone), said]
}

proptest! {
    #[test]
    fn what_was_written_is_not_written_again(before in prop::option::of(drafts()), draft in drafts()) {
        let before = before.map(|draft| compose(time(THEN), &draft, None));
        let status = compose(time(NOW), &draft, before.as_ref());
        // As the API server gives it back.
        let read: ExternalSecretStatus = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        prop_assert!(!Digest::of(Some(&read)).differs(&draft));
        let later = time(NOW).checked_add(1.hour()).unwrap();
        prop_assert_eq!(compose(later, &draft, Some(&read)), read);
    }

    #[test]
    fn what_does_not_differ_reads_the_same(one in drafts(), other in drafts()) {
        let said = compose(time(THEN), &one, None);
        if !Digest::of(Some(&said)).differs(&other) {
            prop_assert_eq!(compose(time(NOW), &other, Some(&said)), said);
        }
    }
}
