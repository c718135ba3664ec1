//! A peek: a question that an edge answers from its memory and at once, or not at all.
//!
//! It is a GET with `Cache-Control: only-if-cached` (RFC 9111 §5.2.1.7) and a field of
//! our own, which says how long a body may be that is of use. So the answer waits for
//! nobody, and does not hold up those behind it for long. Who does not know the field
//! answers by the directive alone.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::semantics::content_length;
use crate::semantics::forward::{MAX_ADDED_HEADERS, MAX_HEADERS};
use crate::semantics::vary::Accepted;

/// The field.
pub const FIELD: &str = "peerage-peek";
/// The directive that goes with it.
pub const DIRECTIVE: &str = "only-if-cached";
/// The longest body that is asked for in this way, in bytes.
pub const MOST: u64 = 64 * 1024;
/// The longest target that is asked for, in bytes: the head of the question is one that
/// its receiver reads without hyper.
pub const LONGEST: usize = 3 * 1024;
/// The longest head of an answer, in bytes.
const HEAD: usize = 64 * 1024;

/// The answer of who does not have it.
pub const NOTHING: &str = "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n";

/// Appends the question whether `host` has `target` at hand, for a request that accepts
/// these codings.
pub fn ask(out: &mut BytesMut, host: &str, target: &str, accepted: Accepted) {
    let length = itoa::Buffer::new().format(MOST).to_owned();
    for part in
        ["GET ", target, " HTTP/1.1\r\nhost: ", host, "\r\ncache-control: ", DIRECTIVE, "\r\n", FIELD, ": ", &length]
    {
        out.extend_from_slice(part.as_bytes());
    }
    if accepted != Accepted::default() {
        out.extend_from_slice(b"\r\naccept-encoding: ");
        out.extend_from_slice(accepted.text().as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// What is at the beginning of what has come.
#[derive(Debug)]
pub enum Came {
    /// A part of an answer, which has so many bytes at the least.
    Part {
        /// More than have come.
        wanted: usize,
    },
    /// A 200, whole.
    Chunks(Response<Bytes>),
    /// Any other answer.
    Nothing,
}

/// Takes the first answer from what has come, when it is whole. An error says why what has
/// come is no answer to a peek: it is longer than what was asked for, or there are two ways
/// to see how long it is.
pub fn answer(came: &mut BytesMut) -> Result<Came, String> {
    let mut fields = [MaybeUninit::uninit(); MAX_HEADERS + MAX_ADDED_HEADERS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, came, &mut fields);
    let length = match parsed.map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if came.len() < HEAD => return Ok(Came::Part { wanted: came.len() + 1 }),
        httparse::Status::Partial => return Err("the head of an answer is too long".to_owned()),
    };
    let (version, status) = (head.version, head.code.and_then(|code| StatusCode::from_u16(code).ok()));
    let (Some(1), Some(status)) = (version, status.filter(|status| !status.is_informational())) else {
        return Err("an answer that is not final, or not of HTTP/1.1".to_owned());
    };
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Err("an answer that has no body, whatever it says".to_owned());
    }
    let body = content_length(head.headers)?;
    let wanted = length + body;
    if came.len() < wanted {
        return Ok(Came::Part { wanted });
    }
    if status != StatusCode::OK {
        let _ = came.split_to(wanted);
        return Ok(Came::Nothing);
    }
    let headers = detached(head.headers, &came[..length])?;
    let whole = came.split_to(wanted).freeze();
    let mut response = Response::new(whole.slice(length..));
    *response.headers_mut() = headers;
    Ok(Came::Chunks(response))
}

/// How long the body is.
fn content_length(fields: &[httparse::Header<'_>]) -> Result<usize, String> {
    let mut length = None;
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("an answer in a transfer coding".to_owned());
        }
        if field.name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()) {
            let bytes = content_length::plain(field.value).and_then(|length| usize::try_from(length).ok());
            if length.replace(bytes).is_some() {
                return Err("an answer that says its length twice".to_owned());
            }
        }
    }
    let length = length.flatten().ok_or("an answer without a length")?;
    if length as u64 > MOST { Err("an answer that is too long".to_owned()) } else { Ok(length) }
}

/// The fields of a head, in one allocation of their own.
fn detached(fields: &[httparse::Header<'_>], head: &[u8]) -> Result<HeaderMap, String> {
    let text = Bytes::copy_from_slice(head);
    let mut headers = HeaderMap::with_capacity(fields.len() + 4);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let at = field.value.as_ptr().addr() - head.as_ptr().addr();
            let value = text.slice(at..at + field.value.len());
            HeaderValue::from_maybe_shared(value).map_err(|error| error.to_string())?
        };
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(came: &[u8]) -> Vec<Result<Came, String>> {
        let mut came = BytesMut::from(came);
        let mut answers = Vec::new();
        while !came.is_empty() {
            answers.push(answer(&mut came));
            if !matches!(answers.last(), Some(Ok(Came::Chunks(_) | Came::Nothing))) {
                break;
            }
        }
        answers
    }

    #[test]
    fn answers_come_one_after_another_in_whatever_pieces() {
        let held =
            "HTTP/1.1 200 OK\r\nEtag: \"a\"\r\nX-Empty:\r\ncontent-length: 4\r\nvia: 1.1 x\r\nVia: 1.1 y\r\n\r\nbody";
        let text = format!("{NOTHING}{held}HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n{NOTHING}{held}");
        let mut came = BytesMut::new();
        let mut seen = Vec::new();
        for byte in text.bytes() {
            came.extend_from_slice(&[byte]);
            match answer(&mut came).unwrap() {
                Came::Part { wanted } => assert!(wanted > came.len(), "{wanted}"),
                Came::Nothing => seen.push("nothing".to_owned()),
                Came::Chunks(response) => {
                    let fields = response.headers().iter();
                    let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
                    seen.push(format!("{fields:?} {}", String::from_utf8_lossy(response.body())));
                }
            }
        }
        let fields =
            r#"[("etag", "\"a\""), ("x-empty", ""), ("content-length", "4"), ("via", "1.1 x"), ("via", "1.1 y")]"#;
        let held = format!("{fields} body");
        assert_eq!(seen, ["nothing", &held, "nothing", "nothing", &held]);
        assert!(came.is_empty());
    }

    #[test]
    fn what_is_not_plain_is_no_answer() {
        for (fields, body) in [
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
            let answers = all(format!("{fields}\r\n\r\n{body}").as_bytes());
            assert!(matches!(&answers[..], [Err(_)]), "{fields}: {answers:?}");
        }
        assert!(answer(&mut BytesMut::from(format!("HTTP/1.1 200 OK\r\na: {}", "a".repeat(HEAD)).as_bytes())).is_err());
    }

    #[test]
    fn what_is_asked_is_a_request_with_both_fields() {
        let mut out = BytesMut::new();
        ask(&mut out, "10.0.0.5:7001", "/a?b", Accepted::default());
        let mut fields = [httparse::EMPTY_HEADER; 4];
        let mut request = httparse::Request::new(&mut fields);
        assert_eq!(request.parse(&out).unwrap(), httparse::Status::Complete(out.len()));
        assert_eq!((request.method, request.path), (Some("GET"), Some("/a?b")));
        let fields: Vec<_> = request.headers.iter().map(|field| (field.name, field.value)).collect();
        let most = MOST.to_string();
        assert_eq!(
            fields,
            [("host", &b"10.0.0.5:7001"[..]), ("cache-control", b"only-if-cached"), (FIELD, most.as_bytes())]
        );
    }
}
