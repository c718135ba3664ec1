//! Requests to peers and to the origin.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{Request, Response};

use super::Edge;
use super::fill::Order;
use super::quota::Quota;
use crate::body::informational::Relay;
use crate::body::{Body, Ended};
use crate::cluster::health::Heard;
use crate::error::Error;
use crate::flight::Provider;
use crate::key::AssetKey;
use crate::observe::metrics::{Asked, Fetched};
use crate::semantics::{forward, validation};

/// A response, its provider, and the time of the request.
pub(super) struct Arrival {
    pub(super) provider: Provider,
    pub(super) response: Response<Body>,
    pub(super) asked: SystemTime,
    pub(super) began: Instant,
}

/// A request to a peer, and its time.
struct Asking {
    peer: Arc<str>,
    asked: SystemTime,
    began: Instant,
}

impl Asking {
    fn of(peer: Arc<str>) -> Self {
        Self { peer, asked: SystemTime::now(), began: Instant::now() }
    }
}

impl Edge {
    /// Sends a request to a peer. Returns `None` if the peer gives no response. Informational
    /// responses go by `relay`.
    pub(super) async fn ask_peer(
        self: &Arc<Self>,
        peer: Arc<str>,
        request: Request<Body>,
        relay: Option<&Relay>,
    ) -> Option<Arrival> {
        let asking = Asking::of(peer);
        let answer = self.ask_unless_lost(&asking.peer, request, relay).await;
        self.asked_peer(asking, Heard::LateAnswer, answer)
    }

    /// Sends a request that the peer answers from its own store, with `peer_timeout` as the limit.
    pub(super) async fn ask_peer_promptly(self: &Arc<Self>, peer: Arc<str>, request: Request<Body>) -> Option<Arrival> {
        let asking = Asking::of(peer);
        let answer = tokio::time::timeout(self.peer_timeout, self.ask_unless_lost(&asking.peer, request, None)).await;
        let heard = Heard::Answer(asking.began.elapsed());
        self.asked_peer(asking, heard, answer.unwrap_or(Err(Error::PeerInDoubt)))
    }

    /// Notes the result of a request to a peer. A response counts as `heard`.
    fn asked_peer(
        self: &Arc<Self>,
        asking: Asking,
        heard: Heard,
        answer: Result<Response<Body>, Error>,
    ) -> Option<Arrival> {
        let Asking { peer, asked, began } = asking;
        match answer {
            Ok(response) => {
                self.hears(&peer, heard);
                Some(Arrival { provider: Provider::Peer(peer), response, asked, began })
            }
            Err(error) => {
                self.metrics.fetch(Asked::Peer, Fetched::Error, began.elapsed());
                match error {
                    // A peer that was given up on suspicion has not failed.
                    Error::PeerInDoubt => {}
                    // The response may have broken off at the origin, behind the peer.
                    Error::PeerBroke(_) => {
                        tracing::warn!(%peer, %error, "peer response failed, asking the next in rank");
                        self.hears_part(&peer);
                    }
                    error => self.misses(&peer, &error),
                }
                None
            }
        }
    }

    /// Sends one request to the origin. A failure is counted here; a response is counted when its
    /// body ends.
    pub(super) async fn ask_origin(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        request.headers_mut().append(forward::CDN_LOOP, self.loop_id.clone());
        self.policy.load().forwarding.tell_site(request.headers_mut());
        let origin = self.origin.load_full();
        let fetching = self.metrics.fetching(Asked::Origin);
        let answer = origin.fetch(request).await?;
        fetching.answered();
        Ok(answer)
    }

    /// Wraps the body of a response from `provider`, requested at `began`: its end is counted, and
    /// the quota is held until then.
    pub(super) fn counted(&self, provider: &Provider, began: Instant, quota: Quota, body: Body) -> Body {
        let (metrics, asked) = (Arc::clone(&self.metrics), asked(provider));
        Body::told(body, move |ended| {
            drop(quota);
            // A client that leaves early is no failure of the upstream.
            let fetched = if ended == Ended::Badly { Fetched::Error } else { Fetched::Ok };
            metrics.fetch(asked, fetched, began.elapsed());
        })
    }
}

/// Returns an unconditional request for the whole response.
pub(super) fn for_all(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = key.target().into();
    *request.headers_mut() = order.headers.clone();
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

/// Returns a [`conditional`] request whose informational responses are relayed to the leader's
/// client.
pub(super) fn request(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = conditional(key, order);
    if let Some(relay) = &order.relay {
        relay.listen(&mut request);
    }
    request
}

pub(super) fn asked(provider: &Provider) -> Asked {
    match provider {
        Provider::Origin => Asked::Origin,
        Provider::Peer(_) => Asked::Peer,
    }
}
