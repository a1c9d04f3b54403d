//! One pass over one ExternalSecret: admit, resolve, compare, read, write, report.
//!
//! A pass starts from what the indexes and the tracker know and ends at once where nothing is to be done. Values are
//! read before a write slot is taken; what is written starts from live objects. What a pass decides is in
//! [`decide`](super::decide); [`pass`] has its steps in order, and the one place that turns its outcome into conditions,
//! events and the next look.

mod compare;
mod conflict;
mod control;
mod delete;
mod deletion_hold;
mod deletion_policy;
mod memory;
mod outcome;
mod pass;
mod read;
mod report;
mod resolve;
mod restart_annotations;
mod rotation_status;
mod staleness;
mod status_writer;
mod timing;
mod value_budget;
mod value_shares;
mod write;
mod write_places;
mod write_slots;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use self::pass::Pass;
pub use self::{memory::Memories, outcome::NextPass, value_budget::ValueBudget, write_slots::WriteSlots};
use crate::{
    api::{ObjectKey, RestartMode, TokenKey},
    cluster::{Indexed, Pace},
    objects::View,
    sync::{
        deletions::Deletions,
        driver::Provider,
        metrics::Metrics,
        queue::Class,
        stores::Stores,
        work::{Clock, Work},
    },
};

/// What every pass shares.
pub struct Context {
    /// The cluster.
    pub view: View,
    /// Stores and what they are good for.
    pub stores: Arc<Stores>,
    /// AWS.
    pub provider: Provider,
    /// The process's clock.
    pub clock: Clock,
    /// The key of the tokens.
    pub key: TokenKey,
    /// The queue.
    pub work: Arc<Work>,
    /// What the command line says.
    pub settings: PassSettings,
    /// What passes take turns for.
    pub capacity: Capacity,
    /// Numbers.
    pub metrics: Metrics,
    /// What the process remembers.
    pub memory: Memories,
    /// What is deleted because it is gone in AWS, and how much of it at once.
    pub deletions: Mutex<Deletions>,
}

/// What the command line says about passes.
pub struct PassSettings {
    /// Intervals below are raised to it.
    pub min_interval: Duration,
    /// What applies to restarts where a spec says nothing.
    pub restart_default: RestartMode,
    /// Namespaces whose Secrets are never written.
    pub protected: Vec<String>,
    /// Names and domains of labels and annotations that are not copied to Secrets, besides those of tools that are known.
    pub never_copied: Vec<String>,
}

/// What passes take turns for.
pub struct Capacity {
    /// Memory for values.
    pub values: ValueBudget,
    /// Places to write.
    pub slots: WriteSlots,
    /// The rate of status writes that nobody waits for.
    pub pace: Pace,
}

impl Context {
    /// One pass over `object`.
    pub async fn reconcile(&self, object: &ObjectKey, class: Class) -> NextPass {
        let entry = match self.view.objects.get(object) {
            None => {
                self.provider
                    .tracking
                    .tell(|tracker, _| tracker.unsubscribe(object));
                self.memory.lock().remove(object);
                self.deletions().forget(object);
                return NextPass::OnChange;
            }
            // What is deleted with it must not come back meanwhile.
            Some(Indexed::Entry(entry)) if entry.ending => {
                let now = self.clock.now();
                self.remember(object, |memory| {
                    memory.see(&entry.uid, entry.revision, now);
                    memory.wanted_since = None;
                });
                self.provider
                    .tracking
                    .tell(|tracker, _| tracker.unsubscribe(object));
                self.deletions().forget(object);
                return NextPass::OnChange;
            }
            Some(Indexed::Entry(entry)) => entry,
            Some(Indexed::Malformed(malformed)) => return self.report_malformed(object, &malformed).await,
        };
        let now = self.clock.now();
        self.remember(object, |memory| {
            memory.see(&entry.uid, entry.revision, now);
            memory.wanted_since.get_or_insert(now);
        });
        Pass::new(self, object, &entry, class).run().await
    }
}
