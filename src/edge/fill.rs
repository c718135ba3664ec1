//! Bringing an asset in: from the peers in order of rank, then the origin.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, DATE, ETAG, VIA};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use super::Edge;
use crate::body::growing::{LEAST_ROOM, PIECE};
use crate::body::proven::{self, Found, Proof};
use crate::body::{Body, Held, next_data};
use crate::budget::Charge;
use crate::cluster::membership::Heard;
use crate::error::{Error, Fault};
use crate::flight::{self, Joining, Kept, Lead, Outcome, Provider, Reach, Reused, Selected, Streaming, Why};
use crate::interim::Relay;
use crate::key::AssetKey;
use crate::memory::{self, Tier};
use crate::metrics::{Asked, Fetched};
use crate::outgoing::Unframed;
use crate::semantics::cache_control;
use crate::semantics::cache_status::CACHE_STATUS;
use crate::semantics::digest_fields::{self, REPR_DIGEST};
use crate::semantics::forward;
use crate::semantics::freshness::{self, Case, Credentials, Lifetime, Name, Refusal, Verdict};
use crate::semantics::validation;
use crate::semantics::vary::{self, Varies};
use crate::stored::{Head, Stored, detached};

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
        !same && stored.head.is_fresh(SystemTime::now())
    }

    /// What is stored, if it may be used when nothing better can be had.
    fn fallback(&self) -> Option<&Arc<Stored>> {
        let serves = |stored: &&Arc<Stored>| match stored.head.lifetime {
            Lifetime::For(terms) => terms.serves_on_error(stored.head.age(SystemTime::now())),
            Lifetime::UntilEvicted { .. } => true,
        };
        self.stale.as_ref().filter(serves)
    }
}

/// What belongs to the leader's client alone.
pub(super) enum First {
    /// The response.
    Response { provider: Provider, response: Response<Body> },
    /// Of a response that others may have too, the fields that they may not.
    Fields(HeaderMap),
}

/// A response as it came, with whom from, and when it was asked for.
struct Arrival {
    provider: Provider,
    response: Response<Body>,
    asked: SystemTime,
    began: Instant,
}

/// A body that is coming in.
struct Intake {
    /// Under which it will be stored: its variant's, if it is one.
    key: AssetKey,
    selected: Option<Selected>,
    head: Arc<Head>,
    kept: Kept,
    charge: Arc<Charge>,
    /// What of the charge is not for the body, in bytes.
    fields: u64,
    came: u64,
    /// The last bytes of a body of known length, once they are there.
    last: Bytes,
    extent: Extent,
    /// Since when nobody wants it.
    alone_since: Option<Instant>,
    proof: flight::Proof,
    /// What its body has proven to be.
    found: Found,
}

/// The duty to bring a flight in, and the way to its leader.
struct Leading {
    lead: Lead,
    first: oneshot::Sender<First>,
}

/// What became of a copy.
enum Received {
    /// It is what the flight has come to, well or badly.
    Done,
    /// It was of no use, and nobody has seen anything of it.
    Broken(Leading, Error),
}

/// How often the origin is asked for an asset whose contents come wrong: it may
/// have been the way.
const COPIES: usize = 2;

impl Edge {
    /// Fills a flight, whatever becomes of those who wanted it.
    pub(super) async fn fill(self: Arc<Self>, lead: Lead, order: Arc<Order>, first: oneshot::Sender<First>) {
        // Look again: it may have landed between the look and the lead.
        if self.has_landed(lead.key(), &order) {
            return lead.settle(Outcome::Landed);
        }
        match lead.reach() {
            Reach::Origin => self.fill_from_origin(Leading { lead, first }, &order).await,
            Reach::Peers => self.fill_from_peers(Leading { lead, first }, &order).await,
        }
    }

    fn has_landed(&self, key: &AssetKey, order: &Order) -> bool {
        matches!(self.memory.find(key, SystemTime::now()), memory::Found::Here(_, stored) if order.is_met_by(&stored))
    }

