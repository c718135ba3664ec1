//! Hits: each cache alone; all of them run, and they are measured in turn.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::caches::{Cache, folder, is_here};
use super::hop::Hop;
use super::load::{cost, h2load, wrk};
use super::origin::{Named, Origin, path, script};
use super::paced::{Client, Pace, paced};
use super::process::Process;
use super::report::{Figures, Goal, Results, load_average, save};
use super::{control, installed, plot};

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

struct Plan {
    rounds: usize,
    time: Duration,
    /// The share of its duration that the paced client gets.
    paced: f64,
}

type Servers = [(Cache, Process)];

pub fn compare(quick: bool) {
    let (rounds, paced) = if quick { (1, 0.5) } else { (9, 1.0) };
    let plan = Plan { rounds, time: Duration::from_secs(1), paced };
    let h2load = is_here("h2load", "nghttp2-client");
    if !is_here("wrk", "wrk") {
        return;
    }
    let load_before = load_average();
    let origin = Origin::start();
    let servers: Vec<_> =
        installed(&Cache::ALL).into_iter().map(|cache| (cache, cache.start(origin.address))).collect();
    for (_, server) in &servers {
        warm(server);
    }
    let hops = HOPS.map(|(load, path)| (load, Hop::start(origin.address, path)));
    let mut results = Results::default();
    for load in &LOADS {
        for round in 1..=plan.rounds {
            over_http1(&mut results, &servers, load, &plan, round);
        }
    }
    for round in 1..=plan.rounds {
        if h2load {
            over_http2(&mut results, &servers, &plan, round);
        }
        for (load, hop) in &hops {
            progress(load, "peerage", round, plan.rounds);
            let (hit, through) = hop.round(LOADS[0].connections, plan.time);
            results.rounds(load, "a hit").push(hit);
            results.rounds(load, "through a peer").push(through);
        }
    }
    report(&results, &plan, &load_before);
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
        let run = || wrk(&folder, server.clients, std::slice::from_ref(&path), load.connections, plan.time);
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
        let figures = cost(&[server], || h2load(address, &path(0, LOADS[0].size), plan.time));
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

fn report(results: &Results, plan: &Plan, load_before: &str) {
    progress("done", "", plan.rounds, plan.rounds);
    let control = control::current();
    let rates: Vec<_> = LOADS.iter().map(|load| format!("{} {}", load.rate, load.name)).collect();
    println!(
        "\nMedians of {} rounds of {:?}; each server on one processor, the load on another; requests per second of the paced \
         client: {}. TCP's congestion control is {}. The machine's load was {load_before} at the start; above 0.5, \
         latencies are not reliable.\n",
        plan.rounds,
        plan.time,
        rates.join(", "),
        control
    );
    results.print();
    let goals = goals(results);
    Goal::print(&goals);
    println!();
    let json = serde_json::json!({ "control": control, "rows": results.rows, "goals": goals });
    save(&format!("peers-{control}.json"), &format!("{json:#}\n"));
    save(&format!("peers-{control}.svg"), &plot::svg(results, &control));
}

fn goals(results: &Results) -> Vec<Goal> {
    let spent = |figures: &Figures| figures.cpu_microseconds;
    let cpu = |load: &str, other: &str, at_most: f64| {
        Goal::new(&format!("{load}: CPU to {other}'s"), at_most, &results.ratios(load, "peerage", other, spent))
    };
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
        cpu(HTTP2, "nginx", 0.8),
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
