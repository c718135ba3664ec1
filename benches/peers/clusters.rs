//! Clusters: a stampede, and a long series of requests during which an owner dies.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use super::caches::Cache;
use super::clients::{Clients, Outcome};
use super::control::current;
use super::installed;
use super::nodes::{self, NODES};
use super::origin::{Origin, path};
use super::process::Process;
use super::report::{load_average, save};

const DELAY: Duration = Duration::from_millis(300);
const STAMPEDE: usize = 300;
const STAMPEDED: usize = 4 * 1024 * 1024;
/// The exponent of the Zipf distribution.
const SKEW: f64 = 0.9;

struct Plan {
    stampedes: u32,
    keys: usize,
    /// Requests per second, and the time before and after the death.
    rate: u32,
    half: Duration,
    streams: u32,
}

/// The figures of one cluster in one part of one round.
#[derive(Serialize)]
struct Measured {
    part: &'static str,
    cluster: &'static str,
    round: u32,
    requests: usize,
    origin_fetches: u64,
    failed: usize,
    /// Requests that were retried at another node because theirs died.
    moved: usize,
    first_byte_p50_milliseconds: f64,
    first_byte_p99_milliseconds: f64,
    cpu_microseconds: f64,
}

pub fn compare(quick: bool) {
    let plan = if quick {
        Plan { stampedes: 2, keys: 10_000, rate: 1000, half: Duration::from_secs(3), streams: 1 }
    } else {
        Plan { stampedes: 5, keys: 100_000, rate: 1000, half: Duration::from_secs(15), streams: 2 }
    };
    let load_before = load_average();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let caches = installed(&Cache::CLUSTERS);
    let mut parts = runtime.block_on(stampedes(&caches, &plan));
    for round in 1..=plan.streams {
        for &cache in &caches {
            progress("a stream", cache, round, plan.streams);
            parts.extend(runtime.block_on(stream(cache, &plan, round)));
        }
    }
    print(&parts, &plan, &load_before);
    save("clusters.json", &format!("{:#}\n", serde_json::json!({ "control": current(), "parts": parts })));
}

fn progress(part: &str, cache: Cache, round: u32, rounds: u32) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{part}: round {round} of {rounds}, {}", cache.name());
        let _ = std::io::stderr().flush();
    }
}

/// Clients at all nodes request the same cold asset at once. The clusters take turns.
async fn stampedes(caches: &[Cache], plan: &Plan) -> Vec<Measured> {
    let mut clusters = Vec::new();
    for &cache in caches {
        let origin = Origin::start();
        origin.delay(DELAY);
        let nodes = nodes::start(cache, origin.address);
        let clients = clients(&nodes);
        clients.connect(STAMPEDE / NODES).await;
        clusters.push((cache, origin, nodes, clients));
    }
    let mut parts = Vec::new();
    for round in 1..=plan.stampedes {
        for (cache, origin, nodes, clients) in &clusters {
            progress("a stampede", *cache, round, plan.stampedes);
            let count = Counting::start(nodes, origin);
            let mut tasks = JoinSet::new();
            for i in 0..STAMPEDE {
                let (clients, path) = (Arc::clone(clients), path(round, STAMPEDED));
                tasks.spawn(async move { clients.get(i, &path, STAMPEDED).await });
            }
            parts.push(count.end("stampede", *cache, round, tasks.join_all().await));
        }
    }
    parts
}

/// A warm cluster under a series of requests. In the middle a node is killed, and its keys move to
/// others.
async fn stream(cache: Cache, plan: &Plan, round: u32) -> [Measured; 2] {
    let origin = Origin::start();
    let mut nodes = nodes::start(cache, origin.address);
    let clients = clients(&nodes);
    warm(&clients, plan.keys).await;
    origin.delay(DELAY);
    let stream = Stream::new(plan.keys);
    let count = usize::try_from(u64::from(plan.rate) * plan.half.as_secs()).unwrap();
    let counting = Counting::start(&nodes, &origin);
    let before = paced(&clients, &stream, 0..count, plan.rate);
    let before = counting.end("before the death", cache, round, before.await.join_all().await);
    let survivors: Vec<_> = nodes.drain(1..).collect();
    let counting = Counting::start(&survivors, &origin);
    let death = async {
        // In mid-stream, so that requests die with it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut node = nodes.remove(0);
        clients.lose(0);
        tokio::task::block_in_place(|| node.kill());
    };
    let (after, ()) = tokio::join!(paced(&clients, &stream, count..2 * count, plan.rate), death);
    [before, counting.end("after it", cache, round, after.join_all().await)]
}

fn clients(nodes: &[Process]) -> Arc<Clients> {
    Arc::new(Clients::new(nodes.iter().map(|node| node.clients).collect()))
}

/// Requests every key once, the least popular first, at any node.
async fn warm(clients: &Arc<Clients>, keys: usize) {
    let mut tasks = JoinSet::new();
    for key in (0..keys).rev() {
        if tasks.len() >= 64 {
            let got = tasks.join_next().await;
            assert!(matches!(got, Some(Ok(Outcome::Whole { .. }))), "a request failed while the cluster was warmed");
        }
        let clients = Arc::clone(clients);
        tasks.spawn(async move { ask(&clients, key, random(key, 1)).await });
    }
    tasks.join_all().await;
}

