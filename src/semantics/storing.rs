//! What may be stored, and who may have it: RFC 9111 §3.
//!
//! Where a response says nothing of its freshness, the name must prove that it
//! never changes, or the operator must allow a guess; a page with somebody's
//! cookie in it is never kept. There the RFC would allow more.

use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, SET_COOKIE, VARY};
use http::{HeaderMap, StatusCode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cache_control::{CacheControl, withheld};
use super::freshness::{Lifetime, Stale, Terms, explicit_lifetime, lifetime};
use super::validation;
use super::vary::{self, Varies};

/// Whether the name of an asset holds a hash (see [`crate::naming`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The name holds a hash: what it names never changes.
    Immutable,
    /// Any other name.
    Plain,
}

/// What a response is judged by, besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The name that it was asked for under.
    pub name: Name,
    /// Whether the request had an Authorization field.
    pub credentials: Credentials,
    /// How long a 404 for an immutable name is remembered.
    pub negative: Duration,
    /// The longest freshness that is guessed where none is stated.
    pub heuristic: Duration,
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

/// What to do with a response to a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep it, and let everybody who waits have it.
    Store(Lifetime),
    /// Everybody who waits may have it, but it is not kept: a failure to give
    /// an asset whose request held nothing personal.
    Share(Refusal),
    /// It belongs to the request that it answers.
    Pass(Refusal),
}

/// Why a response is not stored.
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
    /// It answers credentials, and does not say that others may have it.
    Credentials,
    /// It is stale as soon as it comes, and each validation brings another.
    Changing,
    /// It sets a cookie, so it is somebody's.
    SetCookie,
    /// It depends on request fields that the key does not hold.
    Vary,
    /// Neither explicit freshness nor a hash in its name.
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
    let name = case.name;
    let mut control = CacheControl::of(headers);
    if control.must_understand {
        // RFC 9111 §5.2.2.3: what is understood may be stored, `no-store` or not.
        if !is_understood(status) {
            return Verdict::Pass(Refusal::Status);
        }
        control.no_store = false;
    }
    match personal(case, headers, control) {
        // An error is for everybody who waits, also when it says `no-store`, as
        // errors do: nothing personal was in the request. So a failing origin
        // is asked once, not once for each of them.
        Some(Refusal::NoStore) if name == Name::Immutable && is_error(status) => {
            return Verdict::Share(Refusal::NoStore);
        }
        Some(refusal) => return Verdict::Pass(refusal),
        None => {}
    }
    if matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) {
        return Verdict::Pass(Refusal::Status);
    }
    match (name, status) {
        (Name::Immutable, StatusCode::OK) => {
            Verdict::Store(Lifetime::UntilEvicted { said: explicit_lifetime(headers, control) })
        }
        (Name::Immutable, StatusCode::NOT_FOUND) if case.negative.is_zero() => Verdict::Share(Refusal::Status),
        (Name::Immutable, StatusCode::NOT_FOUND) => {
            Verdict::Store(Lifetime::For(Terms::only(case.negative.saturating_add(age))))
        }
        (Name::Immutable, _) => match stated(case, status, headers, control, age) {
            Verdict::Pass(refusal) => Verdict::Share(refusal),
            other => other,
        },
        (Name::Plain, _) => stated(case, status, headers, control, age),
    }
}

/// RFC 9111 §3 and §4.2, for a response of any final status: what says for how
/// long it is fresh is stored, and what says that it is not, if it can be
/// validated.
fn stated(case: Case, status: StatusCode, headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    let fresh =
        if control.no_cache { Some(Duration::ZERO) } else { lifetime(status, headers, control, case.heuristic) };
    let Some(fresh) = fresh else {
        return Verdict::Pass(Refusal::NotExplicit);
    };
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

/// The statuses whose caching rules this cache knows (RFC 9110 §15.1 lists
/// those that are heuristically cacheable, and §15 tells of the redirects).
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 302 | 307 | 308 | 404 | 405 | 410 | 414 | 501)
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// What makes a response somebody's own, whatever its name.
fn personal(case: Case, headers: &HeaderMap, control: CacheControl) -> Option<Refusal> {
    if control.private {
        Some(Refusal::Private)
    } else if headers.contains_key(SET_COOKIE) && !withheld(headers).contains(&SET_COOKIE) {
        Some(Refusal::SetCookie)
    } else if control.no_store {
        Some(Refusal::NoStore)
    } else if case.credentials != Credentials::None && !control.shares_with_credentials() {
        Some(Refusal::Credentials)
    } else if !vary_is_known(case.name, headers) {
        Some(Refusal::Vary)
    } else {
        None
    }
}

