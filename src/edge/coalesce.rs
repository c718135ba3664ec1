//! Request coalescing: a request leads or follows the flight of its key, and is answered from it.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderMap, Version};
use tokio::sync::oneshot;

use super::classify::states_no_lifetime;
use super::fetch::Fetcher;
use super::memory::Memory;
use super::order::{LeaderOnly, Order};
use super::parts::Edge;
use super::peek::AtHand;
use super::peering::Peering;
use super::request::{Answer, Inbound};
use super::request_class::RequestClass;
use super::respond::{Role, Shared, answer_first, answer_flight, answer_reused, answer_stored, refuse};
use super::settings::Settings;
use super::sharing::{is_recent_enough, leaders_response_answers, reused_answers, selects};
use crate::body::growing::Reader;
use crate::error::Error;
use crate::flight::{Extent, Flight, Joining, Kept, Outcome, Provider, Reach, Streaming};
use crate::observe::metrics::Source;
use crate::semantics::cache_status::Handled;
use crate::semantics::forward;
use crate::semantics::request_headers::RequestKind;
use crate::semantics::storing::{Credentials, Name};
use crate::semantics::vary::Accepted;
use crate::site::policy::Policy;
use crate::store::entry::Stored;
use crate::store::tiers::Store;
use crate::upstream::Reply;

/// The result of a request that led or followed a flight.
pub(super) enum Coalesced {
    Answer(Answer),
    /// The request looks into the store again.
    Again(Inbound),
    Pass(Inbound),
}

impl Edge {
    /// Revalidates a response in the background, with one flight at a time for a key. If the client
    /// is at its request limit, another client's request does it.
    pub(super) fn validate_behind(&self, inbound: &Inbound, stored: &Stored) {
        // The stale response is served to every client meanwhile, so one validation without
        // credentials is enough.
        if let Ok(Joining::Lead(lead)) = join_counted(&self.fetcher, &self.cache, inbound, Credentials::None) {
            let mut headers = inbound.headers.clone();
            forward::strip_hop_by_hop(&mut headers);
            headers.remove(AUTHORIZATION);
            // The receiver is dropped: no client waits for a response that might be the leader's
            // alone.
            drop(self.filler.start(
                lead,
                Arc::new(Order::new(&self.settings, &self.cache.store, inbound, &headers, Some(stored.clone()))),
            ));
        }
    }

    /// Leads or follows the flight of the asset, and answers from it. `stale` is the stored
    /// response that must be validated.
    pub(super) async fn coalesce(&self, mut inbound: Inbound, handled: Handled, stale: Option<Stored>) -> Coalesced {
        forward::strip_hop_by_hop(&mut inbound.headers);
        if let Some(peek) = self.peek_for(&inbound, handled)
            && let Some((reader, streaming)) = peek.await
        {
            let (order, own) = (Arc::new(self.order_of(&inbound, None)), HeaderMap::new());
            return Coalesced::Answer(answer_flight(
                &self.fetcher,
                &inbound,
                handled,
                Role::Leader,
                Shared { reader, streaming, order, own },
            ));
        }
        let order = Arc::new(Order { relay: inbound.relay.clone(), ..self.order_of(&inbound, stale) });
        let joining = match join_counted(&self.fetcher, &self.cache, &inbound, order.credentials) {
            Ok(joining) => joining,
            Err(error) => {
                return Coalesced::Answer(refuse(
                    &self.settings,
                    inbound.source,
                    inbound.method,
                    Ok(inbound.key),
                    error,
                ));
            }
        };
        let mut flight = match &joining {
            Joining::Follow(flight) => Arc::clone(flight),
            Joining::Lead(lead) => Arc::clone(lead.flight()),
        };
        inbound.acknowledge();
        // From here on the request counts as a reader, also while it waits for the head.
        let mut reader = Reader::new(Arc::clone(&flight.body));
        let (role, leader) = match joining {
            Joining::Follow(_) => (Role::Follower, None),
            Joining::Lead(lead) => (Role::Leader, Some(self.filler.start(lead, Arc::clone(&order)))),
        };
        loop {
            let result = match flight.outcome().await.clone() {
                Outcome::Joined(other) => {
                    reader = Reader::new(Arc::clone(&other.body));
                    flight = other;
                    continue;
                }
                Outcome::Streaming(streaming) => {
                    let own = own_headers(&self.settings, &self.cache, &inbound, &flight, &streaming, leader);
                    let shared = |own| Shared { reader, streaming, order, own };
                    own.map(|own| answer_flight(&self.fetcher, &inbound, handled, role, shared(own)))
                }
                Outcome::Reused(reused) => {
                    let answers = reused_answers(&inbound, &reused) || leader_headers(leader).is_some();
                    let answer = || answer_reused(&self.settings, &inbound, handled, role, &reused);
                    answers.then(answer).ok_or(Fallback::Pass)
                }
                Outcome::Landed => match self.cache.store.get(&inbound.key) {
                    Some((tier, stored)) => Ok(answer_stored(&self.settings, &inbound, tier, &stored)),
                    // The response was stored and is evicted already: another flight would end the
                    // same way.
                    None => Err(Fallback::Pass),
                },
                Outcome::Pass(refusal) => match leader_response(leader).await {
                    Some((provider, reply)) if leaders_response_answers(&inbound, &order, reply.response.headers()) => {
                        Ok(answer_first(&self.settings, &inbound, handled, &provider, reply, refusal))
                    }
                    _ => {
                        note_own(&self.settings.policy(&inbound.key), &self.cache.store, &inbound);
                        Err(Fallback::Pass)
                    }
                },
                // The flight was abandoned just when this request joined it, or its leader was over
                // its own request limit: neither concerns this client.
                Outcome::PeekMiss | Outcome::Failed(Error::Abandoned | Error::ClientLimit) => Err(Fallback::LookAgain),
                Outcome::Failed(error) => {
                    Ok(refuse(&self.settings, inbound.source, inbound.method.clone(), Ok(inbound.key.clone()), error))
                }
            };
            return match (result, inbound.tries.checked_sub(1)) {
                (Ok(answer), _) => Coalesced::Answer(answer),
                (Err(Fallback::LookAgain), Some(tries)) => {
                    Coalesced::Again(Inbound { key: inbound.key.asset(), tries, ..inbound })
                }
                (Err(_), _) => Coalesced::Pass(inbound),
            };
        }
    }

