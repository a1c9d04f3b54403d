//! Admission webhooks that take long, and connections that are only half open: each holds up what it concerns, and nothing
//! else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use keyturn::api::SecretStore;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use testbed::{requests, wait};

use crate::{
    harness::{API_SERVER, Bed, DELETION, SOON, STORE, annotation, data, entry, quarry, same},
    operator::Operator,
    rolling::{LATER, SKEW, restarted, web},
};

/// Longer than a webhook may take by default, so that `failurePolicy: Ignore` comes into effect, and with some to spare.
const WEBHOOK: Duration = Duration::from_secs(12);
/// ExternalSecrets of the namespace with the webhook: more than all places to write.
const SLOW: usize = 40;
/// Those of the other one.
const OTHERS: usize = 20;

/// Whether a request writes a Secret of this namespace.
fn secrets_of(namespace: &str) -> impl Fn(&Method, &str) -> bool + Send + Sync + 'static {
    let all = format!("/api/v1/namespaces/{namespace}/secrets");
    move |method, path| {
        matches!(*method, Method::POST | Method::PATCH)
            && path
                .strip_prefix(&*all)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

async fn written(bed: &Bed) -> Result<usize> {
    let managed = ListParams::default().labels("keyturn.dev/managed=true");
    let secrets = bed
        .all::<k8s_openapi::api::core::v1::Secret>()
        .list(&managed)
        .await?;
    Ok(secrets.items.len())
}

#[tokio::test]
async fn a_slow_webhook_of_one_namespace_holds_up_no_other_and_its_own_secrets_are_written() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let (slow, other) = (Bed::make(place, "slow").await?, Bed::make(place, "fast").await?);
    for bed in [&slow, &other] {
        bed.store(STORE, json!({})).await?;
        bed.secret("app/db", "first")?;
    }
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&slow, &other]).await?;
    let webhook = proxy.slow(secrets_of(&slow.namespace), WEBHOOK);
    operator.start().await?;
    for n in 0..SLOW {
        slow.plain(&format!("db-{n}"), "app/db").await?;
    }
    wait::until("writes that wait for the webhook", SOON, async || {
        Ok((webhook.counts().waiting > 0).then_some(()))
    })
    .await?;
    for n in 0..OTHERS {
        other.plain(&format!("db-{n}"), "app/db").await?;
    }
    for n in 0..OTHERS {
        other.holds(&format!("db-{n}"), &[("value", "first")]).await?;
    }
    // Each write takes 12 s, and few are under way at once: they cannot be through.
    let counts = webhook.counts();
    ensure!(counts.most <= 4, "{counts:?}");
    let (before, all) = (written(&slow).await?, SLOW);
    ensure!(before < all, "{before} of {all} were written meanwhile");
    wait::until("a Secret of the slow namespace", SOON, async || {
        Ok((written(&slow).await? > 0).then_some(()))
    })
    .await?;
    // Once the webhook is gone the rest follows.
    drop(webhook);
    for n in 0..SLOW {
        slow.holds(&format!("db-{n}"), &[("value", "first")]).await?;
    }
    finish(&operator, [slow, other]).await
}

#[tokio::test]
async fn a_change_through_a_slow_webhook_is_written_and_dated_no_earlier_than_it_arrives() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let bed = Bed::make(place, "slow-change").await?;
    bed.store(STORE, json!({})).await?;
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&bed]).await?;
    operator.start().await?;
    let source = bed.restarting("db", json!({})).await?;
    bed.run_workloads([web("web", "db")]).await?;
    let history = bed.history().await?;
    let webhook = proxy.slow(secrets_of(&bed.namespace), WEBHOOK);
    bed.aws.put_secret_value(&source.arn, "second")?;
    // The last moment at which a pod could have been given the old value.
    let before = wait::until("the second value", 2 * SOON, async || {
        let now = Timestamp::now();
        let secret = bed.written("db").await?;
        let second = data(&secret).values().any(|value| value == "second");
        Ok(second.then_some((now, secret)))
    })
    .await?;
    let (seen, secret) = before;
    let changed: Timestamp = annotation(&secret, "keyturn.dev/changed-at")
        .context("it names the time of the change")?
        .parse()?;
    // It was looked for several times a second.
    let covered = changed + SKEW;
    ensure!(
        covered + SignedDuration::from_secs(3) > seen,
        "changed at {changed}, seen at {seen}"
    );
    let counts = webhook.counts();
    ensure!(counts.sent >= 1, "{counts:?}");
    drop(webhook);
    let token = bed.rollout("db").await?;
    bed.follows(("Deployment", "web"), "db", &token).await?;
    bed.restarts("db", &["Complete"]).await?;
    restarted(&history, &[("Deployment web", 1)]).await?;
    finish(&operator, [bed]).await
}

