//! What may be stored, and who may have it: RFC 9111 §3.
//!
//! The origin's word holds. A name that is verified against its digest overrides
//! freshness and validation, and nothing else. Where a response says nothing, a hashed
//! name may hint at freshness, and the operator may allow a guess. A response with
//! Set-Cookie is never stored; there the RFC would allow more.

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

/// The kind of an asset's name, by the rules of `[[immutable]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// It tells a digest that the contents are verified against: they never change.
    Proven,
    /// It looks hashed, and is that of a static file of this kind.
    Hinted(FileType),
    /// Any other name.
    Plain,
}

/// The circumstances of a response, by which it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The kind of the name that was requested.
    pub name: Name,
    /// Whether the fill had an Authorization.
    pub credentials: Credentials,
    /// Whether the fill had a Cookie, or another header that may identify its client.
    pub personal: Personal,
    /// The operator's times.
    pub times: FallbackTtls,
}

/// The times by which freshness is judged that a response does not state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FallbackTtls {
    /// `cache.negative_ttl`: for a 404 of a proven name.
    pub negative: Duration,
    /// `cache.heuristic`: the longest that is guessed from Last-Modified.
    pub heuristic: Duration,
    /// `cache.hint_ttl`: for a name that looks hashed.
    pub hint: Duration,
}

impl Case {
    /// Returns true if the fill had nothing that identifies a client.
    fn is_common(&self) -> bool {
        self.credentials == Credentials::None && self.personal == Personal::Absent
    }
}

/// Whether a fill had headers, besides Authorization, that may identify its client: a
/// Cookie, or one that it sent only because a Vary had named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personal {
    /// It had none.
    Absent,
    /// It had one: the response is shared only if it states a freshness.
    Sent,
}

impl Personal {
    /// Returns whether a fill with these headers has one. The operator takes the headers of
    /// `forward` for common ones.
    pub fn of_fill(fill: &HeaderMap, forward: &[HeaderName]) -> Self {
        let is_one = |name: &HeaderName| match HeaderClass::of(name) {
            HeaderClass::Personal => *name == COOKIE,
            HeaderClass::Inert | HeaderClass::Unknown => !forward.contains(name),
            HeaderClass::Sent | HeaderClass::Edge => false,
        };
        if fill.keys().any(is_one) { Self::Sent } else { Self::Absent }
    }
}

/// Whether a request had an Authorization field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// It had none.
    None,
    /// It had one, so that its response is shared only if it says so (RFC 9111
    /// §3.5). The hash (XXH3-64) tells it from others: who has the same may wait
    /// for the same, no more.
    Sent(u64),
}

impl Credentials {
    /// Of a request with these fields.
    pub fn of(request: &HeaderMap) -> Self {
        let mut lines = request.get_all(AUTHORIZATION).iter().peekable();
        if lines.peek().is_none() {
            return Self::None;
        }
        Self::Sent(lines.fold(0, |hash, line| xxh3_64_with_seed(line.as_bytes(), hash)))
    }
}

/// The use of a response to a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored, and answers all requests that wait.
    Store(Lifetime),
    /// It is not stored, and answers the requests that wait: an error or a redirect, where
    /// nothing in the fill identified a client; or a stale response of a peer.
    Share(Refusal),
    /// It answers the request that it was fetched for, and no other.
    Pass(Refusal),
}

/// The reason why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// RFC 9111 §5.2.2.5
    NoStore,
    /// RFC 9111 §5.2.2.7
    Private,
    /// It would have to be validated each time, and there is nothing to do it by.
    NoCache,
    /// It is in a content coding, and its name promises what it is without one.
    Coded,
    /// It answers a request with Cookie or Authorization, and does not say that it may be
    /// shared.
    Credentials,
    /// It is stale as soon as it comes, and each validation brings another.
    Changing,
    /// It sets a cookie, so it is somebody's.
    SetCookie,
    /// It depends on request fields that the key does not hold.
    Vary,
    /// It states no freshness, and its name neither proves nor hints at one.
    NotExplicit,
    /// Already stale when it came.
    Expired,
    /// A status that is not stored.
    Status,
    /// It ends where the connection ends, so its end proves nothing.
    Unframed,
    /// It may become larger than `cache.max_object`, and who falls behind could not go on.
    Unmeasured,
    /// Larger than `cache.max_object`.
    TooLarge,
    /// The memory for flights is used up.
    NoRoom,
}

impl Refusal {
    /// The word for it in Cache-Status' `detail` (RFC 9211 §2.8) and in logs.
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

