//! What the API server's rules cannot check, or might not have checked: the operator may run beside an older CRD.

mod restart;

use std::collections::BTreeSet;

use regex::Regex;

use super::{
    allowed::AllowedKeys,
    caps,
    external_secret::{CreationPolicy, DeletionPolicy, EntryPath, ExternalSecretSpec, RemoteRef},
    interval::Interval,
    store::{Auth, StoreSpec},
};

/// A spec that cannot be followed. Neither part quotes a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} {message}")]
pub struct Invalid {
    /// The field, as `spec.data[3].secretKey`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Whose a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreScope<'a> {
    /// A SecretStore of this namespace.
    Namespace {
        /// Its namespace.
        namespace: &'a str,
        /// Whether it may read as the operator itself.
        operator_identity: bool,
    },
    /// A ClusterSecretStore.
    Cluster,
}

fn invalid(path: impl Into<String>, message: impl Into<String>) -> Invalid {
    Invalid {
        path: path.into(),
        message: message.into(),
    }
}

impl ExternalSecretSpec {
    /// The first thing that is wrong, if any, besides `rotation` and `restart`: errors there stop no sync of values.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.entries().next().is_none() {
            return Err(invalid(
                "spec",
                "names no remote secret: name at least one in data or in dataFrom[].extract",
            ));
        }
        Interval::parse(self.refresh_interval.as_deref(), std::time::Duration::ZERO)
            .map_err(|bad| invalid("spec.refreshInterval", bad.to_string()))?;
        if self.remote_size() > caps::REMOTE_KEYS {
            return Err(invalid(
                "spec",
                format!(
                    "has entries whose keys and versions take more than the {} KiB that Keyturn keeps of one ExternalSecret: \
                     split it",
                    caps::REMOTE_KEYS >> 10
                ),
            ));
        }
        self.validate_policies()?;
        let mut keys = BTreeSet::new();
        for entry in self.entries() {
            let (secret_key_path, remote_path) = match entry.path {
                EntryPath::Data(index) => (
                    format!("spec.data[{index}].secretKey"),
                    format!("spec.data[{index}].remoteRef"),
                ),
                EntryPath::Extract(index) => (String::new(), format!("spec.dataFrom[{index}].extract")),
            };
            if let Some(key) = entry.secret_key {
                if !is_secret_key(key) {
                    return Err(invalid(
                        secret_key_path,
                        "is no key that Kubernetes accepts: use at most 253 letters, digits, -, _ and ., not . alone, not .. \
                         at the start",
                    ));
                }
                if !keys.insert(key) {
                    return Err(invalid(
                        secret_key_path,
                        "is the key of an earlier entry too: give each entry its own, or remove one",
                    ));
                }
            }
            validate_remote(&remote_path, entry.remote)?;
        }
        for (index, entry) in self.data_from.iter().flatten().enumerate() {
            if entry.extract.is_none() {
                return Err(invalid(
                    format!("spec.dataFrom[{index}]"),
                    "has no extract: name the remote secret whose members become keys",
                ));
            }
        }
        Ok(())
    }

    fn validate_policies(&self) -> Result<(), Invalid> {
        match (self.creation_policy(), self.deletion_policy()) {
            (CreationPolicy::Orphan | CreationPolicy::None, DeletionPolicy::Delete) => Err(invalid(
                "spec.target.deletionPolicy",
                "Delete needs creationPolicy Owner: a Secret that is not owned is never deleted; use Retain or Merge",
            )),
            (CreationPolicy::None, DeletionPolicy::Merge) => Err(invalid(
                "spec.target.deletionPolicy",
                "Merge needs a Secret, and creationPolicy None writes none: use Retain",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether the API server accepts `key` as a key of a Secret's data.
pub fn is_secret_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..")
}

fn validate_remote(path: &str, remote: &RemoteRef) -> Result<(), Invalid> {
    if remote.key.trim().is_empty() {
        return Err(invalid(format!("{path}.key"), "is empty: name a secret"));
    }
    // They would spoil the batches of others, and messages and logs quote them.
    for (field, text) in [("key", Some(&remote.key)), ("version", remote.version.as_ref())] {
        if text.is_some_and(|text| text.contains(char::is_control)) {
            return Err(invalid(
                format!("{path}.{field}"),
                "holds a control character, such as a line end: remove it",
            ));
        }
    }
    if remote.version.as_deref() == Some("uuid/") {
        return Err(invalid(
            format!("{path}.version"),
            "has no version id after uuid/: add it, or name a staging label",
        ));
    }
    if remote.property().is_some_and(is_query) {
        return Err(invalid(
            format!("{path}.property"),
            "is a query: this version follows member names joined by dots, without wildcards, # or modifiers",
        ));
    }
    Ok(())
}

/// Whether a property uses more of gjson's language than names and dots.
fn is_query(property: &str) -> bool {
    property.contains(['*', '?', '|', '\\'])
        || property
            .split('.')
            .any(|part| part.starts_with(['#', '@', '!', '{', '[']))
}

impl StoreSpec {
    /// The first thing that is wrong, if any.
    pub fn validate(&self, scope: StoreScope<'_>) -> Result<(), Invalid> {
        // The namespace has no part in whether a pattern is well formed.
        AllowedKeys::new(self.allowed_keys.as_deref(), "any").map_err(|bad| {
            invalid(
                format!("spec.allowedKeys[{}]", bad.0),
                "has braces around text other than `namespace`, or more than 16 stars: correct the pattern",
            )
        })?;
        for (index, condition) in self.conditions().iter().enumerate() {
            for (i, regex) in condition.namespace_regexes.iter().flatten().enumerate() {
                if Regex::new(regex).is_err() {
                    let path = format!("spec.conditions[{index}].namespaceRegexes[{i}]");
                    return Err(invalid(path, "is not a regular expression: correct it"));
                }
            }
        }
        let auth = self.aws().auth.as_ref();
        if let Some(Auth { jwt, secret_ref }) = auth
            && jwt.is_some() == secret_ref.is_some()
        {
            return Err(invalid(
                "spec.provider.aws.auth",
                "needs either jwt or secretRef: set one, or remove auth",
            ));
        }
        let StoreScope::Namespace {
            namespace,
            operator_identity,
        } = scope
        else {
            return Ok(());
        };
        if self.conditions.is_some() {
            return Err(invalid(
                "spec.conditions",
                "are for a ClusterSecretStore: remove them",
            ));
        }
        let Some(auth) = auth else {
            return if operator_identity {
                Ok(())
            } else {
                Err(invalid(
                    "spec.provider.aws.auth",
                    "is missing, and a SecretStore may not read as the operator: set auth.jwt with a ServiceAccount of this \
                     namespace, or use a ClusterSecretStore",
                ))
            };
        };
        let foreign = auth
            .namespaces()
            .find(|(_, named)| named.is_some_and(|named| named != namespace));
        foreign.map_or(Ok(()), |(path, _)| {
            Err(invalid(
                format!("spec.provider.aws.auth.{path}.namespace"),
                "is another namespace: a SecretStore may name objects of its own only; remove the field",
            ))
        })
    }

    /// Whether the identity depends on the namespace that uses the store: some reference leaves its namespace out.
    pub fn is_per_namespace(&self) -> bool {
        self.aws()
            .auth
            .as_ref()
            .is_some_and(|auth| auth.namespaces().any(|(_, named)| named.is_none()))
    }
}

impl Auth {
    /// The namespaces of all references, with their paths.
    fn namespaces(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let jwt = self.jwt.iter().map(|jwt| {
            (
                "jwt.serviceAccountRef",
                jwt.service_account_ref.namespace.as_deref(),
            )
        });
        let keys = self.secret_ref.iter().flat_map(|keys| {
            [
                (
                    "secretRef.accessKeyIDSecretRef",
                    Some(&keys.access_key_id_secret_ref),
                ),
                (
                    "secretRef.secretAccessKeySecretRef",
                    Some(&keys.secret_access_key_secret_ref),
                ),
                (
                    "secretRef.sessionTokenSecretRef",
                    keys.session_token_secret_ref.as_ref(),
                ),
            ]
            .into_iter()
            .filter_map(|(path, reference)| Some((path, reference?.namespace.as_deref())))
        });
        jwt.chain(keys)
            .map(|(path, namespace)| (path, namespace.filter(|namespace| !namespace.is_empty())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The path that is refused, if any.
    fn external_secret(spec: Value) -> Option<String> {
        let spec: ExternalSecretSpec = serde_json::from_value(spec).unwrap();
        spec.validate().err().map(|invalid| invalid.path)
    }

    /// The path that is refused, if any.
    fn store(spec: Value, scope: StoreScope<'_>) -> Option<String> {
        let spec: StoreSpec = serde_json::from_value(spec).unwrap();
        spec.validate(scope).err().map(|invalid| invalid.path)
    }

    const OWN: StoreScope<'static> = StoreScope::Namespace {
        namespace: "shop",
        operator_identity: false,
    };

    #[test]
    fn what_cannot_be_followed_is_named_by_its_path() {
        let entry = |key: &str| json!({"secretKey": key, "remoteRef": {"key": "db"}});
        let reference = |reference: Value| json!({"data": [{"secretKey": "a", "remoteRef": reference}]});
        for (spec, path) in [
            (json!({}), "spec"),
            (json!({"dataFrom": [{}]}), "spec"),
            (
                json!({"data": [entry("a")], "dataFrom": [{}]}),
                "spec.dataFrom[0]",
            ),
            (
                json!({"data": [entry("a")], "refreshInterval": "soon"}),
                "spec.refreshInterval",
            ),
            (
                json!({"data": [entry("a"), entry("b"), entry("a")]}),
                "spec.data[2].secretKey",
            ),
            (json!({"data": [entry("..a")]}), "spec.data[0].secretKey"),
            (json!({"data": [entry("\u{e9}")]}), "spec.data[0].secretKey"),
            (
                json!({"data": [entry(&"a".repeat(254))]}),
                "spec.data[0].secretKey",
            ),
            (reference(json!({"key": " "})), "spec.data[0].remoteRef.key"),
            (reference(json!({"key": "db\n"})), "spec.data[0].remoteRef.key"),
            (
                reference(json!({"key": "db", "version": "\u{1b}[2J"})),
                "spec.data[0].remoteRef.version",
            ),
            (
                reference(json!({"key": "db", "version": "uuid/"})),
                "spec.data[0].remoteRef.version",
            ),
            (
                reference(json!({"key": "db", "property": "users.#.name"})),
                "spec.data[0].remoteRef.property",
            ),
            (
                reference(json!({"key": "db", "property": "a|b"})),
                "spec.data[0].remoteRef.property",
            ),
            (
                reference(json!({"key": "db", "property": "@this"})),
                "spec.data[0].remoteRef.property",
            ),
            (
                json!({"dataFrom": [{"extract": {"key": ""}}]}),
                "spec.dataFrom[0].extract.key",
            ),
            (
                json!({"data": [entry("a")], "target": {"creationPolicy": "Orphan", "deletionPolicy": "Delete"}}),
                "spec.target.deletionPolicy",
            ),
        ] {
            assert_eq!(external_secret(spec.clone()).as_deref(), Some(path), "{spec}");
        }
        for property in [
            "",
            "password",
            "db.password",
            "users.0.name",
            "odd-key_1",
            "a#b",
            "mail@host",
        ] {
            assert_eq!(
                external_secret(reference(json!({"key": "db", "property": property}))),
                None,
                "{property}"
            );
        }
    }

    #[test]
    fn a_namespaced_store_reads_as_its_own_namespace_only() {
        let auth = |auth: Value| json!({"provider": {"aws": {"auth": auth}}});
        let account = |namespace: Value| {
            auth(json!({"jwt": {"serviceAccountRef": {"name": "a", "namespace": namespace}}}))
        };
        let keys = |namespace: &str| {
            let key = json!({"name": "keys", "key": "id"});
            let token = json!({"name": "keys", "key": "token", "namespace": namespace});
            let three = json!({"accessKeyIDSecretRef": key, "secretAccessKeySecretRef": key, "sessionTokenSecretRef": token});
            auth(json!({"secretRef": three}))
        };
        for (spec, path) in [
            (json!({"provider": {"aws": {}}}), "spec.provider.aws.auth"),
            (auth(json!({})), "spec.provider.aws.auth"),
            (
                account(json!("kube-system")),
                "spec.provider.aws.auth.jwt.serviceAccountRef.namespace",
            ),
            (
                keys("kube-system"),
                "spec.provider.aws.auth.secretRef.sessionTokenSecretRef.namespace",
            ),
        ] {
            assert_eq!(store(spec.clone(), OWN).as_deref(), Some(path), "{spec}");
        }
        for spec in [
            account(json!(null)),
            account(json!("")),
            account(json!("shop")),
            keys("shop"),
        ] {
            assert_eq!(store(spec.clone(), OWN), None, "{spec}");
        }
        let allowed = StoreScope::Namespace {
            namespace: "shop",
            operator_identity: true,
        };
        assert_eq!(store(json!({"provider": {"aws": {}}}), allowed), None);
        assert_eq!(store(json!({"provider": {"aws": {}}}), StoreScope::Cluster), None);
        assert_eq!(store(account(json!("kube-system")), StoreScope::Cluster), None);
    }

    #[test]
    fn patterns_and_expressions_of_stores_are_read_once_in_advance() {
        let regexes = json!({"provider": {"aws": {}}, "conditions": [{"namespaceRegexes": ["ok", "("]}]});
        assert_eq!(
            store(regexes, StoreScope::Cluster).as_deref(),
            Some("spec.conditions[0].namespaceRegexes[1]")
        );
        let keys = json!({"provider": {"aws": {}}, "allowedKeys": ["{team}/**"]});
        assert_eq!(
            store(keys, StoreScope::Cluster).as_deref(),
            Some("spec.allowedKeys[0]")
        );
    }

    #[test]
    fn an_identity_without_namespace_depends_on_who_uses_it() {
        let spec = |account: Value| {
            let auth = json!({"jwt": {"serviceAccountRef": account}});
            serde_json::from_value::<StoreSpec>(json!({"provider": {"aws": {"auth": auth}}})).unwrap()
        };
        assert!(spec(json!({"name": "a"})).is_per_namespace());
        assert!(!spec(json!({"name": "a", "namespace": "platform"})).is_per_namespace());
    }
}
