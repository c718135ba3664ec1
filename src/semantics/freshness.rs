//! Freshness, and the use of stale responses (RFC 9111 §4.2, RFC 5861).
//!
//! Heuristic freshness requires the operator's permission (`cache.heuristic`). This is stricter
//! than the RFC.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use super::cache_control::{CacheControl, RequestControl, delta_seconds};
use super::date;

/// The time for which a stored response may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// Until eviction: the contents are verified against the digest in the name, and so never
    /// change.
    UntilEvicted {
        /// The explicit freshness lifetime of the response, if it has one.
        stated: Option<Duration>,
    },
    /// By the terms of the response.
    For(Terms),
}

impl Lifetime {
    /// Returns the freshness lifetime, if one is stated.
    pub fn stated(self) -> Option<Duration> {
        match self {
            Self::UntilEvicted { stated } => stated,
            Self::For(terms) => Some(terms.fresh),
        }
    }

    /// Returns the same lifetime with another freshness lifetime, if one is stated.
    pub fn lasting(self, fresh: Duration) -> Self {
        match self {
            Self::UntilEvicted { stated } => Self::UntilEvicted { stated: stated.map(|_| fresh) },
            Self::For(terms) => Self::For(Terms { fresh, ..terms }),
        }
    }
}

/// The freshness lifetime of a response, and the permitted use of the response when stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The freshness lifetime: the response is fresh while its age is below this (RFC 9111
    /// §4.2).
    pub fresh: Duration,
    /// The time after that for which it may be served while it is revalidated (RFC 5861 §3).
    pub while_revalidate: Duration,
    /// The time after [`fresh`](Self::fresh) for which it may be served if validation fails (RFC
    /// 5861 §4).
    pub if_error: Duration,
    /// The permission to serve it stale at all (RFC 9111 §4.2.4).
    pub stale: Stale,
    /// The stability of the response while it is fresh.
    pub changes: Changes,
}

/// The stability of a response while it is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Changes {
    /// It may change, as responses may by default.
    Possibly,
    /// It is `immutable` (RFC 8246 §2).
    Never,
}

/// The permission to serve a stale response (RFC 9111 §4.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stale {
    /// Allowed if the request or the response has a directive for it.
    Allowed,
    /// Forbidden by `must-revalidate` or a directive that implies it.
    Forbidden,
}

impl Terms {
    /// Returns terms with this freshness lifetime and no use of the response after it.
    pub fn only(fresh: Duration) -> Self {
        let none = Duration::ZERO;
        Self { fresh, while_revalidate: none, if_error: none, stale: Stale::Forbidden, changes: Changes::Possibly }
    }

    /// Returns the terms of a response with these directives and this freshness lifetime.
    pub(super) fn of(fresh: Duration, control: CacheControl) -> Self {
        Self {
            fresh,
            while_revalidate: control.stale_while_revalidate.unwrap_or_default(),
            if_error: control.stale_if_error.unwrap_or_default(),
            stale: if control.forbids_stale() { Stale::Forbidden } else { Stale::Allowed },
            changes: if control.immutable { Changes::Never } else { Changes::Possibly },
        }
    }

    /// Returns true if the response may be served at `age` when validation fails (RFC 5861 §4).
    pub fn serves_on_error(&self, age: Duration) -> bool {
        self.stale == Stale::Allowed && age <= self.fresh.saturating_add(self.if_error)
    }
}

/// The use of a stored response for a request (RFC 9111 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it: it is fresh, and fresh enough for this request.
    Fresh,
    /// Serve it stale: the request has a sufficient `max-stale`.
    Stale,
    /// Serve it stale, and revalidate it in the background.
    WhileRevalidate,
    /// Validate it first.
    Validate,
}

/// Decides the use of a stored response at `age` for a request with these directives (RFC 9111
/// §4.2, §4.2.4, §5.2.1).
///
/// A response under a verified name is never validated, regardless of the request's directives:
/// its contents cannot change. An `immutable` response is validated while it is fresh only for
/// `no-cache`; the `max-age=0` of a reload does not count (RFC 8246 §2).
///
/// ```
/// use std::time::Duration;
///
/// use peerage::semantics::cache_control::RequestControl;
/// use peerage::semantics::freshness::{Lifetime, Reuse, Terms, reuse};
///
/// let lifetime = Lifetime::For(Terms::only(Duration::from_secs(60)));
/// let request = RequestControl::default();
/// assert_eq!(reuse(lifetime, Duration::from_secs(59), &request), Reuse::Fresh);
/// assert_eq!(reuse(lifetime, Duration::from_secs(60), &request), Reuse::Validate);
/// ```
pub fn reuse(lifetime: Lifetime, age: Duration, request: &RequestControl) -> Reuse {
    let Lifetime::For(terms) = lifetime else {
        return Reuse::Fresh;
    };
    let immutable = terms.changes == Changes::Never && age < terms.fresh;
    if request.no_cache || !immutable && request.max_age.is_some_and(|max| age > max) {
        return Reuse::Validate;
    }
    let remaining = terms.fresh.saturating_sub(age);
    if age < terms.fresh {
        let enough = request.min_fresh.is_none_or(|min| remaining >= min);
        return if enough { Reuse::Fresh } else { Reuse::Validate };
    }
    let staleness = age.saturating_sub(terms.fresh);
    if terms.stale == Stale::Forbidden || request.min_fresh.is_some() {
        Reuse::Validate
    } else if request.max_stale.is_some_and(|max| staleness <= max) {
        Reuse::Stale
    } else if staleness < terms.while_revalidate {
        Reuse::WhileRevalidate
    } else {
        Reuse::Validate
    }
}

