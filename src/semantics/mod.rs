//! What the RFCs say, as pure functions: they take `now`, and answer with enums.

pub mod cache_control;
pub mod cache_status;
pub mod conditional;
pub mod content_length;
pub mod date;
pub mod digest;
pub mod digest_fields;
pub mod forward;
pub mod forwarded;
pub mod freshness;
pub mod hint;
pub mod invalidation;
pub mod location;
pub mod methods;
pub mod range;
pub mod request_fields;
pub mod storing;
pub mod upgrade;
pub mod validation;
pub mod vary;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The lines of a list field in one (RFC 9110 §5.3); `None` if there are none.
pub(crate) fn combined<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> Option<HeaderValue> {
    let mut lines = lines.into_iter();
    let mut combined = lines.next()?.as_bytes().to_vec();
    for line in lines {
        combined.extend_from_slice(b", ");
        combined.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&combined).ok()
}

/// The members of a list field, over all its lines, without those that are
/// empty (RFC 9110 §5.6.1). For lists whose members hold no quoted commas.
pub(crate) fn members<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let members = headers.get_all(field).into_iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Returns an authority without the port `default`, or without a colon that no port follows
/// (RFC 9110 §4.2.3). An authority with two ports, or with an unclosed bracket, stays as it is.
pub(crate) fn without_default_port<'a>(authority: &'a [u8], default: &str) -> &'a [u8] {
    let Some(at) = authority.iter().rposition(|&byte| byte == b':') else {
        return authority;
    };
    let (host, port) = (&authority[..at], &authority[at + 1..]);
    let is_host = !host.contains(&b':') || host.starts_with(b"[") && host.ends_with(b"]");
    if is_host && (port.is_empty() || port == default.as_bytes()) { host } else { authority }
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{HeaderMap, HeaderName};

    #[test]
    fn a_default_port_is_left_out_once() {
        for (authority, bare) in [
            ("a", "a"),
            ("a:80", "a"),
            ("a:", "a"),
            ("a:8080", "a:8080"),
            ("a:9000:80", "a:9000:80"),
            ("a:80:80", "a:80:80"),
            ("a::", "a::"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::80]", "[::80]"),
            ("[::1:80", "[::1:80"),
            ("::80", "::80"),
            ("", ""),
        ] {
            assert_eq!(super::without_default_port(authority.as_bytes(), "80"), bare.as_bytes(), "{authority}");
        }
    }

    /// Fields as they stand on lines; a name may come again.
    pub(crate) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }
}
