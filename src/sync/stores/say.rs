//! What a store's status says, and the events where it turned.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{
        Capabilities, ClusterSecretStore, ConditionType, EventReason, ObjectKey, SecretStore, SourceId,
        StoreKind, StoreStatus, names,
    },
    aws::{Operations, Service},
    cluster::{self, EventDraft, Indexed},
    objects::{
        StoreEntry,
        status::{Verdict, compose_condition},
    },
    sync::{deletions::HeldDeletions, driver::OutageKind, events},
    track::Why,
};

use super::{Stores, kind_of};

/// The most of a name that goes into a list of examples: names have 253 characters.
const SHORT: usize = 60;

impl Stores {
    /// Writes the status of a store where it differs.
    pub(super) async fn say(
        &self,
        key: &ObjectKey,
        entry: &StoreEntry,
        ready: Option<Verdict>,
    ) -> Result<(), cluster::Error> {
        let (status, condition) = compose(self.time.now(), entry, ready, self.mode(key));
        if Some(&status) == entry.status.as_ref() {
            return Ok(());
        }
        if key.namespace.is_empty() {
            self.writer
                .apply_status::<ClusterSecretStore>(key, &entry.uid, names::SYNC_MANAGER, &status)
                .await?;
        } else {
            self.writer
                .apply_status::<SecretStore>(key, &entry.uid, names::SYNC_MANAGER, &status)
                .await?;
        }
        if let Some(now) = condition {
            self.tell(key, entry, &now);
        }
        Ok(())
    }

    /// An event where `Ready` turned; none for a store that was good from the start.
    fn tell(&self, key: &ObjectKey, entry: &StoreEntry, now: &Condition) {
        let was = entry.ready();
        let reason = match (was.map(|was| was.status.as_str()), now.status.as_str()) {
            (Some("False"), "True") => EventReason::Recovered,
            (_, "False") if was.is_none_or(|was| was.reason != now.reason) => EventReason::SyncFailed,
            _ => return,
        };
        let regarding = events::reference(kind_of(key).as_str(), key, &entry.uid);
        self.events
            .emit(EventDraft::new(regarding, reason, &now.reason, &now.message));
    }

    /// A store that lets everybody read is told once in a process, and again when it is edited.
    pub(super) fn warn_of_open(&self, key: &ObjectKey, entry: &StoreEntry, open: &Verdict) {
        let regarding = events::reference(kind_of(key).as_str(), key, &entry.uid);
        let (reason, action) = (EventReason::Unrestricted, "Admit");
        self.events
            .emit(EventDraft::new(regarding, reason, action, &open.message));
    }

    /// An outage is one event on the store, and its end another: not one on each object that waits.
    pub fn tell_outage(&self, source: SourceId, outage: Option<OutageKind>) {
        let Some(key) = self.store_of(source) else { return };
        let Some(Indexed::Entry(entry)) = self.entry(&key) else {
            return;
        };
        let (reason, note) = match outage {
            Some(kind) => (
                EventReason::SyncFailed,
                format!(
                    "{kind}, for more than a minute; Secrets stay as they are, and reading goes on by itself"
                ),
            ),
            None => (EventReason::Recovered, "AWS answers again".to_owned()),
        };
        let regarding = events::reference(kind_of(&key).as_str(), &key, &entry.uid);
        self.events
            .emit(EventDraft::new(regarding, reason, "Read", &note));
    }

    /// Many deletions of a store are held: one event, and an alert if there is news.
    pub fn tell_held(&self, shown: &HeldDeletions) {
        let Some(Indexed::Entry(entry)) = self.entry(&shown.store) else {
            return;
        };
        let named = held_note(shown, &examples(shown));
        // Many may read the events of a ClusterSecretStore, which are in namespace default.
        let note = match kind_of(&shown.store) {
            StoreKind::SecretStore => named.clone(),
            StoreKind::ClusterSecretStore => held_note(shown, &counts(shown)),
        };
        let alert = shown.alert.then_some(&*named);
        let regarding = events::reference(kind_of(&shown.store).as_str(), &shown.store, &entry.uid);
        let event = EventDraft::new(regarding, EventReason::DeletionHeld, "Delete", &note);
        self.events.emit_apart(event, alert);
    }

    /// Somebody confirmed with a token that is none of those shown, or is used up.
    pub fn tell_wrong(&self, store: &ObjectKey, token: &str, current: &str) {
        let Some(Indexed::Entry(entry)) = self.entry(store) else {
            return;
        };
        let note = format!(
            "annotation {} has the token {token}, which confirms no deletion that is held: it was used, or is of other \
             deletions. The token of those that are held is {current}",
            names::annotation::CONFIRM_DELETION,
        );
        let regarding = events::reference(kind_of(store).as_str(), store, &entry.uid);
        let reason = EventReason::ConfirmationRejected;
        self.events
            .emit(EventDraft::new(regarding, reason, "Delete", &note));
    }

