//! Times in which restarts may begin.

use std::{fmt, time::Duration};

use cronexpr::{Crontab, MakeTimestamp};
use jiff::{
    Timestamp, ToSpan as _,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

use super::{interval, restart::RestartWindow};

/// The shortest and the longest time that a window may stay open.
const LIMITS: std::ops::RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(7 * 24);

/// No clock jumps by more hours than this, but once in a century.
const LONGEST_JUMP: i64 = 2;
/// So many openings lie in that time at most, with the hour that a clock may repeat.
const TRIES: usize = 200;

/// A window, read.
#[derive(Clone)]
pub struct Window {
    /// As it is written, to tell windows apart.
    text: Box<str>,
    /// In local time, read as if it were UTC.
    opens: Box<Crontab>,
    zone: TimeZone,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadWindow {
    /// Its name.
    pub field: &'static str,
    /// The value, what is wrong with it, and what to do.
    pub message: String,
}

/// The fields of a cron expression: name and valid values.
const CRON_FIELDS: [(&str, &str); 5] = [
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    (
        "day of month",
        "1 to 31, L for the last day, or 15W for the weekday nearest to day 15",
    ),
    ("month", "1 to 12 or JAN to DEC"),
    (
        "day of week",
        "0 to 7 or SUN to SAT, 5L for the last Friday, or 5#2 for the second",
    ),
];

/// The most characters of a value that a message quotes.
const QUOTED: usize = 100;

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
        let zone_name = time_zone.as_deref().unwrap_or("UTC");
        let bad = |field, message| BadWindow { field, message };
        let zone = TimeZone::get(zone_name).map_err(|_| {
            let message = format!(
                "is {}, which is not a time zone of the IANA database: write one such as Europe/Vienna, or remove the \
                 field for UTC",
                quote(zone_name)
            );
            bad("timeZone", message)
        })?;
        let opens = parse_cron(cron).map_err(|message| bad("cron", message))?;
        let duration = interval::parse_go(duration)
            .ok()
            .filter(|duration| LIMITS.contains(duration))
            .ok_or_else(|| {
                let message = format!(
                    "is {}, which is not a duration from 1m to 168h: write one such as 2h",
                    quote(duration)
                );
                bad("duration", message)
            })?;
        Ok(Self {
            text: format!("{cron} {zone_name} {duration:?}").into(),
            opens: Box::new(opens),
            zone,
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
        let utc = TimeZone::UTC;
        // What is skipped by a clock that jumps ahead lies behind `after` on the clock and opens at the jump.
        let mut local = self
            .zone
            .to_datetime(after)
            .checked_sub(LONGEST_JUMP.hours())
            .ok()?;
        for _ in 0..TRIES {
            let as_utc = utc.to_timestamp(local).ok()?;
            local = utc.to_datetime(self.opens.find_next(MakeTimestamp(as_utc)).ok()?.timestamp());
            let opens = self.moment(local)?;
            if opens > after {
                return Some(opens);
            }
        }
        None
    }

    /// When the zone's clock shows `local`: the first time if it does so twice, and the jump if it skips it.
    fn moment(&self, local: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        let skipped = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
        let moment = ambiguous.compatible().ok()?;
        if !skipped {
            return Some(moment);
        }
        let just_after = moment.checked_add(1.nanosecond()).ok()?;
        let jump = self.zone.preceding(just_after).next();
        Some(jump.map_or(moment, |jump| jump.timestamp()))
    }

    fn end(&self, start: Timestamp) -> Timestamp {
        start.checked_add(self.duration).unwrap_or(start)
    }
}

/// Reads a cron expression, as if its times were in UTC. The error is a message.
fn parse_cron(cron: &str) -> Result<Crontab, String> {
    let fields: Vec<&str> = cron.split_ascii_whitespace().collect();
    if fields.len() != CRON_FIELDS.len() {
        return Err(format!(
            "is {}, which has {} fields: write five, for minute, hour, day of month, month and day of week, such as 0 2 * * *",
            quote(cron),
            fields.len()
        ));
    }
    if let Ok(crontab) = cronexpr::parse_crontab(&format!("{cron} UTC")) {
        return Ok(crontab);
    }
    // The first field that is wrong by itself.
    for (place, (field, (name, valid))) in fields.iter().zip(CRON_FIELDS).enumerate() {
        let mut alone = ["*", "*", "*", "*", "*", "UTC"];
        if let Some(slot) = alone.get_mut(place) {
            *slot = field;
        }
        if cronexpr::parse_crontab(&alone.join(" ")).is_err() {
            return Err(format!(
                "is {}, of which field {} ({name}), {}, is not valid: write {valid}; ranges such as 2-4 must ascend, lists such \
                 as 2,4 and steps such as */2 are possible",
                quote(cron),
                place + 1,
                quote(field)
            ));
        }
    }
    Err(format!(
        "is {}, which is not a cron expression: write one such as 0 2 * * *",
        quote(cron)
    ))
}

/// The value in quotes, with control characters escaped, and cut if it is longer than the API server lets it be.
fn quote(value: &str) -> String {
    let short: String = value.chars().take(QUOTED).collect();
    format!("{short:?}")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, duration: &str, zone: &str) -> Window {
        Window::parse(&RestartWindow {
            cron: cron.to_owned(),
            duration: duration.to_owned(),
            time_zone: Some(zone.to_owned()),
        })
        .unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn says(windows: &[Window], now: &str) -> String {
        match opening(windows, time(now)) {
            Opening::Open { until } => format!("open until {until}"),
            Opening::Closed { next: Some(next) } => format!("closed until {next}"),
            Opening::Closed { next: None } => "closed".to_owned(),
        }
    }

    #[test]
    fn a_window_is_open_from_its_start_until_before_its_end() {
        let nightly = [window("0 2 * * *", "2h", "UTC")];
        for (now, expected) in [
            ("2026-06-01T01:59:59Z", "closed until 2026-06-01T02:00:00Z"),
            ("2026-06-01T02:00:00Z", "open until 2026-06-01T04:00:00Z"),
            ("2026-06-01T03:59:59.9Z", "open until 2026-06-01T04:00:00Z"),
            ("2026-06-01T04:00:00Z", "closed until 2026-06-02T02:00:00Z"),
        ] {
            assert_eq!(says(&nightly, now), expected, "{now}");
        }
    }

    #[test]
    fn clocks_that_jump_neither_lose_a_window_nor_hold_it_open() {
        let early = [window("0 2 * * *", "2h", "Europe/Vienna")];
        // 02:00 does not exist on 2026-03-29 and begins twice on 2026-10-25.
        for (now, expected) in [
            ("2026-03-28T01:00:00Z", "open until 2026-03-28T03:00:00Z"),
            ("2026-03-29T01:00:00Z", "open until 2026-03-29T03:00:00Z"),
            ("2026-03-30T00:00:00Z", "open until 2026-03-30T02:00:00Z"),
            ("2026-03-29T00:59:59Z", "closed until 2026-03-29T01:00:00Z"),
            ("2026-10-25T00:00:00Z", "open until 2026-10-25T02:00:00Z"),
            ("2026-10-25T02:00:00Z", "closed until 2026-10-26T01:00:00Z"),
            ("2026-10-26T01:00:00Z", "open until 2026-10-26T03:00:00Z"),
        ] {
            assert_eq!(says(&early, now), expected, "{now}");
        }
        let in_the_gap = [window("30 2 * * *", "1h", "Europe/Vienna")];
        assert_eq!(
            says(&in_the_gap, "2026-03-29T01:45:00Z"),
            "open until 2026-03-29T02:00:00Z"
        );
        let each_minute = [window("* * * * *", "1m", "Europe/Vienna")];
        assert!(says(&each_minute, "2026-10-25T00:30:30Z").starts_with("open"));
        assert_eq!(
            says(&each_minute, "2026-10-25T01:30:30Z"),
            "closed until 2026-10-25T02:00:00Z"
        );
    }

    #[test]
    fn windows_add_up() {
        let two = [window("0 2 * * *", "2h", "UTC"), window("0 3 * * *", "3h", "UTC")];
        for (now, expected) in [
            ("2026-06-01T02:30:00Z", "open until 2026-06-01T04:00:00Z"),
            ("2026-06-01T03:30:00Z", "open until 2026-06-01T06:00:00Z"),
            ("2026-06-01T06:00:00Z", "closed until 2026-06-02T02:00:00Z"),
        ] {
            assert_eq!(says(&two, now), expected, "{now}");
        }
        // One that opens again before it closes.
        let often = [window("0 * * * *", "2h", "UTC")];
        assert!(says(&often, "2026-06-01T02:30:00Z").starts_with("open"));
        assert!(says(&[], "2026-06-01T02:30:00Z").starts_with("open"));
    }

    #[test]
    fn what_never_opens_is_closed_without_an_end() {
        let never = [window("0 0 30 2 *", "2h", "UTC")];
        assert_eq!(says(&never, "2026-06-01T00:00:00Z"), "closed");
    }

    #[test]
    fn the_field_of_a_cron_expression_that_is_wrong_is_named() {
        for (cron, place) in [
            ("60 2 * * *", "field 1 (minute), \"60\""),
            ("0 24 * * *", "field 2 (hour), \"24\""),
            ("0  22-6\t* * *", "field 2 (hour), \"22-6\""),
            ("0 2 32 * *", "field 3 (day of month), \"32\""),
            ("0 2 * 13 *", "field 4 (month), \"13\""),
            ("0 2 * * FRI-MON", "field 5 (day of week), \"FRI-MON\""),
            ("0 x * y *", "field 2 (hour), \"x\""),
            ("H 2 * * *", "field 1 (minute), \"H\""),
        ] {
            let message = parse_cron(cron).unwrap_err();
            assert!(message.contains(place), "{cron}: {message}");
        }
        let message = parse_cron("@daily").unwrap_err();
        assert!(
            message.starts_with("is \"@daily\", which has 1 fields"),
            "{message}"
        );
        let message = parse_cron(&format!("0 2 * * {}\u{1b}", "x".repeat(1000))).unwrap_err();
        assert!(
            message.len() < 600 && !message.contains(char::is_control),
            "{message}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_window_is_named() {
        for (cron, duration, zone, field) in [
            ("0 2 * * *", "2h", "Europe/Nowhere", "timeZone"),
            ("0 2 * * *", "2h", "", "timeZone"),
            ("0 2 * *", "2h", "UTC", "cron"),
            ("0 2 * * * *", "2h", "UTC", "cron"),
            ("0 25 * * *", "2h", "UTC", "cron"),
            ("x y z a b", "2h", "UTC", "cron"),
            ("0 2 * * *", "59s", "UTC", "duration"),
            ("0 2 * * *", "169h", "UTC", "duration"),
            ("0 2 * * *", "long", "UTC", "duration"),
        ] {
            let read = Window::parse(&RestartWindow {
                cron: cron.to_owned(),
                duration: duration.to_owned(),
                time_zone: Some(zone.to_owned()),
            });
            let bad = read.unwrap_err();
            assert_eq!(bad.field, field, "{cron} {duration} {zone}");
            let value = match field {
                "cron" => cron,
                "duration" => duration,
                _ => zone,
            };
            assert!(bad.message.contains(&format!("is {value:?}")), "{}", bad.message);
        }
    }
}
