//! What is remembered of events, so that equal ones are counted and no object has too many. Pure.
//!
//! Kubernetes' own recorders count what comes again by reason, and repeat the text of the first. Here an event comes
//! again only if its text does: another text is another event.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};

/// Events that are remembered, and for how long after they were sent last. What is forgotten is sent as a new one.
const REMEMBERED: usize = 256;
const REMEMBERED_FOR: Duration = Duration::from_mins(6);
/// Events about one object that may come at once, and the time for each further one. Workloads have events of their own, so
/// what an ExternalSecret with many of them has no room for is told there.
const BURST: u32 = 64;
const GAIN: Duration = Duration::from_secs(10);
/// Objects whose events are counted.
const OBJECTS: usize = 1024;

/// What is to be done with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is new.
    Create,
    /// It was sent as the event of this name, and comes for the `count`th time.
    Count {
        /// The event's name.
        name: String,
        /// How often it came.
        count: i32,
    },
    /// Its object has too many.
    Drop,
}

/// Of an event, all by which people tell it from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EventKey {
    regarding: String,
    related: Option<String>,
    warning: bool,
    reason: String,
    action: String,
    note: Option<String>,
}

#[derive(Debug)]
struct SentEvent {
    name: String,
    count: i32,
    last: Timestamp,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    since: Timestamp,
}

/// The events that were sent.
#[derive(Debug, Default)]
pub(super) struct EventHistory {
    sent: HashMap<EventKey, SentEvent>,
    budgets: HashMap<String, Budget>,
}

impl EventKey {
    pub(super) fn of(regarding: &ObjectReference, event: &Event) -> Self {
        Self {
            regarding: identity(regarding),
            related: event.secondary.as_ref().map(identity),
            warning: matches!(event.type_, EventType::Warning),
            reason: event.reason.clone(),
            action: event.action.clone(),
            note: event.note.clone(),
        }
    }
}

impl EventHistory {
    /// What is to be done with this event now.
    pub(super) fn next(&mut self, now: Timestamp, key: &EventKey) -> Next {
        self.sent.retain(|_, sent| since(sent.last, now) < REMEMBERED_FOR);
        if !self.spend(now, &key.regarding) {
            return Next::Drop;
        }
        match self.sent.get(key) {
            Some(sent) => Next::Count {
                name: sent.name.clone(),
                count: sent.count.saturating_add(1),
            },
            None => Next::Create,
        }
    }

    /// The event was sent, for the `count`th time, under this name.
    pub(super) fn sent(&mut self, now: Timestamp, key: EventKey, name: String, count: i32) {
        if self.sent.len() >= REMEMBERED
            && !self.sent.contains_key(&key)
            && let Some(oldest) = self.sent.iter().min_by_key(|(_, sent)| sent.last)
        {
            let oldest = oldest.0.clone();
            self.sent.remove(&oldest);
        }
        let sent = SentEvent {
            name,
            count,
            last: now,
        };
        self.sent.insert(key, sent);
    }

    /// The event could not be counted: perhaps it is gone.
    pub(super) fn forget(&mut self, key: &EventKey) {
        self.sent.remove(key);
    }

    /// Whether the object may have one more event, which is then counted.
    fn spend(&mut self, now: Timestamp, object: &str) -> bool {
        for budget in self.budgets.values_mut() {
            while budget.left < BURST && since(budget.since, now) >= GAIN {
                budget.left += 1;
                budget.since = budget.since.saturating_add(GAIN).unwrap_or(now);
            }
        }
        self.budgets.retain(|_, budget| budget.left < BURST);
        if self.budgets.len() >= OBJECTS && !self.budgets.contains_key(object) {
            // A storm over so many objects is held back by the rate of all events.
            return true;
        }
        let budget = self.budgets.entry(object.to_owned()).or_insert(Budget {
            left: BURST,
            since: now,
        });
        let has = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        has
    }
}

/// The alerts that were handed on.
#[derive(Debug, Default)]
pub(super) struct AlertHistory(HashMap<AlertKey, Timestamp>);

