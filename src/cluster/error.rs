//! What a call to the API server can end in, without a word of what the server said.
//!
//! The API server's messages quote values (of labels, annotations, keys, patches); a message here is made
//! from the status code, the reason, and of each cause the field's path and reason only.

use std::{fmt, time::Duration};

use kube::core::{Status, response::StatusCause};

use super::call::Verb;
use crate::api::ObjectKey;

/// A call that failed: what was attempted, on which object, and the class of the failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to {verb} {kind} {key}: {class}")]
pub struct Error {
    /// What was attempted.
    pub verb: Verb,
    /// The object's kind.
    pub kind: &'static str,
    /// The object; the namespace is empty for cluster-wide kinds, the name for lists.
    pub key: ObjectKey,
    /// How it failed.
    pub class: Class,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Class {
    /// The object does not exist (404).
    #[error("it does not exist")]
    NotFound,
    /// A create met an object of that name (409).
    #[error("it already exists")]
    AlreadyExists,
    /// The object changed since it was observed (409).
    #[error("it changed meanwhile")]
    Conflict,
    /// Server-side apply met fields that other managers hold (409); their names.
    #[error("of its fields {fields} are held by {}", managers.join(", "))]
    FieldConflict {
        /// Names of the managers, sorted, each once.
        managers: Vec<String>,
        /// How many fields they hold of those applied.
        fields: usize,
    },
    /// The object is another one of the same name than the one observed, or is gone.
    #[error("it was replaced by another object of that name")]
    UidMismatch,
    /// A quota, an admission policy or a webhook refused it, or the namespace is being deleted.
    #[error("{0}")]
    Refused(Refuser),
    /// Not allowed by RBAC, or refused by an admission plugin that does not say its name (403).
    #[error("the API server forbids it")]
    Forbidden,
    /// The operator's own credentials were not accepted (401); its token file is read again.
    #[error("the API server does not accept the operator's credentials")]
    Unauthorized,
    /// The content was refused (422).
    #[error("the API server refuses the content: {}", Listed(fields))]
    Invalid {
        /// The refused fields, at most 10.
        fields: Vec<InvalidField>,
    },
    /// The object is larger than the API server or etcd stores.
    #[error("it is larger than the API server stores")]
    TooLarge,
    /// A `PodDisruptionBudget` does not let the pod go now (429).
    #[error("a PodDisruptionBudget does not let the pod go now")]
    Disruption,
    /// Too many requests (429).
    #[error("the API server throttles the operator")]
    Throttled {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The resource version or the list's continuation is too old (410).
    #[error("the resource version is too old")]
    Expired,
    /// The API server could not be reached, or answered with an error of its own (5xx).
    #[error("the API server is unavailable{}", Code(*code))]
    Unavailable {
        /// The status code, if there was an answer.
        code: Option<u16>,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// No answer in time. A write may or may not have happened.
    #[error("no answer in time")]
    Timeout,
    /// Any other refusal (4xx).
    #[error("the API server refuses the request{}", Code(Some(*code)))]
    Rejected {
        /// The status code.
        code: u16,
    },
    /// The answer, or the object in it, is not what it must be. The text is ours.
    #[error("{0}")]
    Malformed(&'static str),
    /// Not sent: this process does not hold the lease, or not long enough.
    #[error("this replica does not hold the lease")]
    NotLeading,
}

impl Class {
    /// Whether the same call may succeed later though nobody mends anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Disruption
            | Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::Timeout
            | Self::Expired
            | Self::Conflict
            | Self::AlreadyExists
            | Self::UidMismatch
            | Self::NotLeading
            | Self::Unauthorized => true,
            Self::NotFound
            | Self::FieldConflict { .. }
            | Self::Refused(_)
            | Self::Forbidden
            | Self::Invalid { .. }
            | Self::TooLarge
            | Self::Rejected { .. }
            | Self::Malformed(_) => false,
        }
    }

    /// Whether a read is worth another attempt at once.
    pub(super) fn retries_read(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::Unavailable {
                    code: None | Some(502..=504),
                    ..
                }
        )
    }

