//! Values that answer for those who come late.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{Read, Wanted, audit::Audience};
use crate::{
    api::{ObjectKey, Selector, remote::AWSCURRENT},
    aws::remote::RemoteValue,
};

/// How long a value answers for those who ask later.
const LINGER: Duration = Duration::from_secs(10);
/// Size of all that linger.
const LINGERING: usize = 4 << 20;
/// A value that answers until its end.
struct LingeringValue {
    end: Instant,
    /// When the call that has read it began.
    begun: Instant,
    value: Arc<RemoteValue>,
    /// Who is named in the audit log as having got it.
    audience: Audience,
}

/// Values that answer for those who ask within [`LINGER`].
#[derive(Default)]
pub(super) struct Lingering {
    values: HashMap<Wanted, LingeringValue>,
    /// In the order in which they end. One without its value was replaced.
    ends: VecDeque<(Instant, Wanted)>,
    bytes: usize,
    pub(super) is_watched: bool,
}

impl Lingering {
    /// The value for this object, if it was read by a call that began after `since`. Of a version by id any will do: it never
    /// changes. Also tells whether the audit log does not name the object yet, as it is to do from now on.
    pub(super) fn get(
        &mut self,
        wanted: &Wanted,
        since: Instant,
        asker: &ObjectKey,
    ) -> Option<(Arc<RemoteValue>, bool)> {
        let now = Instant::now();
        let (source, key, selector) = wanted;
        let current = matches!(selector, Selector::Version(_))
            .then(|| (*source, key.clone(), Selector::Stage(AWSCURRENT.into())));
        let answers = |kept: &LingeringValue| match selector {
            Selector::Stage(_) => kept.begun >= since,
            Selector::Version(version) => kept.value.version == *version,
        };
        let at = [wanted].into_iter().chain(&current).find(|at| {
            let kept = self.values.get(at);
            kept.is_some_and(|kept| now < kept.end && answers(kept))
        })?;
        let kept = self.values.get_mut(at)?;
        let is_new = !kept.audience.contains(asker);
        if is_new {
            kept.audience.insert(asker.clone());
        }
        Some((kept.value.clone(), is_new))
    }

    pub(super) fn put(&mut self, wanted: Wanted, read: Read, begun: Instant) {
        let Read { value, audience } = read;
        let end = Instant::now() + LINGER;
        self.drop_value(&wanted);
        self.bytes += value.payload().len();
        self.values.insert(
            wanted.clone(),
            LingeringValue {
                end,
                begun,
                value,
                audience,
            },
        );
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
