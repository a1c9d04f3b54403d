//! Values that answer for those who come late.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::Wanted;
use crate::{
    api::{Selector, remote::AWSCURRENT},
    aws::remote::RemoteValue,
};

/// How long a value answers for those who ask later.
const LINGER: Duration = Duration::from_secs(10);
/// Size of all that linger.
const LINGERING: usize = 4 << 20;
/// A value that answers until its end.
struct Kept {
    end: Instant,
    /// When the call that has read it began.
    begun: Instant,
    value: Arc<RemoteValue>,
}

/// Values that answer for those who ask within [`LINGER`].
#[derive(Default)]
pub(super) struct Lingering {
    values: HashMap<Wanted, Kept>,
    /// In the order in which they end. One without its value was replaced.
    ends: VecDeque<(Instant, Wanted)>,
    bytes: usize,
    pub(super) is_watched: bool,
}

impl Lingering {
    /// The value, if it was read by a call that began after `since`. Of a version by id any will do: it never changes.
    pub(super) fn get(&self, wanted: &Wanted, since: Instant) -> Option<Arc<RemoteValue>> {
        let now = Instant::now();
        let find = |wanted: &Wanted| self.values.get(wanted).filter(|kept| now < kept.end);
        let (source, key, selector) = wanted;
        let Selector::Version(version) = selector else {
            return find(wanted)
                .filter(|kept| kept.begun >= since)
                .map(|kept| kept.value.clone());
        };
        let current = || (*source, key.clone(), Selector::Stage(AWSCURRENT.into()));
        let kept = find(wanted).or_else(|| find(&current()).filter(|kept| kept.value.version == *version))?;
        Some(kept.value.clone())
    }

    pub(super) fn put(&mut self, wanted: Wanted, value: Arc<RemoteValue>, begun: Instant) {
        let end = Instant::now() + LINGER;
        self.drop_value(&wanted);
        self.bytes += value.payload().len();
        self.values.insert(wanted.clone(), Kept { end, begun, value });
        self.ends.push_back((end, wanted));
        while self.bytes > LINGERING
            && let Some((end, wanted)) = self.ends.pop_front()
        {
            self.end(end, &wanted);
        }
    }

    /// Drops what has lingered long enough, and says when to come again.
    pub(super) fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some((end, wanted)) = self.ends.pop_front() {
            if end > now {
                self.ends.push_front((end, wanted));
                return Some(end);
            }
            self.end(end, &wanted);
        }
        self.is_watched = false;
        None
    }

    fn end(&mut self, end: Instant, wanted: &Wanted) {
        if self.values.get(wanted).is_some_and(|kept| kept.end == end) {
            self.drop_value(wanted);
        }
    }

    fn drop_value(&mut self, wanted: &Wanted) {
        if let Some(kept) = self.values.remove(wanted) {
            self.bytes = self.bytes.saturating_sub(kept.value.payload().len());
        }
    }
}
