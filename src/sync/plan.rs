//! What is done to the target Secret: a function of what is wanted and what is there. Pure.
//!
//! Every plan against an existing Secret is made from a live read and carries its uid and resourceVersion, so that the
//! API server refuses it when the Secret changed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde_json::{Map, Value, json};

use crate::api::{
    CreationPolicy, ObjectKey,
    names::{self, annotation},
    token::TokenKey,
};

/// The data of a Secret as wanted.
pub type Data = BTreeMap<String, ByteString>;

/// The target Secret as the ExternalSecret wants it.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The ExternalSecret.
    pub object: &'a ObjectKey,
    /// Its uid.
    pub uid: &'a str,
    /// The Secret's name.
    pub target: &'a str,
    /// What the status says was written last.
    pub recorded: Option<Recorded<'a>>,
    /// Whether the Secret is to be garbage-collected with the ExternalSecret.
    pub creation: CreationPolicy,
    /// Whether a foreign Secret that agrees may be taken over.
    pub adopt_existing: bool,
    /// Whether the Secret's data may never change.
    pub immutable: bool,
    /// The labels to carry over.
    pub labels: &'a BTreeMap<String, String>,
    /// The annotations to carry over.
    pub annotations: &'a BTreeMap<String, String>,
    /// The whole data.
    pub data: &'a Data,
    /// Token of what the data were made from besides values.
    pub inputs: &'a str,
    /// The versions the data were made from, as JSON.
    pub versions: &'a str,
    /// Token of the user name in the values, if they have one.
    pub user: Option<&'a str>,
}

/// What the status of the ExternalSecret remembers of the target.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// The Secret's name then.
    pub name: &'a str,
    /// Its rollout token then.
    pub rollout: Option<&'a str>,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// The Secret is as wanted.
    Nothing(Written),
    /// POST this Secret.
    Create(Box<Secret>, Written),
    /// PATCH (JSON merge) the Secret with this body.
    Patch {
        /// The body, for the Secret in the state that it was made for.
        body: Value,
        /// Why, for events and the audit log.
        why: Why,
        /// What the Secret says afterwards.
        written: Written,
    },
    /// Leave the Secret alone and say why.
    Refuse(Refusal),
}

/// What a written Secret says of itself; goes into the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `keyturn.dev/content`.
    pub content: String,
    /// `keyturn.dev/rollout`.
    pub rollout: String,
    /// `keyturn.dev/changed-at`.
    pub changed_at: Option<String>,
}

/// What a patch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// AWS or the spec changed, and with it the data.
    Updated,
    /// Somebody changed the Secret by hand.
    DriftRepaired,
    /// A foreign Secret was taken over, as both sides asked.
    Adopted,
    /// The data stay; labels, annotations or the owner change.
    Annotated,
}

/// Why a Secret is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The Secret belongs to somebody else.
    #[error(
        "Secret {secret} exists and belongs to {owner}, so it was not touched; choose another target.name, {way_out}"
    )]
    Foreign {
        /// The Secret.
        secret: ObjectKey,
        /// Who has it.
        owner: String,
        /// What else would help.
        way_out: &'static str,
    },
    /// The Secret is of a kind that is never taken over.
    #[error("Secret {secret} is {what} and is never adopted; choose another target.name")]
    NotAdoptable {
        /// The Secret.
        secret: ObjectKey,
        /// What it is.
        what: &'static str,
    },
    /// The Secret may not change.
    #[error(
        "Secret {secret} is immutable and holds other data than AWS now gives; it was left as it is. Delete the Secret \
         to have it made again with the new data"
    )]
    Immutable {
        /// The Secret.
        secret: ObjectKey,
    },
}

