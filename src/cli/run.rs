//! `keyturn run`: the operator, from its arguments to its last breath.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::{ArgAction, Args, ValueEnum};
use http::Uri;
use jiff::SignedDuration;
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};

use super::operate::{Metrics, RestartSettings, Settings, operate};
use crate::{
    api::RestartMode,
    telemetry::{self, Logs, Readiness, Server},
};

/// What is left for work under way after a signal: the chart's termination grace period is 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// The arguments of `keyturn run`. An empty text is taken as absent, so that a manifest may pass what is not set.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Run {
    /// Name of this cluster in role session names, as CloudTrail shows them
    #[arg(long, env = "KEYTURN_CLUSTER_NAME", default_value = "kubernetes", value_parser = cluster_name)]
    cluster_name: String,
    /// `ClusterSecretStore` of ExternalSecrets that name none
    #[arg(long, env = "KEYTURN_DEFAULT_STORE", default_value = "")]
    default_store: String,
    /// Namespaces to work in; all where none is named
    #[arg(long, env = "KEYTURN_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Namespace of the operator itself: its Lease and its key
    #[arg(long, env = "POD_NAMESPACE")]
    operator_namespace: String,
    /// Name of this pod: the holder in the Lease
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Shorter refresh intervals are raised to this one
    #[arg(long, env = "KEYTURN_MIN_REFRESH_INTERVAL", default_value = "30s", value_parser = interval)]
    min_refresh_interval: Duration,
    /// Whether values may be read to find out whether they changed
    #[arg(long, env = "KEYTURN_PERIODIC_READS", default_value_t = true, action = ArgAction::Set)]
    periodic_reads: bool,
    /// Whether a `SecretStore` without `auth` may read with the operator's own identity
    #[arg(long, env = "KEYTURN_ALLOW_OPERATOR_IDENTITY", default_value_t = false, action = ArgAction::Set)]
    allow_operator_identity: bool,
    /// Where metrics are served, and health and readiness too: [::] takes IPv4 as well
    #[arg(long, env = "KEYTURN_LISTEN", default_value = "[::]:8080")]
    listen: SocketAddr,
    /// Where health and readiness alone are served besides; nowhere if empty
    #[arg(long, env = "KEYTURN_HEALTH_LISTEN", default_value = "", value_parser = address)]
    health_listen: MaybeAddress,
    /// Name of the Lease that makes one replica the leader
    #[arg(long, env = "KEYTURN_LEASE_NAME", default_value = "keyturn")]
    lease_name: String,
    /// What Keyturn logs: a level, or `keyturn::room=level` with commas between
    #[arg(long, env = "KEYTURN_LOG", default_value = "info")]
    log: String,
    /// How log lines look
    #[arg(long, env = "KEYTURN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
    /// Whether reads, writes and refusals are written to stdout as JSON lines
    #[arg(long, env = "KEYTURN_AUDIT", default_value_t = true, action = ArgAction::Set)]
    audit: bool,
    /// Namespaces whose Secrets are never written, beside the operator's own
    #[arg(
        long,
        env = "KEYTURN_PROTECTED_NAMESPACES",
        default_value = "kube-system",
        value_delimiter = ','
    )]
    protected_namespaces: Vec<String>,
    /// Writes of status a second at most, besides an object's first and what answers an edit
    #[arg(long, env = "KEYTURN_STATUS_WRITES_PER_SECOND", default_value = "50",
        value_parser = clap::value_parser!(u32).range(2..=1000))]
    status_writes_per_second: u32,
    /// Audiences for which tokens of ServiceAccounts may be requested
    #[arg(
        long,
        env = "KEYTURN_TOKEN_AUDIENCES",
        default_value = "sts.amazonaws.com",
        value_delimiter = ','
    )]
    token_audiences: Vec<String>,
    /// Whether the workloads of `ExternalSecret`s that say nothing of it are restarted: Automatic, Manual or Disabled
    #[arg(long, env = "KEYTURN_RESTART_DEFAULT", default_value = "Disabled", value_parser = restart_mode)]
    restart_default: RestartMode,
    /// How many workloads roll out at once in the whole cluster
    #[arg(long, env = "KEYTURN_MAX_CONCURRENT_RESTARTS", default_value = "20", value_parser = at_once)]
    max_concurrent_restarts: NonZeroU32,
    /// How many workloads roll out at once in one namespace
    #[arg(long, env = "KEYTURN_MAX_CONCURRENT_RESTARTS_PER_NAMESPACE", default_value = "5", value_parser = at_once)]
    max_concurrent_restarts_per_namespace: NonZeroU32,
    /// Whether pods may be evicted where an `ExternalSecret` or a workload asks for it
    #[arg(long, env = "KEYTURN_ALLOW_EVICT", default_value_t = false, action = ArgAction::Set)]
    allow_evict: bool,
    /// Where failed restarts and stuck rotations are posted to; may hold a token, so prefer the environment
    #[arg(long, env = "KEYTURN_ALERT_URL", hide_env_values = true, default_value = "")]
    alert_url: SecretString,
    /// After how long without a word a watch is opened again. The API server sends the first bookmark after two minutes at
    /// most, and one a minute from then on, so only tests have a reason to change it
    #[arg(long, env = "KEYTURN_WATCH_SILENCE", hide = true, default_value = "200s", value_parser = interval)]
    watch_silence: Duration,
}

