//! Builds the parts of an edge from its configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;

use crate::body::zero_copy::Arena;
use crate::cluster::discovery::{Discovery, Finding, Registry, Settings};
use crate::cluster::membership::Membership;
use crate::config::{ClusterConfig, ClusterTlsMode, Config, Size, ZeroCopy};
use crate::conn::handler::LINGER;
use crate::conn::https::{HttpsPolicy, Redirect};
use crate::edge::{Edge, Forwarding, Limits, Parts, Policies};
use crate::error::StartError;
use crate::key::DEFAULT_SITE;
use crate::observe::access::Access;
use crate::observe::metrics::{Fetched, Metrics};
use crate::origin::Origin;
use crate::origin::embedded::Bounded;
use crate::origin::http_origin::HttpOrigin;
use crate::peer::client::Peers;
use crate::random::random;
use crate::semantics::request_headers::Underscores;
use crate::semantics::scheme::Scheme;
use crate::semantics::storing::FallbackTtls;
use crate::site::Sites;
use crate::site::policy::{Policy, ToldHost, Writes};
use crate::tls::{PeerTls, TicketScope, TlsAcceptor, TlsConnector};
use crate::upstream::{DEFAULT_LIFETIME, PeerSecurity, Timeouts};

/// The source of an edge's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OriginSource {
    /// The `[origin]` table.
    Configured,
    /// The program that embeds the edge. A reload does not replace it.
    Embedded,
}

/// The parts of an edge that its configuration does not determine.
pub(crate) struct Supplied {
    pub(crate) origin: Box<dyn Origin>,
    pub(crate) arena: Arc<Arena>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) peer_tls: Option<Arc<PeerTls>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Builds an edge from a checked configuration and the supplied parts.
pub(crate) fn edge(config: &Config, supplied: Supplied) -> Result<Arc<Edge>, StartError> {
    let Supplied { origin, arena, membership, peer_tls, metrics } = supplied;
    let cluster = config.cluster.clone().unwrap_or_default();
    Ok(Edge::new(Parts {
        name: config.edge.name.clone(),
        limits: Limits {
            uri: bytes(config.limits.uri),
            header: bytes(config.limits.header),
            body: config.limits.body.0,
            body_timeout: config.limits.body_timeout.0,
            body_rate: config.limits.body_rate.0,
            underscores: if config.limits.underscore_headers { Underscores::Kept } else { Underscores::Dropped },
        },
        loop_id: loop_id(),
        plan: config.plan(),
        arena,
        policies: policies(config)?,
        origin,
        peers: peers_client(config, peer_tls),
        attempts: cluster.attempts,
        peer_timeout: cluster.connect_timeout.0,
        probe_interval: cluster.probe_timeout.0,
        warm_keys: cluster.warm_keys,
        max_detached_fills: (config.origin.requests / 2).max(1),
        membership,
        metrics,
    }))
}

/// Returns the settings of a configuration that a reload can change.
pub(crate) fn policies(config: &Config) -> Result<Policies, StartError> {
    Ok(Policies {
        forwarding: Forwarding::new(
            config.edge.trusted_proxies.iter().map(|network| network.0).collect(),
            config.edge.scheme,
        ),
        methods: config.limits.methods().map_err(StartError::Config)?,
        requests_per_client: config.limits.most_requests_per_client(config.origin.requests),
        sites: Sites::new(vec![(DEFAULT_SITE, policy(config)?)]).map_err(StartError::Config)?,
    })
}

/// Returns the policy of the default site.
fn policy(config: &Config) -> Result<Policy, StartError> {
    Ok(Policy {
        rules: config.rules().map_err(StartError::Config)?,
        queries: config.queries().map_err(StartError::Config)?,
        told_host: match config.edge.told_host().map_err(StartError::Config)? {
            Some(host) => ToldHost::OfRequest(host),
            None => ToldHost::OfProxy,
        },
        forward: config.origin.forwarded().map_err(StartError::Config)?,
        times: FallbackTtls {
            negative: config.cache.negative_ttl.0,
            heuristic: config.cache.heuristic.0,
            hint: config.cache.hint_ttl.0,
        },
        verify_first: config.cache.verify_first.0,
        wrong_content_ttl: config.cache.wrong_content_ttl.0,
        hit_for_miss: config.cache.hit_for_miss.0,
        detached_fill_timeout: config.cache.detached_fill_timeout.0,
        writes: if config.cache.invalidate_on_write { Writes::Invalidate } else { Writes::Ignored },
        variants: config.cache.variants,
    })
}

