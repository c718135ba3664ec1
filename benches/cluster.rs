//! A cluster under load: three edges and a slow origin, as processes. `cargo bench --bench cluster`
//! prints figures, and asserts the results that do not depend on the machine's speed.
//!
//! 1. Stampede: 300 clients, one cold asset of 4 MiB, origin 300 ms.
//! 2. Late joiner: 5 MB that take 5 s, and a client at another edge after 2 s.
//! 3. An object of 1 GiB through an edge with 64 MiB of memory, twenty readers,
//!    ten of them at 100 KB/s: resident memory.
//! 4. Contradicting peer lists: the slowest response of 100 requests.

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BINARY: &str = env!("CARGO_BIN_EXE_peerage");
const ORIGIN_DELAY: Duration = Duration::from_millis(300);

fn main() {
    // `cargo test` runs benches with this argument; there is nothing to test.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        stampede().await;
        late_joiner().await;
        larger_than_memory().await;
        contradiction().await;
    });
}

/// An origin in this process. It counts requests and sends at a given pace.
struct Origin {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Pace {
    length: u64,
    piece: usize,
    delay: Duration,
    between: Duration,
}

impl Origin {
    async fn start(pace: Pace) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    // The edge may close the connection at any time.
                    let _ = send(stream, pace, &counter).await;
                });
            }
        });
        Self { address, requests }
    }

    fn asked(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn send(mut stream: TcpStream, pace: Pace, counter: &AtomicUsize) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let mut read = 0;
        while !buffer[..read].ends_with(b"\r\n\r\n") {
            let more = stream.read(&mut buffer[read..]).await?;
            if more == 0 {
                return Ok(());
            }
            read += more;
        }
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pace.delay).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", pace.length).as_bytes()).await?;
        let mut at = 0;
        while at < pace.length {
            let piece = bytes_at(at, pace.piece.min(usize::try_from(pace.length - at).unwrap()));
            stream.write_all(piece).await?;
            at += piece.len() as u64;
            tokio::time::sleep(pace.between).await;
        }
    }
}

/// The period of a body in bytes. It is prime, so that chunks that may be mixed up differ.
const PERIOD: usize = 1_000_003;

/// Returns the bytes at an offset of every body, at most a million of them.
fn bytes_at(offset: u64, len: usize) -> &'static [u8] {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let once = (0..PERIOD).map(|i| u8::try_from((i / 4096 + i * 31) % 251).unwrap());
        once.clone().chain(once).collect()
    });
    let start = usize::try_from(offset % PERIOD as u64).unwrap();
    &TABLE[start..start + len]
}

struct Edge {
    child: Child,
    clients: SocketAddr,
}

impl Edge {
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts edges as processes. `peers` returns the peer ports of the edge at a position, given the
/// ports of all.
async fn edges(
    folder: &TempDir,
    origin: &Origin,
    count: usize,
    memory: &str,
    peers: impl Fn(usize, &[u16]) -> Vec<u16>,
) -> Vec<Edge> {
    let held: Vec<_> = (0..3 * count).map(|_| StdListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(held);
    let (clients, rest) = ports.split_at(count);
    let (clustered, admin) = rest.split_at(count);
    let mut edges = Vec::new();
    for i in 0..count {
        let list: Vec<_> = peers(i, clustered).iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let file = folder.path().join(format!("edge-{i}.toml"));
        let text = format!(
            "[edge]\nname = \"edge-{}\"\nlisten = \"127.0.0.1:{}\"\n[origin]\nurl = \"http://{}\"\n[cache]\n{memory}\n\
             [cluster]\nlisten = \"127.0.0.1:{}\"\npeers = [{}]\n[admin]\nlisten = \"127.0.0.1:{}\"\n[log]\naccess = false\nlevel = \"error\"\n",
            i + 1,
            clients[i],
            origin.address,
            clustered[i],
            list.join(", "),
            admin[i]
        );
        std::fs::write(&file, text).unwrap();
        let child = Command::new(BINARY).args(["run", "--config"]).arg(&file).stdin(Stdio::null()).spawn().unwrap();
        edges.push(Edge { child, clients: ([127, 0, 0, 1], clients[i]).into() });
    }
    for edge in &edges {
        while TcpStream::connect(edge.clients).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    edges
}

fn all_peers(_: usize, ports: &[u16]) -> Vec<u16> {
    ports.to_vec()
}

struct Measured {
    /// Time to the first byte of the head.
    head: Duration,
    /// Time to the first byte of the body.
    first_byte: Duration,
    total: Duration,
    bytes: u64,
    /// Bytes within 100 ms of the first byte of the body.
    at_once: u64,
}

/// Requests `path` and checks each byte. Reads at most `rate` bytes per second.
#[allow(clippy::cast_precision_loss)] // rates are small
async fn get(address: SocketAddr, path: &str, length: u64, rate: Option<u64>, stop: &AtomicBool) -> Measured {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut buffer = vec![0; if rate.is_some() { 10_000 } else { 256 * 1024 }];
    let mut head = Vec::new();
    let mut got =
        Measured { head: Duration::ZERO, first_byte: Duration::ZERO, total: Duration::ZERO, bytes: 0, at_once: 0 };
    while got.bytes < length && !stop.load(Ordering::Relaxed) {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the response broke off after {} bytes", got.bytes);
        let mut data = &buffer[..read];
        if head.is_empty() {
            got.head = began.elapsed();
        }
        if got.bytes == 0 {
            head.extend_from_slice(data);
            let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head[..end]));
            data = &head[end + 4..];
            if data.is_empty() {
                continue;
            }
            got.first_byte = began.elapsed();
        }
        assert!(data == bytes_at(got.bytes, data.len()), "wrong bytes behind {} of {path}", got.bytes);
        got.bytes += data.len() as u64;
        if began.elapsed() < got.first_byte + Duration::from_millis(100) {
            got.at_once = got.bytes;
        }
        // Reading must not delay the first byte of another client.
        tokio::task::yield_now().await;
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_secs_f64(10_000.0 / rate as f64)).await;
        }
    }
    got.total = began.elapsed();
    got
}

