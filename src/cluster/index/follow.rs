//! Listing and following a kind.
//!
//! Not kube's watcher: it buffers objects as generic values and logs answers that it cannot read. Here each
//! object is parsed alone out of the answer's bytes, so that a malformed one harms no other and a list costs
//! the text of one object, or of one page, and one object.

use std::{borrow::Cow, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use kube::{
    api::{ListParams, WatchParams},
    core::{Status, request, watch::BookmarkMeta},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Change, Changes, Demand, Index, Indexed, Malformed, Project, coverage::Taken, version::Version};
use crate::{
    api::ObjectKey,
    cluster::{
        call::{CALL_TIMEOUT, Call, UNBUILDABLE, Verb, class_of},
        client::{Cluster, kind_of, path_of},
        error::{Class, Error},
        metrics::{Heard, OfKind, WatchRestart},
    },
};

/// Objects of one page, where the API server streams no lists: a page of the largest Secrets stays below 100 MiB, of usual
/// ones below 1 MiB.
const PAGE: u32 = 50;
/// After how long the API server ends a watch, which starts again where it ended.
const WATCH_SECONDS: u32 = 290;
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
    /// The namespaces of which objects are kept; all if none.
    pub(super) demand: Option<Demand>,
    /// Whether the cluster may do without the kind: then its absence ends the following, and is no failure.
    pub(super) may_be_absent: bool,
    /// After how long without a word a watch is opened again.
    pub(super) silence: Duration,
}

/// How a watch ended.
enum End {
    /// By the server or the network, as they do.
    Closed,
    /// Nothing came for too long.
    Silent,
    /// It cannot go on from its version.
    Expired,
    Failed(Class),
}

impl From<Class> for End {
    fn from(class: Class) -> Self {
        match class {
            Class::Expired => Self::Expired,
            class => Self::Failed(class),
        }
    }
}

/// What an event says besides its object.
struct Said {
    /// The version up to which all is known by it, unless the first objects are still on their way.
    version: Option<String>,
    /// Whether it is the end of the first objects.
    listed: bool,
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
pub(super) struct HeadMeta {
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

/// The mark at the end of the first objects of a watch.
const LISTED: &str = "k8s.io/initial-events-end";

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

/// The one object that is watched, if it is one.
fn field_selector<P: Project>() -> Option<String> {
    P::NAME.map(|name| format!("metadata.name={name}"))
}

impl<P: Project> Follower<P> {
    /// Follows for ever, or until the kind is gone where it may be. `listed` is told of the first complete list.
    pub(super) async fn run(&self, mut listed: Option<oneshot::Sender<()>>) {
        let mut pauses = pauses();
        let heard = self.cluster.metrics.watches.begin(Self::kind().kind);
        loop {
            let (version, epoch) = match self.list(&heard).await {
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
                // The receiver is gone when the process is ending.
                let _ = listed.send(());
            }
            tokio::select! {
                () = self.watch(version, epoch, &heard, &mut pauses) => {}
                () = self.cover() => {}
            }
        }
    }

    /// Follows the changes after `version`, from watch to watch, until all must be listed again.
    async fn watch(&self, mut version: String, epoch: u32, heard: &Heard, pauses: &mut ExponentialBackoff) {
        let mut good = Instant::now();
        loop {
            let (began, from) = (Instant::now(), version.clone());
            let end = self.follow(&mut version, epoch, heard).await;
            let settled = began.elapsed() >= SETTLED;
            if settled || from != version {
                good = Instant::now();
                *pauses = self::pauses();
            }
            let again = match end {
                End::Closed if settled => continue,
                // It may have been so for a while, and nothing was wrong with the server: go on at once.
                End::Silent => {
                    let kind = Self::kind().kind;
                    tracing::info!(kind, "a watch was silent for too long and is opened again");
                    self.restarted("silent");
                    continue;
                }
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
                    let err = Self::call(Verb::Watch, &self.place).failed(class);
                    tracing::warn!(error = %err, "a watch failed and is tried again");
                    self.restarted(err.class.label());
                    false
                }
            };
            pause(pauses).await;
            if again || good.elapsed() >= RELIST_AFTER {
                return;
            }
        }
    }

