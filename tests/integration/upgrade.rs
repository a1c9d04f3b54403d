//! An upgrade changes nothing: what an earlier version wrote is understood as it was meant. No value is read, no Secret
//! written, no workload restarted.
//!
//! `upgrade/*.json` holds what an earlier version left in a cluster, as it was found there. [`record`] writes it, at the
//! commit of that version; nothing in it is edited by hand.

mod tools;

use std::{collections::BTreeMap, env, fs, panic::AssertUnwindSafe, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use keyturn::api::{ClusterSecretStore, ExternalSecret, SecretStore, names};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::{
    aws::documents,
    controlplane::Options,
    operator as testbed_operator, wait,
    workloads::{Use, set, workload},
};

use crate::{
    harness::{Bed, OFTEN, Place, READER, READS, REGION, SELDOM, SOON, STORE, bare, entry, property, same},
    operator::Operator,
    rolling::{Anchor, doomed, user, web},
};

/// What commit 90b8dec left: the last one before tokens had an encoding of their own.
const EARLIER: &str = include_str!("upgrade/90b8dec.json");
/// Names and the account are part of tokens and of specs, so they are the same in every run.
const NAMESPACE: &str = "upgrade";
const ACCOUNT: &str = "222222222222";

/// The versions of a remote secret: id, value and labels, the oldest first.
type Versions = &'static [(&'static str, &'static str, &'static [&'static str])];

/// What is in AWS once the earlier version has ended.
const REMOTE: [(&str, Versions); 12] = [
    (
        "app/plain",
        &[("00000000-0000-4000-8000-000000000001", "plain", &["AWSCURRENT"])],
    ),
    (
        "app/json",
        &[(
            "00000000-0000-4000-8000-000000000002",
            r#"{"username":"shop","password":"p"}"#,
            &["AWSCURRENT"],
        )],
    ),
    (
        "app/stages",
        &[
            ("00000000-0000-4000-8000-000000000003", "former", &["AWSPREVIOUS"]),
            ("00000000-0000-4000-8000-000000000004", "now", &["AWSCURRENT"]),
        ],
    ),
    (
        "app/rekeyed",
        &[("00000000-0000-4000-8000-000000000005", "rekeyed", &["AWSCURRENT"])],
    ),
    ("app/followed", CHANGED),
    ("app/stuck", CHANGED),
    ("app/failed", CHANGED),
    ("app/manual", CHANGED),
    ("app/reverted", CHANGED),
    ("app/scoped", CHANGED),
    ("app/left-out", CHANGED),
    ("app/suspended", CHANGED),
];

/// A secret that changed while workloads used it.
const CHANGED: Versions = &[
    ("00000000-0000-4000-8000-00000000000a", "first", &["AWSPREVIOUS"]),
    ("00000000-0000-4000-8000-00000000000b", "second", &["AWSCURRENT"]),
];

/// The ExternalSecrets that restart, by name, with what their `restart` says besides.
fn restarting() -> [(&'static str, Value); 8] {
    let automatic = || json!({"mode": "Automatic"});
    [
        ("followed", automatic()),
        (
            "stuck",
            json!({"mode": "Automatic", "health": {"timeout": "24h"}}),
        ),
        ("failed", automatic()),
        ("manual", json!({"mode": "Manual"})),
        ("reverted", automatic()),
        ("scoped", automatic()),
        ("left-out", automatic()),
        ("suspended", automatic()),
    ]
}

/// The workloads, as their owners wrote them.
fn workloads() -> Result<Vec<Value>> {
    let annotated = |mut object: Value, name: &str, value: &str| {
        set(&mut object, &["metadata", "annotations", name], json!(value));
        object
    };
    Ok(vec![
        web("followed-deployment", "followed"),
        user("StatefulSet", "followed-set", "followed", Use::EnvFrom),
        user("DaemonSet", "followed-daemons", "followed", Use::Volume),
        workload(
            "Deployment",
            "followed-both",
            &[("followed", Use::Env), ("scoped", Use::Env)],
        )?,
        doomed(web("stuck-a", "stuck"), "never-ready-with", "stuck"),
        web("stuck-b", "stuck"),
        doomed(web("failed-a", "failed"), "crash-loop-with", "failed"),
        web("failed-b", "failed"),
        web("manual-deployment", "manual"),
        web("reverted-deployment", "reverted"),
        web("scoped-deployment", "scoped"),
        annotated(
            web("left-out-deployment", "left-out"),
            "keyturn.dev/restart",
            "false",
        ),
        annotated(web("hot-reloading", "followed"), "keyturn.dev/hot-reload", "true"),
        web("suspended-deployment", "suspended"),
        web("rekeyed-deployment", "rekeyed"),
    ])
}

/// A cluster of its own, a namespace of a fixed name, and the chart.
async fn world() -> Result<(Place, Bed, Operator)> {
    let place = bare(Options::default()).await?;
    let bed = furnished(&place).await?;
    let operator = Operator::installed(&place).await?;
    Ok((place, bed, operator))
}

/// The namespace, with an account whose roles may read.
async fn furnished(place: &Place) -> Result<Bed> {
    let bed = Bed::named(place, NAMESPACE, ACCOUNT).await?;
    let reads = documents::allow(&READS, &["*"]);
    let assumes = documents::allow(&["sts:AssumeRole", "sts:TagSession"], &["*"]);
    bed.permit(&[&reads, &assumes])?;
    let trust = documents::trust_principal(&bed.role_arn(READER), None);
    bed.aws.create_role(&bed.role_arn("chained"), &trust, &[&reads])?;
    Ok(bed)
}

fn put(bed: &Bed, name: &str, versions: &[(&str, &str, &[&str])]) -> Result<String> {
    let arn = bed.aws.create_empty_secret(ACCOUNT, REGION, name)?;
    for (id, value, stages) in versions {
        bed.aws.put_secret_version(&arn, id, *value, stages)?;
    }
    Ok(arn)
}

/// Writes what an operator of this commit leaves in a cluster to the file that `KEYTURN_RECORD` names.
#[tokio::test]
#[ignore = "writes a file of upgrade/: KEYTURN_RECORD=FILE cargo test --locked --workspace --test integration -- record --ignored"]
#[expect(clippy::too_many_lines, reason = "one story, in order")]
async fn record() -> Result<()> {
    let file = env::var("KEYTURN_RECORD").context("KEYTURN_RECORD names the file to write")?;
    let (_place, bed, mut operator) = world().await?;
    let before = |name: &'static str| -> Result<String> {
        let versions = REMOTE.iter().find(|(known, _)| *known == name).context(name)?.1;
        match versions {
            [(id, value, _), _, ..] if name != "app/stages" => {
                put(&bed, name, &[(id, value, &["AWSCURRENT"])])
            }
            all => put(&bed, name, all),
        }
    };
    let arns: BTreeMap<&str, String> = REMOTE
        .iter()
        .map(|(name, _)| Ok((*name, before(name)?)))
        .collect::<Result<_>>()?;

    // A token key that was lost: what was written before has tokens of another key.
    // Found out without reading values, however often.
    bed.store(STORE, json!({"changeDetection": "Describe"})).await?;
    operator.start().await?;
    bed.external_secret(
        "rekeyed",
        json!({"refreshInterval": SELDOM, "data": [entry("value", "app/rekeyed")], "restart": {"mode": "Automatic"}}),
    )
    .await?;
    bed.synced("rekeyed").await?;
    operator.kill()?;
    Api::<Secret>::namespaced(bed.client.clone(), operator.namespace())
        .delete(names::TOKEN_KEY_SECRET, &DeleteParams::default())
        .await?;
    let former = bed.rollout("rekeyed").await?;
    operator.expire_lease(&bed.client).await?;
    operator.start().await?;
    wait::until("tokens of the new key", SOON, async || {
        Ok((bed.rollout("rekeyed").await? != former).then_some(()))
    })
    .await?;

    bed.cluster_store(json!({"prefix": "app/", "role": bed.role_arn("chained")}))
        .await?;
    for (name, spec) in [
        (
            "plain",
            json!({"data": [entry("value", "app/plain")], "metadata": {"labels": {"team": "a", "helm.sh/chart": "c"},
                "annotations": {"note": "n", "keyturn.dev/refresh": "1"}}}),
        ),
        (
            "properties",
            json!({"data": [property("password", "app/json", "password")]}),
        ),
        (
            "extracted",
            json!({"dataFrom": [{"extract": {"key": "app/json"}}], "data": [entry("value", "app/plain")]}),
        ),
        (
            "orphan",
            json!({"data": [entry("value", "app/plain")], "target": {"name": "orphaned", "creationPolicy": "Orphan"}}),
        ),
        (
            "immutable",
            json!({"data": [entry("value", "app/plain")], "target": {"immutable": true}}),
        ),
        (
            "once",
            json!({"data": [entry("value", "app/plain")], "refreshPolicy": "CreatedOnce"}),
        ),
        (
            "on-change",
            json!({"data": [entry("value", "app/plain")], "refreshPolicy": "OnChange"}),
        ),
        (
            "stages",
            json!({"data": [
                {"secretKey": "previous", "remoteRef": {"key": "app/stages", "version": "AWSPREVIOUS"}},
                {"secretKey": "current", "remoteRef": {"key": "app/stages", "version": "AWSCURRENT"}},
                {"secretKey": "pinned", "remoteRef": {"key": "app/stages",
                    "version": "uuid/00000000-0000-4000-8000-000000000003"}},
            ]}),
        ),
        (
            "clustered",
            json!({"secretStoreRef": {"name": NAMESPACE, "kind": "ClusterSecretStore"},
                "data": [entry("value", "plain")]}),
        ),
        (
            "deleting",
            json!({"data": [entry("value", "app/plain")], "target": {"deletionPolicy": "Delete"}}),
        ),
        (
            "merging",
            json!({"data": [entry("value", "app/plain")], "target": {"deletionPolicy": "Merge"}}),
        ),
        (
            "user",
            json!({"dataFrom": [{"extract": {"key": "app/json"}}], "rotation": {"strategy": "SingleUser"},
                "restart": {"mode": "Automatic", "trigger": {"keys": ["password"]}}}),
        ),
    ] {
        let mut spec = spec;
        set(&mut spec, &["refreshInterval"], json!(SELDOM));
        bed.external_secret(name, spec).await?;
        bed.synced(name).await?;
    }
    let data = json!([entry("value", "app/missing")]);
    bed.external_secret("missing", json!({"data": data, "refreshInterval": SELDOM}))
        .await?;
    bed.ready("missing", "SecretNotFound").await?;

    for (name, restart) in restarting() {
        let data = json!([entry("value", &format!("app/{name}"))]);
        bed.external_secret(
            name,
            json!({"data": data, "refreshInterval": OFTEN, "restart": restart}),
        )
        .await?;
        bed.synced(name).await?;
    }
    bed.annotate(
        "suspended",
        "keyturn.dev/suspend-restarts-until",
        Some("2099-01-01T00:00:00Z"),
    )
    .await?;
    bed.run_workloads(workloads()?).await?;
    for (name, _) in restarting() {
        let key = format!("app/{name}");
        let (id, value, _) = CHANGED[1];
        bed.aws
            .put_secret_version(&arns[key.as_str()], id, value, &["AWSCURRENT"])?;
        bed.holds(name, &[("value", value)]).await?;
    }
    for (name, reasons) in [
        ("followed", ["Complete"]),
        ("scoped", ["Complete"]),
        ("failed", ["Halted"]),
        ("manual", ["AwaitingApproval"]),
        ("reverted", ["Complete"]),
        ("stuck", ["InProgress"]),
    ] {
        bed.restarts(name, &reasons).await?;
    }
    // Somebody takes a restart back, as a tool that owns the whole template does.
    let token = names::restart_annotation("reverted");
    let template = json!({"spec": {"template": {"metadata": {"annotations": {token: null}}}}});
    bed.patch_workload("Deployment", "reverted-deployment", template)
        .await?;
    bed.complete("Deployment", "reverted-deployment").await?;
    // Other keys of the Secret count from now on: another token, and no restart for it.
    let trigger = json!({"mode": "Automatic", "trigger": {"keys": ["value"]}});
    let data = json!([entry("value", "app/scoped")]);
    bed.external_secret(
        "scoped",
        json!({"data": data, "refreshInterval": OFTEN, "restart": trigger}),
    )
    .await?;
    bed.synced("scoped").await?;
    let mut anchor = Anchor::drop(&bed).await?;
    anchor.holds().await?;
    operator.terminate().await?;

    let mut objects = vec![json!(
        Api::<Secret>::namespaced(bed.client.clone(), operator.namespace())
            .get(names::TOKEN_KEY_SECRET)
            .await?
    )];
    objects.extend(found::<SecretStore>(&bed.all()).await?);
    objects.extend(found::<ClusterSecretStore>(&Api::all(bed.client.clone())).await?);
    objects.extend(found::<ExternalSecret>(&bed.all()).await?);
    objects.extend(found::<Secret>(&bed.all()).await?);
    for kind in KINDS {
        let listed = bed.workloads(kind).list(&ListParams::default()).await?;
        for mut object in listed {
            object.types = Some(kube::core::TypeMeta {
                api_version: "apps/v1".into(),
                kind: kind.into(),
            });
            objects.push(json!(object));
        }
    }
    objects.retain(|object| !text(object, "/metadata/name").starts_with("anchor"));
    for object in &mut objects {
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove(field);
            }
        }
    }
    fs::write(&file, serde_json::to_string_pretty(&objects)? + "\n").with_context(|| file)
}

