//! Keyturn as its chart installs it, run as a process of this machine instead of in a Pod.
//!
//! helm installs the real chart; the Deployment that it makes then says what runs: arguments, environment and
//! `ServiceAccount`. So roles, admission policies and arguments are proved by whatever works. What a cluster on EKS adds
//! is added here: the downward API's fields, and what the webhook of IRSA injects.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::{aws::AwsEmulator, controlplane::ControlPlane, operator::{Install, Installed, StartOptions}};
//!
//! let cluster = ControlPlane::shared().await?;
//! let aws = AwsEmulator::start(testbed::aws::Options::default())?;
//! let installed = Installed::install(cluster, &aws, Install::new("keyturn", "keyturn")).await?;
//! let mut operator = installed.start(cluster, StartOptions::default()).await?;
//! operator.wait_ready().await?;
//! # Ok(())
//! # }
//! ```

mod deployment;
mod http;
mod install;
mod process;

pub use self::install::{CHART, Install, Installed, StartOptions, Values, built};
pub use self::process::{Metrics, Operator, Usage};
