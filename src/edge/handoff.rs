//! Handoff: a new owner of a key asks the previous owners before it asks the origin.
//!
//! A previous owner answers at once, from its store or from a flight that streams, and asks no
//! other edge (`only-if-cached`, RFC 9111 §5.2.1.7). So a request is cheap, and two edges cannot
//! wait for one another.

use std::sync::Arc;

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};

use super::admission::Attempt;
use super::fetch::{Arrival, conditional};
use super::filler::Filler;
use super::order::{Leading, Order};
use super::rank::holders;
use crate::body::Body;
use crate::key::AssetKey;
use crate::observe::metrics::PeerLookup;
use crate::semantics::storing::Credentials;

impl Filler {
    /// Fills a flight to the origin from peers. Returns the lead if no peer has the asset.
    pub(super) async fn fill_from_holders(self: &Arc<Self>, mut leading: Leading, order: &Order) -> Option<Leading> {
        if order.stale.is_some() || order.credentials != Credentials::None {
            return Some(leading);
        }
        for peer in holders(&self.peering, &self.cache.store, leading.lead.key()) {
            let Some(arrival) = self.ask_holder(peer, leading.lead.key(), order).await else {
                continue;
            };
            match self.receive(leading, order, arrival).await {
                Attempt::Done => return None,
                Attempt::Unusable(again, error) => {
                    tracing::warn!(path = %again.lead.key(), %error, "handoff from a previous owner failed");
                    leading = again;
                }
            }
        }
        Some(leading)
    }

    pub(super) async fn ask_holder(&self, peer: Arc<str>, key: &AssetKey, order: &Order) -> Option<Arrival> {
        let mut request = conditional(key, order);
        request.headers_mut().append(CACHE_CONTROL, HeaderValue::from_static("only-if-cached"));
        let arrival = self.fetcher.ask_peer_for_stored(peer, request).await;
        let outcome = match &arrival {
            Some(arrival) if is_held(&arrival.reply.response) => PeerLookup::Found,
            Some(_) => PeerLookup::Missing,
            None => PeerLookup::Error,
        };
        self.metrics.taken_over(outcome);
        arrival.filter(|_| outcome == PeerLookup::Found)
    }
}

/// Returns true if a response is a stored one, and not an error about its absence.
fn is_held(response: &Response<Body>) -> bool {
    let status = response.status();
    status.is_success() || status.is_redirection() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
