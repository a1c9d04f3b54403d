//! The status and the condition of restarts. Pure: the same states give the same report, so that nothing is written while
//! nothing changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{Reason, RestartException, RestartStatus, WorkloadState},
    objects::rollout_note,
    restart::{
        judge::targets::MissingTarget,
        observed::model::Content,
        schedule::decide::{Decisions, WorkloadStatus},
    },
};

/// The most exceptions that a status lists.
const EXCEPTIONS: usize = 50;

/// The report of one ExternalSecret.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `status.restart`.
    pub status: RestartStatus,
    /// Of the condition `RestartsComplete`.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

/// How many workloads are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They wait.
    pub pending: usize,
    /// They roll out.
    pub in_flight: usize,
    /// They hold the content.
    pub done: usize,
    /// They did not become healthy.
    pub failed: usize,
}

/// The report of the ExternalSecret that `content` is made for, of which the targets `missing` stand for no workload.
pub fn report(content: &Content, decisions: &Decisions, missing: &[MissingTarget]) -> Report {
    let object = &content.object;
    let states: Vec<&WorkloadStatus> = decisions
        .states
        .iter()
        .filter(|status| status.object == *object)
        .collect();
    let counts = count(states.iter().copied());
    let state = decisions.objects.get(object);
    let halted = state.is_some_and(|status| status.halted);
    let changed = content.asks_for_restarts();
    let of_states = states
        .iter()
        .filter(|status| status.is_obstructed || is_exception(status.state))
        .map(|status| exception(status));
    let exceptions: Vec<RestartException> = of_states
        .chain(missing.iter().filter_map(exception_of))
        .take(EXCEPTIONS)
        .collect();
    let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let all = states.len();
    let (mut reason, mut message) = condition(changed, &content.token, &states, counts, halted);
    if let Some(first) = missing.first()
        && matches!(reason, Reason::NothingPending | Reason::Complete)
    {
        reason = Reason::TargetNotFound;
        message = first.sentence();
        let others = missing.len() - 1;
        if others > 0 {
            message = format!("{message}. {others} other targets stand for no workload either");
        }
    }
    if let Some(reply) = state.and_then(|state| state.reply.as_ref()) {
        message = format!("{reply}. {message}");
    }
    if changed {
        message.push_str(&rollout_note(&content.token));
    }
    Report {
        status: RestartStatus {
            rollout: changed.then(|| content.token.to_string()),
            progress: changed.then(|| format!("{}/{all}", counts.done)),
            pending: number(counts.pending),
            in_flight: number(counts.in_flight),
            done: number(counts.done),
            failed: number(counts.failed),
            halted: Some(halted),
            exceptions: (!exceptions.is_empty()).then_some(exceptions),
        },
        reason,
        message,
    }
}

/// The report of an ExternalSecret with this `fault` in `restart` or `rotation`. Its progress stays as it was reported
/// last.
pub fn report_of_fault(fault: &str) -> Report {
    Report {
        status: RestartStatus::default(),
        reason: Reason::InvalidSpec,
        message: format!(
            "{fault}. No workload is restarted until it is corrected; what is due then follows. Values are still synced"
        ),
    }
}

/// How many workloads are where.
pub fn count<'a>(states: impl Iterator<Item = &'a WorkloadStatus>) -> Counts {
    let mut counts = Counts::default();
    for status in states {
        let of = match status.state {
            WorkloadState::Done => &mut counts.done,
            WorkloadState::RollingOut => &mut counts.in_flight,
            WorkloadState::Failed | WorkloadState::StillUnhealthy => &mut counts.failed,
            _ => &mut counts.pending,
        };
        *of += 1;
    }
    counts
}

/// Whether the report waits until it is known where all workloads stand, `reported` being the rollout that was reported last.
/// It does not wait once the content changed: what was reported of the content before must not pass for this one.
pub fn awaits_pods(content: &Content, states: &[WorkloadStatus], reported: Option<&str>) -> bool {
    reported == Some(&*content.token) && states.iter().any(|status| status.state == WorkloadState::Looking)
}

