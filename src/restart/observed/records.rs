//! The annotations that Keyturn writes on a workload itself, read and written: what it was restarted for, and how that failed.
//! Pure.

use super::model::{FailureRecord, Record};

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

/// The end of the name of the annotation that records how a rollout failed; the rest of the name is the one of the record
/// of the restart. Its value, `<token>.<reason>`, is not a record of a restart: older versions skip it.
pub const FAILED: &str = ".failed";

/// The reason of a rollout that failed and works again.
pub const RECOVERED: &str = "Recovered";

/// Reasons are words, no longer than this.
const LONGEST: usize = 63;

/// The hash in the name of an annotation, without the domain, that records how a rollout failed; none for other names.
pub fn failed(name: &str) -> Option<&str> {
    name.strip_suffix(FAILED).filter(|hash| !hash.is_empty())
}

/// Reads how a rollout failed; none if it cannot be read.
pub fn parse_failure(text: &str) -> Option<FailureRecord> {
    let (token, reason) = text.rsplit_once('.')?;
    let is_word = !reason.is_empty()
        && reason.len() <= LONGEST
        && reason.chars().all(|letter| letter.is_ascii_alphabetic());
    (is_word && !token.is_empty()).then(|| FailureRecord {
        token: token.into(),
        reason: reason.into(),
    })
}
