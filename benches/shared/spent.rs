//! The CPU time of a process, for the benchmarks.

use std::time::Duration;

/// Returns the CPU time of all its threads, in user and system mode; zero if it has ended.
pub fn spent(process: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Duration::ZERO };
    let spent = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(|task| spent(task.ok()?)).sum())
}
