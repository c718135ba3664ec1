//! Metrics of the process, under the standard names of Prometheus client libraries.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::encoding::begin_family;

/// Reads `/proc` for each exposition; a value that cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(ProcessStat { cpu, started, resident }) = ProcessStat::read() {
            let help = "User and system CPU time";
            ConstCounter::new(cpu).encode(begin_family(
                &mut encoder,
                MetricType::Counter,
                "process_cpu_seconds",
                help,
            )?)?;
            let (name, help) = ("process_start_time_seconds", "Start time since the epoch");
            ConstGauge::new(started).encode(begin_family(&mut encoder, MetricType::Gauge, name, help)?)?;
            let (name, help) = ("process_resident_memory_bytes", "Resident memory size");
            ConstGauge::new(resident).encode(begin_family(&mut encoder, MetricType::Gauge, name, help)?)?;
        }
        let open = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        let most = getrlimit(Resource::Nofile).current;
        for (name, help, files) in [
            ("process_open_fds", "Open file descriptors", open),
            ("process_max_fds", "Maximum number of open file descriptors", most),
        ] {
            if let Some(files) = files.and_then(|files| i64::try_from(files).ok()) {
                ConstGauge::new(files).encode(begin_family(&mut encoder, MetricType::Gauge, name, help)?)?;
            }
        }
        Ok(())
    }
}

/// Values from `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct ProcessStat {
    /// In seconds.
    cpu: f64,
    /// In seconds since the epoch.
    started: f64,
    /// In bytes.
    resident: i64,
}

impl ProcessStat {
    fn read() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let system = read("/proc/stat")?;
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Self::parse(&read("/proc/self/stat")?, boot)
    }

    /// Parses a line of `/proc/self/stat` (proc(5)); `boot` is in seconds since the epoch.
    #[allow(clippy::cast_precision_loss)] // seconds
    fn parse(stat: &str, boot: f64) -> Option<Self> {
        // The second field is the program's name in parentheses. It may contain spaces and parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu: seconds(number(14)? + number(15)?),
            started: boot + seconds(number(22)?),
            resident: i64::try_from(number(24)? * page_size() as u64).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_and_spaces_is_parsed() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 4 0 1000 9999 3 18446744073709551615";
        let parsed = ProcessStat::parse(stat, 1e9).unwrap();
        // The start is 1000 ticks after boot, the CPU time 200 ticks: a ratio of five.
        assert!(parsed.cpu > 0.0 && ((parsed.started - 1e9) / parsed.cpu - 5.0).abs() < 1e-3);
        assert_eq!(usize::try_from(parsed.resident), Ok(3 * page_size()));
        assert!(ProcessStat::read().is_some_and(|parsed| parsed.resident > 0 && parsed.started > 1e9));
        assert_eq!(ProcessStat::parse("7 (a", 0.0), None);
    }
}
