//! Where a workload stands with a content, and what holds it up, in a word and a sentence. Pure.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $variant:ident,)+) => {
        /// Where a workload stands with a content, in a word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum WorkloadState { $($(#[doc = $doc])+ $variant,)+ }

        impl WorkloadState {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }
    };
}

words! {
    /// Its pods hold the content.
    Done,
    /// It rolls out.
    RollingOut,
    /// It was restarted and does not become healthy.
    Failed,
    /// So it is, but it was not healthy before.
    StillUnhealthy,
    /// It is not known yet which content its pods hold.
    Looking,
    /// The change is too young.
    Settling,
    /// It waits for a window.
    WaitingForWindow,
    /// It waits for workloads of an earlier wave.
    WaitingForWave,
    /// It waits until others have rolled out.
    WaitingForTurn,
    /// Another failed.
    Halted,
    /// The restart was refused; it is tried again.
    Refused,
    /// Somebody took the restart back; it is tried once more.
    TakenBack,
    /// Somebody took the restart back again.
    Reverted,
    /// Somebody holds restarts up.
    Suspended,
    /// Its rollouts are paused, or somebody planned its restart for later.
    Paused,
    /// Somebody must approve.
    AwaitingApproval,
    /// stakater Reloader restarts it.
    LeftToReloader,
    /// Its controller leaves pods to be deleted by somebody.
    AwaitingPodDeletion,
    /// Evictions are not allowed to the operator.
    EvictNotAllowed,
    /// Its template is another workload's.
    BorrowedTemplate,
    /// An annotation about restarts cannot be read.
    Unreadable,
}

impl fmt::Display for WorkloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WorkloadState {
    /// Whether no passing of time and no other workload ends it: later waves do not wait for it.
    pub const fn stays(self) -> bool {
        matches!(
            self,
            Self::Done
                | Self::StillUnhealthy
                | Self::Reverted
                | Self::LeftToReloader
                | Self::AwaitingPodDeletion
                | Self::EvictNotAllowed
                | Self::BorrowedTemplate
                | Self::Unreadable
        )
    }
}

/// Something that holds a workload up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// In a word.
    pub state: WorkloadState,
    /// In a sentence, and what to do.
    pub sentence: Cow<'static, str>,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl Hold {
    /// One that ends by itself at `until`, if that is known.
    pub fn new(
        state: WorkloadState,
        sentence: impl Into<Cow<'static, str>>,
        until: Option<Timestamp>,
    ) -> Self {
        Self {
            state,
            sentence: sentence.into(),
            until,
        }
    }
}
