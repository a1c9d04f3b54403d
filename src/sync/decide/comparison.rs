//! Whether a Secret is as its ExternalSecret wants it, by what both record: without its data and without AWS. Pure.

use crate::{
    api::{CreationPolicy, ObjectKey, TokenKey, VersionId},
    cluster::SecretEntry,
    objects::{Entry, Refresh, RefreshDigest, ownership},
    sync::resolve::fingerprint,
    track::Known,
};

use super::{
    references::{ReadRequest, Resolved},
    versions,
};

/// What is known of the Secret before AWS is called.
#[derive(Clone, Debug, Default)]
pub struct Existing {
    /// The Secret of the target's name, if there is one.
    pub secret: Option<SecretEntry>,
    /// With `creationPolicy` None: the inputs and the versions that were read last.
    pub read: Option<(String, String)>,
}

/// A Secret compared with what its ExternalSecret wants.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The Secret.
    pub target: ObjectKey,
    /// The Secret as it is, if there is one.
    pub secret: Option<SecretEntry>,
    /// What the ExternalSecret reads; each need says what the Secret has of it already.
    pub resolved: Resolved,
    /// The token of what the data are made from besides values.
    pub inputs: String,
    /// The Secret was made from just these inputs.
    pub same_inputs: bool,
    /// The Secret is this ExternalSecret's own.
    pub ours: bool,
    /// The Secret is as it was written last.
    pub intact: bool,
}

/// Compares the target of `entry` with what is known of it.
pub fn compare(
    key: &TokenKey,
    object: &ObjectKey,
    entry: &Entry,
    mut resolved: Resolved,
    existing: Existing,
) -> Comparison {
    let Existing { secret, read } = existing;
    let target = ObjectKey::new(object.namespace.clone(), entry.target(object));
    let inputs = inputs(key, entry, &target, &resolved);
    let writes = entry.spec.creation != CreationPolicy::None;
    let intact = if writes {
        secret
            .as_ref()
            .is_some_and(|secret| is_intact(object, entry, secret))
    } else {
        read.is_some()
    };
    let (recorded_inputs, recorded_versions) = match (&secret, entry.spec.creation) {
        (_, CreationPolicy::None) => read.unzip(),
        (Some(secret), _) => (
            secret.inputs.as_deref().map(str::to_owned),
            secret.versions.as_deref().map(str::to_owned),
        ),
        (None, _) => (None, None),
    };
    let same_inputs = recorded_inputs.as_deref() == Some(&*inputs);
    let recorded = versions::parse(recorded_versions.as_deref().filter(|_| same_inputs));
    let absent = secret
        .as_ref()
        .filter(|_| same_inputs && writes)
        .and_then(|secret| secret.absent());
    for need in &mut resolved.needs {
        need.recorded = recorded.get(&need.hash).map(|id| VersionId(id.as_str().into()));
        need.absent = absent.is_some_and(|absent| absent.contains(&need.hash));
    }
    Comparison {
        ours: secret
            .as_ref()
            .is_some_and(|secret| is_ours(object, entry, secret)),
        target,
        secret,
        resolved,
        inputs,
        same_inputs,
        intact,
    }
}

impl Comparison {
    /// Whether nothing is to be read or written. `known` tells what AWS was last seen to have of a need.
    pub fn is_same(&self, entry: &Entry, known: impl Fn(&ReadRequest) -> Known) -> bool {
        let once = is_once(entry);
        let settled = self.resolved.needs.iter().all(|need| match &need.recorded {
            Some(_) if once => true,
            Some(recorded) => match known(need) {
                Known::Unknown | Known::Held { .. } => true,
                Known::Version(version) => version == *recorded,
                Known::Gone { .. } | Known::Failing(_) => false,
            },
            // The Secret was made without it, and it is still gone.
            None if need.absent => match known(need) {
                Known::Gone { .. } => true,
                Known::Unknown => !once,
                Known::Version(_) | Known::Held { .. } | Known::Failing(_) => false,
            },
            None => false,
        });
        self.intact && self.same_inputs && settled && !is_renamed(entry)
    }

