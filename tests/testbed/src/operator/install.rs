//! The chart into the cluster, its identity into AWS, and the process that its Deployment describes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::deployment::Described;
use super::process::Operator;
use crate::aws::{Control, documents};
use crate::controlplane::{ControlPlane, Launch, ports};

/// The chart of this repository.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/keyturn");
/// A CRD of the chart: with it, all are there.
const CRD: &str = "externalsecrets.keyturn.dev";
/// What a binary of the operator is called, and how the caller names another.
const BINARY: &str = "keyturn";
const BINARY_VARIABLE: &str = "KEYTURN_BIN";

/// The audience for which EKS issues tokens, and how long they live there, in seconds.
const AUDIENCE: &str = "sts.amazonaws.com";
const TOKEN_SECONDS: i64 = 86_400;
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

/// What to install.
#[derive(Debug, Clone)]
pub struct Install {
    /// The chart's folder.
    pub chart: PathBuf,
    /// The Helm release; another one beside it must work in other namespaces.
    pub release: String,
    /// Made if it is not there.
    pub namespace: String,
    /// The role that the operator's `ServiceAccount` assumes; made in the emulator, which trusts that one only.
    pub role: String,
    /// The region of the operator.
    pub region: String,
    /// Policies of the role (JSON).
    pub policies: Vec<String>,
    /// Further values, as `helm --set` takes them.
    pub set: Vec<String>,
    /// Further values, as a YAML document.
    pub values: Option<String>,
}

impl Install {
    /// A release with a role of its name in account 111122223333, in `eu-central-1`, that allows nothing.
    pub fn new(release: &str, namespace: &str) -> Self {
        Self {
            chart: PathBuf::from(CHART),
            release: release.to_owned(),
            namespace: namespace.to_owned(),
            role: format!("arn:aws:iam::111122223333:role/{namespace}-{release}"),
            region: "eu-central-1".to_owned(),
            policies: Vec::new(),
            set: Vec::new(),
            values: None,
        }
    }
}

/// Where an upgrade gets its values from.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// Those that were set are set again; the rest is the new chart's.
    Given,
    /// `--reuse-values`: all of the release before, defaults of its chart among them.
    Reused,
    /// `--reset-then-reuse-values`: those that were set before; the rest is the new chart's.
    ResetThenReused,
}

/// How to start the process.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// `KEYTURN_BIN`, or else the one that was built beside this program.
    pub binary: Option<PathBuf>,
    /// The Pod's name, so that a container that was killed comes back under it. `None`: a new one.
    pub pod_name: Option<String>,
    /// What it logs, see `keyturn run --log`; `None`: as the chart says.
    pub log: Option<String>,
    /// Arguments (`--flag=value`) in place of the chart's or beside them.
    pub arguments: Vec<String>,
    /// Variables in place of the chart's or beside them.
    pub environment: Vec<(String, String)>,
    /// Reaches the API server at this address, of an [`ApiProxy`](crate::proxy::ApiProxy).
    pub api_server: Option<String>,
}

/// An installed chart; it stays installed for as long as the control plane lives.
#[derive(Debug)]
pub struct Installed {
    release: String,
    namespace: String,
    region: String,
    /// Values that were set, as `helm --set` takes them.
    set: Vec<String>,
    endpoint: String,
    deployment: Deployment,
    service_account: String,
    started: AtomicUsize,
}

