//! What the tracker says: what to call, whom to wake, what it accepts.

use std::sync::Arc;

use crate::{
    api::{ObjectKey, Selector, SourceId, VersionId},
    track::{Call, Detection, Failure, Now},
};

/// What the caller shall do. A call is in flight until each of its keys was answered by an observation or five
/// minutes have passed; meanwhile it is not asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// List all secrets of the source, page by page, those planned for deletion included or not.
    List {
        /// Which source.
        source: SourceId,
    },
    /// Describe one secret.
    Describe {
        /// Where.
        source: SourceId,
        /// The name or ARN as given by a want.
        key: Arc<str>,
    },
    /// Read AWSCURRENT of 1 to 20 secrets: more than one in a batch, one alone by `GetSecretValue`.
    Read {
        /// Where.
        source: SourceId,
        /// Names or ARNs as given by wants.
        keys: Vec<Arc<str>>,
    },
    /// Read one version other than AWSCURRENT, which has failed, or which Describe may not show.
    ReadVersion {
        /// Where.
        source: SourceId,
        /// The name or ARN as given by a want.
        key: Arc<str>,
        /// Which version.
        selector: Selector,
    },
    /// Look at the object again.
    Wake {
        /// Which object.
        object: ObjectKey,
        /// Why.
        cause: Cause,
    },
    /// The way in which the source is checked, or what it may call, has changed: its store's status is due.
    Mode {
        /// Which source.
        source: SourceId,
    },
}

/// Why an object is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The version of one of its wants is another one now, or is known now.
    Changed,
    /// Describe has shown that one of its secrets does not exist or is marked for deletion.
    Gone,
    /// One of its secrets fails for a reason that waiting does not mend.
    Failing,
    /// What had failed or was gone is there.
    Recovered,
    /// The refresh it asked for has been answered, with or without a change.
    Refreshed,
    /// Facts of a rotation have changed.
    Rotation,
}

/// What the tracker holds to be true of one want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing observed by this process yet: what is recorded stands; what is not has to be read.
    Unknown,
    /// This version is the one wanted.
    Version(VersionId),
    /// Another version showed, which may be the answer of a stale replica: nothing of it may be written until it is
    /// confirmed.
    Held {
        /// What stands; none if only recorded versions stand.
        accepted: Option<VersionId>,
        /// What showed.
        suspect: VersionId,
    },
    /// Describe has shown that the secret does not exist or, if `deleted`, that it is marked for deletion.
    Gone {
        /// Marked for deletion: it can still be restored.
        deleted: bool,
    },
    /// It cannot be read, for a reason that waiting does not mend.
    Failing(Failure),
}

/// Why a want must not be read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// The want's source.
    pub source: SourceId,
    /// The want's key.
    pub key: Arc<str>,
    /// What is wanted of it.
    pub selector: Selector,
    /// How it fails.
    pub failure: Failure,
    /// The call that failed. If Describe did, a missing stage is one that it does not show.
    pub by: Call,
    /// The failure in words, where AWS gave some.
    pub text: Option<Arc<str>>,
    /// When it may be read, if that may show more than is known.
    pub again: Option<Now>,
}

impl Withheld {
    /// Whether Describe has called the secret gone, which is an answer rather than a failure.
    pub fn is_gone(&self) -> bool {
        self.by == Call::Describe && self.failure.may_be_gone()
    }
}

/// How a source is checked, and why so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// The call that checks what AWSCURRENT of the source's own account is wanted at the shortest interval.
    pub detection: Detection,
    /// Why this one.
    pub why: Why,
    /// Whether intervals were raised to ten minutes, because reads as a check are forbidden.
    pub raised: bool,
    /// Whether `BatchGetSecretValue` is permitted, as far as known.
    pub batch: bool,
    /// Whether `ListSecrets` is permitted, as far as known.
    pub list: bool,
}

/// Calls that a source was denied and that may be tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// `ListSecrets`.
    pub list: bool,
    /// `BatchGetSecretValue`.
    pub batch: bool,
    /// `DescribeSecret`, of this secret.
    pub describe: Option<Arc<str>>,
}

/// Why a source is checked by the call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing is to be checked.
    Idle,
    /// The store asks for it.
    Asked,
    /// It needs the fewest calls.
    Cheapest,
    /// Intervals under ten minutes are too short for `ListSecrets`, which may lag.
    ShortIntervals,
    /// `ListSecrets` was denied.
    ListDenied,
    /// `BatchGetSecretValue` was denied.
    BatchDenied,
    /// Both were denied.
    BothDenied,
    /// The operator is set not to read values as a check.
    ReadsForbidden,
}
