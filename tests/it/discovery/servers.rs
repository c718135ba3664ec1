//! A real etcd and a real nameserver (dnsmasq), as child processes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Method;
use tokio::net::TcpStream;

use crate::client::request;
use crate::harness::within;

/// Returns a free port. It is below the range that the system assigns by itself, so that a
/// restarted server finds its port free again.
fn port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish() % 20_000;
        let port = 12_000 + u16::try_from(random).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A process that is killed with the test.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An etcd with one member.
pub struct Etcd {
    port: u16,
    peers: u16,
    /// The port of its metrics, in cleartext.
    metrics: u16,
    scheme: &'static str,
    more: Vec<String>,
    process: Option<KillOnDrop>,
}

impl Etcd {
    /// Starts an etcd that keeps its data in `folder`.
    pub async fn start(folder: &Path) -> Self {
        Self::start_with(folder, "http", &[]).await
    }

    /// As [`start`](Self::start), with the scheme of its clients and the additional arguments `more`.
    pub async fn start_with(folder: &Path, scheme: &'static str, more: &[String]) -> Self {
        loop {
            let (port, peers, metrics, more) = (port(), port(), port(), more.to_vec());
            let mut etcd = Self { port, peers, metrics, scheme, more, process: None };
            if etcd.start_again(folder).await {
                return etcd;
            }
        }
    }

    /// Starts it on the same ports. Returns false if they are in use.
    pub async fn start_again(&mut self, folder: &Path) -> bool {
        let clients = format!("{}://127.0.0.1:{}", self.scheme, self.port);
        let (peers, metrics) =
            (format!("http://127.0.0.1:{}", self.peers), format!("http://127.0.0.1:{}", self.metrics));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder).args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients, "--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("default={peers}")]);
        command.args(["--listen-metrics-urls", &metrics]).args(&self.more);
        let log = std::fs::File::create(folder.with_extension("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = KillOnDrop(command.spawn().unwrap());
        let answers = async {
            loop {
                if process.0.try_wait().unwrap().is_some() {
                    return false;
                }
                let address = ([127, 0, 0, 1], self.metrics).into();
                if TcpStream::connect(address).await.is_ok() {
                    let health = request(address, Method::GET, "/health").send().await;
                    if health.text().contains("true") {
                        return true;
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        let answers = within(60, answers).await;
        self.process = Some(process);
        answers
    }

    /// Kills it without a clean shutdown.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    pub fn source(&self) -> String {
        // No server listens at the first endpoint.
        let kind = if self.scheme == "https" { "etcds" } else { "etcd" };
        format!("{kind}:127.0.0.1:1,127.0.0.1:{}/peerage/members", self.port)
    }

    /// Sends a request to the JSON gateway, with the token of a user unless that is empty.
    pub async fn post(&self, path: &str, content: serde_json::Value, token: &str) -> serde_json::Value {
        let address = ([127, 0, 0, 1], self.port).into();
        let request = request(address, Method::POST, path);
        let request = if token.is_empty() { request } else { request.header("authorization", token) };
        let got = request.body(content.to_string()).send().await;
        assert_eq!(got.status, 200, "{path}: {}", got.text());
        serde_json::from_str(got.text()).unwrap()
    }
}

/// A nameserver for `*.test`.
pub struct Nameserver {
    port: u16,
    process: Option<KillOnDrop>,
}

impl Nameserver {
    /// Starts a nameserver for the addresses in `hosts` (`IP NAME` a line), with the additional
    /// arguments `more`.
    pub async fn start(folder: &Path, hosts: &str, more: &[&str]) -> Self {
        loop {
            let mut nameserver = Self { port: port(), process: None };
            if nameserver.start_again(folder, hosts, more).await {
                return nameserver;
            }
        }
    }

    /// Starts it on the same port with other records. Returns false if the port is in use.
    pub async fn start_again(&mut self, folder: &Path, hosts: &str, more: &[&str]) -> bool {
        self.kill();
        let file = folder.join("hosts");
        std::fs::File::create(&file).unwrap().write_all(hosts.as_bytes()).unwrap();
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        let mut command = Command::new("dnsmasq");
        command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/"]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces", &format!("--port={}", self.port)]);
        command.arg(format!("--user={}", user.trim())).arg(format!("--addn-hosts={}", file.display())).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = KillOnDrop(command.spawn().unwrap());
        let answers = async {
            loop {
                if process.0.try_wait().unwrap().is_some() {
                    return false;
                }
                if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                    return true;
                }
                tokio::task::yield_now().await;
            }
        };
        let answers = within(20, answers).await;
        self.process = Some(process);
        answers
    }

    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
