//! Giving an asset out: conditions, ranges, and the fields that say how it
//! came to be here.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{
    AGE, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPIRES,
    LAST_MODIFIED, TRANSFER_ENCODING, VIA,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::fill::joined;
use super::share::{Part, Shared, served};
use super::{Answer, Ask, Edge};
use crate::access::{From, Record};
use crate::body::growing::Reader;
use crate::body::{Body, Given};
use crate::error::Error;
use crate::flight::{self, Kept, Proof, Provider, Reused, Streaming, Why};
use crate::key::AssetKey;
use crate::memory::Tier;
use crate::metrics::{Served, Source};
use crate::outgoing::Unframed;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Handled};
use crate::semantics::conditional::{self, Precondition};
use crate::semantics::digest_fields::{self, CONTENT_DIGEST, REPR_DIGEST, WANT_REPR_DIGEST};
use crate::semantics::forward;
use crate::semantics::freshness;
use crate::semantics::manner::Manner;
use crate::semantics::range::{self, Ranged, Span};
use crate::semantics::storing::{self, Refusal, Verdict};
use crate::stored::Stored;

/// The methods that are served, if the origin serves them.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// How much of a response a request gets.
enum Extent {
    Whole,
    Part(Span),
    /// As multipart/byteranges.
    Parts(Multipart),
    Nothing,
}

impl Edge {
    pub(super) fn answer_stored(&self, ask: &Ask, tier: Tier, stored: &Stored) -> Answer {
        stored.uses.one_more();
        let status = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
        Answer { response: self.give(ask, ask.now, stored, status), record: Self::record(ask, hit(tier), From::Memory) }
    }

    /// A stale response that may be served so.
    pub(super) fn answer_stale(&self, ask: &Ask, stored: &Stored) -> Answer {
        let hit = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
        Answer {
            response: self.give(ask, ask.now, stored, hit),
            record: Self::record(ask, Served::Stale, From::Memory),
        }
    }

    /// A stale response that the provider was asked about.
    pub(super) fn answer_reused(&self, ask: &Ask, handled: Handled, part: Part, reused: &Reused) -> Answer {
        let (fwd_status, detail, record) = match &reused.why {
            Why::Validated(provider) => {
                (Some(StatusCode::NOT_MODIFIED), None, Self::record(ask, served(part), From::from(provider)))
            }
            Why::FailedWith(status) => (Some(*status), None, Self::record(ask, Served::Stale, From::Memory)),
            Why::Failed(error) => (None, Some(error.name()), Self::record(ask, Served::Stale, From::Memory)),
        };
        let status = CacheStatus {
            handled,
            fwd_status: fwd_status.map(|status| status.as_u16()),
            collapsed: part == Part::Follower,
            detail,
            ..CacheStatus::default()
        };
        Answer { response: self.give(ask, SystemTime::now(), &reused.stored, status), record }
    }

    /// As much of a stored response as the request wants.
    fn give(&self, ask: &Ask, now: SystemTime, stored: &Stored, status: CacheStatus) -> Response<Body> {
        let facts = &stored.facts;
        let status = CacheStatus { ttl: facts.ttl(now), ..status };
        let (mut response, extent) = select(ask, facts.status, Some(stored.body.len()), stored.fields.unpack());
        response.headers_mut().insert(AGE, number(facts.age(now).as_secs()));
        response.headers_mut().insert(CACHE_STATUS, self.status(&status));
        let len = stored.body.len();
        *response.body_mut() = match extent {
            Extent::Nothing => Body::empty(),
            Extent::Whole => Body::held(Arc::clone(&stored.body), 0, len),
            Extent::Part(Span { first, end }) => Body::held(Arc::clone(&stored.body), first, end),
            Extent::Parts(multipart) => {
                multipart.body(|Span { first, end }| Body::held(Arc::clone(&stored.body), first, end))
            }
        };
        response
    }