    /// Whether the next response under this name will likely be refused too,
    /// so that requests for it had better not wait for one another.
    pub fn will_recur(self) -> bool {
        !matches!(self, Self::NoRoom | Self::Credentials)
    }
}

/// Decides about a final response to a GET, whose age on arrival is `age`.
pub fn verdict(case: Case, status: StatusCode, headers: &HeaderMap, age: Duration) -> Verdict {
    let mut control = CacheControl::of(headers);
    if control.must_understand {
        // RFC 9111 §5.2.2.3: what is understood may be stored, `no-store` or not.
        if !is_understood(status) {
            return Verdict::Pass(Refusal::Status);
        }
        control.no_store = false;
    }
    let verdict = match personal(case, headers, control) {
        Some(refusal) => Verdict::Pass(refusal),
        None if matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) => {
            return Verdict::Pass(Refusal::Status);
        }
        None => by_name(case, status, headers, control, age),
    };
    match verdict {
        Verdict::Pass(refusal) if case.is_common() && is_for_a_crowd(status, refusal) => Verdict::Share(refusal),
        other => other,
    }
}

/// Returns true if an error or a redirect that is not stored answers all requests that
/// wait for it, so that a failing origin is asked once and not once for each. Errors are
/// shared also when they say `no-store`, as most do: nothing personal was in the fill.
fn is_for_a_crowd(status: StatusCode, refusal: Refusal) -> bool {
    use Refusal::{Expired, NoCache, NoStore, NotExplicit};
    let error = status.is_client_error() || status.is_server_error();
    matches!(refusal, NotExplicit | Expired | NoCache) && (error || status.is_redirection())
        || refusal == NoStore && error
}

fn by_name(case: Case, status: StatusCode, headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    match (case.name, status) {
        // The proof is of the bytes: headers may be those of one client.
        (Name::Proven, StatusCode::OK) if case.personal == Personal::Absent => {
            Verdict::Store(Lifetime::UntilEvicted { said: explicit_lifetime(headers, control) })
        }
        (Name::Proven, StatusCode::NOT_FOUND) if may_be_remembered(case, headers, control) => {
            Verdict::Store(Lifetime::For(Terms::only(case.times.negative.saturating_add(age))))
        }
        (Name::Hinted(kind), _) if case.is_common() && age < case.times.hint && hint::holds(kind, status, headers) => {
            Verdict::Store(Lifetime::For(Terms::of(case.times.hint, control)))
        }
        _ => stated(case, status, headers, control, age),
    }
}

/// Returns true if a 404 for a proven name is remembered for `cache.negative_ttl`.
fn may_be_remembered(case: Case, headers: &HeaderMap, control: CacheControl) -> bool {
    let silent = !control.no_cache && explicit_lifetime(headers, control).is_none();
    silent && case.is_common() && !case.times.negative.is_zero()
}

/// RFC 9111 §3 and §4.2, for a response of any final status: what says for how
/// long it is fresh is stored, and what says that it is not, if it can be
/// validated.
fn stated(case: Case, status: StatusCode, headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    let fresh =
        if control.no_cache { Some(Duration::ZERO) } else { lifetime(status, headers, control, case.times.heuristic) };
    let Some(fresh) = fresh else {
        return Verdict::Pass(Refusal::NotExplicit);
    };
    if case.personal == Personal::Sent && explicit_lifetime(headers, control).is_none_or(|said| age >= said.min(fresh))
    {
        // One client's page: a validator would tell it from another's, but a date does not.
        return Verdict::Pass(Refusal::Credentials);
    }
    let terms = Terms::of(fresh, control);
    let late = terms.while_revalidate.max(terms.if_error);
    if age < fresh || status.is_success() && validation::has_validator(headers) {
        Verdict::Store(Lifetime::For(terms))
    } else if terms.stale == Stale::Allowed && age < fresh.saturating_add(late) {
        // A peer served it so, and it serves those who wait.
        Verdict::Share(Refusal::Expired)
    } else if control.no_cache {
        Verdict::Pass(Refusal::NoCache)
    } else {
        Verdict::Pass(Refusal::Expired)
    }
}

/// Returns true if a response states that it is fresh for a time.
pub fn states_freshness(headers: &HeaderMap) -> bool {
    let control = CacheControl::of(headers);
    !control.no_cache && explicit_lifetime(headers, control).is_some_and(|stated| !stated.is_zero())
}