fn is_exception(state: WorkloadState) -> bool {
    !matches!(
        state,
        WorkloadState::Done
            | WorkloadState::RollingOut
            | WorkloadState::Looking
            | WorkloadState::Settling
            | WorkloadState::WaitingForWindow
            | WorkloadState::WaitingForWave
            | WorkloadState::WaitingForTurn
            | WorkloadState::Halted
            | WorkloadState::AwaitingApproval
    )
}

fn exception(status: &WorkloadStatus) -> RestartException {
    RestartException {
        kind: status.key.kind.to_string(),
        name: status.key.key.name.to_string(),
        reason: status.state.to_string(),
        message: Some(status.sentence.to_string()),
        until: status.until.map(Time),
    }
}

/// A target by name. One that selects by labels has no name to list.
fn exception_of(target: &MissingTarget) -> Option<RestartException> {
    Some(RestartException {
        kind: target.kind.to_string(),
        name: target.name.as_deref()?.to_owned(),
        reason: Reason::TargetNotFound.to_string(),
        message: Some(target.sentence()),
        until: None,
    })
}

fn condition(
    changed: bool,
    token: &str,
    states: &[&WorkloadStatus],
    counts: Counts,
    halted: bool,
) -> (Reason, String) {
    let has = |state: WorkloadState| states.iter().find(|status| status.state == state);
    let all = states.len();
    if !changed {
        return (
            Reason::NothingPending,
            "the content has not changed since restarts are wanted".to_owned(),
        );
    }
    if all == 0 {
        return (
            Reason::NothingPending,
            "no workload has to follow the Secret".to_owned(),
        );
    }
    if counts.done == all {
        let left_out = states.iter().find(|status| status.is_obstructed);
        let but_for = left_out.map_or_else(String::new, |status| {
            format!("; {}: {}", status.key, status.sentence)
        });
        return (
            Reason::Complete,
            format!("all workloads hold the present content{but_for}"),
        );
    }
    let rest = format!("{} of {all} workloads hold the present content", counts.done);
    if halted {
        let failed = has(WorkloadState::Failed).map_or_else(String::new, |status| {
            format!(": {}: {}", status.key, status.sentence)
        });
        return (
            Reason::Halted,
            format!(
                "{rest}; no more are restarted since {} failed{failed}. Mend it, or annotate the ExternalSecret with \
                 keyturn.dev/resume={token} to go on",
                counts.failed
            ),
        );
    }
    if counts.in_flight > 0 {
        let is_stuck =
            |status: &&&WorkloadStatus| status.is_obstructed && status.state == WorkloadState::RollingOut;
        let obstructed = states.iter().find(is_stuck);
        let why = obstructed.map_or_else(String::new, |status| {
            format!("; {}: {}", status.key, status.sentence)
        });
        return (Reason::InProgress, format!("{rest}{why}"));
    }
    for (state, reason) in [
        (WorkloadState::AwaitingApproval, Reason::AwaitingApproval),
        (WorkloadState::WaitingForWindow, Reason::WaitingForWindow),
        (WorkloadState::Reverted, Reason::Reverted),
    ] {
        if let Some(status) = has(state) {
            return (reason, format!("{rest}; {}", status.sentence));
        }
    }
    let left = |status: &&&WorkloadStatus| status.state == WorkloadState::LeftToReloader;
    let open = states.iter().filter(|status| status.state != WorkloadState::Done);
    let first = open.clone().next();
    if open.clone().count() == open.filter(|status| left(status)).count() {
        let sentence = first.map_or("", |status| &*status.sentence);
        return (Reason::LeftToReloader, format!("{rest}; {sentence}"));
    }
    (
        Reason::Pending,
        first.map_or_else(
            || rest.clone(),
            |status| format!("{rest}; {}: {}", status.key, status.sentence),
        ),
    )
}
