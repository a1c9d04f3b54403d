//! What is sent: the bodies of patches, and the record that they leave behind. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::{
    api::{RestartStrategy, names::RESTART_DOMAIN},
    restart::{
        judge::{notes, staleness::later},
        observed::model::{Record, Workload},
    },
};

/// A Rollout's pods made before this long after the change are replaced: one second more than makes a pod fresh.
pub const RESTART_AT: SignedDuration = SignedDuration::from_secs(11);

/// A content that a workload is brought to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The hash of the Secret's name.
    pub hash: Box<str>,
    /// What its template and the workload itself will say.
    pub record: Record,
    /// When the content changed.
    pub changed_at: Timestamp,
}

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
            let latest = workload.restart_at.map_or(latest, |before| before.max(latest));
            json!({"restartAt": latest.to_string()})
        }
        RestartStrategy::Evict => return None,
    };
    let mut records = annotations(stamps, |stamp| print(&stamp.record));
    records.extend(stamps.iter().filter_map(|stamp| {
        let (name, value) = notes::starts_over(workload, &stamp.hash, &stamp.record.token)?;
        Some((name, Value::String(value)))
    }));
    Some(json!({
        "metadata": {"uid": workload.uid, "resourceVersion": resource_version, "annotations": records},
        "spec": spec,
    }))
}

/// A Rollout's `spec.restartAt` for a change: the same in every retry.
pub fn restart_at(changed_at: Timestamp) -> Timestamp {
    // The API server keeps whole seconds.
    let whole = Timestamp::from_second(changed_at.as_second()).unwrap_or(changed_at);
    later(whole, RESTART_AT)
}

/// Reads a record; none if it is not one of ours.
pub fn parse(text: &str) -> Option<Record> {
    let (rest, was_healthy) = match text.strip_suffix(UNHEALTHY) {
        Some(rest) => (rest, false),
        None => (text, true),
    };
    let (token, attempt) = rest.rsplit_once('.')?;
    let attempt = attempt.parse().ok().filter(|attempt| *attempt > 0)?;
    (!token.is_empty()).then(|| Record {
        token: token.into(),
        attempt,
        was_healthy,
    })
}

/// Writes a record: `<token>.<attempt>`, and `.unhealthy` if it was so before.
pub fn print(record: &Record) -> String {
    let Record {
        token,
        attempt,
        was_healthy,
    } = record;
    let end = if *was_healthy { "" } else { UNHEALTHY };
    format!("{token}.{attempt}{end}")
}

const UNHEALTHY: &str = ".unhealthy";

fn annotations(stamps: &[Stamp], value: impl Fn(&Stamp) -> String) -> Map<String, Value> {
    let entry = |stamp: &Stamp| {
        (
            format!("{RESTART_DOMAIN}/{}", stamp.hash),
            Value::String(value(stamp)),
        )
    };
    stamps.iter().map(entry).collect()
}
