//! `testbed bench`: what Keyturn costs, beside what it shall cost. A miss is printed as a miss.

mod delays;
mod floor;
mod report;
mod restarts;
mod tenants;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use testbed::controlplane::Binaries;
use testbed::operator::{self, Operator};
use tokio::signal::unix::{SignalKind, signal};

use self::delays::Secrets;
use self::report::{Report, quantile};
use self::world::{FirstSync, NAMESPACE, Steady, World, counts};
use crate::terminal::{self, Terminal, seconds};

/// Until what follows a first sync has ended, statuses of stores, events, memory given back; and what follows deletions, the
/// garbage collector's questions.
const SETTLE: Duration = Duration::from_secs(15);
/// First syncs that are measured.
const ROUNDS: usize = 3;
/// The targets are for this many objects and secrets, at an interval of a minute.
const STANDARD: usize = 2000;
const MIB: f64 = 1024.0 * 1024.0;

/// The measurements, as a table and as JSON.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// ExternalSecrets
    #[arg(long, default_value_t = STANDARD)]
    objects: usize,
    /// Secrets in AWS over which they are spread
    #[arg(long, default_value_t = STANDARD)]
    secrets: usize,
    /// Seconds of steady state, for each way to find changes
    #[arg(long, default_value_t = 120)]
    steady: u64,
    /// Rotations whose delay is measured
    #[arg(long, default_value_t = 50)]
    rotations: usize,
    /// Milliseconds that AWS takes to answer
    #[arg(long, default_value_t = 10)]
    latency: u64,
    /// Workloads that one rotation restarts; 0 leaves them out
    #[arg(long, default_value_t = 2000)]
    workloads: usize,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
    /// Where the numbers go as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// A part that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// First syncs of the objects, beside the floor
    FirstSync,
    /// Memory with so many ExternalSecrets over so many secrets
    Memory,
    /// Restarts of the workloads
    Restarts,
    /// Rotations of one namespace beside three hostile ones
    Tenants,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            self.objects > 0 && self.secrets > 0 && self.secrets <= self.objects && self.steady > 0,
            "at least one secret, as many objects and one second are needed"
        );
        let binaries = Binaries::ensure(&terminal::progress)?;
        let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
            tokio::select! {
                outcome = self.measure(&binaries) => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminate.recv() => bail!("interrupted"),
            }
        })
    }

    async fn measure(&self, binaries: &Binaries) -> Result<()> {
        let terminal = Terminal::new();
        let mut report = Report::default();
        terminal.line(&format!(
            "{} ExternalSecrets over {} secrets, AWS answers in {} ms. About {} minutes.",
            self.objects,
            self.secrets,
            self.latency,
            (self.steady * 3 + 540) / 60
        ));
        let binary = operator::built()?;
        let size = fs::metadata(&binary)
            .with_context(|| format!("look at {}", binary.display()))?
            .len();
        report.add("binary", "size", bytes(size) / 1e6, "MB", Some(25.0));

        let world = World::new(binaries, self.secrets, Duration::from_millis(self.latency)).await?;
        terminal.say("The control plane runs, the chart is installed.");
        match self.only {
            None => {}
            Some(Part::FirstSync) => {
                let operator = self.first_syncs(&world, &terminal, &mut report).await?;
                operator.terminate().await?;
                return self.conclude(&terminal, &report);
            }
            Some(Part::Memory) => {
                self.memory(&world, &terminal, &mut report).await?;
                return self.conclude(&terminal, &report);
            }
            Some(Part::Restarts) => {
                restarts::measure(&world, &terminal, &mut report, self.workloads).await?;
                return self.conclude(&terminal, &report);
            }
            Some(Part::Tenants) => {
                tenants::measure(&world, &terminal, &mut report, self.rotations).await?;
                return self.conclude(&terminal, &report);
            }
        }

        let (operator, ready) = world.start().await?;
        operator.terminate().await?;
        terminal.say(&format!(
            "Ready {} after its start, with an empty cluster.",
            seconds(ready)
        ));
        report.add(
            "start",
            "to ready, empty cluster",
            ready.as_secs_f64(),
            "s",
            Some(1.0),
        );

        self.one_secret(&world, &terminal, &mut report).await?;

        let operator = self.first_syncs(&world, &terminal, &mut report).await?;
        self.steady(
            &world,
            &operator,
            &terminal,
            &mut report,
            "Read at 1m",
            self.standard(105.0),
        )
        .await?;
        self.delays(&world, &terminal, &mut report).await?;
        operator.terminate().await?;
        world.clear(NAMESPACE).await?;

        self.create(&world, "List", "1h").await?;
        let (operator, _) = world.first_sync(self.objects).await?;
        let steady = self
            .steady(&world, &operator, &terminal, &mut report, "List at 1h", None)
            .await?;
        operator.terminate().await?;
        self.sweep(&world, &terminal, &mut report, &steady).await?;
        world.clear(NAMESPACE).await?;

        self.create(&world, "Describe", "1m").await?;
        let (operator, _) = world.first_sync(self.objects).await?;
        self.steady(&world, &operator, &terminal, &mut report, "Describe at 1m", None)
            .await?;
        operator.terminate().await?;
        world.clear(NAMESPACE).await?;

        tenants::measure(&world, &terminal, &mut report, self.rotations).await?;
        if self.workloads > 0 {
            restarts::measure(&world, &terminal, &mut report, self.workloads).await?;
        }
        self.conclude(&terminal, &report)
    }

    /// What it holds for so many objects: while it writes all Secrets, after, and when it starts with all of them there.
    async fn memory(&self, world: &World, terminal: &Terminal, report: &mut Report) -> Result<()> {
        // The design's, for these numbers.
        let target = [(2_000, 40.0), (10_000, 64.0), (100_000, 400.0)]
            .into_iter()
            .find(|(objects, _)| (*objects, *objects) == (self.objects, self.secrets))
            .map(|(_, target)| target);
        let part = "memory";
        let mut show = |name: &str, memory: u64| {
            let memory = bytes(memory) / MIB;
            terminal.say(&format!("{name}: {memory:.1} MiB."));
            report.add(part, name, memory, "MiB", target);
        };
        self.create(world, "List", "1h").await?;
        terminal.say(&format!("{} ExternalSecrets are made.", self.objects));
        let (operator, sync) = world.first_sync(self.objects).await?;
        show("at the most, first sync", sync.usage.peak);
        tokio::time::sleep(SETTLE * 2).await;
        show("after it", operator.usage()?.resident);
        operator.terminate().await?;
        let (operator, ready) = world.start().await?;
        tokio::time::sleep(SETTLE * 2).await;
        let usage = operator.usage()?;
        show("at the most, a start with all of them", usage.peak);
        show("after it, too", usage.resident);
        terminal.say(&format!(
            "Ready {} after its start with all of them.",
            seconds(ready)
        ));
        report.add(
            "start",
            "to ready, all of them there",
            ready.as_secs_f64(),
            "s",
            None,
        );
        operator.terminate().await?;
        Ok(())
    }

    /// A target that holds for the standard numbers only.
    fn standard(&self, target: f64) -> Option<f64> {
        (self.objects == STANDARD && self.secrets == STANDARD).then_some(target)
    }

    async fn create(&self, world: &World, mode: &'static str, interval: &str) -> Result<()> {
        world.set_mode(mode).await?;
        let secrets = self.secrets;
        world
            .create(NAMESPACE, self.objects, interval, |number| number % secrets)
            .await?;
        Ok(())
    }

    async fn one_secret(&self, world: &World, terminal: &Terminal, report: &mut Report) -> Result<()> {
        let objects = 500;
        world.set_mode("Read").await?;
        world.create(NAMESPACE, objects, "1h", |_| 0).await?;
        let (operator, sync) = world.first_sync(objects).await?;
        operator.terminate().await?;
        world.clear(NAMESPACE).await?;
        let reads = sync.calls.values_read().len();
        terminal.say(&format!(
            "{objects} ExternalSecrets of one secret: read {reads} times."
        ));
        report.add(
            "one secret",
            format!("reads for {objects} ExternalSecrets"),
            count(reads),
            "",
            Some(1.0),
        );
        Ok(())
    }

    /// First syncs, each after a measurement of the floor: how fast the machine is may change from one minute to the next.
    /// Before either, the control plane is done with what was deleted. Times are the median, all else is the most that was
    /// seen. The operator of the last one runs on.
    #[expect(clippy::too_many_lines, reason = "one measurement, in order")]
    async fn first_syncs(&self, world: &World, terminal: &Terminal, report: &mut Report) -> Result<Operator> {
        let mut rounds: Vec<(Duration, FirstSync)> = Vec::new();
        let operator = loop {
            tokio::time::sleep(SETTLE).await;
            let floor = floor::measure(world, self.objects).await?;
            self.create(world, "Read", "1m").await?;
            tokio::time::sleep(SETTLE).await;
            let (operator, sync) = world.first_sync(self.objects).await?;
            terminal.say(&format!(
                "First sync of {}: {}. The API server's floor for these writes, before: {}.",
                self.objects,
                seconds(sync.time),
                seconds(floor)
            ));
            rounds.push((floor, sync));
            if rounds.len() == ROUNDS {
                break operator;
            }
            operator.terminate().await?;
            world.clear(NAMESPACE).await?;
        };
        let all = |of: &dyn Fn(Duration, &FirstSync) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(|(floor, sync)| of(*floor, sync)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |of: &dyn Fn(Duration, &FirstSync) -> f64| quantile(&all(of), 0.5);
        let most = |of: &dyn Fn(Duration, &FirstSync) -> f64| quantile(&all(of), 1.0);
        let ratio = |floor: Duration, sync: &FirstSync| sync.time.as_secs_f64() / floor.as_secs_f64();
        let own = |_, sync: &FirstSync| {
            let own = sync.requests.only(|request| {
                request.namespace == NAMESPACE && request.verb != "watch" && request.verb != "list"
            });
            count(own.0.len()) / count(self.objects)
        };
        let part = "first sync";
        for (name, value, unit, target) in [
            (
                "the floor, median",
                median(&|floor, _| floor.as_secs_f64()),
                "s",
                None,
            ),
            (
                "from the start, median",
                median(&|_, sync| sync.time.as_secs_f64()),
                "s",
                None,
            ),
            (
                "as a multiple of the floor, median",
                median(&ratio),
                "",
                self.standard(1.5),
            ),
            (
                "calls to Secrets Manager, the most",
                most(&|_, sync| count(secrets_manager(sync.calls.counts()))),
                "",
                self.standard(110.0),
            ),
            (
                "connections to AWS, the most",
                most(&|_, sync| count(sync.calls.connections())),
                "",
                Some(8.0),
            ),
            (
                "Kubernetes requests per object, the most",
                most(&own),
                "",
                Some(3.0),
            ),
            (
                "CPU, median",
                median(&|_, sync| sync.usage.cpu_seconds),
                "s",
                self.standard(4.0),
            ),
            (
                "peak memory, the most",
                most(&|_, sync| bytes(sync.usage.peak) / MIB),
                "MiB",
                self.standard(40.0),
            ),
        ] {
            report.add(part, name, value, unit, target);
        }
        report.detail("first sync: multiples of the floor", json!(all(&ratio)));
        for (number, (_, sync)) in (1..).zip(&rounds) {
            let detail = json!({
                "calls to AWS": sync.calls.counts(),
                "batches": sync.calls.batches(),
                "Kubernetes requests": counts(&sync.requests),
            });
            report.detail(&format!("first sync {number}"), detail);
        }
        if let Some((_, sync)) = rounds.last() {
            terminal.show(&lines(&sync.calls.counts()));
            terminal.show(&lines(&counts(&sync.requests)));
        }
        Ok(operator)
    }

    /// Some time in which nothing changes; `calls` is the target for calls a minute.
    async fn steady(
        &self,
        world: &World,
        operator: &Operator,
        terminal: &Terminal,
        report: &mut Report,
        part: &'static str,
        calls: Option<f64>,
    ) -> Result<Steady> {
        tokio::time::sleep(SETTLE).await;
        let time = Duration::from_secs(self.steady);
        let steady = world.steady(operator, time).await?;
        let minutes = time.as_secs_f64() / 60.0;
        let asked = count(secrets_manager(steady.calls.counts()));
        report.add(
            part,
            "calls to Secrets Manager a minute",
            asked / minutes,
            "",
            calls,
        );
        report.add(
            part,
            "values read a minute",
            count(steady.calls.values_read().len()) / minutes,
            "",
            None,
        );
        let writes = steady
            .requests
            .only(|request| request.writes() && request.resource != "leases");
        report.add(
            part,
            "Kubernetes writes beside the Lease",
            count(writes.0.len()),
            "",
            Some(0.0),
        );
        report.add(
            part,
            "CPU, of one core",
            steady.cpu_percent,
            "%",
            self.standard(0.5),
        );
        report.add(part, "memory", bytes(steady.usage.resident) / MIB, "MiB", None);
        report.detail(&format!("{part}: calls to AWS"), json!(steady.calls.counts()));
        report.detail(
            &format!("{part}: Kubernetes requests"),
            json!(counts(&steady.requests)),
        );
        terminal.say(&format!(
            "{part}, {} of steady state: {:.2} % of a core.",
            seconds(time),
            steady.cpu_percent
        ));
        terminal.show(&lines(&steady.calls.counts()));
        terminal.show(&lines(&counts(&steady.requests)));
        Ok(steady)
    }

    /// What List costs in an hour: a sweep, as seen after a start with nothing changed, beside what steady state showed.
    async fn sweep(
        &self,
        world: &World,
        terminal: &Terminal,
        report: &mut Report,
        steady: &Steady,
    ) -> Result<()> {
        let mark = world.aws.mark();
        let (operator, _) = world.start().await?;
        tokio::time::sleep(SETTLE).await;
        operator.terminate().await?;
        let calls = world.aws.calls_since(mark);
        let sweep = count(secrets_manager(calls.counts()));
        let hours = Duration::from_secs(self.steady).as_secs_f64() / 3600.0;
        let seen = count(secrets_manager(steady.calls.counts()));
        // A sweep may or may not fall into the steady state that was looked at.
        let hourly = if seen <= sweep {
            sweep
        } else {
            sweep + (seen - sweep) / hours
        };
        report.add(
            "List at 1h",
            "calls to Secrets Manager an hour",
            hourly,
            "",
            self.standard(25.0),
        );
        report.add("restart", "calls, nothing changed", sweep, "", None);
        report.add(
            "restart",
            "values read, nothing changed",
            count(calls.values_read().len()),
            "",
            Some(0.0),
        );
        report.detail("restart: calls to AWS", json!(calls.counts()));
        terminal.say("Started again with nothing changed:");
        terminal.show(&lines(&calls.counts()));
        Ok(())
    }

    async fn delays(&self, world: &World, terminal: &Terminal, report: &mut Report) -> Result<()> {
        let mut secrets = Secrets::watch(&world.client);
        let new = delays::new_objects(world, &mut secrets, "new", 20).await?;
        distribution(
            terminal,
            report,
            "new object while all refresh",
            &new,
            Some(300.0),
        );
        let asked = delays::on_demand(world, &mut secrets, self.rotations.min(self.secrets)).await?;
        distribution(terminal, report, "rotation, asked for", &asked, None);
        let found = delays::by_interval(world, &mut secrets, self.rotations.min(self.secrets)).await?;
        distribution(terminal, report, "rotation, found at 1m", &found, None);
        delays::rotate_all(world).await?;
        let busy = delays::new_objects(world, &mut secrets, "busy", 20).await?;
        distribution(terminal, report, "new object while all change", &busy, None);
        Ok(())
    }

    fn conclude(&self, terminal: &Terminal, report: &Report) -> Result<()> {
        let parameters = json!({
            "objects": self.objects, "secrets": self.secrets, "steadySeconds": self.steady,
            "rotations": self.rotations, "workloads": self.workloads, "latencyMilliseconds": self.latency,
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        });
        let text = serde_json::to_string_pretty(&report.json(&parameters)).context("write JSON")?;
        if let Some(folder) = self.json.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(&self.json, text + "\n").with_context(|| format!("write {}", self.json.display()))?;
        terminal.line("");
        terminal.line(&report.table());
        let (judged, missed) = report.misses();
        terminal.line("");
        terminal.line(&format!(
            "{missed} of {judged} targets missed; the numbers are in {}.",
            self.json.display()
        ));
        Ok(())
    }
}

