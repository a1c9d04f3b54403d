use std::collections::BTreeMap;

use crate::{
    api::{
        EventReason, ExternalSecretStatus, ObjectKey, Reason, RestartStatus, RestartTarget, TargetSelector,
        WorkloadKind, WorkloadState,
    },
    objects::digest_of_restarts,
    restart::{
        judge::targets::missing,
        publish::{
            event_detector::EventDetector,
            report::{Report, awaits_pods, report, report_of_fault},
        },
        schedule::{
            decide::{Decisions, WorkloadStatus},
            per_object::ObjectState,
        },
        tests::{at, content, key},
    },
};

fn status_of(number: usize, state: WorkloadState) -> WorkloadStatus {
    WorkloadStatus {
        object: ObjectKey::new("shop", "db"),
        key: key(WorkloadKind::Deployment, &format!("w{number:02}")),
        token: "t".into(),
        changed_at: at(0),
        state,
        sentence: "a sentence".into(),
        is_obstructed: false,
        until: None,
    }
}

fn decisions(states: &[WorkloadState], halted: bool) -> Decisions {
    let state_of = ObjectState {
        urgent: false,
        halted,
        reply: None,
    };
    Decisions {
        states: states
            .iter()
            .enumerate()
            .map(|(number, state)| status_of(number, *state))
            .collect(),
        objects: BTreeMap::from([(ObjectKey::new("shop", "db"), state_of)]),
        ..Decisions::default()
    }
}

#[test]
fn what_keeps_a_rollout_from_going_on_is_in_the_condition_and_among_the_exceptions() {
    let mut decisions = decisions(&[WorkloadState::RollingOut, WorkloadState::RollingOut], false);
    let plain = report(&content("db", "t"), &decisions, &[]);
    assert_eq!(plain.status.exceptions, None);
    decisions.states[1].is_obstructed = true;
    let found = report(&content("db", "t"), &decisions, &[]);
    assert_eq!(
        (found.reason, found.status.in_flight),
        (Reason::InProgress, Some(2))
    );
    assert!(found.message.contains("w01: a sentence"), "{}", found.message);
    let exceptions = found.status.exceptions.unwrap();
    assert_eq!(exceptions.len(), 1);
    assert_eq!(
        (&*exceptions[0].name, &*exceptions[0].reason),
        ("w01", "RollingOut")
    );
}

#[test]
fn the_condition_is_the_most_telling_word() {
    use WorkloadState::{
        AwaitingApproval, Done, EvictNotAllowed, Failed, Halted, LeftToReloader, Looking, Reverted,
        RollingOut, Settling, Suspended, WaitingForTurn, WaitingForWindow,
    };
    let table: [(&[WorkloadState], bool, Reason); 15] = [
        (&[], false, Reason::NothingPending),
        (&[Done, Done], false, Reason::Complete),
        (&[Done, Looking], false, Reason::Pending),
        (&[Done, Settling], false, Reason::Pending),
        (&[Done, Suspended], false, Reason::Pending),
        (&[Done, EvictNotAllowed], false, Reason::Pending),
        (&[Done, RollingOut, WaitingForTurn], false, Reason::InProgress),
        (&[RollingOut, WaitingForWindow], false, Reason::InProgress),
        (&[Done, WaitingForWindow], false, Reason::WaitingForWindow),
        (&[Done, AwaitingApproval], false, Reason::AwaitingApproval),
        (&[Failed, Halted], true, Reason::Halted),
        (&[Failed, RollingOut], true, Reason::Halted),
        (&[Done, Reverted], false, Reason::Reverted),
        (&[Done, LeftToReloader], false, Reason::LeftToReloader),
        (&[LeftToReloader, Settling], false, Reason::Pending),
    ];
    for (states, halted, expected) in table {
        let found = report(&content("db", "t"), &decisions(states, halted), &[]);
        assert_eq!(found.reason, expected, "{states:?}: {}", found.message);
    }
    let mut baseline = content("db", "t");
    baseline.changed_at = None;
    let found = report(&baseline, &decisions(&[], false), &[]);
    assert_eq!(
        (found.reason, found.status.progress),
        (Reason::NothingPending, None)
    );
}

