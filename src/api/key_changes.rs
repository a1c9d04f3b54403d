//! Which keys of a Secret changed when, so that a change restarts only the workloads that use a changed key.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{caps, names::annotation, token};

/// A change of a Secret.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChange {
    /// The keys that changed then and not since, sorted; of the last entry, which has none, all other keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub keys: Vec<String>,
    /// The keyed token that pods must hold which use one of these keys, and none that changed later.
    pub rollout: String,
    /// When they changed; not set where they never have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Time>,
}

impl KeyChange {
    /// A change of these keys; without keys, what is known of all others.
    pub fn new(mut keys: Vec<String>, rollout: &str, changed_at: Option<Timestamp>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        Self {
            keys,
            rollout: rollout.to_owned(),
            changed_at: changed_at.map(Time),
        }
    }

    /// When.
    pub fn at(&self) -> Option<Timestamp> {
        self.changed_at.as_ref().map(|at| at.0)
    }

    fn has(&self, key: &str) -> bool {
        self.keys
            .binary_search_by(|changed| changed.as_str().cmp(key))
            .is_ok()
    }

    fn is_valid(&self, is_last: bool) -> bool {
        self.keys.is_empty() == is_last
            && token::is_text(&self.rollout)
            && self.keys.is_sorted()
            && self.keys.iter().all(|key| (1..=caps::NAME).contains(&key.len()))
    }
}

/// The changes of a Secret whose keys did not all change together, the latest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChanges(Vec<KeyChange>);

/// The most changes that are told apart, besides the entry of all other keys.
const MOST: usize = 64;

impl KeyChanges {
    /// The changes that a status or an annotation lists, if the latest one is that of `rollout` and `changed_at`: an earlier
    /// version, or somebody by hand, changed the Secret without them. No key is listed twice.
    pub fn new(changes: Vec<KeyChange>, rollout: &str, changed_at: Option<Timestamp>) -> Option<Self> {
        let is_latest = |change: &KeyChange| change.rollout == rollout && change.at() == changed_at;
        let last = changes
            .len()
            .checked_sub(1)
            .filter(|last| (1..=MOST).contains(last))?;
        let mut numbered = changes.iter().enumerate();
        let mut keys = HashSet::new();
        let mut is_once = |change: &KeyChange| change.keys.iter().all(|key| keys.insert(key.clone()));
        let is_valid = numbered.all(|(index, change)| change.is_valid(index == last) && is_once(change));
        (is_valid && changes.first().is_some_and(is_latest)).then_some(Self(changes))
    }

    /// Those in the annotation [`KEY_CHANGES`](annotation::KEY_CHANGES), on the same terms.
    pub fn parse(text: &str, rollout: &str, changed_at: Option<Timestamp>) -> Option<Self> {
        if text.len() > annotation::KEY_CHANGES_LIMIT {
            return None;
        }
        Self::new(serde_json::from_str(text).ok()?, rollout, changed_at)
    }

    /// What is known after `change`, given the changes before it, or where there are none, that all keys changed in `before`.
    pub fn after(former: Option<Self>, before: KeyChange, change: KeyChange) -> Self {
        let mut all = former.map_or_else(|| vec![before], |former| former.0);
        let others = all.pop();
        for former in &mut all {
            former.keys.retain(|key| !change.has(key));
        }
        all.retain(|former| !former.keys.is_empty());
        all.insert(0, change);
        while all.len() > MOST {
            join_closest(&mut all);
        }
        all.extend(others);
        Self(all)
    }

    /// The latest change of one of `keys`.
    pub fn latest_of<K: AsRef<str>>(&self, keys: &[K]) -> Option<&KeyChange> {
        let is_of = |change: &&KeyChange| {
            let mut used = keys.iter();
            change.keys.is_empty() || used.any(|key| change.has(key.as_ref()))
        };
        self.0.iter().find(is_of)
    }

    /// The annotation; none where it would be longer than is kept.
    pub fn text(&self) -> Option<String> {
        let text = serde_json::to_string(&self.0).ok()?;
        (text.len() <= annotation::KEY_CHANGES_LIMIT).then_some(text)
    }

    /// The list for a status.
    pub fn as_slice(&self) -> &[KeyChange] {
        &self.0
    }
}