/// Whether what a response varies by is known: for a name that holds a hash,
/// nothing but Accept-Encoding, for its fill asks for no content coding, and an
/// answer without one suits every client, whatever it accepts.
fn vary_is_known(name: Name, headers: &HeaderMap) -> bool {
    match (name, vary::varies(headers)) {
        (_, Varies::Not) | (Name::Plain, Varies::By(_)) => true,
        (_, Varies::Unknowably) => false,
        (Name::Immutable, Varies::By(fields)) => {
            !headers.contains_key(VARY) || fields == [ACCEPT_ENCODING] && !headers.contains_key(CONTENT_ENCODING)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    const NEGATIVE: Duration = Duration::from_secs(1);

    fn judge(name: Name, status: u16, lines: &[(&str, &str)]) -> Verdict {
        let case = Case { name, credentials: Credentials::None, negative: NEGATIVE, heuristic: Duration::ZERO };
        verdict(case, StatusCode::from_u16(status).unwrap(), &headers(lines), Duration::ZERO)
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
            (404, &[("cache-control", "no-cache"), ("etag", "\"a\"")], Verdict::Pass(NoCache)),
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
            (503, &[], Verdict::Pass(NotExplicit)),
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
            let case = Case {
                name: Name::Plain,
                credentials: Credentials::Sent(7),
                negative: NEGATIVE,
                heuristic: Duration::ZERO,
            };
            verdict(case, StatusCode::OK, &headers(&[("cache-control", control)]), Duration::ZERO)
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
            let case = Case {
                name: Name::Plain,
                credentials: Credentials::None,
                negative: NEGATIVE,
                heuristic: Duration::from_secs(cap),
            };
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
    fn an_immutable_name_is_kept_unless_it_is_somebodys() {
        let kept = |said: Option<u64>| Verdict::Store(Lifetime::UntilEvicted { said: said.map(Duration::from_secs) });
        assert_eq!(judge(Name::Immutable, 200, &[]), kept(None));
        assert_eq!(judge(Name::Immutable, 200, &[("cache-control", "max-age=60")]), kept(Some(60)));
        assert_eq!(judge(Name::Immutable, 200, &[("cache-control", "private")]), Verdict::Pass(Refusal::Private));
        assert_eq!(judge(Name::Immutable, 200, &[("set-cookie", "a=b")]), Verdict::Pass(Refusal::SetCookie));
        assert_eq!(judge(Name::Immutable, 404, &[]), Verdict::Store(Lifetime::For(Terms::only(NEGATIVE))));
        assert_eq!(judge(Name::Immutable, 503, &[]), Verdict::Share(Refusal::NotExplicit));
        assert_eq!(judge(Name::Immutable, 206, &[]), Verdict::Pass(Refusal::Status));
        let (by_coding, coded) = (("vary", "Accept-Encoding"), ("content-encoding", "gzip"));
        assert_eq!(judge(Name::Immutable, 200, &[by_coding]), kept(None));
        assert_eq!(judge(Name::Immutable, 200, &[coded]), kept(None));
        assert_eq!(judge(Name::Immutable, 200, &[by_coding, coded]), Verdict::Pass(Refusal::Vary));
        assert_eq!(judge(Name::Immutable, 200, &[("vary", "cookie")]), Verdict::Pass(Refusal::Vary));
        let no_store = ("cache-control", "no-store");
        assert_eq!(judge(Name::Immutable, 200, &[no_store]), Verdict::Pass(Refusal::NoStore));
        assert_eq!(judge(Name::Immutable, 502, &[no_store]), Verdict::Share(Refusal::NoStore));
        assert_eq!(judge(Name::Immutable, 403, &[no_store, ("set-cookie", "a=b")]), Verdict::Pass(Refusal::SetCookie));
        assert_eq!(judge(Name::Plain, 502, &[no_store]), Verdict::Pass(Refusal::NoStore));
    }
}
