//! The writes of this process that the watch has not shown yet. Pure.
//!
//! Within one watch, resource versions tell which is newer: what the watch shows, or what we wrote. Events come in their
//! order, so a write up to the version of the last event or bookmark is known by the watch, even if its object is gone.
//!
//! A list replaces everything, whatever the numbers: after a restore of etcd they go back. It includes all writes that were
//! answered before it began. Only a write that was answered while the list was under way may be newer than the list.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Indexed, demand::is_in, version::Version};
use crate::api::ObjectKey;

/// A watch that shows a write later than this is reported.
pub(super) const LATE: Duration = Duration::from_secs(10);

/// The writes that the index holds and the watch has not shown yet. Bounded by the objects that were written since the last
/// bookmark of a watch.
#[derive(Debug)]
pub(super) struct OwnWrites<E> {
    writes: HashMap<ObjectKey, OwnWrite<E>>,
    places: HashMap<Arc<str>, Place>,
    /// Whether the present lag was reported.
    is_reported: bool,
}

#[derive(Debug)]
struct OwnWrite<E> {
    version: Version,
    at: Instant,
    /// Whether it was answered before the list began that is under way.
    before_list: bool,
    /// What that list has of the object, if that is older.
    listed: Option<Indexed<E>>,
}

/// How far the follower of a place is.
#[derive(Debug)]
enum Place {
    /// All is being listed.
    Listing,
    /// Everything up to this version is known.
    Following(Version),
}

/// What an event of the watch, or an object of a list, is to the index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// The index holds a newer object, which we wrote.
    Old,
    /// It is our write.
    Own,
    /// Anything else.
    Other,
}

impl<E> Default for OwnWrites<E> {
    fn default() -> Self {
        Self {
            writes: HashMap::new(),
            places: HashMap::new(),
            is_reported: false,
        }
    }
}

impl<E> OwnWrites<E> {
    /// A list of a place begins.
    pub(super) fn begin(&mut self, place: &str) {
        self.places.insert(place.into(), Place::Listing);
        for (_, write) in self
            .writes
            .iter_mut()
            .filter(|(key, _)| is_in(place, &key.namespace))
        {
            (write.before_list, write.listed) = (true, None);
        }
    }

    /// A write was answered; `held` is the version of the object that the index holds, if it holds one. Returns whether the
    /// write is newer, so that the index is to hold it until the watch shows it or a newer object.
    pub(super) fn record(
        &mut self,
        key: &ObjectKey,
        version: Version,
        held: Option<Version>,
        now: Instant,
    ) -> bool {
        let is_ahead = match place_of(&mut self.places, key) {
            Some(Place::Following(known)) => known.precedes(version),
            Some(Place::Listing) => version.is_number(),
            None => false,
        };
        if !is_ahead || held.is_some_and(|held| !held.precedes(version)) {
            return false;
        }
        let write = OwnWrite {
            version,
            at: now,
            before_list: false,
            listed: self.writes.remove(key).and_then(|before| before.listed),
        };
        self.writes.insert(key.clone(), write);
        true
    }

    /// The watch, or the list that is under way, shows an object at `version`: none if it was deleted.
    pub(super) fn see(&mut self, key: &ObjectKey, object: Option<&Indexed<E>>, version: Version) -> Sight {
        let place = place_of(&mut self.places, key);
        let is_listing = matches!(place, Some(Place::Listing));
        if let Some(Place::Following(known)) = place {
            *known = version;
        }
        let Some(write) = self.writes.get_mut(key) else {
            return Sight::Other;
        };
        let is_own = write.version == version;
        if !is_own && write.version.includes(version) {
            write.listed = object.filter(|_| is_listing).cloned();
            return Sight::Old;
        }
        self.writes.remove(key);
        self.settle();
        if is_own { Sight::Own } else { Sight::Other }
    }

    /// The list of a place ended, as of `listed`. Returns what it has of the objects that the index holds as we wrote them,
    /// none if it has no such object. Writes that are newer than the list stay; `keep` is told of them.
    pub(super) fn end(
        &mut self,
        place: &str,
        listed: Version,
        mut keep: impl FnMut(&ObjectKey),
    ) -> Vec<(ObjectKey, Option<Indexed<E>>)> {
        self.places.insert(place.into(), Place::Following(listed));
        let mut replaced = Vec::new();
        self.writes.retain(|key, write| {
            if !is_in(place, &key.namespace) {
                return true;
            }
            let is_newer = !write.before_list && listed.precedes(write.version);
            if is_newer {
                keep(key);
            } else {
                replaced.push((key.clone(), write.listed.take()));
            }
            is_newer
        });
        self.settle();
        replaced
    }

    /// A bookmark: the watch has shown all that happened in a place up to `version`. Returns the objects of which it should
    /// have shown our write and did not, so that they are none of those that are watched.
    pub(super) fn reach(&mut self, place: &str, version: Version) -> Vec<ObjectKey> {
        let Some(Place::Following(known)) = self.places.get_mut(place) else {
            return Vec::new();
        };
        *known = version;
        let mut unseen = Vec::new();
        self.writes.retain(|key, write| {
            let is_unseen = version.includes(write.version) && is_in(place, &key.namespace);
            if is_unseen {
                unseen.push(key.clone());
            }
            !is_unseen
        });
        self.settle();
        unseen
    }

    /// How long the watch lags behind our writes, if that is to be reported now: once, until it has caught up.
    pub(super) fn lag(&mut self, now: Instant) -> Option<Duration> {
        if self.is_reported {
            return None;
        }
        let oldest = self.writes.values().map(|write| write.at).min()?;
        let lag = Some(now.saturating_duration_since(oldest)).filter(|lag| *lag >= LATE);
        self.is_reported = lag.is_some();
        lag
    }

    fn settle(&mut self) {
        if self.writes.is_empty() {
            self.is_reported = false;
            self.writes.shrink_to(64);
        }
    }
}

/// The place that an object is followed in.
fn place_of<'a>(places: &'a mut HashMap<Arc<str>, Place>, key: &ObjectKey) -> Option<&'a mut Place> {
    let place = if places.contains_key("") {
        ""
    } else {
        &*key.namespace
    };
    places.get_mut(place)
}
