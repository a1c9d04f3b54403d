//! Whose a live Secret is, and whether it may be taken over.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use super::{DesiredSecret, Recorded};
use crate::{
    api::{
        ObjectKey,
        names::{self, annotation},
    },
    objects::{Ownership, controller, ownership_of_live},
};

/// Whether a live Secret is the target of this ExternalSecret, so that it may delete it.
pub fn is_ours(object: &ObjectKey, uid: &str, target: &str, live: &Secret) -> bool {
    matches!(belongs(object, uid, target, None, live), Belongs::Ours)
}

/// Whose a live Secret is.
pub(super) enum Belongs {
    /// This ExternalSecret's.
    Ours,
    /// Somebody else's, in words.
    Elsewhere(String),
}

pub(super) fn belongs(
    object: &ObjectKey,
    uid: &str,
    target: &str,
    recorded: Option<Recorded<'_>>,
    live: &Secret,
) -> Belongs {
    let known = |name: &str| name == target || recorded.is_some_and(|recorded| recorded.name == name);
    match ownership_of_live(object, uid, live) {
        Ownership::Controlled => return Belongs::Ours,
        Ownership::Marked if live.metadata.name.as_deref().is_some_and(known) => return Belongs::Ours,
        Ownership::Marked | Ownership::Leftover | Ownership::Foreign => {}
    }
    Belongs::Elsewhere(match (controller(live), annotation_of(live, annotation::OWNER)) {
        // An object of this name may be an earlier one: the garbage collector removes its Secret, then it is made again.
        (Some(controller), _) => format!("{} {}", controller.kind, controller.name),
        (None, Some(owner)) => format!("ExternalSecret {owner}"),
        (None, None) => "nobody that Keyturn knows".to_owned(),
    })
}

/// Whether both sides agreed to a take-over.
pub(super) fn adoption_agreed(wanted: &DesiredSecret<'_>, live: &Secret) -> bool {
    wanted.adopt_existing
        && annotation_of(live, annotation::ADOPT).is_some_and(|name| **name == *wanted.object.name)
}

/// What the Secret is, if it is of a kind that is never taken over.
pub(super) fn never_adopted(live: &Secret) -> Option<&'static str> {
    let has = |prefix: &str| {
        let starts = |names: &Option<BTreeMap<String, String>>| {
            names.iter().flatten().any(|(name, _)| name.starts_with(prefix))
        };
        starts(&live.metadata.annotations) || starts(&live.metadata.labels)
    };
    let type_ = live.type_.as_deref().unwrap_or(names::OPAQUE);
    if names::PRIVILEGED_SECRET_TYPES.contains(&type_) {
        Some("of a type that Kubernetes or Helm keeps for itself")
    } else if has("cert-manager.io/") || has("controller.cert-manager.io/") {
        Some("cert-manager's")
    } else if controller(live).is_some() {
        Some("controlled by another object")
    } else {
        None
    }
}

pub(super) fn annotation_of<'a>(live: &'a Secret, name: &str) -> Option<&'a String> {
    live.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(name))
}
