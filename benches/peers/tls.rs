//! Hits and handshakes over TLS 1.3, with one certificate and one cipher for all servers.

use std::time::Duration;

use super::caches::{Cache, folder};
use super::certificate::NAME;
use super::load::{Speed, cost, h2load, wrk};
use super::origin::path;
use super::process::Process;
use super::report::{Figures, Goal, Results};
use super::tls_client::{Kind, TlsClient, config, handshakes};

/// A load, with its goal: Peerage's CPU time divided by nginx's.
struct Load {
    name: &'static str,
    how: How,
    goal: f64,
}

/// The requests of a load.
enum How {
    /// Over HTTP/1.1, for a body of that size, on that many connections.
    Http1(usize, usize),
    Http2(usize),
    Handshakes(Kind),
}

const LOADS: [Load; 7] = [
    Load { name: "1 KiB, TLS", how: How::Http1(super::SIZES[0], 32), goal: 0.65 },
    Load { name: "1 KiB, TLS, HTTP/2", how: How::Http2(super::SIZES[0]), goal: 0.65 },
    Load { name: "256 KiB, TLS", how: How::Http1(super::SIZES[2], 32), goal: 1.0 },
    Load { name: "256 KiB, TLS, HTTP/2", how: How::Http2(super::SIZES[2]), goal: 1.0 },
    Load { name: "10 MiB, TLS", how: How::Http1(super::SIZES[3], 4), goal: 1.0 },
    Load { name: "full handshake", how: How::Handshakes(Kind::Full), goal: 0.6 },
    Load { name: "resumed handshake", how: How::Handshakes(Kind::Resumed), goal: 0.5 },
];

/// Measures every server that has TLS, in each round one after another.
pub fn measure(
    results: &mut Results,
    servers: &[(Cache, Process)],
    (rounds, time): (usize, Duration),
    progress: fn(&str, &str, usize, usize),
) {
    let (folder, client) = (folder(), config(Kind::Full));
    for (_, server) in servers {
        if let Some(address) = server.tls {
            // Over TLS a response may be stored anew, since the scheme is part of its key.
            for size in super::SIZES {
                let mut client = TlsClient::connect(address, &client);
                client.get(&path(0, size), size);
                client.get(&path(0, size), size);
            }
        }
    }
    for load in &LOADS {
        for round in 1..=rounds {
            for (cache, server) in servers {
                let Some(address) = server.tls else { continue };
                progress(load.name, cache.name(), round, rounds);
                let site = format!("https://{NAME}:{}", address.port());
                let figures = cost(&[server], || match load.how {
                    How::Http1(size, connections) => wrk(&folder, &site, &[path(0, size)], connections, time),
                    How::Http2(size) => h2load(&site, &path(0, size), time),
                    How::Handshakes(kind) => Speed::of(handshakes(address, kind, time), time),
                });
                results.rounds(load.name, cache.name()).push(figures);
            }
        }
    }
}

pub fn goals(results: &Results) -> impl Iterator<Item = Goal> {
    let spent = |figures: &Figures| figures.cpu_microseconds;
    let ratios = move |load: &Load| results.ratios(load.name, "peerage", "nginx", spent);
    LOADS.iter().map(move |load| Goal::new(&format!("{}: CPU to nginx's", load.name), load.goal, &ratios(load)))
}
