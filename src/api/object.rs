//! Names of objects.

use std::{fmt, sync::Arc};

/// The API group of an ExternalSecret or of a store. Objects of one namespace and name in two groups are two objects.
/// Kinds of Kubernetes and of other projects come from one group each, and have the default here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ApiGroup {
    /// `keyturn.dev`.
    #[default]
    Keyturn,
    /// A second group.
    #[cfg(test)]
    Other,
}

/// A namespaced object of a kind that the context tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The object's API group, where its kind is in several.
    pub group: ApiGroup,
    /// The object's namespace.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The object `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            group: ApiGroup::default(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The object of the same namespace and name in `group`.
    #[must_use]
    pub fn in_group(self, group: ApiGroup) -> Self {
        Self { group, ..self }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
