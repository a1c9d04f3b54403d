//! What is sent to the API server, and above all what is not.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{ConfigMap, ObjectReference, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Class, Events, FENCED_TIMEOUT, Observed, Rollout, TimeLimit, Tokens, Writer,
    lease::Leadership,
    testing::{Asked, cluster},
    token_key,
};
use crate::{
    api::{
        EventReason, ExternalSecret, ObjectKey, SecretStore, TokenKey,
        names::{RESTART_MANAGER, SYNC_MANAGER, TOKEN_KEY_SECRET},
    },
    aws::{KubeTokenError, KubeTokens as _},
    cluster::{EventDraft, JsonPatch, TestedPatch, writes::SecretApply},
};

const CANARY: &str = "hunter2-canary";
const MINUTE: Duration = Duration::from_mins(1);

fn key() -> ObjectKey {
    ObjectKey::new("shop", "db")
}

fn observed() -> Observed {
    Observed {
        uid: "u1".to_owned(),
        resource_version: "7".to_owned(),
    }
}

fn secret() -> Secret {
    Secret {
        metadata: ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some("db".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            "password".to_owned(),
            ByteString(CANARY.into()),
        )])),
        ..Secret::default()
    }
}

/// What is logged on this thread, at every level, until the guard is dropped.
pub(super) fn logs() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut lines = self.0.lock().map_err(|_| std::io::ErrorKind::Other)?;
            lines.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink(Arc::clone(&lines));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    tracing::trace!("captured");
    (lines, guard)
}

