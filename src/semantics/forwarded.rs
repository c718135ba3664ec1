//! Headers by which proxies describe the client: X-Forwarded-For, X-Forwarded-Proto,
//! X-Forwarded-Host, and Forwarded (RFC 7239).
//!
//! The caller checks that the connection is a trusted proxy's. Each of the X-Forwarded headers
//! takes precedence over the corresponding parameter of Forwarded.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::authority::is_host;
use super::combined;
use super::scheme::Scheme;

/// The Forwarded header (RFC 7239 §4).
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// The X-Forwarded-For header: the address of the client, then those of the proxies in order.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The X-Forwarded-Host header: the host that the client requested.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The X-Forwarded-Proto header: the scheme of the client's request.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The values of the X-Forwarded headers of a request, before any check. A missing header is
/// empty.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedHeaders<'a> {
    /// X-Forwarded-For.
    pub chain: &'a [u8],
    /// X-Forwarded-Proto.
    pub scheme: &'a [u8],
    /// X-Forwarded-Host.
    pub host: &'a [u8],
}

/// The client, scheme and host of a request, as a trusted proxy states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedInfo {
    /// The rightmost address of the chain that is not a trusted proxy's.
    pub client: IpAddr,
    /// The scheme, if stated and known.
    pub scheme: Option<Scheme>,
    /// The host, if stated and valid.
    pub host: Option<HeaderValue>,
}

/// Resolves the client, scheme and host of a request from the trusted proxy at `connection`
/// (RFC 7239 §5, §8.1).
///
/// The client is the rightmost address of the chain that is not a trusted proxy's, or the
/// leftmost if all are. Several lines of a header are one list. Scheme and host are taken without
/// a further check: `connection` must be a trusted proxy's. `trusts` returns true for the address
/// of a trusted proxy.
pub fn of_request(connection: IpAddr, headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> ForwardedInfo {
    let value = |name: HeaderName| combined(headers.get_all(name));
    let (chain, scheme, host) = (value(FORWARDED_FOR), value(FORWARDED_PROTO), value(FORWARDED_HOST));
    let values =
        ForwardedHeaders { chain: bytes(chain.as_ref()), scheme: bytes(scheme.as_ref()), host: bytes(host.as_ref()) };
    resolve(connection, values, value(FORWARDED).as_ref(), trusts)
}

/// Resolves the client, scheme and host of a request from the trusted proxy at `connection`, as
/// [`of_request`] does, from the values of the headers. Malformed values count as absent, and so
/// do addresses to the left of a malformed one.
pub fn resolve(
    connection: IpAddr,
    headers: ForwardedHeaders<'_>,
    forwarded: Option<&HeaderValue>,
    trusts: impl Fn(IpAddr) -> bool,
) -> ForwardedInfo {
    let hops = forwarded.and_then(|value| elements(value.as_bytes())).unwrap_or_default();
    let addresses = hops.iter().rev().map(|hop| hop.client.as_deref().and_then(address));
    let (named, believed) = rightmost_untrusted(connection, addresses, &trusts);
    let hop = hops.len().checked_sub(believed).and_then(|index| hops.get(index));
    let client = if headers.chain.is_empty() {
        named
    } else {
        rightmost_untrusted(connection, headers.chain.rsplit(|&byte| byte == b',').map(address), &trusts).0
    };
    let scheme = scheme(headers.scheme).or_else(|| scheme(hop?.scheme.as_deref()?));
    let host = host(headers.host).or_else(|| host(hop?.host.as_deref()?));
    ForwardedInfo { client, scheme, host }
}

/// Returns the bytes of a value; none for a missing one.
fn bytes(value: Option<&HeaderValue>) -> &[u8] {
    value.map_or(&[], HeaderValue::as_bytes)
}

/// Returns the rightmost address of a chain that is not a trusted proxy's, and the number of
/// addresses that were believed. Addresses to the left of an invalid one are not believed.
fn rightmost_untrusted(
    connection: IpAddr,
    reversed: impl Iterator<Item = Option<IpAddr>>,
    trusts: impl Fn(IpAddr) -> bool,
) -> (IpAddr, usize) {
    let (mut client, mut believed) = (connection, 0);
    for next in reversed {
        let Some(next) = next.filter(|_| trusts(client)) else {
            break;
        };
        (client, believed) = (next, believed + 1);
    }
    (client, believed)
}

/// Parses an address with or without a port, an IPv6 address with or without brackets. An IPv4
/// address that is mapped into IPv6 becomes an IPv4 address.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

/// Returns the first member of a list, which the proxy nearest to the client wrote.
fn first(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii()
}

/// Parses the first scheme of a list.
fn scheme(value: &[u8]) -> Option<Scheme> {
    Scheme::of_name(first(value))
}

/// Parses the first host of a list.
fn host(value: &[u8]) -> Option<HeaderValue> {
    let host = first(value);
    let is_valid = !host.is_empty() && is_host(host);
    HeaderValue::from_bytes(host).ok().filter(|_| is_valid)
}

/// An element of Forwarded: the parameters that one proxy added.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    client: Option<Vec<u8>>,
    scheme: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

/// Parses the elements of Forwarded (RFC 7239 §4); `None` if one of them is malformed.
fn elements(value: &[u8]) -> Option<Vec<Element>> {
    let (mut hops, mut hop, mut rest) = (Vec::new(), Element::default(), value.trim_ascii());
    while !rest.is_empty() {
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let name = rest[..equals].to_ascii_lowercase();
        let (text, after) = parameter_value(&rest[equals + 1..])?;
        match &*name {
            b"for" => hop.client = Some(text),
            b"proto" => hop.scheme = Some(text),
            b"host" => hop.host = Some(text),
            _ => {}
        }
        let after = after.trim_ascii_start();
        if matches!(after.first(), None | Some(b',')) {
            hops.push(std::mem::take(&mut hop));
        } else if after[0] != b';' {
            return None;
        }
        rest = after.get(1..).unwrap_or_default().trim_ascii_start();
    }
    Some(hops)
}

/// Parses a token or a quoted string at the front, and returns it with the remaining text.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| b",; \t".contains(byte)).unwrap_or(text.len());
        return Some((text[..end].to_vec(), &text[end..]));
    };
    let (mut value, mut bytes) = (Vec::new(), quoted.iter().enumerate());
    while let Some((index, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[index + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(byte),
        }
    }
    None
}

