//! `peerage validate`: checks the configuration.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::process::print;
use crate::cluster::membership::Membership;
use crate::config::{ClusterConfig, Config, Layers, Size};
use crate::server::{peer_tls, tls_acceptor};
use crate::upstream::Endpoint;

#[derive(clap::Args)]
pub(super) struct Validate {
    #[command(flatten)]
    config: ConfigArguments,
}

impl Validate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let layers = self.config.read()?;
        let config = layers.edge_config()?;
        let peers = match &config.cluster {
            Some(ClusterConfig { discover: Some(source), .. }) => format!("peers by {source}"),
            Some(cluster) => format!("{} peers", cluster.peers.len()),
            None => "0 peers".to_owned(),
        };
        for warning in warnings(&layers, &config, machine_memory()) {
            let _ = writeln!(io::stderr(), "warning: {warning}");
        }
        print(&format!(
            "good: {} in front of {}, {peers}, {} of memory, objects up to {}\nrules: {}\n",
            config.edge.name,
            config.origin.url,
            config.cache.memory,
            Size(config.plan().max_object),
            rules(&config)
        ))
    }
}

/// Returns the rules for names in one line: those of `[[immutable]]` by path, sets by name.
fn rules(config: &Config) -> String {
    let names = config
        .immutable
        .iter()
        .filter_map(|rule| rule.path.as_deref())
        .chain(config.cache.immutable_sets.iter().map(String::as_str));
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Returns the faults that do not keep an edge from running, each with its key and a remedy.
fn warnings(layers: &Layers, config: &Config, machine: Option<u64>) -> Vec<String> {
    let mut found = Vec::new();
    if config.cluster.is_some() && !layers.sets("edge.name") {
        found.push(format!(
            "edge.name is not set, so this edge is named {:?}; set it, for peers refuse a second edge with the same name",
            config.edge.name
        ));
    }
    if let Some(machine) = machine.filter(|machine| config.cache.memory.0 > *machine) {
        found.push(format!(
            "cache.memory: {} is more than the {}MiB of this machine; lower it",
            config.cache.memory,
            machine >> 20
        ));
    }
    found.extend(origin_warning(config));
    found.extend(tls_acceptor(config).err().map(|error| error.to_string()));
    if let Some(cluster) = &config.cluster {
        found.extend(list_warnings(cluster));
        let membership = Arc::new(Membership::new(&cluster.own(cluster.listen), []));
        found.extend(peer_tls(config, &membership).err().map(|error| error.to_string()));
        let names: BTreeSet<_> = cluster.peers.iter().chain(&cluster.advertise).collect();
        let unresolved = names.into_iter().filter_map(|name| Some((name, resolve(name).err()?)));
        found.extend(
            unresolved
                .map(|(name, error)| format!("cluster.peers: {name:?} does not resolve on this machine: {error}")),
        );
    }
    found
}

/// Returns a warning if the origin does not resolve, or is a listener of this edge.
fn origin_warning(config: &Config) -> Option<String> {
    let endpoint = Endpoint::of_url(&config.origin.url).ok()?;
    let addresses = match resolve(&endpoint.address()) {
        Ok(addresses) => addresses,
        Err(error) => return Some(format!("origin.url: \"{endpoint}\" does not resolve on this machine: {error}")),
    };
    let peers = config.cluster.as_ref().map(|cluster| ("cluster.listen", cluster.listen));
    let edge = config.edge.listen.iter().map(|address| ("edge.listen", *address));
    let tls = config.tls.listen.iter().map(|address| ("tls.listen", *address));
    let listeners = edge.chain(tls).chain([("admin.listen", config.admin.listen)]);
    let is_origin = |listener| addresses.iter().any(|address| reaches(*address, listener));
    let (key, _) = listeners.chain(peers).find(|(_, listener)| is_origin(*listener))?;
    Some(format!("origin.url: {} is this edge itself ({key}); name the server behind the edge", config.origin.url))
}

/// Returns true if a connection to `address` from this machine arrives at `listener`.
fn reaches(address: SocketAddr, listener: SocketAddr) -> bool {
    address.port() == listener.port()
        && (address.ip() == listener.ip() || listener.ip().is_unspecified() && is_local(address.ip()))
}

fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

/// Returns the faults of the member list: a duplicate address, or a list without this edge.
fn list_warnings(cluster: &ClusterConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for peer in cluster.peers.iter().filter(|peer| !seen.insert(*peer)) {
        found.push(format!("cluster.peers: {peer:?} is listed twice; remove one"));
    }
    let own = cluster.own(cluster.listen);
    let joins = cluster.gossip && cluster.has_secret();
    if cluster.discover.is_none() && !joins && !cluster.peers.is_empty() && !cluster.peers.contains(&own) {
        found.push(format!(
            "cluster.peers: this edge ({own}) is not listed, so it owns nothing; add it, or set cluster.advertise to its address in the list"
        ));
    }
    found
}

fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    name.to_socket_addrs().map(Iterator::collect)
}

/// Returns the memory available to this process in bytes: the machine's, or the control
/// group's limit if that is less. `None` if the system does not report it.
fn machine_memory() -> Option<u64> {
    let read = |path| std::fs::read_to_string(path).ok();
    let installed = read("/proc/meminfo").and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    installed.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sets: &[&str], machine: u64) -> Vec<String> {
        let base = ["edge.name=edge-5", "origin.url=http://10.0.0.9"].map(str::to_owned);
        let sets: Vec<_> = base.into_iter().chain(sets.iter().map(|set| (*set).to_owned())).collect();
        let layers = Layers::read(None, &sets).unwrap();
        warnings(&layers, &layers.edge_config().unwrap(), Some(machine))
    }

    #[test]
    fn faults_that_do_not_prevent_a_start_are_warnings() {
        let machine = 1 << 34;
        assert_eq!(found(&[], machine), [""; 0]);
        assert_eq!(found(&["cluster.gossip=true"], machine), [""; 0]);
        for (sets, part) in [
            (&["cache.memory=17GiB"][..], "cache.memory: 17GiB is more than the 16384MiB"),
            (
                &["origin.url=http://127.0.0.1:8001/x"],
                "origin.url: http://127.0.0.1:8001/x is this edge itself (edge.listen)",
            ),
            (&["origin.url=http://localhost", "edge.listen=0.0.0.0:80"], "itself (edge.listen)"),
            (&["origin.url=http://127.0.0.1:9901"], "itself (admin.listen)"),
            (&["origin.url=http://127.0.0.1:7001", "cluster.gossip=true"], "itself (cluster.listen)"),
            (&["origin.url=http://name.invalid"], "origin.url: \"name.invalid\" does not resolve"),
            (&["cluster.peers=[\"10.0.0.1:1\"]"], "cluster.peers: this edge (127.0.0.1:7001) is not listed"),
            (&["cluster.peers=[\"127.0.0.1:7001\", \"127.0.0.1:7001\"]"], "\"127.0.0.1:7001\" is listed twice"),
            (&["cluster.peers=[\"127.0.0.1:7001\", \"name.invalid:1\"]"], "\"name.invalid:1\" does not resolve"),
        ] {
            let found = found(sets, machine);
            assert!(found.len() == 1 && found[0].contains(part), "{sets:?}: {found:?}");
        }
        let unnamed =
            Layers::read(None, &["origin.url=http://10.0.0.9", "cluster.gossip=true"].map(str::to_owned)).unwrap();
        let found = warnings(&unnamed, &unnamed.edge_config().unwrap(), None);
        assert!(found.len() == 1 && found[0].starts_with("edge.name is not set"), "{found:?}");
    }
}
