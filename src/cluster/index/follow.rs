//! Listing and following a kind.
//!
//! Not kube's watcher: it buffers objects as generic values and logs answers that it cannot read. Here each
//! object is parsed alone out of the answer's bytes, so that a malformed one harms no other and a page costs
//! its text and one object.

use std::{borrow::Cow, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::AsyncBufReadExt as _;
use kube::{
    api::{ListParams, WatchParams},
    core::{Status, request},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Changes, Index, Indexed, Malformed, Project};
use crate::{
    api::ObjectKey,
    cluster::{
        call::{CALL_TIMEOUT, Call, UNBUILDABLE, Verb, class_of},
        client::{Cluster, kind_of, path_of},
        error::{Class, Error},
        metrics::{OfKind, WatchRestart},
    },
};

/// Objects of one page: a page of the largest Secrets stays below 100 MiB, of usual ones below 1 MiB.
const PAGE: u32 = 50;
/// After how long the API server ends a watch, which starts again where it ended.
const WATCH_SECONDS: u32 = 290;
/// Without a word for longer than that the connection is dead.
const IDLE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// A watch that lived for this long was a good one.
const SETTLED: Duration = Duration::from_secs(5);
/// After failing for this long a watch lists again, lest it hang on a version that the server never had, as
/// after a restore of etcd.
const RELIST_AFTER: Duration = Duration::from_mins(5);
/// The buffer kept for lines between events, in bytes.
const LINE: usize = 16 * 1024;

/// Keeps an index equal to the objects of one kind in one place.
pub(super) struct Follower<P: Project> {
    pub(super) cluster: Cluster,
    pub(super) project: Arc<P>,
    pub(super) index: Arc<Index<P::Entry>>,
    pub(super) changes: Changes,
    /// The namespace, all if empty; the name is empty.
    pub(super) place: ObjectKey,
    /// Whether the cluster may do without the kind: then its absence ends the following, and is no failure.
    pub(super) may_be_absent: bool,
}

/// How a watch ended.
enum End {
    /// By the server or the network, as they do.
    Closed,
    /// It cannot go on from its version.
    Expired,
    Failed(Class),
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMeta,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    type_: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    resource_version: String,
}

/// The one object that is watched, if it is one.
fn field_selector<P: Project>() -> Option<String> {
    P::NAME.map(|name| format!("metadata.name={name}"))
}

impl<P: Project> Follower<P> {
    /// Follows for ever, or until the kind is gone where it may be. `listed` is told of the first complete list.
    pub(super) async fn run(&self, mut listed: Option<oneshot::Sender<()>>) {
        let mut pauses = pauses();
        loop {
            let (mut version, epoch) = match self.list().await {
                Ok(listed) => listed,
                Err(err) if self.is_absence(&err.class) => return self.forget(),
                Err(err) => {
                    tracing::warn!(error = %err, "a list failed and is tried again");
                    self.restarted(err.class.label());
                    pause(&mut pauses).await;
                    continue;
                }
            };
            if let Some(listed) = listed.take() {
                // Nobody waits any more when the process is ending.
                let _ = listed.send(());
            }
            let mut good = Instant::now();
            loop {
                let (began, from) = (Instant::now(), version.clone());
                let end = self.follow(&mut version, epoch).await;
                let settled = began.elapsed() >= SETTLED;
                if settled || from != version {
                    good = Instant::now();
                    pauses = self::pauses();
                }
                let again = match end {
                    End::Closed if settled => continue,
                    End::Closed => {
                        self.restarted("closed");
                        false
                    }
                    End::Expired => {
                        self.restarted("expired");
                        true
                    }
                    End::Failed(class) if self.is_absence(&class) => true,
                    End::Failed(class) => {
                        let err = self.call(Verb::Watch).failed(class);
                        tracing::warn!(error = %err, "a watch failed and is tried again");
                        self.restarted(err.class.label());
                        false
                    }
                };
                pause(&mut pauses).await;
                if again || good.elapsed() >= RELIST_AFTER {
                    break;
                }
            }
        }
    }

    fn is_absence(&self, class: &Class) -> bool {
        self.may_be_absent && *class == Class::NotFound
    }

    /// The kind is gone, and its objects with it.
    fn forget(&self) {
        let epoch = self.index.begin();
        for key in self.index.sweep(&self.place.namespace, epoch) {
            self.changes.push(self.project.change(key));
        }
        self.measure();
    }

    /// Reads all objects page by page. Returns the version to follow from, and the list's number.
    async fn list(&self) -> Result<(String, u32), Error> {
        let call = self.call(Verb::List);
        let epoch = self.index.begin();
        let mut params = ListParams {
            label_selector: P::LABELS.map(str::to_owned),
            field_selector: field_selector::<P>(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let request = request::Request::new(path_of::<P::Kind>(&self.place.namespace))
                .list(&params)
                .map_err(|_| call.failed(UNBUILDABLE))?;
            let page = self.cluster.call_with(call, request, |body| {
                let Page { metadata, items } = serde_json::from_slice(body)?;
                for item in items {
                    self.arrived(item, epoch);
                }
                Ok(metadata)
            });
            let PageMeta {
                resource_version,
                continue_,
            } = page.await?;
            params.continue_token = continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_some() {
                continue;
            }
            if resource_version.is_empty() {
                return Err(call.failed(Class::Malformed("the list has no resource version")));
            }
            for key in self.index.sweep(&self.place.namespace, epoch) {
                self.changes.push(self.project.change(key));
            }
            self.measure();
            return Ok((resource_version, epoch));
        }
    }

    /// Follows the changes after `version` and moves it on, until the watch ends.
    async fn follow(&self, version: &mut String, epoch: u32) -> End {
        let params = WatchParams {
            label_selector: P::LABELS.map(str::to_owned),
            field_selector: field_selector::<P>(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        let path = request::Request::new(path_of::<P::Kind>(&self.place.namespace));
        let Ok(request) = path.watch(&params, version) else {
            return End::Failed(UNBUILDABLE);
        };
        let opened = match timeout(CALL_TIMEOUT, self.cluster.client.request_stream(request)).await {
            Ok(opened) => opened.map_err(|err| class_of(&err)),
            Err(_) => Err(Class::Timeout),
        };
        self.cluster.count(self.call(Verb::Watch), opened.as_ref().err());
        let mut events = match opened {
            Ok(events) => std::pin::pin!(events),
            Err(Class::Expired) => return End::Expired,
            Err(class) => return End::Failed(class),
        };
        let mut line = Zeroizing::new(Vec::with_capacity(LINE));
        loop {
            line.zeroize();
            line.shrink_to(LINE);
            match timeout(IDLE, events.read_until(b'\n', &mut line)).await {
                Ok(Ok(_)) if line.ends_with(b"\n") => {}
                // The end, a line cut short, a broken or a silent connection.
                Ok(_) | Err(_) => return End::Closed,
            }
            if let Some(end) = self.event(&line, version, epoch) {
                return end;
            }
        }
    }

    fn event(&self, line: &[u8], version: &mut String, epoch: u32) -> Option<End> {
        let Ok(Event { type_, object }) = serde_json::from_slice(line) else {
            return Some(End::Failed(Class::Malformed("the watch sent what is no event")));
        };
        let moved = match &*type_ {
            "ADDED" | "MODIFIED" => self.arrived(object, epoch),
            "DELETED" => self.left(object),
            "BOOKMARK" => head(object).map(|meta| meta.resource_version),
            "ERROR" => {
                let status: Option<Status> = serde_json::from_str(object.get()).ok();
                let code = status.as_ref().map_or(500, |status| status.code);
                return Some(match Class::of_status(code, status.as_ref()) {
                    Class::Expired => End::Expired,
                    class => End::Failed(class),
                });
            }
            _ => None,
        };
        if let Some(moved) = moved.filter(|moved| !moved.is_empty()) {
            *version = moved;
        }
        self.measure();
        None
    }

    /// Takes an object in; returns its resource version.
    fn arrived(&self, object: &RawValue, epoch: u32) -> Option<String> {
        let Some(meta) = head(object).filter(|meta| !meta.name.is_empty()) else {
            self.cluster.metrics.malformed.get_or_create(&Self::kind()).inc();
            tracing::warn!(
                kind = Self::kind().kind,
                "an object without readable metadata is left out"
            );
            return None;
        };
        let key = self.index.key(&meta.namespace, &meta.name);
        let indexed = match serde_json::from_str(object.get()) {
            Ok(object) => Indexed::Entry(Arc::new(self.project.project(&key, object))),
            Err(err) => Indexed::Malformed(Arc::new(Malformed {
                uid: meta.uid,
                generation: meta.generation,
                expected: expected(&err),
            })),
        };
        let malformed = match &indexed {
            Indexed::Entry(_) => None,
            Indexed::Malformed(malformed) => Some(Arc::clone(malformed)),
        };
        if self.index.upsert(&key, indexed, epoch) {
            if let Some(malformed) = malformed {
                self.cluster.metrics.malformed.get_or_create(&Self::kind()).inc();
                let Malformed { expected, .. } = &*malformed;
                tracing::warn!(kind = Self::kind().kind, object = %key, expected, "an object cannot be read");
            }
            self.changes.push(self.project.change(key));
        }
        Some(meta.resource_version)
    }

    fn left(&self, object: &RawValue) -> Option<String> {
        let meta = head(object)?;
        let key = ObjectKey::new(meta.namespace, meta.name);
        if self.index.remove(&key) {
            self.changes.push(self.project.change(key));
        }
        Some(meta.resource_version)
    }

    fn call(&self, verb: Verb) -> Call<'_> {
        Call {
            verb,
            kind: Self::kind().kind,
            key: &self.place,
        }
    }

    fn kind() -> OfKind {
        OfKind {
            kind: kind_of::<P::Kind>(),
        }
    }

    fn restarted(&self, cause: &'static str) {
        let labels = WatchRestart {
            kind: Self::kind().kind,
            cause,
        };
        self.cluster.metrics.restarts.get_or_create(&labels).inc();
    }

    fn measure(&self) {
        let size = i64::try_from(self.index.len()).unwrap_or(i64::MAX);
        self.cluster
            .metrics
            .indexed
            .get_or_create(&Self::kind())
            .set(size);
    }
}

fn head(object: &RawValue) -> Option<HeadMeta> {
    serde_json::from_str::<Head>(object.get())
        .ok()
        .map(|head| head.metadata)
}

/// What a parser expected, out of its message. The rest of the message may quote the object.
fn expected(err: &serde_json::Error) -> String {
    let message = err.to_string();
    let ours = if message.starts_with("missing field `") {
        message.as_str()
    } else {
        message
            .rfind(", expected ")
            .and_then(|at| message.get(at + 2..))
            .unwrap_or("another content")
    };
    // ` at line 1 column 271` counts in the API server's encoding: no help to anyone.
    let ours = ours
        .rfind(" at line ")
        .and_then(|at| ours.get(..at))
        .unwrap_or(ours);
    ours.chars().take(256).collect()
}

/// Pauses between failures: 0.8 s doubling up to 30 s, with jitter so that replicas do not meet.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(800))
        .with_max_delay(Duration::from_secs(30))
        .without_max_times()
        .with_jitter()
        .build()
}

async fn pause(pauses: &mut ExponentialBackoff) {
    sleep(pauses.next().unwrap_or(Duration::from_secs(30))).await;
}
