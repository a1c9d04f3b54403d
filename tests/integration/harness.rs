//! What every test lies in: a namespace, an AWS account, a role and a store of its own, and words to act and to look.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, Secret, ServiceAccount},
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use keyturn::api::{ClusterSecretStore, ExternalSecret, SecretStore};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use testbed::{
    aws::{AwsEmulator, Calls, Control, Mark, Match, documents},
    controlplane::{Binaries, ControlPlane, Options},
    wait,
    workloads::install_rollouts,
};
use tokio::sync::{OnceCell, RwLock};

use crate::operator::Operator;

/// Until something that is on its way has happened: seconds on an idle machine, many more when compilers share it.
pub(crate) const SOON: Duration = Duration::from_secs(90);
/// The region of everything.
pub(crate) const REGION: &str = "eu-central-1";
/// The ServiceAccount of each namespace whose role reads its account's secrets.
pub(crate) const READER: &str = "reader";
/// The SecretStore of each namespace.
pub(crate) const STORE: &str = "aws";
/// Until the deletion of a secret in AWS has followed: AWS is asked twice, a minute apart, whether it is gone.
pub(crate) const DELETION: Duration = Duration::from_mins(4);
/// Often enough that a change in AWS is seen within a test.
pub(crate) const OFTEN: &str = "1s";
/// So seldom that within a test nothing is read for the interval's sake.
pub(crate) const SELDOM: &str = "24h";

/// What reads need in IAM.
pub(crate) const READS: [&str; 4] = [
    "secretsmanager:GetSecretValue",
    "secretsmanager:BatchGetSecretValue",
    "secretsmanager:DescribeSecret",
    "secretsmanager:ListSecrets",
];

/// A cluster, an AWS, and no operator.
pub(crate) struct Place {
    pub(crate) cluster: &'static ControlPlane,
    pub(crate) aws: &'static AwsEmulator,
}

/// The place that tests share, with the operator that works everywhere in it.
pub(crate) struct Common {
    pub(crate) place: Place,
    pub(crate) operator: Operator,
}

async fn place(cluster: &'static ControlPlane) -> Result<Place> {
    let aws: &'static AwsEmulator =
        Box::leak(Box::new(AwsEmulator::start(testbed::aws::Options::default())?));
    let jwks = String::from_utf8(cluster.jwks().await?)?;
    aws.set_oidc_provider(cluster.issuer(), &jwks)?;
    Ok(Place { cluster, aws })
}

/// The place and operator of most tests.
pub(crate) async fn common() -> Result<&'static Common> {
    static COMMON: OnceCell<Common> = OnceCell::const_new();
    COMMON
        .get_or_try_init(async || {
            let cluster = ControlPlane::shared().await?;
            install_rollouts(&cluster.client().await?).await?;
            let place = place(cluster).await?;
            let operator = Operator::install(&place).await?;
            Ok(Common { place, operator })
        })
        .await
}

/// The place of tests that do harm: operators are confined to their namespaces there.
pub(crate) async fn quarry() -> Result<&'static Place> {
    static QUARRY: OnceCell<Place> = OnceCell::const_new();
    QUARRY.get_or_try_init(|| bare(Options::default())).await
}

/// A place with our CRDs and no operator, until the process ends.
pub(crate) async fn bare(options: Options) -> Result<Place> {
    let place = empty(options, Ok).await?;
    let cluster = place.cluster;
    // Each release works in a namespace of its own; none of them has brought the CRDs.
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crds");
    cluster.kubectl(["apply", "--server-side", "-k", crds]).await?;
    for kind in ["externalsecrets", "secretstores", "clustersecretstores"] {
        let crd = format!("crd/{kind}.keyturn.dev");
        cluster
            .kubectl([
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                crd.as_str(),
            ])
            .await?;
    }
    Ok(place)
}

/// The same without our CRDs, and with the programs that `choose` makes of the usual ones.
pub(crate) async fn empty(
    options: Options,
    choose: impl FnOnce(Binaries) -> Result<Binaries> + Send + 'static,
) -> Result<Place> {
    let build = tokio::task::spawn_blocking(|| choose(Binaries::ensure(&|line| println!("{line}"))?));
    let cluster = ControlPlane::start(&build.await??, options).await?;
    install_rollouts(&cluster.client().await?).await?;
    place(Box::leak(Box::new(cluster))).await
}