#[tokio::test]
async fn a_half_open_watch_is_opened_again_and_misses_nothing() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let bed = Bed::make(place, "half-open").await?;
    bed.store(STORE, json!({})).await?;
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&bed]).await?;
    // Short, so that the test is; 200 s otherwise.
    operator.set("KEYTURN_WATCH_SILENCE", "5s");
    operator.start().await?;
    bed.secret("app/db", "first")?;
    bed.plain("first", "app/db").await?;
    bed.synced("first").await?;
    let path = format!("/namespaces/{}/externalsecrets", bed.namespace);
    wait::until("the watch to be silenced", SOON, async || {
        Ok((proxy.silence_watches(|watched| watched.ends_with(&path)) > 0).then_some(()))
    })
    .await?;
    let asked = requests::mark(bed.cluster)?;
    bed.plain("db", "app/db").await?;
    bed.synced("db").await?;
    // It went on from where it was.
    let lists = requests::since(bed.cluster, asked)?
        .of(operator.user())
        .only(|request| request.verb == "list" && request.resource == "externalsecrets");
    same("lists", &lists.0.len(), &0)?;
    let silent = [("kind", "ExternalSecret"), ("cause", "silent")];
    let opened = operator
        .metrics()
        .await?
        .sum_where("keyturn_watch_restarts_total", &silent);
    ensure!(opened >= 1.0, "{opened} watches were opened again");
    finish(&operator, [bed]).await
}

/// Suspends everything of this kind, or no more.
async fn suspend(bed: &Bed, operator: &Operator, what: &str, suspended: bool) -> Result<()> {
    let api = Api::<ConfigMap>::namespaced(bed.client.clone(), operator.namespace());
    if suspended {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keyturn-control"},
            "data": {what: "true"}});
        let parameters = PatchParams::apply("tests").force();
        api.patch("keyturn-control", &parameters, &Patch::Apply(map))
            .await?;
    } else {
        api.delete("keyturn-control", &DeleteParams::default()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn keyturn_control_is_read_before_each_restart() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let bed = Bed::make(place, "live-control").await?;
    bed.store(STORE, json!({})).await?;
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&bed]).await?;
    operator.start().await?;
    let source = bed.restarting("db", json!({})).await?;
    bed.run_workloads([web("web", "db")]).await?;
    let history = bed.history().await?;
    // The watch of keyturn-control is half open: what it says is not heard.
    let silenced = proxy.silence_watches(|path| path.ends_with("/configmaps"));
    ensure!(silenced == 1, "{silenced} watches were silenced");
    suspend(&bed, &operator, "suspendRestarts", true).await?;
    let mark = requests::mark(bed.cluster)?;
    bed.rotate(&source, "second").await?;
    let reads = async |what: &str, least: usize| {
        wait::until(what, LATER, async || {
            let asked = requests::since(bed.cluster, mark)?.of(operator.user());
            let read = asked.only(|request| request.verb == "get" && request.name == "keyturn-control");
            Ok((read.0.len() >= least).then_some(()))
        })
        .await
    };
    reads("keyturn-control to be read, and read again", 2).await?;
    restarted(&history, &[]).await?;
    suspend(&bed, &operator, "suspendRestarts", false).await?;
    let token = bed.rollout("db").await?;
    bed.follows(("Deployment", "web"), "db", &token).await?;

    // Where it cannot be read nothing is restarted, and that is said.
    let unread = proxy.slow(
        |method, path| *method == Method::GET && path.ends_with("/configmaps/keyturn-control"),
        Duration::from_hours(1),
    );
    let third = bed.rotate(&source, "third").await?;
    wait::until("two attempts to read it", LATER, async || {
        Ok((unread.counts().given_up >= 2).then_some(()))
    })
    .await?;
    restarted(&history, &[("Deployment web", 1)]).await?;
    let log = operator.log()?;
    ensure!(
        log.lines()
            .any(|line| line.contains("keyturn-control") && line.contains("no answer in time")),
        "the log does not say so"
    );
    drop(unread);
    bed.follows(("Deployment", "web"), "db", &third).await?;
    bed.restarts("db", &["Complete"]).await?;
    restarted(&history, &[("Deployment web", 2)]).await?;
    finish(&operator, [bed]).await
}

