//! Killed at whatever point hurts: no workload is restarted twice for one content, and none is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use testbed::{
    history::History,
    proxy::{ApiProxy, Point, Write},
    wait,
    workloads::{self, Use, is_complete, workload},
};

use crate::{
    harness::{API_SERVER, Bed, SOON, STORE, annotation, data, quarry},
    operator::Operator,
    rolling::{LATER, SKEW, Source, hash, user},
};

/// Rotations in every run of the suite, and in the long form unless `KEYTURN_TEST_ROTATIONS` says otherwise.
const FEW: usize = 60;
const MANY: usize = 300;
/// Namespaces, and Secrets in each.
const NAMESPACES: usize = 5;
const SECRETS: usize = 6;
/// Points at which the operator is killed in a round, for each kind of write.
const KILLS: [(Write, usize); 3] = [(Write::Secret, 2), (Write::Workload, 4), (Write::Status, 1)];
/// Of one ExternalSecret and of one namespace.
const AT_ONCE: usize = 2;
const IN_NAMESPACE: usize = 5;
/// A kill that finds no more such writes is given up after this.
const PATIENCE: Duration = Duration::from_secs(25);

/// The workloads of a namespace, with the Secrets that each uses: some have one, some two, in every way.
fn users() -> Vec<(&'static str, String, Vec<String>)> {
    let secret = |n: usize| format!("db-{}", n % SECRETS);
    let mut users = Vec::new();
    for n in 0..SECRETS {
        users.push(("Deployment", format!("web-{n}"), vec![secret(n)]));
        users.push(("Deployment", format!("both-{n}"), vec![secret(n), secret(n + 1)]));
    }
    users.push(("StatefulSet", "set".to_owned(), vec![secret(0)]));
    users.push(("DaemonSet", "daemon".to_owned(), vec![secret(1)]));
    users
}

/// A content that no pod of a workload needed a restart for: all were made long enough after it.
struct Unasked {
    namespace: String,
    kind: &'static str,
    name: String,
    hash: String,
    token: String,
}

struct World {
    beds: Vec<Bed>,
    sources: Vec<Vec<Source>>,
    history: History,
    proxy: ApiProxy,
    dice: u64,
    /// How often the operator met each point.
    met: BTreeMap<(Write, Point), usize>,
    unasked: Vec<Unasked>,
}

impl World {
    fn dice(&mut self, sides: u64) -> u64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn namespaces(&self) -> Vec<&str> {
        self.beds.iter().map(|bed| bed.namespace.as_str()).collect()
    }

    /// One value more for every secret, with the operator killed on the way; all has followed when this returns.
    async fn round(&mut self, operator: &mut Operator, round: usize) -> Result<()> {
        let value = format!("round {round}");
        for (bed, sources) in self.beds.iter().zip(&self.sources) {
            for source in sources {
                bed.aws.put_secret_value(&source.arn, value.as_str())?;
            }
        }
        let mut points = 0;
        for (write, kills) in KILLS {
            for _ in 0..kills {
                let point = Point::ALL[(round + points) % Point::ALL.len()];
                points += 1;
                let skip = usize::try_from(self.dice(5))?;
                let Some(_path) = self.proxy.arm(write, point, skip).sprung(PATIENCE).await else {
                    // All of these are written.
                    break;
                };
                *self.met.entry((write, point)).or_default() += 1;
                // Not every lost answer comes with a death: the process must cope as well.
                if point == Point::Lost && self.dice(2) == 0 {
                    continue;
                }
                operator.kill()?;
                operator.expire_lease(&self.beds[0].client).await?;
                operator.launch().await?;
            }
        }
        operator.process()?.wait_ready().await?;
        for number in 0..self.beds.len() {
            let unasked = self.followed(number, &value).await?;
            self.unasked.extend(unasked);
        }
        Ok(())
    }

