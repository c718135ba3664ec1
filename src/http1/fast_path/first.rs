//! [`First`]: what is at the beginning of what has come by a connection.

use std::mem::MaybeUninit;

use super::MOST;
use crate::edge::FastRequest;
use crate::edge::request_class::{LONGEST, RequestClass, in_lower_case};
use crate::peer::peek_codec;
use crate::semantics::forwarded::Told;
use crate::semantics::vary::NamedCodings;

/// How many fields a request may have here. Browsers send a dozen.
const FIELDS: usize = 32;

/// The name of the header of a peek.
const PEEK: &[u8] = peek_codec::FIELD.as_bytes();

pub(super) enum First<'a> {
    /// A plain request, of so many bytes.
    Plain(FastRequest<'a>, usize),
    /// One for what is at hand, or nothing.
    Peek(FastRequest<'a>, usize),
    /// Another head of a request without content, of so many bytes.
    Head(usize),
    /// A part of a head.
    Part,
    /// What hyper should see to.
    Other,
}

/// What the fields of a request say.
struct Said<'a> {
    hosts: usize,
    host: &'a [u8],
    user_agent: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
    /// What they take, in bytes.
    size: usize,
    class: RequestClass,
    only_if_cached: bool,
    /// The longest body that is of use to who peeks, in bytes.
    most: Option<u64>,
    codings: NamedCodings,
    told: Told<'a>,
}

impl<'a> Said<'a> {
    /// `None` if hyper should see to them.
    fn by(fields: &[httparse::Header<'a>]) -> Option<Self> {
        let mut said = Self {
            hosts: 0,
            host: &[],
            user_agent: None,
            request_id: None,
            size: 0,
            class: RequestClass::Plain,
            only_if_cached: false,
            most: None,
            codings: NamedCodings::default(),
            told: Told::default(),
        };
        for field in fields {
            said.size += field.name.len() + field.value.len() + 4;
            let mut space = [0; LONGEST];
            match in_lower_case(field.name, &mut space) {
                b"host" => {
                    said.hosts += 1;
                    said.host = field.value;
                }
                b"accept-encoding" => said.codings = said.codings.and(field.value),
                b"user-agent" => said.user_agent = Some(field.value),
                b"x-request-id" => said.request_id = Some(field.value),
                b"connection" if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
                b"connection" | b"upgrade" | b"expect" | b"content-length" | b"transfer-encoding" => return None,
                b"cache-control" if field.value == peek_codec::DIRECTIVE.as_bytes() => said.only_if_cached = true,
                PEEK => said.most = str::from_utf8(field.value).ok().and_then(|most| most.parse().ok()),
                b"x-forwarded-for" => tell(&mut said.told.chain, field.value, &mut said.class),
                b"x-forwarded-proto" => tell(&mut said.told.scheme, field.value, &mut said.class),
                b"x-forwarded-host" => tell(&mut said.told.host, field.value, &mut said.class),
                // The long way reads it.
                b"forwarded" => said.class = RequestClass::Particular,
                name if RequestClass::of_name(name) == RequestClass::Particular => {
                    said.class = RequestClass::Particular;
                }
                _ => {}
            }
        }
        Some(said)
    }
}

/// Notes what a proxy tells; what it tells on several lines, the long way reads.
fn tell<'a>(known: &mut &'a [u8], value: &'a [u8], class: &mut RequestClass) {
    if !known.is_empty() {
        *class = RequestClass::Particular;
    }
    *known = value;
}

