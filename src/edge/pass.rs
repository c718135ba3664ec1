//! Requests that are forwarded to the origin for their client alone.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::MAX_FORWARDS;
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::classify::{case, kind};
use super::forwarding::{tell_scope, told_host};
use super::invalidate::write;
use super::memory::Memory;
use super::order::Order;
use super::parts::Edge;
use super::quota::Quota;
use super::request::{Answer, Inbound};
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
use crate::semantics::request_headers::{HeaderClass, RequestKind};
use crate::semantics::storing::{self, Verdict};
use crate::semantics::vary::{self, Varies};
use crate::semantics::{forward, freshness};
use crate::upstream::Reply;

/// The headers of a passed request.
#[derive(Clone, Copy)]
enum Headers {
    /// Those that a fill sends.
    OfFill,
    /// Those of the client's request.
    Verbatim,
}

impl Edge {
    /// Forwards a request to the origin and streams both bodies; nothing is stored. The request
    /// counts for its client until the body of the response ends.
    pub(super) async fn pass(&self, mut inbound: Inbound, handled: Handled) -> Answer {
        let quota = match self.fetcher.quotas.take(self.fetcher.quotas.client_of(&inbound)) {
            Ok(quota) => quota,
            Err(error) => return refuse(&self.settings, inbound.source, inbound.method, Ok(inbound.key), error),
        };
        inbound.acknowledge();
        forward::strip_hop_by_hop(&mut inbound.headers);
        // The response to a HEAD updates a stored response only if the request is like a fill: no
        // header of it shapes the response for one client.
        let learns = inbound.method == Method::HEAD
            && kind(&self.settings, &self.cache.store, &inbound) == RequestKind::Common
            && !forward::is_selective(&inbound.headers);
        let request = self.upstream_request(&mut inbound, if learns { Headers::OfFill } else { Headers::Verbatim });
        let began = Instant::now();
        let answer = if inbound.method.is_safe() {
            self.fetcher.ask_origin(request.into()).await.map(|reply| (reply, quota))
        } else {
            write(&self.fetcher, &self.invalidator, &inbound, request, quota).await
        };
        match answer {
            Ok((reply, quota)) => {
                let proven =
                    if inbound.method == Method::GET { self.prove_pass(&inbound.key, reply).await } else { Ok(reply) };
                let mut reply = match proven {
                    Ok(reply) => reply,
                    Err(error) => {
                        self.metrics.fetch(Asked::Origin, Fetched::Error, began.elapsed());
                        return refuse(&self.settings, inbound.source, inbound.method, Ok(inbound.key), error);
                    }
                };
                if learns && reply.response.status() == StatusCode::OK {
                    learn(
                        &self.cache,
                        &inbound.key,
                        case(&self.settings, &self.cache.store, &inbound),
                        reply.response.headers(),
                        inbound.now,
                    );
                }
                let origin = reply.upgrade.take();
                let mut answer = self.answer_pass(&inbound, handled, began, (reply, quota));
                upgrade::join(inbound, origin, &mut answer);
                answer
            }
            Err(error) => refuse(&self.settings, inbound.source, inbound.method, Ok(inbound.key), error),
        }
    }

    /// Returns the request to the origin for `inbound`, with its body.
    fn upstream_request(&self, inbound: &mut Inbound, headers: Headers) -> Request<Body> {
        let mut request = Request::new(std::mem::take(&mut inbound.body));
        *request.method_mut() = inbound.method.clone();
        *request.uri_mut() = inbound.key.target().into();
        match headers {
            Headers::OfFill => {
                *request.headers_mut() =
                    Order::new(&self.settings, &self.cache.store, inbound, &inbound.headers, None).headers;
                tell_scope(&inbound.key, request.headers_mut());
            }
            Headers::Verbatim => {
                *request.headers_mut() = forward::verbatim(&inbound.headers, &self.settings.via_for(inbound.version));
                inbound.requester.introduce(inbound.source, host_of_pass(inbound).as_ref(), request.headers_mut());
            }
        }
        if let (true, Some(hops)) = (inbound.method == Method::OPTIONS, forward::max_forwards(&inbound.headers)) {
            request.headers_mut().insert(MAX_FORWARDS, hops.saturating_sub(1).into());
        }
        upgrade::hand_on(inbound, request.headers_mut());
        if let Some(relay) = &inbound.relay {
            relay.listen(&mut request);
        }
        request
    }

