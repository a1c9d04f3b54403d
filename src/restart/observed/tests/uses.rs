use serde_json::{Value, json};

use crate::restart::observed::{
    model::Use,
    uses::{PodSpec, uses},
};

fn of(spec: Value) -> Vec<Use> {
    uses(&serde_json::from_value::<PodSpec>(spec).unwrap())
}

fn used(secret: &str, fixed: &[&str], init: bool, mounted: bool) -> Use {
    Use {
        secret: secret.into(),
        fixed: fixed.iter().map(|name| (*name).into()).collect(),
        init,
        mounted,
    }
}

#[test]
fn every_way_to_hold_a_secret_is_found() {
    let volumes = json!([
        {"name": "plain", "secret": {"secretName": "s"}},
        {"name": "mixed", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s"}}, {"secret": {"name": "other"}},
        ]}},
    ]);
    let mount =
        |mount: Value| json!({"volumes": volumes, "containers": [{"name": "a", "volumeMounts": [mount]}]});
    let table = [
        (
            json!({"containers": [{"name": "a", "env": [
                {"name": "X", "value": "s"}, {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            ]}]}),
            vec![used("s", &["a"], false, false)],
        ),
        (
            json!({"containers": [{"name": "a", "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}]}]}),
            vec![used("s", &["a"], false, false)],
        ),
        (
            mount(json!({"name": "plain", "mountPath": "/s"})),
            vec![used("s", &[], false, true)],
        ),
        (
            mount(json!({"name": "plain", "mountPath": "/s", "subPath": "p"})),
            vec![used("s", &["a"], false, false)],
        ),
        (
            mount(json!({"name": "plain", "mountPath": "/s", "subPathExpr": "$(P)"})),
            vec![used("s", &["a"], false, false)],
        ),
        (
            mount(json!({"name": "plain", "mountPath": "/s", "subPath": ""})),
            vec![used("s", &[], false, true)],
        ),
        (
            mount(json!({"name": "mixed", "mountPath": "/s"})),
            vec![used("other", &[], false, true), used("s", &[], false, true)],
        ),
        (
            json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            vec![used("s", &["i"], true, false)],
        ),
        (
            json!({"volumes": volumes, "initContainers": [{"name": "i", "volumeMounts": [{"name": "plain"}]}]}),
            vec![used("s", &[], true, true)],
        ),
        (
            json!({"initContainers": [{"name": "side", "restartPolicy": "Always", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            vec![used("s", &["side"], false, false)],
        ),
        (
            json!({"containers": [
                {"name": "b", "envFrom": [{"secretRef": {"name": "s"}}]},
                {"name": "a", "envFrom": [{"secretRef": {"name": "s"}}, {"secretRef": {"name": "s"}}]},
            ]}),
            vec![used("s", &["a", "b"], false, false)],
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(of(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn what_no_container_holds_does_not_count() {
    for spec in [
        json!({}),
        json!({"imagePullSecrets": [{"name": "s"}], "containers": [{"name": "a"}]}),
        json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}], "containers": [{"name": "a"}]}),
        json!({"ephemeralContainers": [{"name": "debug", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
        json!({"containers": [{"name": "a", "volumeMounts": [{"name": "no-such-volume"}]}]}),
    ] {
        assert_eq!(of(spec.clone()), [], "{spec}");
    }
}

#[test]
fn null_and_unknown_fields_hide_nothing() {
    let spec = json!({
        "futureField": {"x": [1]}, "volumes": null, "initContainers": null,
        "containers": [
            {"name": "n", "env": null, "envFrom": null, "volumeMounts": null, "restartPolicy": null, "resizePolicy": []},
            {"name": "a", "env": [{"name": "X", "valueFrom": null},
                {"name": "F", "valueFrom": {"fileKeyRef": {"path": "p"}}}], "envFrom": [{"secretRef": {"name": "s"}}, {"secretRef": null}]},
        ],
    });
    assert_eq!(of(spec), [used("s", &["a"], false, false)]);
}
