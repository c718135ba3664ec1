//! Looking into the memory of an asset's owner, before a flight is sent for it.
//!
//! Most of what an edge has not is in its owner's memory. That can be asked over a
//! [link](crate::peer::pipeline), and what comes is small and whole: it is judged, proven
//! and stored by the same functions as what a fill brings, but without a task of its own,
//! by whoever reads the link. Where anything is otherwise, the request goes the long way
//! as if nobody had asked.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AGE};
use http::{HeaderValue, Method, Response};

use super::Edge;
use super::admission::judge;
use super::coalesce::{Role, served};
use super::fill::Order;
use crate::body::Body;
use crate::body::growing::Reader;
use crate::body::proven::Proof;
use crate::cluster::health::Heard;
use crate::error::Error;
use crate::flight::{Joining, Kept, Lead, Outcome, Provider, Reach, Streaming};
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Asked, Fetched, Sought, Source};
use crate::peer::peek_codec;
use crate::peer::pipeline::PeekRequest;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Handled};
use crate::semantics::storing::{Credentials, Name};
use crate::semantics::vary::Accepted;
use crate::semantics::{date, forward, freshness};
use crate::upstream::Framing;

/// For how long an owner is not asked again for what it did not have at hand.
const NOT_AT_HAND: Duration = Duration::from_secs(1);

/// What an owner had at hand, as the flight that brought it.
pub(super) type AtHand = (Reader, Streaming);

/// The lines of a 200's fields, and what follows.
pub(crate) struct Peeked {
    pub(crate) lines: Vec<u8>,
    pub(crate) body: Body,
    pub(crate) record: Record,
}

impl Edge {
    /// Asks the owner of `key`, of which nothing is here, for it. What comes of that is the
    /// answer to a [plain](super::FastRequest) request, or nothing; `None` if there is nobody to
    /// be asked in this way.
    pub(crate) fn peek_fast(
        self: &Arc<Self>,
        key: AssetKey,
        accepted: Accepted,
    ) -> Option<impl Future<Output = Option<Peeked>> + Send + use<>> {
        let (edge, peek) = (Arc::clone(self), self.peek(&key, accepted)?);
        Some(async move { Some(edge.answer_plainly(key, peek.await?)) })
    }

    /// As [`peek_fast`](Self::peek_fast), for who makes an answer of it.
    pub(super) fn peek(
        self: &Arc<Self>,
        key: &AssetKey,
        accepted: Accepted,
    ) -> Option<impl Future<Output = Option<AtHand>> + Send + use<>> {
        if !self.store.may_be_at_hand(key)
            || key.as_str().len() > peek_codec::MAX_TARGET
            || !key.as_str().is_ascii()
            || self.flights.to_origin(key, Credentials::None).is_some()
        {
            return None;
        }
        let owner = self.owner_at_hand(key)?;
        let Joining::Lead(lead) = self.flights.join(key, Reach::Peers, Credentials::None) else {
            return None;
        };
        // Look again: a write overtakes what it finds, and may have come before there was this.
        if self.store.has_changed(key) {
            self.go_the_long_way(lead);
            return None;
        }
        let flight = Arc::clone(lead.flight());
        let reader = Reader::new(Arc::clone(&flight.body));
        let (asked, began) = (SystemTime::now(), Instant::now());
        let order = self.order_of_peek(key, accepted);
        let accepted = Accepted::of(&order.headers);
        let peeking =
            Peeking { edge: Arc::clone(self), owner: Arc::clone(&owner), lead: Some(lead), order, asked, began };
        self.peers.peek(
            &owner,
            PeekRequest { key: key.clone(), accepted, on_reply: Box::new(|response| peeking.end(response)) },
        );
        Some(async move {
            match flight.outcome().await {
                Outcome::Streaming(streaming) => Some((reader, streaming.clone())),
                _ => None,
            }
        })
    }

    /// Returns the order that a peek stands for: of all that shapes a response, it tells the
    /// owner the name and the codings.
    fn order_of_peek(&self, key: &AssetKey, accepted: Accepted) -> Order {
        let mut order = Order::of_this_edge(self.policy.load().name(key));
        let accepted = if order.name == Name::Proven { Accepted::default() } else { accepted };
        order.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted.text()));
        order
    }

    /// The owner of a key, if it is another edge, and nothing speaks against its copy.
    fn owner_at_hand(&self, key: &AssetKey) -> Option<Arc<str>> {
        let view = self.membership.view();
        let owner = view.ring.owner(key.hash())?.name();
        let good = owner != self.membership.own() && !view.is_in_doubt(owner) && !self.store.doubts(owner, key);
        good.then(|| Arc::clone(owner))
    }

    fn answer_plainly(&self, key: AssetKey, (mut reader, streaming): AtHand) -> Peeked {
        let Streaming { head, provider, kept, room, .. } = streaming;
        let (handled, stored) = (Handled::UriMiss, kept == Kept::Stored);
        let status = CacheStatus { handled, stored, ..CacheStatus::default() };
        let status = self.status_behind(head.upstream_status.as_ref(), &status);
        let age = head.facts.age(SystemTime::now()).as_secs();
        let mut lines = Vec::with_capacity(512);
        let mut append = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                lines.extend_from_slice(part);
            }
        };
        for (name, value) in &head.headers {
            match name {
                name if *name == AGE && age == 0 => {}
                name if *name == AGE => append(name.as_str(), itoa::Buffer::new().format(age).as_bytes()),
                name if *name == CACHE_STATUS => append(name.as_str(), status.as_bytes()),
                name => append(name.as_str(), value.as_bytes()),
            }
        }
        reader.narrow(0, head.length);
        let (served, from) = (served(Role::Leader), ServedFrom::from(&provider));
        let record = Record {
            source: Source::Client,
            method: Method::GET,
            key: Ok(key),
            served,
            from,
            reason: None,
            error: None,
        };
        Peeked { lines, body: Body::flight(reader, room, None, None), record }
    }
}

