//! `[cluster]`: the edges that act as one cache.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bounds::{check_nonzero, check_range, invalid, needs_feature};
use super::cluster_tls::ClusterTlsConfig;
use super::etcd::{EtcdConfig, EtcdTransport};
use super::values::{self, Period, Secret, loopback, millis, secs};
use crate::cluster::discovery::Registry;
use crate::cluster::{MAX_SECRETS, is_address};
use crate::semantics::scheme::Scheme;

/// The table `[cluster]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterConfig {
    /// Listening address for peers: HTTP over TCP, gossip over UDP.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// All members as `host:port`, this edge included.
    pub peers: Vec<String>,
    /// Source of the member list in place of `peers`: `file:…`, `dns:…`, `srv:…`, `etcd:…`,
    /// `etcds:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover: Option<String>,
    /// Interval at which a file or DNS is read again.
    pub refresh: Period,
    /// DNS server as `ip:port`; `None` uses the system's resolver configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<String>,
    /// Lease of this edge's key in etcd: a dead edge leaves the list after this time.
    pub lease: Period,
    /// Address at which peers reach this edge, if it is not `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Timeout for a connection to a peer.
    pub connect_timeout: Period,
    /// Timeout from a request to the first byte of a peer's response, including the time
    /// that the origin takes.
    pub first_byte_timeout: Period,
    /// Timeout between two chunks of a body.
    pub idle_timeout: Period,
    /// Number of peers that a fill tries, in order of rank, before it asks the origin.
    pub attempts: usize,
    /// Whether edges detect failures by gossip (SWIM); if false, every listed member counts
    /// as alive. By default true with the feature `gossip`.
    pub gossip: bool,
    /// Secret that encrypts and authenticates gossip; an edge that knows it may join without being
    /// listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Several secrets in place of `secret`, to replace one by another: the first encrypts, all
    /// decrypt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// With a secret, longest time between the sending of the first datagram of an edge and its
    /// arrival; the clocks of edges must agree within it.
    pub replay_window: Period,
    /// Interval between two probes by one edge.
    pub probe_interval: Period,
    /// Timeout of a probe, after which other edges are asked to probe; also of a peek at the
    /// owner, after which an ordinary request is sent.
    pub probe_timeout: Period,
    /// Time that a suspect has to refute the suspicion before it is declared down.
    pub suspicion: Period,
    /// Time after a ring change in which an owner that misses a key asks the previous owners
    /// before the origin; 0 never asks them.
    pub warm_window: Period,
    /// Longest time that `peerage run --warm` pulls keys before it reports ready.
    pub warm_time: Period,
    /// Largest number of keys that it pulls.
    pub warm_keys: usize,
    /// The connection to the etcd of `discover`.
    pub etcd: EtcdConfig,
    /// TLS between edges; `None` for cleartext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTlsConfig>,
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
            gossip: cfg!(feature = "gossip"),
            secret: None,
            secrets: Vec::new(),
            replay_window: secs(60),
            probe_interval: millis(250),
            probe_timeout: millis(100),
            suspicion: millis(1500),
            warm_window: secs(300),
            warm_time: secs(30),
            warm_keys: 10_000,
            etcd: EtcdConfig::default(),
            tls: None,
        }
    }
}

