//! Keyturn as its chart installs it, run as a process, killed and started again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use testbed::{
    controlplane::ControlPlane,
    operator::{self as testbed_operator, Install, Installed, StartOptions},
    proxy::ApiProxy,
    wait,
};

use crate::harness::{Bed, Place, SOON};

/// The ClusterSecretStore of ExternalSecrets that name none.
pub(crate) const DEFAULT_STORE: &str = "tests-default";

/// A release of the chart and its only process, unless more are started by hand.
pub(crate) struct Operator {
    installed: Installed,
    cluster: &'static ControlPlane,
    options: StartOptions,
    process: Option<testbed_operator::Operator>,
    user: String,
    /// Of all processes that were ever started.
    outputs: Vec<PathBuf>,
}

impl Operator {
    /// Installs the chart for all namespaces and starts one process.
    pub(crate) async fn install(place: &Place) -> Result<Self> {
        let mut operator = Self::installed(place).await?;
        operator.start().await?;
        Ok(operator)
    }

    /// Installs the chart for all namespaces. Nothing is started.
    pub(crate) async fn installed(place: &Place) -> Result<Self> {
        Self::installed_of(place, Path::new(testbed_operator::CHART)).await
    }

    /// The same of another chart.
    pub(crate) async fn installed_of(place: &Place, chart: &Path) -> Result<Self> {
        let mut install = Install::new("keyturn", "keyturn-system");
        chart.clone_into(&mut install.chart);
        // What becomes of stores from before the policy is tried too, and one of them cannot be made under it.
        let values = ["restart.evict=true", "clusterSecretStore.requireScope=false"];
        install.set.extend(values.map(ToOwned::to_owned));
        Self::make(place, install, &[]).await
    }

    /// Installs a release that works in the bed's namespace only; `arguments` are the process's. Nothing is started.
    pub(crate) async fn confined(place: &Place, bed: &Bed, arguments: &[&str]) -> Result<Self> {
        Self::confined_to(place, &[bed], arguments).await
    }

    /// The same for the namespaces of several beds.
    pub(crate) async fn confined_to(place: &Place, beds: &[&Bed], arguments: &[&str]) -> Result<Self> {
        let first = &beds.first().context("a namespace to work in")?.namespace;
        let mut install = Install::new(first, &format!("{first}-system"));
        let namespaces: Vec<_> = beds.iter().map(|bed| bed.namespace.as_str()).collect();
        install
            .set
            .push(format!("scope.namespaces={{{}}}", namespaces.join(",")));
        Self::make(place, install, arguments).await
    }

    /// The same, and its requests to the API server go through a proxy.
    pub(crate) async fn behind_proxy(place: &Place, beds: &[&Bed]) -> Result<(Self, ApiProxy)> {
        let proxy = ApiProxy::start(place.cluster).await?;
        let mut operator = Self::confined_to(place, beds, &[]).await?;
        operator.options.api_server = Some(proxy.url().to_owned());
        Ok((operator, proxy))
    }

    /// From its next start on, runs as this chart and this program say, as after `helm upgrade`.
    pub(crate) async fn upgrade(&mut self, chart: &Path, binary: &Path) -> Result<()> {
        self.installed.upgrade(self.cluster, chart).await?;
        self.options.binary = Some(binary.to_owned());
        Ok(())
    }

    /// The same for a change of the release that the caller makes.
    pub(crate) async fn change(
        &mut self,
        binary: &Path,
        change: impl AsyncFnOnce(&mut Installed, &ControlPlane) -> Result<()>,
    ) -> Result<()> {
        change(&mut self.installed, self.cluster).await?;
        self.options.binary = Some(binary.to_owned());
        Ok(())
    }

    /// From its next start on, has this variable in its environment.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.options
            .environment
            .push((variable.to_owned(), value.to_owned()));
    }

    async fn make(place: &Place, install: Install, arguments: &[&str]) -> Result<Self> {
        let installed = Installed::install(place.cluster, place.aws, install).await?;
        let mut options = StartOptions::default();
        options.arguments.push("--min-refresh-interval=1s".to_owned());
        options.arguments.push(format!("--default-store={DEFAULT_STORE}"));
        options
            .arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let user = format!(
            "system:serviceaccount:{}:{}",
            installed.namespace(),
            installed.service_account()
        );
        Ok(Self {
            installed,
            cluster: place.cluster,
            options,
            process: None,
            user,
            outputs: Vec::new(),
        })
    }

    /// Starts the process and returns when it is ready.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.launch().await?;
        self.process
            .as_mut()
            .context("it was just started")?
            .wait_ready()
            .await
    }

    /// Starts the process and returns at once.
    pub(crate) async fn launch(&mut self) -> Result<()> {
        let process = self.another().await?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts a further replica.
    pub(crate) async fn another(&mut self) -> Result<testbed_operator::Operator> {
        let process = self.installed.start(self.cluster, self.options.clone()).await?;
        self.outputs
            .extend([process.log().to_owned(), process.audit().to_owned()]);
        Ok(process)
    }

    /// Kills the process with `SIGKILL`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.take().context("no process runs")?.kill9()
    }

    /// Ends the process as the kubelet would.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        let status = self
            .process
            .take()
            .context("no process runs")?
            .terminate()
            .await?;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// The process, which goes on beside the next one that is started.
    pub(crate) fn take(&mut self) -> Result<testbed_operator::Operator> {
        self.process.take().context("no process runs")
    }

    /// The process.
    pub(crate) fn process(&mut self) -> Result<&mut testbed_operator::Operator> {
        self.process.as_mut().context("no process runs")
    }

    /// Text of its page of metrics.
    pub(crate) async fn metrics(&self) -> Result<testbed_operator::Metrics> {
        self.process.as_ref().context("no process runs")?.metrics().await
    }

    /// The user that the API server sees.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The operator's own namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.installed.namespace()
    }

    /// All that its processes have ever written, logs and audit logs.
    pub(crate) fn log(&self) -> Result<String> {
        let mut text = String::new();
        for file in &self.outputs {
            text += &fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        }
        Ok(text)
    }

    /// The holder of its Lease.
    pub(crate) async fn holder(&self, client: &Client) -> Result<Option<String>> {
        let leases = Api::<Lease>::namespaced(client.clone(), self.namespace())
            .list(&ListParams::default())
            .await?;
        let holders = leases.into_iter().filter_map(|lease| lease.spec?.holder_identity);
        Ok(holders.into_iter().find(|holder| !holder.is_empty()))
    }

    /// Waits until somebody other than `former` leads; how long it took.
    pub(crate) async fn led(&self, client: &Client, former: Option<&str>) -> Result<(String, Duration)> {
        let begun = std::time::Instant::now();
        let holder = wait::until("a leader", SOON, async || {
            let holder = self.holder(client).await?;
            Ok(holder.filter(|holder| former != Some(holder.as_str())))
        })
        .await?;
        Ok((holder, begun.elapsed()))
    }

    /// Removes the Lease of a killed process, as its 30 s would: nobody is left who observed it.
    pub(crate) async fn expire_lease(&self, client: &Client) -> Result<()> {
        Api::<Lease>::namespaced(client.clone(), self.namespace())
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .context("delete the Lease")
            .map(drop)
    }
}
