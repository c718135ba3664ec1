//! Storage of responses, and the requests that may share them (RFC 9111 §3).
//!
//! The origin's directives decide. A name with a verified digest overrides freshness and
//! validation, and no other directive. If a response states no freshness, a name that looks
//! hashed may hint at it, and the operator may allow a heuristic. A response with Set-Cookie is
//! never stored, although the RFC allows it.

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, StatusCode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cache_control::{CacheControl, withheld};
use super::freshness::{Lifetime, Stale, Terms, explicit_lifetime, lifetime};
use super::hint::{self, FileType};
use super::request_headers::HeaderClass;
use super::validation;
use super::vary::{self, Varies};

/// The kind of an asset's name, by the rules in `[[immutable]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The name contains a digest, and the contents are verified against it: they never change.
    Proven,
    /// The name looks hashed, and its extension is that of a static file.
    Hinted(FileType),
    /// Any other name.
    Plain,
}

/// The input of [`verdict`] besides the response: the name, the fill, and the operator's TTLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The kind of the requested name.
    pub name: Name,
    /// The Authorization of the fill.
    pub credentials: Credentials,
    /// The other headers of the fill that may identify its client.
    pub personal: Personal,
    /// The TTLs for responses that state no freshness.
    pub ttls: FallbackTtls,
}

/// The operator's TTLs for responses that state no freshness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FallbackTtls {
    /// `cache.negative_ttl`: the freshness of a 404 under a verified name.
    pub negative: Duration,
    /// `cache.heuristic`: the limit of the heuristic freshness from Last-Modified (RFC 9111
    /// §4.2.2).
    pub heuristic: Duration,
    /// `cache.hint_ttl`: the freshness under a name that looks hashed.
    pub hint: Duration,
}

impl Case {
    /// Returns true if no header of the fill identifies a client.
    fn is_common(&self) -> bool {
        self.credentials == Credentials::None && self.personal == Personal::Absent
    }
}

/// The presence of headers in a fill, besides Authorization, that may identify its client:
/// Cookie, or a header that was sent only because Vary had named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personal {
    /// None was sent.
    Absent,
    /// At least one was sent: the response is shared only if it states its freshness.
    Sent,
}

impl Personal {
    /// Classifies the headers of a fill. Those of `forward` (`origin.forward`) do not count: the
    /// operator declares that they identify no client.
    pub fn of_fill(fill: &HeaderMap, forward: &[HeaderName]) -> Self {
        let is_personal = |name: &HeaderName| match HeaderClass::of(name) {
            HeaderClass::Personal => *name == COOKIE,
            HeaderClass::Inert | HeaderClass::Unknown => !forward.contains(name),
            HeaderClass::Sent | HeaderClass::Edge => false,
        };
        if fill.keys().any(is_personal) { Self::Sent } else { Self::Absent }
    }
}

/// The Authorization of a request (RFC 9111 §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// The request has none.
    None,
    /// The request has one, so that its response is shared only if it permits that (RFC 9111
    /// §3.5). The hash (XXH3-64) of the value distinguishes it from others: requests with the
    /// same value may wait for the same fill, and the hash has no other use.
    Sent(u64),
}

impl Credentials {
    /// Returns the credentials of a request.
    pub fn of(request: &HeaderMap) -> Self {
        let mut lines = request.get_all(AUTHORIZATION).iter().peekable();
        if lines.peek().is_none() {
            return Self::None;
        }
        Self::Sent(lines.fold(0, |hash, line| xxh3_64_with_seed(line.as_bytes(), hash)))
    }
}

/// The decision about a response to a GET (RFC 9111 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Store the response. It answers all waiting requests.
    Store(Lifetime),
    /// Do not store the response. It answers the waiting requests: it is an error or a redirect
    /// to a fill that does not identify a client, or a stale response of a peer.
    Share(Refusal),
    /// Do not store the response. It answers only the request that it was fetched for.
    Pass(Refusal),
}