/// The plan for the target of `wanted`, given the live Secret and the API server's time.
pub fn plan(key: &TokenKey, now: Timestamp, wanted: &Wanted<'_>, live: Option<&Secret>) -> Plan {
    let Some(live) = live else {
        return create(key, now, wanted);
    };
    let secret = ObjectKey::new(wanted.object.namespace.clone(), wanted.target);
    let adopting = match belongs(wanted.object, wanted.uid, wanted.target, wanted.recorded, live) {
        Belongs::Ours => false,
        Belongs::Elsewhere(owner) => match adoptable(wanted, live) {
            Ok(true) => true,
            Ok(false) => {
                let way_out = if wanted.adopt_existing {
                    "or annotate the Secret with keyturn.dev/adopt: <name of this ExternalSecret>"
                } else {
                    "or set target.adoptExisting: true and annotate the Secret with keyturn.dev/adopt: <name of this ExternalSecret>"
                };
                return Plan::Refuse(Refusal::Foreign {
                    secret,
                    owner,
                    way_out,
                });
            }
            Err(what) => return Plan::Refuse(Refusal::NotAdoptable { secret, what }),
        },
    };

    let type_ = live.type_.as_deref().unwrap_or(names::OPAQUE);
    let live_data = live.data.clone().unwrap_or_default();
    let same_data = live_data == *wanted.data;
    if !same_data && live.immutable == Some(true) {
        return Plan::Refuse(Refusal::Immutable { secret });
    }

    let annotations = live.metadata.annotations.clone().unwrap_or_default();
    let content = key.content(&secret, type_, wanted.data);
    let rollout = key.rollout(&secret, wanted.data);
    let changed_at = if key.rollout(&secret, &live_data) == rollout {
        annotations.get(annotation::CHANGED_AT).cloned()
    } else {
        let before = annotations
            .get(annotation::ROLLOUT)
            .map(String::as_str)
            .or_else(|| recorded_rollout(wanted));
        if before == Some(rollout.as_str()) {
            annotations.get(annotation::CHANGED_AT).cloned()
        } else {
            Some(seconds(now))
        }
    };
    let written = Written {
        content: content.to_string(),
        rollout: rollout.to_string(),
        changed_at,
    };

    let mut body = Map::new();
    let metadata = metadata_changes(wanted, live, &annotations, &written);
    if !same_data {
        let mut changes = Map::new();
        for gone in live_data.keys().filter(|name| !wanted.data.contains_key(*name)) {
            changes.insert(gone.clone(), Value::Null);
        }
        for (name, value) in wanted.data {
            if live_data.get(name) != Some(value) {
                changes.insert(name.clone(), json!(value));
            }
        }
        body.insert("data".to_owned(), Value::Object(changes));
    }
    if wanted.immutable && live.immutable != Some(true) {
        body.insert("immutable".to_owned(), Value::Bool(true));
    }
    if body.is_empty() && metadata.is_empty() {
        return Plan::Nothing(written);
    }
    if !metadata.is_empty() {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }

    let why = if adopting {
        Why::Adopted
    } else if same_data {
        Why::Annotated
    } else if annotations.get(annotation::CONTENT) == Some(&written.content) {
        Why::DriftRepaired
    } else {
        Why::Updated
    };
    Plan::Patch {
        body: Value::Object(body),
        why,
        written,
    }
}

fn create(key: &TokenKey, now: Timestamp, wanted: &Wanted<'_>) -> Plan {
    let secret = ObjectKey::new(wanted.object.namespace.clone(), wanted.target);
    let content = key.content(&secret, names::OPAQUE, wanted.data);
    let rollout = key.rollout(&secret, wanted.data);
    // A Secret made again is no change for those that hold what it held before.
    let changed_at = recorded_rollout(wanted)
        .filter(|before| *before != rollout.as_str())
        .map(|_| seconds(now));
    let written = Written {
        content: content.to_string(),
        rollout: rollout.to_string(),
        changed_at,
    };

    let mut new = Secret {
        type_: Some(names::OPAQUE.to_owned()),
        data: Some(wanted.data.clone()),
        immutable: wanted.immutable.then_some(true),
        ..Secret::default()
    };
    new.metadata.name = Some(wanted.target.to_owned());
    new.metadata.namespace = Some(wanted.object.namespace.to_string());
    new.metadata.labels = Some(labels(wanted));
    new.metadata.annotations = Some(
        annotations(wanted, &written)
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
    );
    new.metadata.owner_references = owner(wanted).map(|owner| vec![owner]);
    Plan::Create(Box::new(new), written)
}

/// Whether a live Secret is the target of this ExternalSecret, so that it may delete it.
pub fn is_ours(object: &ObjectKey, uid: &str, target: &str, live: &Secret) -> bool {
    matches!(belongs(object, uid, target, None, live), Belongs::Ours)
}

/// Whose a live Secret is.
enum Belongs {
    Ours,
    Elsewhere(String),
}

fn belongs(
    object: &ObjectKey,
    uid: &str,
    target: &str,
    recorded: Option<Recorded<'_>>,
    live: &Secret,
) -> Belongs {
    let controller = controller(live);
    if let Some(controller) = controller {
        if controller.uid == uid {
            return Belongs::Ours;
        }
        // Of this name, but made by an earlier object of it: the garbage collector takes it, then it is made anew.
        return Belongs::Elsewhere(format!("{} {}", controller.kind, controller.name));
    }
    let known = |name: &str| name == target || recorded.is_some_and(|recorded| recorded.name == name);
    match annotation_of(live, annotation::OWNER) {
        Some(owner) if **owner == *object.name && live.metadata.name.as_deref().is_some_and(known) => {
            Belongs::Ours
        }
        Some(owner) => Belongs::Elsewhere(format!("ExternalSecret {owner}")),
        None => Belongs::Elsewhere("nobody that Keyturn knows".to_owned()),
    }
}

