//! What a Secret records of where it was made from: enough to tell a secret that was deleted in AWS from a reference that
//! never led to it. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;

use super::versions;
use crate::{
    api::{ObjectKey, TokenKey, arn, names::annotation},
    aws::Identity,
};

/// Where a Secret is read from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// The key of the tokens.
    pub key: &'a TokenKey,
    /// The Secret.
    pub secret: &'a ObjectKey,
    /// The fingerprint of the source. Prefixes are part of the keys.
    pub source: &'a str,
    /// The account in which keys without one were found; empty if there are no such keys.
    pub account: &'a str,
}

/// What is written beside `inputs` and `versions`; `absent` are the references that are gone.
pub fn text<'a>(
    origin: Origin<'_>,
    inputs: &str,
    versions: &str,
    absent: impl Iterator<Item = &'a str>,
) -> String {
    let absent: Vec<_> = absent.collect();
    let mut text = token(origin, inputs, versions, &absent.join(","));
    for hash in absent {
        text.push(',');
        text.push_str(hash);
    }
    text
}

fn token(origin: Origin<'_>, inputs: &str, versions: &str, absent: &str) -> String {
    let Origin {
        key,
        secret,
        source,
        account,
    } = origin;
    let parts = [inputs, versions, source, account, absent];
    key.source(secret, parts).into()
}

/// What a live Secret records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    inputs: String,
    versions: String,
    source: Option<String>,
}

/// How a Secret stands to a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was made from it.
    Made,
    /// It was made without it, since it was gone.
    Without,
    /// It does not know it.
    Unknown,
}

impl Record {
    /// The record on a Secret.
    pub fn of(secret: &Secret) -> Self {
        let get = |name: &str| secret.metadata.annotations.as_ref()?.get(name).cloned();
        Self {
            inputs: get(annotation::INPUTS).unwrap_or_default(),
            versions: get(annotation::VERSIONS).unwrap_or_default(),
            source: get(annotation::SOURCE),
        }
    }

