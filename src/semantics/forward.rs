//! Which fields cross the edge: RFC 9110 §7.6.

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, COOKIE, EXPECT, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, MAX_FORWARDS, RANGE, TRANSFER_ENCODING, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::members;
use super::request_headers::{self, Coding, ExtraHeaders, HeaderClass, PersonalHeaders, Underscores};

/// How many fields a message from a client or from the origin has at most.
pub const MAX_HEADERS: usize = 100;
/// How many an edge adds to what it hands on, at most: so much more a peer has to take.
pub const MAX_ADDED_HEADERS: usize = 16;

/// The fields that make a request conditional or partial: a fill wants the
/// whole of the asset, whatever its first client has of it.
static SELECTIVE: [HeaderName; 6] = [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

/// Returns true if a response can have been selected by this header of a client's request,
/// as its Vary says. The edge itself writes the others.
pub fn may_select(name: &HeaderName) -> bool {
    *name == ACCEPT_ENCODING || HeaderClass::of(name) != HeaderClass::Edge
}

/// The fields that no sender's Connection may take away from the message.
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

/// Whether Connection lists fields, and does not just say how long the connection lasts.
pub fn connection_lists_headers(headers: &HeaderMap) -> bool {
    let lasts = |member: &[u8]| [&b"keep-alive"[..], b"close"].iter().any(|word| member.eq_ignore_ascii_case(word));
    headers.contains_key(CONNECTION) && !members(headers, &CONNECTION).all(lasts)
}

/// Makes one line of the several that HTTP/2 may send of Cookie (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

/// Removes what belongs to the connection that the message came on.
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

/// Drops the request headers that a server behind the edge could take for others.
pub fn drop_ambiguous(headers: &mut HeaderMap, underscores: Underscores) {
    let dropped = |name: &&HeaderName| request_headers::is_dropped(name, underscores);
    if headers.keys().any(|name| dropped(&name)) {
        let names: Vec<_> = headers.keys().filter(dropped).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Returns the headers of a request that goes upstream as it came, with the edge's Via.
/// `request` is already without the headers of its connection.
pub fn verbatim(request: &HeaderMap, via: &HeaderValue) -> HeaderMap {
    sent_by(request.clone(), via)
}

/// Returns the headers of a fill: those of `request` that go with one, and the edge's Via.
pub fn of_fill(
    request: &HeaderMap,
    also: &ExtraHeaders<'_>,
    own: PersonalHeaders,
    coding: Coding,
    via: &HeaderValue,
) -> HeaderMap {
    let mut fields = request_headers::of_fill(request, also, own, coding);
    if request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE) {
        // The precondition stays behind, but no cache on the way may answer for the origin.
        fields.append(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    sent_by(fields, via)
}

fn sent_by(mut fields: HeaderMap, via: &HeaderValue) -> HeaderMap {
    fields.remove(HOST);
    // This edge has answered the expectation when it takes the content (RFC 9110 §10.1.1).
    fields.remove(EXPECT);
    fields.append(VIA, via.clone());
    fields
}

/// Whether a request asks for something other than the whole of the asset, so
/// that the answer to a fill is not the answer to it.
pub fn is_selective(request: &HeaderMap) -> bool {
    SELECTIVE.iter().any(|name| request.contains_key(name))
}

/// Whether a request asks for something other than the whole of the asset, or for
/// nothing if it is the same still.
pub fn is_partial(request: &HeaderMap) -> bool {
    [IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE].iter().any(|name| request.contains_key(name))
}

/// How many hops an OPTIONS request may go still; `None` for as many as it takes
/// (RFC 9110 §7.6.2).
pub fn max_forwards(request: &HeaderMap) -> Option<u64> {
    let hops = request.get(MAX_FORWARDS)?.to_str().ok()?.trim();
    let is_number = !hops.is_empty() && hops.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| hops.parse().unwrap_or(u64::MAX))
}

/// Whether a request expects something of which nobody has heard (RFC 9110
/// §10.1.1).
pub fn has_unknown_expectation(request: &HeaderMap) -> bool {
    members(request, &EXPECT).any(|member| !member.eq_ignore_ascii_case(b"100-continue"))
}

/// Whether a request's content is in no transfer coding but one: chunked. Others are not
/// undone here, and their name goes no further than the connection (RFC 9112 §6.1).
pub fn is_coded_at_most_once(request: &HeaderMap) -> bool {
    let mut codings = request.get_all(TRANSFER_ENCODING).iter();
    let (coding, more) = (codings.next(), codings.next());
    more.is_none() && coding.is_none_or(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The value that an edge named `name` adds to Via (RFC 9110 §7.6.3) for a
/// message that came over `version`.
pub fn via(version: Version, name: &str) -> Option<HeaderValue> {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    HeaderValue::try_from(format!("{protocol} {name}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn a_connections_fields_stay_on_it() {
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
    fn a_pass_takes_along_all_but_host() {
        let request = headers(&[("host", "h"), ("cookie", "a=b"), ("range", "bytes=0-1"), ("via", "1.1 x")]);
        let via = HeaderValue::from_static("1.1 edge-1");
        let expected = [("cookie", "a=b"), ("range", "bytes=0-1"), ("via", "1.1 x"), ("via", "1.1 edge-1")];
        assert_eq!(verbatim(&request, &via), headers(&expected));
        let filled = of_fill(&request, &ExtraHeaders::default(), PersonalHeaders::None, Coding::Identity, &via);
        assert!(is_selective(&request) && !is_selective(&filled));
    }

    #[test]
    fn hops_are_counted_and_expectations_known() {
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
    fn connection_nominates_fields_but_not_by_how_long_it_lasts() {
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
    fn one_transfer_coding_is_known() {
        for (lines, good) in [
            (&[][..], true),
            (&[("transfer-encoding", "Chunked ")], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "chunked, chunked")], false),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "identity")], false),
        ] {
            assert_eq!(is_coded_at_most_once(&headers(lines)), good, "{lines:?}");
        }
    }

    #[test]
    fn crumbs_become_a_cookie() {
        for (lines, cookie) in [(&["a=1"][..], "a=1"), (&["a=1; b=2", "c=3"], "a=1; b=2; c=3")] {
            let mut fields: HeaderMap = lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect();
            join_cookies(&mut fields);
            assert_eq!(fields.get_all(COOKIE).iter().collect::<Vec<_>>(), [cookie], "{lines:?}");
        }
    }
}
