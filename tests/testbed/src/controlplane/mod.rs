//! A real Kubernetes control plane for tests, the demo and the bench, without Docker or a cluster.
//!
//! etcd, the API server (RBAC on, `ServiceAccount` tokens signed and their keys served), the controller manager and the
//! scheduler are the released ones, built from their Go modules; kwok plays the kubelets of a few nodes, so that
//! pods run and workloads roll. Everything listens on 127.0.0.1, writes into one temporary folder, and is gone
//! when the [`ControlPlane`] is dropped or its process ends in whatever way. Several may run side by side.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::controlplane::{Binaries, ControlPlane, Options};
//!
//! let binaries = Binaries::ensure(&|line| eprintln!("{line}"))?;
//! let cluster = ControlPlane::start(&binaries, Options::default()).await?;
//! let namespace = cluster.namespace("demo").await?;
//! cluster.kubectl(["--namespace", &namespace, "create", "deployment", "web", "--image=web"]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Pods that shall fail say so by an annotation, `testbed.keyturn.dev/never-ready-with` or
//! `testbed.keyturn.dev/crash-loop-with`, whose value is the key of an annotation: a pod that carries that key never
//! becomes ready, or crashes. With the key that a restart adds, the pods of a workload are well until it is restarted.
//!
//! With `KEYTURN_TEST_KUBECONFIG` set, nothing is built or started and that cluster is used; what needs our own
//! processes (an outage, the audit log) fails and says so.

mod binaries;
mod certs;
mod client;
mod components;
mod go;
mod kubeconfig;
mod local;
mod nodes;
pub(crate) mod ports;
mod sandbox;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{Mutex, OnceCell};

pub use self::binaries::Binaries;
use self::client::READ_TIMEOUT;
use self::local::Local;
use self::sandbox::Sandbox;
pub(crate) use self::sandbox::{Component, Launch};
use crate::wait;

/// Until nodes are ready or a namespace has its `ServiceAccount`; a second or two on an idle machine.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);
/// Longer than any watch is quiet: the API server ends watches after at most an hour.
const CLIENT_READ_TIMEOUT: Duration = Duration::from_hours(2);
/// Life of a `ServiceAccount`'s token, in seconds; [`ControlPlane::kubeconfig_for`] may be called again.
const TOKEN_SECONDS: i64 = 3600;

/// What a control plane of our own is like; of no effect on a cluster that is given.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes to create, `node-0` and so on; each takes any number of pods.
    pub nodes: usize,
    /// Whether every request is written to [`ControlPlane::audit_log`].
    pub audit: bool,
    /// Further arguments of `kube-apiserver`; they come last, and so win over ours where a flag takes one value.
    pub apiserver_arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            audit: true,
            apiserver_arguments: Vec::new(),
        }
    }
}

/// A running control plane; dropping it ends its processes and removes its folder.
pub struct ControlPlane {
    // Before `sandbox`, so that the processes end before their folder goes.
    local: Option<Local>,
    sandbox: Sandbox,
    binaries: Binaries,
    kubeconfig: PathBuf,
    issuer: String,
    /// One chart is installed at a time, so that the first brings the CRDs and the others find them.
    pub(crate) installing: Mutex<()>,
}

