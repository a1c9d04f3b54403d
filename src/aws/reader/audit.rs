//! The lines of the audit log about values that were read: one for each call of AWS and each set of objects that it served.

use std::collections::BTreeSet;

use crate::{api::ObjectKey, aws::RemoteValue};

/// Objects on one line of the audit log.
const OBJECTS: usize = 100;

/// The objects that a read has served and that the audit log names, each once though it may wait with several entries.
pub(super) type Audience = BTreeSet<ObjectKey>;

/// Records that a value was read, and for whom. A large audience takes several lines.
pub(super) fn record(key: &str, value: &RemoteValue, audience: &Audience) {
    let objects: Vec<_> = audience.iter().map(ToString::to_string).collect();
    let mut lines = objects.chunks(OBJECTS);
    let mut next = Some(lines.next().unwrap_or_default());
    while let Some(line) = next {
        tracing::info!(
            target: "audit",
            action = "read",
            request_id = &*value.request_id,
            identity = &*value.identity,
            key,
            version = &*value.version.0,
            subscribers = line.join(" "),
        );
        next = lines.next();
    }
}