    /// How long the server asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The value of the label `result` in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::FieldConflict { .. } => "field_conflict",
            Self::UidMismatch => "uid_mismatch",
            Self::Refused(_) => "refused",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
            Self::Invalid { .. } => "invalid",
            Self::TooLarge => "too_large",
            Self::Disruption => "disruption",
            Self::Throttled { .. } => "throttled",
            Self::Expired => "expired",
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout => "timeout",
            Self::Rejected { .. } => "rejected",
            Self::Malformed(_) => "malformed",
            Self::NotLeading => "not_leading",
        }
    }

    /// From the status code of an answer and, if its body was one, the API server's status.
    ///
    /// The message is looked at where the server has no other word for a case, and goes no further.
    pub(super) fn of_status(code: u16, status: Option<&Status>) -> Self {
        let reason = status.map_or("", |s| s.reason.as_str());
        let message = status.map_or("", |s| s.message.as_str());
        let details = status.and_then(|s| s.details.as_ref());
        let causes = details.map_or(&[][..], |d| d.causes.as_slice());
        let retry_after = details
            .map(|d| d.retry_after_seconds)
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into()));
        if let Some(refuser) = Refuser::of(code, message, causes) {
            return Self::Refused(refuser);
        }
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            409 if reason == "AlreadyExists" => Self::AlreadyExists,
            409 if causes.iter().any(|cause| cause.reason == "FieldManagerConflict") => {
                Self::field_conflict(causes)
            }
            409 if ["uid mismatch", "UID in precondition", "UID in the precondition"]
                .iter()
                .any(|part| message.contains(part)) =>
            {
                Self::UidMismatch
            }
            409 => Self::Conflict,
            410 => Self::Expired,
            413 => Self::TooLarge,
            422 if causes.iter().any(|cause| cause.field == "metadata.uid") => Self::UidMismatch,
            422 if !causes.is_empty() && causes.iter().all(is_too_long) => Self::TooLarge,
            422 => Self::Invalid {
                fields: causes.iter().take(10).map(InvalidField::of_cause).collect(),
            },
            429 if causes.iter().any(|cause| cause.reason == "DisruptionBudget") => Self::Disruption,
            429 => Self::Throttled { retry_after },
            // etcd's and gRPC's limits come through as internal errors.
            500 if message.contains("request is too large")
                || message.contains("message larger than max") =>
            {
                Self::TooLarge
            }
            408 | 504 if reason == "Timeout" => Self::Timeout,
            500.. => Self::Unavailable {
                code: Some(code),
                retry_after,
            },
            _ => Self::Rejected { code },
        }
    }

    fn field_conflict(causes: &[StatusCause]) -> Self {
        let mut managers: Vec<String> = causes
            .iter()
            // `conflict with "kubectl-edit" using v1 at …`: the part in quotes is the manager's name.
            .filter_map(|cause| cause.message.split('"').nth(1))
            .map(|name| name.chars().take(128).collect())
            .collect();
        managers.sort();
        managers.dedup();
        let fields = causes
            .iter()
            .filter(|cause| cause.reason == "FieldManagerConflict")
            .count();
        Self::FieldConflict { managers, fields }
    }
}

/// What refused a request after RBAC had allowed it, by its name: the only part of the server's text that is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refuser {
    /// A `ResourceQuota` of the namespace.
    #[error("ResourceQuota {0} of the namespace refuses it")]
    Quota(String),
    /// A `ValidatingAdmissionPolicy`.
    #[error("ValidatingAdmissionPolicy {0} refuses it")]
    Policy(String),
    /// An admission webhook.
    #[error("admission webhook {0} refuses it")]
    Webhook(String),
    /// The namespace ends.
    #[error("the namespace is being deleted")]
    Ending,
}