/// Held shared by who works in the [`quarry`], alone by who stops its API server.
pub(crate) static API_SERVER: RwLock<()> = RwLock::const_new(());

/// Runs a test in a new bed of the common place; what was found is printed if it fails.
pub(crate) async fn bed(name: &str, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    let common = common().await?;
    let bed = Bed::make(&common.place, name).await?;
    bed.store(STORE, json!({})).await?;
    bed.run(Some(&common.operator), test).await
}

/// Runs a test in a bed of the [`quarry`] with an operator of its own, started with `arguments`.
pub(crate) async fn quarried(
    name: &str,
    arguments: &[&str],
    test: impl AsyncFnOnce(&Bed, &mut Operator) -> Result<()>,
) -> Result<()> {
    confined(quarry().await?, name, arguments, test).await
}

/// The same in another place.
pub(crate) async fn confined(
    place: &Place,
    name: &str,
    arguments: &[&str],
    test: impl AsyncFnOnce(&Bed, &mut Operator) -> Result<()>,
) -> Result<()> {
    let bed = Bed::make(place, name).await?;
    bed.store(STORE, json!({})).await?;
    let mut operator = Operator::confined(place, &bed, arguments).await?;
    operator.start().await?;
    let outcome = AssertUnwindSafe(test(&bed, &mut operator)).catch_unwind().await;
    bed.finish(Some(&operator), outcome).await
}

/// A namespace with an account.
pub(crate) struct Bed {
    pub(crate) client: Client,
    pub(crate) cluster: &'static ControlPlane,
    pub(crate) aws: Control,
    pub(crate) namespace: String,
    /// The AWS account that only this bed uses.
    pub(crate) account: String,
    begun: Mark,
}

impl Bed {
    /// A new namespace with an account, a role that may read there, and the ServiceAccount [`READER`] that may assume it.
    pub(crate) async fn make(place: &Place, name: &str) -> Result<Self> {
        static ACCOUNTS: AtomicU64 = AtomicU64::new(100_000_000_001);
        let namespace = place.cluster.namespace(name).await?;
        let account = ACCOUNTS.fetch_add(1, Ordering::Relaxed).to_string();
        Self::of(place, namespace, account).await
    }

