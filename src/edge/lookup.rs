//! The lookup of a GET or HEAD in the store, and its path from there.

use http::Method;

use super::classify::{is_silent_error, kind};
use super::coalesce::Coalesced;
use super::parts::Edge;
use super::request::{Answer, Inbound, head_size};
use super::request_class::RequestClass;
use super::respond::{answer_not_cached, answer_stale, answer_stored, refuse};
use crate::error::Error;
use crate::semantics::cache_control::RequestControl;
use crate::semantics::cache_status::Handled;
use crate::semantics::forward;
use crate::semantics::freshness::{self, Reuse};
use crate::semantics::request_headers::RequestKind;
use crate::semantics::storing::{Credentials, Name};
use crate::store::entry::Stored;
use crate::store::tiers::Lookup;

/// A head above this size, in bytes, counts in `cache.memory` while its request waits.
const LARGE_HEAD: usize = 4 * 1024;
/// The connection and the header map hold a head about once each.
const COPIES_OF_HEAD: u64 = 2;

/// The path of a request that the store does not answer.
pub(super) enum Route {
    /// To the flight of the asset, with the stored response that must be validated.
    Coalesce(Handled, Option<Stored>),
    Pass(Handled),
}

impl Edge {
    /// Answers a GET or HEAD from the store, or by another path. Those paths are boxed, so that the
    /// future of a hit is small and cheap to move.
    pub(super) async fn get(&self, mut inbound: Inbound) -> Answer {
        match self.look_up(&mut inbound) {
            Ok(answer) => answer,
            Err(route) => Box::pin(self.go(inbound, route)).await,
        }
    }

    /// Answers a request from a peer or the origin. A large head counts in `cache.memory` until the
    /// response begins, because clients decide how many requests wait.
    pub(super) async fn go(&self, mut inbound: Inbound, mut route: Route) -> Answer {
        let size = head_size(&inbound.headers);
        let charged = if size > LARGE_HEAD { COPIES_OF_HEAD * size as u64 } else { 0 };
        let Some(_until_dropped) = self.cache.budget.charge(charged) else {
            return refuse(&self.settings, inbound.source, inbound.method, Ok(inbound.key), Error::Overloaded);
        };
        loop {
            let (handled, stale) = match route {
                Route::Coalesce(handled, stale) => (handled, stale),
                Route::Pass(handled) => return self.pass(inbound, handled).await,
            };
            (inbound, route) = match self.coalesce(inbound, handled, stale).await {
                Coalesced::Answer(answer) => return answer,
                Coalesced::Pass(inbound) => (inbound, Route::Pass(handled)),
                Coalesced::Again(mut inbound) => match self.look_up(&mut inbound) {
                    Ok(answer) => return answer,
                    Err(route) => (inbound, route),
                },
            };
        }
    }

    /// Answers a request from the store, or returns its further path.
    fn look_up(&self, inbound: &mut Inbound) -> Result<Answer, Route> {
        if self.cache.store.has_variants() {
            // Hop-by-hop headers select no variant.
            if forward::connection_lists_headers(&inbound.headers) {
                forward::strip_hop_by_hop(&mut inbound.headers);
            }
            if let Some(variant) = self.cache.store.select(&inbound.key, &inbound.headers) {
                inbound.key = variant;
            }
        }
        let directives = match inbound.class {
            RequestClass::Plain => RequestControl::default(),
            RequestClass::Particular => RequestControl::of(&inbound.headers),
        };
        let (handled, stale) = match self.cache.store.lookup(&inbound.key) {
            Lookup::Memory(tier, stored) => {
                let facts = stored.facts();
                match freshness::reuse(facts.lifetime, facts.age(inbound.now), &directives) {
                    // The error does not apply to a client that it was not requested for.
                    Reuse::Fresh
                        if is_silent_error(&stored)
                            && kind(&self.settings, &self.cache.store, inbound) != RequestKind::Common =>
                    {
                        return Err(Route::Pass(Handled::Request));
                    }
                    Reuse::Fresh => return Ok(answer_stored(&self.settings, inbound, tier, &stored)),
                    Reuse::Stale => return Ok(answer_stale(&self.settings, inbound, &stored)),
                    Reuse::WhileRevalidate => {
                        self.validate_behind(inbound, &stored);
                        return Ok(answer_stale(&self.settings, inbound, &stored));
                    }
                    Reuse::Validate if facts.is_fresh(inbound.now) => (Handled::Request, Some(stored)),
                    Reuse::Validate => (Handled::Stale, Some(stored)),
                }
            }
            Lookup::HitForMiss => (Handled::Bypass, None),
            Lookup::WrongContent => {
                let error =
                    Error::OriginWrong("not fetched again before cache.wrong_content_ttl has passed".to_owned());
                return Ok(refuse(
                    &self.settings,
                    inbound.source,
                    inbound.method.clone(),
                    Ok(inbound.key.clone()),
                    error,
                ));
            }
            Lookup::Absent if inbound.key.variant().is_some() => (Handled::VaryMiss, None),
            Lookup::Absent => (Handled::UriMiss, None),
        };
        if directives.only_if_cached {
            return Ok(self.answer_held(inbound).unwrap_or_else(|| answer_not_cached(&self.settings, inbound)));
        }
        Err(self.route(inbound, &directives, handled, stale))
    }

    /// Returns the path of a request that the store does not answer.
    fn route(
        &self,
        inbound: &mut Inbound,
        directives: &RequestControl,
        handled: Handled,
        stale: Option<Stored>,
    ) -> Route {
        inbound.kind = kind(&self.settings, &self.cache.store, inbound);
        let alone = match inbound.kind {
            RequestKind::Common => false,
            RequestKind::Personal => stale.is_none() && self.cache.store.is_marked_own(&inbound.key),
            RequestKind::Unknown => true,
        };
        if alone || handled == Handled::Bypass {
            return Route::Pass(handled);
        }
        // A request with `no-store` must leave nothing stored, and content in a GET has no meaning
        // that a key could express (RFC 9110 §9.3.1).
        if directives.no_store || !hyper::body::Body::is_end_stream(&inbound.body) {
            return Route::Pass(handled);
        }
        // HEAD fetches the body only for proven names, which will be requested. With credentials,
        // HEAD, ranges and conditions pass: a fill would cost a whole fetch each time, and
        // responses to credentials are rarely shared.
        let head = inbound.method == Method::HEAD;
        let credentials = Credentials::of(&inbound.headers) != Credentials::None;
        if head && self.settings.policy(&inbound.key).name(&inbound.key) != Name::Proven
            || credentials && (head || forward::is_selective(&inbound.headers))
        {
            return Route::Pass(handled);
        }
        Route::Coalesce(handled, stale)
    }
}
