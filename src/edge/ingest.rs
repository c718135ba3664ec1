//! Ingestion of a body: into the flight, and then into the store.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, VIA};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Edge;
use super::fetch::asked;
use super::fill::{Order, tier};
use crate::body::proven::ProvenDigests;
use crate::body::{Body, Room, next_data};
use crate::error::{Error, Fault};
use crate::flight::{Extent, Kept, Lead, Provider, Selected, Streaming, Verification};
use crate::key::AssetKey;
use crate::observe::metrics::Fetched;
use crate::semantics::cache_status::CACHE_STATUS;
use crate::semantics::digest_fields::{self, REPR_DIGEST};
use crate::semantics::freshness::Lifetime;
use crate::semantics::storing::Refusal;
use crate::semantics::{cache_control, combined};
use crate::store::chunks::CHUNK;
use crate::store::entry::{self, Content, Head, Stored, detached};
use crate::store::headers::Packed;
use crate::store::metadata::{Metadata, Validated};
use crate::store::tiers::Tier;

/// The state of a body while it is ingested.
pub(super) struct Ingest {
    /// The key under which the response will be stored: that of the variant, if it is one.
    pub(super) key: AssetKey,
    pub(super) selected: Option<Selected>,
    pub(super) head: Arc<Head>,
    pub(super) kept: Kept,
    pub(super) room: Arc<Room>,
    /// The part of the room that is for the headers and not for the body, in bytes.
    pub(super) fields: u64,
    pub(super) came: u64,
    /// The last bytes of a body of known length, once they have arrived.
    pub(super) last: Bytes,
    pub(super) extent: Extent,
    /// The time since when the flight has no reader.
    pub(super) alone_since: Option<Instant>,
    /// The digests that the verification of the body yields, if it is verified.
    pub(super) found: Option<ProvenDigests>,
}

/// The number of sources that a body came from: one, or more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mixed {
    No,
    Yes,
}

/// A body that is being received.
pub(super) struct Coming {
    pub(super) provider: Provider,
    pub(super) body: Body,
    pub(super) began: Instant,
}

impl Edge {
    /// Streams the body to the readers of the flight, and stores it when it is complete.
    pub(super) async fn take_in(self: &Arc<Self>, mut lead: Lead, order: &Order, mut intake: Ingest, coming: Coming) {
        let Coming { provider, mut body, mut began } = coming;
        let proof = intake.proof();
        if intake.extent == Extent::Window {
            lead.flight().body.become_window(intake.room.bytes() - intake.fields);
            self.store.mark(lead.key(), self.policy.load().hit_for_miss);
            lead.unlist();
        }
        lead.stream(intake.streaming(provider.clone()));
        let mut others = None;
        // The sender of the rest; `None` if the rest was here already.
        let (mut source, mut mixed) = (Some(provider.clone()), Mixed::No);
        let ended = loop {
            // Give up a lost peer only if another source can resume the body.
            let lost = source.as_ref().filter(|_| Self::can_go_on(order, &intake, proof));
            match self.next_unless_lost(&mut body, lost).await {
                None => break intake.check_end(),
                Some(Err(error)) if error.is_of_contents() => break Err(error),
                Some(Err(error)) => {
                    let others = others.get_or_insert_with(|| self.others(&lead, &provider));
                    let Some(rest) = Box::pin(self.go_on(&mut lead, order, &intake, others, body)).await else {
                        break Err(error);
                    };
                    if let Some(refusal) = rest.forbidden {
                        // The readers of the flight get the body; the next request asks again.
                        // Peers among them were told that they may store it.
                        intake.kept = Kept::Shared(refusal);
                        lead.unlist();
                        let (edge, key) = (Arc::clone(self), lead.key().asset());
                        tokio::spawn(async move { edge.forget_everywhere(vec![key]).await });
                    }
                    self.note_end(source.as_ref(), Fetched::Error, began);
                    began = Instant::now();
                    tracing::warn!(path = %lead.key(), at = intake.came, from = source.as_ref().map_or("-", Provider::name), %error, "fill interrupted, resuming from another source");
                    (source, body, mixed) = (rest.provider, rest.body, Mixed::Yes);
                }
                Some(Ok(data)) => {
                    if let Err(error) = self.take(&mut lead, &mut intake, data).await {
                        break Err(error);
                    }
                }
            }
        };
        match ended {
            Ok(()) => {
                self.note_end(source.as_ref(), Fetched::Ok, began);
                self.land(lead, intake);
            }
            Err(Error::Abandoned) => {
                self.note_end(source.as_ref(), Fetched::Ok, began);
                tracing::info!(path = %lead.key(), came = intake.came, "fill abandoned, no client is waiting");
                lead.fail(Error::Abandoned);
            }
            Err(error) => {
                self.note_end(source.as_ref(), Fetched::Error, began);
                self.note_failure(&lead, &provider, proof, mixed, &error);
                tracing::warn!(path = %lead.key(), from = provider.name(), %error, "fill failed");
                lead.fail(error);
            }
        }
    }

