//! Decides, by the head of an upstream response, how its flight continues: the body is ingested and
//! shared, or it goes to the leader's client alone.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ORIGIN, REFERER, USER_AGENT};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use hyper::body::Body as _;

use super::fetch::{Arrival, Fetcher, asked};
use super::filler::Filler;
use super::ingest::Incoming;
use super::landing::{Ingest, head};
use super::memory::Memory;
use super::order::{LeaderOnly, Leading, Order, tier};
use super::probe_length::{may_outgrow, measured};
use super::resume::can_resume;
use super::revalidate::{is_of_another, reject_changing};
use super::verify::{distrust, name_by_hash, proof_for, prove_unkept};
use crate::body::Room;
use crate::body::growing::LEAST_ROOM;
use crate::body::proven::{self, Proof};
use crate::error::Error;
use crate::flight::{Extent, Kept, Lead, Outcome, Provider, Selected};
use crate::key::AssetKey;
use crate::observe::metrics::Fetched;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::freshness::Lifetime;
use crate::semantics::storing::{Credentials, Name, Personal, Refusal, Verdict};
use crate::semantics::vary::{self, Variant, Varies, is_coded};
use crate::semantics::{content_length, date, forward, freshness, storing};
use crate::site::policy::Policy;
use crate::store::entry::in_flight;
use crate::store::tiers::{Plan, Store};
use crate::upstream::{Framing, Reply};

/// The result of one response for a flight.
pub(super) enum Attempt {
    /// The flight has its outcome, good or bad.
    Done,
    /// The response was unusable, and no client has received a byte of it: another source may be
    /// tried.
    Unusable(Leading, Error),
}

/// The decision about a body: it is ingested, and the headers go to the leader's client alone; or
/// the whole response goes to that client alone.
pub(super) type Admitted = Result<(Ingest, HeaderMap), Refusal>;

/// The window of a body too large to be stored, in bytes: the largest distance between two of its
/// readers.
const WINDOW: u64 = 4 * 1024 * 1024;

