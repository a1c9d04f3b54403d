//! What is kept of Secrets: tokens instead of data.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroize as _;

use super::{Change, Index, Indexed, Project, version::Version};
use crate::api::{
    KeyChanges, ObjectKey, TokenKey,
    caps::{self, capped},
    names::{OPAQUE, annotation},
    token,
};

/// A managed Secret without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEntry {
    /// Its uid.
    pub uid: Box<str>,
    /// Its resource version.
    pub resource_version: Box<str>,
    /// The name of the ExternalSecret that owns it, by annotation.
    pub owner: Option<Arc<str>>,
    /// The uid of its controller, by ownerReference.
    pub controller_uid: Option<Box<str>>,
    /// The token of the content it has.
    pub content: Box<str>,
    /// Whether the content is what the annotation recorded when we wrote it.
    pub content_intact: bool,
    /// The token of what its content was made from.
    pub inputs: Option<Box<str>>,
    /// The versions that its content was made from: the annotation as it stands, JSON unless edited. One that is longer than
    /// any that we write is none.
    pub versions: Option<Box<str>>,
    /// The token that pods must carry.
    pub rollout: Option<Box<str>>,
    /// When `rollout` last changed.
    pub changed_at: Option<Timestamp>,
    /// The first half of the scope that the Secret was last compared in.
    pub scope: Option<u64>,
    /// Since when restarts are wanted.
    pub restart_since: Option<Timestamp>,
    /// What few Secrets have.
    pub uncommon: Option<Box<Uncommon>>,
    /// Whether its data can never change.
    pub immutable: bool,
    /// Its type; `None` is `Opaque`.
    pub type_: Option<Arc<str>>,
}

/// What few Secrets have: the others pay little for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uncommon {
    /// The references that were gone in AWS when it was written.
    pub absent: Option<Absent>,
    /// Which keys changed when, where not all changed together.
    pub key_changes: Option<Arc<KeyChanges>>,
    /// stakater Reloader's annotations that say something on a Secret.
    pub reloader: Arc<BTreeMap<Box<str>, Box<str>>>,
}

impl Uncommon {
    fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// stakater Reloader's annotations on Secrets. Each holds a flag, and anything longer is no flag to Reloader either.
const RELOADER: [&str; 2] = ["reloader.stakater.com/ignore", "reloader.stakater.com/match"];

/// References that were gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent(Box<str>);

impl Absent {
    /// Those that the annotation `keyturn.dev/source` names, if it names any.
    pub fn of(source: &str) -> Option<Self> {
        let (_, hashes) = source.split_once(',')?;
        Some(Self(hashes.into()))
    }

    /// Whether the reference with this hash is one of them.
    pub fn contains(&self, hash: &str) -> bool {
        self.0.split(',').any(|absent| absent == hash)
    }
}

/// Secrets with our label.
pub(super) struct Secrets(pub(super) TokenKey);

/// The part of a Secret that is read at all.
#[derive(Deserialize)]
pub(super) struct Door {
    metadata: DoorMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
    #[serde(default, rename = "type")]
    type_: Option<String>,
    #[serde(default)]
    immutable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DoorMeta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    owner_references: Option<Vec<OwnerReference>>,
}

impl Project for Secrets {
    type Kind = Secret;
    type Object = Door;
    type Entry = SecretEntry;

    const LABELS: Option<&'static str> = Some("keyturn.dev/managed=true");

    fn project(&self, key: &ObjectKey, object: Door) -> SecretEntry {
        SecretEntry::cut(&self.0, key, object)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::Secret(key)
    }

    fn shown(&self, key: ObjectKey) -> Change {
        Change::OwnSecret(key)
    }
}

impl Index<SecretEntry> {
    /// Takes in a Secret as the API server answered our write, unless the watch has shown that or a newer state of it. The
    /// index holds it until the watch shows it, or a newer one: no change is reported for our own write but
    /// [`Change::OwnSecret`].
    ///
    /// Returns false if the Secret is gone by now. That may have been reported before the write was answered, or never, where
    /// the index has not held it before.
    #[must_use]
    pub fn wrote(&self, key: &ObjectKey, entry: SecretEntry) -> bool {
        let (version, now) = (Version::of(&entry.resource_version), Instant::now());
        let mut map = self.write();
        let held = map.objects.get(key).map(|slot| {
            let held = slot.object.entry();
            held.map_or(Version::NONE, |held| Version::of(&held.resource_version))
        });
        if map.writes.record(key, version, held, now) {
            let epoch = map.epoch;
            self.put(&mut map, key, Some(Indexed::Entry(Arc::new(entry))), epoch);
        }
        if let Some(lag) = map.writes.lag(now) {
            let seconds = lag.as_secs();
            tracing::warn!(
                seconds,
                "the watch of Secrets lags behind writes; until it has caught up, they are known by the answers of the API server"
            );
        }
        map.objects.contains_key(key)
    }
}

impl SecretEntry {
    /// The references that were gone in AWS when it was written.
    pub fn absent(&self) -> Option<&Absent> {
        self.uncommon.as_ref()?.absent.as_ref()
    }