    fn is_absence(&self, class: &Class) -> bool {
        self.may_be_absent && *class == Class::NotFound
    }

    /// The kind is gone, and its objects with it.
    fn forget(&self) {
        let place = &*self.place.namespace;
        let epoch = self.index.begin(place);
        self.changed(self.index.sweep(place, epoch, Version::NONE));
        self.index.forget(place);
        // Who waited for the objects of the kind waits no more.
        if let Some(mut demand) = self.demand.clone() {
            for namespace in demand.namespaces(place) {
                self.changes.push(Change::Covered(namespace));
            }
        }
        self.measure();
        self.measure_coverage();
    }

    /// A list of all begins. Returns its number.
    fn begin(&self) -> u32 {
        let epoch = self.index.begin(&self.place.namespace);
        if let Some(mut demand) = self.demand.clone() {
            let place = &*self.place.namespace;
            self.index.expect(place, &demand.namespaces(place));
            self.measure_coverage();
        }
        epoch
    }

    /// Takes all objects in. Returns the version to follow from, and the list's number.
    async fn list(&self, heard: &Heard) -> Result<(String, u32), Error> {
        let (version, epoch) = match self.stream(heard).await {
            Ok(listed) => listed,
            // Only a server with a new enough etcd and a cache that is ready can: pages come out of etcd itself.
            Err(class) => {
                tracing::debug!(kind = Self::kind().kind, %class, "a list is not streamed and read page by page");
                // What a stream named before it broke off may be gone by now: it does not count.
                let epoch = self.begin();
                let take = |object: &RawValue| {
                    self.arrived(object, epoch);
                };
                (self.pages(&self.place, Some(heard), take).await?, epoch)
            }
        };
        let swept = self
            .index
            .sweep(&self.place.namespace, epoch, Version::of(&version));
        self.changed(swept);
        for namespace in self.index.complete(&self.place.namespace) {
            self.changes.push(Change::Covered(namespace));
        }
        self.measure();
        Ok((version, epoch))
    }

    /// Reads all objects as the first events of a watch, if the API server does that: by default in 1.32 and from 1.34 on. It
    /// sends each of them once; for a page it goes through all that are left.
    async fn stream(&self, heard: &Heard) -> Result<(String, u32), Class> {
        let epoch = self.begin();
        let params = WatchParams {
            send_initial_events: true,
            ..watch_params::<P>()
        };
        let mut events = std::pin::pin!(self.open(&params, "").await?);
        let mut line = Zeroizing::new(Vec::with_capacity(LINE));
        while next_line(&mut events, &mut line, CALL_TIMEOUT).await == Next::Line {
            heard.now();
            if let Said {
                version: Some(version),
                listed: true,
            } = self.event(&line, epoch)?
            {
                return Ok((version, epoch));
            }
        }
        Err(Class::Unavailable {
            code: None,
            retry_after: None,
        })
    }

