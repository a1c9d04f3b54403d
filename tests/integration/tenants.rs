//! What hostile tenants do costs another tenant nothing: what it asks of AWS, and in which turn it is served, is what it
//! would be without them. Counted, never timed: the machine may be slow.
//!
//! Every test has a control plane of its own: others would notice these tenants, too.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::{
    aws::{Calls, Fault, Match},
    controlplane::Options,
    wait,
};
use tokio::task::JoinSet;

use crate::{
    harness::{Bed, READER, SELDOM, SOON, STORE, bare, entry, external_secret, of_account},
    operator::Operator,
};

/// Objects of the tenant that is watched.
const OBJECTS: usize = 5;
/// Its rotations, alone and beside the hostile tenants.
const ROTATIONS: usize = 5;
/// Bytes of the largest value that AWS has.
const LARGEST: usize = 64 << 10;
/// The API server takes 256 KiB of annotations in all.
const ANNOTATION: usize = 200 << 10;
/// Objects of a tenant whose reads never end: more than the process works at once.
const SILENT: usize = 600;
/// Writes of others between a read for an object and its write: a round of the write slots and what was under way.
const TURNS: usize = 64;

/// What a hostile tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hostility {
    /// Objects of many large values, of which one is missing, so that they are read again and again.
    LargeValues,
    /// Annotations as long as the API server takes them, on all that Keyturn watches.
    LongAnnotations,
    /// `keyturn.dev/refresh` on all objects, without end.
    Refreshes,
    /// Patterns of `allowedKeys` that are costly to match.
    CostlyPatterns,
    /// References to the other tenant's secret, through its store, that fail in two ways.
    FailingReferences,
    /// More secrets than there are places for reads, in a region that swallows packets: no call ends before its time.
    Silence,
}

/// A tenant's namespace, and what goes on in it until it is dropped.
struct Hostile {
    bed: Arc<Bed>,
    running: JoinSet<()>,
}

/// What was seen of the watched tenant's rotations.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    /// Values read.
    reads: usize,
    /// Writes of Secrets.
    writes: usize,
}

impl Hostile {
    async fn begin(bed: Arc<Bed>, hostility: Hostility, shared: (&str, &str)) -> Result<Self> {
        let mut running = JoinSet::new();
        match hostility {
            Hostility::LargeValues => large_values(&bed).await?,
            Hostility::LongAnnotations => long_annotations(&bed).await?,
            Hostility::Refreshes => {
                for n in 0..20 {
                    bed.secret(&format!("app/{n}"), "value")?;
                    bed.plain(&format!("db-{n}"), &format!("app/{n}")).await?;
                }
                let bed = bed.clone();
                running.spawn(async move {
                    loop {
                        for n in 0..20 {
                            // One that fails is one less.
                            let _sent = bed.refresh(&format!("db-{n}")).await;
                        }
                    }
                });
            }
            Hostility::CostlyPatterns => costly_patterns(&bed).await?,
            Hostility::Silence => {
                bed.store_ready(STORE, &["Valid"]).await?;
                let mine = Match::all().account(&bed.account);
                bed.aws.add_fault(mine, Fault::Hang { probability: 1.0 });
                for n in 0..SILENT {
                    bed.plain(&format!("silent-{n}"), &format!("silent/{n}")).await?;
                }
            }
            Hostility::FailingReferences => {
                let (store, key) = shared;
                for (n, stages) in [["NO-SUCH-LABEL", "NOR-THIS-ONE"], ["AWSPENDING", "NOR-THAT-ONE"]]
                    .iter()
                    .enumerate()
                {
                    let of = |n: usize, stage: &str| json!({"secretKey": format!("k{n}"), "remoteRef": {"key": key, "version": stage}});
                    let data = [of(0, stages[0]), of(1, stages[1])];
                    let reference = json!({"name": store, "kind": "ClusterSecretStore"});
                    bed.external_secret(
                        &format!("bad-{n}"),
                        json!({"secretStoreRef": reference, "refreshInterval": SELDOM, "data": data}),
                    )
                    .await?;
                }
            }
        }
        Ok(Self { bed, running })
    }
}

/// Two objects of 120 values of 64 KiB, which is what two objects may hold, and one that does not exist.
async fn large_values(bed: &Bed) -> Result<()> {
    let value = "x".repeat(LARGEST);
    for n in 0..120 {
        bed.secret(&format!("large/{n}"), &value)?;
    }
    for object in ["hoard-a", "hoard-b"] {
        let mut data: Vec<_> = (0..120)
            .map(|n| json!({"secretKey": format!("k{n}"), "remoteRef": {"key": format!("large/{n}")}}))
            .collect();
        data.push(entry("missing", "large/missing"));
        bed.external_secret(object, json!({"data": data})).await?;
    }
    Ok(())
}

