//! Which Secrets the pods of a template use, and how. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::model::Use;

/// The part of a pod's spec that is read. What is unknown, or null, is passed over: a template that we cannot read whole must
/// not hide the workload.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: Option<String>,
    env: Option<Vec<Variable>>,
    env_from: Option<Vec<Source>>,
    volume_mounts: Option<Vec<Mount>>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Variable {
    value_from: Option<ValueFrom>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ValueFrom {
    secret_key_ref: Option<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Source {
    secret_ref: Option<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    name: Option<String>,
    sub_path: Option<String>,
    sub_path_expr: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    name: Option<String>,
    secret: Option<SecretVolume>,
    projected: Option<Projected>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretVolume {
    secret_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Projected {
    sources: Option<Vec<Projection>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Projection {
    secret: Option<Named>,
}

/// The Secrets that pods of this spec use, sorted by name, each once. Pull secrets, credentials of volumes and ephemeral
/// containers do not count: no container holds what they say.
pub fn uses(spec: &PodSpec) -> Vec<Use> {
    let volumes = volumes(spec.volumes.as_deref().unwrap_or_default());
    let mut found = SecretUses::default();
    for container in spec.containers.iter().flatten() {
        found.container(container, &volumes, false);
    }
    for container in spec.init_containers.iter().flatten() {
        // A sidecar lives as long as the pod and is started again alone.
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        found.container(container, &volumes, !sidecar);
    }
    found.0.into_values().map(sorted).collect()
}

/// The Secrets in each volume.
fn volumes(volumes: &[Volume]) -> BTreeMap<&str, Vec<&str>> {
    let mut secrets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for volume in volumes {
        let Some(name) = volume.name.as_deref() else {
            continue;
        };
        let of = secrets.entry(name).or_default();
        of.extend(
            volume
                .secret
                .as_ref()
                .and_then(|secret| secret.secret_name.as_deref()),
        );
        let sources = volume
            .projected
            .iter()
            .flat_map(|all| all.sources.iter().flatten());
        of.extend(sources.filter_map(|source| source.secret.as_ref()?.name.as_deref()));
    }
    secrets
}

fn sorted(mut found: Use) -> Use {
    found.fixed.sort_unstable();
    found.fixed.dedup();
    found
}

#[derive(Default)]
struct SecretUses(BTreeMap<Box<str>, Use>);

impl SecretUses {
    fn container(&mut self, container: &Container, volumes: &BTreeMap<&str, Vec<&str>>, init: bool) {
        let name = container.name.as_deref().unwrap_or_default();
        let variables = container.env.iter().flatten();
        let single = variables.filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
        let sources = container.env_from.iter().flatten();
        let whole = sources.filter_map(|source| source.secret_ref.as_ref());
        for secret in single.chain(whole).filter_map(|secret| secret.name.as_deref()) {
            self.of(secret, init).fixed.push(name.into());
        }
        for mount in container.volume_mounts.iter().flatten() {
            let part = [&mount.sub_path, &mount.sub_path_expr];
            let fixed = part
                .iter()
                .any(|path| path.as_deref().is_some_and(|path| !path.is_empty()));
            let volume = mount.name.as_deref().and_then(|volume| volumes.get(volume));
            for secret in volume.into_iter().flatten() {
                let found = self.of(secret, init);
                if fixed {
                    found.fixed.push(name.into());
                } else {
                    found.mounted = true;
                }
            }
        }
    }

    fn of(&mut self, secret: &str, init: bool) -> &mut Use {
        let found = self.0.entry(secret.into()).or_insert_with(|| Use {
            secret: secret.into(),
            fixed: Vec::new(),
            init: false,
            mounted: false,
        });
        found.init |= init;
        found
    }
}
