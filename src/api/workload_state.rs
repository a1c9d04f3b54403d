//! The words of `status.restart.exceptions` for where a workload stands with a content.

use std::fmt;

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $variant:ident,)+) => {
        /// The state of a workload with a content.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum WorkloadState { $($(#[doc = $doc])+ $variant,)+ }

        impl WorkloadState {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The state as it is written.
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
    /// It does not become healthy, and was not healthy before the restart.
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
    /// Another workload failed.
    Halted,
    /// The restart was refused; it is tried again later.
    Refused,
    /// The restart was taken back; it is tried once more.
    TakenBack,
    /// The restart was taken back again.
    Reverted,
    /// Restarts are suspended.
    Suspended,
    /// Its rollouts are paused, or its restart is planned for later.
    Paused,
    /// An approval is missing.
    AwaitingApproval,
    /// stakater Reloader restarts it.
    LeftToReloader,
    /// Its controller waits until its pods are deleted by hand.
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
