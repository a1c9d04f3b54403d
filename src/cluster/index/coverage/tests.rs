//! What an index holds of namespaces that come and go, whatever the order in which lists and watches bring it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::apps::v1::Deployment;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    super::{Change, Changes, Demand, Index, Indexed, Project, Scope, Watches},
    Coverage, Version,
    joining::UNDEMANDED,
};
use crate::{
    api::{ObjectKey, WorkloadKind},
    cluster::{
        Cluster,
        metrics::OfKind,
        testing::{Asked, Server, cluster},
    },
};

const SILENCE: Duration = Duration::from_secs(200);

const NAMESPACES: [&str; 3] = ["bank", "mail", "shop"];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// Somebody writes an object.
    Write(usize, usize),
    /// Somebody deletes an object.
    Delete(usize, usize),
    /// The watch brings the next event.
    Deliver,
    /// A namespace comes to be demanded, or is no more.
    Demand(usize, bool),
    /// The list of a namespace begins beside the watch.
    Join,
    /// The API server answers the list of a namespace: as of now.
    Answer(usize),
    /// The list of a namespace ends, well or not.
    End(usize, bool),
    /// What is not demanded is dropped.
    Leave,
    /// Everything is listed again.
    Relist,
    /// The list of everything brings one more object.
    Item,
    /// The list of everything ends.
    Listed,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let namespace = 0..NAMESPACES.len();
    let object = (namespace.clone(), 0..NAMES.len());
    let act = prop_oneof![
        8 => object.clone().prop_map(|(namespace, name)| Act::Write(namespace, name)),
        5 => object.prop_map(|(namespace, name)| Act::Delete(namespace, name)),
        8 => Just(Act::Deliver),
        3 => (namespace.clone(), any::<bool>()).prop_map(|(namespace, wanted)| Act::Demand(namespace, wanted)),
        4 => Just(Act::Join),
        4 => namespace.clone().prop_map(Act::Answer),
        4 => (namespace, prop::bool::weighted(0.8)).prop_map(|(namespace, well)| Act::End(namespace, well)),
        1 => Just(Act::Leave),
        1 => Just(Act::Relist),
        4 => Just(Act::Item),
        2 => Just(Act::Listed),
    ];
    prop::collection::vec(act, 0..200)
}

/// Objects by namespace and name, each by the version of its last change.
type Objects = BTreeMap<(&'static str, &'static str), usize>;

/// An API server, and a follower of it by hand.
struct World {
    /// The state at each version.
    history: Vec<Objects>,
    /// The object that each version changed.
    log: Vec<(&'static str, &'static str)>,
    index: Index<usize>,
    demanded: HashSet<Arc<str>>,
    /// The version up to which the watch came; none while everything is listed.
    watched: Option<usize>,
    epoch: u32,
    /// What the list of everything still brings, and its version.
    items: Vec<((&'static str, &'static str), usize)>,
    listed: usize,
    /// The lists of namespaces that are under way, and their versions.
    lists: BTreeMap<&'static str, Option<usize>>,
    /// The versions by which namespaces were listed beside the watch.
    floors: BTreeMap<&'static str, usize>,
    /// Whether versions are numbers.
    comparable: bool,
}

impl World {
    fn new(comparable: bool) -> Self {
        let mut world = Self {
            history: vec![Objects::new()],
            log: Vec::new(),
            index: Index::new(|_| false, Coverage::demanded()),
            demanded: HashSet::new(),
            watched: None,
            epoch: 0,
            items: Vec::new(),
            listed: 0,
            lists: BTreeMap::new(),
            floors: BTreeMap::new(),
            comparable,
        };
        world.relist();
        world
    }

    fn now(&self) -> usize {
        self.log.len()
    }

    fn version(&self, version: usize) -> Version {
        let text = version.to_string();
        Version::of(if self.comparable { &text } else { "opaque" })
    }

    fn change(&mut self, namespace: usize, name: usize, exists: bool) {
        let key = (NAMESPACES[namespace], NAMES[name]);
        let mut state = self.history[self.now()].clone();
        if exists {
            state.insert(key, self.now() + 1);
        } else if state.remove(&key).is_none() {
            return;
        }
        self.history.push(state);
        self.log.push(key);
    }

    fn relist(&mut self) {
        self.lists.clear();
        self.floors.clear();
        self.watched = None;
        self.epoch = self.index.begin("");
        self.index.expect("", &self.demanded);
        self.listed = self.now();
        self.items = self.history[self.listed].clone().into_iter().collect();
    }

