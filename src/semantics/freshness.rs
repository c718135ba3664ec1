//! What may be stored, and for how long it is fresh: RFC 9111 §3 and §4.2.
//!
//! This is the part that the cluster needs: names that hold a hash, and
//! explicit freshness. Where the RFC would allow more, the answer is "no".

use std::time::{Duration, SystemTime};

use http::header::{ACCEPT_ENCODING, AGE, CONTENT_ENCODING, DATE, EXPIRES, SET_COOKIE, VARY};
use http::{HeaderMap, StatusCode};

use super::cache_control::{CacheControl, RequestControl, delta_seconds};
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
    pub while_revalidate: Duration,
    /// How long after that it may be served when validation fails (RFC 5861 §4).
    pub if_error: Duration,
    /// Whether a stale response may be served at all (RFC 9111 §4.2.4).
    pub stale: Stale,
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
        Self { fresh, while_revalidate: Duration::ZERO, if_error: Duration::ZERO, stale: Stale::Forbidden }
    }

    fn of(fresh: Duration, control: CacheControl) -> Self {
        Self {
            fresh,
            while_revalidate: control.stale_while_revalidate.unwrap_or_default(),
            if_error: control.stale_if_error.unwrap_or_default(),
            stale: if control.forbids_stale() { Stale::Forbidden } else { Stale::Allowed },
        }
    }

    /// Whether it may be served, stale as it is at `age`, when validation fails.
    pub fn serves_on_error(&self, age: Duration) -> bool {
        self.stale == Stale::Allowed && age <= self.fresh.saturating_add(self.if_error)
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
/// the request says: there is nothing that it could have become (RFC 8246 has
/// the same in mind for a reload).
pub fn reuse(lifetime: Lifetime, age: Duration, request: &RequestControl) -> Reuse {
    let Lifetime::For(terms) = lifetime else {
        return Reuse::Fresh;
    };
    if request.no_cache || request.max_age.is_some_and(|most| age > most) {
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
    } else if over < terms.while_revalidate {
        Reuse::WhileRevalidate
    } else {
        Reuse::Validate
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
    /// It would have to be validated each time.
    NoCache,
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
        self != Self::NoRoom
    }
}

/// Decides about a final response to a GET whose name is `name` and whose age
/// on arrival is `age`; `negative` is how long a 404 for an immutable name is
/// remembered.
pub fn verdict(name: Name, status: StatusCode, headers: &HeaderMap, age: Duration, negative: Duration) -> Verdict {
    let mut control = CacheControl::of(headers);
    if control.must_understand {
        // RFC 9111 §5.2.2.3: what is understood may be stored, `no-store` or not.
        if !is_understood(status) {
            return Verdict::Pass(Refusal::Status);
        }
        control.no_store = false;
    }
    match personal(name, headers, control) {
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
        (Name::Immutable, StatusCode::NOT_FOUND) if negative.is_zero() => Verdict::Share(Refusal::Status),
        (Name::Immutable, StatusCode::NOT_FOUND) => {
            Verdict::Store(Lifetime::For(Terms::only(negative.saturating_add(age))))
        }
        (Name::Immutable, _) => match explicit(headers, control, age) {
            Verdict::Pass(refusal) => Verdict::Share(refusal),
            other => other,
        },
        (Name::Plain, _) => explicit(headers, control, age),
    }
}

/// RFC 9111 §3 and §4.2.1, for a response of any final status: what says for
/// how long it is fresh is stored.
fn explicit(headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    if control.no_cache {
        return Verdict::Pass(Refusal::NoCache);
    }
    let Some(fresh) = explicit_lifetime(headers, control) else {
        return Verdict::Pass(Refusal::NotExplicit);
    };
    let terms = Terms::of(fresh, control);
    if age < fresh {
        return Verdict::Store(Lifetime::For(terms));
    }
    // Stale when it came: a peer served it so, and it serves those who wait.
    let late = terms.while_revalidate.max(terms.if_error);
    if terms.stale == Stale::Allowed && age < fresh.saturating_add(late) {
        Verdict::Share(Refusal::Expired)
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
fn personal(name: Name, headers: &HeaderMap, control: CacheControl) -> Option<Refusal> {
    if control.private {
        Some(Refusal::Private)
    } else if headers.contains_key(SET_COOKIE) {
        Some(Refusal::SetCookie)
    } else if control.no_store {
        Some(Refusal::NoStore)
    } else if !vary_is_known(name, headers) {
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
    let expires = headers.get(EXPIRES)?;
    let at = |value: &http::HeaderValue| httpdate::parse_http_date(value.to_str().ok()?).ok();
    let (Some(expires), Some(date)) = (at(expires), headers.get(DATE).and_then(at)) else {
        return Some(Duration::ZERO);
    };
    Some(expires.duration_since(date).unwrap_or_default())
}

/// The age that a response has on arrival (RFC 9111 §4.2.3,
/// `corrected_initial_age`); it was asked for at `asked` and came at `now`.
pub fn initial_age(headers: &HeaderMap, asked: SystemTime, now: SystemTime) -> Duration {
    let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let apparent = date.and_then(|date| now.duration_since(date).ok()).unwrap_or_default();
    // Only whole seconds can be told from a Date: a fraction would make
    // everything at least as old as the clock is past its second.
    let apparent = Duration::from_secs(apparent.as_secs());
    let Some(said) = headers.get(AGE) else {
        return apparent;
    };
    // §5.1: of a list, the first member counts.
    let said = said.as_bytes().split(|&byte| byte == b',').next().and_then(|age| delta_seconds(age.trim_ascii()));
    let delay = now.duration_since(asked).unwrap_or_default();
    said.map_or(apparent, |said| apparent.max(said + delay))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::semantics::tests::headers;

    const NEGATIVE: Duration = Duration::from_secs(1);

    fn judge(name: Name, status: u16, lines: &[(&str, &str)]) -> Verdict {
        verdict(name, StatusCode::from_u16(status).unwrap(), &headers(lines), Duration::ZERO, NEGATIVE)
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
        let terms =
            Terms { fresh: seconds(60), while_revalidate: seconds(10), if_error: seconds(20), stale: Stale::Allowed };
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
            (&[][..], 0),
            (&[("date", "Sun, 06 Nov 1994 08:49:38 GMT")], 0),
            (&[("date", "Sun, 06 Nov 1994 08:49:28 GMT")], 10_000),
            (&[("date", "Sun, 06 Nov 1994 09:49:28 GMT")], 0),
            (&[("age", "7")], 8_500),
            (&[("age", "7, 9")], 8_500),
            (&[("age", "-7")], 0),
        ] {
            assert_eq!(initial_age(&headers(lines), asked, came), Duration::from_millis(millis), "{lines:?}");
        }
    }
}
