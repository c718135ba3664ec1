//! Hits: each cache alone; all of them run, and they are measured in turn.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::caches::{Cache, folder, is_here};
use super::certificate::Certificate;
use super::hop::Hop;
use super::idle::{self, Idle};
use super::load::{cost, h2load, wrk};
use super::origin::{Named, Origin, path, script};
use super::paced::{Client, Pace, paced};
use super::process::Process;
use super::report::{Figures, Goal, Results, load_average, save};
use super::{control, installed, plot, tls};

/// A body, and the load of requests for it.
struct Load {
    name: &'static str,
    size: usize,
    /// Connections of wrk. Few for the large body: responses in transit at the end cost CPU time and
    /// are not counted.
    connections: usize,
    /// Requests per second of the paced client, far below the capacity of the slowest server.
    rate: f64,
    /// Duration in seconds. Of 100 requests or fewer, the 99th percentile is the slowest.
    paced: f64,
}

const LOADS: [Load; 4] = [
    Load { name: "1 KiB", size: super::SIZES[0], connections: 32, rate: 3000.0, paced: 1.0 },
    Load { name: "16 KiB", size: super::SIZES[1], connections: 32, rate: 2000.0, paced: 1.0 },
    Load { name: "256 KiB", size: super::SIZES[2], connections: 32, rate: 500.0, paced: 1.0 },
    Load { name: "10 MiB", size: super::SIZES[3], connections: 4, rate: 20.0, paced: 6.0 },
];
const HTTP2: &str = "1 KiB, HTTP/2";
const HOP: &str = "1 KiB, a peer has it";
const CODED_HOP: &str = "1 KiB of gzip, a peer has it";
/// The names of the bodies in each.
const HOPS: [(&str, Named); 2] = [(HOP, path), (CODED_HOP, script)];
/// The caches that the goals compare with.
const OTHERS: [&str; 3] = ["nginx", "varnish", "traffic server"];

/// The rows of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Those over TLS, HTTP/2 in cleartext, and idle connections.
    Tls,
}

struct Plan {
    rows: Rows,
    rounds: usize,
    time: Duration,
    /// The share of its duration that the paced client gets.
    paced: f64,
}

type Servers = [(Cache, Process)];

pub fn compare(quick: bool, rows: Rows) {
    let (rounds, paced) = if quick { (1, 0.5) } else { (9, 1.0) };
    let plan = Plan { rows, rounds, time: Duration::from_secs(1), paced };
    // Both are evaluated, so that both are named if they are missing.
    if !is_here("wrk", "wrk") | !is_here("h2load", "nghttp2-client") {
        return;
    }
    let load_before = load_average();
    let origin = Origin::start();
    let certificate = Certificate::new();
    let caches: &[Cache] = match rows {
        Rows::All => &Cache::ALL,
        Rows::Tls => &[Cache::Hyper, Cache::Peerage, Cache::Nginx],
    };
    let servers: Vec<_> =
        installed(caches).into_iter().map(|cache| (cache, cache.start(origin.address, &certificate))).collect();
    for (_, server) in &servers {
        warm(server);
    }
    let mut results = Results::default();
    if rows == Rows::All {
        in_cleartext(&mut results, &servers, origin.address, &plan);
    }
    for round in 1..=plan.rounds {
        over_http2(&mut results, &servers, &plan, round);
    }
    tls::measure(&mut results, &servers, (plan.rounds, plan.time), progress);
    drop(servers);
    let idle = idle::measure(&installed(&Cache::WITH_TLS), &certificate, origin.address, plan.rounds.min(3));
    report(&results, &idle, &plan, &load_before);
}

/// Measures hits over HTTP/1.1, and hops through a peer.
fn in_cleartext(results: &mut Results, servers: &Servers, origin: SocketAddr, plan: &Plan) {
    for load in &LOADS {
        for round in 1..=plan.rounds {
            over_http1(results, servers, load, plan, round);
        }
    }
    let hops = HOPS.map(|(load, path)| (load, Hop::start(origin, path)));
    for round in 1..=plan.rounds {
        for (load, hop) in &hops {
            progress(load, "peerage", round, plan.rounds);
            let (hit, through) = hop.round(LOADS[0].connections, plan.time);
            results.rounds(load, "a hit").push(hit);
            results.rounds(load, "through a peer").push(through);
        }
    }
}

