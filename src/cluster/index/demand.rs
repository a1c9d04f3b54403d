//! The namespaces in which other kinds are needed, since objects of an index demand them there.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    sync::Arc,
};

use tokio::sync::watch;

/// How many objects of a namespace demand other kinds; never 0.
pub(super) type Counts = HashMap<Arc<str>, usize>;

/// The namespaces that an index demands. It is up to date as soon as the index is, and complete once the index was listed.
#[derive(Clone, Debug)]
pub struct Demand(pub(super) watch::Receiver<Counts>);

impl Demand {
    /// Those in `place`, which is a namespace, or everywhere if it is empty. Changes from then on are for [`Self::changed`].
    pub(super) fn namespaces(&mut self, place: &str) -> HashSet<Arc<str>> {
        let counts = self.0.borrow_and_update();
        let namespaces = counts.keys().filter(|namespace| is_in(place, namespace));
        namespaces.cloned().collect()
    }

    /// Returns once the namespaces may be others than those of the last look. May be dropped while waiting.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The index is gone: nothing changes any more.
            pending::<()>().await;
        }
    }
}

/// An object of the namespace demanded other kinds or not `before` a change, and does or not `after` it.
pub(super) fn count(counts: &watch::Sender<Counts>, namespace: &Arc<str>, before: bool, after: bool) {
    if before == after {
        return;
    }
    counts.send_if_modified(|counts| {
        let known = counts.len();
        let count = counts.entry(Arc::clone(namespace)).or_default();
        *count = if after {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        if *count == 0 {
            counts.remove(namespace);
        }
        counts.len() != known
    });
}

/// Whether a namespace is in `place`, which is a namespace, or everywhere if it is empty.
pub(super) fn is_in(place: &str, namespace: &str) -> bool {
    place.is_empty() || place == namespace
}
