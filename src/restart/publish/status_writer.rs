//! Which statuses are written, and when: at most one write of a status in 5 s, and a few at once.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;
use tokio::time::Instant;

use super::report::Report;
use crate::{
    api::{
        ConditionType, ExternalSecret, ExternalSecretStatus, ObjectKey, Reason, Status,
        names::RESTART_MANAGER,
    },
    cluster::{self, Class},
    objects::digest_of_restarts,
    restart::{
        observed::Context,
        timing::{STATUS_GAP, STATUS_SHOWN},
    },
};

/// Statuses that are written at once.
const AT_ONCE: usize = 8;

/// What is to be written, and what was.
#[derive(Default)]
pub struct StatusWriter {
    objects: BTreeMap<ObjectKey, ObjectEntry>,
    /// The turn at which a status of each namespace was last written.
    turns: BTreeMap<Arc<str>, u64>,
    turn: u64,
    under_way: usize,
}

#[derive(Default)]
struct ObjectEntry {
    /// The uid of the object: nothing was reported of another object with the same name.
    uid: Box<str>,
    /// When it was written last.
    last: Option<Instant>,
    /// What was written last, until the index shows it.
    digest: Option<u64>,
    wanted: Option<StatusWrite>,
    /// Since when something is to be written.
    since: Timestamp,
    under_way: bool,
}

/// An ExternalSecret, and the digest of what its status says of restarts, as the index shows it.
pub struct ShownStatus {
    pub uid: Box<str>,
    pub generation: i64,
    pub said: u64,
}

/// A status to write.
pub struct StatusWrite {
    uid: Box<str>,
    /// None: the fields that restarts own are removed.
    status: Option<ExternalSecretStatus>,
    digest: u64,
}

impl StatusWriter {
    /// Requests a write of `report` to the status of `object`, unless the index shows it already: `said` is the digest of
    /// what it shows.
    pub fn want(&mut self, object: &ObjectKey, shown: ShownStatus, report: Option<Report>, now: Timestamp) {
        let ShownStatus {
            uid,
            generation,
            said,
        } = shown;
        let status = report.map(|report| status_of(report, generation, now));
        let digest = status.as_ref().map_or(0, digest_of_restarts);
        if digest == said && !self.objects.contains_key(object) {
            return;
        }
        let known = self.objects.entry(object.clone()).or_default();
        if known.uid != uid {
            known.uid.clone_from(&uid);
            known.digest = None;
        }
        if known.digest == Some(said) {
            known.digest = None;
        }
        let is_said = said == digest && known.digest.is_none();
        let wanted = StatusWrite { uid, status, digest };
        if known.wanted.is_none() {
            known.since = now;
        }
        known.wanted = (!is_said).then_some(wanted);
    }

    /// What is to be written now. Namespaces take turns, and within one the longest wait goes first: one that has many to write
    /// holds up itself.
    pub fn due(&mut self, now: Instant) -> Vec<(ObjectKey, StatusWrite)> {
        let mut waiting: BTreeMap<Arc<str>, Vec<(Reverse<Timestamp>, ObjectKey)>> = BTreeMap::new();
        for (object, said) in &self.objects {
            let is_rested = said.rested().is_none_or(|rested| now >= rested);
            if said.wanted.is_some() && !said.under_way && is_rested {
                let of_namespace = waiting.entry(Arc::clone(&object.namespace)).or_default();
                of_namespace.push((Reverse(said.since), object.clone()));
            }
        }
        for of_namespace in waiting.values_mut() {
            of_namespace.sort_unstable();
        }
        let mut due = Vec::new();
        while self.under_way < AT_ONCE {
            let turn = |namespace: &Arc<str>| self.turns.get(namespace).copied().unwrap_or_default();
            let Some(namespace) = waiting.keys().min_by_key(|namespace| turn(namespace)).cloned() else {
                break;
            };
            let Some((_, object)) = waiting.get_mut(&namespace).and_then(Vec::pop) else {
                waiting.remove(&namespace);
                continue;
            };
            self.turn += 1;
            self.turns.insert(namespace, self.turn);
            if let Some(said) = self.objects.get_mut(&object)
                && let Some(wanted) = said.wanted.take()
            {
                said.under_way = true;
                self.under_way += 1;
                due.push((object, wanted));
            }
        }
        self.objects.retain(|_, said| {
            said.under_way || said.wanted.is_some() || said.rested().is_some_and(|rested| now < rested)
        });
        let objects = &self.objects;
        self.turns
            .retain(|namespace, _| objects.keys().any(|object| object.namespace == *namespace));
        due
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        if self.under_way >= AT_ONCE {
            // One that ends makes room.
            return None;
        }
        let waiting = |said: &&ObjectEntry| said.wanted.is_some() && !said.under_way;
        self.objects
            .values()
            .filter(waiting)
            .filter_map(ObjectEntry::rested)
            .min()
    }

