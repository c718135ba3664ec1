//! The wire format of a peek: a request that a peer answers at once from its memory, or with a
//! miss.
//!
//! A peek is a GET with `Cache-Control: only-if-cached` (RFC 9111 §5.2.1.7) and a header of
//! Peerage's own, which states the largest useful body. So a response waits for nothing and does
//! not delay the responses after it for long. A server that does not know the header follows the
//! directive alone.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::key::{AssetKey, Scope};
use crate::semantics::content_length;
use crate::semantics::forward::{MAX_ADDED_HEADERS, MAX_HEADERS};
use crate::semantics::forwarded::{FORWARDED_HOST, FORWARDED_PROTO};
use crate::semantics::scheme::Scheme;
use crate::semantics::vary::Accepted;

/// The name of the peek header.
pub const FIELD: &str = "peerage-peek";
/// The Cache-Control directive of a peek.
pub const DIRECTIVE: &str = "only-if-cached";
/// The largest body that a peek requests, in bytes.
pub const MAX_BODY: u64 = 64 * 1024;
/// The longest request target of a peek, in bytes, with its host. The head of the peek then fits the receiver's
/// HTTP/1 fast path.
pub const MAX_TARGET: usize = 3 * 1024;
/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The response to a peek for an asset that is not in memory.
pub const MISS: &str = "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n";

/// The name of the header that names a site, unless it is the default site.
pub const SITE: &str = "peerage-site";

/// Appends a peek to `out`: it asks `host` for the asset `key`, in one of the codings in `accepted`.
pub(crate) fn write_request(out: &mut BytesMut, host: &str, key: &AssetKey, accepted: Accepted) {
    let length = itoa::Buffer::new().format(MAX_BODY).to_owned();
    for part in [
        "GET ",
        key.as_str(),
        " HTTP/1.1\r\nhost: ",
        host,
        "\r\ncache-control: ",
        DIRECTIVE,
        "\r\n",
        FIELD,
        ": ",
        &length,
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut add = |name: &str, value: &str| {
        for part in ["\r\n", name, ": ", value] {
            out.extend_from_slice(part.as_bytes());
        }
    };
    if accepted != Accepted::default() {
        add(ACCEPT_ENCODING.as_str(), accepted.text());
    }
    let Scope { site, scheme, host } = key.scope();
    if scheme != Scheme::Http {
        add(FORWARDED_PROTO.as_str(), scheme.name());
    }
    if let Some(host) = host {
        add(FORWARDED_HOST.as_str(), host);
    }
    if site.index != 0 {
        add(SITE, &site.id.to_string());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// The state of the first response in the receive buffer.
#[derive(Debug)]
pub enum Parsed {
    /// A response that is not complete yet.
    Partial {
        /// The least length of the response in bytes; more than the buffer holds.
        needed: usize,
    },
    /// A complete 200.
    Hit(Response<Bytes>),
    /// A complete response with any other status.
    Miss,
}

/// Removes the first response from `received` if it is complete.
///
/// # Errors
/// The bytes are not a valid response to a peek: the body is larger than requested, or its length
/// is missing or ambiguous.
pub fn parse_response(received: &mut BytesMut) -> Result<Parsed, String> {
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS + MAX_ADDED_HEADERS];
    let mut head = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, received, &mut headers);
    let length = match parsed.map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if received.len() < MAX_HEAD => {
            return Ok(Parsed::Partial { needed: received.len() + 1 });
        }
        httparse::Status::Partial => return Err("response head too long".to_owned()),
    };
    let (version, status) = (head.version, head.code.and_then(|code| StatusCode::from_u16(code).ok()));
    let (Some(1), Some(status)) = (version, status.filter(|status| !status.is_informational())) else {
        return Err("response is not final or not HTTP/1.1".to_owned());
    };
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Err("response status does not allow a body".to_owned());
    }
    let body = content_length(head.headers)?;
    let needed = length + body;
    if received.len() < needed {
        return Ok(Parsed::Partial { needed });
    }
    if status != StatusCode::OK {
        let _ = received.split_to(needed);
        return Ok(Parsed::Miss);
    }
    let headers = copy_headers(head.headers, &received[..length])?;
    let whole = received.split_to(needed).freeze();
    let mut response = Response::new(whole.slice(length..));
    *response.headers_mut() = headers;
    Ok(Parsed::Hit(response))
}

/// Returns the length of the body in bytes.
fn content_length(headers: &[httparse::Header<'_>]) -> Result<usize, String> {
    let mut length = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("response has Transfer-Encoding".to_owned());
        }
        if header.name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()) {
            let bytes = content_length::plain(header.value).and_then(|length| usize::try_from(length).ok());
            if length.replace(bytes).is_some() {
                return Err("response has more than one Content-Length".to_owned());
            }
        }
    }
    let length = length.flatten().ok_or("response has no valid Content-Length")?;
    if length as u64 > MAX_BODY { Err("response body too long".to_owned()) } else { Ok(length) }
}

