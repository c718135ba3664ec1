//! Figures of the process, under the names that Prometheus' own clients use.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::exposition::begin;

/// Reads `/proc` whenever it is asked; a fact that cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(Figures { cpu, started, resident }) = Figures::read() {
            let help = "User and system CPU time";
            ConstCounter::new(cpu).encode(begin(&mut encoder, MetricType::Counter, "process_cpu_seconds", help)?)?;
            let (name, help) = ("process_start_time_seconds", "Start time since the epoch");
            ConstGauge::new(started).encode(begin(&mut encoder, MetricType::Gauge, name, help)?)?;
            let (name, help) = ("process_resident_memory_bytes", "Resident memory size");
            ConstGauge::new(resident).encode(begin(&mut encoder, MetricType::Gauge, name, help)?)?;
        }
        let open = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        let most = getrlimit(Resource::Nofile).current;
        for (name, help, files) in [
            ("process_open_fds", "Open file descriptors", open),
            ("process_max_fds", "Maximum number of open file descriptors", most),
        ] {
            if let Some(files) = files.and_then(|files| i64::try_from(files).ok()) {
                ConstGauge::new(files).encode(begin(&mut encoder, MetricType::Gauge, name, help)?)?;
            }
        }
        Ok(())
    }
}

/// Figures of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Figures {
    /// In seconds.
    cpu: f64,
    /// In seconds since the epoch.
    started: f64,
    /// In bytes.
    resident: i64,
}

impl Figures {
    fn read() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let system = read("/proc/stat")?;
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Self::parse(&read("/proc/self/stat")?, boot)
    }

    /// See proc(5); `boot` is in seconds since the epoch.
    #[allow(clippy::cast_precision_loss)] // seconds
    fn parse(stat: &str, boot: f64) -> Option<Self> {
        // The second field is the name of the program, in parentheses.
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
    fn facts_are_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 4 0 1000 9999 3 18446744073709551615";
        let facts = Figures::parse(stat, 1e9).unwrap();
        // Five times as many ticks since boot as on the CPU.
        assert!(facts.cpu > 0.0 && ((facts.started - 1e9) / facts.cpu - 5.0).abs() < 1e-3);
        assert_eq!(usize::try_from(facts.resident), Ok(3 * page_size()));
        assert!(Figures::read().is_some_and(|facts| facts.resident > 0 && facts.started > 1e9));
        assert_eq!(Figures::parse("7 (a", 0.0), None);
    }
}