    /// A status was written, or not.
    pub fn done(
        &mut self,
        object: &ObjectKey,
        wanted: StatusWrite,
        written: Result<(), cluster::Error>,
        now: Instant,
    ) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(said) = self.objects.get_mut(object) else {
            return;
        };
        said.under_way = false;
        if said.uid != wanted.uid {
            return;
        }
        said.last = Some(now);
        match written {
            Ok(()) => {
                said.digest = Some(wanted.digest);
                if said
                    .wanted
                    .as_ref()
                    .is_some_and(|next| next.digest == wanted.digest)
                {
                    said.wanted = None;
                }
            }
            Err(error) if matches!(error.class, Class::NotFound | Class::UidMismatch) => {
                self.objects.remove(object);
            }
            Err(error) => {
                tracing::warn!(%object, %error, "the status of restarts was not written; it is tried again");
                said.wanted.get_or_insert(wanted);
            }
        }
    }
}

impl ObjectEntry {
    /// From when on it may be written again. A status that was just written is not written again before the index shows
    /// it.
    fn rested(&self) -> Option<Instant> {
        let wanted = self.wanted.as_ref().map(|wanted| wanted.digest);
        let is_written = self.digest.is_some() && wanted.is_none_or(|wanted| self.digest == Some(wanted));
        let gap = if is_written { STATUS_SHOWN } else { STATUS_GAP };
        self.last.map(|last| last + gap)
    }
}

fn status_of(report: Report, generation: i64, now: Timestamp) -> ExternalSecretStatus {
    let Report {
        status,
        reason,
        message,
    } = report;
    let holds = reason
        .status(ConditionType::RestartsComplete)
        .unwrap_or(Status::Unknown);
    ExternalSecretStatus {
        conditions: Some(vec![Condition {
            type_: ConditionType::RestartsComplete.as_str().to_owned(),
            status: holds.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: Some(generation),
            last_transition_time: Time(now),
        }]),
        restart: Some(status),
        ..ExternalSecretStatus::default()
    }
}