impl Refuser {
    /// What a person can do, as sentences.
    pub fn advice(&self, namespace: &str) -> String {
        match self {
            Self::Quota(name) => format!(
                "Raise ResourceQuota {name} in namespace {namespace}, or delete objects that it counts: kubectl describe \
                 resourcequota {name} -n {namespace}"
            ),
            Self::Policy(name) => format!(
                "Change the object so that ValidatingAdmissionPolicy {name} admits it, or have a cluster admin correct the \
                 policy: kubectl get validatingadmissionpolicy {name} -o yaml"
            ),
            Self::Webhook(name) => format!(
                "Change the object so that webhook {name} admits it, or have a cluster admin exclude the operator's \
                 ServiceAccount from the webhook"
            ),
            Self::Ending => {
                format!(
                    "Nothing can be created in namespace {namespace} any more. Keyturn goes on once it exists again"
                )
            }
        }
    }

    /// Reads the sentences that the API server makes itself, where they begin: what a policy or a webhook says comes behind
    /// its name. A name has the characters of a name, so that no other text passes for one.
    fn of(code: u16, message: &str, causes: &[StatusCause]) -> Option<Self> {
        if !(400..500).contains(&code) {
            return None;
        }
        if causes.iter().any(|cause| cause.reason == "NamespaceTerminating") {
            return Some(Self::Ending);
        }
        if let Some(rest) = message.strip_prefix("admission webhook \"") {
            let (name, rest) = rest.split_once('"')?;
            return (rest.starts_with(" denied the request")).then(|| Self::Webhook(named(name)));
        }
        // `secrets "db" is forbidden: exceeded quota: small, requested: ...`
        let (_, rest) = message.split_once(" is forbidden: ")?;
        for begins in ["exceeded quota: ", "failed quota: "] {
            if let Some(rest) = rest.strip_prefix(begins) {
                let name = rest.split([',', ':']).next().unwrap_or_default();
                return Some(Self::Quota(named(name)));
            }
        }
        let rest = rest.strip_prefix("ValidatingAdmissionPolicy '")?;
        let (name, _) = rest.split_once('\'')?;
        Some(Self::Policy(named(name)))
    }
}

fn named(name: &str) -> String {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    if !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed) {
        name.to_owned()
    } else {
        "of an unknown name".to_owned()
    }
}

fn is_too_long(cause: &StatusCause) -> bool {
    matches!(cause.reason.as_str(), "FieldValueTooLong" | "FieldValueTooMany")
        && matches!(cause.field.as_str(), "data" | "metadata.annotations" | "")
}

/// A field that the API server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidField {
    /// The field's path. What stands in brackets is cut unless it is a number: keys of maps may be secret.
    pub path: String,
    /// The API server's word for the reason, such as `FieldValueInvalid`.
    pub reason: String,
}

impl InvalidField {
    fn of_cause(cause: &StatusCause) -> Self {
        Self {
            path: path(&cause.field),
            reason: word(&cause.reason),
        }
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path, self.reason)
    }
}

/// A field's path with every key of a map cut out.
fn path(field: &str) -> String {
    const LONGEST: usize = 128;
    let mut out = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(&plain(before));
        let (index, tail) = match after.split_once(']') {
            Some((index, tail)) if !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) => {
                (index, tail)
            }
            // A key may hold brackets itself: go on after the last one.
            _ => ("..", after.rsplit_once(']').map_or("", |(_, tail)| tail)),
        };
        out.push('[');
        out.push_str(index);
        out.push(']');
        rest = tail;
    }
    out.push_str(&plain(rest));
    out.truncate(LONGEST);
    out
}

/// The steps of a path that can be names of fields; anything else becomes `..`.
fn plain(steps: &str) -> String {
    let named = |b: u8| b.is_ascii_alphanumeric() || b == b'.';
    if steps.bytes().all(named) {
        steps.to_owned()
    } else {
        "..".to_owned()
    }
}