impl Filler {
    /// Decides by the head of a response how the flight continues, and ingests the body.
    pub(super) async fn receive(self: &Arc<Self>, leading: Leading, order: &Order, arrival: Arrival) -> Attempt {
        let now = SystemTime::now();
        let Arrival { provider, reply, asked: sent, began } = arrival;
        let Reply { response, framing, .. } = reply;
        let (mut parts, body) = response.into_parts();
        // The connection has interpreted the framing headers already.
        forward::strip_hop_by_hop(&mut parts.headers);
        date::add(&mut parts.headers, now);
        if is_of_another(order, &parts) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            let error = match &provider {
                Provider::Origin => Error::OriginGarbage,
                Provider::Peer(_) => Error::PeerBroke,
            }("a 304 that matches no stored response".to_owned());
            return Attempt::Unusable(leading, error);
        }
        if let Some(outcome) = self.without_body(&leading.lead, order, &provider, &parts, sent) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            let _ = leading.leader.send(LeaderOnly::Headers(HeaderMap::new()));
            leading.lead.settle(outcome);
            return Attempt::Done;
        }
        let age = freshness::initial_age(&parts.headers, sent, now);
        let verdict = judge(&self.settings.policy(leading.lead.key()), leading.lead.key(), order, &parts, age);
        let body = match self
            .peering
            .unless_lost(&provider, pin!(measured(&self.cache, verdict, &parts, framing, body)))
            .await
            .flatten()
        {
            Ok(body) => body,
            Err(error) => return reject(&self.fetcher, &self.cache, leading, &provider, began, error),
        };
        let length = body.size_hint().exact().or_else(|| stated_length(&parts.headers));
        let admitted = admit(&self.cache.plan, verdict, order, &parts, framing, length)
            .and_then(|terms| self.prepare(&leading.lead, order, &parts, length, now - age, terms));
        self.receive_body(leading, order, (parts, framing), admitted, Incoming { provider, body, began }).await
    }

    /// Ingests the body of an admitted response, or hands the response to the leader's client.
    async fn receive_body(
        self: &Arc<Self>,
        leading: Leading,
        order: &Order,
        (parts, framing): (Parts, Framing),
        admitted: Admitted,
        incoming: Incoming,
    ) -> Attempt {
        let proof = proof_for(
            &self.settings.policy(leading.lead.key()),
            leading.lead.key(),
            &incoming.provider,
            parts.status,
            &parts.headers,
        );
        let digests = proof.as_ref().map(Proof::found);
        let first = self.settings.policy(leading.lead.key()).verify_first;
        let incoming = match prove(&self.fetcher, &self.cache, incoming, first, proof, &admitted).await {
            Ok(proven) => proven,
            Err((provider, began, error)) => {
                return reject(&self.fetcher, &self.cache, leading, &provider, began, error);
            }
        };
        let Leading { mut lead, leader } = leading;
        match admitted {
            Ok((mut ingest, own)) => {
                // The leader's client may have left; the same holds for the other `send`.
                let _ = leader.send(LeaderOnly::Headers(own));
                ingest.digests = digests;
                ingest.add_repr_digest();
                self.ingest(lead, order, ingest, incoming).await;
            }
            Err(refusal) => {
                note_refusal(
                    &self.settings.policy(lead.key()),
                    &self.cache.store,
                    lead.key(),
                    order,
                    parts.status,
                    refusal,
                );
                let Incoming { provider, body, began } = incoming;
                let body = self.fetcher.counted(&provider, began, lead.quota.take(), body);
                let reply = Reply { framing, ..Response::from_parts(parts, body).into() };
                let _ = leader.send(LeaderOnly::Response { provider, reply });
                lead.settle(Outcome::Pass(refusal));
            }
        }
        Attempt::Done
    }

    /// Reserves memory for a response that other requests may share. Returns with it the headers
    /// that only the leader's client may have.
    pub(super) fn prepare(
        &self,
        lead: &Lead,
        order: &Order,
        parts: &Parts,
        length: Option<u64>,
        born: SystemTime,
        (lifetime, kept): (Lifetime, Kept),
    ) -> Admitted {
        let (key, selected) =
            variant(&self.settings.policy(lead.key()), &self.cache.store, lead.key(), order, &parts.headers)?;
        let selected = if kept == Kept::Stored { selected } else { selecting(order, parts.status, selected) };
        let (mut head, own) = head(parts, length, born, lifetime, self.settings.via_for(parts.version));
        if parts.status == StatusCode::OK {
            name_by_hash(&self.settings.policy(lead.key()), lead.key(), &mut head.headers);
        }
        let head = Arc::new(head);
        let header_bytes = head.weight(&key);
        let extent = if kept == Kept::Shared(Refusal::TooLarge) { Extent::Window } else { Extent::Whole };
        // A body of unknown length is charged the minimum of a window, because it may become one.
        let room = match extent {
            Extent::Whole => {
                self.cache.budget.charge(header_bytes.saturating_add(length.map_or(LEAST_ROOM, in_flight)))
            }
            Extent::Window => self
                .cache
                .budget
                .charge(header_bytes + WINDOW)
                .or_else(|| self.cache.budget.charge(header_bytes + LEAST_ROOM)),
        };
        let room = Room::new(room.ok_or(Refusal::NoRoom)?);
        let fits = self.cache.store.takes(tier(lead), header_bytes.saturating_add(length.unwrap_or(0)));
        let kept = if kept == Kept::Stored && !fits { Kept::Shared(Refusal::TooLarge) } else { kept };
        let (received, last, detached_since, digests) = (0, Bytes::new(), None, None);
        Ok((
            Ingest { key, selected, head, kept, room, header_bytes, received, last, extent, detached_since, digests },
            own,
        ))
    }
}

/// Rejects a response that broke off, or failed verification, before a client received any of
/// it.
fn reject(
    fetcher: &Fetcher,
    cache: &Memory,
    leading: Leading,
    provider: &Provider,
    began: Instant,
    error: Error,
) -> Attempt {
    fetcher.metrics.fetch(asked(provider), Fetched::Error, began.elapsed());
    distrust(fetcher, cache, provider, leading.lead.key(), &error);
    Attempt::Unusable(leading, error)
}

/// Verifies as much of a body as must be verified before its first byte is sent: the whole, up to
/// `first` bytes.
async fn prove(
    fetcher: &Fetcher,
    cache: &Memory,
    incoming: Incoming,
    first: u64,
    proof: Option<Proof>,
    admitted: &Admitted,
) -> Result<Incoming, (Provider, Instant, Error)> {
    let Some(proof) = proof else {
        return Ok(incoming);
    };
    let Incoming { provider, body, began } = incoming;
    let proven = match admitted {
        Ok(_) => fetcher.peering.unless_lost(&provider, pin!(proven::prove(body, proof, first))).await.flatten(),
        Err(_) => {
            fetcher.peering.unless_lost(&provider, pin!(prove_unkept(cache, first, body, Some(proof)))).await.flatten()
        }
    };
    match proven {
        Ok(body) => Ok(Incoming { provider, body, began }),
        Err(error) => Err((provider, began, error)),
    }
}

