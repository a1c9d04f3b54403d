//! What users write and what every room calls by the same name. No IO.
//!
//! The kinds and their schemas, what their fields mean when they are left out, the words of status, conditions and
//! events, the names of labels and annotations, the tokens that annotations hold, and which keys a store lets read.

pub mod allowed;
pub mod arn;
mod block;
pub mod caps;
pub mod crds;
mod cron;
pub mod external_secret;
mod glob;
pub mod interval;
mod key_changes;
pub mod names;
pub mod object;
pub mod reason;
mod refused;
pub mod remote;
pub mod restart;
mod schema;
pub mod status;
pub mod store;
pub mod time;
pub mod token;
pub mod validate;
pub mod window;
pub mod workload_state;

pub use allowed::AllowedKeys;
pub use arn::SecretArn;
pub use crds::{crds, to_yaml};
pub use external_secret::{
    CreationPolicy, DataEntry, DataFromEntry, DeletionPolicy, Entry, EntryPath, ExternalSecret,
    ExternalSecretSpec, RefreshPolicy, RemoteRef, StoreKind, StoreRef, Target,
};
pub use interval::Interval;
pub use key_changes::{KeyChange, KeyChanges};
pub use object::{ApiGroup, ObjectKey};
pub use reason::{ConditionType, EventReason, Reason, Status};
pub use remote::{Selector, SourceId, VersionId};
pub use restart::{
    DeadlinePolicy, Discovery, FirstWrite, OnFailure, Pacing, Reloader, RestartDeadline, RestartHealth,
    RestartMode, RestartPolicy, RestartSpec, RestartStrategy, RestartTarget, RestartTrigger, RestartWindow,
    RotationSpec, RotationStrategy, TargetSelector, WorkloadKind,
};
pub use status::{
    Capabilities, ExternalSecretStatus, RestartException, RestartStatus, RotationStatus, SourceStatus,
    StoreStatus, TargetStatus,
};
pub use store::{
    Auth, AwsProvider, ChangeDetection, ClusterSecretStore, ClusterSecretStoreSpec, JwtAuth, KeyAuth,
    Provider, SecretKeyRef, SecretStore, SecretStoreSpec, Service, ServiceAccountRef, StoreCondition,
    StoreSpec,
};
pub use token::{Token, TokenKey};
pub use validate::Invalid;
pub use window::{Opening, Window};
pub use workload_state::WorkloadState;
