//! Classes of request headers, by their effect on a response that many clients may get.
//!
//! A fill sends known headers only: a header that is not part of the cache key must not influence
//! a response that is stored under that key (RFC 9111 §4.1). `docs/http.md` has the table for
//! operators.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, ORIGIN, PRAGMA, REFERER, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::cdn_loop::CDN_LOOP;
use super::vary;

/// The class of a request header, by its effect on shared responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderClass {
    /// Sent with a fill. If a response depends on the header, the origin names it in Vary.
    Sent,
    /// Not sent with a fill, and without effect: no origin needs it to select a response.
    Inert,
    /// Read, evaluated or written by the edge itself: framing, conditions, ranges, and the
    /// headers of proxies.
    Edge,
    /// Identifies a client: Cookie or Authorization.
    Personal,
    /// Any other header. A request with one is answered from the store, or passed to the origin
    /// without sharing its response.
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

/// Returns true if a header belongs to one connection (RFC 9110 §7.6.1). Headers that Connection
/// lists belong to it, too.
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

/// The headers that every fill sends. Accept-Encoding is normalized. Cache-Control and Pragma are
/// sent so that caches on the way validate if the client requests it (RFC 9111 §5.2.1).
static SENT: [HeaderName; 8] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ORIGIN, USER_AGENT, REFERER, CACHE_CONTROL, PRAGMA];

/// The names of [`HeaderClass::Edge`], besides those of the connection.
const EDGE: [&str; 19] = [
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
    "peerage-site",
    "peerage-wanted",
    "range",
    "via",
    "want-content-digest",
    "want-repr-digest",
    "x-real-ip",
];

/// The prefixes of names of [`HeaderClass::Edge`]. The `X-Forwarded` headers are never copied:
/// those of `edge.trusted_proxies` are evaluated, others replaced.
const EDGE_PREFIXES: [&str; 2] = ["x-forwarded", "proxy-auth"];

/// The names of [`HeaderClass::Inert`]: headers of browsers, of tracing, and of proxies in front
/// of the edge. Origins do not select a response by them, unless Vary names one.
const INERT: [&str; 36] = [
    "accept-charset",
    "alt-used",
    "baggage",
    "b3",
    "cache-store",
    "content-type",
    "device-memory",
    // A container engine sends its protocol version with every request.
    "docker-distribution-api-version",
    "dnt",
    "downlink",
    "dpr",
    "ect",
    "expires",
    "from",
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

/// The prefixes of names of [`HeaderClass::Inert`].
const INERT_PREFIXES: [&str; 9] =
    ["sec-", "cf-", "fastly-", "npm-", "pacote-", "x-amz-cf-", "x-b3-", "x-datadog-", "x-envoy-"];

/// Headers that a fill sends in addition to those of [`HeaderClass::Sent`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtraHeaders<'a> {
    /// The operator's list (`origin.forward`).
    pub forward: &'a [HeaderName],
    /// The headers that Vary named in earlier responses for the same asset.
    pub vary: &'a [HeaderName],
}

impl ExtraHeaders<'_> {
    fn contains(&self, name: &HeaderName) -> bool {
        self.forward.contains(name) || self.vary.contains(name)
    }
}

/// The kind of a request, by the header that restricts sharing most. Ordered from the least
/// restrictive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    /// No header identifies a client.
    Common,
    /// A header may identify a client: Cookie, Authorization, or another one that Vary named.
    Personal,
    /// The effect of a header is not known.
    Unknown,
}

impl RequestKind {
    /// Classifies a request. `extra` are the headers that its fill would send in addition.
    pub fn of(request: &HeaderMap, extra: &ExtraHeaders<'_>) -> Self {
        let kind = |name: &HeaderName| match HeaderClass::of(name) {
            HeaderClass::Inert | HeaderClass::Unknown if extra.forward.contains(name) => Self::Common,
            HeaderClass::Inert | HeaderClass::Unknown if extra.vary.contains(name) => Self::Personal,
            HeaderClass::Personal => Self::Personal,
            HeaderClass::Unknown => Self::Unknown,
            _ => Self::Common,
        };
        request.keys().map(kind).max().unwrap_or(Self::Common)
    }
}