/// Notes the effect of an unstorable response on later requests. There is none if the headers
/// of this request may have caused it.
fn note_refusal(policy: &Policy, store: &Store, key: &AssetKey, order: &Order, status: StatusCode, refusal: Refusal) {
    let odd =
        status.is_client_error() && !matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE);
    if odd || order.credentials != Credentials::None {
        return;
    }
    if order.stale.is_some() && !status.is_server_error() {
        // A full response replaces the stored one (RFC 9111 §4.3.3).
        store.remove(key);
    }
    let period = policy.hit_for_miss;
    if order.personal == Personal::Sent {
        store.mark_own(key, period);
    } else if refusal.will_recur() {
        store.mark(key, period);
    }
}

/// Returns the key of the variant that a response to `order` is, and the headers that select
/// it.
fn variant(
    policy: &Policy,
    store: &Store,
    key: &AssetKey,
    order: &Order,
    headers: &HeaderMap,
) -> Result<(AssetKey, Option<Selected>), Refusal> {
    // A fill for a proven name asks for no content coding, and such a response suits every
    // client.
    let suits_all = |name: &HeaderName| order.name == Name::Proven && *name == ACCEPT_ENCODING;
    let fields = match vary::varies(headers) {
        Varies::By(fields) => {
            fields.into_iter().filter(|name| forward::may_select(name) && !suits_all(name)).collect::<Arc<[_]>>()
        }
        Varies::Not | Varies::Uncacheable => return Ok((key.clone(), None)),
    };
    if fields.is_empty() {
        return Ok((key.clone(), None));
    }
    let variants = policy.variants;
    if variants == 0 {
        return Err(Refusal::Vary);
    }
    let selected = Selected { variant: Variant::of(&fields, &order.headers), fields };
    store.vary(key, &selected.fields, variants);
    Ok((key.of_variant(selected.variant), Some(selected)))
}

/// Decides whether other requests may share the response, and whether it will be stored. A
/// response that is too large to be stored is shared while it streams, if a reader that falls
/// out of the window can resume.
pub(super) fn admit(
    plan: &Plan,
    verdict: Verdict,
    order: &Order,
    parts: &Parts,
    framing: Framing,
    length: Option<u64>,
) -> Result<(Lifetime, Kept), Refusal> {
    let too_large = length.is_some_and(|length| length > plan.max_object);
    match verdict {
        // Only a 200 can be resumed with Range.
        Verdict::Store(lifetime)
            if too_large && parts.status == StatusCode::OK && can_resume(order, &parts.headers) =>
        {
            Ok((lifetime, Kept::Shared(Refusal::TooLarge)))
        }
        _ if too_large => Err(Refusal::TooLarge),
        Verdict::Pass(refusal) => Err(refusal),
        _ if may_outgrow(parts, framing, length) => Err(Refusal::Unmeasured),
        Verdict::Store(_) if framing == Framing::UntilClose => Err(Refusal::Unframed),
        Verdict::Store(lifetime) => Ok((lifetime, Kept::Stored)),
        Verdict::Share(refusal) => Ok((Lifetime::UntilEvicted { stated: None }, Kept::Shared(refusal))),
    }
}

/// Decides whether a response of this age may be stored or shared.
pub(super) fn judge(policy: &Policy, key: &AssetKey, order: &Order, parts: &Parts, age: Duration) -> Verdict {
    let verdict =
        storing::verdict(policy.case(order.name, order.credentials, order.personal), parts.status, &parts.headers, age);
    match reject_changing(verdict, age, order.stale.as_ref()) {
        // A peer may have served the stale response because of this request's `max-stale`, which
        // other requests did not send.
        Verdict::Share(refusal @ Refusal::Expired) if RequestControl::of(&order.headers).max_stale.is_some() => {
            Verdict::Pass(refusal)
        }
        // The name holds the digest of the uncoded file. A coded body cannot be verified against
        // it, so it is not stored.
        Verdict::Store(_) if is_coded(&parts.headers) && policy.expected(key).is_some() => {
            Verdict::Pass(Refusal::Coded)
        }
        verdict => verdict,
    }
}

/// The request headers by which origins select an error or a redirect without listing them in Vary.
static IMPLICIT_SELECTORS: [HeaderName; 5] = [ACCEPT, ACCEPT_LANGUAGE, ORIGIN, REFERER, USER_AGENT];

/// Returns the headers that select a response that is not stored. A redirect or a client error
/// answers only requests like the one that caused it.
fn selecting(order: &Order, status: StatusCode, selected: Option<Selected>) -> Option<Selected> {
    if !status.is_redirection() && !status.is_client_error() {
        return selected;
    }
    let varies = selected.iter().flat_map(|selected| selected.fields.iter());
    let fields: Arc<[_]> = varies.chain(&IMPLICIT_SELECTORS).cloned().collect();
    Some(Selected { variant: Variant::of(&fields, &order.headers), fields })
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    content_length::of_response(headers).ok().flatten()
}
