//! What holds for all workloads of one ExternalSecret: how urgent it is, its window, its waves, and whether it is halted.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        DeadlinePolicy, ObjectKey, OnFailure, Opening, RestartMode, RotationStrategy, WorkloadState, window,
    },
    restart::{
        judge::{
            memory::Memory,
            model::{Claim, Judgement, Standing},
            state::Hold,
        },
        observed::managed_secrets::ManagedSecret,
        timing::{ROTATION_FOLLOWED, ROUND, later},
    },
};

/// The ExternalSecrets that workloads follow.
pub(super) struct ObjectPaces<'a>(BTreeMap<&'a ObjectKey, ObjectPace>);

/// How fast the workloads of an ExternalSecret are restarted.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct ObjectPace {
    pub(super) urgent: bool,
    /// Whether AWS showed a rotation that makes it urgent. What a spec declares alone shows nothing.
    pub(super) rotation_seen: bool,
    pub(super) halted: bool,
    /// The reply to a `keyturn.dev/resume` that does not end the halt.
    reply: Option<String>,
    /// Whether a failure of one workload leaves the others alone.
    pub(super) goes_on: bool,
    /// How many may roll out at once.
    pub(super) limit: usize,
    /// When the next workload may restart, by `minInterval`.
    pub(super) not_before: Option<Timestamp>,
    /// Whether there is a least time between two.
    pub(super) spaced: bool,
    /// Set while it waits for a window.
    closed: Option<ClosedWindow>,
    /// When the pace changes by itself.
    wake: Option<Timestamp>,
    /// The least wave that is not done.
    wave: Option<i32>,
}

/// No window is open.
#[derive(Clone, Copy)]
struct ClosedWindow {
    /// When the next one opens, if one does.
    opens: Option<Timestamp>,
}

impl<'a> ObjectPaces<'a> {
    pub(super) fn new(now: Timestamp, judgements: &[&'a Judgement], memory: &mut Memory) -> Self {
        let mut of: BTreeMap<&ObjectKey, Vec<(&Judgement, &Claim)>> = BTreeMap::new();
        for &judgement in judgements {
            for claim in &judgement.claims {
                of.entry(claim.object.key()).or_default().push((judgement, claim));
            }
        }
        Self(
            of.into_iter()
                .filter_map(|(key, claims)| {
                    let object = &claims.first()?.1.object;
                    Some((key, ObjectPace::new(now, object, &claims, memory)))
                })
                .collect(),
        )
    }

    pub(super) fn urgent(&self, object: &ObjectKey) -> bool {
        self.0.get(object).is_some_and(|pace| pace.urgent)
    }

    pub(super) fn rotation_seen(&self, object: &ObjectKey) -> bool {
        self.0.get(object).is_some_and(|pace| pace.rotation_seen)
    }

    pub(super) fn get(&self, object: &ObjectKey) -> Option<&ObjectPace> {
        self.0.get(object)
    }

    /// What a stale claim waits for, besides its turn.
    pub(super) fn wait(&self, now: Timestamp, claim: &Claim) -> Option<Hold> {
        if let Some(hold) = &claim.hold {
            return Some(hold.clone());
        }
        let pace = self.0.get(claim.object.key())?;
        if pace.halted {
            let token = &claim.object.content.rollout;
            let sentence = match &pace.reply {
                None => format!(
                    "another workload did not become healthy: mend it, or annotate the ExternalSecret with \
                     keyturn.dev/resume={token} to go on"
                ),
                Some(reply) => format!(
                    "{reply}. Another workload did not become healthy: mend it, or annotate the ExternalSecret with \
                     keyturn.dev/resume={token} to go on"
                ),
            };
            return Some(Hold::new(WorkloadState::Halted, sentence, None));
        }
        if let Some(ClosedWindow { opens: next }) = pace.closed {
            let until = pace.wake.into_iter().chain(next).filter(|time| *time > now).min();
            let sentence: Cow<'static, str> = match next {
                Some(next) => {
                    format!("it waits for a window of restart.windows; the next one opens at {next:.0}")
                        .into()
                }
                None => {
                    "it waits for a window, but none of restart.windows opens within four years: correct them"
                        .into()
                }
            };
            return Some(Hold::new(WorkloadState::WaitingForWindow, sentence, until));
        }
        (pace.wave.is_some_and(|wave| claim.terms.wave > wave)).then(|| {
            Hold::new(
                WorkloadState::WaitingForWave,
                "workloads of an earlier wave are not done",
                None,
            )
        })
    }

    pub(super) fn wakes(&self) -> impl Iterator<Item = Timestamp> {
        self.0.values().filter_map(|pace| pace.wake)
    }

    pub(super) fn states(&self) -> BTreeMap<ObjectKey, ObjectState> {
        let state = |pace: &ObjectPace| ObjectState {
            urgent: pace.urgent,
            halted: pace.halted,
            reply: pace.reply.clone(),
        };
        self.0
            .iter()
            .map(|(key, pace)| ((*key).clone(), state(pace)))
            .collect()
    }
}

