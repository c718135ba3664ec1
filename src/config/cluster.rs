//! `[cluster]`: the other edges.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bounds::{some_time, within};
use super::values::{self, Period, Secret, loopback, millis, secs};
use crate::cluster::discovery::Registry;
use crate::cluster::is_address;

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// For peers.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// All members, this edge among them, as `host:port`.
    pub peers: Vec<String>,
    /// Where the members are found instead: `file:…`, `dns:…`, `srv:…`, `etcd:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover: Option<String>,
    /// Between two looks at a file or at DNS.
    pub refresh: Period,
    /// Of DNS, as `ip:port`, when it is not the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<String>,
    /// How long an etcd remembers an edge that says nothing.
    pub lease: Period,
    /// How peers reach this edge, when it is not `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// To have a connection to a peer.
    pub connect_timeout: Period,
    /// From a request to the first byte of a peer's answer; it includes the
    /// origin's time.
    pub first_byte_timeout: Period,
    /// Between two pieces of a body.
    pub idle_timeout: Period,
    /// How many peers are asked, in order of rank, before the origin is.
    pub attempts: usize,
    /// Whether edges find out among themselves who is alive; without, everybody
    /// on the list is taken to be.
    pub gossip: bool,
    /// What those know who may join, though they are not on the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Between two probes by one edge.
    pub probe_interval: Period,
    /// How long the answer to a probe may take, before others are asked to probe; and that
    /// of an owner to whether it has something at hand, before it is asked otherwise.
    pub probe_timeout: Period,
    /// How long a peer that did not answer may take to object.
    pub suspicion: Period,
    /// For how long after the ring has changed an owner looks for what it misses at
    /// those who may have it from before; 0 looks nowhere.
    pub warm_window: Period,
    /// The longest that `peerage run --warm` pulls keys before it is ready.
    pub warm_time: Period,
    /// How many keys it pulls at most.
    pub warm_keys: usize,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: loopback(7001),
            peers: [7001, 7002, 7003].map(|port| loopback(port).to_string()).to_vec(),
            discover: None,
            refresh: secs(5),
            nameserver: None,
            lease: secs(10),
            advertise: None,
            connect_timeout: millis(500),
            first_byte_timeout: secs(35),
            idle_timeout: secs(30),
            attempts: 3,
            gossip: true,
            secret: None,
            probe_interval: millis(250),
            probe_timeout: millis(100),
            suspicion: millis(1500),
            warm_window: secs(300),
            warm_time: secs(30),
            warm_keys: 10_000,
        }
    }
}

impl ClusterConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for peer in self.peers.iter().chain(&self.advertise) {
            let key = if Some(peer) == self.advertise.as_ref() { "cluster.advertise" } else { "cluster.peers" };
            if !is_address(peer) {
                return Err(format!(
                    "{key}: `{peer}` is not an address; `host:port` is needed, such as `10.0.0.5:7001`"
                ));
            }
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            return Err(format!(
                "cluster.advertise: needed, for nobody can reach {}; set it to the address that peers know this edge by, such as `10.0.0.5:7001`",
                self.listen
            ));
        }
        self.registry()?;
        self.nameserver()?;
        within("cluster.refresh", self.refresh, millis(100)..=secs(3600))?;
        within("cluster.lease", self.lease, secs(2)..=secs(600))?;
        self.check_asking()?;
        self.check_gossip()
    }

    /// Where the members are found, if not in `peers`.
    pub(crate) fn registry(&self) -> Result<Option<Registry>, String> {
        let registry = self.discover.as_deref().map(str::parse).transpose();
        registry.map_err(|error| format!("cluster.discover: {error}"))
    }

    /// The nameserver to ask, if not the system's.
    pub(crate) fn nameserver(&self) -> Result<Option<SocketAddr>, String> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                format!("cluster.nameserver: `{text}` cannot be asked; an IP address with a port is needed, such as `127.0.0.1:8600`")
            })
        };
        self.nameserver.as_deref().map(parse).transpose()
    }

    fn check_asking(&self) -> Result<(), String> {
        within("cluster.attempts", self.attempts, 1..=1000)?;
        within("cluster.warm_keys", self.warm_keys, 1..=100_000)?;
        some_time("cluster.connect_timeout", self.connect_timeout)?;
        some_time("cluster.first_byte_timeout", self.first_byte_timeout)?;
        some_time("cluster.idle_timeout", self.idle_timeout)
    }

    fn check_gossip(&self) -> Result<(), String> {
        if self.secret.as_ref().is_some_and(|secret| secret.0.len() < Secret::SHORTEST) {
            return Err(format!(
                "cluster.secret: it can be guessed; {} characters or more are needed, such as `openssl rand -hex 16` gives",
                Secret::SHORTEST
            ));
        }
        within("cluster.probe_interval", self.probe_interval, millis(50)..=secs(60))?;
        // Those who are asked to probe need as long again.
        let round = Period(self.probe_interval.0 / 2);
        within("cluster.probe_timeout", self.probe_timeout, millis(10)..=round)?;
        // A suspect is told so each probe_timeout: it must be able to miss most of it.
        let several = Period(self.probe_timeout.0 * 5);
        within("cluster.suspicion", self.suspicion, several..=secs(600))
    }

    /// The name of this edge on the ring, when its listener is at `listening`.
    pub fn own(&self, listening: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| listening.to_string())
    }
}
