//! Restarts of edges under load, on sockets that outlive the processes.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use command_fds::{CommandFdExt, FdMapping};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::client::request;
use crate::harness::within;
use crate::origin::{Origin, Script};
use crate::process::{BINARY, Signal, send_signal};

const KEYS: usize = 1000;
/// Each client sends a request every 120 ms: 200 requests per second in all.
const CLIENTS: usize = 24;
const EVERY: Duration = Duration::from_millis(120);

/// The listening sockets of an edge, which each of its processes inherits.
struct Sockets {
    name: String,
    listeners: [TcpListener; 3],
    file: std::path::PathBuf,
}

fn at(socket: &TcpListener) -> SocketAddr {
    socket.local_addr().unwrap()
}

impl Sockets {
    fn open(name: &str, folder: &Path) -> Self {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        Self { name: name.to_owned(), listeners, file: folder.join(format!("{name}.toml")) }
    }

    fn clients(&self) -> SocketAddr {
        at(&self.listeners[0])
    }

    fn admin(&self) -> SocketAddr {
        at(&self.listeners[2])
    }

    fn configure(&self, origin: &http::Uri, peers: &[String]) {
        let [clients, own, admin] = self.listeners.each_ref().map(at);
        let text = format!(
            "edge = {{ name = \"{}\", listen = \"{clients}\" }}\norigin.url = \"{origin}\"\nadmin.listen = \"{admin}\"\ncluster = {{ listen = \"{own}\", peers = {peers:?} }}\n",
            self.name
        );
        std::fs::write(&self.file, text).unwrap();
    }

    /// Starts a process on these sockets, as systemd does.
    fn start(&self) -> EdgeProcess {
        let mut command = Command::new(BINARY);
        command.args(["run", "--while-input", "--set", "log.access=false", "--config"]).arg(&self.file);
        command.env("LISTEN_FDS", "3").stdin(Stdio::piped());
        let fd = |socket: &TcpListener| -> OwnedFd { socket.as_fd().try_clone_to_owned().unwrap() };
        let mappings =
            self.listeners.iter().zip(3..).map(|(socket, child_fd)| FdMapping { parent_fd: fd(socket), child_fd });
        command.fd_mappings(mappings.collect()).unwrap();
        EdgeProcess(command.spawn().unwrap())
    }

    /// Waits until the process on these sockets is ready.
    async fn ready(&self) {
        let ready = async {
            while request(self.admin(), Method::GET, "/readyz").send().await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        within(20, ready).await;
    }
}

struct EdgeProcess(Child);

impl EdgeProcess {
    fn terminate(&self) {
        send_signal(&self.0, Signal::TERM);
    }

    async fn ended(mut self) -> Option<i32> {
        let ended = async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.code();
                }
                tokio::task::yield_now().await;
            }
        };
        within(40, ended).await
    }
}

impl Drop for EdgeProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Load {
    over: AtomicBool,
    asked: AtomicUsize,
    connections: AtomicUsize,
}

fn path(i: usize) -> String {
    format!("/asset-{:016x}.bin", i % KEYS)
}

/// Runs a client that keeps its connection for as long as the edge does. Any response but the
/// right one fails the test.
async fn client(edge: SocketAddr, number: usize, load: Arc<Load>) -> Duration {
    let mut slowest = Duration::ZERO;
    let mut connection: Option<SendRequest<Empty<Bytes>>> = None;
    let mut beats = tokio::time::interval(EVERY);
    while !load.over.load(Ordering::Relaxed) {
        beats.tick().await;
        let path = path(load.asked.fetch_add(1, Ordering::Relaxed) * 7 + number);
        let began = Instant::now();
        let mut sender = if let Some(sender) = connection.take() {
            sender
        } else {
            load.connections.fetch_add(1, Ordering::Relaxed);
            connect(edge).await
        };
        let request = Request::get(&path).header("host", "site.example").body(Empty::new()).unwrap();
        let response = sender.send_request(request).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!(response.status(), 200, "{path}");
        let closes = response.headers().get("connection").is_some_and(|value| value == "close");
        let body = response.into_body().collect().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert_eq!(body.to_bytes(), format!("contents of {path}"));
        slowest = slowest.max(began.elapsed());
        connection = (!closes).then_some(sender);
    }
    slowest
}

async fn connect(edge: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(edge).await.expect("no connection is refused");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Restarts each of three edges under load by `restart`.
async fn rolling(restart: impl AsyncFn(&Sockets, EdgeProcess) -> EdgeProcess) {
    let origin = Origin::start().await;
    for i in 0..KEYS {
        let path = path(i);
        let script = Script::ok(format!("contents of {path}")).delay(Duration::from_millis(300));
        origin.script(&path, script);
    }
    let folder = tempfile::tempdir().unwrap();
    let edges = [1, 2, 3].map(|number| Sockets::open(&format!("edge-{number}"), folder.path()));
    let peers: Vec<_> = edges.iter().map(|edge| at(&edge.listeners[1]).to_string()).collect();
    let mut processes = Vec::new();
    for edge in &edges {
        edge.configure(&origin.url(), &peers);
        processes.push(edge.start());
    }
    for edge in &edges {
        edge.ready().await;
    }
    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(edges[number % 3].clients(), number, Arc::clone(&load))))
        .collect();
    let half = async {
        while load.asked.load(Ordering::Relaxed) < 2 * KEYS {
            tokio::task::yield_now().await;
        }
    };
    within(60, half).await;
    let began = Instant::now();
    let before = load.asked.load(Ordering::Relaxed);
    for (edge, old) in edges.iter().zip(std::mem::take(&mut processes)) {
        processes.push(restart(edge, old).await);
        edge.ready().await;
    }
    load.over.store(true, Ordering::Relaxed);
    let mut slowest = Duration::ZERO;
    for client in clients {
        slowest = slowest.max(client.await.unwrap());
    }
    let (asked, connections) = (load.asked.load(Ordering::Relaxed), load.connections.load(Ordering::Relaxed));
    let most = (0..KEYS).map(|i| origin.count(&path(i))).max().unwrap();
    println!(
        "rolling restart: {asked} requests, {} of them in {:?} of restarts, over {connections} connections, none failed; slowest {slowest:?}; {} origin fetches, {most} at most for a key",
        asked - before,
        began.elapsed(),
        origin.seen().len()
    );
    assert!(connections >= CLIENTS * 2, "each client must have moved to another process");
}

/// The order of a supervisor that starts the new process before it ends the old one.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_the_new_process_starts_before_the_old_one_ends() {
    rolling(async |sockets, old| {
        let new = sockets.start();
        old.terminate();
        assert_eq!(old.ended().await, Some(0));
        new
    })
    .await;
}

/// The order of `systemctl restart`.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_the_old_process_ends_before_the_new_one_starts() {
    rolling(async |sockets, old| {
        old.terminate();
        assert_eq!(old.ended().await, Some(0));
        sockets.start()
    })
    .await;
}

#[test]
fn inherited_socket_of_no_listener_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = Sockets::open("edge-1", folder.path());
    let origin = "http://127.0.0.1:9".parse().unwrap();
    sockets.configure(&origin, &[]);
    let text = std::fs::read_to_string(&sockets.file).unwrap();
    std::fs::write(&sockets.file, text.replace(&sockets.admin().to_string(), "127.0.0.1:0")).unwrap();
    assert_eq!(sockets.start().0.wait().unwrap().code(), Some(64));
}
