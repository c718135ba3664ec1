//! Going on in the middle of a body, if what follows is sure to be of the same
//! asset: a reader that a window has moved past asks the origin, and a fill
//! whose source broke off asks the next in rank.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::Edge;
use super::fetch::{asked, for_all};
use super::fill::Order;
use super::ingest::Ingest;
use crate::body::growing::Reader;
use crate::body::proven::Proof;
use crate::body::{Body, Place, Resume};
use crate::error::Error;
use crate::flight::{Extent, Flight, Lead, Outcome, Provider, Reach, Streaming, Verification};
use crate::key::AssetKey;
use crate::observe::metrics::Fetched;
use crate::semantics::conditional::is_strong;
use crate::semantics::storing::{self, Name, Personal, Refusal, Verdict};
use crate::store::entry::Head;
use crate::store::tiers::Found;
use crate::upstream::{Framing, Reply};

impl Edge {
    /// How a reader of `client` that falls out of the window goes on by itself.
    pub(super) fn resume(
        self: &Arc<Self>,
        key: AssetKey,
        head: Arc<Head>,
        order: Arc<Order>,
        client: Option<IpAddr>,
    ) -> Resume {
        let edge = Arc::clone(self);
        Arc::new(move |place| {
            let (edge, key, head, order) = (Arc::clone(&edge), key.clone(), Arc::clone(&head), Arc::clone(&order));
            Box::pin(async move { edge.follow(&key, &head, &order, client, place).await })
        })
    }

    /// Whether a reader who has lost his place can go on by himself.
    pub(super) fn can_follow(order: &Order, headers: &HeaderMap) -> bool {
        order.name == Name::Proven || strong_tag(headers).is_some()
    }

    /// Asks the origin for what follows `place`. It counts for `client` until the body has
    /// ended, and breaks off if that client has too many requests there: each such reader
    /// takes a connection to the origin, for as long as it likes.
    async fn follow(
        &self,
        key: &AssetKey,
        head: &Head,
        order: &Order,
        client: Option<IpAddr>,
        place: Place,
    ) -> Result<Body, Error> {
        if !Self::can_follow(order, &head.headers) {
            return Err(Error::Outgrown);
        }
        let tag = strong_tag(&head.headers);
        // A part cannot prove what the whole must: then all of it comes again.
        let proof = self.proof(key, &Provider::Origin, head.facts.status, &head.headers);
        let request = if proof.is_some() { for_all(key, order) } else { for_rest(key, order, tag, place.at) };
        let quota = self.take_quota(client)?;
        let began = Instant::now();
        let reply = self.ask_origin(request.into()).await?;
        let reply = reply.map_body(|body| self.counted(&Provider::Origin, began, quota, body));
        match proof {
            // The proof is of all of the new copy: it has to begin as the old one did.
            Some(proof) if place.given.is_some() => {
                whole(reply.response, proof).map(|body| Body::following(body, place))
            }
            Some(_) => Err(Error::Outgrown),
            None => continuation(reply, tag, place.at, head),
        }
    }
}

/// The rest of a body that broke off.
pub(super) struct Rest {
    /// Its sender; `None` if it was here already.
    pub(super) provider: Option<Provider>,
    pub(super) body: Body,
    /// Why the whole is not stored, if the sender forbids it.
    pub(super) forbidden: Option<Refusal>,
}

/// Who may have the rest of a body: first its sender, for it may have been the
/// connection alone that failed; then those next in rank.
pub(super) struct Others(VecDeque<Provider>);

impl Edge {
    /// The sources with which a fill that `first` began can go on.
    pub(super) fn others(&self, lead: &Lead, first: &Provider) -> Others {
        let rank = || self.before_this_edge(lead.key()).into_iter().map(Provider::Peer).filter(|it| it != first);
        Others(match lead.reach() {
            Reach::Peers => std::iter::once(first.clone()).chain(rank()).chain([Provider::Origin]).collect(),
            // A peer's request may be waiting for it: it waits for no peer.
            Reach::Origin => VecDeque::from([Provider::Origin]),
            Reach::Holder => VecDeque::new(),
        })
    }

    /// Returns the rest of a body that broke off; `None` if no source has a rest that is sure
    /// to be of the same asset. A source that answers with an error ends the search, for
    /// the next in rank could say no better.
    pub(super) async fn go_on(
        self: &Arc<Self>,
        lead: &mut Lead,
        order: &Order,
        intake: &Ingest,
        others: &mut Others,
        broken: Body,
    ) -> Option<Rest> {
        let (expected, proof) = (intake.proof(), broken.into_proof());
        if !Self::can_go_on(order, intake, expected) || expected == Verification::AtEnd && proof.is_none() {
            return None;
        }
        let tag = strong_tag(&intake.head.headers).filter(|_| proof.is_none());
        while let Some(provider) = others.0.pop_front() {
            match &provider {
                Provider::Peer(peer) if self.membership.view().is_in_doubt(peer) => continue,
                Provider::Peer(_) => {}
                Provider::Origin => {
                    if let Some(rest) = self.rest_from_here(lead, intake, tag).await {
                        return Some(Rest { provider: None, body: prove_on(rest, proof), forbidden: None });
                    }
                }
            }
            let began = Instant::now();
            let Some(reply) = self.ask_for_rest(&provider, lead.key(), order, tag, intake.came).await else {
                continue;
            };
            let has_it = matches!(reply.response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT);
            let forbidden = self.forbidden_by(order, reply.response.headers());
            if let (true, Ok(rest)) = (has_it, continuation(reply, tag, intake.came, &intake.head)) {
                return Some(Rest { provider: Some(provider), body: prove_on(rest, proof), forbidden });
            }
            self.metrics.fetch(asked(&provider), Fetched::Ok, began.elapsed());
            if !has_it {
                return None;
            }
        }
        None
    }