    pub(super) fn answer_flight(self: &Arc<Self>, ask: &Ask, handled: Handled, part: Part, shared: Shared) -> Answer {
        let Shared { reader, streaming, order, own } = shared;
        let Streaming { head, provider, kept, extent: held, room, proof, .. } = streaming;
        let status = CacheStatus {
            handled,
            collapsed: part == Part::Follower,
            stored: kept == Kept::Stored,
            detail: if let Kept::Shared(refusal) = kept { Some(refusal.name()) } else { None },
            ..CacheStatus::default()
        };
        let (mut response, extent) = select(ask, head.facts.status, head.length, head.headers.clone());
        let age = head.facts.age(SystemTime::now()).as_secs();
        if age > 0 {
            response.headers_mut().insert(AGE, number(age));
        } else {
            response.headers_mut().remove(AGE);
        }
        response.headers_mut().insert(CACHE_STATUS, append_member(head.upstream_status.as_ref(), self.status(&status)));
        if response.status().is_success() {
            response.headers_mut().extend(own);
        }
        // A body of known length is held whole, unless it was a window from the first.
        let may_lose = held == flight::Extent::Window || head.length.is_none();
        let resume = may_lose.then(|| self.resume(ask.key.detached(), Arc::clone(&head), order));
        let growing = reader.body();
        let read = |mut reader: Reader, first, end| {
            if proof == Proof::AtEnd && end != head.length {
                reader.await_end();
            }
            reader.narrow(first, end);
            let given = (may_lose && proof == Proof::AtEnd).then(Given::nothing);
            Body::flight(reader, Arc::clone(&room), resume.clone(), given)
        };
        *response.body_mut() = match extent {
            Extent::Nothing => Body::empty(),
            Extent::Whole => read(reader, 0, head.length),
            Extent::Part(Span { first, end }) => read(reader, first, Some(end)),
            Extent::Parts(multipart) => {
                multipart.body(|Span { first, end }| read(Reader::new(Arc::clone(&growing)), first, Some(end)))
            }
        };
        Answer { response, record: Self::record(ask, served(part), From::from(&provider)) }
    }

    /// The response to a fill that turned out to be its leader's alone.
    pub(super) fn answer_first(
        &self,
        ask: &Ask,
        handled: Handled,
        provider: &Provider,
        mut response: Response<Body>,
        refusal: Refusal,
    ) -> Answer {
        let status = CacheStatus { handled, detail: Some(refusal.name()), ..CacheStatus::default() };
        // The fill left out the client's conditions, so they are applied here.
        if response.status() == StatusCode::OK && matches!(condition(ask, None, &mut response), Extent::Nothing) {
            *response.body_mut() = Body::empty();
        }
        let response = self.relay(ask, response, &status);
        Answer { response, record: Self::record(ask, Served::Pass, From::from(provider)) }
    }

    pub(super) fn answer_pass(
        &self,
        ask: &Ask,
        handled: Handled,
        began: std::time::Instant,
        response: Response<Body>,
    ) -> Answer {
        let response = response.map(|body| self.counted(&Provider::Origin, began, body));
        if handled == Handled::Bypass && ask.method == Method::GET {
            self.reconsider(ask, &response);
        }
        let status = CacheStatus { handled, ..CacheStatus::default() };
        let response = self.relay(ask, response, &status);
        Answer { response, record: Self::record(ask, Served::Pass, From::Origin) }
    }

    /// A marked name whose response could be stored after all: the next
    /// request for it may lead a flight.
    fn reconsider(&self, ask: &Ask, response: &Response<Body>) {
        let age = freshness::initial_age(response.headers(), ask.now, SystemTime::now());
        let verdict = storing::verdict(self.case(ask), response.status(), response.headers(), age);
        let fresh = matches!(verdict, Verdict::Store(lifetime) if !freshness::must_be_validated(lifetime, age));
        let length = http_body::Body::size_hint(response.body()).exact();
        if fresh && length.is_some_and(|length| length <= self.plan.max_object) {
            self.memory.unmark(&ask.key);
        }
    }