/// Returns the client for the origin that `origin.url` names.
pub(crate) fn http_origin(config: &Config) -> Result<HttpOrigin, StartError> {
    let origin = &config.origin;
    let timeouts = Timeouts {
        connect: origin.connect_timeout.0,
        idle: origin.idle_timeout.0,
        lifetime: origin.connection_lifetime.0,
    };
    if origin.insecure_skip_verify {
        tracing::warn!(url = %origin.url, "the origin's certificate is not verified (origin.insecure_skip_verify)");
    }
    let (first_byte, requests) = (origin.first_byte_timeout.0, origin.requests);
    let http = HttpOrigin::new(&origin.url, &origin.tls(), timeouts, first_byte, requests)
        .map_err(|error| StartError::Config(format!("origin: {error}")))?;
    Ok(if origin.rewrite_location { http.rewriting_locations() } else { http })
}

/// Returns `origin` with the limits that `config` sets for an embedded one.
pub(crate) fn embedded_origin(config: &Config, origin: Box<dyn Origin>) -> Bounded {
    Bounded::new(origin, config.origin.first_byte_timeout.0, config.origin.requests)
}

/// Returns the acceptor for the listeners of `tls.listen`, if there are any.
pub(crate) fn tls_acceptor(config: &Config) -> Result<Option<Arc<TlsAcceptor>>, StartError> {
    if config.tls.listen.is_empty() {
        return Ok(None);
    }
    let has_secure_peers = config.cluster.as_ref().is_some_and(|cluster| cluster.tls.is_some());
    let tickets = if has_secure_peers { TicketScope::Shared } else { TicketScope::Local };
    let loaded = TlsAcceptor::load(config.tls.settings(), tickets);
    loaded.map(|tls| Some(Arc::new(tls))).map_err(|error| StartError::Config(format!("tls: {error}")))
}

/// Returns the TLS of connections to peers, if there is `[cluster.tls]`. `membership` has the
/// members whose certificates are accepted.
pub(crate) fn peer_tls(config: &Config, membership: &Arc<Membership>) -> Result<Option<Arc<PeerTls>>, StartError> {
    let Some(tls) = config.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref()) else {
        return Ok(None);
    };
    let members = Arc::clone(membership);
    let addresses = move || members.view().members().iter().map(|member| Arc::clone(&member.address)).collect();
    let loaded = PeerTls::load(tls.settings(membership.own()), Arc::new(addresses));
    loaded.map(|tls| Some(Arc::new(tls))).map_err(|error| StartError::Config(format!("cluster.tls: {error}")))
}

/// Warns if connections between edges may be in cleartext and leave this machine.
pub(super) fn warn_of_cleartext(cluster: &ClusterConfig, listening: SocketAddr) {
    match &cluster.tls {
        None if has_peers_elsewhere(cluster, listening) => tracing::warn!(
            address = %listening,
            "no [cluster.tls]: connections between edges are neither encrypted nor authenticated, any host that reaches this port can read and purge"
        ),
        Some(tls) if tls.mode == ClusterTlsMode::Accept => tracing::warn!(
            address = %listening,
            "cluster.tls.mode is \"accept\": peers in cleartext are accepted; remove it when every edge has [cluster.tls]"
        ),
        _ => {}
    }
}

/// Returns true if peers on other machines can reach this edge.
fn has_peers_elsewhere(cluster: &ClusterConfig, listening: SocketAddr) -> bool {
    let own = cluster.own(listening);
    let has_peers = cluster.discover.is_some()
        || cluster.gossip && cluster.secret.is_some()
        || cluster.peers.iter().any(|peer| *peer != own);
    has_peers && !listening.ip().is_loopback()
}

/// Returns the answers that lead clients to HTTPS. `tls` is the first address of `tls.listen`.
pub(super) fn https_policy(config: &Config, tls: Option<SocketAddr>) -> HttpsPolicy {
    let redirect =
        if config.edge.redirect_to_https { Redirect::On(tls.map(|address| address.port())) } else { Redirect::Off };
    HttpsPolicy::new(redirect, config.tls.hsts.0)
}

