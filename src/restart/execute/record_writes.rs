//! The writes by which a workload records what became of its restarts: one small patch each, and with it the alert, so that
//! a failure is reported once, by whichever replica leads.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    api::ObjectKey,
    cluster::{self, Class},
    restart::{
        judge::{
            memory::{Memory, NoteFailure},
            model::{Judgement, Note},
        },
        observed::model::WorkloadKey,
        timing::{NOTE_CONFLICTED, NOTE_FAILED},
    },
};

/// Workloads that are written to at once, and those of one namespace among them: one whose writes take their whole time,
/// as with an admission webhook that does not answer, must not hold up the others.
const AT_ONCE: usize = 8;
const OF_NAMESPACE: usize = 2;

/// The workloads that are being written to, and those that are not to be written to again before a time.
#[derive(Default)]
pub struct RecordWriter {
    waits: HashMap<WorkloadKey, Option<Instant>>,
    turns: WriteTurns,
}

impl RecordWriter {
    /// The notes to write now, of workloads with these judgements.
    pub(super) fn due<'a>(
        &mut self,
        judgements: impl Iterator<Item = &'a Judgement>,
        now: Instant,
    ) -> Vec<NoteWrite> {
        self.waits
            .retain(|_, until| until.is_none_or(|until| now < until));
        let mut busy: HashMap<Arc<str>, usize> = HashMap::new();
        for (key, _) in self.waits.iter().filter(|(_, until)| until.is_none()) {
            *busy.entry(Arc::clone(&key.key.namespace)).or_default() += 1;
        }
        let is_due =
            |judgement: &&Judgement| !judgement.notes.is_empty() && !self.waits.contains_key(&judgement.key);
        let due: BTreeMap<&WorkloadKey, &Judgement> = judgements
            .filter(is_due)
            .map(|judgement| (&judgement.key, judgement))
            .collect();
        let next = self.turns.next(due.keys().copied(), busy);
        let due: Vec<NoteWrite> = next
            .iter()
            .filter_map(|key| due.get(key))
            .map(|judgement| NoteWrite {
                key: judgement.key.clone(),
                uid: judgement.uid.clone(),
                notes: judgement.notes.clone(),
            })
            .collect();
        for NoteWrite { key, .. } in &due {
            self.waits.insert(key.clone(), None);
        }
        due
    }

    /// Whether a write is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.waits.values().any(Option::is_none)
    }

    /// When the next workload may be written to again.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.waits.values().copied().flatten().min()
    }

    /// The notes were written, or not. Returns the sentences that people are told now; none at all if another replica leads,
    /// which tells them.
    pub(super) fn written(
        &mut self,
        due: &NoteWrite,
        written: Result<(), cluster::Error>,
        memory: &mut Memory,
        now: Instant,
    ) -> Option<Vec<Alert>> {
        let NoteWrite { key, uid, .. } = due;
        let Err(error) = written else {
            self.waits.remove(key);
            return Some(alerts(due, |note| memory.noted(uid, note)));
        };
        tracing::warn!(workload = %key, %error, "a workload was not told what became of its restart");
        let (wait, missed) = match &error.class {
            Class::NotLeading | Class::Unauthorized => {
                self.waits.insert(key.clone(), Some(now + NOTE_FAILED));
                return None;
            }
            Class::Conflict | Class::UidMismatch | Class::NotFound | Class::AlreadyExists => {
                (NOTE_CONFLICTED, NoteFailure::Passing)
            }
            Class::Timeout => (NOTE_FAILED, NoteFailure::Late),
            Class::Throttled { .. } | Class::Unavailable { .. } | Class::Disruption => {
                (NOTE_FAILED, NoteFailure::Passing)
            }
            Class::Forbidden
            | Class::Refused(_)
            | Class::Invalid { .. }
            | Class::FieldConflict { .. }
            | Class::TooLarge
            | Class::Expired
            | Class::Rejected { .. }
            | Class::Malformed(_) => (NOTE_FAILED, NoteFailure::Refused),
        };
        self.waits.insert(key.clone(), Some(now + wait));
        Some(alerts(due, |note| memory.not_noted(uid, note, missed)))
    }
}

/// The notes of one workload, to be written in one patch.
pub struct NoteWrite {
    pub(super) key: WorkloadKey,
    pub(super) uid: Box<str>,
    pub(super) notes: Vec<Note>,
}

/// A failure of which people are told.
pub struct Alert {
    pub object: ObjectKey,
    pub key: WorkloadKey,
    pub uid: Box<str>,
    pub sentence: String,
}