const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// All objects of a kind, each with its kind.
async fn found<K>(api: &Api<K>) -> Result<Vec<Value>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let listed = api.list(&ListParams::default()).await?;
    Ok(listed
        .into_iter()
        .map(|object| {
            let mut object = json!(object);
            object["apiVersion"] = json!(K::api_version(&()));
            object["kind"] = json!(K::kind(&()));
            object
        })
        .collect())
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test]
async fn what_an_earlier_version_wrote_is_left_as_it_is() -> Result<()> {
    let (_place, bed, mut operator) = world().await?;
    let objects: Vec<Value> = serde_json::from_str(EARLIER)?;
    let outcome = AssertUnwindSafe(unchanged(&bed, &mut operator, objects))
        .catch_unwind()
        .await;
    bed.finish(Some(&operator), outcome).await
}

/// Starts the operator over what an earlier version left, and compares once all of it has been looked at.
async fn unchanged(bed: &Bed, operator: &mut Operator, objects: Vec<Value>) -> Result<()> {
    for (name, versions) in REMOTE {
        put(bed, name, versions)?;
    }
    let left = Left { bed, objects };
    left.load(operator).await?;
    let before = left.state().await?;
    let mark = bed.aws.mark();
    operator.start().await?;
    // Once this has followed a change, whatever was to be restarted has been.
    let mut anchor = Anchor::drop(bed).await?;
    anchor.holds().await?;
    anchor.holds().await?;
    let values = bed.calls_since(mark).values_read();
    let others: Vec<_> = values
        .iter()
        .filter(|(_, secret)| !secret.contains("app/anchor"))
        .collect();
    ensure!(others.is_empty(), "values were read of {others:?}");
    let after = left.state().await?;
    for (object, was) in &before {
        same(object, &after.get(object), &Some(was))?;
    }
    Ok(())
}

