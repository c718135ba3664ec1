//! Bringing an asset in: from the peers in order of rank, then the origin.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use super::intake::{Coming, Intake, head};
use super::validate::{give_up, settled};
use super::{Edge, Policy};
use crate::body::growing::LEAST_ROOM;
use crate::body::proven::{self, Proof};
use crate::body::{Body, Ended, Room};
use crate::error::Error;
use crate::flight::{Extent, Joining, Kept, Lead, Outcome, Provider, Reach, Selected};
use crate::interim::Relay;
use crate::key::AssetKey;
use crate::memory::{Found, Tier};
use crate::metrics::{Asked, Fetched};
use crate::outgoing::Unframed;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::forward;
use crate::semantics::freshness::{self, Lifetime};
use crate::semantics::storing::{self, Credentials, Name, Refusal, Verdict};
use crate::semantics::validation;
use crate::semantics::vary::{self, Variant, Varies, is_coded};
use crate::stored::Stored;

/// What a fill asks for.
pub(super) struct Order {
    pub(super) name: Name,
    pub(super) credentials: Credentials,
    /// The fields that go upstream.
    pub(super) headers: HeaderMap,
    /// What is stored, and has to be validated.
    pub(super) stale: Option<Arc<Stored>>,
    /// The way of interim responses to the client who leads.
    pub(super) relay: Option<Relay>,
}

impl Order {
    /// Whether `stored` is an answer to this order: fresh, and not the one that
    /// is to be validated.
    fn is_met_by(&self, stored: &Arc<Stored>) -> bool {
        let same = self.stale.as_ref().is_some_and(|stale| Arc::ptr_eq(stale, stored));
        !same && stored.facts.is_fresh(SystemTime::now())
    }

    /// What is stored, if it may be used when nothing better can be had.
    pub(super) fn fallback(&self) -> Option<&Arc<Stored>> {
        let serves = |stored: &&Arc<Stored>| match stored.facts.lifetime {
            Lifetime::For(terms) => terms.serves_on_error(stored.facts.age(SystemTime::now())),
            Lifetime::UntilEvicted { .. } => true,
        };
        self.stale.as_ref().filter(serves)
    }
}

/// What belongs to the leader's client alone.
pub(super) enum First {
    /// The response.
    Response { provider: Provider, response: Response<Body> },
    /// The fields that only that client may have, of a response that others share.
    Fields(HeaderMap),
}

/// A response as it came, who sent it, and when it was asked for.
pub(super) struct Arrival {
    pub(super) provider: Provider,
    pub(super) response: Response<Body>,
    asked: SystemTime,
    began: Instant,
}

/// A peer that is being asked, and since when.
struct Asking {
    peer: Arc<str>,
    asked: SystemTime,
    began: Instant,
}

impl Asking {
    fn of(peer: Arc<str>) -> Self {
        Self { peer, asked: SystemTime::now(), began: Instant::now() }
    }
}

/// The duty to bring a flight in, and the way to its leader.
pub(super) struct Leading {
    pub(super) lead: Lead,
    pub(super) first: oneshot::Sender<First>,
}

/// What became of a copy.
pub(super) enum Received {
    /// It is what the flight has come to, well or badly.
    Done,
    /// It was of no use, and nobody has seen anything of it.
    Broken(Leading, Error),
}