/// Returns the client for requests to peers.
fn peers_client(config: &Config, tls: Option<Arc<PeerTls>>) -> Peers {
    let cluster = config.cluster.clone().unwrap_or_default();
    if config.cluster.is_some() && cluster.first_byte_timeout.0 <= config.origin.first_byte_timeout.0 {
        tracing::warn!(
            "cluster.first_byte_timeout should be greater than origin.first_byte_timeout: a slow origin will look like a failed peer"
        );
    }
    let (connect, idle, lifetime) = (cluster.connect_timeout.0, cluster.idle_timeout.0, DEFAULT_LIFETIME);
    let timeouts = Timeouts { connect, idle, lifetime };
    // A connection whose request waits for a peek looks idle to hyper, which closes it at the
    // end of LINGER when this edge drains. The peek has to end before that.
    let peek_timeout = cluster.probe_timeout.0.min(LINGER / 2);
    Peers::new(timeouts, cluster.first_byte_timeout.0, peek_timeout, tls.map(PeerSecurity::new))
}

/// Returns the arena for large chunks of bodies.
pub(super) fn arena(config: &Config) -> Arc<Arena> {
    if config.edge.zero_copy == ZeroCopy::Off {
        return Arena::none();
    }
    Arena::reserve(config.plan().bodies()).unwrap_or_else(|error| {
        tracing::info!(%error, "zero-copy unavailable, copying large bodies");
        Arena::none()
    })
}

/// Returns a CDN-Loop identifier that no other process has.
fn loop_id() -> HeaderValue {
    HeaderValue::try_from(format!("peerage-{:016x}", random())).unwrap_or_else(|_| HeaderValue::from_static("peerage"))
}

/// Returns the membership, from the configured list or for discovery to fill.
pub(super) fn membership(config: &Config, listening: Option<SocketAddr>) -> Membership {
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

/// Warns if the member list does not name this edge.
pub(super) fn warn_if_guest(cluster: &ClusterConfig, own: &str, list: &[String]) {
    let joins = cluster.gossip && cluster.has_secret();
    if !list.is_empty() && !list.iter().any(|name| name == own) && !joins {
        tracing::warn!(%own, "this edge is not in the member list: it responds to peers but owns no keys");
    }
}

/// Returns the discovery that `cluster.discover` names, if that is set.
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
        etcd: cluster.etcd.settings(),
    };
    match registry.as_ref().and_then(Registry::etcd_scheme) {
        // Unusable files are an error at the start, and a failure of discovery later.
        Some(Scheme::Https) => {
            let loaded = TlsConnector::load(&settings.etcd.tls);
            loaded.map_err(|error| StartError::Config(format!("cluster.etcd: {error}")))?;
        }
        Some(Scheme::Http) if settings.etcd.credentials.is_some() => {
            tracing::warn!("the password for etcd is sent in cleartext; use etcds: in cluster.discover");
        }
        _ => {}
    }
    Ok(registry.map(|registry| Discovery::new(registry, settings)))
}

/// Returns a closure that counts each finding of discovery, and passes its list to the
/// membership.
pub(super) fn follow_finding(
    access: &Access,
    cluster: Option<&ClusterConfig>,
) -> impl FnMut(Finding<'_>) + Send + use<> {
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

/// Returns a size as a number of bytes in memory.
pub(super) fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn cleartext_is_exposed_if_there_are_peers_and_the_port_is_not_on_loopback() {
        let exposed = |peers: &[&str], secret: Option<Secret>, listening: &str| {
            let peers = peers.iter().map(|&peer| peer.to_owned()).collect();
            let listen = listening.parse().unwrap();
            has_peers_elsewhere(
                &ClusterConfig { listen, peers, secret, gossip: true, ..ClusterConfig::default() },
                listen,
            )
        };
        let secret = || Some(Secret("0123456789abcdef".to_owned()));
        assert!(exposed(&["10.0.0.5:7001", "10.0.0.6:7001"], None, "10.0.0.5:7001"));
        assert!(exposed(&[], secret(), "10.0.0.5:7001"), "others may join");
        assert!(!exposed(&["10.0.0.5:7001"], None, "10.0.0.5:7001"), "the edge is alone");
        assert!(!exposed(&["127.0.0.1:7001", "127.0.0.1:7002"], secret(), "127.0.0.1:7001"));
    }
}
