//! Comparing the Secret with what its ExternalSecret wants, which ends most passes.

use super::{outcome::Stop, pass::Pass};
use crate::{
    api::{CreationPolicy, DeletionPolicy},
    objects::{Refresh, RefreshDigest, status::Draft},
    sync::{
        decide::{
            comparison::{self, Comparison, Existing},
            references::{ReadRequest, Resolved},
            versions,
        },
        deletions::{DeletionTarget, Place},
        stores::Stores,
    },
    track::{self, Known, Subscription, Want},
};

impl Pass<'_> {
    /// Compares the Secret with what is wanted of it, and has the tracker check what it is made from.
    pub(super) fn compare(&self, resolved: Resolved) -> Result<Comparison, Stop> {
        let existing = Existing {
            secret: self.secret(),
            read: self.recall().target.read.map(|read| (read.inputs, read.versions)),
        };
        let comparison = comparison::compare(&self.context.key, self.object, self.entry, resolved, existing);
        self.subscribe(&comparison.resolved.needs);
        // On demand: not more often than every 10 s, and never lost.
        if self.is_asked(&comparison)
            && let Some(left) = self
                .recall()
                .wait_for(self.entry.annotations.refresh, self.context.clock.now())
        {
            return Err(Stop::WaitFor(Some(left)));
        }
        self.count_in(&comparison, comparison.ours);
        Ok(comparison)
    }

    /// The Secret is as it should be, but for what restarts need on it.
    pub(super) async fn confirm(&self, mut comparison: Comparison) -> Result<Draft, Stop> {
        self.context.deletions().withdraw(self.object);
        if self.entry.spec.creation != CreationPolicy::None
            && let Some(secret) = &comparison.secret
            && !comparison.is_stamped(&self.context.key, self.entry, secret)
        {
            self.stamp(&comparison).await?;
            comparison.secret = self.secret();
        }
        Ok(self.draft_synced(&comparison))
    }

    /// Whether somebody asks for a refresh that was not answered yet.
    pub(super) fn is_asked(&self, comparison: &Comparison) -> bool {
        let asked = self.entry.annotations.refresh;
        asked != RefreshDigest::NONE
            && self.recall().refresh.answered != Some(asked)
            && !comparison.same_inputs
    }

    /// What AWS was last seen to have of a need.
    pub(super) fn known(&self, need: &ReadRequest) -> Known {
        self.context
            .provider
            .tracking
            .ask(|tracker| tracker.known(need.source, &need.key, &need.selector))
    }

    /// The versions that the tracker holds to be right, as they would be recorded.
    pub(super) fn known_versions(&self, needs: &[ReadRequest]) -> String {
        let known = needs.iter().filter_map(|need| {
            let version = match self.known(need) {
                Known::Version(version) => version,
                _ => need.recorded.clone()?,
            };
            Some((need.hash.clone(), version.0.to_string()))
        });
        versions::json(&known.collect())
    }

    fn subscribe(&self, needs: &[ReadRequest]) {
        let wants = needs
            .iter()
            .map(|need| Want {
                source: need.source,
                key: need.key.clone(),
                selector: need.selector.clone(),
                recorded: need.recorded.clone(),
            })
            .collect();
        let refresh = match self.entry.spec.refresh {
            Refresh::Every(interval) => track::Refresh::Every(interval),
            Refresh::OnChange | Refresh::Once => track::Refresh::Once,
        };
        self.context.provider.tracking.subscribe(
            self.object,
            Subscription {
                refresh,
                rotation: self.entry.rotation.is_some(),
                wants,
            },
        );
    }

    /// The object has a Secret, or none, that follows what is deleted in AWS.
    pub(super) fn count_in(&self, comparison: &Comparison, exists: bool) {
        let entry = self.latest();
        if entry.spec.deletion == DeletionPolicy::Retain || entry.spec.creation == CreationPolicy::None {
            self.context.deletions().forget(self.object);
            return;
        }
        let Ok(store) = self.context.stores.meant(entry.spec.store.as_ref()) else {
            return;
        };
        let store = Stores::key(&store, &self.object.namespace);
        let usable = &comparison.resolved.usable;
        let place = usable.account.clone().map(|account| Place {
            account,
            region: usable.source.region.clone(),
        });
        let target = DeletionTarget {
            store: &store,
            place: place.as_ref(),
            exists,
        };
        let now = self.context.clock.now();
        self.context.deletions().see(now, self.object, target);
    }
}
