//! Giving an asset out: conditions, ranges, and the fields that say how it
//! came to be here.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AGE, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VIA};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::coalesce::{Role, Shared, served};
use super::quota::Quota;
use super::select::{Selection, condition, select};
use super::{Answer, Ask, Edge};
use crate::body::growing::Reader;
use crate::body::{Body, Given};
use crate::error::Error;
use crate::flight::{Extent, Kept, Provider, Reused, Streaming, Verification, Why};
use crate::key::AssetKey;
use crate::observe::access::{Record, ServedFrom};
use crate::observe::metrics::{Served, Source};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Handled};
use crate::semantics::range::Span;
use crate::semantics::request_fields::{Class, Kind};
use crate::semantics::storing::{self, Refusal, Verdict};
use crate::semantics::vary::{self, Varies};
use crate::semantics::{combined, forward, freshness};
use crate::store::entry::Stored;
use crate::store::tiers::Tier;
use crate::upstream::{Framing, Reply};

impl Edge {
    pub(super) fn answer_stored(&self, ask: &Ask, tier: Tier, stored: &Stored) -> Answer {
        stored.uses.one_more();
        let status = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
        Answer {
            response: self.give(ask, ask.now, stored, status),
            tunnel: None,
            record: Self::record(ask, hit(tier), ServedFrom::Store),
        }
    }

    /// A stale response that may be served so.
    pub(super) fn answer_stale(&self, ask: &Ask, stored: &Stored) -> Answer {
        let hit = CacheStatus { handled: Handled::Hit, ..CacheStatus::default() };
        Answer {
            response: self.give(ask, ask.now, stored, hit),
            tunnel: None,
            record: Self::record(ask, Served::Stale, ServedFrom::Store),
        }
    }

    /// A stale response that the provider was asked about.
    pub(super) fn answer_reused(&self, ask: &Ask, handled: Handled, part: Role, reused: &Reused) -> Answer {
        let (fwd_status, detail, record) = match &reused.why {
            Why::Validated(provider) => {
                (Some(StatusCode::NOT_MODIFIED), None, Self::record(ask, served(part), ServedFrom::from(provider)))
            }
            Why::FailedWith(status) => (Some(*status), None, Self::record(ask, Served::Stale, ServedFrom::Store)),
            Why::Failed(error) => (None, Some(error.name()), Self::record(ask, Served::Stale, ServedFrom::Store)),
        };
        let status = CacheStatus {
            handled,
            fwd_status: fwd_status.map(|status| status.as_u16()),
            collapsed: part == Role::Follower,
            detail,
            ..CacheStatus::default()
        };
        let record = Record { reason: detail, ..record };
        Answer { response: self.give(ask, SystemTime::now(), &reused.stored, status), tunnel: None, record }
    }

    /// As much of a stored response as the request wants.
    fn give(&self, ask: &Ask, now: SystemTime, stored: &Stored, status: CacheStatus) -> Response<Body> {
        let facts = stored.facts();
        let age = facts.age(now);
        let status = CacheStatus { ttl: facts.ttl(age), ..status };
        let (mut response, selection) = select(ask, facts.status, Some(stored.len()), stored.fields().unpack());
        response.headers_mut().insert(AGE, number(age.as_secs()));
        response.headers_mut().insert(CACHE_STATUS, self.status(&status));
        let len = stored.len();
        *response.body_mut() = match selection {
            Selection::Nothing => Body::empty(),
            Selection::Whole => Body::stored(stored.clone(), 0, len),
            Selection::Role(Span { first, end }) => Body::stored(stored.clone(), first, end),
            Selection::Parts(multipart) => {
                multipart.body(|Span { first, end }| Body::stored(stored.clone(), first, end))
            }
        };
        response
    }

