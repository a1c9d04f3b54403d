//! The AWS emulator: Secrets Manager, STS and as much IAM as Keyturn's users write, in memory.
//!
//! It promises to be strict: a request that AWS would refuse is refused with AWS's code and shape, rights and
//! signatures included. It is fast (no call scans what is stored), it records every call, and it misbehaves only as
//! its fault rules say. Replicas, managed secrets, Parameter Store, queues and events are not here.
//!
//! ```no_run
//! use testbed::aws::{AwsEmulator, Options, documents};
//!
//! let aws = AwsEmulator::start(Options::default())?;
//! let arn = aws.create_secret("111122223333", "eu-central-1", "prod/db", "first")?;
//! let keys = aws.create_user(
//!     "arn:aws:iam::111122223333:user/reader",
//!     &[&documents::allow(&["secretsmanager:GetSecretValue"], &[&arn])],
//! )?;
//! // Point a client at `aws.url()` with AWS_ENDPOINT_URL and these keys.
//! # anyhow::Ok(())
//! ```

mod connection;
mod control;
pub mod documents;
mod error;
mod faults;
mod iam;
mod jwt;
mod operations;
mod policy;
mod record;
mod rotation;
mod secrets;
mod server;
mod sigv4;
mod sts;
mod versions;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, atomic::AtomicBool},
};

pub use self::{
    control::{Control, Keys},
    error::ApiError,
    faults::{Fault, FaultId, Match, Staleness},
    record::{Call, Calls, Mark},
    rotation::Rotation,
    secrets::KmsKey,
    server::{AwsEmulator, Options},
    versions::SecretValue,
};

/// Everything the emulator holds.
struct State {
    url: String,
    stores: secrets::Stores,
    iam: iam::Iam,
    /// By issuer URL.
    providers: RwLock<HashMap<String, Arc<jwt::Provider>>>,
    faults: faults::Faults,
    record: record::Record,
    unreachable: Arc<AtomicBool>,
}
