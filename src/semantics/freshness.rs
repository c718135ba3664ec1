//! For how long a response is fresh, and what follows on it: RFC 9111 §4.2.
//!
//! Where a response says nothing of its freshness, the operator must allow a
//! guess; there the RFC would allow more.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use super::cache_control::{CacheControl, RequestControl, delta_seconds};
use super::date;

/// How long a stored response may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// Its name proves that it never changes; `said` is what the origin said.
    UntilEvicted {
        /// The explicit lifetime, if the response has one.
        said: Option<Duration>,
    },
    /// As the response says.
    For(Terms),
}

impl Lifetime {
    /// For how long it is fresh, where that is stated.
    pub fn stated(self) -> Option<Duration> {
        match self {
            Self::UntilEvicted { said } => said,
            Self::For(terms) => Some(terms.fresh),
        }
    }

    /// The same, but fresh for so long where that is stated.
    pub fn lasting(self, fresh: Duration) -> Self {
        match self {
            Self::UntilEvicted { said } => Self::UntilEvicted { said: said.map(|_| fresh) },
            Self::For(terms) => Self::For(Terms { fresh, ..terms }),
        }
    }
}

/// What a response says of its freshness, and of what may follow on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Fresh while its age is below this (RFC 9111 §4.2).
    pub fresh: Duration,
    /// How long after that it may be served while it is validated (RFC 5861 §3).
    pub while_revalidate: Duration,
    /// How long after that it may be served when validation fails (RFC 5861 §4).
    pub if_error: Duration,
    /// Whether a stale response may be served at all (RFC 9111 §4.2.4).
    pub stale: Stale,
    /// Whether it may change while it is fresh.
    pub changes: Changes,
}

/// Whether a response may change while it is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Changes {
    /// As any response may.
    Possibly,
    /// It says `immutable` (RFC 8246).
    Never,
}

/// Whether a response may be served when it is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stale {
    /// If the client says so, or the response itself.
    Allowed,
    /// `must-revalidate`, or a directive that holds it.
    Forbidden,
}

impl Terms {
    /// Fresh for so long, and nothing after.
    pub fn only(fresh: Duration) -> Self {
        let none = Duration::ZERO;
        Self { fresh, while_revalidate: none, if_error: none, stale: Stale::Forbidden, changes: Changes::Possibly }
    }

    pub(super) fn of(fresh: Duration, control: CacheControl) -> Self {
        Self {
            fresh,
            while_revalidate: control.stale_while_revalidate.unwrap_or_default(),
            if_error: control.stale_if_error.unwrap_or_default(),
            stale: if control.forbids_stale() { Stale::Forbidden } else { Stale::Allowed },
            changes: if control.immutable { Changes::Never } else { Changes::Possibly },
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
    } else if over < terms.while_revalidate {
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

/// The freshness lifetime that a response states, or else a guess of at most `heuristic`.
pub(super) fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: CacheControl,
    heuristic: Duration,
) -> Option<Duration> {
    explicit_lifetime(headers, control).or_else(|| {
        let may_be_guessed = control.public || is_heuristically_cacheable(status);
        let guess = guessed_lifetime(headers).filter(|_| may_be_guessed)?.min(heuristic);
        (!guess.is_zero()).then_some(guess)
    })
}

/// A tenth of the time for which it had not changed when it was sent: what
/// RFC 9111 §4.2.2 suggests.
fn guessed_lifetime(headers: &HeaderMap) -> Option<Duration> {
    let unchanged = date::read(headers, &DATE)?.duration_since(date::read(headers, &LAST_MODIFIED)?).ok()?;
    Some(Duration::from_secs(unchanged.as_secs() / 10))
}

/// RFC 9110 §15.1.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
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
    let (Some(expires), Some(sent)) = (date::read(headers, &EXPIRES), date::read(headers, &DATE)) else {
        return Some(Duration::ZERO);
    };
    Some(expires.duration_since(sent).unwrap_or_default())
}

/// The age that a response has on arrival (RFC 9111 §4.2.3,
/// `corrected_initial_age`); it was asked for at `asked` and came at `now`.
pub fn initial_age(headers: &HeaderMap, asked: SystemTime, now: SystemTime) -> Duration {
    let apparent = date::read(headers, &DATE).and_then(|sent| now.duration_since(sent).ok()).unwrap_or_default();
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

    #[test]
    fn when_a_stored_response_answers() {
        use Reuse::{Fresh, Stale as Taken, Validate, WhileRevalidate};
        let seconds = Duration::from_secs;
        let terms = Terms {
            while_revalidate: seconds(10),
            if_error: seconds(20),
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
