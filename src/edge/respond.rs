//! Responses: conditions, ranges, and the headers that tell how a response was served.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AGE, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VIA};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::fetch::Fetcher;
use super::forwarding::SITE;
use super::order::Order;
use super::request::{Answer, Inbound};
use super::resume::resume_reader;
use super::select::{Selection, condition, select};
use super::settings::Settings;
use crate::body::growing::Reader;
use crate::body::{Body, Delivered};
use crate::error::Error;
use crate::flight::{Extent, Kept, Provider, ReuseReason, Reused, Streaming, Verification};
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Served, Source};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Handled};
use crate::semantics::range::ByteRange;
use crate::semantics::storing::Refusal;
use crate::semantics::{combined, forward};
use crate::store::entry::Stored;
use crate::store::tiers::Tier;
use crate::upstream::{Framing, Reply};

pub(super) fn answer_stored(settings: &Settings, inbound: &Inbound, tier: Tier, stored: &Stored) -> Answer {
    stored.uses.increment();
    let status = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
    Answer {
        response: give(settings, inbound, inbound.now, stored, status),
        tunnel: None,
        record: inbound.record(hit(tier), ServedFrom::Store),
    }
}

/// Returns a stale response that may be served.
pub(super) fn answer_stale(settings: &Settings, inbound: &Inbound, stored: &Stored) -> Answer {
    let hit = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
    Answer {
        response: give(settings, inbound, inbound.now, stored, hit),
        tunnel: None,
        record: inbound.record(Served::Stale, ServedFrom::Store),
    }
}

/// Returns a stored response that was to be validated.
pub(super) fn answer_reused(
    settings: &Settings,
    inbound: &Inbound,
    handled: Handled,
    role: Role,
    reused: &Reused,
) -> Answer {
    let (fwd_status, detail, record) = match &reused.reason {
        ReuseReason::Validated(provider) => {
            (Some(StatusCode::NOT_MODIFIED), None, inbound.record(served(role), ServedFrom::from(provider)))
        }
        ReuseReason::FailedWith(status) => (Some(*status), None, inbound.record(Served::Stale, ServedFrom::Store)),
        ReuseReason::Failed(error) => (None, Some(error.name()), inbound.record(Served::Stale, ServedFrom::Store)),
    };
    let status = CacheStatus {
        handled,
        fwd_status: fwd_status.map(|status| status.as_u16()),
        collapsed: role == Role::Follower,
        detail,
        ..CacheStatus::default()
    };
    let record = Record { reason: detail, ..record };
    Answer { response: give(settings, inbound, SystemTime::now(), &reused.stored, status), tunnel: None, record }
}

/// Returns as much of a stored response as the request asks for.
fn give(
    settings: &Settings,
    inbound: &Inbound,
    now: SystemTime,
    stored: &Stored,
    status: CacheStatus,
) -> Response<Body> {
    let facts = stored.facts();
    let age = facts.age(now);
    let status = CacheStatus { ttl: facts.ttl(age), ..status };
    let (mut response, selection) = select(inbound, facts.status, Some(stored.len()), stored.fields().unpack());
    response.headers_mut().insert(AGE, number(age.as_secs()));
    response.headers_mut().insert(CACHE_STATUS, settings.status(&status));
    let len = stored.len();
    *response.body_mut() = match selection {
        Selection::Nothing => Body::empty(),
        Selection::Whole => Body::stored(stored.clone(), 0, len),
        Selection::Part(ByteRange { first, end }) => Body::stored(stored.clone(), first, end),
        Selection::Parts(multipart) => {
            multipart.body(|ByteRange { first, end }| Body::stored(stored.clone(), first, end))
        }
    };
    response
}

pub(super) fn answer_flight(
    fetcher: &Arc<Fetcher>,
    inbound: &Inbound,
    handled: Handled,
    role: Role,
    shared: Shared,
) -> Answer {
    let Shared { reader, streaming, order, own } = shared;
    let Streaming { head, provider, kept, extent, room, proof, .. } = streaming;
    let status = CacheStatus {
        handled,
        collapsed: role == Role::Follower,
        stored: kept == Kept::Stored,
        detail: if let Kept::Shared(refusal) = kept { Some(refusal.name()) } else { None },
        ..CacheStatus::default()
    };
    let (mut response, selection) = select(inbound, head.facts.status, head.length, head.headers.clone());
    let age = head.facts.age(SystemTime::now()).as_secs();
    if age > 0 {
        response.headers_mut().insert(AGE, number(age));
    } else {
        response.headers_mut().remove(AGE);
    }
    response.headers_mut().insert(CACHE_STATUS, fetcher.settings.status_behind(head.upstream_status.as_ref(), &status));
    if response.status().is_success() {
        response.headers_mut().extend(own);
    }
    // A body of known length is held whole, unless it began as a window.
    let may_lose = extent == Extent::Window || head.length.is_none();
    let resume = may_lose.then(|| {
        resume_reader(fetcher, inbound.key.clone(), Arc::clone(&head), order, fetcher.quotas.client_of(inbound))
    });
    let growing = reader.body();
    let reason = status.detail;
    let read = |mut reader: Reader, first, end| {
        if proof == Verification::AtEnd && end != head.length {
            reader.await_end();
        }
        reader.narrow(first, end);
        let given = (may_lose && proof == Verification::AtEnd).then(Delivered::nothing);
        Body::flight(reader, Arc::clone(&room), resume.clone(), given)
    };
    *response.body_mut() = match selection {
        Selection::Nothing => Body::empty(),
        Selection::Whole => read(reader, 0, head.length),
        Selection::Part(ByteRange { first, end }) => read(reader, first, Some(end)),
        Selection::Parts(multipart) => {
            multipart.body(|ByteRange { first, end }| read(Reader::new(Arc::clone(&growing)), first, Some(end)))
        }
    };
    let record = Record { reason, ..inbound.record(served(role), ServedFrom::from(&provider)) };
    Answer { response, tunnel: None, record }
}

