//! Words about workloads that follow a Secret, for tests of restarts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use keyturn::api::{RestartException, RestartStatus, names};
use kube::{
    Api,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testbed::{
    history::{Arrival, History},
    requests::{self, Mark, Requests},
    wait,
    workloads::{self, Use, is_complete, set, workload},
};

use crate::{
    harness::{Bed, SOON, annotation, entry},
    operator::Operator,
};

/// Until a restart that waits for others has happened: settling and coalescing take 10 s, and so may the ones before.
pub(crate) const LATER: Duration = Duration::from_secs(150);
/// Pods made later than this after a change hold it.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_secs(10);
/// No restart is sooner than this after the change.
pub(crate) const SETTLE: SignedDuration = SignedDuration::from_secs(5);
/// A workload that waits for nothing else is restarted so long after the change.
pub(crate) const COALESCE: SignedDuration = SignedDuration::from_secs(10);

/// Kind and name.
pub(crate) type Named<'a> = (&'a str, &'a str);

/// A workload with one use of one Secret, and a pod instead of two.
pub(crate) fn user(kind: &str, name: &str, secret: &str, how: Use) -> Value {
    let mut object = workload(kind, name, &[(secret, how)]).unwrap();
    if ["Deployment", "StatefulSet"].contains(&kind) {
        set(&mut object, &["spec", "replicas"], json!(1));
    }
    object
}

/// A Deployment with one pod that has the Secret in its environment.
pub(crate) fn web(name: &str, secret: &str) -> Value {
    user("Deployment", name, secret, Use::Env)
}

/// The same, with an annotation of its own.
pub(crate) fn annotated(mut object: Value, annotations: &[(&str, &str)]) -> Value {
    for (name, value) in annotations {
        set(&mut object, &["metadata", "annotations", name], json!(value));
    }
    object
}

/// The same, with something else in its spec.
pub(crate) fn with(mut object: Value, path: &[&str], value: Value) -> Value {
    set(&mut object, &[&["spec"], path].concat(), value);
    object
}

/// The same, whose new pods have `fate` (`never-ready-with` or `crash-loop-with`) once they carry the token of `secret`.
pub(crate) fn doomed(object: Value, fate: &str, secret: &str) -> Value {
    let fate = format!("testbed.keyturn.dev/{fate}");
    let cause = json!(names::restart_annotation(secret));
    with(object, &["template", "metadata", "annotations", &fate], cause)
}

/// The hash by which annotations name a Secret.
pub(crate) fn hash(secret: &str) -> String {
    let name = names::restart_annotation(secret);
    name.split('/').next_back().unwrap_or_default().to_owned()
}

/// The tokens of a Secret that a workload's templates brought, in order.
pub(crate) fn brought(arrivals: &[Arrival], secret: &str) -> Vec<String> {
    let hash = hash(secret);
    arrivals
        .iter()
        .filter_map(|arrival| arrival.tokens.get(&hash).cloned())
        .collect()
}

/// A Secret, an ExternalSecret of its own name, and where its value comes from.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) arn: String,
}

impl Bed {
    // To act.

    /// A secret with an ExternalSecret that restarts by itself, with `restart` besides; synced when this returns.
    pub(crate) async fn restarting(&self, name: &str, restart: Value) -> Result<Source> {
        self.restarting_with(name, json!({"restart": restart})).await
    }

    /// The same, with more in its spec.
    pub(crate) async fn restarting_with(&self, name: &str, spec: Value) -> Result<Source> {
        let key = format!("app/{name}");
        let arn = self.secret(&key, "first")?;
        self.external_secret(name, restarts(&key, spec)).await?;
        self.synced(name).await?;
        self.holds(name, &[("value", "first")]).await?;
        Ok(Source {
            name: name.to_owned(),
            arn,
        })
    }

    /// Edits an ExternalSecret of [`Self::restarting`]: its whole spec is replaced.
    pub(crate) async fn re_restarting(&self, name: &str, restart: Value) -> Result<()> {
        let spec = restarts(&format!("app/{name}"), json!({"restart": restart}));
        self.external_secret(name, spec).await
    }

    /// Makes workloads and waits until their pods are well.
    pub(crate) async fn run_workloads(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let mut made = Vec::new();
        for object in objects {
            let text = |path: &str| {
                let text = object.pointer(path).and_then(Value::as_str);
                text.map(ToOwned::to_owned).with_context(|| path.to_owned())
            };
            made.push((text("/kind")?, text("/metadata/name")?));
            self.apply(object).await?;
        }
        for (kind, name) in &made {
            if ["Deployment", "StatefulSet", "DaemonSet"].contains(&kind.as_str()) {
                self.complete(kind, name).await?;
            }
        }
        Ok(())
    }

