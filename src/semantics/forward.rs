//! Headers that the edge forwards, adds and removes (RFC 9110 §7.6), and checks of requests.

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, COOKIE, EXPECT, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, MAX_FORWARDS, RANGE, TRANSFER_ENCODING, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::members;
use super::request_headers::{self, Coding, ExtraHeaders, HeaderClass, PersonalHeaders, Underscores};

/// Maximum number of header lines in a message from a client or the origin.
pub const MAX_HEADERS: usize = 100;
/// Maximum number of header lines that an edge adds to a forwarded message. A peer accepts that
/// many more.
pub const MAX_ADDED_HEADERS: usize = 16;

/// The headers that make a request conditional or partial. A fill has none of them: it requests
/// the whole asset.
static SELECTIVE: [HeaderName; 6] = [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

/// Returns true if an origin can select a response by this header of a client's request, when
/// its Vary names the header (RFC 9110 §12.5.5). The edge itself writes or evaluates the others.
pub fn may_select(name: &HeaderName) -> bool {
    *name == ACCEPT_ENCODING || HeaderClass::of(name) != HeaderClass::Edge
}

/// Returns true if a header stays in the message even if Connection lists it.
fn is_essential(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "age"
            | "authorization"
            | "cache-control"
            | "cache-status"
            | "cdn-loop"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "date"
            | "etag"
            | "expires"
            | "host"
            | "set-cookie"
            | "vary"
            | "via"
    )
}

/// Returns true if Connection lists anything but `keep-alive` and `close`: names of headers that
/// belong to the connection (RFC 9110 §7.6.1).
pub fn connection_lists_headers(headers: &HeaderMap) -> bool {
    let is_persistence =
        |member: &[u8]| [&b"keep-alive"[..], b"close"].iter().any(|word| member.eq_ignore_ascii_case(word));
    headers.contains_key(CONNECTION) && !members(headers, &CONNECTION).all(is_persistence)
}

/// Joins several lines of Cookie, which HTTP/2 allows, into one (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

/// Removes the headers that belong to the connection of the message, including those that
/// Connection lists (RFC 9110 §7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut stripped: Vec<_> = headers.keys().filter(|name| request_headers::is_hop_by_hop(name)).cloned().collect();
    if stripped.contains(&CONNECTION) {
        let listed = members(headers, &CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok());
        stripped.extend(listed.filter(|name| !is_essential(name)));
    }
    for name in stripped {
        headers.remove(name);
    }
}