    async fn fill_from_origin(self: &Arc<Self>, mut leading: Leading, order: &Order) {
        let mut wrong = None;
        for _ in 0..COPIES {
            let (asked, began) = (SystemTime::now(), Instant::now());
            let response = match self.ask_origin(request(leading.lead.key(), order)).await {
                Ok(response) => response,
                Err(error) => return give_up(leading.lead, order, error),
            };
            let arrival = Arrival { provider: Provider::Origin, response, asked, began };
            match self.receive(leading, order, arrival).await {
                Received::Done => return,
                Received::Broken(again, error @ Error::OriginWrong(_)) => (leading, wrong) = (again, Some(error)),
                Received::Broken(again, error) => return give_up(again.lead, order, error),
            }
        }
        let period = self.policy.load().wrong;
        self.memory.mark_wrong(leading.lead.key(), SystemTime::now(), period);
        give_up(leading.lead, order, wrong.unwrap_or(Error::Abandoned));
    }

    async fn fill_from_peers(self: &Arc<Self>, mut leading: Leading, order: &Order) {
        for peer in self.before_this_edge(leading.lead.key()) {
            if let Some(arrival) = self.ask_peer(peer, leading.lead.key(), order).await {
                match self.receive(leading, order, arrival).await {
                    Received::Done => return,
                    Received::Broken(again, error) => {
                        tracing::warn!(path = %again.lead.key(), %error, "a peer's copy is of no use; the next in rank is asked");
                        leading = again;
                    }
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
                self.fill_from_origin(Leading { lead: own, first }, order).await;
            }
        }
    }

    /// The peers that rank before this edge, as many as may be asked, without
    /// those that had the asset wrong a moment ago.
    fn before_this_edge(&self, key: &AssetKey) -> Vec<Arc<str>> {
        let (view, now) = (self.membership.view(), SystemTime::now());
        let before = view.ring.rank(key.hash()).into_iter().map(|member| Arc::clone(member.name()));
        let before = before.take_while(|name| name != self.membership.own());
        before.filter(|name| !self.memory.doubts(name, key, now)).take(self.attempts).collect()
    }

    /// The answer of a peer, if it gives one.
    async fn ask_peer(&self, peer: Arc<str>, key: &AssetKey, order: &Order) -> Option<Arrival> {
        let (asked, began) = (SystemTime::now(), Instant::now());
        match self.peers.ask(&peer, request(key, order)).await {
            Ok(response) => {
                if self.membership.note(&peer, Heard::Answer) {
                    tracing::info!(%peer, "the peer answers again");
                }
                Some(Arrival { provider: Provider::Peer(peer), response, asked, began })
            }
            Err(error) => {
                self.metrics.fetch(Asked::Peer, Fetched::Error, began.elapsed());
                if self.membership.note(&peer, Heard::Nothing) {
                    tracing::warn!(%peer, %error, "the peer does not answer; the next in rank is asked");
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
        let began = Instant::now();
        let answer = origin.fetch(request).await;
        if answer.is_err() {
            self.metrics.fetch(Asked::Origin, Fetched::Error, began.elapsed());
        }
        answer
    }

    /// Decides by the response's head what becomes of the flight.
    async fn receive(self: &Arc<Self>, leading: Leading, order: &Order, arrival: Arrival) -> Received {
        let Leading { lead, first } = leading;
        let now = SystemTime::now();
        let (began, provider) = (arrival.began, arrival.provider);
        let (mut parts, body) = arrival.response.into_parts();
        add_date(&mut parts.headers, now);
        if let Some(outcome) = self.without_body(&lead, order, &provider, &parts, arrival.asked) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            lead.settle(outcome);
            return Received::Done;
        }
        let policy = self.policy.load_full();
        let age = freshness::initial_age(&parts.headers, arrival.asked, now);
        let verdict = freshness::verdict(policy.case(order.name, order.credentials), parts.status, &parts.headers, age);
        let verdict = if order.stale.is_some() { settled(verdict, age) } else { verdict };
        let length = body.size_hint().exact().or_else(|| stated_length(&parts.headers));
        let proof = self.proof(lead.key(), &provider, parts.status, &parts.headers);
        let found = proof.as_ref().map(Proof::found).unwrap_or_default();
        let found_later = proof.is_some();
        let admitted = self.admit(verdict, &parts, length).and_then(|(lifetime, kept)| {
            let (key, selected) = self.variant(lead.key(), order, &parts.headers)?;
            Ok((lifetime, kept, key, selected))
        });
        forward::strip_hop_by_hop(&mut parts.headers);
        let admitted = admitted.and_then(|(lifetime, kept, key, selected)| {
            let (mut head, own) = head(&parts, length, now - age, lifetime, &self.via);
            if parts.status == StatusCode::OK {
                self.name_by_hash(lead.key(), &mut head.headers);
            }
            let head = Arc::new(head);
            let fields = head.weight(lead.key(), 0);
            // Without a length, what a window takes at the least: it may become one.
            let room = self.budget.charge(fields + length.unwrap_or(LEAST_ROOM)).ok_or(Refusal::NoRoom)?;
            let tier = tier(&provider);
            let fits = self.memory.takes(tier, fields + length.unwrap_or(0));
            let kept = if kept == Kept::Stored && !fits { Kept::Shared(Refusal::TooLarge) } else { kept };
            let intake = Intake {
                key,
                selected,
                head,
                kept,
                charge: Arc::new(room),
                fields,
                came: 0,
                last: Bytes::new(),
                extent: Extent::Whole,
                alone_since: None,
                proof: if found_later { flight::Proof::AtEnd } else { flight::Proof::None },
                found,
            };
            Ok((intake, own))
        });
        let proven = match (proof, &admitted) {
            (None, _) => Ok(body),
            (Some(proof), Ok(_)) => proven::prove(body, proof, policy.verify_first).await,
            (proof, Err(_)) => self.prove_unkept(body, proof).await,
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
                intake.certify();
                self.take_in(lead, intake, provider, body, began).await;
            }
            Err(refusal) => {
                self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
                if order.stale.is_some() {
                    // A full response goes before what was stored (RFC 9111 §4.3.3).
                    self.memory.remove(lead.key());
                }
                if refusal.will_recur() {
                    self.memory.mark(lead.key(), now, policy.hit_for_miss);
                }
                let _ = first.send(First::Response { provider, response: Response::from_parts(parts, body) });
                lead.settle(Outcome::Pass(refusal));
            }
        }
        Received::Done
    }

    /// A body that will not be kept: a short one proves itself first, if there is
    /// room for it until then, a long one on its way.
    pub(super) async fn prove_unkept(&self, body: Body, proof: Option<Proof>) -> Result<Body, Error> {
        let Some(proof) = proof else {
            return Ok(body);
        };
        let first = self.policy.load().verify_first;
        let room = body.size_hint().exact().filter(|length| *length <= first).and_then(|len| self.budget.charge(len));
        let first = room.as_ref().map_or(0, Charge::bytes);
        proven::prove(body, proof, first).await
    }

    /// What the body of a response to GET has to prove: what its name promises,
    /// and what whoever sent it says of it.
    pub(super) fn proof(
        &self,
        key: &AssetKey,
        provider: &Provider,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Proof> {
        let blame = match provider {
            Provider::Origin => Error::OriginWrong,
            Provider::Peer(_) => Error::PeerWrong,
        };
        let mut expected = digest_fields::expected(status, headers);
        if status == StatusCode::OK {
            expected.extend(self.policy.load().expected(key));
        }
        Proof::of(expected, blame)
    }

    /// The hash in the name is the entity tag where there is none, and a digest that
    /// the name holds all of can be told at once.
    fn name_by_hash(&self, key: &AssetKey, headers: &mut HeaderMap) {
        let Some(expected) = self.policy.load().expected(key) else {
            return;
        };
        if let (false, Ok(tag)) = (headers.contains_key(ETAG), HeaderValue::try_from(format!("\"{}\"", expected.text)))
        {
            headers.insert(ETAG, tag);
        }
        let digest = expected.whole().and_then(|digest| digest_fields::repr_digest(expected.algorithm, &digest));
        if let (false, Some(digest)) = (headers.contains_key(REPR_DIGEST), digest) {
            headers.insert(REPR_DIGEST, digest);
        }
    }

    /// What follows on a copy that proved nothing: a peer that sent it is passed
    /// over for this key. A wrong one is counted and told, and the peer is to
    /// drop it.
    pub(super) fn distrust(self: &Arc<Self>, provider: &Provider, key: &AssetKey, error: &Error) {
        let wrong = matches!(error, Error::OriginWrong(_) | Error::PeerWrong(_));
        if wrong {
            self.metrics.wrong_content(asked(provider));
            tracing::error!(path = %key, from = provider.name(), %error, "the contents are wrong; nothing of them is kept");
        }
        let Provider::Peer(peer) = provider else {
            return;
        };
        if wrong || error.fault() == Fault::Peer {
            self.memory.doubt(peer, key, SystemTime::now(), self.policy.load().wrong);
        }
        if wrong {
            let (edge, peer, key) = (Arc::clone(self), Arc::clone(peer), key.asset().detached());
            tokio::spawn(async move { edge.purge(&peer, &key).await });
        } else if error.fault() == Fault::Peer {
            self.membership.note(peer, Heard::Nothing);
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
                // What did not reach the origin selected nothing there.
                fields.into_iter().filter(forward::is_handed_on).collect::<Vec<_>>()
            }
            // A hashed name was asked for without anything to vary by.
            _ => return Ok((key.clone(), None)),
        };
        if fields.is_empty() {
            return Ok((key.clone(), None));
        }
        let text = vary::selected_by(&fields, &order.headers).into();
        let selected = Selected { fields: fields.clone().into(), text };
        let variants = self.policy.load().variants;
        let key = self.memory.vary(key, fields, &order.headers, variants).ok_or(Refusal::Vary)?;
        Ok((key, Some(selected)))
    }

    /// What becomes of a flight that has an answer already: a 304 validates what
    /// is stored, and an error may be worse than it.
    fn without_body(
        &self,
        lead: &Lead,
        order: &Order,
        provider: &Provider,
        parts: &http::response::Parts,
        asked: SystemTime,
    ) -> Option<Outcome> {
        if parts.status == StatusCode::NOT_MODIFIED {
            let garbage = Error::OriginGarbage("a 304 that answers no condition of this edge".to_owned());
            let stored =
                order.stale.as_ref().filter(|stored| validation::selects(&stored.head.headers, &parts.headers));
            return Some(
                stored.map_or(Outcome::Failed(garbage), |stored| {
                    self.freshen(lead, order, provider, stored, parts, asked)
                }),
            );
        }
        let failed = matches!(parts.status.as_u16(), 500 | 502 | 503 | 504);
        let fallback = order.fallback().filter(|_| failed)?;
        Some(reused(fallback, Why::FailedWith(parts.status)))
    }

    /// Takes a 304's fields over into what is stored (RFC 9111 §3.2, §4.3.4).
    fn freshen(
        &self,
        lead: &Lead,
        order: &Order,
        provider: &Provider,
        stored: &Arc<Stored>,
        parts: &http::response::Parts,
        asked: SystemTime,
    ) -> Outcome {
        match renewed(self.policy.load().case(order.name, order.credentials), stored, &parts.headers, asked) {
            Ok(fresh) => {
                if !lead.is_overtaken() {
                    self.memory.store(tier(provider), lead.key().clone(), fresh.clone());
                }
                reused(&Arc::new(fresh), Why::Validated(provider.clone()))
            }
            Err(refusal) => {
                self.memory.remove(lead.key());
                Outcome::Pass(refusal)
            }
        }
    }

    /// What a 200 to a HEAD says of a stored response to GET (RFC 9111 §4.3.5):
    /// it is still the same, with these fields, or it is not.
    pub(super) fn learn(&self, key: &AssetKey, case: Case, answer: &HeaderMap, asked: SystemTime) {
        let memory::Found::Here(tier, stored) = self.memory.find(key, asked) else {
            return;
        };
        let agrees = case.name == Name::Plain && validation::agrees(&stored.head.headers, answer);
        match renewed(case, &stored, answer, asked).ok().filter(|_| agrees) {
            Some(fresh) => self.memory.store(tier, key.detached(), fresh),
            None => self.memory.remove(key),
        }
    }

    /// Whether everybody may have the response, and whether it will be kept.
    fn admit(
        &self,
        verdict: Verdict,
        parts: &http::response::Parts,
        length: Option<u64>,
    ) -> Result<(Lifetime, Kept), Refusal> {
        if length.is_some_and(|length| length > self.plan.max_object) {
            return Err(Refusal::TooLarge);
        }
        match verdict {
            Verdict::Pass(refusal) => Err(refusal),
            Verdict::Store(_) if parts.extensions.get::<Unframed>().is_some() => Err(Refusal::Unframed),
            Verdict::Store(lifetime) => Ok((lifetime, Kept::Stored)),
            Verdict::Share(refusal) => Ok((Lifetime::UntilEvicted { said: None }, Kept::Shared(refusal))),
        }
    }

    /// Lets everybody have the body as it comes, and keeps it when it is whole.
    async fn take_in(
        self: &Arc<Self>,
        mut lead: Lead,
        mut intake: Intake,
        provider: Provider,
        mut body: Body,
        began: Instant,
    ) {
        lead.stream(Streaming {
            head: Arc::clone(&intake.head),
            provider: provider.clone(),
            kept: intake.kept,
            selected: intake.selected.clone(),
            charge: Arc::clone(&intake.charge),
            proof: intake.proof,
        });
        let ended = loop {
            match next_data(&mut body).await {
                None => break intake.check_end(),
                Some(Err(error)) => break Err(error),
                Some(Ok(data)) => {
                    if let Err(error) = self.take(&mut lead, &mut intake, data).await {
                        break Err(error);
                    }
                }
            }
        };
        match ended {
            Ok(()) => {
                self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
                self.land(lead, intake, tier(&provider));
            }
            Err(error) => {
                self.metrics.fetch(asked(&provider), Fetched::Error, began.elapsed());
                if let Error::OriginWrong(_) = &error {
                    self.memory.mark_wrong(lead.key(), SystemTime::now(), self.policy.load().wrong);
                }
                match (&provider, intake.proof) {
                    (Provider::Peer(peer), flight::Proof::None) if error.fault() == Fault::Peer => {
                        self.membership.note(peer, Heard::Nothing);
                    }
                    (_, flight::Proof::None) => {}
                    (provider, flight::Proof::AtEnd) => self.distrust(provider, lead.key(), &error),
                }
                tracing::warn!(path = %lead.key(), %error, "a fill came to nothing");
                lead.fail(error);
            }
        }
    }

    /// Appends what came, within what may be held.
    async fn take(&self, lead: &mut Lead, intake: &mut Intake, mut data: Bytes) -> Result<(), Error> {
        let growing = Arc::clone(&lead.flight().body);
        while !data.is_empty() {
            let part = data.split_to(data.len().min(PIECE));
            poll_fn(|cx| growing.poll_room(cx)).await?;
            intake.still_wanted(lead, self.policy.load().fill_alone)?;
            intake.came += part.len() as u64;
            match intake.head.length {
                Some(length) if intake.came > length => {
                    return Err(Error::OriginBroke("it is longer than it said".to_owned()));
                }
                // The last bytes wait until the whole is stored.
                Some(length) if intake.came == length => {
                    intake.last = part;
                    continue;
                }
                Some(_) => {}
                None => self.make_room(lead, intake),
            }
            lead.append(part);
        }
        Ok(())
    }

    /// A body of unknown length takes its room piece by piece. When there is no
    /// more for it, it becomes a window: those who read it go on, nobody joins.
    fn make_room(&self, lead: &mut Lead, intake: &mut Intake) {
        let held = intake.charge.bytes() - intake.fields;
        if intake.extent == Extent::Window || intake.came <= held {
            return;
        }
        let more = (intake.came - held).next_multiple_of(PIECE as u64);
        let refusal = if intake.came > self.plan.max_object { Refusal::TooLarge } else { Refusal::NoRoom };
        if refusal == Refusal::NoRoom && intake.charge.grow(more) {
            return;
        }
        lead.flight().body.become_window(held);
        intake.extent = Extent::Window;
        if refusal.will_recur() {
            self.memory.mark(lead.key(), SystemTime::now(), self.policy.load().hit_for_miss);
        }
        lead.unlist();
    }

    /// Ends a flight well: into memory first, so that nobody who comes now
    /// finds neither the flight nor what it brought.
    fn land(&self, lead: Lead, mut intake: Intake, tier: Tier) {
        intake.certify();
        let last = std::mem::take(&mut intake.last);
        let growing = Arc::clone(&lead.flight().body);
        growing.complete(last, |pieces| {
            if intake.kept != Kept::Stored || lead.is_overtaken() {
                return;
            }
            intake.charge.shrink_to(intake.fields + intake.came);
            let body = Arc::new(Held::new(pieces, intake.charge));
            if self.memory.takes(tier, body.charged()) {
                let head = stored_head(&intake.head, body.len());
                self.memory.store(tier, intake.key, Stored { head, body });
            }
        });
        // Only now does the flight leave the list.
        drop(lead);
    }
}

impl Intake {
    /// Notes in the head what its body has proven to be.
    fn certify(&mut self) {
        let digest = self.found.digests().iter().find_map(|(algorithm, digest)| {
            digest_fields::repr_digest(*algorithm, digest).filter(|_| self.head.status == StatusCode::OK)
        });
        let Some(digest) = digest else {
            return;
        };
        self.proof = flight::Proof::None;
        if self.head.headers.contains_key(REPR_DIGEST) {
            return;
        }
        let mut headers = self.head.headers.clone();
        headers.insert(REPR_DIGEST, digest);
        let head = Head { headers, ..Head::clone(&self.head) };
        let more = head.weight(&self.key, 0).saturating_sub(self.head.weight(&self.key, 0));
        if self.charge.grow(more) {
            self.fields += more;
            self.head = Arc::new(head);
        }
    }

    fn check_end(&self) -> Result<(), Error> {
        match self.head.length {
            Some(length) if self.came < length => {
                Err(Error::OriginBroke(format!("{} of {length} bytes came", self.came)))
            }
            _ => Ok(()),
        }
    }

    /// A fill that nobody waits for goes on, for it will be wanted; but not
    /// for ever.
    fn still_wanted(&mut self, lead: &Lead, fill_alone: Duration) -> Result<(), Error> {
        if lead.flight().body.readers() > 0 {
            self.alone_since = None;
            return Ok(());
        }
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() > fill_alone { Err(Error::Abandoned) } else { Ok(()) }
    }
}

/// How much of what came is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Window,
}

fn request(key: &AssetKey, order: &Order) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = key.target().into();
    *request.headers_mut() = order.headers.clone();
    if let Some(stale) = &order.stale {
        validation::add_condition(request.headers_mut(), &stale.head.headers);
    }
    if let Some(relay) = &order.relay {
        relay.listen(&mut request);
    }
    request
}