    pub(super) fn answer_flight(self: &Arc<Self>, ask: &Ask, handled: Handled, part: Role, shared: Shared) -> Answer {
        let Shared { reader, streaming, order, own } = shared;
        let Streaming { head, provider, kept, extent, room, proof, .. } = streaming;
        let status = CacheStatus {
            handled,
            collapsed: part == Role::Follower,
            stored: kept == Kept::Stored,
            detail: if let Kept::Shared(refusal) = kept { Some(refusal.name()) } else { None },
            ..CacheStatus::default()
        };
        let (mut response, selection) = select(ask, head.facts.status, head.length, head.headers.clone());
        let age = head.facts.age(SystemTime::now()).as_secs();
        if age > 0 {
            response.headers_mut().insert(AGE, number(age));
        } else {
            response.headers_mut().remove(AGE);
        }
        response.headers_mut().insert(CACHE_STATUS, self.status_behind(head.upstream_status.as_ref(), &status));
        if response.status().is_success() {
            response.headers_mut().extend(own);
        }
        // A body of known length is held whole, unless it was a window from the first.
        let may_lose = extent == Extent::Window || head.length.is_none();
        let resume = may_lose.then(|| self.resume(ask.key.clone(), Arc::clone(&head), order, self.client_of(ask)));
        let growing = reader.body();
        let reason = status.detail;
        let read = |mut reader: Reader, first, end| {
            if proof == Verification::AtEnd && end != head.length {
                reader.await_end();
            }
            reader.narrow(first, end);
            let given = (may_lose && proof == Verification::AtEnd).then(Given::nothing);
            Body::flight(reader, Arc::clone(&room), resume.clone(), given)
        };
        *response.body_mut() = match selection {
            Selection::Nothing => Body::empty(),
            Selection::Whole => read(reader, 0, head.length),
            Selection::Role(Span { first, end }) => read(reader, first, Some(end)),
            Selection::Parts(multipart) => {
                multipart.body(|Span { first, end }| read(Reader::new(Arc::clone(&growing)), first, Some(end)))
            }
        };
        let record = Record { reason, ..Self::record(ask, served(part), ServedFrom::from(&provider)) };
        Answer { response, tunnel: None, record }
    }

    /// The response to a fill that turned out to be its leader's alone.
    pub(super) fn answer_first(
        &self,
        ask: &Ask,
        handled: Handled,
        provider: &Provider,
        mut reply: Reply,
        refusal: Refusal,
    ) -> Answer {
        let status = CacheStatus { handled, detail: Some(refusal.name()), ..CacheStatus::default() };
        // The fill left out the client's conditions, so they are applied here.
        let response = &mut reply.response;
        if response.status() == StatusCode::OK && matches!(condition(ask, None, response), Selection::Nothing) {
            *response.body_mut() = Body::empty();
        }
        let response = self.relay(ask, reply, &status);
        let record = Record { reason: status.detail, ..Self::record(ask, Served::Pass, ServedFrom::from(provider)) };
        Answer { response, tunnel: None, record }
    }

    pub(super) fn answer_pass(
        &self,
        ask: &Ask,
        handled: Handled,
        began: std::time::Instant,
        (reply, quota): (Reply, Quota),
    ) -> Answer {
        let reply = reply.map_body(|body| self.counted(&Provider::Origin, began, quota, body));
        if handled == Handled::Bypass && ask.method == Method::GET {
            self.reconsider(ask, &reply.response);
        }
        if ask.kind == Kind::Unknown && ask.method == Method::GET {
            self.learn_vary(ask, &reply.response);
        }
        let reason = pass_reason(ask, handled);
        let detail = (handled == Handled::OtherSite).then_some(reason);
        let status = CacheStatus { handled, detail, ..CacheStatus::default() };
        let response = self.relay(ask, reply, &status);
        let record = Record { reason: Some(reason), ..Self::record(ask, Served::Pass, ServedFrom::Origin) };
        Answer { response, tunnel: None, record }
    }

    /// A marked name whose response could be stored after all: the next
    /// request for it may lead a flight.
    fn reconsider(&self, ask: &Ask, response: &Response<Body>) {
        let age = freshness::initial_age(response.headers(), ask.now, SystemTime::now());
        let verdict = storing::verdict(self.case(ask), response.status(), response.headers(), age);
        let fresh = matches!(verdict, Verdict::Store(lifetime) if !freshness::must_be_validated(lifetime, age));
        let length = http_body::Body::size_hint(response.body()).exact();
        if fresh && length.is_some_and(|length| length <= self.plan.max_object) {
            self.store.unmark(&ask.key);
        }
    }

