//! Annotations that suspend until a time. Pure.

use jiff::Timestamp;

use crate::cluster::NamespaceEntry;

/// `keyturn.dev/suspend-sync-until` as the index of Namespaces has it.
const SUSPEND_SHORT: &str = "suspend-sync-until";

/// A suspend annotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Suspension {
    /// There is none.
    #[default]
    None,
    /// Until then.
    Until(Timestamp),
    /// It is no time.
    Unreadable,
}

impl Suspension {
    /// Reads the value of the annotation.
    pub fn parse(annotation: Option<&str>) -> Self {
        match annotation.map(str::parse) {
            None => Self::None,
            Some(Ok(until)) => Self::Until(until),
            Some(Err(_)) => Self::Unreadable,
        }
    }

    /// The suspend annotation on a Namespace.
    pub fn of_namespace(namespace: &NamespaceEntry) -> Self {
        Self::parse(namespace.annotations.get(SUSPEND_SHORT).map(String::as_str))
    }
}
