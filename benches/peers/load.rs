//! Load at full speed: wrk, and h2load for HTTP/2.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::caches::write;
use super::origin::is_script;
use super::process::Process;
use super::report::Figures;

/// Measures the CPU time of `servers` during a run, and the speed of the run.
pub fn cost(servers: &[&Process], run: impl FnOnce() -> Speed) -> Figures {
    let cpu = || servers.iter().map(|server| server.cpu()).sum::<Duration>();
    let before = cpu();
    let speed = run();
    Figures {
        cpu_microseconds: cpu().saturating_sub(before).as_secs_f64() * 1e6 / speed.requests,
        requests_per_second: speed.per_second,
        bytes_per_second: speed.bytes_per_second,
        p50_milliseconds: speed.p50,
        p99_milliseconds: speed.p99,
        ..Figures::default()
    }
}

/// The results of a run at full speed.
pub struct Speed {
    pub requests: f64,
    pub per_second: f64,
    pub bytes_per_second: Option<f64>,
    /// In milliseconds; `None` if the tool does not print it.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

impl Speed {
    /// Returns the speed of a run of which only the number of requests is known.
    pub fn of(requests: f64, time: Duration) -> Self {
        let per_second = requests / time.as_secs_f64();
        Self { requests, per_second, bytes_per_second: None, p50: None, p99: None }
    }
}

/// wrk's own summary is hard to parse; this prints its figures in one line.
const DONE: &str = "done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('figures %d %d %d %d %f %f\\n', summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end\n";

/// Runs wrk with one thread, requesting `paths` of `site` (scheme and host) in turn.
pub fn wrk(folder: &TempDir, site: &str, paths: &[String], connections: usize, time: Duration) -> Speed {
    let mut script = DONE.to_owned();
    // A single target needs no code for each request.
    if paths.len() > 1 {
        let requests: String = paths.iter().fold(String::new(), |mut text, path| {
            let _ = write!(text, "wrk.format('GET', '{path}'),");
            text
        });
        let _ = write!(
            script,
            "local all, at\ninit = function() all, at = {{{requests}}}, 0 end\n\
             request = function() at = at % #all + 1 return all[at] end\n"
        );
    }
    let script = write(folder, "wrk.lua", &script, &[]);
    let seconds = time.as_secs_f64().ceil().to_string();
    let mut command = Command::new("wrk");
    command.args(["-t1", "--timeout", "20s", "-c", &connections.to_string(), "-d", &seconds, "-s", &script]);
    if is_script(&paths[0]) {
        command.args(["-H", "accept-encoding: gzip"]);
    }
    command.arg(format!("{site}{}", paths[0]));
    let text = output(&command);
    let line = text.lines().find_map(|line| line.strip_prefix("figures ")).unwrap_or_else(|| panic!("wrk: {text}"));
    let figures: Vec<f64> = line.split(' ').map(|figure| figure.parse().unwrap()).collect();
    assert!(figures[0] > 0.0 && figures[3] == 0.0, "wrk reported errors at {site}{}: {text}", paths[0]);
    let seconds = figures[1] / 1e6;
    Speed {
        requests: figures[0],
        per_second: figures[0] / seconds,
        bytes_per_second: Some(figures[2] / seconds),
        p50: Some(figures[4] / 1e3),
        p99: Some(figures[5] / 1e3),
    }
}

/// Runs h2load: eight connections, four concurrent requests on each. In cleartext, it begins with
/// HTTP/2 at once.
pub fn h2load(site: &str, path: &str, time: Duration) -> Speed {
    let mut command = Command::new("h2load");
    command.args(["-t1", "-c8", "-m4", "-D", &time.as_secs_f64().ceil().to_string()]);
    command.arg(format!("{site}{path}"));
    let text = output(&command);
    let figure = |line: &str, unit: &str| -> Option<f64> {
        let line = text.lines().find(|text| text.starts_with(line))?;
        line.split(unit).next()?.trim().rsplit([' ', ':']).next()?.parse().ok()
    };
    let requests = figure("requests:", " succeeded").unwrap_or_else(|| panic!("h2load: {text}"));
    let good = figure("status codes:", " 2xx").unwrap_or_default();
    assert!(requests > 0.0 && good >= requests, "h2load reported errors at {site}{path}: {text}");
    Speed::of(requests, Duration::from_secs_f64(time.as_secs_f64().ceil()))
}

/// Returns the output of a command that runs on the second processor: the server has the first.
pub fn output(command: &Command) -> String {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "1"]).arg(command.get_program()).args(command.get_args());
    let output = pinned.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
