//! Memory of an edge's process, measured from outside:
//!
//! 1. The cost of an object besides its body: resident memory of a million objects of 1 KiB, less
//!    the bodies; and the CPU time of a hit among them.
//! 2. Resident memory over `cache.memory`, sampled while objects of all sizes evict one another:
//!    10 minutes; `-- --quick`: one.
//!
//! The edge is a child process with this program's allocator. Its origin runs in the same process,
//! stores nothing, and makes each asset from its name.

#![allow(clippy::cast_precision_loss)] // counts are far below 2^52

use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Response};
use peerage::config::Size;
use peerage::{Call, Config, Error, Origin, Reply, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use child::Child;

#[path = "../shared/child.rs"]
mod child;
#[path = "../shared/spent.rs"]
mod spent;

const OBJECTS: u64 = 1_000_000;
const OBJECT: usize = 1024;
const MIB: u64 = 1024 * 1024;
/// Enough memory for all objects in the main tier.
const ROOMY: u64 = 6144 * MIB;
/// Memory for the churn, small enough to be replaced many times.
const TIGHT: u64 = 512 * MIB;
const CONNECTIONS: u64 = 16;
/// Requests that a connection sends at once.
const DEPTH: u64 = 32;
/// Bytes that a client reads at once.
const READ: usize = 256 * 1024;
/// The headers of a static file server, besides Content-Length.
const HEADERS: [(&str, &str); 7] = [
    ("server", "nginx/1.22.1"),
    ("date", "Sun, 22 Nov 2026 12:00:00 GMT"),
    ("content-type", "application/octet-stream"),
    ("last-modified", "Sat, 21 Nov 2026 12:00:00 GMT"),
    ("etag", "\"6740d5a0-400\""),
    ("accept-ranges", "bytes"),
    // The last one is in every measurement: without a lifetime nothing is stored.
    ("cache-control", "public, max-age=31536000, immutable"),
];

/// Measures edges with this program's allocator, which is named `allocator`. Each of `settings` is
/// an environment variable of that allocator.
pub fn measure(allocator: &str, settings: &[Option<(&str, &str)>]) {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--serve") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(serve(arguments[at + 1].parse().unwrap(), arguments[at + 2].parse().unwrap()));
    }
    // `cargo test` runs benches with this argument; there is nothing to test.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let churn = Duration::from_secs(if arguments.iter().any(|argument| argument == "--quick") { 60 } else { 600 });
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for &setting in settings {
        let name = setting.map_or(allocator.to_owned(), |(name, value)| format!("{allocator}, {name}={value}"));
        for headers in [HEADERS.len(), 1] {
            let edge = Edge::start(setting, ROOMY, headers);
            println!("{name}: {}", clients.block_on(cost_of_an_object(&edge, headers)));
        }
        let edge = Edge::start(setting, TIGHT, HEADERS.len());
        println!("{name}: {}", clients.block_on(under_churn(&edge, churn)));
    }
}

/// An origin that makes each asset from the length in its name, with this many headers.
struct GeneratedOrigin(usize);

impl Origin for GeneratedOrigin {
    fn fetch(&self, call: Call) -> BoxFuture<'_, Result<Reply, Error>> {
        let length = usize::from_str_radix(&call.request.uri().path()["/asset-".len()..][..8], 16).unwrap();
        let mut response = Response::new(Bytes::from(vec![b'x'; length]).into());
        response.headers_mut().insert("content-length", length.into());
        for (name, value) in &HEADERS[HEADERS.len() - self.0..] {
            // As over a connection: slices of the bytes that were read.
            let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value.as_bytes())).unwrap();
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
        Box::pin(std::future::ready(Ok(response.into())))
    }
}

fn path(length: usize, number: u64) -> String {
    format!("/asset-{length:08x}{number:08x}.bin")
}

async fn serve(memory: u64, headers: usize) {
    let mut config = Config::default();
    config.edge.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = "127.0.0.1:0".parse().unwrap();
    config.cache.memory = Size(memory);
    let server = Server::bind_with(config, GeneratedOrigin(headers)).await.unwrap();
    println!("{} {}", server.addresses().clients, server.addresses().admin);
    server.run(std::future::pending()).await.unwrap();
}

struct Edge {
    child: Child,
    clients: SocketAddr,
    admin: SocketAddr,
}

impl Edge {
    fn start(setting: Option<(&str, &str)>, memory: u64, headers: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--serve", &memory.to_string(), &headers.to_string()]).envs(setting);
        let (child, addresses) = Child::start(command);
        let (clients, admin) = addresses.split_once(' ').unwrap();
        Self { child, clients: clients.parse().unwrap(), admin: admin.parse().unwrap() }
    }

    /// Returns the resident memory in bytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Returns the value of a metric.
    async fn metric(&self, name: &str) -> u64 {
        let mut client = Client::connect(self.admin).await;
        let text = client.get_all(std::iter::once("/metrics".to_owned())).await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().parse().unwrap_or_else(|_| panic!("no metric {name}"))
    }

