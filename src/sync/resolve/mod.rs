//! From what an ExternalSecret names to what is asked of AWS: its store, the store's identity for its namespace, and
//! every key, checked. Pure; all of it is decided before any call to AWS.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{
    api::{self, ObjectKey, Reason, SecretKeyRef, StoreKind, StoreSpec, names::annotation},
    aws::{Base, Identity, KeyRef, Role, SECRETS_MANAGER, Source, session_name},
    objects::{Need, StoreEntry, StoreRef},
};

/// Why something cannot be used; the message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The condition's reason.
    pub reason: Reason,
    /// The condition's message.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// The suspend annotation on `place` is no time.
    pub(super) fn unreadable_suspension(place: &str) -> Self {
        let name = annotation::SUSPEND_SYNC_UNTIL;
        Self::new(
            Reason::InvalidSpec,
            format!("annotation {name} on {place} is not a time: write one such as 2026-11-01T08:00:00Z"),
        )
    }
}

/// What of the operator's settings decides over identities.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How this cluster is called in session names.
    pub cluster: String,
    /// The operator's own region, for stores that name none.
    pub region: Option<Arc<str>>,
    /// Whether a SecretStore without `auth` may use the operator's own identity.
    pub allow_operator_identity: bool,
}

/// A store that is asked for an identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Which store.
    pub store: &'a StoreRef,
    /// Its uid.
    pub uid: &'a str,
    /// The namespace of a SecretStore.
    pub namespace: Option<&'a str>,
    /// Its spec.
    pub spec: &'a StoreSpec,
}

impl<'a> Asked<'a> {
    /// This store.
    pub(super) fn new(entry: &'a StoreEntry, store: &'a StoreRef, key: &'a ObjectKey) -> Self {
        Self {
            store,
            uid: &entry.uid,
            namespace: (store.kind == StoreKind::SecretStore).then_some(&*key.namespace),
            spec: &entry.spec,
        }
    }
}

impl Asked<'_> {
    /// Whether the identity differs with the namespace of the ExternalSecret.
    pub(super) fn is_per_namespace(&self) -> bool {
        self.store.kind == StoreKind::ClusterSecretStore && self.spec.is_per_namespace()
    }

    /// The source that this store gives to ExternalSecrets of `namespace`.
    pub(super) fn source(&self, rules: &Rules, namespace: &str) -> Result<Source, Refusal> {
        let aws = self.spec.aws();
        let base = match aws.auth.as_ref().map(|auth| (&auth.jwt, &auth.secret_ref)) {
            Some((Some(jwt), None)) => {
                let account = &jwt.service_account_ref;
                Base::ServiceAccount {
                    namespace: self.home(
                        account.namespace.as_deref(),
                        namespace,
                        "auth.jwt.serviceAccountRef",
                    )?,
                    name: account.name.as_str().into(),
                    uid: None,
                    audiences: account
                        .audiences
                        .iter()
                        .flatten()
                        .map(|audience| audience.as_str().into())
                        .collect(),
                }
            }
            Some((None, Some(keys))) => {
                let key = |field: &str, reference: &SecretKeyRef| {
                    let field = format!("auth.secretRef.{field}");
                    Ok::<_, Refusal>(KeyRef {
                        namespace: self.home(reference.namespace.as_deref(), namespace, &field)?,
                        name: reference.name.as_str().into(),
                        key: reference.key.as_str().into(),
                    })
                };
                Base::StaticKeys {
                    access_key_id: key("accessKeyIDSecretRef", &keys.access_key_id_secret_ref)?,
                    secret_access_key: key("secretAccessKeySecretRef", &keys.secret_access_key_secret_ref)?,
                    session_token: keys
                        .session_token_secret_ref
                        .as_ref()
                        .map(|reference| key("sessionTokenSecretRef", reference))
                        .transpose()?,
                    secrets: "".into(),
                }
            }
            Some(_) => {
                return Err(Refusal::new(
                    Reason::InvalidSpec,
                    "spec.provider.aws.auth must name exactly one of jwt and secretRef",
                ));
            }
            None if self.store.kind == StoreKind::SecretStore && !rules.allow_operator_identity => {
                return Err(Refusal::new(
                    Reason::InvalidSpec,
                    "spec.provider.aws.auth is missing: a SecretStore may not use the operator's own identity. Add \
                     auth.jwt.serviceAccountRef with a ServiceAccount of this namespace, or ask the administrator for a \
                     ClusterSecretStore",
                ));
            }
            None => Base::Own,
        };
        let region = match (aws.region(), &rules.region) {
            (Some(region), _) => region.into(),
            (None, Some(region)) => region.clone(),
            (None, None) => {
                return Err(Refusal::new(
                    Reason::InvalidSpec,
                    "spec.provider.aws.region is missing and the operator has no region of its own: set it",
                ));
            }
        };
        let assumed = aws.role().map(|arn| Role {
            arn: arn.into(),
            external_id: aws.external_id().map(Into::into),
        });
        let dependent = self.is_per_namespace().then_some(namespace);
        Ok(Source {
            identity: Arc::new(Identity {
                store: self.uid.into(),
                base,
                roles: assumed.into_iter().collect(),
                namespace: self.namespace.or(dependent).map(Into::into),
                session_name: session_name(&rules.cluster, self.namespace, &self.store.name, dependent),
            }),
            region,
            service: match aws.service() {
                api::Service::SecretsManager => &SECRETS_MANAGER,
            },
        })
    }

    /// The namespace that a reference means. Whoever can make a SecretStore must not borrow from elsewhere.
    fn home(&self, named: Option<&str>, asker: &str, field: &str) -> Result<Arc<str>, Refusal> {
        match (self.namespace, named.filter(|named| !named.is_empty())) {
            (None, named) => Ok(named.unwrap_or(asker).into()),
            (Some(own), None) => Ok(own.into()),
            (Some(own), Some(named)) if named == own => Ok(own.into()),
            (Some(own), Some(_)) => Err(Refusal::new(
                Reason::InvalidSpec,
                format!(
                    "spec.provider.aws.{field} names another namespace than the SecretStore's own, {own}: remove \
                     `namespace` and use an object of {own}"
                ),
            )),
        }
    }

    /// The whole key of a need.
    pub(super) fn key(&self, need: &Need) -> Arc<str> {
        full_key(self.spec, need)
    }

    /// What is said of a key that the store's `allowedKeys` keep from `namespace`. It never prints the patterns.
    pub(super) fn denied(&self, namespace: &str, key: &str) -> Refusal {
        Refusal::new(
            Reason::KeyNotAllowed,
            format!(
                "{} does not allow namespace {namespace} to read key {key}: use a key that it allows, or ask the store's \
                 administrator to add it to spec.allowedKeys",
                self.store,
            ),
        )
    }
}