#[test]
fn a_token_that_resumes_another_version_gets_a_reply() {
    let mut decisions = decisions(&[WorkloadState::Failed, WorkloadState::Halted], true);
    let state = decisions.objects.get_mut(&ObjectKey::new("shop", "db")).unwrap();
    state.reply = Some("Token abc resumes another version".to_owned());
    let found = report(&content("db", "t"), &decisions, &[]);
    assert!(
        found
            .message
            .starts_with("Token abc resumes another version. 0 of 2 workloads"),
        "{}",
        found.message
    );
}

#[test]
fn a_target_that_stands_for_no_workload_is_named() {
    use WorkloadState::{Done, RollingOut};
    let target = |kind, name: Option<&str>, selector: bool| RestartTarget {
        kind,
        name: name.map(str::to_owned),
        selector: selector.then(TargetSelector::default),
        wave: None,
        strategy: None,
    };
    let targets = [
        target(WorkloadKind::Deployment, Some("web"), false),
        target(WorkloadKind::Deployment, Some("wbe"), false),
        target(WorkloadKind::StatefulSet, None, true),
    ];
    let missing = missing(&targets, |target| target.name.as_deref() == Some("web"));
    for (states, reason) in [
        (&[][..], Reason::TargetNotFound),
        (&[Done], Reason::TargetNotFound),
        (&[Done, RollingOut], Reason::InProgress),
    ] {
        let found = report(&content("db", "t"), &decisions(states, false), &missing);
        assert_eq!(found.reason, reason, "{}", found.message);
        let exceptions = found.status.exceptions.unwrap();
        assert_eq!(
            (&*exceptions[0].name, &*exceptions[0].reason, exceptions.len()),
            ("wbe", "TargetNotFound", 1)
        );
    }
    // It is reported before anything changes, too.
    let mut baseline = content("db", "t");
    baseline.changed_at = None;
    let found = report(&baseline, &decisions(&[], false), &missing);
    assert_eq!(found.reason, Reason::TargetNotFound);
    assert!(
        found
            .message
            .starts_with("Deployment wbe in spec.restart.targets[1] does not exist."),
        "{}",
        found.message
    );
    let found = report(&baseline, &decisions(&[], false), &missing[1..]);
    assert!(
        found
            .message
            .starts_with("spec.restart.targets[2] selects no StatefulSet that uses a Secret."),
        "{}",
        found.message
    );
}

#[test]
fn the_status_counts_and_lists_at_most_fifty_exceptions() {
    let each = [
        WorkloadState::Done,
        WorkloadState::RollingOut,
        WorkloadState::Failed,
        WorkloadState::WaitingForTurn,
    ];
    let status = report(&content("db", "t"), &decisions(&each, true), &[]).status;
    assert_eq!(status.progress.as_deref(), Some("1/4"));
    assert_eq!(
        (
            status.pending,
            status.in_flight,
            status.done,
            status.failed,
            status.halted
        ),
        (Some(1), Some(1), Some(1), Some(1), Some(true))
    );
    let exceptions = status.exceptions.unwrap();
    assert_eq!((exceptions.len(), &*exceptions[0].reason), (1, "Failed"));
    let many = report(
        &content("db", "t"),
        &decisions(&[WorkloadState::Paused; 60], false),
        &[],
    )
    .status;
    assert_eq!(many.exceptions.unwrap().len(), 50);
}

#[test]
fn an_error_in_the_spec_is_told_with_what_follows() {
    let found = report_of_fault("spec.restart.windows[0].cron is wrong");
    assert_eq!(
        (found.reason, found.status),
        (Reason::InvalidSpec, RestartStatus::default())
    );
    assert!(
        found
            .message
            .starts_with("spec.restart.windows[0].cron is wrong. No workload is restarted until")
    );
}

