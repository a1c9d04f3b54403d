//! The work queue with its clock and its bell: what the pure [`Queue`] lacks to be shared by tasks.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    api::ObjectKey,
    sync::queue::{Class, Now, Queue},
};

/// Time since the process started, as the pure rooms count it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The present.
    pub fn now(self) -> Now {
        self.0.elapsed()
    }

    /// What the runtime calls this time.
    pub fn instant(self, at: Now) -> Instant {
        self.0 + at
    }

    /// Waits until `at`; for ever if there is none.
    pub async fn reach(self, at: Option<Now>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.0 + at).await,
            None => std::future::pending().await,
        }
    }
}

/// The shared work queue.
#[derive(Debug)]
pub struct Work {
    clock: Clock,
    queue: Mutex<Queue>,
    bell: Notify,
}

impl Work {
    /// A queue that lets `limit` objects be worked at once.
    pub fn new(clock: Clock, limit: usize, seed: u64) -> Self {
        Self {
            clock,
            queue: Mutex::new(Queue::new(limit, seed)),
            bell: Notify::new(),
        }
    }

    /// Asks that `object` be worked.
    pub fn push(&self, object: ObjectKey, class: Class) {
        self.lock().push(object, class);
        self.bell.notify_one();
    }

    /// Asks that `object` be worked after `wait`, unless it is worked before.
    pub fn push_after(&self, object: ObjectKey, wait: Duration) {
        let at = self.clock.now() + wait;
        self.lock().push_at(object, at);
        self.bell.notify_one();
    }

    /// Asks that `object` be worked again after its next back-off, and gives its length.
    pub fn push_failed(&self, object: &ObjectKey) -> Duration {
        let wait = self.lock().backoff(object);
        self.push_after(object.clone(), wait);
        wait
    }

    /// The next object, waiting for it and for a free place.
    pub async fn next(&self) -> (ObjectKey, Class) {
        loop {
            let alarm = {
                let mut queue = self.lock();
                if let Some(next) = queue.pop(self.clock.now()) {
                    return next;
                }
                queue.next_alarm()
            };
            // `pop` rang what was due, also while every place is taken: one that is due by now rings in the next round.
            tokio::select! {
                () = self.bell.notified() => {}
                () = self.clock.reach(alarm) => {}
            }
        }
    }

    /// The work on `object` ended; `well` forgives its earlier failures.
    pub fn done(&self, object: &ObjectKey, well: bool) {
        let mut queue = self.lock();
        if well {
            queue.forgive(object);
        }
        queue.done(object);
        drop(queue);
        self.bell.notify_one();
    }

    /// How many objects wait, urgent and periodic, and how many are worked.
    pub fn depth(&self) -> (usize, usize, usize) {
        let queue = self.lock();
        let (urgent, periodic) = queue.waiting();
        (urgent, periodic, queue.running())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
