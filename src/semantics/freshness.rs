//! What may be stored, and for how long it is fresh: RFC 9111 §3 and §4.2.
//!
//! Where a response says nothing of its freshness, the name must prove that it
//! never changes, or the operator must allow a guess; a page with somebody's
//! cookie in it is never kept. There the RFC would allow more.

use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CONTENT_ENCODING, DATE, EXPIRES, LAST_MODIFIED, SET_COOKIE, VARY,
};
use http::{HeaderMap, StatusCode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cache_control::{CacheControl, RequestControl, delta_seconds, withheld};
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

/// How long a stored response may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Its name proves that it never changes; `said` is what the origin said.
    UntilEvicted {
        /// The explicit lifetime, if the response has one.
        said: Option<Duration>,
    },
    /// As the response says.
    For(Terms),
}

/// What a response says of its freshness, and of what may follow on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Fresh while its age is below this (RFC 9111 §4.2).
    pub fresh: Duration,
    /// How long after that it may be served while it is validated (RFC 5861 §3).
    pub while_revalidate: Seconds,
    /// How long after that it may be served when validation fails (RFC 5861 §4).
    pub if_error: Seconds,
    /// Whether a stale response may be served at all (RFC 9111 §4.2.4).
    pub stale: Stale,
    /// Whether it may change while it is fresh.
    pub changes: Changes,
}

/// As a directive states a span (RFC 9111 §1.2.2), in less room than a [`Duration`]:
/// each stored response has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(u32);

impl From<Duration> for Seconds {
    /// What is beyond 136 years is as good as that.
    fn from(span: Duration) -> Self {
        Self(u32::try_from(span.as_secs()).unwrap_or(u32::MAX))
    }
}

impl From<Seconds> for Duration {
    fn from(Seconds(seconds): Seconds) -> Self {
        Self::from_secs(seconds.into())
    }
}

/// Whether a response may change while it is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// As any response may.
    Possibly,
    /// It says `immutable` (RFC 8246).
    Never,
}

/// Whether a response may be served when it is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// If the client says so, or the response itself.
    Allowed,
    /// `must-revalidate`, or a directive that holds it.
    Forbidden,
}

impl Terms {
    /// Fresh for so long, and nothing after.
    pub fn only(fresh: Duration) -> Self {
        let none = Seconds::default();
        Self { fresh, while_revalidate: none, if_error: none, stale: Stale::Forbidden, changes: Changes::Possibly }
    }

    fn of(fresh: Duration, control: CacheControl) -> Self {
        Self {
            fresh,
            while_revalidate: control.stale_while_revalidate.unwrap_or_default().into(),
            if_error: control.stale_if_error.unwrap_or_default().into(),
            stale: if control.forbids_stale() { Stale::Forbidden } else { Stale::Allowed },
            changes: if control.immutable { Changes::Never } else { Changes::Possibly },
        }
    }

    /// Whether it may be served, stale as it is at `age`, when validation fails.
    pub fn serves_on_error(&self, age: Duration) -> bool {
        self.stale == Stale::Allowed && age <= self.fresh.saturating_add(self.if_error.into())
    }
}

/// Whether a stored response answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is fresh, and fresh enough for this request.
    Fresh,
    /// It is stale, and the client says that it takes it so.
    Stale,
    /// It is stale, and may be served while it is validated in the background.
    WhileRevalidate,
    /// It must be validated first.
    Validate,
}

