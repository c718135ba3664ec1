//! Resuming a body in the middle, if the rest is certain to be of the same representation. A reader
//! that has fallen out of a window asks the origin; a fill whose source broke off asks the next in
//! rank.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::fetch::{Fetcher, asked, for_all};
use super::filler::Filler;
use super::landing::Ingest;
use super::order::Order;
use super::rank::higher_ranked;
use super::verify::proof_for;
use crate::body::growing::Reader;
use crate::body::proven::Proof;
use crate::body::{Body, Position, Resume};
use crate::error::Error;
use crate::flight::{Extent, Flight, Lead, Outcome, Provider, Reach, Streaming, Verification};
use crate::key::AssetKey;
use crate::observe::metrics::Fetched;
use crate::semantics::conditional::is_strong;
use crate::semantics::storing::{self, Name, Personal, Refusal, Verdict};
use crate::store::entry::Head;
use crate::upstream::{Framing, Reply};

/// Returns the function by which a reader of `client` resumes after it has fallen out of the
/// window.
pub(super) fn resume_reader(
    fetcher: &Arc<Fetcher>,
    key: AssetKey,
    head: Arc<Head>,
    order: Arc<Order>,
    client: Option<IpAddr>,
) -> Resume {
    let fetcher = Arc::clone(fetcher);
    Arc::new(move |place| {
        let (fetcher, key, head, order) = (Arc::clone(&fetcher), key.clone(), Arc::clone(&head), Arc::clone(&order));
        Box::pin(async move { follow(&fetcher, &key, &head, &order, client, place).await })
    })
}

/// Returns true if a reader that falls out of the window can resume.
pub(super) fn can_resume(order: &Order, headers: &HeaderMap) -> bool {
    order.name == Name::Proven || strong_tag(headers).is_some()
}

/// Requests from the origin the bytes that follow `place`. The request counts for `client`
/// until the body has ended, and fails if the client is at its request limit: each such reader
/// takes a connection to the origin, for as long as it likes.
async fn follow(
    fetcher: &Fetcher,
    key: &AssetKey,
    head: &Head,
    order: &Order,
    client: Option<IpAddr>,
    place: Position,
) -> Result<Body, Error> {
    if !can_resume(order, &head.headers) {
        return Err(Error::Outgrown);
    }
    let tag = strong_tag(&head.headers);
    // A part cannot be verified against the digest of the whole, so the whole is requested
    // again.
    let proof = proof_for(&fetcher.settings.policy(key), key, &Provider::Origin, head.facts.status, &head.headers);
    let request = if proof.is_some() { for_all(key, order) } else { for_rest(key, order, tag, place.at) };
    let quota = fetcher.quotas.take(client)?;
    let began = Instant::now();
    let reply = fetcher.ask_origin(request.into()).await?;
    let reply = reply.map_body(|body| fetcher.counted(&Provider::Origin, began, quota, body));
    match proof {
        // The digest is that of the new copy: the copy must begin like the bytes already sent.
        Some(proof) if place.delivered.is_some() => whole(reply.response, proof).map(|body| Body::resumed(body, place)),
        Some(_) => Err(Error::Outgrown),
        None => continuation(reply, tag, place.at, head),
    }
}

/// The rest of a body that broke off.
pub(super) struct Rest {
    /// Its sender; `None` if the rest was here already.
    pub(super) provider: Option<Provider>,
    pub(super) body: Body,
    /// The reason not to store the whole, if the sender forbids it.
    pub(super) forbidden: Option<Refusal>,
}

/// The sources that may have the rest of a body: first the sender, because perhaps only the
/// connection failed; then the next in rank.
pub(super) struct Sources(VecDeque<Provider>);

impl Filler {
    /// Returns the sources that can resume a fill which `first` began.
    pub(super) fn sources(&self, lead: &Lead, first: &Provider) -> Sources {
        let rank = || {
            higher_ranked(&self.peering, &self.cache.store, lead.key())
                .into_iter()
                .map(Provider::Peer)
                .filter(|it| it != first)
        };
        Sources(match lead.reach() {
            Reach::Peers => std::iter::once(first.clone()).chain(rank()).chain([Provider::Origin]).collect(),
            // A peer's request may be waiting for this flight, so it must not wait for a peer.
            Reach::Origin => VecDeque::from([Provider::Origin]),
            Reach::Handoff => VecDeque::new(),
        })
    }

