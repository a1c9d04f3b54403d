//! What is counted of the calls to AWS.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::sync::atomic::AtomicU64;
use tokio::time::Instant;

use super::error::Cause;

/// Calls to AWS: how many, how they ended, how long they took. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<Ended, Counter>,
    running: Family<Running, Gauge>,
    took: Family<Running, Histogram, fn() -> Histogram>,
    waited: Family<Running, Counter<f64, AtomicU64>>,
    bytes: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Running {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    operation: &'static str,
    code: &'static str,
}

/// Codes that are counted by name, so that no answer can make labels.
const CODES: [&str; 18] = [
    "AccessDenied",
    "AccessDeniedException",
    "DecryptionFailure",
    "ExpiredTokenException",
    "IDPCommunicationError",
    "IDPRejectedClaim",
    "InternalServiceError",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidNextTokenException",
    "InvalidParameterException",
    "InvalidRequestException",
    "InvalidSignatureException",
    "LimitExceededException",
    "ResourceNotFoundException",
    "ThrottlingException",
    "UnrecognizedClientException",
    "ValidationException",
];

impl Default for Metrics {
    fn default() -> Self {
        // From 5 ms, a near region's answer, to the 15 s that a call may take.
        let histogram = || Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0]);
        Self {
            calls: Family::default(),
            running: Family::default(),
            took: Family::new_with_constructor(histogram),
            waited: Family::default(),
            bytes: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Shows them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            calls,
            running,
            took,
            waited,
            bytes,
        } = self;
        registry.register(
            "aws_calls",
            "Calls to AWS by operation and AWS's error code",
            calls.clone(),
        );
        registry.register("aws_calls_running", "Calls to AWS in flight", running.clone());
        registry.register_with_unit(
            "aws_call_duration",
            "How long calls to AWS took",
            Unit::Seconds,
            took.clone(),
        );
        registry.register_with_unit(
            "aws_budget_wait",
            "How long calls to AWS waited for their turn in Keyturn's own budget",
            Unit::Seconds,
            waited.clone(),
        );
        registry.register_with_unit(
            "aws_values",
            "Size of the values in memory",
            Unit::Bytes,
            bytes.clone(),
        );
    }

    /// A call begins, after having waited for its turn.
    pub(super) fn start(&self, operation: &'static str, waited: Duration) -> Call<'_> {
        let running = Running { operation };
        if !waited.is_zero() {
            self.waited.get_or_create(&running).inc_by(waited.as_secs_f64());
        }
        self.running.get_or_create(&running).inc();
        Call {
            metrics: self,
            operation,
            start: Instant::now(),
        }
    }

    /// Bytes of values in memory, kept by those who weigh them.
    pub(super) fn values(&self) -> Gauge {
        self.bytes.clone()
    }
}

/// A call that runs, until it is dropped.
pub(super) struct Call<'a> {
    metrics: &'a Metrics,
    operation: &'static str,
    start: Instant,
}

impl Call<'_> {
    /// It has ended, well or not.
    pub(super) fn end(self, cause: Option<&Cause>) {
        let Self {
            metrics,
            operation,
            start,
        } = &self;
        let code = match cause {
            None => "OK",
            Some(Cause { code: None, .. }) => "NoAnswer",
            Some(Cause { code: Some(code), .. }) => CODES
                .iter()
                .copied()
                .find(|known| **known == **code)
                .unwrap_or("Other"),
        };
        metrics.calls.get_or_create(&Ended { operation, code }).inc();
        metrics
            .took
            .get_or_create(&Running { operation })
            .observe(start.elapsed().as_secs_f64());
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.metrics
            .running
            .get_or_create(&Running {
                operation: self.operation,
            })
            .dec();
    }
}
