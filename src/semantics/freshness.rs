//! What may be stored, and for how long it is fresh: RFC 9111 §3 and §4.2.
//!
//! This is the part that the cluster needs: names that hold a hash, and
//! explicit freshness. Where the RFC would allow more, the answer is "no".

use std::time::{Duration, SystemTime};

use http::header::{AGE, CONTENT_ENCODING, DATE, EXPIRES, SET_COOKIE, VARY};
use http::{HeaderMap, StatusCode};

use super::cache_control::{CacheControl, delta_seconds};

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
    /// Fresh while its age is below this.
    For(Duration),
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
    let control = CacheControl::of(headers);
    match personal(headers, control) {
        // An error is for everybody who waits, also when it says `no-store`, as
        // errors do: nothing personal was in the request. So a failing origin
        // is asked once, not once for each of them.
        Some(Refusal::NoStore) if name == Name::Immutable && is_error(status) => {
            return Verdict::Share(Refusal::NoStore);
        }
        Some(refusal) => return Verdict::Pass(refusal),
        None => {}
    }
    match (name, status) {
        (Name::Immutable, StatusCode::OK) => {
            Verdict::Store(Lifetime::UntilEvicted { said: explicit_lifetime(headers, control) })
        }
        (Name::Immutable, StatusCode::NOT_FOUND) if negative.is_zero() => Verdict::Share(Refusal::Status),
        (Name::Immutable, StatusCode::NOT_FOUND) => Verdict::Store(Lifetime::For(negative.saturating_add(age))),
        (Name::Immutable, status) if status.as_u16() >= 300 => Verdict::Share(Refusal::Status),
        (Name::Plain, StatusCode::OK) => plain(headers, control, age),
        _ => Verdict::Pass(Refusal::Status),
    }
}

fn plain(headers: &HeaderMap, control: CacheControl, age: Duration) -> Verdict {
    if control.no_cache {
        return Verdict::Pass(Refusal::NoCache);
    }
    match explicit_lifetime(headers, control) {
        None => Verdict::Pass(Refusal::NotExplicit),
        Some(lifetime) if lifetime <= age => Verdict::Pass(Refusal::Expired),
        Some(lifetime) => Verdict::Store(Lifetime::For(lifetime)),
    }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// What makes a response somebody's own, whatever its name.
fn personal(headers: &HeaderMap, control: CacheControl) -> Option<Refusal> {
    if control.private {
        Some(Refusal::Private)
    } else if headers.contains_key(SET_COOKIE) {
        Some(Refusal::SetCookie)
    } else if control.no_store {
        Some(Refusal::NoStore)
    } else if !vary_is_harmless(headers) {
        Some(Refusal::Vary)
    } else {
        None
    }
}

/// A fill asks for no content coding, so an answer without one suits every
/// client, whatever it accepts: `Vary: Accept-Encoding` is then no obstacle.
fn vary_is_harmless(headers: &HeaderMap) -> bool {
    headers.get_all(VARY).iter().all(|line| {
        line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).all(|field| {
            field.is_empty()
                || field.eq_ignore_ascii_case(b"accept-encoding") && !headers.contains_key(CONTENT_ENCODING)
        })
    })
}

/// The freshness lifetime that the response states itself, for a shared cache
/// (RFC 9111 §4.2.1): s-maxage, then max-age, then Expires less Date. An
/// Expires that is no date means "already expired" (§5.3).
pub fn explicit_lifetime(headers: &HeaderMap, control: CacheControl) -> Option<Duration> {
    if let Some(lifetime) = control.s_maxage.or(control.max_age) {
        return Some(lifetime);
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
    use http::HeaderName;

    use super::*;

    const NEGATIVE: Duration = Duration::from_secs(1);

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn judge(name: Name, status: u16, lines: &[(&str, &str)]) -> Verdict {
        verdict(name, StatusCode::from_u16(status).unwrap(), &headers(lines), Duration::ZERO, NEGATIVE)
    }

    #[test]
    fn a_plain_name_needs_explicit_freshness() {
        use Refusal::{Expired, NoCache, NoStore, NotExplicit, Private, SetCookie, Status, Vary};
        let stored = |seconds| Verdict::Store(Lifetime::For(Duration::from_secs(seconds)));
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (status, lines, expected) in [
            (200, &[][..], Verdict::Pass(NotExplicit)),
            (200, &[("cache-control", "max-age=60")], stored(60)),
            (200, &[("cache-control", "max-age=60, s-maxage=5")], stored(5)),
            (200, &[("cache-control", "max-age=0")], Verdict::Pass(Expired)),
            (200, &[date, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], stored(60)),
            (200, &[date, ("expires", "0")], Verdict::Pass(Expired)),
            (200, &[("cache-control", "max-age=60, no-store")], Verdict::Pass(NoStore)),
            (200, &[("cache-control", "max-age=60, private")], Verdict::Pass(Private)),
            (200, &[("cache-control", "max-age=60, no-cache")], Verdict::Pass(NoCache)),
            (200, &[("cache-control", "max-age=60"), ("set-cookie", "a=b")], Verdict::Pass(SetCookie)),
            (200, &[("cache-control", "max-age=60"), ("vary", "cookie")], Verdict::Pass(Vary)),
            (200, &[("cache-control", "max-age=60"), ("vary", "Accept-Encoding")], stored(60)),
            (
                200,
                &[("cache-control", "max-age=60"), ("vary", "Accept-Encoding"), ("content-encoding", "gzip")],
                Verdict::Pass(Vary),
            ),
            (404, &[("cache-control", "max-age=60")], Verdict::Pass(Status)),
            (503, &[], Verdict::Pass(Status)),
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
        assert_eq!(judge(Name::Immutable, 404, &[]), Verdict::Store(Lifetime::For(NEGATIVE)));
        assert_eq!(judge(Name::Immutable, 503, &[]), Verdict::Share(Refusal::Status));
        assert_eq!(judge(Name::Immutable, 206, &[]), Verdict::Pass(Refusal::Status));
        let no_store = ("cache-control", "no-store");
        assert_eq!(judge(Name::Immutable, 200, &[no_store]), Verdict::Pass(Refusal::NoStore));
        assert_eq!(judge(Name::Immutable, 502, &[no_store]), Verdict::Share(Refusal::NoStore));
        assert_eq!(judge(Name::Immutable, 403, &[no_store, ("set-cookie", "a=b")]), Verdict::Pass(Refusal::SetCookie));
        assert_eq!(judge(Name::Plain, 502, &[no_store]), Verdict::Pass(Refusal::NoStore));
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