/// Secrets that lose data once AWS has lost theirs, each in another way; others stay, so that none is held for a person.
async fn losing(bed: &Bed) -> Result<[String; 2]> {
    let arns = [bed.secret("app/gone", "1")?, bed.secret("app/part", "1")?];
    bed.secret("app/stays", "1")?;
    for (name, policy, keys) in [
        ("gone", "Delete", &["app/gone"][..]),
        ("part", "Merge", &["app/part", "app/stays"]),
        ("stays", "Delete", &["app/stays"]),
        ("stays-too", "Delete", &["app/stays"]),
    ] {
        let entries: Vec<_> = keys
            .iter()
            .map(|key| entry(&key.replace('/', "-"), key))
            .collect();
        let target = json!({"deletionPolicy": policy});
        bed.external_secret(name, json!({"data": entries, "target": target}))
            .await?;
    }
    for name in ["gone", "part", "stays", "stays-too"] {
        bed.synced(name).await?;
    }
    Ok(arns)
}

/// All that [`losing`] made is there.
async fn whole(bed: &Bed) -> Result<()> {
    bed.holds("gone", &[("app-gone", "1")]).await?;
    bed.holds("part", &[("app-part", "1"), ("app-stays", "1")])
        .await?;
    Ok(())
}

/// Deletions that the API server was asked for since then.
fn deletions(bed: &Bed, operator: &Operator, mark: requests::Mark) -> Result<usize> {
    let asked = requests::since(bed.cluster, mark)?.of(operator.user());
    let deleted = asked.only(|request| request.verb == "delete" && request.resource == "secrets");
    Ok(deleted.0.len())
}

#[tokio::test]
async fn keyturn_control_is_read_before_each_deletion() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let bed = Bed::make(place, "control-deletes").await?;
    bed.store(STORE, json!({})).await?;
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&bed]).await?;
    operator.start().await?;
    let arns = losing(&bed).await?;
    // What keyturn-control says is not heard.
    let silenced = proxy.silence_watches(|path| path.ends_with("/configmaps"));
    ensure!(silenced == 1, "{silenced} watches were silenced");
    suspend(&bed, &operator, "suspendSync", true).await?;
    let mark = requests::mark(bed.cluster)?;
    for arn in &arns {
        bed.aws.force_delete_secret(arn)?;
    }
    // Each of the two asks again and again.
    wait::until("keyturn-control to be read for both", DELETION, async || {
        let asked = requests::since(bed.cluster, mark)?.of(operator.user());
        let read = asked.only(|request| request.verb == "get" && request.name == "keyturn-control");
        let deleted = deletions(&bed, &operator, mark)?;
        Ok((read.0.len() >= 6 || deleted > 0).then_some(()))
    })
    .await?;
    same("deletions", &deletions(&bed, &operator, mark)?, &0)?;
    whole(&bed).await?;
    suspend(&bed, &operator, "suspendSync", false).await?;
    bed.gone_within(DELETION, "gone").await?;
    bed.holds_within(DELETION, "part", &[("app-stays", "1")]).await?;
    same("deletions", &deletions(&bed, &operator, mark)?, &1)?;
    finish(&operator, [bed]).await
}

#[tokio::test]
async fn a_suspension_stops_a_deletion_that_is_under_way() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let bed = Bed::make(place, "late-suspension").await?;
    bed.store(STORE, json!({})).await?;
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&bed]).await?;
    operator.start().await?;
    let arns = losing(&bed).await?;
    let mark = requests::mark(bed.cluster)?;
    let path = format!("/namespaces/{}/secrets/gone", bed.namespace);
    let slow = proxy.slow(
        move |method, asked| *method == Method::GET && asked.ends_with(&path),
        Duration::from_secs(5),
    );
    let asked = bed.aws.mark();
    bed.aws.force_delete_secret(&arns[0])?;
    // AWS has confirmed it, and the pass that follows looks at the Secret.
    wait::until("a deletion under way", DELETION, async || {
        let confirmed = bed.calls_since(asked).count("DescribeSecret") >= 2;
        Ok((confirmed && slow.counts().waiting > 0).then_some(()))
    })
    .await?;
    let until =
        |until: Option<&str>| json!({"metadata": {"annotations": {"keyturn.dev/suspend-sync-until": until}}});
    bed.patch::<SecretStore>(STORE, until(Some("2099-01-01T00:00:00Z")))
        .await?;
    bed.condition("gone", "Current", &["Suspended"]).await?;
    drop(slow);
    whole(&bed).await?;
    same("deletions", &deletions(&bed, &operator, mark)?, &0)?;
    bed.patch::<SecretStore>(STORE, until(None)).await?;
    bed.gone_within(DELETION, "gone").await?;
    finish(&operator, [bed]).await
}

async fn finish(operator: &Operator, beds: impl IntoIterator<Item = Bed>) -> Result<()> {
    for bed in beds {
        bed.run(Some(operator), async |_| Ok(())).await?;
    }
    Ok(())
}