/// To this version and back, as a rolling update does it: each version leads while a replica of the other one stands by.
#[tokio::test]
#[ignore = "needs the program and the chart of an earlier version: make upgrade"]
async fn two_versions_undo_nothing_of_each_other() -> Result<()> {
    let path = |name: &str| env::var_os(name).map(PathBuf::from).context(name.to_owned());
    let earlier = (path("KEYTURN_EARLIER_CHART")?, path("KEYTURN_EARLIER_BIN")?);
    let today = (PathBuf::from(testbed_operator::CHART), testbed_operator::built()?);
    let (_place, bed, mut operator) = world().await?;
    let outcome = AssertUnwindSafe(async {
        for (name, versions) in REMOTE {
            put(&bed, name, versions)?;
        }
        let left = Left {
            bed: &bed,
            objects: serde_json::from_str(EARLIER)?,
        };
        left.load(&operator).await?;
        let before = left.state().await?;
        operator.upgrade(&earlier.0, &earlier.1).await?;
        operator.start().await?;
        let mut anchor = Anchor::drop(&bed).await?;
        let history = bed.history().await?;
        anchor.holds().await?;
        for (chart, binary) in [&today, &earlier, &today] {
            let former = operator.take()?;
            operator.upgrade(chart, binary).await?;
            operator.launch().await?;
            // Both run, the former one leads.
            anchor.holds().await?;
            let holder = former.pod_name().to_owned();
            former.kill9()?;
            operator.led(&bed.client, Some(&holder)).await?;
            anchor.holds().await?;
            let after = left.state().await?;
            for (object, was) in &before {
                same(object, &after.get(object), &Some(was))?;
            }
        }
        let restarts = history.of("Deployment", "anchored").await?;
        same("restarts of what followed", &restarts.len(), &7)
    })
    .catch_unwind()
    .await;
    bed.finish(Some(&operator), outcome).await
}

