//! What the conditions of an ExternalSecret say, in four bytes, and how many say it.

use std::collections::BTreeMap;

use crate::api::{ConditionType, ExternalSecretStatus, Reason, Status};
use crate::objects::status::condition;

/// The reasons of an object's conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons([Option<Reason>; 4]);

impl Reasons {
    /// Of a status. What is no reason of this version is left out.
    pub fn of(status: Option<&ExternalSecretStatus>) -> Self {
        let mut reasons = Self::default();
        let Some(status) = status else { return reasons };
        for (reason, type_) in reasons.0.iter_mut().zip(ConditionType::ALL) {
            *reason = condition(status, *type_).and_then(|said| {
                let word = |reason: &&Reason| reason.as_str() == said.reason;
                Reason::ALL.iter().find(word).copied()
            });
        }
        reasons
    }

    /// The reason of a condition, if anything is said of it.
    pub fn of_condition(self, type_: ConditionType) -> Option<Reason> {
        self.said()
            .find_map(|(said, _, reason)| reason.filter(|_| said == type_))
    }

    /// What they say. `Ready` is unknown, without a reason, where nothing was said yet.
    fn said(self) -> impl Iterator<Item = (ConditionType, Status, Option<Reason>)> {
        ConditionType::ALL
            .iter()
            .zip(self.0)
            .filter_map(|(type_, reason)| match reason {
                Some(reason) => Some((*type_, reason.status(*type_)?, Some(reason))),
                None => (*type_ == ConditionType::Ready).then_some((*type_, Status::Unknown, None)),
            })
    }
}

/// How many objects say what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<(ConditionType, &'static str, &'static str), i64>);

impl Tally {
    /// Counts an object.
    pub fn add(&mut self, reasons: Reasons) {
        for (type_, status, reason) in reasons.said() {
            let reason = reason.map_or("", Reason::as_str);
            *self.0.entry((type_, status.as_str(), reason)).or_default() += 1;
        }
    }

    /// The counts, by condition, status and reason.
    pub fn counts(&self) -> impl Iterator<Item = ((ConditionType, &'static str, &'static str), i64)> {
        self.0.iter().map(|(said, count)| (*said, *count))
    }

    /// What `former` had and this has no more.
    pub fn gone<'a>(
        &'a self,
        former: &'a Self,
    ) -> impl Iterator<Item = (ConditionType, &'static str, &'static str)> + 'a {
        former.0.keys().filter(|said| !self.0.contains_key(said)).copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reasons(conditions: &[(&str, &str, &str)]) -> Reasons {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status, reason)| {
                json!({"type": type_, "status": status, "reason": reason, "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
        Reasons::of(Some(&status))
    }

    #[test]
    fn objects_are_counted_by_what_their_conditions_say() {
        let mut tally = Tally::default();
        let good = reasons(&[("Ready", "True", "Synced"), ("Current", "True", "Checked")]);
        for reasons in [
            good,
            good,
            reasons(&[
                ("Ready", "False", "AccessDenied"),
                ("Current", "False", "Stale"),
                ("RotationHealthy", "Unknown", "StagesNotVisible"),
                ("RestartsComplete", "False", "InProgress"),
            ]),
            Reasons::of(None),
            reasons(&[("Ready", "True", "OfAnotherVersion"), ("Other", "True", "Synced")]),
        ] {
            tally.add(reasons);
        }
        let found: Vec<_> = tally
            .counts()
            .map(|((type_, status, reason), count)| format!("{type_} {status} {reason} {count}"))
            .collect();
        let expected = [
            "Ready False AccessDenied 1",
            "Ready True Synced 2",
            "Ready Unknown  2",
            "Current False Stale 1",
            "Current True Checked 2",
            "RotationHealthy Unknown StagesNotVisible 1",
            "RestartsComplete False InProgress 1",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_nobody_says_any_more_is_found() {
        let (mut former, mut now) = (Tally::default(), Tally::default());
        former.add(reasons(&[("Ready", "False", "AccessDenied")]));
        former.add(reasons(&[("Ready", "True", "Synced")]));
        now.add(reasons(&[("Ready", "True", "Synced")]));
        let gone: Vec<_> = now.gone(&former).collect();
        assert_eq!(gone, [(ConditionType::Ready, "False", "AccessDenied")]);
    }

    #[test]
    fn an_object_keeps_four_bytes_of_it() {
        assert_eq!(size_of::<Reasons>(), 4);
    }
}
