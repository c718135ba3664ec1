//! Cache-Status (RFC 9211).

use http::{HeaderName, HeaderValue};

/// The Cache-Status header (RFC 9211 §2).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The handling of a request by one cache: a member of the list in Cache-Status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// `hit`, or the reason why the request went forward.
    pub handled: Handled,
    /// `fwd-status` (§2.3): the status of the next hop, if it differs from that of the response.
    pub fwd_status: Option<u16>,
    /// `ttl` (§2.4): remaining freshness in seconds, negative for a stale response.
    pub ttl: Option<i64>,
    /// `collapsed` (§2.6): the request was coalesced with another one.
    pub collapsed: bool,
    /// `stored` (§2.5): the response was or is being stored by this cache.
    pub stored: bool,
    /// `detail` (§2.8): a token.
    pub detail: Option<&'static str>,
}

/// `hit` (RFC 9211 §2.1) or the reason in `fwd` (§2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handled {
    /// `hit`: answered by a stored response.
    Hit,
    /// `fwd=uri-miss`: no response was stored for the URI.
    #[default]
    UriMiss,
    /// `fwd=vary-miss`: other variants are, or may be, stored for the URI.
    VaryMiss,
    /// `fwd=stale`: the stored response was stale.
    Stale,
    /// `fwd=method`: responses to the method are not cached.
    Method,
    /// `fwd=request`: the request's own directives require the origin.
    Request,
    /// `fwd=bypass`: responses for this URI are known not to be stored.
    Bypass,
    /// Neither: the edge itself answered with an error.
    Refused,
}

/// Returns true if the last member, that of the nearest cache, reports a `hit` (RFC 9211
/// §2.1).
pub fn ends_with_a_hit(members: &HeaderValue) -> bool {
    let last = members.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
    last.split(|&byte| byte == b';').skip(1).any(|parameter| parameter.trim_ascii() == b"hit")
}

impl CacheStatus {
    /// Returns the member for the cache `name` as the value of a header. `name` must be a token
    /// (see [`is_token`]).
    ///
    /// ```
    /// use peerage::semantics::cache_status::{CacheStatus, Handled};
    ///
    /// let hit = CacheStatus { handled: Handled::Hit, ttl: Some(60), ..CacheStatus::default() };
    /// assert_eq!(hit.value("edge-1"), "edge-1;hit;ttl=60");
    /// ```
    pub fn value(&self, name: &str) -> HeaderValue {
        let mut text = Vec::with_capacity(name.len() + 48);
        self.append(name, &mut text);
        // Copied to its exact length: built from the vector, it would keep the spare capacity.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("peerage"))
    }

    /// Appends the member for the cache `name` to the bytes of a response head.
    pub fn append(&self, name: &str, head: &mut Vec<u8>) {
        let mut add = |text: &str| head.extend_from_slice(text.as_bytes());
        add(name);
        add(match self.handled {
            Handled::Hit => ";hit",
            Handled::UriMiss => ";fwd=uri-miss",
            Handled::VaryMiss => ";fwd=vary-miss",
            Handled::Stale => ";fwd=stale",
            Handled::Method => ";fwd=method",
            Handled::Request => ";fwd=request",
            Handled::Bypass => ";fwd=bypass",
            Handled::Refused => "",
        });
        if let Some(status) = self.fwd_status {
            add(";fwd-status=");
            add(itoa::Buffer::new().format(status));
        }
        if let Some(ttl) = self.ttl {
            add(";ttl=");
            add(itoa::Buffer::new().format(ttl));
        }
        if self.collapsed {
            add(";collapsed");
        }
        if self.stored {
            add(";stored");
        }
        if let Some(detail) = self.detail {
            add(";detail=");
            add(detail);
        }
    }
}

/// Returns true if `text` is a token of structured fields (RFC 9651 §3.3.4).
pub fn is_token(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sfv::{BareItem, List, ListEntry, Parser};

    use super::*;

    proptest! {
        /// The value parses as a list of RFC 9651 with the same name and parameters.
        #[test]
        fn every_member_parses_as_a_structured_field(
            name in "[A-Za-z][A-Za-z0-9._-]{0,19}",
            handled in 0usize..8,
            (fwd_status, ttl) in any::<(Option<u8>, Option<i32>)>(),
            (collapsed, stored) in any::<(bool, bool)>(),
        ) {
            let (handled, parameter) = [
                (Handled::Hit, "hit"),
                (Handled::UriMiss, "uri-miss"),
                (Handled::VaryMiss, "vary-miss"),
                (Handled::Stale, "stale"),
                (Handled::Method, "method"),
                (Handled::Request, "request"),
                (Handled::Bypass, "bypass"),
                (Handled::Refused, ""),
            ][handled];
            let (fwd_status, ttl) = (fwd_status.map(u16::from), ttl.map(i64::from));
            let status = CacheStatus { handled, fwd_status, ttl, collapsed, stored, detail: Some("some-words") };
            let value = status.value(&name);
            let list: List = Parser::new(value.as_bytes()).parse().unwrap();
            prop_assert_eq!(list.len(), 1);
            let ListEntry::Item(item) = &list[0] else { panic!("{value:?}") };
            prop_assert_eq!(item.bare_item.as_token().map(sfv::TokenRef::as_str), Some(&*name));
            let get = |key: &str| item.params.get(key);
            let integer = |key: &str| get(key).and_then(BareItem::as_integer).map(i64::from);
            prop_assert_eq!(integer("ttl"), ttl);
            prop_assert_eq!(integer("fwd-status"), fwd_status.map(i64::from));
            prop_assert_eq!(get("hit").is_some(), handled == Handled::Hit);
            let fwd = get("fwd").and_then(BareItem::as_token).map(|token| token.as_str().to_owned());
            let expected = (!matches!(handled, Handled::Hit | Handled::Refused)).then(|| parameter.to_owned());
            prop_assert_eq!(fwd, expected);
            prop_assert_eq!((get("collapsed").is_some(), get("stored").is_some()), (collapsed, stored));
            prop_assert_eq!(get("detail").and_then(BareItem::as_token).map(sfv::TokenRef::as_str), Some("some-words"));
        }
    }

    #[test]
    fn ends_with_a_hit_considers_the_last_member_alone() {
        for (members, hit) in [
            ("edge-1;hit;ttl=5", true),
            ("cdn;hit, edge-1; hit", true),
            ("cdn;hit, edge-1;fwd=uri-miss;stored", false),
            // The name of a cache may be `hit`.
            ("hit;fwd=miss", false),
            ("", false),
        ] {
            assert_eq!(ends_with_a_hit(&HeaderValue::from_static(members)), hit, "{members}");
        }
    }

    #[test]
    fn members_are_written_with_their_parameters() {
        let hit = CacheStatus { handled: Handled::Hit, ttl: Some(31_535_990), ..CacheStatus::default() };
        assert_eq!(hit.value("edge-1"), "edge-1;hit;ttl=31535990");
        let miss = CacheStatus { collapsed: true, stored: true, ..CacheStatus::default() };
        assert_eq!(miss.value("edge-1"), "edge-1;fwd=uri-miss;collapsed;stored");
        let validated =
            CacheStatus { handled: Handled::Stale, fwd_status: Some(304), ttl: Some(-5), ..CacheStatus::default() };
        assert_eq!(validated.value("edge-1"), "edge-1;fwd=stale;fwd-status=304;ttl=-5");
        let refused = CacheStatus { handled: Handled::Refused, detail: Some("bad-request"), ..CacheStatus::default() };
        assert_eq!(refused.value("edge-1"), "edge-1;detail=bad-request");
    }
}