fn alerts(due: &NoteWrite, mut is_told: impl FnMut(&Note) -> bool) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for note in &due.notes {
        if let (true, Some(sentence)) = (is_told(note), &note.alert) {
            alerts.push(Alert {
                object: note.object.clone(),
                key: due.key.clone(),
                uid: due.uid.clone(),
                sentence: format!("{}: {sentence}", due.key),
            });
        }
    }
    alerts
}

/// Whose turn it is to be written to: the namespace's that was served least lately, and there the next workload's after the
/// last one's.
#[derive(Debug, Default)]
struct WriteTurns {
    count: u64,
    last: HashMap<Arc<str>, (u64, WorkloadKey)>,
}

impl WriteTurns {
    /// Those that are written to now of the ones `due`, where so many of each namespace are being written to.
    fn next<'a>(
        &mut self,
        due: impl IntoIterator<Item = &'a WorkloadKey>,
        mut busy: HashMap<Arc<str>, usize>,
    ) -> Vec<WorkloadKey> {
        let mut lines: BTreeMap<Arc<str>, VecDeque<&WorkloadKey>> = BTreeMap::new();
        for key in due {
            lines
                .entry(Arc::clone(&key.key.namespace))
                .or_default()
                .push_back(key);
        }
        self.last
            .retain(|namespace, _| lines.contains_key(namespace) || busy.contains_key(namespace));
        for (namespace, line) in &mut lines {
            if let Some((_, last)) = self.last.get(namespace) {
                line.rotate_left(line.partition_point(|key| *key <= last));
            }
        }
        let mut next = Vec::new();
        let mut free = AT_ONCE.saturating_sub(busy.values().sum());
        while free > 0 {
            let has_room =
                |namespace: &Arc<str>| busy.get(namespace).is_none_or(|count| *count < OF_NAMESPACE);
            let turn = |namespace: &Arc<str>| self.last.get(namespace).map(|(turn, _)| *turn);
            let first = lines
                .iter_mut()
                .filter(|(namespace, line)| !line.is_empty() && has_room(namespace))
                .min_by_key(|(namespace, _)| turn(namespace));
            let Some((namespace, key)) =
                first.and_then(|(namespace, line)| Some((Arc::clone(namespace), line.pop_front()?)))
            else {
                break;
            };
            self.count += 1;
            self.last
                .insert(Arc::clone(&namespace), (self.count, key.clone()));
            *busy.entry(namespace).or_default() += 1;
            next.push(key.clone());
            free -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkloadKind;

    fn workloads(namespace: &str, count: usize) -> Vec<WorkloadKey> {
        let of = |n| WorkloadKey {
            kind: WorkloadKind::Deployment,
            key: ObjectKey::new(namespace, format!("web-{n}")),
        };
        (0..count).map(of).collect()
    }

    fn names(keys: &[WorkloadKey]) -> Vec<String> {
        keys.iter()
            .map(|key| format!("{}/{}", key.key.namespace, key.key.name))
            .collect()
    }

    #[test]
    fn a_namespace_whose_writes_never_end_leaves_room_for_the_others() {
        let mut turns = WriteTurns::default();
        let mut due = workloads("a-slow", 9);
        let first = turns.next(&due, HashMap::new());
        assert_eq!(names(&first), ["a-slow/web-0", "a-slow/web-1"]);
        due.retain(|key| !first.contains(key));
        due.extend(workloads("shop", 1));
        let busy = HashMap::from([("a-slow".into(), 2)]);
        assert_eq!(names(&turns.next(&due, busy)), ["shop/web-0"]);
    }

    #[test]
    fn namespaces_have_turns_and_so_have_their_workloads() {
        let mut turns = WriteTurns::default();
        let due: Vec<_> = ["a", "b", "c", "d", "e", "f"]
            .iter()
            .flat_map(|namespace| workloads(namespace, 3))
            .collect();
        let first = turns.next(&due, HashMap::new());
        let expected = ["a", "b", "c", "d", "e", "f"].map(|namespace| format!("{namespace}/web-0"));
        assert_eq!(names(&first)[..6], expected);
        assert_eq!(names(&first)[6..], ["a/web-1", "b/web-1"]);
        // All are due again, as after a failure.
        let second = turns.next(&due, HashMap::new());
        let expected = ["c/web-1", "d/web-1", "e/web-1", "f/web-1", "a/web-2", "b/web-2"];
        assert_eq!(names(&second)[..6], expected);
        assert_eq!(names(&second)[6..], ["c/web-2", "d/web-2"]);
        turns.next(&[], HashMap::new());
        assert!(turns.last.is_empty(), "what has nothing to say is forgotten");
    }
}
