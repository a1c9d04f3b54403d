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
        keys: Vec::new(),
    }
}

fn with_keys(found: Use, keys: &[&str]) -> Use {
    Use {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        ..found
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
            vec![with_keys(used("s", &["a"], false, false), &["p"])],
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
            vec![with_keys(used("s", &["a"], false, false), &["p"])],
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

#[test]
fn the_keys_that_are_used_are_known_or_count_as_all() {
    let variable = |key: &str| json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": key}}});
    let env = |env: Value| json!({"containers": [{"name": "a", "env": env}]});
    let mount = |secret: Value, mount: Value| json!({"volumes": [{"name": "v", "secret": secret}], "containers": [{"name": "a", "volumeMounts": [mount]}]});
    let items =
        || json!({"secretName": "s", "items": [{"key": "k1", "path": "d/f1"}, {"key": "k2", "path": "f2"}]});
    let many: Vec<Value> = (0..65).map(|number| variable(&number.to_string())).collect();
    let table: [(Value, &[&str]); 15] = [
        (
            env(json!([variable("b"), variable("a"), variable("b")])),
            &["a", "b"],
        ),
        (env(json!(many)), &[]),
        (
            env(json!([variable("a"), {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s"}}}])),
            &[],
        ),
        (mount(items(), json!({"name": "v"})), &["k1", "k2"]),
        (mount(items(), json!({"name": "v", "subPath": "f2"})), &["k2"]),
        (mount(items(), json!({"name": "v", "subPath": "d"})), &["k1"]),
        (mount(items(), json!({"name": "v", "subPath": "d/f1"})), &["k1"]),
        (
            mount(items(), json!({"name": "v", "subPath": "./f2"})),
            &["k1", "k2"],
        ),
        (
            mount(items(), json!({"name": "v", "subPathExpr": "$(X)"})),
            &["k1", "k2"],
        ),
        (
            mount(json!({"secretName": "s"}), json!({"name": "v", "subPath": "k"})),
            &["k"],
        ),
        (
            mount(
                json!({"secretName": "s"}),
                json!({"name": "v", "subPath": "..data/k"}),
            ),
            &[],
        ),
        (
            mount(
                json!({"secretName": "s"}),
                json!({"name": "v", "subPathExpr": "$(X)"}),
            ),
            &[],
        ),
        (
            mount(json!({"secretName": "s", "items": []}), json!({"name": "v"})),
            &[],
        ),
        (
            mount(
                json!({"secretName": "s", "items": [{"path": "f"}]}),
                json!({"name": "v"}),
            ),
            &[],
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [
                {"secret": {"name": "s", "items": [{"key": "k", "path": "f"}]}}]}}],
                "initContainers": [{"name": "i", "env": [variable("a")]}],
                "containers": [{"name": "a", "volumeMounts": [{"name": "v"}]}]}),
            &["a", "k"],
        ),
    ];
    for (spec, keys) in table {
        let found = of(spec.clone());
        let expected: Vec<Box<str>> = keys.iter().map(|key| (*key).into()).collect();
        assert_eq!(found.first().map(|found| &found.keys), Some(&expected), "{spec}");
    }
    // One way to use all keys is enough.
    let both = json!({"containers": [
        {"name": "a", "env": [variable("a")]}, {"name": "b", "envFrom": [{"secretRef": {"name": "s"}}]},
    ]});
    assert_eq!(of(both), [used("s", &["a", "b"], false, false)]);
}
