//! What the tracker is told of: settings, sources, and what objects want.

use std::{sync::Arc, time::Duration};

use crate::api::{Selector, SourceId, VersionId};

/// A point in time: the duration since an arbitrary, monotonic epoch of the process. The caller gives it.
pub type Now = Duration;

/// Settings of the operator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shorter intervals are raised to this.
    pub min_interval: Duration,
    /// Whether a value may be read only to see whether it changed. If not, intervals under ten minutes are raised.
    pub periodic_reads: bool,
    /// Seed of phases and of the jitter of back-offs.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(30),
            periodic_reads: true,
            seed: 0,
        }
    }
}

/// How a store wants changes to be found: its `changeDetection`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Detection {
    /// The cheapest call that keeps the intervals.
    #[default]
    Auto,
    /// A sweep of `ListSecrets`.
    List,
    /// One `DescribeSecret` per secret.
    Describe,
    /// `BatchGetSecretValue`, twenty secrets a call.
    Read,
}

/// What is known of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePolicy {
    /// The store's `changeDetection`.
    pub detection: Detection,
    /// Whether the store receives events of changes.
    pub events: bool,
    /// The identity's account, known once the identity was proven. Until then, every ARN counts as another account's.
    pub account: Option<Arc<str>>,
    /// The region in which the source is read.
    pub region: Arc<str>,
    /// How much its calls show.
    pub sizes: CallSizes,
}

/// One remote secret that an object needs.
#[derive(Clone, Debug)]
pub struct Want {
    /// Where it is read.
    pub source: SourceId,
    /// Its name or ARN as given, with the store's prefix.
    pub key: Arc<str>,
    /// Which of its versions.
    pub selector: Selector,
    /// The version that the object's Secret holds, by its annotation. With none, the caller reads the value and
    /// reports it; the tracker first checks after an interval.
    pub recorded: Option<VersionId>,
}

/// How new an answer a pass over an object needs. Either has the time when the object was made or last changed: what AWS has
/// answered since then is known.
#[derive(Clone, Copy, Debug)]
pub enum Freshness {
    /// What is known of a secret that is gone will do.
    Known(Now),
    /// A person asks what AWS says now, also of a secret that is known to be gone.
    Asked(Now),
}

impl Freshness {
    /// When the object was made or last changed.
    pub fn since(self) -> Now {
        match self {
            Self::Known(since) | Self::Asked(since) => since,
        }
    }
}

/// How much one call of a service shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSizes {
    /// Secrets that a batch reads.
    pub batch: usize,
    /// Secrets on a page of a list.
    pub page: usize,
}

impl Default for CallSizes {
    /// Those of Secrets Manager.
    fn default() -> Self {
        Self { batch: 20, page: 100 }
    }
}

/// How often an object wants its secrets to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// At least this often.
    Every(Duration),
    /// Never, once it was read: interval 0, `OnChange`, `CreatedOnce`. What fails is still re-checked.
    Once,
}

/// What one object wants. A later one of the same object replaces it.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// How often to check.
    pub refresh: Refresh,
    /// Whether the object needs to know of rotations.
    pub rotation: bool,
    /// What it needs.
    pub wants: Vec<Want>,
}