    /// Whether the Secret says all that restarts follow from. Where they are disabled it says nothing of since when they are
    /// wanted. What an earlier version left there stays until the spec is edited, so that an upgrade writes no Secret.
    pub fn is_stamped(&self, key: &TokenKey, entry: &Entry, secret: &SecretEntry) -> bool {
        let Some(trigger) = entry.trigger() else {
            let is_edited = entry.status.said.is_of_earlier_generation(entry.generation);
            return !(entry.disables_restarts() && is_edited && secret.restart_since.is_some());
        };
        // What the status recorded is the token as we wrote it: another one was edited by hand, or comes from a write that
        // the status does not show yet, which costs a look.
        let recorded = entry
            .status
            .recorded
            .as_ref()
            .filter(|recorded| recorded.former.is_none())
            .and_then(|recorded| recorded.rollout.as_deref());
        recorded.is_none_or(|recorded| secret.rollout.as_deref() == Some(recorded))
            && secret.restart_since.is_some()
            && secret.scope == Some(key.scope(&self.target, trigger).short())
    }

    /// Whether the spec was edited since the Secret was written, which asks for what AWS says now: nothing would correct an
    /// answer from a moment before the edit.
    pub fn is_edited(&self, entry: &Entry) -> bool {
        entry.spec.refresh == Refresh::OnChange && self.secret.is_some() && !self.same_inputs
    }

    /// Whether the Secret gets back what it held, rather than what AWS says now.
    pub fn is_pinned(&self, entry: &Entry) -> bool {
        is_once(entry) && self.same_inputs
    }
}

/// Whether the index's view of a Secret is this object's own.
pub fn is_ours(object: &ObjectKey, entry: &Entry, secret: &SecretEntry) -> bool {
    ownership(object, &entry.uid, secret).is_own()
}

fn is_intact(object: &ObjectKey, entry: &Entry, secret: &SecretEntry) -> bool {
    is_ours(object, entry, secret)
        && secret.content_intact
        && secret.owner.as_deref() == Some(&*object.name)
        && (entry.spec.creation == CreationPolicy::Owner)
            == (secret.controller_uid.as_deref() == Some(&*entry.uid))
}

/// Whether the status records a Secret of another name. Where nothing is written, that one is left alone too.
fn is_renamed(entry: &Entry) -> bool {
    let recorded = entry.status.recorded.as_ref();
    entry.spec.creation != CreationPolicy::None && recorded.is_some_and(|recorded| recorded.former.is_some())
}

fn is_once(entry: &Entry) -> bool {
    !matches!(entry.spec.refresh, Refresh::Every(_))
}

/// What the data are made from besides values. A refresh annotation is part of it, so that none is lost.
fn inputs(key: &TokenKey, entry: &Entry, target: &ObjectKey, resolved: &Resolved) -> String {
    inputs_of_source(key, entry, entry.annotations.refresh, target, resolved).unwrap_or_else(|| {
        let asked = entry.annotations.refresh.to_be_bytes();
        // Read once: edits of the spec are no reason to read again.
        key.inputs(target, [asked.as_slice()]).to_string()
    })
}

/// The same with another refresh annotation; none where it says nothing of the source.
pub fn inputs_of_source(
    key: &TokenKey,
    entry: &Entry,
    asked: RefreshDigest,
    target: &ObjectKey,
    resolved: &Resolved,
) -> Option<String> {
    if entry.spec.refresh == Refresh::Once {
        return None;
    }
    let asked = asked.to_be_bytes();
    let usable = &resolved.usable;
    let source = fingerprint(&usable.source, usable.spec.aws().prefix());
    let parts = [asked.as_slice(), &entry.spec.made_from, source.as_bytes()];
    Some(key.inputs(target, parts).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_is_its_controllers_else_its_names() {
        let key = ObjectKey::new("shop", "db");
        let object = json!({
            "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret",
            "metadata": {"name": "db", "namespace": "shop", "uid": "u1"}, "spec": {},
        });
        let object = serde_json::from_value(object).unwrap();
        let entry = Entry::of(&key, &object, Duration::ZERO, crate::api::RestartMode::Disabled);
        for (controller, owner, ours) in [
            (Some("u1"), Some("db"), true),
            (Some("u1"), None, true),
            // Of an earlier object of this name, or of somebody else.
            (Some("u2"), Some("db"), false),
            (None, Some("db"), true),
            (None, Some("other"), false),
            (None, None, false),
        ] {
            let secret = SecretEntry {
                uid: "s".into(),
                resource_version: "1".into(),
                owner: owner.map(Into::into),
                controller_uid: controller.map(Into::into),
                content: "c".into(),
                content_intact: true,
                inputs: None,
                versions: None,
                rollout: None,
                changed_at: None,
                scope: None,
                restart_since: None,
                uncommon: None,
                immutable: false,
                type_: None,
            };
            assert_eq!(is_ours(&key, &entry, &secret), ours, "{controller:?} {owner:?}");
        }
    }
}
