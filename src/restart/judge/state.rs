//! What holds a workload up. Pure.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::api::WorkloadState;

/// Something that holds a workload up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The state.
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
