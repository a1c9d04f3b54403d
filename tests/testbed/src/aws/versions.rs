//! Versions and staging labels of one secret: which version a label names, and the rules for moving labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{error::ApiError, policy::Policy};

pub(super) const CURRENT: &str = "AWSCURRENT";
pub(super) const PENDING: &str = "AWSPENDING";
pub(super) const PREVIOUS: &str = "AWSPREVIOUS";

/// Labels one version may carry.
const MAX_LABELS: usize = 20;
/// Versions kept; older ones without a label are dropped after a day.
const MAX_VERSIONS: usize = 100;

/// A secret's value.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// `SecretString`.
    Text(String),
    /// `SecretBinary`.
    Binary(Vec<u8>),
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(..)",
            Self::Binary(_) => "Binary(..)",
        })
    }
}

impl From<&str> for SecretValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for SecretValue {
    fn from(bytes: &[u8]) -> Self {
        Self::Binary(bytes.to_vec())
    }
}

/// One version. Without a value it is the placeholder of a rotation.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) value: Option<SecretValue>,
    pub(super) created: Timestamp,
}

/// When and by what a secret is rotated.
#[derive(Debug, Clone, Default)]
pub(super) struct RotationSettings {
    pub(super) enabled: bool,
    pub(super) lambda_arn: Option<String>,
    pub(super) every_days: Option<i64>,
    pub(super) last_rotated: Option<Timestamp>,
}

/// Everything about a secret that changes. A change makes a new one, so a former state can still be served.
#[derive(Debug, Clone)]
pub(super) struct SecretState {
    pub(super) description: Option<String>,
    pub(super) kms_key_id: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) resource_policy: Option<Arc<Policy>>,
    pub(super) rotation: RotationSettings,
    pub(super) changed: Timestamp,
    pub(super) deleted: Option<Timestamp>,
    versions: BTreeMap<String, Arc<Version>>,
    /// Label to version id: a label is on one version at a time by construction.
    labels: BTreeMap<String, String>,
}