    /// Puts a value and waits until the Secret holds it; the Secret's new rollout token.
    pub(crate) async fn rotate(&self, source: &Source, value: &str) -> Result<String> {
        let former = self.rollout(&source.name).await?;
        self.aws.put_secret_value(&source.arn, value)?;
        self.rotated(source, value, &former).await
    }

    /// Waits for the Secret to hold a value that was just put.
    pub(crate) async fn rotated(&self, source: &Source, value: &str, former: &str) -> Result<String> {
        self.holds(&source.name, &[("value", value)]).await?;
        let token = self.rollout(&source.name).await?;
        ensure!(token != former, "another value has the same token");
        Ok(token)
    }

    /// Merges `patch` into a workload.
    pub(crate) async fn patch_workload(&self, kind: &str, name: &str, patch: Value) -> Result<()> {
        self.workloads(kind)
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("patch {kind} {name}"))
            .map(drop)
    }

    /// Sets an annotation of a workload; `None` removes it.
    pub(crate) async fn annotate_workload(
        &self,
        (kind, name): Named<'_>,
        key: &str,
        value: Option<&str>,
    ) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.patch_workload(kind, name, patch).await
    }

    /// Sets an annotation of the Namespace; `None` removes it.
    pub(crate) async fn annotate_namespace(&self, key: &str, value: Option<&str>) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone())
            .patch(&self.namespace, &PatchParams::default(), &patch)
            .await
            .context("annotate the Namespace")
            .map(drop)
    }

    // To look.

    /// Workloads of a kind.
    pub(crate) fn workloads(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &workloads::resource(kind))
    }

    /// A workload.
    pub(crate) async fn get_workload(&self, kind: &str, name: &str) -> Result<DynamicObject> {
        self.workloads(kind)
            .get(name)
            .await
            .with_context(|| format!("get {kind} {name}"))
    }

    /// Begins to record what becomes of the workloads here.
    pub(crate) async fn history(&self) -> Result<History> {
        History::begin(&self.client, &[&self.namespace]).await
    }

    /// Waits until a workload's rollout is complete.
    pub(crate) async fn complete(&self, kind: &str, name: &str) -> Result<DynamicObject> {
        wait::until(&format!("{kind} {name} to be complete"), SOON, async || {
            let object = self.get_workload(kind, name).await?;
            if is_complete(kind, &object) {
                return Ok(Some(object));
            }
            bail!("its status is {}", object.data["status"])
        })
        .await
    }

    /// `keyturn.dev/rollout` of a Secret.
    pub(crate) async fn rollout(&self, secret: &str) -> Result<String> {
        let found = self.written(secret).await?;
        let token = annotation(&found, names::annotation::ROLLOUT);
        token
            .map(ToOwned::to_owned)
            .with_context(|| format!("the Secret {secret} has no rollout token"))
    }

    /// `keyturn.dev/changed-at` of a Secret.
    pub(crate) async fn changed_at(&self, secret: &str) -> Result<Option<Timestamp>> {
        let found = self.written(secret).await?;
        let time = annotation(&found, names::annotation::CHANGED_AT);
        Ok(time.map(str::parse).transpose()?)
    }

    /// The pods of a workload that are not ending.
    pub(crate) async fn pods(&self, app: &str) -> Result<Vec<Pod>> {
        let chosen = ListParams::default().labels(&format!("app={app}"));
        let mut pods = self.all::<Pod>().list(&chosen).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Waits until the workload is complete and all its pods carry this token of the Secret.
    pub(crate) async fn follows(&self, (kind, name): Named<'_>, secret: &str, token: &str) -> Result<()> {
        let key = names::restart_annotation(secret);
        let what = format!("the pods of {kind} {name} to carry the token of {secret}");
        wait::until(&what, LATER, async || {
            let object = self.get_workload(kind, name).await?;
            let pods = self.pods(name).await?;
            let having = pods
                .iter()
                .filter(|pod| annotation(*pod, &key) == Some(token))
                .count();
            if is_complete(kind, &object) && !pods.is_empty() && having == pods.len() {
                return Ok(Some(()));
            }
            let status = &object.data["status"];
            bail!("{having} of {} pods do, its status is {status}", pods.len())
        })
        .await
    }

    /// Waits until `RestartsComplete` gives one of `reasons` about the content that the Secret has now.
    pub(crate) async fn restarts(&self, name: &str, reasons: &[&str]) -> Result<Condition> {
        let what = format!("RestartsComplete of {name} to give {}", reasons.join(" or "));
        wait::until(&what, LATER, async || {
            let status = self.get(name).await?.status.unwrap_or_default();
            let found = status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == "RestartsComplete");
            let restart = status.restart.clone().unwrap_or_default();
            let now = self.rollout(name).await?;
            match found {
                Some(found) if reasons.contains(&found.reason.as_str()) => {
                    if restart.rollout.is_none_or(|rollout| rollout == now) {
                        return Ok(Some(found.clone()));
                    }
                    bail!("{} is of another content", found.reason)
                }
                _ => bail!("it is {found:?}, {}", json!(status.restart)),
            }
        })
        .await
    }

    /// `status.restart` as it is said now.
    pub(crate) async fn restart_status(&self, name: &str) -> Result<RestartStatus> {
        let status = self.get(name).await?.status.unwrap_or_default();
        Ok(status.restart.unwrap_or_default())
    }

    /// Waits until the status says of a workload that it is held up, and why.
    pub(crate) async fn exception(
        &self,
        name: &str,
        (kind, workload): Named<'_>,
        reasons: &[&str],
    ) -> Result<RestartException> {
        let what = format!(
            "{name} to say of {kind} {workload} that it is {}",
            reasons.join(" or ")
        );
        wait::until(&what, LATER, async || {
            let status = self.restart_status(name).await?;
            let found = status
                .exceptions
                .iter()
                .flatten()
                .find(|found| found.kind == kind && found.name == workload);
            match found {
                Some(found) if reasons.contains(&found.reason.as_str()) => Ok(Some(found.clone())),
                _ => bail!("it says {}", json!(status)),
            }
        })
        .await
    }

    /// Events about a workload with this reason.
    pub(crate) async fn workload_event(&self, (kind, name): Named<'_>, reason: &str) -> Result<String> {
        wait::until(&format!("event {reason} of {kind} {name}"), SOON, async || {
            let events = self.events(kind, name).await?;
            Ok(events
                .into_iter()
                .find(|(is, _)| is == reason)
                .map(|(_, note)| note))
        })
        .await
    }

    /// Requests of the operator about this namespace since `mark`.
    pub(crate) fn asked(&self, operator: &Operator, mark: Mark) -> Result<Requests> {
        let requests = requests::since(self.cluster, mark)?.of(operator.user());
        Ok(requests.only(|request| request.namespace == self.namespace))
    }

    /// Waits until the API server's clock is past `time`.
    pub(crate) async fn past(&self, time: Timestamp) -> Result<()> {
        // All run on one machine: its clock is the API server's.
        wait::until(&format!("{time}"), LATER, async || {
            Ok((Timestamp::now() > time).then_some(()))
        })
        .await
    }
}

