//! Cache-Control (RFC 9111 §5.2) and CDN-Cache-Control (RFC 9213).

use std::time::Duration;

use http::header::{CACHE_CONTROL, IF_MATCH, IF_UNMODIFIED_SINCE, PRAGMA};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::combined;

/// The greatest delta-seconds, in seconds: RFC 9111 §1.2.2 has a cache read any greater value
/// as 2^31.
pub const MAX_DELTA: u64 = 1 << 31;

/// The CDN-Cache-Control header (RFC 9213 §3): for caches of CDNs, with precedence over
/// Cache-Control and Expires.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The response directives for storage and freshness (RFC 9111 §5.2.2).
///
/// Repeated and contradictory directives have the most restrictive meaning: less is stored,
/// for a shorter time (§4.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a directive that is present or absent
pub struct CacheControl {
    /// `no-store` (§5.2.2.5).
    pub no_store: bool,
    /// `no-cache` without a list of headers (§5.2.2.4); for one with a list see [`withheld`].
    pub no_cache: bool,
    /// `private` without a list of headers (§5.2.2.7); for one with a list see [`withheld`].
    pub private: bool,
    /// `public` (§5.2.2.9).
    pub public: bool,
    /// `must-understand` (§5.2.2.3).
    pub must_understand: bool,
    /// `must-revalidate` (§5.2.2.2).
    pub must_revalidate: bool,
    /// `proxy-revalidate` (§5.2.2.8).
    pub proxy_revalidate: bool,
    /// `immutable` (RFC 8246 §2).
    pub immutable: bool,
    /// `max-age` (§5.2.2.1). Here and below, an invalid value counts as zero.
    pub max_age: Option<Duration>,
    /// `s-maxage` (§5.2.2.10).
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861 §3).
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861 §4).
    pub stale_if_error: Option<Duration>,
    /// True if the directives are those of CDN-Cache-Control. Expires is ignored then (RFC 9213
    /// §2.2).
    pub targeted: bool,
}

impl CacheControl {
    /// Parses the directives of a response for a shared cache that is part of a CDN: those of
    /// CDN-Cache-Control if it is present and well-formed, or else those of Cache-Control (RFC
    /// 9213 §2.1, §2.2).
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(targeted) = Self::targeted(headers) {
            return targeted;
        }
        let mut parsed = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for (name, value) in directives(line.as_bytes()) {
                parsed.apply(name, Argument::Text(value));
            }
        }
        parsed
    }

    /// Parses CDN-Cache-Control; `None` if it is absent, empty or malformed (RFC 9213 §2.1).
    fn targeted(headers: &HeaderMap) -> Option<Self> {
        let line = combined(headers.get_all(CDN_CACHE_CONTROL))?;
        let dictionary: Dictionary = Parser::new(line.as_bytes()).parse().ok()?;
        if dictionary.is_empty() {
            return None;
        }
        let mut parsed = Self { targeted: true, ..Self::default() };
        for (name, entry) in &dictionary {
            let value = match entry {
                ListEntry::Item(item) => &item.bare_item,
                ListEntry::InnerList(_) => continue,
            };
            match value {
                BareItem::Boolean(false) => {}
                BareItem::Integer(seconds) => {
                    parsed.apply(name.as_str().as_bytes(), Argument::Seconds((*seconds).into()));
                }
                _ => parsed.apply(name.as_str().as_bytes(), Argument::Text(None)),
            }
        }
        Some(parsed)
    }

    fn apply(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache |= argument.header_names().is_none();
        } else if is("private") {
            self.private |= argument.header_names().is_none();
        } else if is("public") {
            self.public = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("immutable") {
            self.immutable = true;
        } else if is("max-age") {
            self.max_age = Some(shorter(self.max_age, argument.delta()));
        } else if is("s-maxage") {
            self.s_maxage = Some(shorter(self.s_maxage, argument.delta()));
        } else if is("stale-while-revalidate") {
            self.stale_while_revalidate = Some(shorter(self.stale_while_revalidate, argument.delta()));
        } else if is("stale-if-error") {
            self.stale_if_error = Some(shorter(self.stale_if_error, argument.delta()));
        }
    }

    /// Returns true if the response must not be used when stale (RFC 9111 §4.2.4). `s-maxage`
    /// implies `proxy-revalidate` (§5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    /// Returns true if the response may be shared even if its request had an Authorization (RFC
    /// 9111 §3.5).
    pub fn shares_with_credentials(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }
}

/// Returns the headers of a response that are sent only to the client that requested it, and
/// are not stored.
///
/// These are the headers listed by `private` (RFC 9111 §5.2.2.7), the headers listed by
/// `no-cache` (§5.2.2.4), which other requests could get only after a validation, and the
/// headers of proxy authentication (§3.1).
pub fn withheld(headers: &HeaderMap) -> Vec<HeaderName> {
    let proxy_headers = headers.keys().filter(|name| name.as_str().starts_with("proxy-auth"));
    let mut names: Vec<_> = proxy_headers.cloned().collect();
    // The directives of CDN-Cache-Control have no lists here.
    if CacheControl::targeted(headers).is_none() {
        for line in headers.get_all(CACHE_CONTROL) {
            for (name, value) in directives(line.as_bytes()) {
                if name.eq_ignore_ascii_case(b"no-cache") || name.eq_ignore_ascii_case(b"private") {
                    names.extend(Argument::Text(value).header_names().unwrap_or_default());
                }
            }
        }
    }
    names
}

