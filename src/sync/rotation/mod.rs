//! Where the rotation of a credential stands: from the stages that AWS shows and from what was written. Pure.
//!
//! AWSPENDING on a version that is not current means that a rotation is under way, whether that version has a value or
//! not; nothing is ever read of it. How the credential rotates is found out when a rotation moved AWSCURRENT: the user
//! name before and after tells whether one user got another password or two take turns.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{Reason, RotationStatus, RotationStrategy, VersionId, interval},
    objects::{
        RotationRule,
        status::{RotationDraft, Verdict},
    },
    track,
};

/// What is seen of one remote secret.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its key, as the spec has it.
    pub key: &'a str,
    /// Its stages and schedule; none while they were not seen.
    pub rotation: Option<&'a track::Rotation>,
    /// Whether AWS will not show them.
    pub hidden: bool,
}

/// Whether the user name in the value stayed the same when the value changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// It did.
    Same,
    /// It is another one.
    Other,
    /// There was none before, or is none now.
    Unknown,
}

impl Users {
    /// From the tokens before and after.
    pub fn compare(before: Option<&str>, after: Option<&str>) -> Self {
        match (before, after) {
            (Some(before), Some(after)) if before == after => Self::Same,
            (Some(_), Some(_)) => Self::Other,
            _ => Self::Unknown,
        }
    }

    fn strategy(self) -> RotationStrategy {
        match self {
            Self::Same => RotationStrategy::SingleUser,
            Self::Other => RotationStrategy::AlternatingUsers,
            Self::Unknown => RotationStrategy::Opaque,
        }
    }
}

/// What this process saw of the last change until it is clear whether a rotation made it: the value and the time of the
/// rotation come by different calls, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// The value changed, then.
    pub moved: Option<(Timestamp, Users)>,
    /// AWS showed a new rotation, then.
    pub rotated: Option<Timestamp>,
}

/// A value that changed tells nothing of the strategy if no rotation shows within this: it was put by hand, or AWS shows the
/// date of the rotation too late.
const BY_HAND: SignedDuration = SignedDuration::from_mins(2);
/// A rotation that changed no value of ours is forgotten after this: a sweep and a doubted version take a while.
const NOT_OURS: SignedDuration = SignedDuration::from_mins(15);

/// Where it stands, and when to look again though nothing was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// For the status; none as long as nothing can be said.
    pub draft: Option<RotationDraft>,
    /// For the next look.
    pub traces: Traces,
    /// When time alone changes it.
    pub again: Option<Timestamp>,
}