    /// Requests `paths` over all connections at once.
    async fn ask(&self, paths: fn(u64) -> String, numbers: Range<u64>) {
        let share = (numbers.end - numbers.start) / CONNECTIONS;
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|i| {
                let (address, first) = (self.clients, numbers.start + i * share);
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    for at in (first..first + share).step_by(usize::try_from(DEPTH).unwrap()) {
                        client.get_all((at..(at + DEPTH).min(first + share)).map(paths)).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }
}

/// A connection that is kept open, with the bytes that were read ahead.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends all requests at once, and reads the responses. Returns the last body.
    async fn get_all(&mut self, paths: impl Iterator<Item = String>) -> String {
        let requests: Vec<_> = paths.map(|path| format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")).collect();
        self.stream.write_all(requests.concat().as_bytes()).await.unwrap();
        let mut last = Vec::new();
        for _ in requests {
            last = self.answer().await;
        }
        String::from_utf8(last).unwrap()
    }

    async fn answer(&mut self) -> Vec<u8> {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.read().await,
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let whole = end + length.parse::<usize>().unwrap();
        while self.buffer.len() < whole {
            self.read().await;
        }
        let rest = self.buffer.split_off(whole);
        let mut answer = std::mem::replace(&mut self.buffer, rest);
        answer.split_off(end)
    }

    async fn read(&mut self) {
        self.buffer.reserve(READ);
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert!(read > 0, "the edge closed the connection");
    }
}

async fn cost_of_an_object(edge: &Edge, headers: usize) -> String {
    let object: fn(u64) -> String = |number| path(OBJECT, number);
    // Memory that is in use from the beginning, such as tables and buffers, does not count.
    edge.ask(object, OBJECTS..OBJECTS + 10 * CONNECTIONS).await;
    let before = edge.resident();
    edge.ask(object, 0..OBJECTS).await;
    let each = (edge.resident() - before) as f64 / OBJECTS as f64;
    let objects = edge.metric("peerage_cache_objects{tier=\"main\"}").await;
    assert_eq!(objects, OBJECTS + 10 * CONNECTIONS, "not all of them were stored");
    let counted = edge.metric("peerage_cache_bytes{tier=\"main\"}").await as f64 / objects as f64;
    let (hits, before) = (200_000, edge.child.cpu());
    // Far apart, as real requests are.
    edge.ask(|number| path(OBJECT, number * 7_919 % OBJECTS), 0..hits).await;
    let hit = edge.child.cpu().saturating_sub(before).as_secs_f64() * 1e6 / hits as f64;
    format!(
        "{OBJECTS} objects of 1 KiB with {} headers of the origin: {:.0} B each besides the body (accounted: {:.0} B); \
          a hit {hit:.2} us of CPU, {DEPTH} pipelined",
        headers + 1,
        each - OBJECT as f64,
        counted - OBJECT as f64
    )
}

/// Ranges of sizes, as exponents of 2, one after another: the memory that one phase frees does not
/// fit the next.
const PHASES: [(f64, f64); 4] = [(8.0, 14.0), (15.0, 20.0), (8.0, 12.0), (8.0, 21.0)];
const PHASE: Duration = Duration::from_secs(5);

async fn under_churn(edge: &Edge, time: Duration) -> String {
    let began = Instant::now();
    let tasks: Vec<_> = (0..CONNECTIONS).map(|i| tokio::spawn(churn(edge.clients, i, began, time))).collect();
    let mut samples = Vec::new();
    while began.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(250)).await;
        samples.push(edge.resident() as f64 / TIGHT as f64);
    }
    let (mut requests, mut bytes) = (0, 0);
    for task in tasks {
        let (asked, got) = task.await.unwrap();
        (requests, bytes) = (requests + asked, bytes + got);
    }
    let counted = edge.metric("peerage_memory_used_bytes").await as f64 / TIGHT as f64;
    let most = samples.iter().copied().fold(0.0, f64::max);
    let tail = &samples[samples.len() / 2..];
    let mean = tail.iter().sum::<f64>() / tail.len() as f64;
    format!(
        "{requests} requests, {} GiB in {time:?} through {} MiB: resident over cache.memory at most {most:.3}, \
         {mean:.3} in the second half, {:.3} at the end (accounted: {counted:.3})",
        bytes >> 30,
        TIGHT / MIB,
        edge.resident() as f64 / TIGHT as f64
    )
}

/// Requests new objects, and as often one of a few that repeat. Returns the number of requests and
/// bytes.
async fn churn(address: SocketAddr, client: u64, began: Instant, time: Duration) -> (u64, u64) {
    let mut connection = Client::connect(address).await;
    let (mut requests, mut bytes) = (0, 0);
    while began.elapsed() < time {
        let phase = PHASES[usize::try_from(began.elapsed().as_secs() / PHASE.as_secs()).unwrap() % PHASES.len()];
        let number = client << 27 | requests;
        let favourite = requests % 2 == 0;
        let path = if favourite {
            let favourite = mix(requests) % 1000;
            path(length(favourite, (8.0, 18.0)), favourite)
        } else {
            path(length(number, phase), number)
        };
        bytes += connection.get_all(std::iter::once(path)).await.len() as u64;
        requests += 1;
    }
    (requests, bytes)
}

/// Returns a length that depends on `number`, with a uniform logarithm between those of `range`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below 2^21
fn length(number: u64, range: (f64, f64)) -> usize {
    let part = (mix(number) >> 11) as f64 / (1_u64 << 53) as f64;
    (range.0 + part * (range.1 - range.0)).exp2() as usize
}

/// The finalizer of `SplitMix64`.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
