//! Many requests, one flight: leading or following it, and answering from it.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, Version};
use tokio::sync::oneshot;

use super::fill::{First, Order};
use super::peek::AtHand;
use super::{Answer, Ask, Edge, Forwarding, states_no_lifetime};
use crate::body::growing::Reader;
use crate::edge::request_class::RequestClass;
use crate::error::Error;
use crate::flight::{Extent, Flight, Joining, Kept, Lead, Outcome, Provider, Reach, Reused, Selected, Streaming, Why};
use crate::observe::metrics::{Served, Source};
use crate::semantics::cache_control::RequestControl;
use crate::semantics::cache_status::{self, Handled};
use crate::semantics::forward;
use crate::semantics::freshness::{self, Reuse};
use crate::semantics::request_fields::{Also, Coding, Kind, OwnHeaders};
use crate::semantics::storing::{Credentials, Name, Personal};
use crate::semantics::vary::{self, Accepted, Variant, Varies};
use crate::store::entry::Stored;
use crate::store::metadata::Metadata;
use crate::store::tiers::Found;
use crate::upstream::Reply;

impl Edge {
    /// Validates a response in the background: one flight at a time for a key. A client
    /// with too many requests at the origin leaves that to another.
    pub(super) fn validate_behind(self: &Arc<Self>, ask: &Ask, stored: &Stored) {
        // What is served to all meanwhile is validated once for all.
        if let Ok(Joining::Lead(lead)) = self.join_counted(ask, Credentials::None) {
            let mut headers = ask.headers.clone();
            forward::strip_hop_by_hop(&mut headers);
            headers.remove(AUTHORIZATION);
            // Nobody waits for what might be a leader's alone.
            drop(self.depart(lead, Arc::new(self.order(ask, &headers, Some(stored.clone())))));
        }
    }

    /// Leads or follows the flight of the asset, and answers from it; `stale` is
    /// what is stored, and has to be validated.
    pub(super) async fn share(self: &Arc<Self>, mut ask: Ask, handled: Handled, stale: Option<Stored>) -> Answer {
        forward::strip_hop_by_hop(&mut ask.headers);
        if let Some(peek) = self.peek_for(&ask, handled)
            && let Some((reader, streaming)) = peek.await
        {
            let (order, own) = (Arc::new(self.order(&ask, &ask.headers, None)), HeaderMap::new());
            return self.answer_flight(&ask, handled, Role::Leader, Shared { reader, streaming, order, own });
        }
        let order = Arc::new(Order { relay: ask.relay.clone(), ..self.order(&ask, &ask.headers, stale) });
        let joining = match self.join_counted(&ask, order.credentials) {
            Ok(joining) => joining,
            Err(error) => return self.refuse(ask.source, ask.method, Ok(ask.key), error),
        };
        let mut flight = match &joining {
            Joining::Follow(flight) => Arc::clone(flight),
            Joining::Lead(lead) => Arc::clone(lead.flight()),
        };
        ask.acknowledge();
        // It counts as a reader from here on, while it waits for the head.
        let mut reader = Reader::new(Arc::clone(&flight.body));
        let (part, first) = match joining {
            Joining::Follow(_) => (Role::Follower, None),
            Joining::Lead(lead) => (Role::Leader, Some(self.depart(lead, Arc::clone(&order)))),
        };
        loop {
            let otherwise = match flight.outcome().await.clone() {
                Outcome::Joined(other) => {
                    reader = Reader::new(Arc::clone(&other.body));
                    flight = other;
                    continue;
                }
                Outcome::Streaming(streaming) => match self.own_part(&ask, &flight, &streaming, first) {
                    Ok(own) => {
                        return self.answer_flight(&ask, handled, part, Shared { reader, streaming, order, own });
                    }
                    Err(otherwise) => otherwise,
                },
                Outcome::Reused(reused) => {
                    if Self::suits(&ask, &reused) || own_fields(first).is_some() {
                        return self.answer_reused(&ask, handled, part, &reused);
                    }
                    Otherwise::Pass
                }
                Outcome::Landed => match self.store.find(&ask.key) {
                    Found::Here(tier, stored) => return self.answer_stored(&ask, tier, &stored),
                    // It landed, and was evicted already: no use in queueing again.
                    _ => Otherwise::Pass,
                },
                Outcome::Pass(refusal) => match response(first).await {
                    Some((provider, reply)) if Self::answers(&ask, &order, reply.response.headers()) => {
                        return self.answer_first(&ask, handled, &provider, reply, refusal);
                    }
                    _ => {
                        self.note_own(&ask);
                        Otherwise::Pass
                    }
                },
                // Or it was given up just when this request joined it, or its leader had too
                // many requests at the origin, which is the fault of no other client.
                Outcome::NotAtHand | Outcome::Failed(Error::Abandoned | Error::ClientLimit) => Otherwise::Again,
                Outcome::Failed(error) => return self.refuse(ask.source, ask.method, Ok(ask.key), error),
            };
            return match (otherwise, ask.tries.checked_sub(1)) {
                (Otherwise::Again, Some(tries)) => Box::pin(self.get(Ask { key: ask.key.asset(), tries, ..ask })).await,
                // Boxed, as above: few need it, and all would have its size.
                _ => Box::pin(self.pass(ask, handled)).await,
            };
        }
    }