    /// How the store is checked, in words, and what it may call.
    fn mode(&self, key: &ObjectKey) -> Option<(String, Capabilities)> {
        // Always of the same one, where the identity depends on the namespace.
        let source = self.sources_of(key).into_iter().next()?;
        let mode = self.tracking.ask(|tracker| tracker.mode(source))?;
        // Nothing to check yet, as after every start, is no news.
        if mode.why == Why::Idle {
            return None;
        }
        let raised = if mode.raised {
            "; intervals under 10m are raised to it"
        } else {
            ""
        };
        let capabilities = Capabilities {
            batch: Some(mode.batch),
            list: Some(mode.list),
        };
        Some((
            format!(
                "{:?}: {}{raised}",
                mode.detection,
                why(mode.why, self.aws.service(source)?)
            ),
            capabilities,
        ))
    }
}

/// What is held of a store. The command comes first and other names are cut: a note has 1 kB.
fn held_note(shown: &HeldDeletions, of_what: &str) -> String {
    let HeldDeletions {
        store,
        token,
        held,
        of,
        ..
    } = shown;
    let namespace = match &*store.namespace {
        "" => String::new(),
        namespace => format!(" --namespace {namespace}"),
    };
    let resource = match kind_of(store) {
        StoreKind::SecretStore => "secretstores",
        StoreKind::ClusterSecretStore => "clustersecretstores",
    };
    format!(
        "Deletions are held. Only if they are meant, run `kubectl annotate {resource}.keyturn.dev {} --overwrite \
         {}={token}{namespace}`. Secrets are gone from AWS from which {held} of {of} Kubernetes Secrets of the store are made. \
         That may be a mistake, so nothing is deleted; if it is one, restore the secrets in AWS. {of_what}",
        store.name,
        names::annotation::CONFIRM_DELETION,
    )
}

/// Some of the ExternalSecrets, by name.
fn examples(shown: &HeldDeletions) -> String {
    let names = shown.examples.iter();
    let names: Vec<_> = match kind_of(&shown.store) {
        StoreKind::SecretStore => names.map(|object| short(&object.name)).collect(),
        StoreKind::ClusterSecretStore => names
            .map(|object| format!("{}/{}", object.namespace, short(&object.name)))
            .collect(),
    };
    let rest = if shown.held > names.len() { ", ..." } else { "" };
    format!("ExternalSecrets: {}{rest}", names.join(", "))
}

/// How many there are in which namespaces, without a name of an object.
fn counts(shown: &HeldDeletions) -> String {
    let counts: Vec<_> = shown
        .namespaces
        .iter()
        .map(|(namespace, count)| format!("{} ({count})", short(namespace)))
        .collect();
    let named: usize = shown.namespaces.iter().map(|(_, count)| count).sum();
    let rest = if shown.held > named { ", ..." } else { "" };
    format!("ExternalSecrets by namespace: {}{rest}", counts.join(", "))
}

/// A name of at most about 60 characters.
fn short(name: &str) -> String {
    match name.get(..SHORT) {
        Some(start) if name.len() > SHORT => format!("{start}..."),
        _ => name.to_owned(),
    }
}

/// The status of a store, and its `Ready` if that is said anew.
fn compose(
    now: Timestamp,
    entry: &StoreEntry,
    ready: Option<Verdict>,
    mode: Option<(String, Capabilities)>,
) -> (StoreStatus, Option<Condition>) {
    let was = entry.ready();
    let condition =
        ready.map(|verdict| compose_condition(now, entry.generation, ConditionType::Ready, &verdict, was));
    let (mode, capabilities) = match mode {
        Some((mode, capabilities)) => (Some(mode), Some(capabilities)),
        None => entry
            .status
            .as_ref()
            .map(|before| (before.mode.clone(), before.capabilities))
            .unwrap_or_default(),
    };
    let status = StoreStatus {
        observed_generation: Some(entry.generation),
        conditions: condition
            .as_ref()
            .or(was)
            .map(|condition| vec![condition.clone()]),
        capabilities,
        mode,
    };
    (status, condition)
}

