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
    secret_key_ref: Option<KeyRef>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct KeyRef {
    name: Option<String>,
    key: Option<String>,
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
    items: Option<Vec<Item>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    key: Option<String>,
    path: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Projected {
    sources: Option<Vec<Projection>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Projection {
    secret: Option<ProjectedSecret>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ProjectedSecret {
    name: Option<String>,
    items: Option<Vec<Item>>,
}

/// The most keys of one Secret that are kept of one workload. One that uses more counts as using all.
const KEYS: usize = 64;

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
    found.0.into_values().map(UsedSecret::sorted).collect()
}

/// A Secret in a volume.
#[derive(Clone, Copy)]
struct MountedSecret<'a> {
    name: &'a str,
    /// The keys that become files; all without any list.
    items: Option<&'a [Item]>,
}

/// The Secrets in each volume.
fn volumes(volumes: &[Volume]) -> BTreeMap<&str, Vec<MountedSecret<'_>>> {
    let mut secrets: BTreeMap<&str, Vec<MountedSecret<'_>>> = BTreeMap::new();
    for volume in volumes {
        let Some(name) = volume.name.as_deref() else {
            continue;
        };
        let of = secrets.entry(name).or_default();
        let whole = volume
            .secret
            .iter()
            .map(|secret| (&secret.secret_name, &secret.items));
        let sources = volume
            .projected
            .iter()
            .flat_map(|all| all.sources.iter().flatten());
        let parts = sources
            .filter_map(|source| source.secret.as_ref())
            .map(|secret| (&secret.name, &secret.items));
        of.extend(whole.chain(parts).filter_map(|(name, items)| {
            Some(MountedSecret {
                name: name.as_deref()?,
                items: items.as_deref(),
            })
        }));
    }
    secrets
}

impl<'a> MountedSecret<'a> {
    /// The keys behind the files at `path` in the volume; none where they are not known one by one.
    fn keys(self, path: Option<&'a str>) -> Option<Vec<&'a str>> {
        let Some(items) = self.items else {
            // Without items, a file has the name of its key.
            return path.filter(|path| !path.contains('/')).map(|path| vec![path]);
        };
        let is_at = |item: &&Item| {
            let file = item.path.as_deref().unwrap_or_default();
            path.is_none_or(|path| {
                file.strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        let mut found = items.iter().filter(is_at).peekable();
        // A path that is no item's may be spelt in another way.
        let all = found.peek().is_none().then_some(items).into_iter().flatten();
        let keys: Option<Vec<&str>> = found.chain(all).map(|item| item.key.as_deref()).collect();
        keys.filter(|keys| !keys.is_empty())
    }
}

/// A Secret that a template uses, as far as the template was read.
struct UsedSecret {
    found: Use,
    /// Whether all its keys are used.
    whole: bool,
}

impl UsedSecret {
    fn keys<'a>(&mut self, keys: Option<impl IntoIterator<Item = &'a str>>) {
        match keys {
            Some(keys) => self.found.keys.extend(keys.into_iter().map(Into::into)),
            None => self.whole = true,
        }
    }

    fn sorted(self) -> Use {
        let Self { mut found, whole } = self;
        found.fixed.sort_unstable();
        found.fixed.dedup();
        found.keys.sort_unstable();
        found.keys.dedup();
        if whole || found.keys.len() > KEYS {
            found.keys = Vec::new();
        }
        found
    }
}

#[derive(Default)]
struct SecretUses(BTreeMap<Box<str>, UsedSecret>);

impl SecretUses {
    fn container(
        &mut self,
        container: &Container,
        volumes: &BTreeMap<&str, Vec<MountedSecret<'_>>>,
        init: bool,
    ) {
        let name = container.name.as_deref().unwrap_or_default();
        for variable in container.env.iter().flatten() {
            let reference = variable
                .value_from
                .as_ref()
                .and_then(|from| from.secret_key_ref.as_ref());
            if let Some(KeyRef {
                name: Some(secret),
                key,
            }) = reference
            {
                let used = self.of(secret, init);
                used.found.fixed.push(name.into());
                used.keys(key.as_deref().map(Some));
            }
        }
        let sources = container.env_from.iter().flatten();
        for secret in sources.filter_map(|source| source.secret_ref.as_ref()?.name.as_deref()) {
            let used = self.of(secret, init);
            used.found.fixed.push(name.into());
            used.whole = true;
        }
        for mount in container.volume_mounts.iter().flatten() {
            let is_set = |path: &Option<String>| path.as_deref().is_some_and(|path| !path.is_empty());
            let fixed = is_set(&mount.sub_path) || is_set(&mount.sub_path_expr);
            // What an expression stands for is known in the pod only.
            let path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
            let volume = mount.name.as_deref().and_then(|volume| volumes.get(volume));
            for secret in volume.into_iter().flatten() {
                let used = self.of(secret.name, init);
                if fixed {
                    used.found.fixed.push(name.into());
                } else {
                    used.found.mounted = true;
                }
                used.keys(secret.keys(path));
            }
        }
    }

    fn of(&mut self, secret: &str, init: bool) -> &mut UsedSecret {
        let used = self.0.entry(secret.into()).or_insert_with(|| UsedSecret {
            found: Use {
                secret: secret.into(),
                fixed: Vec::new(),
                init: false,
                mounted: false,
                keys: Vec::new(),
            },
            whole: false,
        });
        used.found.init |= init;
        used
    }
}
