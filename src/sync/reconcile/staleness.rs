//! Whether what a Secret holds was checked within the promise: the condition `Current`.

use std::time::Duration;

use super::{Context, pass::Pass};
use crate::{
    api::{ConditionType, ObjectKey, Reason},
    objects::{Entry, Refresh, status::Verdict},
    sync::stores::Stores,
};

/// `Current` allows at least this much time without a successful check.
const STALE_FLOOR: Duration = Duration::from_mins(10);

impl Context {
    /// Whether the last good answer of AWS is older than promised. What was never answered counts from when it was
    /// first wanted.
    pub fn is_stale(&self, object: &ObjectKey, entry: &Entry) -> bool {
        let Some(limit) = stale_after(entry) else {
            return false;
        };
        let checked = self.provider.tracking.ask(|tracker| tracker.checked(object));
        let since = checked.or_else(|| {
            self.memory
                .lock()
                .get(object)
                .and_then(|memory| memory.wanted_since)
        });
        since.is_some_and(|since| self.clock.now().saturating_sub(since) > limit)
    }
}

impl Pass<'_> {
    /// Whether AWS was asked within the promise.
    pub(super) fn current(&self) -> Verdict {
        let entry = self.latest();
        match stale_after(entry) {
            None => Verdict::holds(
                Reason::Checked,
                "AWS is asked when the object changes or asks for it",
            ),
            Some(limit) if self.context.is_stale(self.object, entry) => Verdict::fails(
                Reason::Stale,
                format!(
                    "the last good answer of AWS is more than {} minutes old, so a change there may not have been seen; the \
                     Secret is kept. {}",
                    limit.as_secs() / 60,
                    self.cause()
                ),
            ),
            Some(_) => Verdict::holds(Reason::Checked, checked_message(entry)),
        }
    }

    /// As [`current`](Self::current), of a pass that was refused for this reason: where AWS was never asked for the object,
    /// nothing is known.
    pub(super) fn current_of_refused(&self, reason: Reason) -> Verdict {
        let said = self.latest().status.reasons.of_condition(ConditionType::Current);
        let was_asked = said.is_some_and(|said| said != Reason::NotChecked)
            || self
                .context
                .provider
                .tracking
                .ask(|tracker| tracker.checked(self.object))
                .is_some();
        if precedes_aws(reason) && !was_asked {
            return Verdict::unknown(
                Reason::NotChecked,
                "AWS was not asked for this object. The condition Ready says why.",
            );
        }
        self.current()
    }

    /// Why AWS gives no good answers, as far as is known.
    fn cause(&self) -> String {
        let Context { stores, provider, .. } = self.context;
        let tracking = &provider.tracking;
        let outage = stores
            .meant(self.entry.spec.store.as_ref())
            .ok()
            .and_then(|store| {
                let key = Stores::key(&store, &self.object.namespace);
                stores
                    .sources_of(&key)
                    .into_iter()
                    .find_map(|source| tracking.outage(source))
            });
        if let Some(kind) = outage {
            return format!("{kind}; it is asked again by itself");
        }
        match tracking.ask(|tracker| tracker.unanswered(self.object)) {
            Some(key) => format!(
                "AWS answers for other secrets, but for {key} it does not, or answers that it is not well; it is asked again by \
                 itself"
            ),
            None => "The condition Ready and the operator's log say why".to_owned(),
        }
    }
}

/// Whether a pass that is refused for this reason ends before AWS is asked for a secret.
fn precedes_aws(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidSpec
            | Reason::StoreNotFound
            | Reason::StoreNotReady
            | Reason::NamespaceNotAllowed
            | Reason::KeyNotAllowed
            | Reason::IdentityError
            | Reason::TargetConflict
    )
}

fn checked_message(entry: &Entry) -> String {
    match entry.spec.refresh {
        Refresh::Every(minimum) if entry.spec.raised => format!(
            "AWS was asked within {minimum:?}, the operator's minimum: spec.refreshInterval is shorter"
        ),
        _ => "AWS was asked within the refresh interval".to_owned(),
    }
}

/// How long after the last good answer `Current` ends; `None` for what is not asked again.
fn stale_after(entry: &Entry) -> Option<Duration> {
    match entry.spec.refresh {
        Refresh::Every(interval) => Some((interval * 2).max(STALE_FLOOR)),
        Refresh::OnChange | Refresh::Once => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(policy: &str, interval: &str) -> Entry {
        let object = json!({
            "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret", "metadata": {"name": "db"},
            "spec": {"refreshPolicy": policy, "refreshInterval": interval},
        });
        let object = serde_json::from_value(object).unwrap();
        let key = ObjectKey::new("shop", "db");
        Entry::of(
            &key,
            &object,
            Duration::from_secs(30),
            crate::api::RestartMode::Disabled,
        )
    }

    #[test]
    fn stale_is_two_intervals_and_never_less_than_ten_minutes() {
        for (policy, interval, minutes) in [
            ("Periodic", "1h", Some(120)),
            ("Periodic", "6m", Some(12)),
            ("Periodic", "5m", Some(10)),
            ("Periodic", "30s", Some(10)),
            ("Periodic", "0", None),
            ("OnChange", "1h", None),
            ("CreatedOnce", "1h", None),
        ] {
            let limit = stale_after(&entry(policy, interval));
            assert_eq!(limit, minutes.map(Duration::from_mins), "{policy} {interval}");
        }
    }

    #[test]
    fn an_interval_that_was_raised_is_said_so() {
        assert!(checked_message(&entry("Periodic", "10s")).contains("within 30s, the operator's minimum"));
        assert!(!checked_message(&entry("Periodic", "30s")).contains("minimum"));
    }
}
