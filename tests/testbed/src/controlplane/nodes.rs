//! Nodes without a machine: kwok plays their kubelets.

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// Creates `count` nodes named `node-0`, `node-1`, ...
pub(super) async fn create(client: &Client, count: usize) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    for index in 0..count {
        let name = format!("node-{index}");
        let capacity = json!({"cpu": "1000", "memory": "4Ti", "pods": "100000"});
        let node = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {"kwok.x-k8s.io/node": "fake"},
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
            },
            "status": {"capacity": capacity, "allocatable": capacity},
        }))
        .with_context(|| format!("describe the node {name}"))?;
        api.create(&PostParams::default(), &node)
            .await
            .with_context(|| format!("create the node {name}"))?;
    }
    Ok(())
}

/// Deletes the nodes' leases: an ended kwok's would bar its successor, which has another id, for 40 s.
pub(super) async fn release(client: &Client) -> Result<()> {
    Api::<Lease>::namespaced(client.clone(), "kube-node-lease")
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .context("delete the leases of the nodes")?;
    Ok(())
}

/// `Some` when pods can be scheduled on every node.
pub(super) async fn ready(client: &Client) -> Result<Option<()>> {
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .context("list nodes")?;
    Ok(nodes.iter().all(schedulable).then_some(()))
}

fn schedulable(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let tainted = node
        .spec
        .iter()
        .any(|spec| spec.taints.iter().any(|taints| !taints.is_empty()));
    ready && !tainted
}
