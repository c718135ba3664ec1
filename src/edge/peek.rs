//! Peeks: before a flight is sent for a key, its owner is asked whether the response is in its
//! memory.
//!
//! Most responses that an edge misses are in the store of their owner. A peek goes over a
//! [pipeline](crate::peer::pipeline), and the response is small and complete. The functions of a
//! fill judge, verify and store it, but in the task that reads the pipeline, and without a task of
//! its own. If anything is unusual, the request continues as if there had been no peek.

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
use crate::peer::pipeline::Question;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Handled};
use crate::semantics::storing::{Credentials, Name};
use crate::semantics::vary::Accepted;
use crate::semantics::{date, forward, freshness};

/// The time for which an owner gets no further peek for a key that it did not have.
const NOT_AT_HAND: Duration = Duration::from_secs(1);

/// The flight that a successful peek has filled.
pub(super) type AtHand = (Reader, Streaming);

/// The header lines of a 200, and its body.
pub(crate) struct Peeked {
    pub(crate) lines: Vec<u8>,
    pub(crate) body: Body,
    pub(crate) record: Record,
}

impl Edge {
    /// Asks the owner of `key` for it. Nothing is stored here for the key. The future yields the
    /// response to a [plain](super::FastRequest) request, or `None` if the peek fails. Returns
    /// `None` if no peek is possible.
    pub(crate) fn peek_fast(
        self: &Arc<Self>,
        key: AssetKey,
        accepted: Accepted,
    ) -> Option<impl Future<Output = Option<Peeked>> + Send + use<>> {
        let (edge, peek) = (Arc::clone(self), self.peek(&key, accepted)?);
        Some(async move { Some(edge.answer_plainly(key, peek.await?)) })
    }

    /// Peeks like [`peek_fast`](Self::peek_fast), but yields the flight instead of a finished
    /// response.
    pub(super) fn peek(
        self: &Arc<Self>,
        key: &AssetKey,
        accepted: Accepted,
    ) -> Option<impl Future<Output = Option<AtHand>> + Send + use<>> {
        if !self.store.may_be_at_hand(key)
            || key.as_str().len() > peek_codec::LONGEST
            || !key.as_str().is_ascii()
            || self.flights.to_origin(key, Credentials::None).is_some()
        {
            return None;
        }
        let owner = self.owner_at_hand(key)?;
        let Joining::Lead(lead) = self.flights.join(key, Reach::Peers, Credentials::None) else {
            return None;
        };
        // Look again: a purge overtakes only flights that it finds, and may have come before this
        // one was listed.
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
        self.peers
            .peek(&owner, Question { key: key.clone(), accepted, then: Box::new(|response| peeking.end(response)) });
        Some(async move {
            match flight.outcome().await {
                Outcome::Streaming(streaming) => Some((reader, streaming.clone())),
                _ => None,
            }
        })
    }

    /// Returns the order that a peek stands for: the owner gets only the key and the codings.
    fn order_of_peek(&self, key: &AssetKey, accepted: Accepted) -> Order {
        let mut order = Order::of_this_edge(self.policy.load().name(key));
        let accepted = if order.name == Name::Proven { Accepted::default() } else { accepted };
        order.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted.text()));
        order
    }

    /// Returns the owner of a key if it is another edge, is not in doubt, and had no wrong copy
    /// lately.
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

/// A flight that waits for the response to a peek. When dropped, the flight ends without one.
struct Peeking {
    edge: Arc<Edge>,
    owner: Arc<str>,
    /// `None` when it has ended.
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

/// A flight that the response to a peek cannot complete.
struct Unfit {
    lead: Lead,
    /// The error, if its contents are wrong.
    wrong: Option<Error>,
}

impl Edge {
    /// Ends a flight without a response: its requests go on as if there had been no peek. For
    /// `NOT_AT_HAND` the key gets no other peek.
    fn go_the_long_way(&self, lead: Lead) {
        self.store.note_not_at_hand(lead.key(), NOT_AT_HAND);
        lead.settle(Outcome::NotAtHand);
    }

    /// Completes a flight with a whole response, if that is right and may be shared and stored.
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
        let terms = match self.admit(verdict, order, &parts, Some(length)) {
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
