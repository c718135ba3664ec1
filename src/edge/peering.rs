//! [`Peering`]: the peers of an edge, and the purges that it sends them.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode};

use super::forwarding::{tell_scope, tell_site};
use super::hedge_budget::HedgeBudget;
use super::missed_purges::{MAX_KEYS, MissedPurges, Noted};
use crate::body::Body;
use crate::cluster::membership::Membership;
use crate::error::Error;
use crate::key::AssetKey;
use crate::observe::metrics::Metrics;
use crate::peer::client::Peers;

/// The method by which one edge tells another, on its peer listener, to purge a target.
pub(super) const PURGE: &[u8] = b"PURGE";

/// The target of a PURGE of all responses that no name proves. No key has this name.
pub(super) const EVERYTHING: &str = "*";

/// The peers of an edge, with their missed purges and the budget for hedges.
pub(super) struct Peering {
    pub(super) client: Peers,
    pub(super) membership: Arc<Membership>,
    pub(super) missed_purges: MissedPurges,
    pub(super) hedge_budget: HedgeBudget,
    /// The number of peers that are asked before the origin.
    pub(super) attempts: usize,
    /// The time limit of a peer that answers from its own store.
    pub(super) peer_timeout: Duration,
    /// The time that a request waits before its peer is pinged.
    pub(super) probe_interval: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Peering {
    /// Sends `peer` the purge of `key`.
    pub(super) async fn purge(&self, peer: &str, key: &AssetKey) -> Result<(), Error> {
        let mut request = purge(key.target());
        tell_scope(key, request.headers_mut());
        tell_site(key.site(), request.headers_mut());
        self.send_purge(peer, request).await.map(drop)
    }

    /// Sends `peer` the purge of all responses that no name proves.
    pub(super) async fn purge_everything(&self, peer: &Arc<str>) -> Result<(), Error> {
        match self.send_purge(peer, purge(PathAndQuery::from_static(EVERYTHING))).await? {
            StatusCode::NO_CONTENT => Ok(()),
            other => Err(Error::PeerBroke(format!("unexpected status {other} for PURGE {EVERYTHING}"))),
        }
    }

    async fn send_purge(&self, peer: &str, request: Request<Body>) -> Result<StatusCode, Error> {
        // A peer that is silent for longer may serve its old response until that is stale.
        let response = tokio::time::timeout(self.peer_timeout, self.client.ask(peer, request)).await;
        response.unwrap_or(Err(Error::PeerTimeout)).map(|reply| reply.response.status())
    }

    /// Records a purge that `peer` has missed.
    pub(super) fn note_missed_purge(&self, peer: &Arc<str>, key: &AssetKey) {
        if self.missed_purges.note(peer, key) == Noted::Overflowed {
            self.metrics.overflowed_invalidations();
            tracing::warn!(%peer, limit = MAX_KEYS, "unreachable peer missed more purges than are kept; when it answers again it will drop all responses except those of verified names");
        }
    }
}

/// Returns a request to purge `target`.
fn purge(target: PathAndQuery) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(PURGE).expect("PURGE is a token");
    *request.uri_mut() = target.into();
    request
}