    /// Which keys changed when, where not all changed together.
    pub fn key_changes(&self) -> Option<Arc<KeyChanges>> {
        self.uncommon.as_ref()?.key_changes.clone()
    }

    /// stakater Reloader's annotations that say something on a Secret.
    pub fn reloader(&self) -> Arc<BTreeMap<Box<str>, Box<str>>> {
        let uncommon = self.uncommon.as_ref();
        uncommon
            .map(|uncommon| Arc::clone(&uncommon.reloader))
            .unwrap_or_default()
    }

    /// What the index would keep of a Secret, whose values are wiped.
    pub fn of(tokens: &TokenKey, key: &ObjectKey, secret: Secret) -> Self {
        let Secret {
            metadata,
            data,
            type_,
            immutable,
            ..
        } = secret;
        let metadata = DoorMeta {
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            annotations: metadata.annotations,
            owner_references: metadata.owner_references,
        };
        let door = Door {
            metadata,
            data,
            type_,
            immutable,
        };
        Self::cut(tokens, key, door)
    }

    fn cut(tokens: &TokenKey, key: &ObjectKey, object: Door) -> Self {
        let Door {
            metadata,
            data,
            type_,
            immutable,
        } = object;
        let type_ = type_.filter(|type_| type_ != OPAQUE);
        let mut data = data.unwrap_or_default();
        let content: Box<str> = tokens
            .content(key, type_.as_deref().unwrap_or(OPAQUE), &data)
            .into();
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        drop(data);
        let mut annotations = metadata.annotations.unwrap_or_default();
        let mut take = |name: &str| annotations.remove(name).map(String::into_boxed_str);
        let owner = take(annotation::OWNER);
        let recorded = take(annotation::CONTENT);
        let rollout = take(annotation::ROLLOUT).filter(|text| token::is_text(text));
        let changed_at = take(annotation::CHANGED_AT).and_then(|time| time.parse().ok());
        let key_changes = take(annotation::KEY_CHANGES)
            .and_then(|text| KeyChanges::parse(&text, rollout.as_deref()?, changed_at));
        let absent = take(annotation::SOURCE)
            .filter(|text| text.len() <= annotation::SOURCE_LIMIT)
            .and_then(|source| Absent::of(&source));
        Self {
            uid: metadata.uid.into(),
            resource_version: metadata.resource_version.into(),
            // Mostly both have one name: then it is held once.
            owner: owner.map(|owner| {
                if *owner == *key.name {
                    Arc::clone(&key.name)
                } else {
                    capped(&owner, caps::NAME).into()
                }
            }),
            controller_uid: controller(metadata.owner_references),
            content_intact: recorded.as_ref() == Some(&content),
            content,
            inputs: take(annotation::INPUTS).map(|token| capped(&token, caps::TOKEN)),
            versions: take(annotation::VERSIONS).filter(|text| text.len() <= annotation::VERSIONS_LIMIT),
            rollout,
            changed_at,
            scope: {
                let (rescoped, scope) = (take(annotation::RESCOPED), take(annotation::SCOPE));
                let rescoped = rescoped.as_deref().and_then(token::rescoped);
                let latest = rescoped.map(|(scope, _)| scope).or(scope.as_deref());
                latest.and_then(token::short)
            },
            restart_since: take(annotation::RESTART_SINCE).and_then(|time| time.parse().ok()),
            uncommon: Uncommon {
                absent,
                key_changes: key_changes.map(Arc::new),
                reloader: Arc::new(reloader(annotations)),
            }
            .boxed(),
            immutable: immutable.unwrap_or_default(),
            type_: type_.map(|type_| capped(&type_, caps::NAME).into()),
        }
    }
}

/// The annotations by which stakater Reloader chooses Secrets, where they hold a word.
fn reloader(annotations: BTreeMap<String, String>) -> BTreeMap<Box<str>, Box<str>> {
    annotations
        .into_iter()
        .filter(|(name, value)| RELOADER.contains(&name.as_str()) && value.len() <= caps::WORD)
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn controller(references: Option<Vec<OwnerReference>>) -> Option<Box<str>> {
    let mut references = references.unwrap_or_default().into_iter();
    references
        .find(|reference| reference.controller == Some(true))
        .map(|reference| capped(&reference.uid, caps::UID))
}
