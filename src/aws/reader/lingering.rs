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
/// Values that answer for those who ask within [`LINGER`].
#[derive(Default)]
pub(super) struct Lingering {
    values: HashMap<Wanted, (Instant, Arc<RemoteValue>)>,
    /// In the order in which they end. One without its value was replaced.
    ends: VecDeque<(Instant, Wanted)>,
    bytes: usize,
    pub(super) is_watched: bool,
}

impl Lingering {
    pub(super) fn get(&self, wanted: &Wanted) -> Option<Arc<RemoteValue>> {
        let find = |wanted: &Wanted| self.values.get(wanted).filter(|(end, _)| Instant::now() < *end);
        if let Some((_, value)) = find(wanted) {
            return Some(value.clone());
        }
        let (source, key, Selector::Version(version)) = wanted else {
            return None;
        };
        let (_, value) = find(&(*source, key.clone(), Selector::Stage(AWSCURRENT.into())))?;
        (value.version == *version).then(|| value.clone())
    }

    pub(super) fn put(&mut self, wanted: Wanted, value: Arc<RemoteValue>) {
        let end = Instant::now() + LINGER;
        self.drop_value(&wanted);
        self.bytes += value.payload().len();
        self.values.insert(wanted.clone(), (end, value));
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
        if self.values.get(wanted).is_some_and(|(its, _)| *its == end) {
            self.drop_value(wanted);
        }
    }

    fn drop_value(&mut self, wanted: &Wanted) {
        if let Some((_, value)) = self.values.remove(wanted) {
            self.bytes = self.bytes.saturating_sub(value.payload().len());
        }
    }
}