    /// Peeks into the store of the owner if nothing is stored here. Over HTTP/1.1, the fast path
    /// has done that for plain requests before they get here.
    fn peek_for(
        &self,
        inbound: &Inbound,
        handled: Handled,
    ) -> Option<impl Future<Output = Option<AtHand>> + Send + use<>> {
        let plain = handled == Handled::UriMiss && Credentials::of(&inbound.headers) == Credentials::None;
        let asks = plain && inbound.version >= Version::HTTP_2 && inbound.source != Source::Peer;
        // A peek carries only the key and Accept-Encoding.
        let suits = inbound.class == RequestClass::Plain
            || self.settings.policy(&inbound.key).name(&inbound.key) == Name::Proven;
        if asks && suits { self.filler.peek(&inbound.key, Accepted::of(&inbound.headers)) } else { None }
    }

    /// Returns the order of a fill for `inbound`. Its hop-by-hop headers must be removed already.
    fn order_of(&self, inbound: &Inbound, stale: Option<Stored>) -> Order {
        Order::new(&self.settings, &self.cache.store, inbound, &inbound.headers, stale)
    }

    /// Answers a peer's `only-if-cached` request from a flight that streams, which is as good as a
    /// stored response.
    pub(super) fn answer_held(&self, inbound: &Inbound) -> Option<Answer> {
        let flight =
            self.cache.flights.to_origin(&inbound.key, Credentials::None).filter(|_| inbound.source == Source::Peer)?;
        let reader = Reader::new(Arc::clone(&flight.body));
        let Some(Outcome::Streaming(streaming)) = flight.look() else {
            return None;
        };
        let mut headers = inbound.headers.clone();
        forward::strip_hop_by_hop(&mut headers);
        headers.remove(CACHE_CONTROL);
        let order = Arc::new(Order::new(&self.settings, &self.cache.store, inbound, &headers, None));
        let good = selects(streaming, &headers) && !streaming.head.facts.must_be_validated(inbound.now);
        let shared = Shared { reader, streaming: streaming.clone(), order, own: HeaderMap::new() };
        good.then(|| answer_flight(&self.fetcher, inbound, Handled::UriMiss, Role::Follower, shared))
    }
}

/// Lets requests that identify a client bypass coalescing for a while: a fill without their own
/// headers is not for them.
fn note_own(policy: &Policy, store: &Store, inbound: &Inbound) {
    if inbound.kind == RequestKind::Personal {
        store.mark_own(&inbound.key, policy.hit_for_miss);
    }
}

/// Returns the headers that only this request's client may have, if the request may share the
/// response of the flight.
fn own_headers(
    settings: &Settings,
    cache: &Memory,
    inbound: &Inbound,
    flight: &Arc<Flight>,
    streaming: &Streaming,
    leader: Option<oneshot::Receiver<LeaderOnly>>,
) -> Result<HeaderMap, Fallback> {
    // The flight brings another variant. The Vary is known by now, so the next lookup finds
    // this request's own variant or leads a flight for it.
    if !selects(streaming, &inbound.headers) {
        if streaming.kept != Kept::Stored {
            cache.flights.retire(flight);
        }
        return Err(Fallback::LookAgain);
    }
    // An error that was requested without a client's own headers does not apply to that client,
    // unless the origin gave it a lifetime.
    let head = &streaming.head;
    let error =
        !head.facts.status.is_success() && (streaming.kept != Kept::Stored || states_no_lifetime(&head.headers));
    if error && inbound.kind != RequestKind::Common {
        note_own(&settings.policy(&inbound.key), &cache.store, inbound);
        return Err(Fallback::Pass);
    }
    // A range or condition does not wait for its part of a body that is only a window.
    if streaming.extent == Extent::Window && forward::is_selective(&inbound.headers) {
        return Err(Fallback::Pass);
    }
    if let Some(own) = leader_headers(leader) {
        return Ok(own);
    }
    let facts = streaming.head.facts;
    if facts.must_be_validated(SystemTime::now()) {
        // The response came stale, or must be validated each time: it answers the leader's
        // request alone (RFC 9111 §4).
        if facts.must_be_validated(streaming.came) || inbound.tries == 0 {
            return Err(Fallback::Pass);
        }
        // The flight is so slow that its response has become stale: new requests share another
        // one.
        cache.flights.retire(flight);
        return Err(Fallback::LookAgain);
    }
    // A response that began before this request, or came through another cache, does not
    // satisfy its freshness directives.
    if is_recent_enough(streaming, inbound) { Ok(HeaderMap::new()) } else { Err(Fallback::Pass) }
}

