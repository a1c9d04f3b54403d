//! What a workload says of its restarts beside what was asked for: that a rollout failed or recovered, and how often somebody
//! took one back. So the next leader knows it too. It is written into the metadata of the workload alone, which restarts
//! nothing, and only where something happened. Pure.

use serde_json::{Map, Value, json};

use super::rollout::Failure;
use crate::{
    api::{ObjectKey, names::RESTART_DOMAIN},
    restart::{
        execute::patch,
        observed::model::{FailureRecord, Record, Workload},
    },
};

/// Ends the name of the annotation that says how a rollout failed; before it stands what the record of the restart is
/// named by. Its value, `<token>.<reason>`, is no record of a restart: who does not know it passes over it.
const FAILED: &str = ".failed";
/// The reason of a rollout that failed and works again.
pub const RECOVERED: &str = "Recovered";
/// Reasons are words, no longer than this.
const LONGEST: usize = 63;

/// Something that a workload is to say of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The hash of the Secret's name.
    pub hash: Box<str>,
    /// The content's token.
    pub token: Box<str>,
    /// What.
    pub what: NoteKind,
    /// What people are told once it is written.
    pub alert: Option<String>,
}

/// What a workload is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// The rollout failed, for this reason; nothing is written where that is known already, or nothing may be.
    Failed(Option<Box<str>>),
    /// The rollout works again.
    Recovered,
    /// It was restarted so often, and somebody took that back along with the record of it.
    Attempts(Record),
}

impl NoteKind {
    /// Whether it is that the rollout failed.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Whether there is anything to write.
    pub const fn is_written(&self) -> bool {
        !matches!(self, Self::Failed(None))
    }
}

/// What a workload says of its rollout for a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// Nothing.
    Nothing,
    /// It failed.
    Failed(Failure),
    /// It failed, and works again.
    Recovered,
}

/// What the workload says of its rollout for the content `token` of the Secret of this hash. What cannot be read speaks
/// against it.
pub fn said(workload: &Workload, hash: &str, token: &str) -> RecordedOutcome {
    match workload.failures.get(hash) {
        None => RecordedOutcome::Nothing,
        Some(None) => RecordedOutcome::Failed(Failure::Unreadable),
        Some(Some(said)) if *said.token != *token => RecordedOutcome::Nothing,
        Some(Some(said)) if *said.reason == *RECOVERED => RecordedOutcome::Recovered,
        Some(Some(said)) => RecordedOutcome::Failed(Failure::of(&said.reason)),
    }
}

/// The merge patch by which the workload, as it was at `resource_version`, says `notes`; none if it says them already, or they
/// do not hold any more.
pub fn body(workload: &Workload, resource_version: &str, notes: &[Note]) -> Option<Value> {
    let annotations: Map<String, Value> = notes
        .iter()
        .filter_map(|note| {
            let (end, text) = text(workload, note)?;
            Some((
                format!("{RESTART_DOMAIN}/{}{end}", note.hash),
                Value::String(text),
            ))
        })
        .collect();
    (!annotations.is_empty()).then(|| {
        json!({"metadata": {
            "uid": workload.uid, "resourceVersion": resource_version, "annotations": annotations,
        }})
    })
}

/// What a workload is to say along with a restart for content that comes back: that the same failed before, when something
/// else was asked of it since, does not count. The annotation and its value; none if there is nothing of that.
pub fn starts_over(workload: &Workload, hash: &str, token: &str) -> Option<(String, String)> {
    let record = workload.records.get(hash)?;
    let failed = matches!(said(workload, hash, token), RecordedOutcome::Failed(failure) if failure != Failure::Unreadable);
    (failed && *record.token != *token).then(|| {
        (
            format!("{RESTART_DOMAIN}/{hash}{FAILED}"),
            format!("{token}.{RECOVERED}"),
        )
    })
}

/// The end of the annotation's name, and its value.
fn text(workload: &Workload, note: &Note) -> Option<(&'static str, String)> {
    let Note { hash, token, .. } = note;
    let recorded = workload.records.get(hash);
    let recorded = recorded.filter(|record| record.token == *token);
    let brought = workload.tokens.get(hash) == Some(token);
    let fails = matches!(said(workload, hash, token), RecordedOutcome::Failed(_));
    match &note.what {
        NoteKind::Failed(reason) => {
            let holds = (brought || recorded.is_some()) && !fails;
            let reason = reason.as_ref().filter(|_| holds)?;
            Some((FAILED, format!("{token}.{reason}")))
        }
        NoteKind::Recovered => fails.then(|| (FAILED, format!("{token}.{RECOVERED}"))),
        NoteKind::Attempts(record) => (!brought && recorded.is_none()).then(|| ("", patch::print(record))),
    }
}

/// The hash in the name of an annotation, without the domain, that says how a rollout failed; none for another one.
pub fn failed(name: &str) -> Option<&str> {
    name.strip_suffix(FAILED).filter(|hash| !hash.is_empty())
}

/// Reads how a rollout failed; none if it cannot be read.
pub fn parse(text: &str) -> Option<FailureRecord> {
    let (token, reason) = text.rsplit_once('.')?;
    let is_word = !reason.is_empty()
        && reason.len() <= LONGEST
        && reason.chars().all(|letter| letter.is_ascii_alphabetic());
    (is_word && !token.is_empty()).then(|| FailureRecord {
        token: token.into(),
        reason: reason.into(),
    })
}