    /// Returns the rest of a body that broke off. `None` if no source has one that is certain to be
    /// of the same representation. An error response ends the search, because the next in rank
    /// would give the same.
    pub(super) async fn resume_fill(
        &self,
        lead: &mut Lead,
        order: &Order,
        ingest: &Ingest,
        sources: &mut Sources,
        broken: Body,
    ) -> Option<Rest> {
        let (expected, proof) = (ingest.proof(), broken.into_proof());
        if !can_resume_fill(order, ingest, expected) || expected == Verification::AtEnd && proof.is_none() {
            return None;
        }
        let tag = strong_tag(&ingest.head.headers).filter(|_| proof.is_none());
        while let Some(provider) = sources.0.pop_front() {
            match &provider {
                Provider::Peer(peer) if self.peering.membership.view().is_in_doubt(peer) => continue,
                Provider::Peer(_) => {}
                Provider::Origin => {
                    if let Some(rest) = self.rest_from_here(lead, ingest, tag).await {
                        return Some(Rest { provider: None, body: prove_on(rest, proof), forbidden: None });
                    }
                }
            }
            let began = Instant::now();
            let Some(reply) = self.ask_for_rest(&provider, lead.key(), order, tag, ingest.received).await else {
                continue;
            };
            let has_it = matches!(reply.response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT);
            let forbidden = self.forbidden_by(lead.key(), order, reply.response.headers());
            if let (true, Ok(rest)) = (has_it, continuation(reply, tag, ingest.received, &ingest.head)) {
                return Some(Rest { provider: Some(provider), body: prove_on(rest, proof), forbidden });
            }
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            if !has_it {
                return None;
            }
        }
        None
    }

    /// Returns the reason if the response that resumes a body forbids storing the whole, such as
    /// `private`. The freshness is that of the first response.
    fn forbidden_by(&self, key: &AssetKey, order: &Order, headers: &HeaderMap) -> Option<Refusal> {
        // The freshness of a proven name does not matter.
        let case = self.settings.policy(key).case(Name::Proven, order.credentials, Personal::Absent);
        match storing::verdict(case, StatusCode::OK, headers, Duration::ZERO) {
            Verdict::Store(_) => None,
            Verdict::Share(refusal) | Verdict::Pass(refusal) => Some(refusal),
        }
    }

    /// Returns the rest from this edge itself: as it is next in rank, peers may have made it fetch
    /// the same.
    async fn rest_from_here(&self, lead: &mut Lead, ingest: &Ingest, tag: Option<&HeaderValue>) -> Option<Body> {
        if let Some((_, stored)) = self.cache.store.get(lead.key())
            && is_same(&ingest.head, tag, &stored.fields().unpack(), Some(stored.len()))
        {
            let len = stored.len();
            return Some(Body::stored(stored, ingest.received, len));
        }
        if ingest.extent == Extent::Window {
            return None;
        }
        let flight = lead.go_to_origin()?;
        rest_of(&flight, ingest, tag).await
    }

    async fn ask_for_rest(
        &self,
        provider: &Provider,
        key: &AssetKey,
        order: &Order,
        tag: Option<&HeaderValue>,
        at: u64,
    ) -> Option<Reply> {
        let request = for_rest(key, order, tag, at);
        match provider {
            Provider::Origin => self.fetcher.ask_origin(request.into()).await.ok(),
            Provider::Peer(peer) => Some(self.fetcher.ask_peer(Arc::clone(peer), request, None).await?.reply),
        }
    }
}

/// Returns the rest of a body from another flight.
async fn rest_of(flight: &Arc<Flight>, ingest: &Ingest, tag: Option<&HeaderValue>) -> Option<Body> {
    let mut reader = Reader::new(Arc::clone(&flight.body));
    let Outcome::Streaming(Streaming { head, room, .. }) = flight.outcome().await else {
        return None;
    };
    if !is_same(&ingest.head, tag, &head.headers, head.length) {
        return None;
    }
    reader.narrow(ingest.received, head.length);
    // The other flight has the same known length, so no reader can fall out of it.
    Some(Body::flight(reader, Arc::clone(room), None, None))
}

/// Returns true if another source may continue the fill, because bytes of another representation
/// would be noticed: for a 200 with a strong validator; for a verified name whose digest is checked
/// at the end of the body; and for any verified name of which no byte has arrived. The length must
/// be known.
pub(super) fn can_resume_fill(order: &Order, ingest: &Ingest, proof: Verification) -> bool {
    let Head { facts, headers, length, .. } = &*ingest.head;
    let is_validated = facts.status == StatusCode::OK && strong_tag(headers).is_some();
    let is_named = order.name == Name::Proven && (proof == Verification::AtEnd || ingest.received == 0);
    (is_validated || is_named) && length.is_some()
}

/// Returns a request for the bytes from `at` on, if the representation still has `tag`.
fn for_rest(key: &AssetKey, order: &Order, tag: Option<&HeaderValue>, at: u64) -> Request<Body> {
    let mut request = for_all(key, order);
    request.headers_mut().insert(RANGE, range_from(at));
    if let Some(tag) = tag {
        request.headers_mut().insert(IF_RANGE, tag.clone());
    }
    request
}

fn prove_on(rest: Body, proof: Option<Proof>) -> Body {
    match proof {
        Some(proof) => Body::proving(rest, proof),
        None => rest,
    }
}

/// Returns the whole representation, verified while it streams.
fn whole(response: Response<Body>, proof: Proof) -> Result<Body, Error> {
    if response.status() != StatusCode::OK {
        return Err(Error::Outgrown);
    }
    Ok(Body::proving(response.into_body(), proof))
}

fn strong_tag(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(ETAG).filter(|tag| is_strong(tag.as_bytes()))
}