/// A flight that waits for what its owner has at hand. Dropped, it waits no longer.
struct Peeking {
    edge: Arc<Edge>,
    owner: Arc<str>,
    /// Nothing when it has ended.
    lead: Option<Lead>,
    order: Order,
    asked: SystemTime,
    began: Instant,
}

impl Peeking {
    fn end(mut self, response: Option<Response<Bytes>>) {
        let Some(lead) = self.lead.take() else { return };
        let (edge, took) = (&self.edge, self.began.elapsed());
        edge.hedges.earn();
        edge.hears(&self.owner, Heard::Answer(took));
        let Some(response) = response else {
            edge.metrics.peeked(Sought::Missing);
            return edge.go_the_long_way(lead);
        };
        edge.metrics.peeked(Sought::Chunks);
        let provider = Provider::Peer(Arc::clone(&self.owner));
        let (lead, fetched) = match edge.take_whole(lead, &self.order, &provider, response, self.asked) {
            Ok(()) => (None, Fetched::Ok),
            Err(Unfit { lead, wrong: Some(error) }) => {
                edge.distrust(&provider, lead.key(), &error);
                (Some(lead), Fetched::Error)
            }
            Err(Unfit { lead, wrong: None }) => (Some(lead), Fetched::Ok),
        };
        edge.metrics.fetch(Asked::Peer, fetched, took);
        if let Some(lead) = lead {
            edge.go_the_long_way(lead);
        }
    }
}

impl Drop for Peeking {
    fn drop(&mut self) {
        if let Some(lead) = self.lead.take() {
            self.edge.metrics.peeked(Sought::Error);
            self.edge.go_the_long_way(lead);
        }
    }
}

/// A flight that cannot end with what the owner has at hand.
struct Unfit {
    lead: Lead,
    /// What is wrong with its contents, if anything is.
    wrong: Option<Error>,
}

impl Edge {
    /// Has all who wait for a flight ask the long way. Until they share another, nobody is
    /// to begin one as this was.
    fn go_the_long_way(&self, lead: Lead) {
        self.store.note_not_at_hand(lead.key(), NOT_AT_HAND);
        lead.settle(Outcome::NotAtHand);
    }

    /// Ends a flight with what has come whole, if it is right, and everybody may have it.
    fn take_whole(
        &self,
        mut lead: Lead,
        order: &Order,
        provider: &Provider,
        response: Response<Bytes>,
        asked: SystemTime,
    ) -> Result<(), Unfit> {
        let now = SystemTime::now();
        let (mut parts, bytes) = response.into_parts();
        forward::strip_hop_by_hop(&mut parts.headers);
        date::add(&mut parts.headers, now);
        let age = freshness::initial_age(&parts.headers, asked, now);
        let length = bytes.len() as u64;
        let verdict = judge(&self.policy.load(), lead.key(), order, &parts, age);
        let terms = match self.admit(verdict, order, &parts, Framing::Delimited, Some(length)) {
            Ok(terms @ (lifetime, Kept::Stored)) if !freshness::must_be_validated(lifetime, age) => terms,
            _ => return Err(Unfit { lead, wrong: None }),
        };
        let proof = self.proof(lead.key(), provider, parts.status, &parts.headers);
        let found = proof.as_ref().map(Proof::found);
        if let Some(Err(error)) = proof.map(|proof| proof.prove_whole(&bytes)) {
            return Err(Unfit { lead, wrong: Some(error) });
        }
        let mut intake = match self.make_intake(&lead, order, &parts, Some(length), now - age, terms) {
            Ok((intake, own)) if own.is_empty() && intake.kept == Kept::Stored => intake,
            _ => return Err(Unfit { lead, wrong: None }),
        };
        intake.found = found;
        intake.certify();
        (intake.came, intake.last) = (length, bytes);
        lead.stream(intake.streaming(provider.clone()));
        self.land(lead, intake);
        Ok(())
    }
}
