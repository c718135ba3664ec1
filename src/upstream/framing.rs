//! The framing headers of requests and responses, and the lengths of bodies.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::body::{Body, next_data};
use crate::error::Error;
use crate::semantics::content_length;

/// The longest that the head of a response of unknown length is held back until the first chunk
/// arrives.
const FIRST_CHUNK: Duration = Duration::from_millis(20);

/// The length of a response's body by its headers (RFC 9112 §6.3).
pub(super) enum BodyLength {
    /// Known from Content-Length, or no body. A response without a body may state a length, too.
    Known(Option<u64>),
    /// Unknown; its end is marked: by the last chunk, or by `END_STREAM` over HTTP/2.
    Chunked,
    UntilClose,
}

/// Returns the length of a response's body. Errors name the invalid header.
pub(super) fn body_length(response: &Response<Incoming>) -> Result<BodyLength, &'static str> {
    let by_length = || {
        let length = content_length::of_response(response.headers());
        length.map(BodyLength::Known).map_err(|content_length::Invalid| "invalid Content-Length")
    };
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(_), _) if response.version() == Version::HTTP_10 => Err("Transfer-Encoding in an HTTP/1.0 response"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
        (Some(_), _) => Err("unsupported Transfer-Encoding (only chunked is supported)"),
        (None, _) if response.body().is_end_stream() => by_length(),
        (None, _) if response.headers().contains_key(CONTENT_LENGTH) => by_length(),
        (None, _) if response.version() == Version::HTTP_2 => Ok(BodyLength::Chunked),
        (None, _) => Ok(BodyLength::UntilClose),
    }
}

/// Returns true for a 204 that announces content, which a 204 cannot have (RFC 9110 §8.6, RFC
/// 9112 §6.1). Bytes that the sender writes after the head are not the response to a request.
pub(super) fn has_forbidden_length(response: &Response<Incoming>) -> bool {
    let length = || content_length::of_response(response.headers()).ok().flatten();
    response.status() == StatusCode::NO_CONTENT
        && (response.headers().contains_key(TRANSFER_ENCODING) || length().is_some_and(|length| length > 0))
}

/// Writes the framing headers of a request from its body. The client's own framing headers do
/// not reach the next server, which might interpret them differently.
pub(super) fn write_framing(request: &mut Request<Body>) {
    let (is_empty, length) = (request.body().is_end_stream(), request.body().size_hint().exact());
    let headers = request.headers_mut();
    let stated = headers.contains_key(CONTENT_LENGTH);
    // A body made by this program does not know its length: the request states it.
    let stated_length = content_length::of_request(headers).ok().flatten();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    match length.or(stated_length) {
        // Only some methods state a length of zero, such as POST: keep the client's choice.
        _ if is_empty && !stated => {}
        _ if is_empty => drop(headers.insert(CONTENT_LENGTH, 0.into())),
        Some(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        // hyper drops the content of a GET of unknown length without this header.
        None => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
}

/// Writes the Content-Length of a response from the parsed number.
pub(super) fn write_length(response: &mut Response<Body>, length: Option<u64>) {
    match length {
        // A 204 has no Content-Length (RFC 9110 §8.6).
        Some(length) if response.status() != StatusCode::NO_CONTENT => {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        _ => drop(response.headers_mut().remove(CONTENT_LENGTH)),
    }
}

/// Waits for the first chunk of a body, for [`FIRST_CHUNK`] at most. Returns the error of a
/// body that is cut off before the first chunk: the client then gets a 502, not an empty body.
pub(super) async fn await_first_chunk(mut body: Body) -> Result<Body, Error> {
    match tokio::time::timeout(FIRST_CHUNK, next_data(&mut body)).await {
        Ok(None) => Ok(Body::empty()),
        Ok(Some(first)) => Ok(Body::chain([first?.into(), body])),
        // An event stream may have nothing to send yet; the client needs its head now.
        Err(_) => Ok(body),
    }
}
