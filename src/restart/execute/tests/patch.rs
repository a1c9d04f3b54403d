use serde_json::json;

use crate::{
    api::{RestartStrategy, names::restart_annotation},
    restart::{
        execute::patch::patch,
        judge::{model::Stamp, rollout::restart_at},
        observed::model::Record,
        tests::{at, workload},
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

#[test]
fn a_patch_names_our_annotations_and_what_it_depends_on_and_nothing_else() {
    let both = [asked("aa", "t", 0), asked("bb", "u", 5)];
    let workload = workload("api");
    assert_eq!(
        patch(RestartStrategy::Template, &workload, "7", &both),
        Some(json!({
            "metadata": {"uid": "uid-api", "resourceVersion": "7", "annotations": {
                "restart.keyturn.dev/aa": "t.1.unhealthy", "restart.keyturn.dev/bb": "u.1.unhealthy",
            }},
            "spec": {"template": {"metadata": {"annotations": {
                "restart.keyturn.dev/aa": "t", "restart.keyturn.dev/bb": "u",
            }}}},
        }))
    );
    let rollout = patch(RestartStrategy::RestartAt, &workload, "7", &both).unwrap();
    assert_eq!(rollout["spec"], json!({"restartAt": at(16).to_string()}));
    assert_eq!(
        rollout["metadata"]["annotations"]["restart.keyturn.dev/bb"],
        "u.1.unhealthy"
    );
    assert_eq!(patch(RestartStrategy::Evict, &workload, "7", &both), None);
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
        let body = patch(RestartStrategy::RestartAt, &rollout, "7", &[asked("aa", "t", 0)]).unwrap();
        assert_eq!(body["spec"]["restartAt"], at(expected).to_string());
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
