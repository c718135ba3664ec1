//! [`Server`]: an edge and its bound listeners, before it runs.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
#[cfg(feature = "cli")]
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking};

use super::gossip::{Gossip, GossipSocket};
use super::listeners::{ClientListener, InheritedSockets, Listener};
use super::parts::{self, OriginSource, Supplied};
use super::reload::Reloading;
use crate::cluster::discovery::Discovery;
use crate::config::{ClusterConfig, Config, Secret};
use crate::edge::Edge;
use crate::error::StartError;
use crate::observe::access::Access;
#[cfg(feature = "cli")]
use crate::observe::access::Format;
use crate::observe::metrics::Metrics;
use crate::origin::Origin;
use crate::random::random;
use crate::tls::{PeerTls, TlsAcceptor};

/// An edge with bound listeners. It serves once it is [run](Server::run).
pub struct Server {
    pub(super) edge: Arc<Edge>,
    origin_source: OriginSource,
    pub(super) access: Arc<Access>,
    pub(super) config: Config,
    pub(super) clients: Vec<ClientListener>,
    pub(super) tls: Option<Arc<TlsAcceptor>>,
    pub(super) peers: Option<Listener>,
    pub(super) peer_tls: Option<Arc<PeerTls>>,
    pub(super) gossip: Option<(Gossip, GossipSocket)>,
    /// The secrets that gossip follows.
    secrets: watch::Sender<Vec<Secret>>,
    pub(super) discovery: Option<Discovery>,
    pub(super) admin: Listener,
    addresses: Addresses,
    pub(super) start_mode: StartMode,
}

/// The condition for an edge's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartMode {
    /// Ready once the edge has met its peers.
    Cold,
    /// Ready once the edge has also copied its most requested keys from peers.
    Warm,
}

/// The bound addresses of a [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The first of `edge.listen`, for clients; the first of `tls.listen`, if there is none.
    pub clients: SocketAddr,
    /// The first of `tls.listen`.
    pub tls: Option<SocketAddr>,
    /// `cluster.listen`, for peers.
    pub peers: Option<SocketAddr>,
    /// `admin.listen`, for operators.
    pub admin: SocketAddr,
}

impl Server {
    /// Creates an edge in front of the HTTP origin that `config` names, and binds its listeners.
    ///
    /// # Errors
    /// [`StartError`], which names the invalid key.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_on(config, Vec::new()).await
    }

    /// Creates an edge as [`bind`](Self::bind) does, with listening sockets that are open
    /// already. Each is used for the listener that the configuration has at its address.
    /// Connections wait in these sockets while no edge runs, and overlapping edges share the
    /// sockets, so a restart rejects no connection.
    ///
    /// # Errors
    /// [`StartError`], also for a socket at an address that the configuration does not name.
    pub async fn bind_on(config: Config, sockets: Vec<std::net::TcpListener>) -> Result<Self, StartError> {
        let origin = parts::http_origin(&config)?;
        Self::assemble(config, (OriginSource::Configured, Box::new(origin)), InheritedSockets::new(sockets)).await
    }

    /// Creates an edge in front of any [`Origin`], such as a closure. Of the `[origin]` table,
    /// `first_byte_timeout` and `requests` apply to it, with their current values: a reload
    /// does not change the origin.
    ///
    /// # Errors
    /// [`StartError`], which names the invalid key.
    pub async fn bind_with(config: Config, origin: impl Origin) -> Result<Self, StartError> {
        let origin = parts::embedded_origin(&config, Box::new(origin));
        Self::assemble(config, (OriginSource::Embedded, Box::new(origin)), InheritedSockets::default()).await
    }

    async fn assemble(
        config: Config,
        (origin_source, origin): (OriginSource, Box<dyn Origin>),
        mut inherited: InheritedSockets,
    ) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let tls = parts::tls_acceptor(&config)?;
        let clients = inherited.listen_to_clients(&config, tls.as_ref())?;
        let (peers, gossip_socket) = match &config.cluster {
            Some(cluster) => {
                let (listener, socket) = inherited.listen_to_peers(cluster).await?;
                parts::warn_of_cleartext(cluster, listener.address);
                (Some(listener), socket)
            }
            None => (None, None),
        };
        // The last to listen: a client that reaches it may conclude that the others listen.
        let admin = inherited.listen("admin.listen", config.admin.listen)?;
        inherited.check_all_used()?;
        let addresses = Addresses {
            clients: clients.first().expect("the configuration was checked").0.address,
            tls: clients.iter().find(|(_, tls)| tls.is_some()).map(|(listener, _)| listener.address),
            admin: admin.address,
            peers: peers.as_ref().map(|listener| listener.address),
        };
        let membership = Arc::new(parts::membership(&config, addresses.peers));
        let peer_tls = parts::peer_tls(&config, &membership)?;
        let metrics = Arc::new(Metrics::default());
        let secrets = config.cluster.iter().flat_map(ClusterConfig::secrets).cloned().collect();
        let (secrets, followed) = watch::channel(secrets);
        if let Some(tls) = &peer_tls {
            metrics.count_dials(Arc::clone(tls));
        }
        let gossip = gossip_socket.zip(config.cluster.as_ref()).map(|(socket, cluster)| {
            let (membership, metrics) = (Arc::clone(&membership), Arc::clone(&metrics));
            (Gossip::new(cluster, &config.edge.name, random(), followed, membership, metrics), socket)
        });
        let discovery = parts::discovery(&config, membership.own())?;
        let edge = parts::edge(
            &config,
            Supplied {
                origin,
                arena: parts::arena(&config),
                membership: Arc::clone(&membership),
                peer_tls: peer_tls.clone(),
                metrics: Arc::clone(&metrics),
            },
        )?;
        let access = Access { edge: config.edge.name.clone(), membership, metrics, lines: None };
        Ok(Self {
            edge,
            origin_source,
            access: Arc::new(access),
            config,
            clients,
            tls,
            peers,
            peer_tls,
            gossip,
            secrets,
            discovery,
            admin,
            addresses,
            start_mode: StartMode::Cold,
        })
    }

    /// Adds `lost` to the metric of dropped log lines.
    #[cfg(feature = "cli")]
    pub(crate) fn count_lost(&self, lost: ErrorCounter) {
        self.access.metrics.count_lost_lines(lost);
    }

    /// Writes the access log to `out`.
    #[cfg(feature = "cli")]
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

    /// Delays readiness until the edge has copied from its peers the keys that it owns, the
    /// most requested first: at most `cluster.warm_keys`, within `cluster.warm_time`.
    pub fn start_warm(&mut self) {
        self.start_mode = StartMode::Warm;
    }

    /// Returns the bound addresses, with the actual port where the configuration says 0.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Returns the edge.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Returns a handle that changes the configuration while the edge runs.
    pub fn reloading(&self) -> Reloading {
        Reloading {
            edge: Arc::clone(&self.edge),
            origin_source: self.origin_source,
            running: self.config.clone(),
            tls: self.tls.clone(),
            secrets: self.secrets.clone(),
            peer_tls: self.peer_tls.clone(),
        }
    }
}