/// Decides whether a response whose age is `age` answers `request` (RFC 9111
/// §4.2, §4.2.4, §5.2.1). A name that holds a hash is not validated, whatever
/// the request says: there is nothing that it could have become. A response
/// that says `immutable` is validated while it is fresh only if the request
/// says `no-cache`; a reload's `max-age=0` does not count (RFC 8246 §2).
pub fn reuse(lifetime: Lifetime, age: Duration, request: &RequestControl) -> Reuse {
    let Lifetime::For(terms) = lifetime else {
        return Reuse::Fresh;
    };
    let settled = terms.changes == Changes::Never && age < terms.fresh;
    if request.no_cache || !settled && request.max_age.is_some_and(|most| age > most) {
        return Reuse::Validate;
    }
    let left = terms.fresh.saturating_sub(age);
    if age < terms.fresh {
        let enough = request.min_fresh.is_none_or(|least| left >= least);
        return if enough { Reuse::Fresh } else { Reuse::Validate };
    }
    let over = age.saturating_sub(terms.fresh);
    if terms.stale == Stale::Forbidden || request.min_fresh.is_some() {
        Reuse::Validate
    } else if request.max_stale.is_some_and(|most| over <= most) {
        Reuse::Stale
    } else if over < Duration::from(terms.while_revalidate) {
        Reuse::WhileRevalidate
    } else {
        Reuse::Validate
    }
}

/// Whether a response whose age is `age` answers no request but the one that it
/// was asked for (§4): it is neither fresh nor may be served stale as it is.
pub fn must_be_validated(lifetime: Lifetime, age: Duration) -> bool {
    reuse(lifetime, age, &RequestControl::default()) == Reuse::Validate
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
    let fresh = if control.no_cache { Some(Duration::ZERO) } else { lifetime(case, status, headers, control) };
    let Some(fresh) = fresh else {
        return Verdict::Pass(Refusal::NotExplicit);
    };
    let terms = Terms::of(fresh, control);
    let late = terms.while_revalidate.max(terms.if_error);
    if age < fresh || status.is_success() && validation::has_validator(headers) {
        Verdict::Store(Lifetime::For(terms))
    } else if terms.stale == Stale::Allowed && age < fresh.saturating_add(late.into()) {
        // A peer served it so, and it serves those who wait.
        Verdict::Share(Refusal::Expired)
    } else if control.no_cache {
        Verdict::Pass(Refusal::NoCache)
    } else {
        Verdict::Pass(Refusal::Expired)
    }
}

fn lifetime(case: Case, status: StatusCode, headers: &HeaderMap, control: CacheControl) -> Option<Duration> {
    explicit_lifetime(headers, control).or_else(|| {
        let may_be_guessed = control.public || is_heuristically_cacheable(status);
        let guess = guessed_lifetime(headers).filter(|_| may_be_guessed)?.min(case.heuristic);
        (!guess.is_zero()).then_some(guess)
    })
}

/// A tenth of the time for which it had not changed when it was sent: what
/// RFC 9111 §4.2.2 suggests.
fn guessed_lifetime(headers: &HeaderMap) -> Option<Duration> {
    let unchanged = date(headers, &DATE)?.duration_since(date(headers, &LAST_MODIFIED)?).ok()?;
    Some(Duration::from_secs(unchanged.as_secs() / 10))
}

/// RFC 9110 §15.1.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

fn date(headers: &HeaderMap, field: &http::HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(field)?.to_str().ok()?).ok()
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

/// The freshness lifetime that the response states itself, for a shared cache
/// (RFC 9111 §4.2.1): s-maxage, then max-age, then Expires less Date. An
/// Expires that is no date means "already expired" (§5.3).
pub fn explicit_lifetime(headers: &HeaderMap, control: CacheControl) -> Option<Duration> {
    if let Some(lifetime) = control.s_maxage.or(control.max_age) {
        return Some(lifetime);
    }
    if control.targeted {
        return None;
    }
    if !headers.contains_key(EXPIRES) {
        return None;
    }
    let (Some(expires), Some(sent)) = (date(headers, &EXPIRES), date(headers, &DATE)) else {
        return Some(Duration::ZERO);
    };
    Some(expires.duration_since(sent).unwrap_or_default())
}