impl ObjectPace {
    fn new(
        now: Timestamp,
        object: &ManagedSecret,
        claims: &[(&Judgement, &Claim)],
        memory: &mut Memory,
    ) -> Self {
        let restarts = &object.restarts;
        let policy = &restarts.policy;
        let stale = claims
            .iter()
            .filter(|(_, claim)| matches!(claim.standing, Standing::Stale(_)));
        let stale = stale.count();
        let urgency = urgency(now, object, stale);
        let urgent = urgency == Urgency::Now;
        // The approval decides the time: windows do not apply.
        let opening = if stale == 0 || policy.mode == RestartMode::Manual {
            window::opening(&[], now)
        } else {
            memory.opening(object, now)
        };
        let bypassed = urgent && policy.deadline == DeadlinePolicy::Bypass;
        let closed = match opening {
            Opening::Open { .. } => None,
            Opening::Closed { next } => (!bypassed).then_some(ClosedWindow { opens: next }),
        };
        let until = match opening {
            Opening::Open { until } => Some(until).filter(|until| *until < Timestamp::MAX),
            Opening::Closed { next } => next,
        };
        let limit = if urgent {
            policy.urgent_max_concurrent.max(policy.max_concurrent)
        } else {
            policy.max_concurrent
        };
        let goes_on = policy.on_failure == OnFailure::Continue
            || restarts.resumed.as_ref() == Some(&object.content.rollout);
        let failures = claims.iter().filter(|(_, claim)| is_failure(claim)).count();
        let halted = !goes_on && failures >= if urgent { 2 } else { 1 };
        let mut pace = Self {
            urgent,
            rotation_seen: urgent && rotation_seen(object),
            halted,
            reply: object.resumption_reply().filter(|_| halted),
            goes_on,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            spaced: !policy.min_interval.is_zero(),
            not_before: not_before(object, claims, memory.last_patch(object.key())),
            closed,
            wake: urgency.wake().into_iter().chain(until).min(),
            wave: None,
        };
        pace.wave = claims
            .iter()
            .filter(|(_, claim)| !is_passed(claim, &pace))
            .map(|(_, claim)| claim.terms.wave)
            .min();
        pace
    }
}

/// Whether the content came with a rotation that AWS reported, or another one has begun since.
fn rotation_seen(object: &ManagedSecret) -> bool {
    let restarts = &object.restarts;
    let changed = object.content.changed_at;
    let rotated = restarts.rotated_at.zip(changed);
    restarts.rotating || rotated.is_some_and(|(at, changed)| later(at, ROTATION_FOLLOWED) >= changed)
}

/// When the next workload may restart, by `minInterval`.
fn not_before(
    object: &ManagedSecret,
    claims: &[(&Judgement, &Claim)],
    last_patch: Option<Timestamp>,
) -> Option<Timestamp> {
    let interval = object.restarts.policy.min_interval;
    if interval.is_zero() {
        return None;
    }
    let ours = |(judgement, claim): &(&Judgement, &Claim)| {
        let done = matches!(
            claim.standing,
            Standing::Rolling | Standing::Done | Standing::Failed { .. }
        );
        judgement.patched_at.filter(|_| done)
    };
    let last = claims.iter().filter_map(ours).max().max(last_patch)?;
    SignedDuration::try_from(interval)
        .ok()
        .map(|interval| later(last, interval))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Now,
    From(Timestamp),
    Never,
}

impl Urgency {
    fn wake(self) -> Option<Timestamp> {
        match self {
            Self::From(time) => Some(time),
            Self::Now | Self::Never => None,
        }
    }
}

/// Whether the old credential is dead, or will be before `stale` workloads have been restarted.
fn urgency(now: Timestamp, object: &ManagedSecret, stale: usize) -> Urgency {
    let restarts = &object.restarts;
    match restarts.strategy {
        RotationStrategy::SingleUser => Urgency::Now,
        RotationStrategy::Auto | RotationStrategy::Opaque => Urgency::Never,
        RotationStrategy::AlternatingUsers | RotationStrategy::Overlap => {
            if restarts.rotating && stale > 0 {
                return Urgency::Now;
            }
            let Some(deadline) = restarts.deadline else {
                return Urgency::Never;
            };
            let policy = &restarts.policy;
            let at_once = usize::try_from(policy.urgent_max_concurrent.max(1)).unwrap_or(usize::MAX);
            let rounds = i64::try_from(stale.div_ceil(at_once)).unwrap_or(i64::MAX);
            let margin = SignedDuration::try_from(policy.margin).unwrap_or(SignedDuration::MAX);
            let ahead = margin.saturating_add(SignedDuration::from_secs(rounds.saturating_mul(ROUND)));
            match deadline.checked_sub(ahead) {
                Ok(from) if from > now => Urgency::From(from),
                Ok(_) | Err(_) => Urgency::Now,
            }
        }
    }
}

/// What holds for all workloads of an ExternalSecret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectState {
    /// Whether the old credential is dead or about to die.
    pub urgent: bool,
    /// Whether nothing more is restarted, after failures.
    pub halted: bool,
    /// The reply to a `keyturn.dev/resume` that does not resume the restarts of what is halted.
    pub reply: Option<String>,
}

/// Whether a failure counts towards a halt.
fn is_failure(claim: &Claim) -> bool {
    matches!(
        claim.standing,
        Standing::Failed {
            was_healthy: true,
            ..
        }
    )
}

/// Whether later waves need not wait for the claim.
fn is_passed(claim: &Claim, pace: &ObjectPace) -> bool {
    match (&claim.standing, &claim.hold) {
        (Standing::Done, _) => true,
        // A failure that halts is reported as a halt, not as a wave that is not done.
        (Standing::Failed { was_healthy, .. }, _) => !was_healthy || pace.goes_on,
        (Standing::Stale(_), Some(hold)) => hold.state.stays(),
        (Standing::Stale(_), None) | (Standing::Unknown | Standing::Rolling, _) => false,
    }
}
