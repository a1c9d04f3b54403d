//! What AWS answers.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::metrics::gauge::Gauge;
use zeroize::Zeroizing;

use crate::api::VersionId;

/// A secret's value, as one answer of AWS gave it. Overwritten when dropped.
pub struct RemoteValue {
    /// The secret's ARN.
    pub arn: Arc<str>,
    /// The secret's name.
    pub name: Arc<str>,
    /// The version that was read.
    pub version: VersionId,
    /// The version's staging labels.
    pub stages: Vec<Arc<str>>,
    /// When the version was made, in seconds since 1970.
    pub created: Option<i64>,
    /// The request's id, as in CloudTrail.
    pub request_id: Arc<str>,
    /// Who has read it: the ARN of the session or user, or the identity in words.
    pub identity: Arc<str>,
    payload: Zeroizing<Vec<u8>>,
    _weight: Weight,
}

impl RemoteValue {
    /// A value that AWS gave no more about; it counts nowhere.
    pub fn new(arn: &str, name: &str, version: VersionId, payload: Vec<u8>) -> Self {
        Self {
            arn: arn.into(),
            name: name.into(),
            version,
            stages: Vec::new(),
            created: None,
            request_id: "".into(),
            identity: "".into(),
            _weight: ValueMeter::default().weigh(payload.len()),
            payload: Zeroizing::new(payload),
        }
    }

    pub(super) fn weighed(self, meter: &ValueMeter) -> Self {
        Self {
            _weight: meter.weigh(self.payload.len()),
            ..self
        }
    }

    /// The bytes of the string or binary, unchanged.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl fmt::Debug for RemoteValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            arn,
            name,
            version,
            stages,
            created,
            request_id,
            identity,
            payload: _,
            _weight,
        } = self;
        f.debug_struct("RemoteValue")
            .field("arn", arn)
            .field("name", name)
            .field("version", version)
            .field("stages", stages)
            .field("created", created)
            .field("request_id", request_id)
            .field("identity", identity)
            .finish_non_exhaustive()
    }
}

/// Counts the bytes of the values that are in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct ValueMeter(Gauge);

impl ValueMeter {
    /// A meter that shows the size of all values here.
    pub(super) fn new(bytes: Gauge) -> Self {
        Self(bytes)
    }

    fn weigh(&self, bytes: usize) -> Weight {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.inc_by(bytes);
        Weight {
            bytes,
            all: self.0.clone(),
        }
    }

    /// Bytes of all values in memory.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.0.get()).unwrap_or_default()
    }
}

/// What one value weighs, until it is dropped.
struct Weight {
    bytes: i64,
    all: Gauge,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.dec_by(self.bytes);
    }
}

/// A secret as `DescribeSecret` and `ListSecrets` show it. Times in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its ARN.
    pub arn: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The staging labels of its labelled versions, those without a value included.
    pub stages: BTreeMap<VersionId, Vec<Arc<str>>>,
    /// Whether it is marked for deletion.
    pub deleted: bool,
    /// Whether rotation is on.
    pub rotation_enabled: bool,
    /// The last successful rotation.
    pub last_rotated: Option<i64>,
    /// On or before this the next rotation starts.
    pub next_rotation: Option<i64>,
    /// How long a rotation may take from its earliest start, as AWS writes it: `3h`.
    pub rotation_window: Option<Arc<str>>,
    /// The schedule, if it is an expression: `rate(4 hours)`, `cron(0 8 * * ? *)`.
    pub rotation_schedule: Option<Arc<str>>,
}

/// Whom AWS takes an identity for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The account.
    pub account: Arc<str>,
    /// The ARN of the user or session.
    pub arn: Arc<str>,
}