/// Counts the two neighbours that are closest in time as the later one: a pod that was made between them may be replaced once
/// more, and none is forgotten.
fn join_closest(all: &mut Vec<KeyChange>) {
    let gap = |pair: &[KeyChange]| match pair {
        [later, earlier] => match (later.at(), earlier.at()) {
            (Some(later), Some(earlier)) => later.duration_since(earlier).abs().as_secs(),
            _ => i64::MAX,
        },
        _ => i64::MAX,
    };
    let closest = all.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair));
    let Some(later) = closest.map(|(index, _)| index) else {
        return;
    };
    let earlier = all.remove(later + 1);
    if let Some(later) = all.get_mut(later) {
        later.keys.extend(earlier.keys);
        later.keys.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn change(keys: &[&str], rollout: &str, second: i64) -> KeyChange {
        KeyChange::new(
            keys.iter().map(|key| (*key).to_owned()).collect(),
            rollout,
            at(second),
        )
    }

    fn rollouts(changes: &KeyChanges) -> Vec<(&str, Vec<&str>)> {
        changes
            .as_slice()
            .iter()
            .map(|change| (&*change.rollout, change.keys.iter().map(|key| &**key).collect()))
            .collect()
    }

    #[test]
    fn a_key_belongs_to_its_latest_change_and_others_to_what_was_before() {
        let never = KeyChange::new(Vec::new(), "r0", None);
        let first = KeyChanges::after(None, never.clone(), change(&["a", "b"], "r1", 10));
        assert_eq!(rollouts(&first), [("r1", vec!["a", "b"]), ("r0", vec![])]);
        let second = KeyChanges::after(Some(first), never.clone(), change(&["b"], "r2", 20));
        assert_eq!(
            rollouts(&second),
            [("r2", vec!["b"]), ("r1", vec!["a"]), ("r0", vec![])]
        );
        let latest = |keys: &[&str]| second.latest_of(keys).map(|change| &*change.rollout);
        assert_eq!(latest(&["a"]), Some("r1"));
        assert_eq!(latest(&["a", "b"]), Some("r2"));
        assert_eq!(latest(&["c"]), Some("r0"));
        assert_eq!(latest(&["c", "a"]), Some("r1"));
        let third = KeyChanges::after(Some(second), never, change(&["a"], "r3", 30));
        assert_eq!(
            rollouts(&third),
            [("r3", vec!["a"]), ("r2", vec!["b"]), ("r0", vec![])]
        );
    }

    #[test]
    fn what_is_written_is_read_again_only_beside_its_own_latest_change() {
        let all = KeyChanges::after(None, change(&[], "r0", 1), change(&["a"], "r1", 10));
        let text = all.text().unwrap();
        assert_eq!(
            text,
            r#"[{"keys":["a"],"rollout":"r1","changedAt":"1970-01-01T00:00:10Z"},{"rollout":"r0","changedAt":"1970-01-01T00:00:01Z"}]"#
        );
        assert_eq!(KeyChanges::parse(&text, "r1", at(10)), Some(all));
        for (rollout, time) in [("r2", at(10)), ("r1", at(11)), ("r1", None)] {
            assert_eq!(KeyChanges::parse(&text, rollout, time), None);
        }
    }

    #[test]
    fn what_nobody_of_us_wrote_is_no_list() {
        let others = r#"{"rollout":"r0"}"#;
        let many = |count: usize| {
            let one = |number| format!(r#"{{"rollout":"r1","keys":["k{number}"]}},"#);
            let all: String = (0..count).map(one).collect();
            format!("[{all}{others}]")
        };
        for text in [
            String::new(),
            "{}".to_owned(),
            "[]".to_owned(),
            format!("[{others}]"),
            format!("[{others},{others}]"),
            r#"[{"rollout":"r1","keys":["a"]},{"rollout":"r0","keys":["b"]}]"#.to_owned(),
            format!(r#"[{{"rollout":"r1 x","keys":["a"]}},{others}]"#),
            format!(r#"[{{"rollout":"r1","keys":["{}"]}},{others}]"#, "k".repeat(254)),
            many(MOST + 1),
            format!(r#"[{{"rollout":"r1","keys":["a","a"]}},{others}]"#),
            format!(r#"[{{"rollout":"r1","keys":["a"]}},{{"rollout":"r1","keys":["a"]}},{others}]"#),
            format!(r#"[{{"rollout":"r1","keys":[""]}},{others}]"#),
            " ".repeat(annotation::KEY_CHANGES_LIMIT + 1),
        ] {
            assert_eq!(KeyChanges::parse(&text, "r1", None), None, "{text:.80}");
        }
        assert!(KeyChanges::parse(&many(MOST), "r1", None).is_some());
    }

    #[test]
    fn of_many_changes_the_closest_count_as_one_and_no_key_is_forgotten() {
        let mut all = None;
        let never = KeyChange::new(Vec::new(), "r0", None);
        for number in 0..200_u32 {
            // Numbers 100 and 101 follow each other at once.
            let second = i64::from(number) * 60 - if number == 101 { 59 } else { 0 };
            let (key, rollout) = (format!("k{number}"), format!("r{number}"));
            all = Some(KeyChanges::after(
                all,
                never.clone(),
                change(&[&key], &rollout, second),
            ));
        }
        let all = all.unwrap();
        assert_eq!(all.as_slice().len(), MOST + 1);
        for number in 0..200_u32 {
            let found = all.latest_of(&[format!("k{number}")]).unwrap();
            assert!(!found.keys.is_empty(), "{number}");
            assert!(found.at() >= at(i64::from(number) * 60 - 59), "{number}");
        }
        assert_eq!(
            &*all.latest_of(&["k100"]).unwrap().rollout,
            &*all.latest_of(&["k101"]).unwrap().rollout
        );
        assert_eq!(&*all.latest_of(&["other"]).unwrap().rollout, "r0");
    }
}
