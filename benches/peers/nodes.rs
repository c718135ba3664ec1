//! Clusters of three, in front of one origin, each configured as its authors recommend. One worker
//! and 1 GiB for each node.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::caches::{Cache, folder, nginx, peerage, varnish, write};
use super::paced::text;
use super::process::{Process, free_addresses};

pub const NODES: usize = 3;

/// The addresses of all nodes.
struct Addresses {
    origin: SocketAddr,
    clients: Vec<SocketAddr>,
    /// The ports for peers.
    peers: Vec<SocketAddr>,
    /// The admin ports of Peerage.
    admin: Vec<SocketAddr>,
}

pub fn start(cache: Cache, origin: SocketAddr) -> Vec<Process> {
    let free = free_addresses(3 * NODES);
    let of = |part: usize| free[part * NODES..(part + 1) * NODES].to_vec();
    let at = Addresses { origin, clients: of(0), peers: of(1), admin: of(2) };
    let nodes = (0..NODES).map(|node| match cache {
        Cache::Nginx => nginx_node(&at, node),
        Cache::Varnish => varnish_node(&at, node),
        _ => peerage_node(&at, node),
    });
    let nodes: Vec<_> = nodes.collect();
    if cache == Cache::Peerage {
        for admin in &at.admin {
            while !text(*admin, "/readyz").starts_with("HTTP/1.1 200") {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    // By now all nodes have probed one another.
    std::thread::sleep(Duration::from_secs(1));
    nodes
}

fn peerage_node(at: &Addresses, node: usize) -> Process {
    let folder = folder();
    let peers: Vec<_> = at.peers.iter().map(SocketAddr::to_string).collect();
    let settings = format!(
        "[edge]\nname = \"edge-{node}\"\n[cache]\nmemory = \"1GiB\"\n[cluster]\nlisten = \"{}\"\npeers = {peers:?}\n",
        peers[node]
    );
    let command = peerage(&folder, &settings, at.clients[node], at.admin[node], at.origin);
    Process::start(command, folder, at.clients[node], None)
}

fn nginx_node(at: &Addresses, node: usize) -> Process {
    let folder = folder();
    let peers = at.peers.iter().fold(String::new(), |mut text, peer| {
        let _ = write!(text, "server {peer};");
        text
    });
    let file = write(
        &folder,
        "nginx.conf",
        include_str!("settings/nginx-cluster.conf"),
        &[
            ("FOLDER", folder.path().to_str().unwrap().to_owned()),
            ("LISTEN", at.clients[node].to_string()),
            ("INTERNAL", at.peers[node].to_string()),
            ("PEERS", peers),
            ("ORIGIN", at.origin.to_string()),
        ],
    );
    Process::start(nginx(&file), folder, at.clients[node], None)
}

fn varnish_node(at: &Addresses, node: usize) -> Process {
    let folder = folder();
    let (mut peers, mut add) = (String::new(), String::new());
    for (i, peer) in at.peers.iter().enumerate() {
        let _ = writeln!(
            peers,
            "backend node{i} {{ .host = \"127.0.0.1\"; .port = \"{}\"; .connect_timeout = 500ms; .probe = alive; }}",
            peer.port()
        );
        let _ = writeln!(add, "    cluster.add_backend(node{i});");
    }
    let values = [("PEERS", peers), ("ADD", add), ("ORIGIN_PORT", at.origin.port().to_string())];
    let file = write(&folder, "cluster.vcl", include_str!("settings/varnish-cluster.vcl"), &values);
    let mut command = varnish(folder.path(), &file, "1g");
    command.args(["-i", &format!("node{node}")]);
    command.args(["-a", &format!("clients={}", at.clients[node]), "-a", &format!("peers={}", at.peers[node])]);
    Process::start(command, folder, at.clients[node], None)
}