fn range_from(at: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes={at}-")).expect("a range is a header value")
}

/// Returns the part of `response` that begins at byte `at` of the representation with `tag` and
/// `head`. It must reach the end of the representation, and be framed.
fn continuation(reply: Reply, tag: Option<&HeaderValue>, at: u64, head: &Head) -> Result<Body, Error> {
    let Reply { response, framing, .. } = reply;
    if !is_same(head, tag, response.headers(), total(&response)) || framing == Framing::UntilClose {
        return Err(Error::Outgrown);
    }
    match response.status() {
        StatusCode::PARTIAL_CONTENT if reaches_the_end(response.headers(), at) => Ok(response.into_body()),
        StatusCode::OK => Ok(Body::skipping(response.into_body(), at)),
        _ => Err(Error::Outgrown),
    }
}

/// Returns true if `headers`, of a representation of the length `total`, can be of the one with
/// `tag` and `head`.
fn is_same(head: &Head, tag: Option<&HeaderValue>, headers: &HeaderMap, total: Option<u64>) -> bool {
    (tag.is_none() || headers.get(ETAG) == tag)
        && headers.get(CONTENT_ENCODING) == head.headers.get(CONTENT_ENCODING)
        && head.length.is_none_or(|length| total == Some(length))
}

/// Returns the length of the whole representation that a 200 or a 206 belongs to.
fn total(response: &Response<Body>) -> Option<u64> {
    if response.status() == StatusCode::OK {
        return hyper::body::Body::size_hint(response.body()).exact();
    }
    response.headers().get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

/// Returns true if Content-Range and Content-Length cover all bytes from `at` to the last one. Some
/// servers send less than was requested.
fn reaches_the_end(headers: &HeaderMap, at: u64) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let range = text(CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
    let Some((span, total)) = range.and_then(|range| range.split_once('/')) else {
        return false;
    };
    let number = |digits: &str| digits.parse::<u64>().ok();
    let span = span.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
    let (Some((first, last)), Some(total)) = (span, number(total)) else {
        return false;
    };
    let length = text(CONTENT_LENGTH).and_then(number);
    first == at
        && last.checked_add(1) == Some(total)
        && length.is_none_or(|length| total.checked_sub(at) == Some(length))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use std::time::SystemTime;

    use super::*;
    use crate::semantics::freshness::Lifetime;
    use crate::store::metadata::{Metadata, Validated};

    async fn rest(status: u16, fields: &[(&'static str, &'static str)], tag: Option<&'static str>) -> Option<String> {
        rest_of(None, status, fields, tag).await
    }

    async fn rest_of(
        length: Option<u64>,
        status: u16,
        fields: &[(&'static str, &'static str)],
        tag: Option<&'static str>,
    ) -> Option<String> {
        let mut response = Response::new(Body::from("0123456789"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            response.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let tag = tag.map(HeaderValue::from_static);
        let (lifetime, validated) = (Lifetime::UntilEvicted { stated: None }, Validated::Never);
        let facts = Metadata { status: StatusCode::OK, born: SystemTime::UNIX_EPOCH, lifetime, validated };
        let head = Head { facts, length, headers: HeaderMap::new(), upstream_status: None };
        let body = continuation(response.into(), tag.as_ref(), 4, &head).ok()?;
        Some(String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn resume_rejects_another_representation_and_an_incomplete_range() {
        let from_four = ("content-range", "bytes 4-13/14");
        let tag = ("etag", "\"a\"");
        assert_eq!(rest(206, &[from_four, tag], Some("\"a\"")).await.unwrap(), "0123456789");
        assert_eq!(rest(206, &[from_four], None).await.unwrap(), "0123456789");
        assert_eq!(rest(200, &[tag], Some("\"a\"")).await.unwrap(), "456789");
        assert_eq!(rest(206, &[from_four, tag], Some("\"b\"")).await, None);
        assert_eq!(rest(200, &[], Some("\"a\"")).await, None);
        for range in ["bytes 5-13/14", "bytes 4-12/14", "bytes 4-13/*", "bytes */14", "4-13/14", "bytes 4-13"] {
            assert_eq!(rest(206, &[("content-range", range), tag], Some("\"a\"")).await, None, "{range}");
        }
        assert_eq!(rest(206, &[from_four, ("content-length", "9"), tag], Some("\"a\"")).await, None);
        assert_eq!(rest(206, &[tag], Some("\"a\"")).await, None);
        assert_eq!(rest(404, &[tag], Some("\"a\"")).await, None);
        // Another length or coding means another representation.
        for (length, goes_on) in [(14, true), (15, false), (13, false)] {
            assert_eq!(rest_of(Some(length), 206, &[from_four, tag], Some("\"a\"")).await.is_some(), goes_on);
        }
        for (length, goes_on) in [(10, true), (11, false)] {
            assert_eq!(rest_of(Some(length), 200, &[tag], Some("\"a\"")).await.is_some(), goes_on);
        }
        assert_eq!(rest(206, &[from_four, tag, ("content-encoding", "gzip")], Some("\"a\"")).await, None);
    }
}