/// Joins the flight of the key. A flight to peers is for clients' requests, and for keys that
/// another edge owns. A request with `credentials` joins only flights with the same ones.
fn join(peering: &Peering, cache: &Memory, inbound: &Inbound, credentials: Credentials) -> Joining {
    let view = peering.membership.view();
    let owner = view.ring.owner(inbound.key.hash());
    let own = owner.is_none_or(|owner| owner.name() == peering.membership.own());
    if own || inbound.source == Source::Peer {
        return cache.flights.join(&inbound.key, Reach::Origin, credentials);
    }
    match cache.flights.to_origin(&inbound.key, credentials) {
        Some(flight) => Joining::Follow(flight),
        None => cache.flights.join(&inbound.key, Reach::Peers, credentials),
    }
}

/// Joins a flight like [`join`]. A lead counts for the client of `inbound` until its flight has an
/// outcome.
///
/// # Errors
/// [`Error::ClientLimit`], as in [`Quotas::take`](super::quota::Quotas::take). Requests that have
/// followed the lead meanwhile try again.
fn join_counted(
    fetcher: &Fetcher,
    cache: &Memory,
    inbound: &Inbound,
    credentials: Credentials,
) -> Result<Joining, Error> {
    match join(&fetcher.peering, cache, inbound, credentials) {
        Joining::Lead(mut lead) => match fetcher.quotas.take(fetcher.quotas.client_of(inbound)) {
            Ok(quota) => {
                lead.quota = quota;
                Ok(Joining::Lead(lead))
            }
            Err(error) => {
                lead.fail(error.clone());
                Err(error)
            }
        },
        Joining::Follow(flight) => Ok(Joining::Follow(flight)),
    }
}

/// The next step of a request that may not share the outcome of its flight.
enum Fallback {
    /// It looks into the store again, up to `Inbound::tries` times.
    LookAgain,
    Pass,
}

/// Returns the headers that only the leader's client may have, of a response that others share.
/// `None` for a follower.
fn leader_headers(leader: Option<oneshot::Receiver<LeaderOnly>>) -> Option<HeaderMap> {
    match leader?.try_recv() {
        Ok(LeaderOnly::Headers(own)) => Some(own),
        _ => None,
    }
}

/// Returns the response that is the leader's alone, and its provider. `None` for a follower.
async fn leader_response(leader: Option<oneshot::Receiver<LeaderOnly>>) -> Option<(Provider, Reply)> {
    match leader?.await {
        Ok(LeaderOnly::Response { provider, reply }) => Some((provider, reply)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use http_body_util::BodyExt;

    use super::*;
    use crate::body::Body;
    use crate::edge::Remote;
    use crate::key::AssetKey;
    use crate::semantics::scheme::Scheme;
    use crate::{Config, Server};

    #[tokio::test]
    async fn follower_of_a_rejected_leader_leads_a_flight_of_its_own() {
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::default();
        (config.edge.listen, config.admin.listen) = (any.into(), any);
        let origin = |_: AssetKey| async { Ok::<_, std::io::Error>(Some("page".into())) };
        let server = Server::bind_with(config, origin).await.unwrap();
        let edge = Arc::clone(server.edge());
        let key = AssetKey::parse("/page", 100).unwrap();
        let Joining::Lead(lead) = edge.cache.flights.join(&key, Reach::Origin, Credentials::None) else {
            panic!("nobody else asks");
        };
        let request = Request::get("/page").header("host", "x").body(Body::empty()).unwrap();
        let remote = Remote { address: "192.0.2.1".parse().unwrap(), scheme: Scheme::Http };
        let requester = edge.requester(Source::Client, remote, request.headers());
        let refuse = async {
            while edge.cache.flights.readers() == 0 {
                tokio::task::yield_now().await;
            }
            lead.fail(Error::ClientLimit);
        };
        let (answer, ()) = tokio::join!(edge.respond(Source::Client, requester, None, request), refuse);
        assert_eq!(answer.response.status(), StatusCode::OK);
        assert_eq!(answer.response.into_body().collect().await.unwrap().to_bytes(), "page");
    }
}