/// An address, if one is given. By this name clap takes it for a value, not for an argument that may be missing.
type MaybeAddress = Option<SocketAddr>;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

impl Run {
    /// Runs until a signal, a lost Lease, or an error.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self {
            cluster_name,
            default_store,
            namespaces,
            operator_namespace,
            pod_name,
            min_refresh_interval,
            periodic_reads,
            allow_operator_identity,
            listen,
            health_listen,
            lease_name,
            log,
            log_format,
            audit,
            protected_namespaces,
            status_writes_per_second,
            token_audiences,
            restart_default,
            max_concurrent_restarts,
            max_concurrent_restarts_per_namespace,
            allow_evict,
            alert_url,
            watch_silence,
        } = self;
        let format = match log_format {
            LogFormat::Json => telemetry::Format::Json,
            LogFormat::Text => telemetry::Format::Text,
        };
        Logs {
            filter: log,
            format,
            audit,
        }
        .install()?;
        let settings = Settings {
            cluster_name,
            default_store: Some(default_store).filter(|store| !store.is_empty()),
            namespaces: named(namespaces),
            operator_namespace,
            pod_name,
            min_refresh_interval,
            periodic_reads,
            allow_operator_identity,
            status_writes_per_second,
            lease_name,
            watch_silence,
            protected_namespaces: named(protected_namespaces),
            token_audiences: named(token_audiences),
            restarts: RestartSettings {
                default: restart_default,
                max_concurrent: max_concurrent_restarts,
                max_concurrent_per_namespace: max_concurrent_restarts_per_namespace,
                allow_evict,
                alert_url: web_hook(&alert_url)?,
            },
        };
        ensure!(
            !settings.operator_namespace.is_empty(),
            "--operator-namespace is empty"
        );
        ensure!(!settings.pod_name.is_empty(), "--pod-name is empty");
        // Two threads: the work is waiting, and more threads cost memory only.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        runtime.block_on(async {
            let server = bind(listen, health_listen)?;
            let metrics = Metrics::default();
            let registry = telemetry::metrics::compose(|ours| metrics.register(ours));
            let signals = signals()?;
            let (listen, health) = (
                server.address().ok(),
                server.health_address().and_then(Result::ok),
            );
            let [listen, health] = [listen, health].map(|address| address.map(tracing::field::display));
            tracing::info!(version = env!("CARGO_PKG_VERSION"), listen, health, "starting");
            supervise(server, registry, signals, |shutdown, readiness| {
                Box::pin(operate(settings, metrics, shutdown, readiness))
            })
            .await
        })
    }
}

/// The ports of metrics and of health.
fn bind(listen: SocketAddr, health: Option<SocketAddr>) -> Result<Server, telemetry::Error> {
    let server = Server::bind(listen)?;
    match health {
        Some(address) => server.with_health(address),
        None => Ok(server),
    }
}

/// SIGTERM and SIGINT, as they come.
fn signals() -> anyhow::Result<mpsc::Receiver<()>> {
    let mut term = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let (sender, signals) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}