async fn long_annotations(bed: &Bed) -> Result<()> {
    let flood = "x".repeat(ANNOTATION);
    for n in 0..40 {
        bed.secret(&format!("app/{n}"), "value")?;
        let annotation = [
            "keyturn.dev/approve",
            "keyturn.dev/refresh",
            "note",
            "keyturn.dev/resume",
        ][n % 4];
        let spec = json!({"metadata": {"annotations": {annotation: flood}}, "data": [entry("value", &format!("app/{n}"))]});
        bed.external_secret(&format!("db-{n}"), spec).await?;
        let annotation = [
            "keyturn.dev/versions",
            "keyturn.dev/inputs",
            "reloader.stakater.com/match",
        ][n % 3];
        bed.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
            "name": format!("mine-{n}"), "labels": {"keyturn.dev/managed": "true"}, "annotations": {annotation: flood},
        }}))
        .await?;
    }
    Ok(())
}

async fn costly_patterns(bed: &Bed) -> Result<()> {
    // Each star may stand for any part of what is almost a match.
    let pattern = format!("{}b", "a*".repeat(16));
    bed.store("costly", json!({"allowedKeys": vec![pattern; 100]}))
        .await?;
    for n in 0..50 {
        let key = format!("{}{n}", "a".repeat(2000));
        let reference = json!({"name": "costly", "kind": "SecretStore"});
        bed.external_secret(
            &format!("costly-{n}"),
            json!({"secretStoreRef": reference, "data": [entry("value", &key)]}),
        )
        .await?;
    }
    Ok(())
}

/// Rotates the watched tenant's secrets one after another, and says what that took.
async fn rotate(bed: &Bed, operator: &Operator, arns: &[String], round: &str) -> Result<Served> {
    let (mark, begun) = (bed.aws.mark(), operator.log()?.len());
    for n in 0..ROTATIONS {
        let (object, arn) = (n % OBJECTS, &arns[n % OBJECTS]);
        let value = format!("{round}-{n}");
        bed.aws.put_secret_value(arn, value.as_str())?;
        // Nobody else asks for it: one refresh is one read.
        bed.refresh(&format!("db-{object}")).await?;
        bed.holds(&format!("db-{object}"), &[("value", &value)]).await?;
    }
    let writes = writes_told(bed, operator, begun, ROTATIONS).await?;
    Ok(Served {
        reads: bed.calls_since(mark).values_read().len(),
        writes,
    })
}

/// How many writes the audit log has told since `begun`, at least so many. A write is told right after it was answered, which
/// may be after its Secret was seen.
async fn writes_told(bed: &Bed, operator: &Operator, begun: usize, least: usize) -> Result<usize> {
    wait::until("the audit log to tell of the writes", SOON, async || {
        let log = operator.log()?;
        let lines = audit(log.get(begun..).unwrap_or(&log));
        let writes = lines.iter().filter(|line| is_write_of(line, &bed.namespace));
        let writes = writes.count();
        Ok((writes >= least).then_some(writes))
    })
    .await
}

fn audit(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.contains("\"action\""));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn is_write_of(line: &Value, namespace: &str) -> bool {
    line["action"] == "write"
        && line["external_secret"]
            .as_str()
            .is_some_and(|object| object.starts_with(&format!("{namespace}/")))
}

/// After how many writes of others the watched tenant's were made, each counted from the read that it follows.
fn turns(lines: &[Value], namespace: &str) -> Vec<usize> {
    let mut waiting: Option<usize> = None;
    let mut turns = Vec::new();
    for line in lines {
        let subscribers = line["subscribers"].to_string();
        if line["action"] == "read" && subscribers.contains(&format!("{namespace}/")) {
            waiting.get_or_insert(0);
        } else if is_write_of(line, namespace) {
            turns.extend(waiting.take());
        } else if line["action"] == "write"
            && let Some(others) = &mut waiting
        {
            *others += 1;
        }
    }
    turns
}

