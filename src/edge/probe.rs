//! What requests tell of peers, and looking after those that do not answer.
//!
//! A peer that did not answer, or is back from being down, is passed over until
//! it has answered a question that costs it nothing. It is asked that again and
//! again, one question at a time: no request of a client has to find out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::header::MAX_FORWARDS;
use http::{HeaderValue, Method, Request};

use super::Edge;
use crate::body::Body;
use crate::cluster::health::Heard;
use crate::error::Error;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);

impl Edge {
    /// Notes that `peer` answers.
    pub(super) fn hears(&self, peer: &str, answer: Heard) {
        if self.membership.note(peer, answer) {
            tracing::info!(%peer, "peer answers again");
        }
    }

    /// An answer of `peer` broke off. It may be that the origin's broke off there: so the
    /// peer is asked a question, which shows whether it is in trouble itself.
    pub(super) fn hears_part(self: &Arc<Self>, peer: &Arc<str>) {
        self.membership.note(peer, Heard::Part);
        let Some(health) = self.membership.view().peer(peer).cloned() else {
            return;
        };
        let (edge, peer) = (Arc::clone(self), Arc::clone(peer));
        tokio::spawn(async move {
            // If somebody asks already, that will do.
            let Some(_ping) = health.ping() else {
                return;
            };
            match edge.question(&peer, edge.peer_timeout).await {
                Ok(()) => edge.tell_unheard(&peer),
                Err(error) => edge.misses(&peer, &error),
            }
        });
    }

    /// No answer came from `peer`.
    pub(super) fn misses(&self, peer: &str, error: &Error) {
        self.note_no_answer(peer, Heard::Nothing, error);
    }

    fn note_no_answer(&self, peer: &str, heard: Heard, error: &Error) {
        if self.membership.note(peer, heard) {
            tracing::warn!(%peer, %error, "peer does not answer, asking the next in rank");
        }
    }

    /// Looks after peers that do not answer, for ever.
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

    /// Asks `peer` a question that costs it nothing.
    pub(super) async fn question(&self, peer: &str, patience: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let answer = tokio::time::timeout(patience, self.peers.ask(peer, for_this_hop())).await;
        answer.unwrap_or(Err(Error::PeerTimeout))?;
        self.hears(peer, Heard::Answer(began.elapsed()));
        Ok(())
    }
}

/// A request that its receiver answers itself (RFC 9110 §7.6.2).
pub(super) fn for_this_hop() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::OPTIONS;
    request.headers_mut().insert(MAX_FORWARDS, HeaderValue::from_static("0"));
    request
}
