//! The cluster, AWS, and the objects that are measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use testbed::aws::{AwsEmulator, Calls, Fault, Match, Options as AwsOptions, documents};
use testbed::conditions::{condition, external_secrets};
use testbed::controlplane::{Binaries, ControlPlane, Options};
use testbed::operator::{Install, Installed, Operator, StartOptions, Usage};
use testbed::requests::{self, Requests};
use testbed::{manifest, wait};

pub(super) const ACCOUNT: &str = "111122223333";
pub(super) const REGION: &str = "eu-central-1";
/// Where the measured objects live.
pub(super) const NAMESPACE: &str = "bench";
/// As many requests at once as the operator may have.
pub(super) const CONNECTIONS: usize = 32;
/// For the slowest part: everything synced, or everything gone.
const LIMIT: Duration = Duration::from_mins(5);
/// And for each object so much more, several times what a busy machine needs.
const LIMIT_EACH: Duration = Duration::from_millis(30);
/// How often the audit log is looked at, in which a part's end is seen.
const LOOK: Duration = Duration::from_millis(250);
const STORE: &str = r#"
apiVersion: keyturn.dev/v1
kind: ClusterSecretStore
metadata: {name: aws}
spec:
  provider: {aws: {region: eu-central-1, changeDetection: MODE}}
  allowedKeys: ["
    * *"]
"#;

/// What the parts of the bench work on. Dropped in the order of the fields.
pub(super) struct World {
    installed: Installed,
    pub(super) aws: AwsEmulator,
    pub(super) client: Client,
    pub(super) cluster: ControlPlane,
    /// The ARNs of the secrets.
    pub(super) arns: Vec<String>,
}

/// A first sync, from the start of the process.
pub(super) struct FirstSync {
    /// From the start of the process to the answer to its last write.
    pub(super) time: Duration,
    pub(super) calls: Calls,
    pub(super) requests: Requests,
    pub(super) usage: Usage,
}

/// Some time in which nothing changes.
pub(super) struct Steady {
    pub(super) calls: Calls,
    pub(super) requests: Requests,
    /// Of one core.
    pub(super) cpu_percent: f64,
    pub(super) usage: Usage,
}

impl World {
    pub(super) async fn new(binaries: &Binaries, secrets: usize, latency: Duration) -> Result<Self> {
        let cluster = ControlPlane::start(binaries, Options::default()).await?;
        let client = cluster.client().await?;
        let aws = AwsEmulator::start(AwsOptions::default())?;
        aws.add_fault(Match::all(), Fault::latency(latency));
        let arns = (0..secrets)
            .map(|number| aws.create_secret(ACCOUNT, REGION, &key(number), first_value(number)))
            .collect::<Result<Vec<_>, _>>()?;
        let install = Install {
            policies: vec![documents::allow(&["secretsmanager:*"], &["*"])],
            ..Install::new("keyturn", "keyturn")
        };
        let installed = Installed::install(&cluster, &aws, install).await?;
        for namespace in [NAMESPACE, super::floor::NAMESPACE] {
            manifest::apply(
                &client,
                &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"),
            )
            .await?;
        }
        Ok(Self {
            installed,
            aws,
            client,
            cluster,
            arns,
        })
    }

    /// Sets how changes are found.
    pub(super) async fn set_mode(&self, mode: &'static str) -> Result<()> {
        manifest::apply(&self.client, &STORE.replace("MODE", mode)).await?;
        Ok(())
    }

    /// Starts the operator; it is ready when this returns, after the time that is given.
    pub(super) async fn start(&self) -> Result<(Operator, Duration)> {
        self.start_with(&[]).await
    }

    /// The same with arguments of its own.
    pub(super) async fn start_with(&self, arguments: &[String]) -> Result<(Operator, Duration)> {
        let options = StartOptions {
            arguments: arguments.to_vec(),
            ..StartOptions::default()
        };
        let mut operator = self.installed.start(&self.cluster, options).await?;
        let started = operator.started();
        let ready = async {
            while !operator.is_ready().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            since(started)
        };
        if let Ok(time) = tokio::time::timeout(Duration::from_secs(30), ready).await {
            return Ok((operator, time));
        }
        operator.wait_ready().await?;
        let time = since(operator.started());
        Ok((operator, time))
    }

    /// Starts the operator with `objects` ExternalSecrets waiting for it, and waits until all are synced and right.
    pub(super) async fn first_sync(&self, objects: usize) -> Result<(Operator, FirstSync)> {
        let mut mark = requests::mark(&self.cluster)?;
        let calls = self.aws.mark();
        let (operator, _) = self.start().await?;
        let mut all = Requests::default();
        let what = format!("the first sync of {objects} ExternalSecrets");
        let (mut secrets, mut statuses) = (0, 0);
        let limit = LIMIT + LIMIT_EACH * u32::try_from(objects)?;
        let deadline = tokio::time::Instant::now() + limit;
        while secrets < objects || statuses < objects {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "waited {} s for {what}: {secrets} Secrets and {statuses} statuses were written",
                limit.as_secs()
            );
            tokio::time::sleep(LOOK).await;
            let new = requests::advance(&self.cluster, &mut mark)?
                .of(operator.user())
                .only(|request| request.code < 300);
            secrets += new.count("create", "secrets");
            statuses += new.count("patch", "externalsecrets/status");
            all.0.extend(new.0);
        }
        let usage = operator.usage()?;
        let calls = self.aws.calls_since(calls);
        let last = all
            .0
            .iter()
            .filter(|request| request.namespace == NAMESPACE && request.writes());
        let last = last
            .map(|request| request.answered)
            .max()
            .context("nothing was written")?;
        let time = Duration::try_from(last.duration_since(operator.started())).unwrap_or_default();
        self.all_is_right(objects).await?;
        let sync = FirstSync {
            time,
            calls,
            requests: all,
            usage,
        };
        Ok((operator, sync))
    }

    /// Looks at some time in which nothing changes.
    pub(super) async fn steady(&self, operator: &Operator, time: Duration) -> Result<Steady> {
        let (calls, mark) = (self.aws.mark(), requests::mark(&self.cluster)?);
        let before = operator.usage()?;
        tokio::time::sleep(time).await;
        let usage = operator.usage()?;
        Ok(Steady {
            calls: self.aws.calls_since(calls),
            requests: requests::since(&self.cluster, mark)?.of(operator.user()),
            cpu_percent: (usage.cpu_seconds - before.cpu_seconds) / time.as_secs_f64() * 100.0,
            usage,
        })
    }

    /// Every ExternalSecret is ready, every Secret holds what AWS holds.
    async fn all_is_right(&self, objects: usize) -> Result<()> {
        let found = external_secrets(&self.client, NAMESPACE)
            .list(&ListParams::default())
            .await
            .context("list ExternalSecrets")?;
        ensure!(
            found.items.len() == objects,
            "{} ExternalSecrets are there",
            found.items.len()
        );
        for object in &found {
            let ready = condition(object, "Ready");
            ensure!(
                ready.as_ref().is_some_and(|ready| ready.status == "True"),
                "{} is not ready: {ready:?}",
                object.name_any()
            );
        }
        let secrets = Api::<Secret>::namespaced(self.client.clone(), NAMESPACE)
            .list(&ListParams::default())
            .await
            .context("list Secrets")?;
        let mut right = 0;
        for secret in &secrets {
            let number = secret
                .annotations()
                .get("bench")
                .and_then(|number| number.parse().ok());
            let data = secret.data.as_ref().and_then(|data| data.get("value"));
            right += usize::from(number.is_some_and(|number: usize| {
                data.is_some_and(|data| data.0.starts_with(first_value(number).as_bytes()))
            }));
        }
        ensure!(
            right == objects,
            "{right} of {objects} Secrets hold what AWS holds"
        );
        Ok(())
    }

    /// Makes ExternalSecrets `0..objects`, each of the secret that `secret` says.
    pub(super) async fn create(
        &self,
        namespace: &str,
        objects: usize,
        interval: &str,
        secret: impl Fn(usize) -> usize,
    ) -> Result<Vec<DynamicObject>> {
        let api = external_secrets(&self.client, namespace);
        let made = (0..objects).map(|number| {
            let (api, object) = (
                api.clone(),
                external_secret(&name(number), interval, secret(number)),
            );
            async move {
                api.create(&PostParams::default(), &object?)
                    .await
                    .context("create an ExternalSecret")
            }
        });
        futures::stream::iter(made)
            .buffer_unordered(CONNECTIONS)
            .try_collect()
            .await
    }

    /// Removes all ExternalSecrets and Secrets of a namespace.
    pub(super) async fn clear(&self, namespace: &str) -> Result<()> {
        let objects = external_secrets(&self.client, namespace);
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let all = ListParams::default();
        let gone = async || -> Result<Option<()>> {
            let few = all.clone().limit(1);
            let left = objects.list(&few).await?.items.len() + secrets.list(&few).await?.items.len();
            Ok((left == 0).then_some(()))
        };
        objects
            .delete_collection(&DeleteParams::background(), &all)
            .await
            .context("delete the ExternalSecrets")?;
        secrets
            .delete_collection(&DeleteParams::background(), &all)
            .await
            .context("delete the Secrets")?;
        wait::until("the namespace to be empty", LIMIT, gone).await
    }
}

