//! Requests that are forwarded to the origin for their client alone.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::MAX_FORWARDS;
use http::{Method, Request, Response, StatusCode};

use super::cache::Cache;
use super::classify::{case, kind};
use super::invalidate::write;
use super::order::Order;
use super::parts::Edge;
use super::quota::Quota;
use super::request::{Answer, Ask};
use super::respond::{refuse, relay};
use super::revalidate::learn;
use super::settings::Settings;
use super::upgrade;
use super::verify::{distrust, proof_for, prove_unkept};
use crate::body::Body;
use crate::error::Error;
use crate::flight::Provider;
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Asked, Fetched, Served};
use crate::semantics::cache_status::{CacheStatus, Handled};
use crate::semantics::request_fields::{Class, Kind};
use crate::semantics::storing::{self, Verdict};
use crate::semantics::vary::{self, Varies};
use crate::semantics::{forward, freshness};

/// The headers of a passed request.
enum Headers {
    /// Those that a fill sends.
    OfFill,
    /// Those of the client's request.
    Verbatim,
}

impl Edge {
    /// Forwards a request to the origin and streams both bodies; nothing is stored. The request
    /// counts for its client until the body of the response ends.
    pub(super) async fn pass(&self, mut ask: Ask, handled: Handled) -> Answer {
        let quota = match self.fetcher.quotas.take(self.fetcher.quotas.client_of(&ask)) {
            Ok(quota) => quota,
            Err(error) => return refuse(&self.settings, ask.source, ask.method, Ok(ask.key), error),
        };
        ask.acknowledge();
        forward::strip_hop_by_hop(&mut ask.headers);
        // The response to a HEAD updates a stored response only if the request is like a fill: no
        // header of it shapes the response for one client.
        let learns = ask.method == Method::HEAD
            && handled != Handled::OtherSite
            && kind(&self.settings, &self.cache.store, &ask) == Kind::Common
            && !forward::is_selective(&ask.headers);
        let request = self.upstream_request(&mut ask, if learns { Headers::OfFill } else { Headers::Verbatim });
        let began = Instant::now();
        let answer = if ask.method.is_safe() {
            self.fetcher.ask_origin(request).await.map(|response| (response, quota))
        } else {
            write(&self.fetcher, &self.invalidator, &ask, request, quota).await
        };
        match answer {
            Ok((response, quota)) => {
                let proven =
                    if ask.method == Method::GET { self.prove_pass(&ask.key, response).await } else { Ok(response) };
                let response = match proven {
                    Ok(response) => response,
                    Err(error) => {
                        self.metrics.fetch(Asked::Origin, Fetched::Error, began.elapsed());
                        return refuse(&self.settings, ask.source, ask.method, Ok(ask.key), error);
                    }
                };
                if learns && response.status() == StatusCode::OK {
                    learn(
                        &self.cache,
                        &ask.key,
                        case(&self.settings, &self.cache.store, &ask),
                        response.headers(),
                        ask.now,
                    );
                }
                let mut answer = self.answer_pass(&ask, handled, began, (response, quota));
                upgrade::join(ask, &mut answer.response);
                answer
            }
            Err(error) => refuse(&self.settings, ask.source, ask.method, Ok(ask.key), error),
        }
    }

    /// Returns the request to the origin for `ask`, with its body.
    fn upstream_request(&self, ask: &mut Ask, headers: Headers) -> Request<Body> {
        let mut request = Request::new(std::mem::take(&mut ask.body));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.key.target().into();
        match headers {
            Headers::OfFill => {
                *request.headers_mut() = Order::new(&self.settings, &self.cache.store, ask, &ask.headers, None).headers;
            }
            Headers::Verbatim => {
                *request.headers_mut() = forward::verbatim(&ask.headers, &self.settings.via_for(ask.version));
                ask.requester.introduce(ask.source, ask.host().as_ref(), request.headers_mut());
            }
        }
        if let (true, Some(hops)) = (ask.method == Method::OPTIONS, forward::max_forwards(&ask.headers)) {
            request.headers_mut().insert(MAX_FORWARDS, hops.saturating_sub(1).into());
        }
        upgrade::hand_on(ask, request.headers_mut());
        if let Some(relay) = &ask.relay {
            relay.listen(&mut request);
        }
        request
    }

