//! The room against a scripted AWS, which counts, and against the testbed's emulator, which is strict.

mod audit;
mod credentials;
mod emulator;
mod environment;
pub(crate) mod fake;
pub(crate) mod notebook;
mod origins;
mod reader;
mod secrets;
mod suspects;
mod trust;

use std::time::Duration;

use tokio::time::Instant;

use super::{Age, Demand, Patience, Urgency};
use crate::api::ObjectKey;

/// A read that somebody waits for, for an object that was made long ago.
fn ask(asker: &ObjectKey) -> Demand<'_> {
    let now = Instant::now();
    Demand {
        asker,
        age: Age::Since(now.checked_sub(Duration::from_mins(1)).unwrap_or(now)),
        urgency: Urgency::Fresh,
        patience: Patience::Short,
    }
}

/// As [`ask`], for an object of which a person asks what AWS says now.
fn ask_now(asker: &ObjectKey) -> Demand<'_> {
    Demand {
        age: Age::New,
        ..ask(asker)
    }
}