impl First<'_> {
    pub(super) fn of(bytes: &[u8]) -> First<'_> {
        let mut fields = [MaybeUninit::uninit(); FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MOST => return First::Part,
            _ => return First::Other,
        };
        let (Some(method @ ("GET" | "HEAD")), Some(1)) = (request.method, request.version) else {
            return First::Other;
        };
        let Some(said) = Said::by(request.headers) else {
            return First::Other;
        };
        let Said { host, told, user_agent, request_id, size, codings, .. } = said;
        let accepted = codings.accepted();
        let plainly = |target, most| FastRequest { target, host, told, user_agent, request_id, size, most, accepted };
        let plain = method == "GET" && said.class == RequestClass::Plain && said.hosts == 1;
        match (request.path.filter(|target| plain && target.starts_with('/')), said.only_if_cached, said.most) {
            (Some(target), false, _) => First::Plain(plainly(target, u64::MAX), length),
            (Some(target), true, Some(most)) => First::Peek(plainly(target, most), length),
            _ => First::Head(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(request: &str) -> &'static str {
        match First::of(request.as_bytes()) {
            First::Plain(..) => "plain",
            First::Peek(..) => "peek",
            First::Head(_) => "head",
            First::Part => "part",
            First::Other => "other",
        }
    }

    #[test]
    fn only_what_asks_for_nothing_but_a_name_is_plain() {
        for (expected, line, fields) in [
            ("plain", "GET /a?b HTTP/1.1", "Host: h"),
            ("plain", "GET /a HTTP/1.1", "hOsT: h\r\nAccept: */*\r\nCookie: a=b\r\nConnection: Keep-Alive"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nHost: h"),
            ("head", "GET /a HTTP/1.1", "Accept: */*"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nRANGE: bytes=0-1"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nCache-control: no-cache"),
            ("head", "GET http://h/a HTTP/1.1", "Host: h"),
            ("head", "HEAD /a HTTP/1.1", "Host: h"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nCache-Control: only-if-cached"),
            ("peek", "GET /a HTTP/1.1", "Host: h\r\nCache-Control: only-if-cached\r\nPeerage-Peek: 9"),
            ("head", "GET /a HTTP/1.1", "Host: h\r\nCache-Control: only-if-cached\r\nPeerage-Peek: x"),
            (
                "head",
                "GET /a HTTP/1.1",
                "Host: h\r\nCache-Control: only-if-cached\r\nPeerage-Peek: 9\r\nRange: bytes=0-",
            ),
            ("plain", "GET /a HTTP/1.1", "Host: h\r\nPeerage-Peek: 9"),
            ("other", "GET /a HTTP/1.0", "Host: h"),
            ("other", "POST /a HTTP/1.1", "Host: h"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nConnection: close"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nConnection: keep-alive\r\nconnection: upgrade"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nUpgrade: websocket"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nContent-Length: 0"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\nTransfer-Encoding: chunked"),
            ("other", "GET /a HTTP/1.1", "Host : h"),
            ("other", "GET /a HTTP/1.1", "Host: h\r\n folded: x"),
            ("other", "PRI * HTTP/2.0", ""),
        ] {
            assert_eq!(kind(&format!("{line}\r\n{fields}\r\n\r\n")), expected, "{line} {fields}");
        }
        assert_eq!(kind(""), "part");
        assert_eq!(kind("GET /a HTTP/1.1\r\nHost: h\r\n"), "part");
        assert_eq!(kind(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MOST))), "other");
        assert_eq!(kind(&format!("GET /a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1))), "other");
    }

    #[test]
    fn the_longest_question_is_read_here() {
        let mut question = bytes::BytesMut::new();
        let target = format!("/{}", "a".repeat(peek_codec::MAX_TARGET - 1));
        let all = NamedCodings::default().and(b"gzip, br, zstd").accepted();
        peek_codec::write_request(&mut question, &"h".repeat(255), &target, all);
        assert!(
            question.len() < MOST && matches!(First::of(&question), First::Peek(_, length) if length == question.len())
        );
    }

    #[test]
    fn what_follows_a_request_is_not_part_of_it() {
        let one = "GET /a HTTP/1.1\r\nHost: host\r\nAccept: */*\r\n\r\n";
        let two = format!("{one}GET /b HTTP/1.1\r\n");
        let First::Plain(ask, length) = First::of(two.as_bytes()) else { panic!("it is plain") };
        assert_eq!((ask.target, ask.host, ask.size, length), ("/a", &b"host"[..], 4 + 4 + 4 + 6 + 3 + 4, one.len()));
    }
}
