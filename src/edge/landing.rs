//! [`Ingest`]: a body on its way into the store, and its landing there.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, VIA};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::memory::Memory;
use super::order::tier;
use crate::body::Room;
use crate::body::proven::ProvenDigests;
use crate::error::Error;
use crate::flight::{Extent, Kept, Lead, Provider, Selected, Streaming, Verification};
use crate::key::AssetKey;
use crate::semantics::cache_status::CACHE_STATUS;
use crate::semantics::digest_fields::{self, REPR_DIGEST};
use crate::semantics::freshness::Lifetime;
use crate::semantics::{cache_control, combined};
use crate::store::entry::{self, Content, Head, Stored, detached};
use crate::store::headers::PackedHead;
use crate::store::metadata::{Metadata, Validated};

/// The state of a body while it is ingested.
pub(super) struct Ingest {
    /// The key under which the response will be stored: that of the variant, if it is one.
    pub(super) key: AssetKey,
    pub(super) selected: Option<Selected>,
    pub(super) head: Arc<Head>,
    pub(super) kept: Kept,
    pub(super) room: Arc<Room>,
    /// The part of the room that is for the headers and not for the body, in bytes.
    pub(super) header_bytes: u64,
    pub(super) received: u64,
    /// The last bytes of a body of known length, once they have arrived.
    pub(super) last: Bytes,
    pub(super) extent: Extent,
    /// The time since when the flight has no reader.
    pub(super) detached_since: Option<Instant>,
    /// The digests that the verification of the body yields, if it is verified.
    pub(super) digests: Option<ProvenDigests>,
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
        match &self.digests {
            Some(proven) if proven.digests().is_empty() => Verification::AtEnd,
            _ => Verification::None,
        }
    }

    /// Adds the verified digest to the head as Repr-Digest.
    pub(super) fn add_repr_digest(&mut self) {
        let proven = self.digests.as_ref().filter(|_| self.head.facts.status == StatusCode::OK);
        let digests = proven.map_or(&[][..], ProvenDigests::digests);
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
            self.header_bytes += more;
            self.head = Arc::new(head);
        }
    }

    /// Fails if a body of known length has ended early.
    pub(super) fn check_end(&self) -> Result<(), Error> {
        match self.head.length {
            Some(length) if self.received < length => {
                Err(Error::OriginBroke(format!("{} of {length} bytes received", self.received)))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the flight has had no reader for `detached_fill_timeout`. A fill without readers
    /// continues until then, because its response will be requested again.
    pub(super) fn still_wanted(&mut self, lead: &Lead, detached_fill_timeout: Duration) -> Result<(), Error> {
        if lead.flight().body.readers() > 0 {
            self.detached_since = None;
            return Ok(());
        }
        let since = *self.detached_since.get_or_insert_with(Instant::now);
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

/// Returns the head that the requests of a flight share, and the headers that only the leader's
/// client may have. `born` is the time from which the age counts.
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

/// Completes a flight. The response is stored first, so that each new request finds either the
/// flight or the entry.
pub(super) fn land(cache: &Memory, lead: Lead, mut ingest: Ingest) {
    let tier = tier(&lead);
    ingest.add_repr_digest();
    let last = std::mem::take(&mut ingest.last);
    let growing = Arc::clone(&lead.flight().body);
    growing.complete(last, |chunks| {
        if ingest.kept != Kept::Stored {
            return;
        }
        let stored = entry_of(cache, &ingest, chunks);
        if cache.store.takes(tier, stored.weight()) {
            cache.insert(&lead, tier, &ingest.key, stored);
        }
    });
    // The flight leaves the table only now.
    drop(lead);
}

/// Returns the entry for a body that is held in `chunks`. Its charge is taken over from the
/// flight.
fn entry_of(cache: &Memory, ingest: &Ingest, chunks: Vec<Bytes>) -> Stored {
    let Ingest { key, head, room, received, .. } = ingest;
    let packed = packed(cache, head, *received);
    let charge = room.split(Stored::weight_of(key, &packed, *received));
    let content = if entry::is_small(*received) {
        Content::Small(chunks.first().map_or(&[], |bytes| bytes))
    } else {
        Content::Large(room.hold(chunks, *received))
    };
    Stored::new(key, packed, content, charge)
}

/// Returns the head as it is stored: with the length of the body.
fn packed(cache: &Memory, head: &Head, length: u64) -> PackedHead {
    if head.length.is_some() || head.facts.status == StatusCode::NO_CONTENT {
        return cache.store.pack(head.facts, &head.headers, length);
    }
    let mut headers = head.headers.clone();
    headers.insert(CONTENT_LENGTH, length.into());
    cache.store.pack(head.facts, &headers, length)
}
