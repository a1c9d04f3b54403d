//! Whether another controller keeps changing a Secret, and how often it is written meanwhile. Pure.

use std::time::Duration;

/// How long another controller may contest a Secret before it is written once a minute only, and users are told.
const CONTEST: Duration = Duration::from_mins(3);
/// How often a contested Secret is written.
const REWRITE: Duration = Duration::from_mins(1);
/// A contest ends if nobody changes the Secret for this time after a repair. Longer than [`REWRITE`], or each contest would
/// end before its next repair.
const QUIET: Duration = Duration::from_mins(2);
/// Within this time a Secret is repaired at most [`REPAIRS`] times: neither the API server nor AWS is to bear the contest.
const WINDOW: Duration = Duration::from_mins(1);
const REPAIRS: u32 = 20;

/// Repairs of one Secret that follow each other closely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// The first of them.
    since: Duration,
    /// The last of them.
    last: Duration,
    /// When the count began.
    counted_since: Duration,
    count: u32,
    /// The field manager that last changed the Secret, if it says so.
    by: Option<Box<str>>,
}

impl Contest {
    /// The Secret was written though AWS has nothing new.
    pub fn repaired(before: Option<Self>, now: Duration, by: Option<Box<str>>) -> Self {
        let Some(before) = before.filter(|before| now < before.last + QUIET) else {
            return Self {
                since: now,
                last: now,
                counted_since: now,
                count: 1,
                by,
            };
        };
        let counts_on = now < before.counted_since + WINDOW;
        Self {
            since: before.since,
            last: now,
            counted_since: if counts_on { before.counted_since } else { now },
            count: if counts_on { before.count + 1 } else { 1 },
            by: by.or(before.by),
        }
    }

    /// How long the Secret is left as it is.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        let until = if self.ends_after(now).is_some() {
            self.last + REWRITE
        } else if self.count >= REPAIRS {
            self.counted_since + WINDOW
        } else {
            return None;
        };
        until.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// After which time the contest has ended, if nobody changes the Secret any more; `None` while it is none, or over.
    pub fn ends_after(&self, now: Duration) -> Option<Duration> {
        let contested = self.last >= self.since + CONTEST;
        let left = (self.last + QUIET).checked_sub(now);
        left.filter(|left| contested && !left.is_zero())
    }

    /// What users are told.
    pub fn message(&self, secret: &str) -> String {
        let (who, cure) = match &self.by {
            Some(by) => (
                format!("Another controller (field manager {by})"),
                format!("Stop {by} from writing this Secret"),
            ),
            None => (
                "Another controller".to_owned(),
                "Stop the other controller from writing this Secret".to_owned(),
            ),
        };
        format!(
            "{who} keeps changing Secret {secret}. Keyturn restores the Secret once a minute only, so its data may differ \
             from AWS meanwhile. {cure}, or choose another target.name."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another controller changes the Secret right after each write. Gives when it was written.
    fn fight(from: u64, until: u64, mut contest: Option<Contest>) -> (Vec<u64>, Contest) {
        let mut writes = Vec::new();
        for second in from..until {
            let now = Duration::from_secs(second);
            if contest.as_ref().is_none_or(|contest| contest.wait(now).is_none()) {
                contest = Some(Contest::repaired(contest, now, Some("other".into())));
                writes.push(second);
            }
        }
        (writes, contest.unwrap())
    }

    #[test]
    fn after_three_minutes_a_contested_secret_is_written_once_a_minute() {
        let (writes, contest) = fight(0, 1000, None);
        let within = |from: u64, to: u64| writes.iter().filter(|at| (from..to).contains(at)).count();
        for minute in 0..3 {
            assert_eq!(within(minute * 60, minute * 60 + 60), 20);
        }
        assert_eq!(within(180, 240), 1);
        assert_eq!(within(240, 840), 10);
        assert!(contest.ends_after(Duration::from_secs(1000)).is_some());
        assert!(contest.message("db").contains("(field manager other)"));
    }

    #[test]
    fn a_contest_is_told_once_three_minutes_are_over_and_ends_by_itself() {
        let at = Duration::from_secs;
        let (_, young) = fight(0, 179, None);
        assert_eq!(young.ends_after(at(179)), None);
        let (writes, contest) = fight(0, 300, None);
        let last = *writes.last().unwrap();
        assert_eq!(contest.ends_after(at(last)), Some(at(120)));
        assert_eq!(contest.ends_after(at(last + 119)), Some(at(1)));
        assert_eq!(contest.ends_after(at(last + 120)), None);
        // What comes later is an edit by hand, which is repaired at once.
        assert_eq!(contest.wait(at(last + 120)), None);
        let later = Contest::repaired(Some(contest), at(last + 120), None);
        assert_eq!((later.since, later.wait(at(last + 121))), (at(last + 120), None));
        assert_eq!(later.by, None);
    }

    #[test]
    fn edits_now_and_then_are_no_contest() {
        let mut contest = None;
        for second in (0..10_000).step_by(121) {
            let now = Duration::from_secs(second);
            let repaired = Contest::repaired(contest.take(), now, None);
            assert_eq!((repaired.wait(now), repaired.ends_after(now)), (None, None));
            contest = Some(repaired);
        }
    }

    #[test]
    fn a_controller_that_changes_the_secret_once_a_minute_contests_it_too() {
        let mut contest = None;
        for second in [0, 61, 122, 183] {
            contest = Some(Contest::repaired(contest, Duration::from_secs(second), None));
        }
        assert!(contest.unwrap().ends_after(Duration::from_secs(184)).is_some());
    }
}