    /// Asks the owner what it has at hand, if nothing is here. (Over HTTP/1.1, plain
    /// requests have asked for that before they came this way.)
    fn peek_for(
        self: &Arc<Self>,
        ask: &Ask,
        handled: Handled,
    ) -> Option<impl Future<Output = Option<AtHand>> + Send + use<>> {
        let plain = handled == Handled::UriMiss && Credentials::of(&ask.headers) == Credentials::None;
        let asks = plain && ask.version == Version::HTTP_2 && ask.source == Source::Client;
        // An owner answers a peek by the name alone, and by Accept-Encoding.
        let suits = ask.class == RequestClass::Plain || self.policy.load().name(&ask.key) == Name::Proven;
        if asks && suits { self.peek(&ask.key, Accepted::of(&ask.headers)) } else { None }
    }

    /// Has requests that identify a client go on at once: what a fill without their own
    /// headers brings is not for them.
    fn note_own(&self, ask: &Ask) {
        if ask.kind == Kind::Own {
            self.store.mark_own(&ask.key, self.policy.load().hit_for_miss);
        }
    }

    /// The fields of what a flight brings that this request's client alone may have, if
    /// the request may share the rest.
    fn own_part(
        &self,
        ask: &Ask,
        flight: &Arc<Flight>,
        streaming: &Streaming,
        first: Option<oneshot::Receiver<First>>,
    ) -> Result<HeaderMap, Otherwise> {
        // It is another variant. That it varies is known by now, so the next look finds
        // this request's own, or leads to it.
        if !Self::selects(streaming, &ask.headers) {
            if streaming.kept != Kept::Stored {
                self.flights.retire(flight);
            }
            return Err(Otherwise::Again);
        }
        // An error says nothing of a client that it was not requested for, unless the origin
        // gave it a lifetime.
        let head = &streaming.head;
        let error =
            !head.facts.status.is_success() && (streaming.kept != Kept::Stored || states_no_lifetime(&head.headers));
        if error && ask.kind != Kind::Common {
            self.note_own(ask);
            return Err(Otherwise::Pass);
        }
        // Of what only streams by, a part is not waited for.
        if streaming.extent == Extent::Window && forward::is_selective(&ask.headers) {
            return Err(Otherwise::Pass);
        }
        if let Some(own) = own_fields(first) {
            return Ok(own);
        }
        let facts = streaming.head.facts;
        if facts.must_be_validated(SystemTime::now()) {
            // It came stale, or is to be validated each time: then it answers the
            // leader's request alone (RFC 9111 §4).
            if facts.must_be_validated(streaming.came) || ask.tries == 0 {
                return Err(Otherwise::Pass);
            }
            // It is so slow that its freshness ran out: who comes now shares another.
            self.flights.retire(flight);
            return Err(Otherwise::Again);
        }
        // Nor is what came before it was asked for, or by way of another cache, the
        // answer to who wants it newer.
        if Self::meets(streaming, ask) { Ok(HeaderMap::new()) } else { Err(Otherwise::Pass) }
    }