    /// Waits until every Secret holds `value`, and every pod was made for what its Secrets hold or long enough after they
    /// changed. Those of the latter kind ask for no restart: they are given.
    async fn followed(&self, number: usize, value: &str) -> Result<Vec<Unasked>> {
        let bed = &self.beds[number];
        wait::until(
            &format!("{} to follow {value}", bed.namespace),
            2 * LATER,
            async || {
                let mut contents = BTreeMap::new();
                for source in &self.sources[number] {
                    let secret = bed.written(&source.name).await?;
                    ensure!(data(&secret)["value"] == value, "{} is behind", source.name);
                    let token = annotation(&secret, "keyturn.dev/rollout").context("no token")?;
                    let changed: Timestamp = annotation(&secret, "keyturn.dev/changed-at")
                        .context("no time")?
                        .parse()?;
                    contents.insert(source.name.clone(), (token.to_owned(), changed));
                }
                let pods = bed.all::<Pod>().list(&ListParams::default()).await?;
                let mut unasked = Vec::new();
                for (kind, name, secrets) in users() {
                    let object = bed.get_workload(kind, &name).await?;
                    ensure!(is_complete(kind, &object), "{kind} {name} rolls");
                    let own: Vec<_> = pods
                        .iter()
                        .filter(|pod| {
                            pod.labels().get("app") == Some(&name) && pod.metadata.deletion_timestamp.is_none()
                        })
                        .collect();
                    ensure!(!own.is_empty(), "{kind} {name} has no pods");
                    for secret in &secrets {
                        let (token, changed) = &contents[secret];
                        let key = keyturn::api::names::restart_annotation(secret);
                        let mut late = 0;
                        for pod in &own {
                            let held = annotation(*pod, &key);
                            let made = pod.creation_timestamp().context("a pod without its time")?.0;
                            if held == Some(token) {
                                continue;
                            }
                            ensure!(
                                made > *changed + SKEW,
                                "a pod of {kind} {name}, made at {made}, was made for {held:?} of {secret}, which is \
                                 {token} since {changed}"
                            );
                            late += 1;
                        }
                        if late == own.len() {
                            unasked.push(Unasked {namespace: bed.namespace.clone(), kind, name: name.clone(), hash: hash(secret), token: token.clone()});
                        }
                    }
                }
                Ok(Some(unasked))
            },
        )
        .await
    }

    /// What the record says must never have been.
    async fn judge(&self, rounds: usize) -> Result<()> {
        let arrivals = self.history.arrivals().await?;
        let mut brought: BTreeMap<_, usize> = BTreeMap::new();
        for arrival in &arrivals {
            for token in &arrival.tokens {
                *brought.entry((arrival.workload.clone(), token)).or_default() += 1;
            }
        }
        let twice: Vec<_> = brought.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(twice.is_empty(), "restarted twice for one content: {twice:?}");
        // Every content of every Secret reached every workload that uses it and needed it.
        for bed in &self.beds {
            for (kind, name, secrets) in users() {
                for secret in secrets {
                    let hash = hash(&secret);
                    let unasked = self.unasked.iter().filter(|unasked| {
                        unasked.kind == kind
                            && unasked.name == name
                            && unasked.namespace == bed.namespace
                            && unasked.hash == hash
                    });
                    let contents: BTreeSet<_> = brought
                        .keys()
                        .filter(|(workload, token)| {
                            workload.kind == kind
                                && workload.name == name
                                && workload.namespace == bed.namespace
                                && *token.0 == hash
                        })
                        .map(|(_, token)| token.1)
                        .chain(unasked.map(|unasked| &unasked.token))
                        .collect();
                    ensure!(
                        contents.len() == rounds,
                        "{kind} {name} in {} saw {} contents of {secret} instead of {rounds}",
                        bed.namespace,
                        contents.len()
                    );
                }
            }
        }
        // Nothing else was written into a spec.
        let mut generations: BTreeMap<_, i64> = BTreeMap::new();
        for moment in self.history.moments().await? {
            generations.insert(moment.workload, moment.generation);
        }
        for (workload, generation) in generations {
            let ours = arrivals
                .iter()
                .filter(|arrival| arrival.workload == workload)
                .count();
            ensure!(
                usize::try_from(generation)? == ours + 1,
                "{workload:?} is at generation {generation} after {ours} templates of ours"
            );
        }
        for namespace in self.namespaces() {
            let most = self
                .history
                .most_in_flight(|workload| workload.namespace == namespace)
                .await?;
            ensure!(most <= IN_NAMESPACE, "{most} at once in {namespace}");
            // The users of db-2 that use no other: both of them belong to one ExternalSecret alone.
            for n in 0..SECRETS {
                let alone = format!("web-{n}");
                let sets = ["set", "daemon"];
                let of_one = |workload: &testbed::history::Workload| {
                    workload.namespace == namespace
                        && (workload.name == alone || (n < 2 && workload.name == sets[n]))
                };
                let most = self.history.most_in_flight(of_one).await?;
                ensure!(most <= AT_ONCE, "{most} of db-{n} at once in {namespace}");
            }
        }
        Ok(())
    }
}

