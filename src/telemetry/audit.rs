//! The audit log: who got what and why. Together with CloudTrail it tells which ExternalSecrets a read served.
//!
//! Rooms emit events of target `audit`, at level info, with the fields of [`FIELDS`] for their `action` and nothing
//! else; this layer is the door: it writes one JSON object a line, holds back a field that was not agreed on (its
//! content cannot be vouched for) and names what is missing. The lines of a process are numbered from 1, so that a line that
//! is lost on its way is noticed. One that could not be written takes a number too, and is counted.
//!
//! ```
//! # let (request_id, identity, key, version) = ("5c2d", "arn:aws:iam::111122223333:role/shop", "prod/db", "v1");
//! tracing::info!(
//!     target: "audit",
//!     action = "read",
//!     request_id,                         // of the AWS call, as in CloudTrail
//!     identity,                           // role ARN, or what stands for the own identity
//!     key,                                // name or ARN as asked for
//!     version,                            // version id that was read
//!     subscribers = "shop/db shop/cart",  // ExternalSecrets it was read for, at most 100; more go on further lines
//! );
//! ```

use std::{
    fmt,
    io::Write,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use serde_json::{Map, Value};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context};

/// The target of audit events.
pub const TARGET: &str = "audit";

/// The fields of each action. All are needed. `subscribers` and `audiences` are lists, written with spaces
/// between; `versions` is a JSON object.
pub const FIELDS: &[(&str, &[&str])] = &[
    // A value left AWS.
    (
        "read",
        &["request_id", "identity", "key", "version", "subscribers"],
    ),
    // A Secret was created or changed; `verb` is `create`, `patch` or `apply`.
    ("write", &["external_secret", "secret", "verb", "versions"]),
    // A Secret was removed; `reason` as in the condition.
    ("delete", &["external_secret", "secret", "reason"]),
    // A rule of ours said no before anything was read or written; `subject` is the key, the namespace or the object.
    ("refusal", &["external_secret", "reason", "subject"]),
    // The API server was asked for a token of a ServiceAccount, `namespace/name`.
    ("token", &["service_account", "audiences"]),
    // A key for AWS was read from the entry `entry` of a Secret, for a store.
    ("credential", &["secret", "entry"]),
    // Somebody approved that workloads follow a content, `rollout` (a keyed token).
    ("approval", &["external_secret", "secret", "rollout"]),
    // A workload was restarted: `verb` is `patch` or `evict`, `object` what was patched or evicted, as `Pod shop/web-1`;
    // why are the `secrets` whose content changed, and to which `rollouts` (keyed tokens).
    (
        "restart",
        &[
            "external_secrets",
            "secrets",
            "rollouts",
            "workload",
            "verb",
            "object",
            "urgent",
        ],
    ),
];

/// Whether an event belongs here.
pub(super) fn is_audit(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET
}

/// What became of audit lines. Clones share the number.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    lost: Counter,
}

impl Metrics {
    /// Registers them under the given registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "audit_lines_lost",
            "Lines of the audit log that could not be written",
            self.lost.clone(),
        );
    }
}

/// Writes audit events as JSON lines.
pub(super) struct Audit<W> {
    writer: W,
    /// The number of the last line. It is held while a line is written, so that lines stand in order.
    last: Mutex<u64>,
    metrics: Metrics,
}

impl<W> Audit<W> {
    pub(super) fn new(writer: W, metrics: Metrics) -> Self {
        Self {
            writer,
            last: Mutex::default(),
            metrics,
        }
    }
}

impl<S, W> Layer<S> for Audit<W>
where
    S: Subscriber,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = AuditFields::default();
        event.record(&mut seen);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let mut line = Value::Object(seen.line(now(), *last)).to_string();
        line.push('\n');
        // One call keeps lines whole.
        if self.writer.make_writer().write_all(line.as_bytes()).is_err() {
            self.metrics.lost.inc();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "lines carry the time they were written")]
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// The fields of one event.
#[derive(Default)]
struct AuditFields(Map<String, Value>);

impl AuditFields {
    fn line(mut self, now: String, number: u64) -> Map<String, Value> {
        let action = self.0.remove("action").unwrap_or_default();
        let agreed = FIELDS
            .iter()
            .find(|(known, _)| action == *known)
            .map_or(&[][..], |(_, fields)| fields);
        let mut line = Map::new();
        line.insert("time".into(), now.into());
        line.insert("number".into(), number.into());
        line.insert(
            "action".into(),
            if agreed.is_empty() {
                "unknown".into()
            } else {
                action
            },
        );
        let mut missing = Vec::new();
        for field in agreed {
            if let Some(value) = self.0.remove(*field) {
                line.insert((*field).into(), shaped(field, value));
            } else {
                missing.push(*field);
            }
        }
        if !missing.is_empty() {
            line.insert("missing".into(), missing.into());
        }
        if !self.0.is_empty() {
            line.insert(
                "withheld".into(),
                self.0.keys().cloned().collect::<Vec<_>>().into(),
            );
        }
        line
    }
}

fn shaped(field: &str, value: Value) -> Value {
    match value {
        Value::String(text)
            if matches!(
                field,
                "subscribers" | "audiences" | "external_secrets" | "secrets" | "rollouts"
            ) =>
        {
            text.split_whitespace().collect::<Vec<_>>().into()
        }
        Value::String(text) if field == "versions" => match serde_json::from_str(&text) {
            Ok(versions @ Value::Object(_)) => versions,
            _ => text.into(),
        },
        other => other,
    }
}

impl Visit for AuditFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(fields: Value) -> Value {
        let Value::Object(fields) = fields else {
            panic!("fields are an object")
        };
        Value::Object(AuditFields(fields).line("2026-01-01T00:00:00.000Z".into(), 7))
    }

    #[test]
    fn a_read_lists_whom_it_served() {
        let read = json!({"action": "read", "request_id": "r", "identity": "i", "key": "k", "version": "v",
            "subscribers": "shop/db shop/cart"});
        assert_eq!(
            line(read),
            json!({"time": "2026-01-01T00:00:00.000Z", "number": 7, "action": "read", "request_id": "r", "identity": "i",
                "key": "k", "version": "v", "subscribers": ["shop/db", "shop/cart"]})
        );
    }

    #[test]
    fn a_write_shows_versions_as_the_secret_has_them() {
        let write = json!({"action": "write", "external_secret": "a/b", "secret": "a/c", "verb": "patch",
            "versions": "{\"0d20fc02c3718c8e\":\"v1\"}"});
        assert_eq!(line(write)["versions"], json!({"0d20fc02c3718c8e": "v1"}));
    }

    #[test]
    fn what_was_not_agreed_on_is_withheld_and_what_lacks_is_named() {
        let line = line(
            json!({"action": "delete", "external_secret": "a/b", "reason": "SecretNotFound",
            "value": "canary", "message": "canary"}),
        );
        assert!(!line.to_string().contains("canary"));
        assert_eq!(line["withheld"], json!(["message", "value"]));
        assert_eq!(line["missing"], json!(["secret"]));
    }

    #[test]
    fn an_unknown_action_says_nothing_of_its_own() {
        let line = line(json!({"action": "canary", "key": "canary"}));
        assert_eq!(line["action"], "unknown");
        assert!(!line.to_string().contains("canary"));
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let now = now();
        assert!(
            now.ends_with('Z') && now.len() == "2026-01-01T00:00:00.000Z".len(),
            "{now}"
        );
    }
}
