//! The plan, by the facts that it promises: what is written, whose a Secret is, when its content changed.

mod changed_at;
mod key_changes;
mod ownership;
mod properties;
mod restarts;
mod writing;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, OwnerReference};

use super::*;

pub(super) const UID: &str = "uid-of-db";
pub(super) const THEN: &str = "2026-11-01T08:00:00Z";
pub(super) const NOW: &str = "2026-11-02T09:30:00Z";

/// An ExternalSecret `shop/db` and what it wants of Secret `db`.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) key: [u8; 32],
    /// The name, rollout and time that the status records.
    pub(super) recorded: Option<(String, Option<String>, Option<Timestamp>)>,
    /// The content that it records.
    pub(super) recorded_content: Option<String>,
    /// Since when restarts are wanted, as it records.
    pub(super) recorded_since: Option<Timestamp>,
    /// Which keys changed when, as it records.
    pub(super) recorded_changes: Option<Vec<KeyChange>>,
    pub(super) creation: CreationPolicy,
    pub(super) adopt_existing: bool,
    pub(super) immutable: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) data: Data,
    pub(super) inputs: String,
    pub(super) versions: String,
    pub(super) source: Option<String>,
    pub(super) user: Option<String>,
    pub(super) trigger: Vec<String>,
    pub(super) restarts: RestartWish,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            key: [7; 32],
            recorded: None,
            recorded_content: None,
            recorded_since: None,
            recorded_changes: None,
            creation: CreationPolicy::Owner,
            adopt_existing: false,
            immutable: false,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            data: data(&[("password", "new")]),
            inputs: "inputs".into(),
            versions: r#"{"0":"v1"}"#.into(),
            source: None,
            user: None,
            trigger: Vec::new(),
            restarts: RestartWish::Disabled,
        }
    }
}

impl Wish {
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        Self {
            data: data(pairs),
            ..Self::default()
        }
    }

    /// The same, as the status remembers what was written.
    pub(super) fn after(self, written: &Written) -> Self {
        Self {
            recorded: Some(("db".into(), Some(written.rollout.clone()), written.changed_at)),
            recorded_content: Some(written.content.clone()),
            recorded_since: written.restart_since,
            recorded_changes: written
                .key_changes
                .as_ref()
                .map(|changes| changes.as_slice().to_vec()),
            ..self
        }
    }

    pub(super) fn plan(&self, live: Option<&Secret>) -> Plan {
        self.plan_at(NOW, live)
    }

    pub(super) fn plan_at(&self, now: &str, live: Option<&Secret>) -> Plan {
        self.plan_with(time(now), live)
    }

    pub(super) fn plan_with(&self, times: impl Into<Times>, live: Option<&Secret>) -> Plan {
        let object = ObjectKey::new("shop", "db");
        let recorded = self.recorded.as_ref();
        let wanted = DesiredSecret {
            object: &object,
            uid: UID,
            target: "db",
            recorded: recorded.map(|(name, rollout, changed_at)| Recorded {
                name,
                content: self.recorded_content.as_deref(),
                rollout: rollout.as_deref(),
                changed_at: *changed_at,
                restart_since: self.recorded_since,
                key_changes: self.recorded_changes.as_deref(),
            }),
            creation: self.creation,
            adopt_existing: self.adopt_existing,
            immutable: self.immutable,
            labels: &self.labels,
            annotations: &self.annotations,
            data: &self.data,
            inputs: &self.inputs,
            versions: &self.versions,
            source: self.source.as_deref(),
            user: self.user.as_deref(),
            trigger: &self.trigger,
            restarts: self.restarts,
        };
        plan(&TokenKey::new(&self.key), times, &wanted, live)
    }

    /// The Secret as this wish makes it where there is none.
    pub(super) fn made(&self) -> Secret {
        let plan = self.plan_at(THEN, None);
        apply(None, &plan)
    }
}

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn data(pairs: &[(&str, &str)]) -> Data {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), ByteString(value.as_bytes().to_vec())))
        .collect()
}

pub(super) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A Secret that Keyturn has nothing to do with.
pub(super) fn foreign(pairs: &[(&str, &str)]) -> Secret {
    let mut secret = Secret {
        type_: Some("Opaque".into()),
        data: Some(data(pairs)),
        ..Secret::default()
    };
    secret.metadata.name = Some("db".into());
    secret.metadata.namespace = Some("shop".into());
    secret.metadata.uid = Some("uid-of-secret".into());
    secret.metadata.resource_version = Some("1".into());
    secret
}

pub(super) fn annotate(secret: &mut Secret, name: &str, value: Option<&str>) {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    match value {
        Some(value) => drop(annotations.insert(name.to_owned(), value.to_owned())),
        None => drop(annotations.remove(name)),
    }
}

pub(super) fn annotation_in<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    secret
        .metadata
        .annotations
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

pub(super) fn written(plan: &Plan) -> &Written {
    match plan {
        Plan::Nothing(written) | Plan::Create(_, written) | Plan::Patch { written, .. } => written,
        Plan::Refuse(refusal) => panic!("refused: {refusal}"),
    }
}

pub(super) fn why(plan: &Plan) -> Why {
    match plan {
        Plan::Patch { why, .. } => *why,
        other => panic!("no patch: {other:?}"),
    }
}

/// What the API server makes of a plan: RFC 7386, and a record of who wrote which label and annotation.
pub(super) fn apply(live: Option<&Secret>, plan: &Plan) -> Secret {
    match plan {
        Plan::Nothing(_) | Plan::Refuse(_) => live.cloned().unwrap(),
        Plan::Create(secret, _) => {
            let mut secret = (**secret).clone();
            secret.metadata.uid = Some("uid-of-secret".into());
            let metadata = json!(secret.metadata);
            record(&mut secret, &metadata);
            secret
        }
        Plan::Patch { body, .. } => {
            let mut object = serde_json::to_value(live.unwrap()).unwrap();
            merge(&mut object, body);
            let mut secret: Secret = serde_json::from_value(object).unwrap();
            record(&mut secret, &body["metadata"]);
            secret
        }
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn record(secret: &mut Secret, changes: &Value) {
    let entries = secret.metadata.managed_fields.get_or_insert_default();
    let mine = |entry: &ManagedFieldsEntry| entry.manager.as_deref() == Some(names::SYNC_MANAGER);
    if !entries.iter().any(mine) {
        entries.push(ManagedFieldsEntry {
            manager: Some(names::SYNC_MANAGER.into()),
            operation: Some("Update".into()),
            fields_v1: Some(FieldsV1(json!({"f:metadata": {}}))),
            ..ManagedFieldsEntry::default()
        });
    }
    let entry = entries.iter_mut().find(|entry| mine(entry)).unwrap();
    let fields = &mut entry.fields_v1.as_mut().unwrap().0["f:metadata"];
    for part in ["labels", "annotations"] {
        for (name, value) in changes[part].as_object().into_iter().flatten() {
            let field = if value.is_null() { Value::Null } else { json!({}) };
            merge(
                fields,
                &json!({format!("f:{part}"): {".": {}, format!("f:{name}"): field}}),
            );
        }
    }
}