fn never() -> &'static AtomicBool {
    static NEVER: AtomicBool = AtomicBool::new(false);
    &NEVER
}

async fn stampede() {
    const LENGTH: u64 = 4 * 1024 * 1024;
    const ROUNDS: usize = 7;
    let folder = tempfile::tempdir().unwrap();
    let pace = Pace { length: LENGTH, piece: 256 * 1024, delay: ORIGIN_DELAY, between: Duration::ZERO };
    let origin = Origin::start(pace).await;
    let edges = edges(&folder, &origin, 3, "", all_peers).await;
    let mut medians = Vec::new();
    for round in 0..ROUNDS {
        let path = format!("/asset-{round:016x}.bin");
        let get_one = |i: usize| {
            let (address, path) = (edges[i % 3].clients, path.clone());
            tokio::spawn(async move { get(address, &path, LENGTH, None, never()).await })
        };
        let tasks: Vec<_> = (0..300).map(get_one).collect();
        let (mut head, mut first, mut total) = (Vec::new(), Vec::new(), Duration::ZERO);
        for task in tasks {
            let got = task.await.unwrap();
            head.push(got.head);
            first.push(got.first_byte);
            total = total.max(got.total);
        }
        head.sort();
        first.sort();
        medians.push((head[150], head[299], first[150], first[299], total));
        assert_eq!(origin.asked(), round + 1, "more than one origin fetch");
    }
    medians.sort();
    let (head, last_head, first, last_first, total) = medians[ROUNDS / 2];
    println!(
        "stampede: 300 clients at 3 edges, 4 MiB, origin {ORIGIN_DELAY:?}, {ROUNDS} rounds: {} origin fetches; median round: \
         first byte of the head after {head:.1?} (median) and {last_head:.1?} (last), of the body after {first:.1?} and \
         {last_first:.1?}, all bodies complete after {total:.1?}; medians from {:.1?} to {:.1?}",
        origin.asked(),
        medians[0].0,
        medians[ROUNDS - 1].0
    );
}

async fn late_joiner() {
    const LENGTH: u64 = 5_000_000;
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(Pace {
        length: LENGTH,
        piece: 50_000,
        delay: Duration::ZERO,
        between: Duration::from_millis(50),
    })
    .await;
    let edges = edges(&folder, &origin, 3, "", all_peers).await;
    let path = "/drip-0123456789abcdef.bin";
    let early = tokio::spawn(get(edges[0].clients, path, LENGTH, None, never()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = get(edges[1].clients, path, LENGTH, None, never()).await;
    let early = early.await.unwrap();
    println!(
        "late joiner: 5 MB in {:.1?}; joined after 2 s at another edge: first byte after {:.1?}, {} bytes within 100 ms of it; {} origin fetch",
        early.total,
        late.first_byte,
        late.at_once,
        origin.asked()
    );
    assert_eq!((origin.asked(), late.bytes), (1, LENGTH));
}

async fn larger_than_memory() {
    const LENGTH: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let origin =
        Origin::start(Pace { length: LENGTH, piece: 512 * 1024, delay: Duration::ZERO, between: Duration::ZERO }).await;
    let edges = edges(&folder, &origin, 1, "memory = \"64MiB\"\nmax_object = \"8MiB\"", all_peers).await;
    let path = "/huge-0123456789abcdef.bin";
    let done = Arc::new(AtomicBool::new(false));
    for (readers, slow) in [(1, 0), (10, 10)] {
        done.store(false, Ordering::Relaxed);
        let idle: Vec<_> = (0..slow)
            .map(|_| {
                let (address, done) = (edges[0].clients, Arc::clone(&done));
                tokio::spawn(async move { get(address, path, LENGTH, Some(100_000), &done).await.bytes })
            })
            .collect();
        let tasks: Vec<_> =
            (0..readers).map(|_| tokio::spawn(get(edges[0].clients, path, LENGTH, None, never()))).collect();
        let mut most = 0;
        while tasks.iter().any(|task| !task.is_finished()) {
            most = most.max(edges[0].resident());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for task in tasks {
            assert_eq!(task.await.unwrap().bytes, LENGTH);
        }
        done.store(true, Ordering::Relaxed);
        let mut slowly = 0;
        for task in idle {
            slowly += task.await.unwrap();
        }
        println!(
            "1 GiB through 64 MiB of memory: {readers} readers at full speed, {slow} at 100 KB/s ({slowly} bytes so far): at most {} MiB resident",
            most >> 20
        );
        let _ = std::io::stdout().flush();
    }
}

async fn contradiction() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(Pace { length: 1000, piece: 1000, delay: ORIGIN_DELAY, between: Duration::ZERO }).await;
    // Each edge takes the other one for the owner of every key.
    let edges = edges(&folder, &origin, 2, "", |i, ports| vec![ports[1 - i]]).await;
    let tasks: Vec<_> = (0..100)
        .map(|i| {
            let address = edges[i % 2].clients;
            tokio::spawn(
                async move { get(address, &format!("/asset-{:016x}.bin", i / 2), 1000, None, never()).await.total },
            )
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.unwrap());
    }
    println!(
        "contradicting lists: 100 requests for 50 keys at 2 edges, origin {ORIGIN_DELAY:?}: slowest response {slowest:.1?}"
    );
}
