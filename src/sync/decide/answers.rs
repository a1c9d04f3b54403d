//! What AWS answered for the entries of an ExternalSecret, as far as each entry needs it. Pure.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{
    api::VersionId,
    aws::RemoteValue,
    value::{self, Fault, Fetched},
};

/// What came of one entry.
pub enum Answer {
    /// Its value.
    Value(EntryValue),
    /// It is gone, proven by `DescribeSecret`.
    Gone {
        /// Marked for deletion, rather than not there.
        deleted: bool,
    },
}

impl Answer {
    /// Whether the secret is gone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// The value, unless the secret is gone.
    pub fn value(&self) -> Option<&EntryValue> {
        match self {
            Self::Value(value) => Some(value),
            Self::Gone { .. } => None,
        }
    }
}

/// What AWS answered for one entry, as far as the entry needs it.
pub struct EntryValue {
    /// The version that was read.
    pub version: VersionId,
    /// The secret's name.
    pub name: Arc<str>,
    /// The secret's ARN.
    pub arn: Arc<str>,
    content: Content,
}

/// The value, or the part of it that an entry needs.
#[derive(Clone)]
enum Content {
    Whole(Arc<RemoteValue>),
    Property {
        part: Result<Arc<Zeroizing<Vec<u8>>>, Fault>,
        username: Option<Arc<Zeroizing<String>>>,
    },
}

impl EntryValue {
    fn new(value: &RemoteValue, content: Content) -> Self {
        Self {
            version: value.version.clone(),
            name: value.name.clone(),
            arn: value.arn.clone(),
            content,
        }
    }

    /// What the entries with these properties get of one value, and how many bytes of it that keeps: never more than it has.
    pub fn of_each(value: &Arc<RemoteValue>, properties: &[Option<&str>]) -> (Vec<Self>, usize) {
        let (contents, bytes) = reduced(value, properties);
        let each = contents.into_iter().map(|content| Self::new(value, content));
        (each.collect(), bytes)
    }

    /// The whole value.
    #[cfg(test)]
    pub fn whole(value: RemoteValue) -> Self {
        let value = Arc::new(value);
        Self::new(&value, Content::Whole(value.clone()))
    }

    /// What the Secret is built from.
    pub fn fetched(&self) -> Fetched<'_> {
        match &self.content {
            Content::Whole(value) => Fetched::Value(value.payload()),
            Content::Property { part, .. } => Fetched::Part(part.as_ref().map(|part| part.as_slice())),
        }
    }

    /// The user name in the whole value.
    pub fn username(&self) -> Option<Zeroizing<String>> {
        match &self.content {
            Content::Whole(value) => value::username(value.payload()),
            Content::Property { username, .. } => username.as_deref().cloned(),
        }
    }
}

/// What the entries with these properties need of the value, and how many bytes of it that keeps: never more than it has.
fn reduced(value: &Arc<RemoteValue>, properties: &[Option<&str>]) -> (Vec<Content>, usize) {
    let payload = value.payload();
    let whole = || {
        (
            vec![Content::Whole(value.clone()); properties.len()],
            payload.len(),
        )
    };
    let username = value::username(payload).map(Arc::new);
    let mut bytes = username.as_ref().map_or(0, |name| name.len());
    let mut parts = Vec::with_capacity(properties.len());
    for property in properties {
        let Some(property) = property else {
            return whole();
        };
        let part = value::part(payload, property);
        bytes += part.as_ref().map_or(0, |part| part.len());
        if bytes >= payload.len() {
            return whole();
        }
        parts.push(Content::Property {
            part: part.map(Arc::new),
            username: username.clone(),
        });
    }
    (parts, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(payload: &str) -> Arc<RemoteValue> {
        let version = VersionId("v1".into());
        Arc::new(RemoteValue::new("arn", "name", version, payload.into()))
    }

    fn parts(payload: &str, properties: &[Option<&str>]) -> (Vec<Option<String>>, usize) {
        let (contents, bytes) = reduced(&value(payload), properties);
        let parts = contents.iter().map(|content| match content {
            Content::Whole(_) => None,
            Content::Property { part, .. } => Some(match part {
                Ok(part) => String::from_utf8(part.to_vec()).unwrap(),
                Err(fault) => format!("{fault:?}"),
            }),
        });
        (parts.collect(), bytes)
    }

    #[test]
    fn of_a_large_value_only_the_wanted_properties_are_kept() {
        let large = format!(
            r#"{{"username":"app","password":"p","rest":"{}"}}"#,
            "x".repeat(60_000)
        );
        let (kept, bytes) = parts(&large, &[Some("password"), Some("missing")]);
        assert_eq!(kept[0].as_deref(), Some("p"));
        assert_eq!(kept[1].as_deref(), Some(r#"NoProperty { property: "missing" }"#));
        assert_eq!(bytes, "app".len() + "p".len());
        let (contents, _) = reduced(&value(&large), &[Some("password")]);
        let entry = EntryValue::new(&value(&large), contents[0].clone());
        assert_eq!(entry.username().unwrap().as_str(), "app", "of the whole value");
    }

    #[test]
    fn a_value_is_kept_whole_where_its_parts_are_not_smaller() {
        let nested = format!(r#"{{"a":{{"b":{{"c":"{}"}}}}}}"#, "x".repeat(1000));
        let all = [Some("a"), Some("a.b"), Some("a.b.c")];
        assert_eq!(parts(&nested, &all), (vec![None; 3], nested.len()));
        assert_eq!(parts("text", &[None]), (vec![None], 4));
        let some_whole = [Some("a"), None];
        assert_eq!(parts(&nested, &some_whole), (vec![None; 2], nested.len()));
    }
}
