//! What the operator may do to workloads, tried as its own user: annotations of `restart.keyturn.dev` and a Rollout's
//! `restartAt`, and nothing else, whatever RBAC would let it do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};
use testbed::controlplane::ControlPlane;

use super::{client_as, install};

const OURS: &str = "restart.keyturn.dev/0123456789abcdef";
const KINDS: [&str; 4] = ["Deployment", "StatefulSet", "DaemonSet", "Rollout"];

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// By the admission policy.
    Denied,
    /// By RBAC.
    Forbidden,
}
use Outcome::{Denied, Done, Forbidden};

fn outcome<T>(result: kube::Result<T>) -> Result<Outcome> {
    match result {
        Ok(_) => Ok(Done),
        Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => {
            // A policy that cannot be evaluated denies too, with words that tell nobody what is wrong.
            assert!(
                status.message.contains("The operator "),
                "no sentence: {}",
                status.message
            );
            Ok(Denied)
        }
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Forbidden),
        Err(error) => Err(error.into()),
    }
}

/// The CustomResourceDefinition of Argo Rollouts, as far as admission sees it.
fn rollouts() -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "rollouts.argoproj.io"},
        "spec": {
            "group": "argoproj.io", "scope": "Namespaced",
            "names": {"kind": "Rollout", "listKind": "RolloutList", "plural": "rollouts", "singular": "rollout"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"spec": open, "status": open},
                }},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                }},
            }],
        },
    })
}

fn api(client: &Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let (group, version) = if kind == "Rollout" {
        ("argoproj.io", "v1alpha1")
    } else {
        ("apps", "v1")
    };
    let resource = ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: format!("{group}/{version}"),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// A workload that runs nowhere.
fn workload(kind: &str, name: &str) -> Value {
    let mut object = json!({
        "apiVersion": if kind == "Rollout" { "argoproj.io/v1alpha1" } else { "apps/v1" },
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": {"example.com/nowhere": "true"},
                    "initContainers": [{"name": "sidecar", "image": "s:1", "restartPolicy": "Always"}],
                    "containers": [{"name": "app", "image": "a:1", "env": [{"name": "A", "value": "1"}]}],
                },
            },
        },
    });
    if kind != "DaemonSet" {
        object["spec"]["replicas"] = json!(0);
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    if kind == "Rollout" {
        object["spec"]["future"] = json!({"list": [1, 2.5, {"deep": true}], "text": "x"});
        object["extra"] = json!({"number": 1});
    }
    object
}

/// The same with annotations on both levels: ours and others'.
fn annotated(kind: &str, name: &str) -> Value {
    let mut object = workload(kind, name);
    let annotations = json!({OURS: "t1", "team": "shop"});
    object["metadata"]["annotations"] = annotations.clone();
    object["spec"]["template"]["metadata"]["annotations"] = annotations;
    object
}

/// The same, as large as they come: many containers with much in them, and many annotations.
fn large(kind: &str, name: &str) -> Value {
    let mut object = annotated(kind, name);
    let env: Vec<_> = (0..50)
        .map(|i| json!({"name": format!("V{i}"), "value": "x".repeat(100)}))
        .collect();
    let containers: Vec<_> = (0..100)
        .map(|i| json!({"name": format!("c{i}"), "image": "a:1", "env": env, "ports": [{"containerPort": 80}]}))
        .collect();
    object["spec"]["template"]["spec"]["containers"] = json!(containers);
    for i in 0..1000 {
        object["metadata"]["annotations"][format!("example.com/a{i}")] = json!("x".repeat(100));
        object["spec"]["template"]["metadata"]["annotations"][format!("example.com/a{i}")] =
            json!("x".repeat(100));
    }
    object
}

fn template(part: &Value) -> Value {
    json!({"spec": {"template": part}})
}

fn on_template(annotations: &Value) -> Value {
    template(&json!({"metadata": {"annotations": annotations}}))
}

fn on_itself(annotations: &Value) -> Value {
    json!({"metadata": {"annotations": annotations}})
}

/// What the operator sends: both levels in one patch.
fn restart(token: &str) -> Value {
    let annotations = json!({OURS: token});
    json!({
        "metadata": {"annotations": {OURS: format!("{token}.1")}},
        "spec": {"template": {"metadata": {"annotations": annotations}}},
    })
}

