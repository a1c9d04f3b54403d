//! Whose a Secret is. Pure.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};

use crate::{
    api::{ObjectKey, names::annotation},
    cluster::SecretEntry,
};

/// Whose a Secret is, seen from an ExternalSecret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The ExternalSecret controls it.
    Controlled,
    /// Nothing controls it, and `keyturn.dev/owner` names the ExternalSecret.
    Marked,
    /// An earlier ExternalSecret of this name controls it: the garbage collector removes it.
    Leftover,
    /// Anything else.
    Foreign,
}

impl Ownership {
    /// By the uid of the Secret's controller and by `keyturn.dev/owner`.
    fn new(object: &ObjectKey, uid: &str, controller: Option<&str>, owner: Option<&str>) -> Self {
        let is_named = owner == Some(&*object.name);
        match controller {
            Some(controller) if controller == uid => Self::Controlled,
            Some(_) if is_named => Self::Leftover,
            None if is_named => Self::Marked,
            Some(_) | None => Self::Foreign,
        }
    }

    /// Whether the ExternalSecret may write it.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Controlled | Self::Marked)
    }
}

/// Whose a Secret of the index is.
pub fn ownership(object: &ObjectKey, uid: &str, secret: &SecretEntry) -> Ownership {
    Ownership::new(
        object,
        uid,
        secret.controller_uid.as_deref(),
        secret.owner.as_deref(),
    )
}

/// Whose a live Secret is.
pub fn ownership_of_live(object: &ObjectKey, uid: &str, live: &Secret) -> Ownership {
    let annotations = live.metadata.annotations.as_ref();
    Ownership::new(
        object,
        uid,
        controller(live).map(|controller| &*controller.uid),
        annotations
            .and_then(|all| all.get(annotation::OWNER))
            .map(String::as_str),
    )
}

/// The controller of a Secret.
pub fn controller(live: &Secret) -> Option<&OwnerReference> {
    live.metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::api::TokenKey;

    fn secret(controller: Option<&str>, owner: Option<&str>) -> Secret {
        Secret {
            metadata: ObjectMeta {
                owner_references: controller.map(|uid| {
                    vec![OwnerReference {
                        controller: Some(true),
                        uid: uid.into(),
                        ..OwnerReference::default()
                    }]
                }),
                annotations: owner.map(|name| [(annotation::OWNER.into(), name.into())].into()),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        }
    }

    #[test]
    fn the_index_and_a_live_secret_tell_the_same_owner() {
        use Ownership::{Controlled, Foreign, Leftover, Marked};
        let (object, tokens) = (ObjectKey::new("shop", "db"), TokenKey::new(&[7; 32]));
        for (controller, owner, expected) in [
            (Some("uid"), Some("db"), Controlled),
            (Some("uid"), Some("mail"), Controlled),
            (Some("uid"), None, Controlled),
            (Some("other"), Some("db"), Leftover),
            (Some("other"), Some("mail"), Foreign),
            (Some("other"), None, Foreign),
            (None, Some("db"), Marked),
            (None, Some("mail"), Foreign),
            (None, None, Foreign),
        ] {
            let live = secret(controller, owner);
            let indexed = SecretEntry::of(&tokens, &object, live.clone());
            assert_eq!(
                ownership_of_live(&object, "uid", &live),
                expected,
                "{controller:?} {owner:?}"
            );
            assert_eq!(
                ownership(&object, "uid", &indexed),
                expected,
                "{controller:?} {owner:?}"
            );
            assert_eq!(expected.is_own(), matches!(expected, Controlled | Marked));
        }
    }
}
