//! Objects from YAML text, as `kubectl apply --server-side` would send them.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, ResourceExt as _};

/// The field manager of what tests, the demo and the bench apply.
const MANAGER: &str = "testbed";

/// Applies every document of `yaml`, in order, and gives the objects as they are then. An object without a namespace of
/// a kind that lives in one goes into `default`.
pub async fn apply(client: &Client, yaml: &str) -> Result<Vec<DynamicObject>> {
    let objects: Vec<DynamicObject> =
        serde_saphyr::from_multiple(yaml).context("read the manifest as YAML")?;
    let mut kinds: HashMap<TypeMeta, (ApiResource, Scope)> = HashMap::new();
    let mut applied = Vec::with_capacity(objects.len());
    for object in objects {
        let types = object
            .types
            .clone()
            .context("an object of the manifest lacks apiVersion and kind")?;
        let what = format!("{} {}", types.kind, object.name_any());
        if !kinds.contains_key(&types) {
            let gvk =
                GroupVersionKind::try_from(&types).with_context(|| format!("read the kind of {what}"))?;
            let (resource, capabilities) = pinned_kind(client, &gvk)
                .await
                .with_context(|| format!("find the resource of {what}"))?;
            kinds.insert(types.clone(), (resource, capabilities.scope));
        }
        let (resource, scope) = kinds
            .get(&types)
            .with_context(|| format!("find the resource of {what}"))?;
        let api: Api<DynamicObject> = match (scope, object.namespace()) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), resource),
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(client.clone(), &namespace, resource)
            }
            (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), resource),
        };
        let result = api
            .patch(
                &object.name_any(),
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(&object),
            )
            .await
            .with_context(|| format!("apply {what}"))?;
        applied.push(result);
    }
    Ok(applied)
}