fn restarts(key: &str, mut spec: Value) -> Value {
    let mode = ["restart", "mode"];
    if spec.pointer("/restart/mode").is_none() {
        set(&mut spec, &mode, json!("Automatic"));
    }
    if spec.get("data").is_none() && spec.get("dataFrom").is_none() {
        set(&mut spec, &["data"], json!([entry("value", key)]));
    }
    spec
}

/// A Secret and a Deployment of their own beside what a test is about. Once the Deployment has followed a change that was
/// made later, whatever else was to be restarted has been.
pub(crate) struct Anchor<'a> {
    bed: &'a Bed,
    source: Source,
    changes: u32,
}

impl<'a> Anchor<'a> {
    pub(crate) async fn drop(bed: &'a Bed) -> Result<Self> {
        let source = bed.restarting("anchor", json!({})).await?;
        bed.run_workloads([web("anchored", "anchor")]).await?;
        Ok(Self {
            bed,
            source,
            changes: 0,
        })
    }

    /// Changes the Secret and waits until the Deployment has followed.
    pub(crate) async fn holds(&mut self) -> Result<()> {
        self.changes += 1;
        let begun = Instant::now();
        let value = format!("change {}", self.changes);
        let token = self.bed.rotate(&self.source, &value).await?;
        let anchored = ("Deployment", "anchored");
        self.bed.follows(anchored, "anchor", &token).await?;
        ensure!(
            begun.elapsed() > Duration::from_secs(4),
            "nothing had time to settle"
        );
        Ok(())
    }
}

/// How often each workload got a new template from us, by `kind name`.
pub(crate) async fn generations(history: &History) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for arrival in history.arrivals().await? {
        let name = format!("{} {}", arrival.workload.kind, arrival.workload.name);
        *counts.entry(name).or_default() += 1;
    }
    Ok(counts)
}

/// That these workloads got a new template from us so often, and no other.
pub(crate) async fn restarted(history: &History, expected: &[(&str, usize)]) -> Result<()> {
    let mut found = generations(history).await?;
    found.remove("Deployment anchored");
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    crate::harness::same("templates by us", &found, &expected)
}

/// The times at which the operator patched workloads here, in order, as the API server answered.
pub(crate) fn patches(requests: &Requests) -> Vec<Timestamp> {
    let kinds = ["deployments", "statefulsets", "daemonsets", "rollouts"];
    let patches = requests.only(|request| {
        request.verb == "patch" && request.code < 300 && kinds.contains(&request.resource.as_str())
    });
    patches.0.iter().map(|request| request.answered).collect()
}
