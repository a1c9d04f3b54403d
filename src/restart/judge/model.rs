//! The words of the judgement: what a workload is judged by, where it stands, and the restart that follows. Pure.

use jiff::Timestamp;

use super::{membership::Terms, rollout::Failure, state::Hold};
use crate::{
    api::{ObjectKey, RestartStrategy},
    cluster::Control,
    restart::observed::{
        managed_secrets::ManagedSecret,
        model::{Annotations, Pod, Record, Workload, WorkloadKey},
    },
};

/// What holds for all workloads.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The API server's time.
    pub now: Timestamp,
    /// The ConfigMap `keyturn-control`, if there is one.
    pub control: Option<&'a Control>,
    /// Whether the operator may evict pods.
    pub evict_allowed: bool,
}

/// What is seen of a workload.
#[derive(Clone, Copy, Debug)]
pub struct ObservedWorkload<'a> {
    /// Its name.
    pub key: &'a WorkloadKey,
    /// Itself.
    pub workload: &'a Workload,
    /// The annotations of its Namespace.
    pub namespace: &'a Annotations,
    /// Pods, if they were listed.
    pub pods: Option<PodList<'a>>,
}

/// Pods of a namespace.
#[derive(Clone, Copy, Debug)]
pub struct PodList<'a> {
    /// All of them, or those of one workload at least.
    pub pods: &'a [&'a Pod],
    /// A time before they were listed.
    pub at: Timestamp,
}

/// A workload that has to do with restarts.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Its name.
    pub key: WorkloadKey,
    /// Its uid.
    pub uid: Box<str>,
    /// What it must follow; empty if it only rolls out for what it had to follow before.
    pub claims: Vec<Claim>,
    /// Whether it rolls out for us now, for whatever content.
    pub rolling: bool,
    /// The slot that it holds meanwhile.
    pub slot: HeldSlot,
    /// Whether it is healthy, or was before the rollout that is under way.
    pub healthy: bool,
    /// When our last patch of it was taken.
    pub patched_at: Option<Timestamp>,
    /// The first of the changes that ask for its next restart and follow each other without a rest.
    pub changing_since: Option<Timestamp>,
    /// What keeps its rollout from going on, in a sentence.
    pub obstacle: Option<String>,
    /// A request that was refused, for now.
    pub refused: Option<Hold>,
    /// When its pods must be listed to know more.
    pub pods_wanted: Option<Timestamp>,
    /// What is to be recorded on the workload.
    pub notes: Vec<Note>,
}

/// The slot that a workload holds while it rolls out. The later ones include the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldSlot {
    /// None.
    None,
    /// One of its namespace: after half an hour the one of the cluster is free for others.
    Namespace,
    /// One of its namespace and one of the cluster.
    Cluster,
}

/// A content that a workload must follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Whose.
    pub object: ManagedSecret,
    /// When it changed.
    pub changed_at: Timestamp,
    /// When it was there for sure, as far as this process knows: from then on it settles.
    pub there_at: Timestamp,
    /// How.
    pub terms: Terms,
    /// How far it is.
    pub standing: Standing,
    /// What holds it up, if it is stale.
    pub hold: Option<Hold>,
    /// The number of the attempt that comes next.
    pub attempt: u8,
    /// Whether the workload rolls out for this Secret, now or for older content: it holds one of its slots.
    pub rolling: bool,
}

/// How far a workload is with a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its pods are not known.
    Unknown,
    /// No pod holds older content.
    Done,
    /// So many pods do.
    Stale(usize),
    /// It was restarted and rolls out.
    Rolling,
    /// It was restarted and does not get there.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether it was healthy before.
        was_healthy: bool,
    },
}

/// A record of what became of a content, to be written on the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The hash of the Secret's name.
    pub hash: Box<str>,
    /// The content's token.
    pub token: Box<str>,
    /// What.
    pub what: NoteKind,
    /// What is reported once the note is written.
    pub alert: Option<String>,
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// The rollout failed, for this reason; nothing is written where that is known already, or nothing may be.
    Failed(Option<Box<str>>),
    /// The rollout works again.
    Recovered,
    /// It was restarted so often, and that was taken back along with its record.
    Attempts(Record),
}

impl NoteKind {
    /// Whether it is that the rollout failed.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Whether there is anything to write.
    pub const fn is_written(&self) -> bool {
        !matches!(self, Self::Failed(None))
    }
}

/// A workload to restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its name.
    pub key: WorkloadKey,
    /// Its uid.
    pub uid: Box<str>,
    /// How.
    pub strategy: RestartStrategy,
    /// For which contents: never empty.
    pub causes: Vec<Cause>,
    /// Whether the old credential is dead or about to die.
    pub urgent: bool,
}

/// One content that a restart is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The ExternalSecret.
    pub object: ObjectKey,
    /// The Secret's name.
    pub secret: Box<str>,
    /// What is written.
    pub stamp: Stamp,
}

/// A content that a workload is brought to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The hash of the Secret's name.
    pub hash: Box<str>,
    /// What its template and the workload itself will say.
    pub record: Record,
    /// When the content changed.
    pub changed_at: Timestamp,
}
