//! Listeners and connections: an [`Edge`] as a server.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking};

use crate::body::zero_copy::Arena;
use crate::cluster::discovery::{Discovery, Finding, Settings};
use crate::cluster::membership::Membership;
use crate::config::{ClusterConfig, Config, Size, ZeroCopy};
use crate::edge::{Edge, Forwarding, Limits, Parts, Policy, Writes};
use crate::error::{RunError, StartError};
use crate::observe::access::{Access, Format};
use crate::observe::metrics::{Fetched, Metrics};
use crate::origin::Origin;
use crate::origin::embedded::Bounded;
use crate::origin::http_origin::HttpOrigin;
use crate::peer::client::Peers;
use crate::random::random;
use crate::semantics::request_fields::Underscores;
use crate::semantics::storing::Times;
use crate::server::gossip::{Ear, Gossip};
use crate::upstream::{DEFAULT_LIFETIME, Timeouts};

mod acceptor;
mod connection;
mod gossip;
mod listeners;
mod reload;
mod run;
mod supervisor;

use listeners::{Inherited, Listener};
pub use reload::Reloading;
use run::Running;

/// An edge that has its listeners, and serves as soon as it is [run](Server::run).
pub struct Server {
    edge: Arc<Edge>,
    supply: Supply,
    access: Arc<Access>,
    config: Config,
    clients: Listener,
    peers: Option<Listener>,
    gossip: Option<(Gossip, Ear)>,
    discovery: Option<Discovery>,
    admin: Listener,
    addresses: Addresses,
    start: Start,
}

/// Who gave an edge its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// The configuration names it.
    Configured,
    /// The program that embeds the edge; no configuration takes its place.
    Embedded,
}

/// How an edge starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Ready as soon as it has met its peers.
    Cold,
    /// Ready when it has what is wanted most.
    Warm,
}

/// Where a [`Server`] listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub clients: SocketAddr,
    /// For peers.
    pub peers: Option<SocketAddr>,
    /// For operators.
    pub admin: SocketAddr,
}

