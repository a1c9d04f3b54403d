//! The arguments of `keyturn run`, by what they concern. An empty text is taken as absent, so that a manifest may pass what is
//! not set.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use anyhow::ensure;
use clap::{ArgAction, Args, ValueEnum};
use http::Uri;
use jiff::SignedDuration;
use secrecy::{ExposeSecret, SecretString};

use crate::{api::RestartMode, telemetry::alerts::AlertFormat};

/// All arguments of `keyturn run`.
#[derive(Debug, Args)]
pub(super) struct Settings {
    #[command(flatten)]
    pub(super) cluster: ClusterSettings,
    #[command(flatten)]
    pub(super) sync: SyncSettings,
    #[command(flatten)]
    pub(super) restart: RestartSettings,
    #[command(flatten)]
    pub(super) telemetry: TelemetrySettings,
}

/// What concerns the cluster and this process in it.
#[derive(Debug, Args)]
pub(super) struct ClusterSettings {
    /// Name of this cluster in role session names, as CloudTrail shows them
    #[arg(long, env = "KEYTURN_CLUSTER_NAME", default_value = "kubernetes", value_parser = cluster_name)]
    pub(super) cluster_name: String,
    /// Namespaces to work in; all where none is named
    #[arg(long, env = "KEYTURN_NAMESPACES", value_delimiter = ',')]
    pub(super) namespaces: Vec<String>,
    /// Namespace of the operator itself: its Lease and its key
    #[arg(long, env = "POD_NAMESPACE")]
    pub(super) operator_namespace: String,
    /// Name of this pod: the holder in the Lease
    #[arg(long, env = "POD_NAME")]
    pub(super) pod_name: String,
    /// Name of the Lease that makes one replica the leader
    #[arg(long, env = "KEYTURN_LEASE_NAME", default_value = "keyturn")]
    pub(super) lease_name: String,
    /// Audiences for which tokens of ServiceAccounts may be requested
    #[arg(
        long,
        env = "KEYTURN_TOKEN_AUDIENCES",
        default_value = "sts.amazonaws.com",
        value_delimiter = ','
    )]
    pub(super) token_audiences: Vec<String>,
    /// After how long without a word a watch is opened again. The API server sends the first bookmark after two minutes at
    /// most, and one a minute from then on, so only tests have a reason to change it
    #[arg(long, env = "KEYTURN_WATCH_SILENCE", hide = true, default_value = "200s", value_parser = interval)]
    pub(super) watch_silence: Duration,
}

/// What concerns ExternalSecrets, stores and AWS.
#[derive(Debug, Args)]
pub(super) struct SyncSettings {
    /// `ClusterSecretStore` of ExternalSecrets that name none
    #[arg(long, env = "KEYTURN_DEFAULT_STORE", default_value = "")]
    pub(super) default_store: String,
    /// Shorter refresh intervals are raised to this one
    #[arg(long, env = "KEYTURN_MIN_REFRESH_INTERVAL", default_value = "30s", value_parser = interval)]
    pub(super) min_refresh_interval: Duration,
    /// Whether values may be read to find out whether they changed
    #[arg(long, env = "KEYTURN_PERIODIC_READS", default_value_t = true, action = ArgAction::Set)]
    pub(super) periodic_reads: bool,
    /// Whether a `SecretStore` without `auth` may read with the operator's own identity
    #[arg(long, env = "KEYTURN_ALLOW_OPERATOR_IDENTITY", default_value_t = false, action = ArgAction::Set)]
    pub(super) allow_operator_identity: bool,
    /// Namespaces whose Secrets are never written, beside the operator's own
    #[arg(
        long,
        env = "KEYTURN_PROTECTED_NAMESPACES",
        default_value = "kube-system",
        value_delimiter = ','
    )]
    pub(super) protected_namespaces: Vec<String>,
    /// Labels and annotations that are not copied from an `ExternalSecret` to its Secret: names, and domains with those below them
    #[arg(long, env = "KEYTURN_NEVER_COPIED", default_value = "", value_delimiter = ',')]
    pub(super) never_copied: Vec<String>,
    /// Writes of status a second at most, besides an object's first and what answers an edit
    #[arg(long, env = "KEYTURN_STATUS_WRITES_PER_SECOND", default_value = "50",
        value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(super) status_writes_per_second: u32,
}

/// What concerns restarts.
#[derive(Debug, Args)]
pub(super) struct RestartSettings {
    /// Whether the workloads of `ExternalSecret`s that say nothing of it are restarted: Automatic, Manual or Disabled
    #[arg(long, env = "KEYTURN_RESTART_DEFAULT", default_value = "Disabled", value_parser = restart_mode)]
    pub(super) restart_default: RestartMode,
    /// How many workloads roll out at once in the whole cluster
    #[arg(long, env = "KEYTURN_MAX_CONCURRENT_RESTARTS", default_value = "20", value_parser = at_once)]
    pub(super) max_concurrent_restarts: NonZeroU32,
    /// How many workloads roll out at once in one namespace
    #[arg(long, env = "KEYTURN_MAX_CONCURRENT_RESTARTS_PER_NAMESPACE", default_value = "5", value_parser = at_once)]
    pub(super) max_concurrent_restarts_per_namespace: NonZeroU32,
    /// Whether pods may be evicted where an `ExternalSecret` or a workload asks for it
    #[arg(long, env = "KEYTURN_ALLOW_EVICT", default_value_t = false, action = ArgAction::Set)]
    pub(super) allow_evict: bool,
}

