//! Logs, the audit log, the metrics registry, the HTTP server and the webhook of alerts.
//!
//! Promises: no crate but our own can write below `error`, whatever level is asked for; every line of the audit log
//! is JSON with agreed fields only; the server answers from the first second and holds a bounded number of
//! connections, each for a bounded time. Rooms own their metrics and emit audit events by `tracing`; they do not
//! name this room.

pub mod alerts;
pub mod audit;
mod connections;
mod exposition;
mod listen;
pub mod logs;
pub mod metrics;
pub mod server;

pub use alerts::{Alert, AlertSink, Webhook};
pub use logs::{Format, Logs};
pub use server::{Readiness, Server};

/// What went wrong while the process set itself up to be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's `--log` is not a list of directives.
    #[error(
        "the log filter {0:?} cannot be understood: a level, or directives like keyturn::track=debug, are expected"
    )]
    Filter(String),
    /// Another subscriber was there first.
    #[error("the process already has a log")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    /// The address is taken, or may not be bound.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address as asked for.
        address: std::net::SocketAddr,
        /// Why the system refused.
        source: std::io::Error,
    },
    /// The accept loop ended.
    #[error("failed to serve health and metrics")]
    Serve(#[source] std::io::Error),
}
