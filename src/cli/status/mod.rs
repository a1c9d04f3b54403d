//! `keyturn status`: what is not well or not idle, for people; reads only.

mod causes;
mod report;
mod restarts;
mod stores;
mod table;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::Resource;
use serde::de::DeserializeOwned;

use self::{
    report::{ClusterState, Lookup, Report, Verdict},
    stores::{Store, StoreObject},
};
use crate::{
    api::{ClusterSecretStore, ExternalSecret, ObjectKey, SecretStore, StoreKind, names::CONTROL_CONFIG_MAP},
    cluster::{Access, Class, Cluster, Control, Error, Metrics},
};

/// The arguments of `keyturn status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Namespace to look at; all where none is named
    #[arg(short, long)]
    namespace: Option<String>,
    /// Look at all namespaces, as without --namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Kubeconfig to use; else KUBECONFIG, or ~/.kube/config
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, if not its current one
    #[arg(long)]
    context: Option<String>,
    /// Namespace of the operator: its Lease and the ConfigMap keyturn-control
    #[arg(long, default_value = "keyturn")]
    operator_namespace: String,
    /// Name of the operator's Lease
    #[arg(long, default_value = "keyturn")]
    lease_name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Status {
    /// Reads and prints. The exit code is 0 if all is well, 1 if something needs a person, and 2 if not all could be seen.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let output = self.output;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let report = runtime.block_on(self.look())?;
        let text = match output {
            Output::Table => table::table(&report),
            Output::Json => serde_json::to_string_pretty(&report).context("failed to write JSON")? + "\n",
        };
        io::stdout()
            .write_all(text.as_bytes())
            .context("failed to write to stdout")?;
        Ok(match report.verdict {
            Verdict::Well => ExitCode::SUCCESS,
            Verdict::Attention => ExitCode::from(1),
            Verdict::Unknown => ExitCode::from(2),
        })
    }

    /// Asks the API server: the Lease, the ConfigMap, the ExternalSecrets, the stores. Every call has its time-out.
    async fn look(self) -> anyhow::Result<Report> {
        let Self {
            namespace,
            all_namespaces: _,
            output: _,
            kubeconfig,
            context,
            operator_namespace,
            lease_name,
        } = self;
        let access = Access { kubeconfig, context };
        let cluster = Cluster::connect(&access, Metrics::default()).await?;
        let lease_key = ObjectKey::new(operator_namespace.as_str(), lease_name);
        let lease = seen::<Lease>(&cluster, &lease_key).await?;
        let control = ObjectKey::new(operator_namespace, CONTROL_CONFIG_MAP);
        let control = match seen::<ConfigMap>(&cluster, &control).await? {
            Lookup::Found(map) => Lookup::Found(Control::read(&map.data.unwrap_or_default())),
            Lookup::Absent => Lookup::Absent,
            Lookup::Forbidden => Lookup::Forbidden,
        };
        let place = namespace.as_deref().unwrap_or_default();
        let listed = cluster
            .find_all::<ExternalSecret, report::Object, _>(place, None, Some)
            .await;
        let found = listed.map_err(|error| match error.class {
            Class::NotFound => anyhow!("the API server knows no ExternalSecrets: the CRDs are not installed"),
            Class::Forbidden if place.is_empty() => {
                anyhow!("you may not list the ExternalSecrets of all namespaces: name one with -n")
            }
            _ => error.into(),
        })?;
        let mut state = ClusterState {
            now: cluster.time().now(),
            lease_key,
            lease,
            control,
            objects: found.objects,
            unreadable: found.malformed,
            stores: Vec::new(),
            unlisted: Vec::new(),
        };
        state
            .add_stores::<SecretStore>(&cluster, StoreKind::SecretStore, place)
            .await?;
        state
            .add_stores::<ClusterSecretStore>(&cluster, StoreKind::ClusterSecretStore, "")
            .await?;
        Ok(report::report(state))
    }
}

impl ClusterState {
    /// Lists the stores of one kind. Those that may not be listed are noted: ExternalSecrets tell whether theirs works.
    async fn add_stores<K>(&mut self, cluster: &Cluster, kind: StoreKind, place: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()>,
    {
        match cluster.find_all::<K, StoreObject, _>(place, None, Some).await {
            Ok(found) => {
                self.unreadable += found.malformed;
                self.stores
                    .extend(found.objects.into_iter().map(|object| Store { kind, object }));
                Ok(())
            }
            Err(Error {
                class: Class::Forbidden | Class::NotFound,
                ..
            }) => {
                self.unlisted.push(kind.as_str());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads an object that may be absent, or not ours to read: neither is a reason to show nothing.
async fn seen<K>(cluster: &Cluster, key: &ObjectKey) -> Result<Lookup<K>, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    match cluster.find(key).await {
        Ok(Some(object)) => Ok(Lookup::Found(object)),
        Ok(None) => Ok(Lookup::Absent),
        Err(Error {
            class: Class::Forbidden,
            ..
        }) => Ok(Lookup::Forbidden),
        Err(error) => Err(error),
    }
}
