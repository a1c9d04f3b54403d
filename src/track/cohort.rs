//! Cohorts: secrets that one batch reads, period after period.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::track::{
    Now,
    remote::{CohortId, RemoteId},
    source::Task,
};

#[derive(Debug)]
pub(super) struct Cohort {
    members: Vec<RemoteId>,
    interval: Duration,
    /// The next time of its period.
    next: Now,
    /// Its place in the queue: the next time, or earlier after a failure.
    queued: Now,
}

/// The cohorts of a source. Of each interval at most one has room, so that batches are full.
#[derive(Debug, Default)]
pub(super) struct Cohorts {
    /// Secrets of a full one.
    size: usize,
    all: BTreeMap<CohortId, Cohort>,
    open: BTreeMap<Duration, CohortId>,
    last: CohortId,
}

impl Cohorts {
    /// From now on a cohort is full with so many secrets.
    pub(super) fn set_size(&mut self, size: usize) {
        self.size = size;
    }

    /// Puts the secret into the cohort with room, or into a new one whose first time is `first`.
    pub(super) fn join(
        &mut self,
        queue: &mut BTreeSet<(Now, Task)>,
        id: RemoteId,
        interval: Duration,
        first: Now,
    ) -> CohortId {
        if let Some(open) = self.open.get(&interval).copied()
            && let Some(cohort) = self.all.get_mut(&open)
        {
            cohort.members.push(id);
            if cohort.members.len() >= self.size {
                self.open.remove(&interval);
            }
            return open;
        }
        self.last = self.last.wrapping_add(1);
        while self.all.contains_key(&self.last) {
            self.last = self.last.wrapping_add(1);
        }
        self.all.insert(
            self.last,
            Cohort {
                members: vec![id],
                interval,
                next: first,
                queued: first,
            },
        );
        self.open.insert(interval, self.last);
        queue.insert((first, Task::Cohort(self.last)));
        self.last
    }

    /// Takes the secret out. The hole is filled from the cohort with room; gives the secret that moved, and where to.
    pub(super) fn leave(
        &mut self,
        queue: &mut BTreeSet<(Now, Task)>,
        from: CohortId,
        id: RemoteId,
    ) -> Option<(RemoteId, CohortId)> {
        let cohort = self.all.get_mut(&from)?;
        let interval = cohort.interval;
        cohort.members.retain(|member| *member != id);
        let donor = *self.open.entry(interval).or_insert(from);
        let moved = if donor == from {
            None
        } else {
            self.all.get_mut(&donor)?.members.pop()
        };
        if let Some(moved) = moved {
            self.all.get_mut(&from)?.members.push(moved);
        }
        if self.all.get(&donor).is_some_and(|donor| donor.members.is_empty()) {
            self.open.remove(&interval);
            if let Some(empty) = self.all.remove(&donor) {
                queue.remove(&(empty.queued, Task::Cohort(donor)));
            }
        }
        moved.map(|moved| (moved, from))
    }

    /// The cohort's time has come: gives its members, and queues its next time, which keeps the phase.
    pub(super) fn fire(
        &mut self,
        queue: &mut BTreeSet<(Now, Task)>,
        id: CohortId,
        now: Now,
    ) -> Option<&[RemoteId]> {
        let cohort = self.all.get_mut(&id)?;
        if cohort.next <= now {
            let period = cohort.interval.as_millis().max(1);
            let behind = now.saturating_sub(cohort.next).as_millis() / period + 1;
            let ahead = u64::try_from(behind * period).unwrap_or(u64::MAX);
            cohort.next += Duration::from_millis(ahead);
        }
        cohort.queued = cohort.next;
        queue.insert((cohort.next, Task::Cohort(id)));
        Some(&cohort.members)
    }

    /// Reads the cohort again before its next time: its last read has failed.
    pub(super) fn retry(&mut self, queue: &mut BTreeSet<(Now, Task)>, id: CohortId, now: Now) {
        if let Some(cohort) = self.all.get_mut(&id)
            && now < cohort.queued
        {
            queue.remove(&(cohort.queued, Task::Cohort(id)));
            cohort.queued = now;
            queue.insert((now, Task::Cohort(id)));
        }
    }
}
