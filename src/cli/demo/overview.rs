//! The overview that the demo prints when all its processes listen.

use std::fmt::Write as _;

use super::credentials::Credentials;
use super::ports::Ports;
use super::process::{Process, shown};
use super::stage::{SITE, Stage};

/// Returns the overview. `processes` are the origin and the edges, in the order of their numbers.
pub(super) fn overview(stage: &Stage, processes: &[Process]) -> String {
    let mut text = String::from("\n");
    list(&mut text, stage, processes);
    suggest(&mut text, stage, &processes[1..]);
    text
}

fn list(text: &mut String, stage: &Stage, processes: &[Process]) {
    let (ports, delay, origin) = (stage.ports, stage.delay, pid(&processes[0]));
    let _ =
        writeln!(text, "origin  http://127.0.0.1:{}  delays each response by {delay}  pid {origin}", ports.origin());
    for (number, process) in (1..).zip(&processes[1..]) {
        let https = match stage.credentials {
            Some(_) => format!("https://localhost:{}  ", ports.https(number)),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "{}  {https}http://127.0.0.1:{}  peers at 127.0.0.1:{}  http://127.0.0.1:{}/metrics  pid {}",
            process.name,
            ports.http(number),
            ports.peers(number),
            ports.admin(number),
            pid(process)
        );
    }
}

fn suggest(text: &mut String, stage: &Stage, edges: &[Process]) {
    let (asset, _) = SITE[0];
    let _ = writeln!(text, "\nTry, in another terminal:");
    for (number, _) in (1..).zip(edges) {
        let address = address(stage.ports, number, stage.credentials.as_ref());
        let _ = writeln!(text, "  curl -s -o /dev/null -D - {address}/{asset}");
    }
    if let Some(Credentials { authority, .. }) = &stage.credentials {
        let (authority, port) = (authority.display(), stage.ports.https(1));
        let _ = writeln!(
            text,
            "In a browser that trusts the authority {authority}:\n  https://localhost:{port}/index.html"
        );
    }
    let (program, configuration) = (shown(&stage.program), stage.folder.join("edge-1.toml"));
    let _ =
        writeln!(text, "Find the edge that owns it:\n  {program} owner --config {} /{asset}", configuration.display());
    let _ = writeln!(text, "Kill an edge, and start it again:\n  kill -9 {}\n  {}", pid(&edges[0]), edges[0].command);
    let _ = writeln!(text, "Ctrl-C ends all processes. Below, each process prints a line for each request.\n");
}

/// Returns the address of an edge for curl, after the option that it needs.
fn address(ports: Ports, number: u16, credentials: Option<&Credentials>) -> String {
    match credentials {
        None => format!("http://127.0.0.1:{}", ports.http(number)),
        Some(Credentials { authority, .. }) => {
            format!("--cacert {} https://localhost:{}", authority.display(), ports.https(number))
        }
    }
}

fn pid(process: &Process) -> String {
    process.child.id().map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}
