//! The memory of idle connections: resident memory of a new server, before and after many
//! connections that made one request each.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::caches::Cache;
use super::certificate::Certificate;
use super::origin::path;
use super::paced::Client;
use super::process::Process;
use super::report::{Goal, median, shown};
use super::tls_client::{Kind, TlsClient, config};

/// The number of connections.
const CONNECTIONS: usize = 2000;
/// The number of connections before: tables and buffers of the server have their size then.
const BEFORE: usize = 100;
const SIZE: usize = 1024;

/// A kind of connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Cleartext,
    Tls,
}

/// The bytes of an idle connection of one server, in each round.
#[derive(Serialize)]
pub struct Idle {
    connection: &'static str,
    server: &'static str,
    bytes: Vec<f64>,
}

/// Measures the servers in turn.
pub fn measure(caches: &[Cache], certificate: &Certificate, origin: SocketAddr, rounds: usize) -> Vec<Idle> {
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: files.maximum, ..files });
    let mut measured = Vec::new();
    for (transport, connection) in [(Transport::Cleartext, "cleartext"), (Transport::Tls, "TLS")] {
        for &cache in caches {
            let bytes = (0..rounds).map(|_| of_one(&cache.start(origin, certificate), transport)).collect();
            measured.push(Idle { connection, server: cache.name(), bytes });
        }
    }
    measured
}

/// Returns the resident bytes of an idle connection.
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn of_one(server: &Process, transport: Transport) -> f64 {
    let path = path(0, SIZE);
    let mut cleartext = Vec::new();
    let mut tls = Vec::new();
    let config = config(Kind::Full);
    let mut open = |count: usize| {
        for _ in 0..count {
            match transport {
                Transport::Cleartext => {
                    let mut client = Client::connect(server.clients);
                    client.get(&path, SIZE);
                    cleartext.push(client.into_stream());
                }
                Transport::Tls => {
                    let mut client = TlsClient::connect(server.tls.unwrap(), &config);
                    client.get(&path, SIZE);
                    tls.push(client);
                }
            }
        }
        // The server has nothing to do from here on.
        std::thread::sleep(Duration::from_millis(200));
        server.resident()
    };
    let before = open(BEFORE);
    let after = open(CONNECTIONS);
    after.saturating_sub(before) as f64 / CONNECTIONS as f64
}

/// Prints the figures as Markdown.
pub fn print(measured: &[Idle]) {
    println!(
        "\n| resident memory of an idle connection, after a request | server | bytes | least to most |\n|---|---|---:|---:|"
    );
    for Idle { connection, server, bytes } in measured {
        let least = bytes.iter().copied().reduce(f64::min);
        let most = bytes.iter().copied().reduce(f64::max);
        let middle = median(bytes.iter().copied());
        println!("| {connection} | {server} | {} | {} to {} |", shown(middle, 0), shown(least, 0), shown(most, 0));
    }
}

/// Returns the upper bounds of Peerage's figures, in KiB.
pub fn goals(measured: &[Idle]) -> Vec<Goal> {
    let goal = |transport: &str, at_most: f64| {
        let found = measured.iter().find(|idle| idle.connection == transport && idle.server == Cache::Peerage.name());
        let kib: Vec<_> = found.iter().flat_map(|idle| &idle.bytes).map(|bytes| bytes / 1024.0).collect();
        Goal::new(&format!("resident KiB of an idle connection, {transport}"), at_most, &kib)
    };
    vec![goal("cleartext", 5000.0 / 1024.0), goal("TLS", 20.0)]
}