    /// Whether the Secret was made from one of these origins. What an earlier version wrote has no record of the source:
    /// there `inputs`, the tokens that it would have now, tell as much, as long as nothing else was edited.
    pub fn is_of(&self, origins: &[Origin<'_>], inputs: &[String]) -> bool {
        match &self.source {
            Some(source) => {
                let (recorded, absent) = source.split_once(',').unwrap_or((source, ""));
                origins
                    .iter()
                    .any(|origin| token(*origin, &self.inputs, &self.versions, absent) == recorded)
            }
            None => inputs.contains(&self.inputs),
        }
    }

    /// Whether it tells in which account `key` was found, provided that [`Self::is_of`] holds.
    ///
    /// What an earlier version wrote does not, and no other identity than a role that the store names stands for an account:
    /// the operator's own, that of a ServiceAccount, and keys may since be of another one, where the name was never known.
    pub fn tells_account(&self, identity: &Identity, key: &str) -> bool {
        self.source.is_some() || !identity.roles.is_empty() || arn::is_arn(key)
    }

    /// How the Secret stands to the reference with this hash, provided that [`Self::is_of`] holds.
    pub fn standing(&self, hash: &str) -> Standing {
        let absent = |source: &String| source.split(',').skip(1).any(|absent| absent == hash);
        if versions::parse(Some(&self.versions)).contains_key(hash) {
            Standing::Made
        } else if self.source.as_ref().is_some_and(absent) {
            Standing::Without
        } else {
            Standing::Unknown
        }
    }

    /// Whether it was made from something besides `hashes`.
    pub fn exceeds(&self, hashes: &BTreeSet<&str>) -> bool {
        versions::parse(Some(&self.versions))
            .keys()
            .any(|recorded| !hashes.contains(recorded.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{Base, Role};

    const VERSIONS: &str = r#"{"a":"v1"}"#;

    fn key() -> TokenKey {
        TokenKey::new(&[7; 32])
    }

    fn record(source: Option<&str>) -> Record {
        Record {
            inputs: "inputs".to_owned(),
            versions: VERSIONS.to_owned(),
            source: source.map(str::to_owned),
        }
    }

    #[test]
    fn a_secret_is_of_the_source_that_it_was_made_from_and_of_no_other() {
        let (key, other_key) = (key(), TokenKey::new(&[8; 32]));
        let (db, other) = (ObjectKey::new("shop", "db"), ObjectKey::new("shop", "other"));
        let origin = Origin {
            key: &key,
            secret: &db,
            source: "eu-central-1",
            account: "111122223333",
        };
        let text = text(origin, "inputs", VERSIONS, ["b", "c"].into_iter());
        assert!(text.ends_with(",b,c"), "{text}");
        let whole = record(Some(&text));
        assert!(whole.is_of(&[origin], &[]));
        for (what, other) in [
            (
                "region",
                Origin {
                    source: "eu-west-1",
                    ..origin
                },
            ),
            (
                "account",
                Origin {
                    account: "999988887777",
                    ..origin
                },
            ),
            (
                "no account",
                Origin {
                    account: "",
                    ..origin
                },
            ),
            (
                "Secret",
                Origin {
                    secret: &other,
                    ..origin
                },
            ),
            (
                "key",
                Origin {
                    key: &other_key,
                    ..origin
                },
            ),
        ] {
            assert!(!whole.is_of(&[other], &["inputs".to_owned()]), "another {what}");
            assert!(whole.is_of(&[other, origin], &[]), "one of them");
        }
        // What was edited, or written by a version that does not keep the record, is not covered by it.
        for edited in [
            Record {
                inputs: "others".to_owned(),
                ..record(Some(&text))
            },
            Record {
                versions: r#"{"z":"v1"}"#.to_owned(),
                ..record(Some(&text))
            },
            record(Some(&format!("{text},z"))),
            record(Some("")),
        ] {
            assert!(!edited.is_of(&[origin], &["inputs".to_owned()]), "{edited:?}");
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_is_judged_by_its_inputs() {
        let inputs = ["asked".to_owned(), "inputs".to_owned()];
        assert!(record(None).is_of(&[], &inputs));
        assert!(!record(None).is_of(&[], &inputs[..1]));
        assert!(!Record::default().is_of(&[], &inputs));
    }

    #[test]
    fn of_an_earlier_version_only_a_role_of_the_store_or_an_arn_names_the_account() {
        let identity = |base: Base, roles: &[&str]| Identity {
            store: "SecretStore/shop/aws".into(),
            base,
            roles: roles
                .iter()
                .map(|arn| Role {
                    arn: (*arn).into(),
                    external_id: None,
                })
                .collect(),
            namespace: None,
            session_name: "".into(),
        };
        let account = Base::ServiceAccount {
            namespace: "shop".into(),
            name: "reader".into(),
            uid: None,
            audiences: Vec::new(),
        };
        let arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:app/db-a1b2c3";
        for base in [Base::Own, account] {
            let plain = identity(base.clone(), &[]);
            let assumed = identity(base, &["arn:aws:iam::111122223333:role/reader"]);
            assert!(!record(None).tells_account(&plain, "app/db"), "{plain:?}");
            assert!(record(None).tells_account(&assumed, "app/db"));
            assert!(record(None).tells_account(&plain, arn));
            assert!(record(Some("token")).tells_account(&plain, "app/db"));
        }
    }

    #[test]
    fn a_secret_knows_what_it_was_made_from_and_what_it_was_made_without() {
        let record = record(Some("token,b"));
        for (hash, standing) in [
            ("a", Standing::Made),
            ("b", Standing::Without),
            ("c", Standing::Unknown),
            ("token", Standing::Unknown),
        ] {
            assert_eq!(record.standing(hash), standing, "{hash}");
        }
        assert!(!record.exceeds(&["a", "c"].into()));
        assert!(record.exceeds(&["c"].into()));
    }
}
