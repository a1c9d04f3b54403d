//! Whatever dies, and whenever: afterwards every Secret is right, and on the way none was half, empty or older.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    runtime::watcher::{self, Event},
};
use serde_json::{Value, json};
use testbed::{controlplane::Options, requests, wait};

use crate::{
    harness::{API_SERVER, Bed, SELDOM, SOON, STORE, bare, confined, data, entry, quarried, quarry, same},
    operator::Operator,
};

/// How often the operator is killed, unless `KEYTURN_TEST_KILLS` says otherwise.
const KILLS: usize = 100;
/// Secrets that change meanwhile.
const SECRETS: usize = 12;

fn numbered(n: u64) -> String {
    format!(r#"{{"a":"{n}","b":"{n}"}}"#)
}

/// What a watch saw of each Secret: its number, at every change in order, and what was wrong.
#[derive(Default)]
struct Seen {
    numbers: BTreeMap<String, u64>,
    changes: usize,
    wrong: Vec<String>,
}

impl Seen {
    fn look(&mut self, secret: &Secret) {
        let (name, data) = (secret.name_any(), data(secret));
        let number = |key: &str| data.get(key).and_then(|value| value.parse::<u64>().ok());
        let (Some(a), Some(b)) = (number("a"), number("b")) else {
            self.wrong.push(format!("{name} holds only {:?}", data.keys()));
            return;
        };
        if a != b {
            self.wrong.push(format!("{name} is half {a}, half {b}"));
        }
        let former = self.numbers.insert(name.clone(), a).unwrap_or_default();
        if a < former {
            self.wrong
                .push(format!("{name} was rolled back from {former} to {a}"));
        }
        self.changes += 1;
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at every change of every Secret of the bed until it is dropped.
fn watch(bed: &Bed) -> (Arc<Mutex<Seen>>, tokio::task::JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let into = seen.clone();
    let managed = watcher::Config::default().labels("keyturn.dev/managed=true");
    let events = watcher::watcher(bed.all::<Secret>(), managed);
    let task = tokio::spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let mut seen = lock(&into);
            match event {
                Ok(Event::Apply(secret) | Event::InitApply(secret)) => seen.look(&secret),
                Ok(Event::Delete(secret)) => seen.wrong.push(format!("{} was deleted", secret.name_any())),
                Ok(Event::Init | Event::InitDone) | Err(_) => {}
            }
        }
    });
    (seen, task)
}