/// An ExternalSecret of one secret.
pub(super) fn external_secret(name: &str, interval: &str, secret: usize) -> Result<DynamicObject> {
    serde_json::from_value(json!({
        "apiVersion": "keyturn.dev/v1",
        "kind": "ExternalSecret",
        // Copied to the Secret, which is checked by it.
        "metadata": {"name": name, "annotations": {"bench": secret.to_string()}},
        "spec": {
            "secretStoreRef": {"name": "aws", "kind": "ClusterSecretStore"},
            "refreshInterval": interval,
            "data": [{"secretKey": "value", "remoteRef": {"key": key(secret)}}],
        },
    }))
    .context("describe an ExternalSecret")
}

pub(super) fn name(number: usize) -> String {
    format!("object-{number}")
}

pub(super) fn key(number: usize) -> String {
    format!("bench/{number:06}")
}

/// Made up; later values begin with it.
pub(super) fn first_value(number: usize) -> String {
    format!("value of the secret {number:06}, as long as a generated password.")
}

/// Whatever has passed since then.
pub(super) fn since(start: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(start)).unwrap_or_default()
}

/// Counts as JSON and for a line.
pub(super) fn counts(requests: &Requests) -> BTreeMap<String, usize> {
    let counts = requests.counts();
    counts
        .into_iter()
        .map(|((verb, resource), count)| (format!("{verb} {resource}"), count))
        .collect()
}
