//! `peerage run`: runs one edge.

use std::io::{self, BufWriter};
use std::net::TcpListener;
use std::path::PathBuf;
use std::pin::pin;

use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::log::{LINES, init_log, is_text};
use super::process::{input_ends, runtime, write_pid};
use crate::config::{Config, LimitsConfig, LogConfig};
use crate::error::StartError;
use crate::observe::access::Format;
use crate::server::{Reloading, Server};

/// Open files for requests to peers, for streaming responses of the origin, for the admin
/// listener and for the process itself.
const RESERVED_FILES: u64 = 1536;

#[derive(clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArguments,
    /// Pulls the most requested keys that this edge owns from its peers, before it
    /// reports ready
    #[arg(long)]
    warm: bool,
    /// Writes the process id to FILE once the edge listens
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Ends when standard input ends
    #[arg(long, hide = true)]
    while_input: bool,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut config = self.config.load_edge()?;
        let (lost, throttle, _log) = init_log(&config.log);
        limit_connections(&mut config, raise_file_limit());
        let runtime = runtime(config.edge.threads)?;
        drop(runtime.spawn(throttle.clone().report_periodically()));
        let ended = runtime.block_on(async {
            let (name, origin, log) = (config.edge.name.clone(), config.origin.url.clone(), config.log.clone());
            // Installed before the listeners exist.
            let signals = Signals::new()?;
            let mut server = Server::bind_on(config, inherited_sockets()?).await?;
            server.count_lost(lost);
            let _access_log = start_access_log(&mut server, &log);
            if self.warm {
                server.start_warm();
            }
            write_pid(self.pid_file.as_deref())?;
            let addresses = server.addresses();
            let peers = addresses.peers.map(|address| address.to_string());
            let tls = addresses.tls.map(|address| address.to_string());
            tracing::info!(%name, clients = %addresses.clients, tls, peers, admin = %addresses.admin, %origin, "serving");
            let reloading = server.reloading();
            Box::pin(server.run(self.until_shutdown(signals, reloading))).await?;
            throttle.report();
            tracing::info!("ended");
            Ok(())
        });
        // A blocked read of standard input must not delay the exit.
        runtime.shutdown_background();
        ended
    }

    /// Resolves on the first SIGTERM or SIGINT; reloads the configuration on SIGHUP.
    async fn until_shutdown(&self, mut signals: Signals, mut reloading: Reloading) {
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
        let limited = |mut config| {
            limit_connections(&mut config, raise_file_limit());
            config
        };
        match self.config.load_edge().map(limited).and_then(|config| reloading.reload(config)) {
            Ok(restart) if restart.is_empty() => tracing::info!("configuration reloaded"),
            Ok(restart) => tracing::warn!(
                changed = restart.join(", "),
                "configuration reloaded; changes in these tables need a restart"
            ),
            Err(error) => tracing::error!(%error, "configuration rejected, the running one stays"),
        }
    }
}

/// Raises this process's limit of open files to its maximum, for each connection is an open
/// file. Returns the limit.
fn raise_file_limit() -> u64 {
    let mut files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, ..files };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        files = raised;
    }
    files.current.unwrap_or(u64::MAX)
}

/// Lowers `limits.connections` so that clients leave files for the origin, the peers and the
/// admin listener, out of `files`. Each listener may have `limits.connections` connections, and
/// `origin.requests` applies twice: to requests that wait, and to uploads.
fn limit_connections(config: &mut Config, files: u64) {
    let for_clients = (config.edge.listen.len() + config.tls.listen.len()) as u64;
    let listeners = for_clients + u64::from(config.cluster.is_some());
    let reserved = (config.origin.requests as u64).saturating_mul(2).saturating_add(RESERVED_FILES).min(files / 2);
    let available = usize::try_from((files - reserved) / listeners).unwrap_or(usize::MAX);
    let configured = config.limits.connections;
    if configured <= available {
        return;
    }
    config.limits.connections = available;
    // The default is an upper bound, not a request of the operator.
    if configured == LimitsConfig::default().connections {
        tracing::info!(files, connections = available, "limits.connections lowered to the open file limit");
    } else {
        tracing::warn!(
            files,
            configured,
            connections = available,
            "limits.connections lowered: open file limit too low, raise it (LimitNOFILE= in systemd, ulimit -n)"
        );
    }
}

/// Returns the listening sockets that the parent process passed on, as systemd does
/// (`sd_listen_fds(3)`).
fn inherited_sockets() -> Result<Vec<TcpListener>, StartError> {
    let mut inherited = ListenFd::from_env();
    let sockets = (0..inherited.len()).filter_map(|at| inherited.take_tcp_listener(at).transpose());
    let invalid =
        |error| StartError::Config(format!("invalid socket in LISTEN_FDS: {error} (expected listening TCP sockets)"));
    sockets.collect::<io::Result<_>>().map_err(invalid)
}

/// The signals that an edge handles.
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

/// Writes the access log to standard output, from a thread of its own. The returned guard
/// writes the last lines when it is dropped.
fn start_access_log(server: &mut Server, log: &LogConfig) -> Option<WorkerGuard> {
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
    fn connections_are_limited_by_open_files() {
        for (files, connections, requests, [single, clustered]) in [
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
            for (cluster, expected) in [(None, single), (Some(ClusterConfig::default()), clustered)] {
                let mut config = Config { cluster, ..Config::default() };
                (config.limits.connections, config.origin.requests) = (connections, requests);
                limit_connections(&mut config, files);
                assert_eq!(config.limits.connections, expected, "of {files}");
            }
        }
    }
}