    /// Notes the effect on later requests when a body that `provider` began has failed.
    fn note_failure(
        self: &Arc<Self>,
        lead: &Lead,
        provider: &Provider,
        proof: Verification,
        mixed: Mixed,
        error: &Error,
    ) {
        let of_one = mixed == Mixed::No;
        if matches!(error, Error::OriginWrong(_)) && of_one {
            self.mark_wrong(lead);
        }
        match (provider, proof) {
            (Provider::Peer(peer), Verification::None) if error.fault() == Fault::Peer => self.hears_part(peer),
            (provider, Verification::AtEnd) if of_one => self.distrust(provider, lead.key(), error),
            // It is not known which of the sources was wrong: other peers are asked next, and no
            // peer is told to drop its copy.
            (Provider::Peer(peer), Verification::AtEnd) => {
                self.store.doubt(peer, lead.key(), self.policy.load().wrong_content_ttl);
            }
            (_, Verification::None) | (Provider::Origin, Verification::AtEnd) => {}
        }
    }

    fn note_end(&self, source: Option<&Provider>, how: Fetched, began: Instant) {
        if let Some(source) = source {
            self.metrics.fetch(asked(source), how, began.elapsed());
        }
    }

    /// Returns the next data, unless it comes from a peer that is given up first.
    async fn next_unless_lost(&self, body: &mut Body, source: Option<&Provider>) -> Option<Result<Bytes, Error>> {
        match source {
            Some(source) => {
                self.unless_lost(source, pin!(next_data(body))).await.unwrap_or_else(|error| Some(Err(error)))
            }
            None => next_data(body).await,
        }
    }

