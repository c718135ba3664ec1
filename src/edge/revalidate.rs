//! Updates of a stored response by a 304, a HEAD or an error (RFC 9111 §4.3, RFC 5861).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use super::filler::Filler;
use super::landing::withhold;
use super::memory::Memory;
use super::order::{Order, tier};
use crate::error::Error;
use crate::flight::{Joining, Lead, Outcome, Provider, Reach, ReuseReason, Reused};
use crate::key::AssetKey;
use crate::semantics::cache_control::CacheControl;
use crate::semantics::storing::{self, Case, Credentials, Name, Personal, Refusal, Verdict};
use crate::semantics::{date, freshness, validation, vary};
use crate::store::entry::Stored;
use crate::store::metadata::{Metadata, Validated};

/// Returns true for a 304 that does not match the stored response.
pub(super) fn is_of_another(order: &Order, parts: &http::response::Parts) -> bool {
    let selects = |stored: &Stored| validation::selects(&stored.fields().unpack(), &parts.headers);
    parts.status == StatusCode::NOT_MODIFIED && !order.stale.as_ref().is_some_and(selects)
}

impl Filler {
    /// Returns the outcome of a flight that needs no body: a 304 validates the stored response, and
    /// an error may be worse than a stale response.
    pub(super) fn without_body(
        &self,
        lead: &Lead,
        order: &Order,
        provider: &Provider,
        parts: &http::response::Parts,
        asked: SystemTime,
    ) -> Option<Outcome> {
        if let (StatusCode::NOT_MODIFIED, Some(stored)) = (parts.status, &order.stale) {
            return Some(self.freshen(lead, order, provider, stored, parts, asked));
        }
        let failed = matches!(parts.status.as_u16(), 500 | 502 | 503 | 504);
        let fallback = order.fallback().filter(|_| failed)?;
        Some(reused(fallback, ReuseReason::FailedWith(parts.status)))
    }

    /// Updates the stored response with the headers of a 304 (RFC 9111 §3.2, §4.3.4).
    fn freshen(
        &self,
        lead: &Lead,
        order: &Order,
        provider: &Provider,
        stored: &Stored,
        parts: &http::response::Parts,
        asked: SystemTime,
    ) -> Outcome {
        let why = ReuseReason::Validated(provider.clone());
        let for_credentials =
            order.credentials != Credentials::None && !CacheControl::of(&parts.headers).shares_with_credentials();
        if for_credentials || order.personal == Personal::Sent && !storing::states_freshness(&parts.headers) {
            // The headers may be for this client alone.
            return reused(stored, why);
        }
        let case = self.settings.policy(lead.key()).case(order.name, Credentials::None, order.personal);
        let renewed = renewed(case, stored.facts(), &stored.fields().unpack(), &parts.headers, asked);
        match renewed.and_then(|head| with_head(&self.cache, lead.key(), stored, head)) {
            Ok(fresh) => {
                self.cache.insert(lead, tier(lead), lead.key(), fresh.clone());
                reused(&fresh, why)
            }
            Err(refusal) => {
                self.cache.store.remove(lead.key());
                Outcome::Pass(refusal)
            }
        }
    }
}

/// Updates or removes a stored response to GET, according to a 200 to HEAD (RFC 9111 §4.3.5).
pub(super) fn learn(cache: &Memory, key: &AssetKey, case: Case, answer: &HeaderMap, asked: SystemTime) {
    // A flight that is under way is left alone. A lead makes concurrent purges visible here.
    let Joining::Lead(lead) = cache.flights.join(key, Reach::Origin, Credentials::None) else {
        return;
    };
    learn_of(cache, &lead, case, answer, asked);
    lead.settle(Outcome::Landed);
}

fn learn_of(cache: &Memory, lead: &Lead, case: Case, answer: &HeaderMap, asked: SystemTime) {
    let key = lead.key();
    let Some((tier, stored)) = cache.store.get(key) else {
        return;
    };
    let known = stored.fields().unpack();
    let agrees = case.name != Name::Proven && validation::agrees(&known, answer);
    let renewed = renewed(case, stored.facts(), &known, answer, asked);
    match renewed.and_then(|head| with_head(cache, key, &stored, head)) {
        Ok(fresh) if agrees => cache.insert(lead, tier, key, fresh),
        _ => cache.store.remove(key),
    }
}

/// Returns the stored response under a new head, with a charge of its own.
fn with_head(
    cache: &Memory,
    key: &AssetKey,
    stored: &Stored,
    (facts, headers): (Metadata, HeaderMap),
) -> Result<Stored, Refusal> {
    let head = cache.store.pack(facts, &headers, stored.len());
    let weight = Stored::weight_of(key, &head, stored.len());
    let charge = cache.budget.charge(weight).ok_or(Refusal::NoRoom)?;
    Ok(stored.renewed(key, head, charge))
}

/// Returns the metadata and headers of a stored response after `answer` has confirmed it: its
/// `known` headers, updated with those of the answer.
///
/// # Errors
/// The reason why it cannot be stored any longer.
fn renewed(
    case: Case,
    stored: Metadata,
    known: &HeaderMap,
    answer: &HeaderMap,
    asked: SystemTime,
) -> Result<(Metadata, HeaderMap), Refusal> {
    let now = SystemTime::now();
    let mut headers = validation::updated(known, answer);
    if vary::varies(&headers) != vary::varies(known) {
        // The response now varies by other headers than its key (§4.1).
        return Err(Refusal::Vary);
    }
    date::add(&mut headers, now);
    let age = freshness::initial_age(answer, asked, now);
    let lifetime = match storing::verdict(case, stored.status, &headers, age) {
        Verdict::Store(lifetime) => lifetime,
        Verdict::Share(refusal) | Verdict::Pass(refusal) => return Err(refusal),
    };
    withhold(&mut headers);
    Ok((Metadata { born: now - age, lifetime, validated: Validated::Once, ..stored }, headers))
}

/// Rejects a response that must be validated each time and replaces one (`stale`) that was never
/// validated: it will change each time, and a validation would be wasted.
pub(super) fn reject_changing(verdict: Verdict, age: Duration, stale: Option<&Stored>) -> Verdict {
    let changing = stale.is_some_and(|stale| stale.facts().validated == Validated::Never);
    match verdict {
        Verdict::Store(lifetime) if changing && freshness::must_be_validated(lifetime, age) => {
            Verdict::Pass(Refusal::Changing)
        }
        other => other,
    }
}

/// Ends a flight that no source could fill: with the stored response, if it may be served stale on
/// an error.
pub(super) fn give_up(lead: Lead, order: &Order, error: Error) {
    if error == Error::Abandoned {
        tracing::info!(path = %lead.key(), "fill abandoned, no client is waiting");
    } else {
        tracing::warn!(path = %lead.key(), %error, "origin request failed");
    }
    match order.fallback() {
        Some(stored) => lead.settle(reused(stored, ReuseReason::Failed(error))),
        None => lead.fail(error),
    }
}

fn reused(stored: &Stored, reason: ReuseReason) -> Outcome {
    Outcome::Reused(Reused { stored: stored.clone(), reason })
}