    /// Hands a response on as it came, with this edge's members in the fields
    /// that every edge adds to.
    fn relay(&self, ask: &Ask, mut response: Response<Body>, status: &CacheStatus) -> Response<Body> {
        // To a peer, a body without framing is sent without framing: in chunks it
        // would look whole, and be stored there.
        let unframed = response.extensions().get::<Unframed>().is_some();
        let via = self.response_via(response.version());
        let own_framing = if unframed && ask.source == Source::Peer { Version::HTTP_10 } else { Version::HTTP_11 };
        *response.version_mut() = own_framing;
        let has_none = response.status() == StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        forward::strip_hop_by_hop(headers);
        if has_none {
            // RFC 9110 §8.6
            headers.remove(CONTENT_LENGTH);
        }
        headers.append(VIA, via);
        let upstream = joined(headers, &CACHE_STATUS);
        headers.insert(CACHE_STATUS, append_member(upstream.as_ref(), self.status(status)));
        if ask.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    /// What this edge can do (RFC 9110 §9.3.7).
    pub(super) fn answer_options(&self, source: Source, target: Box<str>) -> Answer {
        let mut response = Response::new(Body::empty());
        let status = CacheStatus { handled: Handled::Refused, ..CacheStatus::default() };
        for (name, value) in [(ALLOW, METHODS), (CONTENT_LENGTH, 0.into()), (VIA, self.via.clone())] {
            response.headers_mut().insert(name, value);
        }
        response.headers_mut().insert(CACHE_STATUS, self.status(&status));
        let (method, key) = (Method::OPTIONS, Err(target));
        Answer {
            response,
            record: Record { source, method, key, served: Served::Pass, from: From::Nobody, error: None },
        }
    }

    /// An `only-if-cached` request finds nothing here: a miss, and nobody's fault.
    pub(super) fn answer_not_cached(&self, ask: &Ask) -> Answer {
        let mut answer = self.refuse(ask.source, ask.method.clone(), Ok(ask.key.clone()), Error::NotCached);
        answer.record.served = Served::Miss;
        answer
    }

    /// This edge's own words about what went wrong.
    pub(super) fn refuse(
        &self,
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
        headers.insert(CACHE_STATUS, self.status(&status));
        headers.insert(VIA, self.via.clone());
        if matches!(error, Error::MethodNotAllowed) {
            headers.insert(ALLOW, METHODS);
        }
        let body = if method == Method::HEAD { Body::empty() } else { text.into() };
        let mut response = Response::new(body);
        *response.status_mut() = error.status();
        *response.headers_mut() = headers;
        let record = Record { source, method, key, served: Served::Error, from: From::Nobody, error: Some(error) };
        Answer { response, record }
    }
}

/// What a hit in this tier counts as.
pub(super) fn hit(tier: Tier) -> Served {
    match tier {
        Tier::Main => Served::Hit,
        Tier::Hot => Served::HotHit,
    }
}

/// Applies the request's conditions and range to a response at hand.
fn select(ask: &Ask, status: StatusCode, length: Option<u64>, headers: HeaderMap) -> (Response<Body>, Extent) {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if ask.manner == Manner::Plain {
        let extent = if ask.method == Method::HEAD { Extent::Nothing } else { Extent::Whole };
        return (response, extent);
    }
    if ask.headers.contains_key(WANT_REPR_DIGEST)
        && response.headers().get(REPR_DIGEST).is_some_and(|digest| !digest_fields::wants(&ask.headers, digest))
    {
        response.headers_mut().remove(REPR_DIGEST);
    }
    let extent = if status == StatusCode::OK { condition(ask, length, &mut response) } else { Extent::Whole };
    if !matches!(extent, Extent::Whole) {
        // It is of all of the content (RFC 9530 §2).
        response.headers_mut().remove(CONTENT_DIGEST);
    }
    match extent {
        _ if ask.method == Method::HEAD => (response, Extent::Nothing),
        extent => (response, extent),
    }
}

fn condition(ask: &Ask, length: Option<u64>, response: &mut Response<Body>) -> Extent {
    match conditional::evaluate(&ask.headers, response.headers()) {
        Precondition::Proceed => {}
        Precondition::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            // RFC 9110 §15.4.5: what describes the content stays away with it.
            for field in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, TRANSFER_ENCODING] {
                response.headers_mut().remove(field);
            }
            return Extent::Nothing;
        }
        Precondition::Failed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            empty(response.headers_mut());
            return Extent::Nothing;
        }
    }
    let Some(length) = length.filter(|_| ask.method == Method::GET) else {
        return Extent::Whole;
    };
    match range::evaluate(&ask.headers, response.headers(), length) {
        Ranged::Whole => Extent::Whole,
        Ranged::Part(span) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let headers = response.headers_mut();
            headers.insert(CONTENT_LENGTH, (span.end - span.first).into());
            headers.insert(CONTENT_RANGE, text(content_range(span, length)));
            Extent::Part(span)
        }
        Ranged::Parts(spans) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let multipart = Multipart::new(spans, length, response.headers().get(CONTENT_TYPE));
            response.headers_mut().insert(CONTENT_LENGTH, multipart.len().into());
            response.headers_mut().insert(CONTENT_TYPE, multipart.media_type());
            Extent::Parts(multipart)
        }
        Ranged::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            empty(response.headers_mut());
            response.headers_mut().insert(CONTENT_RANGE, text(format!("bytes */{length}")));
            Extent::Nothing
        }
    }
}

