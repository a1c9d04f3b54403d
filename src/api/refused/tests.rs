use kube::core::cel::Validator;
use serde_json::{Value, json};

use crate::api::{
    ClusterSecretStore, ExternalSecret, SecretStore,
    crds::crds,
    validate::{Invalid, StoreScope},
};

/// What the API server's rules say to `object`.
fn refusals(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().unwrap();
    let crd = crds()
        .into_iter()
        .find(|crd| crd.spec.names.kind == kind)
        .unwrap();
    let schema = crd.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref()
        .unwrap();
    let verdict = Validator::new().validate(&serde_json::to_value(schema).unwrap(), object, None);
    verdict.err().map_or_else(Vec::new, |errors| {
        errors.into_vec().into_iter().map(|error| error.message).collect()
    })
}

fn external_secret() -> Value {
    json!({
        "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "secretStoreRef": {"name": "aws"},
            "target": {"name": "db"},
            "data": [{"secretKey": "password", "remoteRef": {"key": "prod/db"}}],
            "dataFrom": [{"extract": {"key": "prod/db"}}],
        },
    })
}

fn store(kind: &str) -> Value {
    json!({
        "apiVersion": "keyturn.dev/v1", "kind": kind, "metadata": {"name": "aws", "namespace": "shop"},
        "spec": {
            "provider": {"aws": {"service": "SecretsManager", "auth": {"jwt": {"serviceAccountRef": {"name": "reader"}}}}},
        },
    })
}

fn with(mut object: Value, at: &str, value: Value) -> Value {
    let (parent, field) = at.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = value;
    object
}

fn without(mut object: Value, at: &str) -> Value {
    let (parent, field) = at.rsplit_once('/').unwrap();
    object
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove(field)
        .unwrap();
    object
}

/// Exactly one refusal, which begins with `start` and goes on to say what to do.
fn assert_refused(object: &Value, start: &str) {
    let refusals = refusals(object);
    let [message] = refusals.as_slice() else {
        panic!("{start}: {refusals:?}")
    };
    assert!(message.starts_with(start), "{start}: {message}");
    assert!(
        message.len() > start.len() + 20,
        "{message} does not say what to do"
    );
}

#[test]
fn fields_that_this_version_lacks_are_refused_with_a_sentence() {
    let object = json!({"any": {"thing": 1}});
    for (at, value) in [
        ("/spec/syncWindows", object.clone()),
        ("/spec/target/template", object.clone()),
        (
            "/spec/target/manifest",
            json!({"apiVersion": "v1", "kind": "ConfigMap"}),
        ),
        ("/spec/data/0/sourceRef", json!({"storeRef": {"name": "other"}})),
        ("/spec/dataFrom/0/find", json!({"name": {"regexp": ".*"}})),
        (
            "/spec/dataFrom/0/rewrite",
            json!([{"regexp": {"source": "a", "target": "b"}}]),
        ),
        (
            "/spec/dataFrom/0/sourceRef",
            json!({"generatorRef": {"kind": "Password", "name": "p"}}),
        ),
    ] {
        let field = at.rsplit('/').next().unwrap();
        assert_refused(
            &with(external_secret(), at, value),
            &format!("{field} is not supported: "),
        );
    }
    for (at, value) in [
        ("/spec/controller", json!("dev")),
        ("/spec/retrySettings", json!({"maxRetries": 5})),
        ("/spec/refreshInterval", json!(60)),
        ("/spec/refreshInterval", json!("1m")),
        (
            "/spec/provider/aws/additionalRoles",
            json!(["arn:aws:iam::111122223333:role/x"]),
        ),
        (
            "/spec/provider/aws/sessionTags",
            json!([{"key": "a", "value": "b"}]),
        ),
        ("/spec/provider/aws/transitiveTagKeys", json!(["a"])),
        (
            "/spec/provider/aws/customSessionTags",
            json!([{"key": "a", "value": "b"}]),
        ),
        (
            "/spec/provider/aws/secretsManager",
            json!({"forceDeleteWithoutRecovery": true}),
        ),
        (
            "/spec/provider/aws/events",
            json!({"queueUrl": "https://sqs.eu-central-1.amazonaws.com/1/q"}),
        ),
    ] {
        let field = at.rsplit('/').next().unwrap();
        for kind in ["SecretStore", "ClusterSecretStore"] {
            assert_refused(
                &with(store(kind), at, value.clone()),
                &format!("{field} is not supported: "),
            );
        }
    }
}

