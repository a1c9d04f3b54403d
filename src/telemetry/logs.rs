//! What is logged, where and how.

use std::{
    io::{self, IsTerminal, Write},
    panic,
};

use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::{Error, audit};

/// What is logged without a wish of the user's.
const DEFAULT: &str = "info";

/// How log lines look. The audit log is JSON in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For eyes.
    Text,
}

/// Where the logs go and what they hold.
#[derive(Clone, Debug)]
pub struct Logs {
    /// Directives as of `tracing`'s `EnvFilter`, put after the default `info`, within the cap on foreign crates.
    pub filter: String,
    /// How lines look.
    pub format: Format,
    /// Whether the audit log is written, to stdout.
    pub audit: bool,
    /// What became of its lines.
    pub audit_metrics: audit::Metrics,
}

impl Logs {
    /// Logs to stderr and audits to stdout from now on, for the whole process. A panic is logged by its place alone:
    /// its message may quote what was being worked on.
    pub fn install(&self) -> Result<(), Error> {
        let color = io::stderr().is_terminal();
        self.subscriber(io::stderr, io::stdout, color)?.try_init()?;
        panic::set_hook(Box::new(|panic| {
            let (file, line) = panic
                .location()
                .map_or(("unknown", 0), |at| (at.file(), at.line()));
            tracing::error!(file, line, "a panic");
        }));
        Ok(())
    }

    fn subscriber<L, A>(
        &self,
        log: L,
        audit: A,
        color: bool,
    ) -> Result<impl Subscriber + Send + Sync + 'static, Error>
    where
        L: for<'a> MakeWriter<'a> + Send + Sync + 'static,
        A: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let Self {
            filter,
            format,
            audit: audited,
            audit_metrics,
        } = self;
        let wanted =
            EnvFilter::try_new(format!("{DEFAULT},{filter}")).map_err(|_| Error::Filter(filter.clone()))?;
        let logged = filter_fn(allowed).and(wanted);
        let audited = audited
            .then(|| audit::Audit::new(audit, audit_metrics.clone()).with_filter(filter_fn(audit::is_audit)));
        Ok(tracing_subscriber::registry()
            .with(audited)
            .with(lines(*format, log, color).with_filter(logged)))
    }
}

fn lines<S, W>(format: Format, writer: W, color: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer();
    match format {
        Format::Json => layer
            .with_writer(writer)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
        Format::Text => layer.with_writer(OneLine(writer)).with_ansi(color).boxed(),
    }
}

/// Keeps an event on its line: what others write into names and annotations may hold line ends, and would forge lines.
struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        let mut parts = line.split(|byte| matches!(byte, b'\n' | b'\r'));
        let mut joined = parts.next().unwrap_or_default().to_vec();
        for part in parts {
            joined.extend_from_slice(b"\\n");
            joined.extend_from_slice(part);
        }
        joined.push(b'\n');
        self.0.write_all(&joined)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The cap: it holds whatever filter the user sets. Crates below us print requests, answers and credentials: hyper at
/// trace, kube at debug, kube's client and the SDK even at warn, when an answer cannot be parsed, and the SDK's
/// orchestrator an earlier error at error. So all but our own code is silent below `error`, the SDK wholly, whose
/// errors the `aws` room classifies and reports; a list of crates to mistrust would age.
fn allowed(metadata: &Metadata<'_>) -> bool {
    !audit::is_audit(metadata) && *metadata.level() <= cap(metadata.target())
}

