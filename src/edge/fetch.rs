//! Requests to peers and to the origin.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use http::{Request, StatusCode};

use super::forwarding::{SITE, tell_scope, tell_site};
use super::order::Order;
use super::peering::Peering;
use super::quota::{Quota, Quotas};
use super::settings::Settings;
use crate::body::informational::Relay;
use crate::body::{Body, Ended};
use crate::cluster::health::Heard;
use crate::error::Error;
use crate::flight::Provider;
use crate::key::AssetKey;
use crate::observe::metrics::{Asked, Fetched, Metrics};
use crate::origin::{Call, Origin};
use crate::semantics::{cdn_loop, validation};
use crate::upstream::Reply;

/// A response, its provider, and the time of the request.
pub(super) struct Arrival {
    pub(super) provider: Provider,
    pub(super) reply: Reply,
    pub(super) asked: SystemTime,
    pub(super) began: Instant,
}

/// A request to a peer, and its time.
struct PeerRequest {
    peer: Arc<str>,
    asked: SystemTime,
    began: Instant,
}

impl PeerRequest {
    fn of(peer: Arc<str>) -> Self {
        Self { peer, asked: SystemTime::now(), began: Instant::now() }
    }
}

/// The upstreams of an edge: its peers and the origin.
pub(super) struct Fetcher {
    pub(super) peering: Arc<Peering>,
    pub(super) origin: ArcSwap<Box<dyn Origin>>,
    /// The requests at the origin, by client.
    pub(super) quotas: Quotas,
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Arc<Metrics>,
}

impl Fetcher {
    /// Sends a request to a peer. Returns `None` if the peer gives no response. Informational
    /// responses go by `relay`.
    pub(super) async fn ask_peer(
        &self,
        peer: Arc<str>,
        request: Request<Body>,
        relay: Option<&Relay>,
    ) -> Option<Arrival> {
        let sent = PeerRequest::of(peer);
        let result = self.peering.ask(&sent.peer, request, relay).await;
        self.note_result(sent, Heard::LateAnswer, result)
    }

    /// Sends a request that the peer answers from its own store, with `peer_timeout` as the limit.
    pub(super) async fn ask_peer_for_stored(&self, peer: Arc<str>, request: Request<Body>) -> Option<Arrival> {
        let sent = PeerRequest::of(peer);
        let result = tokio::time::timeout(self.peering.peer_timeout, self.peering.ask(&sent.peer, request, None)).await;
        let heard = Heard::Answer(sent.began.elapsed());
        self.note_result(sent, heard, result.unwrap_or(Err(Error::PeerInDoubt)))
    }

    /// Notes the result of a request to a peer. A response counts as `heard`.
    fn note_result(&self, sent: PeerRequest, heard: Heard, result: Result<Reply, Error>) -> Option<Arrival> {
        let PeerRequest { peer, asked, began } = sent;
        match result {
            Ok(reply) => {
                self.peering.note_answer(&peer, heard);
                if is_of_unknown_site(&reply) {
                    tracing::warn!(%peer, "peer does not know the site, trying another source");
                    self.metrics.fetch(Asked::Peer, Fetched::Error, began.elapsed());
                    return None;
                }
                Some(Arrival { provider: Provider::Peer(peer), reply, asked, began })
            }
            Err(error) => {
                self.metrics.fetch(Asked::Peer, Fetched::Error, began.elapsed());
                match error {
                    // A peer that was given up on suspicion has not failed.
                    Error::PeerInDoubt => {}
                    // The response may have broken off at the origin, behind the peer.
                    Error::PeerBroke(_) => {
                        tracing::warn!(%peer, %error, "peer response broke off, trying another source");
                        self.peering.note_broken_response(&peer);
                    }
                    error => self.peering.note_no_answer(&peer, &error),
                }
                None
            }
        }
    }

    /// Sends one request to the origin. A failure is counted here; a response is counted when its
    /// body ends.
    pub(super) async fn ask_origin(&self, mut call: Call) -> Result<Reply, Error> {
        call.request.headers_mut().append(cdn_loop::CDN_LOOP, self.settings.loop_id.clone());
        call.request.headers_mut().remove(SITE);
        let origin = self.origin.load_full();
        let fetching = self.metrics.fetching(Asked::Origin);
        let mut answer = origin.fetch(call).await?;
        fetching.answered();
        // It has a meaning between edges alone.
        answer.response.headers_mut().remove(SITE);
        Ok(answer)
    }

    /// Wraps the body of a response from `provider`, requested at `began`: its end is counted, and
    /// the quota is held until then.
    pub(super) fn counted(&self, provider: &Provider, began: Instant, quota: Quota, body: Body) -> Body {
        let (metrics, asked) = (Arc::clone(&self.metrics), asked(provider));
        Body::with_end_hook(body, move |ended, _| {
            drop(quota);
            // A client that leaves early is no failure of the upstream.
            let fetched = if matches!(ended, Ended::Failed(_)) { Fetched::Error } else { Fetched::Ok };
            metrics.fetch(asked, fetched, began.elapsed());
        })
    }
}

/// Returns an unconditional request for the whole response, to a peer or the origin.
pub(super) fn for_all(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = key.target().into();
    *request.headers_mut() = order.headers.clone();
    tell_scope(key, request.headers_mut());
    tell_site(key.site(), request.headers_mut());
    request
}

/// Returns a request that is conditional if a response is stored.
pub(super) fn conditional(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = for_all(key, order);
    if let Some(stale) = &order.stale {
        validation::add_condition(request.headers_mut(), &stale.fields().unpack());
    }
    request
}

/// Returns a [`conditional`] request that relays informational responses to the leader's client.
pub(super) fn request(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = conditional(key, order);
    if let Some(relay) = &order.relay {
        relay.listen(&mut request);
    }
    request
}

/// Returns true if a peer does not serve the site that the request named.
fn is_of_unknown_site(reply: &Reply) -> bool {
    reply.response.status() == StatusCode::MISDIRECTED_REQUEST && reply.response.headers().contains_key(SITE)
}

pub(super) fn asked(provider: &Provider) -> Asked {
    match provider {
        Provider::Origin => Asked::Origin,
        Provider::Peer(_) => Asked::Peer,
    }
}
