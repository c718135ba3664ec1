//! The cost of a hit: CPU time of a whole process for each request, Peerage beside bare hyper with a
//! lookup and a `Full<Bytes>`, in pairs, in one run.
//!
//! `cargo bench --bench hit` prints a table. Each server is a process of its own with one worker
//! thread; the clients are this process, with 64 kept-alive connections on loopback.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerage::{AssetKey, Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use child::Child;

#[path = "shared/bare.rs"]
mod bare;
#[path = "shared/child.rs"]
mod child;
#[path = "shared/spent.rs"]
mod spent;

const SIZES: [usize; 3] = [1024, 16 * 1024, 256 * 1024];
const CONNECTIONS: usize = 64;
const PAIRS: usize = 7;
const ROUND: Duration = Duration::from_millis(1500);

fn path(size: usize) -> String {
    format!("/asset-{size:016x}.bin")
}

fn body(size: usize) -> Bytes {
    Bytes::from(vec![b'x'; size])
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--serve").map(|at| arguments[at + 1].as_str()) {
        Some("hyper") => one_worker().block_on(serve_hyper()),
        Some("peerage") => one_worker().block_on(serve_peerage()),
        Some(other) => panic!("no such server: {other}"),
        // `cargo test` runs benches with this argument; there is nothing to test.
        None if arguments.iter().any(|argument| argument == "--test") => {}
        None => compare(),
    }
}

fn one_worker() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn serve_hyper() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    bare::serve(listener, SIZES.map(|size| (path(size), body(size)))).await;
}

async fn serve_peerage() {
    let mut config = Config::default();
    config.edge.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = "127.0.0.1:0".parse().unwrap();
    let origin = |key: AssetKey| async move {
        let size = SIZES.into_iter().find(|&size| path(size) == key.path());
        Ok::<_, Infallible>(size.map(body))
    };
    let server = Server::bind_with(config, origin).await.unwrap();
    println!("{}", server.addresses().clients);
    server.run(std::future::pending()).await.unwrap();
}

struct Target {
    child: Child,
    address: SocketAddr,
}

impl Target {
    fn start(name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--serve", name]);
        let (child, address) = Child::start(command);
        Self { child, address: address.parse().unwrap() }
    }
}

fn compare() {
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (hyper, peerage) = (Target::start("hyper"), Target::start("peerage"));
    println!("CPU microseconds per request, median of {PAIRS} pairs of rounds of {ROUND:?}, {CONNECTIONS} connections");
    println!("{:>9}  {:>10}  {:>10}  {:>6}  (least to most)", "body", "bare hyper", "peerage", "ratio");
    for size in SIZES {
        let mut rounds = Vec::new();
        for round in 0..=PAIRS {
            let pair = (cost(&clients, &hyper, size), cost(&clients, &peerage, size));
            // The first pair warms up.
            if round > 0 {
                rounds.push(pair);
            }
            if std::io::stdout().is_terminal() {
                print!("\r{size:>9}  {round} of {PAIRS} pairs");
                let _ = std::io::stdout().flush();
            }
        }
        let ratios = sorted(rounds.iter().map(|(hyper, peerage)| peerage / hyper));
        let over = if std::io::stdout().is_terminal() { "\r" } else { "" };
        println!(
            "{over}{size:>9}  {:>10.2}  {:>10.2}  {:>6.2}  ({:.2} to {:.2})",
            sorted(rounds.iter().map(|pair| pair.0))[PAIRS / 2],
            sorted(rounds.iter().map(|pair| pair.1))[PAIRS / 2],
            ratios[PAIRS / 2],
            ratios[0],
            ratios[PAIRS - 1]
        );
    }
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// Returns the server's CPU microseconds for each request of one round.
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn cost(clients: &Runtime, target: &Target, size: usize) -> f64 {
    let before = target.child.cpu();
    let requests = clients.block_on(async {
        let until = Instant::now() + ROUND;
        let tasks: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(ask(target.address, size, until))).collect();
        let mut requests = 0;
        for task in tasks {
            requests += task.await.unwrap();
        }
        requests
    });
    target.child.cpu().saturating_sub(before).as_secs_f64() * 1e6 / requests as f64
}

/// Sends requests over one connection until the time is up. Returns their number.
async fn ask(address: SocketAddr, size: usize, until: Instant) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET {} HTTP/1.1\r\nhost: bench\r\n\r\n", path(size));
    let mut buffer = vec![0; 512 * 1024];
    let mut requests = 0;
    while Instant::now() < until {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = 0;
        let mut whole = usize::MAX;
        while read < whole {
            let more = stream.read(&mut buffer[read..]).await.unwrap();
            assert!(more > 0, "the server closed the connection");
            read += more;
            if whole == usize::MAX {
                let head = buffer[..read].windows(4).position(|window| window == b"\r\n\r\n");
                whole = head.map_or(usize::MAX, |head| head + 4 + size);
            }
        }
        assert!(read == whole && buffer.starts_with(b"HTTP/1.1 200"), "not the expected response");
        requests += 1;
    }
    requests
}
