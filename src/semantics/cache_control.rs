//! Cache-Control: RFC 9111 §5.2.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// The greatest delta-seconds that is told apart: RFC 9111 §1.2.2 has a cache
/// take anything above 2^31 for it.
pub const MAX_DELTA: u64 = 1 << 31;

/// The response directives that decide about storing and freshness
/// (RFC 9111 §5.2.2). Repeated and contradicting directives are read in the
/// way that stores less and for a shorter time (§4.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// §5.2.2.5
    pub no_store: bool,
    /// §5.2.2.4, in either form: with a list of fields it is read as without.
    pub no_cache: bool,
    /// §5.2.2.7, in either form.
    pub private: bool,
    /// §5.2.2.1; an unreadable value counts as zero.
    pub max_age: Option<Duration>,
    /// §5.2.2.10
    pub s_maxage: Option<Duration>,
}

impl CacheControl {
    /// Reads every Cache-Control line of `headers`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut parsed = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for (name, value) in directives(line.as_bytes()) {
                parsed.take(name, value);
            }
        }
        parsed
    }

    fn take(&mut self, name: &[u8], value: Option<&[u8]>) {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("private") {
            self.private = true;
        } else if is("max-age") {
            self.max_age = Some(shorter(self.max_age, value));
        } else if is("s-maxage") {
            self.s_maxage = Some(shorter(self.s_maxage, value));
        }
    }
}

fn shorter(known: Option<Duration>, value: Option<&[u8]>) -> Duration {
    let said = value.and_then(delta_seconds).unwrap_or_default();
    known.map_or(said, |known| known.min(said))
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
    use http::HeaderValue;
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
            CacheControl { max_age: seconds(60), ..CacheControl::default() }
        );
        assert_eq!(parse(&["max-age=60", "max-age=30"]).max_age, seconds(30));
        assert_eq!(parse(&["max-age=-1"]).max_age, seconds(0));
        assert_eq!(parse(&["max-age=1.5"]).max_age, seconds(0));
        assert_eq!(parse(&["max-age"]).max_age, seconds(0));
        assert_eq!(parse(&["max-age=99999999999999999999999"]).max_age, seconds(MAX_DELTA));
        assert!(parse(&["ext=\"a, no-store\""]) == CacheControl::default());
        assert!(parse(&["ext=\"a\\\", no-store\", no-store"]).no_store);
        assert!(parse(&["ext=\"a, no-store"]).no_store);
        assert!(parse(&[",, private=\"set-cookie\""]).private);
        assert!(parse(&["no-cache=\"x, y\", s-maxage=5"]).no_cache);
        assert_eq!(parse(&["xmax-age=5"]).max_age, None);
    }

    proptest! {
        #[test]
        fn any_line_parses(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = directives(&line).count();
        }
    }
}
