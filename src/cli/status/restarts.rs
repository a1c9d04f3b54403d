//! How the restarts of an ExternalSecret stand, in a sentence. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::report::{Object, place};
use crate::api::{Reason, RestartStatus, WorkloadState, names::annotation};

/// How far the restarts are, why they go no further, and what a person can do.
pub(super) fn progress(object: &Object, complete: &Condition, restart: &RestartStatus) -> String {
    let RestartStatus {
        rollout,
        progress,
        pending,
        in_flight,
        done: _,
        failed,
        halted: _,
        exceptions,
    } = restart;
    let mut parts = Vec::new();
    // The condition begins with the same two numbers.
    let told = progress.as_deref().and_then(|progress| progress.split_once('/'));
    let told = told.is_some_and(|(done, all)| complete.message.starts_with(&format!("{done} of {all} ")));
    let by = what_a_person_can_do(&complete.reason).zip(rollout.as_deref().filter(|token| is_token(token)));
    // The command tells what the condition says of it, and a failed workload has a line of its own.
    let listed = exceptions
        .iter()
        .flatten()
        .any(|exception| exception.reason == WorkloadState::Failed.as_str());
    let repeats = by.is_some() && (listed || complete.reason == Reason::AwaitingApproval.as_str());
    if !told || repeats {
        parts.extend(progress.as_ref().map(|progress| format!("{progress} done")));
    }
    for (number, word) in [
        (in_flight, "rolling out"),
        (pending, "waiting"),
        (failed, "failed"),
    ] {
        let number = number.unwrap_or_default();
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    let mut message = parts.join(", ");
    let mut add = |text: &str| {
        if !message.is_empty() && !text.is_empty() {
            message.push_str("; ");
        }
        message.push_str(text);
    };
    if !repeats {
        add(&complete.message);
    }
    let deadline = object
        .status
        .rotation
        .as_ref()
        .and_then(|rotation| rotation.deadline.as_ref());
    if let Some(Time(deadline)) = deadline {
        add(&format!("the old credential may die from {deadline:.0} on"));
    }
    if let Some(((what, annotation), token)) = by {
        let (namespace, name) = place(&object.metadata);
        add(&format!(
            "{what}: kubectl annotate kes {name} -n {namespace} --overwrite {annotation}={token}"
        ));
    }
    message
}

/// What a person can do about restarts that wait for this reason, and the annotation that does it.
fn what_a_person_can_do(reason: &str) -> Option<(&'static str, &'static str)> {
    if reason == Reason::AwaitingApproval.as_str() {
        Some(("to approve", annotation::APPROVE))
    } else if reason == Reason::Halted.as_str() {
        Some(("to resume", annotation::RESUME))
    } else {
        None
    }
}

/// Whether a token has the form of ours: any other is nothing to paste into a shell.
fn is_token(token: &str) -> bool {
    !token.is_empty()
        && token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
