//! What becomes of a flight, by the head of the response.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ORIGIN, REFERER, USER_AGENT};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body::Body as _;

use super::fetch::{Arrival, asked};
use super::fill::{First, Leading, Order, tier};
use super::ingest::{Coming, Ingest, head};
use super::probe_length::may_outgrow;
use super::revalidate::settled;
use super::{Edge, Policy};
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
use crate::store::entry::in_flight;
use crate::upstream::{Framing, Reply};

/// What became of a copy.
pub(super) enum Landed {
    /// It is what the flight has come to, well or badly.
    Done,
    /// It was of no use, and nobody has seen anything of it.
    Broken(Leading, Error),
}

/// What becomes of a body: it is taken in, and there are fields that only the leader's
/// client may have; or it is for that client alone.
pub(super) type Admitted = Result<(Ingest, HeaderMap), Refusal>;

/// How much is held of a body that is too large to be stored, in bytes: its readers may
/// be so far apart.
const WINDOW: u64 = 4 * 1024 * 1024;

impl Edge {
    /// Decides by the response's head what becomes of the flight.
    pub(super) async fn receive(self: &Arc<Self>, leading: Leading, order: &Order, arrival: Arrival) -> Landed {
        let now = SystemTime::now();
        let Arrival { provider, reply, asked: sent, began } = arrival;
        let Reply { response, framing, .. } = reply;
        let (mut parts, body) = response.into_parts();
        // The connection that it came by has read its framing.
        forward::strip_hop_by_hop(&mut parts.headers);
        date::add(&mut parts.headers, now);
        if Self::is_of_another(order, &parts) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            let error = match &provider {
                Provider::Origin => Error::OriginGarbage,
                Provider::Peer(_) => Error::PeerBroke,
            }("a 304 for what this edge does not have".to_owned());
            return Landed::Broken(leading, error);
        }
        if let Some(outcome) = self.without_body(&leading.lead, order, &provider, &parts, sent) {
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            let _ = leading.first.send(First::Fields(HeaderMap::new()));
            leading.lead.settle(outcome);
            return Landed::Done;
        }
        let age = freshness::initial_age(&parts.headers, sent, now);
        let verdict = judge(&self.policy.load(), leading.lead.key(), order, &parts, age);
        let body =
            match self.unless_lost(&provider, pin!(self.measured(verdict, &parts, framing, body))).await.flatten() {
                Ok(body) => body,
                Err(error) => return self.refuse_copy(leading, &provider, began, error),
            };
        let length = body.size_hint().exact().or_else(|| stated_length(&parts.headers));
        let admitted = self
            .admit(verdict, order, &parts, framing, length)
            .and_then(|terms| self.make_intake(&leading.lead, order, &parts, length, now - age, terms));
        self.receive_body(leading, order, (parts, framing), admitted, Coming { provider, body, began }).await
    }

    /// As [`receive`](Self::receive), when the head has told who may have the body.
    async fn receive_body(
        self: &Arc<Self>,
        leading: Leading,
        order: &Order,
        (parts, framing): (Parts, Framing),
        admitted: Admitted,
        coming: Coming,
    ) -> Landed {
        let proof = self.proof(leading.lead.key(), &coming.provider, parts.status, &parts.headers);
        let found = proof.as_ref().map(Proof::found);
        let coming = match self.prove(coming, proof, &admitted).await {
            Ok(proven) => proven,
            Err((provider, began, error)) => return self.refuse_copy(leading, &provider, began, error),
        };
        let Leading { mut lead, first } = leading;
        match admitted {
            Ok((mut intake, own)) => {
                // The leader may have left; so below, too.
                let _ = first.send(First::Fields(own));
                intake.found = found;
                intake.certify();
                self.take_in(lead, order, intake, coming).await;
            }
            Err(refusal) => {
                self.note_refusal(lead.key(), order, parts.status, refusal);
                let Coming { provider, body, began } = coming;
                let body = self.counted(&provider, began, lead.quota.take(), body);
                let reply = Reply { framing, ..Response::from_parts(parts, body).into() };
                let _ = first.send(First::Response { provider, reply });
                lead.settle(Outcome::Pass(refusal));
            }
        }
        Landed::Done
    }

    /// A copy that broke off, or is wrong, before anything of it was given out.
    fn refuse_copy(self: &Arc<Self>, leading: Leading, provider: &Provider, began: Instant, error: Error) -> Landed {
        self.metrics.fetch(asked(provider), Fetched::Error, began.elapsed());
        self.distrust(provider, leading.lead.key(), &error);
        Landed::Broken(leading, error)
    }

    /// Has a body prove what it must before anything of it is given out.
    async fn prove(
        &self,
        coming: Coming,
        proof: Option<Proof>,
        admitted: &Admitted,
    ) -> Result<Coming, (Provider, Instant, Error)> {
        let Some(proof) = proof else {
            return Ok(coming);
        };
        let Coming { provider, body, began } = coming;
        let proven = match admitted {
            Ok(_) => {
                let first = self.policy.load().verify_first;
                self.unless_lost(&provider, pin!(proven::prove(body, proof, first))).await.flatten()
            }
            Err(_) => self.unless_lost(&provider, pin!(self.prove_unkept(body, Some(proof)))).await.flatten(),
        };
        match proven {
            Ok(body) => Ok(Coming { provider, body, began }),
            Err(error) => Err((provider, began, error)),
        }
    }

    /// Makes room for a response that others may share. Returns with it the fields that
    /// only the leader's client may have.
    pub(super) fn make_intake(
        &self,
        lead: &Lead,
        order: &Order,
        parts: &Parts,
        length: Option<u64>,
        born: SystemTime,
        (lifetime, kept): (Lifetime, Kept),
    ) -> Admitted {
        let (key, selected) = self.variant(lead.key(), order, &parts.headers)?;
        let selected = if kept == Kept::Stored { selected } else { chosen(order, parts.status, selected) };
        let (mut head, own) = head(parts, length, born, lifetime, self.via_for(parts.version));
        if parts.status == StatusCode::OK {
            self.name_by_hash(lead.key(), &mut head.headers);
        }
        let head = Arc::new(head);
        let fields = head.weight(&key);
        let extent = if kept == Kept::Shared(Refusal::TooLarge) { Extent::Window } else { Extent::Whole };
        // A body of unknown length takes what a window takes at the least, for it may
        // become one.
        let room = match extent {
            Extent::Whole => self.budget.charge(fields.saturating_add(length.map_or(LEAST_ROOM, in_flight))),
            Extent::Window => self.budget.charge(fields + WINDOW).or_else(|| self.budget.charge(fields + LEAST_ROOM)),
        };
        let room = Room::new(room.ok_or(Refusal::NoRoom)?);
        let fits = self.store.takes(tier(lead), fields.saturating_add(length.unwrap_or(0)));
        let kept = if kept == Kept::Stored && !fits { Kept::Shared(Refusal::TooLarge) } else { kept };
        let (came, last, alone_since, found) = (0, Bytes::new(), None, None);
        Ok((Ingest { key, selected, head, kept, room, fields, came, last, extent, alone_since, found }, own))
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
            self.store.remove(key);
        }
        let period = self.policy.load().hit_for_miss;
        if order.personal == Personal::Sent {
            self.store.mark_own(key, period);
        } else if refusal.will_recur() {
            self.store.mark(key, period);
        }
    }

    /// The key of the variant that a response to `order` is, and what selects it.
    fn variant(
        &self,
        key: &AssetKey,
        order: &Order,
        headers: &HeaderMap,
    ) -> Result<(AssetKey, Option<Selected>), Refusal> {
        // A proven name is filled without a coding, which suits every client.
        let suits_all = |name: &HeaderName| order.name == Name::Proven && *name == ACCEPT_ENCODING;
        let fields = match vary::varies(headers) {
            Varies::By(fields) => {
                fields.into_iter().filter(|name| forward::may_select(name) && !suits_all(name)).collect::<Arc<[_]>>()
            }
            Varies::Not | Varies::Unknowably => return Ok((key.clone(), None)),
        };
        if fields.is_empty() {
            return Ok((key.clone(), None));
        }
        let variants = self.policy.load().variants;
        if variants == 0 {
            return Err(Refusal::Vary);
        }
        let selected = Selected { variant: Variant::of(&fields, &order.headers), fields };
        self.store.vary(key, &selected.fields, variants);
        Ok((key.of_variant(selected.variant), Some(selected)))
    }

    /// Whether everybody may have the response, and whether it will be kept. One that
    /// is too large to be kept is shared while it streams by, if a reader that falls
    /// behind can go on alone.
    pub(super) fn admit(
        &self,
        verdict: Verdict,
        order: &Order,
        parts: &Parts,
        framing: Framing,
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
            _ if may_outgrow(parts, framing, length) => Err(Refusal::Unmeasured),
            Verdict::Store(_) if framing == Framing::UntilClose => Err(Refusal::Unframed),
            Verdict::Store(lifetime) => Ok((lifetime, Kept::Stored)),
            Verdict::Share(refusal) => Ok((Lifetime::UntilEvicted { said: None }, Kept::Shared(refusal))),
        }
    }
}

/// Whether a response of this age may be stored, or shared.
pub(super) fn judge(policy: &Policy, key: &AssetKey, order: &Order, parts: &Parts, age: Duration) -> Verdict {
    let verdict =
        storing::verdict(policy.case(order.name, order.credentials, order.personal), parts.status, &parts.headers, age);
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

/// The request headers by which origins choose an error or a redirect without naming them
/// in Vary.
static CHOOSING: [HeaderName; 5] = [ACCEPT, ACCEPT_LANGUAGE, ORIGIN, REFERER, USER_AGENT];

/// Returns what selects a response that is not stored. A redirect, or an error that is said
/// to be the client's, answers only requests like the one that caused it.
fn chosen(order: &Order, status: StatusCode, selected: Option<Selected>) -> Option<Selected> {
    if !status.is_redirection() && !status.is_client_error() {
        return selected;
    }
    let varies = selected.iter().flat_map(|selected| selected.fields.iter());
    let fields: Arc<[_]> = varies.chain(&CHOOSING).cloned().collect();
    Some(Selected { variant: Variant::of(&fields, &order.headers), fields })
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    content_length::of_response(headers).ok().flatten()
}
