//! The decisions as a command line makes them: of objects that were read once, without Lease, events, queue or API server.

#![expect(
    clippy::needless_pass_by_value,
    reason = "JSON is written in place, where it is read"
)]

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::{
    admission::{NotAdmitted, Surroundings, admit},
    answers::{Answer, EntryValue},
    comparison::{Comparison, Existing, compare},
    references::{Resolved, resolve},
    render::{Rendered, Template, render},
};
use crate::{
    api::{ExternalSecret, ObjectKey, Reason, RestartMode, SourceId, StoreKind, TokenKey, VersionId},
    aws::RemoteValue,
    cluster::{Control, NamespaceEntry, Project, SecretEntry},
    objects::{ClusterSecretStores, Entry, SecretStores, StoreEntry, StoreRef, Suspension},
    sync::{
        Rules,
        plan::{self, Plan, Why},
        stores::{Unusable, usable::StoreUse},
    },
    track::Known,
};

const ARN: &str = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:team/db-a1b2c3";
const VALUE: &str = r#"{"username":"app","password":"hunter2"}"#;

/// An ExternalSecret `shop/db` as it was read.
struct Read {
    key: TokenKey,
    object: ObjectKey,
    live: ExternalSecret,
    entry: Entry,
}

fn read(metadata: Value, spec: Value) -> Read {
    let mut meta = json!({"name": "db", "namespace": "shop", "uid": "u1", "generation": 1});
    meta.as_object_mut()
        .unwrap()
        .extend(metadata.as_object().unwrap().clone());
    let object =
        json!({"apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret", "metadata": meta, "spec": spec});
    let live: ExternalSecret = serde_json::from_value(object).unwrap();
    let object = ObjectKey::new("shop", "db");
    Read {
        key: TokenKey::new(&[7; 32]),
        entry: Entry::of(&object, &live, Duration::from_secs(30), RestartMode::Disabled),
        object,
        live,
    }
}

fn plain() -> Read {
    read(
        json!({}),
        json!({
            "secretStoreRef": {"name": "aws"},
            "data": [{"secretKey": "password", "remoteRef": {"key": "db", "property": "password"}}],
        }),
    )
}

fn store(kind: StoreKind, spec: Value) -> (StoreRef, StoreEntry) {
    let key = ObjectKey::new("shop", "aws");
    let object = json!({
        "apiVersion": "keyturn.dev/v1", "kind": kind.to_string(),
        "metadata": {"name": "aws", "namespace": "shop", "uid": "s1", "generation": 1}, "spec": spec,
    });
    let entry = match kind {
        StoreKind::SecretStore => SecretStores.project(&key, serde_json::from_value(object).unwrap()),
        StoreKind::ClusterSecretStore => {
            ClusterSecretStores.project(&key, serde_json::from_value(object).unwrap())
        }
    };
    let name = "aws".into();
    (StoreRef { kind, name }, entry)
}

fn rules() -> Rules {
    Rules {
        cluster: "prod".into(),
        region: None,
        allow_operator_identity: true,
    }
}

fn aws() -> Value {
    json!({"aws": {"service": "SecretsManager", "region": "eu-central-1", "prefix": "team/"}})
}

impl Read {
    fn admit(&self, around: Surroundings<'_>) -> Result<(), NotAdmitted> {
        admit(&self.object, &self.entry, &around)
    }

    fn resolve(&self, allowed: Value) -> Result<Resolved, Unusable> {
        let spec = json!({"provider": aws(), "allowedKeys": allowed});
        let (store, entry) = store(StoreKind::SecretStore, spec);
        let usage = StoreUse {
            store: &store,
            entry: &entry,
            namespace: "shop",
            labels: None,
        };
        let usable = usage.usable(&rules(), |_| SourceId(1))?;
        Ok(resolve(&self.object, &self.entry, &store, usable)?)
    }

    fn compare(&self, secret: Option<&Secret>) -> Comparison {
        let target = ObjectKey::new("shop", "db");
        let existing = Existing {
            secret: secret.map(|secret| SecretEntry::of(&self.key, &target, secret.clone())),
            read: None,
        };
        let resolved = self.resolve(json!(["team/*"])).unwrap();
        compare(&self.key, &self.object, &self.entry, resolved, existing)
    }

    fn render(&self, comparison: &Comparison, version: &str) -> Rendered {
        let value = RemoteValue::new(ARN, "team/db", VersionId(version.into()), VALUE.into());
        let answers = [Answer::Value(EntryValue::whole(value))];
        render(&self.key, &self.live, comparison, &answers).unwrap()
    }

    fn plan(&self, live: Option<&Secret>) -> Plan {
        let comparison = self.compare(live);
        let rendered = self.render(&comparison, "v1");
        let template = Template::new(&self.object, &self.entry, &self.live, &[]);
        let now: Timestamp = "2026-11-01T08:00:00Z".parse().unwrap();
        plan::plan(
            &self.key,
            now,
            &template.desired(rendered.content(&comparison)),
            live,
        )
    }

    fn created(&self) -> Secret {
        let Plan::Create(secret, _) = self.plan(None) else {
            panic!("no Secret is planned")
        };
        *secret
    }
}

