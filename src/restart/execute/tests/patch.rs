use serde_json::{Value, json};

use crate::{
    api::{RestartStrategy, names::restart_annotation},
    cluster::JsonPatch,
    restart::{
        execute::patch::patch,
        judge::{model::Stamp, rollout::restart_at},
        observed::model::{PatchBase, Record, TemplateAnnotations},
        tests::{at, base, workload},
    },
};

fn asked(hash: &str, token: &str, changed: i64) -> Stamp {
    Stamp {
        hash: hash.into(),
        record: Record {
            token: token.into(),
            attempt: 1,
            was_healthy: false,
        },
        changed_at: at(changed),
    }
}

/// The places and values of all tests, or of all additions.
fn all(body: &JsonPatch, kind: &str) -> Vec<(String, Value)> {
    let operations = body.clone().operations("uid-api");
    let of_kind = |operation: &&Value| operation["op"] == kind;
    let operations = operations.as_array().unwrap().iter().filter(of_kind);
    operations
        .map(|operation| {
            let place = operation["path"].as_str().unwrap().to_owned();
            (place, operation["value"].clone())
        })
        .collect()
}

/// The value that the patch adds at this place.
fn added(body: &JsonPatch, path: &str) -> Option<Value> {
    let mut additions = all(body, "add").into_iter();
    additions.find(|(place, _)| place == path).map(|(_, value)| value)
}

#[test]
fn a_patch_names_our_annotations_and_what_it_depends_on_and_nothing_else() {
    let both = [asked("aa", "t", 0), asked("bb", "u", 5)];
    let workload = workload("api");
    let mut base = base(&workload);
    let annotations = [
        ("keyturn.dev/hot-reload", "false"),
        ("restart.keyturn.dev/aa", "s.1.healthy"),
    ];
    base.annotations = Some(
        annotations
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    );
    let body = patch(RestartStrategy::Template, &workload, &base, &both).unwrap();
    assert_eq!(
        all(&body, "test"),
        [
            ("/metadata/uid", json!("uid-api")),
            ("/metadata/generation", json!(1)),
            ("/metadata/annotations/keyturn.dev~1hot-reload", json!("false")),
            ("/metadata/annotations/keyturn.dev~1restart", Value::Null),
            ("/metadata/annotations/keyturn.dev~1restart-strategy", Value::Null),
            (
                "/metadata/annotations/keyturn.dev~1suspend-restarts-until",
                Value::Null
            ),
            ("/metadata/annotations/reloader.stakater.com~1auto", Value::Null),
            ("/metadata/annotations/reloader.stakater.com~1ignore", Value::Null),
            ("/metadata/annotations/reloader.stakater.com~1search", Value::Null),
            (
                "/metadata/annotations/restart.keyturn.dev~1aa",
                json!("s.1.healthy")
            ),
            (
                "/metadata/annotations/restart.keyturn.dev~1aa.failed",
                Value::Null
            ),
            ("/metadata/annotations/restart.keyturn.dev~1bb", Value::Null),
            (
                "/metadata/annotations/restart.keyturn.dev~1bb.failed",
                Value::Null
            ),
            (
                "/metadata/annotations/secret.reloader.stakater.com~1auto",
                Value::Null
            ),
            (
                "/metadata/annotations/secret.reloader.stakater.com~1exclude",
                Value::Null
            ),
            (
                "/metadata/annotations/secret.reloader.stakater.com~1reload",
                Value::Null
            ),
            (
                "/metadata/annotations/secrets.exclude.reloader.stakater.com~1reload",
                Value::Null
            ),
        ]
        .map(|(path, value)| (path.to_owned(), value))
    );
    assert_eq!(
        all(&body, "add"),
        [
            (
                "/metadata/annotations/restart.keyturn.dev~1aa",
                json!("t.1.unhealthy")
            ),
            (
                "/metadata/annotations/restart.keyturn.dev~1bb",
                json!("u.1.unhealthy")
            ),
            ("/spec/template/metadata/annotations", json!({})),
            (
                "/spec/template/metadata/annotations/restart.keyturn.dev~1aa",
                json!("t")
            ),
            (
                "/spec/template/metadata/annotations/restart.keyturn.dev~1bb",
                json!("u")
            ),
        ]
        .map(|(path, value)| (path.to_owned(), value))
    );
    let rollout = patch(RestartStrategy::RestartAt, &workload, &base, &both).unwrap();
    assert_eq!(
        added(&rollout, "/spec/restartAt"),
        Some(json!(at(16).to_string()))
    );
    assert_eq!(added(&rollout, "/spec/template/metadata/annotations"), None);
    assert_eq!(patch(RestartStrategy::Evict, &workload, &base, &both), None);
}

#[test]
fn a_parent_is_made_only_where_there_is_none() {
    let workload = workload("api");
    let template = "/spec/template/metadata/annotations";
    for (found, parent) in [
        (TemplateAnnotations::NoMetadata, "/spec/template/metadata"),
        (TemplateAnnotations::None, template),
        (TemplateAnnotations::Some, "none"),
    ] {
        let base = PatchBase {
            annotations: None,
            template: found,
            ..base(&workload)
        };
        let body = patch(
            RestartStrategy::Template,
            &workload,
            &base,
            &[asked("aa", "t", 0)],
        )
        .unwrap();
        assert_eq!(added(&body, "/metadata/annotations"), Some(json!({})));
        for place in ["/spec/template/metadata", template] {
            assert_eq!(
                added(&body, place).is_some(),
                place == parent,
                "{found:?} {place}"
            );
        }
        let token = format!("{template}/restart.keyturn.dev~1aa");
        assert_eq!(added(&body, &token), Some(json!("t")));
        // What appears meanwhile is not overwritten.
        let operations = body.operations("uid-api").to_string();
        assert!(operations.contains(r#"{"op":"test","path":"/metadata/annotations","value":null}"#));
    }
}

#[test]
fn a_rollout_is_asked_for_the_same_time_in_every_retry_and_in_whole_seconds() {
    let changed = "2027-01-15T08:00:00.987Z".parse().unwrap();
    assert_eq!(restart_at(changed).to_string(), "2027-01-15T08:00:11Z");
}

#[test]
fn a_rollout_is_never_asked_for_an_earlier_time_than_before() {
    let mut rollout = workload("api");
    for (before, expected) in [(None, 11), (Some(5), 11), (Some(500), 500)] {
        rollout.controller.restart_at = before.map(at);
        let body = patch(
            RestartStrategy::RestartAt,
            &rollout,
            &base(&rollout),
            &[asked("aa", "t", 0)],
        )
        .unwrap();
        assert_eq!(
            added(&body, "/spec/restartAt"),
            Some(json!(at(expected).to_string()))
        );
    }
}

#[test]
fn annotation_keys_are_valid_for_the_longest_names() {
    let key = restart_annotation(&"s".repeat(253));
    let (_, name) = key.split_once('/').unwrap();
    assert!(
        name.len() <= 63 && name.chars().all(|letter| letter.is_ascii_hexdigit()),
        "{key}"
    );
}