fn cap(target: &str) -> LevelFilter {
    match target.split("::").next() {
        Some("keyturn") => LevelFilter::TRACE,
        Some(name) if name.starts_with("aws_") => LevelFilter::OFF,
        _ => LevelFilter::ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Seek, sync::Arc};

    use super::*;

    /// What `events` leaves in the log and in the audit log.
    fn written(filter: &str, format: Format, audit: bool, events: impl FnOnce()) -> (String, String) {
        let (log, trail) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let logs = Logs {
            filter: filter.into(),
            format,
            audit,
            audit_metrics: audit::Metrics::default(),
        };
        let writer = |file: &File| Arc::new(file.try_clone().unwrap());
        let subscriber = logs.subscriber(writer(&log), writer(&trail), false).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let text = |mut file: File| {
            file.rewind().unwrap();
            io::read_to_string(file).unwrap()
        };
        (text(log), text(trail))
    }

    #[test]
    fn no_filter_lets_a_foreign_crate_print_a_payload() {
        const CANARY: &str = "canary-4711";
        macro_rules! all_levels {
            ($($target:literal)*) => {$(
                tracing::warn!(target: $target, CANARY);
                tracing::info!(target: $target, CANARY);
                tracing::debug!(target: $target, CANARY);
                tracing::trace!(target: $target, CANARY);
                let _inside = tracing::info_span!(target: $target, "call", body = CANARY).entered();
            )*};
        }
        for filter in [
            "trace",
            "hyper=trace,h2=trace,aws_config=trace,kube_client=trace,keyturn=trace",
            "aws_smithy_runtime::client=trace",
            "[call{body=canary-4711}]=trace",
            "[call]=trace,keyturn_lookalike=trace",
        ] {
            for format in [Format::Json, Format::Text] {
                let (log, trail) = written(filter, format, true, || {
                    all_levels!("hyper::proto::h1" "h2::codec" "hyper_util" "hyper_rustls" "rustls::client" "tower"
                        "tower_http" "aws_smithy_runtime::client" "aws_smithy_http" "aws_sdk_secretsmanager"
                        "aws_sdk_sts" "aws_config" "aws_runtime" "aws_sigv4" "kube_client::client" "kube_runtime"
                        "keyturn_lookalike" "auditor" "a_crate_of_tomorrow");
                    tracing::error!("the end");
                });
                assert!(log.contains("the end"), "{filter}: {log}");
                assert!(!log.contains(CANARY), "{filter}: {log}");
                assert_eq!(trail, "");
            }
        }
    }

    #[test]
    fn our_own_code_is_logged_at_the_level_asked_for() {
        let events = || {
            tracing::trace!(target: "keyturn::track", "fine");
            tracing::info!(target: "keyturn::track", "coarse");
            tracing::error!(target: "hyper", "broken");
        };
        let (log, _) = written("", Format::Text, true, events);
        assert!(
            !log.contains("fine") && log.contains("coarse") && log.contains("broken"),
            "{log}"
        );
        let (log, _) = written("keyturn::track=trace", Format::Text, true, events);
        assert!(log.contains("fine") && log.contains("coarse"), "{log}");
        let (log, _) = written("off", Format::Text, true, events);
        assert_eq!(log, "");
    }

    #[test]
    fn a_filter_that_cannot_be_understood_is_refused() {
        let logs = Logs {
            filter: "keyturn=loud".into(),
            format: Format::Json,
            audit: true,
            audit_metrics: audit::Metrics::default(),
        };
        assert!(matches!(
            logs.subscriber(io::sink, io::sink, false),
            Err(Error::Filter(_))
        ));
    }

    #[test]
    fn the_audit_log_is_apart_and_json_in_any_format_and_at_any_filter() {
        for (format, filter) in [(Format::Json, "trace"), (Format::Text, ""), (Format::Text, "off")] {
            let event = || tracing::info!(target: "audit", action = "token", service_account = "a/b", audiences = "c");
            let (log, trail) = written(filter, format, true, event);
            assert_eq!(log, "");
            let line: serde_json::Value = serde_json::from_str(&trail).unwrap();
            assert_eq!(line["action"], "token");
            let (log, trail) = written(filter, format, false, event);
            assert_eq!((log.as_str(), trail.as_str()), ("", ""), "switched off");
        }
    }

    #[test]
    fn a_line_in_json_is_one_object() {
        let (log, _) = written(
            "",
            Format::Json,
            true,
            || tracing::info!(target: "keyturn", key = "a\nb", "said"),
        );
        let line: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!(
            (line["key"].as_str(), line["message"].as_str()),
            (Some("a\nb"), Some("said"))
        );
    }

    #[test]
    fn a_line_of_text_is_one_event() {
        let forged = "shop/db\n2026-01-01T00:00:00Z  INFO keyturn: all is well\r";
        let events = || {
            tracing::warn!(target: "keyturn", name = %forged, "{forged}");
            tracing::warn!(target: "keyturn", "second");
        };
        let (log, _) = written("", Format::Text, true, events);
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(log.ends_with("second\n") && !log.contains('\r'), "{log}");
    }

    #[test]
    fn the_cap_knows_whole_names_only() {
        for (target, level) in [
            ("keyturn", LevelFilter::TRACE),
            ("keyturn::aws::read", LevelFilter::TRACE),
            ("keyturn_x", LevelFilter::ERROR),
            ("aws_smithy_runtime_api::client", LevelFilter::OFF),
            ("", LevelFilter::ERROR),
        ] {
            assert_eq!(cap(target), level, "{target}");
        }
    }
}