/// Adds the client of a request to the forwarding headers: its address `connection`, `scheme` and
/// `host`.
///
/// The address is appended to X-Forwarded-For. X-Forwarded-Proto and X-Forwarded-Host are
/// replaced. Forwarded is appended to if it is present (RFC 7239 §4).
pub fn append(headers: &mut HeaderMap, connection: IpAddr, scheme: Scheme, host: Option<&HeaderValue>) {
    append_client(headers, connection);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme.name()));
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host.clone());
    }
    if headers.contains_key(FORWARDED) {
        let own = own_element(connection, scheme, host);
        let all = combined(headers.get_all(FORWARDED).iter().chain(&own));
        all.map(|all| headers.insert(FORWARDED, all));
    }
}

/// Appends the address `connection` to X-Forwarded-For.
pub fn append_client(headers: &mut HeaderMap, connection: IpAddr) {
    let own = HeaderValue::try_from(connection.to_string()).ok();
    let chain = combined(headers.get_all(FORWARDED_FOR).iter().chain(&own));
    chain.map(|chain| headers.insert(FORWARDED_FOR, chain));
}

/// Replaces the forwarding headers of an untrusted sender: removes all of them, then calls
/// [`append`]. Forwarded is written only if it was present.
pub fn replace(headers: &mut HeaderMap, connection: IpAddr, scheme: Scheme, host: Option<&HeaderValue>) {
    let had_forwarded = headers.remove(FORWARDED).is_some();
    let is_untrusted = |name: &&HeaderName| name.as_str().starts_with("x-forwarded") || name.as_str() == "x-real-ip";
    let untrusted: Vec<_> = headers.keys().filter(is_untrusted).cloned().collect();
    for name in untrusted {
        headers.remove(name);
    }
    append(headers, connection, scheme, host);
    if let Some(own) = own_element(connection, scheme, host).filter(|_| had_forwarded) {
        headers.insert(FORWARDED, own);
    }
}

