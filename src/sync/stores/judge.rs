//! What a store is good for: what its spec says, then whether AWS knows its identity.

use std::sync::Arc;

use crate::{
    api::{ChangeDetection, ObjectKey, Reason, StoreKind, StoreSpec, validate::StoreScope},
    aws::Source,
    objects::{StoreEntry, StoreRef, Suspension, status::Verdict},
    sync::resolve::{Asked, Refusal, Rules},
    track::{CallSizes, Detection, SourcePolicy},
};

use super::{Good, Stores, conditions::Admission};

/// A store whose spec can be followed.
#[derive(Debug)]
pub(super) struct Sound {
    /// Who may use it.
    pub(super) admission: Admission,
    /// What it gives: to everyone, or as an example where it depends on the namespace.
    pub(super) source: Source,
    /// Whether the identity depends on the namespace.
    pub(super) per_namespace: bool,
    /// Whether every namespace may read every key.
    pub(super) open: bool,
}

/// Everything of a store that can be told without AWS.
pub(super) fn inspect(
    rules: &Rules,
    store: &StoreRef,
    key: &ObjectKey,
    entry: &StoreEntry,
) -> Result<Sound, Refusal> {
    let asked = Asked::new(entry, store, key);
    if entry.suspended == Suspension::Unreadable {
        return Err(Refusal::unreadable_suspension(&store.to_string()));
    }
    let invalid = |message: String| Refusal::new(Reason::InvalidSpec, message);
    let spec = &entry.spec;
    let scope = match store.kind {
        StoreKind::SecretStore => StoreScope::Namespace {
            namespace: &key.namespace,
            operator_identity: rules.allow_operator_identity,
        },
        StoreKind::ClusterSecretStore => StoreScope::Cluster,
    };
    spec.validate(scope).map_err(|error| invalid(error.to_string()))?;
    let admission = Admission::new(spec.conditions()).map_err(|error| invalid(error.to_string()))?;
    Ok(Sound {
        admission,
        // With a namespace that nobody has, the rest of the spec is checked all the same.
        source: asked.source(rules, &key.namespace)?,
        per_namespace: asked.is_per_namespace(),
        open: store.kind == StoreKind::ClusterSecretStore
            && spec.conditions().is_empty()
            && spec.allowed_keys.is_none(),
    })
}

impl Stores {
    /// What a store is good for, and what its `Ready` is to say; `None` leaves it as it is.
    pub(super) async fn judge(
        &self,
        store: &StoreRef,
        key: &ObjectKey,
        entry: &StoreEntry,
    ) -> (Arc<Admission>, Good, Option<Verdict>) {
        let Sound {
            admission,
            source,
            per_namespace,
            open,
        } = match inspect(&self.rules, store, key, entry) {
            Ok(sound) => sound,
            Err(refusal) => {
                let verdict = Verdict::fails(refusal.reason, refusal.message.clone());
                return (Arc::default(), Good::Bad(refusal), Some(verdict));
            }
        };
        let admission = Arc::new(admission);
        if per_namespace {
            if self.standing(key, entry).is_none() {
                self.forget_sources(key, None);
            }
            let verdict = Verdict::holds(
                Reason::PerNamespace,
                "the identity depends on the namespace of each ExternalSecret and is proved there",
            );
            return (admission, Good::Proved { account: None }, Some(verdict));
        }
        let id = self.aws.intern(source.clone());
        self.forget_sources(key, Some(id));
        self.adopt(key, id);
        // Whoever edits a store may have allowed what was denied.
        if self.standing(key, entry).is_none() {
            self.aws.retry_denied(id);
            self.tracking.tell(|tracker, now| tracker.retry(now, id));
        }
        match self.aws.prove(id).await {
            Ok(proven) => {
                let account = Some(proven.account);
                self.announce(key, id, policy(&entry.spec, account.clone(), &source));
                (
                    admission,
                    Good::Proved { account },
                    Some(proved(open, &proven.arn)),
                )
            }
            Err(error) if error.class().is_transient() => {
                let first = entry
                    .status
                    .as_ref()
                    .is_none_or(|status| status.conditions.is_none());
                let verdict = first.then(|| Verdict::fails(Reason::IdentityError, error.to_string()));
                (admission, Good::Unproved, verdict)
            }
            Err(error) => {
                let refusal = Refusal::new(Reason::IdentityError, error.to_string());
                let verdict = Verdict::fails(refusal.reason, refusal.message.clone());
                (admission, Good::Bad(refusal), Some(verdict))
            }
        }
    }
}

fn proved(open: bool, arn: &str) -> Verdict {
    if open {
        Verdict::holds(
            Reason::Unrestricted,
            "every namespace may read every key that AWS permits: set spec.conditions or spec.allowedKeys to restrict it",
        )
    } else {
        Verdict::holds(
            Reason::Valid,
            format!("AWS knows the store as {}", principal(arn)),
        )
    }
}

/// What the tracker is told of a store's source.
pub(super) fn policy(spec: &StoreSpec, account: Option<Arc<str>>, source: &Source) -> SourcePolicy {
    let detection = match spec.aws().change_detection() {
        ChangeDetection::Auto => Detection::Auto,
        ChangeDetection::List => Detection::List,
        ChangeDetection::Describe => Detection::Describe,
        ChangeDetection::Read => Detection::Read,
    };
    SourcePolicy {
        detection,
        events: false,
        account,
        region: source.region.clone(),
        sizes: CallSizes {
            batch: source.service.batch,
            page: source.service.page,
        },
    }
}

