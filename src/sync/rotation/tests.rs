use super::*;
use crate::api::{ExternalSecretSpec, Status};

const START: i64 = 1_788_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn rule(strategy: Option<RotationStrategy>, said: Option<RotationStatus>) -> RotationRule {
    RotationRule {
        strategy,
        timeout: Duration::from_mins(30),
        said,
        invalid: None,
    }
}

fn rotation(pending: Option<&str>, last: Option<i64>) -> track::Rotation {
    track::Rotation {
        pending: pending.map(|version| VersionId(version.into())),
        schedule: track::Schedule {
            enabled: true,
            last: last.map(|last| START + last),
            next: Some(START + 86_400),
            opens: Some(START + 80_000),
        },
    }
}

fn seen(rotation: Option<&track::Rotation>) -> Seen<'_> {
    Seen {
        key: "prod/db",
        rotation,
        hidden: false,
    }
}

/// An observer that keeps what it said and what it saw, as the reconciler does.
struct Observer {
    rule: RotationRule,
    traces: Traces,
    again: Option<Timestamp>,
}

impl Observer {
    fn new(strategy: Option<RotationStrategy>) -> Self {
        Self {
            rule: rule(strategy, None),
            traces: Traces::default(),
            again: None,
        }
    }

    fn look(&mut self, second: i64, rotation: &track::Rotation) -> RotationDraft {
        let judged = judge(at(second), &self.rule, &[seen(Some(rotation))], self.traces);
        self.traces = judged.traces;
        self.again = judged.again;
        let draft = judged.draft.unwrap();
        self.rule.said = Some(draft.status.clone());
        draft
    }

    fn moved(&mut self, second: i64, users: Users) {
        self.traces.moved = Some((at(second), users));
    }
}

fn strategy_of(draft: &RotationDraft) -> &str {
    draft.status.strategy.as_deref().unwrap()
}

#[test]
fn pending_on_another_version_is_in_progress_then_stuck_until_it_goes_on() {
    let mut observer = Observer::new(None);
    let idle = observer.look(0, &rotation(None, None));
    assert_eq!(idle.status.state.as_deref(), Some("Idle"));
    assert_eq!(idle.verdict.reason, Reason::Idle);

    let begun = observer.look(10, &rotation(Some("v2"), None));
    assert_eq!(begun.verdict.reason, Reason::InProgress);
    assert_eq!(begun.status.pending_version_id.as_deref(), Some("v2"));
    assert_eq!(begun.status.pending_since, Some(Time(at(10))));
    assert_eq!(observer.again, Some(at(10 + 1800)));

    let later = observer.look(1809, &rotation(Some("v2"), None));
    assert_eq!(later, begun);
    let stuck = observer.look(1810, &rotation(Some("v2"), None));
    assert_eq!(stuck.verdict.reason, Reason::RotationStuck);
    assert_eq!(stuck.status.state.as_deref(), Some("Stuck"));
    assert_eq!(observer.again, None);
    assert_eq!(observer.look(9999, &rotation(Some("v2"), None)), stuck);

    // Another attempt is progress, and so is its end.
    let again = observer.look(10_000, &rotation(Some("v3"), None));
    assert_eq!(again.status.pending_since, Some(Time(at(10_000))));
    assert_eq!(again.verdict.reason, Reason::InProgress);
    let done = observer.look(10_010, &rotation(None, Some(10_005)));
    assert_eq!(done.verdict.reason, Reason::Idle);
    assert_eq!(done.status.pending_version_id, None);
}

#[test]
fn a_rotation_tells_its_strategy_whichever_call_comes_first() {
    for (users, expected) in [
        (Users::Same, "SingleUser"),
        (Users::Other, "AlternatingUsers"),
        (Users::Unknown, "Opaque"),
    ] {
        let mut together = Observer::new(None);
        assert_eq!(
            strategy_of(&together.look(0, &rotation(None, Some(-9)))),
            "Opaque"
        );
        together.moved(10, users);
        assert_eq!(
            strategy_of(&together.look(10, &rotation(None, Some(8)))),
            expected
        );
        assert_eq!(together.traces, Traces::default());

        let mut value_first = Observer::new(None);
        value_first.look(0, &rotation(None, None));
        value_first.moved(10, users);
        assert_eq!(
            strategy_of(&value_first.look(10, &rotation(None, None))),
            "Opaque"
        );
        assert_eq!(value_first.again, Some(at(130)));
        assert_eq!(
            strategy_of(&value_first.look(12, &rotation(None, Some(8)))),
            expected
        );

        let mut stages_first = Observer::new(None);
        stages_first.look(0, &rotation(None, None));
        stages_first.look(10, &rotation(None, Some(8)));
        stages_first.moved(300, users);
        assert_eq!(
            strategy_of(&stages_first.look(300, &rotation(None, Some(8)))),
            expected
        );
        // It stays what it was found to be.
        assert_eq!(
            strategy_of(&stages_first.look(9000, &rotation(None, Some(8)))),
            expected
        );
    }
}

