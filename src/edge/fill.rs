//! Bringing an asset in: from the peers in order of rank, then the origin.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::HeaderMap;
use tokio::sync::oneshot;

use super::Edge;
use super::admission::Landed;
use super::fetch::{Arrival, conditional, for_all, request};
use super::revalidate::give_up;
use crate::body::informational::Relay;
use crate::error::Error;
use crate::flight::{Joining, Lead, Outcome, Provider, Reach};
use crate::key::AssetKey;
use crate::semantics::freshness::Lifetime;
use crate::semantics::storing::{Credentials, Name, Personal};
use crate::store::entry::Stored;
use crate::store::tiers::{Found, Tier};
use crate::upstream::Reply;

/// What a fill asks for.
pub(super) struct Order {
    pub(super) name: Name,
    pub(super) credentials: Credentials,
    pub(super) personal: Personal,
    /// The fields that go upstream.
    pub(super) headers: HeaderMap,
    /// What is stored, and has to be validated.
    pub(super) stale: Option<Stored>,
    /// The way of interim responses to the client who leads.
    pub(super) relay: Option<Relay>,
}

impl Order {
    /// One that is no client's.
    pub(super) fn of_this_edge(name: Name) -> Self {
        let (credentials, personal) = (Credentials::None, Personal::Absent);
        Self { name, credentials, personal, headers: HeaderMap::new(), stale: None, relay: None }
    }

    /// Whether `stored` is an answer to this order: fresh, and not the one that
    /// is to be validated.
    fn is_met_by(&self, stored: &Stored) -> bool {
        let same = self.stale.as_ref().is_some_and(|stale| stale.is(stored));
        !same && stored.facts().is_fresh(SystemTime::now())
    }

    /// What is stored, if it may be used when nothing better can be had.
    pub(super) fn fallback(&self) -> Option<&Stored> {
        let serves = |stored: &&Stored| match stored.facts().lifetime {
            Lifetime::For(terms) => terms.serves_on_error(stored.facts().age(SystemTime::now())),
            Lifetime::UntilEvicted { .. } => true,
        };
        self.stale.as_ref().filter(serves)
    }
}

/// What belongs to the leader's client alone.
pub(super) enum First {
    /// The response.
    Response { provider: Provider, reply: Reply },
    /// The fields that only that client may have, of a response that others share.
    Fields(HeaderMap),
}

/// The duty to bring a flight in, and the way to its leader.
pub(super) struct Leading {
    pub(super) lead: Lead,
    pub(super) first: oneshot::Sender<First>,
}

/// How often the origin is asked while its answer is of no use: the contents may have
/// been damaged on the way, or a condition may have brought a 304 that fits nothing.
const COPIES: usize = 2;

impl Edge {
    /// Fills a flight, whatever becomes of those who wanted it. Futures that are rarely
    /// needed are boxed, or every flight would take the memory for all of them.
    pub(super) async fn fill(self: Arc<Self>, lead: Lead, order: Arc<Order>, first: oneshot::Sender<First>) {
        // Look again: it may have landed between the look and the lead.
        if self.has_landed(lead.key(), &order) {
            return lead.settle(Outcome::Landed);
        }
        match lead.reach() {
            Reach::Origin => self.fill_from_origin(Leading { lead, first }, &order).await,
            Reach::Peers => self.fill_from_peers(Leading { lead, first }, &order).await,
            Reach::Holder => unreachable!("it is taken over where it is joined"),
        }
    }

    pub(super) fn has_landed(&self, key: &AssetKey, order: &Order) -> bool {
        matches!(self.store.find(key), Found::Here(_, stored) if order.is_met_by(&stored))
    }

    async fn fill_from_origin(self: &Arc<Self>, leading: Leading, order: &Order) {
        let Some(mut leading) = self.fill_from_holders(leading, order).await else {
            return;
        };
        for copy in 1.. {
            let (asked, began) = (SystemTime::now(), Instant::now());
            // If the first answer was of no use, ask again without a condition.
            let request = if copy == 1 { request } else { for_all }(leading.lead.key(), order);
            let reply = match self.while_wanted(&leading.lead, pin!(self.ask_origin(request.into()))).await.flatten() {
                Ok(reply) => reply,
                Err(error) => return give_up(leading.lead, order, error),
            };
            let arrival = Arrival { provider: Provider::Origin, reply, asked, began };
            match self.receive(leading, order, arrival).await {
                Landed::Done => return,
                Landed::Broken(again, Error::OriginWrong(_) | Error::OriginGarbage(_)) if copy < COPIES => {
                    leading = again;
                }
                Landed::Broken(Leading { lead, .. }, error) => {
                    if error.is_of_contents() {
                        self.mark_wrong(&lead);
                    }
                    return give_up(lead, order, error);
                }
            }
        }
    }