/// An ARN without the name of the session, which people know from the store.
fn principal(arn: &str) -> &str {
    if arn.contains(":assumed-role/") {
        arn.rsplit_once('/').map_or(arn, |(role, _)| role)
    } else {
        arn
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::StoreKind::{ClusterSecretStore, SecretStore};

    fn rules() -> Rules {
        Rules {
            cluster: "prod".into(),
            region: Some("eu-west-1".into()),
            allow_operator_identity: false,
        }
    }

    fn parsed(spec: &Value) -> Arc<StoreSpec> {
        Arc::new(serde_json::from_value(spec.clone()).unwrap())
    }

    fn inspected(kind: StoreKind, spec: Arc<StoreSpec>, suspended: Suspension) -> Result<Sound, Refusal> {
        let store = StoreRef {
            kind,
            name: "aws".into(),
        };
        let entry = StoreEntry {
            uid: "uid".into(),
            generation: 1,
            spec,
            suspended,
            confirmed: None,
            status: None,
        };
        inspect(&rules(), &store, &Stores::key(&store, "shop"), &entry)
    }

    #[test]
    fn what_cannot_be_followed_is_refused_before_aws_is_asked() {
        let aws = |aws: Value| json!({"provider": {"aws": aws}});
        let account = |namespace: &str| {
            aws(json!({"auth": {"jwt": {"serviceAccountRef": {"name": "a", "namespace": namespace}}}}))
        };
        let with = |field: &str, value: Value| {
            let mut spec = aws(json!({}));
            spec[field] = value;
            spec
        };
        for (kind, spec, said) in [
            (SecretStore, aws(json!({})), "spec.provider.aws.auth"),
            (SecretStore, account("kube-system"), "serviceAccountRef.namespace"),
            (
                ClusterSecretStore,
                aws(json!({"auth": {}})),
                "spec.provider.aws.auth",
            ),
            (
                ClusterSecretStore,
                with("allowedKeys", json!(["{team}/*"])),
                "spec.allowedKeys[0]",
            ),
            (
                ClusterSecretStore,
                with("conditions", json!([{"namespaceRegexes": ["("]}])),
                "spec.conditions[0].namespaceRegexes[0]",
            ),
            (
                ClusterSecretStore,
                with(
                    "conditions",
                    json!([{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "?"}]}}]),
                ),
                "spec.conditions[0].namespaceSelector",
            ),
        ] {
            let refusal = inspected(kind, parsed(&spec), Suspension::None).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidSpec, "{spec}");
            assert!(refusal.message.contains(said), "{refusal}");
        }
    }

    #[test]
    fn a_suspension_that_is_no_time_is_said_on_the_store() {
        let spec = parsed(&json!({"provider": {"aws": {}}}));
        let refusal = inspected(ClusterSecretStore, spec, Suspension::Unreadable).unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidSpec);
        for part in ["keyturn.dev/suspend-sync-until", "ClusterSecretStore aws"] {
            assert!(refusal.message.contains(part), "{refusal}");
        }
    }

    #[test]
    fn only_a_cluster_store_without_any_limit_is_unrestricted() {
        let account = json!({"jwt": {"serviceAccountRef": {"name": "a"}}});
        let none = Value::Null;
        for (kind, conditions, keys, open) in [
            (ClusterSecretStore, none.clone(), none.clone(), true),
            (ClusterSecretStore, json!([]), none.clone(), true),
            (
                ClusterSecretStore,
                json!([{"namespaces": ["a"]}]),
                none.clone(),
                false,
            ),
            (ClusterSecretStore, none.clone(), json!(["a/**"]), false),
            // An empty list of keys allows nothing.
            (ClusterSecretStore, none.clone(), json!([]), false),
            (SecretStore, none.clone(), none.clone(), false),
        ] {
            let auth = if kind == SecretStore {
                account.clone()
            } else {
                none.clone()
            };
            let spec = json!({
                "provider": {"aws": {"auth": auth}},
                "conditions": conditions,
                "allowedKeys": keys,
            });
            let sound = inspected(kind, parsed(&spec), Suspension::None).unwrap();
            assert_eq!(sound.open, open, "{spec}");
            assert!(!sound.per_namespace);
        }
        let arn = "arn:aws:sts::111122223333:assumed-role/reader/keyturn-aws";
        assert_eq!(proved(true, arn).reason, Reason::Unrestricted);
        assert_eq!(proved(false, arn).reason, Reason::Valid);
    }

    #[test]
    fn a_store_is_known_as_its_role_not_its_session() {
        for (arn, principal_of) in [
            (
                "arn:aws:sts::111122223333:assumed-role/reader/keyturn-aws",
                "arn:aws:sts::111122223333:assumed-role/reader",
            ),
            (
                "arn:aws:iam::111122223333:user/path/reader",
                "arn:aws:iam::111122223333:user/path/reader",
            ),
            ("arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:root"),
        ] {
            assert_eq!(principal(arn), principal_of);
        }
    }
}