/// Removes the request headers that a server behind the edge could mistake for others: names
/// with `_`, and `Proxy`.
pub fn drop_ambiguous(headers: &mut HeaderMap, underscores: Underscores) {
    let dropped = |name: &&HeaderName| request_headers::is_dropped(name, underscores);
    if headers.keys().any(|name| dropped(&name)) {
        let names: Vec<_> = headers.keys().filter(dropped).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Returns the headers of a request that is passed to the origin: those of `request`, without
/// Host and Expect, with the edge's Via added.
///
/// `request` has no headers of its connection (see [`strip_hop_by_hop`]).
pub fn verbatim(request: &HeaderMap, via: &HeaderValue) -> HeaderMap {
    add_via(request.clone(), via)
}

/// Returns the headers of a fill: those of `request` that a fill sends (see
/// [`request_headers::of_fill`]), with the edge's Via added. For If-Match and
/// If-Unmodified-Since, which are omitted, `Cache-Control: no-cache` is added.
pub fn of_fill(
    request: &HeaderMap,
    extra: &ExtraHeaders<'_>,
    personal: PersonalHeaders,
    coding: Coding,
    via: &HeaderValue,
) -> HeaderMap {
    let mut headers = request_headers::of_fill(request, extra, personal, coding);
    if request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE) {
        // The fill omits the precondition, but no cache on the way may answer instead of the
        // origin.
        headers.append(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    add_via(headers, via)
}

/// Removes Host and Expect, and adds a line of Via.
fn add_via(mut headers: HeaderMap, via: &HeaderValue) -> HeaderMap {
    headers.remove(HOST);
    // The edge itself fulfills the expectation when it reads the content (RFC 9110 §10.1.1).
    headers.remove(EXPECT);
    headers.append(VIA, via.clone());
    headers
}

/// Returns true if a request is conditional or has a Range, so that the response to a fill is not
/// the response to the request (RFC 9110 §13.1, §14.2).
pub fn is_selective(request: &HeaderMap) -> bool {
    SELECTIVE.iter().any(|name| request.contains_key(name))
}

/// Returns true if a request has a Range or a precondition other than If-None-Match and
/// If-Modified-Since (RFC 9110 §13.1, §14.2): it needs more than the whole asset or a 304.
pub fn is_partial(request: &HeaderMap) -> bool {
    [IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE].iter().any(|name| request.contains_key(name))
}

/// Parses Max-Forwards: the number of further hops of a request (RFC 9110 §7.6.2). `None` if it
/// is absent or malformed, so that the number is not limited.
pub fn max_forwards(request: &HeaderMap) -> Option<u64> {
    let hops = request.get(MAX_FORWARDS)?.to_str().ok()?.trim();
    let is_number = !hops.is_empty() && hops.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| hops.parse().unwrap_or(u64::MAX))
}

/// Returns true if Expect contains anything but `100-continue` (RFC 9110 §10.1.1).
pub fn has_unknown_expectation(request: &HeaderMap) -> bool {
    members(request, &EXPECT).any(|member| !member.eq_ignore_ascii_case(b"100-continue"))
}

/// Returns true if the content of a request has no transfer coding, or `chunked` alone (RFC 9112
/// §6.1). The edge does not decode others, and Transfer-Encoding is not forwarded.
pub fn has_supported_transfer_coding(request: &HeaderMap) -> bool {
    let mut codings = request.get_all(TRANSFER_ENCODING).iter();
    let (coding, more) = (codings.next(), codings.next());
    more.is_none() && coding.is_none_or(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Returns the value that the edge `name` adds to Via for a message received over `version` (RFC
/// 9110 §7.6.3); `None` if `name` contains characters that are invalid in a header.
pub fn via(version: Version, name: &str) -> Option<HeaderValue> {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    HeaderValue::try_from(format!("{protocol} {name}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn headers_of_the_connection_are_removed() {
        let mut fields = headers(&[
            ("connection", "close, x-private, Via, cookie"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "1"),
            ("http2-settings", "AAMAAABk"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("via", "1.1 before"),
            ("cookie", "a=b"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut fields);
        assert_eq!(fields, headers(&[("via", "1.1 before"), ("cookie", "a=b"), ("x-kept", "1")]));
    }

    #[test]
    fn a_pass_forwards_all_headers_but_host() {
        let request = headers(&[("host", "h"), ("cookie", "a=b"), ("range", "bytes=0-1"), ("via", "1.1 x")]);
        let via = HeaderValue::from_static("1.1 edge-1");
        let expected = [("cookie", "a=b"), ("range", "bytes=0-1"), ("via", "1.1 x"), ("via", "1.1 edge-1")];
        assert_eq!(verbatim(&request, &via), headers(&expected));
        let filled = of_fill(&request, &ExtraHeaders::default(), PersonalHeaders::None, Coding::Identity, &via);
        assert!(is_selective(&request) && !is_selective(&filled));
    }

    #[test]
    fn max_forwards_and_expectations_are_parsed() {
        for (value, hops) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("-1", None),
            ("x", None),
            ("", None),
            ("99999999999999999999", Some(u64::MAX)),
        ] {
            assert_eq!(max_forwards(&headers(&[("max-forwards", value)])), hops, "{value}");
        }
        for (value, unknown) in [("100-Continue", false), ("", false), ("100-continue, x", true), ("200-ok", true)] {
            assert_eq!(has_unknown_expectation(&headers(&[("expect", value)])), unknown, "{value}");
        }
    }

    #[test]
    fn connection_lists_headers_unless_only_keep_alive_or_close() {
        for (lines, expected) in [
            (&[][..], false),
            (&[("connection", "Keep-Alive")], false),
            (&[("connection", "close"), ("connection", "")], false),
            (&[("connection", "keep-alive, x-a")], true),
        ] {
            assert_eq!(connection_lists_headers(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_the_transfer_coding_chunked_is_accepted() {
        for (lines, good) in [
            (&[][..], true),
            (&[("transfer-encoding", "Chunked ")], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "chunked, chunked")], false),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "identity")], false),
        ] {
            assert_eq!(has_supported_transfer_coding(&headers(lines)), good, "{lines:?}");
        }
    }

    #[test]
    fn lines_of_cookie_are_joined() {
        for (lines, cookie) in [(&["a=1"][..], "a=1"), (&["a=1; b=2", "c=3"], "a=1; b=2; c=3")] {
            let mut fields: HeaderMap = lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect();
            join_cookies(&mut fields);
            assert_eq!(fields.get_all(COOKIE).iter().collect::<Vec<_>>(), [cookie], "{lines:?}");
        }
    }
}
