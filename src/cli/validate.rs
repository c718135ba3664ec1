//! `peerage validate`: checks the configuration.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::{ConfigArguments, Failure, print};
use crate::config::{ClusterConfig, Config, Given, Size};
use crate::upstream::Endpoint;

#[derive(clap::Args)]
pub(super) struct Validate {
    #[command(flatten)]
    config: ConfigArguments,
}

impl Validate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let given = self.config.read()?;
        let config = given.edge_config()?;
        let peers = match &config.cluster {
            Some(ClusterConfig { discover: Some(source), .. }) => format!("peers by {source}"),
            Some(cluster) => format!("{} peers", cluster.peers.len()),
            None => "0 peers".to_owned(),
        };
        for warning in warnings(&given, &config, machine_memory()) {
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

/// The rules of `[[immutable]]` in a line: sets by name, others by path.
fn rules(config: &Config) -> String {
    let names = config
        .immutable
        .iter()
        .filter_map(|rule| rule.path.as_deref())
        .chain(config.cache.immutable_sets.iter().map(String::as_str));
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The faults that do not keep an edge from running, each with its key and a way out.
fn warnings(given: &Given, config: &Config, machine: Option<u64>) -> Vec<String> {
    let mut found = Vec::new();
    if config.cluster.is_some() && !given.sets("edge.name") {
        found.push(format!(
            "edge.name: not set, so this edge is `{}`; peers refuse the second edge with a name",
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
    if let Some(cluster) = &config.cluster {
        found.extend(list_warnings(cluster));
        let names: BTreeSet<_> = cluster.peers.iter().chain(&cluster.advertise).collect();
        let unresolved = names.into_iter().filter_map(|name| Some((name, resolve(name).err()?)));
        found.extend(unresolved.map(|(name, error)| format!("cluster.peers: `{name}` does not resolve here: {error}")));
    }
    found
}

/// Says that the origin does not resolve, or is a listener of this edge.
fn origin_warning(config: &Config) -> Option<String> {
    let endpoint = Endpoint::of_url(&config.origin.url).ok()?;
    let addresses = match resolve(&endpoint.address()) {
        Ok(addresses) => addresses,
        Err(error) => return Some(format!("origin.url: `{endpoint}` does not resolve here: {error}")),
    };
    let peers = config.cluster.as_ref().map(|cluster| ("cluster.listen", cluster.listen));
    let listeners = [("edge.listen", config.edge.listen), ("admin.listen", config.admin.listen)];
    let (key, _) = listeners.into_iter().chain(peers).find(|(_, own)| addresses.iter().any(|at| reaches(*at, *own)))?;
    Some(format!("origin.url: {} is this edge itself ({key}); name the server behind it", config.origin.url))
}

/// Returns true if a connection to `at` from this machine arrives at the listener `own`.
fn reaches(at: SocketAddr, own: SocketAddr) -> bool {
    at.port() == own.port() && (at.ip() == own.ip() || own.ip().is_unspecified() && is_here(at.ip()))
}

fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

/// Faults of the member list: an address twice, or a list without this edge.
fn list_warnings(cluster: &ClusterConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for peer in cluster.peers.iter().filter(|peer| !seen.insert(*peer)) {
        found.push(format!("cluster.peers: `{peer}` is listed twice"));
    }
    let own = cluster.own(cluster.listen);
    let joins = cluster.gossip && cluster.secret.is_some();
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

/// The memory that this process may use at most, in bytes: the machine's, or its control
/// group's if that is less. `None` where the system does not tell.
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
        let given = Given::read(None, &sets).unwrap();
        warnings(&given, &given.edge_config().unwrap(), Some(machine))
    }

    #[test]
    fn each_fault_that_does_not_keep_an_edge_from_running_is_a_warning() {
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
            (&["origin.url=http://name.invalid"], "origin.url: `name.invalid` does not resolve"),
            (&["cluster.peers=[\"10.0.0.1:1\"]"], "cluster.peers: this edge (127.0.0.1:7001) is not listed"),
            (&["cluster.peers=[\"127.0.0.1:7001\", \"127.0.0.1:7001\"]"], "`127.0.0.1:7001` is listed twice"),
            (&["cluster.peers=[\"127.0.0.1:7001\", \"name.invalid:1\"]"], "`name.invalid:1` does not resolve"),
        ] {
            let found = found(sets, machine);
            assert!(found.len() == 1 && found[0].contains(part), "{sets:?}: {found:?}");
        }
        let unnamed =
            Given::read(None, &["origin.url=http://10.0.0.9", "cluster.gossip=true"].map(str::to_owned)).unwrap();
        let found = warnings(&unnamed, &unnamed.edge_config().unwrap(), None);
        assert!(found.len() == 1 && found[0].starts_with("edge.name: not set"), "{found:?}");
    }
}
