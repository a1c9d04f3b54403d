//! What became of workloads, revision by revision: every template that they had, and while which rollouts were under way.
//!
//! A watch delivers each change of an object, and revisions are the order of all changes in the cluster: so what is found
//! here held at every instant, not only when somebody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{wait, workloads};

/// The domain of the annotations by which Keyturn restarts.
const DOMAIN: &str = "restart.keyturn.dev/";
/// Its field manager.
const MANAGER: &str = "keyturn-restart";
const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];
/// For the watches to deliver what is there.
const SOON: Duration = Duration::from_mins(1);

/// A workload by name; another one of the same name is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// `Deployment` and so on.
    pub kind: &'static str,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A workload at one revision.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Grows with every change in the cluster.
    pub revision: u64,
    /// Which.
    pub workload: Workload,
    /// Its generation.
    pub generation: i64,
    /// Our annotations on its template, without the domain.
    pub tokens: BTreeMap<String, String>,
    /// When Keyturn last patched it, to the second.
    pub patched: Option<Timestamp>,
    /// Whether nothing of an older template is left and all is well.
    pub complete: bool,
    /// Whether this is its end.
    pub gone: bool,
    /// When the watch brought it.
    pub seen: Instant,
}

/// A template that came with tokens of ours which the one before did not have.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Of the patch.
    pub revision: u64,
    /// Which.
    pub workload: Workload,
    /// The tokens that came, by the hash of the Secret's name.
    pub tokens: BTreeMap<String, String>,
    /// When Keyturn last patched it, to the second.
    pub patched: Option<Timestamp>,
}