/// Compares what the rotations of a tenant take alone with what they take beside hostile ones.
async fn beside(
    name: &str,
    hostilities: &[Hostility],
    check: impl Fn(&Bed, &Calls) -> Result<()>,
) -> Result<()> {
    let place = bare(Options::default()).await?;
    let operator = Operator::install(&place).await?;
    let mut hostile = Vec::new();
    for n in 0..hostilities.len() {
        let bed = Bed::make(&place, &format!("{name}-hostile-{n}")).await?;
        bed.store(STORE, json!({})).await?;
        hostile.push(Arc::new(bed));
    }
    let victim = Bed::make(&place, &format!("{name}-victim")).await?;
    victim
        .run(Some(&operator), async |victim| {
            let all: Vec<_> = hostile
                .iter()
                .map(|bed| bed.namespace.clone())
                .chain([victim.namespace.clone()])
                .collect();
            let reader =
                json!({"jwt": {"serviceAccountRef": {"name": READER, "namespace": victim.namespace}}});
            let store = victim
                .cluster_store(json!({"auth": reader, "conditions": [{"namespaces": all}]}))
                .await?;
            let mut arns = Vec::new();
            for n in 0..OBJECTS {
                arns.push(victim.secret(&format!("app/{n}"), "first")?);
                let reference = json!({"name": store, "kind": "ClusterSecretStore"});
                let data = [entry("value", &format!("app/{n}"))];
                victim
                    .apply(external_secret(
                        &format!("db-{n}"),
                        json!({"secretStoreRef": reference, "refreshInterval": SELDOM, "data": data}),
                    ))
                    .await?;
                victim.holds(&format!("db-{n}"), &[("value", "first")]).await?;
            }
            writes_told(victim, &operator, 0, OBJECTS).await?;
            let alone = rotate(victim, &operator, &arns, "alone").await?;
            // A refresh is answered once in 10 s. One that had to wait would find what the checks for others have read.
            tokio::time::sleep(Duration::from_secs(11)).await;

            let (mark, begun) = (victim.aws.mark(), operator.log()?.len());
            let mut at_work = Vec::new();
            for (bed, hostility) in hostile.iter().zip(hostilities) {
                at_work.push(Hostile::begin(bed.clone(), *hostility, (&store, "app/0")).await?);
            }
            for Hostile { bed, .. } in &at_work {
                let busy = |hostility: &Hostility| {
                    !matches!(
                        hostility,
                        Hostility::CostlyPatterns | Hostility::FailingReferences | Hostility::Silence
                    )
                };
                if hostilities.iter().all(busy) {
                    wait::until("the hostile tenants to be at work", SOON, async || {
                        let calls = of_account(bed.aws.calls_since(mark), &bed.account);
                        Ok((calls.values_read().len() >= 20).then_some(()))
                    })
                    .await?;
                }
            }
            let beside = rotate(victim, &operator, &arns, "beside").await?;
            ensure!(
                beside == alone,
                "beside {hostilities:?} it took {beside:?}, alone {alone:?}"
            );
            let log = operator.log()?;
            let turns = turns(&audit(log.get(begun..).unwrap_or(&log)), &victim.namespace);
            ensure!(
                turns.len() >= ROTATIONS,
                "only {turns:?} of {ROTATIONS} writes were seen"
            );
            ensure!(
                turns.iter().all(|others| *others <= TURNS),
                "others wrote so often before it: {turns:?}"
            );
            // The operator lives, and still leads: it said so by the writes above.
            check(victim, &victim.calls_since(mark))?;
            for hostile in &mut at_work {
                hostile.running.shutdown().await;
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn large_values_long_annotations_and_refreshes_of_three_delay_no_fourth() -> Result<()> {
    let hostilities = [
        Hostility::LargeValues,
        Hostility::LongAnnotations,
        Hostility::Refreshes,
    ];
    beside("tenants", &hostilities, no_error).await
}

#[tokio::test]
async fn costly_patterns_delay_no_other_namespace() -> Result<()> {
    beside("patterns", &[Hostility::CostlyPatterns], no_error).await
}

/// The first attempts, and those of the back-off within the test: a loop without a pause makes thousands.
const ATTEMPTS: usize = 200;

fn no_error(victim: &Bed, calls: &Calls) -> Result<()> {
    let errors = calls.errors();
    ensure!(errors.is_empty(), "{}: {errors:?}", victim.namespace);
    Ok(())
}

/// What fails are the hostile references to the secrets of the watched tenant, which share its account.
fn few_attempts(victim: &Bed, calls: &Calls) -> Result<()> {
    let made = calls.requests().count();
    ensure!(
        made <= ATTEMPTS,
        "{made} calls in the account of {}: {:?}",
        victim.namespace,
        calls.errors()
    );
    Ok(())
}

#[tokio::test]
async fn a_region_that_swallows_packets_delays_no_other_tenant() -> Result<()> {
    beside("silence", &[Hostility::Silence], no_error).await
}

#[tokio::test]
async fn references_that_fail_in_two_ways_delay_no_healthy_one_to_the_same_secret() -> Result<()> {
    beside("failing", &[Hostility::FailingReferences], few_attempts).await
}

#[tokio::test]
async fn three_hostile_tenants_at_once_delay_no_fourth() -> Result<()> {
    let hostilities = [
        Hostility::CostlyPatterns,
        Hostility::Refreshes,
        Hostility::FailingReferences,
    ];
    beside("hostile", &hostilities, few_attempts).await
}

#[test]
fn turns_are_counted_from_a_read_to_the_write_that_follows() {
    let line = |action: &str, namespace: &str| json!({"action": action, "external_secret": format!("{namespace}/db"), "subscribers": [format!("{namespace}/db")]});
    let lines = [
        line("write", "other"),
        line("read", "victim"),
        line("write", "other"),
        line("read", "victim"),
        line("write", "other"),
        line("write", "victim"),
        line("write", "other"),
        line("write", "victim"),
        line("read", "victim"),
        line("write", "victim"),
    ];
    assert_eq!(turns(&lines, "victim"), [2, 0]);
    assert_eq!(turns(&lines, "victi"), Vec::<usize>::new());
}