impl Server {
    /// An edge in front of the HTTP origin that `config` names.
    ///
    /// # Errors
    /// [`StartError`], with the key that is to blame.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_on(config, Vec::new()).await
    }

    /// As [`bind`](Self::bind), with listening sockets that are open already: each
    /// takes the place of the one that the configuration has at its address. What
    /// connects to them while no edge runs waits, and edges that overlap share them,
    /// so that a restart refuses nobody.
    ///
    /// # Errors
    /// [`StartError`]; also for a socket at an address where this edge does not listen.
    pub async fn bind_on(config: Config, sockets: Vec<std::net::TcpListener>) -> Result<Self, StartError> {
        let origin = http_origin(&config)?;
        Self::assemble(config, (Supply::Configured, Box::new(origin)), Inherited::new(sockets)).await
    }

    /// An edge in front of any [`Origin`], such as a closure. Of `[origin]`, the
    /// `first_byte_timeout` and the number of `requests` hold for it too, as they are
    /// now: a reload leaves the origin alone.
    ///
    /// # Errors
    /// [`StartError`], with the key that is to blame.
    pub async fn bind_with(config: Config, origin: impl Origin) -> Result<Self, StartError> {
        let bounded = Bounded::new(origin, config.origin.first_byte_timeout.0, config.origin.requests);
        Self::assemble(config, (Supply::Embedded, Box::new(bounded)), Inherited::default()).await
    }

    async fn assemble(
        config: Config,
        (supply, origin): (Supply, Box<dyn Origin>),
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let clients = inherited.listen("edge.listen", config.edge.listen)?;
        let (peers, ear) = match &config.cluster {
            Some(cluster) => {
                let (listener, ear) = inherited.listen_to_peers(cluster).await?;
                (Some(listener), ear)
            }
            None => (None, None),
        };
        // The last to listen: whoever reaches it may conclude that the others listen.
        let admin = inherited.listen("admin.listen", config.admin.listen)?;
        inherited.check_nothing_is_left()?;
        let addresses = Addresses {
            clients: clients.address,
            admin: admin.address,
            peers: peers.as_ref().map(|listener| listener.address),
        };
        let membership = Arc::new(membership(&config, addresses.peers));
        let metrics = Arc::new(Metrics::default());
        let gossip = ear.zip(config.cluster.as_ref()).map(|(ear, cluster)| {
            let (membership, metrics) = (Arc::clone(&membership), Arc::clone(&metrics));
            (Gossip::new(cluster, &config.edge.name, random(), membership, metrics), ear)
        });
        let discovery = discovery(&config, membership.own())?;
        let cluster = config.cluster.clone().unwrap_or_default();
        let edge = Edge::new(Parts {
            name: config.edge.name.clone(),
            limits: Limits {
                uri: bytes(config.limits.uri),
                header: bytes(config.limits.header),
                body: config.limits.body.0,
                underscores: if config.limits.underscore_headers { Underscores::Kept } else { Underscores::Dropped },
            },
            loop_id: loop_id(),
            plan: config.plan(),
            arena: arena(&config),
            policy: policy(&config)?,
            origin,
            peers: peers_client(&config),
            attempts: cluster.attempts,
            peer_timeout: cluster.connect_timeout.0,
            probe_interval: cluster.probe_timeout.0,
            warm_keys: cluster.warm_keys,
            max_detached_fills: (config.origin.requests / 2).max(1),
            membership: Arc::clone(&membership),
            metrics: Arc::clone(&metrics),
        });
        let access = Access { edge: config.edge.name.clone(), membership, metrics, lines: None };
        Ok(Self {
            edge,
            supply,
            access: Arc::new(access),
            config,
            clients,
            peers,
            gossip,
            discovery,
            admin,
            addresses,
            start: Start::Cold,
        })
    }

    /// Has `lost` counted among the lines that could not be written.
    pub(crate) fn count_lost(&self, lost: ErrorCounter) {
        self.access.metrics.count_lost_lines(lost);
    }

    /// Writes a line for each request.
    pub(crate) fn log_to(&mut self, format: Format, out: NonBlocking) {
        let Access { edge, membership, metrics, .. } = &*self.access;
        metrics.count_lost_lines(out.error_counter());
        self.access = Arc::new(Access {
            edge: edge.clone(),
            membership: Arc::clone(membership),
            metrics: Arc::clone(metrics),
            lines: Some((format, out)),
        });
    }

    /// Before it reports ready, the edge pulls what it owns, and peers hold, the
    /// most wanted first: `cluster.warm_keys` of them in `cluster.warm_time`.
    pub fn start_warm(&mut self) {
        self.start = Start::Warm;
    }

    /// Where it listens; the ports are known even if the configuration says 0.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The edge itself.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// A handle by which the configuration is changed while the edge runs.
    pub fn reloading(&self) -> Reloading {
        Reloading { edge: Arc::clone(&self.edge), supply: self.supply, running: self.config.clone() }
    }

    /// Serves until `shutdown` resolves, then lets what is under way end, for
    /// `edge.drain` at most. Returns how many connections it had to cut short.
    ///
    /// Tells its peers first that it drains; they may still ask until they have
    /// heard, so peers' requests end last.
    ///
    /// # Errors
    /// [`RunError`] when a task that must last has ended, by a panic: it would be an
    /// edge that is up and answers nobody, or hears of no peer. It has drained as well.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<usize, RunError> {
        Running::begin(self).until(shutdown).await
    }
}

/// The rules and times of a configuration.
pub(crate) fn policy(config: &Config) -> Result<Policy, StartError> {
    Ok(Policy {
        rules: config.rules().map_err(StartError::Config)?,
        queries: config.queries().map_err(StartError::Config)?,
        forwarding: Forwarding::new(
            config.edge.trusted_proxies.iter().map(|network| network.0).collect(),
            HeaderValue::from_static(config.edge.scheme.name()),
            config.edge.told_host().map_err(StartError::Config)?,
        ),
        forward: config.origin.forwarded().map_err(StartError::Config)?,
        times: Times {
            negative: config.cache.negative_ttl.0,
            heuristic: config.cache.heuristic.0,
            hint: config.cache.hint_ttl.0,
        },
        verify_first: config.cache.verify_first.0,
        wrong_content_ttl: config.cache.wrong_content_ttl.0,
        hit_for_miss: config.cache.hit_for_miss.0,
        detached_fill_timeout: config.cache.detached_fill_timeout.0,
        methods: config.limits.methods().map_err(StartError::Config)?,
        writes: if config.cache.invalidate_on_write { Writes::Invalidate } else { Writes::Ignored },
        requests_per_client: config.limits.most_requests_per_client(config.origin.requests),
        variants: config.cache.variants,
    })
}