    /// Whether what is stored, and was to be validated, is an answer to a request that
    /// did not lead: what must be validated for each was so for the leader's alone.
    fn suits(ask: &Ask, reused: &Reused) -> bool {
        let facts = reused.stored.facts();
        let validated = matches!(reused.why, Why::Validated(_));
        !validated || !facts.must_be_validated(SystemTime::now()) && Self::is_new_enough(ask, facts)
    }

    /// Returns true if a request with these headers selects the variant that a flight brings.
    pub(super) fn selects(streaming: &Streaming, headers: &HeaderMap) -> bool {
        let same = |selected: &Selected| Variant::of(&selected.fields, headers) == selected.variant;
        streaming.selected.as_ref().is_none_or(same)
    }

    /// Whether what a flight brings is as new as a request wants it that did not begin it.
    fn meets(streaming: &Streaming, ask: &Ask) -> bool {
        let from_origin = || match &streaming.provider {
            Provider::Origin => true,
            Provider::Peer(_) => !streaming.head.upstream_status.as_ref().is_some_and(cache_status::ends_with_a_hit),
        };
        if ask.class == RequestClass::Plain || streaming.came >= ask.now && from_origin() {
            return true;
        }
        Self::is_new_enough(ask, streaming.head.facts)
    }

    /// Whether a request would have been answered with this from memory.
    fn is_new_enough(ask: &Ask, facts: Metadata) -> bool {
        let wish = RequestControl::of(&ask.headers);
        freshness::reuse(facts.lifetime, facts.age(SystemTime::now()), &wish) != Reuse::Validate
    }

    /// A flight to peers is for clients alone, and for keys that another owns.
    /// Who has `credentials` of his own shares none with others.
    pub(super) fn join(&self, ask: &Ask, credentials: Credentials) -> Joining {
        let view = self.membership.view();
        let owner = view.ring.owner(ask.key.hash());
        let own = owner.is_none_or(|owner| owner.name() == self.membership.own());
        if own || ask.source == Source::Peer {
            return self.flights.join(&ask.key, Reach::Origin, credentials);
        }
        match self.flights.to_origin(&ask.key, credentials) {
            Some(flight) => Joining::Follow(flight),
            None => self.flights.join(&ask.key, Reach::Peers, credentials),
        }
    }

    /// Sends the flight on its way, in a task of its own: no client's leaving
    /// ends it. What comes back is the response, if it is the leader's alone.
    pub(super) fn depart(self: &Arc<Self>, lead: Lead, order: Arc<Order>) -> oneshot::Receiver<First> {
        let (first, receiver) = oneshot::channel();
        // Boxed: on its way into a task it is moved some ten times.
        tokio::spawn(Box::pin(Arc::clone(self).fill(lead, order, first)));
        receiver
    }

    /// Returns the order of a fill for `ask`; `headers` are the request's, without its
    /// connection's own.
    pub(super) fn order(&self, ask: &Ask, headers: &HeaderMap, stale: Option<Stored>) -> Order {
        let policy = self.policy.load();
        let name = policy.name(&ask.key);
        let (own, coding) = match name {
            Name::Proven => (OwnHeaders::Authorization, Coding::Identity),
            Name::Hinted(_) => (OwnHeaders::None, Coding::Accepted),
            Name::Plain => (OwnHeaders::All, Coding::Accepted),
        };
        let also = Also { forward: &policy.forward, vary: &self.known_vary(ask) };
        let mut sent = forward::of_fill(headers, &also, own, coding, &self.via_for(ask.version));
        Forwarding::introduce_leader(ask, headers, &mut sent);
        let (credentials, personal) = (Credentials::of(&sent), Personal::of_fill(&sent, &policy.forward));
        Order { name, credentials, personal, headers: sent, stale, relay: None }
    }

