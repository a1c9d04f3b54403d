//! When passes look again, and how often.

use std::time::Duration;

/// How often what a person must correct is looked at again, at least.
pub(super) const RECHECK_PERMANENT: Duration = Duration::from_mins(5);
/// How often it is asked again for a version that is doubted, should its end wake no object.
pub(super) const RECHECK_HELD: Duration = Duration::from_mins(1);
/// How often what stands in the way of a write is looked at again.
pub(super) const RECHECK_CONFLICT: Duration = Duration::from_mins(1);
/// The same where a person is about to annotate the Secret, so that it is adopted.
pub(super) const RECHECK_ADOPTION: Duration = Duration::from_secs(5);
/// How long the garbage collector has for the Secret of an earlier object of the same name.
pub(super) const LEFTOVER: Duration = Duration::from_secs(30);
/// How often that Secret is looked after.
pub(super) const RECHECK_LEFTOVER: Duration = Duration::from_secs(5);
/// A far end of a suspension is looked at again before it: clocks and annotations change.
pub(super) const FAR: Duration = Duration::from_hours(24);
/// How long the index has to show an edit that a live read has shown, which then wakes the object.
pub(super) const BEHIND: Duration = Duration::from_secs(1);
