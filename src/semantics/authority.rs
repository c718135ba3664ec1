//! Authorities: the host and port of a URL and of Host (RFC 9110 §4.2, §7.2, RFC 3986 §3.2).

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The longest host with a port, in bytes: the limit of a name in DNS (RFC 1035 §2.3.4), a colon and
/// five digits.
const LONGEST: usize = 255 + 6;

/// Returns true if `value` is a host with an optional port, as in Host (RFC 9110 §7.2, RFC
/// 3986 §3.2.2). An empty host is valid. User information is not, and neither is a character
/// that could end the authority of a URL. Longer hosts than DNS allows are not, and neither is one
/// with a comma, which separates the members of X-Forwarded-Host.
pub fn is_host(value: &[u8]) -> bool {
    if value.len() > LONGEST {
        return false;
    }
    let is_port = |port: &[u8]| port.strip_prefix(b":").unwrap_or(port).iter().all(u8::is_ascii_digit);
    let name = value.iter().take_while(|byte| HOST_NAME_BYTES[usize::from(**byte)]).count();
    match &value[name..] {
        [b'[', ..] if name == 0 => {
            let Some(end) = value.iter().position(|&byte| byte == b']') else {
                return false;
            };
            let address = str::from_utf8(&value[1..end]).ok().and_then(|address| address.parse::<Ipv6Addr>().ok());
            address.is_some() && is_port(&value[end + 1..])
        }
        rest @ [b':', ..] => is_port(rest),
        rest => rest.is_empty(),
    }
}

/// The bytes that are valid in a host name (RFC 3986 §3.2.2, `reg-name`), without the comma.
static HOST_NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'')
            || matches!(byte, b'(' | b')' | b'*' | b'+' | b';' | b'=');
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Returns an authority without the port `default`, or without a trailing colon (RFC 9110
/// §4.2.3). An authority with two ports or an unclosed bracket is returned unchanged.
pub(crate) fn without_default_port<'a>(authority: &'a [u8], default: &str) -> &'a [u8] {
    let Some(at) = authority.iter().rposition(|&byte| byte == b':') else {
        return authority;
    };
    let (host, port) = (&authority[..at], &authority[at + 1..]);
    let is_host = !host.contains(&b':') || host.starts_with(b"[") && host.ends_with(b"]");
    if is_host && (port.is_empty() || port == default.as_bytes()) { host } else { authority }
}

/// Returns a valid authority in the form in which equal ones are equal: in lower case, without the
/// port `default` and without the dots that end a name (RFC 3986 §6.2.2.1, RFC 9110 §4.2.3). The
/// normal form of a normal form is the same, so all edges agree.
pub(crate) fn normalized<'a>(authority: &'a [u8], default: &str) -> Cow<'a, str> {
    let bare = without_default_port(authority, default);
    let bare = str::from_utf8(bare).expect("a valid authority is ASCII");
    let (host, port) = match bare.rfind(':') {
        Some(at) if !bare.ends_with(']') => bare.split_at(at),
        _ => (bare, ""),
    };
    match host.trim_end_matches('.') {
        name if name == host && !bare.bytes().any(|byte| byte.is_ascii_uppercase()) => bare.into(),
        name => format!("{}{port}", name.to_ascii_lowercase()).into(),
    }
}

/// Returns the host of an authority, and its port if there is one.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port).filter(|port| !port.is_empty())),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_default_port_removes_one_port() {
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
            assert_eq!(without_default_port(authority.as_bytes(), "80"), bare.as_bytes(), "{authority}");
        }
    }

    #[test]
    fn a_host_has_an_optional_port_and_no_user_information() {
        let (longest, longer) = (format!("{}:65535", "a".repeat(255)), format!("{}:65535", "a".repeat(256)));
        for host in ["", "a", "a.example:80", "a_b:", "[::1]", "[::1]:8001", "10.0.0.1:1", "%41!$&'()*+;=~-", &longest]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            &longer, "a b", "a/b", "u@h", "u:p@h", "h:abc", "h#x", "h?x", "h\\x", "<x>", "[::1", "::1", "h:1:2", "[x]",
            "[::1]x", "ü", "a\t", "a,b",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn spellings_of_one_authority_have_one_normal_form() {
        for (authority, normal) in [
            ("a.example", "a.example"),
            ("A.Example:443", "a.example"),
            ("a.example.", "a.example"),
            ("a.example.:8443", "a.example:8443"),
            ("a.example..", "a.example"),
            ("..:8080", ":8080"),
            ("a.example:80", "a.example:80"),
            ("[::A]:443", "[::a]"),
            ("[::1]", "[::1]"),
            ("[::1]:8080", "[::1]:8080"),
            (":443", ""),
            (".", ""),
            ("", ""),
        ] {
            assert!(is_host(authority.as_bytes()), "{authority}");
            assert_eq!(normalized(authority.as_bytes(), "443"), normal, "{authority}");
            assert_eq!(normalized(normal.as_bytes(), "443"), normal, "{authority}");
        }
    }
}
