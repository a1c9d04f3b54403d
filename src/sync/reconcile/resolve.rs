//! What is looked at before AWS is asked: suspensions, the store, its identity, every key.

use std::time::Duration;

use jiff::Timestamp;

use super::{Context, Ended, Resolved, Stop, Wanted};
use crate::{
    api::{ObjectKey, Reason, StoreKind, allowed::AllowedKeys, token},
    cluster::Indexed,
    sync::{
        entry::{Entry, Suspension},
        plan::seconds,
        resolve::{Asked, Refusal},
        slice::TimeSlice,
        status::{Draft, Verdict},
        stores::Unusable,
    },
};

/// The suspend annotation as the index of Namespaces has it.
const SUSPEND_SHORT: &str = "suspend-sync-until";

impl Context {
    /// The latest suspension in force and what it is written on.
    pub(super) fn suspension(
        &self,
        object: &ObjectKey,
        entry: &Entry,
    ) -> Result<Option<(Timestamp, String)>, Refusal> {
        let now = self.time.now();
        let namespace = self
            .namespaces
            .with(&ObjectKey::new("", object.namespace.clone()), |namespace| {
                let annotation = namespace.entry()?.annotations.get(SUSPEND_SHORT)?;
                Some(Suspension::parse(Some(annotation)))
            })
            .flatten()
            .unwrap_or_default();
        let store = self.stores.meant(entry.store.as_ref()).ok();
        let of_store = store.as_ref().map_or(Suspension::None, |store| {
            self.stores.suspended(store, &object.namespace)
        });
        let places = [
            (entry.suspended, format!("ExternalSecret {}", object.name)),
            (namespace, format!("Namespace {}", object.namespace)),
            (
                of_store,
                store.map_or_else(String::new, |store| store.to_string()),
            ),
        ];
        latest(now, places)
    }

    pub(super) async fn suspend(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        until: Timestamp,
        by: &str,
    ) -> Ended {
        self.unsubscribe(object);
        // AWS is not asked meanwhile: whether a secret is still gone is asked afterwards.
        self.deletions().withdraw(object);
        // Nothing is promised meanwhile.
        self.remember(object, |memory| memory.wanted_since = None);
        let message = format!("suspended until {} by the annotation on {by}", seconds(until));
        let draft = Draft {
            current: Some(Verdict::fails(Reason::Suspended, message)),
            ..Draft::default()
        };
        let left = Duration::try_from(until.duration_since(self.time.now())).unwrap_or(Duration::ZERO);
        // Clocks and annotations change: a far end is looked at again before it.
        self.say(
            object,
            entry,
            draft,
            None,
            Ended::Again(left.clamp(Duration::from_secs(1), Duration::from_hours(24))),
        )
        .await
    }

