//! What proxies tell of the client behind them: X-Forwarded-For, X-Forwarded-Proto and
//! X-Forwarded-Host, and Forwarded (RFC 7239).
//!
//! Only a proxy that the operator trusts is believed. From it, X-Forwarded-* goes before
//! Forwarded, each field by itself.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::authority::is_host;
use super::combined;

/// RFC 7239.
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// The addresses of the client and of the proxies behind it, the client's first.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The host that the client asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The scheme that the client asked by.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What X-Forwarded-* says in a request, before anything of it is believed.
/// A field that is not there is empty.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedHeaders<'a> {
    /// X-Forwarded-For.
    pub chain: &'a [u8],
    /// X-Forwarded-Proto.
    pub scheme: &'a [u8],
    /// X-Forwarded-Host.
    pub host: &'a [u8],
}

/// What is believed of the client of a request from a trusted proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedInfo {
    /// The last address of the chain that is no trusted proxy's.
    pub client: IpAddr,
    /// The scheme, if the proxy tells one.
    pub scheme: Option<HeaderValue>,
    /// The host, if the proxy tells one.
    pub host: Option<HeaderValue>,
}

/// What a trusted proxy at `connection` tells by the fields of a request; several lines of
/// a field are one list. `trusts` returns true for the address of a trusted proxy.
pub fn of_request(connection: IpAddr, headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> ForwardedInfo {
    let value = |name: HeaderName| combined(headers.get_all(name));
    let (chain, scheme, host) = (value(FORWARDED_FOR), value(FORWARDED_PROTO), value(FORWARDED_HOST));
    let told =
        ForwardedHeaders { chain: bytes(chain.as_ref()), scheme: bytes(scheme.as_ref()), host: bytes(host.as_ref()) };
    resolve(connection, told, value(FORWARDED).as_ref(), trusts)
}

/// What a trusted proxy tells by X-Forwarded-* and Forwarded.
pub fn resolve(
    connection: IpAddr,
    told: ForwardedHeaders<'_>,
    forwarded: Option<&HeaderValue>,
    trusts: impl Fn(IpAddr) -> bool,
) -> ForwardedInfo {
    let hops = forwarded.and_then(|value| elements(value.as_bytes())).unwrap_or_default();
    let addresses = hops.iter().rev().map(|hop| hop.client.as_deref().and_then(address));
    let (named, passed) = behind(connection, addresses, &trusts);
    let hop = hops.len().checked_sub(passed).and_then(|index| hops.get(index));
    let client = if told.chain.is_empty() {
        named
    } else {
        behind(connection, told.chain.rsplit(|&byte| byte == b',').map(address), &trusts).0
    };
    let scheme = scheme(told.scheme).or_else(|| scheme(hop?.scheme.as_deref()?));
    let host = host(told.host).or_else(|| host(hop?.host.as_deref()?));
    ForwardedInfo { client, scheme, host }
}

fn bytes(value: Option<&HeaderValue>) -> &[u8] {
    value.map_or(&[], HeaderValue::as_bytes)
}

/// The first address of a chain, read from its right, that no trusted proxy has, and how
/// many of the chain were believed. Where one cannot be read, none to its left is.
fn behind(
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

/// An address as proxies write it: with a port or without, an IPv6 one in brackets or not.
/// An IPv4 address that is mapped into IPv6 is an IPv4 address.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

/// The first member of a list: the proxy that is nearest to the client has written it.
fn first(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii()
}

/// RFC 3986 §3.1.
fn scheme(value: &[u8]) -> Option<HeaderValue> {
    let scheme = first(value);
    match scheme {
        b"http" => return Some(HeaderValue::from_static("http")),
        b"https" => return Some(HeaderValue::from_static("https")),
        _ => {}
    }
    let is_good = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    HeaderValue::from_bytes(scheme).ok().filter(|_| is_good)
}

fn host(value: &[u8]) -> Option<HeaderValue> {
    let host = first(value);
    let is_good = !host.is_empty() && is_host(host);
    HeaderValue::from_bytes(host).ok().filter(|_| is_good)
}

/// An element of Forwarded.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop {
    client: Option<Vec<u8>>,
    scheme: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

/// The elements of Forwarded (RFC 7239 §4); `None` if they are malformed.
fn elements(value: &[u8]) -> Option<Vec<Hop>> {
    let (mut hops, mut hop, mut rest) = (Vec::new(), Hop::default(), value.trim_ascii());
    while !rest.is_empty() {
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let name = rest[..equals].to_ascii_lowercase();
        let (text, after) = parameter(&rest[equals + 1..])?;
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

/// A value at the front, a token or a quoted string, and what follows it.
fn parameter(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
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

/// Writes the fields that tell an origin of a client: for a request from `connection`, by
/// `scheme`, for `host`. What is there already is appended to.
pub fn append(headers: &mut HeaderMap, connection: IpAddr, scheme: &HeaderValue, host: Option<&HeaderValue>) {
    append_client(headers, connection);
    headers.insert(FORWARDED_PROTO, scheme.clone());
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host.clone());
    }
    if headers.contains_key(FORWARDED) {
        let own = element(connection, scheme, host);
        let all = combined(headers.get_all(FORWARDED).iter().chain(&own));
        all.map(|all| headers.insert(FORWARDED, all));
    }
}

/// Appends `connection` to X-Forwarded-For.
pub fn append_client(headers: &mut HeaderMap, connection: IpAddr) {
    let own = HeaderValue::try_from(connection.to_string()).ok();
    let chain = combined(headers.get_all(FORWARDED_FOR).iter().chain(&own));
    chain.map(|chain| headers.insert(FORWARDED_FOR, chain));
}

/// As [`append`], in place of what is there: of all the fields that speak for a client,
/// what an untrusted sender has said goes.
pub fn replace(headers: &mut HeaderMap, connection: IpAddr, scheme: &HeaderValue, host: Option<&HeaderValue>) {
    let had_forwarded = headers.remove(FORWARDED).is_some();
    let said: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-forwarded")).cloned().collect();
    for name in said {
        headers.remove(name);
    }
    append(headers, connection, scheme, host);
    if let Some(own) = element(connection, scheme, host).filter(|_| had_forwarded) {
        headers.insert(FORWARDED, own);
    }
}

/// This edge's element of Forwarded (RFC 7239 §4).
fn element(connection: IpAddr, scheme: &HeaderValue, host: Option<&HeaderValue>) -> Option<HeaderValue> {
    let node = match connection {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    let host = host.map(|host| [b";host=\"", host.as_bytes(), b"\""].concat()).unwrap_or_default();
    HeaderValue::from_bytes(&[node.as_bytes(), &host, b";proto=", scheme.as_bytes()].concat()).ok()
}

/// Returns true if a response that varies by the field cannot be shared: the field speaks
/// for one client, and the key does not hold it. All requests that share a response are of
/// one scheme, so X-Forwarded-Proto selects nothing among them.
pub fn is_of_one_client(name: &HeaderName) -> bool {
    *name == FORWARDED || name.as_str().starts_with("x-forwarded") && *name != FORWARDED_PROTO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::tests::headers;

    const PROXY: [u8; 4] = [10, 0, 0, 1];

    /// With `10.0.0.0/8` and `::1` trusted: the client, the scheme and the host.
    fn believe(lines: &[(&str, &str)]) -> (String, String, String) {
        let headers = headers(lines);
        let trusts = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.is_loopback(),
        };
        let told = of_request(PROXY.into(), &headers, trusts);
        let text = |value: Option<HeaderValue>| value.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
        (told.client.to_string(), text(told.scheme), text(told.host))
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
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
            assert_eq!(believe(&lines).0, client, "{chain:?}");
        }
    }

    #[test]
    fn scheme_and_host_are_those_nearest_to_the_client() {
        for (scheme, expected) in
            [("https", "https"), ("HTTPS , http", "HTTPS"), ("", ""), ("ht tp", ""), ("1", ""), ("wss", "wss")]
        {
            assert_eq!(believe(&[("x-forwarded-proto", scheme)]).1, expected, "{scheme}");
        }
        for (host, expected) in [("a.example:8443, b", "a.example:8443"), ("a b", ""), ("a@b", ""), ("", "")] {
            assert_eq!(believe(&[("x-forwarded-host", host)]).2, expected, "{host}");
        }
    }

    #[test]
    fn forwarded_tells_what_the_other_fields_do_not() {
        let told = |value: &'static str| believe(&[("forwarded", value)]);
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
            assert_eq!(told(value), expected, "{value}");
        }
        let both = [("forwarded", "for=1.1.1.1;proto=http;host=a"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(believe(&both), all("2.2.2.2", "http", "a"));
    }

    #[test]
    fn a_trusted_chain_grows_and_another_is_replaced() {
        let said = [
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-for", "10.0.0.3"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=10.0.0.2"),
        ];
        let (scheme, host) = (HeaderValue::from_static("https"), HeaderValue::from_static("a:8443"));
        let mut appended = headers(&said);
        append(&mut appended, PROXY.into(), &scheme, Some(&host));
        let expected = [
            ("x-forwarded-for", "10.0.0.2, 10.0.0.3, 10.0.0.1"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=10.0.0.2, for=10.0.0.1;host=\"a:8443\";proto=https"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a:8443"),
        ];
        assert_eq!(appended, headers(&expected));
        let mut replaced = headers(&said);
        replace(&mut replaced, "::1".parse().unwrap(), &scheme, None);
        let expected =
            [("x-forwarded-for", "::1"), ("forwarded", "for=\"[::1]\";proto=https"), ("x-forwarded-proto", "https")];
        assert_eq!(replaced, headers(&expected));
    }
}