#[test]
fn a_value_that_changed_without_a_date_lowers_no_strategy() {
    let mut observer = Observer::new(None);
    observer.look(0, &rotation(None, None));
    observer.moved(10, Users::Same);
    observer.look(10, &rotation(None, Some(8)));
    observer.moved(500, Users::Same);
    // AWS may show the date late, or never.
    assert_eq!(
        strategy_of(&observer.look(501, &rotation(None, Some(8)))),
        "SingleUser"
    );
    assert_eq!(
        strategy_of(&observer.look(620, &rotation(None, Some(8)))),
        "SingleUser"
    );
    assert_eq!(observer.traces, Traces::default());
    // A later rotation tells anew.
    observer.moved(900, Users::Other);
    assert_eq!(
        strategy_of(&observer.look(900, &rotation(None, Some(899)))),
        "AlternatingUsers"
    );
    // What was never found out stays unknown.
    let mut unknown = Observer::new(None);
    unknown.look(0, &rotation(None, None));
    unknown.moved(10, Users::Same);
    assert_eq!(strategy_of(&unknown.look(200, &rotation(None, None))), "Opaque");
}

#[test]
fn a_rotation_that_changed_nothing_of_ours_tells_nothing() {
    let mut observer = Observer::new(None);
    observer.look(0, &rotation(None, None));
    observer.look(10, &rotation(None, Some(8)));
    observer.look(1000, &rotation(None, Some(8)));
    observer.moved(1100, Users::Same);
    observer.look(1100, &rotation(None, Some(8)));
    assert_eq!(
        strategy_of(&observer.look(1300, &rotation(None, Some(8)))),
        "Opaque"
    );
}

#[test]
fn what_the_spec_says_is_not_found_out() {
    let mut observer = Observer::new(Some(RotationStrategy::Overlap));
    observer.look(0, &rotation(None, None));
    observer.moved(10, Users::Same);
    assert_eq!(
        strategy_of(&observer.look(10, &rotation(None, Some(8)))),
        "Overlap"
    );
}

#[test]
fn only_where_the_old_credential_outlives_the_rotation_there_is_a_deadline() {
    for (strategy, deadline) in [
        (RotationStrategy::SingleUser, None),
        (RotationStrategy::Opaque, None),
        (RotationStrategy::AlternatingUsers, Some(80_000)),
        (RotationStrategy::Overlap, Some(80_000)),
    ] {
        let draft = Observer::new(Some(strategy)).look(0, &rotation(None, None));
        let deadline = deadline.map(|second| Time(at(second)));
        assert_eq!(draft.status.deadline, deadline, "{strategy:?}");
        assert_eq!(draft.status.next_rotation, Some(Time(at(86_400))));
    }
    let mut off = rotation(None, Some(5));
    off.schedule.enabled = false;
    let draft = Observer::new(Some(RotationStrategy::Overlap)).look(0, &off);
    assert_eq!((draft.status.deadline, draft.status.next_rotation), (None, None));
}

#[test]
fn of_several_secrets_the_most_urgent_one_speaks() {
    let (quiet, mut busy) = (rotation(None, Some(5)), rotation(Some("v2"), None));
    busy.schedule.opens = Some(START + 500);
    let both = [
        seen(Some(&quiet)),
        Seen {
            key: "prod/other",
            ..seen(Some(&busy))
        },
    ];
    let rule = rule(Some(RotationStrategy::Overlap), None);
    let draft = judge(at(0), &rule, &both, Traces::default()).draft.unwrap();
    assert_eq!(draft.status.state.as_deref(), Some("InProgress"));
    assert!(draft.verdict.message.contains("prod/other"));
    assert_eq!(draft.status.deadline, Some(Time(at(500))));
    assert_eq!(draft.status.last_rotated, Some(Time(at(5))));
}