/// The headers of [`HeaderClass::Personal`] that a fill sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonalHeaders {
    /// Cookie and Authorization.
    All,
    /// Authorization alone: a blob store may require it, and RFC 9111 §3.5 defines when the
    /// response is shared.
    Authorization,
    /// Neither.
    None,
}

/// The content codings that a fill requests (RFC 9110 §12.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Those that the client accepts, normalized.
    Accepted,
    /// None: the digest in the name is computed over the content without a coding.
    Identity,
}

/// Returns the headers of `request` that a fill sends: those of [`HeaderClass::Sent`], `extra`,
/// `personal`, Via and CDN-Loop. Accept-Encoding is that of `coding`.
pub fn of_fill(request: &HeaderMap, extra: &ExtraHeaders<'_>, personal: PersonalHeaders, coding: Coding) -> HeaderMap {
    let is_sent = |name: &HeaderName| match HeaderClass::of(name) {
        HeaderClass::Sent => true,
        HeaderClass::Edge => *name == http::header::VIA || *name == CDN_LOOP,
        // An asset that is known to vary by Cookie has a variant for each Cookie.
        HeaderClass::Personal if personal == PersonalHeaders::All || extra.vary.contains(name) => true,
        HeaderClass::Personal => personal == PersonalHeaders::Authorization && *name == AUTHORIZATION,
        HeaderClass::Inert | HeaderClass::Unknown => extra.contains(name),
    };
    let mut headers = HeaderMap::with_capacity(request.len().min(16));
    for (name, value) in request.iter().filter(|(name, _)| is_sent(name)) {
        headers.append(name.clone(), value.clone());
    }
    let coding = match coding {
        Coding::Accepted => vary::accept_encoding(request),
        Coding::Identity => HeaderValue::from_static("identity"),
    };
    headers.insert(ACCEPT_ENCODING, coding);
    headers
}

/// The treatment of request headers with `_` in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// Removed.
    Dropped,
    /// Kept like other headers.
    Kept,
}

/// Returns true if the header is removed from every request.
///
/// CGI, WSGI and Rack read `_` as `-`, so that `X_Forwarded_Host` would count as
/// `X-Forwarded-Host`. A `Proxy` header becomes the environment variable `HTTP_PROXY`
/// (CVE-2016-5385).
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
    fn a_fill_sends_known_headers_only() {
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
        let personal = [("cookie", "a=b"), ("authorization", "Basic eA==")];
        let plain = of_fill(&request, &none, PersonalHeaders::All, Coding::Accepted);
        assert_eq!(plain, headers(&[&personal[..], &sent[..]].concat()));
        assert_eq!(of_fill(&request, &none, PersonalHeaders::None, Coding::Accepted), headers(&sent));
        let verified = of_fill(&request, &none, PersonalHeaders::Authorization, Coding::Identity);
        assert_eq!(verified.get("accept-encoding").unwrap(), "identity");
        assert!(verified.contains_key("authorization") && !verified.contains_key("cookie"));
        for extra in [ExtraHeaders { forward: &tenant, vary: &[] }, ExtraHeaders { forward: &[], vary: &tenant }] {
            assert!(of_fill(&request, &extra, PersonalHeaders::None, Coding::Accepted).contains_key("x-tenant"));
            assert_eq!(RequestKind::of(&request, &extra), RequestKind::Personal);
        }
        assert_eq!(RequestKind::of(&request, &none), RequestKind::Unknown);
        assert_eq!(RequestKind::of(&headers(&sent), &none), RequestKind::Common);
    }

    proptest! {
        /// A header with a generated name never reaches the origin in a shared fill.
        #[test]
        fn a_fill_sends_no_other_header(name in "(x[-_])?[a-z]{1,12}([-_][a-z]{1,12}){0,3}") {
            let request = headers(&[(&name, "evil")]);
            let name = HeaderName::try_from(name).unwrap();
            let sent = of_fill(&request, &ExtraHeaders::default(), PersonalHeaders::None, Coding::Accepted);
            let known = SENT.contains(&name) || name == CDN_LOOP || name == http::header::VIA;
            prop_assert_eq!(sent.contains_key(&name), known);
        }
    }
}