/// Why a source of this service is checked by the call it is, for a store's status.
fn why(why: Why, service: &Service) -> Cow<'static, str> {
    let Service {
        prefix, operations, ..
    } = service;
    let Operations { batch, list, .. } = operations;
    match why {
        Why::Idle => "nothing is to be checked".into(),
        Why::Asked => "set by changeDetection".into(),
        Why::Cheapest => "it needs the fewest calls".into(),
        Why::ShortIntervals => {
            format!("intervals under 10m are too short for {list}, which may lag 5 minutes").into()
        }
        Why::ListDenied => format!("{prefix}:{list} is denied").into(),
        Why::BatchDenied => format!("{prefix}:{batch} is denied").into(),
        Why::BothDenied => format!("{prefix}:{list} and {prefix}:{batch} are denied").into(),
        Why::ReadsForbidden => "aws.periodicReads is false".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{api::Reason, objects::Suspension};

    const THEN: &str = "2026-11-01T08:00:00Z";
    const NOW: &str = "2026-11-02T09:30:00Z";

    fn entry(generation: i64, status: Option<StoreStatus>) -> StoreEntry {
        StoreEntry {
            uid: "uid".into(),
            generation,
            spec: Arc::new(serde_json::from_value(json!({"provider": {"aws": {}}})).unwrap()),
            suspended: Suspension::None,
            confirmed: None,
            status,
        }
    }

    fn composed(
        at: &str,
        entry: &StoreEntry,
        ready: Option<Verdict>,
        mode: Option<&str>,
    ) -> (StoreStatus, Option<Condition>) {
        let capabilities = Capabilities {
            batch: Some(true),
            list: None,
        };
        let mode = mode.map(|mode| (mode.to_owned(), capabilities));
        compose(at.parse().unwrap(), entry, ready, mode)
    }

    fn shown(store: ObjectKey, examples: Vec<ObjectKey>) -> HeldDeletions {
        HeldDeletions {
            store,
            token: "0123456789abcdef".to_owned(),
            held: 4000,
            of: 10_000,
            namespaces: vec![("shop".into(), 2500), ("pay".into(), 900), ("web".into(), 1)],
            examples,
            alert: true,
        }
    }

    #[test]
    fn the_command_that_confirms_is_whole_whatever_the_names() {
        let (long, namespace) = ("n".repeat(253), "s".repeat(63));
        let three = |namespace: &str| vec![ObjectKey::new(namespace, &*long); 3];
        let named = |store, of| {
            let shown = shown(store, three(of));
            held_note(&shown, &examples(&shown))
        };
        let store = ObjectKey::new(&*namespace, &*long);
        let note = named(store, &namespace);
        let command = format!(
            "`kubectl annotate secretstores.keyturn.dev {long} --overwrite \
             keyturn.dev/confirm-deletion=0123456789abcdef --namespace {namespace}`"
        );
        assert!(note.contains(&command), "{note}");
        assert!(note.len() <= 1024 && note.ends_with("nnn..., ..."), "{note}");
        assert!(note.contains("4000 of 10000 Kubernetes Secrets"), "{note}");
        let cluster = named(ObjectKey::new("", &*long), &namespace);
        assert!(cluster.len() <= 1024, "{cluster}");
        let cluster = named(ObjectKey::new("", "aws"), "shop");
        assert!(
            cluster.contains(
                "`kubectl annotate clustersecretstores.keyturn.dev aws --overwrite \
                 keyturn.dev/confirm-deletion=0123456789abcdef`"
            ),
            "{cluster}"
        );
        assert_eq!(short("db"), "db");
    }

    #[test]
    fn namespaces_are_counted_where_no_object_may_be_named() {
        let mut held = shown(ObjectKey::new("", "aws"), vec![ObjectKey::new("shop", "db-7")]);
        let note = held_note(&held, &counts(&held));
        assert!(
            note.ends_with("ExternalSecrets by namespace: shop (2500), pay (900), web (1), ..."),
            "{note}"
        );
        assert!(!note.contains("db-7"), "{note}");
        held.held = 3401;
        let note = held_note(&held, &counts(&held));
        assert!(note.ends_with("web (1)"), "{note}");
        let name: Arc<str> = "s".repeat(63).into();
        held.namespaces = vec![(name, 10_000); 3];
        held.store = ObjectKey::new("", "n".repeat(253));
        let note = held_note(&held, &counts(&held));
        assert!(note.len() <= 1024 && note.contains("sss... (10000)"), "{note}");
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        let valid = || Some(Verdict::holds(Reason::Valid, "known"));
        let (status, condition) = composed(THEN, &entry(1, None), valid(), Some("List: cheap"));
        assert!(condition.is_some());
        for (ready, mode) in [
            (valid(), Some("List: cheap")),
            (valid(), None),
            (None, Some("List: cheap")),
            (None, None),
        ] {
            let again = composed(NOW, &entry(1, Some(status.clone())), ready, mode).0;
            assert_eq!(again, status);
        }
    }

    #[test]
    fn a_store_of_which_nothing_is_known_says_no_condition() {
        let (status, condition) = composed(NOW, &entry(1, None), None, None);
        assert_eq!((status.conditions, condition), (None, None));
    }

    #[test]
    fn ready_turns_only_with_its_status() {
        let (status, _) = composed(
            THEN,
            &entry(1, None),
            Some(Verdict::holds(Reason::Valid, "known")),
            None,
        );
        let before = entry(2, Some(status));
        for (verdict, since) in [
            (Verdict::holds(Reason::Unrestricted, "open"), THEN),
            (Verdict::fails(Reason::IdentityError, "denied"), NOW),
        ] {
            let (status, condition) = composed(NOW, &before, Some(verdict.clone()), None);
            let condition = condition.unwrap();
            assert_eq!(condition.last_transition_time.0, since.parse().unwrap());
            assert_eq!(condition.reason, verdict.reason.as_str());
            assert_eq!(condition.observed_generation, Some(2));
            assert_eq!(status.conditions, Some(vec![condition]));
            assert_eq!(status.observed_generation, Some(2));
        }
    }
}