/// Whether both sides agreed to a take-over; `Err` names what is never taken over.
fn adoptable(wanted: &Wanted<'_>, live: &Secret) -> Result<bool, &'static str> {
    let agreed = wanted.adopt_existing
        && annotation_of(live, annotation::ADOPT).is_some_and(|name| **name == *wanted.object.name);
    if !agreed {
        return Ok(false);
    }
    let has = |prefix: &str| {
        let starts = |names: &Option<BTreeMap<String, String>>| {
            names.iter().flatten().any(|(name, _)| name.starts_with(prefix))
        };
        starts(&live.metadata.annotations) || starts(&live.metadata.labels)
    };
    let type_ = live.type_.as_deref().unwrap_or(names::OPAQUE);
    if names::PRIVILEGED_SECRET_TYPES.contains(&type_) {
        Err("of a type that Kubernetes or Helm keeps for itself")
    } else if has("cert-manager.io/") || has("controller.cert-manager.io/") {
        Err("cert-manager's")
    } else if controller(live).is_some() {
        Err("controlled by another object")
    } else {
        Ok(true)
    }
}

/// The part of the metadata that differs from what is wanted.
fn metadata_changes(
    wanted: &Wanted<'_>,
    live: &Secret,
    live_annotations: &BTreeMap<String, String>,
    written: &Written,
) -> Map<String, Value> {
    let ours = fields_of_ours(live);
    let mut changes = Map::new();

    let live_labels = live.metadata.labels.clone().unwrap_or_default();
    let wanted_labels = labels(wanted)
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .collect();
    let differing = difference(&live_labels, wanted_labels, &ours.labels);
    if !differing.is_empty() {
        changes.insert("labels".to_owned(), Value::Object(differing));
    }
    let differing = difference(live_annotations, annotations(wanted, written), &ours.annotations);
    if !differing.is_empty() {
        changes.insert("annotations".to_owned(), Value::Object(differing));
    }

    let live_owners = live.metadata.owner_references.clone().unwrap_or_default();
    let mut owners: Vec<_> = live_owners
        .iter()
        .filter(|owner| owner.uid != wanted.uid)
        .cloned()
        .collect();
    owners.extend(owner(wanted));
    if owners != live_owners {
        changes.insert("ownerReferences".to_owned(), json!(owners));
    }
    changes
}

/// A merge patch from `live` to `wanted` (`None`: must be absent); names that we once wrote and no longer want go.
fn difference(
    live: &BTreeMap<String, String>,
    mut wanted: BTreeMap<String, Option<String>>,
    ours: &BTreeSet<String>,
) -> Map<String, Value> {
    for name in ours {
        wanted.entry(name.clone()).or_insert(None);
    }
    wanted
        .into_iter()
        .filter(|(name, value)| live.get(name) != value.as_ref())
        .map(|(name, value)| (name, value.map_or(Value::Null, Value::String)))
        .collect()
}

fn labels(wanted: &Wanted<'_>) -> BTreeMap<String, String> {
    let mut labels = wanted.labels.clone();
    labels.insert(names::MANAGED_LABEL.to_owned(), "true".to_owned());
    labels
}

fn annotations(wanted: &Wanted<'_>, written: &Written) -> BTreeMap<String, Option<String>> {
    let mut all: BTreeMap<_, _> = wanted
        .annotations
        .iter()
        .map(|(name, value)| (name.clone(), Some(value.clone())))
        .collect();
    for (name, value) in [
        (annotation::OWNER, Some(&*wanted.object.name)),
        (annotation::CONTENT, Some(&*written.content)),
        (annotation::INPUTS, Some(wanted.inputs)),
        (annotation::VERSIONS, Some(wanted.versions)),
        (annotation::ROLLOUT, Some(&*written.rollout)),
        (annotation::CHANGED_AT, written.changed_at.as_deref()),
        (annotation::USER, wanted.user),
    ] {
        all.insert(name.to_owned(), value.map(str::to_owned));
    }
    all
}

fn owner(wanted: &Wanted<'_>) -> Option<OwnerReference> {
    (wanted.creation == CreationPolicy::Owner).then(|| OwnerReference {
        api_version: names::API_VERSION.to_owned(),
        kind: "ExternalSecret".to_owned(),
        name: wanted.object.name.to_string(),
        uid: wanted.uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// The controller of a Secret.
pub fn controller(live: &Secret) -> Option<&OwnerReference> {
    live.metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

fn annotation_of<'a>(live: &'a Secret, name: &str) -> Option<&'a String> {
    live.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(name))
}

fn recorded_rollout<'a>(wanted: &Wanted<'a>) -> Option<&'a str> {
    wanted
        .recorded
        .filter(|recorded| recorded.name == wanted.target)
        .and_then(|recorded| recorded.rollout)
}

/// RFC 3339 to the second, as the API server writes times.
pub fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The labels and annotations that our field manager wrote, by the API server's own record.
#[derive(Default)]
struct Ours {
    labels: BTreeSet<String>,
    annotations: BTreeSet<String>,
}

fn fields_of_ours(live: &Secret) -> Ours {
    let mut ours = Ours::default();
    for entry in live.metadata.managed_fields.iter().flatten() {
        if entry.manager.as_deref() != Some(names::SYNC_MANAGER) {
            continue;
        }
        let Some(metadata) = entry
            .fields_v1
            .as_ref()
            .and_then(|fields| fields.0.get("f:metadata"))
        else {
            continue;
        };
        let names = |part: &str| {
            metadata
                .get(part)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(field, _)| field.strip_prefix("f:").map(str::to_owned))
        };
        ours.labels.extend(names("f:labels"));
        ours.annotations.extend(names("f:annotations"));
    }
    ours
}
