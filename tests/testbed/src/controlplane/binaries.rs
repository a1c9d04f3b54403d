//! The control plane's programs: built from pinned Go modules, or taken from where the environment says.
//!
//! The modules are the folders of `tests/testbed/controlplane/`. To move one to another version, run
//! `go get -tool PROGRAM@VERSION && go mod tidy` in its folder and set the version here; Kubernetes also wants
//! the `replace` lines of its staging modules moved (v1.37.2 goes with v0.37.2).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::go::{Module, source_of};

/// A folder with `etcd`, and for the rest of the programs as well; the name is kubebuilder's.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// A kubeconfig of a cluster to use instead of a control plane of our own.
pub(super) const CLUSTER: &str = "KEYTURN_TEST_KUBECONFIG";

const ETCD: Module = Module {
    name: "etcd",
    go_mod: include_str!("../../controlplane/etcd/go.mod"),
    go_sum: include_str!("../../controlplane/etcd/go.sum"),
    versions: "",
    // Go names a program after the last part of its path, here "server".
    extra: |_, output| {
        fs::rename(output.join("server"), output.join("etcd")).context("name the program etcd")
    },
};

const KUBERNETES: Module = Module {
    name: "kubernetes",
    go_mod: include_str!("../../controlplane/kubernetes/go.mod"),
    go_sum: include_str!("../../controlplane/kubernetes/go.sum"),
    versions: "-X k8s.io/component-base/version.gitVersion=v1.37.2 \
               -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37",
    extra: |_, _| Ok(()),
};

const KWOK: Module = Module {
    name: "kwok",
    go_mod: include_str!("../../controlplane/kwok/go.mod"),
    go_sum: include_str!("../../controlplane/kwok/go.sum"),
    versions: "",
    extra: collect_stages,
};

const HELM: Module = Module {
    name: "helm",
    go_mod: include_str!("../../controlplane/helm/go.mod"),
    go_sum: include_str!("../../controlplane/helm/go.sum"),
    versions: "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
    extra: |_, _| Ok(()),
};

/// For upgrades by a release that Helm 3 installed; built only for who asks for it.
const HELM_3: Module = Module {
    name: "helm3",
    go_mod: include_str!("../../controlplane/helm3/go.mod"),
    go_sum: include_str!("../../controlplane/helm3/go.sum"),
    versions: "-X helm.sh/helm/v3/internal/version.version=v3.22.0",
    extra: |_, _| Ok(()),
};

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// kubectl of the control plane's version, or the one on the `PATH` when a cluster is given.
    pub kubectl: PathBuf,
    /// Helm 4, or the one on the `PATH` when a cluster is given and there is one.
    pub helm: PathBuf,
    /// `None` when a cluster is given: nothing of ours is started then.
    pub(super) servers: Option<Servers>,
}

/// The programs of a control plane of our own.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    pub(super) etcd: PathBuf,
    pub(super) apiserver: PathBuf,
    pub(super) controller_manager: PathBuf,
    pub(super) scheduler: PathBuf,
    pub(super) kwok: PathBuf,
    /// kwok's own stages, one YAML file of several documents.
    pub(super) stages: PathBuf,
}

