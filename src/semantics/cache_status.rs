//! Cache-Status: RFC 9211.

use http::{HeaderName, HeaderValue};

/// RFC 9211 §2.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How one cache handled a request: a member of the field's list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Hit, or why the request went forward.
    pub handled: Handled,
    /// `fwd-status`, §2.3: what came back, where it is not what was given.
    pub fwd_status: Option<u16>,
    /// `ttl`, §2.4: the seconds of freshness left, below zero for what is stale.
    pub ttl: Option<i64>,
    /// `collapsed`, §2.6: it shares a request that was under way.
    pub collapsed: bool,
    /// `stored`, §2.5: the response was, or is being, stored here.
    pub stored: bool,
    /// `detail`, §2.8.
    pub detail: Option<&'static str>,
}

/// `hit` (§2.1) or `fwd` (§2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handled {
    /// Answered from what is stored.
    Hit,
    /// `fwd=uri-miss`: nothing was stored under the name.
    #[default]
    UriMiss,
    /// `fwd=vary-miss`: under the name, others were stored, or may be.
    VaryMiss,
    /// `fwd=stale`: what was stored had expired.
    Stale,
    /// `fwd=method`: the method is not cached.
    Method,
    /// `fwd=request`: the request itself asks for the origin.
    Request,
    /// `fwd=bypass`: this name is known not to be stored.
    Bypass,
    /// `fwd=bypass`: the request is of another scheme or host than what is stored.
    OtherSite,
    /// Neither: this edge answered itself, with an error.
    Refused,
}

/// Whether the last of these members says that it had the response stored.
pub fn ends_with_a_hit(members: &HeaderValue) -> bool {
    let last = members.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
    last.split(|&byte| byte == b';').skip(1).any(|parameter| parameter.trim_ascii() == b"hit")
}

impl CacheStatus {
    /// The field's value for a cache called `name`, which [`is_token`].
    pub fn value(&self, name: &str) -> HeaderValue {
        let mut text = Vec::with_capacity(name.len() + 48);
        self.append(name, &mut text);
        // A copy of just its length: made of these bytes, it would keep their slack.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("peerage"))
    }

    /// Appends the same to a head.
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
            Handled::Bypass | Handled::OtherSite => ";fwd=bypass",
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

/// sf-token, RFC 9651 §3.3.4.
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
        /// What is written is a list of RFC 9651 with the same name and parameters.
        #[test]
        fn every_member_is_a_structured_field(
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
    fn the_last_member_counts() {
        for (members, hit) in [
            ("edge-1;hit;ttl=5", true),
            ("cdn;hit, edge-1; hit", true),
            ("cdn;hit, edge-1;fwd=uri-miss;stored", false),
            // A cache may well be called so.
            ("hit;fwd=miss", false),
            ("", false),
        ] {
            assert_eq!(ends_with_a_hit(&HeaderValue::from_static(members)), hit, "{members}");
        }
    }

    #[test]
    fn members() {
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
