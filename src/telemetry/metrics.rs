//! The registry of metrics, and those of the process itself.
//!
//! A room owns a struct of its metrics with `fn register(&self, registry: &mut Registry)`; names are given there
//! without the prefix `keyturn_`, which [`compose`] adds.

use std::{fmt, fs, str};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

/// The registry that `/metrics` shows: the process, the version, and what `rooms` registers.
pub fn compose(rooms: impl FnOnce(&mut Registry)) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let ours = registry.sub_registry_with_prefix("keyturn");
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    ours.register("build", "What this process was built from", Info::new(version));
    rooms(ours);
    registry
}

/// Ticks a second in `/proc`: `USER_HZ`, 100 on every architecture that Kubernetes runs on (proc(5)).
const TICKS: f64 = 100.0;

/// The process as the kernel sees it, read at each scrape; what cannot be read is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let stat = stat.as_deref().and_then(Stat::parse);
        if let Some(Stat {
            cpu_seconds,
            start_after_boot,
        }) = stat
        {
            let cpu = ConstCounter::new(cpu_seconds);
            let help = "CPU time of user and system";
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                MetricType::Counter,
            )?)?;
            let boot = fs::read_to_string("/proc/stat")
                .ok()
                .and_then(|text| boot_time(&text));
            if let Some(boot) = boot {
                let since = ConstGauge::new(boot + start_after_boot);
                let help = "Start of the process, in seconds since 1970";
                since.encode(encoder.encode_descriptor(
                    "process_start_time",
                    help,
                    Some(&Unit::Seconds),
                    MetricType::Gauge,
                )?)?;
            }
        }
        let resident = fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| resident(&text));
        if let Some(resident) = resident {
            let resident = ConstGauge::new(resident);
            let help = "Resident memory";
            resident.encode(encoder.encode_descriptor(
                "process_resident_memory",
                help,
                Some(&Unit::Bytes),
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

/// What is wanted of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    start_after_boot: f64,
}

impl Stat {
    /// Fields are counted after the command's name, which may hold blanks and parentheses itself: utime is the 14th
    /// of the line, stime the 15th, starttime the 22nd (proc(5)).
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let seconds = |number: usize| {
            fields
                .get(number - 3)?
                .parse::<f64>()
                .ok()
                .map(|ticks| ticks / TICKS)
        };
        Some(Self {
            cpu_seconds: seconds(14)? + seconds(15)?,
            start_after_boot: seconds(22)?,
        })
    }
}

/// `btime` of `/proc/stat`, in seconds since 1970.
fn boot_time(stat: &str) -> Option<f64> {
    field(stat, "btime ")
}

/// `VmRSS` of `/proc/self/status`, which is in kB, in bytes.
fn resident(status: &str) -> Option<i64> {
    field::<i64>(status, "VmRSS:")?.checked_mul(1024)
}

fn field<T: str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, metrics::counter::Counter};

    use super::*;

    #[test]
    fn the_process_and_the_rooms_are_shown_in_open_metrics() {
        let writes = Counter::<u64>::default();
        writes.inc();
        let registry = compose(|ours| ours.register("writes", "Writes of Secrets", writes.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE process_cpu_seconds counter",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
            "keyturn_build_info{version=\"",
            "keyturn_writes_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_command_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 12345 9 9 9";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                cpu_seconds: 3.0,
                start_after_boot: 123.45
            })
        );
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn memory_is_given_in_bytes() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t   11264 kB\n"), Some(11_534_336));
        assert_eq!(resident("Name:\tx\n"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
