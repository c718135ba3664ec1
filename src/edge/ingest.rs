//! A body that is coming in: into the flight, and then into memory.

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
use crate::store::headers::PackedHead;
use crate::store::metadata::{Metadata, Validated};
use crate::store::tiers::Tier;

/// A body that is coming in.
pub(super) struct Ingest {
    /// The key under which it will be stored: that of its variant, if it is one.
    pub(super) key: AssetKey,
    pub(super) selected: Option<Selected>,
    pub(super) head: Arc<Head>,
    pub(super) kept: Kept,
    pub(super) room: Arc<Room>,
    /// How much of the room is for the fields, and not for the body, in bytes.
    pub(super) fields: u64,
    pub(super) came: u64,
    /// The last bytes of a body of known length, once they are there.
    pub(super) last: Bytes,
    pub(super) extent: Extent,
    /// Since when nobody wants it.
    pub(super) alone_since: Option<Instant>,
    /// What its body has proven to be, if it has to prove anything.
    pub(super) found: Option<ProvenDigests>,
}

/// Whether a body has come from more than one source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mixed {
    No,
    Yes,
}

/// A body as it comes.
pub(super) struct Coming {
    pub(super) provider: Provider,
    pub(super) body: Body,
    pub(super) began: Instant,
}

impl Edge {
    /// Lets everybody have the body as it comes, and keeps it when it is whole.
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
        // Who sends the rest; nobody, if it was here already.
        let (mut source, mut mixed) = (Some(provider.clone()), Mixed::No);
        let ended = loop {
            // Give up on a lost peer only if the body can go on from elsewhere.
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
                        // Those who have joined get the body; the next request asks anew. Peers
                        // among them were told that they may store it.
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

    /// Notes what the failure of a body that `provider` began means for later requests.
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
            // Which of the sources was wrong cannot be told: others are asked next, and
            // nobody is told to drop its copy.
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

    /// What comes next, unless it comes from a peer that is given up before.
    async fn next_unless_lost(&self, body: &mut Body, source: Option<&Provider>) -> Option<Result<Bytes, Error>> {
        match source {
            Some(source) => {
                self.unless_lost(source, pin!(next_data(body))).await.unwrap_or_else(|error| Some(Err(error)))
            }
            None => next_data(body).await,
        }
    }

    /// Appends what came, within what may be held.
    async fn take(&self, lead: &mut Lead, intake: &mut Ingest, mut data: Bytes) -> Result<(), Error> {
        let growing = Arc::clone(&lead.flight().body);
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            poll_fn(|cx| growing.poll_room(cx)).await?;
            intake.still_wanted(lead, self.policy.load().detached_fill_timeout)?;
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

    /// Stores what a flight has brought, unless a write has overtaken it.
    pub(super) fn keep(&self, lead: &Lead, tier: Tier, key: &AssetKey, stored: Stored) {
        if lead.is_invalidated() {
            return;
        }
        self.store.store(tier, key, stored);
        // A write may have come in between: it marks the flight, then it removes.
        if lead.is_invalidated() {
            self.store.remove(key);
        }
    }

    /// Ends a flight well. What it brought goes into memory first, so that whoever
    /// comes now finds one or the other.
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
        // Only now does the flight leave the list.
        drop(lead);
    }

    /// What is stored of a body that is there in `pieces`. What it takes of the budget, it
    /// takes over from the flight.
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

    /// The head as it is stored: with the length of the body, and without what
    /// speaks only of the request that filled the flight.
    fn packed(&self, head: &Head, length: u64) -> PackedHead {
        if head.length.is_some() || head.facts.status == StatusCode::NO_CONTENT {
            return self.store.pack(head.facts, &head.headers, length);
        }
        let mut headers = head.headers.clone();
        headers.insert(CONTENT_LENGTH, length.into());
        self.store.pack(head.facts, &headers, length)
    }
}

impl Ingest {
    /// What those who share the flight see of it, now that its head is there.
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

    /// What its body has still to prove.
    pub(super) fn proof(&self) -> Verification {
        match &self.found {
            Some(found) if found.digests().is_empty() => Verification::AtEnd,
            _ => Verification::None,
        }
    }

    /// Notes in the head what its body has proven to be.
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
                Err(Error::OriginBroke(format!("{} of {length} bytes came", self.came)))
            }
            _ => Ok(()),
        }
    }

    /// A fill that nobody waits for goes on, for it will be wanted; but not
    /// for ever.
    fn still_wanted(&mut self, lead: &Lead, detached_fill_timeout: Duration) -> Result<(), Error> {
        if lead.flight().body.readers() > 0 {
            self.alone_since = None;
            return Ok(());
        }
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() > detached_fill_timeout { Err(Error::Abandoned) } else { Ok(()) }
    }
}

/// Takes away, and returns, the fields that one client alone may have.
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
    // Each answer sets these two: with a place kept for them, a copy of the
    // fields need not grow.
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
