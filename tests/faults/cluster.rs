//! Edges as processes that can be killed, frozen and restarted.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use http::{Method, Uri};
use peerage::AssetKey;
use peerage::cluster::ring::Ring;
use tempfile::TempDir;

use crate::client::request;
use crate::harness::within;
use crate::origin::{Origin, Script};
use crate::process::{BINARY, Process, Signal, free_ports};

/// Delay of each origin response.
pub const ORIGIN: Duration = Duration::from_millis(300);
/// Time after which a peer that stopped answering usually owns nothing.
pub const NOTICED: Duration = Duration::from_secs(3);
/// Number of keys that the load requests.
pub const KEYS: usize = 1000;

/// Returns the path of a key.
pub fn path(key: usize) -> String {
    format!("/asset-{key:016x}.bin")
}

/// Starts an origin that delays each response by [`ORIGIN`].
pub async fn slow_origin() -> Origin {
    slow_origin_at([127, 0, 0, 1].into()).await
}

/// Starts a slow origin at `address`. Like common origins of assets, it has strong entity tags
/// and supports ranges.
pub async fn slow_origin_at(address: IpAddr) -> Origin {
    let origin = Origin::at(address).await;
    origin.script("*", Script::body_per_target().etag("\"v1\"").with_ranges().delay(ORIGIN));
    origin
}

/// The listen addresses of an edge.
#[derive(Clone)]
pub struct Addresses {
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    pub admin: SocketAddr,
}

/// An edge in a process that can be killed and restarted.
pub struct Edge {
    pub name: String,
    pub addresses: Addresses,
    folder: TempDir,
    text: String,
    process: Option<Process>,
}

impl Edge {
    /// Returns an edge that is not running yet. `more` is appended to its `[cluster]` table and may
    /// add tables. The origin is always up: only a busy machine makes a connect to it slow, hence
    /// the long `connect_timeout`.
    pub fn new(number: usize, addresses: Addresses, origin: &Uri, more: &str) -> Self {
        let name = format!("edge-{number}");
        let Addresses { clients, peers, admin } = &addresses;
        // All requests come from one client.
        let text = format!(
            "[edge]\nname = \"{name}\"\nlisten = \"{clients}\"\n[origin]\nurl = \"{origin}\"\nconnect_timeout = \"20s\"\n\
             [admin]\nlisten = \"{admin}\"\n[log]\naccess = false\n[limits]\nrequests_per_client = 1024\n[cluster]\nlisten = \"{peers}\"\n{more}"
        );
        Self { name, addresses, folder: tempfile::tempdir().unwrap(), text, process: None }
    }

    pub async fn start(&mut self) {
        self.start_by(Command::new(BINARY)).await;
    }

    /// Starts it with a command that executes the binary, and waits until it listens.
    pub async fn start_by(&mut self, command: Command) {
        self.process = Some(Process::run(command, self.folder.path(), &self.text).await);
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn freeze(&self) {
        self.process.as_ref().unwrap().signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process.as_ref().unwrap().signal(Signal::CONT);
    }

    /// Returns the members that `/peers` lists in a state other than down, with their states.
    async fn sees(&self) -> BTreeMap<String, String> {
        let got = request(self.addresses.admin, Method::GET, "/peers").send().await;
        let page: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        let members = page["members"].as_array().unwrap().iter();
        let text = |member: &serde_json::Value, field| member[field].as_str().unwrap().to_owned();
        let members = members.map(|member| (text(member, "address"), text(member, "state")));
        members.filter(|(_, state)| state != "down").collect()
    }

    pub async fn is_ready(&self) {
        let ready = async {
            while request(self.addresses.admin, Method::GET, "/readyz").send().await.status != 200 {
                pause().await;
            }
        };
        within(20, ready).await;
    }
}

/// Waits between two polls of another process, which needs the CPU as well.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Waits until each of `edges` sees all of them as alive and every other member as down. Returns
/// the time taken.
pub async fn agree<'a>(edges: impl IntoIterator<Item = &'a Edge> + Clone) -> Duration {
    let began = Instant::now();
    let alive = |edge: &Edge| (edge.addresses.peers.to_string(), "alive".to_owned());
    let all: BTreeMap<_, _> = edges.clone().into_iter().map(alive).collect();
    for edge in edges {
        let agrees = async {
            while edge.sees().await != all {
                pause().await;
            }
        };
        within(20, agrees).await;
    }
    began.elapsed()
}

/// Returns free loopback addresses for `count` edges.
pub fn free_addresses(count: usize) -> Vec<Addresses> {
    let at = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
    let ports = free_ports(3 * count);
    ports.chunks(3).map(|it| Addresses { clients: at(&it[0]), peers: at(&it[1]), admin: at(&it[2]) }).collect()
}

/// Returns the line of `[cluster]` that lists the edges at `all_addresses` as peers.
pub fn listing<'a>(all_addresses: impl IntoIterator<Item = &'a Addresses>) -> String {
    let peers: Vec<_> = all_addresses.into_iter().map(|addresses| addresses.peers.to_string()).collect();
    format!("peers = {peers:?}\n")
}

/// Starts three edges that list each other, and waits until they agree.
pub async fn three(origin: &Origin, more: &str) -> Vec<Edge> {
    let all_addresses = free_addresses(3);
    let more = listing(&all_addresses) + more;
    let mut edges = Vec::new();
    for (i, addresses) in all_addresses.into_iter().enumerate() {
        edges.push(Edge::new(i + 1, addresses, &origin.url(), &more));
        edges[i].start().await;
    }
    agree(&edges).await;
    edges
}

/// Returns the owner of a path among `edges`.
pub fn owner<'a>(edges: impl IntoIterator<Item = &'a Edge> + Clone, path: &str) -> &'a Edge {
    let names: Vec<_> = edges.clone().into_iter().map(|edge| edge.addresses.peers.to_string()).collect();
    let ring = Ring::new(names.iter().map(String::as_str));
    let owner = ring.owner(AssetKey::parse(path, 100).unwrap().hash()).unwrap().name();
    edges.into_iter().find(|edge| edge.addresses.peers.to_string() == **owner).unwrap()
}
