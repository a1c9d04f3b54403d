//! The room against a scripted AWS, which counts, and against the testbed's emulator, which is strict.

mod credentials;
mod emulator;
mod environment;
mod fake;
mod origins;
mod reader;
mod secrets;
mod suspects;
mod trust;

use std::time::Duration;

use tokio::time::Instant;

use super::{Ask, Urgency};
use crate::api::ObjectKey;

/// A read that somebody waits for, for an object that was made long ago.
fn ask(asker: &ObjectKey) -> Ask<'_> {
    let now = Instant::now();
    Ask {
        asker,
        since: now.checked_sub(Duration::from_mins(1)).unwrap_or(now),
        urgency: Urgency::Fresh,
        patient: false,
    }
}
