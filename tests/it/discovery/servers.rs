//! An etcd and a nameserver: real ones, as child processes. A machine that does
//! not have them skips their tests.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Method;
use tokio::net::TcpStream;

use crate::client::ask;
use crate::harness::within;

/// Whether `program` is here; if not, says so.
pub fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let here = found.is_ok_and(|status| status.success());
    if !here {
        eprintln!("skipped: no {program} here");
    }
    here
}

/// A port that is free now. It is below those that the system gives to others,
/// so it is free again when whoever listened there is started anew.
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
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An etcd of one member.
pub struct Etcd {
    port: u16,
    peers: u16,
    process: Option<Killed>,
}

impl Etcd {
    /// Starts one that keeps its data in `folder`.
    pub async fn start(folder: &Path) -> Self {
        loop {
            let mut etcd = Self { port: port(), peers: port(), process: None };
            if etcd.start_again(folder).await {
                return etcd;
            }
        }
    }

    /// Starts it on the same ports; whether it could have them.
    pub async fn start_again(&mut self, folder: &Path) -> bool {
        let (clients, peers) = (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peers));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder).args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients, "--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("default={peers}")]);
        let log = std::fs::File::create(folder.with_extension("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = Killed(command.spawn().unwrap());
        let answers = async {
            loop {
                if process.0.try_wait().unwrap().is_some() {
                    return false;
                }
                let address = ([127, 0, 0, 1], self.port).into();
                if TcpStream::connect(address).await.is_ok() {
                    let health = ask(address, Method::GET, "/health").get().await;
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

    /// Without a goodbye.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    pub fn source(&self) -> String {
        // Nobody listens at the first of them.
        format!("etcd:127.0.0.1:1,127.0.0.1:{}/peerage/members", self.port)
    }
}

/// A nameserver that knows `*.test`.
pub struct Nameserver {
    port: u16,
    process: Option<Killed>,
}

impl Nameserver {
    /// Starts one that knows the addresses in `hosts` (`IP NAME` a line), and
    /// what `more` arguments say.
    pub async fn start(folder: &Path, hosts: &str, more: &[&str]) -> Self {
        loop {
            let mut nameserver = Self { port: port(), process: None };
            if nameserver.start_again(folder, hosts, more).await {
                return nameserver;
            }
        }
    }

    /// Starts it on the same port, with other records.
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
        let mut process = Killed(command.spawn().unwrap());
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