    /// Returns true if a response that answers one request alone is the answer to the one
    /// that began the fill: the fill sent all of its headers that count.
    fn answers(ask: &Ask, order: &Order, response: &HeaderMap) -> bool {
        let sent = |name: &HeaderName| ask.headers.get_all(name).iter().eq(order.headers.get_all(name).iter());
        let selected_alike = match vary::varies(response) {
            Varies::By(fields) => {
                let fields: Vec<_> = fields.into_iter().filter(forward::may_select).collect();
                Variant::of(&fields, &ask.headers) == Variant::of(&fields, &order.headers)
            }
            Varies::Not | Varies::Unknowably => true,
        };
        !forward::is_partial(&ask.headers) && sent(&COOKIE) && sent(&AUTHORIZATION) && selected_alike
    }
}

/// What becomes of a request that may not share what its flight has come to.
enum Otherwise {
    /// It looks into memory once more, as often as it may.
    Again,
    Pass,
}

/// What a client's part in a flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

/// What a flight's clients are told they share.
pub(super) fn served(part: Role) -> Served {
    match part {
        Role::Leader => Served::Miss,
        Role::Follower => Served::Collapsed,
    }
}

/// A flight's head, and a reader of its body.
pub(super) struct Shared {
    pub(super) reader: Reader,
    pub(super) streaming: Streaming,
    pub(super) order: Arc<Order>,
    /// The fields that this request's client alone may have.
    pub(super) own: HeaderMap,
}

/// The fields that are the leader's alone, of a response that others share;
/// `None` for who does not lead.
fn own_fields(first: Option<oneshot::Receiver<First>>) -> Option<HeaderMap> {
    match first?.try_recv() {
        Ok(First::Fields(own)) => Some(own),
        _ => None,
    }
}

/// The response that is the leader's alone, with whom it is from; `None` for who does not
/// lead.
async fn response(first: Option<oneshot::Receiver<First>>) -> Option<(Provider, Reply)> {
    match first?.await {
        Ok(First::Response { provider, reply }) => Some((provider, reply)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use http_body_util::BodyExt;

    use super::*;
    use crate::body::Body;
    use crate::key::AssetKey;
    use crate::{Config, Server};

    #[tokio::test]
    async fn a_follower_of_a_leader_that_was_refused_leads_a_flight_of_its_own() {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::default();
        (config.edge.listen, config.admin.listen) = (any, any);
        let origin = |_: AssetKey| async { Ok::<_, std::io::Error>(Some("page".into())) };
        let server = Server::bind_with(config, origin).await.unwrap();
        let edge = Arc::clone(server.edge());
        let key = AssetKey::parse("/page", 100).unwrap();
        let Joining::Lead(lead) = edge.flights.join(&key, Reach::Origin, Credentials::None) else {
            panic!("nobody else asks");
        };
        let request = Request::get("/page").header("host", "x").body(Body::empty()).unwrap();
        let requester = edge.requester(Source::Client, "192.0.2.1".parse().unwrap(), request.headers());
        let refuse = async {
            while edge.flights.readers() == 0 {
                tokio::task::yield_now().await;
            }
            lead.fail(Error::ClientLimit);
        };
        let (answer, ()) = tokio::join!(edge.respond(Source::Client, requester, None, request), refuse);
        assert_eq!(answer.response.status(), StatusCode::OK);
        assert_eq!(answer.response.into_body().collect().await.unwrap().to_bytes(), "page");
    }
}