    /// The same with just this name and account, which nothing else has.
    pub(crate) async fn named(place: &Place, namespace: &str, account: &str) -> Result<Self> {
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::<Namespace>::all(place.cluster.client().await?)
            .create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("create the namespace {namespace}"))?;
        Self::of(place, namespace.to_owned(), account.to_owned()).await
    }

    async fn of(place: &Place, namespace: String, account: String) -> Result<Self> {
        let bed = Self {
            client: place.cluster.client().await?,
            cluster: place.cluster,
            aws: place.aws.control(),
            namespace,
            account,
            begun: place.aws.mark(),
        };
        bed.role(READER, &[&documents::allow(&READS, &["*"])])?;
        bed.service_account(READER, Some(&bed.role_arn(READER))).await?;
        Ok(bed)
    }

    /// Runs the test, removes the namespace if it passes, tells what is there if not.
    pub(crate) async fn run(
        self,
        operator: Option<&Operator>,
        test: impl AsyncFnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let outcome = AssertUnwindSafe(test(&self)).catch_unwind().await;
        self.finish(operator, outcome).await
    }

    /// Removes the namespace if the test passed, tells what is there if not.
    pub(crate) async fn finish(
        self,
        operator: Option<&Operator>,
        outcome: std::thread::Result<Result<()>>,
    ) -> Result<()> {
        if !matches!(outcome, Ok(Ok(()))) {
            println!("{}", self.found(operator).await);
        }
        match outcome {
            Ok(Ok(())) => {
                let namespaces = Api::<Namespace>::all(self.client.clone());
                // What is left behind would be refreshed for the rest of the run.
                namespaces
                    .delete(&self.namespace, &DeleteParams::background())
                    .await?;
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// All that helps to understand a failure.
    async fn found(&self, operator: Option<&Operator>) -> String {
        let mut text = format!(
            "\n--- what was found in {} (account {}) ---\n",
            self.namespace, self.account
        );
        for kind in [
            "externalsecrets.keyturn.dev",
            "secretstores.keyturn.dev",
            "secrets",
            "deployments,statefulsets,daemonsets,pods",
            "events",
        ] {
            let got = self
                .cluster
                .kubectl(["get", kind, "-n", &self.namespace, "-o", "wide"])
                .await;
            text += &got.unwrap_or_else(|error| format!("{error:#}"));
        }
        for object in self
            .all::<ExternalSecret>()
            .list(&ListParams::default())
            .await
            .into_iter()
            .flatten()
        {
            let status = json!(object.status);
            text += &format!(
                "{}: {}\n",
                object.name_any(),
                serde_json::to_string_pretty(&status).unwrap_or_default()
            );
        }
        let calls = self.calls();
        text += &format!("calls: {:?}, errors: {:?}\n", calls.counts(), calls.errors());
        if let Some(operator) = operator {
            let log = operator.log().unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<_> = log
                .lines()
                .filter(|line| {
                    line.contains(&self.namespace) || line.contains("\"ERROR\"") || line.contains("panicked")
                })
                // Reads are many, and say what the record of calls says too.
                .filter(|line| !line.contains("\"action\":\"read\""))
                .collect();
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                text += line;
                text.push('\n');
            }
        }
        text + "---"
    }

    // AWS.

    /// The ARN of a role of this account.
    pub(crate) fn role_arn(&self, name: &str) -> String {
        format!("arn:aws:iam::{}:role/{name}", self.account)
    }

    /// Makes a role that the ServiceAccount of the same name may assume.
    pub(crate) fn role(&self, name: &str, policies: &[&str]) -> Result<String> {
        let subject = format!("system:serviceaccount:{}:{name}", self.namespace);
        self.role_for(name, &subject, policies)
    }

    /// Makes a role that `subject` may assume.
    pub(crate) fn role_for(&self, name: &str, subject: &str, policies: &[&str]) -> Result<String> {
        let trust = documents::trust_service_account(&self.account, self.cluster.issuer(), subject);
        let arn = self.role_arn(name);
        self.aws.create_role(&arn, &trust, policies)?;
        Ok(arn)
    }

    /// Replaces what [`READER`] may do.
    pub(crate) fn permit(&self, policies: &[&str]) -> Result<()> {
        self.role(READER, policies).map(drop)
    }

    /// Makes a secret and gives its ARN.
    pub(crate) fn secret(&self, name: &str, value: &str) -> Result<String> {
        Ok(self.aws.create_secret(&self.account, REGION, name, value)?)
    }

    /// Ends the sessions of [`READER`] before their time, as revoking them in IAM does.
    pub(crate) async fn end_session(&self) -> Result<()> {
        self.aged().await?;
        self.aws.expire_credentials(&self.role_arn(READER));
        Ok(())
    }

    /// Waits until the credentials in use are not quite new: a set that is refused in its first 5 s is kept for so long,
    /// since another one would hardly do better.
    pub(crate) async fn aged(&self) -> Result<()> {
        let age = jiff::SignedDuration::from_secs(7);
        wait::until("credentials of some age", SOON, async || {
            let calls = self.calls();
            // Keys of a user are not got by a call: that they work is asked.
            let got = calls.0.iter().rev().find(|call| {
                let of_credentials =
                    call.operation.starts_with("Assume") || call.operation == "GetCallerIdentity";
                of_credentials && call.error.is_none()
            });
            Ok(got
                .is_some_and(|got| Timestamp::now().duration_since(got.time) > age)
                .then_some(()))
        })
        .await
    }

    /// The rule for this account's calls.
    pub(crate) fn here(&self) -> Match {
        Match::all().account(&self.account)
    }

    /// Calls of this account since the bed was made.
    pub(crate) fn calls(&self) -> Calls {
        self.calls_since(self.begun)
    }

    /// Calls of this account since `mark`.
    pub(crate) fn calls_since(&self, mark: Mark) -> Calls {
        of_account(self.aws.calls_since(mark), &self.account)
    }

    /// How many values were read since `mark`, by whatever call.
    pub(crate) fn values_since(&self, mark: Mark) -> usize {
        self.calls_since(mark).values_read().len()
    }

    /// Waits until `done` says so of the calls since `mark`.
    pub(crate) async fn called(
        &self,
        what: &str,
        mark: Mark,
        done: impl Fn(&Calls) -> bool,
    ) -> Result<Calls> {
        wait::until(what, SOON, async || {
            let calls = self.calls_since(mark);
            Ok(done(&calls).then_some(calls))
        })
        .await
    }

    // Kubernetes, to act.

    /// Objects of this namespace.
    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a ServiceAccount, with the role that its token assumes.
    pub(crate) async fn service_account(&self, name: &str, role: Option<&str>) -> Result<()> {
        let annotations: BTreeMap<_, _> = role
            .map(|role| ("eks.amazonaws.com/role-arn", role))
            .into_iter()
            .collect();
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "annotations": annotations}}))
            .await
    }

    /// Makes or replaces a SecretStore that reads as [`READER`]; `more` goes into `provider.aws` (and, for
    /// `allowedKeys`, beside it).
    pub(crate) async fn store(&self, name: &str, more: Value) -> Result<()> {
        self.apply(self.store_object("SecretStore", name, &more)).await
    }

    /// Makes or replaces a ClusterSecretStore of this name for this namespace, which starts with the namespace's name;
    /// what is `null` in `more` is left out.
    pub(crate) async fn cluster_store(&self, more: Value) -> Result<String> {
        let name = self.namespace.clone();
        self.apply(self.store_object("ClusterSecretStore", &name, &more))
            .await?;
        Ok(name)
    }

    fn store_object(&self, kind: &str, name: &str, more: &Value) -> Value {
        let mut aws = json!({"region": REGION, "auth": {"jwt": {"serviceAccountRef": {"name": READER}}}});
        let mut spec = json!({});
        if kind == "ClusterSecretStore" {
            spec["conditions"] = json!([{"namespaces": [self.namespace]}]);
        }
        for (field, value) in more.as_object().into_iter().flatten() {
            let place = if matches!(field.as_str(), "allowedKeys" | "conditions") {
                &mut spec
            } else {
                &mut aws
            };
            place[field] = value.clone();
        }
        for place in [&mut spec, &mut aws] {
            if let Some(fields) = place.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
        spec["provider"] = json!({"aws": aws});
        json!({"apiVersion": "keyturn.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    }

    /// Makes or replaces an ExternalSecret of [`STORE`], refreshed [`OFTEN`] unless `spec` says otherwise.
    pub(crate) async fn external_secret(&self, name: &str, spec: Value) -> Result<()> {
        self.apply(external_secret(name, spec)).await
    }

    /// An ExternalSecret with one key, `value`, of the whole secret `key`.
    pub(crate) async fn plain(&self, name: &str, key: &str) -> Result<()> {
        self.external_secret(name, json!({"data": [entry("value", key)]}))
            .await
    }

    /// Makes an object, or makes it as given: fields left out go, as `kubectl apply` does it.
    pub(crate) async fn apply(&self, object: Value) -> Result<()> {
        let (api, object) = self.dynamic(object)?;
        let name = object.name_any();
        let what = format!(
            "apply {} {name}",
            object.types.as_ref().map_or("", |types| &types.kind)
        );
        let parameters = PatchParams::apply("tests").force();
        api.patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .with_context(|| what)?;
        Ok(())
    }

    /// Makes an object that is not there.
    pub(crate) async fn create(&self, object: Value) -> Result<()> {
        let (api, object) = self.dynamic(object)?;
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("create {}", object.name_any()))?;
        Ok(())
    }

    /// The API of the kind of an object, in this namespace if it lives in one.
    pub(crate) fn dynamic_api(&self, object: &Value) -> Result<Api<DynamicObject>> {
        Ok(self.dynamic(object.clone())?.0)
    }

    fn dynamic(&self, object: Value) -> Result<(Api<DynamicObject>, DynamicObject)> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object without kind")?;
        let gvk = GroupVersionKind::try_from(&types)?;
        let resource = ApiResource::from_gvk(&gvk);
        let cluster = matches!(
            types.kind.as_str(),
            "ClusterSecretStore"
                | "Namespace"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "ClusterRole"
                | "ClusterRoleBinding"
        );
        let api = if cluster {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        };
        Ok((api, object))
    }

    /// Merges `patch` into an object of this namespace.
    pub(crate) async fn patch<K>(&self, name: &str, patch: Value) -> Result<()>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let sent = self
            .all::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        sent.with_context(|| format!("patch {name}")).map(drop)
    }

    /// Sets an annotation of an ExternalSecret; `None` removes it.
    pub(crate) async fn annotate(&self, name: &str, annotation: &str, value: Option<&str>) -> Result<()> {
        self.patch::<ExternalSecret>(name, json!({"metadata": {"annotations": {annotation: value}}}))
            .await
    }

    /// Asks for a read now.
    pub(crate) async fn refresh(&self, name: &str) -> Result<()> {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let anything = ASKED.fetch_add(1, Ordering::Relaxed).to_string();
        self.annotate(name, "keyturn.dev/refresh", Some(&anything)).await
    }

    /// Deletes an object of this namespace and waits until it is gone, or another one is in its place.
    pub(crate) async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let api = self.all::<K>();
        let deleted = api.get(name).await.with_context(|| format!("get {name}"))?.uid();
        api.delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("delete {name}"))?;
        wait::until(&format!("{name} to be gone"), SOON, async || {
            let now = api.get_opt(name).await?;
            Ok(now.is_none_or(|now| now.uid() != deleted).then_some(()))
        })
        .await
    }

    // Kubernetes, to look.

    /// The ExternalSecret.
    pub(crate) async fn get(&self, name: &str) -> Result<ExternalSecret> {
        self.all::<ExternalSecret>()
            .get(name)
            .await
            .with_context(|| format!("get ExternalSecret {name}"))
    }

    /// Waits until `Ready` of the object as it is now gives `reason`.
    pub(crate) async fn ready(&self, name: &str, reason: &str) -> Result<Condition> {
        self.condition(name, "Ready", &[reason]).await
    }

    /// Waits until the Secret is as AWS says.
    pub(crate) async fn synced(&self, name: &str) -> Result<()> {
        self.ready(name, "Synced").await.map(drop)
    }

    /// Waits until a condition of the object as it is now gives one of `reasons`.
    pub(crate) async fn condition(&self, name: &str, type_: &str, reasons: &[&str]) -> Result<Condition> {
        let api = self.all::<ExternalSecret>();
        let what = format!(
            "{type_} of ExternalSecret {name} to give {}",
            reasons.join(" or ")
        );
        wait::until(&what, SOON, async || {
            let object = api.get(name).await?;
            let status = object.status.clone().unwrap_or_default();
            let found = status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == type_)
                .cloned();
            let Some(found) = found else {
                bail!("it has no {type_} yet: {}", json!(status))
            };
            let judged = status.observed_generation == object.metadata.generation;
            if judged && reasons.contains(&found.reason.as_str()) {
                return Ok(Some(found));
            }
            bail!(
                "{type_} is {}/{} at generation {:?} of {:?}: {}",
                found.status,
                found.reason,
                status.observed_generation,
                object.metadata.generation,
                found.message
            )
        })
        .await
    }

    /// The condition of the object as it is said now.
    pub(crate) async fn said(&self, name: &str, type_: &str) -> Result<Option<Condition>> {
        let status = self.get(name).await?.status.unwrap_or_default();
        Ok(status
            .conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == type_))
    }

    /// Waits until `Ready` of a SecretStore gives one of `reasons`.
    pub(crate) async fn store_ready(&self, name: &str, reasons: &[&str]) -> Result<Condition> {
        let api = self.all::<SecretStore>();
        let read = async || {
            Ok(api
                .get(name)
                .await
                .map(|store| (store.metadata.generation, store.status))?)
        };
        store_ready(&format!("SecretStore {name}"), reasons, read).await
    }

    /// Waits until `Ready` of a ClusterSecretStore gives one of `reasons`.
    pub(crate) async fn cluster_store_ready(&self, name: &str, reasons: &[&str]) -> Result<Condition> {
        let api = Api::<ClusterSecretStore>::all(self.client.clone());
        let read = async || {
            Ok(api
                .get(name)
                .await
                .map(|store| (store.metadata.generation, store.status))?)
        };
        store_ready(&format!("ClusterSecretStore {name}"), reasons, read).await
    }

    /// The Secret, if it is there.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Secret>> {
        self.all::<Secret>()
            .get_opt(name)
            .await
            .with_context(|| format!("get Secret {name}"))
    }

    /// The Secret.
    pub(crate) async fn written(&self, name: &str) -> Result<Secret> {
        self.find(name)
            .await?
            .with_context(|| format!("there is no Secret {name}"))
    }

    /// The Secret's data as text.
    pub(crate) async fn data(&self, name: &str) -> Result<BTreeMap<String, String>> {
        Ok(data(&self.written(name).await?))
    }

    /// Waits until the Secret holds exactly this.
    pub(crate) async fn holds(&self, name: &str, expected: &[(&str, &str)]) -> Result<Secret> {
        self.holds_within(SOON, name, expected).await
    }

    /// The same for as long as `limit`.
    pub(crate) async fn holds_within(
        &self,
        limit: Duration,
        name: &str,
        expected: &[(&str, &str)],
    ) -> Result<Secret> {
        let expected = pairs(expected);
        let what = format!("Secret {name} to hold {expected:?}");
        wait::until(&what, limit, async || {
            let secret = self.written(name).await?;
            let found = data(&secret);
            if found == expected {
                return Ok(Some(secret));
            }
            bail!("it holds {found:?}")
        })
        .await
    }

    /// Waits until there is no such Secret.
    pub(crate) async fn gone(&self, name: &str) -> Result<()> {
        self.gone_within(SOON, name).await
    }

    /// The same for as long as `limit`.
    pub(crate) async fn gone_within(&self, limit: Duration, name: &str) -> Result<()> {
        wait::until(&format!("Secret {name} to be gone"), limit, async || {
            Ok(self.find(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Events about the object of this name and kind, as reason and note.
    pub(crate) async fn events(&self, kind: &str, name: &str) -> Result<Vec<(String, String)>> {
        let events = self.all::<Event>().list(&ListParams::default()).await?;
        Ok(events
            .into_iter()
            .filter(|event| {
                let regarding = event.regarding.as_ref();
                regarding.is_some_and(|object| {
                    object.kind.as_deref() == Some(kind) && object.name.as_deref() == Some(name)
                })
            })
            .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect())
    }

    /// Waits for an event with this reason about an ExternalSecret.
    pub(crate) async fn event(&self, name: &str, reason: &str) -> Result<String> {
        wait::until(&format!("event {reason} of {name}"), SOON, async || {
            let events = self.events("ExternalSecret", name).await?;
            Ok(events
                .into_iter()
                .find(|(is, _)| is == reason)
                .map(|(_, note)| note))
        })
        .await
    }

    /// A ServiceAccount's role, changed.
    pub(crate) async fn annotate_service_account(&self, name: &str, role: Option<&str>) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {"eks.amazonaws.com/role-arn": role}}});
        self.patch::<ServiceAccount>(name, patch).await
    }

    /// Waits for `rounds` further successful reads or looks of this account: whatever the operator would do wrong at once, it
    /// has had the occasion to do.
    pub(crate) async fn rounds(&self, rounds: usize) -> Result<()> {
        let mark = self.aws.mark();
        let looked = |calls: &Calls| {
            calls
                .requests()
                .filter(|call| !call.operation.starts_with("Assume"))
                .count()
                >= rounds
        };
        self.called(&format!("{rounds} more calls"), mark, looked)
            .await
            .map(drop)
    }
}