/// The statuses whose caching rules this cache knows (RFC 9110 §15.1 lists
/// those that are heuristically cacheable, and §15 tells of the redirects).
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 302 | 307 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Returns the reason why a response answers one request alone, whatever its name.
fn personal(case: Case, headers: &HeaderMap, control: CacheControl) -> Option<Refusal> {
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

    const TIMES: FallbackTtls =
        FallbackTtls { negative: NEGATIVE, heuristic: Duration::ZERO, hint: Duration::from_hours(24) };

    fn case(name: Name) -> Case {
        Case { name, credentials: Credentials::None, personal: Personal::Absent, times: TIMES }
    }

    fn judge_as(case: Case, status: u16, lines: &[(&str, &str)]) -> Verdict {
        verdict(case, StatusCode::from_u16(status).unwrap(), &headers(lines), Duration::ZERO)
    }

    fn judge(name: Name, status: u16, lines: &[(&str, &str)]) -> Verdict {
        judge_as(case(name), status, lines)
    }

    #[test]
    fn a_plain_name_needs_explicit_freshness() {
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
    fn credentials_are_shared_only_where_the_response_says_so() {
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
    fn freshness_is_guessed_within_what_the_operator_allows() {
        let guess = |status: u16, cap: u64, lines: &[(&str, &str)]| {
            let case =
                Case { times: FallbackTtls { heuristic: Duration::from_secs(cap), ..TIMES }, ..case(Name::Plain) };
            let dated = [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT")];
            let lines: Vec<_> = dated.iter().chain(lines).copied().collect();
            match verdict(case, StatusCode::from_u16(status).unwrap(), &headers(&lines), Duration::ZERO) {
                Verdict::Store(Lifetime::For(terms)) => Some(terms.fresh.as_secs()),
                _ => None,
            }
        };
        assert_eq!(guess(200, 3600, &[]), Some(100));
        assert_eq!(guess(200, 60, &[]), Some(60));
        assert_eq!(guess(200, 0, &[]), None);
        assert_eq!(guess(404, 3600, &[]), Some(100));
        assert_eq!(guess(302, 3600, &[]), None);
        assert_eq!(guess(302, 3600, &[("cache-control", "public")]), Some(100));
        assert_eq!(guess(200, 3600, &[("cache-control", "max-age=7")]), Some(7));
        assert_eq!(guess(200, 3600, &[("expires", "0")]), Some(0));
        assert_eq!(guess(200, 3600, &[("cache-control", "no-store")]), None);
    }

    #[test]
    fn a_cookie_is_shared_only_where_the_response_states_a_freshness() {
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
    fn a_proof_overrides_freshness_and_nothing_else() {
        let kept = |said: Option<u64>| Verdict::Store(Lifetime::UntilEvicted { said: said.map(Duration::from_secs) });
        let proven = |status, lines: &[(&str, &str)]| judge(Name::Proven, status, lines);
        for (lines, expected) in [
            (&[][..], kept(None)),
            (&[("cache-control", "max-age=60")], kept(Some(60))),
            (&[("cache-control", "no-cache")], kept(None)),
            (&[("vary", "Accept-Encoding, Origin")], kept(None)),
            (&[("cache-control", "private")], Verdict::Pass(Refusal::Private)),
            (&[("cache-control", "no-store")], Verdict::Pass(Refusal::NoStore)),
            (&[("set-cookie", "a=b")], Verdict::Pass(Refusal::SetCookie)),
            (&[("vary", "*")], Verdict::Pass(Refusal::Vary)),
        ] {
            assert_eq!(proven(200, lines), expected, "{lines:?}");
        }
        assert_eq!(proven(404, &[]), Verdict::Store(Lifetime::For(Terms::only(NEGATIVE))));
        assert_eq!(proven(404, &[("cache-control", "no-cache")]), Verdict::Share(Refusal::NoCache));
        assert_eq!(proven(404, &[("cache-control", "max-age=0")]), Verdict::Share(Refusal::Expired));
        assert_eq!(proven(503, &[]), Verdict::Share(Refusal::NotExplicit));
        assert_eq!(proven(302, &[]), Verdict::Share(Refusal::NotExplicit));
        assert_eq!(proven(206, &[]), Verdict::Pass(Refusal::Status));
        let authorized = Case { credentials: Credentials::Sent(7), ..case(Name::Proven) };
        assert_eq!(judge_as(authorized, 200, &[]), Verdict::Pass(Refusal::Credentials));
        assert_eq!(judge_as(authorized, 200, &[("cache-control", "public")]), kept(None));
    }

    #[test]
    fn a_hint_gives_a_day_where_the_origin_is_silent() {
        let hinted = Name::Hinted(FileType::of_path("/a.js").unwrap());
        let script = ("content-type", "text/javascript");
        let day = Verdict::Store(Lifetime::For(Terms::of(TIMES.hint, CacheControl::default())));
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