/// Removes what described the asset from an answer that is not the asset; above all,
/// how long it is fresh.
fn empty(headers: &mut HeaderMap) {
    for field in [CONTENT_TYPE, CONTENT_ENCODING, EXPIRES, ETAG, LAST_MODIFIED, REPR_DIGEST] {
        headers.remove(field);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, 0.into());
}

/// A multipart/byteranges body in the making (RFC 9110 §14.6).
struct Multipart {
    spans: Vec<Span>,
    boundary: String,
    /// What stands before each part, and behind the last.
    heads: Vec<String>,
    tail: String,
}

impl Multipart {
    fn new(spans: Vec<Span>, length: u64, media_type: Option<&HeaderValue>) -> Self {
        // 64 random bits: no content holds them but by chance.
        let boundary = format!("peerage-{:016x}", RandomState::new().build_hasher().finish());
        let media_type = media_type.and_then(|media_type| media_type.to_str().ok());
        let media_type = media_type.map(|media_type| format!("Content-Type: {media_type}\r\n")).unwrap_or_default();
        let head = |span: &Span| {
            format!("\r\n--{boundary}\r\n{media_type}Content-Range: {}\r\n\r\n", content_range(*span, length))
        };
        let heads = spans.iter().map(head).collect();
        let tail = format!("\r\n--{boundary}--\r\n");
        Self { spans, boundary, heads, tail }
    }

    fn len(&self) -> u64 {
        let heads: usize = self.heads.iter().map(String::len).sum();
        let parts: u64 = self.spans.iter().map(|span| span.end - span.first).sum();
        (heads + self.tail.len()) as u64 + parts
    }

    fn media_type(&self) -> HeaderValue {
        text(format!("multipart/byteranges; boundary={}", self.boundary))
    }

    /// The body, its parts as `part` gives them.
    fn body(self, part: impl Fn(Span) -> Body) -> Body {
        let parts = self.heads.into_iter().zip(self.spans).flat_map(|(head, span)| [head.into(), part(span)]);
        Body::chain(parts.chain([self.tail.into()]))
    }
}

fn content_range(Span { first, end }: Span, length: u64) -> String {
    format!("bytes {first}-{}/{length}", end - 1)
}

/// A number as a value, in one allocation of its length.
fn number(number: u64) -> HeaderValue {
    HeaderValue::from_bytes(itoa::Buffer::new().format(number).as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The members of those before, then this edge's: RFC 9211 §2 has the cache
/// that is nearest to the origin come first.
fn append_member(before: Option<&HeaderValue>, own: HeaderValue) -> HeaderValue {
    let Some(before) = before else {
        return own;
    };
    let all = [before.as_bytes(), own.as_bytes()].join(&b", "[..]);
    HeaderValue::from_bytes(&all).unwrap_or(own)
}
