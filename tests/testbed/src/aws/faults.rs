//! Faults by rule: what goes wrong, for whom, how often. Rules are added and removed while the emulator runs.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{error::ApiError, policy::like, secrets::SecretId};

/// Which calls a rule is for. Empty: all. Texts may hold the wildcards `*` and `?`.
#[derive(Debug, Clone, Default)]
pub struct Match {
    operations: Vec<String>,
    secret: Option<String>,
    principal: Option<String>,
    account: Option<String>,
}

impl Match {
    /// Every call.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only calls of this operation; may be given several times.
    #[must_use]
    pub fn operation(mut self, name: &str) -> Self {
        self.operations.push(name.to_owned());
        self
    }

    /// Only calls about a secret whose name or ARN matches. A batch matches if one of its ids does.
    #[must_use]
    pub fn secret(mut self, pattern: &str) -> Self {
        self.secret = Some(pattern.to_owned());
        self
    }

    /// Only calls by a principal whose ARN (of user, session or role) matches.
    #[must_use]
    pub fn principal(mut self, pattern: &str) -> Self {
        self.principal = Some(pattern.to_owned());
        self
    }

    /// Only calls by this account.
    #[must_use]
    pub fn account(mut self, id: &str) -> Self {
        self.account = Some(id.to_owned());
        self
    }

    fn matches(&self, site: &Site<'_>) -> bool {
        let Self {
            operations,
            secret,
            principal,
            account,
        } = self;
        (operations.is_empty() || operations.iter().any(|o| like(o, site.operation)))
            && account.as_deref().is_none_or(|a| a == site.account)
            && principal
                .as_deref()
                .is_none_or(|p| like(p, site.principal) || like(p, site.owner))
            && secret.as_deref().is_none_or(|pattern| {
                site.ids
                    .iter()
                    .any(|id| like(pattern, id) || like(pattern, SecretId::parse(id).name()))
            })
    }
}

/// How far behind stale answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// The state of this long ago.
    Behind(Duration),
    /// The state when the rule was added, until it is removed.
    Frozen,
}

/// What goes wrong. Probabilities run from 0 to 1.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// The answer takes this long, evenly distributed between the two.
    Latency {
        /// Shortest.
        from: Duration,
        /// Longest.
        to: Duration,
    },
    /// Calls above this rate, per account, region and operation, are throttled.
    Quota {
        /// Sustained rate; also how many may come at once.
        per_second: f64,
    },
    /// The call is throttled.
    Throttle {
        /// How often.
        probability: f64,
    },
    /// The call is refused.
    Error {
        /// HTTP status.
        status: u16,
        /// AWS's code.
        code: String,
        /// AWS's text.
        message: String,
        /// How often.
        probability: f64,
    },
    /// The connection is reset instead of an answer.
    Reset {
        /// How often.
        probability: f64,
    },
    /// No answer ever comes.
    Hang {
        /// How often.
        probability: f64,
    },
    /// Single ids of a batch fail in its `Errors`.
    BatchErrors {
        /// AWS's code.
        code: String,
        /// How often, per id.
        probability: f64,
    },
    /// Reads and listings serve a former state.
    Stale {
        /// How far behind.
        staleness: Staleness,
        /// How often, per secret and call.
        probability: f64,
    },
}

impl Fault {
    /// Every call is refused with this HTTP status and code, for instance `IDPCommunicationError`.
    pub fn error(status: u16, code: &str) -> Self {
        Self::Error {
            status,
            code: code.to_owned(),
            message: "Injected by a rule.".to_owned(),
            probability: 1.0,
        }
    }

    /// Every answer takes this long.
    pub fn latency(each: Duration) -> Self {
        Self::Latency { from: each, to: each }
    }

    /// Every call is answered with a server error.
    pub fn server_error() -> Self {
        Self::Error {
            status: 500,
            code: "InternalServiceError".to_owned(),
            message: "An internal service error occurred.".to_owned(),
            probability: 1.0,
        }
    }

    /// Every read or listing serves a former state.
    pub fn stale(staleness: Staleness) -> Self {
        Self::Stale {
            staleness,
            probability: 1.0,
        }
    }
}

/// Names a rule, to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(u64);

/// One call, as the rules see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) operation: &'a str,
    pub(super) ids: &'a [Cow<'a, str>],
    pub(super) principal: &'a str,
    pub(super) owner: &'a str,
    pub(super) account: &'a str,
    pub(super) region: &'a str,
}

/// What a call meets before it is worked.
#[derive(Debug, Default)]
pub(super) struct Weather {
    pub(super) latency: Duration,
    pub(super) hang: bool,
    pub(super) reset: bool,
}

