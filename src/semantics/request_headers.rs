//! Request headers, classed by their effect on a response that many clients may get.
//!
//! A fill sends a list of known headers and nothing else: a header that is not part of
//! the cache key must not shape a response that is stored under it. `docs/http.md` has
//! the table for operators.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, ORIGIN, PRAGMA, REFERER, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::cdn_loop::CDN_LOOP;
use super::vary;

/// The class of a request header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderClass {
    /// Goes with a fill. An origin whose response depends on it says so in Vary.
    Sent,
    /// Stays behind, without effect: no origin needs it to choose a response.
    Inert,
    /// Read, evaluated or written by the edge itself: framing, conditions, ranges, and
    /// the headers of proxies.
    Edge,
    /// Identifies a client: Cookie and Authorization.
    Personal,
    /// Any other. A request with one is answered from the store, or sent alone.
    Unknown,
}

impl HeaderClass {
    /// Returns the class of the header with this name.
    pub fn of(name: &HeaderName) -> Self {
        let text = name.as_str();
        if is_hop_by_hop(name) || EDGE.contains(&text) || EDGE_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            Self::Edge
        } else if SENT.contains(name) {
            Self::Sent
        } else if matches!(*name, COOKIE | AUTHORIZATION) {
            Self::Personal
        } else if INERT.contains(&text) || INERT_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            Self::Inert
        } else {
            Self::Unknown
        }
    }
}

/// Whether a field belongs to one connection, as do those that Connection lists
/// (RFC 9110 §7.6.1).
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The headers that go with every fill. Accept-Encoding goes in a normalised form;
/// Cache-Control and Pragma so that caches on the way validate when the client asks
/// for that (RFC 9111 §5.2.1).
static SENT: [HeaderName; 8] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ORIGIN, USER_AGENT, REFERER, CACHE_CONTROL, PRAGMA];

const EDGE: [&str; 18] = [
    "cdn-loop",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "peerage-peek",
    "peerage-wanted",
    "range",
    "via",
    "want-content-digest",
    "want-repr-digest",
    "x-real-ip",
];

/// `X-Forwarded-*` is replaced or believed by `edge.trusted_proxies`, never copied.
const EDGE_PREFIXES: [&str; 2] = ["x-forwarded", "proxy-auth"];

/// Headers of browsers, of tracing, and of proxies in front of the edge. None of them
/// tells an origin which of several responses to choose, unless its Vary names one.
const INERT: [&str; 37] = [
    "accept-charset",
    "alt-used",
    "baggage",
    "b3",
    "cache-store",
    "content-type",
    "device-memory",
    // A container engine states the version that it speaks, whatever it requests.
    "docker-distribution-api-version",
    "dnt",
    "downlink",
    "dpr",
    "ect",
    "expires",
    "from",
    "http2-settings",
    "priority",
    "purpose",
    "rtt",
    "save-data",
    "service-worker-navigation-preload",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "uber-trace-id",
    "upgrade-insecure-requests",
    "viewport-width",
    "width",
    "x-amzn-trace-id",
    "x-client-data",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-moz",
    "x-playback-session-id",
    "x-purpose",
    "x-request-id",
];

const INERT_PREFIXES: [&str; 9] =
    ["sec-", "cf-", "fastly-", "npm-", "pacote-", "x-amz-cf-", "x-b3-", "x-datadog-", "x-envoy-"];

/// The headers that a fill sends besides those of [`HeaderClass::Sent`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtraHeaders<'a> {
    /// `origin.forward`: the operator's list.
    pub forward: &'a [HeaderName],
    /// The Vary that responses of this name are known to have.
    pub vary: &'a [HeaderName],
}

impl ExtraHeaders<'_> {
    fn has(&self, name: &HeaderName) -> bool {
        self.forward.contains(name) || self.vary.contains(name)
    }
}

/// A request, by the strongest of its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    /// Nothing in it identifies a client.
    Common,
    /// It has a Cookie, an Authorization, or another header that Vary names: each may
    /// identify a client.
    Personal,
    /// It has a header of which the effect is not known.
    Unknown,
}

impl RequestKind {
    /// Returns the kind of the request with these headers.
    pub fn of(request: &HeaderMap, also: &ExtraHeaders<'_>) -> Self {
        let kind = |name: &HeaderName| match HeaderClass::of(name) {
            HeaderClass::Inert | HeaderClass::Unknown if also.forward.contains(name) => Self::Common,
            HeaderClass::Inert | HeaderClass::Unknown if also.vary.contains(name) => Self::Personal,
            HeaderClass::Personal => Self::Personal,
            HeaderClass::Unknown => Self::Unknown,
            _ => Self::Common,
        };
        request.keys().map(kind).max().unwrap_or(Self::Common)
    }
}

/// The headers of [`HeaderClass::Personal`] that a fill takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonalHeaders {
    /// Cookie and Authorization.
    All,
    /// Authorization alone: a blob store may ask for it, and RFC 9111 §3.5 says when its
    /// response is shared.
    Authorization,
    /// None.
    None,
}

/// The content codings that a fill asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Those that the client accepts, in a normalised form.
    Accepted,
    /// None: the digest in the name is that of the bytes without a coding.
    Identity,
}

