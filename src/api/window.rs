//! Times in which restarts may begin.

use std::{fmt, time::Duration};

use cronexpr::{Crontab, MakeTimestamp};
use jiff::{Timestamp, tz::TimeZone};

use super::{interval, restart::RestartWindow};

/// The shortest and the longest time that a window may stay open.
const LIMITS: std::ops::RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(7 * 24);

/// A window, read.
#[derive(Clone)]
pub struct Window {
    /// As it is written, to tell windows apart.
    text: Box<str>,
    opens: Box<Crontab>,
    duration: Duration,
}

/// Whether restarts may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Until then, that moment not included.
    Open {
        /// When it closes.
        until: Timestamp,
    },
    /// Not now.
    Closed {
        /// When it opens next; none if not within four years.
        next: Option<Timestamp>,
    },
}

/// What is wrong with a window: the field, and a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadWindow {
    /// Its name.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: &'static str,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Window {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Window {}

impl Window {
    /// Reads a window.
    pub fn parse(window: &RestartWindow) -> Result<Self, BadWindow> {
        let RestartWindow {
            cron,
            duration,
            time_zone,
        } = window;
        let zone = time_zone.as_deref().unwrap_or("UTC");
        let bad = |field, message| BadWindow { field, message };
        if TimeZone::get(zone).is_err() {
            return Err(bad(
                "timeZone",
                "is no time zone of the IANA database: write one such as Europe/Vienna, or leave it out for UTC",
            ));
        }
        if cron.split_ascii_whitespace().count() != 5 {
            return Err(bad(
                "cron",
                "needs five fields: minute, hour, day of month, month, day of week",
            ));
        }
        let opens = cronexpr::parse_crontab(&format!("{cron} {zone}"))
            .map_err(|_| bad("cron", "is no cron expression: write one such as 0 2 * * *"))?;
        let duration = interval::parse_go(duration)
            .ok()
            .filter(|duration| LIMITS.contains(duration))
            .ok_or_else(|| bad("duration", "must be a duration from 1m to 168h, such as 2h"))?;
        Ok(Self {
            text: format!("{cron} {zone} {duration:?}").into(),
            opens: Box::new(opens),
            duration,
        })
    }

    /// Whether it is open, and until when at least: where openings overlap, asking again then tells of the later one.
    pub fn at(&self, now: Timestamp) -> Opening {
        let since = now.checked_sub(self.duration).unwrap_or(now);
        match self.next(since) {
            Some(start) if start <= now => Opening::Open {
                until: self.end(start),
            },
            next => Opening::Closed { next },
        }
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let next = self.opens.find_next(MakeTimestamp(after)).ok()?;
        Some(next.timestamp())
    }

    fn end(&self, start: Timestamp) -> Timestamp {
        start.checked_add(self.duration).unwrap_or(start)
    }
}

/// All windows together; without any it is always open.
pub fn opening(windows: &[Window], now: Timestamp) -> Opening {
    if windows.is_empty() {
        return Opening::Open {
            until: Timestamp::MAX,
        };
    }
    let mut next: Option<Timestamp> = None;
    let mut closes: Option<Timestamp> = None;
    for window in windows {
        match window.at(now) {
            Opening::Open { until } => closes = closes.max(Some(until)),
            Opening::Closed { next: Some(opens) } => next = Some(next.map_or(opens, |next| next.min(opens))),
            Opening::Closed { next: None } => {}
        }
    }
    closes.map_or(Opening::Closed { next }, |until| Opening::Open { until })
}