struct Rule {
    id: FaultId,
    matching: Match,
    fault: Fault,
    added: Instant,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

pub(super) struct Faults {
    rules: RwLock<Vec<Arc<Rule>>>,
    next: AtomicU64,
    dice: AtomicU64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rules: RwLock::default(),
            next: AtomicU64::new(1),
            dice: AtomicU64::new(seed),
        }
    }

    pub(super) fn add(&self, matching: Match, fault: Fault) -> FaultId {
        let id = FaultId(self.next.fetch_add(1, Ordering::Relaxed));
        let rule = Rule {
            id,
            matching,
            fault,
            added: Instant::now(),
            buckets: Mutex::default(),
        };
        self.rules
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(rule));
        id
    }

    pub(super) fn remove(&self, id: FaultId) {
        self.rules
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|rule| rule.id != id);
    }

    pub(super) fn clear(&self) {
        self.rules.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn matching(&self, site: &Site<'_>) -> Vec<Arc<Rule>> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules
            .iter()
            .filter(|rule| rule.matching.matches(site))
            .cloned()
            .collect()
    }

    /// What happens on the wire.
    pub(super) fn weather(&self, site: &Site<'_>) -> Weather {
        let mut weather = Weather::default();
        for rule in self.matching(site) {
            match &rule.fault {
                Fault::Latency { from, to } => {
                    weather.latency += *from + to.saturating_sub(*from).mul_f64(self.roll());
                }
                Fault::Reset { probability } => weather.reset |= self.hits(*probability),
                Fault::Hang { probability } => weather.hang |= self.hits(*probability),
                _ => {}
            }
        }
        weather
    }

    /// A refusal by throttling or by error. `throttling` is the service's code for it.
    pub(super) fn refusal(&self, site: &Site<'_>, throttling: &'static str) -> Result<(), ApiError> {
        let throttled = || ApiError::new(throttling, "Rate exceeded");
        for rule in self.matching(site) {
            match &rule.fault {
                Fault::Quota { per_second } if !rule.take(site, *per_second) => return Err(throttled()),
                Fault::Throttle { probability } if self.hits(*probability) => return Err(throttled()),
                Fault::Error {
                    status,
                    code,
                    message,
                    probability,
                } if self.hits(*probability) => {
                    return Err(ApiError::with_status(*status, code.clone(), message.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The code with which one id of a batch fails.
    pub(super) fn batch_error(&self, site: &Site<'_>) -> Option<String> {
        self.matching(site).iter().find_map(|rule| match &rule.fault {
            Fault::BatchErrors { code, probability } if self.hits(*probability) => Some(code.clone()),
            _ => None,
        })
    }

    /// The moment whose state is served; `None`: now.
    pub(super) fn as_of(&self, site: &Site<'_>) -> Option<Instant> {
        self.matching(site)
            .iter()
            .filter_map(|rule| match &rule.fault {
                Fault::Stale {
                    staleness,
                    probability,
                } if self.hits(*probability) => match staleness {
                    Staleness::Behind(age) => Instant::now().checked_sub(*age),
                    Staleness::Frozen => Some(rule.added),
                },
                _ => None,
            })
            .min()
    }

    fn hits(&self, probability: f64) -> bool {
        probability >= 1.0 || self.roll() < probability
    }

    /// The next number of a seeded sequence in `0..1` (`SplitMix64`).
    fn roll(&self) -> f64 {
        let mut z = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        f64::from(u32::try_from(z >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Rule {
    fn take(&self, site: &Site<'_>, per_second: f64) -> bool {
        let now = Instant::now();
        let key = format!("{}/{}/{}", site.account, site.region, site.operation);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(key).or_insert_with(|| Bucket {
            tokens: per_second.max(1.0),
            filled: now,
        });
        let earned = now.duration_since(bucket.filled).as_secs_f64() * per_second;
        bucket.tokens = (bucket.tokens + earned).min(per_second.max(1.0));
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site<'a>(operation: &'a str, ids: &'a [Cow<'a, str>]) -> Site<'a> {
        Site {
            operation,
            ids,
            principal: "arn:aws:sts::1:assumed-role/r/s",
            owner: "arn:aws:iam::1:role/r",
            account: "1",
            region: "x",
        }
    }

    #[test]
    fn a_rule_is_for_the_calls_it_names() {
        let ids = [Cow::Borrowed(
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/db-AbCdEf",
        )];
        for (matching, expected) in [
            (Match::all(), true),
            (Match::all().operation("GetSecretValue"), true),
            (Match::all().operation("ListSecrets").operation("Get*"), true),
            (Match::all().operation("ListSecrets"), false),
            (Match::all().secret("prod/db"), true),
            (Match::all().secret("prod/*").account("1"), true),
            (Match::all().secret("dev/*"), false),
            (Match::all().account("2"), false),
            (Match::all().principal("*:role/r"), true),
            (Match::all().principal("*/r/s"), true),
            (Match::all().principal("*/other/*"), false),
        ] {
            assert_eq!(
                matching.matches(&site("GetSecretValue", &ids)),
                expected,
                "{matching:?}"
            );
        }
    }

    #[test]
    fn a_quota_lets_its_number_through_and_throttles_the_rest() {
        let faults = Faults::new(1);
        faults.add(Match::all(), Fault::Quota { per_second: 5.0 });
        let passed = (0..20)
            .filter(|_| faults.refusal(&site("A", &[]), "ThrottlingException").is_ok())
            .count();
        assert!((5..=6).contains(&passed), "{passed}");
        assert!(
            faults.refusal(&site("B", &[]), "ThrottlingException").is_ok(),
            "each operation has its own"
        );
    }

    #[test]
    fn the_dice_are_seeded_and_fair() {
        let rolls = |seed| {
            let faults = Faults::new(seed);
            (0..1000).map(|_| faults.hits(0.3)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        let hits = rolls(7).into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hits), "{hits}");
    }

    #[test]
    fn removing_a_rule_ends_its_fault() {
        let faults = Faults::new(1);
        let id = faults.add(Match::all(), Fault::server_error());
        assert!(faults.refusal(&site("A", &[]), "x").is_err());
        faults.remove(id);
        assert!(faults.refusal(&site("A", &[]), "x").is_ok());
    }
}
