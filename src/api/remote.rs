//! Words for what lies in AWS.

use std::{fmt, sync::Arc};

/// The stage that AWS reads when none is named.
pub const AWSCURRENT: &str = "AWSCURRENT";
/// The stage of a rotation under way.
pub const AWSPENDING: &str = "AWSPENDING";
/// The stage of the version before the current one.
pub const AWSPREVIOUS: &str = "AWSPREVIOUS";

/// Where secrets are read: one identity in one region of one service, interned by `aws`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// The id of a secret's version, as AWS gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId(pub Arc<str>);

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which version of a secret is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selector {
    /// The version that carries this staging label.
    Stage(Arc<str>),
    /// This version, whatever labels it carries. It never changes.
    Version(VersionId),
}

impl Selector {
    /// From `remoteRef.version`: empty or absent is AWSCURRENT, `uuid/<id>` a version id, all else a staging label.
    pub fn parse(version: Option<&str>) -> Self {
        match version {
            None | Some("") => Self::Stage(AWSCURRENT.into()),
            Some(text) => match text.strip_prefix("uuid/") {
                Some(id) => Self::Version(VersionId(id.into())),
                None => Self::Stage(text.into()),
            },
        }
    }

    /// Whether AWSCURRENT is meant, the only stage that a batch can read.
    pub fn is_current(&self) -> bool {
        matches!(self, Self::Stage(stage) if &**stage == AWSCURRENT)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(stage) => f.write_str(stage),
            Self::Version(id) => write!(f, "uuid/{id}"),
        }
    }
}