impl Installed {
    /// Installs the chart, makes its role, and registers the cluster as a provider of web identities.
    pub async fn install(cluster: &ControlPlane, aws: &Control, install: Install) -> Result<Self> {
        let Install {
            chart,
            release,
            namespace,
            role,
            region,
            policies,
            set,
            values,
        } = install;
        let issuer = cluster.issuer();
        let keys = String::from_utf8(cluster.jwks().await?).context("read the cluster's keys")?;
        aws.set_oidc_provider(issuer, &keys)?;

        let one_at_a_time = cluster.installing.lock().await;
        let client = cluster.client().await?;
        let crds = Api::<CustomResourceDefinition>::all(client.clone())
            .get_opt(CRD)
            .await
            .context("look for the CRDs")?;
        let mut arguments: Vec<String> = [
            "install",
            &release,
            "--namespace",
            &namespace,
            "--create-namespace",
        ]
        .map(ToOwned::to_owned)
        .to_vec();
        arguments.push(chart.display().to_string());
        let mut all = vec![
            format!("aws.region={region}"),
            format!("aws.roleArn={role}"),
            // CRDs belong to the release that brought them.
            format!("crds.install={}", crds.is_none()),
        ];
        all.extend(set);
        arguments.extend(setting(&all));
        if let Some(values) = values {
            let file = cluster
                .folder()
                .join(format!("{namespace}-{release}.values.yaml"));
            fs::write(&file, values).with_context(|| format!("write {}", file.display()))?;
            arguments.extend(["--values".to_owned(), file.display().to_string()]);
        }
        cluster.helm(arguments).await?;
        drop(one_at_a_time);

        let deployment = deployment_of(&client, &namespace, &release).await?;
        let service_account = Described::of(&deployment, "")?.service_account;
        let account = role.split(':').nth(4).unwrap_or_default();
        let trust = documents::trust_service_account(
            account,
            issuer,
            &format!("system:serviceaccount:{namespace}:{service_account}"),
        );
        let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
        aws.create_role(&role, &trust, &policies)?;
        Ok(Self {
            release,
            namespace,
            region,
            set: all,
            endpoint: aws.url().to_owned(),
            deployment,
            service_account,
            started: AtomicUsize::new(0),
        })
    }

    /// Upgrades the release to another chart, with the values that were set; what is started from now on runs as that says.
    pub async fn upgrade(&mut self, cluster: &ControlPlane, chart: &Path) -> Result<()> {
        self.upgrade_as(cluster, chart, Values::ResetThenReused).await
    }

    /// The same with the values from where `values` says.
    pub async fn upgrade_as(&mut self, cluster: &ControlPlane, chart: &Path, values: Values) -> Result<()> {
        let chart = chart.display().to_string();
        let (release, namespace) = (self.release.as_str(), self.namespace.as_str());
        let mut arguments: Vec<String> = ["upgrade", release, &chart, "--namespace", namespace]
            .map(ToOwned::to_owned)
            .to_vec();
        match values {
            Values::Given => arguments.extend(setting(&self.set)),
            Values::Reused => arguments.push("--reuse-values".to_owned()),
            Values::ResetThenReused => arguments.push("--reset-then-reuse-values".to_owned()),
        }
        cluster.helm(arguments).await?;
        self.read(cluster).await
    }

    /// Takes the release back to what it was before its last change.
    pub async fn roll_back(&mut self, cluster: &ControlPlane) -> Result<()> {
        let arguments = [
            "rollback",
            self.release.as_str(),
            "--namespace",
            self.namespace.as_str(),
        ];
        cluster.helm(arguments).await?;
        self.read(cluster).await
    }

    /// Applies what another chart renders, as users do who install by manifests.
    pub async fn apply(&mut self, cluster: &ControlPlane, chart: &Path) -> Result<()> {
        let chart = chart.display().to_string();
        let (release, namespace) = (self.release.as_str(), self.namespace.as_str());
        let mut arguments: Vec<String> = ["template", release, &chart, "--namespace", namespace]
            .map(ToOwned::to_owned)
            .to_vec();
        arguments.extend(setting(&self.set));
        let file = cluster
            .folder()
            .join(format!("{namespace}-{release}.rendered.yaml"));
        fs::write(&file, cluster.helm(arguments).await?)
            .with_context(|| format!("write {}", file.display()))?;
        let file = file.display().to_string();
        cluster
            .kubectl(["apply", "--server-side", "--force-conflicts", "--filename", &file])
            .await?;
        self.read(cluster).await
    }

    /// What is started from now on runs as the Deployment says now.
    async fn read(&mut self, cluster: &ControlPlane) -> Result<()> {
        let client = cluster.client().await?;
        self.deployment = deployment_of(&client, &self.namespace, &self.release).await?;
        Ok(())
    }

