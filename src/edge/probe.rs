//! The health of peers, as requests show it, and probes of those that do not answer.
//!
//! A peer that did not answer, or was down, gets no requests of clients until it has answered a
//! probe that costs it nothing. Probes are repeated, one at a time. A peer that answers again gets
//! the purges that it has missed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::header::MAX_FORWARDS;
use http::{HeaderValue, Method, Request};

use super::missed_purges::Missed;
use super::peering::Peering;
use crate::body::Body;
use crate::cluster::health::Heard;
use crate::error::Error;
use crate::key::AssetKey;

/// The pause between two rounds of probes.
const PAUSE: Duration = Duration::from_millis(250);

impl Peering {
    /// Notes that `peer` has answered.
    pub(super) fn note_answer(&self, peer: &str, answer: Heard) {
        if self.membership.note(peer, answer) {
            tracing::info!(%peer, "peer answers again");
        }
    }

    /// Notes that a response of `peer` broke off. The cause may be the origin behind it, so the
    /// peer is probed.
    pub(super) fn note_broken_response(self: &Arc<Self>, peer: &Arc<str>) {
        self.membership.note(peer, Heard::Part);
        let Some(health) = self.membership.view().peer(peer).cloned() else {
            return;
        };
        let (peering, peer) = (Arc::clone(self), Arc::clone(peer));
        tokio::spawn(async move {
            // If another task is pinging the peer, that is enough.
            let Some(_ping) = health.ping() else {
                return;
            };
            match peering.probe(&peer, peering.peer_timeout).await {
                Ok(()) => peering.deliver_missed_purges(&peer),
                Err(error) => peering.note_no_answer(&peer, &error),
            }
        });
    }

    /// Notes that `peer` has not answered a request.
    pub(super) fn note_no_answer(&self, peer: &str, error: &Error) {
        self.note_silence(peer, Heard::Nothing, error);
    }

    fn note_silence(&self, peer: &str, heard: Heard, error: &Error) {
        if self.membership.note(peer, heard) {
            tracing::warn!(%peer, %error, "peer does not answer, asking the next in rank");
        }
    }

    /// Probes the peers that do not answer, forever.
    pub(super) async fn probe_silent_peers(self: &Arc<Self>) {
        loop {
            let silent = self.membership.view().silent();
            if silent.is_empty() {
                self.membership.someone_is_silent().await;
                continue;
            }
            join_all(silent.iter().map(|peer| self.probe_silent(peer))).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn probe_silent(self: &Arc<Self>, peer: &Arc<str>) {
        match self.probe(peer, self.peer_timeout).await {
            Ok(()) => self.deliver_missed_purges(peer),
            Err(error) => self.note_silence(peer, Heard::Silence, &error),
        }
    }

    /// Sends `peer` a request that costs it nothing.
    pub(super) async fn probe(&self, peer: &str, timeout: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let response = tokio::time::timeout(timeout, self.client.ask(peer, for_this_hop())).await;
        response.unwrap_or(Err(Error::PeerTimeout))?;
        self.note_answer(peer, Heard::Answer(began.elapsed()));
        Ok(())
    }

    /// Sends the missed purges to a peer that answers again.
    fn deliver_missed_purges(self: &Arc<Self>, peer: &Arc<str>) {
        let Some(missed) = self.missed_purges.take(peer) else {
            return;
        };
        let (peering, peer) = (Arc::clone(self), Arc::clone(peer));
        tokio::spawn(async move {
            let delivered = match missed {
                Missed::Keys(keys) => peering.deliver_purges(&peer, keys).await,
                Missed::Everything => peering.deliver_purge_of_everything(&peer).await,
            };
            if let Err(error) = delivered {
                // The peer is not asked for assets until it answers again, and then gets the
                // purges.
                peering.note_no_answer(&peer, &error);
            }
        });
    }

    async fn deliver_purges(&self, peer: &Arc<str>, keys: HashSet<AssetKey>) -> Result<(), Error> {
        tracing::info!(%peer, keys = keys.len(), "delivering missed invalidations to a peer");
        let mut keys = keys.into_iter();
        while let Some(key) = keys.next() {
            if let Err(error) = self.purge(peer, &key).await {
                std::iter::once(key).chain(keys).for_each(|key| self.note_missed_purge(peer, &key));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn deliver_purge_of_everything(&self, peer: &Arc<str>) -> Result<(), Error> {
        tracing::info!(%peer, "telling a peer to drop every response without a verified digest");
        self.purge_everything(peer).await.inspect_err(|_| self.missed_purges.note_everything(peer))
    }
}

/// Returns a request that its receiver answers itself (RFC 9110 §7.6.2).
pub(super) fn for_this_hop() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::OPTIONS;
    request.headers_mut().insert(MAX_FORWARDS, HeaderValue::from_static("0"));
    request
}