/// A record of the workloads of some namespaces, until it is dropped.
pub struct History {
    client: Client,
    namespaces: Vec<String>,
    moments: Arc<Mutex<Vec<Moment>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for History {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl History {
    /// Begins to record; what is there already comes first.
    pub async fn begin(client: &Client, namespaces: &[&str]) -> Result<Self> {
        let moments = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for namespace in namespaces {
            for kind in KINDS {
                let api = Api::<DynamicObject>::namespaced_with(
                    client.clone(),
                    namespace,
                    &workloads::resource(kind),
                );
                tasks.push(tokio::spawn(record(api, kind, moments.clone())));
            }
        }
        let history = Self {
            client: client.clone(),
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            moments,
            tasks,
        };
        history.caught_up().await?;
        Ok(history)
    }

    /// Waits until all that is there now is recorded.
    pub async fn caught_up(&self) -> Result<()> {
        let mut now = BTreeMap::new();
        for namespace in &self.namespaces {
            for kind in KINDS {
                let api = Api::<DynamicObject>::namespaced_with(
                    self.client.clone(),
                    namespace,
                    &workloads::resource(kind),
                );
                let listed = api
                    .list(&ListParams::default())
                    .await
                    .with_context(|| format!("list the {kind}s of {namespace}"))?;
                for object in listed {
                    now.insert(object.uid().unwrap_or_default(), revision(&object));
                }
            }
        }
        wait::until("the record of workloads to catch up", SOON, async || {
            let mut seen = BTreeMap::new();
            for moment in lock(&self.moments).iter() {
                let last: &mut u64 = seen.entry(moment.workload.uid.clone()).or_default();
                *last = moment.revision.max(*last);
            }
            Ok(now
                .iter()
                .all(|(uid, revision)| seen.get(uid).is_some_and(|last| last >= revision))
                .then_some(()))
        })
        .await
    }

    /// All moments in the order of their revisions.
    pub async fn moments(&self) -> Result<Vec<Moment>> {
        self.caught_up().await?;
        let mut moments = lock(&self.moments).clone();
        moments.sort_by_key(|moment| moment.revision);
        Ok(moments)
    }

    /// Each template that brought tokens, in order; what a workload had when it was first seen counts as there.
    pub async fn arrivals(&self) -> Result<Vec<Arrival>> {
        let mut last: BTreeMap<Workload, BTreeMap<String, String>> = BTreeMap::new();
        let mut arrivals = Vec::new();
        for moment in self.moments().await? {
            let Some(former) = last.insert(moment.workload.clone(), moment.tokens.clone()) else {
                continue;
            };
            let tokens: BTreeMap<_, _> = moment
                .tokens
                .into_iter()
                .filter(|(hash, token)| former.get(hash) != Some(token))
                .collect();
            if !tokens.is_empty() {
                arrivals.push(Arrival {
                    revision: moment.revision,
                    workload: moment.workload,
                    tokens,
                    patched: moment.patched,
                });
            }
        }
        Ok(arrivals)
    }

    /// The arrivals of the workload of this name.
    pub async fn of(&self, kind: &str, name: &str) -> Result<Vec<Arrival>> {
        let mut arrivals = self.arrivals().await?;
        arrivals.retain(|arrival| arrival.workload.kind == kind && arrival.workload.name == name);
        Ok(arrivals)
    }

    /// How long each rollout took from the token that came to the first moment at which it was complete.
    pub async fn rollouts(&self) -> Result<Vec<Duration>> {
        let arrivals: BTreeSet<u64> = self
            .arrivals()
            .await?
            .iter()
            .map(|arrival| arrival.revision)
            .collect();
        let (mut began, mut took) = (BTreeMap::new(), Vec::new());
        for moment in self.moments().await? {
            if arrivals.contains(&moment.revision) {
                began.insert(moment.workload, moment.seen);
            } else if moment.complete
                && let Some(begun) = began.remove(&moment.workload)
            {
                took.push(moment.seen.saturating_duration_since(begun));
            }
        }
        Ok(took)
    }

    /// The most workloads among those that `counts` which ever rolled out at the same time by a token that had come.
    pub async fn most_in_flight(&self, counts: impl Fn(&Workload) -> bool) -> Result<usize> {
        let arrivals: BTreeSet<u64> = self
            .arrivals()
            .await?
            .iter()
            .map(|arrival| arrival.revision)
            .collect();
        let (mut flying, mut most) = (BTreeSet::new(), 0);
        for moment in self.moments().await? {
            if !counts(&moment.workload) {
                continue;
            }
            if arrivals.contains(&moment.revision) {
                flying.insert(moment.workload);
            } else if moment.complete || moment.gone {
                flying.remove(&moment.workload);
            }
            most = most.max(flying.len());
        }
        Ok(most)
    }
}

async fn record(api: Api<DynamicObject>, kind: &'static str, into: Arc<Mutex<Vec<Moment>>>) {
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        let (object, gone) = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
            Ok(Event::Delete(object)) => (object, true),
            Ok(Event::Init | Event::InitDone) => continue,
            // The watch begins anew: what it missed shows in the generation.
            Err(error) => {
                tracing::warn!("the watch of {kind}s: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        lock(&into).push(moment(kind, &object, gone));
    }
}

fn moment(kind: &'static str, object: &DynamicObject, gone: bool) -> Moment {
    let annotations = object.data.pointer("/spec/template/metadata/annotations");
    let tokens = annotations.and_then(Value::as_object).into_iter().flatten();
    let patched = object
        .metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.manager.as_deref() == Some(MANAGER))
        .filter_map(|entry| entry.time.as_ref().map(|time| time.0))
        .max();
    Moment {
        revision: revision(object),
        workload: Workload {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        },
        generation: object.metadata.generation.unwrap_or_default(),
        tokens: tokens
            .filter_map(|(key, token)| {
                Some((key.strip_prefix(DOMAIN)?.to_owned(), token.as_str()?.to_owned()))
            })
            .collect(),
        patched,
        complete: workloads::is_complete(kind, object),
        gone,
        seen: Instant::now(),
    }
}

fn revision(object: &DynamicObject) -> u64 {
    object
        .resource_version()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

/// A panic elsewhere leaves nothing half made: the list only grows.
fn lock(moments: &Mutex<Vec<Moment>>) -> MutexGuard<'_, Vec<Moment>> {
    moments.lock().unwrap_or_else(PoisonError::into_inner)
}