/// What is stored, with the fields of an answer that says that it is still the
/// same; or why it cannot be stored any longer.
fn renewed(case: Case, stored: &Stored, answer: &HeaderMap, asked: SystemTime) -> Result<Stored, Refusal> {
    let now = SystemTime::now();
    let mut headers = detached(&validation::updated(&stored.head.headers, answer));
    add_date(&mut headers, now);
    let age = freshness::initial_age(answer, asked, now);
    let lifetime = match freshness::verdict(case, stored.head.status, &headers, age) {
        Verdict::Store(lifetime) => lifetime,
        Verdict::Share(refusal) | Verdict::Pass(refusal) => return Err(refusal),
    };
    withhold(&mut headers);
    let (status, length) = (stored.head.status, stored.head.length);
    let head = Arc::new(Head { status, headers, length, upstream_status: None, born: now - age, lifetime });
    Ok(Stored { head, body: Arc::clone(&stored.body) })
}

/// What came in the place of something stale, and is stale itself, will be so
/// the next time: it is not worth a validation of each request.
fn settled(verdict: Verdict, age: Duration) -> Verdict {
    match verdict {
        Verdict::Store(Lifetime::For(terms)) if age >= terms.fresh => Verdict::Pass(Refusal::Changing),
        other => other,
    }
}