    /// Returns the reason why a response that goes on with a body forbids to store the whole,
    /// such as `private`. The freshness is that of the response which began it.
    fn forbidden_by(&self, order: &Order, headers: &HeaderMap) -> Option<Refusal> {
        // Of a proven name the freshness does not matter.
        let case = self.policy.load().case(Name::Proven, order.credentials, Personal::Absent);
        match storing::verdict(case, StatusCode::OK, headers, Duration::ZERO) {
            Verdict::Store(_) => None,
            Verdict::Share(refusal) | Verdict::Pass(refusal) => Some(refusal),
        }
    }

    /// The rest, from this edge itself: it is next in rank, so others may have asked it
    /// for the same meanwhile.
    async fn rest_from_here(&self, lead: &mut Lead, intake: &Ingest, tag: Option<&HeaderValue>) -> Option<Body> {
        if let Found::Here(_, stored) = self.store.find(lead.key())
            && is_same(&intake.head, tag, &stored.fields().unpack(), Some(stored.len()))
        {
            let len = stored.len();
            return Some(Body::stored(stored, intake.came, len));
        }
        if intake.extent == Extent::Window {
            return None;
        }
        let flight = lead.go_to_origin()?;
        Self::rest_of(&flight, intake, tag).await
    }

    /// What follows in another flight.
    async fn rest_of(flight: &Arc<Flight>, intake: &Ingest, tag: Option<&HeaderValue>) -> Option<Body> {
        let mut reader = Reader::new(Arc::clone(&flight.body));
        let Outcome::Streaming(Streaming { head, room, .. }) = flight.outcome().await else {
            return None;
        };
        if !is_same(&intake.head, tag, &head.headers, head.length) {
            return None;
        }
        reader.narrow(intake.came, head.length);
        // It has the known length of this one, so no reader can lose its place in it.
        Some(Body::flight(reader, Arc::clone(room), None, None))
    }

    /// Returns true if another source's bytes are sure to be of the same representation: a
    /// strong validator of a 200 tells, or the name proves it, or it is a hashed name of
    /// which no byte has come yet.
    pub(super) fn can_go_on(order: &Order, intake: &Ingest, proof: Verification) -> bool {
        let Head { facts, headers, length, .. } = &*intake.head;
        let is_validated = facts.status == StatusCode::OK && strong_tag(headers).is_some();
        let is_named = order.name == Name::Proven && (proof == Verification::AtEnd || intake.came == 0);
        (is_validated || is_named) && length.is_some()
    }

    async fn ask_for_rest(
        self: &Arc<Self>,
        provider: &Provider,
        key: &AssetKey,
        order: &Order,
        tag: Option<&HeaderValue>,
        at: u64,
    ) -> Option<Reply> {
        let request = for_rest(key, order, tag, at);
        match provider {
            Provider::Origin => self.ask_origin(request.into()).await.ok(),
            Provider::Peer(peer) => Some(self.ask_peer(Arc::clone(peer), request, None).await?.reply),
        }
    }
}

/// Asks for what follows byte `at`, if it is still of the representation with `tag`.
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

/// All of a representation, as far as its body proves to be the same.
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
    HeaderValue::try_from(format!("bytes={at}-")).unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
}

/// The part of `response` that follows byte `at` of the representation with `tag` and
/// `head`: only if it goes to the end of that, and its framing shows where it ends.
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

/// Whether `headers`, of a representation of the length `total`, can be of the one
/// with `tag` and `head`.
fn is_same(head: &Head, tag: Option<&HeaderValue>, headers: &HeaderMap, total: Option<u64>) -> bool {
    (tag.is_none() || headers.get(ETAG) == tag)
        && headers.get(CONTENT_ENCODING) == head.headers.get(CONTENT_ENCODING)
        && head.length.is_none_or(|length| total == Some(length))
}

/// The length of the whole that a 200 or a 206 is, or is a part of.
fn total(response: &Response<Body>) -> Option<u64> {
    if response.status() == StatusCode::OK {
        return http_body::Body::size_hint(response.body()).exact();
    }
    response.headers().get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

/// Whether Content-Range and Content-Length say: from `at` to the last byte.
/// Some servers give less than they were asked for.
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
        let (lifetime, validated) = (Lifetime::UntilEvicted { said: None }, Validated::Never);
        let facts = Metadata { status: StatusCode::OK, born: SystemTime::UNIX_EPOCH, lifetime, validated };
        let head = Head { facts, length, headers: HeaderMap::new(), upstream_status: None };
        let body = continuation(response.into(), tag.as_ref(), 4, &head).ok()?;
        Some(String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn only_the_same_asset_is_gone_on_with_and_only_to_its_end() {
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
        // Of another length, or in a coding, it is another.
        for (length, goes_on) in [(14, true), (15, false), (13, false)] {
            assert_eq!(rest_of(Some(length), 206, &[from_four, tag], Some("\"a\"")).await.is_some(), goes_on);
        }
        for (length, goes_on) in [(10, true), (11, false)] {
            assert_eq!(rest_of(Some(length), 200, &[tag], Some("\"a\"")).await.is_some(), goes_on);
        }
        assert_eq!(rest(206, &[from_four, tag, ("content-encoding", "gzip")], Some("\"a\"")).await, None);
    }
}
