//! `peerage run`: one edge.

use std::io::{self, BufWriter};
use std::net::TcpListener;
use std::path::PathBuf;
use std::pin::pin;

use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use super::{ConfigArguments, Failure, LINES, init_log, input_ends, is_text, runtime, write_pid};
use crate::config::{Config, LimitsConfig, LogConfig};
use crate::error::StartError;
use crate::observe::access::Format;
use crate::server::{Reloading, Server};

/// Files for what is asked of peers, for answers of the origin that are streaming, for
/// operators and for the process itself.
const FILES: u64 = 1536;

#[derive(clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArguments,
    /// Pulls the most wanted keys that this edge now owns from its peers, before it
    /// reports ready
    #[arg(long)]
    warm: bool,
    /// Writes its process id to FILE once it listens
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Ends when standard input does
    #[arg(long, hide = true)]
    while_input: bool,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut config = self.config.load_edge()?;
        let (lost, throttle, _log) = init_log(&config.log);
        fit(&mut config, most_files());
        let runtime = runtime(config.edge.threads)?;
        drop(runtime.spawn(throttle.clone().report_always()));
        let ended = runtime.block_on(async {
            let (name, origin, log) = (config.edge.name.clone(), config.origin.url.clone(), config.log.clone());
            // Before anybody can know that it is there.
            let signals = Signals::new()?;
            let mut server = Server::bind_on(config, inherited()?).await?;
            server.count_lost(lost);
            let _lines = write_lines(&mut server, &log);
            if self.warm {
                server.start_warm();
            }
            write_pid(self.pid_file.as_deref())?;
            let at = server.addresses();
            let peers = at.peers.map(|address| address.to_string());
            tracing::info!(%name, clients = %at.clients, peers, admin = %at.admin, %origin, "serving");
            let reloading = server.reloading();
            server.run(self.until_told(signals, reloading)).await?;
            throttle.report();
            tracing::info!("ended");
            Ok(())
        });
        // A blocked read of standard input must not hold the process up.
        runtime.shutdown_background();
        ended
    }

    /// Resolves when it is time to drain; reloads when told to.
    async fn until_told(&self, mut signals: Signals, mut reloading: Reloading) {
        let mut input = pin!(async {
            if self.while_input {
                input_ends().await;
            } else {
                std::future::pending::<()>().await;
            }
        });
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                () = &mut input => break,
                _ = signals.hangup.recv() => self.reload(&mut reloading),
            }
        }
        tracing::info!("draining; a second signal ends at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = signals.terminate.recv() => {}
                _ = signals.interrupt.recv() => {}
            }
            std::process::exit(0);
        });
    }

    fn reload(&self, reloading: &mut Reloading) {
        let fitting = |mut config| {
            fit(&mut config, most_files());
            config
        };
        match self.config.load_edge().map(fitting).and_then(|config| reloading.reload(config)) {
            Ok(restart) if restart.is_empty() => tracing::info!("configuration reloaded"),
            Ok(restart) => tracing::warn!(
                changed = restart.join(", "),
                "configuration reloaded; changes in these tables need a restart"
            ),
            Err(error) => tracing::error!(%error, "configuration rejected, the running one stays"),
        }
    }
}

/// Has the system give this process as many files as it may have; each connection is
/// one. Returns how many that are.
fn most_files() -> u64 {
    let mut files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, ..files };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        files = raised;
    }
    files.current.unwrap_or(u64::MAX)
}

/// Leaves some of the `files` for what is not a client's: or clients could keep this
/// edge from its origin, its peers and its operators. Each listener may have all of
/// `limits.connections`, and `origin.requests` holds for uploads once more.
fn fit(config: &mut Config, files: u64) {
    let listeners = 1 + u64::from(config.cluster.is_some());
    let others = (config.origin.requests as u64).saturating_mul(2).saturating_add(FILES).min(files / 2);
    let places = usize::try_from((files - others) / listeners).unwrap_or(usize::MAX);
    let asked = config.limits.connections;
    if asked <= places {
        return;
    }
    config.limits.connections = places;
    // The default asks for nothing: it is the most that an edge takes by itself.
    if asked == LimitsConfig::default().connections {
        tracing::info!(files, connections = places, "limits.connections follows the open file limit");
    } else {
        tracing::warn!(
            files,
            asked,
            connections = places,
            "limits.connections is lowered: the system gives this process too few files; raise its limit (LimitNOFILE= of systemd, ulimit -n)"
        );
    }
}

/// The listening sockets that whoever started this process has opened for it, as
/// systemd does (`sd_listen_fds(3)`).
fn inherited() -> Result<Vec<TcpListener>, StartError> {
    let mut handed = ListenFd::from_env();
    let sockets = (0..handed.len()).filter_map(|at| handed.take_tcp_listener(at).transpose());
    let refused = |error| StartError::Config(format!("LISTEN_FDS: {error}; only TCP sockets can be handed in"));
    sockets.collect::<io::Result<_>>().map_err(refused)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Access lines go to standard output, from a thread of their own; what is
/// returned writes the last of them when it is dropped.
fn write_lines(server: &mut Server, log: &LogConfig) -> Option<WorkerGuard> {
    if !log.access {
        return None;
    }
    let format = if is_text(log.format, &io::stdout()) { Format::Text } else { Format::Json };
    let (lines, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES)
        .finish(BufWriter::with_capacity(64 * 1024, io::stdout()));
    server.log_to(format, lines);
    Some(guard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    #[test]
    fn clients_leave_files_to_others() {
        for (files, connections, requests, [alone, in_a_cluster]) in [
            (1 << 20, 16_384, 1024, [16_384, 16_384]),
            (u64::MAX, 16_384, 1024, [16_384, 16_384]),
            (36_352, 16_384, 1024, [16_384, 16_384]),
            (20_000, 16_384, 1024, [16_384, 8208]),
            (20_000, 16_384, 4096, [10_272, 5136]),
            (4096, 16_384, 1024, [2048, 1024]),
            (1024, 16_384, 1024, [512, 256]),
            (64, 16_384, usize::MAX, [32, 16]),
            (1024, 100, 1024, [100, 100]),
        ] {
            for (cluster, fitting) in [(None, alone), (Some(ClusterConfig::default()), in_a_cluster)] {
                let mut config = Config { cluster, ..Config::default() };
                (config.limits.connections, config.origin.requests) = (connections, requests);
                fit(&mut config, files);
                assert_eq!(config.limits.connections, fitting, "of {files}");
            }
        }
    }
}