impl Context {
    /// Writes the part of a status that restarts own, where it differs.
    pub async fn write_status(&self, object: &ObjectKey, wanted: &StatusWrite) -> Result<(), cluster::Error> {
        let Some(live) = self.view.writer.cluster().find::<ExternalSecret>(object).await? else {
            return Ok(());
        };
        if live.metadata.uid.as_deref() != Some(&*wanted.uid)
            || live.status.as_ref().map_or(0, digest_of_restarts) == wanted.digest
        {
            return Ok(());
        }
        // What is gone or says so already takes no turn from others.
        let turn = self.pace.turn(self.started.elapsed());
        tokio::time::sleep_until(self.started + turn).await;
        let writer = &self.view.writer;
        let Some(status) = &wanted.status else {
            let nothing = json!({});
            return writer
                .apply_status::<ExternalSecret>(object, &wanted.uid, RESTART_MANAGER, &nothing)
                .await
                .map(|_| ());
        };
        let mut status = status.clone();
        let is_invalid = |condition: &Condition| condition.reason == Reason::InvalidSpec.as_str();
        if status.conditions.iter().flatten().any(is_invalid) {
            status.restart = live.status.as_ref().and_then(|status| status.restart.clone());
        }
        for condition in status.conditions.iter_mut().flatten() {
            let before = live
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            let mut before =
                before.filter(|was| was.type_ == condition.type_ && was.status == condition.status);
            if let Some(was) = before.next() {
                condition.last_transition_time = was.last_transition_time.clone();
            }
        }
        writer
            .apply_status::<ExternalSecret>(object, &wanted.uid, RESTART_MANAGER, &status)
            .await
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::RestartStatus;

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "db")
    }

    fn report(done: i32) -> Report {
        Report {
            status: RestartStatus {
                done: Some(done),
                ..RestartStatus::default()
            },
            reason: Reason::InProgress,
            message: "some hold it".to_owned(),
        }
    }

    fn shown(uid: &str, said: u64) -> ShownStatus {
        ShownStatus {
            uid: uid.into(),
            generation: 1,
            said,
        }
    }

    fn want(statuses: &mut StatusWriter, said: u64, done: i32) {
        statuses.want(
            &key(),
            shown("u1", said),
            Some(report(done)),
            Timestamp::UNIX_EPOCH,
        );
    }

    fn digest(done: i32) -> u64 {
        digest_of_restarts(&status_of(report(done), 1, Timestamp::UNIX_EPOCH))
    }

    fn write(statuses: &mut StatusWriter, now: Instant) -> bool {
        let mut due = statuses.due(now);
        assert!(due.len() <= 1);
        let Some((object, wanted)) = due.pop() else {
            return false;
        };
        statuses.done(&object, wanted, Ok(()), now);
        true
    }

    #[test]
    fn what_is_there_already_is_not_written() {
        let mut statuses = StatusWriter::default();
        want(&mut statuses, digest(1), 1);
        assert!(!write(&mut statuses, Instant::now()));
        assert!(statuses.objects.is_empty());
    }

    #[test]
    fn a_status_is_written_once_in_five_seconds_and_the_last_word_wins() {
        let (mut statuses, now) = (StatusWriter::default(), Instant::now());
        want(&mut statuses, 0, 1);
        assert!(write(&mut statuses, now));
        // The index does not show it yet: it is not written again.
        want(&mut statuses, 0, 1);
        assert!(!write(&mut statuses, now + STATUS_GAP));
        want(&mut statuses, digest(1), 2);
        want(&mut statuses, digest(1), 3);
        assert!(!write(&mut statuses, now + STATUS_GAP - Duration::from_millis(1)));
        assert_eq!(statuses.next(), Some(now + STATUS_GAP));
        assert!(write(&mut statuses, now + STATUS_GAP));
        // Everything was written, and the index shows it: nothing is kept.
        want(&mut statuses, digest(3), 3);
        assert!(!write(&mut statuses, now + STATUS_GAP * 3));
        assert!(statuses.objects.is_empty());
    }

    #[test]
    fn another_object_of_the_name_is_told_what_the_former_one_was() {
        let (mut statuses, now) = (StatusWriter::default(), Instant::now());
        want(&mut statuses, 0, 1);
        assert!(write(&mut statuses, now));
        let another = |statuses: &mut StatusWriter| {
            statuses.want(&key(), shown("u2", 0), Some(report(1)), Timestamp::UNIX_EPOCH);
        };
        another(&mut statuses);
        assert_eq!(statuses.next(), Some(now + STATUS_GAP));
        assert!(write(&mut statuses, now + STATUS_GAP));
        // What comes of a write to the former one is nothing of the other one's.
        let mut statuses = StatusWriter::default();
        want(&mut statuses, 0, 1);
        let (object, wanted) = statuses.due(now).pop().unwrap();
        another(&mut statuses);
        statuses.done(&object, wanted, Ok(()), now);
        assert!(write(&mut statuses, now));
    }

    #[test]
    fn what_the_index_never_shows_is_written_once_more() {
        let (mut statuses, now) = (StatusWriter::default(), Instant::now());
        want(&mut statuses, 0, 1);
        assert!(write(&mut statuses, now));
        // Somebody wiped the status.
        want(&mut statuses, 0, 1);
        assert_eq!(statuses.next(), Some(now + STATUS_SHOWN));
        assert!(!write(
            &mut statuses,
            now + STATUS_SHOWN - Duration::from_millis(1)
        ));
        assert!(write(&mut statuses, now + STATUS_SHOWN));
        // Where nothing more is to be written, nothing is kept.
        assert!(!write(&mut statuses, now + STATUS_SHOWN * 3));
        assert!(statuses.objects.is_empty());
    }

    #[test]
    fn as_many_are_written_at_once_and_the_rest_wait_for_an_end_and_no_time() {
        let (mut statuses, now) = (StatusWriter::default(), Instant::now());
        let objects: Vec<ObjectKey> = (0..10).map(|n| ObjectKey::new("shop", format!("o{n}"))).collect();
        for object in &objects {
            let report = Some(report(1));
            statuses.want(object, shown("u1", 0), report, Timestamp::UNIX_EPOCH);
        }
        let mut due = statuses.due(now);
        assert_eq!((due.len(), statuses.next()), (AT_ONCE, None));
        let (object, wanted) = due.remove(0);
        statuses.done(&object, wanted, Ok(()), now);
        assert_eq!(statuses.due(now).len(), 1);
    }

    #[test]
    fn namespaces_take_turns_however_many_one_has_to_write() {
        let (mut statuses, start) = (StatusWriter::default(), Instant::now());
        let second = |second| Timestamp::from_second(second).unwrap();
        let quiet = ObjectKey::new("z", "db");
        statuses.want(&quiet, shown("u1", 0), Some(report(1)), second(0));
        let (object, wanted) = statuses.due(start).pop().unwrap();
        statuses.done(&object, wanted, Ok(()), start);
        // Objects that were never written, and that were there before.
        for number in 0..100 {
            let object = ObjectKey::new("a", format!("o{number}"));
            statuses.want(&object, shown("u1", 0), Some(report(1)), second(number));
        }
        statuses.want(&quiet, shown("u1", 0), Some(report(2)), second(50));
        let due: Vec<ObjectKey> = statuses
            .due(start + STATUS_GAP)
            .into_iter()
            .map(|(object, _)| object)
            .collect();
        assert_eq!(due.len(), AT_ONCE);
        assert!(due.contains(&quiet), "{due:?}");
        // Within the other namespace, those that wait longest.
        let first: Vec<ObjectKey> = (0..7)
            .map(|number| ObjectKey::new("a", format!("o{number}")))
            .collect();
        assert!(first.iter().all(|object| due.contains(object)), "{due:?}");
    }

    #[test]
    fn what_failed_is_tried_again_and_what_is_gone_is_not() {
        let (mut statuses, now) = (StatusWriter::default(), Instant::now());
        let failed = |class| cluster::Error {
            verb: cluster::Verb::Apply,
            kind: "ExternalSecret",
            key: key(),
            class,
        };
        want(&mut statuses, 0, 1);
        for (class, again) in [(Class::Timeout, true), (Class::NotFound, false)] {
            let (object, wanted) = statuses.due(now + STATUS_GAP).pop().unwrap();
            statuses.done(&object, wanted, Err(failed(class)), now);
            assert_eq!(statuses.next().is_some(), again);
        }
        assert!(statuses.objects.is_empty());
    }
}