/// The reason why a response is not stored, or not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The response has `no-store` (RFC 9111 §5.2.2.5).
    NoStore,
    /// The response has `private` (RFC 9111 §5.2.2.7).
    Private,
    /// The response has `no-cache`, but no validator for the required validation.
    NoCache,
    /// The response has a content coding, but the digest in the name is that of the content
    /// without one.
    Coded,
    /// The request had Cookie or Authorization, and the response does not permit sharing.
    Credentials,
    /// The response is stale on arrival, and each validation returns another one.
    Changing,
    /// The response has Set-Cookie, so it is for one client.
    SetCookie,
    /// The response varies by request headers that are not part of the key.
    Vary,
    /// The response states no freshness, and the name is neither verified nor a hint.
    NotExplicit,
    /// The response is stale on arrival.
    Expired,
    /// Responses with this status are not stored.
    Status,
    /// The end of the connection delimits the body, so that a truncated body looks complete.
    Unframed,
    /// The body may become larger than `cache.max_object`, and a reader that falls out of the
    /// window could not resume.
    Unmeasured,
    /// The body is larger than `cache.max_object`.
    TooLarge,
    /// No memory is left for flights.
    NoRoom,
}

impl Refusal {
    /// Returns the token for `detail` in Cache-Status (RFC 9211 §2.8) and for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::Coded => "coded",
            Self::Credentials => "credentials",
            Self::Changing => "changing",
            Self::SetCookie => "set-cookie",
            Self::Vary => "vary",
            Self::NotExplicit => "no-explicit-freshness",
            Self::Expired => "expired",
            Self::Status => "status",
            Self::Unframed => "no-length",
            Self::Unmeasured => "unknown-length",
            Self::TooLarge => "too-large",
            Self::NoRoom => "no-room",
        }
    }

    /// Returns true if the next response under the same name will probably be refused, too.
    /// Requests for the name then do not wait for each other.
    pub fn will_recur(self) -> bool {
        !matches!(self, Self::NoRoom | Self::Credentials)
    }
}

/// Decides the use of a final response to a GET (RFC 9111 §3). `age` is its age on arrival.
///
/// ```
/// use std::time::Duration;
///
/// use http::{HeaderMap, HeaderValue, StatusCode}; use peerage::semantics::storing::{Case,
/// Credentials, FallbackTtls, Name, Personal, Refusal, Verdict, verdict};
///
/// let (credentials, personal) = (Credentials::None, Personal::Absent);
/// let case = Case { name: Name::Plain, credentials, personal, ttls: FallbackTtls::default() };
/// let mut headers = HeaderMap::new();
/// headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
/// assert!(matches!(verdict(case, StatusCode::OK, &headers, Duration::ZERO), Verdict::Store(_)));
/// headers.insert("set-cookie", HeaderValue::from_static("a=b"));
/// let refused = Verdict::Pass(Refusal::SetCookie);
/// assert_eq!(verdict(case, StatusCode::OK, &headers, Duration::ZERO), refused);
/// ```
pub fn verdict(case: Case, status: StatusCode, headers: &HeaderMap, age: Duration) -> Verdict {
    let mut control = CacheControl::of(headers);
    if control.must_understand {
        // `no-store` does not apply if the cache understands the status (RFC 9111 §5.2.2.3).
        if !is_understood(status) {
            return Verdict::Pass(Refusal::Status);
        }
        control.no_store = false;
    }
    let verdict = match refusal_to_share(case, headers, control) {
        Some(refusal) => Verdict::Pass(refusal),
        None if matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) => {
            return Verdict::Pass(Refusal::Status);
        }
        None => by_name(case, status, headers, control, age),
    };
    match verdict {
        Verdict::Pass(refusal) if case.is_common() && answers_waiting_requests(status, refusal) => {
            Verdict::Share(refusal)
        }
        other => other,
    }
}

