//! What keeps a target from being written, looked at before values are read: nothing is read that could not be written soon.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;

use super::{
    memory::ForeignTarget,
    outcome::Stop,
    pass::Pass,
    timing::{LEFTOVER, RECHECK_LEFTOVER},
    write::wipe,
};
use crate::{
    cluster::{Observed, SecretEntry},
    objects::{Ownership, ownership},
    sync::decide::comparison::Comparison,
};

impl Pass<'_> {
    /// Whether the target could be written.
    pub(super) async fn check_target(&self, comparison: &Comparison) -> Result<(), Stop> {
        // What was refused is found out once more, and reported again.
        if self.lost_status() {
            self.remember(|memory| (memory.target.refused, memory.target.conflict) = (None, None));
        }
        let refused = self.recall().target.refused;
        if let Some(wait) = self.is_in_the_way(comparison).await {
            return Err(Stop::Unchanged(Some(wait)));
        }
        if let Some(secret) = &comparison.secret
            && secret.immutable
            && comparison.intact
            && let Some(refused) = refused
            && refused.revision == self.entry.revision
            && refused.versions == self.known_versions(&comparison.resolved.needs)
        {
            return Err(Stop::Unchanged(None));
        }
        match self.context.capacity.slots.secrets.full(&self.object.namespace) {
            Some(wait) => Err(Stop::Unchanged(Some(wait))),
            None => Ok(()),
        }
    }

    /// Whether a Secret stands in the way as it did, or is fought over, so that no value need be read now: for how long.
    async fn is_in_the_way(&self, comparison: &Comparison) -> Option<Duration> {
        let now = self.context.clock.now();
        let leftover = comparison
            .secret
            .as_ref()
            .is_some_and(|secret| self.is_leftover(secret));
        let mut since = None;
        self.remember(|memory| {
            let memory = &mut memory.target;
            memory.leftover = leftover.then(|| memory.leftover.unwrap_or(now));
            since = memory.leftover;
        });
        // An object deleted and made again: its former Secret goes by itself, which wakes it.
        if since.is_some_and(|since| now < since + LEFTOVER) {
            return Some(RECHECK_LEFTOVER);
        }
        let memory = self.recall().target;
        if let Some(left) = memory.contest.as_deref().and_then(|contest| contest.wait(now)) {
            let (object, secret) = (self.object, &comparison.target);
            tracing::warn!(%object, %secret, "another controller keeps changing the Secret; pausing");
            return Some(left);
        }
        let ForeignTarget {
            revision,
            observed,
            recheck,
        } = *memory.conflict?;
        if revision != self.entry.revision {
            return None;
        }
        let cluster = self.context.view.writer.cluster();
        match cluster.find::<Secret>(&comparison.target).await {
            Ok(Some(mut live)) => {
                let same = Observed::of(&live).is_some_and(|live| live == observed);
                wipe(&mut live);
                same.then_some(recheck)
            }
            Ok(None) | Err(_) => None,
        }
    }

    /// Whether the Secret is one that an earlier object of this name left to the garbage collector.
    fn is_leftover(&self, secret: &SecretEntry) -> bool {
        ownership(self.object, &self.entry.uid, secret) == Ownership::Leftover
    }
}
