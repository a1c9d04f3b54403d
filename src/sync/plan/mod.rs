//! What is done to the target Secret: a function of what is wanted and what is there. Pure.
//!
//! Every plan against an existing Secret is made from a live read and carries its uid and resourceVersion, so that the
//! API server refuses it when the Secret changed meanwhile.

mod belongs;
mod drift;
mod metadata;
mod rollout;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Map, Value, json};

pub use self::{
    belongs::is_ours,
    drift::{contender, repaired},
};
use self::{
    belongs::{Belongs, adoption_agreed, annotation_of, belongs, never_adopted},
    metadata::{annotations, labels, metadata_changes, owner},
};
use crate::{
    api::{
        CreationPolicy, ExternalSecret, FirstWrite, KeyChange, ObjectKey, Reason,
        names::{self, annotation},
        token::TokenKey,
    },
    objects::status::Written,
};

/// The data of a Secret as wanted.
pub type Data = BTreeMap<String, ByteString>;

/// The target Secret as the ExternalSecret wants it.
#[derive(Debug)]
pub struct DesiredSecret<'a> {
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
    /// What the Secret is to record of where the data were read. It is written along with another change only.
    pub source: Option<&'a str>,
    /// Token of the user name in the values, if they have one.
    pub user: Option<&'a str>,
    /// The keys whose change restarts workloads; all where there are none.
    pub trigger: &'a [String],
    /// Whether restarts are wanted.
    pub restarts: RestartWish,
}

/// Whether an ExternalSecret wants restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartWish {
    /// Restarts are enabled.
    Enabled(FirstWrite),
    /// Restarts are disabled.
    Disabled,
    /// A fault in the spec leaves open whether restarts are enabled.
    Unknown,
}

/// What the status of the ExternalSecret remembers of the target.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// The Secret's name then.
    pub name: &'a str,
    /// Its content token then.
    pub content: Option<&'a str>,
    /// Its rollout token then.
    pub rollout: Option<&'a str>,
    /// Since when.
    pub changed_at: Option<Timestamp>,
    /// Since when restarts are wanted.
    pub restart_since: Option<Timestamp>,
    /// Which keys changed when, if not all changed together.
    pub key_changes: Option<&'a [KeyChange]>,
}

impl<'a> Recorded<'a> {
    /// What the status of a live ExternalSecret remembers.
    pub fn of(live: &'a ExternalSecret) -> Option<Self> {
        let target = live.status.as_ref()?.target.as_ref()?;
        Some(Self {
            name: &target.name,
            content: target.content.as_deref(),
            rollout: target.rollout.as_deref(),
            changed_at: target.changed_at.as_ref().map(|at| at.0),
            restart_since: target.restart_since.as_ref().map(|at| at.0),
            key_changes: target.key_changes.as_deref(),
        })
    }
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
    Refuse(Conflict),
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
pub enum Conflict {
    /// The Secret belongs to somebody else.
    #[error(
        "Secret {secret} exists and belongs to {owner}, so it was not touched; choose another target.name{way_out}"
    )]
    Foreign {
        /// The Secret.
        secret: ObjectKey,
        /// Who has it.
        owner: String,
        /// What else would help, if it can be adopted at all.
        way_out: String,
        /// The ExternalSecret wants to adopt it, and only the annotation on the Secret is missing.
        awaits_annotation: bool,
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

impl Conflict {
    /// The condition's reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Foreign { .. } | Self::NotAdoptable { .. } => Reason::TargetConflict,
            Self::Immutable { .. } => Reason::TargetImmutable,
        }
    }

    /// Whether only an annotation on the Secret is missing. The watch does not show Secrets that are not managed.
    pub fn awaits_annotation(&self) -> bool {
        matches!(
            self,
            Self::Foreign {
                awaits_annotation: true,
                ..
            }
        )
    }

    /// Whether the Secret may not change, whoever it belongs to.
    pub fn is_immutable(&self) -> bool {
        matches!(self, Self::Immutable { .. })
    }
}

/// The times that a write puts on a Secret, by the API server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The present.
    pub now: Timestamp,
    /// The time of a change that is made now.
    pub change: Timestamp,
}

impl Times {
    /// Whether a Secret that is left like this names the change of now.
    pub fn dates(self, written: &Written) -> bool {
        written.changed_at == Some(whole(self.change))
    }
}

impl From<Timestamp> for Times {
    fn from(now: Timestamp) -> Self {
        Self { now, change: now }
    }
}

/// The plan for the target of `wanted`, given the live Secret and the times to put on it.
pub fn plan(
    key: &TokenKey,
    times: impl Into<Times>,
    wanted: &DesiredSecret<'_>,
    live: Option<&Secret>,
) -> Plan {
    let times = times.into();
    let Some(live) = live else {
        return create(key, times, wanted);
    };
    let secret = ObjectKey::new(wanted.object.namespace.clone(), wanted.target);
    let adopting = match belongs(wanted.object, wanted.uid, wanted.target, wanted.recorded, live) {
        Belongs::Ours => false,
        Belongs::Elsewhere(owner) => match foreign(wanted, &secret, owner, live) {
            Some(conflict) => return Plan::Refuse(conflict),
            None => true,
        },
    };

    let nothing = Data::new();
    let live_data = live.data.as_ref().unwrap_or(&nothing);
    let same_data = live_data == wanted.data;
    if !same_data && live.immutable == Some(true) {
        return Plan::Refuse(Conflict::Immutable { secret });
    }

    let written = rollout::stamps(key, times, wanted, live, adopting);

    let mut body = Map::new();
    let metadata = metadata_changes(wanted, live, &written);
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
    if body.is_empty() && (metadata.is_empty() || metadata::is_only_source(&metadata)) {
        return Plan::Nothing(written);
    }
    if !metadata.is_empty() {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }

    let why = if adopting {
        Why::Adopted
    } else if same_data {
        Why::Annotated
    } else if annotation_of(live, annotation::CONTENT) == Some(&written.content) {
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

/// Why a Secret that belongs to somebody else is not taken over; none if it is.
fn foreign(wanted: &DesiredSecret<'_>, secret: &ObjectKey, owner: String, live: &Secret) -> Option<Conflict> {
    let never = never_adopted(live);
    if adoption_agreed(wanted, live) {
        return never.map(|what| Conflict::NotAdoptable {
            secret: secret.clone(),
            what,
        });
    }
    let ObjectKey { namespace, name, .. } = wanted.object;
    let command = format!(
        "kubectl annotate secret {} -n {namespace} --overwrite {}={name}",
        wanted.target,
        annotation::ADOPT
    );
    let way_out = match never {
        Some(_) => String::new(),
        None if wanted.adopt_existing => format!(", or have it adopted: {command}"),
        None => format!(", or have it adopted: set target.adoptExisting: true and run: {command}"),
    };
    Some(Conflict::Foreign {
        secret: secret.clone(),
        owner,
        way_out,
        awaits_annotation: wanted.adopt_existing && never.is_none(),
    })
}

fn create(key: &TokenKey, times: Times, wanted: &DesiredSecret<'_>) -> Plan {
    let written = rollout::stamps_of_new(key, times, wanted);
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

/// Without fractions of a second, which annotations do not hold.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