/// Returns true if a response at `age` must be validated before it answers another request than
/// the one that it was fetched for (RFC 9111 §4): it is stale, and may not be served stale.
pub fn must_be_validated(lifetime: Lifetime, age: Duration) -> bool {
    reuse(lifetime, age, &RequestControl::default()) == Reuse::Validate
}

/// Returns the explicit freshness lifetime of a response, or else a heuristic one of at most
/// `heuristic` (RFC 9111 §4.2.1, §4.2.2). `None` if the response has neither.
pub(super) fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: CacheControl,
    heuristic: Duration,
) -> Option<Duration> {
    explicit_lifetime(headers, control).or_else(|| {
        let allows_heuristic = control.public || is_heuristically_cacheable(status);
        let lifetime = heuristic_lifetime(headers).filter(|_| allows_heuristic)?.min(heuristic);
        (!lifetime.is_zero()).then_some(lifetime)
    })
}

/// Returns a tenth of the time from Last-Modified to Date, as RFC 9111 §4.2.2 suggests.
fn heuristic_lifetime(headers: &HeaderMap) -> Option<Duration> {
    let unchanged = date::read(headers, &DATE)?.duration_since(date::read(headers, &LAST_MODIFIED)?).ok()?;
    Some(Duration::from_secs(unchanged.as_secs() / 10))
}

/// Returns true for statuses that allow heuristic freshness (RFC 9110 §15.1).
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Returns the explicit freshness lifetime of a response in a shared cache (RFC 9111 §4.2.1):
/// s-maxage, or max-age, or Expires minus Date.
///
/// An invalid Expires means "already expired" (§5.3), which is zero. `None` if the response
/// states no lifetime.
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

/// Returns the age of a response on arrival (RFC 9111 §4.2.3, `corrected_initial_age`). It was
/// requested at `requested` and received at `now`.
pub fn initial_age(headers: &HeaderMap, requested: SystemTime, now: SystemTime) -> Duration {
    let apparent = date::read(headers, &DATE).and_then(|sent| now.duration_since(sent).ok()).unwrap_or_default();
    // Date has whole seconds. With the clock's fraction of a second, even a response of the
    // current second would have an age.
    let apparent = Duration::from_secs(apparent.as_secs());
    // Of a list, the first member counts (§5.1).
    let first = headers.get(AGE).and_then(|line| line.as_bytes().split(|&byte| byte == b',').next());
    let stated = first.and_then(|age| delta_seconds(age.trim_ascii())).unwrap_or_default();
    let delay = now.duration_since(requested).unwrap_or_default();
    apparent.max(stated + delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    #[test]
    fn reuse_depends_on_age_terms_and_request_directives() {
        use Reuse::{Fresh, Stale as ServedStale, Validate, WhileRevalidate};
        let seconds = Duration::from_secs;
        let terms = Terms {
            while_revalidate: seconds(10),
            if_error: seconds(20),
            stale: Stale::Allowed,
            ..Terms::only(seconds(60))
        };
        let immutable = Terms { changes: Changes::Never, ..terms };
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
            (immutable, 6, RequestControl { max_age: Some(seconds(0)), ..none }, Fresh),
            (immutable, 6, RequestControl { no_cache: true, ..none }, Validate),
            (immutable, 66, RequestControl { max_age: Some(seconds(0)), ..none }, Validate),
            (terms, 50, RequestControl { min_fresh: Some(seconds(10)), ..none }, Fresh),
            (terms, 51, RequestControl { min_fresh: Some(seconds(10)), ..none }, Validate),
            (terms, 61, RequestControl { min_fresh: Some(seconds(0)), ..none }, Validate),
            (terms, 90, RequestControl { max_stale: Some(seconds(30)), ..none }, ServedStale),
            (terms, 91, RequestControl { max_stale: Some(seconds(30)), ..none }, Validate),
            (strict, 61, RequestControl { max_stale: Some(seconds(30)), ..none }, Validate),
        ] {
            assert_eq!(reuse(Lifetime::For(terms), seconds(age), &request), expected, "{age} {request:?}");
        }
        let verified = Lifetime::UntilEvicted { stated: Some(seconds(1)) };
        assert_eq!(reuse(verified, seconds(99), &RequestControl { no_cache: true, ..none }), Fresh);
        assert!(
            terms.serves_on_error(seconds(80))
                && !terms.serves_on_error(seconds(81))
                && !strict.serves_on_error(seconds(61))
        );
    }

    #[test]
    fn initial_age_is_that_of_date_or_of_age_with_the_delay() {
        let requested = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let received = requested + Duration::from_millis(1500);
        for (lines, millis) in [
            (&[][..], 1500),
            (&[("date", "Sun, 06 Nov 1994 08:49:38 GMT")], 1500),
            (&[("date", "Sun, 06 Nov 1994 08:49:28 GMT")], 10_000),
            (&[("date", "Sun, 06 Nov 1994 09:49:28 GMT")], 1500),
            (&[("age", "7")], 8_500),
            (&[("age", "7, 9")], 8_500),
            (&[("age", "-7")], 1500),
        ] {
            assert_eq!(initial_age(&headers(lines), requested, received), Duration::from_millis(millis), "{lines:?}");
        }
    }
}