pub(super) fn text(lines: &Mutex<Vec<u8>>) -> String {
    let text = String::from_utf8_lossy(&lines.lock().unwrap()).into_owned();
    assert!(text.contains("captured"));
    text
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_read_again_when_it_asks_to() {
    for code in [429, 503] {
        let (cluster, mut server) = cluster();
        let began = Instant::now();
        let read = tokio::spawn(async move { cluster.get::<ConfigMap>(&key()).await });
        let target = "/api/v1/namespaces/shop/configmaps/db";
        server
            .expect("GET", target)
            .await
            .answer_with(code, &[("retry-after", "3")], "busy");
        server
            .expect("GET", target)
            .await
            .answer(200, &json!({"metadata": {"name": "db"}}));
        assert_eq!(read.await.unwrap().unwrap().metadata.name.as_deref(), Some("db"));
        assert!(began.elapsed() >= Duration::from_secs(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_tried_four_times_at_most() {
    let (cluster, mut server) = cluster();
    let read = tokio::spawn(async move { cluster.get::<ConfigMap>(&key()).await });
    for _ in 0..4 {
        server.next().await.breaks();
    }
    assert_eq!(
        read.await.unwrap().unwrap_err().class,
        Class::Unavailable {
            code: None,
            retry_after: None
        }
    );
    server.stays_silent(MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_is_handed_on_instead_of_waited_for() {
    let (cluster, mut server) = cluster();
    let began = Instant::now();
    let read = tokio::spawn(async move { cluster.get::<ConfigMap>(&key()).await });
    server.next().await.answer_with(429, &[("retry-after", "30")], "");
    let class = read.await.unwrap().unwrap_err().class;
    assert_eq!(
        class,
        Class::Throttled {
            retry_after: Some(Duration::from_secs(30))
        }
    );
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_write_is_never_sent_twice() {
    let fails: [fn(Asked); 4] = [
        |asked| asked.answer_with(503, &[("retry-after", "1")], ""),
        |asked| asked.answer_with(429, &[("retry-after", "1")], ""),
        |asked| asked.answer_with(500, &[], ""),
        Asked::breaks,
    ];
    for fail in fails {
        let (cluster, mut server) = cluster();
        let writer = Writer::new(cluster, Leadership::alone());
        let written = tokio::spawn(async move { writer.create_secret(TimeLimit::Fenced, &secret()).await });
        fail(
            server
                .expect(
                    "POST",
                    "/api/v1/namespaces/shop/secrets?&fieldManager=keyturn-sync",
                )
                .await,
        );
        assert!(written.await.unwrap().unwrap_err().class.is_transient());
        server.stays_silent(MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_ends_in_time() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster.clone(), Leadership::alone());
    let began = Instant::now();
    let key = key();
    let (read, written, asked) = tokio::join!(
        cluster.get::<ConfigMap>(&key),
        async { writer.create_secret(TimeLimit::Fenced, &secret()).await },
        async { (server.next().await, server.next().await) },
    );
    assert_eq!(read.unwrap_err().class, Class::Timeout);
    assert_eq!(written.unwrap_err().class, Class::Timeout);
    assert!(began.elapsed() <= FENCED_TIMEOUT);
    drop(asked);
}

/// A request of every kind that is sent, by the writer or past it.
type Send = fn(Writer) -> BoxFuture<'static, Option<Class>>;

fn version_of(secret: Secret) -> String {
    secret.metadata.resource_version.unwrap()
}

/// What became of it.
fn class<T>(sent: Result<T, crate::cluster::Error>) -> Option<Class> {
    sent.err().map(|error| error.class)
}

#[tokio::test(start_paused = true)]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn a_write_with_a_fence_of_its_own_has_30_s_and_all_else_10_and_the_server_is_told() {
    macro_rules! send {
        ($writer:ident => $sent:expr) => {
            |$writer| Box::pin(async move { class($sent.await) })
        };
    }
    let cases: [(&str, TimeLimit, Send); 17] = [
        (
            "get",
            TimeLimit::Usual,
            send!(w => w.cluster().get::<ConfigMap>(&key())),
        ),
        (
            "list",
            TimeLimit::Usual,
            send!(w => w.cluster().find_all::<Pod, Pod, Pod>("shop", None, Some)),
        ),
        (
            "control",
            TimeLimit::Usual,
            send!(w => w.cluster().control(&"keyturn".into())),
        ),
        (
            "create Secret",
            TimeLimit::Fenced,
            send!(w => w.create_secret(TimeLimit::Fenced, &secret())),
        ),
        (
            "create Secret that names a change",
            TimeLimit::Usual,
            send!(w => w.create_secret(TimeLimit::Usual, &secret())),
        ),
        (
            "patch Secret",
            TimeLimit::Fenced,
            send!(w => w.patch_secret(TimeLimit::Fenced, &key(), &observed(), json!({}))),
        ),
        (
            "patch Secret that names a change",
            TimeLimit::Usual,
            send!(w => w.patch_secret(TimeLimit::Usual, &key(), &observed(), json!({}))),
        ),
        (
            "apply Secret",
            TimeLimit::Fenced,
            send!(w => w.apply_secret(&key(), &observed(), SecretApply { manager: SYNC_MANAGER, force: true, body: json!({}) })),
        ),
        (
            "delete Secret",
            TimeLimit::Fenced,
            send!(w => w.delete_secret(&key(), &observed())),
        ),
        (
            "patch Deployment",
            TimeLimit::Fenced,
            send!(w => w.patch::<Deployment>(&key(), "u1", tested(JsonPatch::default()))),
        ),
        (
            "patch StatefulSet",
            TimeLimit::Fenced,
            send!(w => w.patch::<StatefulSet>(&key(), "u1", tested(JsonPatch::default()))),
        ),
        (
            "patch DaemonSet",
            TimeLimit::Fenced,
            send!(w => w.patch::<DaemonSet>(&key(), "u1", tested(JsonPatch::default()))),
        ),
        (
            "patch Rollout",
            TimeLimit::Fenced,
            send!(w => w.patch::<Rollout>(&key(), "u1", tested(JsonPatch::default()))),
        ),
        ("evict", TimeLimit::Usual, send!(w => w.evict(&key(), "u1"))),
        (
            "status of an ExternalSecret",
            TimeLimit::Usual,
            send!(w => w.apply_status::<ExternalSecret>(&key(), "u1", SYNC_MANAGER, &json!({}))),
        ),
        (
            "status of a SecretStore",
            TimeLimit::Usual,
            send!(w => w.apply_status::<SecretStore>(&key(), "u1", SYNC_MANAGER, &json!({}))),
        ),
        ("discovery", TimeLimit::Usual, |w| {
            Box::pin(async move {
                let served = w.cluster().serves::<Rollout>().await;
                served.is_none().then_some(Class::Timeout)
            })
        }),
    ];
    for (name, limit, send) in cases {
        let (cluster, mut server) = cluster();
        let writer = Writer::new(cluster, Leadership::alone());
        let began = Instant::now();
        let sent = tokio::spawn(send(writer));
        let asked = server.next().await;
        let (of_call, told) = match limit {
            TimeLimit::Usual => (Duration::from_secs(10), "9s"),
            TimeLimit::Fenced => (Duration::from_secs(30), "29s"),
        };
        assert_eq!(asked.timeout.as_deref(), Some(told), "{name}");
        assert_eq!(sent.await.unwrap(), Some(Class::Timeout), "{name}");
        let took = began.elapsed();
        assert!(
            took <= of_call && took + Duration::from_secs(1) >= of_call,
            "{name}: {took:?}"
        );
        server.stays_silent(MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_takes_12_s_is_waited_for_where_a_fence_allows_it() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let slow = |asked: Asked| async move {
        tokio::time::sleep(Duration::from_secs(12)).await;
        asked.written("u1", "8");
    };
    let (created, ()) = tokio::join!(
        async { writer.create_secret(TimeLimit::Fenced, &secret()).await },
        async {
            slow(server.next().await).await;
        }
    );
    assert_eq!(version_of(created.unwrap()), "8");
    let (key, observed) = (key(), observed());
    let (patched, ()) = tokio::join!(
        writer.patch_secret(TimeLimit::Fenced, &key, &observed, json!({})),
        async { slow(server.next().await).await }
    );
    assert_eq!(version_of(patched.unwrap()), "8");
}

#[tokio::test(start_paused = true)]
async fn the_server_says_itself_that_a_time_limit_is_over() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let over = json!({"kind": "Status", "code": 504, "reason": "Timeout", "message": "did not complete"});
    let (created, ()) = tokio::join!(
        async { writer.create_secret(TimeLimit::Fenced, &secret()).await },
        async {
            server.next().await.answer(504, &over);
        }
    );
    assert_eq!(created.unwrap_err().class, Class::Timeout);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_up_is_read_as_it_is_now_and_a_failure_is_no_absence() {
    let map = json!({"metadata": {}, "data": {"suspendRestarts": "true"}});
    for (code, body, expected) in [
        (200, map, Some(Some(true))),
        (200, json!({"metadata": {}}), Some(Some(false))),
        (404, json!({"code": 404, "reason": "NotFound"}), Some(None)),
        (403, json!({"code": 403, "reason": "Forbidden"}), None),
        (200, json!({"data": 7}), None),
    ] {
        let (cluster, mut server) = cluster();
        let target = "/api/v1/namespaces/keyturn/configmaps/keyturn-control";
        let namespace = "keyturn".into();
        let (read, ()) = tokio::join!(cluster.control(&namespace), async {
            server.expect("GET", target).await.answer(code, &body);
        });
        let read = read.ok().map(|control| control.map(|control| control.restarts));
        assert_eq!(read, expected, "{code} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_name_is_never_sent() {
    let cases = [
        ("shop", "x/../../other/secrets/y"),
        ("shop/secrets/x", "db"),
        ("shop", ".."),
        ("shop", "a..b"),
        ("shop", "db?watch=1"),
        ("shop", "DB"),
        ("shop", ""),
        ("..", "db"),
    ];
    let (cluster, mut server) = cluster();
    for (namespace, name) in cases {
        let refused = cluster
            .get_secret(&ObjectKey::new(namespace, name))
            .await
            .unwrap_err();
        assert!(matches!(refused.class, Class::Malformed(_)), "{namespace} {name}");
    }
    server.stays_silent(MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn creating_a_secret_is_one_post() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let written = tokio::spawn(async move { writer.create_secret(TimeLimit::Fenced, &secret()).await });
    let asked = server
        .expect(
            "POST",
            "/api/v1/namespaces/shop/secrets?&fieldManager=keyturn-sync",
        )
        .await;
    assert_eq!(asked.body["data"]["password"], "aHVudGVyMi1jYW5hcnk=");
    asked.written("u1", "8");
    assert_eq!(version_of(written.await.unwrap().unwrap()), "8");
    server.stays_silent(MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn changing_a_secret_names_the_object_and_state_it_rests_on() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let patch = json!({"data": {"a": null}, "metadata": {"annotations": {"x": "y"}, "uid": "other"}});
    let written = tokio::spawn(async move {
        let (key, observed) = (key(), observed());
        writer
            .patch_secret(TimeLimit::Fenced, &key, &observed, patch)
            .await
    });
    let asked = server
        .expect(
            "PATCH",
            "/api/v1/namespaces/shop/secrets/db?&fieldManager=keyturn-sync",
        )
        .await;
    assert_eq!(asked.content_type, "application/merge-patch+json");
    assert_eq!(
        asked.body,
        json!({
            "data": {"a": null},
            "metadata": {"annotations": {"x": "y"}, "uid": "u1", "resourceVersion": "7"},
        })
    );
    asked.written("u1", "8");
    written.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn deleting_a_secret_names_the_object_and_state_it_rests_on() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let deleted = tokio::spawn(async move { writer.delete_secret(&key(), &observed()).await });
    let asked = server
        .expect("DELETE", "/api/v1/namespaces/shop/secrets/db?")
        .await;
    assert_eq!(
        asked.body["preconditions"],
        json!({"uid": "u1", "resourceVersion": "7"})
    );
    asked.answer(200, &json!({"kind": "Status", "status": "Success"}));
    deleted.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shared_secret_is_applied_to_the_object_that_was_observed() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let applied = tokio::spawn(async move {
        let apply = json!({"data": {"a": "YQ=="}});
        writer
            .apply_secret(
                &key(),
                &observed(),
                SecretApply {
                    manager: "keyturn-0badcafe",
                    force: true,
                    body: apply,
                },
            )
            .await
    });
    let target = "/api/v1/namespaces/shop/secrets/db?&force=true&fieldManager=keyturn-0badcafe";
    let asked = server.expect("PATCH", target).await;
    assert_eq!(asked.content_type, "application/apply-patch+yaml");
    assert_eq!(
        asked.body,
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": {"a": "YQ=="},
            "metadata": {"namespace": "shop", "name": "db", "uid": "u1", "resourceVersion": "7"},
        })
    );
    asked.written("u1", "8");
    applied.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_status_is_applied_to_its_own_object_only() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let applied = tokio::spawn(async move {
        writer
            .apply_status::<ConfigMap>(&key(), "u1", SYNC_MANAGER, &json!({"a": 1}))
            .await
    });
    let target = "/api/v1/namespaces/shop/configmaps/db/status?&force=true&fieldManager=keyturn-sync";
    let asked = server.expect("PATCH", target).await;
    assert_eq!(
        asked.body["metadata"],
        json!({"namespace": "shop", "name": "db", "uid": "u1"})
    );
    assert_eq!(asked.body["status"], json!({"a": 1}));
    asked.written("u1", "8");
    applied.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_text_of_the_server_comes_out_of_a_refusal() {
    let (lines, guard) = logs();
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let refuse = async {
        server.next().await.answer(
            422,
            &json!({
                "kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": CANARY,
                "details": {"name": CANARY, "causes": [
                    {"reason": "FieldValueInvalid", "message": CANARY, "field": format!("data[{CANARY}]")},
                    {"reason": CANARY, "message": CANARY, "field": "metadata.labels"},
                ]},
            }),
        );
    };
    let secret = secret();
    let (written, ()) = tokio::join!(writer.create_secret(TimeLimit::Fenced, &secret), refuse);
    drop(guard);
    let err = written.unwrap_err();
    assert_eq!(
        err.to_string(),
        "failed to create Secret shop/db: the API server refuses the content: data[..] (FieldValueInvalid), \
         metadata.labels (Invalid)"
    );
    assert!(!format!("{err:?}").contains(CANARY));
    assert!(!text(&lines).contains(CANARY), "{}", text(&lines));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_is_not_logged() {
    let (lines, guard) = logs();
    let (cluster, mut server) = cluster();
    let answer = async {
        let body = json!({"metadata": {"name": 7}, "stringData": {"password": CANARY}, "type": CANARY});
        server.next().await.answer(200, &body);
    };
    let key = key();
    let (read, ()) = tokio::join!(cluster.get_secret(&key), answer);
    drop(guard);
    assert!(matches!(read.unwrap_err().class, Class::Malformed(_)));
    assert!(!text(&lines).contains(CANARY), "{}", text(&lines));
}

fn same(one: &TokenKey, other: &TokenKey) -> bool {
    one.user(&key(), "x") == other.user(&key(), "x")
}

#[tokio::test(start_paused = true)]
async fn the_token_key_is_made_once() {
    let (cluster, mut server) = cluster();
    let made = tokio::spawn(async move { token_key(&cluster, "keyturn").await });
    let path = format!("/api/v1/namespaces/keyturn/secrets/{TOKEN_KEY_SECRET}");
    server
        .expect("GET", &path)
        .await
        .answer(404, &json!({"code": 404, "reason": "NotFound"}));
    let asked = server
        .expect(
            "POST",
            "/api/v1/namespaces/keyturn/secrets?&fieldManager=keyturn-sync",
        )
        .await;
    assert_eq!(asked.body["immutable"], true);
    let sent: Secret = serde_json::from_value(asked.body.clone()).unwrap();
    asked.written("u1", "8");
    let key = made.await.unwrap().unwrap();
    let sent: [u8; 32] = sent.data.unwrap()["key"].0.as_slice().try_into().unwrap();
    assert_ne!(sent, [0; 32]);
    assert!(same(&key, &TokenKey::new(&sent)));
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_that_make_the_token_key_both_use_the_winners() {
    let (cluster, mut server) = cluster();
    let made = tokio::spawn(async move { token_key(&cluster, "keyturn").await });
    server
        .next()
        .await
        .answer(404, &json!({"code": 404, "reason": "NotFound"}));
    let refused = json!({"code": 409, "reason": "AlreadyExists"});
    server
        .expect(
            "POST",
            "/api/v1/namespaces/keyturn/secrets?&fieldManager=keyturn-sync",
        )
        .await
        .answer(409, &refused);
    let winner = json!({"metadata": {}, "data": {"key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}});
    server.next().await.answer(200, &winner);
    assert!(same(&made.await.unwrap().unwrap(), &TokenKey::new(&[7; 32])));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_token_key_is_never_overwritten() {
    let bodies = [
        json!({}),
        json!({"data": {"key": "BwcH"}}),
        json!({"data": {"other": "BwcH"}}),
    ];
    for mut body in bodies {
        body["metadata"] = json!({});
        let (cluster, mut server) = cluster();
        let made = tokio::spawn(async move { token_key(&cluster, "keyturn").await });
        server.next().await.answer(200, &body);
        let err = made.await.unwrap().unwrap_err();
        assert!(err.to_string().contains("restore it"), "{err}");
        server.stays_silent(MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_for_another_audience_is_never_asked_for() {
    let (cluster, mut server) = cluster();
    let tokens = Tokens::new(cluster, vec!["sts.amazonaws.com".to_owned()]);
    let lists = [vec![], vec!["vault"], vec!["sts.amazonaws.com", "vault"]];
    for audiences in lists {
        let audiences: Vec<String> = audiences.into_iter().map(str::to_owned).collect();
        let refused = tokens.token("shop", "app", &audiences).await;
        assert!(matches!(refused.unwrap_err(), KubeTokenError::Forbidden(_)));
    }
    server.stays_silent(MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_ten_minutes_and_audited() {
    let (lines, guard) = logs();
    let (cluster, mut server) = cluster();
    let tokens = Tokens::new(cluster, vec!["sts.amazonaws.com".to_owned()]);
    let audiences = ["sts.amazonaws.com".to_owned()];
    let answer = async {
        let asked = server
            .expect("POST", "/api/v1/namespaces/shop/serviceaccounts/app/token?")
            .await;
        assert_eq!(
            asked.body["spec"],
            json!({"audiences": ["sts.amazonaws.com"], "expirationSeconds": 600})
        );
        let status = json!({"token": CANARY, "expirationTimestamp": "2030-01-01T00:10:00Z"});
        asked.answer(
            201,
            &json!({"metadata": {}, "spec": {"audiences": []}, "status": status}),
        );
    };
    let (token, ()) = tokio::join!(tokens.token("shop", "app", &audiences), answer);
    drop(guard);
    let token = token.unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&token.token), CANARY);
    assert!(!format!("{token:?}").contains(CANARY));
    let text = text(&lines);
    assert!(text.contains("service_account=shop/app"), "{text}");
    assert!(!text.contains(CANARY), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_an_identity_lacks_is_said_without_contents() {
    let secret = |data: serde_json::Value| json!({"metadata": {"uid": "u"}, "data": data});
    let cases = [
        (
            404,
            json!({"code": 404, "reason": "NotFound"}),
            "Secret shop/aws does not exist",
        ),
        (
            403,
            json!({"code": 403, "message": CANARY}),
            "Kubernetes forbids reading Secret shop/aws",
        ),
        (
            500,
            json!({"message": CANARY}),
            "Kubernetes did not answer when asked for Secret shop/aws",
        ),
        (
            200,
            secret(json!({"other": "aHVudGVy"})),
            "key id of Secret shop/aws does not exist",
        ),
        (
            200,
            secret(json!({"id": "/w=="})),
            "failed to get Secret shop/aws: the named key of it is not UTF-8",
        ),
    ];
    for (code, body, expected) in cases {
        let (cluster, mut server) = cluster();
        let tokens = Tokens::new(cluster, Vec::new());
        let answer = async { server.next().await.answer(code, &body) };
        let (read, ()) = tokio::join!(tokens.secret_key("shop", "aws", "id"), answer);
        assert_eq!(read.unwrap_err().to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn whether_keys_have_changed_is_told_without_reading_them() {
    let metadata = json!({"name": "aws", "uid": "u", "resourceVersion": "7"});
    for (code, body, expected) in [
        (
            200,
            json!({"kind": "PartialObjectMetadata", "metadata": metadata}),
            Ok("u/7".into()),
        ),
        (
            404,
            json!({}),
            Err(KubeTokenError::NotFound("Secret shop/aws".into())),
        ),
        (
            403,
            json!({}),
            Err(KubeTokenError::Forbidden("reading Secret shop/aws".into())),
        ),
    ] {
        let (cluster, mut server) = cluster();
        let tokens = Tokens::new(cluster, Vec::new());
        let answer = async {
            let asked = server.expect("GET", "/api/v1/namespaces/shop/secrets/aws").await;
            assert!(
                asked.accept.contains("as=PartialObjectMetadata"),
                "{}",
                asked.accept
            );
            asked.answer(code, &body);
        };
        let (version, ()) = tokio::join!(tokens.secret_version("shop", "aws"), answer);
        assert_eq!(version, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_is_dropped_and_the_next_one_goes_out() {
    let (cluster, mut server) = cluster();
    let metrics = cluster.metrics.clone();
    let (events, worker) = Events::new(&cluster, Leadership::alone(), "replica-0");
    let about = ObjectReference {
        kind: Some("ExternalSecret".to_owned()),
        namespace: Some("shop".to_owned()),
        name: Some("db".to_owned()),
        ..ObjectReference::default()
    };
    for reason in [EventReason::SyncFailed, EventReason::Recovered] {
        events.emit(EventDraft::new(
            about.clone(),
            reason,
            "Sync",
            &"\u{e9}".repeat(600),
        ));
    }
    drop(events);
    let worker = tokio::spawn(worker.run());
    let target = "/apis/events.k8s.io/v1/namespaces/shop/events?";
    let late = server.expect("POST", target).await;
    let next = server.expect("POST", target).await;
    assert_eq!(next.body["reason"], "Recovered");
    assert_eq!(next.body["note"].as_str().unwrap().len(), 1024);
    let body = next.body.clone();
    next.answer(201, &body);
    worker.await.unwrap();
    assert_eq!(metrics.events_dropped.get(), 1);
    drop(late);
}

#[tokio::test(start_paused = true)]
async fn each_text_is_an_event_and_one_that_comes_again_is_counted() {
    let (cluster, mut server) = cluster();
    let (events, worker) = Events::new(&cluster, Leadership::alone(), "replica-0");
    let object = |kind: &str, name: &str| ObjectReference {
        kind: Some(kind.to_owned()),
        namespace: Some("shop".to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    };
    for workload in ["web", "api", "web"] {
        events.emit(EventDraft {
            regarding: object("ExternalSecret", &"n".repeat(253)),
            related: Some(object("Deployment", workload)),
            reason: EventReason::RestartFailed,
            action: "Restart",
            note: &format!("{workload} crashes"),
        });
    }
    drop(events);
    let worker = tokio::spawn(worker.run());
    let target = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let mut names = Vec::new();
    for workload in ["web", "api"] {
        let created = server.expect("POST", &format!("{target}?")).await;
        let body = created.body.clone();
        assert_eq!(body["note"], format!("{workload} crashes"));
        assert_eq!(body["related"]["name"], workload);
        assert_eq!(body["reportingInstance"], "replica-0");
        names.push(body["metadata"]["name"].as_str().unwrap().to_owned());
        created.answer(201, &body);
    }
    assert_ne!(names[0], names[1]);
    assert!(names.iter().all(|name| name.len() <= 253), "{names:?}");
    let counted = server.expect("PATCH", &format!("{target}/{}?", names[0])).await;
    assert_eq!(counted.body["series"]["count"], 2);
    assert_eq!(counted.body.as_object().unwrap().len(), 1, "{}", counted.body);
    counted.answer(200, &json!({"metadata": {"name": names[0]}}));
    worker.await.unwrap();
    assert_eq!(cluster.metrics.events_dropped.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_come_at_a_rate_and_an_object_has_no_more_than_its_share() {
    let (cluster, mut server) = cluster();
    let metrics = cluster.metrics.clone();
    let (events, worker) = Events::new(&cluster, Leadership::alone(), "replica-0");
    let about = ObjectReference {
        namespace: Some("shop".to_owned()),
        name: Some("db".to_owned()),
        ..ObjectReference::default()
    };
    let started = tokio::time::Instant::now();
    let worker = tokio::spawn(worker.run());
    for number in 0..100 {
        let note = number.to_string();
        events.emit(EventDraft::new(
            about.clone(),
            EventReason::Updated,
            "Sync",
            &note,
        ));
        if number % 20 != 19 {
            continue;
        }
        for number in number - 19..=number.min(63) {
            let sent = server.next().await;
            let body = sent.body.clone();
            assert_eq!(body["note"], number.to_string());
            sent.answer(201, &body);
        }
    }
    drop(events);
    worker.await.unwrap();
    assert_eq!(metrics.events_dropped.get(), 100 - 64);
    assert!(started.elapsed() >= std::time::Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn surplus_events_are_dropped_without_waiting_and_no_namespace_fills_the_queue() {
    let (cluster, _server) = cluster();
    let (events, _worker) = Events::new(&cluster, Leadership::alone(), "replica-0");
    let emit = |namespace: &str, count: usize| {
        let about = ObjectReference {
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        };
        for _ in 0..count {
            events.emit(EventDraft::new(about.clone(), EventReason::Updated, "Sync", ""));
        }
        cluster.metrics.events_dropped.get()
    };
    assert_eq!(emit("loud", 300), 300 - 32);
    for other in 0..7 {
        assert_eq!(emit(&format!("other-{other}"), 32), 300 - 32);
    }
    assert_eq!(emit("late", 10), 300 - 32 + 10);
}

#[tokio::test(start_paused = true)]
async fn events_go_out_with_namespaces_in_turn_and_make_room_as_they_do() {
    let (cluster, mut server) = cluster();
    let (events, worker) = Events::new(&cluster, Leadership::alone(), "replica-0");
    let emit = |namespace: &str, count: usize| {
        let about = ObjectReference {
            namespace: Some(namespace.to_owned()),
            name: Some("db".to_owned()),
            ..ObjectReference::default()
        };
        for number in 0..count {
            events.emit(EventDraft::new(
                about.clone(),
                EventReason::Updated,
                "Sync",
                &format!("{namespace} {number}"),
            ));
        }
    };
    emit("loud", 32);
    emit("louder", 32);
    emit("shop", 2);
    let worker = tokio::spawn(worker.run());
    let mut sent = Vec::new();
    while sent.len() < 10 {
        let event = server.next().await;
        let body = event.body.clone();
        sent.push(body["note"].as_str().unwrap().to_owned());
        if sent.len() == 6 {
            emit("late", 1);
        }
        event.answer(201, &body);
    }
    let expected = [
        "loud 0", "louder 0", "shop 0", "loud 1", "louder 1", "shop 1", "loud 2", "louder 2", "late 0",
        "loud 3",
    ];
    assert_eq!(sent, expected);
    assert_eq!(cluster.metrics.events_dropped.get(), 0);
    emit("loud", 4);
    assert_eq!(cluster.metrics.events_dropped.get(), 0, "what is sent makes room");
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn what_somebody_may_want_to_be_called_for_is_handed_on_and_nothing_else() {
    let (cluster, _server) = cluster();
    let (events, _worker) = Events::new(&cluster, Leadership::alone(), "replica-0");
    let say = |kind: &str, reason, note: &str| {
        let about = ObjectReference {
            kind: Some(kind.to_owned()),
            namespace: Some("shop".to_owned()),
            name: Some("web".to_owned()),
            ..ObjectReference::default()
        };
        events.emit(EventDraft::new(about, reason, "Restart", note));
    };
    let on = |kind: &str, reason| say(kind, reason, "it crashes");
    let emit = |reason| on("ExternalSecret", reason);
    emit(EventReason::RestartFailed);
    let mut alerts = events.alerts();
    emit(EventReason::Updated);
    // The same is told on the workload, and nobody wants to be called twice.
    on("Deployment", EventReason::RestartHalted);
    emit(EventReason::RestartHalted);
    on("ClusterSecretStore", EventReason::SyncFailed);
    on("ClusterSecretStore", EventReason::DeletionHeld);
    let alert = alerts.recv().await.unwrap();
    assert_eq!(
        (alert.reason, &*alert.kind, &*alert.name, &*alert.note),
        ("RestartHalted", "ExternalSecret", "web", "it crashes")
    );
    drop(alert);
    let alert = alerts.recv().await.unwrap();
    assert_eq!(
        (alert.reason, &*alert.kind),
        ("DeletionHeld", "ClusterSecretStore")
    );
    drop(alert);
    // An alert may have a text of its own, or be left out.
    for alert in [None, Some("of its own")] {
        let about = ObjectReference {
            kind: Some("SecretStore".to_owned()),
            ..ObjectReference::default()
        };
        events.emit_apart(
            EventDraft::new(about, EventReason::DeletionHeld, "Delete", "note"),
            alert,
        );
    }
    let alert = alerts.recv().await.unwrap();
    assert_eq!((&*alert.kind, &*alert.note), ("SecretStore", "of its own"));
    drop(alert);
    for _ in 0..100 {
        emit(EventReason::RotationStuck);
    }
    assert_eq!(alerts.len(), 1, "what says the same again is left out");
    for number in 1..100 {
        say("ExternalSecret", EventReason::RotationStuck, &number.to_string());
    }
    assert_eq!(cluster.metrics.alerts_dropped.get(), 100 - 16);
    // What was dropped was not told.
    alerts.recv().await.unwrap();
    say("ExternalSecret", EventReason::RotationStuck, "99");
    assert_eq!(
        (alerts.len(), cluster.metrics.alerts_dropped.get()),
        (16, 100 - 16)
    );
    // Other namespaces have room.
    for number in 0..100 {
        let about = ObjectReference {
            kind: Some("ExternalSecret".to_owned()),
            namespace: Some(format!("other-{}", number % 5)),
            name: Some(format!("db-{number}")),
            ..ObjectReference::default()
        };
        events.emit(EventDraft::new(
            about,
            EventReason::RestartHalted,
            "Restart",
            "note",
        ));
    }
    assert_eq!(alerts.len(), 64);
    assert_eq!(
        std::iter::from_fn(|| alerts.try_recv().ok())
            .filter(|alert| alert.namespace == "other-4")
            .count(),
        9
    );
}

#[tokio::test(start_paused = true)]
async fn pods_are_listed_page_by_page_and_a_malformed_one_harms_no_other() {
    let (cluster, mut server) = cluster();
    let list = tokio::spawn(async move {
        cluster
            .find_all::<Pod, Pod, _>("shop", Some("app=web,tier notin (x)"), Some)
            .await
    });
    let first = server.next().await;
    let query = "limit=100&labelSelector=app%3Dweb%2Ctier+notin+%28x%29";
    assert!(
        first.target.starts_with("/api/v1/namespaces/shop/pods?"),
        "{}",
        first.target
    );
    for part in query.split('&') {
        assert!(first.target.contains(part), "{}", first.target);
    }
    let pod = |name: &str| json!({"metadata": {"name": name}});
    let malformed = json!({"metadata": "none", "spec": CANARY});
    first.answer(
        200,
        &json!({"metadata": {"continue": "more"}, "items": [pod("a"), malformed, pod("b")]}),
    );
    let second = server.next().await;
    assert!(second.target.contains("continue=more"), "{}", second.target);
    second.answer(200, &json!({"metadata": {}, "items": [pod("c")]}));
    let found = list.await.unwrap().unwrap();
    let names: Vec<_> = found
        .objects
        .iter()
        .map(|pod| pod.metadata.name.as_deref().unwrap())
        .collect();
    assert_eq!((names, found.malformed), (vec!["a", "b", "c"], 1));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_is_an_error_or_begins_again_and_never_shorter() {
    let (cluster, mut server) = cluster();
    let list = tokio::spawn(async move { cluster.find_all::<Pod, Pod, _>("shop", None, Some).await });
    let more = json!({"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]});
    for _ in 0..2 {
        server.next().await.answer(200, &more);
        let continued = server.next().await;
        assert!(continued.target.contains("continue=more"));
        continued.answer(410, &json!({"reason": "Expired"}));
    }
    server.next().await.answer(200, &more);
    server.next().await.answer(403, &json!({"reason": "Forbidden"}));
    assert_eq!(list.await.unwrap().unwrap_err().class, Class::Forbidden);
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_patched_in_the_state_observed_and_in_the_name_of_restarts() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let written = tokio::spawn(async move {
        let annotation = ["metadata", "annotations", "restart.keyturn.dev/x~y"];
        let mut patch = JsonPatch::default();
        patch.add(&annotation, "t.1");
        patch.test(&annotation, Value::Null);
        writer.patch::<Deployment>(&key(), "u1", tested(patch)).await
    });
    let target = "/apis/apps/v1/namespaces/shop/deployments/db?&fieldManager=keyturn-restart";
    let asked = server.expect("PATCH", target).await;
    let path = "/metadata/annotations/restart.keyturn.dev~1x~0y";
    assert_eq!(
        asked.body,
        json!([
            {"op": "test", "path": "/metadata/uid", "value": "u1"},
            {"op": "test", "path": path, "value": null},
            {"op": "add", "path": path, "value": "t.1"},
        ])
    );
    // As the API server answers where a test fails.
    let refusal = json!({"reason": "Invalid", "details": {},
        "message": "the server rejected our request due to an error in our request"});
    asked.answer(422, &refusal);
    assert_eq!(written.await.unwrap().unwrap_err().class, Class::Conflict);
    server.stays_silent(MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_makes_a_workload_invalid_is_no_conflict() {
    let (cluster, mut server) = cluster();
    let writer = Writer::new(cluster, Leadership::alone());
    let written = tokio::spawn(async move {
        let patch = tested(JsonPatch::default());
        writer.patch::<Deployment>(&key(), "u1", patch).await
    });
    let causes = json!([{"reason": "FieldValueInvalid", "field": "spec.template", "message": "no"}]);
    let asked = server.next().await;
    asked.answer(422, &json!({"reason": "Invalid", "details": {"causes": causes}}));
    let class = written.await.unwrap().unwrap_err().class;
    assert!(matches!(class, Class::Invalid { .. }), "{class:?}");
}

/// A patch in the name of restarts.
fn tested(body: JsonPatch) -> TestedPatch<'static> {
    TestedPatch {
        limit: TimeLimit::Fenced,
        manager: RESTART_MANAGER,
        body,
    }
}

#[tokio::test(start_paused = true)]
async fn an_eviction_names_the_pod_by_uid_and_a_budget_may_refuse_it() {
    let budget =
        json!({"reason": "TooManyRequests", "details": {"causes": [{"reason": "DisruptionBudget"}]}});
    for (code, body, expected) in [
        (201, json!({"kind": "Status", "status": "Success"}), None),
        (429, budget, Some(Class::Disruption)),
        (429, json!({}), Some(Class::Throttled { retry_after: None })),
        (409, json!({"reason": "Conflict"}), Some(Class::Conflict)),
    ] {
        let (cluster, mut server) = cluster();
        let writer = Writer::new(cluster, Leadership::alone());
        let evicted = tokio::spawn(async move { writer.evict(&key(), "u1").await });
        let target = "/api/v1/namespaces/shop/pods/db/eviction";
        let asked = server.expect("POST", target).await;
        assert_eq!(asked.body["deleteOptions"]["preconditions"], json!({"uid": "u1"}));
        assert_eq!(asked.body["metadata"]["name"], "db");
        asked.answer(code, &body);
        assert_eq!(evicted.await.unwrap().err().map(|err| err.class), expected);
        server.stays_silent(MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_servers_clock_is_read_off_its_answers() {
    let (cluster, mut server) = cluster();
    let time = cluster.time().clone();
    let read = tokio::spawn(async move { cluster.find::<ConfigMap>(&key()).await });
    let headers = [("date", "Tue, 01 Jan 2030 00:00:00 GMT")];
    server.next().await.answer_with(404, &headers, "");
    assert!(read.await.unwrap().unwrap().is_none());
    let expected: jiff::Timestamp = "2030-01-01T00:00:00.5Z".parse().unwrap();
    assert!(time.now().duration_since(expected).abs() < jiff::SignedDuration::from_secs(1));
}