#[test]
fn an_object_is_admitted_unless_people_hold_it_up() {
    let now: Timestamp = "2026-11-01T08:00:00Z".parse().unwrap();
    let later = Suspension::Until("2026-11-01T09:00:00Z".parse().unwrap());
    let around = |namespace, of_store| Surroundings {
        now,
        namespace,
        store: Some((
            store(StoreKind::SecretStore, json!({"provider": aws()})).0,
            of_store,
        )),
        ..Surroundings::default()
    };
    let read = plain();
    assert!(read.admit(around(Suspension::None, Suspension::None)).is_ok());
    let by_control = Surroundings {
        control: Some(Control::default()),
        ..Surroundings::default()
    };
    for (around, named) in [
        (around(later, Suspension::None), "Namespace shop"),
        (around(Suspension::None, later), "SecretStore aws"),
        (by_control, "keyturn-control"),
    ] {
        let Err(NotAdmitted::Suspended(suspended)) = read.admit(around) else {
            panic!("{named} suspends")
        };
        assert!(suspended.message.contains(named), "{}", suspended.message);
    }
    let unreadable = read.admit(around(Suspension::Unreadable, Suspension::None));
    assert!(matches!(unreadable, Err(NotAdmitted::Unreadable(_))));
}

#[test]
fn a_wrong_spec_and_a_protected_namespace_are_refused() {
    let protected = ["shop".to_owned()];
    let around = Surroundings {
        protected: &protected,
        ..Surroundings::default()
    };
    let wrong = read(
        json!({}),
        json!({"secretStoreRef": {"name": "aws"}, "refreshInterval": "often"}),
    );
    for (read, around, reason) in [
        (plain(), around, Reason::NamespaceNotAllowed),
        (wrong, Surroundings::default(), Reason::InvalidSpec),
    ] {
        let Err(NotAdmitted::Refused(refusal)) = read.admit(around) else {
            panic!("{reason:?}")
        };
        assert_eq!(refusal.reason, reason, "{refusal}");
    }
}

#[test]
fn a_store_gives_only_to_whom_its_conditions_admit() {
    let spec =
        json!({"provider": aws(), "conditions": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]});
    let (store, entry) = store(StoreKind::ClusterSecretStore, spec);
    let labels = |team: &str| NamespaceEntry {
        uid: "n1".into(),
        labels: [("team".to_owned(), team.to_owned())].into(),
        annotations: [].into(),
        ending: false,
    };
    let usable = |labels: Option<&NamespaceEntry>| {
        let usage = StoreUse {
            store: &store,
            entry: &entry,
            namespace: "shop",
            labels,
        };
        usage.usable(&rules(), |_| SourceId(1))
    };
    assert!(usable(Some(&labels("a"))).is_ok());
    let Err(Unusable::Refused(refusal)) = usable(Some(&labels("b"))) else {
        panic!("team b is admitted")
    };
    assert_eq!(refusal.reason, Reason::NamespaceNotAllowed);
    assert!(matches!(usable(None), Err(Unusable::NotYet)));
}

#[test]
fn keys_are_resolved_in_full_if_the_store_allows_them() {
    let read = plain();
    let resolved = read.resolve(json!(["team/*"])).unwrap();
    let keys: Vec<_> = resolved.needs.iter().map(|need| &*need.key).collect();
    assert_eq!((keys, &*resolved.label), (vec!["team/db"], "SecretStore/aws"));
    let Err(Unusable::Refused(refusal)) = read.resolve(json!(["other/*"])) else {
        panic!("every key is allowed")
    };
    assert_eq!(refusal.reason, Reason::KeyNotAllowed);
    assert!(refusal.message.contains("team/db"), "{refusal}");
}

#[test]
fn a_missing_secret_is_made_and_one_that_is_right_is_left_alone() {
    let read = plain();
    let missing = read.compare(None);
    assert!(!missing.is_same(&read.entry, |_| Known::Unknown));
    let secret = read.created();
    let held = &secret.data.as_ref().unwrap()["password"];
    assert_eq!(held.0, b"hunter2");
    assert!(matches!(read.plan(Some(&secret)), Plan::Nothing(_)));
    let comparison = read.compare(Some(&secret));
    assert!(comparison.ours && comparison.intact && comparison.same_inputs);
    for (known, same) in [
        (Known::Unknown, true),
        (Known::Version(VersionId("v1".into())), true),
        (Known::Version(VersionId("v2".into())), false),
        (Known::Gone { deleted: true }, false),
    ] {
        assert_eq!(
            comparison.is_same(&read.entry, |_| known.clone()),
            same,
            "{known:?}"
        );
    }
}

#[test]
fn what_was_changed_by_hand_or_in_the_spec_shows_in_the_comparison_and_in_the_plan() {
    let before = plain();
    let secret = before.created();
    let mut changed = secret.clone();
    changed.data.get_or_insert_default().insert(
        "password".to_owned(),
        k8s_openapi::ByteString(b"by hand".to_vec()),
    );
    let comparison = before.compare(Some(&changed));
    assert!(comparison.same_inputs && !comparison.intact);
    assert!(!comparison.is_same(&before.entry, |_| Known::Unknown));
    let Plan::Patch { why, .. } = before.plan(Some(&changed)) else {
        panic!("the change stays")
    };
    assert_eq!(why, Why::DriftRepaired);

    let edited = read(
        json!({}),
        json!({
            "secretStoreRef": {"name": "aws"},
            "data": [{"secretKey": "user", "remoteRef": {"key": "db", "property": "username"}}],
        }),
    );
    let comparison = edited.compare(Some(&secret));
    assert!(comparison.intact && !comparison.same_inputs);
    let Plan::Patch { body, why, .. } = edited.plan(Some(&secret)) else {
        panic!("the edit changes nothing")
    };
    assert_eq!(why, Why::Updated);
    assert_eq!(body["data"]["password"], Value::Null);
}