/// Serves while `work` runs. The first signal asks it to end, within [`GRACE`]; a second one ends it at once.
async fn supervise<Work>(
    server: Server,
    registry: Registry,
    mut signals: mpsc::Receiver<()>,
    work: impl FnOnce(watch::Receiver<bool>, watch::Sender<Readiness>) -> Work,
) -> anyhow::Result<()>
where
    Work: Future<Output = anyhow::Result<()>>,
{
    let (ask, shutdown) = watch::channel(false);
    let (ended, mut end) = watch::channel(());
    let (readiness, ready) = watch::channel(Readiness::Waiting("the start"));
    let mut serving = tokio::spawn(server.serve(Arc::new(registry), ready, async move {
        // An error is the sender's end, and that is what is waited for.
        let _ended = end.changed().await;
    }));
    let mut work = std::pin::pin!(work(shutdown, readiness));
    let worked = tokio::select! {
        worked = &mut work => worked,
        end = &mut serving => {
            end.context("the server of health and metrics broke")??;
            bail!("the server of health and metrics ended");
        }
        Some(()) = signals.recv() => {
            tracing::info!("shutting down");
            ask.send_replace(true);
            tokio::select! {
                worked = timeout(GRACE, &mut work) => {
                    worked.with_context(|| format!("work did not end within {} s", GRACE.as_secs()))?
                }
                Some(()) = signals.recv() => bail!("a second signal ended the work at once"),
            }
        }
    };
    drop(ended);
    serving
        .await
        .context("the server of health and metrics broke")??;
    worked
}

/// What goes into role session names: at most 64 characters of STS's alphabet, of which stores need their part.
fn cluster_name(text: &str) -> Result<String, String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if text.is_empty() || text.len() > 32 || !text.chars().all(fits) {
        return Err("1 to 32 letters, digits, '-', '.' or '_' are expected".into());
    }
    Ok(text.into())
}

/// A length of time such as `30s` or `1h30m`, one second at least.
fn interval(text: &str) -> Result<Duration, String> {
    let length: SignedDuration = text
        .parse()
        .map_err(|_| "a duration such as 30s or 1h30m is expected")?;
    match Duration::try_from(length) {
        Ok(length) if length >= Duration::from_secs(1) => Ok(length),
        _ => Err("at least 1s is expected".into()),
    }
}

/// An address with a port, or none.
fn address(text: &str) -> Result<MaybeAddress, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse();
    address
        .map(Some)
        .map_err(|_| "an address with a port is expected, such as [::]:8081".into())
}

/// The mode of this name.
fn restart_mode(text: &str) -> Result<RestartMode, String> {
    [RestartMode::Automatic, RestartMode::Manual, RestartMode::Disabled]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| "Automatic, Manual or Disabled is expected".into())
}

/// How many at once: at most what one control plane bears.
fn at_once(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .ok()
        .filter(|number: &NonZeroU32| number.get() <= 1000)
        .ok_or_else(|| "a number from 1 to 1000 is expected".into())
}

/// Where alerts go, if anywhere. No parser of clap's, whose errors quote what they were given: it may hold a token.
fn web_hook(text: &SecretString) -> anyhow::Result<Option<SecretString>> {
    // A Secret that was made from a file ends with the end of its line.
    let text = text.expose_secret().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let url = text.parse::<Uri>().ok();
    let fits = url.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    });
    ensure!(fits, "--alert-url (KEYTURN_ALERT_URL) is no http or https URL");
    Ok(Some(text.into()))
}