impl SecretState {
    pub(super) fn new(
        description: Option<String>,
        kms_key_id: Option<String>,
        tags: BTreeMap<String, String>,
    ) -> Self {
        Self {
            description,
            kms_key_id,
            tags,
            resource_policy: None,
            rotation: RotationSettings::default(),
            changed: Timestamp::now(),
            deleted: None,
            versions: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Refuses what a secret marked for deletion cannot do.
    pub(super) fn alive(&self) -> Result<(), ApiError> {
        if self.deleted.is_some() {
            Err(ApiError::marked_for_deletion())
        } else {
            Ok(())
        }
    }

    /// The labelled versions, with or without a value, as `VersionIdsToStages` shows them.
    pub(super) fn stages(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut stages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (label, version) in &self.labels {
            stages.entry(version).or_default().push(label);
        }
        stages
    }

    pub(super) fn stages_of(&self, version: &str) -> Vec<&str> {
        self.labels
            .iter()
            .filter(|(_, v)| *v == version)
            .map(|(label, _)| label.as_str())
            .collect()
    }

    pub(super) fn version(&self, id: &str) -> Option<&Arc<Version>> {
        self.versions.get(id)
    }

    pub(super) fn versions(&self) -> impl Iterator<Item = (&String, &Arc<Version>)> {
        self.versions.iter()
    }

    pub(super) fn holder(&self, label: &str) -> Option<&str> {
        self.labels.get(label).map(String::as_str)
    }

    /// The version a read asks for, with its value.
    pub(super) fn select(
        &self,
        id: Option<&str>,
        stage: Option<&str>,
    ) -> Result<(String, Arc<Version>), ApiError> {
        self.alive()?;
        let wanted = match (id, stage) {
            (Some(id), _) => id,
            (None, stage) => {
                let stage = stage.unwrap_or(CURRENT);
                self.holder(stage)
                    .ok_or_else(|| ApiError::stage_not_found(stage))?
            }
        };
        let version = self
            .versions
            .get(wanted)
            .filter(|v| v.value.is_some())
            .ok_or_else(|| match id {
                Some(id) => ApiError::version_not_found(id),
                None => ApiError::stage_not_found(stage.unwrap_or(CURRENT)),
            })?;
        if let (Some(id), Some(stage)) = (id, stage)
            && self.holder(stage) != Some(id)
        {
            return Err(ApiError::request(
                "You provided a VersionStage that is not associated to the provided VersionId.",
            ));
        }
        Ok((wanted.to_owned(), version.clone()))
    }

    /// Adds a version with `labels`, or fills a placeholder. The same id and value again change nothing.
    pub(super) fn put(&mut self, id: &str, value: SecretValue, labels: &[String]) -> Result<(), ApiError> {
        self.alive()?;
        match self.versions.get(id).map(|v| v.value.as_ref()) {
            Some(Some(former)) if *former == value => return Ok(()),
            Some(Some(_)) => {
                return Err(ApiError::new(
                    "ResourceExistsException",
                    format!(
                        "You can't use ClientRequestToken {id} because that value is already in use for a version \
                         of secret."
                    ),
                ));
            }
            Some(None) | None => {}
        }
        let first = self.versions.is_empty();
        self.versions.insert(
            id.to_owned(),
            Arc::new(Version {
                value: Some(value),
                created: Timestamp::now(),
            }),
        );
        for label in labels {
            self.attach(label, id);
        }
        // The first version of a secret is current, whatever it was put as.
        if first {
            self.attach(CURRENT, id);
        }
        self.labels_fit(id)?;
        self.changed = Timestamp::now();
        self.drop_deprecated();
        Ok(())
    }

    /// Adds the placeholder a rotation begins with: AWSPENDING on a version without a value.
    pub(super) fn begin_rotation(&mut self, id: &str) -> Result<(), ApiError> {
        self.alive()?;
        if let Some(pending) = self.holder(PENDING)
            && self.holder(CURRENT) != Some(pending)
        {
            return Err(ApiError::request(
                "A previous rotation isn't complete. That rotation will be reattempted.",
            ));
        }
        self.versions.insert(
            id.to_owned(),
            Arc::new(Version {
                value: None,
                created: Timestamp::now(),
            }),
        );
        self.attach(PENDING, id);
        self.changed = Timestamp::now();
        Ok(())
    }

    /// `UpdateSecretVersionStage`.
    pub(super) fn move_label(
        &mut self,
        label: &str,
        to: Option<&str>,
        from: Option<&str>,
    ) -> Result<(), ApiError> {
        self.alive()?;
        for id in [to, from].into_iter().flatten() {
            if !self.versions.contains_key(id) {
                return Err(ApiError::version_not_found(id));
            }
        }
        let holder = self.holder(label).map(ToOwned::to_owned);
        if let Some(from) = from
            && holder.as_deref() != Some(from)
        {
            return Err(ApiError::parameter(format!(
                "The parameter RemoveFromVersionId isn't valid. Staging label {label} isn't currently attached to \
                 version {from}."
            )));
        }
        match (to, holder) {
            (None, _) if label == CURRENT => {
                return Err(ApiError::parameter(
                    "You can only move staging label AWSCURRENT to a different secret version. It can't be \
                     completely removed.",
                ));
            }
            (None, _) if from.is_none() => {
                return Err(ApiError::parameter(
                    "You must specify MoveToVersionId or RemoveFromVersionId.",
                ));
            }
            (None, _) => {
                self.labels.remove(label);
            }
            (Some(to), Some(holder)) if from.is_none() && holder != to => {
                return Err(ApiError::parameter(format!(
                    "The parameter RemoveFromVersionId can't be empty. Staging label {label} is currently attached \
                     to version {holder}, so you must explicitly reference that version in RemoveFromVersionId."
                )));
            }
            (Some(to), _) => self.attach(label, to),
        }
        if let Some(to) = to {
            self.labels_fit(to)?;
        }
        self.changed = Timestamp::now();
        self.drop_deprecated();
        Ok(())
    }

    /// Puts `label` on version `id`. When AWSCURRENT moves, AWSPREVIOUS follows to the version it left.
    fn attach(&mut self, label: &str, id: &str) {
        let former = self.labels.insert(label.to_owned(), id.to_owned());
        if label == CURRENT
            && let Some(former) = former
            && former != id
        {
            self.labels.insert(PREVIOUS.to_owned(), former);
        }
    }

    fn labels_fit(&self, id: &str) -> Result<(), ApiError> {
        if self.stages_of(id).len() > MAX_LABELS {
            return Err(ApiError::new(
                "LimitExceededException",
                format!("You can't attach more than {MAX_LABELS} staging labels to a version."),
            ));
        }
        Ok(())
    }

    /// Drops unlabelled versions older than a day that are not among the most recent hundred.
    fn drop_deprecated(&mut self) {
        let Some(mut excess) = self.versions.len().checked_sub(MAX_VERSIONS + 1).map(|n| n + 1) else {
            return;
        };
        let labelled: BTreeSet<&String> = self.labels.values().collect();
        let before = Timestamp::now() - SignedDuration::from_hours(24);
        let mut old: Vec<(Timestamp, String)> = self
            .versions
            .iter()
            .filter(|(id, v)| v.created < before && !labelled.contains(id))
            .map(|(id, v)| (v.created, id.clone()))
            .collect();
        old.sort();
        for (_, id) in old {
            if excess == 0 {
                break;
            }
            self.versions.remove(&id);
            excess -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SecretState {
        let mut state = SecretState::new(None, None, BTreeMap::new());
        state.put("v1", "one".into(), &[CURRENT.to_owned()]).unwrap();
        state
    }

    fn stages(state: &SecretState) -> Vec<(String, String)> {
        state.labels.iter().map(|(l, v)| (l.clone(), v.clone())).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(l, v)| ((*l).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn previous_follows_current_forwards_and_back() {
        let mut state = state();
        state.put("v2", "two".into(), &[CURRENT.to_owned()]).unwrap();
        assert_eq!(stages(&state), pairs(&[(CURRENT, "v2"), (PREVIOUS, "v1")]));
        state.put("v3", "three".into(), &[CURRENT.to_owned()]).unwrap();
        assert_eq!(stages(&state), pairs(&[(CURRENT, "v3"), (PREVIOUS, "v2")]));
        assert!(
            !state.stages().contains_key("v1"),
            "a deprecated version has no stages"
        );
        assert!(
            state.select(Some("v1"), None).is_ok(),
            "but it can still be read by its id"
        );
        state.move_label(CURRENT, Some("v2"), Some("v3")).unwrap();
        assert_eq!(stages(&state), pairs(&[(CURRENT, "v2"), (PREVIOUS, "v3")]));
    }

    #[test]
    fn a_label_moves_only_from_its_named_holder() {
        for (label, to, from, code) in [
            (CURRENT, Some("v2"), None, "InvalidParameterException"),
            (CURRENT, None, Some("v1"), "InvalidParameterException"),
            (CURRENT, Some("v2"), Some("v2"), "InvalidParameterException"),
            (CURRENT, Some("v9"), Some("v1"), "ResourceNotFoundException"),
            ("MINE", None, None, "InvalidParameterException"),
            ("MINE", None, Some("v1"), "InvalidParameterException"),
        ] {
            let mut state = state();
            state.put("v2", "two".into(), &[PENDING.to_owned()]).unwrap();
            assert_eq!(
                state.move_label(label, to, from).unwrap_err().code,
                code,
                "{label} {to:?} {from:?}"
            );
        }
        let mut state = state();
        state.move_label("MINE", Some("v1"), None).unwrap();
        state.move_label("MINE", None, Some("v1")).unwrap();
        assert_eq!(stages(&state), pairs(&[(CURRENT, "v1")]));
    }

    #[test]
    fn a_placeholder_has_a_stage_and_no_value_until_it_is_filled() {
        let mut state = state();
        state.begin_rotation("v2").unwrap();
        assert_eq!(stages(&state), pairs(&[(CURRENT, "v1"), (PENDING, "v2")]));
        assert_eq!(
            state.select(None, Some(PENDING)).unwrap_err(),
            ApiError::stage_not_found(PENDING)
        );
        assert!(state.begin_rotation("v3").is_err(), "one rotation at a time");
        state.put("v2", "two".into(), &[PENDING.to_owned()]).unwrap();
        assert_eq!(state.select(None, Some(PENDING)).unwrap().0, "v2");
        state.move_label(CURRENT, Some("v2"), Some("v1")).unwrap();
        assert!(
            state.begin_rotation("v3").is_ok(),
            "AWSPENDING on the current version means finished"
        );
    }

    #[test]
    fn a_version_carries_at_most_twenty_labels() {
        let mut state = state();
        for n in 0..19 {
            state.move_label(&format!("L{n}"), Some("v1"), None).unwrap();
        }
        assert_eq!(
            state
                .clone()
                .move_label("L19", Some("v1"), None)
                .unwrap_err()
                .code,
            "LimitExceededException"
        );
    }
}