#[test]
fn nothing_changes_while_nothing_changes() {
    let before = decisions(
        &[
            WorkloadState::Done,
            WorkloadState::RollingOut,
            WorkloadState::Failed,
        ],
        true,
    );
    let content = content("db", "t");
    assert_eq!(
        report(&content, &before, &[]),
        report(&content, &before.clone(), &[])
    );
    let mut seen = EventDetector::default();
    assert_eq!(seen.changes(&before), [], "a start is no event");
    assert_eq!(seen.changes(&before), []);
}

#[test]
fn what_happened_is_told_once() {
    let mut seen = EventDetector::default();
    seen.changes(&decisions(
        &[
            WorkloadState::RollingOut,
            WorkloadState::RollingOut,
            WorkloadState::TakenBack,
            WorkloadState::Settling,
        ],
        false,
    ));
    let after = decisions(
        &[
            WorkloadState::Done,
            WorkloadState::Failed,
            WorkloadState::Reverted,
            WorkloadState::Done,
        ],
        true,
    );
    let happened = seen.changes(&after);
    let told: Vec<EventReason> = happened.iter().map(|happening| happening.event).collect();
    assert_eq!(
        told,
        [
            EventReason::RestartCompleted,
            EventReason::RestartReverted,
            EventReason::RestartHalted,
        ]
    );
    assert_eq!(happened[0].changed_at, Some(at(0)));
    assert_eq!(seen.changes(&after), []);
}

#[test]
fn a_report_waits_for_pods_unless_the_content_changed_since_the_last() {
    use WorkloadState::{Done, Looking, Settling};
    for (states, reported, waits) in [
        (&[Done, Looking][..], Some("t"), true),
        (&[Looking, Looking], Some("t"), true),
        (&[Done, Looking], Some("former"), false),
        (&[Done, Looking], None, false),
        (&[Done, Settling], Some("t"), false),
        (&[], Some("former"), false),
    ] {
        let states = decisions(states, false).states;
        let found = awaits_pods(&content("db", "t"), &states, reported);
        assert_eq!(found, waits, "{states:?} {reported:?}");
    }
    // What is not known yet is never told as complete, whatever the others hold.
    for states in [&[Looking][..], &[Done, Looking]] {
        let found = report(&content("db", "t"), &decisions(states, false), &[]);
        assert_eq!(
            (found.reason, found.status.rollout.as_deref()),
            (Reason::Pending, Some("t"))
        );
    }
}

#[test]
fn the_message_names_the_rollout_and_an_earlier_version_said_the_same_without_it() {
    let token = "0123456789abcdef0123456789abcdef";
    let content = content("db", token);
    let status = |report: &Report, message: &str| {
        let reason = report.reason.as_str();
        let condition = serde_json::json!({"type": "RestartsComplete", "status": "False", "reason": reason,
            "message": message, "lastTransitionTime": "2026-11-01T08:00:00Z"});
        serde_json::from_value::<ExternalSecretStatus>(serde_json::json!({
            "restart": report.status, "conditions": [condition],
        }))
        .unwrap()
    };
    for states in [
        &[][..],
        &[WorkloadState::Done],
        &[WorkloadState::Settling],
        &[WorkloadState::RollingOut],
        &[WorkloadState::AwaitingApproval],
    ] {
        let found = report(&content, &decisions(states, false), &[]);
        let earlier = found.message.strip_suffix(" (rollout 0123456789ab)").unwrap();
        let digest = |message: &str| digest_of_restarts(&status(&found, message));
        assert_eq!(digest(earlier), digest(&found.message));
        assert_ne!(digest("another"), digest(&found.message));
    }
    let mut baseline = content;
    baseline.changed_at = None;
    let found = report(&baseline, &decisions(&[], false), &[]);
    assert!(!found.message.contains("(rollout"), "{}", found.message);
}