impl Binaries {
    /// Finds the programs, building those that are missing; `progress` gets one line at a time.
    ///
    /// From nothing this takes about 15 minutes on 2 cores, later a moment. Blocks: call it before a runtime starts,
    /// or once by `testbed controlplane build`.
    ///
    /// With `KEYTURN_TEST_KUBECONFIG` only kubectl (from the `PATH`) and helm (from there, or built) are wanted.
    /// `KUBEBUILDER_ASSETS` replaces the build of etcd if it holds that, and of the Kubernetes parts if it
    /// holds all four: an API server alone does not suffice, since an older one and our controller manager do not mix.
    pub fn ensure(progress: &dyn Fn(&str)) -> Result<Self> {
        let cache = cache_folder()?;
        if let Some(cluster) = given(CLUSTER) {
            progress(&format!("using the cluster of {CLUSTER}={}", cluster.display()));
            let kubectl = on_path("kubectl")
                .with_context(|| format!("kubectl is not on the PATH: install it to use {CLUSTER}"))?;
            let helm = match on_path("helm") {
                Some(helm) => helm,
                None => HELM.ensure(&cache, progress)?.join("helm"),
            };
            return Ok(Self {
                kubectl,
                helm,
                servers: None,
            });
        }

        let etcd = match from_assets(&["etcd"], progress)? {
            Some(folder) => folder,
            None => ETCD.ensure(&cache, progress)?,
        };
        let programs = [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubectl",
        ];
        let kubernetes = match from_assets(&programs, progress)? {
            Some(folder) => folder,
            None => KUBERNETES.ensure(&cache, progress)?,
        };
        let kwok = KWOK.ensure(&cache, progress)?;
        let helm = HELM.ensure(&cache, progress)?;
        Ok(Self {
            kubectl: kubernetes.join("kubectl"),
            helm: helm.join("helm"),
            servers: Some(Servers {
                etcd: etcd.join("etcd"),
                apiserver: kubernetes.join("kube-apiserver"),
                controller_manager: kubernetes.join("kube-controller-manager"),
                scheduler: kubernetes.join("kube-scheduler"),
                kwok: kwok.join("kwok"),
                stages: kwok.join("stages.yaml"),
            }),
        })
    }
}

impl Binaries {
    /// The same with Helm 3 for Helm, built if it is missing: 4 minutes on 2 cores.
    pub fn with_helm_3(self, progress: &dyn Fn(&str)) -> Result<Self> {
        let helm = HELM_3.ensure(&cache_folder()?, progress)?.join("helm");
        Ok(Self { helm, ..self })
    }
}

/// Outside of any clone and of `target`, so that neither a second clone nor `cargo clean` builds again.
fn cache_folder() -> Result<PathBuf> {
    let base = match given("XDG_CACHE_HOME") {
        Some(folder) => folder,
        None => env::home_dir()
            .context("find the home folder for the cache: set XDG_CACHE_HOME")?
            .join(".cache"),
    };
    Ok(base.join("keyturn").join("controlplane"))
}

fn from_assets(programs: &[&str], progress: &dyn Fn(&str)) -> Result<Option<PathBuf>> {
    let Some(folder) = given(ASSETS) else {
        return Ok(None);
    };
    if !folder.is_dir() {
        bail!(
            "{ASSETS} names {}, which is no folder: correct or unset it",
            folder.display()
        );
    }
    if let Some(missing) = programs.iter().find(|program| !folder.join(program).is_file()) {
        progress(&format!(
            "{ASSETS} has no {missing}: not used for {}",
            programs.join(", ")
        ));
        return Ok(None);
    }
    progress(&format!(
        "using {} of {ASSETS}={}",
        programs.join(", "),
        folder.display()
    ));
    Ok(Some(folder))
}

/// An environment variable that is set and not empty.
pub(super) fn given(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// kwok's module carries the stages that play a kubelet; they are its authors' and so not in our repository.
fn collect_stages(module: &Path, output: &Path) -> Result<()> {
    let stages = source_of(module, "sigs.k8s.io/kwok")?.join("kustomize/stage");
    let mut all = String::new();
    for folder in [
        "node/fast",
        "node/heartbeat-with-lease",
        "node/chaos",
        "pod/fast",
        "pod/chaos",
    ] {
        let folder = stages.join(folder);
        let entries =
            fs::read_dir(&folder).with_context(|| format!("read kwok's stages in {}", folder.display()))?;
        let mut files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            let text = match file.extension() {
                Some(extension) if extension == "yaml" => {
                    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?
                }
                _ => continue,
            };
            if text.contains("kind: Stage") {
                all.push_str("---\n");
                all.push_str(text.trim_end());
                all.push('\n');
            }
        }
    }
    fs::write(output.join("stages.yaml"), all).context("write kwok's stages")
}
