//! The state machine.

use crate::{
    api::{ObjectKey, Selector, SourceId, VersionId},
    track::{Config, Effect, Known, Mode, Now, Observation, Rotation, SourcePolicy, Subscription},
};

/// The state machine of what is wanted and known.
#[derive(Debug)]
pub struct Tracker {
    config: Config,
}

impl Tracker {
    /// One that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Adds a source, or changes its policy, which forgets what it was denied. Wants may come before their source:
    /// they are checked once it is known.
    pub fn set_source(&mut self, now: Now, source: SourceId, policy: SourcePolicy) {
        let _ = (now, source, policy, &self.config);
    }

    /// Stops all checks of a source. Its wants wait until it is set again or their objects unsubscribe.
    pub fn remove_source(&mut self, source: SourceId) {
        let _ = source;
    }

    /// Sets what the object wants. Of secrets that stay wanted, all that is known is kept.
    pub fn subscribe(&mut self, now: Now, object: &ObjectKey, subscription: Subscription) {
        let _ = (now, object, subscription);
    }

    /// Forgets the object, and the secrets that no other wants.
    pub fn unsubscribe(&mut self, object: &ObjectKey) {
        let _ = object;
    }

    /// Checks all that the object wants now, then wakes it by [`crate::track::Cause::Refreshed`]. The next
    /// `poll` gives the calls.
    pub fn refresh(&mut self, now: Now, object: &ObjectKey) {
        let _ = (now, object);
    }

    /// An event has told that the secret changed, and to which version if the event says. It is described, again with
    /// growing pauses and at most six times, until that version shows.
    pub fn hint(&mut self, now: Now, source: SourceId, key: &str, expected: Option<VersionId>) {
        let _ = (now, source, key, expected);
    }

    /// All that is due: calls to make, objects to wake. At most 320 secrets of a source are in flight at a time.
    pub fn poll(&mut self, now: Now) -> Vec<Effect> {
        let _ = now;
        Vec::new()
    }

    /// When `poll` has something next, which may be in the past; none while everything waits for events.
    pub fn next_due(&self) -> Option<Now> {
        None
    }

    /// Takes an answer. Poll afterwards: wakes are due at once.
    pub fn observe(&mut self, now: Now, observation: Observation) {
        let _ = (now, observation);
    }

    /// What holds for a want. A transient failure changes nothing.
    pub fn known(&self, source: SourceId, key: &str, selector: &Selector) -> Known {
        let _ = (source, key, selector);
        Known::Unknown
    }

    /// What is known of the secret's rotation; none while its stages were not seen.
    pub fn rotation(&self, source: SourceId, key: &str) -> Option<&Rotation> {
        let _ = (source, key);
        None
    }

    /// The oldest of the last successful checks of what the object wants; none if one of them was never checked by
    /// this process.
    pub fn checked(&self, object: &ObjectKey) -> Option<Now> {
        let _ = object;
        None
    }

    /// How the source is checked; none for an unknown one.
    pub fn mode(&self, source: SourceId) -> Option<Mode> {
        let _ = source;
        None
    }
}