async fn store_ready(
    what: &str,
    reasons: &[&str],
    read: impl AsyncFn() -> Result<(Option<i64>, Option<keyturn::api::StoreStatus>)>,
) -> Result<Condition> {
    wait::until(
        &format!("Ready of {what} to give {}", reasons.join(" or ")),
        SOON,
        async || {
            let (generation, status) = read().await?;
            let status = status.unwrap_or_default();
            let found = status
                .conditions
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == "Ready");
            let found = found.context("it has no Ready yet")?;
            if status.observed_generation == generation && reasons.contains(&found.reason.as_str()) {
                return Ok(Some(found));
            }
            bail!("Ready is {}/{}: {}", found.status, found.reason, found.message)
        },
    )
    .await
}

/// An ExternalSecret of [`STORE`], refreshed [`OFTEN`], unless `spec` says otherwise. `metadata` in `spec` is the object's.
pub(crate) fn external_secret(name: &str, spec: Value) -> Value {
    let mut whole = json!({"secretStoreRef": {"name": STORE}, "refreshInterval": OFTEN});
    let mut metadata = json!({});
    for (field, value) in spec.as_object().into_iter().flatten() {
        if field == "metadata" {
            metadata = value.clone();
        } else {
            whole[field] = value.clone();
        }
    }
    if let Some(fields) = whole.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    metadata["name"] = json!(name);
    json!({"apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret", "metadata": metadata, "spec": whole})
}