#[test]
fn nothing_is_said_before_the_stages_were_seen_and_unknown_where_they_are_hidden() {
    let none = judge(at(0), &rule(None, None), &[seen(None)], Traces::default());
    assert_eq!(none.draft, None);
    let hidden = Seen {
        hidden: true,
        ..seen(None)
    };
    let before = RotationStatus {
        state: Some("Stuck".into()),
        pending_version_id: Some("v2".into()),
        last_rotated: Some(Time(at(5))),
        ..RotationStatus::default()
    };
    let draft = judge(at(0), &rule(None, Some(before)), &[hidden], Traces::default());
    let draft = draft.draft.unwrap();
    assert_eq!(draft.verdict.status, crate::api::Status::Unknown);
    assert_eq!(draft.verdict.reason, Reason::StagesNotVisible);
    assert_eq!(
        (draft.status.state, draft.status.pending_version_id),
        (None, None)
    );
    assert_eq!(draft.status.last_rotated, Some(Time(at(5))));
}

#[test]
fn every_reason_is_one_of_the_condition() {
    use crate::api::ConditionType::RotationHealthy;
    let mut observer = Observer::new(None);
    for (second, pending) in [(0, None), (1, Some("v2")), (5000, Some("v2"))] {
        let verdict = observer.look(second, &rotation(pending, None)).verdict;
        assert_eq!(verdict.reason.status(RotationHealthy), Some(verdict.status));
    }
}

#[test]
fn a_rotation_starts_within_its_window() {
    let second = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
    let next = second("2026-11-03T23:59:59Z");
    for (window, schedule, expected) in [
        (None, None, "2026-11-03T00:00:00Z"),
        (None, Some("rate(10 days)"), "2026-11-03T00:00:00Z"),
        (None, Some("cron(0 16 1,15 * ? *)"), "2026-11-03T00:00:00Z"),
        (None, Some("rate(4 hours)"), "2026-11-03T22:59:59Z"),
        (None, Some("cron(0 8/8 * * ? *)"), "2026-11-03T22:59:59Z"),
        (Some("3h"), Some("rate(10 days)"), "2026-11-03T20:59:59Z"),
        (Some("2h"), Some("rate(4 hours)"), "2026-11-03T21:59:59Z"),
        (Some("long"), None, "2026-11-03T00:00:00Z"),
    ] {
        assert_eq!(
            opens(next, window, schedule),
            second(expected),
            "{window:?} {schedule:?}"
        );
    }
}

#[test]
fn an_error_in_rotation_is_reported_and_the_rest_is_judged_as_without_it() {
    let spec = |timeout: &str| -> ExternalSecretSpec {
        serde_json::from_value(
            serde_json::json!({"rotation": {"strategy": "Overlap", "pendingTimeout": timeout}}),
        )
        .unwrap()
    };
    let rule = RotationRule::new(&spec("59s"), None);
    assert_eq!(rule.timeout, Duration::from_mins(30));
    let begun = rotation(Some("v2"), None);
    let judged = judge(at(0), &rule, &[seen(Some(&begun))], Traces::default())
        .draft
        .unwrap();
    assert_eq!(judged.status.state.as_deref(), Some("InProgress"));
    assert_eq!(strategy_of(&judged), "Overlap");
    assert_eq!(
        (judged.verdict.status, judged.verdict.reason),
        (Status::False, Reason::InvalidSpec)
    );
    assert!(
        judged
            .verdict
            .message
            .starts_with("spec.rotation.pendingTimeout ")
    );
    // It needs nothing to be seen.
    let unseen = judge(at(0), &rule, &[seen(None)], Traces::default())
        .draft
        .unwrap();
    assert_eq!(
        (unseen.verdict.reason, unseen.status.state),
        (Reason::InvalidSpec, None)
    );
    let good = judge(
        at(0),
        &RotationRule::new(&spec("1h"), None),
        &[seen(Some(&begun))],
        Traces::default(),
    );
    assert_eq!(good.draft.unwrap().verdict.reason, Reason::InProgress);
}
