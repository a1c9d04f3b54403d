//! The operator's process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use tokio::process::Command;

use super::http;
use crate::controlplane::Component;
use crate::wait;

/// The watches of an empty cluster fill in a fraction of a second; machines under test are busy.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// The operator gives its work 25 s after a SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Ticks a second in `/proc` (proc(5), `USER_HZ`).
const TICKS: f64 = 100.0;

/// A running `keyturn run`. Dropping it kills it.
pub struct Operator {
    pub(super) component: Component,
    pub(super) port: u16,
    pub(super) health: u16,
    pub(super) user: String,
    pub(super) pod_name: String,
    pub(super) log: PathBuf,
    pub(super) audit: PathBuf,
    pub(super) started: Timestamp,
}

/// What the kernel says of the process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time since its start, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// The most that was resident since its start, in bytes.
    pub peak: u64,
}

impl Operator {
    /// The process's id.
    pub fn id(&self) -> u32 {
        self.component.id()
    }

    /// The user that the API server sees: `system:serviceaccount:NAMESPACE:NAME`.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// When the process was started.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// The name by which it holds the Lease.
    pub fn pod_name(&self) -> &str {
        &self.pod_name
    }

    /// The port of health, readiness and metrics on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of health alone on 127.0.0.1.
    pub fn health_port(&self) -> u16 {
        self.health
    }

    /// What it logged (standard error): JSON lines, unless told otherwise.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its audit log (standard output): JSON lines.
    pub fn audit(&self) -> &Path {
        &self.audit
    }

    /// The status with which the port of health answers a GET of `path`.
    pub async fn health(&self, path: &str) -> Result<u16> {
        http::get(self.health, path).await.map(|(status, _)| status)
    }

    /// `Some` when it ended by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.component.ended()
    }

    /// Whether `/readyz` says so now.
    pub async fn is_ready(&self) -> bool {
        matches!(http::get(self.port, "/readyz").await, Ok((200, _)))
    }

    /// Waits until `/readyz` says so; a process that ends is an error with the end of its log.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let port = self.port;
        let component = &mut self.component;
        let ready = wait::until("the operator to be ready", READY_LIMIT, async || {
            if let Some(status) = component.ended()? {
                return Ok(Some(Err(status)));
            }
            let (status, body) = http::get(port, "/readyz").await?;
            if status == 200 {
                return Ok(Some(Ok(())));
            }
            bail!("/readyz answered {status}: {}", body.trim_end())
        });
        match ready.await.with_context(|| component.log_tail())? {
            Ok(()) => Ok(()),
            Err(status) => bail!("the operator ended with {status}; {}", component.log_tail()),
        }
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (status, body) = http::get(self.port, "/metrics").await?;
        if status != 200 {
            bail!("/metrics answered {status}");
        }
        Ok(Metrics::parse(&body))
    }

    /// CPU time and memory.
    pub fn usage(&self) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.id());
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        Usage::parse(&read("stat")?, &read("status")?).context("read what /proc says of the operator")
    }

    /// `SIGKILL`, as an exhausted node would.
    pub fn kill9(mut self) -> Result<()> {
        self.component.kill()
    }

    /// `SIGSTOP`: it sees nothing of what happens until [`Self::resume`].
    pub async fn pause(&self) -> Result<()> {
        self.signal("STOP").await
    }

    /// `SIGCONT`.
    pub async fn resume(&self) -> Result<()> {
        self.signal("CONT").await
    }

    async fn signal(&self, name: &str) -> Result<()> {
        let id = self.id().to_string();
        let sent = Command::new("/bin/sh")
            .args(["-c", "kill -\"$0\" \"$1\"", name, &id])
            .status()
            .await
            .with_context(|| format!("send SIG{name} to the operator"))?;
        if !sent.success() {
            bail!("could not send SIG{name} to the operator, process {id}");
        }
        Ok(())
    }

    /// `SIGTERM`, as the kubelet would, and its end.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        let component = &mut self.component;
        wait::until("the operator to end", END_LIMIT, async || component.ended())
            .await
            .with_context(|| component.log_tail())
    }
}

impl Usage {
    fn parse(stat: &str, status: &str) -> Option<Self> {
        // Counted after the command's name, which may hold blanks: utime is the 14th of the line, stime the 15th.
        let (_, rest) = stat.rsplit_once(") ")?;
        let ticks = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
                .map(|kilobytes| kilobytes * 1024)
        };
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS,
            resident: bytes("VmRSS:")?,
            peak: bytes("VmHWM:")?,
        })
    }
}

/// Samples of one scrape, by series: `keyturn_writes_total{verb="create"}`.
#[derive(Debug, Clone, Default)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        // A label's value may hold blanks; the sample's never does.
        Self(
            samples
                .filter_map(|line| {
                    let (series, value) = line.rsplit_once(' ')?;
                    Some((series.to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    /// The sum over all series of this name; 0 where there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, &[])
    }

    /// The sum over the series of this name that carry all these labels.
    pub fn sum_where(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let series = self.0.iter().filter(|(series, _)| {
            let (own, rest) = series.split_once('{').unwrap_or((series, ""));
            own == name && wanted.iter().all(|label| rest.contains(label.as_str()))
        });
        series.map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_not_asked_for() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na_total{x=\"1\",y=\"p q\"} 2\na_total{x=\"2\",y=\"p q\"} 3\nab_total 7\n# EOF\n",
        );
        assert!((metrics.sum("a_total") - 5.0).abs() < f64::EPSILON);
        assert!((metrics.sum_where("a_total", &[("x", "2")]) - 3.0).abs() < f64::EPSILON);
        assert!(metrics.sum("b_total").abs() < f64::EPSILON);
    }

    #[test]
    fn usage_is_read_after_a_name_with_blanks() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 12345 9 9 9";
        let status = "VmHWM:\t  20 kB\nVmRSS:\t  10 kB\n";
        assert_eq!(
            Usage::parse(stat, status),
            Some(Usage {
                cpu_seconds: 3.0,
                resident: 10_240,
                peak: 20_480
            })
        );
    }
}