/// How much is held of a body that is too large to be stored, in bytes: its readers may
/// be so far apart.
const WINDOW: u64 = 4 * 1024 * 1024;

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
        matches!(self.memory.find(key), Found::Here(_, stored) if order.is_met_by(&stored))
    }

    async fn fill_from_origin(self: &Arc<Self>, leading: Leading, order: &Order) {
        let Some(mut leading) = self.fill_from_holders(leading, order).await else {
            return;
        };
        for copy in 1.. {
            let (asked, began) = (SystemTime::now(), Instant::now());
            // If the first answer was of no use, ask again without a condition.
            let request = if copy == 1 { request } else { for_all }(leading.lead.key(), order);
            let response = match self.while_wanted(&leading.lead, self.ask_origin(request)).await.flatten() {
                Ok(response) => response,
                Err(error) => return give_up(leading.lead, order, error),
            };
            let arrival = Arrival { provider: Provider::Origin, response, asked, began };
            match self.receive(leading, order, arrival).await {
                Received::Done => return,
                Received::Broken(again, Error::OriginWrong(_) | Error::OriginGarbage(_)) if copy < COPIES => {
                    leading = again;
                }
                Received::Broken(Leading { lead, .. }, error) => {
                    if error.is_of_contents() && order.credentials == Credentials::None {
                        self.memory.mark_wrong(lead.key(), self.policy.load().wrong);
                    }
                    return give_up(lead, order, error);
                }
            }
        }
    }

    async fn fill_from_peers(self: &Arc<Self>, mut leading: Leading, order: &Order) {
        for peer in self.before_this_edge(leading.lead.key()) {
            let request = request(leading.lead.key(), order);
            let arrival = match self.while_wanted(&leading.lead, self.ask_peer(peer, request)).await {
                Ok(Some(arrival)) => arrival,
                Ok(None) => continue,
                Err(error) => return give_up(leading.lead, order, error),
            };
            match self.receive(leading, order, arrival).await {
                Received::Done => return,
                Received::Broken(again, error) => {
                    tracing::warn!(path = %again.lead.key(), %error, "a peer's copy is of no use; the next in rank is asked");
                    leading = again;
                }
            }
        }
        // This edge is next in rank. Peers may be asking it for the same
        // already, so there is one flight to the origin for both.
        let Leading { lead, first } = leading;
        match self.flights.join(lead.key(), Reach::Origin, lead.credentials()) {
            Joining::Follow(flight) => lead.settle(Outcome::Joined(flight)),
            Joining::Lead(own) => {
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
    /// again; but only so many fills do that at a time.
    async fn while_wanted<T>(&self, lead: &Lead, answer: impl Future<Output = T>) -> Result<T, Error> {
        let mut answer = pin!(answer);
        let body = &lead.flight().body;
        tokio::select! {
            biased;
            answer = answer.as_mut() => return Ok(answer),
            () = poll_fn(|cx| body.poll_deserted(cx)) => {}
        }
        let Ok(_alone) = self.alone.try_acquire() else {
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
        // the others are skipped. (A view has the time of day.)
        let changed = self.memory.changed_for(key).map(|left| SystemTime::now() + left - self.membership.memory());
        let owner = view.ring.owner(key.hash());
        let has_heard = |name: &Arc<str>| {
            let was_there = |at| view.member(name).is_some_and(|seen| seen.since <= at);
            changed.is_none_or(|at| owner.is_some_and(|owner| owner.name() == name) && was_there(at))
        };
        let before = before.filter(has_heard);
        let up = before.filter(|name| view.peer(name).is_some_and(|peer| peer.is_up()));
        up.filter(|name| !self.memory.doubts(name, key)).take(self.attempts).collect()
    }

    /// The answer of a peer, if it gives one.
    pub(super) async fn ask_peer(&self, peer: Arc<str>, request: Request<Body>) -> Option<Arrival> {
        let asking = Asking::of(peer);
        let answer = self.ask_unless_lost(&asking.peer, request).await;
        self.asked_peer(asking, answer)
    }

    /// As `ask_peer`, of a peer that has to ask nobody else for it.
    pub(super) async fn ask_peer_promptly(&self, peer: Arc<str>, request: Request<Body>) -> Option<Arrival> {
        let asking = Asking::of(peer);
        let answer = tokio::time::timeout(self.promptly, self.ask_unless_lost(&asking.peer, request)).await;
        self.asked_peer(asking, answer.unwrap_or(Err(Error::PeerInDoubt)))
    }

    /// Notes what a peer has made of a request.
    fn asked_peer(&self, asking: Asking, answer: Result<Response<Body>, Error>) -> Option<Arrival> {
        let Asking { peer, asked, began } = asking;
        match answer {
            Ok(response) => {
                self.hears(&peer, began.elapsed());
                Some(Arrival { provider: Provider::Peer(peer), response, asked, began })
            }
            Err(error) => {
                self.metrics.fetch(Asked::Peer, Fetched::Error, began.elapsed());
                // Giving up on a doubt is no evidence that the peer failed.
                if error != Error::PeerInDoubt {
                    self.misses(&peer, &error);
                }
                None
            }
        }
    }

    /// One request to the origin; a failure is counted here, an answer by
    /// whoever sees its end.
    pub(super) async fn ask_origin(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        request.headers_mut().append(forward::CDN_LOOP, self.loop_id.clone());
        let origin = self.origin.load_full();
        let fetching = self.metrics.fetching(Asked::Origin);
        let answer = origin.fetch(request).await?;
        fetching.answered();
        Ok(answer)
    }

    /// The body of an answer of `provider`, asked at `began`, whose end is counted.
    pub(super) fn counted(&self, provider: &Provider, began: Instant, body: Body) -> Body {
        let (metrics, asked) = (Arc::clone(&self.metrics), asked(provider));
        Body::told(body, move |ended| {
            // What the client leaves is nobody's failure.
            let fetched = if ended == Ended::Badly { Fetched::Error } else { Fetched::Ok };
            metrics.fetch(asked, fetched, began.elapsed());
        })
    }

    /// Decides by the response's head what becomes of the flight.
    pub(super) async fn receive(self: &Arc<Self>, leading: Leading, order: &Order, arrival: Arrival) -> Received {
        let Leading { lead, first } = leading;
        let now = SystemTime::now();
        let (began, provider) = (arrival.began, arrival.provider);
        let (mut parts, body) = arrival.response.into_parts();
        // The connection that it came by has read its framing.
        forward::strip_hop_by_hop(&mut parts.headers);
        add_date(&mut parts.headers, now);
        if Self::is_of_another(order, &parts) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            let error = match &provider {
                Provider::Origin => Error::OriginGarbage,
                Provider::Peer(_) => Error::PeerBroke,
            }("a 304 for what this edge does not have".to_owned());
            return Received::Broken(Leading { lead, first }, error);
        }
        if let Some(outcome) = self.without_body(&lead, order, &provider, &parts, arrival.asked) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            let _ = first.send(First::Fields(HeaderMap::new()));
            lead.settle(outcome);
            return Received::Done;
        }
        let policy = self.policy.load_full();
        let age = freshness::initial_age(&parts.headers, arrival.asked, now);
        let verdict = judge(&policy, lead.key(), order, &parts, age);
        let length = body.size_hint().exact().or_else(|| stated_length(&parts.headers));
        let proof = self.proof(lead.key(), &provider, parts.status, &parts.headers);
        let found = proof.as_ref().map(Proof::found);
        let admitted = self
            .admit(verdict, order, &parts, length)
            .and_then(|terms| self.make_intake(&lead, order, &parts, length, now - age, terms));
        let proven = match (proof, &admitted) {
            (None, _) => Ok(body),
            (Some(proof), Ok(_)) => {
                self.unless_lost(&provider, proven::prove(body, proof, policy.verify_first)).await.flatten()
            }
            (proof, Err(_)) => self.unless_lost(&provider, self.prove_unkept(body, proof)).await.flatten(),
        };
        let body = match proven {
            Ok(body) => body,
            Err(error) => {
                self.metrics.fetch(asked(&provider), Fetched::Error, began.elapsed());
                self.distrust(&provider, lead.key(), &error);
                return Received::Broken(Leading { lead, first }, error);
            }
        };
        match admitted {
            Ok((mut intake, own)) => {
                // The leader may have left; so below, too.
                let _ = first.send(First::Fields(own));
                intake.found = found;
                intake.certify();
                self.take_in(lead, order, intake, Coming { provider, body, began }).await;
            }
            Err(refusal) => {
                self.note_refusal(lead.key(), order, parts.status, refusal);
                let body = self.counted(&provider, began, body);
                let _ = first.send(First::Response { provider, response: Response::from_parts(parts, body) });
                lead.settle(Outcome::Pass(refusal));
            }
        }
        Received::Done
    }

    /// Makes room for a response that others may share. Returns with it the fields that
    /// only the leader's client may have.
    fn make_intake(
        &self,
        lead: &Lead,
        order: &Order,
        parts: &http::response::Parts,
        length: Option<u64>,
        born: SystemTime,
        (lifetime, kept): (Lifetime, Kept),
    ) -> Result<(Intake, HeaderMap), Refusal> {
        let (key, selected) = self.variant(lead.key(), order, &parts.headers)?;
        let (mut head, own) = head(parts, length, born, lifetime, self.response_via(parts.version));
        if parts.status == StatusCode::OK {
            self.name_by_hash(lead.key(), &mut head.headers);
        }
        let head = Arc::new(head);
        let fields = head.weight(&key);
        let extent = if kept == Kept::Shared(Refusal::TooLarge) { Extent::Window } else { Extent::Whole };
        // A body of unknown length takes what a window takes at the least, for it may
        // become one.
        let room = match extent {
            Extent::Whole => self.budget.charge(fields.saturating_add(length.unwrap_or(LEAST_ROOM))),
            Extent::Window => self.budget.charge(fields + WINDOW).or_else(|| self.budget.charge(fields + LEAST_ROOM)),
        };
        let room = Room::new(room.ok_or(Refusal::NoRoom)?);
        let fits = self.memory.takes(tier(lead), fields.saturating_add(length.unwrap_or(0)));
        let kept = if kept == Kept::Stored && !fits { Kept::Shared(Refusal::TooLarge) } else { kept };
        let (came, last, alone_since, found) = (0, Bytes::new(), None, None);
        Ok((Intake { key, selected, head, kept, room, fields, came, last, extent, alone_since, found }, own))
    }

    /// Notes what a response that is not kept means for later requests: nothing, if this
    /// request's own fields may have caused it.
    fn note_refusal(&self, key: &AssetKey, order: &Order, status: StatusCode, refusal: Refusal) {
        let odd = status.is_client_error()
            && !matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE);
        if odd || order.credentials != Credentials::None {
            return;
        }
        if order.stale.is_some() && !status.is_server_error() {
            // A full response goes before what was stored (RFC 9111 §4.3.3).
            self.memory.remove(key);
        }
        if refusal.will_recur() {
            self.memory.mark(key, self.policy.load().hit_for_miss);
        }
    }

    /// The key of the variant that a response to `order` is, and what selects it.
    fn variant(
        &self,
        key: &AssetKey,
        order: &Order,
        headers: &HeaderMap,
    ) -> Result<(AssetKey, Option<Selected>), Refusal> {
        let fields = match vary::varies(headers) {
            Varies::By(fields) if order.name == Name::Plain => {
                // A field that was not forwarded cannot have selected anything.
                fields.into_iter().filter(forward::is_handed_on).collect::<Arc<[_]>>()
            }
            // A hashed name was asked for without anything to vary by.
            _ => return Ok((key.clone(), None)),
        };
        if fields.is_empty() {
            return Ok((key.clone(), None));
        }
        let variants = self.policy.load().variants;
        if variants == 0 {
            return Err(Refusal::Vary);
        }
        let selected = Selected { variant: Variant::of(&fields, &order.headers), fields };
        self.memory.vary(key, &selected.fields, variants);
        Ok((key.of_variant(selected.variant), Some(selected)))
    }

    /// Whether everybody may have the response, and whether it will be kept. One that
    /// is too large to be kept is shared while it streams by, if a reader that falls
    /// behind can go on alone.
    fn admit(
        &self,
        verdict: Verdict,
        order: &Order,
        parts: &http::response::Parts,
        length: Option<u64>,
    ) -> Result<(Lifetime, Kept), Refusal> {
        let too_large = length.is_some_and(|length| length > self.plan.max_object);
        match verdict {
            // Of anything but a 200 no part can be asked for.
            Verdict::Store(lifetime)
                if too_large && parts.status == StatusCode::OK && Self::can_follow(order, &parts.headers) =>
            {
                Ok((lifetime, Kept::Shared(Refusal::TooLarge)))
            }
            _ if too_large => Err(Refusal::TooLarge),
            Verdict::Pass(refusal) => Err(refusal),
            Verdict::Store(_) if parts.extensions.get::<Unframed>().is_some() => Err(Refusal::Unframed),
            Verdict::Store(lifetime) => Ok((lifetime, Kept::Stored)),
            Verdict::Share(refusal) => Ok((Lifetime::UntilEvicted { said: None }, Kept::Shared(refusal))),
        }
    }
}

