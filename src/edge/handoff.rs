//! Keys that have come to another owner: whoever had them before is asked for
//! them, and only then the origin.
//!
//! Whoever holds an asset says so at once, and whoever does not asks nobody for
//! it (`only-if-cached`, RFC 9111 §5.2.1.7): so a question costs little, and no two
//! edges can wait for one another.

use std::sync::Arc;
use std::time::Instant;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::admission::Landed;
use super::coalesce::{Role, Shared};
use super::fetch::{Arrival, conditional};
use super::fill::{Leading, Order};
use super::{Answer, Ask, Edge};
use crate::body::Body;
use crate::body::growing::Reader;
use crate::flight::Outcome;
use crate::key::AssetKey;
use crate::observe::metrics::{Sought, Source};
use crate::semantics::cache_status::Handled;
use crate::semantics::forward;
use crate::semantics::storing::Credentials;

impl Edge {
    /// Fills a flight to the origin with what peers hold. Returns the lead if no peer
    /// has the asset.
    pub(super) async fn fill_from_holders(self: &Arc<Self>, mut leading: Leading, order: &Order) -> Option<Leading> {
        if order.stale.is_some() || order.credentials != Credentials::None {
            return Some(leading);
        }
        for peer in self.holders(leading.lead.key()) {
            let Some(arrival) = self.ask_holder(peer, leading.lead.key(), order).await else {
                continue;
            };
            match self.receive(leading, order, arrival).await {
                Landed::Done => return None,
                Landed::Broken(again, error) => {
                    tracing::warn!(path = %again.lead.key(), %error, "handoff from a previous owner failed");
                    leading = again;
                }
            }
        }
        Some(leading)
    }

    /// The peers that may hold an asset which this edge would get from the origin, at
    /// most as many as may be asked.
    fn holders(&self, key: &AssetKey) -> Vec<Arc<str>> {
        // A write may not have come to all of them yet.
        if self.store.has_changed(key) {
            return Vec::new();
        }
        let mut holders = self.membership.may_hold(key.hash(), Instant::now());
        holders.retain(|name| !self.store.doubts(name, key));
        holders.truncate(self.attempts);
        holders
    }

    pub(super) async fn ask_holder(self: &Arc<Self>, peer: Arc<str>, key: &AssetKey, order: &Order) -> Option<Arrival> {
        let mut request = conditional(key, order);
        request.headers_mut().append(CACHE_CONTROL, HeaderValue::from_static("only-if-cached"));
        let arrival = self.ask_peer_promptly(peer, request).await;
        let outcome = match &arrival {
            Some(arrival) if is_held(&arrival.reply.response) => Sought::Chunks,
            Some(_) => Sought::Missing,
            None => Sought::Error,
        };
        self.metrics.taken_over(outcome);
        arrival.filter(|_| outcome == Sought::Chunks)
    }

    /// Answers a peer's `only-if-cached` request from a flight that is streaming, which
    /// is as good as stored.
    pub(super) fn answer_held(self: &Arc<Self>, ask: &Ask) -> Option<Answer> {
        let flight = self.flights.to_origin(&ask.key, Credentials::None).filter(|_| ask.source == Source::Peer)?;
        let reader = Reader::new(Arc::clone(&flight.body));
        let Some(Outcome::Streaming(streaming)) = flight.look() else {
            return None;
        };
        let mut headers = ask.headers.clone();
        forward::strip_hop_by_hop(&mut headers);
        headers.remove(CACHE_CONTROL);
        let order = Arc::new(self.order(ask, &headers, None));
        let good = Self::selects(streaming, &headers) && !streaming.head.facts.must_be_validated(ask.now);
        let shared = Shared { reader, streaming: streaming.clone(), order, own: HeaderMap::new() };
        good.then(|| self.answer_flight(ask, Handled::UriMiss, Role::Follower, shared))
    }
}

/// Whether an answer is what was stored, rather than why there is none.
fn is_held(response: &Response<Body>) -> bool {
    let status = response.status();
    status.is_success() || status.is_redirection() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
