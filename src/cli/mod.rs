//! The commands, a file for each.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, Given, LogConfig, LogFormat};
use crate::error::{RunError, StartError};
use crate::upstream::{DEFAULT_LIFETIME, Timeouts};
use log::Throttle;

mod contents;
mod demo;
mod log;
mod manifest;
mod origin;
mod owner;
mod peers;
mod publish;
mod route;
mod run;
mod validate;
mod verify;

/// What was asked about is not as it should be.
const DISAGREES: u8 = 1;
/// Bad usage, or a bad configuration.
const USAGE: u8 = 64;
/// A port, or a service that is needed, cannot be had.
const UNAVAILABLE: u8 = 69;
/// A fault of the program's own.
const SOFTWARE: u8 = 70;

/// How long a command waits for a server: to have a connection, and between two
/// pieces of an answer.
const PATIENCE: Timeouts =
    Timeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(30), lifetime: DEFAULT_LIFETIME };
/// How long a command waits for the first byte of an answer.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// An HTTP caching reverse proxy whose edges act as one cache.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true, subcommand_required = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  peerage demo                                a slow origin and three edges, to play with
  peerage run                                 one edge, as config.toml in this folder says
  peerage run --set origin.url=http://10.0.0.9:8080
  PEERAGE_CACHE__MEMORY=2GiB peerage run
  peerage owner /logo-0492830483.png          which edge owns it, and who comes next
  peerage route /assets/index-BxYz12Ab.js     which rules it meets, and why
  peerage peers                               who is alive, and what each owns
  peerage publish site --into http://127.0.0.1:9000
  peerage verify http://127.0.0.1:8001/logo-3c90fca58bac4755.png

Exit codes: 0 good, 1 what `verify` was asked about is wrong, 64 bad usage or
configuration, 69 a port or a service cannot be had, 70 a fault of its own.";

#[derive(Subcommand)]
enum Command {
    /// Runs one edge
    ///
    /// SIGTERM and SIGINT let what is under way end, for edge.drain at most; a
    /// second one ends at once. SIGHUP reads the configuration again.
    Run(run::Run),
    /// Runs a slow origin and three edges on loopback, to play with
    Demo(demo::Demo),
    /// Serves a folder as a development origin
    Origin(origin::OriginCommand),
    /// Says whether the configuration is good, and if not, which key is wrong
    Validate(validate::Validate),
    /// Prints the peers in rank for each path: the owner, then its successors
    Owner(owner::Owner),
    /// Prints the rules that a URL meets, its key, its owner and its origin
    ///
    /// It goes by the configuration alone: no edge need run.
    Route(route::Route),
    /// Prints the members of the cluster, as the edge that runs here sees them
    Peers(peers::Peers),
    /// Copies a folder's files under names that hold a hash of their contents
    ///
    /// img/logo.png becomes img/logo-HASH.png, app.min.js app.min-HASH.js and
    /// LICENSE LICENSE-HASH, where HASH is the first 16 hexadecimal digits of
    /// the contents' SHA-256; a name that holds its own hash stays as it is. The
    /// contents stay as they are too, so pages go on naming what they named.
    ///
    /// manifest.json is stored last. It lists for each file its published name,
    /// digest, size and `integrity` for HTML; it replaces the one that is there.
    ///
    /// What has its name and length there already is not stored again. Hidden
    /// files and folders are skipped, and said to be; so are links that lead out
    /// of the folder or to another folder, and whatever is no file.
    Publish(publish::Publish),
    /// Says whether names and contents agree
    ///
    /// What a name says of its contents is for the `immutable` rules of the
    /// configuration to tell; without one, for the default rules and those by
    /// which `peerage publish` names. A file's name is the path as given.
    ///
    /// A line each: `ok`; `WRONG`; `unknown` if no rule tells; `failed` if the
    /// contents cannot be had whole. The exit code is 1 if one is WRONG, or if
    /// none can be told; else 69 or 64 if one has failed; else 0.
    Verify(verify::Verify),
}