/// Judges from what is seen. Where `rotation` is wrong, the condition says so, and the rest is judged as without it.
pub fn judge(now: Timestamp, rule: &RotationRule, seen: &[Seen<'_>], traces: Traces) -> Judged {
    let mut judged = judge_seen(now, rule, seen, traces);
    if let Some(invalid) = &rule.invalid {
        let said = || rule.said.clone().unwrap_or_default();
        judged.draft = Some(RotationDraft {
            status: judged.draft.map_or_else(said, |draft| draft.status),
            verdict: Verdict::fails(Reason::InvalidSpec, format!("{invalid}. Values are still synced")),
        });
    }
    judged
}

fn judge_seen(now: Timestamp, rule: &RotationRule, seen: &[Seen<'_>], mut traces: Traces) -> Judged {
    let visible: Vec<_> = seen
        .iter()
        .filter_map(|seen| Some((seen.key, seen.rotation?)))
        .collect();
    let before = rule.said.clone().unwrap_or_default();
    // What was never seen, or not all, says nothing: a first look comes within half an hour.
    if visible.is_empty() || (before.state.is_none() && visible.len() < seen.len()) {
        let hidden = seen.iter().find(|seen| seen.hidden);
        return Judged {
            draft: hidden.map(|hidden| RotationDraft {
                status: RotationStatus {
                    state: None,
                    pending_version_id: None,
                    pending_since: None,
                    strategy: Some(settled(rule, &before).as_str().to_owned()),
                    ..before
                },
                verdict: Verdict::unknown(
                    Reason::StagesNotVisible,
                    format!(
                        "AWS does not show the stages of {}, so a rotation cannot be seen: allow \
                         secretsmanager:DescribeSecret",
                        hidden.key
                    ),
                ),
            }),
            traces,
            again: None,
        };
    }

    let last = visible.iter().filter_map(|(_, seen)| seen.schedule.last).max();
    let was_last = before.last_rotated.as_ref().map(|at| at.0.as_second());
    if before.state.is_some() && last > was_last {
        traces.rotated.get_or_insert(now);
    }
    let (strategy, mut again) = strategy(now, rule, &before, &mut traces);

    let enabled = || visible.iter().filter(|(_, seen)| seen.schedule.enabled);
    let next = enabled().filter_map(|(_, seen)| seen.schedule.next).min();
    let outlives = matches!(
        strategy,
        RotationStrategy::AlternatingUsers | RotationStrategy::Overlap
    );
    let deadline = enabled()
        .filter_map(|(_, seen)| seen.schedule.opens.or(seen.schedule.next))
        .min()
        .filter(|_| outlives);
    let pending = pending(&visible, &before);
    let since = pending.map(|(_, version)| {
        before
            .pending_since
            .as_ref()
            .filter(|_| before.pending_version_id.as_deref() == Some(&*version.0))
            .map_or(now, |since| since.0)
    });
    let stuck_at = since.and_then(|since| since.checked_add(rule.timeout).ok());
    let (state, verdict) = match (pending, stuck_at) {
        (None, _) => ("Idle", Verdict::holds(Reason::Idle, "no rotation is under way")),
        (Some((key, _)), Some(at)) if now >= at => ("Stuck", stuck(key, rule.timeout)),
        (Some((key, _)), at) => {
            again = again.into_iter().chain(at).min();
            (
                "InProgress",
                Verdict::holds(
                    Reason::InProgress,
                    format!(
                        "a rotation of {key} is under way: AWSPENDING is on a version that is not current"
                    ),
                ),
            )
        }
    };
    let status = RotationStatus {
        state: Some(state.to_owned()),
        pending_version_id: pending.map(|(_, version)| version.to_string()),
        pending_since: since.map(whole).map(Time),
        strategy: Some(strategy.as_str().to_owned()),
        last_rotated: last.and_then(time),
        next_rotation: next.and_then(time),
        deadline: deadline.and_then(time),
    };
    Judged {
        draft: Some(RotationDraft { status, verdict }),
        traces,
        again,
    }
}

fn stuck(key: &str, timeout: Duration) -> Verdict {
    Verdict::fails(
        Reason::RotationStuck,
        format!(
            "a rotation of {key} has been under way for more than {} minutes: AWSPENDING is on a version that is not \
             current. Check the log of the rotation function, take AWSPENDING away with `aws secretsmanager \
             update-secret-version-stage`, then rotate again",
            timeout.as_secs() / 60
        ),
    )
}

/// The rotation under way that speaks for all: the one that was told of, since it is the oldest, else the first.
fn pending<'a>(
    visible: &[(&'a str, &'a track::Rotation)],
    before: &RotationStatus,
) -> Option<(&'a str, &'a VersionId)> {
    let all = || {
        visible
            .iter()
            .filter_map(|(key, seen)| Some((*key, seen.pending.as_ref()?)))
    };
    all()
        .find(|(_, version)| before.pending_version_id.as_deref() == Some(&*version.0))
        .or_else(|| all().next())
}

/// How the credential rotates, and when that may turn out otherwise.
fn strategy(
    now: Timestamp,
    rule: &RotationRule,
    before: &RotationStatus,
    traces: &mut Traces,
) -> (RotationStrategy, Option<Timestamp>) {
    let age = |at: Timestamp| now.duration_since(at);
    let found = match *traces {
        Traces {
            moved: Some((_, users)),
            rotated: Some(_),
        } => {
            *traces = Traces::default();
            Some(users.strategy())
        }
        Traces {
            moved: Some((at, _)),
            rotated: None,
        } => {
            if age(at) < BY_HAND {
                return (settled(rule, before), at.checked_add(BY_HAND).ok());
            }
            *traces = Traces::default();
            None
        }
        Traces {
            moved: None,
            rotated: Some(at),
        } => {
            if age(at) >= NOT_OURS {
                *traces = Traces::default();
            }
            None
        }
        Traces { .. } => None,
    };
    let strategy = rule.strategy.or(found).unwrap_or_else(|| settled(rule, before));
    (strategy, None)
}

/// The strategy as it was told or found out before.
fn settled(rule: &RotationRule, before: &RotationStatus) -> RotationStrategy {
    let found = || RotationStrategy::parse(before.strategy.as_deref()?);
    rule.strategy
        .or_else(found)
        .filter(|strategy| *strategy != RotationStrategy::Auto)
        .unwrap_or(RotationStrategy::Opaque)
}

/// When at the earliest the rotation starts that starts on or before `next`, all in seconds since 1970: AWS opens a window
/// of `window`, by default the UTC day, or an hour where the schedule counts in hours.
pub fn opens(next: i64, window: Option<&str>, schedule: Option<&str>) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let told = window.and_then(|window| interval::parse_go(window).ok());
    let window = match told {
        Some(window) => seconds(window),
        None if schedule.is_some_and(in_hours) => 3600,
        None => return start_of_day(next),
    };
    next.saturating_sub(window)
}

/// `rate(4 hours)`, or a `cron(...)` whose field of hours names several.
fn in_hours(schedule: &str) -> bool {
    if schedule.starts_with("rate(") {
        return schedule.contains("hour");
    }
    schedule
        .trim_start_matches("cron(")
        .split_ascii_whitespace()
        .nth(1)
        .is_some_and(|hours| hours.contains(['/', ',', '*', '-']))
}

fn start_of_day(second: i64) -> i64 {
    let day = Timestamp::from_second(second)
        .ok()
        .and_then(|at| at.to_zoned(TimeZone::UTC).start_of_day().ok());
    day.map_or(second, |day| day.timestamp().as_second())
}

fn time(second: i64) -> Option<Time> {
    Timestamp::from_second(second).ok().map(Time)
}

/// Without fractions of a second, which the status does not hold.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests;
