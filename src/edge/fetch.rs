//! Asking upstream, a peer or the origin, and what is asked of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::Request;

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
use crate::origin::Call;
use crate::semantics::{forward, validation};
use crate::upstream::Reply;

/// A response as it came, who sent it, and when it was asked for.
pub(super) struct Arrival {
    pub(super) provider: Provider,
    pub(super) reply: Reply,
    pub(super) asked: SystemTime,
    pub(super) began: Instant,
}

/// A peer that is being asked, and since when.
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
    /// The answer of a peer, if it gives one. Informational responses go by `relay`.
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

    /// As `ask_peer`, of a peer that has to ask nobody else for it.
    pub(super) async fn ask_peer_promptly(self: &Arc<Self>, peer: Arc<str>, request: Request<Body>) -> Option<Arrival> {
        let asking = Asking::of(peer);
        let answer = tokio::time::timeout(self.peer_timeout, self.ask_unless_lost(&asking.peer, request, None)).await;
        let heard = Heard::Answer(asking.began.elapsed());
        self.asked_peer(asking, heard, answer.unwrap_or(Err(Error::PeerInDoubt)))
    }

    /// Notes how a request to a peer went; an answer to it counts as `heard`.
    fn asked_peer(self: &Arc<Self>, asking: Asking, heard: Heard, answer: Result<Reply, Error>) -> Option<Arrival> {
        let Asking { peer, asked, began } = asking;
        match answer {
            Ok(reply) => {
                self.hears(&peer, heard);
                Some(Arrival { provider: Provider::Peer(peer), reply, asked, began })
            }
            Err(error) => {
                self.metrics.fetch(Asked::Peer, Fetched::Error, began.elapsed());
                match error {
                    // Giving up on a doubt is no evidence that the peer failed.
                    Error::PeerInDoubt => {}
                    // Its first chunk may have broken off at the origin.
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

    /// One request to the origin; a failure is counted here, an answer by
    /// whoever sees its end.
    pub(super) async fn ask_origin(&self, mut call: Call) -> Result<Reply, Error> {
        call.request.headers_mut().append(forward::CDN_LOOP, self.loop_id.clone());
        self.policy.load().forwarding.tell_site(call.request.headers_mut());
        let origin = self.origin.load_full();
        let fetching = self.metrics.fetching(Asked::Origin);
        let answer = origin.fetch(call).await?;
        fetching.answered();
        Ok(answer)
    }

    /// The body of an answer of `provider`, asked at `began`, whose end is counted. The
    /// request counts for its client until then.
    pub(super) fn counted(&self, provider: &Provider, began: Instant, quota: Quota, body: Body) -> Body {
        let (metrics, asked) = (Arc::clone(&self.metrics), asked(provider));
        Body::told(body, move |ended| {
            drop(quota);
            // What the client leaves is nobody's failure.
            let fetched = if ended == Ended::Badly { Fetched::Error } else { Fetched::Ok };
            metrics.fetch(asked, fetched, began.elapsed());
        })
    }
}

/// Asks for all of what is ordered.
pub(super) fn for_all(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = key.target().into();
    *request.headers_mut() = order.headers.clone();
    request
}

/// As [`for_all`], but conditional where something is stored.
pub(super) fn conditional(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = for_all(key, order);
    if let Some(stale) = &order.stale {
        validation::add_condition(request.headers_mut(), &stale.fields().unpack());
    }
    request
}

/// As [`conditional`], with interim responses relayed to the leader's client.
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