/// The object, the reason and the text.
type AlertKey = (String, &'static str, String);

impl AlertHistory {
    /// Whether none says the same of the object, or the last time that one did is long ago.
    pub(super) fn is_new(
        &mut self,
        now: Timestamp,
        regarding: &ObjectReference,
        reason: &'static str,
        note: &str,
    ) -> bool {
        self.0.retain(|_, last| since(*last, now) < REMEMBERED_FOR);
        let known = self.0.get_mut(&(identity(regarding), reason, note.to_owned()));
        known.map(|last| *last = now).is_none()
    }

    /// It was handed on.
    pub(super) fn told(
        &mut self,
        now: Timestamp,
        regarding: &ObjectReference,
        reason: &'static str,
        note: &str,
    ) {
        if self.0.len() >= REMEMBERED
            && let Some(oldest) = self.0.iter().min_by_key(|(_, last)| **last)
        {
            let oldest = oldest.0.clone();
            self.0.remove(&oldest);
        }
        self.0.insert((identity(regarding), reason, note.to_owned()), now);
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn identity(reference: &ObjectReference) -> String {
    let parts = [
        &reference.kind,
        &reference.namespace,
        &reference.name,
        &reference.uid,
    ];
    parts.map(|part| part.as_deref().unwrap_or_default()).join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn object(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("ExternalSecret".to_owned()),
            namespace: Some("shop".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }

    fn key(name: &str, reason: &str, note: &str, related: Option<&str>) -> EventKey {
        let event = Event {
            type_: EventType::Normal,
            reason: reason.to_owned(),
            action: "Restart".to_owned(),
            note: Some(note.to_owned()),
            secondary: related.map(object),
        };
        EventKey::of(&object(name), &event)
    }

    /// How often the event has come, as it is sent; 0 if it is dropped.
    fn send(history: &mut EventHistory, now: Timestamp, key: &EventKey) -> i32 {
        match history.next(now, key) {
            Next::Create => {
                history.sent(now, key.clone(), format!("at-{now}"), 1);
                1
            }
            Next::Count { name, count } => {
                history.sent(now, key.clone(), name, count);
                count
            }
            Next::Drop => 0,
        }
    }

    #[test]
    fn equal_events_are_counted_and_any_difference_is_another_event() {
        let mut history = EventHistory::default();
        let first = key("db", "RestartFailed", "web crashes", Some("web"));
        assert_eq!(send(&mut history, at(0), &first), 1);
        for other in [
            key("db", "RestartFailed", "api crashes", Some("web")),
            key("db", "RestartFailed", "web crashes", Some("api")),
            key("db", "RestartHalted", "web crashes", Some("web")),
            key("other", "RestartFailed", "web crashes", Some("web")),
        ] {
            assert_eq!(send(&mut history, at(1), &other), 1, "{other:?}");
        }
        assert_eq!(send(&mut history, at(2), &first), 2);
        assert_eq!(send(&mut history, at(300), &first), 3);
        // Six minutes after the last one.
        assert_eq!(send(&mut history, at(660), &first), 1);
        history.forget(&first);
        assert_eq!(send(&mut history, at(661), &first), 1);
    }

    #[test]
    fn an_object_has_a_burst_of_events_and_then_one_in_ten_seconds() {
        let mut history = EventHistory::default();
        let mut send = |seconds: i64, name: &str, number: u32| {
            send(
                &mut history,
                at(seconds),
                &key(name, "Updated", &number.to_string(), None),
            ) > 0
        };
        let at_once = (0..200).filter(|number| send(0, "db", *number)).count();
        assert_eq!(at_once, 64);
        assert!(send(0, "other", 0), "another object has its own");
        assert!(!send(9, "db", 200));
        assert!(send(10, "db", 201) && !send(10, "db", 202));
        assert!(send(30, "db", 203) && send(30, "db", 204) && !send(30, "db", 205));
        let later = (0..200).filter(|number| send(10_000, "db", 300 + number)).count();
        assert_eq!(later, 64);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut history = EventHistory::default();
        let numbered = |number: i64| key(&number.to_string(), "Updated", "", None);
        for number in 0..2000 {
            assert_eq!(send(&mut history, at(number / 100), &numbered(number)), 1);
        }
        assert!(history.sent.len() <= REMEMBERED && history.budgets.len() <= OBJECTS);
        assert_eq!(send(&mut history, at(20), &numbered(1999)), 2);
        assert_eq!(send(&mut history, at(20), &numbered(0)), 1);
    }

    #[test]
    fn an_alert_that_says_the_same_again_is_none_until_six_minutes_after() {
        let mut history = AlertHistory::default();
        let mut tell = |seconds: i64, name: &str, reason: &'static str, note: &str| {
            let new = history.is_new(at(seconds), &object(name), reason, note);
            if new {
                history.told(at(seconds), &object(name), reason, note);
            }
            new
        };
        assert!(tell(0, "db", "RestartFailed", "web crashes"));
        assert!(!tell(1, "db", "RestartFailed", "web crashes"));
        assert!(tell(2, "db", "RestartFailed", "api crashes"));
        assert!(tell(3, "db", "RestartHalted", "web crashes"));
        assert!(tell(4, "other", "RestartFailed", "web crashes"));
        assert!(!tell(300, "db", "RestartFailed", "web crashes"));
        assert!(tell(660, "db", "RestartFailed", "web crashes"));
        for number in 0..1000 {
            assert!(tell(700, &number.to_string(), "RestartFailed", "web crashes"));
        }
        assert!(history.0.len() <= REMEMBERED);
    }
}
