//! Cache-Control: RFC 9111 §5.2.

use std::time::Duration;

use http::header::{CACHE_CONTROL, IF_MATCH, IF_UNMODIFIED_SINCE, PRAGMA};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::combined;

/// The greatest delta-seconds that is told apart: RFC 9111 §1.2.2 has a cache
/// take anything above 2^31 for it.
pub const MAX_DELTA: u64 = 1 << 31;

/// RFC 9213: for caches like this one; it goes before Cache-Control and Expires.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The response directives that decide about storing and freshness
/// (RFC 9111 §5.2.2). Repeated and contradicting directives are read in the
/// way that stores less and for a shorter time (§4.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a directive that is there or not
pub struct CacheControl {
    /// §5.2.2.5
    pub no_store: bool,
    /// §5.2.2.4, without a list of fields; for one with, see [`withheld`].
    pub no_cache: bool,
    /// §5.2.2.7, without a list of fields; for one with, see [`withheld`].
    pub private: bool,
    /// §5.2.2.9
    pub public: bool,
    /// §5.2.2.3
    pub must_understand: bool,
    /// §5.2.2.2
    pub must_revalidate: bool,
    /// §5.2.2.8
    pub proxy_revalidate: bool,
    /// RFC 8246 §2
    pub immutable: bool,
    /// §5.2.2.1; an unreadable value counts as zero.
    pub max_age: Option<Duration>,
    /// §5.2.2.10
    pub s_maxage: Option<Duration>,
    /// RFC 5861 §3
    pub stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4
    pub stale_if_error: Option<Duration>,
    /// It came in CDN-Cache-Control: Expires does not count (RFC 9213 §2.2).
    pub targeted: bool,
}

impl CacheControl {
    /// What the response with these fields says to a shared cache that is part
    /// of a CDN: CDN-Cache-Control if it is there and well formed, and
    /// Cache-Control else (RFC 9213 §2.1, §2.2).
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(targeted) = Self::targeted(headers) {
            return targeted;
        }
        let mut parsed = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for (name, value) in directives(line.as_bytes()) {
                parsed.take(name, Value::Text(value));
            }
        }
        parsed
    }

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
                BareItem::Integer(seconds) => parsed.take(name.as_str().as_bytes(), Value::Seconds((*seconds).into())),
                _ => parsed.take(name.as_str().as_bytes(), Value::Text(None)),
            }
        }
        Some(parsed)
    }

    fn take(&mut self, name: &[u8], value: Value<'_>) {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache |= value.fields().is_none();
        } else if is("private") {
            self.private |= value.fields().is_none();
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
            self.max_age = Some(shorter(self.max_age, value.delta()));
        } else if is("s-maxage") {
            self.s_maxage = Some(shorter(self.s_maxage, value.delta()));
        } else if is("stale-while-revalidate") {
            self.stale_while_revalidate = Some(shorter(self.stale_while_revalidate, value.delta()));
        } else if is("stale-if-error") {
            self.stale_if_error = Some(shorter(self.stale_if_error, value.delta()));
        }
    }

    /// Whether a stale response must not be used (§4.2.4): `s-maxage` holds
    /// what `proxy-revalidate` says (§5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    /// Whether a response to a request with credentials may be everybody's all
    /// the same (§3.5).
    pub fn shares_with_credentials(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }
}

/// The fields of a response that only the client may have whose request it
/// answers: those that `private` lists (§5.2.2.7), those that `no-cache` lists
/// (§5.2.2.4), which others could have only after a validation, and those of proxies
/// (§3.1).
pub fn withheld(headers: &HeaderMap) -> Vec<HeaderName> {
    let of_proxies = headers.keys().filter(|name| name.as_str().starts_with("proxy-auth"));
    let mut fields: Vec<_> = of_proxies.cloned().collect();
    // A targeted field is read without lists.
    if CacheControl::targeted(headers).is_none() {
        for line in headers.get_all(CACHE_CONTROL) {
            for (name, value) in directives(line.as_bytes()) {
                if name.eq_ignore_ascii_case(b"no-cache") || name.eq_ignore_ascii_case(b"private") {
                    fields.extend(Value::Text(value).fields().unwrap_or_default());
                }
            }
        }
    }
    fields
}

/// A directive's argument, from either kind of field.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(Option<&'a [u8]>),
    Seconds(i64),
}

impl Value<'_> {
    /// A list of field names (§5.2.2.4); `None` if it is none, and so has to be
    /// read as a directive without an argument.
    fn fields(self) -> Option<Vec<HeaderName>> {
        let Self::Text(Some(list)) = self else {
            return None;
        };
        let members = list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
        let fields = members.map(HeaderName::from_bytes).collect::<Result<Vec<_>, _>>().ok()?;
        (!fields.is_empty() && !fields.iter().any(is_needed)).then_some(fields)
    }

    fn delta(self) -> Option<Duration> {
        match self {
            Self::Text(text) => text.and_then(delta_seconds),
            Self::Seconds(seconds) => {
                u64::try_from(seconds).ok().map(|seconds| Duration::from_secs(seconds.min(MAX_DELTA)))
            }
        }
    }
}

/// Whether a response makes no sense without this field.
fn is_needed(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-")
        || matches!(name.as_str(), "age" | "cache-control" | "connection" | "date" | "transfer-encoding" | "vary")
}

fn shorter(known: Option<Duration>, said: Option<Duration>) -> Duration {
    let said = said.unwrap_or_default();
    known.map_or(said, |known| known.min(said))
}

/// The request directives (RFC 9111 §5.2.1). An argument that cannot be read
/// is taken for the stricter wish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a directive that is there or not
pub struct RequestControl {
    /// §5.2.1.5
    pub no_store: bool,
    /// §5.2.1.4, or `Pragma: no-cache` where there is no Cache-Control (§5.4);
    /// or a precondition that no cache can evaluate by itself (§4.3.2): what is
    /// stored has to be what the origin has.
    pub no_cache: bool,
    /// §5.2.1.7
    pub only_if_cached: bool,
    /// §5.2.1.1
    pub max_age: Option<Duration>,
    /// §5.2.1.3
    pub min_fresh: Option<Duration>,
    /// §5.2.1.2; without an argument, a stale response of any age will do.
    pub max_stale: Option<Duration>,
}

impl RequestControl {
    /// Reads the request with these fields.
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
                parsed.take(name, value);
            }
        }
        parsed
    }

    fn take(&mut self, name: &[u8], value: Option<&[u8]>) {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let said = value.and_then(delta_seconds);
        let most = Duration::from_secs(MAX_DELTA);
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age = Some(shorter(self.max_age, said));
        } else if is("min-fresh") {
            self.min_fresh = Some(self.min_fresh.unwrap_or_default().max(said.unwrap_or(most)));
        } else if is("max-stale") {
            let said = if value.is_none() { most } else { said.unwrap_or_default() };
            self.max_stale = Some(self.max_stale.map_or(said, |known| known.min(said)));
        }
    }
}

/// RFC 9111 §1.2.2: digits only, and a huge value is [`MAX_DELTA`].
pub fn delta_seconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = value.iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Duration::from_secs(seconds.min(MAX_DELTA)))
}

/// The directives of one line: `name`, `name=token` or `name="quoted"`, with
/// commas between them; a comma inside quotes is part of the value. A value
/// comes without its quotes, and with its escapes as they stand: no directive
/// that is read here can hold one.
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
        // The quotes do not match: what they would hide counts.
        return bytes.iter().position(|&byte| byte == b',').unwrap_or(bytes.len());
    }
    bytes.len()
}

#[cfg(test)]
mod tests;