    /// Verifies the body of a passed response while it streams.
    async fn prove_pass(&self, key: &AssetKey, response: Response<Body>) -> Result<Response<Body>, Error> {
        let (parts, body) = response.into_parts();
        let proof = proof_for(&self.settings.policy.load(), key, &Provider::Origin, parts.status, &parts.headers);
        match prove_unkept(&self.settings, &self.cache, body, proof).await {
            Ok(body) => Ok(Response::from_parts(parts, body)),
            Err(error) => {
                distrust(&self.fetcher, &self.cache, &Provider::Origin, key, &error);
                Err(error)
            }
        }
    }

    fn answer_pass(
        &self,
        ask: &Ask,
        handled: Handled,
        began: Instant,
        (response, quota): (Response<Body>, Quota),
    ) -> Answer {
        let response = response.map(|body| self.fetcher.counted(&Provider::Origin, began, quota, body));
        if handled == Handled::Bypass && ask.method == Method::GET {
            reconsider(&self.settings, &self.cache, ask, &response);
        }
        if ask.kind == Kind::Unknown && ask.method == Method::GET {
            learn_vary(&self.settings, &self.cache, ask, &response);
        }
        let reason = pass_reason(ask, handled);
        let detail = (handled == Handled::OtherSite).then_some(reason);
        let status = CacheStatus { handled, detail, ..CacheStatus::default() };
        let response = relay(&self.settings, ask, response, &status);
        let record = Record { reason: Some(reason), ..ask.record(Served::Pass, ServedFrom::Origin) };
        Answer { response, record }
    }
}

/// Removes the mark of a key if its response could be stored after all: the next request may lead
/// a flight.
fn reconsider(settings: &Settings, cache: &Cache, ask: &Ask, response: &Response<Body>) {
    let age = freshness::initial_age(response.headers(), ask.now, SystemTime::now());
    let verdict = storing::verdict(case(settings, &cache.store, ask), response.status(), response.headers(), age);
    let fresh = matches!(verdict, Verdict::Store(lifetime) if !freshness::must_be_validated(lifetime, age));
    let length = http_body::Body::size_hint(response.body()).exact();
    if fresh && length.is_some_and(|length| length <= cache.plan.max_object) {
        cache.store.unmark(&ask.key);
    }
}

/// Notes the Vary of a response that could have been stored if the fill had sent the headers
/// that it names: the next fill sends them.
fn learn_vary(settings: &Settings, cache: &Cache, ask: &Ask, response: &Response<Body>) {
    let Varies::By(fields) = vary::varies(response.headers()) else {
        return;
    };
    let fields: Arc<[_]> = fields.into_iter().filter(forward::may_select).collect();
    let named = fields.iter().any(|name| Class::of(name) == Class::Unknown && ask.headers.contains_key(name));
    let age = freshness::initial_age(response.headers(), ask.now, SystemTime::now());
    let verdict = storing::verdict(case(settings, &cache.store, ask), response.status(), response.headers(), age);
    let variants = settings.policy.load().variants;
    if named && variants > 0 && matches!(verdict, Verdict::Store(_)) {
        cache.store.vary(&ask.key.asset(), &fields, variants);
    }
}

/// Returns the reason why a request passed, for the access log.
fn pass_reason(ask: &Ask, handled: Handled) -> &'static str {
    match handled {
        Handled::OtherSite => "other-site",
        Handled::Method => "method",
        Handled::Bypass => "hit-for-miss",
        _ if ask.kind == Kind::Unknown => "unknown-header",
        _ => "request",
    }
}
