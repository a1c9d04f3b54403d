//! `refreshInterval`.

use std::time::Duration;

/// What applies when no interval is given.
pub const DEFAULT: Duration = Duration::from_hours(1);
/// The longest text that is read.
const LONGEST: usize = 32;

/// How often AWS is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interval {
    /// Until the first success, then never again.
    Once,
    /// At least once in this time.
    Every {
        /// The time that applies.
        wait: Duration,
        /// The shorter time that was asked for, if it was raised to the operator's minimum.
        raised_from: Option<Duration>,
    },
}

impl Interval {
    /// Reads `refreshInterval`: absent is an hour, 0 is once, below `minimum` is raised to it.
    pub fn parse(text: Option<&str>, minimum: Duration) -> Result<Self, BadInterval> {
        let asked = text.map_or(Ok(DEFAULT), parse_go)?;
        Ok(if asked.is_zero() {
            Self::Once
        } else if asked < minimum {
            Self::Every {
                wait: minimum,
                raised_from: Some(asked),
            }
        } else {
            Self::Every {
                wait: asked,
                raised_from: None,
            }
        })
    }

    /// The time between two checks, if there is more than one.
    pub fn wait(self) -> Option<Duration> {
        match self {
            Self::Once => None,
            Self::Every { wait, .. } => Some(wait),
        }
    }
}

/// A text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a Go duration such as 1h30m; days are not supported")]
pub struct BadInterval;

/// Reads a duration as Go's `time.ParseDuration` does, refusing negative ones and those over about 292 years, which Go's
/// 64 bits of nanoseconds cannot hold either.
pub fn parse_go(text: &str) -> Result<Duration, BadInterval> {
    if text.len() > LONGEST {
        return Err(BadInterval);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(BadInterval);
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(BadInterval);
        }
        let (unit, after) = unit(after)?;
        let part = scaled(whole, fraction, unit).ok_or(BadInterval)?;
        nanos = nanos
            .checked_add(part)
            .filter(|nanos| i64::try_from(*nanos).is_ok())
            .ok_or(BadInterval)?;
        rest = after;
    }
    Ok(Duration::from_nanos(nanos))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The unit at the start of `text` in nanoseconds, and what follows it.
fn unit(text: &str) -> Result<(u64, &str), BadInterval> {
    // Longer names first: `m` is a prefix of `ms`. The micro sign and the Greek letter both occur.
    [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ]
    .into_iter()
    .find_map(|(name, nanos)| Some((nanos, text.strip_prefix(name)?)))
    .ok_or(BadInterval)
}

/// `whole.fraction` units; what is less than a nanosecond is dropped.
fn scaled(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit.to_digit(10)?).checked_mul(place)?)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("1h", 3_600_000),
            ("1h0m0s", 3_600_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5m", 30_000),
            ("90s", 90_000),
            ("250ms", 250),
            ("1500us", 1),
            ("1500\u{b5}s", 1),
            ("+5m", 300_000),
        ] {
            assert_eq!(parse_go(text).map(|d| d.as_millis()), Ok(millis), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_or_a_refresh_cannot_mean_is_refused() {
        for text in [
            "",
            " ",
            "1",
            "h",
            "1d",
            "-1h",
            "1h ",
            "1 h",
            ".s",
            "1..5s",
            "1e3s",
            "99999999999999999h",
            "2562048h",
        ] {
            assert_eq!(parse_go(text), Err(BadInterval), "{text}");
        }
        assert_eq!(parse_go(&"9".repeat(40)), Err(BadInterval));
    }

    #[test]
    fn short_intervals_are_raised_and_zero_reads_once() {
        let minimum = Duration::from_secs(30);
        let every = |secs| Interval::Every {
            wait: Duration::from_secs(secs),
            raised_from: None,
        };
        for (text, interval) in [
            (None, every(3600)),
            (Some("30s"), every(30)),
            (Some("0"), Interval::Once),
            (Some("0h0m0s"), Interval::Once),
            (
                Some("1s"),
                Interval::Every {
                    wait: minimum,
                    raised_from: Some(Duration::from_secs(1)),
                },
            ),
        ] {
            assert_eq!(Interval::parse(text, minimum), Ok(interval), "{text:?}");
        }
        assert_eq!(Interval::parse(Some("soon"), minimum), Err(BadInterval));
    }
}