async fn world() -> Result<(World, Operator)> {
    let place = quarry().await?;
    let mut beds = Vec::new();
    for n in 0..NAMESPACES {
        let bed = Bed::make(place, &format!("crash-{n}")).await?;
        bed.store(STORE, json!({})).await?;
        beds.push(bed);
    }
    let all: Vec<&Bed> = beds.iter().collect();
    let (mut operator, proxy) = Operator::behind_proxy(place, &all).await?;
    operator.start().await?;
    let mut sources = Vec::new();
    for bed in &beds {
        let mut own = Vec::new();
        for n in 0..SECRETS {
            let pacing = json!({"pacing": {"maxConcurrent": AT_ONCE}});
            own.push(bed.restarting(&format!("db-{n}"), pacing).await?);
        }
        sources.push(own);
        let mut objects = Vec::new();
        for (kind, name, secrets) in users() {
            objects.push(if let [secret] = secrets.as_slice() {
                user(kind, &name, secret, Use::Env)
            } else {
                let uses: Vec<_> = secrets
                    .iter()
                    .map(|secret| (secret.as_str(), Use::EnvFrom))
                    .collect();
                let mut object = workload(kind, &name, &uses)?;
                workloads::set(&mut object, &["spec", "replicas"], json!(1));
                object
            });
        }
        bed.run_workloads(objects).await?;
    }
    let namespaces: Vec<&str> = beds.iter().map(|bed| bed.namespace.as_str()).collect();
    let history = History::begin(&beds[0].client, &namespaces).await?;
    let world = World {
        sources,
        history,
        proxy,
        dice: 0x9E37_79B9_7F4A_7C15,
        met: BTreeMap::new(),
        unasked: Vec::new(),
        beds,
    };
    Ok((world, operator))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_some_writes_each_content_restarts_once() -> Result<()> {
    killed_at_writes(FEW).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 5 minutes: make crashes"]
async fn killed_at_any_write_each_content_restarts_once() -> Result<()> {
    let rotations = env::var("KEYTURN_TEST_ROTATIONS").map_or(Ok(MANY), |text| text.parse())?;
    killed_at_writes(rotations).await
}

async fn killed_at_writes(rotations: usize) -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let rounds = rotations.div_ceil(NAMESPACES * SECRETS).max(1);
    let (mut world, mut operator) = world().await?;
    let outcome = async {
        for round in 0..rounds {
            let begun = std::time::Instant::now();
            world
                .round(&mut operator, round)
                .await
                .with_context(|| format!("round {round}, killed at {:?}", world.met))?;
            println!("round {round}: {} s", begun.elapsed().as_secs());
        }
        println!("killed or cut off at {:?}", world.met);
        println!(
            "{} contents asked for no restart of their own",
            world.unasked.len()
        );
        world.judge(rounds).await?;
        for write in Write::ALL {
            for point in Point::ALL {
                // Few rounds do not meet them all.
                let met = world.met.contains_key(&(write, point));
                ensure!(
                    met || rounds < 6,
                    "never stopped {point:?} the answer to a {write:?}"
                );
            }
        }
        Ok(())
    }
    .await;
    let failed = outcome.is_err();
    let said = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let said = said.unwrap_or_default();
    let concerned = world.beds.iter().position(|bed| said.contains(&bed.namespace));
    for (at, bed) in world.beds.into_iter().enumerate() {
        // One namespace is told in full, the one that it is about.
        if failed && at != concerned.unwrap_or_default() {
            continue;
        }
        let told = bed
            .run(Some(&operator), async |_| {
                ensure!(!failed, "see below");
                Ok(())
            })
            .await;
        ensure!(failed || told.is_ok(), "{told:?}");
    }
    outcome
}

/// The pods of all namespaces that a test has.
async fn count(bed: &Bed) -> Result<usize> {
    Ok(Api::<Pod>::namespaced(bed.client.clone(), &bed.namespace)
        .list(&ListParams::default())
        .await?
        .items
        .len())
}

#[tokio::test]
async fn a_lost_answer_to_the_patch_is_no_second_patch() -> Result<()> {
    let _api_server = API_SERVER.read().await;
    let place = quarry().await?;
    let bed = Bed::make(place, "lost").await?;
    bed.store(STORE, json!({})).await?;
    let (mut operator, proxy) = Operator::behind_proxy(place, &[&bed]).await?;
    operator.start().await?;
    let source = bed.restarting("db", json!({})).await?;
    bed.run_workloads([user("Deployment", "web", "db", Use::Env)])
        .await?;
    let pods = count(&bed).await?;
    let history = bed.history().await?;
    let sprung = proxy.arm(Write::Workload, Point::Lost, 0);
    let token = bed.rotate(&source, "second").await?;
    let path = sprung.sprung(SOON).await.context("the patch came by")?;
    ensure!(path.ends_with("/deployments/web"), "{path}");
    bed.follows(("Deployment", "web"), "db", &token).await?;
    bed.restarts("db", &["Complete"]).await?;
    ensure!(count(&bed).await? >= pods);
    crate::rolling::restarted(&history, &[("Deployment web", 1)]).await?;
    let generation = bed.get_workload("Deployment", "web").await?.metadata.generation;
    ensure!(generation == Some(2), "{generation:?}");
    bed.run(Some(&operator), async |_| Ok(())).await
}