/// Returns this edge's element of Forwarded (RFC 7239 §4).
fn own_element(connection: IpAddr, scheme: Scheme, host: Option<&HeaderValue>) -> Option<HeaderValue> {
    let node = match connection {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    let host = host.map(|host| [b";host=\"", host.as_bytes(), b"\""].concat()).unwrap_or_default();
    HeaderValue::from_bytes(&[node.as_bytes(), &host, b";proto=", scheme.name().as_bytes()].concat()).ok()
}

/// Returns true if a response that varies by this header cannot be shared: the header describes
/// one client, and the cache key does not contain it. (Of X-Forwarded-Host the key contains only
/// what fills send.)
pub fn is_of_one_client(name: &HeaderName) -> bool {
    *name == FORWARDED || name.as_str().starts_with("x-forwarded") && *name != FORWARDED_PROTO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    const PROXY: [u8; 4] = [10, 0, 0, 1];

    /// Returns the client, the scheme and the host, with `10.0.0.0/8` and `::1` trusted.
    fn resolved(lines: &[(&str, &str)]) -> (String, String, String) {
        let headers = headers(lines);
        let trusts = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.is_loopback(),
        };
        let info = of_request(PROXY.into(), &headers, trusts);
        let text =
            |value: Option<HeaderValue>| value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
        (info.client.to_string(), info.scheme.map_or("", Scheme::name).to_owned(), text(info.host))
    }

    #[test]
    fn client_is_the_rightmost_untrusted_address() {
        for (chain, client) in [
            (&["1.2.3.4"][..], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4", "10.0.0.2"], "1.2.3.4"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["1.2.3.4:5678, ::1, [::1]:80, [::1]"], "1.2.3.4"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["1.2.3.4, unknown"], "10.0.0.1"),
            (&["1.2.3.4, , 10.0.0.2"], "10.0.0.2"),
            (&["unknown, 10.0.0.2"], "10.0.0.2"),
            (&[""], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            let lines: Vec<_> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
            assert_eq!(resolved(&lines).0, client, "{chain:?}");
        }
    }

    #[test]
    fn scheme_and_host_are_the_first_members_if_valid() {
        for (scheme, expected) in
            [("https", "https"), ("HTTPS , http", "https"), ("", ""), ("ht tp", ""), ("ftp", ""), ("wss", "https")]
        {
            assert_eq!(resolved(&[("x-forwarded-proto", scheme)]).1, expected, "{scheme}");
        }
        for (host, expected) in [("a.example:8443, b", "a.example:8443"), ("a b", ""), ("a@b", ""), ("", "")] {
            assert_eq!(resolved(&[("x-forwarded-host", host)]).2, expected, "{host}");
        }
    }

    #[test]
    fn forwarded_supplies_what_x_forwarded_headers_do_not() {
        let from_forwarded = |value: &'static str| resolved(&[("forwarded", value)]);
        let all = |client: &str, scheme: &str, host: &str| (client.to_owned(), scheme.to_owned(), host.to_owned());
        for (value, expected) in [
            ("for=1.2.3.4;proto=https;host=a.example", all("1.2.3.4", "https", "a.example")),
            ("For=\"[2001:db8::7]:80\" ; PROTO=https,for=10.0.0.2;proto=http", all("2001:db8::7", "https", "")),
            ("for=6.6.6.6;host=evil, for=\"1.2.3.4\";host=\"a.ex\\ample\"", all("1.2.3.4", "", "a.example")),
            ("for=_hidden;proto=https", all("10.0.0.1", "", "")),
            ("for=\"1.2.3.4", all("10.0.0.1", "", "")),
            ("for=1.2.3.4 x", all("10.0.0.1", "", "")),
            ("for", all("10.0.0.1", "", "")),
            ("", all("10.0.0.1", "", "")),
        ] {
            assert_eq!(from_forwarded(value), expected, "{value}");
        }
        let both = [("forwarded", "for=1.1.1.1;proto=http;host=a"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(resolved(&both), all("2.2.2.2", "http", "a"));
    }

    #[test]
    fn a_trusted_chain_is_appended_to_and_an_untrusted_one_replaced() {
        let received = [
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-for", "10.0.0.3"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=10.0.0.2"),
        ];
        let (scheme, host) = (Scheme::Https, HeaderValue::from_static("a:8443"));
        let mut appended = headers(&received);
        append(&mut appended, PROXY.into(), scheme, Some(&host));
        let expected = [
            ("x-forwarded-for", "10.0.0.2, 10.0.0.3, 10.0.0.1"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=10.0.0.2, for=10.0.0.1;host=\"a:8443\";proto=https"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a:8443"),
        ];
        assert_eq!(appended, headers(&expected));
        let mut replaced = headers(&received);
        replaced.insert("x-real-ip", HeaderValue::from_static("10.0.0.9"));
        replace(&mut replaced, "::1".parse().unwrap(), scheme, None);
        let expected =
            [("x-forwarded-for", "::1"), ("forwarded", "for=\"[::1]\";proto=https"), ("x-forwarded-proto", "https")];
        assert_eq!(replaced, headers(&expected));
    }
}