    /// Appends data to the flight, within the room.
    async fn take(&self, lead: &mut Lead, intake: &mut Ingest, mut data: Bytes) -> Result<(), Error> {
        let growing = Arc::clone(&lead.flight().body);
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            poll_fn(|cx| growing.poll_room(cx)).await?;
            intake.still_wanted(lead, self.policy.load().detached_fill_timeout)?;
            intake.came += part.len() as u64;
            match intake.head.length {
                Some(length) if intake.came > length => {
                    return Err(Error::OriginBroke("the body is longer than its Content-Length".to_owned()));
                }
                // The last bytes are held back until the response is stored.
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

    /// Charges a body of unknown length chunk by chunk. When the budget or `max_object` is
    /// exceeded, the body becomes a window: its readers continue, and no other request joins.
    fn make_room(&self, lead: &mut Lead, intake: &mut Ingest) {
        let held = intake.room.bytes() - intake.fields;
        if intake.extent == Extent::Window || intake.came <= held {
            return;
        }
        let more = (intake.came - held).next_multiple_of(CHUNK as u64);
        let refusal = if intake.came > self.plan.max_object { Refusal::TooLarge } else { Refusal::NoRoom };
        if refusal == Refusal::NoRoom && intake.room.grow(more) {
            return;
        }
        lead.flight().body.become_window(held);
        intake.extent = Extent::Window;
        if refusal.will_recur() {
            self.store.mark(lead.key(), self.policy.load().hit_for_miss);
        }
        lead.unlist();
    }

    /// Stores the response of a flight, unless a purge has overtaken the flight.
    pub(super) fn keep(&self, lead: &Lead, tier: Tier, key: &AssetKey, stored: Stored) {
        if lead.is_overtaken() {
            return;
        }
        self.store.store(tier, key, stored);
        // A purge may have come in between: it marks the flight first and then removes the entry.
        if lead.is_overtaken() {
            self.store.remove(key);
        }
    }

    /// Completes a flight. The response is stored first, so that each new request finds either the
    /// flight or the entry.
    pub(super) fn land(&self, lead: Lead, mut intake: Ingest) {
        let tier = tier(&lead);
        intake.certify();
        let last = std::mem::take(&mut intake.last);
        let growing = Arc::clone(&lead.flight().body);
        growing.complete(last, |chunks| {
            if intake.kept != Kept::Stored {
                return;
            }
            let stored = self.made_of(&intake, chunks);
            if self.store.takes(tier, stored.weight()) {
                self.keep(&lead, tier, &intake.key, stored);
            }
        });
        // The flight leaves the table only now.
        drop(lead);
    }

    /// Returns the entry for a body that is held in `chunks`. Its charge is taken over from the
    /// flight.
    fn made_of(&self, intake: &Ingest, chunks: Vec<Bytes>) -> Stored {
        let Ingest { key, head, room, came, .. } = intake;
        let packed = self.packed(head, *came);
        let charge = room.split(Stored::weight_of(key, &packed, *came));
        let content = if entry::is_small(*came) {
            Content::Small(chunks.first().map_or(&[], |bytes| bytes))
        } else {
            Content::Large(room.hold(chunks, *came))
        };
        Stored::new(key, packed, content, charge)
    }

    /// Returns the head as it is stored: with the length of the body.
    fn packed(&self, head: &Head, length: u64) -> Packed {
        if head.length.is_some() || head.facts.status == StatusCode::NO_CONTENT {
            return self.store.pack(head.facts, &head.headers, length);
        }
        let mut headers = head.headers.clone();
        headers.insert(CONTENT_LENGTH, length.into());
        self.store.pack(head.facts, &headers, length)
    }
}

impl Ingest {
    /// Returns the view that the requests of the flight get, now that the head is known.
    pub(super) fn streaming(&self, provider: Provider) -> Streaming {
        Streaming {
            head: Arc::clone(&self.head),
            provider,
            kept: self.kept,
            extent: self.extent,
            selected: self.selected.clone(),
            room: Arc::clone(&self.room),
            proof: self.proof(),
            came: SystemTime::now(),
        }
    }

    /// Returns the verification that the body has still to pass.
    pub(super) fn proof(&self) -> Verification {
        match &self.found {
            Some(found) if found.digests().is_empty() => Verification::AtEnd,
            _ => Verification::None,
        }
    }

    /// Adds the verified digest to the head as Repr-Digest.
    pub(super) fn certify(&mut self) {
        let found = self.found.as_ref().filter(|_| self.head.facts.status == StatusCode::OK);
        let digests = found.map_or(&[][..], ProvenDigests::digests);
        let digest = digests.iter().find_map(|(algorithm, digest)| digest_fields::repr_digest(*algorithm, digest));
        let Some(digest) = digest else {
            return;
        };
        if self.head.headers.contains_key(REPR_DIGEST) {
            return;
        }
        let mut headers = self.head.headers.clone();
        headers.insert(REPR_DIGEST, digest);
        let head = Head { headers, ..Head::clone(&self.head) };
        let more = head.weight(&self.key).saturating_sub(self.head.weight(&self.key));
        if self.room.grow(more) {
            self.fields += more;
            self.head = Arc::new(head);
        }
    }

    fn check_end(&self) -> Result<(), Error> {
        match self.head.length {
            Some(length) if self.came < length => {
                Err(Error::OriginBroke(format!("{} of {length} bytes received", self.came)))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the flight has had no reader for `detached_fill_timeout`. A fill without readers
    /// continues until then, because its response will be requested again.
    fn still_wanted(&mut self, lead: &Lead, detached_fill_timeout: Duration) -> Result<(), Error> {
        if lead.flight().body.readers() > 0 {
            self.alone_since = None;
            return Ok(());
        }
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() > detached_fill_timeout { Err(Error::Abandoned) } else { Ok(()) }
    }
}

/// Removes and returns the headers that only one client may have.
pub(super) fn withhold(headers: &mut HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::new();
    for name in cache_control::withheld(headers) {
        for value in headers.get_all(&name) {
            own.append(name.clone(), value.clone());
        }
        headers.remove(name);
    }
    own
}

pub(super) fn head(
    parts: &http::response::Parts,
    length: Option<u64>,
    born: SystemTime,
    lifetime: Lifetime,
    via: HeaderValue,
) -> (Head, HeaderMap) {
    let mut headers = detached(&parts.headers);
    let own = withhold(&mut headers);
    let upstream_status = combined(headers.get_all(CACHE_STATUS));
    // Each response sets these two headers: with a slot reserved for them, a copy of the map need
    // not grow.
    headers.insert(AGE, HeaderValue::from_static("0"));
    headers.insert(CACHE_STATUS, HeaderValue::from_static("peerage"));
    headers.append(VIA, via);
    if parts.status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let facts = Metadata { status: parts.status, born, lifetime, validated: Validated::Never };
    (Head { facts, length, headers, upstream_status }, own)
}