/// Returns true for an error or a redirect that is not stored and yet answers all waiting
/// requests, so that a failing origin gets one request and not one for each of them. Errors are
/// shared even with `no-store`, which most of them have, because the fill identified no client.
fn answers_waiting_requests(status: StatusCode, refusal: Refusal) -> bool {
    use Refusal::{Expired, NoCache, NoStore, NotExplicit};
    let error = status.is_client_error() || status.is_server_error();
    matches!(refusal, NotExplicit | Expired | NoCache) && (error || status.is_redirection())
        || refusal == NoStore && error
}

/// Decides by the kind of the name, or else by the freshness of the response.
fn by_name(case: Case, status: StatusCode, headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    match (case.name, status) {
        // Only the content is verified: the headers may be those of one client.
        (Name::Proven, StatusCode::OK) if case.personal == Personal::Absent => {
            Verdict::Store(Lifetime::UntilEvicted { stated: explicit_lifetime(headers, control) })
        }
        (Name::Proven, StatusCode::NOT_FOUND) if is_negatively_cacheable(case, headers, control) => {
            Verdict::Store(Lifetime::For(Terms::only(case.ttls.negative.saturating_add(age))))
        }
        (Name::Hinted(file_type), _)
            if case.is_common() && age < case.ttls.hint && hint::holds(file_type, status, headers) =>
        {
            Verdict::Store(Lifetime::For(Terms::of(case.ttls.hint, control)))
        }
        _ => by_freshness(case, status, headers, control, age),
    }
}

/// Returns true if a 404 under a verified name is stored for `cache.negative_ttl`.
fn is_negatively_cacheable(case: Case, headers: &HeaderMap, control: CacheControl) -> bool {
    let states_nothing = !control.no_cache && explicit_lifetime(headers, control).is_none();
    states_nothing && case.is_common() && !case.ttls.negative.is_zero()
}

/// Decides by freshness (RFC 9111 §3, §4.2), for any final status: a response that states a
/// freshness lifetime is stored while fresh, and a stale response if it can be validated.
fn by_freshness(case: Case, status: StatusCode, headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    let fresh =
        if control.no_cache { Some(Duration::ZERO) } else { lifetime(status, headers, control, case.ttls.heuristic) };
    let Some(fresh) = fresh else {
        return Verdict::Pass(Refusal::NotExplicit);
    };
    if case.personal == Personal::Sent
        && explicit_lifetime(headers, control).is_none_or(|stated| age >= stated.min(fresh))
    {
        // The page of one client. An entity tag would distinguish it from that of another client,
        // but a Last-Modified does not.
        return Verdict::Pass(Refusal::Credentials);
    }
    let terms = Terms::of(fresh, control);
    let usable_when_stale = terms.while_revalidate.max(terms.if_error);
    if age < fresh || status.is_success() && validation::has_validator(headers) {
        Verdict::Store(Lifetime::For(terms))
    } else if terms.stale == Stale::Allowed && age < fresh.saturating_add(usable_when_stale) {
        // A peer served it stale, and it answers the waiting requests.
        Verdict::Share(Refusal::Expired)
    } else if control.no_cache {
        Verdict::Pass(Refusal::NoCache)
    } else {
        Verdict::Pass(Refusal::Expired)
    }
}

/// Returns true if a response states a freshness lifetime above zero (RFC 9111 §4.2.1).
pub fn states_freshness(headers: &HeaderMap) -> bool {
    let control = CacheControl::of(headers);
    !control.no_cache && explicit_lifetime(headers, control).is_some_and(|stated| !stated.is_zero())
}

