//! Ingestion of a body: into the flight, and then into the store.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::fetch::asked;
use super::filler::Filler;
use super::landing::{Ingest, land};
use super::order::Order;
use super::resume::can_resume_fill;
use super::verify::{distrust, mark_wrong};
use crate::body::{Body, next_data};
use crate::error::{Error, Fault};
use crate::flight::{Extent, Kept, Lead, Provider, Verification};
use crate::observe::metrics::Fetched;
use crate::semantics::storing::Refusal;
use crate::store::chunks::CHUNK;

/// The number of sources that a body came from: one, or more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mixed {
    No,
    Yes,
}

/// A body that is being received.
pub(super) struct Incoming {
    pub(super) provider: Provider,
    pub(super) body: Body,
    pub(super) began: Instant,
}

impl Filler {
    /// Streams the body to the readers of the flight, and stores it when it is complete.
    pub(super) async fn ingest(&self, mut lead: Lead, order: &Order, mut ingest: Ingest, incoming: Incoming) {
        let Incoming { provider, mut body, mut began } = incoming;
        let proof = ingest.proof();
        if ingest.extent == Extent::Window {
            lead.flight().body.become_window(ingest.room.bytes() - ingest.header_bytes);
            self.cache.store.mark(lead.key(), self.settings.policy(lead.key()).hit_for_miss);
            lead.unlist();
        }
        lead.stream(ingest.streaming(provider.clone()));
        let mut sources = None;
        // The sender of the rest; `None` if the rest was here already.
        let (mut source, mut mixed) = (Some(provider.clone()), Mixed::No);
        let ended = loop {
            // Give up a lost peer only if another source can resume the body.
            let lost = source.as_ref().filter(|_| can_resume_fill(order, &ingest, proof));
            match self.next_unless_lost(&mut body, lost).await {
                None => break ingest.check_end(),
                Some(Err(error)) if error.is_of_contents() => break Err(error),
                Some(Err(error)) => {
                    let sources = sources.get_or_insert_with(|| self.sources(&lead, &provider));
                    let Some(rest) = Box::pin(self.resume_fill(&mut lead, order, &ingest, sources, body)).await else {
                        break Err(error);
                    };
                    if let Some(refusal) = rest.forbidden {
                        // The readers of the flight get the body; the next request asks again.
                        // Peers among them were told that they may store it.
                        ingest.kept = Kept::Shared(refusal);
                        lead.unlist();
                        let (invalidator, key) = (self.invalidator.clone(), lead.key().asset());
                        tokio::spawn(async move { invalidator.purge_everywhere(vec![key]).await });
                    }
                    self.note_end(source.as_ref(), Fetched::Error, began);
                    began = Instant::now();
                    tracing::warn!(path = %lead.key(), at_byte = ingest.received, lost = source.as_ref().map_or("-", Provider::name), %error, "fill interrupted, continuing from another source");
                    (source, body, mixed) = (rest.provider, rest.body, Mixed::Yes);
                }
                Some(Ok(data)) => {
                    if let Err(error) = self.append(&mut lead, &mut ingest, data).await {
                        break Err(error);
                    }
                }
            }
        };
        match ended {
            Ok(()) => {
                self.note_end(source.as_ref(), Fetched::Ok, began);
                land(&self.cache, lead, ingest);
            }
            Err(Error::Abandoned) => {
                self.note_end(source.as_ref(), Fetched::Ok, began);
                tracing::info!(path = %lead.key(), received = ingest.received, "fill abandoned, no client is waiting");
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
    fn note_failure(&self, lead: &Lead, provider: &Provider, proof: Verification, mixed: Mixed, error: &Error) {
        let of_one = mixed == Mixed::No;
        if matches!(error, Error::OriginWrong(_)) && of_one {
            mark_wrong(&self.settings.policy(lead.key()), &self.cache, lead);
        }
        match (provider, proof) {
            (Provider::Peer(peer), Verification::None) if error.fault() == Fault::Peer => {
                self.peering.note_broken_response(peer);
            }
            (provider, Verification::AtEnd) if of_one => {
                distrust(&self.fetcher, &self.cache, provider, lead.key(), error);
            }
            // It is not known which of the sources was wrong: other peers are asked next, and no
            // peer is told to drop its copy.
            (Provider::Peer(peer), Verification::AtEnd) => {
                self.cache.store.doubt(peer, lead.key(), self.settings.policy(lead.key()).wrong_content_ttl);
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
                self.peering.unless_lost(source, pin!(next_data(body))).await.unwrap_or_else(|error| Some(Err(error)))
            }
            None => next_data(body).await,
        }
    }

    /// Appends data to the flight, within the room.
    async fn append(&self, lead: &mut Lead, ingest: &mut Ingest, mut data: Bytes) -> Result<(), Error> {
        let growing = Arc::clone(&lead.flight().body);
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            poll_fn(|cx| growing.poll_room(cx)).await?;
            ingest.still_wanted(lead, self.settings.policy(lead.key()).detached_fill_timeout)?;
            ingest.received += part.len() as u64;
            match ingest.head.length {
                Some(length) if ingest.received > length => {
                    return Err(Error::OriginBroke("the body is longer than its Content-Length".to_owned()));
                }
                // The last bytes are held back until the response is stored.
                Some(length) if ingest.received == length => {
                    ingest.last = part;
                    continue;
                }
                Some(_) => {}
                None => self.grow_room(lead, ingest),
            }
            lead.append(part);
        }
        Ok(())
    }

    /// Charges a body of unknown length chunk by chunk. When the budget or `max_object` is
    /// exceeded, the body becomes a window: its readers continue, and no other request joins.
    fn grow_room(&self, lead: &mut Lead, ingest: &mut Ingest) {
        let held = ingest.room.bytes() - ingest.header_bytes;
        if ingest.extent == Extent::Window || ingest.received <= held {
            return;
        }
        let more = (ingest.received - held).next_multiple_of(CHUNK as u64);
        let refusal = if ingest.received > self.cache.plan.max_object { Refusal::TooLarge } else { Refusal::NoRoom };
        if refusal == Refusal::NoRoom && ingest.room.grow(more) {
            return;
        }
        lead.flight().body.become_window(held);
        ingest.extent = Extent::Window;
        if refusal.will_recur() {
            self.cache.store.mark(lead.key(), self.settings.policy(lead.key()).hit_for_miss);
        }
        lead.unlist();
    }
}
