//! Lists, watches and what they leave in an index.

use std::{collections::BTreeMap, mem::size_of, sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::{ByteString, api::core::v1::Service};
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{
    Change, Changes, Index, Indexed, Project, Scope, SecretEntry, Slot, Watches,
    coverage::Coverage,
    follow::Follower,
    namespaces::Namespaces,
    secrets::{Absent, Secrets, Uncommon},
    version::Version,
};
use crate::{
    api::{ApiGroup, ObjectKey, TokenKey, WorkloadKind, names::field_manager},
    cluster::{
        Cluster,
        testing::{Asked, Server, cluster},
        tests::{logs, text},
    },
};

const SILENCE: Duration = Duration::from_secs(200);

const MINUTE: Duration = Duration::from_mins(1);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn token() -> TokenKey {
    TokenKey::new(&[7; 32])
}

fn content(name: &str, type_: &str) -> Box<str> {
    let data = BTreeMap::from([("password".to_owned(), ByteString(b"hello".to_vec()))]);
    token().content(&key(name), type_, &data).into()
}

fn secret(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version,
            "annotations": {"keyturn.dev/owner": name, "keyturn.dev/content": content(name, "Opaque")},
        },
        "data": {"password": "aGVsbG8="},
    })
}

fn page(version: &str, token: &str, items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": version, "continue": token}, "items": items})
}

