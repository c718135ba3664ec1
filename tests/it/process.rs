//! The binary as child processes: edges, and the development origin.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use http::Method;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::client::{FullResponse, request};
use crate::harness::within;

pub const BINARY: &str = env!("CARGO_BIN_EXE_peerage");

/// A process that ends with the test, because its standard input does.
pub struct Process {
    child: Child,
    pub clients: SocketAddr,
    pub tls: Option<SocketAddr>,
    /// The file of its standard output: a line for each request, once it listens.
    pub out: PathBuf,
}

impl Process {
    /// Starts an edge that keeps its files in `folder`: `edge.toml`, `out`, `err`.
    pub async fn edge(folder: &Path, origin: &http::Uri, more: &str) -> Self {
        let text = format!(
            "[edge]\nname = \"edge-7\"\nlisten = \"127.0.0.1:0\"\n[origin]\nurl = \"{origin}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{more}"
        );
        Self::run(Command::new(BINARY), folder, &text).await
    }

    /// Starts an edge with the configuration `text`. `command` is the binary, or a command that
    /// executes it.
    pub async fn run(mut command: Command, folder: &Path, text: &str) -> Self {
        let file = folder.join("edge.toml");
        std::fs::write(&file, text).unwrap();
        let err = std::fs::File::create(folder.join("err")).unwrap();
        command.args(["run", "--while-input", "--config"]).arg(&file).stderr(err);
        let (child, out) = start(&mut command, folder.join("out"));
        let line = line_with(&folder.join("err"), "serving").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |listener: &str| line[listener].as_str().map(|address| address.parse().unwrap());
        Self { child, clients: address("clients").unwrap(), tls: address("tls"), out }
    }

    /// Starts a development origin for `site` that accepts PUT. Its output is in `folder/out`.
    pub async fn origin(folder: &Path, site: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("origin").arg(site).args(["--writable", "--while-input", "--listen", "127.0.0.1:0"]);
        let (child, out) = start(&mut command, folder.join("out"));
        let line = line_with(&out, "http://").await;
        Self { child, clients: line.rsplit("http://").next().unwrap().parse().unwrap(), tls: None, out }
    }

    pub fn url(&self) -> http::Uri {
        format!("http://{}", self.clients).parse().unwrap()
    }

    pub async fn get(&self, path: &str) -> FullResponse {
        request(self.clients, Method::GET, path).send().await
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::task::yield_now().await;
            }
        };
        within(20, ended).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn send_signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn start(command: &mut Command, out: PathBuf) -> (Child, PathBuf) {
    let file = std::fs::File::create(&out).unwrap();
    (command.stdin(Stdio::piped()).stdout(file).spawn().unwrap(), out)
}

/// Returns ports that are free for TCP and UDP. They are below the range that the system assigns by
/// itself, so that a restarted edge finds its ports free again.
pub fn free_ports(count: usize) -> Vec<u16> {
    let first = 10_000 + u16::try_from(RandomState::new().hash_one(()) % 20_000).unwrap();
    let is_free = |port: &u16| {
        let held = (TcpListener::bind(("127.0.0.1", *port)), UdpSocket::bind(("127.0.0.1", *port)));
        held.0.is_ok() && held.1.is_ok()
    };
    (first..).filter(is_free).take(count).collect()
}

/// Waits until `file` has a line with `text`, and returns the line.
pub async fn line_with(file: &Path, text: &str) -> String {
    let found = async {
        loop {
            let lines = std::fs::read_to_string(file).unwrap_or_default();
            // Complete lines only.
            let whole = &lines[..lines.rfind('\n').map_or(0, |end| end + 1)];
            if let Some(line) = whole.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    within(20, found).await
}