/// Where the configuration is.
#[derive(clap::Args)]
struct ConfigArguments {
    /// The file; without it, config.toml in this folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, as in `--set origin.url=http://127.0.0.1:9000`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArguments {
    /// The configuration of an edge, which names its origin.
    fn load_edge(&self) -> Result<Config, StartError> {
        self.read()?.edge_config()
    }

    /// The configuration, for a command that asks no origin.
    fn load(&self) -> Result<Config, StartError> {
        self.read()?.config()
    }

    fn read(&self) -> Result<Given, StartError> {
        let file = self.config.clone().unwrap_or_else(|| PathBuf::from("config.toml"));
        if self.config.is_none() && !file.exists() {
            let text = "there is no config.toml in this folder; name a file with --config, or see `peerage demo`";
            return Err(StartError::Config(text.to_owned()));
        }
        Given::read(Some(&file), &self.set)
    }

    /// As [`Self::load`]; `None` if nothing is said and there is no file.
    fn load_if_any(&self) -> Result<Option<Config>, StartError> {
        let nothing = self.config.is_none() && self.set.is_empty() && !PathBuf::from("config.toml").exists();
        if nothing { Ok(None) } else { self.load().map(Some) }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output, and are no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let ended = match arguments.command {
        Command::Run(run) => run.run(),
        Command::Demo(demo) => demo.run(),
        Command::Origin(origin) => origin.run(),
        Command::Validate(validate) => validate.run(),
        Command::Owner(owner) => owner.run(),
        Command::Route(route) => route.run(),
        Command::Peers(peers) => peers.run(),
        Command::Publish(publish) => publish.run(),
        Command::Verify(verify) => verify.run(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "peerage: {error}");
            ExitCode::from(error.code())
        }
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Disagrees(String),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{0}")]
    Own(#[from] io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Start(StartError::Config(_)) | Self::Usage(_) => USAGE,
            Self::Start(StartError::Listen { .. }) | Self::Unavailable(_) => UNAVAILABLE,
            Self::Disagrees(_) => DISAGREES,
            Self::Run(_) | Self::Own(_) => SOFTWARE,
        }
    }
}

/// Writes this process' id to `file`, if there is one: the sign that it listens.
fn write_pid(file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else {
        return Ok(());
    };
    std::fs::write(file, format!("{}\n", std::process::id())).map_err(|error| {
        Failure::Usage(format!(
            "--pid-file {}: cannot be written: {error}; name a file in a writable folder",
            file.display()
        ))
    })
}

/// Prints a command's result. A reader that has seen enough (`| head`) is no
/// failure.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Text for people where people look on, JSON elsewhere, unless it is said.
fn is_text(format: LogFormat, stream: &impl IsTerminal) -> bool {
    match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => stream.is_terminal(),
    }
}

/// How many lines wait to be written: a reader that stalls, or has gone, costs lines
/// and holds nobody up.
const LINES: usize = 8192;

/// Sends what happens to the process to standard error, from a thread of its own. Returns
/// the counter of lines that were lost, the filter that limits how often a line is
/// repeated, and a guard that writes the last lines when it is dropped.
fn init_log(config: &LogConfig) -> (ErrorCounter, Throttle, WorkerGuard) {
    let throttle = Throttle::new(config);
    let (lines, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(io::stderr());
    let lost = lines.error_counter();
    let log = tracing_subscriber::fmt::layer().with_writer(lines).with_target(false);
    // It would be said on standard error, and what cannot be said there panics.
    let log = log.log_internal_errors(false);
    // Set already only where a test runs two commands in one process.
    let filtered = tracing_subscriber::registry().with(throttle.clone());
    let _ = if is_text(config.format, &io::stderr()) {
        filtered.with(log.with_ansi(io::stderr().is_terminal())).try_init()
    } else {
        filtered.with(log.json().flatten_event(true)).try_init()
    };
    (lost, throttle, guard)
}

/// Resolves when standard input ends: for a child that must not outlive whoever
/// started it, and holds the other end.
async fn input_ends() {
    use tokio::io::AsyncReadExt;
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(input.read(&mut ignored).await, Ok(read) if read > 0) {}
}

/// A number of threads as tokio takes it; 0 is one for each core.
fn runtime(threads: usize) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}
