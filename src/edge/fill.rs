//! Fills: an asset is fetched from the peers in order of rank, then from the origin.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::oneshot;

use super::admission::Attempt;
use super::fetch::{Arrival, conditional, for_all, request};
use super::filler::Filler;
use super::order::{LeaderOnly, Leading, Order};
use super::rank::higher_ranked;
use super::revalidate::give_up;
use super::verify::mark_wrong;
use crate::error::Error;
use crate::flight::{Joining, Lead, Outcome, Provider, Reach};
use crate::key::AssetKey;

/// The number of requests to the origin while its response is unusable: the body may have been
/// damaged on the way, or a condition may have brought a 304 that matches nothing.
const COPIES: usize = 2;

impl Filler {
    /// Starts the fill in its own task, so that no client ends it by leaving. The receiver gets the
    /// response if it is the leader's alone.
    pub(super) fn start(self: &Arc<Self>, lead: Lead, order: Arc<Order>) -> oneshot::Receiver<LeaderOnly> {
        let (leader, receiver) = oneshot::channel();
        // Boxed: a future is moved some ten times on its way into a task.
        tokio::spawn(Box::pin(Arc::clone(self).fill(lead, order, leader)));
        receiver
    }

    /// Fills a flight, also if all of its readers leave. Futures that are rarely needed are boxed,
    /// or every flight would take the memory for all of them.
    pub(super) async fn fill(self: Arc<Self>, lead: Lead, order: Arc<Order>, leader: oneshot::Sender<LeaderOnly>) {
        // Look again: the response may have been stored between the lookup and the lead.
        if self.has_landed(lead.key(), &order) {
            return lead.settle(Outcome::Landed);
        }
        match lead.reach() {
            Reach::Origin => self.fill_from_origin(Leading { lead, leader }, &order).await,
            Reach::Peers => self.fill_from_peers(Leading { lead, leader }, &order).await,
            Reach::Handoff => unreachable!("it is taken over where it is joined"),
        }
    }

    pub(super) fn has_landed(&self, key: &AssetKey, order: &Order) -> bool {
        self.cache.store.get(key).is_some_and(|(_, stored)| order.is_met_by(&stored))
    }

    async fn fill_from_origin(self: &Arc<Self>, leading: Leading, order: &Order) {
        let Some(mut leading) = self.fill_from_holders(leading, order).await else {
            return;
        };
        for copy in 1.. {
            let (asked, began) = (SystemTime::now(), Instant::now());
            // If the first response was unusable, ask again without a condition.
            let request = if copy == 1 { request } else { for_all }(leading.lead.key(), order);
            let reply =
                match self.while_wanted(&leading.lead, pin!(self.fetcher.ask_origin(request.into()))).await.flatten() {
                    Ok(reply) => reply,
                    Err(error) => return give_up(leading.lead, order, error),
                };
            let arrival = Arrival { provider: Provider::Origin, reply, asked, began };
            match self.receive(leading, order, arrival).await {
                Attempt::Done => return,
                Attempt::Unusable(again, Error::OriginWrong(_) | Error::OriginGarbage(_)) if copy < COPIES => {
                    leading = again;
                }
                Attempt::Unusable(Leading { lead, .. }, error) => {
                    if error.is_of_contents() {
                        mark_wrong(&self.settings.policy(lead.key()), &self.cache, &lead);
                    }
                    return give_up(lead, order, error);
                }
            }
        }
    }

    async fn fill_from_peers(self: &Arc<Self>, mut leading: Leading, order: &Order) {
        for peer in higher_ranked(&self.peering, &self.cache.store, leading.lead.key()) {
            let request = conditional(leading.lead.key(), order);
            let asking = self.fetcher.ask_peer(Arc::clone(&peer), request, order.relay.as_ref());
            let arrival = match self.while_wanted(&leading.lead, pin!(asking)).await {
                Ok(Some(arrival)) => arrival,
                Ok(None) => continue,
                Err(error) => return give_up(leading.lead, order, error),
            };
            match self.receive(leading, order, arrival).await {
                Attempt::Done => return,
                Attempt::Unusable(again, error) => {
                    tracing::warn!(%peer, path = %again.lead.key(), %error, "peer response unusable, trying another source");
                    leading = again;
                }
            }
        }
        // This edge is next in rank. Peers may be asking it for the same key, so both share one
        // flight to the origin.
        let Leading { mut lead, leader } = leading;
        let quota = lead.quota.take();
        match self.cache.flights.join(lead.key(), Reach::Origin, lead.credentials()) {
            Joining::Follow(flight) => lead.settle(Outcome::Joined(flight)),
            Joining::Lead(mut own) => {
                own.quota = quota;
                lead.settle(Outcome::Joined(Arc::clone(own.flight())));
                // Look again: meanwhile a peer may have made this edge fill the key.
                if self.has_landed(own.key(), order) {
                    return own.settle(Outcome::Landed);
                }
                Box::pin(self.fill_from_origin(Leading { lead: own, leader }, order)).await;
            }
        }
    }

    /// Waits for a response also when all readers have left, because it will be requested again;
    /// but only `max_detached_fills` fills do that at a time. (The caller pins the future: passed
    /// by value, it takes its memory twice.)
    async fn while_wanted<T>(&self, lead: &Lead, mut answer: Pin<&mut impl Future<Output = T>>) -> Result<T, Error> {
        let body = &lead.flight().body;
        tokio::select! {
            biased;
            answer = answer.as_mut() => return Ok(answer),
            () = poll_fn(|cx| body.poll_no_readers(cx)) => {}
        }
        let Ok(_alone) = self.detached_fills.try_acquire() else {
            return Err(Error::Abandoned);
        };
        Ok(answer.await)
    }
}
