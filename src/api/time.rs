//! Times as texts.

use jiff::Timestamp;

/// RFC 3339 to the second, as the API server writes times.
pub fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