    /// Reads all objects of a place page by page. Returns the list's version.
    pub(super) async fn pages(
        &self,
        place: &ObjectKey,
        heard: Option<&Heard>,
        take: impl Fn(&RawValue),
    ) -> Result<String, Error> {
        let call = Self::call(Verb::List, place);
        let mut params = ListParams {
            label_selector: P::LABELS.map(str::to_owned),
            field_selector: field_selector::<P>(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let request = request::Request::new(path_of::<P::Kind>(&place.namespace))
                .list(&params)
                .map_err(|_| call.failed(UNBUILDABLE))?;
            let page = self.cluster.call_with(call, request, |body| {
                let Page { metadata, items } = serde_json::from_slice(body)?;
                for item in items {
                    take(item);
                }
                Ok(metadata)
            });
            let PageMeta {
                resource_version,
                continue_,
            } = page.await?;
            if let Some(heard) = heard {
                heard.now();
            }
            params.continue_token = continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_some() {
                continue;
            }
            if resource_version.is_empty() {
                return Err(call.failed(Class::Malformed("the list has no resource version")));
            }
            return Ok(resource_version);
        }
    }

    /// Follows the changes after `version` and moves it on, until the watch ends.
    async fn follow(&self, version: &mut String, epoch: u32, heard: &Heard) -> End {
        let mut events = match self.open(&watch_params::<P>(), version).await {
            Ok(events) => std::pin::pin!(events),
            Err(class) => return class.into(),
        };
        heard.now();
        let mut line = Zeroizing::new(Vec::with_capacity(LINE));
        loop {
            match next_line(&mut events, &mut line, self.silence).await {
                Next::Line => heard.now(),
                Next::End => return End::Closed,
                Next::Silence => return End::Silent,
            }
            match self.event(&line, epoch) {
                Ok(said) => {
                    if let Some(moved) = said.version {
                        *version = moved;
                    }
                }
                Err(class) => return class.into(),
            }
        }
    }

    async fn open(&self, params: &WatchParams, version: &str) -> Result<impl AsyncBufRead + use<P>, Class> {
        let path = request::Request::new(path_of::<P::Kind>(&self.place.namespace));
        let request = path.watch(params, version).map_err(|_| UNBUILDABLE)?;
        let opened = match timeout(CALL_TIMEOUT, self.cluster.client.request_stream(request)).await {
            Ok(opened) => opened.map_err(|err| class_of(&err)),
            Err(_) => Err(Class::Timeout),
        };
        self.cluster
            .count(Self::call(Verb::Watch, &self.place), opened.as_ref().err());
        opened
    }

    /// Takes a line of a watch in.
    fn event(&self, line: &[u8], epoch: u32) -> Result<Said, Class> {
        let Ok(Event { type_, object }) = serde_json::from_slice(line) else {
            return Err(Class::Malformed("the watch sent what is no event"));
        };
        let mut listed = false;
        let version = match &*type_ {
            "ADDED" | "MODIFIED" => self.arrived(object, epoch),
            "DELETED" => self.left(object),
            "BOOKMARK" => serde_json::from_str(object.get())
                .ok()
                .map(|Bookmark { metadata }| {
                    let version = Version::of(&metadata.resource_version);
                    self.changed(self.index.reach(&self.place.namespace, version));
                    listed = metadata.annotations.get(LISTED).is_some_and(|end| end == "true");
                    metadata.resource_version
                }),
            "ERROR" => {
                let status: Option<Status> = serde_json::from_str(object.get()).ok();
                let code = status.as_ref().map_or(500, |status| status.code);
                return Err(Class::of_status(code, status.as_ref()));
            }
            _ => None,
        };
        self.measure();
        Ok(Said {
            version: version.filter(|version| !version.is_empty()),
            listed,
        })
    }

    /// Takes an object in; returns its resource version.
    fn arrived(&self, object: &RawValue, epoch: u32) -> Option<String> {
        let meta = self.head(object)?;
        let text = meta.resource_version.clone();
        if self.index.admits(&meta.namespace) {
            let (key, indexed) = self.read(meta, object);
            let taken = self
                .index
                .take(&key, Some(indexed.clone()), Version::of(&text), epoch);
            if taken == Taken::Changed {
                self.warn_of(&key, &indexed);
            }
            self.report(key, taken);
        }
        Some(text)
    }

    fn report(&self, key: ObjectKey, taken: Taken) {
        match taken {
            Taken::Nothing => {}
            Taken::Shown => self.changes.push(self.project.shown(key)),
            Taken::Changed => self.changes.push(self.project.change(key)),
        }
    }

    fn changed(&self, keys: Vec<ObjectKey>) {
        for key in keys {
            self.changes.push(self.project.change(key));
        }
    }

    /// What is read of an object first. One without a name is left out.
    pub(super) fn head(&self, object: &RawValue) -> Option<HeadMeta> {
        let meta = head(object).filter(|meta| !meta.name.is_empty());
        if meta.is_none() {
            self.cluster.metrics.malformed.get_or_create(&Self::kind()).inc();
            tracing::warn!(
                kind = Self::kind().kind,
                "an object without readable metadata is left out"
            );
        }
        meta
    }

    /// Cuts an object down.
    pub(super) fn read(&self, meta: HeadMeta, object: &RawValue) -> (ObjectKey, Indexed<P::Entry>) {
        let key = self.index.key(&meta.namespace, &meta.name).in_group(P::GROUP);
        let indexed = match serde_json::from_str(object.get()) {
            Ok(object) => Indexed::Entry(Arc::new(self.project.project(&key, object))),
            Err(err) => Indexed::Malformed(Arc::new(Malformed {
                uid: meta.uid,
                generation: meta.generation,
                expected: expected(&err),
            })),
        };
        (key, indexed)
    }

    /// Tells of an object that could not be read.
    pub(super) fn warn_of(&self, key: &ObjectKey, indexed: &Indexed<P::Entry>) {
        if let Indexed::Malformed(malformed) = indexed {
            self.cluster.metrics.malformed.get_or_create(&Self::kind()).inc();
            let Malformed { expected, .. } = &**malformed;
            tracing::warn!(kind = Self::kind().kind, object = %key, expected, "an object cannot be read");
        }
    }

    fn left(&self, object: &RawValue) -> Option<String> {
        let meta = head(object)?;
        let key = ObjectKey::new(meta.namespace, meta.name).in_group(P::GROUP);
        let taken = self
            .index
            .take(&key, None, Version::of(&meta.resource_version), 0);
        self.report(key, taken);
        Some(meta.resource_version)
    }

    pub(super) fn call(verb: Verb, key: &ObjectKey) -> Call<'_> {
        Call {
            verb,
            kind: Self::kind().kind,
            key,
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

    pub(super) fn measure(&self) {
        let size = i64::try_from(self.index.len()).unwrap_or(i64::MAX);
        self.cluster
            .metrics
            .indexed
            .get_or_create(&Self::kind())
            .set(size);
    }

    /// Counts the namespaces that are demanded and not covered yet.
    pub(super) fn measure_coverage(&self) {
        let Some(mut demand) = self.demand.clone() else {
            return;
        };
        let demanded = demand.namespaces("").into_iter();
        let uncovered = demanded.filter(|namespace| !self.index.covers(namespace)).count();
        let uncovered = i64::try_from(uncovered).unwrap_or(i64::MAX);
        let metrics = &self.cluster.metrics;
        metrics.uncovered.get_or_create(&Self::kind()).set(uncovered);
    }
}

fn watch_params<P: Project>() -> WatchParams {
    WatchParams {
        label_selector: P::LABELS.map(str::to_owned),
        field_selector: field_selector::<P>(),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        ..WatchParams::default()
    }
}

/// What came of reading a line.
#[derive(PartialEq)]
enum Next {
    /// A line.
    Line,
    /// The end, a line cut short, or a broken connection.
    End,
    /// Nothing in time.
    Silence,
}

/// Reads the next line, which must come within `limit`.
async fn next_line(
    events: &mut (impl AsyncBufRead + Unpin),
    line: &mut Zeroizing<Vec<u8>>,
    limit: Duration,
) -> Next {
    line.zeroize();
    line.shrink_to(LINE);
    match timeout(limit, events.read_until(b'\n', line)).await {
        Ok(Ok(_)) if line.ends_with(b"\n") => Next::Line,
        Ok(_) => Next::End,
        Err(_) => Next::Silence,
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
pub(super) fn pauses() -> ExponentialBackoff {
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
