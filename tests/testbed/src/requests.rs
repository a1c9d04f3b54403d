//! What the API server was asked, and by whom: its audit log, counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

use crate::controlplane::ControlPlane;

/// A point in the audit log: what is written after it comes later.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

/// One request that was answered, or a watch that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For instance `system:serviceaccount:keyturn:keyturn`.
    pub user: String,
    /// The caller's `user-agent`.
    pub agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, ...
    pub verb: String,
    /// `secrets`, `externalsecrets/status`; a path for what is no resource.
    pub resource: String,
    /// Empty of what lives in none.
    pub namespace: String,
    /// Empty of a list, a watch and a create.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// When it was answered.
    pub answered: Timestamp,
}

impl Request {
    /// Whether it wrote something that is kept: reviews and `TokenRequest`s are not.
    pub fn writes(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        ) && !self.resource.ends_with("/token")
            && !self.resource.ends_with("reviews")
    }
}

/// Requests in the order in which they were answered.
#[derive(Debug, Clone, Default)]
pub struct Requests(pub Vec<Request>);

impl Requests {
    /// Only those of one user: `system:serviceaccount:NAMESPACE:NAME` is a `ServiceAccount`.
    #[must_use]
    pub fn of(&self, user: &str) -> Self {
        self.only(|request| request.user == user)
    }

    /// Only those that `keep` wants.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Request) -> bool) -> Self {
        Self(self.0.iter().filter(|request| keep(request)).cloned().collect())
    }

    /// How many there were by verb and resource.
    pub fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for Request { verb, resource, .. } in &self.0 {
            *counts.entry((verb.clone(), resource.clone())).or_default() += 1;
        }
        counts
    }

    /// How many there were of a verb and resource.
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.0
            .iter()
            .filter(|request| request.verb == verb && request.resource == resource)
            .count()
    }
}

/// The point that the audit log has reached.
pub fn mark(cluster: &ControlPlane) -> Result<Mark> {
    let log = cluster
        .audit_log()
        .context("this control plane has no audit log")?;
    end(log).with_context(|| format!("look at {}", log.display()))
}

/// The point behind the last whole line: the one after it may be half written.
fn end(log: &Path) -> Result<Mark> {
    let mut file = File::open(log)?;
    let mut end = file.metadata()?.len();
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let block = &mut block[..usize::try_from(end - start)?];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Mark(start + newline as u64 + 1));
        }
        end = start;
    }
    Ok(Mark(0))
}

/// The requests that were written to the audit log since `mark`.
pub fn since(cluster: &ControlPlane, mut mark: Mark) -> Result<Requests> {
    advance(cluster, &mut mark)
}

/// The requests that were written to the audit log since `mark`, which moves behind them.
pub fn advance(cluster: &ControlPlane, mark: &mut Mark) -> Result<Requests> {
    let log = cluster
        .audit_log()
        .context("this control plane has no audit log")?;
    let read = || format!("read {}", log.display());
    let mut file = File::open(log).with_context(read)?;
    file.seek(SeekFrom::Start(mark.0)).with_context(read)?;
    let mut reader = BufReader::new(file);
    let mut requests = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        let length = reader.read_line(&mut line).with_context(read)?;
        // The last line may be half written; it is for the next time.
        if !line.ends_with('\n') {
            return Ok(Requests(requests));
        }
        mark.0 += u64::try_from(length)?;
        let event: Event = serde_json::from_str(&line).with_context(read)?;
        requests.extend(event.request());
    }
}

/// What is wanted of an `audit.k8s.io/v1` Event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    stage_timestamp: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

impl Event {
    /// A watch is told twice, at its start and its end, anything else once; a watch counts when it starts.
    fn request(self) -> Option<Request> {
        let counted = if self.verb == "watch" {
            "ResponseStarted"
        } else {
            "ResponseComplete"
        };
        if self.stage != counted {
            return None;
        }
        let object = self.object_ref.unwrap_or_default();
        let resource = match (object.resource.as_str(), object.subresource.as_str()) {
            ("", _) => self.uri.split('?').next().unwrap_or_default().to_owned(),
            (resource, "") => resource.to_owned(),
            (resource, sub) => format!("{resource}/{sub}"),
        };
        Some(Request {
            user: self.user.username,
            agent: self.user_agent,
            verb: self.verb,
            resource,
            namespace: object.namespace,
            name: object.name,
            code: self.response_status.map_or(0, |status| status.code),
            answered: self.stage_timestamp.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Option<Request> {
        serde_json::from_str::<Event>(line).unwrap().request()
    }

    #[test]
    fn a_write_is_told_by_its_resource_and_subresource() {
        let line = r#"{"kind":"Event","stageTimestamp":"2026-01-01T00:00:00.000000Z","stage":"ResponseComplete","requestURI":"/x","verb":"patch",
            "user":{"username":"u"},"userAgent":"keyturn/0.1.0","objectRef":{"resource":"externalsecrets",
            "subresource":"status","namespace":"shop","name":"db"},"responseStatus":{"code":200}}"#;
        let request = request(line).unwrap();
        assert_eq!(request.resource, "externalsecrets/status");
        assert_eq!((request.code, request.writes()), (200, true));
    }

    #[test]
    fn a_mark_is_behind_the_last_whole_line() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let line = "x".repeat(10_000);
        for (text, expected) in [
            (String::new(), 0),
            ("half".to_owned(), 0),
            (line.clone(), 0),
            ("whole\n".to_owned(), 6),
            ("whole\nhalf".to_owned(), 6),
            (format!("{line}\n{line}"), 10_001),
        ] {
            std::fs::write(log.path(), &text).unwrap();
            assert_eq!(end(log.path()).unwrap().0, expected, "{} bytes", text.len());
        }
    }

    #[test]
    fn a_watch_counts_once_when_it_starts() {
        let line = |stage: &str| {
            format!(
                r#"{{"stageTimestamp":"2026-01-01T00:00:00.000000Z","stage":"{stage}","requestURI":"/x","verb":"watch","user":{{"username":"u"}},
                "objectRef":{{"resource":"secrets"}},"responseStatus":{{"code":200}}}}"#
            )
        };
        assert!(request(&line("ResponseStarted")).is_some());
        assert!(request(&line("ResponseComplete")).is_none());
    }

    #[test]
    fn reviews_and_token_requests_write_nothing() {
        let line = r#"{"stageTimestamp":"2026-01-01T00:00:00.000000Z","stage":"ResponseComplete","requestURI":"/x","verb":"create","user":{"username":"u"},
            "objectRef":{"resource":"serviceaccounts","subresource":"token"},"responseStatus":{"code":201}}"#;
        assert!(!request(line).unwrap().writes());
    }
}