/// When it happened, had it happened in this cluster.
struct Times {
    changed_at: String,
    restart_since: String,
}

/// What an earlier version left, in a cluster of today.
struct Left<'a> {
    bed: &'a Bed,
    objects: Vec<Value>,
}

impl Left<'_> {
    fn of(&self, kinds: &[&str]) -> impl Iterator<Item = Value> {
        let chosen = |object: &&Value| kinds.contains(&text(object, "/kind"));
        self.objects
            .iter()
            .filter(chosen)
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Puts everything in place, in the order that lets it mean what it meant: pods that are older than a change are made
    /// first, those that carry its token last.
    async fn load(&self, operator: &Operator) -> Result<()> {
        let bed = self.bed;
        bed.run_workloads(workloads()?).await?;
        // A restart or a change counts from the second after the pods.
        let changed = Timestamp::now() + SignedDuration::from_secs(1);
        bed.past(changed).await?;
        let text_of = |ago: i64| {
            let time = changed - SignedDuration::from_mins(ago);
            time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        };
        // That these pods hold the change shows by their age alone.
        let by_age = ["scoped", "reverted"];
        let times = |name: &str| Times {
            changed_at: text_of(if by_age.contains(&name) { 10 } else { 0 }),
            restart_since: text_of(60),
        };
        for store in self.of(&["SecretStore", "ClusterSecretStore"]) {
            self.make(store, &times("")).await?;
        }
        let mut uids = BTreeMap::new();
        for object in self.of(&["ExternalSecret"]) {
            let name = text(&object, "/metadata/name").to_owned();
            let uid = self.make(object, &times(&name)).await?;
            uids.insert(name, uid);
        }
        for mut secret in self.of(&["Secret"]) {
            let name = text(&secret, "/metadata/name").to_owned();
            if let Some(owners) = secret["metadata"]["ownerReferences"].as_array_mut() {
                for owner in owners {
                    owner["uid"] = json!(
                        uids.get(text(owner, "/name"))
                            .context("an owner that is not there")?
                    );
                }
            }
            let annotations = &mut secret["metadata"]["annotations"];
            let Times {
                changed_at,
                restart_since,
            } = times(&name);
            for (annotation, time) in [
                (names::annotation::CHANGED_AT, changed_at),
                (names::annotation::RESTART_SINCE, restart_since),
            ] {
                if !annotations[annotation].is_null() {
                    annotations[annotation] = json!(time);
                }
            }
            let namespace = match name.as_str() {
                names::TOKEN_KEY_SECRET => operator.namespace(),
                _ => NAMESPACE,
            };
            let secret: Secret = serde_json::from_value(secret)?;
            let parameters = PostParams {
                field_manager: Some(names::SYNC_MANAGER.to_owned()),
                ..Default::default()
            };
            Api::<Secret>::namespaced(bed.client.clone(), namespace)
                .create(&parameters, &secret)
                .await
                .with_context(|| format!("create Secret {name}"))?;
        }
        for object in self.of(&KINDS) {
            self.restart(&object).await?;
        }
        Ok(())
    }

    /// Makes an object with its status, as its two managers write it; its uid.
    async fn make(&self, mut object: Value, times: &Times) -> Result<String> {
        let (kind, name) = (
            text(&object, "/kind").to_owned(),
            text(&object, "/metadata/name").to_owned(),
        );
        let mut status = object["status"].take();
        let recorded = object["metadata"]["generation"].take();
        let api = self.bed.dynamic_api(&object)?;
        let made = api
            .create(
                &PostParams::default(),
                &serde_json::from_value::<DynamicObject>(object.clone())?,
            )
            .await
            .with_context(|| format!("create {kind} {name}"))?;
        let generation = json!(made.metadata.generation);
        if status["observedGeneration"] == recorded {
            status["observedGeneration"] = generation.clone();
        }
        let conditions = status["conditions"].as_array_mut().context("conditions")?;
        for condition in &mut *conditions {
            if condition["observedGeneration"] == recorded {
                condition["observedGeneration"] = generation.clone();
            }
        }
        for (field, time) in [
            ("changedAt", &times.changed_at),
            ("restartSince", &times.restart_since),
        ] {
            if !status["target"][field].is_null() {
                status["target"][field] = json!(time);
            }
        }
        let (restarts, sync): (Vec<Value>, Vec<Value>) = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned()
            .partition(|condition| text(condition, "/type") == "RestartsComplete");
        let restart = status.as_object_mut().and_then(|status| status.remove("restart"));
        status["conditions"] = json!(sync);
        let mut parts = vec![(names::SYNC_MANAGER, status)];
        if restart.is_some() || !restarts.is_empty() {
            let mut status = json!({"conditions": restarts});
            if let Some(restart) = restart {
                status["restart"] = restart;
            }
            parts.push((names::RESTART_MANAGER, status));
        }
        for (manager, status) in parts {
            let applied = json!({"apiVersion": object["apiVersion"], "kind": kind, "metadata": {"name": name},
                "status": status});
            api.patch_status(
                &name,
                &PatchParams::apply(manager).force(),
                &Patch::Apply(&applied),
            )
            .await
            .with_context(|| format!("apply the status of {kind} {name}"))?;
        }
        made.uid().context("a uid")
    }

    /// Gives a workload the annotations that restarts left on it, and waits for what ends.
    async fn restart(&self, object: &Value) -> Result<()> {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        let ours = |at: &str| -> BTreeMap<String, Value> {
            let all = object.pointer(at).and_then(Value::as_object);
            all.into_iter()
                .flatten()
                .filter(|(name, _)| name.starts_with(names::RESTART_DOMAIN))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let records = ours("/metadata/annotations");
        if records.is_empty() {
            return Ok(());
        }
        let tokens = ours("/spec/template/metadata/annotations");
        let patch = json!({"metadata": {"annotations": records},
            "spec": {"template": {"metadata": {"annotations": tokens}}}});
        let parameters = PatchParams {
            field_manager: Some(names::RESTART_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.bed
            .workloads(kind)
            .patch(name, &parameters, &Patch::Merge(&patch))
            .await
            .with_context(|| format!("patch {kind} {name}"))?;
        if !["stuck-a", "failed-a"].contains(&name) {
            self.bed.complete(kind, name).await?;
        }
        Ok(())
    }

    /// What must stay as it is, by object.
    async fn state(&self) -> Result<BTreeMap<String, String>> {
        let bed = self.bed;
        let mut state = BTreeMap::new();
        for object in self
            .objects
            .iter()
            .filter(|object| text(object, "/metadata/name") != names::TOKEN_KEY_SECRET)
        {
            let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
            let now = bed
                .dynamic_api(object)?
                .get(name)
                .await
                .with_context(|| format!("get {kind} {name}"))?;
            let whole = if KINDS.contains(&kind) {
                // Their controllers write their status.
                json!([now.metadata.generation, now.metadata.annotations])
            } else {
                let mut whole = json!(now);
                // Whoever reads a failure wants to see what differs.
                whole["metadata"]["managedFields"].take();
                whole
            };
            state.insert(format!("{kind} {name}"), serde_json::to_string_pretty(&whole)?);
        }
        Ok(state)
    }
}