fn http_origin(config: &Config) -> Result<HttpOrigin, StartError> {
    let origin = &config.origin;
    let patience = Timeouts {
        connect: origin.connect_timeout.0,
        idle: origin.idle_timeout.0,
        lifetime: origin.connection_lifetime.0,
    };
    let http = HttpOrigin::new(&origin.url, patience, origin.first_byte_timeout.0, origin.requests)
        .map_err(|error| StartError::Config(format!("origin.url: {error}")))?;
    Ok(if origin.rewrite_location { http.rewriting_locations() } else { http })
}

fn peers_client(config: &Config) -> Peers {
    let cluster = config.cluster.clone().unwrap_or_default();
    if config.cluster.is_some() && cluster.first_byte_timeout.0 <= config.origin.first_byte_timeout.0 {
        tracing::warn!(
            "cluster.first_byte_timeout is not above origin.first_byte_timeout: a slow origin will pass for a dead peer"
        );
    }
    let (connect, idle, lifetime) = (cluster.connect_timeout.0, cluster.idle_timeout.0, DEFAULT_LIFETIME);
    let patience = Timeouts { connect, idle, lifetime };
    // A drain ends a connection that is idle to hyper, but waits for a peek.
    let probe_interval = cluster.probe_timeout.0.min(connection::LINGER / 2);
    Peers::new(patience, cluster.first_byte_timeout.0, probe_interval)
}

/// Where large pieces of bodies are held.
fn arena(config: &Config) -> Arc<Arena> {
    if config.edge.zero_copy == ZeroCopy::Off {
        return Arena::none();
    }
    Arena::reserve(config.plan().bodies()).unwrap_or_else(|error| {
        tracing::info!(%error, "zero-copy unavailable on this system, copying large bodies");
        Arena::none()
    })
}

/// A name for CDN-Loop that no other process has.
fn loop_id() -> HeaderValue {
    HeaderValue::try_from(format!("peerage-{:016x}", random())).unwrap_or_else(|_| HeaderValue::from_static("peerage"))
}

fn membership(config: &Config, listening: Option<SocketAddr>) -> Membership {
    let (Some(cluster), Some(listening)) = (&config.cluster, listening) else {
        return Membership::alone();
    };
    let own = cluster.own(listening);
    if cluster.discover.is_some() {
        return Membership::seeking(&own).remembering(cluster.warm_window.0);
    }
    warn_if_guest(cluster, &own, &cluster.peers);
    Membership::new(&own, cluster.peers.iter().map(String::as_str)).remembering(cluster.warm_window.0)
}

fn warn_if_guest(cluster: &ClusterConfig, own: &str, list: &[String]) {
    let joins = cluster.gossip && cluster.secret.is_some();
    if !list.is_empty() && !list.iter().any(|name| name == own) && !joins {
        tracing::warn!(%own, "this edge is not in the member list: it answers peers, and owns no keys");
    }
}

/// What follows `cluster.discover`, if that is set.
pub(crate) fn discovery(config: &Config, own: &str) -> Result<Option<Discovery>, StartError> {
    let Some(cluster) = &config.cluster else {
        return Ok(None);
    };
    let registry = cluster.registry().map_err(StartError::Config)?;
    let nameserver = cluster.nameserver().map_err(StartError::Config)?;
    let settings = Settings {
        refresh: cluster.refresh.0,
        nameserver,
        lease: cluster.lease.0,
        connect: cluster.connect_timeout.0,
        own: own.into(),
        edge: config.edge.name.clone(),
    };
    Ok(registry.map(|registry| Discovery::new(registry, settings)))
}

/// Has a finding counted, and a list taken.
fn follow_finding(access: &Access, cluster: Option<&ClusterConfig>) -> impl FnMut(Finding<'_>) + Send + use<> {
    let (membership, metrics) = (Arc::clone(&access.membership), Arc::clone(&access.metrics));
    let cluster = cluster.cloned().unwrap_or_default();
    move |finding| match finding {
        Finding::Changed(list) => {
            metrics.discovery(Fetched::Ok);
            warn_if_guest(&cluster, membership.own(), list);
            membership.replace(list.iter().map(String::as_str));
        }
        Finding::Same => metrics.discovery(Fetched::Ok),
        Finding::Failed => {
            metrics.discovery(Fetched::Error);
            membership.make_do();
        }
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}