    /// The store, its identity, and every key: all checked before AWS is asked for any of them.
    pub(super) async fn resolve(&self, object: &ObjectKey, entry: &Entry) -> Result<Resolved, Stop> {
        if let Some(invalid) = &entry.invalid {
            return Err(Refusal::new(Reason::InvalidSpec, &**invalid).into());
        }
        if self
            .protected
            .iter()
            .any(|namespace| **namespace == *object.namespace)
        {
            return Err(Refusal::new(
                Reason::NamespaceNotAllowed,
                format!(
                    "namespace {} is protected: the operator writes no Secrets there",
                    object.namespace
                ),
            )
            .into());
        }
        let store = self.stores.meant(entry.store.as_ref())?;
        let namespace = self.namespaces.get(&ObjectKey::new("", object.namespace.clone()));
        // A Namespace is made before what is in it, but comes by another watch, which then wakes its objects.
        if namespace.is_none() && !self.namespaces.is_empty() {
            return Err(Stop::Waiting);
        }
        let labels = namespace.as_ref().and_then(Indexed::entry);
        // Nothing can be made in it any more, and all of it goes.
        if labels.is_some_and(|namespace| namespace.ending) {
            return Err(Stop::Waiting);
        }
        let mut usable = match self.stores.usable(&store, &object.namespace, labels) {
            Ok(usable) => usable,
            Err(Unusable::NotYet) => return Err(Stop::Waiting),
            Err(Unusable::Refused(refusal)) => return Err(refusal.into()),
        };
        let (uid, spec) = (usable.uid.clone(), usable.spec.clone());
        let asked = Asked {
            store: &store,
            uid: &uid,
            namespace: (store.kind == StoreKind::SecretStore).then_some(&*object.namespace),
            spec: &spec,
        };
        let keys: Vec<_> = entry.needs.iter().map(|need| asked.key(need)).collect();
        // An ARN means the store's account or another one, which only AWS can tell.
        if usable.account.is_none() && keys.iter().any(|key| key.starts_with("arn:")) {
            self.stores
                .prove(&mut usable)
                .await
                .map_err(|error| Stop::of(&error))?;
        }
        let allowed = AllowedKeys::new(spec.allowed_keys.as_deref(), &object.namespace)
            .map_err(|bad| Refusal::new(Reason::StoreNotReady, format!("{store}: {bad}")))?;
        let mut resolved = Resolved {
            label: format!("{}/{}", store.kind, store.name),
            usable,
            needs: Vec::with_capacity(keys.len()),
        };
        let scope = resolved.usable.verdict_scope(&object.namespace);
        let mut slice = TimeSlice::start(self.clock);
        for (need, key) in entry.needs.iter().zip(keys) {
            slice.yield_if_spent().await;
            if !self.stores.allows(&resolved.usable, allowed, &scope, &key) {
                self.audit_refusal(object, entry, &key);
                return Err(asked.denied(&object.namespace, &key).into());
            }
            resolved.needs.push(Wanted {
                source: resolved.usable.id,
                hash: token::remote_hash(store.kind, &store.name, &key, &need.selector),
                key,
                selector: need.selector.clone(),
                recorded: None,
                absent: false,
            });
        }
        Ok(resolved)
    }
}

/// The latest suspension in force and its place; refused if one cannot be read.
fn latest(
    now: Timestamp,
    places: impl IntoIterator<Item = (Suspension, String)>,
) -> Result<Option<(Timestamp, String)>, Refusal> {
    let mut latest: Option<(Timestamp, String)> = None;
    for (suspension, place) in places {
        match suspension {
            Suspension::Unreadable => return Err(Refusal::unreadable_suspension(&place)),
            Suspension::Until(until)
                if until > now && latest.as_ref().is_none_or(|(latest, _)| until > *latest) =>
            {
                latest = Some((until, place));
            }
            Suspension::Until(_) | Suspension::None => {}
        }
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_suspension_in_force_counts() {
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let until = |hour| Suspension::Until(at(hour));
        for (suspensions, expected) in [
            ([Suspension::None; 3], None),
            ([until(9), until(10), Suspension::None], None),
            ([until(9), until(11), Suspension::None], Some((11, "1"))),
            ([until(11), until(13), until(12)], Some((13, "1"))),
            ([until(11), until(11), until(11)], Some((11, "0"))),
        ] {
            let places = (0..).map(|place: i32| place.to_string());
            let found = latest(at(10), suspensions.into_iter().zip(places)).unwrap();
            let expected = expected.map(|(hour, place)| (at(hour), place.to_owned()));
            assert_eq!(found, expected, "{suspensions:?}");
        }
    }

    #[test]
    fn a_suspension_that_is_no_time_is_named_by_its_place() {
        let later = Suspension::Until(Timestamp::from_second(7200).unwrap());
        let places = [
            (later, "ExternalSecret db".to_owned()),
            (Suspension::Unreadable, "Namespace shop".to_owned()),
        ];
        let refusal = latest(Timestamp::UNIX_EPOCH, places).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
        assert!(refusal.message.contains("Namespace shop"), "{refusal}");
    }
}