    /// Notes the Vary of a response that could have been stored, had the fill sent the
    /// headers that it names: the next one does.
    fn learn_vary(&self, ask: &Ask, response: &Response<Body>) {
        let Varies::By(fields) = vary::varies(response.headers()) else {
            return;
        };
        let fields: Arc<[_]> = fields.into_iter().filter(forward::may_select).collect();
        let named = fields.iter().any(|name| Class::of(name) == Class::Unknown && ask.headers.contains_key(name));
        let age = freshness::initial_age(response.headers(), ask.now, SystemTime::now());
        let verdict = storing::verdict(self.case(ask), response.status(), response.headers(), age);
        let variants = self.policy.load().variants;
        if named && variants > 0 && matches!(verdict, Verdict::Store(_)) {
            self.store.vary(&ask.key.asset(), &fields, variants);
        }
    }

    /// Hands a response on as it came, with this edge's members in the fields
    /// that every edge adds to.
    fn relay(&self, ask: &Ask, reply: Reply, status: &CacheStatus) -> Response<Body> {
        let Reply { mut response, framing, .. } = reply;
        // To a peer, a body without framing is sent without framing: in chunks it
        // would look whole, and be stored there.
        let via = self.via_for(response.version());
        let own_framing = if framing == Framing::UntilClose && ask.source == Source::Peer {
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
        headers.insert(CACHE_STATUS, self.status_behind(upstream.as_ref(), status));
        if ask.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    /// The members of those before, then this edge's: RFC 9211 §2 has the cache
    /// that is nearest to the origin come first.
    pub(super) fn status_behind(&self, before: Option<&HeaderValue>, status: &CacheStatus) -> HeaderValue {
        let own = self.status(status);
        combined(before.into_iter().chain([&own])).unwrap_or(own)
    }

    /// What this edge can do (RFC 9110 §9.3.7).
    pub(super) fn answer_options(&self, source: Source, target: Box<str>) -> Answer {
        let mut response = Response::new(Body::empty());
        let status = CacheStatus { handled: Handled::Refused, ..CacheStatus::default() };
        let allow = self.policy.load().methods.allow().clone();
        for (name, value) in [(ALLOW, allow), (CONTENT_LENGTH, 0.into()), (VIA, self.via.clone())] {
            response.headers_mut().insert(name, value);
        }
        response.headers_mut().insert(CACHE_STATUS, self.status(&status));
        let (method, key) = (Method::OPTIONS, Err(target));
        Answer {
            response,
            tunnel: None,
            record: Record {
                source,
                method,
                key,
                served: Served::Pass,
                from: ServedFrom::Edge,
                reason: None,
                error: None,
            },
        }
    }

    /// The 504 to an `only-if-cached` request that finds nothing here: an expected miss,
    /// and no error.
    pub(super) fn answer_not_cached(&self, ask: &Ask) -> Answer {
        let mut answer = self.refuse(ask.source, ask.method.clone(), Ok(ask.key.clone()), Error::NotCached);
        (answer.record.served, answer.record.error) = (Served::Miss, None);
        answer.record.reason = Some(Error::NotCached.name());
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
        match error {
            Error::MethodNotAllowed => drop(headers.insert(ALLOW, self.policy.load().methods.allow().clone())),
            Error::ClientLimit => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => {}
        }
        let body = if method == Method::HEAD { Body::empty() } else { text.into() };
        let mut response = Response::new(body);
        *response.status_mut() = error.status();
        *response.headers_mut() = headers;
        let record = Record {
            source,
            method,
            key,
            served: Served::Error,
            from: ServedFrom::Edge,
            reason: None,
            error: Some(error),
        };
        Answer { response, tunnel: None, record }
    }
}

/// Returns the reason why a request went to the origin alone, for its line in the log.
fn pass_reason(ask: &Ask, handled: Handled) -> &'static str {
    match handled {
        Handled::OtherSite => "other-site",
        Handled::Method => "method",
        Handled::Bypass => "hit-for-miss",
        _ if ask.kind == Kind::Unknown => "unknown-header",
        _ => "request",
    }
}

/// What a hit in this tier counts as.
pub(super) fn hit(tier: Tier) -> Served {
    match tier {
        Tier::Main => Served::Hit,
        Tier::Hot => Served::HotHit,
    }
}

/// A number as a value, in one allocation of its length.
fn number(number: u64) -> HeaderValue {
    HeaderValue::from_bytes(itoa::Buffer::new().format(number).as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("0"))
}
