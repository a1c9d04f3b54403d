//! `keyturn run`: the operator, from its arguments to its last breath.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::Args;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    operate::{Metrics, Operator},
    settings::{LogFormat, Settings, TelemetrySettings, web_hook},
};
use crate::telemetry::{self, Logs, Readiness, Server};

/// What is left for work under way after a signal: the chart's termination grace period is 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// The arguments of `keyturn run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    settings: Settings,
}

impl Run {
    /// Runs until a signal, a lost Lease, or an error.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { settings } = self;
        let TelemetrySettings {
            listen,
            health_listen,
            log,
            log_format,
            audit,
            alert_url,
            alert_format,
        } = settings.telemetry;
        let format = match log_format {
            LogFormat::Json => telemetry::Format::Json,
            LogFormat::Text => telemetry::Format::Text,
        };
        let metrics = Metrics::default();
        Logs {
            filter: log,
            format,
            audit,
            audit_metrics: metrics.audit.clone(),
        }
        .install()?;
        let alert_url = web_hook(&alert_url)?;
        ensure!(
            !settings.cluster.operator_namespace.is_empty(),
            "--operator-namespace is empty"
        );
        ensure!(!settings.cluster.pod_name.is_empty(), "--pod-name is empty");
        // Two threads: the work is waiting, and more threads cost memory only.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let operator = Operator {
            cluster: settings.cluster,
            sync: settings.sync,
            restart: settings.restart,
            alert_url,
            alert_format: alert_format.into(),
            metrics,
        };
        runtime.block_on(async {
            let server = bind(listen, health_listen)?;
            let registry = telemetry::metrics::compose(|ours| operator.metrics.register(ours));
            let signals = signals()?;
            let (listen, health) = (
                server.address().ok(),
                server.health_address().and_then(Result::ok),
            );
            let [listen, health] = [listen, health].map(|address| address.map(tracing::field::display));
            tracing::info!(version = env!("CARGO_PKG_VERSION"), listen, health, "starting");
            supervise(server, registry, signals, |shutdown, readiness| {
                Box::pin(operator.operate(shutdown, readiness))
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

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Mutex,
    };

    use anyhow::anyhow;

    use super::*;

    struct Supervised {
        signals: mpsc::Sender<()>,
        result: tokio::task::JoinHandle<anyhow::Result<()>>,
        address: SocketAddr,
    }

    fn told<W, F>(work: W) -> Supervised
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
        Supervised {
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
        let Supervised {
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
        let Supervised { signals, result, .. } = told(|_shutdown, _readiness| pending());
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
        let Supervised {
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