    /// Verifies the body of a passed response while it streams.
    async fn prove_pass(&self, key: &AssetKey, reply: Reply) -> Result<Reply, Error> {
        let (parts, body) = reply.response.into_parts();
        let proof = proof_for(&self.settings.policy(key), key, &Provider::Origin, parts.status, &parts.headers);
        match prove_unkept(&self.cache, self.settings.policy(key).verify_first, body, proof).await {
            Ok(body) => Ok(Reply { response: Response::from_parts(parts, body), ..reply }),
            Err(error) => {
                distrust(&self.fetcher, &self.cache, &Provider::Origin, key, &error);
                Err(error)
            }
        }
    }

    fn answer_pass(
        &self,
        inbound: &Inbound,
        handled: Handled,
        began: Instant,
        (reply, quota): (Reply, Quota),
    ) -> Answer {
        let reply = reply.map_body(|body| self.fetcher.counted(&Provider::Origin, began, quota, body));
        if handled == Handled::Bypass && inbound.method == Method::GET {
            reconsider(&self.settings, &self.cache, inbound, &reply.response);
        }
        if inbound.kind == RequestKind::Unknown && inbound.method == Method::GET {
            learn_vary(&self.settings, &self.cache, inbound, &reply.response);
        }
        let reason = pass_reason(inbound, handled);
        let status = CacheStatus { handled, ..CacheStatus::default() };
        let response = relay(&self.settings, inbound, reply, &status);
        let record = Record { reason: Some(reason), ..inbound.record(Served::Pass, ServedFrom::Origin) };
        Answer { response, tunnel: None, record }
    }
}

/// Returns the host of which a passed request tells the origin: the one in the key, as a fill does.
/// A request whose response is never shared also tells the client's own host, because origins
/// compare it with Origin.
fn host_of_pass(inbound: &Inbound) -> Option<HeaderValue> {
    let is_alone = inbound.upgrade.is_some() || !matches!(inbound.method, Method::GET | Method::HEAD);
    told_host(&inbound.key).or_else(|| inbound.host().filter(|host| is_alone && !host.is_empty()))
}

/// Removes the mark of a key if its response could be stored after all: the next request may lead
/// a flight.
fn reconsider(settings: &Settings, cache: &Memory, inbound: &Inbound, response: &Response<Body>) {
    let age = freshness::initial_age(response.headers(), inbound.now, SystemTime::now());
    let verdict = storing::verdict(case(settings, &cache.store, inbound), response.status(), response.headers(), age);
    let fresh = matches!(verdict, Verdict::Store(lifetime) if !freshness::must_be_validated(lifetime, age));
    let length = hyper::body::Body::size_hint(response.body()).exact();
    if fresh && length.is_some_and(|length| length <= cache.plan.max_object) {
        cache.store.unmark(&inbound.key);
    }
}

/// Notes the Vary of a response that could have been stored if the fill had sent the headers
/// that it names: the next fill sends them.
fn learn_vary(settings: &Settings, cache: &Memory, inbound: &Inbound, response: &Response<Body>) {
    let Varies::By(fields) = vary::varies(response.headers()) else {
        return;
    };
    let fields: Arc<[_]> = fields.into_iter().filter(forward::may_select).collect();
    let named =
        fields.iter().any(|name| HeaderClass::of(name) == HeaderClass::Unknown && inbound.headers.contains_key(name));
    let age = freshness::initial_age(response.headers(), inbound.now, SystemTime::now());
    let verdict = storing::verdict(case(settings, &cache.store, inbound), response.status(), response.headers(), age);
    let variants = settings.policy(&inbound.key).variants;
    if named && variants > 0 && matches!(verdict, Verdict::Store(_)) {
        cache.store.vary(&inbound.key.asset(), &fields, variants);
    }
}

/// Returns the reason why a request passed, for the access log.
fn pass_reason(inbound: &Inbound, handled: Handled) -> &'static str {
    match handled {
        Handled::Method => "method",
        Handled::Bypass => "hit-for-miss",
        _ if inbound.kind == RequestKind::Unknown => "unknown-header",
        _ => "request",
    }
}