    /// Takes in what is said of an object by everything but the list of a namespace.
    fn take(&self, (namespace, name): (&str, &str), object: Option<usize>, version: usize) {
        let key = ObjectKey::new(namespace, name);
        let object = object.map(|object| Indexed::Entry(Arc::new(object)));
        self.index.take(&key, object, self.version(version), self.epoch);
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Write(namespace, name) => self.change(namespace, name, true),
            Act::Delete(namespace, name) => self.change(namespace, name, false),
            Act::Demand(namespace, true) => drop(self.demanded.insert(NAMESPACES[namespace].into())),
            Act::Demand(namespace, false) => drop(self.demanded.remove(NAMESPACES[namespace])),
            Act::Relist => self.relist(),
            Act::Item => {
                if self.watched.is_none()
                    && let Some((key, version)) = self.items.pop()
                {
                    self.take(key, Some(version), version);
                }
            }
            Act::Listed => {
                if self.watched.is_none() && self.items.is_empty() {
                    self.index.sweep("", self.epoch, Version::NONE);
                    self.index.complete("");
                    self.watched = Some(self.listed);
                }
            }
            // What follows happens beside the watch only.
            _ if self.watched.is_none() => {}
            Act::Deliver => {
                let watched = self.watched.unwrap();
                if watched < self.now() {
                    let key = self.log[watched];
                    let object = self.history[watched + 1].get(&key).copied();
                    self.take(key, object, watched + 1);
                    self.watched = Some(watched + 1);
                }
            }
            Act::Join => {
                for namespace in self.index.lacks(&self.demanded) {
                    self.index.join(&namespace);
                    let name = NAMESPACES.iter().find(|name| ***name == *namespace).unwrap();
                    self.lists.insert(name, None);
                }
            }
            Act::Answer(namespace) => {
                let now = self.now();
                if let Some(list) = self.lists.get_mut(NAMESPACES[namespace]) {
                    list.get_or_insert(now);
                }
            }
            Act::End(namespace, well) => self.end(NAMESPACES[namespace], well),
            Act::Leave => {
                for namespace in self.index.surplus("", &self.demanded) {
                    self.index.leave(&namespace);
                    self.floors.remove(&*namespace);
                }
            }
        }
    }

    fn end(&mut self, namespace: &'static str, well: bool) {
        let Some(Some(listed)) = self.lists.get(namespace).copied() else {
            return;
        };
        self.lists.remove(namespace);
        if !well {
            return self.index.postpone(&namespace.into());
        }
        let objects = self.history[listed]
            .iter()
            .filter(|((of, _), _)| *of == namespace);
        let objects = objects
            .map(|((of, name), version)| (ObjectKey::new(*of, *name), Indexed::Entry(Arc::new(*version))));
        let objects = objects.collect();
        self.index
            .joined(&namespace.into(), objects, self.version(listed));
        self.floors.insert(namespace, listed);
    }

    /// What the index holds of a namespace.
    fn held(&self, namespace: &str) -> BTreeMap<String, usize> {
        let mut held = BTreeMap::new();
        self.index.for_each(|key, object| {
            if *key.namespace == *namespace {
                held.insert(key.name.to_string(), *object.entry().unwrap());
            }
        });
        held
    }

    /// What there was in a namespace at a version.
    fn at(&self, namespace: &str, version: usize) -> BTreeMap<String, usize> {
        let state = self.history[version].iter();
        let own = state.filter(|((of, _), _)| *of == namespace);
        own.map(|((_, name), version)| ((*name).to_owned(), *version))
            .collect()
    }

    /// Lets all that is under way end, and everything that is demanded be listed.
    fn settle(&mut self) {
        while self.watched.is_none() {
            self.act(&Act::Item);
            self.act(&Act::Listed);
        }
        self.act(&Act::Join);
        for namespace in 0..NAMESPACES.len() {
            self.act(&Act::Answer(namespace));
            self.act(&Act::End(namespace, true));
        }
        for _ in 0..=self.now() {
            self.act(&Act::Deliver);
        }
        self.act(&Act::Leave);
    }

    fn assert_settled(&self) {
        for namespace in NAMESPACES {
            let demanded = self.demanded.contains(namespace);
            assert_eq!(self.index.covers(namespace), demanded, "{namespace}");
            let expected = if demanded {
                self.at(namespace, self.now())
            } else {
                BTreeMap::new()
            };
            assert_eq!(self.held(namespace), expected, "{namespace}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// At every moment: not only in the end, and never back in time.
    #[test]
    fn a_covered_namespace_is_as_it_was_at_one_version_and_of_others_nothing_is_held(acts in acts()) {
        let mut world = World::new(true);
        let mut seen = BTreeMap::new();
        for act in &acts {
            world.act(act);
            let Some(watched) = world.watched else { continue };
            for namespace in NAMESPACES {
                if world.index.covers(namespace) {
                    let floor = world.floors.get(namespace).copied().unwrap_or_default();
                    let version = floor.max(watched);
                    prop_assert_eq!(world.held(namespace), world.at(namespace, version), "{}", namespace);
                    let before = seen.insert(namespace, version).unwrap_or_default();
                    prop_assert!(before <= version);
                } else {
                    prop_assert_eq!(world.held(namespace), BTreeMap::new(), "{}", namespace);
                }
            }
        }
        world.settle();
        world.assert_settled();
    }

    #[test]
    fn where_versions_cannot_be_compared_the_watch_has_the_last_word(acts in acts()) {
        let mut world = World::new(false);
        for act in &acts {
            world.act(act);
        }
        world.settle();
        world.assert_settled();
    }
}

#[test]
fn an_object_that_was_deleted_while_its_namespace_was_listed_stays_deleted() {
    let mut world = World::new(true);
    world.act(&Act::Listed);
    for act in [
        Act::Write(0, 0),
        Act::Write(0, 1),
        Act::Deliver,
        Act::Demand(0, true),
        Act::Join,
        Act::Answer(0),
        Act::Delete(0, 0),
        // The watch is ahead of the list: it brings the second object and the end of the first.
        Act::Deliver,
        Act::Deliver,
        Act::End(0, true),
    ] {
        world.act(&act);
    }
    assert_eq!(world.held("bank"), BTreeMap::from([("b".to_owned(), 2)]));
}

#[test]
fn a_watch_that_lags_behind_the_list_of_a_namespace_brings_nothing_back() {
    let mut world = World::new(true);
    world.act(&Act::Listed);
    for act in [
        Act::Write(0, 0),
        Act::Delete(0, 0),
        Act::Write(0, 1),
        Act::Write(0, 1),
        Act::Demand(0, true),
        Act::Join,
        Act::Answer(0),
        Act::End(0, true),
    ] {
        world.act(&act);
    }
    let expected = BTreeMap::from([("b".to_owned(), 4)]);
    for _ in 0..5 {
        assert_eq!(world.held("bank"), expected);
        world.act(&Act::Deliver);
    }
}

#[test]
fn a_kind_that_was_never_listed_or_is_gone_holds_nobody_up() {
    let index: Index<usize> = Index::new(|_| false, Coverage::demanded());
    let demanded = HashSet::from(["shop".into()]);
    assert!(index.covers("shop"), "not listed yet");
    index.begin("");
    index.expect("", &demanded);
    assert!(index.covers("shop"), "being listed for the first time");
    assert_eq!(index.complete(""), ["shop".into()]);
    assert!(index.covers("shop") && !index.covers("bank"));
    index.forget("");
    assert!(index.covers("shop") && index.covers("bank"), "gone");
    // Nor does one that cannot be listed in some namespaces, where each is a place of its own.
    index.expect("shop", &demanded);
    assert_eq!(index.complete("shop"), ["shop".into()]);
    assert!(index.covers("shop") && index.covers("bank"));
}

#[test]
fn demand_counts_objects_and_tells_of_namespaces_only() {
    let index: Index<bool> = Index::new(|wants| *wants, Coverage::Everywhere);
    let mut demand = index.demand();
    let epoch = index.begin("");
    let put = |name: &str, wants: bool| {
        index.put(
            &mut index.write(),
            &ObjectKey::new("shop", name),
            Some(Indexed::Entry(Arc::new(wants))),
            epoch,
        );
    };
    let namespaces = |demand: &mut Demand| demand.namespaces("").len();
    put("a", false);
    assert!(!demand.0.has_changed().unwrap());
    put("a", true);
    assert!(demand.0.has_changed().unwrap());
    assert_eq!(namespaces(&mut demand), 1);
    assert_eq!(demand.namespaces("bank").len(), 0);
    // A second one, and one less, are no news.
    put("b", true);
    put("a", true);
    index.put(&mut index.write(), &ObjectKey::new("shop", "b"), None, epoch);
    assert!(!demand.0.has_changed().unwrap());
    put("b", true);
    put("a", false);
    assert_eq!(namespaces(&mut demand), 1);
    put("b", false);
    assert_eq!(namespaces(&mut demand), 0);
    put("b", true);
    assert_eq!(namespaces(&mut demand), 1);
    let epoch = index.begin("");
    index.sweep("", epoch, Version::NONE);
    assert_eq!(namespaces(&mut demand), 0);
}

struct Deployments;

impl Project for Deployments {
    type Kind = Deployment;
    type Object = Value;
    type Entry = Value;

    fn project(&self, _key: &ObjectKey, object: Value) -> Value {
        object
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::Workload(WorkloadKind::Deployment, key)
    }
}

const MINUTE: Duration = Duration::from_mins(1);

struct Running {
    server: Server,
    cluster: Cluster,
    changes: Changes,
    demanding: Index<bool>,
    index: Arc<Index<Value>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn running(scope: Scope, demanded: &[&str]) -> Running {
    let (cluster, server) = cluster();
    let changes = Changes::default();
    let demanding = Index::new(|wants: &bool| *wants, Coverage::Everywhere);
    for namespace in demanded {
        demand(&demanding, namespace, true);
    }
    let mut watches = Watches::new(cluster.clone(), scope, changes.clone(), SILENCE);
    let index = watches.watch_on_demand(Deployments, &demanding.demand());
    let task = tokio::spawn(async move {
        watches.run().await;
    });
    Running {
        server,
        cluster,
        changes,
        demanding,
        index,
        task,
    }
}

fn demand(index: &Index<bool>, namespace: &str, wants: bool) {
    index.put(
        &mut index.write(),
        &ObjectKey::new(namespace, "db"),
        Some(Indexed::Entry(Arc::new(wants))),
        0,
    );
}

fn deployment(namespace: &str, name: &str, version: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name, "uid": name, "resourceVersion": version}})
}

