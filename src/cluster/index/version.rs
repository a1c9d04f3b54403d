//! Resource versions, by which states of one kind are compared. Pure.

/// A resource version, if it can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(Option<u64>);

impl Version {
    /// That of no list: it includes nothing.
    pub(super) const NONE: Self = Self(None);

    /// The version of this text.
    pub(super) fn of(text: &str) -> Self {
        Self(text.parse().ok())
    }

    /// Whether a list of this version shows what happened at `other`.
    pub(super) fn includes(self, other: Self) -> bool {
        matches!((self.0, other.0), (Some(own), Some(other)) if other <= own)
    }

    /// Whether `other` is known to be newer.
    pub(super) fn precedes(self, other: Self) -> bool {
        matches!((self.0, other.0), (Some(own), Some(other)) if own < other)
    }

    /// Whether it can be compared.
    pub(super) fn is_number(self) -> bool {
        self.0.is_some()
    }
}