/// A whole list, streamed.
fn listed(version: &str, items: &[Value]) -> String {
    let metadata = json!({"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}});
    let end = ("BOOKMARK", json!({"kind": "Secret", "metadata": metadata}));
    let items = items.iter().map(|item| ("ADDED", item.clone()));
    lines(&items.chain([end]).collect::<Vec<_>>())
}

fn is_list(asked: &Asked) -> bool {
    asked.target.contains("sendInitialEvents=true")
}

fn expired() -> Value {
    json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
}

fn lines(events: &[(&str, Value)]) -> String {
    let line = |(type_, object): &(&str, Value)| format!("{}\n", json!({"type": type_, "object": object}));
    events.iter().map(line).collect()
}

struct Running {
    server: Server,
    cluster: Cluster,
    index: Arc<Index<SecretEntry>>,
    changes: Changes,
    listed: Option<oneshot::Receiver<()>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn running() -> Running {
    let (cluster, server) = cluster();
    let (index, changes) = (Arc::new(Index::default()), Changes::default());
    let follower = Follower {
        cluster: cluster.clone(),
        project: Arc::new(Secrets(token())),
        index: Arc::clone(&index),
        changes: changes.clone(),
        place: ObjectKey::new("", ""),
        demand: None,
        may_be_absent: false,
        silence: SILENCE,
    };
    let (sender, listed) = oneshot::channel();
    let task = tokio::spawn(async move { follower.run(Some(sender)).await });
    Running {
        server,
        cluster,
        index,
        changes,
        listed: Some(listed),
        task,
    }
}

impl Running {
    /// The next request, which must name our Secrets and each of `parts`.
    async fn asked(&mut self, parts: &[&str]) -> Asked {
        let asked = self.server.next().await;
        assert!(asked.target.starts_with("/api/v1/secrets?"), "{}", asked.target);
        for part in [&["labelSelector=keyturn.dev%2Fmanaged%3Dtrue"], parts].concat() {
            assert!(asked.target.contains(part), "no {part} in {}", asked.target);
        }
        asked
    }

    async fn list(&mut self) -> Asked {
        let stream = [
            "watch=true",
            "sendInitialEvents=true",
            "resourceVersionMatch=NotOlderThan",
            "allowWatchBookmarks=true",
            "resourceVersion=",
        ];
        let asked = self.asked(&stream).await;
        // The newest that there is, not the newest of what some cache has.
        assert!(asked.target.ends_with("resourceVersion="), "{}", asked.target);
        asked
    }

    async fn page(&mut self) -> Asked {
        let asked = self.asked(&["limit=50"]).await;
        assert!(!asked.target.contains("watch=true"), "{}", asked.target);
        asked
    }

    async fn watch(&mut self, version: &str) -> Asked {
        let version = format!("resourceVersion={version}");
        let asked = self.asked(&["watch=true", &version]).await;
        assert!(
            asked.target.ends_with(&version) && !is_list(&asked),
            "{}",
            asked.target
        );
        asked
    }

    /// Answers the first list and waits until it is taken in.
    async fn first(&mut self, version: &str, items: &[Value]) {
        self.list().await.answer_with(200, &[], listed(version, items));
        self.listed.take().unwrap().await.unwrap();
    }

    fn changed(&self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(change) = self.changes.try_next() {
            let Change::Secret(key) = change else {
                panic!("{change:?}")
            };
            names.push(key.name.to_string());
        }
        names.sort();
        names
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .index
            .keys_where(|_, _| true)
            .into_iter()
            .map(|key| key.name.to_string())
            .collect();
        names.sort();
        names
    }

    fn restarts(&self, cause: &'static str) -> u64 {
        let labels = crate::cluster::metrics::WatchRestart {
            kind: "Secret",
            cause,
        };
        self.cluster.metrics.restarts.get_or_create(&labels).get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_streamed_and_then_followed() {
    let mut r = running();
    let list = r.list().await;
    assert!(r.listed.as_mut().unwrap().try_recv().is_err());
    list.answer_with(200, &[], listed("10", &[secret("b", "2"), secret("a", "7")]));
    r.watch("10").await;
    r.listed.take().unwrap().await.unwrap();
    assert_eq!(r.names(), ["a", "b"]);
    assert_eq!(r.changed(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_a_list_is_streamed_is_taken_in() {
    let mut r = running();
    r.first("10", &[secret("a", "1"), secret("b", "2"), secret("c", "3")])
        .await;
    r.watch("10").await.answer(410, &expired());
    let bookmark = json!({"kind": "Secret", "metadata": {"resourceVersion": "29"}});
    let events = [
        ("ADDED", secret("a", "1")),
        ("ADDED", secret("b", "2")),
        ("DELETED", secret("b", "28")),
        // A bookmark without the mark ends nothing.
        ("BOOKMARK", bookmark),
    ];
    let end = listed("30", &[secret("d", "4")]);
    r.list().await.answer_with(200, &[], lines(&events) + &end);
    r.watch("30").await;
    assert_eq!(r.names(), ["a", "d"]);
}

#[tokio::test(start_paused = true)]
async fn our_own_write_comes_back_as_such_and_what_others_write_after_it_as_a_change() {
    let mut r = running();
    r.first("10", &[]).await;
    let watch = r.watch("10").await;
    let answer = serde_json::from_value(secret("a", "11")).unwrap();
    let entry = SecretEntry::of(&token(), &key("a"), answer);
    assert!(r.index.wrote(&key("a"), entry));
    assert_eq!((r.names(), r.changes.try_next()), (vec!["a".to_owned()], None));
    let bookmark = |version: &str| {
        let metadata = json!({"resourceVersion": version});
        ("BOOKMARK", json!({"kind": "Secret", "metadata": metadata}))
    };
    let events = [
        bookmark("10"),
        ("ADDED", secret("a", "11")),
        ("MODIFIED", secret("a", "12")),
    ];
    watch.answer_with(200, &[], lines(&events));
    let watch = r.watch("12").await;
    assert_eq!(r.changes.try_next(), Some(Change::OwnSecret(key("a"))));
    assert_eq!(r.changed(), ["a"]);
    // One that the watch passes without a word is none of those that it shows.
    let answer = serde_json::from_value(secret("b", "13")).unwrap();
    assert!(
        r.index
            .wrote(&key("b"), SecretEntry::of(&token(), &key("b"), answer))
    );
    watch.answer_with(200, &[], lines(&[bookmark("13")]));
    r.watch("13").await;
    assert_eq!(
        (r.names(), r.changed()),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
}

/// All lead to pages at once, not after a pause.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_not_streamed_is_read_page_by_page() {
    let status = |code: u16, reason: &str| json!({"kind": "Status", "code": code, "reason": reason});
    let internal = lines(&[("ERROR", status(500, "InternalError"))]);
    let lags = lines(&[("ERROR", status(504, "Timeout"))]);
    let broken = lines(&[("ADDED", secret("a", "1")), ("ADDED", secret("gone", "2"))]);
    // Switched off; the cache is not ready; etcd is too old; the cache lags; it breaks off.
    for (code, body) in [
        (422, status(422, "Invalid").to_string()),
        (429, status(429, "TooManyRequests").to_string()),
        (200, internal),
        (200, lags),
        (200, broken),
    ] {
        let mut r = running();
        let began = tokio::time::Instant::now();
        r.list().await.answer_with(code, &[], body);
        r.page().await.answer(200, &page("10", "", &[secret("a", "1")]));
        r.watch("10").await;
        assert_eq!(r.names(), ["a"]);
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_to_the_last_and_then_followed() {
    let mut r = running();
    r.list().await.breaks();
    r.page().await.answer(200, &page("", "more", &[secret("a", "1")]));
    let second = r.page().await;
    assert!(second.target.contains("continue=more"), "{}", second.target);
    assert!(r.listed.as_mut().unwrap().try_recv().is_err());
    second.answer(200, &page("10", "", &[secret("b", "2")]));
    let followed = r.watch("10").await;
    assert_eq!(r.names(), ["a", "b"]);
    assert_eq!(r.changed(), ["a", "b"]);
    let events = [
        ("ADDED", secret("c", "11")),
        ("MODIFIED", secret("a", "12")),
        ("DELETED", secret("b", "13")),
        (
            "BOOKMARK",
            json!({"kind": "Secret", "metadata": {"resourceVersion": "20"}}),
        ),
    ];
    followed.answer_with(200, &[], lines(&events));
    // It goes on where it ended, without a list.
    r.watch("20").await;
    assert_eq!(r.names(), ["a", "c"]);
    assert_eq!(r.changed(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_reports_only_what_differs() {
    let mut r = running();
    r.first("10", &[secret("a", "1"), secret("b", "2"), secret("c", "3")])
        .await;
    assert_eq!(r.changed(), ["a", "b", "c"]);
    r.watch("10")
        .await
        .answer_with(200, &[], lines(&[("ERROR", expired())]));
    r.list()
        .await
        .answer_with(200, &[], listed("30", &[secret("a", "1"), secret("b", "22")]));
    r.watch("30").await;
    assert_eq!(r.names(), ["a", "b"]);
    assert_eq!(r.changed(), ["b", "c"]);
    assert_eq!(r.restarts("expired"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_refused_as_expired_lists_again_too() {
    let mut r = running();
    r.first("10", &[]).await;
    r.watch("10").await.answer(410, &expired());
    r.list().await.answer_with(200, &[], listed("30", &[]));
    r.watch("30").await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_removes_nothing() {
    let mut r = running();
    r.first("10", &[secret("a", "1"), secret("b", "2")]).await;
    r.changed();
    r.watch("10").await.answer(410, &expired());
    let one = lines(&[("ADDED", secret("a", "1"))]);
    let failed = lines(&[("ERROR", expired())]);
    // By the end of the connection, in the middle of a line, or by a word of the server.
    for broken in [
        &one,
        &format!("{one}{{\"type\": \"ADD"),
        &format!("{one}{failed}"),
    ] {
        r.list().await.answer_with(200, &[], broken.as_str());
        r.page().await.answer(200, &page("", "more", &[secret("a", "1")]));
        r.page().await.answer(410, &expired());
        assert_eq!(r.names(), ["a", "b"]);
    }
    let again = r.list().await;
    again.answer_with(200, &[], listed("30", &[secret("b", "2")]));
    r.watch("30").await;
    assert_eq!(r.names(), ["b"]);
    assert_eq!(r.changed(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_a_server_that_is_away() {
    let mut r = running();
    r.first("10", &[secret("a", "1")]).await;
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        r.watch("10").await.breaks();
    }
    // 0.8, 1.6, 3.2, 6.4 s at least.
    assert!(
        began.elapsed() >= Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    r.watch("10")
        .await
        .answer_with(200, &[], lines(&[("MODIFIED", secret("a", "11"))]));
    r.watch("11").await;
    assert_eq!(r.restarts("unavailable"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_for_long_lists_again() {
    let mut r = running();
    r.first("10", &[]).await;
    let began = tokio::time::Instant::now();
    loop {
        let asked = r.server.next().await;
        if is_list(&asked) {
            break;
        }
        asked.answer(
            504,
            &json!({"code": 504, "reason": "Timeout", "message": "Too large resource version"}),
        );
    }
    assert!(
        began.elapsed() >= 5 * MINUTE && began.elapsed() < 7 * MINUTE,
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_falls_silent_is_read_page_by_page() {
    let mut r = running();
    let began = tokio::time::Instant::now();
    r.list().await.hangs();
    r.page().await.answer(200, &page("10", "", &[secret("a", "1")]));
    r.listed.take().unwrap().await.unwrap();
    assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
    assert_eq!(r.names(), ["a"]);
    // Nothing happens for longer while it is followed.
    let began = tokio::time::Instant::now();
    r.watch("10").await.hangs();
    r.server.stays_silent(Duration::from_secs(199)).await;
    r.watch("10").await;
    assert!(
        began.elapsed() < Duration::from_secs(201),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(r.restarts("silent"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_goes_on_where_it_was() {
    let mut r = running();
    r.first("10", &[secret("a", "1")]).await;
    let began = tokio::time::Instant::now();
    let event = lines(&[("MODIFIED", secret("a", "11"))]);
    // Longer than any test: one event, and then nothing.
    r.watch("10").await.goes_on(event, 60 * MINUTE, String::new());
    r.server.stays_silent(Duration::from_secs(199)).await;
    let again = r.watch("11").await;
    assert!(
        began.elapsed() < Duration::from_secs(201),
        "{:?}",
        began.elapsed()
    );
    again.answer_with(200, &[], lines(&[("ADDED", secret("b", "12"))]));
    r.watch("12").await;
    assert_eq!(r.names(), ["a", "b"]);
    assert_eq!(r.restarts("silent"), 1);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_keep_a_watch_alive_and_its_age_low() {
    let mut r = running();
    r.first("10", &[]).await;
    let bookmark = lines(&[(
        "BOOKMARK",
        json!({"kind": "Secret", "metadata": {"resourceVersion": "11"}}),
    )]);
    // The first one comes after two minutes, then one comes each minute.
    r.watch("10").await.goes_on(String::new(), 2 * MINUTE, bookmark);
    let ages = r.cluster.metrics.watches.clone();
    for _ in 0..15 {
        r.server.stays_silent(MINUTE).await;
        let silence = ages.silence().unwrap();
        assert!(silence <= 2 * MINUTE, "{silence:?}");
    }
    assert_eq!(r.restarts("silent"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_watch_grows_until_the_server_answers_again() {
    let mut r = running();
    r.first("10", &[]).await;
    let ages = r.cluster.metrics.watches.clone();
    r.watch("10").await.hangs();
    r.server.stays_silent(Duration::from_secs(199)).await;
    let mut failed = 0;
    while ages.silence().unwrap() < 4 * MINUTE {
        let asked = r.server.next().await;
        assert!(!is_list(&asked), "{}", asked.target);
        asked.breaks();
        failed += 1;
    }
    assert!(failed > 1, "{failed}");
    r.watch("10").await.hangs();
    tokio::task::yield_now().await;
    r.server.stays_silent(Duration::from_secs(1)).await;
    assert!(ages.silence().unwrap() < MINUTE);
    drop(r);
    tokio::task::yield_now().await;
    assert_eq!(ages.silence(), None);
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_the_worst_watch_of_a_kind_is_shown_and_the_best_of_all_counts() {
    let metrics = crate::cluster::Metrics::default();
    let ages = &metrics.watches;
    assert_eq!(ages.silence(), None);
    let (first, second) = (ages.begin("Secret"), ages.begin("Secret"));
    // Such as a kind that is forbidden.
    let _other = ages.begin("SecretStore");
    tokio::time::sleep(MINUTE).await;
    first.now();
    assert_eq!(ages.silence(), Some(Duration::ZERO));
    let shown = |metrics: &crate::cluster::Metrics| {
        let mut registry = prometheus_client::registry::Registry::with_prefix("keyturn");
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("keyturn_watch_silence"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let both = [
        "keyturn_watch_silence_seconds{kind=\"Secret\"} 60.0",
        "keyturn_watch_silence_seconds{kind=\"SecretStore\"} 60.0",
    ];
    assert_eq!(shown(&metrics), both);
    drop((first, second));
    // A kind that is followed no more is not shown.
    assert_eq!(shown(&metrics), both[1..]);
    assert_eq!(ages.silence(), Some(MINUTE));
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_opened_again() {
    let mut r = running();
    r.first("10", &[]).await;
    let began = tokio::time::Instant::now();
    let silent = r.watch("10").await;
    let next = r.server.next().await;
    assert!(next.target.contains("watch=true") && !is_list(&next));
    assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_object_harms_no_other_and_is_not_taken_for_deleted() {
    let mut bad = secret("b", "2");
    bad["data"] = json!({"password": {"hunter2-canary": 1}});
    let nameless = json!({"metadata": {"name": 7}});
    let mut r = running();
    r.first("10", &[secret("a", "1"), bad.clone(), nameless, secret("c", "3")])
        .await;
    assert_eq!(r.names(), ["a", "b", "c"]);
    let Some(Indexed::Malformed(malformed)) = r.index.get(&key("b")) else {
        panic!()
    };
    assert_eq!(malformed.uid, "uid-b");
    assert!(
        !format!("{malformed:?}").contains("hunter2-canary"),
        "{malformed:?}"
    );
    assert_eq!(r.changed(), ["a", "b", "c"]);
    let counted = || r.cluster.metrics.malformed.get_or_create(&kind("Secret")).get();
    assert_eq!(counted(), 2);
    // It goes on being followed, and mended it is an entry again.
    bad["metadata"]["resourceVersion"] = "11".into();
    let events = [
        ("MODIFIED", bad),
        ("MODIFIED", secret("a", "12")),
        ("MODIFIED", secret("b", "13")),
    ];
    r.watch("10").await.answer_with(200, &[], lines(&events));
    r.watch("13").await;
    assert!(matches!(r.index.get(&key("b")), Some(Indexed::Entry(_))));
    assert_eq!(r.changed(), ["a", "b"]);
}

fn kind(kind: &'static str) -> crate::cluster::metrics::OfKind {
    crate::cluster::metrics::OfKind { kind }
}

#[tokio::test(start_paused = true)]
async fn of_a_secret_tokens_are_kept_and_no_data() {
    let mut full = secret("a", "1");
    full["type"] = "kubernetes.io/tls".into();
    full["immutable"] = true.into();
    full["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u-x"},
        {"apiVersion": "v1", "kind": "Y", "name": "y", "uid": "u-y", "controller": true},
    ]);
    let annotations = &mut full["metadata"]["annotations"];
    annotations["keyturn.dev/inputs"] = "in".into();
    annotations["keyturn.dev/versions"] = "{}".into();
    annotations["keyturn.dev/rollout"] = "ro".into();
    annotations["keyturn.dev/source"] = "token,0123456789abcdef".into();
    annotations["keyturn.dev/changed-at"] = "2026-01-01T00:00:00Z".into();
    annotations["keyturn.dev/scope"] = "0123456789abcdef0123456789abcdef".into();
    annotations["keyturn.dev/restart-since"] = "2026-01-02T00:00:00Z".into();
    annotations["unrelated"] = "hunter2-canary".into();
    let mut r = running();
    r.first("10", &[full, secret("b", "2")]).await;
    let Some(Indexed::Entry(entry)) = r.index.get(&key("a")) else {
        panic!()
    };
    assert_eq!(
        *entry,
        SecretEntry {
            uid: "uid-a".into(),
            resource_version: "1".into(),
            owner: Some("a".into()),
            controller_uid: Some("u-y".into()),
            content: content("a", "kubernetes.io/tls"),
            content_intact: false,
            inputs: Some("in".into()),
            versions: Some("{}".into()),
            rollout: Some("ro".into()),
            changed_at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            scope: Some(0x0123_4567_89ab_cdef),
            restart_since: Some("2026-01-02T00:00:00Z".parse().unwrap()),
            uncommon: Some(Box::new(Uncommon {
                absent: Absent::of("token,0123456789abcdef"),
                ..Uncommon::default()
            })),
            immutable: true,
            type_: Some("kubernetes.io/tls".into()),
        }
    );
    let Some(Indexed::Entry(entry)) = r.index.get(&key("b")) else {
        panic!()
    };
    assert!(entry.content_intact);
    assert_eq!(entry.type_, None);
}

#[tokio::test(start_paused = true)]
async fn the_scope_of_a_secret_is_the_one_that_it_was_compared_in_last() {
    let (scope, other) = ("1".repeat(32), "2".repeat(32));
    let made = |name: &str, rescoped: Option<String>| {
        let mut made = secret(name, "1");
        made["metadata"]["annotations"]["keyturn.dev/scope"] = scope.as_str().into();
        if let Some(rescoped) = rescoped {
            made["metadata"]["annotations"]["keyturn.dev/rescoped"] = rescoped.into();
        }
        made
    };
    let all = [
        ("a", None, 0x1111_1111_1111_1111),
        ("b", Some(format!("{other} {scope}")), 0x2222_2222_2222_2222),
        // Edited by hand.
        ("c", Some(other.clone()), 0x1111_1111_1111_1111),
    ];
    let mut r = running();
    let objects = all.clone().map(|(name, rescoped, _)| made(name, rescoped));
    r.first("10", &objects).await;
    for (name, _, expected) in all {
        let Some(Indexed::Entry(entry)) = r.index.get(&key(name)) else {
            panic!()
        };
        assert_eq!(entry.scope, Some(expected), "{name}");
    }
}

/// Counted, not measured: an allocator that counts needs unsafe code.
#[test]
fn a_usual_secret_stays_within_its_budget() {
    let heap = |text: &str| text.len().next_multiple_of(16);
    let uid = heap("0b5a2f0e-6f3c-4d5e-9c1d-0123456789ab");
    let token = heap("0123456789abcdef0123456789abcdef");
    let versions = heap(r#"{"0123456789abcdef":"0b5a2f0e-6f3c-4d5e-9c1d-0123456789ab"}"#);
    // A hash table is two thirds full on average.
    // Outside of tests there is one API group, which takes no room in a key.
    let key = 2 * size_of::<Arc<str>>();
    let slot = (key + size_of::<Slot<SecretEntry>>()) * 3 / 2;
    let name = 16 + heap("db-credentials");
    let entry = 16 + size_of::<SecretEntry>() + 2 * uid + heap("1234567") + 3 * token + versions;
    let bytes = slot + name + entry;
    assert!(bytes <= 640, "{bytes}");
}

struct Services;

impl Project for Services {
    type Kind = Service;
    type Object = Service;
    type Entry = ObjectMeta;

    fn project(&self, _key: &ObjectKey, object: Service) -> ObjectMeta {
        object.metadata
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::ExternalSecret(key)
    }
}

/// The same in another API group.
struct OtherServices;

impl Project for OtherServices {
    type Kind = Service;
    type Object = Service;
    type Entry = ObjectMeta;

    const GROUP: ApiGroup = ApiGroup::Other;

    fn project(&self, key: &ObjectKey, object: Service) -> ObjectMeta {
        Services.project(key, object)
    }

    fn change(&self, key: ObjectKey) -> Change {
        Services.change(key)
    }
}

#[tokio::test(start_paused = true)]
async fn objects_of_one_name_in_two_groups_are_two_objects() {
    let (cluster, mut server) = cluster();
    let changes = Changes::default();
    let mut watches = Watches::new(cluster, Scope::Cluster, changes.clone(), SILENCE);
    watches.watch(Services);
    watches.watch(OtherServices);
    let run = tokio::spawn(watches.run());
    let mut lists = 0;
    let mut open = Vec::new();
    while lists < 2 {
        let asked = server.next().await;
        if is_list(&asked) {
            lists += 1;
            let items = [json!({"metadata": {"namespace": "shop", "name": "db", "resourceVersion": "1"}})];
            asked.answer_with(200, &[], listed("1", &items));
        } else {
            open.push(asked);
        }
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Change::ExternalSecret(key) = changes.next().await {
            seen.push(key);
        }
    }
    seen.sort();
    let ours = ObjectKey::new("shop", "db");
    assert_eq!(seen, [ours.clone(), ours.clone().in_group(ApiGroup::Other)]);
    assert_eq!(seen[0].to_string(), seen[1].to_string());
    assert_ne!(field_manager(&seen[0]), field_manager(&seen[1]));
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn kinds_are_listed_one_after_another_and_then_all_is_ready() {
    let (cluster, mut server) = cluster();
    let changes = Changes::default();
    let mut watches = Watches::new(cluster, Scope::Cluster, changes.clone(), SILENCE);
    watches.namespaces();
    watches.secrets(token());
    watches.watch(Services);
    let mut lists = watches.first_lists();
    let run = tokio::spawn(watches.run());
    let mut open = Vec::new();
    for path in ["/api/v1/namespaces?", "/api/v1/secrets?", "/api/v1/services?"] {
        let asked = loop {
            let asked = server.next().await;
            if is_list(&asked) {
                break asked;
            }
            open.push(asked);
        };
        assert!(asked.target.starts_with(path), "{}", asked.target);
        assert!(lists.complete().now_or_never().is_none());
        asked.answer_with(200, &[], listed("1", &[]));
    }
    assert_eq!(changes.next().await, Change::Ready);
    assert_eq!(lists.complete().now_or_never(), Some(true));
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn a_replica_takes_part_in_the_election_once_it_has_its_first_lists() {
    let (cluster, mut server) = cluster();
    let mut watches = Watches::new(cluster, Scope::Cluster, Changes::default(), SILENCE);
    watches.namespaces();
    watches.secrets(token());
    let begun = Instant::now();
    let election = tokio::spawn(watches.first_lists().before_election());
    let run = tokio::spawn(watches.run());
    for path in ["/api/v1/namespaces?", "/api/v1/secrets?"] {
        let asked = loop {
            let asked = server.next().await;
            if is_list(&asked) {
                break asked;
            }
        };
        assert!(asked.target.starts_with(path), "{}", asked.target);
        tokio::task::yield_now().await;
        assert!(!election.is_finished(), "{path}");
        asked.answer_with(200, &[], listed("1", &[]));
    }
    election.await.unwrap();
    assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_ends_keeps_a_replica_from_the_election_for_two_minutes_and_is_named() {
    let (cluster, _server) = cluster();
    let mut watches = Watches::new(cluster, Scope::Cluster, Changes::default(), SILENCE);
    watches.secrets(token());
    let begun = Instant::now();
    let lists = watches.first_lists();
    let run = tokio::spawn(watches.run());
    let (lines, guard) = logs();
    lists.before_election().await;
    drop(guard);
    assert_eq!(begun.elapsed(), 2 * MINUTE);
    let text = text(&lines);
    assert!(text.contains("2 minutes") && text.contains("Secret"), "{text}");
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn watching_some_namespaces_touches_nothing_else() {
    let (cluster, mut server) = cluster();
    let changes = Changes::default();
    let scope = Scope::Namespaces(vec!["shop".into(), "bank".into()]);
    let mut watches = Watches::new(cluster, scope, changes.clone(), SILENCE);
    let namespaces = watches.namespaces();
    let secrets = watches.secrets(token());
    let run = tokio::spawn(watches.run());
    let mut open = Vec::new();
    let mut deposit = secret("a", "1");
    deposit["metadata"]["namespace"] = "bank".into();
    let mut items = vec![vec![secret("a", "1"), secret("b", "2")], vec![deposit]].into_iter();
    while open.len() < 2 {
        let asked = server.next().await;
        let of_one = [
            "/api/v1/namespaces/shop/secrets?",
            "/api/v1/namespaces/bank/secrets?",
        ];
        assert!(
            of_one.iter().any(|path| asked.target.starts_with(path)),
            "{}",
            asked.target
        );
        if is_list(&asked) {
            asked.answer_with(200, &[], listed("1", &items.next().unwrap()));
        } else {
            open.push(asked);
        }
    }
    assert_eq!(secrets.len(), 3);
    assert!(namespaces.is_empty());
    // A list of one namespace leaves the objects of the other alone.
    let shop = open.remove(0);
    assert!(shop.target.contains("/shop/"));
    shop.answer(410, &expired());
    server.next().await.answer_with(200, &[], listed("5", &[]));
    server.next().await;
    assert_eq!(secrets.keys_where(|_, _| true), [ObjectKey::new("bank", "a")]);
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_change_per_object_and_the_last_is_never_lost() {
    let changes = Changes::default();
    for round in 0..1000 {
        changes.push(Change::Secret(key(&format!("s{}", round % 10))));
    }
    changes.push(Change::Namespace("shop".into()));
    for name in 0..10 {
        assert_eq!(changes.next().await, Change::Secret(key(&format!("s{name}"))));
    }
    // Received, a change may come again.
    changes.push(Change::Secret(key("s0")));
    assert_eq!(changes.next().await, Change::Namespace("shop".into()));
    assert_eq!(changes.next().await, Change::Secret(key("s0")));
    assert_eq!(changes.try_next(), None);
    let waiting = {
        let changes = changes.clone();
        tokio::spawn(async move { changes.next().await })
    };
    tokio::task::yield_now().await;
    changes.push(Change::Ready);
    assert_eq!(waiting.await.unwrap(), Change::Ready);
}

#[test]
fn listing_again_needs_no_second_map_and_shares_names_of_namespaces() {
    let index: Index<u32> = Index::default();
    let put = |index: &Index<u32>, key: &ObjectKey, epoch| {
        index.put(&mut index.write(), key, Some(Indexed::Entry(Arc::new(1))), epoch)
    };
    let epoch = index.begin("");
    for i in 0..1000 {
        let key = index.key("shop", &format!("s{i}"));
        assert!(put(&index, &key, epoch));
    }
    let capacity = index.read().objects.capacity();
    let epoch = index.begin("");
    for i in 0..1000 {
        let key = index.key("shop", &format!("s{i}"));
        assert!(!put(&index, &key, epoch));
    }
    assert!(index.sweep("", epoch, Version::NONE).is_empty());
    assert_eq!(index.read().objects.capacity(), capacity);
    let map = index.read();
    let shared = map.namespaces.get("shop").unwrap();
    assert!(map.objects.keys().all(|key| Arc::ptr_eq(&key.namespace, shared)));
    drop(map);
    let epoch = index.begin("");
    assert_eq!(index.sweep("", epoch, Version::NONE).len(), 1000);
    assert!(index.read().objects.capacity() < capacity);
    index.sweep("", epoch, Version::NONE);
    assert!(index.read().namespaces.is_empty());
}

struct Rollouts;

impl Project for Rollouts {
    type Kind = crate::cluster::Rollout;
    type Object = Value;
    type Entry = Value;

    fn project(&self, _key: &ObjectKey, object: Value) -> Value {
        object
    }

    fn change(&self, key: ObjectKey) -> Change {
        Change::Workload(WorkloadKind::Rollout, key)
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_kind_costs_a_check_a_minute_and_nothing_waits_for_it() {
    let (cluster, mut server) = cluster();
    let metrics = cluster.metrics.clone();
    let changes = Changes::default();
    let mut watches = Watches::new(cluster, Scope::Cluster, changes.clone(), SILENCE);
    let demanding: Index<()> = Index::new(|()| true, Coverage::Everywhere);
    demanding.put(
        &mut demanding.write(),
        &key("db"),
        Some(Indexed::Entry(Arc::new(()))),
        0,
    );
    let (index, known) = watches.optional(Rollouts, &demanding.demand());
    let run = tokio::spawn(watches.run());
    assert_eq!(changes.next().await, Change::Ready);
    let check = "/apis/argoproj.io/v1alpha1";
    assert!(!*known.borrow());
    // A broken answer tells nothing, and is asked for again soon.
    server.expect("GET", check).await.answer(500, &json!({}));
    server.stays_silent(Duration::from_secs(4)).await;
    assert!(!*known.borrow());
    server.expect("GET", check).await.answer(404, &json!({}));
    server.stays_silent(Duration::from_secs(59)).await;
    assert!(*known.borrow());
    // Another kind of that group is none of ours.
    let others = json!({"resources": [{"name": "workflows"}]});
    server.expect("GET", check).await.answer(200, &others);
    server.stays_silent(Duration::from_secs(59)).await;

    let kinds = json!({"resources": [{"name": "rollouts"}, {"name": "rollouts/status"}]});
    server.expect("GET", check).await.answer(200, &kinds);
    let web = json!({"metadata": {"namespace": "shop", "name": "web", "resourceVersion": "3"}});
    let list = server.next().await;
    assert!(
        list.target.starts_with("/apis/argoproj.io/v1alpha1/rollouts?"),
        "{}",
        list.target
    );
    list.answer_with(200, &[], listed("5", &[web]));
    let change = Change::Workload(WorkloadKind::Rollout, key("web"));
    assert_eq!(changes.next().await, change);
    assert_eq!(changes.next().await, Change::Covered("shop".into()));

    // The CRD is deleted: so are its objects, and the checks begin again.
    for part in ["resourceVersion=5", "sendInitialEvents=true", "limit=50"] {
        let asked = server.next().await;
        assert!(asked.target.contains(part), "{}", asked.target);
        asked.answer(
            404,
            &json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}),
        );
    }
    assert_eq!(changes.next().await, change);
    // What waited for its objects does so no more.
    assert_eq!(changes.next().await, Change::Covered("shop".into()));
    assert!(index.is_empty() && index.covers("shop"));
    server.stays_silent(Duration::from_secs(59)).await;
    server.expect("GET", check).await.answer(404, &json!({}));
    let mut warned = String::new();
    prometheus_client::encoding::text::encode(&mut warned, &{
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        registry
    })
    .unwrap();
    assert!(!warned.contains("watch_restarts_total{"), "{warned}");
    run.abort();
}

#[tokio::test]
async fn a_fork_is_given_every_change_and_takes_none_from_the_other() {
    let changes = Changes::default();
    let fork = changes.fork();
    for _ in 0..2 {
        changes.push(Change::Control);
    }
    for queue in [&changes, &fork] {
        assert_eq!(queue.try_next(), Some(Change::Control));
        assert_eq!(queue.try_next(), None);
    }
}

#[test]
fn a_secret_keeps_a_few_bytes_of_whatever_people_write_on_it() {
    let flood = "x".repeat(256 << 10);
    let mut hostile = secret("a", "1");
    hostile["type"] = flood.clone().into();
    hostile["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "X", "name": flood, "uid": flood, "controller": true}]);
    for name in [
        "keyturn.dev/owner",
        "keyturn.dev/content",
        "keyturn.dev/inputs",
        "keyturn.dev/versions",
        "keyturn.dev/rollout",
        "keyturn.dev/changed-at",
        "keyturn.dev/scope",
        "keyturn.dev/restart-since",
        "keyturn.dev/user",
        "reloader.stakater.com/match",
        "reloader.stakater.com/ignore",
        "other",
    ] {
        hostile["metadata"]["annotations"][name] = flood.clone().into();
    }
    for n in 0..1000 {
        hostile["metadata"]["annotations"][format!("reloader.stakater.com/{n}")] = "true".into();
    }
    let entry = Secrets(token()).project(&key("a"), serde_json::from_value(hostile).unwrap());
    let kept = format!("{entry:?}").len();
    assert!(kept < 2048, "{kept}");
    assert!(!entry.content_intact && entry.versions.is_none() && entry.rollout.is_none());
    // Cut, they are still somebody else's.
    assert!(entry.owner.is_some_and(|owner| owner.len() > 253));
    assert!(entry.controller_uid.is_some_and(|uid| uid.len() > 36));
    assert!(
        entry
            .inputs
            .is_some_and(|inputs| !crate::api::token::is_text(&inputs))
    );
}

#[test]
fn a_namespace_keeps_the_annotations_that_are_read_and_little_of_them() {
    let flood = "x".repeat(200 << 10);
    let annotations: BTreeMap<String, String> = (0..1000)
        .map(|n| (format!("keyturn.dev/{n}"), "x".to_owned()))
        .chain([("keyturn.dev/restart".to_owned(), flood)])
        .chain([("keyturn.dev/hot-reload".to_owned(), "true".to_owned())])
        .collect();
    let hostile = json!({"metadata": {"name": "shop", "annotations": annotations}});
    let entry = Namespaces.project(&key("shop"), serde_json::from_value(hostile).unwrap());
    let kept = format!("{entry:?}").len();
    assert!(kept < 1024, "{kept}");
    assert_eq!(entry.annotations["hot-reload"], "true");
    assert!(
        entry.annotations["restart"].starts_with('x'),
        "unreadable, not absent"
    );
}
