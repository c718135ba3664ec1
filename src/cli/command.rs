//! The command line: parses the arguments and runs the command.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::demo::Demo;
use super::failure::USAGE;
use super::origin::OriginCommand;
use super::owner::Owner;
use super::peers::Peers;
use super::publish::Publish;
use super::route::Route;
use super::run::Run;
use super::validate::Validate;
use super::verify::Verify;

/// An HTTP caching reverse proxy whose edges act as one cache.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true, subcommand_required = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  peerage demo                                a slow origin and three edges, to experiment with
  peerage run                                 one edge, configured by ./config.toml
  peerage run --set origin.url=http://10.0.0.9:8080
  PEERAGE_CACHE__MEMORY=2GiB peerage run
  peerage owner /logo-0492830483.png          the owner of a path and its successors
  peerage route /assets/index-BxYz12Ab.js     the rules that match a URL, and their effect
  peerage peers                               the members of the cluster and their state
  peerage publish site --into http://127.0.0.1:9000
  peerage verify http://127.0.0.1:8001/logo-3c90fca58bac4755.png

Exit codes: 0 success, 1 `verify` found a difference, 64 bad usage or configuration,
69 a port or a needed service is unavailable, 70 internal error.";

#[derive(Subcommand)]
enum Command {
    /// Runs one edge
    ///
    /// SIGTERM and SIGINT drain: requests in progress have edge.drain to end; a second
    /// signal ends the edge at once. SIGHUP reloads the configuration.
    Run(Run),
    /// Runs a slow origin and three edges on loopback, to experiment with
    Demo(Demo),
    /// Serves a folder as a development origin
    Origin(OriginCommand),
    /// Checks the configuration, and names the key that is wrong
    Validate(Validate),
    /// Prints the peers of each path in order of rank: the owner, then its successors
    Owner(Owner),
    /// Prints the matching rules, the key, the owner and the origin of each URL
    ///
    /// The command reads only the configuration; no edge need run.
    Route(Route),
    /// Prints the members of the cluster as the running edge sees them
    Peers(Peers),
    /// Copies the files of a folder under names that hold a hash of their contents
    ///
    /// img/logo.png becomes img/logo-HASH.png, app.min.js becomes app.min-HASH.js, and
    /// LICENSE becomes LICENSE-HASH. HASH is the first 16 hexadecimal digits of the
    /// contents' SHA-256. A name that holds its own hash stays unchanged. Contents are not
    /// rewritten, so references in pages stay as they are.
    ///
    /// manifest.json is stored last, and replaces an existing one. It lists the published
    /// name, digest, size and `integrity` (for HTML) of each file.
    ///
    /// A file that already exists with the same name and length is not stored again.
    /// Skipped with a message: hidden files and folders, links that lead out of the folder
    /// or to another folder, and special files.
    Publish(Publish),
    /// Checks that names and contents match
    ///
    /// The `immutable` rules of the configuration tell the digest in a name; without a
    /// configuration, the default rules and those of `peerage publish` do. The name of a
    /// file is its path as given.
    ///
    /// Prints a line for each target: `ok`, `WRONG`, `unknown` if no rule matches, `failed`
    /// if the contents cannot be read completely. The exit code is 1 if a target is WRONG or
    /// if all are unknown; else 69 or 64 if a target failed; else 0.
    Verify(Verify),
}

/// Runs the command given by the process's arguments.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors for clap, but go to standard output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
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
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "peerage: {error}");
            ExitCode::from(error.code())
        }
    }
}