/// Copies the headers of a head; their values share one new allocation.
fn copy_headers(headers: &[httparse::Header<'_>], head: &[u8]) -> Result<HeaderMap, String> {
    let text = Bytes::copy_from_slice(head);
    let mut map = HeaderMap::with_capacity(headers.len() + 4);
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = if header.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let at = header.value.as_ptr().addr() - head.as_ptr().addr();
            let value = text.slice(at..at + header.value.len());
            HeaderValue::from_maybe_shared(value).map_err(|error| error.to_string())?
        };
        map.append(name, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(bytes: &[u8]) -> Vec<Result<Parsed, String>> {
        let mut received = BytesMut::from(bytes);
        let mut responses = Vec::new();
        while !received.is_empty() {
            responses.push(parse_response(&mut received));
            if !matches!(responses.last(), Some(Ok(Parsed::Hit(_) | Parsed::Miss))) {
                break;
            }
        }
        responses
    }

    #[test]
    fn pipelined_responses_are_parsed_however_they_are_split() {
        let hit =
            "HTTP/1.1 200 OK\r\nEtag: \"a\"\r\nX-Empty:\r\ncontent-length: 4\r\nvia: 1.1 x\r\nVia: 1.1 y\r\n\r\nbody";
        let text = format!("{MISS}{hit}HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n{MISS}{hit}");
        let mut received = BytesMut::new();
        let mut seen = Vec::new();
        for byte in text.bytes() {
            received.extend_from_slice(&[byte]);
            match parse_response(&mut received).unwrap() {
                Parsed::Partial { needed } => assert!(needed > received.len(), "{needed}"),
                Parsed::Miss => seen.push("miss".to_owned()),
                Parsed::Hit(response) => {
                    let headers = response.headers().iter();
                    let headers: Vec<_> =
                        headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
                    seen.push(format!("{headers:?} {}", String::from_utf8_lossy(response.body())));
                }
            }
        }
        let headers =
            r#"[("etag", "\"a\""), ("x-empty", ""), ("content-length", "4"), ("via", "1.1 x"), ("via", "1.1 y")]"#;
        let hit = format!("{headers} body");
        assert_eq!(seen, ["miss", &hit, "miss", "miss", &hit]);
        assert!(received.is_empty());
    }

    #[test]
    fn a_response_of_ambiguous_length_or_format_is_rejected() {
        for (head, body) in [
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", "1\r\na\r\n0\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: gzip", "body"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nContent-Length: 4", "body"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4, 4", "body"),
            ("HTTP/1.1 200 OK\r\ncontent-length: +4", "body"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 04", "body"),
            ("HTTP/1.1 200 OK\r\ncontent-length:", ""),
            ("HTTP/1.1 200 OK\r\ncontent-length: 65537", ""),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999", ""),
            ("HTTP/1.1 200 OK\r\netag: a", "body"),
            ("HTTP/1.0 200 OK\r\ncontent-length: 4", "body"),
            ("HTTP/1.1 103 Early Hints\r\ncontent-length: 0", ""),
            ("HTTP/2 200\r\ncontent-length: 0", ""),
            ("HTTP/1.1 200 OK\r\ncontent-length : 4", "body"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n folded", "body"),
            ("not HTTP at all", ""),
        ] {
            let responses = parse_all(format!("{head}\r\n\r\n{body}").as_bytes());
            assert!(matches!(&responses[..], [Err(_)]), "{head}: {responses:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\na: {}", "a".repeat(MAX_HEAD));
        assert!(parse_response(&mut BytesMut::from(endless.as_bytes())).is_err());
    }

    #[test]
    fn a_peek_is_a_get_with_the_directive_and_the_header() {
        let mut out = BytesMut::new();
        write_request(&mut out, "10.0.0.5:7001", &AssetKey::parse("/a?b", 100).unwrap(), Accepted::default());
        let mut headers = [httparse::EMPTY_HEADER; 4];
        let mut request = httparse::Request::new(&mut headers);
        assert_eq!(request.parse(&out).unwrap(), httparse::Status::Complete(out.len()));
        assert_eq!((request.method, request.path), (Some("GET"), Some("/a?b")));
        let headers: Vec<_> = request.headers.iter().map(|header| (header.name, header.value)).collect();
        let max_body = MAX_BODY.to_string();
        assert_eq!(
            headers,
            [("host", &b"10.0.0.5:7001"[..]), ("cache-control", b"only-if-cached"), (FIELD, max_body.as_bytes())]
        );
    }
}