/// Repeats requests until even a cache that admits repeated requests only stores the responses.
fn warm(server: &Process) {
    let mut client = Client::connect(server.clients);
    for load in LOADS {
        for _ in 0..5 {
            client.get(&path(0, load.size), load.size);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn over_http1(results: &mut Results, servers: &Servers, load: &Load, plan: &Plan, round: usize) {
    let (path, folder) = (path(0, load.size), folder());
    for (cache, server) in servers {
        progress(load.name, cache.name(), round, plan.rounds);
        let run = || wrk(&folder, &server.site(), std::slice::from_ref(&path), load.connections, plan.time);
        let mut figures = cost(&[server], run);
        let pace = Pace { rate: load.rate, time: Duration::from_secs_f64(load.paced * plan.paced) };
        let (p50, p99) = paced(server.clients, &path, load.size, pace);
        (figures.paced_p50_milliseconds, figures.paced_p99_milliseconds) = (Some(p50), Some(p99));
        results.rounds(load.name, cache.name()).push(figures);
    }
}

fn over_http2(results: &mut Results, servers: &Servers, plan: &Plan, round: usize) {
    for (cache, server) in servers {
        let Some(address) = server.http2 else { continue };
        progress(HTTP2, cache.name(), round, plan.rounds);
        let figures = cost(&[server], || h2load(&format!("http://{address}"), &path(0, LOADS[0].size), plan.time));
        results.rounds(HTTP2, cache.name()).push(figures);
    }
}

/// Prints to standard error, which is separate from the table.
fn progress(load: &str, server: &str, round: usize, rounds: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{load}: round {round} of {rounds}, {server}");
        let _ = std::io::stderr().flush();
    }
}

fn report(results: &Results, idle: &[Idle], plan: &Plan, load_before: &str) {
    progress("done", "", plan.rounds, plan.rounds);
    let control = control::current();
    let rates: Vec<_> = LOADS.iter().map(|load| format!("{} {}", load.rate, load.name)).collect();
    println!(
        "\nMedians of {} rounds of {:?}; each server on one processor, the load on another; requests per second of the paced \
         client: {}. TLS is 1.3 with AES-128-GCM, X25519 and one ECDSA certificate (P-256). TCP's congestion control is {}. The machine's load was {load_before} at the start; above 0.5, \
         latencies are not reliable.\n",
        plan.rounds,
        plan.time,
        rates.join(", "),
        control
    );
    results.print();
    idle::print(idle);
    let goals = goals(results, idle, plan.rows);
    Goal::print(&goals);
    println!();
    let json = serde_json::json!({ "control": control, "rows": results.rows, "idle": idle, "goals": goals });
    let name = if plan.rows == Rows::All { "peers" } else { "tls" };
    save(&format!("{name}-{control}.json"), &format!("{json:#}\n"));
    save(&format!("{name}-{control}.svg"), &plot::svg(results, &control));
}

fn goals(results: &Results, idle: &[Idle], rows: Rows) -> Vec<Goal> {
    let mut goals = if rows == Rows::All { in_cleartext_goals(results) } else { Vec::new() };
    goals.push(cpu_goal(results, HTTP2, "nginx", 0.8));
    goals.push(cpu_goal(results, HTTP2, "bare hyper", 1.15));
    goals.extend(tls::goals(results));
    goals.extend(idle::goals(idle));
    goals
}

fn spent(figures: &Figures) -> f64 {
    figures.cpu_microseconds
}

/// Returns the goal of Peerage's CPU time divided by another server's.
fn cpu_goal(results: &Results, load: &str, other: &str, at_most: f64) -> Goal {
    Goal::new(&format!("{load}: CPU to {other}'s"), at_most, &results.ratios(load, "peerage", other, spent))
}

fn in_cleartext_goals(results: &Results) -> Vec<Goal> {
    let cpu = |load: &str, other: &str, at_most: f64| cpu_goal(results, load, other, at_most);
    let to_best = |load: &str| match results.best(load, &OTHERS, spent) {
        Some(best) => {
            let ratios = results.ratios(load, "peerage", best, spent);
            Goal::new(&format!("{load}: CPU to the best other cache's, {best}"), 1.0, &ratios)
        }
        None => Goal::new(&format!("{load}: CPU to the best other cache's"), 1.0, &[]),
    };
    let mut goals = vec![
        cpu("1 KiB", "floor", 1.25),
        cpu("1 KiB", "nginx", 0.6),
        cpu("16 KiB", "nginx", 0.85),
        to_best("256 KiB"),
        to_best("10 MiB"),
    ];
    for load in &LOADS {
        let p99 = |figures: &Figures| figures.paced_p99_milliseconds.unwrap_or(f64::NAN);
        let ratios = results.ratios(load.name, "peerage", "nginx", p99);
        goals.push(Goal::new(&format!("{}: p99 at the same rate to nginx's", load.name), 1.0, &ratios));
    }
    for (load, _) in HOPS {
        let ratios = results.ratios(load, "through a peer", "a hit", spent);
        goals.push(Goal::new(&format!("{load}: CPU of both edges to that of a hit"), 3.0, &ratios));
    }
    let hits = [CODED_HOP, HOP].map(|load| results.figures(load, "a hit", spent));
    let ratios: Vec<_> = hits[0].iter().zip(&hits[1]).map(|(coded, plain)| coded / plain).collect();
    goals.push(Goal::new("1 KiB of gzip: CPU of a hit to that of an uncoded one", 1.1, &ratios));
    goals
}