/// The argument of a response directive.
#[derive(Clone, Copy)]
enum Argument<'a> {
    /// Text, or no argument.
    Text(Option<&'a [u8]>),
    /// An integer of CDN-Cache-Control.
    Seconds(i64),
}

impl Argument<'_> {
    /// Parses a list of header names (RFC 9111 §5.2.2.4); `None` if the argument is not such a
    /// list, so that the directive counts as one without an argument.
    fn header_names(self) -> Option<Vec<HeaderName>> {
        let Self::Text(Some(list)) = self else {
            return None;
        };
        let members = list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
        let names = members.map(HeaderName::from_bytes).collect::<Result<Vec<_>, _>>().ok()?;
        (!names.is_empty() && !names.iter().any(is_required)).then_some(names)
    }

    /// Parses delta-seconds; `None` if the argument is missing, negative or malformed.
    fn delta(self) -> Option<Duration> {
        match self {
            Self::Text(text) => text.and_then(delta_seconds),
            Self::Seconds(seconds) => {
                u64::try_from(seconds).ok().map(|seconds| Duration::from_secs(seconds.min(MAX_DELTA)))
            }
        }
    }
}

/// Returns true if a stored response cannot do without this header.
fn is_required(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-")
        || matches!(name.as_str(), "age" | "cache-control" | "connection" | "date" | "transfer-encoding" | "vary")
}

/// Returns the shorter of two durations; `stated` counts as zero if it is invalid.
fn shorter(known: Option<Duration>, stated: Option<Duration>) -> Duration {
    let stated = stated.unwrap_or_default();
    known.map_or(stated, |known| known.min(stated))
}

/// The request directives (RFC 9111 §5.2.1).
///
/// An invalid argument has the most restrictive meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a directive that is present or absent
pub struct RequestControl {
    /// `no-store` (§5.2.1.5).
    pub no_store: bool,
    /// `no-cache` (§5.2.1.4), or `Pragma: no-cache` in a request without Cache-Control (§5.4).
    /// Also true for If-Match and If-Unmodified-Since, which a cache cannot evaluate by itself
    /// (§4.3.2): the stored response has to be the one that the origin has.
    pub no_cache: bool,
    /// `only-if-cached` (§5.2.1.7).
    pub only_if_cached: bool,
    /// `max-age` (§5.2.1.1).
    pub max_age: Option<Duration>,
    /// `min-fresh` (§5.2.1.3).
    pub min_fresh: Option<Duration>,
    /// `max-stale` (§5.2.1.2); [`MAX_DELTA`] without an argument, for any staleness.
    pub max_stale: Option<Duration>,
}

impl RequestControl {
    /// Parses the directives of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let for_origin = headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        let mut parsed = Self { no_cache: for_origin, ..Self::default() };
        if !headers.contains_key(CACHE_CONTROL) {
            let pragma = headers.get_all(PRAGMA).iter().flat_map(|line| directives(line.as_bytes()));
            parsed.no_cache |= pragma.into_iter().any(|(name, _)| name.eq_ignore_ascii_case(b"no-cache"));
            return parsed;
        }
        for line in headers.get_all(CACHE_CONTROL) {
            for (name, value) in directives(line.as_bytes()) {
                parsed.apply(name, value);
            }
        }
        parsed
    }

    fn apply(&mut self, name: &[u8], value: Option<&[u8]>) {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let stated = value.and_then(delta_seconds);
        let longest = Duration::from_secs(MAX_DELTA);
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age = Some(shorter(self.max_age, stated));
        } else if is("min-fresh") {
            self.min_fresh = Some(self.min_fresh.unwrap_or_default().max(stated.unwrap_or(longest)));
        } else if is("max-stale") {
            let stated = if value.is_none() { longest } else { stated.unwrap_or_default() };
            self.max_stale = Some(self.max_stale.map_or(stated, |known| known.min(stated)));
        }
    }
}

/// Parses delta-seconds (RFC 9111 §1.2.2): digits only; greater values count as
/// [`MAX_DELTA`]. `None` for malformed input.
pub fn delta_seconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = value.iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Duration::from_secs(seconds.min(MAX_DELTA)))
}

/// Splits one line into its directives and their arguments: `name`, `name=token` or
/// `name="quoted"`, separated by commas (RFC 9111 §5.2). A comma within quotes belongs to the
/// argument.
///
/// Arguments come without quotes. Their escapes are not decoded, because no directive that is
/// read here can contain one.
pub fn directives(line: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let end = unquoted_comma(rest);
            let item = rest[..end].trim_ascii();
            rest = rest.get(end + 1..).unwrap_or_default();
            if item.is_empty() {
                continue;
            }
            let Some(equals) = item.iter().position(|&byte| byte == b'=') else {
                return Some((item, None));
            };
            let (name, value) = (item[..equals].trim_ascii(), item[equals + 1..].trim_ascii());
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            return Some((name, Some(value)));
        }
    })
}

/// Returns the position of the first comma outside quotes, or the length.
fn unquoted_comma(bytes: &[u8]) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    if quoted {
        // Unbalanced quotes hide no directives.
        return bytes.iter().position(|&byte| byte == b',').unwrap_or(bytes.len());
    }
    bytes.len()
}

#[cfg(test)]
mod tests;
