//! Saying what a pass came to: conditions, status, events.

use std::time::Duration;

use kube::runtime::events::EventType;

use super::{Context, Ended, places::Outcome, sooner};
use crate::{
    api::{
        ConditionType, CreationPolicy, EventReason, ExternalSecret, ObjectKey, Reason, Status, VersionId,
        names,
    },
    cluster::{self, Malformed, SecretEntry},
    sync::{
        decide::{
            comparison::is_ours,
            references::{ReadRequest, Resolved},
        },
        entry::{Entry, Refresh},
        events,
        plan::Written,
        resolve::Refusal,
        status::{self, Draft, SourceDraft, TargetDraft, Verdict},
        stores::Stores,
    },
};

/// `Current` allows at least this much time without a successful check.
const STALE_FLOOR: Duration = Duration::from_mins(10);
/// What the status says where nothing is written.
pub(super) const READ_ONLY: &str = "AWS was read; nothing is written, as target.creationPolicy says";

impl Context {
    pub(super) fn sources<'a>(
        entry: &Entry,
        resolved: &Resolved,
        needs: impl Iterator<Item = (usize, VersionId)> + 'a,
    ) -> Vec<SourceDraft> {
        let mut sources: Vec<SourceDraft> = Vec::new();
        for (index, version) in needs {
            let Some(need) = entry.needs.get(index) else {
                continue;
            };
            let source = SourceDraft {
                store: resolved.label.clone(),
                key: need.key.to_string(),
                stage: need.selector.to_string(),
                version: version.to_string(),
            };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }

    pub(super) fn draft_synced(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        resolved: &Resolved,
        needs: &[ReadRequest],
        secret: Option<&SecretEntry>,
    ) -> Draft {
        let versions = needs
            .iter()
            .enumerate()
            .filter_map(|(index, need)| Some((index, need.recorded.clone()?)));
        let sources = Self::sources(entry, resolved, versions);
        let absent = needs
            .iter()
            .filter(|need| need.recorded.is_none())
            .map(|need| &*need.key);
        let (message, target) = match secret {
            Some(secret) if entry.creation != CreationPolicy::None => {
                let written = Written {
                    content: secret.content.to_string(),
                    rollout: secret.rollout.as_deref().unwrap_or_default().to_owned(),
                    changed_at: secret.changed_at,
                    restart_since: secret.restart_since,
                    ..Written::default()
                };
                let name = entry.target(object).to_owned();
                (
                    synced_message(&name, needs.len(), &absent.collect::<Vec<_>>()),
                    Some(TargetDraft { name, written }),
                )
            }
            _ => (READ_ONLY.to_owned(), None),
        };
        self.draft(
            object,
            entry,
            Verdict::holds(Reason::Synced, message),
            sources,
            target,
            needs,
        )
    }

    pub(super) fn draft(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        ready: Verdict,
        sources: Vec<SourceDraft>,
        target: Option<TargetDraft>,
        needs: &[ReadRequest],
    ) -> Draft {
        Draft {
            generation: Some(entry.generation),
            ready: Some(ready),
            current: Some(self.current(object, entry)),
            sources: Some(sources),
            target,
            deleted_at: None,
            rotation: self.rotation(object, entry, needs),
        }
    }

    /// Whether AWS was asked within the promise.
    pub(super) fn current(&self, object: &ObjectKey, entry: &Entry) -> Verdict {
        match stale_after(entry) {
            None => Verdict::holds(
                Reason::Checked,
                "AWS is asked when the object changes or asks for it",
            ),
            Some(limit) if self.is_stale(object, entry) => Verdict::fails(
                Reason::Stale,
                format!(
                    "the last good answer of AWS is more than {} minutes old, so a change there may not have been seen; the \
                     Secret is kept. {}",
                    limit.as_secs() / 60,
                    self.cause(object, entry)
                ),
            ),
            Some(_) => Verdict::holds(Reason::Checked, checked_message(entry)),
        }
    }

    /// Why AWS gives no good answers, as far as is known.
    fn cause(&self, object: &ObjectKey, entry: &Entry) -> String {
        let outage = self.stores.meant(entry.store.as_ref()).ok().and_then(|store| {
            let key = Stores::key(&store, &object.namespace);
            self.stores
                .sources_of(&key)
                .into_iter()
                .find_map(|source| self.tracking.outage(source))
        });
        if let Some(kind) = outage {
            return format!("{kind}; it is asked again by itself");
        }
        match self.tracking.ask(|tracker| tracker.unanswered(object)) {
            Some(key) => format!(
                "AWS answers for other secrets, but for {key} it does not, or answers that it is not well; it is asked again by \
                 itself"
            ),
            None => "The condition Ready and the operator's log say why".to_owned(),
        }
    }

    /// Whether the last good answer of AWS is older than promised. What was never answered counts from when it was
    /// first wanted.
    pub fn is_stale(&self, object: &ObjectKey, entry: &Entry) -> bool {
        let Some(limit) = stale_after(entry) else {
            return false;
        };
        let checked = self.tracking.ask(|tracker| tracker.checked(object));
        let since = checked.or_else(|| {
            self.memory
                .lock()
                .get(object)
                .and_then(|memory| memory.wanted_since)
        });
        since.is_some_and(|since| self.clock.now().saturating_sub(since) > limit)
    }

    /// Says that a person must mend something; the Secret stays.
    pub(super) async fn refuse(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        live: Option<&ExternalSecret>,
        refusal: Refusal,
    ) -> Ended {
        let draft = Draft {
            generation: Some(entry.generation),
            ready: Some(Verdict::fails(refusal.reason, refusal.message)),
            current: Some(self.current(object, entry)),
            ..Draft::default()
        };
        self.say(object, entry, draft, live, Ended::Well).await
    }

    /// All stays as it was said, but the time goes on.
    pub(super) async fn say_current(&self, object: &ObjectKey, entry: &Entry, ended: Ended) -> Ended {
        if entry.said.is_silent() {
            return ended;
        }
        let draft = Draft {
            current: Some(self.current(object, entry)),
            ..Draft::default()
        };
        self.say(object, entry, draft, None, ended).await
    }

    /// Something failed that passes by itself: said only while there is no Secret yet.
    pub(super) async fn defer(&self, object: &ObjectKey, entry: &Entry, refusal: Refusal) -> Ended {
        let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
        let has_secret = self
            .secret(object, &target)
            .is_some_and(|secret| is_ours(object, entry, &secret));
        let ready = (!has_secret && entry.ready != Some(true)).then(|| {
            Verdict::fails(
                refusal.reason,
                format!("{}; no Secret exists yet", refusal.message),
            )
        });
        if ready.is_none() && entry.said.is_silent() {
            return Ended::Failed;
        }
        let draft = Draft {
            generation: ready.as_ref().map(|_| entry.generation),
            ready,
            current: Some(self.current(object, entry)),
            ..Draft::default()
        };
        self.say(object, entry, draft, None, Ended::Failed).await
    }

    /// Kubernetes refused a write or did not answer.
    pub(super) async fn kubernetes_failed(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        live: Option<&ExternalSecret>,
        error: &cluster::Error,
    ) -> Ended {
        let refusal = match &error.class {
            cluster::Class::Forbidden => Refusal::new(
                Reason::Forbidden,
                format!(
                    "{error}: allow it in the operator's role for namespace {}, or mend the admission policy that refuses it",
                    object.namespace
                ),
            ),
            cluster::Class::TooLarge => {
                Refusal::new(Reason::TooLarge, format!("{error}: select fewer values"))
            }
            cluster::Class::Invalid { .. } | cluster::Class::Rejected { .. } => Refusal::new(
                Reason::InvalidSpec,
                format!("{error}: mend the target's name, labels or annotations"),
            ),
            class => {
                if *class == cluster::Class::Timeout && error.verb.is_write() {
                    self.slots.secrets.ended(&object.namespace, Outcome::TimedOut);
                }
                tracing::warn!(%object, %error, "trying again");
                return Ended::Failed;
            }
        };
        let wait = Self::recheck(entry);
        sooner(self.refuse(object, entry, live, refusal).await, wait)
    }

    /// An object that this version cannot read: it is told so, where it can be told at all.
    pub(super) async fn say_malformed(&self, object: &ObjectKey, malformed: &Malformed) -> Ended {
        self.unsubscribe(object);
        tracing::warn!(%object, expected = malformed.expected, "an ExternalSecret cannot be read; it is left alone");
        let message = format!(
            "this version of the operator cannot read the object: {}. Apply one that its CRD allows; the Secret stays as it is",
            malformed.expected
        );
        let verdict = Verdict::fails(Reason::InvalidSpec, message);
        let now = self.time.now();
        let draft = Draft {
            generation: Some(malformed.generation),
            ready: Some(verdict),
            ..Draft::default()
        };
        let again = {
            let mut memories = self.memory.lock();
            let memory = memories.entry(object.clone()).or_default();
            let said = memory.malformed.replace(Box::new(malformed.generation));
            said.as_deref() == Some(&malformed.generation)
        };
        if again {
            return Ended::Well;
        }
        let status = status::compose(now, &draft, None);
        match self
            .writer
            .apply_status::<ExternalSecret>(object, &malformed.uid, names::SYNC_MANAGER, &status)
            .await
        {
            Ok(_) => Ended::Well,
            Err(error) => {
                self.memory.lock().entry(object.clone()).or_default().malformed = None;
                tracing::warn!(%object, %error, "the status was not written");
                Ended::Failed
            }
        }
    }

    /// Writes the status where it differs, and an event where it turned.
    pub(super) async fn say(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        mut draft: Draft,
        live: Option<&ExternalSecret>,
        ended: Ended,
    ) -> Ended {
        // A deletion that was decided, but not carried out yet, is not said.
        let carried_out = draft
            .ready
            .as_ref()
            .is_some_and(|ready| matches!(ready.reason, Reason::Deleted | Reason::Synced));
        draft.deleted_at = self.deletions().time_of(object).filter(|_| carried_out);
        let (said, believed) = self.said(object, entry);
        if !said.differs(&draft) {
            self.stands_said(object, &draft);
            return match believed {
                // The index may be behind, or somebody has changed the status since: the next pass can tell.
                Some(left) if entry.said.differs(&draft) => sooner(ended, left),
                _ => ended,
            };
        }
        // Whoever waits for a first status, or for an answer to an edit, gets it at once; of the others none waits here,
        // holding a place and a slot that the next Secret needs.
        if !said.is_silent()
            && let Some(wait) = self.turn(object)
        {
            return Ended::Unsaid(wait);
        }
        let fetched;
        let live = match live {
            Some(live) => live,
            None => match self.writer.cluster().find::<ExternalSecret>(object).await {
                Ok(Some(found)) if found.metadata.uid.as_deref() == Some(&*entry.uid) => {
                    fetched = found;
                    &fetched
                }
                Ok(_) => return Ended::Well,
                Err(error) => {
                    tracing::warn!(%object, %error, "the status was not written");
                    return Ended::Failed;
                }
            },
        };
        if !status::Digest::of(live.status.as_ref()).differs(&draft) {
            self.stands_said(object, &draft);
            return ended;
        }
        let _slot = match self.slots.statuses.take(&object.namespace).await {
            Ok(slot) => slot,
            Err(wait) => return Ended::Unsaid(wait),
        };
        let status = status::compose(self.time.now(), &draft, live.status.as_ref());
        let began = self.clock.now();
        let written = self
            .writer
            .apply_status::<ExternalSecret>(object, &entry.uid, names::SYNC_MANAGER, &status)
            .await;
        let outcome = match &written {
            Err(error) if error.class == cluster::Class::Timeout => Outcome::TimedOut,
            _ => Outcome::Answered(self.clock.now().saturating_sub(began)),
        };
        self.slots.statuses.ended(&object.namespace, outcome);
        match written {
            Ok(_) => {
                let said = (self.clock.now(), status::Digest::of(Some(&status)));
                self.remember(object, |memory| memory.said = Some(said));
                self.stands_said(object, &draft);
                self.tell(object, entry, live, &draft);
                self.tell_rotation(object, entry, live, &draft);
                ended
            }
            Err(error)
                if matches!(
                    error.class,
                    cluster::Class::NotFound | cluster::Class::UidMismatch
                ) =>
            {
                Ended::Well
            }
            Err(error) => {
                tracing::warn!(%object, %error, "the status was not written");
                Ended::Failed
            }
        }
    }

    /// The status says what `draft` does.
    fn stands_said(&self, object: &ObjectKey, draft: &Draft) {
        self.remember(object, |memory| memory.edited = false);
        self.rotation_said(object, draft);
    }

    /// Events on transitions only, none for a plain first sync.
    pub(super) fn tell(&self, object: &ObjectKey, entry: &Entry, live: &ExternalSecret, draft: &Draft) {
        let Some(ready) = &draft.ready else { return };
        let was = live
            .status
            .as_ref()
            .and_then(|status| status::condition(status, ConditionType::Ready));
        let reason = match (was.map(|was| was.status.as_str()), ready.status == Status::True) {
            (Some("False"), true) => EventReason::Recovered,
            (_, false) if was.is_none_or(|was| was.reason != ready.reason.as_str()) => {
                if ready.reason == Reason::TargetConflict {
                    EventReason::TargetConflict
                } else {
                    EventReason::SyncFailed
                }
            }
            _ => return,
        };
        // An outage is told once, on the store.
        if matches!(ready.reason, Reason::Throttled | Reason::ProviderUnavailable) {
            return;
        }
        let type_ = if reason.is_warning() {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let regarding = events::reference("ExternalSecret", object, &entry.uid);
        let action = ready.reason.as_str();
        self.events
            .emit(regarding, type_, reason.as_str(), action, &ready.message);
    }
}

fn checked_message(entry: &Entry) -> String {
    match entry.refresh {
        Refresh::Every(minimum) if entry.raised => format!(
            "AWS was asked within {minimum:?}, the operator's minimum: spec.refreshInterval is shorter"
        ),
        _ => "AWS was asked within the refresh interval".to_owned(),
    }
}

/// How long after the last good answer `Current` ends; `None` for what is not asked again.
fn stale_after(entry: &Entry) -> Option<Duration> {
    match entry.refresh {
        Refresh::Every(interval) => Some((interval * 2).max(STALE_FLOOR)),
        Refresh::OnChange | Refresh::Once => None,
    }
}

/// `absent` are the keys of the entries that are gone in AWS.
pub(super) fn synced_message(secret: &str, entries: usize, absent: &[&str]) -> String {
    match (entries, absent) {
        (1, []) => format!("Secret {secret} holds the value of 1 entry"),
        (_, []) => format!("Secret {secret} holds the values of {entries} entries"),
        (_, [first, others @ ..]) => {
            let others = match others.len() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!(
                "Secret {secret} holds the values of {} of {entries} entries. {first}{others} does not exist in AWS or is \
                 marked for deletion: correct the key, or remove the entry",
                entries - absent.len()
            )
        }
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
