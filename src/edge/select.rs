//! The part of a response that a request gets: its conditions, then its range.

use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::multipart::{Multipart, content_range, text};
use super::request::Inbound;
use super::request_class::RequestClass;
use crate::body::Body;
use crate::semantics::conditional::{self, Precondition};
use crate::semantics::digest_fields::{self, CONTENT_DIGEST, REPR_DIGEST, WANT_REPR_DIGEST};
use crate::semantics::range::{self, ByteRange, Ranged};

/// The part of a response that a request gets.
pub(super) enum Selection {
    Whole,
    Part(ByteRange),
    /// Several spans, as multipart/byteranges.
    Parts(Multipart),
    Nothing,
}

/// Applies the request's conditions and range to a response.
pub(super) fn select(
    inbound: &Inbound,
    status: StatusCode,
    length: Option<u64>,
    headers: HeaderMap,
) -> (Response<Body>, Selection) {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if inbound.class == RequestClass::Plain {
        let selection = if inbound.method == Method::HEAD { Selection::Nothing } else { Selection::Whole };
        return (response, selection);
    }
    if inbound.headers.contains_key(WANT_REPR_DIGEST)
        && response.headers().get(REPR_DIGEST).is_some_and(|digest| !digest_fields::wants(&inbound.headers, digest))
    {
        response.headers_mut().remove(REPR_DIGEST);
    }
    let selection = if status == StatusCode::OK { condition(inbound, length, &mut response) } else { Selection::Whole };
    if !matches!(selection, Selection::Whole) {
        // The digest is of the whole content (RFC 9530 §2).
        response.headers_mut().remove(CONTENT_DIGEST);
    }
    match selection {
        _ if inbound.method == Method::HEAD => (response, Selection::Nothing),
        selection => (response, selection),
    }
}

pub(super) fn condition(inbound: &Inbound, length: Option<u64>, response: &mut Response<Body>) -> Selection {
    match conditional::evaluate(&inbound.headers, response.headers()) {
        Precondition::Proceed => {}
        Precondition::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            // RFC 9110 §15.4.5: a 304 has no headers that describe content.
            for field in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, TRANSFER_ENCODING] {
                response.headers_mut().remove(field);
            }
            return Selection::Nothing;
        }
        Precondition::Failed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            empty(response.headers_mut());
            return Selection::Nothing;
        }
    }
    let Some(length) = length.filter(|_| inbound.method == Method::GET) else {
        return Selection::Whole;
    };
    match range::evaluate(&inbound.headers, response.headers(), length) {
        Ranged::Whole => Selection::Whole,
        Ranged::Part(span) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let headers = response.headers_mut();
            headers.insert(CONTENT_LENGTH, (span.end - span.first).into());
            headers.insert(CONTENT_RANGE, text(content_range(span, length)));
            Selection::Part(span)
        }
        Ranged::Parts(spans) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let multipart = Multipart::new(spans, length, response.headers().get(CONTENT_TYPE));
            response.headers_mut().insert(CONTENT_LENGTH, multipart.len().into());
            response.headers_mut().insert(CONTENT_TYPE, multipart.media_type());
            Selection::Parts(multipart)
        }
        Ranged::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            empty(response.headers_mut());
            response.headers_mut().insert(CONTENT_RANGE, text(format!("bytes */{length}")));
            Selection::Nothing
        }
    }
}

/// Removes the headers of the asset from an error response; above all, its lifetime.
fn empty(headers: &mut HeaderMap) {
    for field in [CONTENT_TYPE, CONTENT_ENCODING, EXPIRES, ETAG, LAST_MODIFIED, REPR_DIGEST] {
        headers.remove(field);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, 0.into());
}