/// Returns the headers of `request` that a fill sends.
pub fn of_fill(request: &HeaderMap, also: &ExtraHeaders<'_>, own: PersonalHeaders, coding: Coding) -> HeaderMap {
    let goes = |name: &HeaderName| match HeaderClass::of(name) {
        HeaderClass::Sent => true,
        HeaderClass::Edge => *name == http::header::VIA || *name == CDN_LOOP,
        // A name that is known to vary by Cookie has a variant for each.
        HeaderClass::Personal if own == PersonalHeaders::All || also.vary.contains(name) => true,
        HeaderClass::Personal => own == PersonalHeaders::Authorization && *name == AUTHORIZATION,
        HeaderClass::Inert | HeaderClass::Unknown => also.has(name),
    };
    let mut fields = HeaderMap::with_capacity(request.len().min(16));
    for (name, value) in request.iter().filter(|(name, _)| goes(name)) {
        fields.append(name.clone(), value.clone());
    }
    let coding = match coding {
        Coding::Accepted => vary::accept_encoding(request),
        Coding::Identity => HeaderValue::from_static("identity"),
    };
    fields.insert(ACCEPT_ENCODING, coding);
    fields
}

/// The treatment of request headers with `_` in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// They are dropped.
    Dropped,
    /// They are headers like any other.
    Kept,
}

/// Returns true if the header is dropped from every request. CGI, WSGI and Rack read `_`
/// as `-`, so `X_Forwarded_Host` would pass for `X-Forwarded-Host`; and a `Proxy` header
/// becomes the environment's `HTTP_PROXY` (CVE-2016-5385).
pub fn is_dropped(name: &HeaderName, underscores: Underscores) -> bool {
    underscores == Underscores::Dropped && name.as_str().contains('_') || name.as_str() == "proxy"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn each_header_has_one_class() {
        for (class, names) in [
            (
                HeaderClass::Sent,
                "accept accept-encoding accept-language cache-control origin pragma referer user-agent",
            ),
            (
                HeaderClass::Inert,
                "content-type dnt docker-distribution-api-version dpr expires from npm-session priority save-data sec-ch-ua sec-fetch-mode \
                 traceparent upgrade-insecure-requests x-playback-session-id x-request-id",
            ),
            (
                HeaderClass::Edge,
                "cdn-loop connection content-length expect forwarded host if-none-match if-range keep-alive \
                 max-forwards proxy-authorization range te trailer transfer-encoding upgrade via want-repr-digest \
                 x-forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-scheme x-real-ip",
            ),
            (HeaderClass::Personal, "authorization cookie"),
            (
                HeaderClass::Unknown,
                "base-url early-data front-end-https git-protocol icy-metadata request-uri x-api-key x-host \
                 x-http-method-override x-middleware-subrequest x-original-url x-requested-with x-rewrite-url \
                 x-tenant x-wap-profile",
            ),
        ] {
            for name in names.split_whitespace() {
                assert_eq!(HeaderClass::of(&HeaderName::from_static(name)), class, "{name}");
            }
        }
    }

    #[test]
    fn a_fill_sends_known_headers_alone() {
        let request = headers(&[
            ("host", "h"),
            ("cookie", "a=b"),
            ("authorization", "Basic eA=="),
            ("range", "bytes=0-1"),
            ("via", "1.1 x"),
            ("accept", "*/*"),
            ("accept-encoding", "gzip;q=0.9, deflate"),
            ("sec-fetch-mode", "cors"),
            ("x-forwarded-host", "evil"),
            ("x-tenant", "a"),
        ]);
        let (none, tenant) = (ExtraHeaders::default(), [HeaderName::from_static("x-tenant")]);
        let sent = [("via", "1.1 x"), ("accept", "*/*"), ("accept-encoding", "gzip")];
        let own = [("cookie", "a=b"), ("authorization", "Basic eA==")];
        let plain = of_fill(&request, &none, PersonalHeaders::All, Coding::Accepted);
        assert_eq!(plain, headers(&[&own[..], &sent[..]].concat()));
        assert_eq!(of_fill(&request, &none, PersonalHeaders::None, Coding::Accepted), headers(&sent));
        let proven = of_fill(&request, &none, PersonalHeaders::Authorization, Coding::Identity);
        assert_eq!(proven.get("accept-encoding").unwrap(), "identity");
        assert!(proven.contains_key("authorization") && !proven.contains_key("cookie"));
        for also in [ExtraHeaders { forward: &tenant, vary: &[] }, ExtraHeaders { forward: &[], vary: &tenant }] {
            assert!(of_fill(&request, &also, PersonalHeaders::None, Coding::Accepted).contains_key("x-tenant"));
            assert_eq!(RequestKind::of(&request, &also), RequestKind::Personal);
        }
        assert_eq!(RequestKind::of(&request, &none), RequestKind::Unknown);
        assert_eq!(RequestKind::of(&headers(&sent), &none), RequestKind::Common);
    }

    proptest! {
        /// Generated names: none of them reaches the origin in a shared fill.
        #[test]
        fn no_other_header_goes_with_a_fill(name in "(x[-_])?[a-z]{1,12}([-_][a-z]{1,12}){0,3}") {
            let request = headers(&[(&name, "evil")]);
            let name = HeaderName::try_from(name).unwrap();
            let sent = of_fill(&request, &ExtraHeaders::default(), PersonalHeaders::None, Coding::Accepted);
            let known = SENT.contains(&name) || name == CDN_LOOP || name == http::header::VIA;
            prop_assert_eq!(sent.contains_key(&name), known);
        }
    }
}