    /// The operator's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The operator's `ServiceAccount`.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// Starts one replica; each gets a name, a port and files of its own.
    pub async fn start(&self, cluster: &ControlPlane, options: StartOptions) -> Result<Operator> {
        let StartOptions {
            binary,
            pod_name,
            log,
            arguments,
            environment,
            api_server,
        } = options;
        let binary = match binary {
            Some(binary) => binary,
            None => built()?,
        };
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let pod_name = pod_name.unwrap_or_else(|| format!("{}-{number}", self.deployment.name_any()));
        let name = format!("operator-{}-{}-{number}", self.namespace, self.release);
        let [port, health] = ports::free()?;
        let mut described = Described::of(&self.deployment, &pod_name)?;
        described.set_argument(&format!("--listen=127.0.0.1:{port}"));
        if described.has_argument("--health-listen") {
            described.set_argument(&format!("--health-listen=127.0.0.1:{health}"));
        }
        if let Some(log) = log {
            described.set_argument(&format!("--log={log}"));
        }
        for argument in &arguments {
            described.set_argument(argument);
        }

        let (namespace, account) = (&self.namespace, &self.service_account);
        let kubeconfig = match api_server {
            Some(server) => cluster.kubeconfig_through(namespace, account, &server).await?,
            None => cluster.kubeconfig_for(namespace, account).await?,
        };
        let Described {
            arguments,
            environment: mut variables,
            ..
        } = described;
        for (name, value) in self.web_identity(cluster, &name).await? {
            // As the webhook: what the manifest says wins.
            variables.entry(name).or_insert(value);
        }
        variables.extend([
            ("KUBECONFIG".to_owned(), kubeconfig.display().to_string()),
            ("AWS_ENDPOINT_URL".to_owned(), self.endpoint.clone()),
            ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()),
        ]);
        variables.extend(environment);

        let logs = cluster.folder().join("logs");
        let log = logs.join(format!("{name}.log"));
        let audit = logs.join(format!("{name}.audit.log"));
        let variables: Vec<(String, String)> = variables.into_iter().collect();
        let started = Timestamp::now();
        let component = cluster.launch(&Launch {
            name: &name,
            program: &binary,
            arguments: &arguments,
            environment: &variables,
            stdout: &audit,
            stderr: &log,
        })?;
        Ok(Operator {
            component,
            port,
            health,
            user: format!(
                "system:serviceaccount:{}:{}",
                self.namespace, self.service_account
            ),
            pod_name,
            log,
            audit,
            started,
        })
    }

    /// What the Pod identity webhook of EKS adds for a `ServiceAccount` with a role.
    async fn web_identity(&self, cluster: &ControlPlane, name: &str) -> Result<Vec<(String, String)>> {
        let (namespace, service_account) = (&self.namespace, &self.service_account);
        let account = Api::<ServiceAccount>::namespaced(cluster.client().await?, namespace)
            .get(service_account)
            .await
            .with_context(|| format!("get the ServiceAccount {namespace}/{service_account}"))?;
        let Some(role) = account.annotations().get(ROLE_ANNOTATION) else {
            return Ok(Vec::new());
        };
        let token = cluster
            .token(namespace, service_account, &[AUDIENCE], TOKEN_SECONDS)
            .await?;
        let file = cluster
            .folder()
            .join("service-accounts")
            .join(format!("{name}.aws-token"));
        fs::write(&file, token).with_context(|| format!("write {}", file.display()))?;
        Ok([
            ("AWS_ROLE_ARN", role.clone()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.display().to_string()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
            ("AWS_STS_REGIONAL_ENDPOINTS", "regional".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec())
    }
}

/// `--set` before each.
fn setting(values: &[String]) -> impl Iterator<Item = String> {
    values
        .iter()
        .flat_map(|value| ["--set".to_owned(), value.clone()])
}

async fn deployment_of(client: &Client, namespace: &str, release: &str) -> Result<Deployment> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace)
        .list(&ListParams::default().labels(&format!("app.kubernetes.io/instance={release}")))
        .await
        .with_context(|| format!("list the Deployments of the release {release}"))?;
    let [deployment] = <[Deployment; 1]>::try_from(deployments.items)
        .map_err(|found| anyhow::anyhow!("the chart made {} Deployments instead of one", found.len()))?;
    Ok(deployment)
}

/// The operator's binary of the same build: beside this program, or above it for a test in `deps/`.
pub fn built() -> Result<PathBuf> {
    if let Some(binary) = env::var_os(BINARY_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(binary));
    }
    let program = env::current_exe().context("find the folder of this program")?;
    let found = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder: &Path| folder.join(BINARY))
        .find(|binary| binary.is_file());
    let Some(found) = found else {
        bail!(
            "{BINARY} is not beside {}: build it, or name it in {BINARY_VARIABLE}",
            program.display()
        );
    };
    Ok(found)
}