/// What concerns logs, metrics and alerts.
#[derive(Debug, Args)]
pub(super) struct TelemetrySettings {
    /// Where metrics are served, and health and readiness too: [::] takes IPv4 as well
    #[arg(long, env = "KEYTURN_LISTEN", default_value = "[::]:8080")]
    pub(super) listen: SocketAddr,
    /// Where health and readiness alone are served besides; nowhere if empty
    #[arg(long, env = "KEYTURN_HEALTH_LISTEN", default_value = "", value_parser = address)]
    pub(super) health_listen: MaybeAddress,
    /// What Keyturn logs: a level, or `keyturn::room=level` with commas between
    #[arg(long, env = "KEYTURN_LOG", default_value = "info")]
    pub(super) log: String,
    /// How log lines look
    #[arg(long, env = "KEYTURN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub(super) log_format: LogFormat,
    /// Whether reads, writes and refusals are written to stdout as JSON lines
    #[arg(long, env = "KEYTURN_AUDIT", default_value_t = true, action = ArgAction::Set)]
    pub(super) audit: bool,
    /// Where failed restarts and stuck rotations are posted to; may hold a token, so prefer the environment
    #[arg(long, env = "KEYTURN_ALERT_URL", hide_env_values = true, default_value = "")]
    pub(super) alert_url: SecretString,
    /// The form in which the receiver takes alerts
    #[arg(long, env = "KEYTURN_ALERT_FORMAT", value_enum, default_value_t = AlertForm::Keyturn)]
    pub(super) alert_format: AlertForm,
}

/// An address, if one is given. By this name clap takes it for a value, not for an argument that may be missing.
pub(super) type MaybeAddress = Option<SocketAddr>;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum AlertForm {
    Keyturn,
    Alertmanager,
    Slack,
}

impl From<AlertForm> for AlertFormat {
    fn from(form: AlertForm) -> Self {
        match form {
            AlertForm::Keyturn => Self::Keyturn,
            AlertForm::Alertmanager => Self::Alertmanager,
            AlertForm::Slack => Self::Slack,
        }
    }
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
pub(super) fn web_hook(text: &SecretString) -> anyhow::Result<Option<SecretString>> {
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

/// The names without those that are empty.
pub(super) fn named(names: &[String]) -> Vec<String> {
    names
        .iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(more: &[&str]) -> Result<Settings, clap::Error> {
        let given = ["keyturn", "--operator-namespace=keyturn", "--pod-name=keyturn-0"];
        CommandLine::try_parse_from(given.iter().chain(more)).map(|line| line.settings)
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.sync.min_refresh_interval, Duration::from_secs(30));
        assert!(
            settings.sync.periodic_reads
                && settings.telemetry.audit
                && !settings.sync.allow_operator_identity
        );
        assert_eq!(settings.telemetry.listen.to_string(), "[::]:8080");
        assert_eq!(settings.telemetry.health_listen, None);
        assert_eq!(settings.cluster.lease_name, "keyturn");
        assert_eq!(settings.sync.protected_namespaces, ["kube-system"]);
        assert_eq!(settings.cluster.token_audiences, ["sts.amazonaws.com"]);
        assert!(named(&settings.cluster.namespaces).is_empty());
        assert_eq!(settings.restart.restart_default, RestartMode::Disabled);
        assert_eq!(settings.restart.max_concurrent_restarts.get(), 20);
        assert_eq!(settings.restart.max_concurrent_restarts_per_namespace.get(), 5);
        assert!(!settings.restart.allow_evict);
        assert!(web_hook(&settings.telemetry.alert_url).unwrap().is_none());
        let from_file = web_hook(&"https://hooks.example.com/a\n".into())
            .unwrap()
            .unwrap();
        assert_eq!(from_file.expose_secret(), "https://hooks.example.com/a");
    }

    #[test]
    fn arguments_are_understood() {
        let settings = parse(&[
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
        assert!(!format!("{settings:?}").contains("token=abc"));
        assert_eq!(named(&settings.cluster.namespaces), ["shop", "billing"]);
        assert_eq!(settings.sync.min_refresh_interval, Duration::from_secs(90));
        assert!(!settings.sync.periodic_reads);
        assert!(named(&settings.sync.protected_namespaces).is_empty());
        assert_eq!(settings.restart.restart_default, RestartMode::Automatic);
        assert_eq!(settings.restart.max_concurrent_restarts.get(), 3);
        assert_eq!(settings.restart.max_concurrent_restarts_per_namespace.get(), 1);
        assert!(settings.restart.allow_evict);
        // As earlier charts have it.
        assert_eq!(settings.telemetry.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(settings.telemetry.health_listen.unwrap().to_string(), "[::]:8081");
        let url = web_hook(&settings.telemetry.alert_url).unwrap().unwrap();
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
            let settings = parse(&[&format!("--alert-url={wrong}")]).unwrap();
            let refusal = web_hook(&settings.telemetry.alert_url).unwrap_err();
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
}
