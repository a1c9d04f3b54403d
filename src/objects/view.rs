//! What the reconcilers of a process share.

use std::sync::Arc;

use super::Entry;
use crate::cluster::{Control, Events, Index, NamespaceEntry, SecretEntry, ServerTime, Writer};

/// The cluster as the indexes show it, and the ways to change it.
#[derive(Clone)]
pub struct View {
    /// ExternalSecrets.
    pub objects: Arc<Index<Entry>>,
    /// Managed Secrets.
    pub secrets: Arc<Index<SecretEntry>>,
    /// Namespaces; empty where only some are watched.
    pub namespaces: Arc<Index<NamespaceEntry>>,
    /// The ConfigMap by which people hold everything up.
    pub control: Arc<Index<Control>>,
    /// The namespace of that ConfigMap.
    pub operator_namespace: Arc<str>,
    /// Writes.
    pub writer: Writer,
    /// Events.
    pub events: Events,
    /// The API server's clock.
    pub time: ServerTime,
}