    async fn fill_from_peers(self: &Arc<Self>, mut leading: Leading, order: &Order) {
        for peer in self.before_this_edge(leading.lead.key()) {
            let request = conditional(leading.lead.key(), order);
            let asking = self.ask_peer(peer, request, order.relay.as_ref());
            let arrival = match self.while_wanted(&leading.lead, pin!(asking)).await {
                Ok(Some(arrival)) => arrival,
                Ok(None) => continue,
                Err(error) => return give_up(leading.lead, order, error),
            };
            match self.receive(leading, order, arrival).await {
                Landed::Done => return,
                Landed::Broken(again, error) => {
                    tracing::warn!(path = %again.lead.key(), %error, "peer response failed, asking the next in rank");
                    leading = again;
                }
            }
        }
        // This edge is next in rank. Peers may be asking it for the same
        // already, so there is one flight to the origin for both.
        let Leading { mut lead, first } = leading;
        let quota = lead.quota.take();
        match self.flights.join(lead.key(), Reach::Origin, lead.credentials()) {
            Joining::Follow(flight) => lead.settle(Outcome::Joined(flight)),
            Joining::Lead(mut own) => {
                own.quota = quota;
                lead.settle(Outcome::Joined(Arc::clone(own.flight())));
                // Look again: while peers were asked, one of them may have had
                // this edge bring it in.
                if self.has_landed(own.key(), order) {
                    return own.settle(Outcome::Landed);
                }
                Box::pin(self.fill_from_origin(Leading { lead: own, first }, order)).await;
            }
        }
    }

    /// Waits for an answer also when all who wanted it have left, for it will be wanted
    /// again; but only so many fills do that at a time. (It is pinned by who asks: as an
    /// argument, a future takes its memory twice.)
    async fn while_wanted<T>(&self, lead: &Lead, mut answer: Pin<&mut impl Future<Output = T>>) -> Result<T, Error> {
        let body = &lead.flight().body;
        tokio::select! {
            biased;
            answer = answer.as_mut() => return Ok(answer),
            () = poll_fn(|cx| body.poll_deserted(cx)) => {}
        }
        let Ok(_alone) = self.detached_fills.try_acquire() else {
            return Err(Error::Abandoned);
        };
        Ok(answer.await)
    }

    /// The peers that rank before this edge, as many as may be asked, without
    /// those that had the asset wrong a moment ago, or have still to answer again.
    pub(super) fn before_this_edge(&self, key: &AssetKey) -> Vec<Arc<str>> {
        let view = self.membership.view();
        let before = view.ring.rank(key.hash()).into_iter().map(|member| Arc::clone(member.name()));
        let before = before.take_while(|name| name != self.membership.own());
        // After a write, only an owner that was up throughout is sure to have been told:
        // the others are skipped.
        let now = Instant::now();
        let changed = self.store.changed_for(key).map(|left| self.membership.memory().saturating_sub(left));
        let owner = view.ring.owner(key.hash());
        let has_heard = |name: &Arc<str>| {
            let was_there =
                |for_long| view.member(name).is_some_and(|seen| now.saturating_duration_since(seen.since) >= for_long);
            changed.is_none_or(|ago| owner.is_some_and(|owner| owner.name() == name) && was_there(ago))
        };
        let before = before.filter(has_heard);
        let up = before.filter(|name| view.peer(name).is_some_and(|peer| peer.is_up()));
        up.filter(|name| !self.store.doubts(name, key)).take(self.attempts).collect()
    }
}

/// Flights to the origin fill the main tier, even when a peer supplied the copy; so do
/// keys that are taken over.
pub(super) fn tier(lead: &Lead) -> Tier {
    match lead.reach() {
        Reach::Origin | Reach::Holder => Tier::Main,
        Reach::Peers => Tier::Hot,
    }
}
