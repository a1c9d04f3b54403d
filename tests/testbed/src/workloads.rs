//! Workloads that use a Secret, as JSON: to be changed before they are made.

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::{manifest, wait};

/// A minimal CRD of Argo Rollouts.
const ROLLOUTS: &str = include_str!("../manifests/rollouts.yaml");

/// How a pod uses a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// One variable of the key `value`.
    Env,
    /// All of its keys as variables.
    EnvFrom,
    /// Mounted whole.
    Volume,
    /// Mounted as a source of a projected volume.
    Projected,
    /// One file, mounted by `subPath`.
    SubPath,
    /// As [`Self::Env`], of an init container.
    Init,
    /// To pull images only.
    PullSecret,
}

/// A workload of `kind` with one container and two pods (a `DaemonSet` has one on every node), chosen by the label
/// `app: NAME`. Kinds are those of `apps/v1`, `Rollout`, `Job` and `CronJob`, and `Pod`.
pub fn workload(kind: &str, name: &str, uses: &[(&str, Use)]) -> Result<Value> {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": pod(uses)});
    let metadata = json!({"name": name, "labels": labels});
    let mut object = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "Rollout" => json!({
            "apiVersion": if kind == "Rollout" { "argoproj.io/v1alpha1" } else { "apps/v1" },
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        }),
        "Job" => json!({"apiVersion": "batch/v1", "spec": {"template": never_again(template)}}),
        "CronJob" => json!({
            "apiVersion": "batch/v1",
            "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": never_again(template)}}},
        }),
        "Pod" => json!({"apiVersion": "v1", "spec": pod(uses)}),
        _ => bail!("the testbed makes no {kind}"),
    };
    set(&mut object, &["kind"], json!(kind));
    set(&mut object, &["metadata"], metadata);
    match kind {
        "DaemonSet" => {
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("replicas");
            }
        }
        "StatefulSet" => set(&mut object, &["spec", "serviceName"], json!(name)),
        _ => {}
    }
    Ok(object)
}

/// Sets what is at `path`, making the objects on the way.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let mut at = object;
    for step in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[*step];
    }
    *at = value;
}

fn never_again(mut template: Value) -> Value {
    set(&mut template, &["spec", "restartPolicy"], json!("Never"));
    template
}

fn pod(uses: &[(&str, Use)]) -> Value {
    let variable = |secret: &str, number: usize| json!({"name": format!("VALUE_{number}"), "valueFrom": {"secretKeyRef": {"name": secret, "key": "value"}}});
    let (mut env, mut env_from, mut volumes, mut mounts) = (vec![], vec![], vec![], vec![]);
    let (mut init, mut pull) = (vec![], vec![]);
    for (number, (secret, how)) in uses.iter().enumerate() {
        let volume = format!("secret-{number}");
        let mount = json!({"name": volume, "mountPath": format!("/secrets/{number}")});
        match how {
            Use::Env => env.push(variable(secret, number)),
            Use::EnvFrom => env_from.push(json!({"secretRef": {"name": secret}})),
            Use::Volume => {
                volumes.push(json!({"name": volume, "secret": {"secretName": secret}}));
                mounts.push(mount);
            }
            Use::Projected => {
                volumes.push(
                    json!({"name": volume, "projected": {"sources": [{"secret": {"name": secret}}]}}),
                );
                mounts.push(mount);
            }
            Use::SubPath => {
                volumes.push(json!({"name": volume, "secret": {"secretName": secret}}));
                let mut mount = mount;
                set(&mut mount, &["subPath"], json!("value"));
                mounts.push(mount);
            }
            Use::Init => init.push(
                json!({"name": format!("init-{number}"), "image": "example.com/init:1", "env": [variable(secret, number)]}),
            ),
            Use::PullSecret => pull.push(json!({"name": secret})),
        }
    }
    let mut spec = json!({"containers": [{"name": "main", "image": "example.com/main:1"}]});
    let container = &mut spec["containers"][0];
    for (field, list) in [("env", env), ("envFrom", env_from), ("volumeMounts", mounts)] {
        if !list.is_empty() {
            set(container, &[field], json!(list));
        }
    }
    for (field, list) in [
        ("volumes", volumes),
        ("initContainers", init),
        ("imagePullSecrets", pull),
    ] {
        if !list.is_empty() {
            set(&mut spec, &[field], json!(list));
        }
    }
    spec
}

/// The resource of a kind that is restarted.
pub fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "Rollout" => ("argoproj.io", "v1alpha1"),
        _ => ("apps", "v1"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Makes the CRD of Argo Rollouts and waits until it is served.
pub async fn install_rollouts(client: &Client) -> Result<()> {
    manifest::apply(client, ROLLOUTS).await?;
    let api = kube::Api::<DynamicObject>::all_with(client.clone(), &resource("Rollout"));
    wait::until(
        "the API server to serve Rollouts",
        std::time::Duration::from_mins(1),
        async || {
            let listed = api
                .list_metadata(&kube::api::ListParams::default().limit(1))
                .await;
            Ok(Some(listed.map(drop).context("list Rollouts")?))
        },
    )
    .await
}

/// Whether the controller of a workload has done all that its spec asks for: it is healthy, and nothing of an older
/// template is left.
pub fn is_complete(kind: &str, object: &DynamicObject) -> bool {
    let number = |path: &str| object.data.pointer(path).and_then(Value::as_i64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or_default();
    if status("observedGeneration") < object.metadata.generation.unwrap_or_default() {
        return false;
    }
    let desired = number("/spec/replicas").unwrap_or(1);
    match kind {
        "DaemonSet" => {
            let desired = status("desiredNumberScheduled");
            status("updatedNumberScheduled") == desired && status("numberAvailable") == desired
        }
        "StatefulSet" => {
            let partition = number("/spec/updateStrategy/rollingUpdate/partition").unwrap_or_default();
            let revision = |name: &str| object.data.pointer(&format!("/status/{name}"));
            status("updatedReplicas") >= desired - partition
                && status("readyReplicas") == desired
                && (partition > 0 || revision("currentRevision") == revision("updateRevision"))
        }
        _ => {
            status("updatedReplicas") == desired
                && status("replicas") == desired
                && status("availableReplicas") == desired
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_complete_when_nothing_old_is_left() {
        let deployment = |observed: i64, replicas: i64, updated: i64, available: i64| {
            serde_json::from_value::<DynamicObject>(
                json!({"metadata": {"generation": 2}, "spec": {"replicas": 2},
                "status": {"observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated,
                    "availableReplicas": available}}),
            )
            .unwrap()
        };
        for (observed, replicas, updated, available, complete) in [
            (2, 2, 2, 2, true),
            (1, 2, 2, 2, false),
            (2, 3, 2, 2, false),
            (2, 2, 1, 2, false),
            (2, 2, 2, 1, false),
        ] {
            let object = deployment(observed, replicas, updated, available);
            assert_eq!(is_complete("Deployment", &object), complete, "{:?}", object.data);
        }
    }

    #[test]
    fn every_use_names_the_secret_once() {
        for how in [
            Use::Env,
            Use::EnvFrom,
            Use::Volume,
            Use::Projected,
            Use::SubPath,
            Use::Init,
            Use::PullSecret,
        ] {
            let object = workload("Deployment", "web", &[("db", how)]).unwrap();
            assert_eq!(
                object.to_string().matches("\"db\"").count(),
                1,
                "{how:?}: {object}"
            );
        }
    }
}
