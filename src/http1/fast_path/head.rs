//! [`NextRequest`]: the class of the next request head in the received bytes.

use std::mem::MaybeUninit;

use crate::edge::FastRequest;
use crate::edge::request_class::{LONGEST, RequestClass, in_lower_case};
use crate::peer::peek_codec;
use crate::semantics::forwarded::ForwardedHeaders;
use crate::semantics::vary::NamedCodings;

/// The maximum length of a head on the fast path, in bytes.
pub(super) const MAX_HEAD: usize = 4096;

/// The maximum number of headers on the fast path. Browsers send a dozen.
const MAX_HEADERS: usize = 32;

/// The name of the header that marks a peek.
const PEEK: &[u8] = peek_codec::FIELD.as_bytes();

/// The name of the header in which a peer names a site.
const SITE: &[u8] = peek_codec::SITE.as_bytes();

/// The next request of a connection. The numbers are lengths in bytes.
pub(crate) enum NextRequest<'a> {
    /// A plain request.
    Plain(FastRequest<'a>, usize),
    /// A peek: a plain request that is answered from memory only.
    Peek(FastRequest<'a>, usize),
    /// The head of another request without content.
    Head(usize),
    /// A head that is not complete.
    Partial,
    /// Anything else; hyper must read all of it.
    Other,
}

/// The headers of a request that matter to the fast path.
struct Headers<'a> {
    hosts: usize,
    host: &'a [u8],
    user_agent: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
    /// The size of all headers, in bytes.
    size: usize,
    class: RequestClass,
    only_if_cached: bool,
    /// The maximum length of a body that the sender of a peek accepts, in bytes.
    max_body: Option<u64>,
    codings: NamedCodings,
    told: ForwardedHeaders<'a>,
    /// The site that a peer names.
    site: Option<&'a [u8]>,
}

impl<'a> Headers<'a> {
    /// Returns `None` if hyper must read the request.
    fn parse(lines: &[httparse::Header<'a>]) -> Option<Self> {
        let mut headers = Self {
            hosts: 0,
            host: &[],
            user_agent: None,
            request_id: None,
            size: 0,
            class: RequestClass::Plain,
            only_if_cached: false,
            max_body: None,
            codings: NamedCodings::default(),
            told: ForwardedHeaders::default(),
            site: None,
        };
        for line in lines {
            headers.size += line.name.len() + line.value.len() + 4;
            let mut space = [0; LONGEST];
            match in_lower_case(line.name, &mut space) {
                b"host" => {
                    headers.hosts += 1;
                    headers.host = line.value;
                }
                b"accept-encoding" => headers.codings = headers.codings.and(line.value),
                b"user-agent" => headers.user_agent = Some(line.value),
                b"x-request-id" => headers.request_id = Some(line.value),
                b"connection" if line.value.eq_ignore_ascii_case(b"keep-alive") => {}
                b"connection" | b"upgrade" | b"expect" | b"content-length" | b"transfer-encoding" => return None,
                b"cache-control" if line.value == peek_codec::DIRECTIVE.as_bytes() => headers.only_if_cached = true,
                SITE => headers.site = Some(line.value),
                PEEK => headers.max_body = str::from_utf8(line.value).ok().and_then(|length| length.parse().ok()),
                b"x-forwarded-for" => tell(&mut headers.told.chain, line.value, &mut headers.class),
                b"x-forwarded-proto" => tell(&mut headers.told.scheme, line.value, &mut headers.class),
                b"x-forwarded-host" => tell(&mut headers.told.host, line.value, &mut headers.class),
                // The path through hyper parses it.
                b"forwarded" => headers.class = RequestClass::Particular,
                name if RequestClass::of_name(name) == RequestClass::Particular => {
                    headers.class = RequestClass::Particular;
                }
                _ => {}
            }
        }
        Some(headers)
    }
}

/// Notes the value of a forwarding header. Several lines of one name are left to the path
/// through hyper.
fn tell<'a>(known: &mut &'a [u8], value: &'a [u8], class: &mut RequestClass) {
    if !known.is_empty() {
        *class = RequestClass::Particular;
    }
    *known = value;
}

impl NextRequest<'_> {
    /// Parses the head at the start of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> NextRequest<'_> {
        let mut lines = [MaybeUninit::uninit(); MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut lines) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return NextRequest::Partial,
            _ => return NextRequest::Other,
        };
        let (Some(method @ ("GET" | "HEAD")), Some(1)) = (request.method, request.version) else {
            return NextRequest::Other;
        };
        let Some(headers) = Headers::parse(request.headers) else {
            return NextRequest::Other;
        };
        let Headers { host, told, site, user_agent, request_id, size, codings, .. } = headers;
        let accepted = codings.accepted();
        let fast =
            |target, most| FastRequest { target, host, told, site, user_agent, request_id, size, most, accepted };
        let is_plain = method == "GET" && headers.class == RequestClass::Plain && headers.hosts == 1;
        let target = request.path.filter(|target| is_plain && target.starts_with('/'));
        match (target, headers.only_if_cached, headers.max_body) {
            (Some(target), false, _) => NextRequest::Plain(fast(target, u64::MAX), length),
            (Some(target), true, Some(most)) => NextRequest::Peek(fast(target, most), length),
            _ => NextRequest::Head(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{AssetKey, Scope, SiteId, SiteRef};
    use crate::semantics::scheme::Scheme;

    fn kind(request: &str) -> &'static str {
        match NextRequest::parse(request.as_bytes()) {
            NextRequest::Plain(..) => "plain",
            NextRequest::Peek(..) => "peek",
            NextRequest::Head(_) => "head",
            NextRequest::Partial => "partial",
            NextRequest::Other => "other",
        }
    }

    #[test]
    fn only_requests_without_special_headers_are_plain() {
        for (expected, line, headers) in [
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
            assert_eq!(kind(&format!("{line}\r\n{headers}\r\n\r\n")), expected, "{line} {headers}");
        }
        assert_eq!(kind(""), "partial");
        assert_eq!(kind("GET /a HTTP/1.1\r\nHost: h\r\n"), "partial");
        assert_eq!(kind(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD))), "other");
        assert_eq!(kind(&format!("GET /a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1))), "other");
    }

    #[test]
    fn the_longest_peek_fits_the_fast_path() {
        let mut peek = bytes::BytesMut::new();
        let (host, site) = ("h".repeat(255), SiteRef { id: SiteId::of_name("shop"), index: 1 });
        let scope = Scope { site, scheme: Scheme::Https, host: Some(&host) };
        let target = format!("/{}", "a".repeat(peek_codec::MAX_TARGET - 1 - host.len()));
        let key = AssetKey::of_target(&scope, &target, usize::MAX).unwrap();
        let all = NamedCodings::default().and(b"gzip, br, zstd").accepted();
        peek_codec::write_request(&mut peek, &host, &key, all);
        assert!(
            peek.len() < MAX_HEAD
                && matches!(NextRequest::parse(&peek), NextRequest::Peek(_, length) if length == peek.len())
        );
    }

    #[test]
    fn a_request_ends_before_the_next_one() {
        let one = "GET /a HTTP/1.1\r\nHost: host\r\nAccept: */*\r\n\r\n";
        let two = format!("{one}GET /b HTTP/1.1\r\n");
        let NextRequest::Plain(request, length) = NextRequest::parse(two.as_bytes()) else {
            panic!("the request is plain")
        };
        assert_eq!(
            (request.target, request.host, request.size, length),
            ("/a", &b"host"[..], 4 + 4 + 4 + 6 + 3 + 4, one.len())
        );
    }
}