/// Returns the response of a fill that is its leader's alone.
pub(super) fn answer_first(
    settings: &Settings,
    inbound: &Inbound,
    handled: Handled,
    provider: &Provider,
    mut reply: Reply,
    refusal: Refusal,
) -> Answer {
    let status = CacheStatus { handled, detail: Some(refusal.name()), ..CacheStatus::default() };
    // The fill was sent without the client's conditions, so they are applied here.
    let response = &mut reply.response;
    if response.status() == StatusCode::OK && matches!(condition(inbound, None, response), Selection::Nothing) {
        *response.body_mut() = Body::empty();
    }
    let response = relay(settings, inbound, reply, &status);
    let record = Record { reason: status.detail, ..inbound.record(Served::Pass, ServedFrom::from(provider)) };
    Answer { response, tunnel: None, record }
}

/// Forwards a response with this edge's members in Via and Cache-Status.
pub(super) fn relay(settings: &Settings, inbound: &Inbound, reply: Reply, status: &CacheStatus) -> Response<Body> {
    let Reply { mut response, framing, .. } = reply;
    // A peer gets a body without framing unframed: with chunked framing it would look complete,
    // and the peer would store it.
    let via = settings.via_for(response.version());
    let own_framing = if framing == Framing::UntilClose && inbound.source == Source::Peer {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    *response.version_mut() = own_framing;
    let has_none = response.status() == StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    forward::strip_hop_by_hop(headers);
    if has_none {
        // RFC 9110 §8.6
        headers.remove(CONTENT_LENGTH);
    }
    headers.append(VIA, via);
    let upstream = combined(headers.get_all(CACHE_STATUS));
    headers.insert(CACHE_STATUS, settings.status_behind(upstream.as_ref(), status));
    if inbound.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Returns the capabilities of this edge (RFC 9110 §9.3.7).
pub(super) fn answer_options(settings: &Settings, source: Source, target: Box<str>) -> Answer {
    let mut response = Response::new(Body::empty());
    let status = CacheStatus { handled: Handled::Refused, ..CacheStatus::default() };
    let allow = settings.policies.load().methods.allow().clone();
    for (name, value) in [(ALLOW, allow), (CONTENT_LENGTH, 0.into()), (VIA, settings.via.clone())] {
        response.headers_mut().insert(name, value);
    }
    response.headers_mut().insert(CACHE_STATUS, settings.status(&status));
    let (method, key) = (Method::OPTIONS, Err(target));
    Answer {
        response,
        tunnel: None,
        record: Record { source, method, key, served: Served::Pass, from: ServedFrom::Edge, reason: None, error: None },
    }
}

/// Returns the 504 to an `only-if-cached` request that finds nothing. This is an expected miss
/// and not an error.
pub(super) fn answer_not_cached(settings: &Settings, inbound: &Inbound) -> Answer {
    let mut answer =
        refuse(settings, inbound.source, inbound.method.clone(), Ok(inbound.key.clone()), Error::NotCached);
    (answer.record.served, answer.record.error) = (Served::Miss, None);
    answer.record.reason = Some(Error::NotCached.name());
    answer
}

/// Returns this edge's own response to an error.
pub(super) fn refuse(
    settings: &Settings,
    source: Source,
    method: Method,
    key: Result<AssetKey, Box<str>>,
    error: Error,
) -> Answer {
    let status = CacheStatus { handled: Handled::Refused, detail: Some(error.name()), ..CacheStatus::default() };
    let text = format!("{}\n", error.public());
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, text.len().into());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CACHE_STATUS, settings.status(&status));
    headers.insert(VIA, settings.via.clone());
    match error {
        Error::MethodNotAllowed => drop(headers.insert(ALLOW, settings.policies.load().methods.allow().clone())),
        Error::UnknownSite if source == Source::Peer => {
            drop(headers.insert(SITE, HeaderValue::from_static("unknown")));
        }
        Error::ClientLimit => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => {}
    }
    let body = if method == Method::HEAD { Body::empty() } else { text.into() };
    let mut response = Response::new(body);
    *response.status_mut() = error.status();
    *response.headers_mut() = headers;
    let record =
        Record { source, method, key, served: Served::Error, from: ServedFrom::Edge, reason: None, error: Some(error) };
    Answer { response, tunnel: None, record }
}

/// The role of a request in its flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

/// Returns the metrics label for requests that a flight answered.
pub(super) fn served(role: Role) -> Served {
    match role {
        Role::Leader => Served::Miss,
        Role::Follower => Served::Collapsed,
    }
}

/// The head of a flight, and a reader of its body.
pub(super) struct Shared {
    pub(super) reader: Reader,
    pub(super) streaming: Streaming,
    pub(super) order: Arc<Order>,
    /// The headers that only this request's client may have.
    pub(super) own: HeaderMap,
}

/// Returns the metrics label of a hit in this tier.
pub(super) fn hit(tier: Tier) -> Served {
    match tier {
        Tier::Main => Served::Hit,
        Tier::Hot => Served::HotHit,
    }
}

/// Returns a number as a header value, in one allocation of its length.
fn number(number: u64) -> HeaderValue {
    HeaderValue::from_bytes(itoa::Buffer::new().format(number).as_bytes()).expect("digits are a header value")
}