fn word(reason: &str) -> String {
    if !reason.is_empty() && reason.len() <= 64 && reason.bytes().all(|b| b.is_ascii_alphanumeric()) {
        reason.to_owned()
    } else {
        "Invalid".to_owned()
    }
}

struct Listed<'a>(&'a [InvalidField]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no field named");
        }
        for (i, field) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{field}")?;
        }
        Ok(())
    }
}

struct Code(Option<u16>);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CANARY: &str = "hunter2-canary";

    fn class(code: u16, status: &serde_json::Value) -> Class {
        let status: Status = serde_json::from_value(status.clone()).unwrap();
        Class::of_status(code, Some(&status))
    }

    #[test]
    fn answers_are_told_apart() {
        let status = |reason: &str, message: &str| json!({"reason": reason, "message": message});
        let uid = json!({"reason": "Invalid", "details": {"causes": [
            {"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "field is immutable"}]}});
        let long = json!({"reason": "Invalid", "details": {"causes": [
            {"reason": "FieldValueTooLong", "field": "data", "message": "must have at most 1048576 bytes"}]}});
        let wait = json!({"reason": "TooManyRequests", "details": {"retryAfterSeconds": 2}});
        let budget = json!({"reason": "TooManyRequests", "details": {"causes": [
            {"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods"}]}});
        let no_uid = "Operation cannot be fulfilled: uid mismatch: the provided object specified uid a, and no \
                      existing object was found";
        let recreated = "the UID in the precondition (a) does not match the UID in record (b). The object might \
                         have been deleted and then recreated";
        let precondition = "Precondition failed: UID in precondition: a, UID in object meta: b";
        let version =
            "Precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: 2";
        let two = Some(Duration::from_secs(2));
        let unavailable = |code| Class::Unavailable {
            code: Some(code),
            retry_after: None,
        };
        let cases = [
            (404, status("NotFound", ""), Class::NotFound),
            (
                409,
                status("AlreadyExists", "secrets \"db\" already exists"),
                Class::AlreadyExists,
            ),
            (
                409,
                status("Conflict", "the object has been modified"),
                Class::Conflict,
            ),
            (409, status("Conflict", no_uid), Class::UidMismatch),
            (409, status("Conflict", precondition), Class::UidMismatch),
            (409, status("Conflict", recreated), Class::UidMismatch),
            (409, status("Conflict", version), Class::Conflict),
            (422, uid, Class::UidMismatch),
            (422, long, Class::TooLarge),
            (413, status("RequestEntityTooLarge", ""), Class::TooLarge),
            (
                500,
                status("", "etcdserver: request is too large"),
                Class::TooLarge,
            ),
            (500, status("InternalError", "boom"), unavailable(500)),
            (401, status("Unauthorized", ""), Class::Unauthorized),
            (403, status("Forbidden", ""), Class::Forbidden),
            (410, status("Expired", ""), Class::Expired),
            (429, wait, Class::Throttled { retry_after: two }),
            (429, budget, Class::Disruption),
            (503, status("ServiceUnavailable", ""), unavailable(503)),
            (504, status("Timeout", ""), Class::Timeout),
            (400, status("BadRequest", ""), Class::Rejected { code: 400 }),
            (
                415,
                status("UnsupportedMediaType", ""),
                Class::Rejected { code: 415 },
            ),
        ];
        for (code, status, expected) in cases {
            assert_eq!(class(code, &status), expected, "{code} {status}");
        }
        assert_eq!(Class::of_status(502, None), unavailable(502));
    }

    #[test]
    fn a_refusal_keeps_the_name_of_what_refused_and_nothing_else() {
        let quota = "secrets \"db\" is forbidden: exceeded quota: small, requested: secrets=1, used: secrets=3, limited: 3";
        let unset =
            "pods \"web\" is forbidden: failed quota: compute: must specify limits.cpu hunter2-canary";
        let policy = "secrets \"db\" is forbidden: ValidatingAdmissionPolicy 'no-plain.example' with binding 'all' denied \
                      request: hunter2-canary is forbidden: exceeded quota: other";
        let webhook = "admission webhook \"check.example.com\" denied the request: hunter2-canary is forbidden: exceeded \
                       quota: hunter2-canary, requested";
        let forged = "secrets \"db\" is forbidden: exceeded quota: HUNTER2 canary, requested";
        let rbac = "secrets \"db\" is forbidden: User \"system:serviceaccount:keyturn:keyturn\" cannot create resource";
        let named = |refuser| Class::Refused(refuser);
        for (code, message, expected) in [
            (403, quota, named(Refuser::Quota("small".to_owned()))),
            (403, unset, named(Refuser::Quota("compute".to_owned()))),
            (403, policy, named(Refuser::Policy("no-plain.example".to_owned()))),
            (422, policy, named(Refuser::Policy("no-plain.example".to_owned()))),
            (
                400,
                webhook,
                named(Refuser::Webhook("check.example.com".to_owned())),
            ),
            (
                409,
                webhook,
                named(Refuser::Webhook("check.example.com".to_owned())),
            ),
            (
                403,
                forged,
                named(Refuser::Quota("of an unknown name".to_owned())),
            ),
            (403, rbac, Class::Forbidden),
        ] {
            let class = class(code, &json!({"reason": "Forbidden", "message": message}));
            assert_eq!(class, expected, "{message}");
            assert!(!class.to_string().contains(CANARY), "{class}");
        }
        let ending = json!({"reason": "Forbidden", "message": "it is being terminated", "details": {"causes": [
            {"reason": "NamespaceTerminating", "field": "metadata.namespace", "message": "it is being terminated"}]}});
        assert_eq!(class(403, &ending), named(Refuser::Ending));
    }

    #[test]
    fn a_field_conflict_names_the_managers_and_counts_the_keys() {
        let cause = |manager: &str, field: &str| {
            let message = format!("conflict with \"{manager}\" using v1 at 2026-01-01T00:00:00Z");
            json!({"reason": "FieldManagerConflict", "field": field, "message": message})
        };
        let causes = [
            cause("kubectl-edit", ".data.a"),
            cause("argocd", ".data.b"),
            cause("kubectl-edit", ".data.c"),
        ];
        let conflict = class(409, &json!({"reason": "Conflict", "details": {"causes": causes}}));
        assert_eq!(
            conflict.to_string(),
            "of its fields 3 are held by argocd, kubectl-edit"
        );
    }

    #[test]
    fn the_path_of_a_field_keeps_no_key_of_a_map() {
        let cases = [
            ("metadata.labels", "metadata.labels"),
            ("spec.data[12].remoteRef", "spec.data[12].remoteRef"),
            ("data[hunter2-canary]", "data[..]"),
            ("data[a]hunter2-canary]b].c", "data[..].c"),
            ("data[hunter2-canary", "data[..]"),
            ("data.hunter2-canary", ".."),
            ("data.\"hunter2-canary\"", ".."),
            ("", ""),
        ];
        for (field, expected) in cases {
            assert_eq!(path(field), expected, "{field}");
        }
        assert!(path(&"a".repeat(1000)).len() <= 128);
    }

    #[test]
    fn no_class_shows_what_the_server_said() {
        let status = json!({
            "message": CANARY, "reason": CANARY,
            "details": {"name": CANARY, "kind": CANARY, "uid": CANARY, "causes": [
                {"reason": CANARY, "field": format!("data[{CANARY}]"), "message": CANARY},
                {"reason": "FieldValueInvalid", "field": CANARY, "message": CANARY},
            ]},
        });
        for code in (400..=599).chain([0, 700]) {
            let class = class(code, &status);
            let error = Error {
                verb: Verb::Patch,
                kind: "Secret",
                key: ObjectKey::new("a", "b"),
                class,
            };
            assert!(!format!("{error} {error:?}").contains(CANARY), "{code}");
        }
    }
}
