//! Not waiting for a peer that may be frozen.
//!
//! A slow origin behind a healthy owner is waited for: the owner acknowledges a request
//! as soon as it begins to answer. But while the owner is in doubt, because gossip
//! suspects it, it owes the answer to a ping, or it has not acknowledged a request, what
//! waits for it is asked of the next in rank, within a budget: doubts may be wrong, and
//! then each costs the origin a request. Once it is known to be down, not to answer
//! (`probe`), or to acknowledge no request at all, nothing waits for it, whatever that
//! costs.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Request;

use super::Edge;
use crate::body::Body;
use crate::body::informational::{Acknowledgement, Relay};
use crate::cluster::view::State;
use crate::error::Error;
use crate::flight::Provider;
use crate::upstream::Reply;

/// How many requests to peers pay for giving one up on a doubt. So doubts add 5 % to
/// the requests at the most.
const PRICE: u32 = 20;
/// How much can be saved up: enough to give up 64 at once.
const MOST: u32 = 64 * PRICE;

/// What is left for giving up on doubts.
pub(super) struct Hedges(AtomicU32);

impl Hedges {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(MOST))
    }

    pub(super) fn earn(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| (saved < MOST).then_some(saved + 1));
    }

    /// Pays for one; whether there was enough.
    fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(PRICE)).is_ok()
    }
}

impl Edge {
    /// What a peer answers, unless it is given up before. Informational responses go by `relay`.
    pub(super) async fn ask_unless_lost(
        &self,
        peer: &Arc<str>,
        mut request: Request<Body>,
        relay: Option<&Relay>,
    ) -> Result<Reply, Error> {
        self.hedges.earn();
        let acknowledged = Acknowledgement::of(&mut request, relay);
        let answer = self.unless_given_up(peer, Some(&acknowledged), pin!(self.peers.ask(peer, request))).await?;
        if let Some(health) = self.membership.view().peer(peer).filter(|_| answer.is_ok()) {
            health.note_acknowledged();
        }
        answer
    }

    /// What comes from `provider`, unless that is a peer which is given up before.
    pub(super) async fn unless_lost<T>(
        &self,
        provider: &Provider,
        coming: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        match provider {
            Provider::Peer(peer) => self.unless_given_up(peer, None, coming).await,
            Provider::Origin => Ok(coming.await),
        }
    }

    async fn unless_given_up<T>(
        &self,
        peer: &str,
        acknowledged: Option<&Acknowledgement>,
        coming: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            came = coming => Ok(came),
            () = self.given_up(peer, acknowledged) => Err(Error::PeerInDoubt),
        }
    }

    /// Resolves when it makes no sense to wait for `peer` any longer: it is lost, or
    /// it is in doubt and there is budget for asking another.
    async fn given_up(&self, peer: &str, acknowledged: Option<&Acknowledgement>) {
        loop {
            tokio::select! {
                () = self.membership.comes_to(peer, State::Suspect) => {}
                () = self.is_doubtful(peer, acknowledged) => {}
            }
            let view = self.membership.view();
            let is_stuck = || acknowledged.is_some() && view.peer(peer).is_some_and(|peer| peer.is_stuck());
            if view.has_lost(peer) || is_stuck() || self.hedges.spend() {
                return;
            }
            tokio::time::sleep(self.probe_interval).await;
        }
    }

    /// Resolves when `peer` has missed a ping, and so may be frozen or cut off, or has
    /// answered one and not acknowledged the request that came before it. A healthy peer
    /// in front of a slow origin does both.
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
                if Box::pin(self.question(peer, self.probe_interval * 2)).await.is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_are_paid_for() {
        let hedges = Hedges::new();
        let spent = (0..1000).filter(|_| hedges.spend()).count();
        assert_eq!(spent, 64);
        let spent = (0..1000).filter(|_| {
            hedges.earn();
            hedges.spend()
        });
        assert_eq!(spent.count(), 1000 / PRICE as usize);
    }
}