#[tokio::test]
async fn killed_at_any_moment_it_loses_and_harms_nothing() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("kills", &[], async |bed, operator| {
        let kills = env::var("KEYTURN_TEST_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
        let mut arns = Vec::new();
        for n in 0..SECRETS {
            arns.push(bed.secret(&format!("app/{n}"), &numbered(0))?);
            let policy = ["Retain", "Delete", "Merge"].get(n % 3).copied().unwrap_or_default();
            let spec = json!({"dataFrom": [{"extract": {"key": format!("app/{n}")}}], "target": {"deletionPolicy": policy}});
            bed.external_secret(&format!("db-{n}"), spec).await?;
        }
        for n in 0..SECRETS {
            bed.holds(&format!("db-{n}"), &[("a", "0"), ("b", "0")]).await?;
        }
        let (seen, watching) = watch(bed);

        // AWS moves on all the time.
        let stop = Arc::new(AtomicBool::new(false));
        let (aws, ended, changing, written) = (bed.aws.clone(), stop.clone(), arns.clone(), seen.clone());
        let changes = tokio::spawn(async move {
            let mut numbers = vec![0_u64; changing.len()];
            while !ended.load(Ordering::Relaxed) {
                for (at, number) in numbers.iter_mut().enumerate() {
                    // A secret that moved on twice while nobody looked is only believed after a minute: the version that
                    // the Secret holds has no label any more that would tell a stale replica from a later one.
                    let arrived = lock(&written).numbers.get(&format!("db-{at}")) == Some(number);
                    if arrived {
                        *number += 1;
                        aws.put_secret_value(&changing[at], numbered(*number)).expect("put a value");
                    }
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            numbers
        });
        let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
        for kill in 0..kills {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Every other life ends at work, however long this machine takes to come to that.
            let at_work = kill % 2 == 1;
            if at_work {
                let before = lock(&seen).changes;
                let moved = async || Ok((lock(&seen).changes > before).then_some(()));
                wait::until("a process to write a Secret", SOON, moved).await?;
            }
            let life = Duration::from_millis((dice >> 33) % if at_work { 300 } else { 1600 });
            tokio::time::sleep(life).await;
            operator.kill().with_context(|| format!("kill {kill}, after {} ms", life.as_millis()))?;
            operator.expire_lease(&bed.client).await?;
            operator.launch().await?;
        }
        stop.store(true, Ordering::Relaxed);
        let numbers = changes.await?;
        operator.process()?.wait_ready().await?;
        for (n, number) in numbers.iter().enumerate() {
            let number = number.to_string();
            let name = format!("db-{n}");
            bed.holds(&name, &[("a", &number), ("b", &number)]).await?;
            bed.synced(&name).await?;
        }
        watching.abort();
        {
            let seen = lock(&seen);
            ensure!(seen.wrong.is_empty(), "{} wrong of {} changes: {:?}", seen.wrong.len(), seen.changes, seen.wrong);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_api_server_that_restarts_costs_nothing_but_time() -> Result<()> {
    let _api_server = API_SERVER.write().await;
    quarried("restarts", &[], async |bed, operator| {
        let arn = bed.secret("app/db", &numbered(0))?;
        bed.external_secret("db", json!({"dataFrom": [{"extract": {"key": "app/db"}}]}))
            .await?;
        bed.holds("db", &[("a", "0"), ("b", "0")]).await?;
        for n in 1..=2_u64 {
            bed.cluster.stop_apiserver()?;
            bed.aws.put_secret_value(&arn, numbered(n))?;
            bed.cluster.start_apiserver().await?;
            if let Some(status) = operator.process()?.ended()? {
                // An outage of more than 20 s costs the Lease; the kubelet would start it again.
                println!("the operator ended with {status} in the outage and is started again");
                operator.launch().await?;
            }
            let number = n.to_string();
            bed.holds("db", &[("a", &number), ("b", &number)]).await?;
            // Watches live on: what is edited and drifts afterwards is seen.
            bed.patch::<Secret>("db", json!({"stringData": {"a": "by hand"}}))
                .await?;
            bed.holds("db", &[("a", &number), ("b", &number)]).await?;
            bed.secret(&format!("app/new-{n}"), "new")?;
            bed.plain(&format!("new-{n}"), &format!("app/new-{n}")).await?;
            bed.holds(&format!("new-{n}"), &[("value", "new")]).await?;
        }
        bed.synced("db").await?;
        Ok(())
    })
    .await
}

/// Which objects changed in which way behind the operator's back.
const MISSED: [&str; 5] = ["same", "edited", "drifted", "removed", "gone"];

/// One round of changes that no watch shows, since it has expired; whether that came about, rather than the end of a
/// process that was held up for too long to keep its Lease.
async fn misses(bed: &Bed, operator: &mut crate::operator::Operator, round: usize) -> Result<bool> {
    let named = |name: &str| format!("{name}-{round}");
    let spec = |key: &str, name: &str| json!({"data": [entry(key, &format!("app/{name}"))], "refreshInterval": SELDOM});
    for name in MISSED {
        bed.external_secret(&named(name), spec("value", name)).await?;
    }
    for name in MISSED {
        bed.synced(&named(name)).await?;
    }
    let before = operator.metrics().await?;
    operator.process()?.pause().await?;
    // A new API server keeps no history: what a watch asks for from before its start has expired.
    bed.cluster.restart_apiserver().await?;
    bed.external_secret(&named("edited"), spec("other", "edited"))
        .await?;
    bed.patch::<Secret>(&named("drifted"), json!({"stringData": {"value": "by hand"}}))
        .await?;
    bed.delete::<Secret>(&named("removed")).await?;
    bed.delete::<keyturn::api::ExternalSecret>(&named("gone")).await?;
    bed.external_secret(&named("new"), spec("value", "same")).await?;
    let asked = requests::mark(bed.cluster)?;
    operator.process()?.resume().await?;
    for (name, key) in [
        ("same", "value"),
        ("edited", "other"),
        ("drifted", "value"),
        ("removed", "value"),
        ("new", "value"),
    ] {
        let (name, what) = (named(name), format!("{name} to be right"));
        wait::until(&what, SOON, async || {
            if let Some(status) = operator.process()?.ended()? {
                println!("the operator ended with {status} and is started again");
                operator.launch().await?;
            }
            let held = bed.find(&name).await?.map(|secret| data(&secret));
            Ok((held == Some(crate::harness::pairs(&[(key, "first")]))).then_some(()))
        })
        .await?;
    }
    bed.gone(&named("gone")).await?;
    // What comes after is done after: all else has been looked at by then.
    bed.plain(&named("last"), "app/same").await?;
    bed.synced(&named("last")).await?;
    operator.process()?.wait_ready().await?;
    let after = operator.metrics().await?;
    let expired = |kind: &str| {
        let labels = [("kind", kind), ("cause", "expired")];
        after.sum_where("keyturn_watch_restarts_total", &labels)
            > before.sum_where("keyturn_watch_restarts_total", &labels)
    };
    if !expired("ExternalSecret") || !expired("Secret") {
        return Ok(false);
    }
    let written = requests::since(bed.cluster, asked)?
        .of(operator.user())
        .only(|request| request.writes() && request.resource == "secrets" && request.code < 300);
    let of = |verb: &str| -> Vec<&str> {
        let mut all: Vec<_> = written
            .0
            .iter()
            .filter(|request| request.verb == verb)
            .map(|request| &*request.name)
            .collect();
        all.sort_unstable();
        all
    };
    ensure!(
        of("patch") == [named("drifted"), named("edited")],
        "patched: {:?}",
        of("patch")
    );
    // The POST of a Secret has no name in the record: those of removed, new and last.
    ensure!(of("create").len() == 3, "created: {:?}", of("create"));
    ensure!(written.0.len() == 5, "written: {:?}", written.counts());
    Ok(true)
}

#[tokio::test]
async fn a_watch_that_expired_misses_nothing_and_writes_nothing_twice() -> Result<()> {
    let _api_server = API_SERVER.write().await;
    quarried("expired", &[], async |bed, operator| {
        for name in MISSED {
            bed.secret(&format!("app/{name}"), "first")?;
        }
        for round in 0..5 {
            if misses(bed, operator, round).await? {
                return Ok(());
            }
            println!("round {round}: no watch expired");
        }
        bail!("no watch expired in five rounds")
    })
    .await
}

#[tokio::test]
async fn after_a_restart_nothing_is_read_and_nothing_written() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("starts", &[], async |bed, operator| {
        for n in 0..25 {
            bed.secret(&format!("app/{n}"), "first")?;
            let spec = json!({"data": [entry("value", &format!("app/{n}"))], "refreshInterval": SELDOM});
            bed.external_secret(&format!("db-{n}"), spec).await?;
        }
        for n in 0..25 {
            bed.synced(&format!("db-{n}")).await?;
        }
        let before = versions(bed).await?;
        operator.terminate().await?;
        let (mark, asked) = (bed.aws.mark(), requests::mark(bed.cluster)?);
        let arn = starts_again(bed, operator).await?;
        bed.rounds(5).await?;
        let read: Vec<_> = bed
            .calls_since(mark)
            .values_read()
            .into_iter()
            .filter(|(_, secret)| **secret != *arn)
            .collect();
        ensure!(read.is_empty(), "{} values were read again", read.len());
        unchanged(bed, &before).await?;
        let written = requests::since(bed.cluster, asked)?
            .of(operator.user())
            .only(|request| {
                request.writes()
                    && request.resource != "leases"
                    && request.name != "new"
                    && !request.resource.starts_with("secretstores")
            });
        // The POST of a Secret has no name in the record.
        ensure!(written.0.len() <= 1, "{:?}", written.counts());
        same("pages", &pages(bed, operator, asked)?, &0)
    })
    .await
}

/// Starts the operator. A further object `new` is made and works: by then all others have been looked at. Its secret's ARN.
async fn starts_again(bed: &Bed, operator: &mut Operator) -> Result<String> {
    operator.start().await?;
    operator.led(&bed.client, None).await?;
    let arn = bed.secret("app/new", "new")?;
    bed.plain("new", "app/new").await?;
    bed.holds("new", &[("value", "new")]).await?;
    bed.synced("new").await?;
    Ok(arn)
}

/// That nothing was written since `before` but `new`.
async fn unchanged(bed: &Bed, before: &BTreeMap<String, Option<String>>) -> Result<()> {
    let mut after = versions(bed).await?;
    after.remove("Secret new");
    after.remove("ExternalSecret new");
    ensure!(after == *before, "written although nothing changed");
    Ok(())
}

/// How often the operator listed Secrets page by page.
fn pages(bed: &Bed, operator: &Operator, mark: requests::Mark) -> Result<usize> {
    Ok(requests::since(bed.cluster, mark)?
        .of(operator.user())
        .count("list", "secrets"))
}

#[tokio::test]
async fn where_the_api_server_streams_no_lists_they_are_read_by_pages() -> Result<()> {
    let older = Options {
        apiserver_arguments: vec!["--feature-gates=WatchList=false".to_owned()],
        ..Options::default()
    };
    let place = bare(older).await?;
    confined(&place, "older", &[], async |bed, operator| {
        const OBJECTS: usize = 60;
        for n in 0..OBJECTS {
            bed.secret(&format!("app/{n}"), "first")?;
            bed.plain(&format!("db-{n}"), &format!("app/{n}")).await?;
        }
        for n in 0..OBJECTS {
            bed.synced(&format!("db-{n}")).await?;
        }
        let before = versions(bed).await?;
        operator.terminate().await?;
        let mark = requests::mark(bed.cluster)?;
        let arn = starts_again(bed, operator).await?;
        same("pages", &pages(bed, operator, mark)?, &2)?;
        unchanged(bed, &before).await?;
        // What it follows from there it sees.
        bed.aws.put_secret_value(&arn, "newer")?;
        bed.holds("new", &[("value", "newer")]).await?;
        Ok(())
    })
    .await
}

/// The resourceVersion of everything of ours.
async fn versions(bed: &Bed) -> Result<BTreeMap<String, Option<String>>> {
    let mut all = BTreeMap::new();
    for secret in bed.all::<Secret>().list(&ListParams::default()).await? {
        all.insert(
            format!("Secret {}", secret.name_any()),
            secret.metadata.resource_version,
        );
    }
    for object in bed
        .all::<keyturn::api::ExternalSecret>()
        .list(&ListParams::default())
        .await?
    {
        all.insert(
            format!("ExternalSecret {}", object.name_any()),
            object.metadata.resource_version,
        );
    }
    Ok(all)
}

#[tokio::test]
async fn what_changed_while_nobody_looked_is_caught_up() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("asleep", &[], async |bed, operator| {
        let spec = |key: &str| {
            // What moved in AWS is seen when it is due; the rest must not wait for that.
            let interval = if key == "app/moved" { "5s" } else { SELDOM };
            json!({"data": [entry("value", key)], "refreshInterval": interval})
        };
        let arn = bed.secret("app/moved", "first")?;
        // The first look after the start shows it, however far its turn.
        let seldom = bed.secret("app/seldom", "first")?;
        for name in ["moved", "seldom", "drifted", "edited", "removed", "gone"] {
            if !["moved", "seldom"].contains(&name) {
                bed.secret(&format!("app/{name}"), "first")?;
            }
            bed.external_secret(name, spec(&format!("app/{name}"))).await?;
            bed.holds(name, &[("value", "first")]).await?;
            bed.synced(name).await?;
        }
        operator.terminate().await?;
        bed.aws.put_secret_value(&arn, "second")?;
        bed.aws.put_secret_value(&seldom, "second")?;
        bed.patch::<Secret>("drifted", json!({"stringData": {"value": "by hand"}}))
            .await?;
        bed.external_secret(
            "edited",
            json!({"data": [entry("other", "app/edited")], "refreshInterval": SELDOM}),
        )
        .await?;
        bed.delete::<Secret>("removed").await?;
        bed.delete::<keyturn::api::ExternalSecret>("gone").await?;
        bed.secret("app/new", "first")?;
        bed.external_secret("new", spec("app/new")).await?;
        operator.start().await?;
        for (name, key, value) in [
            ("moved", "value", "second"),
            ("seldom", "value", "second"),
            ("drifted", "value", "first"),
            ("edited", "other", "first"),
            ("removed", "value", "first"),
            ("new", "value", "first"),
        ] {
            bed.holds(name, &[(key, value)]).await?;
        }
        bed.gone("gone").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rights_that_are_taken_away_keep_the_last_good_secret() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("rbac", &[], async |bed, _| {
        let arn = bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        bed.synced("db").await?;
        let roles = Api::<k8s_openapi::api::rbac::v1::Role>::namespaced(bed.client.clone(), &bed.namespace);
        let mut changed = Vec::new();
        for mut role in roles.list(&ListParams::default()).await? {
            let granted = role.rules.clone().unwrap_or_default();
            let writes = |rule: &k8s_openapi::api::rbac::v1::PolicyRule| {
                rule.resources
                    .iter()
                    .flatten()
                    .any(|resource| resource == "secrets")
            };
            if granted.iter().any(writes) {
                changed.push(role.clone());
                let mut fewer = Vec::new();
                for mut rule in granted {
                    if writes(&rule) {
                        rule.verbs
                            .retain(|verb| ["get", "list", "watch"].contains(&verb.as_str()));
                    }
                    fewer.push(rule);
                }
                role.rules = Some(fewer);
                let name = role.name_any();
                roles
                    .replace(&name, &kube::api::PostParams::default(), &role)
                    .await?;
            }
        }
        if changed.is_empty() {
            bail!("no Role of {} lets the operator write Secrets", bed.namespace);
        }
        bed.aws.put_secret_value(&arn, "second")?;
        let said = bed.ready("db", "Forbidden").await?;
        crate::harness::assert_actionable(&said.message, &["db"]);
        bed.holds("db", &[("value", "first")]).await?;
        for role in changed {
            let patch = kube::api::Patch::Merge(json!({"rules": role.rules}));
            roles
                .patch(&role.name_any(), &kube::api::PatchParams::default(), &patch)
                .await?;
        }
        bed.holds("db", &[("value", "second")]).await?;
        bed.synced("db").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_operator_of_one_namespace_leaves_others_alone() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let other = Bed::make(quarry().await?, "notmine").await?;
    quarried("mine", &[], async |bed, _| {
        other.store(STORE, json!({})).await?;
        for bed in [bed, &other] {
            bed.secret("app/db", "first")?;
            bed.plain("db", "app/db").await?;
        }
        bed.holds("db", &[("value", "first")]).await?;
        bed.rounds(3).await?;
        ensure!(
            // What the definitions give an object that nobody has looked at.
            other
                .get("db")
                .await?
                .status
                .is_none_or(|status| status.conditions.is_none())
                && other.find("db").await?.is_none(),
            "worked in another namespace"
        );
        ensure!(other.calls().0.is_empty());
        Ok(())
    })
    .await?;
    other.run(None, async |_| Ok(())).await
}

#[tokio::test]
async fn a_graceful_end_is_quick_and_clean() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    quarried("ends", &[], async |bed, operator| {
        let (_, _) = operator.led(&bed.client, None).await?;
        bed.secret("app/db", "first")?;
        bed.plain("db", "app/db").await?;
        bed.holds("db", &[("value", "first")]).await?;
        let begun = std::time::Instant::now();
        operator.terminate().await?;
        ensure!(
            begun.elapsed() < Duration::from_secs(15),
            "it took {} s",
            begun.elapsed().as_secs()
        );
        wait::until("the Lease to be vacant", SOON, async || {
            Ok(operator.holder(&bed.client).await?.is_none().then_some(()))
        })
        .await?;
        let log = operator.log()?;
        let broken: Vec<_> = log.lines().filter(|line| line.contains("panicked")).collect();
        ensure!(broken.is_empty(), "{broken:?}");
        // Whatever is logged is a JSON object a line.
        for line in log.lines() {
            let parsed: Result<Value, _> = serde_json::from_str(line);
            ensure!(parsed.is_ok_and(|value| value.is_object()), "no JSON: {line}");
        }
        Ok(())
    })
    .await
}
