//! The room against a scripted AWS, which counts, and against the testbed's emulator, which is strict.

mod credentials;
mod emulator;
mod environment;
mod fake;
mod origins;
mod reader;
mod secrets;
mod trust;

use super::{Ask, Urgency};
use crate::api::ObjectKey;

/// A read that somebody waits for.
fn ask(asker: &ObjectKey) -> Ask<'_> {
    Ask {
        asker,
        urgency: Urgency::Fresh,
        patient: false,
    }
}