/// Returns true for statuses with caching requirements that this cache implements (RFC 9111 §3):
/// those with heuristic freshness (RFC 9110 §15.1), 302 and 307.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 302 | 307 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Returns the reason why a response answers only the request that it was fetched for,
/// regardless of its name; `None` if it may be shared.
fn refusal_to_share(case: Case, headers: &HeaderMap, control: CacheControl) -> Option<Refusal> {
    if control.private {
        Some(Refusal::Private)
    } else if headers.contains_key(SET_COOKIE) && !withheld(headers).contains(&SET_COOKIE) {
        Some(Refusal::SetCookie)
    } else if control.no_store {
        Some(Refusal::NoStore)
    } else if case.credentials != Credentials::None && !control.shares_with_credentials() {
        Some(Refusal::Credentials)
    } else if vary::varies(headers) == Varies::Uncacheable {
        Some(Refusal::Vary)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    const NEGATIVE: Duration = Duration::from_secs(1);

    const TTLS: FallbackTtls =
        FallbackTtls { negative: NEGATIVE, heuristic: Duration::ZERO, hint: Duration::from_hours(24) };

    fn case(name: Name) -> Case {
        Case { name, credentials: Credentials::None, personal: Personal::Absent, ttls: TTLS }
    }

    fn judge_as(case: Case, status: u16, lines: &[(&str, &str)]) -> Verdict {
        verdict(case, StatusCode::from_u16(status).unwrap(), &headers(lines), Duration::ZERO)
    }

    fn judge(name: Name, status: u16, lines: &[(&str, &str)]) -> Verdict {
        judge_as(case(name), status, lines)
    }

    #[test]
    fn a_plain_name_requires_explicit_freshness() {
        use Refusal::{Expired, NoCache, NoStore, NotExplicit, Private, SetCookie, Status, Vary};
        let terms = |seconds, stale| Terms { stale, ..Terms::only(Duration::from_secs(seconds)) };
        let stored = |seconds| Verdict::Store(Lifetime::For(terms(seconds, Stale::Allowed)));
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (status, lines, expected) in [
            (200, &[][..], Verdict::Pass(NotExplicit)),
            (200, &[("cache-control", "max-age=60")], stored(60)),
            (
                200,
                &[("cache-control", "max-age=60, s-maxage=5")],
                Verdict::Store(Lifetime::For(terms(5, Stale::Forbidden))),
            ),
            (200, &[("cache-control", "max-age=0")], Verdict::Pass(Expired)),
            (200, &[("cache-control", "max-age=0"), ("etag", "\"a\"")], stored(0)),
            (
                200,
                &[("cache-control", "max-age=60, no-cache"), ("last-modified", date.1)],
                Verdict::Store(Lifetime::For(terms(0, Stale::Forbidden))),
            ),
            (404, &[("cache-control", "no-cache"), ("etag", "\"a\"")], Verdict::Share(NoCache)),
            (301, &[], Verdict::Share(NotExplicit)),
            (302, &[("cache-control", "no-store")], Verdict::Pass(NoStore)),
            (404, &[("set-cookie", "a=b")], Verdict::Pass(SetCookie)),
            (401, &[("cache-control", "private")], Verdict::Pass(Private)),
            (403, &[("cache-control", "no-store")], Verdict::Share(NoStore)),
            (200, &[("cache-control", "max-age=60, private=x, no-cache=y")], stored(60)),
            (200, &[("cache-control", "max-age=60, private=set-cookie"), ("set-cookie", "a=b")], stored(60)),
            (200, &[("cache-control", "max-age=60, private=x"), ("set-cookie", "a=b")], Verdict::Pass(SetCookie)),
            (200, &[date, ("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT")], Verdict::Pass(NotExplicit)),
            (200, &[date, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], stored(60)),
            (200, &[date, ("expires", "0")], Verdict::Pass(Expired)),
            (200, &[("cache-control", "max-age=60, no-store")], Verdict::Pass(NoStore)),
            (200, &[("cache-control", "max-age=60, private")], Verdict::Pass(Private)),
            (200, &[("cache-control", "max-age=60, no-cache")], Verdict::Pass(NoCache)),
            (200, &[("cache-control", "max-age=60"), ("set-cookie", "a=b")], Verdict::Pass(SetCookie)),
            (200, &[("cache-control", "max-age=60"), ("vary", "*")], Verdict::Pass(Vary)),
            (200, &[("cache-control", "max-age=60"), ("vary", "cookie")], stored(60)),
            (200, &[("cache-control", "max-age=60"), ("vary", "Accept-Encoding")], stored(60)),
            (
                200,
                &[("cache-control", "max-age=60"), ("vary", "Accept-Encoding"), ("content-encoding", "gzip")],
                stored(60),
            ),
            (404, &[("cache-control", "max-age=60")], stored(60)),
            (599, &[("cache-control", "max-age=60")], stored(60)),
            (599, &[("cache-control", "max-age=60, must-understand")], Verdict::Pass(Status)),
            (200, &[("cache-control", "max-age=60, must-understand, no-store")], stored(60)),
            (206, &[("cache-control", "max-age=60")], Verdict::Pass(Status)),
            (503, &[], Verdict::Share(NotExplicit)),
            (200, &[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")], stored(60)),
            (
                200,
                &[("cdn-cache-control", "public"), date, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")],
                Verdict::Pass(NotExplicit),
            ),
        ] {
            assert_eq!(judge(Name::Plain, status, lines), expected, "{status} {lines:?}");
        }
    }

    #[test]
    fn responses_to_credentials_are_shared_only_if_they_permit_it() {
        let judge = |control: &str| {
            let case = Case { credentials: Credentials::Sent(7), ..case(Name::Plain) };
            judge_as(case, 200, &[("cache-control", control)])
        };
        for control in ["public, max-age=60", "max-age=60, must-revalidate", "s-maxage=60"] {
            assert!(matches!(judge(control), Verdict::Store(_)), "{control}");
        }
        for control in ["max-age=60", "max-age=60, proxy-revalidate", "max-age=60, immutable"] {
            assert_eq!(judge(control), Verdict::Pass(Refusal::Credentials), "{control}");
        }
        assert_eq!(judge("private, public, max-age=60"), Verdict::Pass(Refusal::Private));
    }

    #[test]
    fn heuristic_freshness_is_limited_by_the_operator() {
        let heuristic = |status: u16, limit: u64, lines: &[(&str, &str)]| {
            let case =
                Case { ttls: FallbackTtls { heuristic: Duration::from_secs(limit), ..TTLS }, ..case(Name::Plain) };
            let dated = [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT")];
            let lines: Vec<_> = dated.iter().chain(lines).copied().collect();
            match verdict(case, StatusCode::from_u16(status).unwrap(), &headers(&lines), Duration::ZERO) {
                Verdict::Store(Lifetime::For(terms)) => Some(terms.fresh.as_secs()),
                _ => None,
            }
        };
        assert_eq!(heuristic(200, 3600, &[]), Some(100));
        assert_eq!(heuristic(200, 60, &[]), Some(60));
        assert_eq!(heuristic(200, 0, &[]), None);
        assert_eq!(heuristic(404, 3600, &[]), Some(100));
        assert_eq!(heuristic(302, 3600, &[]), None);
        assert_eq!(heuristic(302, 3600, &[("cache-control", "public")]), Some(100));
        assert_eq!(heuristic(200, 3600, &[("cache-control", "max-age=7")]), Some(7));
        assert_eq!(heuristic(200, 3600, &[("expires", "0")]), Some(0));
        assert_eq!(heuristic(200, 3600, &[("cache-control", "no-store")]), None);
    }

    #[test]
    fn responses_to_a_cookie_are_shared_only_with_stated_freshness() {
        let date = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        for name in [Name::Plain, Name::Hinted(FileType::of_path("/a.js").unwrap())] {
            let judge = |status, lines: &[(&str, &str)]| {
                judge_as(Case { personal: Personal::Sent, ..case(name) }, status, lines)
            };
            assert!(matches!(judge(200, &[("cache-control", "max-age=60")]), Verdict::Store(_)));
            for lines in [
                &[("cache-control", "no-cache"), date][..],
                &[("cache-control", "max-age=0"), date],
                &[("cache-control", "max-age=60, no-cache"), date],
            ] {
                assert_eq!(judge(200, lines), Verdict::Pass(Refusal::Credentials), "{lines:?}");
            }
            assert_eq!(judge(200, &[("content-type", "text/javascript")]), Verdict::Pass(Refusal::NotExplicit));
            for status in [302, 401, 403, 404, 503] {
                assert!(matches!(judge(status, &[]), Verdict::Pass(_)), "{status}");
            }
        }
    }

    #[test]
    fn a_verified_name_overrides_freshness_and_nothing_else() {
        let stored =
            |stated: Option<u64>| Verdict::Store(Lifetime::UntilEvicted { stated: stated.map(Duration::from_secs) });
        let verified = |status, lines: &[(&str, &str)]| judge(Name::Proven, status, lines);
        for (lines, expected) in [
            (&[][..], stored(None)),
            (&[("cache-control", "max-age=60")], stored(Some(60))),
            (&[("cache-control", "no-cache")], stored(None)),
            (&[("vary", "Accept-Encoding, Origin")], stored(None)),
            (&[("cache-control", "private")], Verdict::Pass(Refusal::Private)),
            (&[("cache-control", "no-store")], Verdict::Pass(Refusal::NoStore)),
            (&[("set-cookie", "a=b")], Verdict::Pass(Refusal::SetCookie)),
            (&[("vary", "*")], Verdict::Pass(Refusal::Vary)),
        ] {
            assert_eq!(verified(200, lines), expected, "{lines:?}");
        }
        assert_eq!(verified(404, &[]), Verdict::Store(Lifetime::For(Terms::only(NEGATIVE))));
        assert_eq!(verified(404, &[("cache-control", "no-cache")]), Verdict::Share(Refusal::NoCache));
        assert_eq!(verified(404, &[("cache-control", "max-age=0")]), Verdict::Share(Refusal::Expired));
        assert_eq!(verified(503, &[]), Verdict::Share(Refusal::NotExplicit));
        assert_eq!(verified(302, &[]), Verdict::Share(Refusal::NotExplicit));
        assert_eq!(verified(206, &[]), Verdict::Pass(Refusal::Status));
        let authorized = Case { credentials: Credentials::Sent(7), ..case(Name::Proven) };
        assert_eq!(judge_as(authorized, 200, &[]), Verdict::Pass(Refusal::Credentials));
        assert_eq!(judge_as(authorized, 200, &[("cache-control", "public")]), stored(None));
    }

    #[test]
    fn a_hint_gives_its_ttl_if_the_origin_states_no_freshness() {
        let hinted = Name::Hinted(FileType::of_path("/a.js").unwrap());
        let script = ("content-type", "text/javascript");
        let day = Verdict::Store(Lifetime::For(Terms::of(TTLS.hint, CacheControl::default())));
        assert_eq!(judge(hinted, 200, &[script]), day);
        for (status, control, expected) in [
            (200, "no-cache", Verdict::Pass(Refusal::NoCache)),
            (200, "max-age=0", Verdict::Pass(Refusal::Expired)),
            (200, "no-store", Verdict::Pass(Refusal::NoStore)),
            (200, "public", Verdict::Pass(Refusal::NotExplicit)),
            (404, "public", Verdict::Share(Refusal::NotExplicit)),
        ] {
            assert_eq!(judge(hinted, status, &[script, ("cache-control", control)]), expected, "{control}");
        }
        assert_eq!(judge(hinted, 404, &[script]), Verdict::Share(Refusal::NotExplicit));
        assert_eq!(judge(hinted, 200, &[("content-type", "text/html")]), Verdict::Pass(Refusal::NotExplicit));
    }
}