fn page(version: &str, items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": version}, "items": items})
}

fn lines(events: &[(&str, Value)]) -> String {
    let line = |(type_, object): &(&str, Value)| format!("{}\n", json!({"type": type_, "object": object}));
    events.iter().map(line).collect()
}

fn listed(version: &str, items: &[Value]) -> String {
    let end = json!({"metadata": {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}});
    let added = items.iter().map(|item| ("ADDED", item.clone()));
    lines(&added.chain([("BOOKMARK", end)]).collect::<Vec<_>>())
}

/// A watch that lives on, without a change after these.
fn lives(watch: Asked, events: &[(&str, Value)]) {
    let bookmark = lines(&[("BOOKMARK", json!({"metadata": {"resourceVersion": "19"}}))]);
    watch.goes_on(lines(events), MINUTE, bookmark);
}

impl Running {
    async fn asked(&mut self, parts: &[&str]) -> Asked {
        let asked = self.server.next().await;
        for part in parts {
            assert!(asked.target.contains(part), "no {part} in {}", asked.target);
        }
        asked
    }

    /// Answers the first list of everything and gives the watch that follows it.
    async fn first(&mut self, items: &[Value]) -> Asked {
        let list = self
            .asked(&["/apis/apps/v1/deployments?", "sendInitialEvents=true"])
            .await;
        list.answer_with(200, &[], listed("10", items));
        self.asked(&["/apis/apps/v1/deployments?", "watch=true", "resourceVersion=10"])
            .await
    }