/// Sends requests at a rate that does not depend on the responses.
async fn paced(
    clients: &Arc<Clients>,
    stream: &Stream,
    requests: std::ops::Range<usize>,
    rate: u32,
) -> JoinSet<Outcome> {
    let mut tasks = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    for request in requests {
        ticks.tick().await;
        let (clients, key) = (Arc::clone(clients), stream.key(request));
        tasks.spawn(async move { ask(&clients, key, random(request, 2)).await });
    }
    tasks
}

async fn ask(clients: &Clients, key: usize, choice: u64) -> Outcome {
    let size = size(key);
    clients.get(usize::try_from(choice >> 32).unwrap(), &path(u32::try_from(key).unwrap(), size), size).await
}

/// Returns a number that is the same for every cluster and in every run.
fn random(number: usize, seed: u64) -> u64 {
    xxh3_64(&[number as u64, seed].map(u64::to_le_bytes).concat())
}

/// Returns the size of a key: 50 of a hundred have 1 KiB, 30 have 4, 15 have 16, 4 have 64 and 1 has 256.
fn size(key: usize) -> usize {
    let kib = match random(key, 3) % 100 {
        0..50 => 1,
        50..80 => 4,
        80..95 => 16,
        95..99 => 64,
        _ => 256,
    };
    kib * 1024
}

/// Keys by a Zipf distribution: the first is the most popular.
struct Stream {
    /// For each key, its weight plus the weights of all keys before it.
    sums: Vec<f64>,
}

impl Stream {
    #[allow(clippy::cast_precision_loss)] // keys are few
    fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += (rank as f64).powf(-SKEW);
            sum
        };
        Self { sums: (1..=keys).map(add).collect() }
    }

    #[allow(clippy::cast_precision_loss)] // 53 bits are enough
    fn key(&self, request: usize) -> usize {
        let part = (random(request, 4) >> 11) as f64 / (1_u64 << 53) as f64;
        let sought = part * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum < sought).min(self.sums.len() - 1)
    }
}

/// The counters at the beginning of a part.
struct Counting<'a> {
    nodes: &'a [Process],
    origin: &'a Origin,
    cpu: Duration,
    asked: u64,
}

impl<'a> Counting<'a> {
    fn start(nodes: &'a [Process], origin: &'a Origin) -> Self {
        Self { nodes, origin, cpu: nodes.iter().map(Process::cpu).sum(), asked: origin.asked() }
    }

    #[allow(clippy::cast_precision_loss)] // counts are small
    fn end(&self, part: &'static str, cache: Cache, round: u32, got: Vec<Outcome>) -> Measured {
        let cpu = self.nodes.iter().map(Process::cpu).sum::<Duration>().saturating_sub(self.cpu);
        let requests = got.len();
        let mut moved = 0;
        let mut first: Vec<_> = got
            .into_iter()
            .filter_map(|got| match got {
                Outcome::Whole { first_byte, tries } => {
                    moved += usize::from(tries > 1);
                    Some(first_byte.as_secs_f64() * 1e3)
                }
                Outcome::Failed => None,
            })
            .collect();
        first.sort_by(f64::total_cmp);
        let at = |percent: usize| first.get(first.len() * percent / 100).copied().unwrap_or(f64::NAN);
        Measured {
            part,
            cluster: cache.name(),
            round,
            requests,
            origin_fetches: self.origin.asked() - self.asked,
            failed: requests - first.len(),
            moved,
            first_byte_p50_milliseconds: at(50),
            first_byte_p99_milliseconds: at(99),
            cpu_microseconds: cpu.as_secs_f64() * 1e6 / requests as f64,
        }
    }
}

fn print(parts: &[Measured], plan: &Plan, load_before: &str) {
    progress("done", Cache::Peerage, plan.streams, plan.streams);
    let count = usize::try_from(u64::from(plan.rate) * plan.half.as_secs()).unwrap();
    let stream = Stream::new(plan.keys);
    let keys: HashSet<_> = (count..2 * count).map(|request| stream.key(request)).collect();
    println!(
        "\nThree nodes and an origin with a delay of {DELAY:?}. Stampede: {STAMPEDE} clients, one cold asset of 4 MiB. \
         Stream: {} requests per second, Zipf({SKEW}) over {} keys of 1 to 256 KiB, each requested once before; one of \
         three nodes is killed after {:?}, and {} keys are requested after that. TCP's congestion control is {}. The \
         machine's load was {load_before} at the start.\n",
        plan.rate,
        plan.keys,
        plan.half,
        keys.len(),
        current()
    );
    println!(
        "| part | cluster | round | requests | origin fetches | failed | moved | first byte p50 ms | p99 ms | CPU µs a request |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    let mut ordered: Vec<_> = parts.iter().collect();
    let place =
        |part: &Measured| ["stampede", "before the death", "after it"].iter().position(|name| *name == part.part);
    ordered.sort_by_key(|part| (place(part), part.cluster, part.round));
    for part in ordered {
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {:.2} | {:.2} | {:.0} |",
            part.part,
            part.cluster,
            part.round,
            part.requests,
            part.origin_fetches,
            part.failed,
            part.moved,
            part.first_byte_p50_milliseconds,
            part.first_byte_p99_milliseconds,
            part.cpu_microseconds
        );
    }
    println!();
}