fn named(names: Vec<String>) -> Vec<String> {
    names
        .into_iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Mutex,
    };

    use anyhow::anyhow;
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn parse(more: &[&str]) -> Result<Run, clap::Error> {
        let given = ["keyturn", "--operator-namespace=keyturn", "--pod-name=keyturn-0"];
        Line::try_parse_from(given.iter().chain(more)).map(|line| line.run)
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let run = parse(&[]).unwrap();
        assert_eq!(run.min_refresh_interval, Duration::from_secs(30));
        assert!(run.periodic_reads && run.audit && !run.allow_operator_identity);
        assert_eq!(run.listen.to_string(), "[::]:8080");
        assert_eq!(run.health_listen, None);
        assert_eq!(run.lease_name, "keyturn");
        assert_eq!(run.protected_namespaces, ["kube-system"]);
        assert_eq!(run.token_audiences, ["sts.amazonaws.com"]);
        assert!(named(run.namespaces).is_empty());
        assert_eq!(run.restart_default, RestartMode::Disabled);
        assert_eq!(run.max_concurrent_restarts.get(), 20);
        assert_eq!(run.max_concurrent_restarts_per_namespace.get(), 5);
        assert!(!run.allow_evict);
        assert!(web_hook(&run.alert_url).unwrap().is_none());
        let from_file = web_hook(&"https://hooks.example.com/a\n".into())
            .unwrap()
            .unwrap();
        assert_eq!(from_file.expose_secret(), "https://hooks.example.com/a");
    }

    #[test]
    fn arguments_are_understood() {
        let run = parse(&[
            "--namespaces=shop, billing",
            "--min-refresh-interval=1m30s",
            "--periodic-reads=false",
            "--log-format=text",
            "--protected-namespaces=",
            "--restart-default=Automatic",
            "--max-concurrent-restarts=3",
            "--max-concurrent-restarts-per-namespace=1",
            "--allow-evict=true",
            "--listen=0.0.0.0:8080",
            "--health-listen=[::]:8081",
            "--alert-url=https://hooks.example.com/keyturn?token=abc",
        ])
        .unwrap();
        assert!(!format!("{run:?}").contains("token=abc"));
        assert_eq!(named(run.namespaces), ["shop", "billing"]);
        assert_eq!(run.min_refresh_interval, Duration::from_secs(90));
        assert!(!run.periodic_reads);
        assert!(named(run.protected_namespaces).is_empty());
        assert_eq!(run.restart_default, RestartMode::Automatic);
        assert_eq!(run.max_concurrent_restarts.get(), 3);
        assert_eq!(run.max_concurrent_restarts_per_namespace.get(), 1);
        assert!(run.allow_evict);
        // As earlier charts have it.
        assert_eq!(run.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(run.health_listen.unwrap().to_string(), "[::]:8081");
        let url = web_hook(&run.alert_url).unwrap().unwrap();
        assert_eq!(url.expose_secret(), "https://hooks.example.com/keyturn?token=abc");
    }

    #[test]
    fn an_alert_url_that_cannot_work_is_refused_without_quoting_it() {
        for wrong in [
            "s3cret",
            "ftp://s3cret/",
            "https:///s3cret",
            "/s3cret",
            "http://s3cret:x y",
        ] {
            let run = parse(&[&format!("--alert-url={wrong}")]).unwrap();
            let refusal = web_hook(&run.alert_url).unwrap_err();
            assert!(!format!("{refusal:#}").contains("s3cret"), "{refusal:#}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for wrong in [
            "--min-refresh-interval=0",
            "--min-refresh-interval=-1m",
            "--min-refresh-interval=10ms",
            "--min-refresh-interval=soon",
            "--cluster-name=",
            "--cluster-name=a b",
            "--cluster-name=a-name-of-more-than-thirty-two-letters",
            "--listen=here",
            "--health-listen=8081",
            "--audit=maybe",
            "--restart-default=automatic",
            "--restart-default=",
            "--max-concurrent-restarts=0",
            "--max-concurrent-restarts=1001",
            "--max-concurrent-restarts-per-namespace=0",
            "--allow-evict=maybe",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    struct Told {
        signals: mpsc::Sender<()>,
        result: tokio::task::JoinHandle<anyhow::Result<()>>,
        address: SocketAddr,
    }

    fn told<W, F>(work: W) -> Told
    where
        W: FnOnce(watch::Receiver<bool>, watch::Sender<Readiness>) -> F + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address().unwrap();
        let (signals, received) = mpsc::channel(2);
        let result = tokio::spawn(supervise(
            server,
            telemetry::metrics::compose(|_| ()),
            received,
            work,
        ));
        Told {
            signals,
            result,
            address,
        }
    }

    async fn outcome(result: tokio::task::JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
        timeout(Duration::from_secs(5), result)
            .await
            .expect("it ends")
            .unwrap()
    }

    #[tokio::test]
    async fn a_signal_lets_work_end_well_and_frees_the_port() {
        let finished = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&finished);
        let Told {
            signals,
            result,
            address,
        } = told(move |mut shutdown, _readiness| async move {
            shutdown.wait_for(|asked| *asked).await?;
            *seen.lock().unwrap() = true;
            Ok(())
        });
        signals.send(()).await.unwrap();
        outcome(result).await.unwrap();
        assert!(*finished.lock().unwrap());
        Server::bind(address).unwrap();
    }

    #[tokio::test]
    async fn a_second_signal_does_not_wait() {
        let Told { signals, result, .. } = told(|_shutdown, _readiness| pending());
        signals.send(()).await.unwrap();
        signals.send(()).await.unwrap();
        assert!(
            outcome(result)
                .await
                .unwrap_err()
                .to_string()
                .contains("second signal")
        );
    }

    #[tokio::test]
    async fn failed_work_ends_the_process() {
        let Told {
            signals: _signals,
            result,
            ..
        } = told(|_shutdown, _readiness| ready(Err(anyhow!("the Lease was lost"))));
        assert_eq!(
            outcome(result).await.unwrap_err().to_string(),
            "the Lease was lost"
        );
    }
}