    /// The list of one namespace.
    async fn list_of(&mut self, namespace: &str) -> Asked {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments?");
        let asked = self.asked(&[&path, "limit=50"]).await;
        assert!(!asked.target.contains("watch=true"), "{}", asked.target);
        asked
    }

    /// Lets what was answered be taken in.
    async fn breathe(&mut self) {
        self.server.stays_silent(Duration::from_millis(10)).await;
    }

    fn held(&self) -> Vec<String> {
        let keys = self.index.keys_where(|_, _| true);
        let mut names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn uncovered(&self) -> i64 {
        let kind = OfKind { kind: "Deployment" };
        self.cluster.metrics.uncovered.get_or_create(&kind).get()
    }

    fn changed(&self) -> Vec<Change> {
        std::iter::from_fn(|| self.changes.try_next()).collect()
    }
}

fn workload(namespace: &str, name: &str) -> Change {
    Change::Workload(WorkloadKind::Deployment, ObjectKey::new(namespace, name))
}

#[tokio::test(start_paused = true)]
async fn a_start_lists_once_and_keeps_what_is_demanded() {
    let mut r = running(Scope::Cluster, &["shop"]);
    let items = [deployment("bank", "a", "3"), deployment("shop", "b", "4")];
    let watch = r.first(&items).await;
    assert_eq!(r.held(), ["shop/b"]);
    assert!(r.index.covers("shop") && !r.index.covers("bank"));
    let changed = r.changed();
    for change in [workload("shop", "b"), Change::Covered("shop".into())] {
        assert!(changed.contains(&change), "{changed:?}");
    }
    assert_eq!(changed.len(), 3, "{changed:?}");
    let events = [
        ("MODIFIED", deployment("bank", "a", "11")),
        ("ADDED", deployment("bank", "c", "12")),
        ("MODIFIED", deployment("shop", "b", "13")),
        ("DELETED", deployment("bank", "a", "14")),
    ];
    lives(watch, &events);
    r.server.stays_silent(5 * MINUTE).await;
    assert_eq!(r.held(), ["shop/b"]);
    assert_eq!(r.changed(), [workload("shop", "b")]);
    assert_eq!(r.uncovered(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_comes_to_be_demanded_is_listed_and_known_once_that_ends() {
    let mut r = running(Scope::Cluster, &[]);
    let watch = r.first(&[deployment("bank", "a", "3")]).await;
    r.changed();
    demand(&r.demanding, "bank", true);
    let list = r.list_of("bank").await;
    assert_eq!(r.uncovered(), 1);
    // While it is under way, one is deleted and one is made.
    let events = [
        ("DELETED", deployment("bank", "a", "11")),
        ("ADDED", deployment("bank", "b", "12")),
    ];
    lives(watch, &events);
    r.breathe().await;
    assert!(r.held().is_empty() && !r.index.covers("bank"));
    assert!(r.changed().is_empty());
    let items = [deployment("bank", "a", "3"), deployment("bank", "c", "9")];
    list.answer(200, &page("10", &items));
    r.breathe().await;
    assert_eq!(r.held(), ["bank/b", "bank/c"]);
    assert!(r.index.covers("bank"));
    let changed = r.changed();
    assert_eq!(changed.len(), 3, "{changed:?}");
    assert_eq!(changed.last(), Some(&Change::Covered("bank".into())));
    assert_eq!(r.uncovered(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_tried_again_and_holds_up_no_other() {
    let mut r = running(Scope::Cluster, &[]);
    let watch = r.first(&[]).await;
    lives(watch, &[]);
    demand(&r.demanding, "bank", true);
    let forbidden = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"});
    r.list_of("bank").await.answer(403, &forbidden);
    r.list_of("bank").await.answer(403, &forbidden);
    // One that is not answered holds up none either.
    let hanging = r.list_of("bank").await;
    demand(&r.demanding, "shop", true);
    r.list_of("shop")
        .await
        .answer(200, &page("11", &[deployment("shop", "b", "4")]));
    r.breathe().await;
    assert_eq!(r.held(), ["shop/b"]);
    assert!(r.index.covers("shop") && !r.index.covers("bank"));
    assert_eq!(r.uncovered(), 1);
    hanging.hangs();
    let again = r.list_of("bank").await;
    again.answer(200, &page("12", &[deployment("bank", "a", "3")]));
    r.breathe().await;
    assert_eq!(r.held(), ["bank/a", "shop/b"]);
    assert_eq!(r.uncovered(), 0);
    r.server.stays_silent(5 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn lists_that_fail_take_one_place_and_rest_for_as_long_as_they_took() {
    let mut r = running(Scope::Cluster, &[]);
    let watch = r.first(&[]).await;
    lives(watch, &[]);
    let forbidden = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"});
    for namespace in ["bank", "cafe"] {
        demand(&r.demanding, namespace, true);
        r.list_of(namespace).await.answer(403, &forbidden);
    }
    // Each waits for its next list; the first to come is not answered, and the other one does not come beside it.
    let again = r.server.next().await;
    let (slow, other) = if again.target.contains("/bank/") {
        ("bank", "cafe")
    } else {
        ("cafe", "bank")
    };
    let began = tokio::time::Instant::now();
    demand(&r.demanding, "shop", true);
    r.list_of("shop").await.answer(200, &page("11", &[]));
    r.breathe().await;
    assert!(r.index.covers("shop"));
    again.hangs();
    r.list_of(other).await.answer(200, &page("12", &[]));
    let took = began.elapsed();
    r.breathe().await;
    assert!(r.index.covers(other));
    let began = tokio::time::Instant::now();
    r.list_of(slow).await.answer(200, &page("13", &[]));
    assert!(began.elapsed() + Duration::from_millis(10) >= took, "{took:?}");
    r.breathe().await;
    assert!(r.index.covers(slow));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_dropped_some_time_after_it_is_not_demanded_any_more() {
    let mut r = running(Scope::Cluster, &["bank", "shop"]);
    let items = [deployment("bank", "a", "3"), deployment("shop", "b", "4")];
    let watch = r.first(&items).await;
    lives(watch, &[]);
    r.changed();
    let almost = UNDEMANDED.checked_sub(MINUTE).unwrap();
    demand(&r.demanding, "bank", false);
    r.server.stays_silent(almost).await;
    // What comes back in time costs nothing, and the time begins again.
    demand(&r.demanding, "bank", true);
    r.server.stays_silent(MINUTE).await;
    demand(&r.demanding, "bank", false);
    r.server.stays_silent(almost).await;
    assert_eq!(r.held(), ["bank/a", "shop/b"]);
    r.server.stays_silent(2 * MINUTE).await;
    assert_eq!(r.held(), ["shop/b"]);
    assert!(!r.index.covers("bank"));
    assert_eq!(r.changed(), [workload("bank", "a")]);
    // Later, it is listed again.
    demand(&r.demanding, "bank", true);
    r.list_of("bank")
        .await
        .answer(200, &page("20", &[deployment("bank", "a", "3")]));
    r.breathe().await;
    assert_eq!(r.held(), ["bank/a", "shop/b"]);
}

#[tokio::test(start_paused = true)]
async fn when_everything_is_listed_again_namespaces_need_no_list_of_their_own() {
    let mut r = running(Scope::Cluster, &["shop"]);
    let watch = r.first(&[deployment("shop", "b", "4")]).await;
    demand(&r.demanding, "bank", true);
    let abandoned = r.list_of("bank").await;
    watch.answer(
        410,
        &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),
    );
    let list = r
        .asked(&["/apis/apps/v1/deployments?", "sendInitialEvents=true"])
        .await;
    assert!(!r.index.covers("bank") && r.index.covers("shop"));
    // Its answer counts no more.
    abandoned.answer(200, &page("11", &[deployment("bank", "gone", "3")]));
    let items = [deployment("bank", "a", "12"), deployment("mail", "c", "13")];
    list.answer_with(200, &[], listed("20", &items));
    let watch = r.asked(&["watch=true", "resourceVersion=20"]).await;
    lives(watch, &[]);
    r.server.stays_silent(5 * MINUTE).await;
    assert_eq!(r.held(), ["bank/a"]);
    assert!(r.index.covers("bank") && r.index.covers("shop"));
}

#[tokio::test(start_paused = true)]
async fn where_some_namespaces_are_watched_each_is_listed_in_its_own_place() {
    let scope = Scope::Namespaces(vec!["bank".into(), "shop".into()]);
    let mut r = running(scope, &["shop"]);
    let mut open = Vec::new();
    while open.len() < 2 {
        let asked = r.server.next().await;
        let namespace = ["bank", "shop"]
            .into_iter()
            .find(|namespace| {
                asked
                    .target
                    .contains(&format!("/namespaces/{namespace}/deployments?"))
            })
            .unwrap();
        if asked.target.contains("sendInitialEvents=true") {
            asked.answer_with(200, &[], listed("10", &[deployment(namespace, "a", "3")]));
        } else {
            open.push(asked);
        }
    }
    for watch in open {
        lives(watch, &[]);
    }
    r.breathe().await;
    assert_eq!(r.held(), ["shop/a"]);
    demand(&r.demanding, "bank", true);
    r.list_of("bank")
        .await
        .answer(200, &page("11", &[deployment("bank", "a", "3")]));
    r.server.stays_silent(5 * MINUTE).await;
    assert_eq!(r.held(), ["bank/a", "shop/a"]);
    assert_eq!(r.uncovered(), 0);
}
