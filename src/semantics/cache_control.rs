//! Cache-Control: RFC 9111 §5.2.

use std::time::Duration;

use http::header::{CACHE_CONTROL, IF_MATCH, IF_UNMODIFIED_SINCE, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

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
        let lines: Vec<_> = headers.get_all(CDN_CACHE_CONTROL).iter().map(HeaderValue::as_bytes).collect();
        let dictionary: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(lines: &[&str]) -> CacheControl {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        CacheControl::of(&headers)
    }

    #[test]
    fn directives_in_every_spelling() {
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(parse(&["max-age=60"]).max_age, seconds(60));
        assert_eq!(
            parse(&["Max-Age=\"60\" , PUBLIC"]),
            CacheControl { max_age: seconds(60), public: true, ..CacheControl::default() }
        );
        assert_eq!(parse(&["max-age=60", "max-age=30"]).max_age, seconds(30));
        assert_eq!(parse(&["max-age=-1"]).max_age, seconds(0));
        assert_eq!(parse(&["max-age=1.5"]).max_age, seconds(0));
        assert_eq!(parse(&["max-age"]).max_age, seconds(0));
        assert_eq!(parse(&["max-age=99999999999999999999999"]).max_age, seconds(MAX_DELTA));
        assert!(parse(&["ext=\"a, no-store\""]) == CacheControl::default());
        assert!(parse(&["ext=\"a\\\", no-store\", no-store"]).no_store);
        assert!(parse(&["ext=\"a, no-store"]).no_store);
        assert_eq!(parse(&["xmax-age=5"]).max_age, None);
    }

    #[test]
    fn a_list_of_fields_holds_back_only_those() {
        for (line, expected) in [
            ("private=\"Set-Cookie\"", &["set-cookie"][..]),
            (",, no-cache=\"x , y,\", s-maxage=5", &["x", "y"]),
            ("Private=x, NO-CACHE=y", &["x", "y"]),
        ] {
            let control = parse(&[line]);
            assert!(!control.private && !control.no_cache, "{line}");
            let headers = crate::semantics::tests::headers(&[("cache-control", line)]);
            assert_eq!(withheld(&headers), expected, "{line}");
        }
        let headers = crate::semantics::tests::headers(&[("proxy-authenticate", "Basic"), ("proxy-status", "a")]);
        assert_eq!(withheld(&headers), ["proxy-authenticate"]);
        // What is no list of fields is no list.
        for line in [
            "private",
            "private=\"x, vary\"",
            "private=content-length",
            "private=\"\"",
            "private=\"a b\"",
            "private=, x=1",
            "private=\"x\", private",
        ] {
            assert!(parse(&[line]).private, "{line}");
        }
        assert!(parse(&["no-cache=\"\""]).no_cache);
    }

    #[test]
    fn a_targeted_field_goes_first_where_it_is_well_formed() {
        let both = |targeted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
            headers.insert(CDN_CACHE_CONTROL, HeaderValue::from_bytes(targeted.as_bytes()).unwrap());
            CacheControl::of(&headers)
        };
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(both("max-age=60").max_age, seconds(60));
        assert!(both("max-age=60").targeted);
        assert_eq!(both("max-age=60;ext=1, no-cache").max_age, seconds(60));
        assert!(both("no-store").no_store && !both("no-store=?0").no_store);
        assert_eq!(both("no-store").max_age, None);
        assert_eq!(both("max-age=-1").max_age, seconds(0));
        assert_eq!(both("max-age=\"60\"").max_age, seconds(0));
        for malformed in ["", "max-age = 60", "max-age=60,", "Max-Age=60", "&&&"] {
            assert_eq!(both(malformed).max_age, seconds(5), "{malformed}");
        }
    }

    #[test]
    fn what_a_request_wishes() {
        let of = |name: &'static str, line: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            RequestControl::of(&headers)
        };
        let none = RequestControl::default();
        let seconds = |n| Some(Duration::from_secs(n));
        for (line, expected) in [
            ("no-cache", RequestControl { no_cache: true, ..none }),
            ("NO-STORE, only-if-cached", RequestControl { no_store: true, only_if_cached: true, ..none }),
            ("max-age=5, max-age=3", RequestControl { max_age: seconds(3), ..none }),
            ("max-age=x", RequestControl { max_age: seconds(0), ..none }),
            ("max-stale", RequestControl { max_stale: seconds(MAX_DELTA), ..none }),
            ("max-stale=7", RequestControl { max_stale: seconds(7), ..none }),
            ("max-stale=x", RequestControl { max_stale: seconds(0), ..none }),
            ("min-fresh=7", RequestControl { min_fresh: seconds(7), ..none }),
            ("min-fresh=x", RequestControl { min_fresh: seconds(MAX_DELTA), ..none }),
        ] {
            assert_eq!(of("cache-control", line), expected, "{line}");
        }
        assert!(of("pragma", "no-cache").no_cache);
        assert!(of("if-match", "\"a\"").no_cache);
        assert!(of("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT").no_cache);
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!RequestControl::of(&headers).no_cache);
    }

    /// A directive as it may be written: its name in any case, its argument bare
    /// or quoted, with the space that lists allow.
    fn written(name: &str, seconds: Option<u64>, style: usize) -> String {
        let name = if style & 1 == 0 { name.to_owned() } else { name.to_ascii_uppercase() };
        match seconds {
            None => name,
            Some(seconds) if style & 2 == 0 => format!("{name}={seconds}"),
            Some(seconds) => format!("{name}=\"{seconds}\""),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            flags in any::<[bool; 8]>(),
            times in any::<[Option<u32>; 4]>(),
            style in 0usize..4,
            separator in "( |\t)?,( |\t|, ,)?",
        ) {
            let names = [
                "no-store", "no-cache", "private", "public", "must-understand", "must-revalidate",
                "proxy-revalidate", "immutable",
            ];
            let timed = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"];
            let seconds = times.map(|time| time.map(u64::from));
            let mut members: Vec<_> =
                names.iter().zip(flags).filter(|(_, set)| *set).map(|(name, _)| written(name, None, style)).collect();
            members.extend(
                timed.iter().zip(seconds).filter_map(|(name, seconds)| Some(written(name, Some(seconds?), style))),
            );
            let delta = |seconds: Option<u64>| seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_DELTA)));
            let [no_store, no_cache, private, public, must_understand, must_revalidate, proxy_revalidate, immutable] =
                flags;
            let [max_age, s_maxage, stale_while_revalidate, stale_if_error] = seconds.map(delta);
            let expected = CacheControl {
                no_store, no_cache, private, public, must_understand, must_revalidate, proxy_revalidate, immutable,
                max_age, s_maxage, stale_while_revalidate, stale_if_error, targeted: false,
            };
            prop_assert_eq!(parse(&[&members.join(&separator)]), expected);
            prop_assert_eq!(parse(&members.iter().map(String::as_str).collect::<Vec<_>>()), expected);
        }

        #[test]
        fn any_fields_parse(line in "[ -~]{0,80}") {
            if let Ok(value) = HeaderValue::from_str(&line) {
                let mut headers = HeaderMap::new();
                headers.insert(CACHE_CONTROL, value.clone());
                headers.insert(CDN_CACHE_CONTROL, value);
                let (_, _, _) = (CacheControl::of(&headers), RequestControl::of(&headers), withheld(&headers));
            }
        }

        #[test]
        fn any_line_parses(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = directives(&line).count();
        }
    }
}
