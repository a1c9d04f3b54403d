//! The places from which passes write to Kubernetes.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many objects write to Kubernetes at once.
const PLACES: usize = 32;
/// So many that wait for a place have to wait for a good part of a second.
const CROWD: usize = 4 * PLACES;

/// Places to write, taken in turn.
pub struct WriteSlots {
    places: Semaphore,
    waiting: AtomicUsize,
}

impl Default for WriteSlots {
    fn default() -> Self {
        Self {
            places: Semaphore::new(PLACES),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl WriteSlots {
    /// Waits for a place, which is held until the answer is dropped.
    pub(super) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.places.acquire().await.ok()
    }

    /// Whether whoever comes now will wait for long.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.load(Relaxed) >= CROWD
    }
}

/// Who waits; also one that is dropped meanwhile.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{join_all, poll_immediate};

    use super::*;

    #[tokio::test]
    async fn a_crowd_is_who_waits_and_not_who_writes_or_has_left() {
        let slots = WriteSlots::default();
        let writing = join_all((0..PLACES).map(|_| slots.take())).await;
        assert!(writing.iter().all(Option::is_some) && !slots.is_crowded());
        let mut crowd = Box::pin(join_all((0..CROWD).map(|_| slots.take())));
        assert!(poll_immediate(&mut crowd).await.is_none());
        assert!(slots.is_crowded());
        drop(crowd);
        assert!(!slots.is_crowded());
        drop(writing);
        assert!(slots.take().await.is_some());
    }
}