/// The whole key of a need: with the store's prefix.
pub(super) fn full_key(spec: &StoreSpec, need: &Need) -> Arc<str> {
    match spec.aws().prefix() {
        "" => need.key.clone(),
        prefix => format!("{prefix}{}", need.key).into(),
    }
}

/// What makes two sources give the same values, whichever process asks: goes into `keyturn.dev/inputs`.
///
/// The text is written out part by part and never changes for what an earlier version could say: another text would have
/// every value read again after an upgrade. A new part goes in only where it is set. What tells one session from another but
/// gives the same values, such as uids, stays out.
pub(super) fn fingerprint(source: &Source, prefix: &str) -> String {
    let Source {
        identity,
        region,
        service,
    } = source;
    let Identity {
        store: _,
        base,
        roles,
        namespace: _,
        session_name: _,
    } = &**identity;
    let base = match base {
        Base::Own => "Own".to_owned(),
        Base::ServiceAccount {
            namespace,
            name,
            uid: _,
            audiences,
        } => format!(
            "ServiceAccount {{ namespace: {}, name: {}, uid: None, audiences: {} }}",
            quoted(namespace),
            quoted(name),
            list(audiences.iter().map(|audience| quoted(audience))),
        ),
        Base::StaticKeys {
            access_key_id,
            secret_access_key,
            session_token,
            secrets: _,
        } => format!(
            "StaticKeys {{ access_key_id: {}, secret_access_key: {}, session_token: {}, secrets: \"\" }}",
            key_of_secret(access_key_id),
            key_of_secret(secret_access_key),
            option(session_token.as_ref().map(key_of_secret)),
        ),
    };
    let roles = list(roles.iter().map(|Role { arn, external_id }| {
        let external_id = option(external_id.as_deref().map(quoted));
        format!("Role {{ arn: {}, external_id: {external_id} }}", quoted(arn))
    }));
    format!("{} {region} {} {base} {roles}", service.name, quoted(prefix))
}

fn key_of_secret(reference: &KeyRef) -> String {
    let KeyRef { namespace, name, key } = reference;
    let [namespace, name, key] = [namespace, name, key].map(|part| quoted(part));
    format!("KeyRef {{ namespace: {namespace}, name: {name}, key: {key} }}")
}

fn list(parts: impl Iterator<Item = String>) -> String {
    format!("[{}]", parts.collect::<Vec<_>>().join(", "))
}

fn option(part: Option<String>) -> String {
    part.map_or_else(|| "None".to_owned(), |part| format!("Some({part})"))
}

/// In quotes, so that no two lists of parts look alike.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0' => quoted.push_str("\\0"),
            c if c.is_ascii_control() => quoted.extend(c.escape_unicode()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
