//! Who asks AWS, and where.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;

use super::service::Service;

/// Everything that decides whose rights a call to AWS has. Credentials are cached by it: two stores are kept apart by
/// what is in here, so it names objects by uid where a name could be used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The uid of the store that it belongs to: a store deleted and made again inherits nothing.
    pub store: Arc<str>,
    /// Where the first credentials come from.
    pub base: Base,
    /// Roles assumed one after the other, each with the credentials of the one before.
    pub roles: Vec<Role>,
    /// The namespace whose identity it is: of a SecretStore, or of a tenant of a ClusterSecretStore; none if tenants share it.
    pub namespace: Option<Arc<str>>,
    /// How the sessions are called in CloudTrail, see [`session_name`].
    pub session_name: Arc<str>,
}

/// Who takes turns where many share a quota.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Caller {
    /// All identities of a namespace, however many stores it has.
    Namespace(Arc<str>),
    /// An identity that tenants share, by the uid of its store.
    Store(Arc<str>),
}

/// Where an identity's first credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The operator's own: environment, IRSA, Pod Identity.
    Own,
    /// The role in the annotation of a ServiceAccount, by a token made for it.
    ServiceAccount {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Its uid if the caller knows it: a ServiceAccount made again is then refused.
        uid: Option<Arc<str>>,
        /// Audiences of the token beside the one of the ServiceAccount's annotation.
        audiences: Vec<Arc<str>>,
    },
    /// Keys kept in Secrets; read again every 5 minutes.
    StaticKeys {
        /// The access key id.
        access_key_id: KeyRef,
        /// The secret access key.
        secret_access_key: KeyRef,
        /// The session token, if there is one.
        session_token: Option<KeyRef>,
        /// The uids of the Secrets if the caller knows them, in whatever form.
        secrets: Arc<str>,
    },
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef {
    /// The Secret's namespace.
    pub namespace: Arc<str>,
    /// The Secret's name.
    pub name: Arc<str>,
    /// The key in its data.
    pub key: Arc<str>,
}

/// A role to assume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Role {
    /// The role's ARN.
    pub arn: Arc<str>,
    /// What the role's trust policy wants to hear.
    pub external_id: Option<Arc<str>>,
}

/// One identity in one region of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Who asks.
    pub identity: Arc<Identity>,
    /// The region that is asked.
    pub region: Arc<str>,
    /// The service that is asked.
    pub service: &'static Service,
}

impl Source {
    /// The same for one tenant only, known by the uid of his namespace: a namespace made again inherits no credentials.
    #[must_use]
    pub fn of_tenant(self, namespace_uid: &str) -> Self {
        let identity = Identity {
            store: format!("{}/{namespace_uid}", self.identity.store).into(),
            ..(*self.identity).clone()
        };
        Self {
            identity: Arc::new(identity),
            ..self
        }
    }
}

impl Identity {
    /// The operator's own identity, as it is before any role is assumed.
    pub(super) fn own() -> Self {
        Self {
            store: "".into(),
            base: Base::Own,
            roles: Vec::new(),
            namespace: None,
            session_name: "".into(),
        }
    }

    /// As whom it takes turns.
    pub(super) fn caller(&self) -> Caller {
        match &self.namespace {
            Some(namespace) => Caller::Namespace(namespace.clone()),
            None => Caller::Store(self.store.clone()),
        }
    }

    /// The identity whose credentials assume the last role, and that role. Own credentials are one set for all stores.
    pub(super) fn parent(&self) -> Option<(Self, Role)> {
        let (last, before) = self.roles.split_last()?;
        let parent = if before.is_empty() && self.base == Base::Own {
            Self::own()
        } else {
            Self {
                roles: before.to_vec(),
                ..self.clone()
            }
        };
        Some((parent, last.clone()))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.roles.last() {
            Some(role) => write!(f, "role {}", role.arn),
            None => self.base.fmt(f),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the operator's own identity"),
            Self::ServiceAccount { namespace, name, .. } => write!(f, "ServiceAccount {namespace}/{name}"),
            Self::StaticKeys {
                access_key_id: KeyRef { namespace, name, .. },
                ..
            } => {
                write!(f, "the access key in Secret {namespace}/{name}")
            }
        }
    }
}

/// STS: 2 to 64 characters of `[\w+=,.@-]`.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
const SESSION_NAME: usize = 64;

/// How many bytes of a hash end a name that was cut.
const SESSION_HASH: usize = 10;