/// Patches that must be denied on an annotated workload of `kind`, by what they try.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn forbidden(kind: &str) -> Vec<(&'static str, Value)> {
    let container = |more: Value| {
        let mut container = json!({"name": "app", "image": "a:1", "env": [{"name": "A", "value": "1"}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        template(&json!({"spec": {"containers": [container]}}))
    };
    let mut with_our_own = container(json!({"image": "evil:1"}));
    with_our_own["spec"]["template"]["metadata"] = json!({"annotations": {OURS: "t2"}});
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}]);
    let mut all = vec![
        ("image", container(json!({"image": "evil:1"}))),
        ("image beside our annotation", with_our_own),
        ("env", container(json!({"env": [{"name": "A", "value": "2"}]}))),
        ("command", container(json!({"command": ["sh"]}))),
        (
            "a container more",
            template(&json!({"spec": {"containers": [
                {"name": "app", "image": "a:1", "env": [{"name": "A", "value": "1"}]}, {"name": "b", "image": "b:1"},
            ]}})),
        ),
        (
            "a sidecar more",
            template(&json!({"spec": {"initContainers": [
                {"name": "sidecar", "image": "s:1", "restartPolicy": "Always"},
                {"name": "more", "image": "s:1", "restartPolicy": "Always"},
            ]}})),
        ),
        ("no sidecar", template(&json!({"spec": {"initContainers": null}}))),
        (
            "account",
            template(&json!({"spec": {"serviceAccountName": "admin"}})),
        ),
        ("host", template(&json!({"spec": {"hostNetwork": true}}))),
        ("nodes", template(&json!({"spec": {"nodeSelector": null}}))),
        (
            "volume",
            template(&json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}})),
        ),
        (
            "label of the template",
            template(&json!({"metadata": {"labels": {"more": "x"}}})),
        ),
        (
            "foreign annotation of the template",
            on_template(&json!({"kubectl.kubernetes.io/restartedAt": "x"})),
        ),
        (
            "changed annotation of the template",
            on_template(&json!({"team": "x"})),
        ),
        (
            "removed annotation of the template",
            on_template(&json!({"team": null})),
        ),
        (
            "our annotation removed from the template",
            on_template(&json!({OURS: null})),
        ),
        ("all annotations of the template", on_template(&json!(null))),
        (
            "an annotation that looks like ours",
            on_template(&json!({"restart.keyturn.dev.example.com/x": "t"})),
        ),
        (
            "another that looks like ours",
            on_template(&json!({"x-restart.keyturn.dev/x": "t"})),
        ),
        (
            "foreign annotation",
            on_itself(&json!({"keyturn.dev/restart": "true"})),
        ),
        ("changed annotation", on_itself(&json!({"team": "x"}))),
        ("removed annotation", on_itself(&json!({"team": null}))),
        ("our annotation removed", on_itself(&json!({OURS: null}))),
        ("all annotations", on_itself(&json!(null))),
        ("label", json!({"metadata": {"labels": {"more": "x"}}})),
        (
            "finalizer",
            json!({"metadata": {"finalizers": ["example.com/x"]}}),
        ),
        ("owner", json!({"metadata": {"ownerReferences": owner}})),
        ("readiness", json!({"spec": {"minReadySeconds": 7}})),
        ("history", json!({"spec": {"revisionHistoryLimit": 3}})),
    ];
    if kind != "DaemonSet" {
        all.push(("replicas", json!({"spec": {"replicas": 1}})));
    }
    match kind {
        "Deployment" => {
            all.push(("paused", json!({"spec": {"paused": true}})));
            all.push((
                "strategy",
                json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}),
            ));
        }
        "StatefulSet" | "DaemonSet" => {
            all.push((
                "strategy",
                json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}),
            ));
            // Only of a DaemonSet is it the API server's.
            if kind == "StatefulSet" {
                let count = json!({"deprecated.daemonset.template.generation": "7"});
                all.push(("a count of templates", on_itself(&count)));
            }
        }
        _ => {
            all.push(("paused", json!({"spec": {"paused": true}})));
            all.push((
                "a field we do not know",
                json!({"spec": {"future": {"text": "y"}}}),
            ));
            all.push((
                "deep down",
                json!({"spec": {"future": {"list": [1, 2.5, {"deep": false}]}}}),
            ));
            all.push(("beside the spec", json!({"extra": {"number": 2}})));
            all.push(("restartAt taken away", json!({"spec": {"restartAt": null}})));
            all.push(("no template", json!({"spec": {"template": null}})));
            all.push((
                "another template",
                json!({"spec": {"workloadRef": {"kind": "Deployment", "name": "x"}}}),
            ));
        }
    }
    all
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn workloads_get_our_annotations_and_nothing_else() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let own = plane.namespace("chart-restarter").await?;
    let shop = plane.namespace("chart-workloads").await?;
    let manifest = plane.folder().join("rollouts.json");
    std::fs::write(&manifest, rollouts().to_string())?;
    let manifest = manifest.display().to_string();
    plane
        .kubectl([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            &manifest,
        ])
        .await?;
    let definition = "crd/rollouts.argoproj.io";
    plane
        .kubectl(["wait", "--for=condition=Established", "--timeout=30s", definition])
        .await?;
    let protected = plane.namespace("chart-untouched").await?;
    let values = format!(
        "crds.install=false,replicas=0,restart.evict=true,clusterSecretStore.requireScope=false,protectedNamespaces={{{protected}}}"
    );
    install(plane, &own, &values).await?;
    let admin = plane.client().await?;
    let operator = client_as(&plane.kubeconfig_for(&own, "keyturn").await?).await?;
    let patch = async |kind: &str, name: &str, body: &Value| {
        let patched = api(&operator, kind, &shop)
            .patch(name, &PatchParams::default(), &Patch::Merge(body))
            .await;
        outcome(patched).with_context(|| format!("patch {kind} {name}"))
    };

    for kind in KINDS {
        let mut objects = vec![
            workload(kind, "bare"),
            annotated(kind, "annotated"),
            large(kind, "large"),
        ];
        if kind == "Rollout" {
            // What is absent and what is null: this definition keeps both.
            let mut borrowed = workload(kind, "borrowed");
            borrowed["spec"]
                .as_object_mut()
                .context("a spec")?
                .remove("template");
            borrowed["spec"]["workloadRef"] = json!({"kind": "Deployment", "name": "bare"});
            let mut borrowed_too = borrowed.clone();
            borrowed_too["metadata"]["name"] = json!("borrowed-too");
            borrowed_too["spec"]["template"] = json!(null);
            let mut plain = workload(kind, "plain");
            plain["spec"]["template"]["metadata"] = json!(null);
            let mut sparse = workload(kind, "sparse");
            sparse["spec"]["template"]["metadata"] = json!({"creationTimestamp": null, "annotations": null});
            objects.extend([borrowed, borrowed_too, plain, sparse]);
        }
        for object in objects {
            api(&admin, kind, &shop)
                .create(&PostParams::default(), &serde_json::from_value(object)?)
                .await
                .with_context(|| format!("make a {kind}"))?;
        }
    }

    // A policy takes a moment to work after it was made.
    testbed::wait::until("the policy to work", Duration::from_secs(30), async || {
        let probe = json!({"metadata": {"labels": {"probe": "x"}}});
        Ok((patch("Deployment", "bare", &probe).await? == Denied).then_some(()))
    })
    .await?;

    // Where no Secret is written, nothing is restarted either.
    for (namespace, expected) in [(&shop, Done), (&protected, Denied)] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"},
            "spec": {"containers": [{"name": "app", "image": "example.com/app"}]}});
        let pods = Api::<Pod>::namespaced(admin.clone(), namespace);
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
            .await?;
        let evicted = Api::<Pod>::namespaced(operator.clone(), namespace)
            .evict("bare", &EvictParams::default())
            .await;
        assert_eq!(outcome(evicted)?, expected, "an eviction in {namespace}");
    }
    let untouched = serde_json::from_value(workload("Deployment", "untouched"))?;
    api(&admin, "Deployment", &protected)
        .create(&PostParams::default(), &untouched)
        .await?;
    let patched = api(&operator, "Deployment", &protected)
        .patch("untouched", &PatchParams::default(), &Patch::Merge(restart("t1")))
        .await;
    assert_eq!(outcome(patched)?, Denied, "a restart in a protected namespace");

    // By its roles it may patch the objects, and neither make nor delete them nor write their subresources.
    let subresource = async |kind: &str, name: &str| {
        let body = if name == "scale" {
            json!({"spec": {"replicas": 3}})
        } else {
            json!({"status": {"replicas": 3, "numberReady": 3}})
        };
        let patched = api(&operator, kind, &shop)
            .patch_subresource(name, "bare", &PatchParams::default(), &Patch::Merge(&body))
            .await;
        outcome(patched).with_context(|| format!("patch {name} of {kind}"))
    };
    let others = async |kind: &str, expected: Outcome| -> Result<()> {
        let workloads = api(&operator, kind, &shop);
        let new = serde_json::from_value(workload(kind, "new"))?;
        let made = workloads.create(&PostParams::default(), &new).await;
        assert_eq!(outcome(made)?, expected, "create {kind}");
        let deleted = workloads.delete("bare", &DeleteParams::default()).await;
        assert_eq!(outcome(deleted)?, expected, "delete {kind}");
        let emptied = workloads
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await;
        assert_eq!(outcome(emptied)?, expected, "delete all of {kind}");
        assert_eq!(subresource(kind, "status").await?, expected, "status of {kind}");
        if kind != "DaemonSet" {
            assert_eq!(subresource(kind, "scale").await?, expected, "scale of {kind}");
        }
        Ok(())
    };
    for kind in KINDS {
        others(kind, Forbidden).await?;
    }

    // From here on RBAC permits all of it in this namespace, as a careless binding would.
    let account = format!("--serviceaccount={own}:keyturn");
    plane
        .kubectl([
            "create",
            "rolebinding",
            "careless",
            "--clusterrole=cluster-admin",
            &account,
            "--namespace",
            &shop,
        ])
        .await?;
    testbed::wait::until("the binding to work", Duration::from_secs(30), async || {
        Ok((subresource("Deployment", "scale").await? != Forbidden).then_some(()))
    })
    .await?;
    for kind in KINDS {
        others(kind, Denied).await?;
        for name in ["bare", "annotated", "large"] {
            for token in ["t2", "t2", "t3"] {
                assert_eq!(
                    patch(kind, name, &restart(token)).await?,
                    Done,
                    "{kind} {name} {token}"
                );
            }
            let another = on_template(&json!({"restart.keyturn.dev/fedcba9876543210": "t1"}));
            assert_eq!(
                patch(kind, name, &another).await?,
                Done,
                "{kind} {name} another Secret"
            );
        }
        if kind == "Rollout" {
            let at = |time: &str| json!({"spec": {"restartAt": time}});
            for name in ["annotated", "borrowed", "borrowed-too"] {
                for time in ["2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"] {
                    assert_eq!(patch(kind, name, &at(time)).await?, Done, "{name} {time}");
                }
            }
            for name in ["borrowed", "borrowed-too"] {
                let record = on_itself(&json!({OURS: "t1.1"}));
                assert_eq!(patch(kind, name, &record).await?, Done, "{name}");
                // There is no template to annotate: half a one would take the place of the borrowed one.
                assert_eq!(patch(kind, name, &restart("t1")).await?, Denied, "{name}");
            }
            for name in ["plain", "sparse"] {
                assert_eq!(patch(kind, name, &restart("t1")).await?, Done, "{name}");
            }
        }
        for (what, body) in forbidden(kind) {
            assert_eq!(patch(kind, "annotated", &body).await?, Denied, "{what} of {kind}");
        }
        let large = on_template(&json!({"example.com/a999": "y"}));
        assert_eq!(patch(kind, "large", &large).await?, Denied, "{kind}");
    }

    // Everybody else is free.
    let stripped = json!({"spec": {"template": {"metadata": {"annotations": {OURS: null}}}}});
    api(&admin, "Deployment", &shop)
        .patch("annotated", &PatchParams::default(), &Patch::Merge(&stripped))
        .await?;
    plane.helm(["uninstall", "keyturn", "--namespace", &own]).await?;
    plane
        .kubectl(["delete", "namespace", &shop, "--wait=false"])
        .await?;
    Ok(())
}
