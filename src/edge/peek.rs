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
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, Response};

use super::admission::{admit, judge};
use super::filler::Filler;
use super::landing::land;
use super::order::Order;
use super::rank::peekable_owner;
use super::verify::{distrust, proof_for};
use crate::body::growing::Reader;
use crate::body::proven::Proof;
use crate::cluster::health::Heard;
use crate::error::Error;
use crate::flight::{Joining, Kept, Lead, Outcome, Provider, Reach, Streaming};
use crate::key::AssetKey;
use crate::observe::metrics::{Asked, Fetched, PeerLookup};
use crate::peer::peek_codec;
use crate::peer::pipeline::PeekRequest;
use crate::semantics::storing::{Credentials, Name};
use crate::semantics::vary::Accepted;
use crate::semantics::{date, forward, freshness};
use crate::upstream::Framing;

/// The time for which an owner gets no further peek for a key that it did not have.
const NOT_AT_HAND: Duration = Duration::from_secs(1);

/// The flight that a successful peek has filled.
pub(super) type AtHand = (Reader, Streaming);

impl Filler {
    /// Asks the owner of `key` for it. Nothing is stored here for the key. The future yields `None`
    /// if the peek fails. Returns `None` if no peek is possible.
    pub(super) fn peek(
        self: &Arc<Self>,
        key: &AssetKey,
        accepted: Accepted,
    ) -> Option<impl Future<Output = Option<AtHand>> + Send + use<>> {
        if !self.cache.store.may_peek(key)
            || key.as_str().len() + key.scope().host.map_or(0, str::len) > peek_codec::MAX_TARGET
            || !key.as_str().is_ascii()
            || self.cache.flights.to_origin(key, Credentials::None).is_some()
        {
            return None;
        }
        let owner = peekable_owner(&self.peering, &self.cache.store, key)?;
        let Joining::Lead(lead) = self.cache.flights.join(key, Reach::Peers, Credentials::None) else {
            return None;
        };
        // Look again: a purge overtakes only flights that it finds, and may have come before this
        // one was listed.
        if self.cache.store.has_changed(key) {
            self.end_without_response(lead);
            return None;
        }
        let flight = Arc::clone(lead.flight());
        let reader = Reader::new(Arc::clone(&flight.body));
        let (asked, began) = (SystemTime::now(), Instant::now());
        let order = self.order_of_peek(key, accepted);
        let accepted = Accepted::of(&order.headers);
        let peeking =
            Peeking { filler: Arc::clone(self), owner: Arc::clone(&owner), lead: Some(lead), order, asked, began };
        self.peering.client.peek(
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

    /// Returns the order that a peek stands for: the owner gets only the key and the codings.
    fn order_of_peek(&self, key: &AssetKey, accepted: Accepted) -> Order {
        let mut order = Order::of_this_edge(self.settings.policy(key).name(key));
        let accepted = if order.name == Name::Proven { Accepted::default() } else { accepted };
        order.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted.text()));
        order
    }
}

/// A flight that waits for the response to a peek. When dropped, the flight ends without one.
struct Peeking {
    filler: Arc<Filler>,
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
        let (filler, took) = (&self.filler, self.began.elapsed());
        filler.peering.hedge_budget.earn();
        filler.peering.note_answer(&self.owner, Heard::Answer(took));
        let Some(response) = response else {
            filler.metrics.peeked(PeerLookup::Missing);
            return filler.end_without_response(lead);
        };
        filler.metrics.peeked(PeerLookup::Found);
        let provider = Provider::Peer(Arc::clone(&self.owner));
        let (lead, fetched) = match filler.complete(lead, &self.order, &provider, response, self.asked) {
            Ok(()) => (None, Fetched::Ok),
            Err(Unfit { lead, wrong: Some(error) }) => {
                distrust(&filler.fetcher, &filler.cache, &provider, lead.key(), &error);
                (Some(lead), Fetched::Error)
            }
            Err(Unfit { lead, wrong: None }) => (Some(lead), Fetched::Ok),
        };
        filler.metrics.fetch(Asked::Peer, fetched, took);
        if let Some(lead) = lead {
            filler.end_without_response(lead);
        }
    }
}

impl Drop for Peeking {
    fn drop(&mut self) {
        if let Some(lead) = self.lead.take() {
            self.filler.metrics.peeked(PeerLookup::Error);
            self.filler.end_without_response(lead);
        }
    }
}

/// A flight that the response to a peek cannot complete.
struct Unfit {
    lead: Lead,
    /// The error, if its contents are wrong.
    wrong: Option<Error>,
}

impl Filler {
    /// Ends a flight without a response: its requests go on as if there had been no peek. For
    /// `NOT_AT_HAND` the key gets no other peek.
    fn end_without_response(&self, lead: Lead) {
        self.cache.store.note_peek_miss(lead.key(), NOT_AT_HAND);
        lead.settle(Outcome::PeekMiss);
    }

    /// Completes a flight with a whole response, if that is right and may be shared and stored.
    fn complete(
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
        let verdict = judge(&self.settings.policy(lead.key()), lead.key(), order, &parts, age);
        let terms = match admit(&self.cache.plan, verdict, order, &parts, Framing::Delimited, Some(length)) {
            Ok(terms @ (lifetime, Kept::Stored)) if !freshness::must_be_validated(lifetime, age) => terms,
            _ => return Err(Unfit { lead, wrong: None }),
        };
        let proof = proof_for(&self.settings.policy(lead.key()), lead.key(), provider, parts.status, &parts.headers);
        let found = proof.as_ref().map(Proof::found);
        if let Some(Err(error)) = proof.map(|proof| proof.prove_whole(&bytes)) {
            return Err(Unfit { lead, wrong: Some(error) });
        }
        let mut ingest = match self.prepare(&lead, order, &parts, Some(length), now - age, terms) {
            Ok((ingest, own)) if own.is_empty() && ingest.kept == Kept::Stored => ingest,
            _ => return Err(Unfit { lead, wrong: None }),
        };
        ingest.digests = found;
        ingest.add_repr_digest();
        (ingest.received, ingest.last) = (length, bytes);
        lead.stream(ingest.streaming(provider.clone()));
        land(&self.cache, lead, ingest);
        Ok(())
    }
}
