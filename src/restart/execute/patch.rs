//! What is sent: the bodies of patches, and the record that they leave behind. Pure.

use serde_json::{Map, Value, json};

use crate::{
    api::{RestartStrategy, names::RESTART_DOMAIN},
    restart::{
        judge::{
            model::{Note, NoteKind, Stamp},
            rollout::{Failure, RecordedOutcome, recorded_outcome, restart_at},
        },
        observed::{
            model::Workload,
            records::{self, FAILED, RECOVERED},
        },
    },
};

/// The merge patch that restarts the workload, as it was at `resource_version`. Nothing for a strategy that patches
/// nothing.
pub fn patch(
    strategy: RestartStrategy,
    workload: &Workload,
    resource_version: &str,
    stamps: &[Stamp],
) -> Option<Value> {
    let spec = match strategy {
        RestartStrategy::Template => {
            let tokens = annotations(stamps, |stamp| stamp.record.token.to_string());
            json!({"template": {"metadata": {"annotations": tokens}}})
        }
        RestartStrategy::RestartAt => {
            let latest = stamps.iter().map(|stamp| restart_at(stamp.changed_at)).max()?;
            // What it was asked for before, for another Secret, still holds.
            let latest = workload
                .controller
                .restart_at
                .map_or(latest, |before| before.max(latest));
            json!({"restartAt": latest.to_string()})
        }
        RestartStrategy::Evict => return None,
    };
    let mut records = annotations(stamps, |stamp| records::print(&stamp.record));
    records.extend(stamps.iter().filter_map(|stamp| {
        let (name, value) = starts_over(workload, &stamp.hash, &stamp.record.token)?;
        Some((name, Value::String(value)))
    }));
    Some(json!({
        "metadata": {"uid": workload.uid, "resourceVersion": resource_version, "annotations": records},
        "spec": spec,
    }))
}

fn annotations(stamps: &[Stamp], value: impl Fn(&Stamp) -> String) -> Map<String, Value> {
    let entry = |stamp: &Stamp| {
        (
            format!("{RESTART_DOMAIN}/{}", stamp.hash),
            Value::String(value(stamp)),
        )
    };
    stamps.iter().map(entry).collect()
}

/// The merge patch that writes `notes` on the workload, as it was at `resource_version`; none if the workload has them
/// already, or they do not hold any more.
pub fn note_patch(workload: &Workload, resource_version: &str, notes: &[Note]) -> Option<Value> {
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

/// The annotation, and its value, that is written along with a restart for content that comes back: that the same content
/// failed before does not count, since other content was requested meanwhile. None if it did not fail.
pub fn starts_over(workload: &Workload, hash: &str, token: &str) -> Option<(String, String)> {
    let record = workload.stamps.records.get(hash)?;
    let failed = matches!(recorded_outcome(workload, hash, token), RecordedOutcome::Failed(failure) if failure != Failure::Unreadable);
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
    let recorded = workload.stamps.records.get(hash);
    let recorded = recorded.filter(|record| record.token == *token);
    let brought = workload.stamps.tokens.get(hash) == Some(token);
    let fails = matches!(
        recorded_outcome(workload, hash, token),
        RecordedOutcome::Failed(_)
    );
    match &note.what {
        NoteKind::Failed(reason) => {
            let holds = (brought || recorded.is_some()) && !fails;
            let reason = reason.as_ref().filter(|_| holds)?;
            Some((FAILED, format!("{token}.{reason}")))
        }
        NoteKind::Recovered => fails.then(|| (FAILED, format!("{token}.{RECOVERED}"))),
        NoteKind::Attempts(record) => (!brought && recorded.is_none()).then(|| ("", records::print(record))),
    }
}