/// An entry of `data` for a whole secret.
pub(crate) fn entry(secret_key: &str, key: &str) -> Value {
    json!({"secretKey": secret_key, "remoteRef": {"key": key}})
}

/// An entry of `data` for a property.
pub(crate) fn property(secret_key: &str, key: &str, property: &str) -> Value {
    json!({"secretKey": secret_key, "remoteRef": {"key": key, "property": property}})
}

/// The data of a Secret as text.
pub(crate) fn data(secret: &Secret) -> BTreeMap<String, String> {
    let all = secret.data.iter().flatten();
    all.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
        .collect()
}

/// A map of texts.
pub(crate) fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// An annotation of an object.
pub(crate) fn annotation<'a>(object: &'a impl kube::ResourceExt, name: &str) -> Option<&'a str> {
    object.annotations().get(name).map(String::as_str)
}

/// The part of a record that is of one account.
pub(crate) fn of_account(calls: Calls, account: &str) -> Calls {
    Calls(
        calls
            .0
            .into_iter()
            .filter(|call| *call.account == *account)
            .collect(),
    )
}

/// A message that a person can act on: a sentence that names what it is about, without what differs between two attempts.
pub(crate) fn assert_actionable(message: &str, named: &[&str]) {
    for name in named {
        assert!(message.contains(name), "{name:?} is not in {message:?}");
    }
    assert!(
        message.len() > 20 && message.len() < 1024,
        "no sentence: {message:?}"
    );
    let uuid = regex::Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap();
    let time = regex::Regex::new("[0-9]{2}:[0-9]{2}:[0-9]{2}").unwrap();
    assert!(!uuid.is_match(message), "a request id in {message:?}");
    assert!(!time.is_match(message), "a time in {message:?}");
    let acts = [
        "create",
        "mend",
        "allow",
        "ask",
        "add",
        "set",
        "use",
        "choose",
        "restore",
        "enable",
        "put",
        "remove",
        "name",
        "delete",
        "correct",
        "store",
        "check",
        "tried again",
        "retries",
        "raise",
        "grant",
        "annotate",
        "split",
        "trust",
        "write",
    ];
    let lower = message.to_lowercase();
    assert!(
        acts.iter().any(|act| lower.contains(act)),
        "nothing to do in {message:?}"
    );
}

/// A time from now, as annotations have it.
pub(crate) fn from_now(seconds: i64) -> String {
    let then = Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Watches a fact over a time: it must be so at every look.
pub(crate) async fn stays(span: Duration, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        look().await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    look().await
}

/// That `found` is `expected`, as an error rather than a panic.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<()> {
    ensure!(found == expected, "{what}: {found:?} instead of {expected:?}");
    Ok(())
}