/// Whether a response of this age may be stored, or shared.
fn judge(policy: &Policy, key: &AssetKey, order: &Order, parts: &http::response::Parts, age: Duration) -> Verdict {
    let verdict = storing::verdict(policy.case(order.name, order.credentials), parts.status, &parts.headers, age);
    match settled(verdict, age, order.stale.as_ref()) {
        // A peer may have served it for what this request says, and others did not say it.
        Verdict::Share(refusal @ Refusal::Expired) if RequestControl::of(&order.headers).max_stale.is_some() => {
            Verdict::Pass(refusal)
        }
        // The name tells the digest of the file: a coded body cannot be checked
        // against it, so it is not kept.
        Verdict::Store(_) if is_coded(&parts.headers) && policy.expected(key).is_some() => {
            Verdict::Pass(Refusal::Coded)
        }
        verdict => verdict,
    }
}

/// Asks for all of what is ordered.
pub(super) fn for_all(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = key.target().into();
    *request.headers_mut() = order.headers.clone();
    request
}

/// As [`for_all`], but conditional where something is stored, and with interim responses
/// relayed to the leader's client.
pub(super) fn request(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = for_all(key, order);
    if let Some(stale) = &order.stale {
        validation::add_condition(request.headers_mut(), &stale.fields.unpack());
    }
    if let Some(relay) = &order.relay {
        relay.listen(&mut request);
    }
    request
}

/// Flights to the origin fill the main tier, even when a peer supplied the copy; so do
/// keys that are taken over.
pub(super) fn tier(lead: &Lead) -> Tier {
    match lead.reach() {
        Reach::Origin | Reach::Holder => Tier::Main,
        Reach::Peers => Tier::Hot,
    }
}

pub(super) fn asked(provider: &Provider) -> Asked {
    match provider {
        Provider::Origin => Asked::Origin,
        Provider::Peer(_) => Asked::Peer,
    }
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Adds a Date where there is none, as a recipient with a clock does (RFC 9110 §6.6.1).
pub(super) fn add_date(headers: &mut HeaderMap, now: SystemTime) {
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now))
    {
        headers.insert(DATE, date);
    }
}

/// All lines of a list field in one.
pub(super) fn joined(headers: &HeaderMap, name: &http::HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.clone();
    let mut all = first.as_bytes().to_vec();
    for line in lines {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}