/// The age that a response has on arrival (RFC 9111 §4.2.3,
/// `corrected_initial_age`); it was asked for at `asked` and came at `now`.
pub fn initial_age(headers: &HeaderMap, asked: SystemTime, now: SystemTime) -> Duration {
    let apparent = date(headers, &DATE).and_then(|sent| now.duration_since(sent).ok()).unwrap_or_default();
    // Only whole seconds can be told from a Date: a fraction would make
    // everything at least as old as the clock is past its second.
    let apparent = Duration::from_secs(apparent.as_secs());
    // §5.1: of a list, the first member counts.
    let first = headers.get(AGE).and_then(|said| said.as_bytes().split(|&byte| byte == b',').next());
    let said = first.and_then(|age| delta_seconds(age.trim_ascii())).unwrap_or_default();
    let delay = now.duration_since(asked).unwrap_or_default();
    apparent.max(said + delay)
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

    #[test]
    fn when_a_stored_response_answers() {
        use Reuse::{Fresh, Stale as Taken, Validate, WhileRevalidate};
        let seconds = Duration::from_secs;
        let terms = Terms {
            while_revalidate: seconds(10).into(),
            if_error: seconds(20).into(),
            stale: Stale::Allowed,
            ..Terms::only(seconds(60))
        };
        let settled = Terms { changes: Changes::Never, ..terms };
        let strict = Terms { stale: Stale::Forbidden, ..terms };
        let none = RequestControl::default();
        for (terms, age, request, expected) in [
            (terms, 0, none, Fresh),
            (terms, 59, none, Fresh),
            (terms, 60, none, WhileRevalidate),
            (terms, 70, none, Validate),
            (strict, 60, none, Validate),
            (terms, 5, RequestControl { no_cache: true, ..none }, Validate),
            (terms, 5, RequestControl { max_age: Some(seconds(5)), ..none }, Fresh),
            (terms, 6, RequestControl { max_age: Some(seconds(5)), ..none }, Validate),
            (settled, 6, RequestControl { max_age: Some(seconds(0)), ..none }, Fresh),
            (settled, 6, RequestControl { no_cache: true, ..none }, Validate),
            (settled, 66, RequestControl { max_age: Some(seconds(0)), ..none }, Validate),
            (terms, 50, RequestControl { min_fresh: Some(seconds(10)), ..none }, Fresh),
            (terms, 51, RequestControl { min_fresh: Some(seconds(10)), ..none }, Validate),
            (terms, 61, RequestControl { min_fresh: Some(seconds(0)), ..none }, Validate),
            (terms, 90, RequestControl { max_stale: Some(seconds(30)), ..none }, Taken),
            (terms, 91, RequestControl { max_stale: Some(seconds(30)), ..none }, Validate),
            (strict, 61, RequestControl { max_stale: Some(seconds(30)), ..none }, Validate),
        ] {
            assert_eq!(reuse(Lifetime::For(terms), seconds(age), &request), expected, "{age} {request:?}");
        }
        let immutable = Lifetime::UntilEvicted { said: Some(seconds(1)) };
        assert_eq!(reuse(immutable, seconds(99), &RequestControl { no_cache: true, ..none }), Fresh);
        assert!(
            terms.serves_on_error(seconds(80))
                && !terms.serves_on_error(seconds(81))
                && !strict.serves_on_error(seconds(61))
        );
    }

    #[test]
    fn age_on_arrival() {
        let asked = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let came = asked + Duration::from_millis(1500);
        for (lines, millis) in [
            (&[][..], 1500),
            (&[("date", "Sun, 06 Nov 1994 08:49:38 GMT")], 1500),
            (&[("date", "Sun, 06 Nov 1994 08:49:28 GMT")], 10_000),
            (&[("date", "Sun, 06 Nov 1994 09:49:28 GMT")], 1500),
            (&[("age", "7")], 8_500),
            (&[("age", "7, 9")], 8_500),
            (&[("age", "-7")], 1500),
        ] {
            assert_eq!(initial_age(&headers(lines), asked, came), Duration::from_millis(millis), "{lines:?}");
        }
    }
}