fn distribution(
    terminal: &Terminal,
    report: &mut Report,
    name: &'static str,
    sorted: &[f64],
    target: Option<f64>,
) {
    let (median, worst) = (quantile(sorted, 0.5), quantile(sorted, 1.0));
    report.add(
        "delay",
        format!("{name}: median of {}", sorted.len()),
        median,
        "ms",
        None,
    );
    report.add("delay", format!("{name}: longest"), worst, "ms", target);
    let values: Vec<Value> = sorted.iter().map(|value| json!(value.round())).collect();
    report.detail(&format!("delay in ms: {name}"), json!(values));
    terminal.say(&format!("{name}: median {median:.0} ms, longest {worst:.0} ms."));
}

/// Calls that Secrets Manager counts; the others are STS's.
fn secrets_manager(counts: BTreeMap<String, usize>) -> usize {
    let counted = counts
        .into_iter()
        .filter(|(operation, _)| !operation.starts_with("AssumeRole") && operation != "GetCallerIdentity");
    counted.map(|(_, count)| count).sum()
}

fn lines(counts: &BTreeMap<String, usize>) -> String {
    let lines = counts.iter().map(|(name, count)| format!("{count:>7} {name}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[expect(clippy::cast_precision_loss, reason = "counts of things are far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory and files are far below 2^52 bytes"
)]
fn bytes(number: u64) -> f64 {
    number as f64
}
