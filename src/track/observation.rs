//! What the tracker is told: answers of AWS, without values.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::{Selector, SourceId, VersionId},
    track::Now,
};

/// The staging labels of a secret's labelled versions.
pub type Stages = BTreeMap<VersionId, Vec<Arc<str>>>;

/// An answer of AWS to an effect, or to a call that the caller made on its own.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A value was read, by `GetSecretValue` or in a batch.
    Value {
        /// Where.
        source: SourceId,
        /// The key as given in the effect or want.
        key: Arc<str>,
        /// What was asked for. A read pinned by `VersionId` says nothing of stages: `Selector::Version`.
        selector: Selector,
        /// The version that came with the value.
        version: VersionId,
        /// The secret's ARN.
        arn: Arc<str>,
        /// The secret's name.
        name: Arc<str>,
        /// When the version was made, in seconds since 1970.
        created: Option<i64>,
    },
    /// `DescribeSecret` has answered.
    Described {
        /// Where.
        source: SourceId,
        /// The key as given in the effect.
        key: Arc<str>,
        /// The secret.
        secret: Described,
        /// When the call began, or before.
        begun: Now,
    },
    /// A page of a sweep, or several.
    Listed {
        /// Where.
        source: SourceId,
        /// The secrets of the page, wanted or not.
        entries: Vec<Described>,
        /// Whether this ends the sweep, every page having been observed.
        complete: bool,
    },
    /// A read of one version has failed, as an answer to an effect or in a call of the caller's own.
    Unread {
        /// Where.
        source: SourceId,
        /// The key as given in the effect or want.
        key: Arc<str>,
        /// What was to be read.
        selector: Selector,
        /// How it failed.
        failure: Failure,
        /// The same in words for users.
        text: Arc<str>,
        /// When the call began, or before.
        begun: Now,
        /// Whether the secret was described since, and is not known to be gone.
        described: bool,
        /// Whether it failed alone, not with a whole batch.
        alone: bool,
    },
    /// A call has failed, or an id of a batch has. Of a read, AWSCURRENT has failed, unless the failure names a stage. Every key of the effect must be answered, by this or by a value.
    Failed {
        /// Where.
        source: SourceId,
        /// Which call.
        call: Call,
        /// The keys concerned; none for a List.
        keys: Vec<Arc<str>>,
        /// How.
        failure: Failure,
        /// When the call began, or before.
        begun: Now,
    },
}

/// A secret as `DescribeSecret` and `ListSecrets` show it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its ARN.
    pub arn: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its labelled versions.
    pub stages: Stages,
    /// Whether it is marked for deletion.
    pub deleted: bool,
    /// What it says of its rotation.
    pub rotation: Schedule,
}

/// What a secret says of its rotation. Times in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Whether rotation is on.
    pub enabled: bool,
    /// The last successful rotation.
    pub last: Option<i64>,
    /// On or before this the next one starts.
    pub next: Option<i64>,
    /// The next one starts at this time at the earliest.
    pub opens: Option<i64>,
}

/// Facts of a secret's rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// The version that carries AWSPENDING while another one is AWSCURRENT: in progress, or stuck.
    pub pending: Option<VersionId>,
    /// The schedule.
    pub schedule: Schedule,
}

/// A call of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `ListSecrets`.
    List,
    /// `DescribeSecret`.
    Describe,
    /// `GetSecretValue`, `BatchGetSecretValue`.
    Read,
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// AWS or the network will recover: the whole source backs off.
    Transient {
        /// Too many requests, rather than an outage.
        throttled: bool,
    },
    /// A batch gave no usable answer for this id, or an error of only this id that may pass; or calls for this secret alone
    /// fail so while others of the source are answered. It is asked for alone.
    Unanswered,
    /// The secret does not exist.
    NotFound,
    /// The secret is marked for deletion.
    MarkedForDeletion,
    /// No version with a value is there for this selector.
    StageNotFound(Selector),
    /// IAM or the secret's policy denies it.
    Denied,
    /// KMS denies it, or the key is disabled.
    KeyDenied,
    /// The identity's credentials are refused or cannot be had: everything of the source fails so.
    Identity,
    /// AWS calls the request wrong.
    Invalid,
    /// `ListSecrets` as such is denied: the source does without for a day.
    ListDenied,
    /// `BatchGetSecretValue` as such is denied: the source does without for a day.
    BatchDenied,
}

impl Failure {
    /// Whether it is what AWS says of a secret that is gone.
    pub(super) fn may_be_gone(&self) -> bool {
        matches!(self, Self::NotFound | Self::MarkedForDeletion)
    }
}
