//! Hedges: a request does not wait for a peer that may be frozen.
//!
//! A slow origin behind a healthy owner is waited for: the owner acknowledges a request as soon as
//! it begins to answer. An owner is in doubt while gossip suspects it, while it owes the answer to
//! a ping, or when it has not acknowledged a request. Requests that wait for it are then sent to
//! the next in rank, within a budget: a doubt may be wrong, and then it costs the origin a request.
//! When the peer is known to be down, not to answer (`probe`), or to acknowledge no request at all,
//! no request waits for it, whatever that costs.

use std::pin::{Pin, pin};
use std::sync::Arc;

use http::Request;

use super::peering::Peering;
use crate::body::Body;
use crate::body::informational::{Acknowledgement, Relay};
use crate::cluster::view::State;
use crate::error::Error;
use crate::flight::Provider;
use crate::upstream::Reply;

impl Peering {
    /// Returns the response of a peer, unless the peer is given up first. Informational responses
    /// go by `relay`.
    pub(super) async fn ask(
        &self,
        peer: &Arc<str>,
        mut request: Request<Body>,
        relay: Option<&Relay>,
    ) -> Result<Reply, Error> {
        self.hedge_budget.earn();
        let acknowledged = Acknowledgement::of(&mut request, relay);
        let answer = self.unless_given_up(peer, Some(&acknowledged), pin!(self.client.ask(peer, request))).await?;
        if let Some(health) = self.membership.view().peer(peer).filter(|_| answer.is_ok()) {
            health.note_acknowledged();
        }
        answer
    }

    /// Awaits a future of `provider`, unless that is a peer which is given up first.
    pub(super) async fn unless_lost<T>(
        &self,
        provider: &Provider,
        future: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        match provider {
            Provider::Peer(peer) => self.unless_given_up(peer, None, future).await,
            Provider::Origin => Ok(future.await),
        }
    }

    async fn unless_given_up<T>(
        &self,
        peer: &str,
        acknowledged: Option<&Acknowledgement>,
        future: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.given_up(peer, acknowledged) => Err(Error::PeerInDoubt),
        }
    }

    /// Resolves when `peer` is given up: it is lost, or it is in doubt and the budget allows a
    /// hedge.
    async fn given_up(&self, peer: &str, acknowledged: Option<&Acknowledgement>) {
        loop {
            tokio::select! {
                () = self.membership.comes_to(peer, State::Suspect) => {}
                () = self.is_doubtful(peer, acknowledged) => {}
            }
            let view = self.membership.view();
            let is_stuck = || acknowledged.is_some() && view.peer(peer).is_some_and(|peer| peer.is_stuck());
            if view.has_lost(peer) || is_stuck() || self.hedge_budget.spend() {
                return;
            }
            tokio::time::sleep(self.probe_interval).await;
        }
    }

    /// Resolves when `peer` has missed a ping, and so may be frozen or cut off, or has answered one
    /// but not acknowledged the request before it. A healthy peer in front of a slow origin does
    /// both.
    async fn is_doubtful(&self, peer: &str, acknowledged: Option<&Acknowledgement>) {
        let Some(health) = self.membership.view().peer(peer).cloned() else {
            return std::future::pending().await;
        };
        let mut answered_before = None;
        loop {
            tokio::time::sleep(self.probe_interval).await;
            if health.is_overdue() {
                return;
            }
            let answered_before = *answered_before.get_or_insert_with(|| health.answered_pings());
            // Unless another request that waits for this peer is pinging it already.
            if let Some(ping) = health.ping() {
                if Box::pin(self.probe(peer, self.probe_interval * 2)).await.is_err() {
                    return self.membership.note_overdue(&health);
                }
                ping.answered();
            }
            match acknowledged {
                Some(acknowledged) if acknowledged.has_come() => health.note_acknowledged(),
                Some(_) if health.answered_pings() > answered_before => return health.note_unacknowledged(),
                _ => {}
            }
        }
    }
}