/// The name of a store's sessions: `keyturn-<cluster>[=<namespace of a SecretStore>],<store>[@<namespace that the identity
/// depends on>]`. No name in Kubernetes holds what is between the parts, so that no two tenants have the same. Too long, it is
/// cut and ends in 20 hex digits of the whole name's hash.
pub fn session_name(
    cluster: &str,
    namespace: Option<&str>,
    store: &str,
    dependent: Option<&str>,
) -> Arc<str> {
    let part =
        |before: char, name: Option<&str>| name.map_or_else(String::new, |name| format!("{before}{name}"));
    let whole = format!(
        "keyturn{}{},{store}{}",
        part('-', Some(cluster).filter(|name| !name.is_empty())),
        part('=', namespace),
        part('@', dependent),
    );
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let mut name: String = whole.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    if name.len() > SESSION_NAME {
        let hash = digest::digest(&digest::SHA256, whole.as_bytes());
        name.truncate(SESSION_NAME - 2 * SESSION_HASH - 1);
        name.push('+');
        let bytes = hash.as_ref().iter().take(SESSION_HASH);
        name.extend(bytes.map(|byte| format!("{byte:02x}")));
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::SECRETS_MANAGER;

    #[test]
    fn session_names_say_whose_they_are() {
        let cases = [
            (("prod", None, "aws", None), "keyturn-prod,aws"),
            (("prod", Some("shop"), "aws", None), "keyturn-prod=shop,aws"),
            (("prod", None, "aws", Some("shop")), "keyturn-prod,aws@shop"),
            (("", None, "aws", None), "keyturn,aws"),
            (("eu 1/ä", None, "aws", None), "keyturn-eu-1--,aws"),
        ];
        for ((cluster, namespace, store, dependent), expected) in cases {
            assert_eq!(&*session_name(cluster, namespace, store, dependent), expected);
        }
    }

    #[test]
    fn a_long_session_name_is_cut_and_stays_distinct() {
        let long = "a".repeat(60);
        let one = session_name("prod", Some(&long), "one", None);
        let two = session_name("prod", Some(&long), "two", None);
        assert_eq!(one.len(), 64);
        assert_eq!(two.len(), 64);
        assert_ne!(one, two);
        assert!(one.starts_with("keyturn-prod=aaaa"));
        let (_, hash) = one.rsplit_once('+').unwrap();
        assert!(
            hash.len() == 20 && hash.chars().all(|c| c.is_ascii_hexdigit()),
            "{hash}"
        );
        assert_eq!(
            session_name("", None, &"s".repeat(56), None).len(),
            64,
            "64 characters are allowed"
        );
        assert!(!session_name("", None, &"s".repeat(56), None).contains('+'));
    }

    #[test]
    fn no_two_tenants_share_a_session_name() {
        // Joined by hyphens, each pair was one name.
        for (one, two) in [
            (("c", Some("a-b"), "c", None), ("c", Some("a"), "b-c", None)),
            (("c", Some("a"), "b", None), ("c", None, "a-b", None)),
            (("c", None, "a", Some("b")), ("c", Some("a"), "b", None)),
            (("c", None, "a", Some("b")), ("c", None, "a-b", None)),
            (("c-a", None, "b", None), ("c", Some("a"), "b", None)),
        ] {
            let named = |(cluster, namespace, store, dependent): (&str, Option<&str>, &str, Option<&str>)| {
                session_name(cluster, namespace, store, dependent)
            };
            assert_ne!(named(one), named(two));
        }
        let allowed = |name: &str| {
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c))
        };
        let long = session_name("prod", Some(&"n".repeat(63)), &"s".repeat(253), Some("d"));
        assert!(long.len() == 64 && allowed(&long), "{long}");
    }

    fn shop() -> Identity {
        Identity {
            store: "uid-1".into(),
            base: Base::ServiceAccount {
                namespace: "shop".into(),
                name: "reader".into(),
                uid: None,
                audiences: Vec::new(),
            },
            roles: vec![
                Role {
                    arn: "arn:aws:iam::1:role/hub".into(),
                    external_id: None,
                },
                Role {
                    arn: "arn:aws:iam::2:role/shop".into(),
                    external_id: Some("x".into()),
                },
            ],
            namespace: Some("shop".into()),
            session_name: "keyturn-prod-aws".into(),
        }
    }

    #[test]
    fn every_difference_makes_another_identity() {
        let changes: [fn(&mut Identity); 8] = [
            |i| i.namespace = None,
            |i| i.store = "uid-2".into(),
            |i| i.session_name = "keyturn-prod-other".into(),
            |i| i.roles[1].external_id = Some("y".into()),
            |i| i.roles[0].arn = "arn:aws:iam::1:role/other".into(),
            |i| drop(i.roles.pop()),
            |i| i.base = Base::Own,
            |i| {
                i.base = Base::ServiceAccount {
                    namespace: "bank".into(),
                    name: "reader".into(),
                    uid: None,
                    audiences: Vec::new(),
                }
            },
        ];
        for change in changes {
            let mut other = shop();
            change(&mut other);
            assert_ne!(other, shop());
        }
    }

    #[test]
    fn a_namespace_made_again_has_another_identity() {
        let source = Source {
            identity: Arc::new(shop()),
            region: "eu-central-1".into(),
            service: &SECRETS_MANAGER,
        };
        let of = |uid: &str| source.clone().of_tenant(uid);
        assert_ne!(of("before"), of("after"));
        assert_eq!(of("before"), of("before"));
        let (hub, _) = of("before").identity.parent().unwrap();
        assert_ne!(
            Some(hub),
            of("after").identity.parent().map(|(hub, _)| hub),
            "what the chain begins with is not shared either"
        );
    }

    #[test]
    fn a_chain_is_climbed_one_role_at_a_time() {
        let (hub, shop_role) = shop().parent().unwrap();
        assert_eq!(&*shop_role.arn, "arn:aws:iam::2:role/shop");
        let (base, hub_role) = hub.parent().unwrap();
        assert_eq!(&*hub_role.arn, "arn:aws:iam::1:role/hub");
        assert_eq!(
            base.store,
            shop().store,
            "a ServiceAccount's session stays with its store"
        );
        assert!(base.parent().is_none());
    }

    #[test]
    fn own_credentials_are_one_set_for_all_stores() {
        let of = |store: &str| Identity {
            store: store.into(),
            base: Base::Own,
            ..shop()
        };
        let bottom = |identity: Identity| identity.parent().unwrap().0.parent().unwrap().0;
        assert_eq!(bottom(of("uid-1")), bottom(of("uid-2")));
        assert_ne!(of("uid-1").parent(), of("uid-2").parent());
    }
}