#[test]
fn values_that_this_version_lacks_are_refused_with_a_sentence() {
    for at in ["/spec/data/0/remoteRef", "/spec/dataFrom/0/extract"] {
        for (field, value, only) in [
            ("metadataPolicy", "Fetch", "None"),
            ("decodingStrategy", "Base64", "None"),
            ("decodingStrategy", "Auto", "None"),
            ("conversionStrategy", "Unicode", "Default"),
            ("nullBytePolicy", "Fail", "Ignore"),
        ] {
            let path = format!("{at}/{field}");
            assert_refused(
                &with(external_secret(), &path, json!(value)),
                &format!("{field} can only be {only}: "),
            );
            assert_eq!(
                refusals(&with(external_secret(), &path, json!(only))),
                Vec::<String>::new(),
                "{path}"
            );
        }
    }
    for policy in ["Merge", "CreateOrMerge"] {
        let object = with(external_secret(), "/spec/target/creationPolicy", json!(policy));
        assert_refused(&object, "this version writes whole Secrets only");
    }
    let unknown = with(external_secret(), "/spec/target/creationPolicy", json!("owner"));
    assert_refused(&unknown, "creationPolicy must be ");
    for service in ["ParameterStore", "CertificateManager"] {
        let object = with(store("SecretStore"), "/spec/provider/aws/service", json!(service));
        assert_refused(&object, "service must be SecretsManager: ");
    }
    let simple = with(
        store("SecretStore"),
        "/spec/provider/aws/sessionTagsPolicy",
        json!("Simple"),
    );
    assert_refused(&simple, "sessionTagsPolicy can only be None: ");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn contradictions_are_refused_with_a_sentence() {
    let target = |target: Value| with(external_secret(), "/spec/target", target);
    let spec = |spec: Value| with(external_secret(), "/spec", spec);
    for (object, start) in [
        (
            spec(json!({"secretStoreRef": {"name": "aws"}})),
            "data and dataFrom are both empty: ",
        ),
        (
            spec(json!({"data": [], "dataFrom": []})),
            "data and dataFrom are both empty: ",
        ),
        (
            with(external_secret(), "/spec/dataFrom", json!([{}])),
            "an entry of dataFrom needs extract: ",
        ),
        (
            with(external_secret(), "/spec/data/0/secretKey", json!(".")),
            "secretKey must not be . ",
        ),
        (
            with(external_secret(), "/spec/data/0/secretKey", json!("..data")),
            "secretKey must not be . ",
        ),
        (
            target(json!({"creationPolicy": "Orphan", "deletionPolicy": "Delete"})),
            "deletionPolicy Delete needs ",
        ),
        (
            target(json!({"creationPolicy": "None", "deletionPolicy": "Delete"})),
            "deletionPolicy Delete needs ",
        ),
        (
            target(json!({"creationPolicy": "None", "deletionPolicy": "Merge"})),
            "deletionPolicy Merge needs ",
        ),
        (
            target(json!({"creationPolicy": "None", "immutable": true})),
            "immutable and adoptExisting need ",
        ),
        (
            target(json!({"creationPolicy": "None", "adoptExisting": true})),
            "immutable and adoptExisting need ",
        ),
        (
            with(store("SecretStore"), "/spec/provider/aws/auth", json!({})),
            "auth needs either jwt or secretRef: ",
        ),
        (
            with(
                store("SecretStore"),
                "/spec/conditions",
                json!([{"namespaces": ["a"]}]),
            ),
            "conditions are for ",
        ),
        (
            with(store("ClusterSecretStore"), "/spec/conditions", json!([{}])),
            "a condition needs ",
        ),
    ] {
        assert_refused(&object, start);
    }
    let restart = |restart: Value| with(external_secret(), "/spec/restart", restart);
    let restart_target = |target: Value| restart(json!({"targets": [target]}));
    for (object, start) in [
        (
            restart(json!({"discovery": "Explicit"})),
            "discovery Explicit needs targets",
        ),
        (
            restart(json!({"discovery": "Explicit", "targets": []})),
            "discovery Explicit needs targets",
        ),
        (
            restart_target(json!({"kind": "Deployment"})),
            "a target needs either name or selector: ",
        ),
        (
            restart_target(
                json!({"kind": "Deployment", "name": "a", "selector": {"matchLabels": {"a": "b"}}}),
            ),
            "a target needs either name or selector: ",
        ),
        (
            restart_target(json!({"kind": "StatefulSet", "name": "a", "strategy": "RestartAt"})),
            "strategy RestartAt is for a Rollout ",
        ),
        (
            with(restart(json!({})), "/spec/target/creationPolicy", json!("None")),
            "restart needs a Secret, ",
        ),
        (
            with(
                restart(json!({"mode": "Manual"})),
                "/spec/target/creationPolicy",
                json!("None"),
            ),
            "restart needs a Secret, ",
        ),
    ] {
        assert_refused(&object, start);
    }
    let key = json!({"name": "keys", "key": "id"});
    let keys = json!({"accessKeyIDSecretRef": key, "secretAccessKeySecretRef": key});
    let both = with(store("SecretStore"), "/spec/provider/aws/auth/secretRef", keys);
    assert_refused(&both, "auth needs either jwt or secretRef: ");
}

#[test]
fn what_this_version_has_is_accepted() {
    for target in [
        json!({}),
        json!({"creationPolicy": "Owner", "deletionPolicy": "Delete"}),
        json!({"creationPolicy": "Orphan", "deletionPolicy": "Merge", "immutable": true, "adoptExisting": true}),
        json!({"creationPolicy": "None", "deletionPolicy": "Retain", "immutable": false}),
    ] {
        assert_eq!(
            refusals(&with(external_secret(), "/spec/target", target)),
            Vec::<String>::new()
        );
    }
    assert_eq!(
        refusals(&without(external_secret(), "/spec/data")),
        Vec::<String>::new()
    );
    assert_eq!(
        refusals(&without(external_secret(), "/spec/dataFrom")),
        Vec::<String>::new()
    );
    for (restart, target) in [
        (json!({}), json!({})),
        (json!({"mode": "Disabled"}), json!({"creationPolicy": "None"})),
        (
            json!({"discovery": "Explicit", "targets": [
                {"kind": "Rollout", "name": "a", "strategy": "RestartAt"},
                {"kind": "DaemonSet", "selector": {"matchLabels": {"a": "b"}}, "wave": -1, "strategy": "Evict"},
            ]}),
            json!({"creationPolicy": "Orphan"}),
        ),
    ] {
        let object = with(external_secret(), "/spec/restart", restart);
        assert_eq!(
            refusals(&with(object, "/spec/target", target)),
            Vec::<String>::new()
        );
    }
    for kind in ["SecretStore", "ClusterSecretStore"] {
        assert_eq!(refusals(&store(kind)), Vec::<String>::new());
        assert_eq!(
            refusals(&without(store(kind), "/spec/provider/aws/auth")),
            Vec::<String>::new()
        );
    }
}

/// The first thing that is wrong anywhere in the spec.
fn every(object: &ExternalSecret) -> Result<(), Invalid> {
    let spec = &object.spec;
    spec.validate()?;
    spec.validate_rotation()?;
    spec.validate_restart()
}

#[test]
fn manifests_of_external_secrets_operator_work_with_another_api_version() {
    let manifests: Vec<Value> = serde_saphyr::from_multiple(include_str!("eso.yaml")).unwrap();
    assert_eq!(manifests.len(), 5);
    for manifest in manifests {
        assert_eq!(
            refusals(&manifest),
            Vec::<String>::new(),
            "{}",
            manifest["metadata"]["name"]
        );
        let valid = match manifest["kind"].as_str().unwrap() {
            "ExternalSecret" => {
                let read: ExternalSecret = serde_json::from_value(manifest.clone()).unwrap();
                every(&read)
            }
            "SecretStore" => {
                let read: SecretStore = serde_json::from_value(manifest.clone()).unwrap();
                read.spec.validate(StoreScope::Namespace {
                    namespace: "shop",
                    operator_identity: false,
                })
            }
            _ => {
                let read: ClusterSecretStore = serde_json::from_value(manifest.clone()).unwrap();
                read.spec.validate(StoreScope::Cluster)
            }
        };
        assert_eq!(valid, Ok::<(), Invalid>(()));
    }
}

#[test]
fn every_field_of_restarts_is_accepted() {
    let manifests: Vec<Value> = serde_saphyr::from_multiple(include_str!("restarts.yaml")).unwrap();
    assert_eq!(manifests.len(), 3);
    for manifest in manifests {
        assert_eq!(refusals(&manifest), Vec::<String>::new());
        let read: ExternalSecret = serde_json::from_value(manifest.clone()).unwrap();
        assert_eq!(every(&read), Ok::<(), Invalid>(()));
        // Nothing is declared under another name than it is read by.
        assert_eq!(serde_json::to_value(&read.spec).unwrap(), manifest["spec"]);
    }
}

#[test]
fn windows_that_can_never_be_read_are_refused_with_a_sentence() {
    let windows = |window: Value| {
        let good = json!({"cron": "0 2 * * *", "duration": "2h"});
        with(
            external_secret(),
            "/spec/restart",
            json!({"windows": [good, window]}),
        )
    };
    let cron = |cron: &str| windows(json!({"cron": cron, "duration": "2h"}));
    for (object, start) in [
        (cron("60 2 * * *"), "the minute of cron (field 1) must be "),
        (cron("0 24 * * *"), "the hour of cron (field 2) must be "),
        (cron("0 2 0 * *"), "the day of month of cron (field 3) must be "),
        (cron("0 2 * 13 *"), "the month of cron (field 4) must be "),
        (cron("0 2 * * 8"), "the day of week of cron (field 5) must be "),
        (cron("0 2 * * MO"), "the day of week of cron (field 5) must be "),
        (cron("0 2 * * * *"), "cron needs five fields: "),
        (cron("@midnight"), "cron needs five fields: "),
        (cron("0 22-6 * * *"), "ranges in cron must ascend: "),
        (cron("0 2 * * FRI-MON"), "ranges in cron must ascend: "),
        (
            windows(json!({"cron": "0 2 * * *", "duration": "59s"})),
            "duration of a window must be ",
        ),
        (
            windows(json!({"cron": "0 2 * * *", "duration": "169h"})),
            "duration of a window must be ",
        ),
        (
            windows(json!({"cron": "0 2 * * *", "duration": "2h", "timeZone": "Europe / Vienna"})),
            "timeZone must be ",
        ),
    ] {
        assert_refused(&object, start);
    }
    for (cron, duration, zone) in [
        ("0 2 * * *", "2h", "Europe/Vienna"),
        (" 0\t2  * * * ", "1m", "UTC"),
        (
            "*/15 9-17/2,20 1,15W,L jan-MAR,12 Mon-Fri,5L,2#1",
            "168h",
            "Etc/GMT+12",
        ),
        ("00 02 01 01 7", "1h30m", "america/argentina/buenos_aires"),
        ("5/10 * * * *", "0.5h", "EST5EDT"),
    ] {
        let object = windows(json!({"cron": cron, "duration": duration, "timeZone": zone}));
        assert_eq!(refusals(&object), Vec::<String>::new(), "{cron}");
        let read: ExternalSecret = serde_json::from_value(object).unwrap();
        assert_eq!(read.spec.validate_restart(), Ok::<(), Invalid>(()), "{cron}");
    }
}