/// Takes away, and returns, the fields that one client alone may have.
fn withhold(headers: &mut HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::new();
    for name in cache_control::withheld(headers) {
        for value in headers.get_all(&name) {
            own.append(name.clone(), value.clone());
        }
        headers.remove(name);
    }
    own
}

/// Ends a flight that nobody brings in: with what is stored, if that may do.
fn give_up(lead: Lead, order: &Order, error: Error) {
    tracing::warn!(path = %lead.key(), %error, "the origin gave no answer that could be used");
    match order.fallback() {
        Some(stored) => lead.settle(reused(stored, Why::Failed(error))),
        None => lead.fail(error),
    }
}

fn reused(stored: &Arc<Stored>, why: Why) -> Outcome {
    Outcome::Reused(Reused { stored: Arc::clone(stored), why })
}

fn tier(provider: &Provider) -> Tier {
    match provider {
        Provider::Origin => Tier::Main,
        Provider::Peer(_) => Tier::Hot,
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

fn head(
    parts: &http::response::Parts,
    length: Option<u64>,
    born: SystemTime,
    lifetime: Lifetime,
    via: &HeaderValue,
) -> (Head, HeaderMap) {
    let mut headers = detached(&parts.headers);
    let own = withhold(&mut headers);
    let upstream_status = joined(&headers, &CACHE_STATUS);
    // Each answer sets these two: with a place kept for them, a copy of the
    // fields need not grow.
    headers.insert(AGE, HeaderValue::from_static("0"));
    headers.insert(CACHE_STATUS, HeaderValue::from_static("peerage"));
    headers.append(VIA, via.clone());
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    (Head { status: parts.status, headers, length, upstream_status, born, lifetime }, own)
}

/// RFC 9110 §6.6.1: a recipient with a clock adds the Date that lacks.
fn add_date(headers: &mut HeaderMap, now: SystemTime) {
    if let (false, Ok(date)) = (headers.contains_key(DATE), HeaderValue::try_from(httpdate::fmt_http_date(now))) {
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

/// The head as it is stored: with the length of the body, and without what
/// speaks only of the request that filled the flight.
fn stored_head(head: &Arc<Head>, length: u64) -> Arc<Head> {
    if head.length.is_some() && head.upstream_status.is_none() {
        return Arc::clone(head);
    }
    let mut headers = head.headers.clone();
    headers.insert(CONTENT_LENGTH, length.into());
    let (status, born, lifetime) = (head.status, head.born, head.lifetime);
    Arc::new(Head { status, headers, length: Some(length), upstream_status: None, born, lifetime })
}