impl ClusterConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for peer in self.peers.iter().chain(&self.advertise) {
            let key = if Some(peer) == self.advertise.as_ref() { "cluster.advertise" } else { "cluster.peers" };
            if !is_address(peer) {
                return Err(invalid(key, format_args!("{peer:?} (expected host:port, such as 10.0.0.5:7001)")));
            }
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            return Err(format!(
                "missing value for cluster.advertise: peers cannot connect to {}; set the address at which they reach this edge, such as 10.0.0.5:7001",
                self.listen
            ));
        }
        self.etcd.check(match self.registry()?.and_then(|registry| registry.etcd_scheme()) {
            None => EtcdTransport::None,
            Some(Scheme::Http) => EtcdTransport::Tcp,
            Some(Scheme::Https) => EtcdTransport::Tls,
        })?;
        self.nameserver()?;
        check_range("cluster.refresh", self.refresh, millis(100)..=secs(3600))?;
        check_range("cluster.lease", self.lease, secs(2)..=secs(600))?;
        self.check_requests()?;
        self.check_gossip()?;
        self.check_tls()
    }

    /// Returns the source of the member list; `None` if `peers` is the list.
    pub(crate) fn registry(&self) -> Result<Option<Registry>, String> {
        let registry = self.discover.as_deref().map(str::parse).transpose();
        registry.map_err(|error| invalid("cluster.discover", error))
    }

    /// Returns the DNS server; `None` for the system's resolver configuration.
    pub(crate) fn nameserver(&self) -> Result<Option<SocketAddr>, String> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                invalid(
                    "cluster.nameserver",
                    format_args!("{text:?} (expected an IP address with a port, such as 127.0.0.1:8600)"),
                )
            })
        };
        self.nameserver.as_deref().map(parse).transpose()
    }

    fn check_requests(&self) -> Result<(), String> {
        check_range("cluster.attempts", self.attempts, 1..=1000)?;
        check_range("cluster.warm_keys", self.warm_keys, 1..=100_000)?;
        check_nonzero("cluster.connect_timeout", self.connect_timeout)?;
        check_nonzero("cluster.first_byte_timeout", self.first_byte_timeout)?;
        check_nonzero("cluster.idle_timeout", self.idle_timeout)
    }

    fn check_gossip(&self) -> Result<(), String> {
        if self.gossip && !cfg!(feature = "gossip") {
            return Err(needs_feature("cluster.gossip", "true", "gossip"));
        }
        self.check_secrets()?;
        check_range("cluster.replay_window", self.replay_window, secs(1)..=secs(3600))?;
        check_range("cluster.probe_interval", self.probe_interval, millis(50)..=secs(60))?;
        // An indirect probe takes as long again.
        let round = Period(self.probe_interval.0 / 2);
        check_range("cluster.probe_timeout", self.probe_timeout, millis(10)..=round)?;
        // The suspect is notified each probe_timeout, and may miss most of these datagrams.
        let several = Period(self.probe_timeout.0 * 5);
        check_range("cluster.suspicion", self.suspicion, several..=secs(600))
    }

    fn check_secrets(&self) -> Result<(), String> {
        let key = if self.secret.is_some() { "cluster.secret" } else { "cluster.secrets" };
        if self.secret.is_some() && !self.secrets.is_empty() {
            return Err(invalid(key, "cluster.secrets is set, too; remove one of them"));
        }
        if self.secrets.len() > MAX_SECRETS {
            let count = self.secrets.len();
            return Err(invalid(key, format_args!("{count} secrets are too many (expected {MAX_SECRETS} or fewer)")));
        }
        if self.secrets().any(|secret| secret.0.len() < Secret::SHORTEST) {
            return Err(invalid(
                key,
                format_args!(
                    "the secret is too short (expected {} characters or more, such as the output of `openssl rand -hex 16`)",
                    Secret::SHORTEST
                ),
            ));
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), String> {
        let Some(tls) = &self.tls else { return Ok(()) };
        tls.check()?;
        if self.gossip && !self.has_secret() {
            return Err(
                "missing value for cluster.secret: with [cluster.tls], gossip must be authenticated too; set the output of `openssl rand -hex 16` on every edge, or cluster.gossip = false"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Returns the secrets for gossip; the first one encrypts.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secret.iter().chain(&self.secrets)
    }

    /// Returns true if a secret authenticates gossip.
    pub(crate) fn has_secret(&self) -> bool {
        self.secrets().next().is_some()
    }

    /// Returns the name of this edge on the ring if its listener is bound to `listening`.
    pub fn own(&self, listening: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| listening.to_string())
    }
}