impl ControlPlane {
    /// Starts everything and returns when pods can be created and run; about ten seconds on 2 cores.
    pub async fn start(binaries: &Binaries, options: Options) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let nodes = options.nodes;
        let (local, kubeconfig) = if let Some(servers) = &binaries.servers {
            let local = Local::start(&sandbox, servers, options).await?;
            let kubeconfig = local.layout.admin.clone();
            (Some(local), kubeconfig)
        } else {
            let given = binaries::given(binaries::CLUSTER);
            (
                None,
                given.with_context(|| format!("{} is no longer set", binaries::CLUSTER))?,
            )
        };
        let client = client::from(&kubeconfig, READ_TIMEOUT).await?;
        if let Some(local) = &local {
            nodes::create(&client, nodes).await?;
            local
                .until("the nodes to be ready", SETTLE_LIMIT, async || {
                    nodes::ready(&client).await
                })
                .await?;
            local
                .until("the default ServiceAccount", SETTLE_LIMIT, async || {
                    has_service_account(&client, "default").await
                })
                .await?;
        }
        let issuer = issuer(&client).await?;
        Ok(Self {
            local,
            sandbox,
            binaries: binaries.clone(),
            kubeconfig,
            issuer,
            installing: Mutex::default(),
        })
    }

    /// The one control plane that all tests of a process share, started by the first that asks; each works in
    /// a [`Self::namespace`] of its own. It ends with the process.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        let start = async || {
            let build = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| tracing::info!("{line}")));
            let binaries = build.await.context("build the control plane")??;
            Self::start(&binaries, Options::default()).await
        };
        SHARED.get_or_try_init(start).await
    }

    /// A kubeconfig for a user who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new client for a user who may do everything. Its connections belong to the runtime that asks: do not share
    /// one between tests. It does not retry.
    pub async fn client(&self) -> Result<Client> {
        client::from(&self.kubeconfig, CLIENT_READ_TIMEOUT).await
    }

    /// Writes a kubeconfig that names a file with a fresh token of an existing `ServiceAccount`, valid for an hour.
    /// Calling it again renews the token in the same file.
    pub async fn kubeconfig_for(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.token(namespace, name, &[], TOKEN_SECONDS).await?;
        let folder = self
            .sandbox
            .path()
            .join("service-accounts")
            .join(namespace)
            .join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let token_file = folder.join("token");
        // Renamed into place: a client must never read half of it.
        let new = folder.join("token.new");
        fs::write(&new, token).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &token_file).with_context(|| format!("replace {}", token_file.display()))?;
        let kubeconfig = folder.join("kubeconfig");
        kubeconfig::write_with_token(&kubeconfig, &self.kubeconfig, &token_file, None)?;
        Ok(kubeconfig)
    }

    /// As [`Self::kubeconfig_for`], of a file of its own that leads to `server` instead of the API server.
    pub async fn kubeconfig_through(&self, namespace: &str, name: &str, server: &str) -> Result<PathBuf> {
        let direct = self.kubeconfig_for(namespace, name).await?;
        let folder = direct.parent().context("a kubeconfig is in a folder")?;
        let kubeconfig = folder.join("kubeconfig.proxied");
        kubeconfig::write_with_token(&kubeconfig, &self.kubeconfig, &folder.join("token"), Some(server))?;
        Ok(kubeconfig)
    }

    /// A token of a `ServiceAccount` by `TokenRequest`; no audiences means the API server's own.
    pub async fn token(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[&str],
        seconds: i64,
    ) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.iter().map(ToString::to_string).collect(),
                expiration_seconds: Some(seconds),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let answer = Api::<ServiceAccount>::namespaced(self.client().await?, namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("request a token of the ServiceAccount {namespace}/{name}"))?;
        let status = answer
            .status
            .context("the API server answered a TokenRequest without a token")?;
        Ok(status.token)
    }

    /// Creates a namespace whose name starts with `prefix`, and returns its name when pods can be created in it.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let client = self.client().await?;
        let new = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let created = Api::all(client.clone())
            .create(&PostParams::default(), &new)
            .await
            .with_context(|| format!("create the namespace {prefix}-..."))?;
        let name = created.name_any();
        let what = format!("the ServiceAccount default of the namespace {name}");
        wait::until(&what, SETTLE_LIMIT, async || {
            has_service_account(&client, &name).await
        })
        .await?;
        Ok(name)
    }

    /// The issuer in `ServiceAccount` tokens, an `https` URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public keys of `ServiceAccount` tokens, a JSON Web Key Set.
    pub async fn jwks(&self) -> Result<Vec<u8>> {
        Ok(client::get(&self.client().await?, "/openid/v1/jwks")
            .await?
            .into_bytes())
    }

    /// One JSON object (`audit.k8s.io/v1` Event) a line for each stage of a request, written before it is answered;
    /// `None` without [`Options::audit`] or of a given cluster.
    pub fn audit_log(&self) -> Option<&Path> {
        self.local.as_ref()?.layout.audit_log.as_deref()
    }

    /// The temporary folder; `logs/` in it has a file for each component.
    pub fn folder(&self) -> &Path {
        self.sandbox.path()
    }

    /// The processes that run, with their ids.
    pub fn process_ids(&self) -> Vec<(String, u32)> {
        self.local.as_ref().map(Local::process_ids).unwrap_or_default()
    }

    /// Kills the API server: an outage, until [`Self::start_apiserver`]. The controllers, the scheduler and kwok, which
    /// can do nothing then, stop and start with it.
    pub fn stop_apiserver(&self) -> Result<()> {
        self.own("stop the API server")?.stop_apiserver();
        Ok(())
    }

    /// Starts the API server on the port that it had and returns when it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.own("start the API server")?
            .start_apiserver(&self.sandbox)
            .await
    }

    /// Kills the API server and starts it again.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.stop_apiserver()?;
        self.start_apiserver().await
    }

    /// Runs helm as the administrator, with settings and caches of its own; returns what it prints.
    pub async fn helm<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        tools::run(
            &self.binaries.helm,
            &self.kubeconfig,
            self.sandbox.path(),
            arguments,
        )
        .await
    }

    /// Runs kubectl as the administrator; returns what it prints.
    pub async fn kubectl<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        tools::run(
            &self.binaries.kubectl,
            &self.kubeconfig,
            self.sandbox.path(),
            arguments,
        )
        .await
    }

    /// Makes the `CustomResourceDefinition`s of a kustomization, and waits until they are served.
    pub async fn define(&self, kustomization: &Path) -> Result<()> {
        let kustomization = kustomization.display().to_string();
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--kustomize",
            &kustomization,
        ];
        self.kubectl(apply).await?;
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "--all",
            "crd",
        ];
        self.kubectl(established).await.map(drop)
    }

    /// Starts a program that lives no longer than this control plane.
    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<Component> {
        self.sandbox.launch(launch)
    }

    fn own(&self, attempt: &str) -> Result<&Local> {
        let Some(local) = &self.local else {
            bail!(
                "cannot {attempt} of the cluster that {} names: unset it",
                binaries::CLUSTER
            );
        };
        Ok(local)
    }
}

async fn has_service_account(client: &Client, namespace: &str) -> Result<Option<()>> {
    let api = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let found = api
        .get_opt("default")
        .await
        .with_context(|| format!("get the ServiceAccount {namespace}/default"))?;
    Ok(found.map(|_| ()))
}

async fn issuer(client: &Client) -> Result<String> {
    let text = client::get(client, "/.well-known/openid-configuration").await?;
    let discovery: serde_json::Value =
        serde_json::from_str(&text).context("read the issuer's discovery document")?;
    let issuer = discovery.get("issuer").and_then(serde_json::Value::as_str);
    Ok(issuer
        .context("the issuer's discovery document names no issuer")?
        .to_owned())
}
