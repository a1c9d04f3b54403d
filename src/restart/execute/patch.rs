//! What is sent: the bodies of patches, and the record that they leave behind. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    api::{
        RestartStrategy,
        names::{
            RESTART_DOMAIN,
            annotation::{HOT_RELOAD, RESTART, RESTART_STRATEGY, SUSPEND_RESTARTS_UNTIL},
        },
    },
    cluster::JsonPatch,
    restart::{
        judge::{
            model::{Note, NoteKind, Stamp},
            rollout::{Failure, RecordedOutcome, recorded_outcome, restart_at},
        },
        observed::{
            annotations::RELOADER,
            model::{PatchBase, TemplateAnnotations, Workload},
            records::{self, FAILED, RECOVERED},
        },
    },
};

/// The patch that restarts the workload, as it was at `base`. None for a strategy that patches nothing, and where there is
/// nothing to put an annotation on.
pub fn patch(
    strategy: RestartStrategy,
    workload: &Workload,
    base: &PatchBase,
    stamps: &[Stamp],
) -> Option<JsonPatch> {
    let mut records: BTreeMap<String, String> = stamps
        .iter()
        .map(|stamp| (annotation(&stamp.hash, ""), records::print(&stamp.record)))
        .collect();
    records.extend(
        stamps
            .iter()
            .filter_map(|stamp| starts_over(workload, &stamp.hash, &stamp.record.token)),
    );
    let hashes = stamps.iter().map(|stamp| &*stamp.hash);
    let mut patch = annotated(base, hashes, records);
    match strategy {
        RestartStrategy::Template => {
            let annotations = ["spec", "template", "metadata", "annotations"];
            match base.template {
                TemplateAnnotations::NoMetadata => {
                    patch.add(&["spec", "template", "metadata"], json!({"annotations": {}}));
                }
                TemplateAnnotations::None => patch.add(&annotations, json!({})),
                TemplateAnnotations::Some => {}
            }
            for Stamp { hash, record, .. } in stamps {
                let name = annotation(hash, "");
                let [a, b, c, d] = annotations;
                patch.add(&[a, b, c, d, &name], &*record.token);
            }
        }
        RestartStrategy::RestartAt => {
            let latest = stamps.iter().map(|stamp| restart_at(stamp.changed_at)).max()?;
            // What it was asked for before, for another Secret, still holds.
            let latest = workload
                .controller
                .restart_at
                .map_or(latest, |before| before.max(latest));
            patch.add(&["spec", "restartAt"], latest.to_string());
        }
        RestartStrategy::Evict => return None,
    }
    Some(patch)
}

/// The patch that writes `notes` on the workload, as it was at `base`; none if the workload has them already, or they do not
/// hold any more.
pub fn note_patch(workload: &Workload, base: &PatchBase, notes: &[Note]) -> Option<JsonPatch> {
    let texts: BTreeMap<String, String> = notes
        .iter()
        .filter_map(|note| {
            let (end, text) = text(workload, note)?;
            Some((annotation(&note.hash, end), text))
        })
        .collect();
    let hashes = notes.iter().map(|note| &*note.hash);
    (!texts.is_empty()).then(|| annotated(base, hashes, texts))
}

/// The patch that puts annotations on the workload itself, as long as its spec and all that decides over its restarts for the
/// Secrets of `hashes` are as they were.
fn annotated<'a>(
    base: &PatchBase,
    hashes: impl Iterator<Item = &'a str>,
    texts: BTreeMap<String, String>,
) -> JsonPatch {
    const ANNOTATIONS: [&str; 2] = ["metadata", "annotations"];
    let [metadata, annotations] = ANNOTATIONS;
    let mut patch = JsonPatch::default();
    patch.test(&[metadata, "generation"], base.generation);
    if let Some(found) = &base.annotations {
        let records = hashes.flat_map(|hash| [annotation(hash, ""), annotation(hash, FAILED)]);
        let names: BTreeSet<String> = DECIDING.map(str::to_owned).into_iter().chain(records).collect();
        for name in names {
            let value = found.get(&name).map_or(Value::Null, |value| json!(value));
            patch.test(&[metadata, annotations, &name], value);
        }
    } else {
        patch.test(&ANNOTATIONS, Value::Null);
        patch.add(&ANNOTATIONS, json!({}));
    }
    for (name, text) in texts {
        patch.add(&[metadata, annotations, &name], text);
    }
    patch
}

/// The annotations by which people decide over the restarts of a workload.
const DECIDING: [&str; 11] = {
    let [a, b, c, d, e, f, g] = RELOADER;
    let [h, i, j, k] = [RESTART, RESTART_STRATEGY, HOT_RELOAD, SUSPEND_RESTARTS_UNTIL];
    [a, b, c, d, e, f, g, h, i, j, k]
};

/// The name of the annotation for the Secret whose name has this hash.
fn annotation(hash: &str, end: &str) -> String {
    format!("{RESTART_DOMAIN}/{hash}{end}")
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
