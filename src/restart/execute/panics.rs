//! A task that panics must not leave its caller waiting.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::task::JoinError;

use crate::{
    api::ObjectKey,
    cluster::{self, Class, Verb},
};

/// What `work` gives, or an error if it panics: who waits for it must hear of it. The panic's own text stays inside.
pub async fn caught<T>(
    verb: Verb,
    key: &ObjectKey,
    work: impl Future<Output = Result<T, cluster::Error>>,
) -> Result<T, cluster::Error> {
    let panicked = |_| {
        Err(cluster::Error {
            verb,
            kind: "restarts",
            key: key.clone(),
            class: Class::Malformed("it panicked; this is a bug, please report it"),
        })
    };
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(panicked)
}

/// What a task hands back; none if it was lost. Panics are [`caught`] in the task, and tasks are never aborted.
pub fn joined<T>(done: Result<T, JoinError>) -> Option<T> {
    if done.is_err() {
        tracing::error!("a request of restarts was lost; this is a bug, please report it");
    }
    done.ok()
}
