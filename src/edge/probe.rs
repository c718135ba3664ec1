//! The health of peers, as requests show it, and probes of those that do not answer.
//!
//! A peer that did not answer, or was down, gets no requests of clients until it has answered a
//! probe that costs it nothing. Probes are repeated, one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::header::MAX_FORWARDS;
use http::{HeaderValue, Method, Request};

use super::Edge;
use crate::body::Body;
use crate::cluster::health::Heard;
use crate::error::Error;

/// The pause between two rounds of probes.
const PAUSE: Duration = Duration::from_millis(250);

impl Edge {
    /// Notes that `peer` has answered.
    pub(super) fn hears(&self, peer: &str, answer: Heard) {
        if self.membership.note(peer, answer) {
            tracing::info!(%peer, "peer answers again");
        }
    }

    /// Notes that a response of `peer` broke off. The cause may be the origin behind it, so the
    /// peer is probed.
    pub(super) fn hears_part(self: &Arc<Self>, peer: &Arc<str>) {
        self.membership.note(peer, Heard::Part);
        let Some(health) = self.membership.view().peer(peer).cloned() else {
            return;
        };
        let (edge, peer) = (Arc::clone(self), Arc::clone(peer));
        tokio::spawn(async move {
            // If another task is pinging the peer, that is enough.
            let Some(_ping) = health.ping() else {
                return;
            };
            match edge.question(&peer, edge.peer_timeout).await {
                Ok(()) => edge.tell_unheard(&peer),
                Err(error) => edge.misses(&peer, &error),
            }
        });
    }

    /// Notes that `peer` has not answered a request.
    pub(super) fn misses(&self, peer: &str, error: &Error) {
        self.note_no_answer(peer, Heard::Nothing, error);
    }

    fn note_no_answer(&self, peer: &str, heard: Heard, error: &Error) {
        if self.membership.note(peer, heard) {
            tracing::warn!(%peer, %error, "peer does not answer, asking the next in rank");
        }
    }

    /// Probes the peers that do not answer, forever.
    pub(crate) async fn look_after_peers(self: Arc<Self>) {
        loop {
            let silent = self.membership.view().silent();
            if silent.is_empty() {
                self.membership.someone_is_silent().await;
                continue;
            }
            join_all(silent.iter().map(|peer| self.probe(peer))).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn probe(self: &Arc<Self>, peer: &Arc<str>) {
        match self.question(peer, self.peer_timeout).await {
            Ok(()) => self.tell_unheard(peer),
            Err(error) => self.note_no_answer(peer, Heard::Silence, &error),
        }
    }

    /// Sends `peer` a request that costs it nothing, with `patience` as the time limit.
    pub(super) async fn question(&self, peer: &str, patience: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let answer = tokio::time::timeout(patience, self.peers.ask(peer, for_this_hop())).await;
        answer.unwrap_or(Err(Error::PeerTimeout))?;
        self.hears(peer, Heard::Answer(began.elapsed()));
        Ok(())
    }
}

/// Returns a request that its receiver answers itself (RFC 9110 §7.6.2).
pub(super) fn for_this_hop() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::OPTIONS;
    request.headers_mut().insert(MAX_FORWARDS, HeaderValue::from_static("0"));
    request
}
