//! The client behind a connection, and the site that it asked for: what is believed of
//! them, what the origin is told, and which requests may share a response.
//!
//! The key holds neither scheme nor host. So every fill tells the origin the same of them
//! (`edge.scheme`, `edge.host`), and a request that came by another scheme or for another
//! host passes: its response is not stored, and it gets none that is.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::Ask;
use crate::observe::metrics::Source;
use crate::semantics::authority::without_default_port;
use crate::semantics::forwarded::{
    self, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, ForwardedHeaders, ForwardedInfo,
};

/// The scheme of this edge's own listeners.
static HTTP: HeaderValue = HeaderValue::from_static("http");

/// `edge.trusted_proxies`, and what fills tell of the site.
pub(crate) struct Forwarding {
    trusted: Vec<IpNet>,
    scheme: HeaderValue,
    host: Option<HeaderValue>,
    /// No proxy is trusted, and clients ask by HTTP for any host: each hit looks at it.
    plain: bool,
}

/// The client of a request, as far as it is known.
pub(crate) struct Requester {
    /// The address of the client, behind trusted proxies.
    pub(crate) client: IpAddr,
    /// Nothing unless the connection is a trusted proxy's.
    told: Option<Box<ByProxy>>,
}

struct ByProxy {
    connection: IpAddr,
    believed: ForwardedInfo,
}

impl Requester {
    /// The scheme that a trusted proxy tells, or that of this edge's listeners.
    fn scheme(&self) -> &HeaderValue {
        self.told.as_ref().and_then(|told| told.believed.scheme.as_ref()).unwrap_or(&HTTP)
    }

    /// The host that a trusted proxy tells.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.told.as_ref()?.believed.host.as_ref()
    }
}

impl Forwarding {
    /// `trusted`: `edge.trusted_proxies`. Fills tell the origin of `scheme` and `host`.
    pub(crate) fn new(trusted: Vec<IpNet>, scheme: HeaderValue, host: Option<HeaderValue>) -> Self {
        let plain = trusted.is_empty() && host.is_none() && scheme == HTTP;
        Self { trusted, scheme, host, plain }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Returns the client that `address` counts for where clients have limits. A trusted
    /// proxy speaks for many clients: `None`.
    pub(super) fn counted(&self, address: IpAddr) -> Option<IpAddr> {
        (!self.trusts(address)).then_some(address)
    }

    pub(crate) fn requester(&self, source: Source, connection: IpAddr, headers: &HeaderMap) -> Requester {
        if source == Source::Peer || !self.trusts(connection) {
            return Requester { client: connection, told: None };
        }
        let believed = forwarded::of_request(connection, headers, |address| self.trusts(address));
        Requester { client: believed.client, told: Some(Box::new(ByProxy { connection, believed })) }
    }

    /// As [`requester`](Self::requester), for a request without Forwarded that
    /// [shares](Self::shares): the client's address.
    pub(super) fn sharing_client(
        &self,
        source: Source,
        connection: IpAddr,
        told: ForwardedHeaders<'_>,
        host: &[u8],
    ) -> Option<IpAddr> {
        if source == Source::Peer || self.plain {
            return Some(connection);
        }
        if !self.trusts(connection) {
            return self.is_default(&HTTP, None, Some(host)).then_some(connection);
        }
        let ForwardedInfo { client, scheme, host: other } =
            forwarded::resolve(connection, told, None, |address| self.trusts(address));
        self.is_default(scheme.as_ref().unwrap_or(&HTTP), other.as_ref(), Some(host)).then_some(client)
    }

    /// Returns true if the response to a fill is a response to this request: it came by
    /// the scheme, and for the host, that fills tell the origin.
    pub(super) fn shares(&self, ask: &Ask) -> bool {
        if ask.source == Source::Peer || self.plain {
            return true;
        }
        let own = ask.own_host();
        self.is_default(ask.requester.scheme(), ask.requester.host(), own.as_ref().map(HeaderValue::as_bytes))
    }

    /// Returns true if a request by `scheme` is of the site that fills tell of. `told` is the host
    /// that a trusted proxy tells, `own` that of the request itself.
    fn is_default(&self, scheme: &HeaderValue, told: Option<&HeaderValue>, own: Option<&[u8]>) -> bool {
        let told = told.map(HeaderValue::as_bytes).or(own);
        let default = self.host.as_ref().map(HeaderValue::as_bytes).or(own);
        let port = if self.scheme == HTTP { "80" } else { "443" };
        scheme.as_bytes().eq_ignore_ascii_case(self.scheme.as_bytes())
            && told.map(|host| bare(host, port)) == default.map(|host| bare(host, port))
    }

    /// Tells the origin of the client of a request that passes. A peer has told already.
    pub(super) fn introduce(ask: &Ask, headers: &mut HeaderMap) {
        if ask.source == Source::Peer {
            return;
        }
        let (scheme, host) = (ask.requester.scheme(), ask.host());
        match &ask.requester.told {
            Some(told) => forwarded::append(headers, told.connection, scheme, host.as_ref()),
            None => forwarded::replace(headers, ask.requester.client, scheme, host.as_ref()),
        }
    }

    /// Tells of the client who leads a fill. `request` are the fields of its request; a
    /// peer's names the client already.
    pub(super) fn introduce_leader(ask: &Ask, request: &HeaderMap, headers: &mut HeaderMap) {
        let told = ask.requester.told.as_ref();
        if ask.source == Source::Peer || told.is_some() {
            for line in request.get_all(FORWARDED_FOR) {
                headers.append(FORWARDED_FOR, line.clone());
            }
        }
        if ask.source == Source::Client {
            forwarded::append_client(headers, told.map_or(ask.requester.client, |told| told.connection));
        }
    }

    /// Tells the origin of the site, where the request to it does not: in a fill.
    pub(super) fn tell_site(&self, headers: &mut HeaderMap) {
        if headers.contains_key(FORWARDED_PROTO) {
            return;
        }
        headers.insert(FORWARDED_PROTO, self.scheme.clone());
        if let Some(host) = &self.host {
            headers.insert(FORWARDED_HOST, host.clone());
        }
    }
}

/// A host in lower case, without `port`.
fn bare<'a>(host: &'a [u8], port: &str) -> Cow<'a, [u8]> {
    let host = without_default_port(host, port);
    if host.iter().any(u8::is_ascii_uppercase) { host.to_ascii_lowercase().into() } else { host.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(trusted: &[&str], scheme: &'static str, host: Option<&'static str>) -> Forwarding {
        let trusted = trusted.iter().map(|network| network.parse().unwrap()).collect();
        Forwarding::new(trusted, HeaderValue::from_static(scheme), host.map(HeaderValue::from_static))
    }

    #[test]
    fn a_trusted_proxy_counts_for_no_client() {
        let forwarding = forwarding(&["10.0.0.0/8", "2001:db8::/32"], "http", None);
        for (address, counted) in [("10.0.0.1", false), ("2001:db8::7", false), ("192.0.2.1", true), ("::1", true)] {
            let address = address.parse().unwrap();
            assert_eq!(forwarding.counted(address), counted.then_some(address), "{address}");
        }
    }

    #[test]
    fn a_request_of_another_scheme_or_host_than_fills_tell_shares_nothing() {
        let proxy = ["10.0.0.0/8"];
        for (trusted, scheme, site, from, proto, told, own, shares) in [
            (&[][..], "http", None, "10.0.0.1", "https", "b", "a", true),
            (&proxy, "http", None, "1.2.3.4", "https", "b", "a", true),
            (&proxy, "http", None, "10.0.0.1", "", "", "a", true),
            (&proxy, "http", None, "10.0.0.1", "HTTP", "A:80", "a", true),
            (&proxy, "http", None, "10.0.0.1", "https", "", "a", false),
            (&proxy, "http", None, "10.0.0.1", "http", "b", "a", false),
            (&proxy, "https", None, "10.0.0.1", "https", "a:443", "a", true),
            (&proxy, "https", None, "10.0.0.1", "https", "a:80", "a", false),
            (&proxy, "https", None, "10.0.0.1", "", "", "a", false),
            (&proxy, "https", None, "1.2.3.4", "https", "", "a", false),
            (&proxy, "https", Some("a"), "10.0.0.1", "https", "a", "inner:9000", true),
            (&proxy, "https", Some("a"), "10.0.0.1", "https", "", "inner:9000", false),
            (&proxy, "https", Some("a"), "10.0.0.1", "https", "b", "a", false),
            (&[], "http", Some("a"), "1.2.3.4", "", "", "A", true),
            (&[], "http", Some("a"), "1.2.3.4", "", "", "b", false),
        ] {
            let told = ForwardedHeaders { chain: b"", scheme: proto.as_bytes(), host: told.as_bytes() };
            let forwarding = forwarding(trusted, scheme, site);
            let client = forwarding.sharing_client(Source::Client, from.parse().unwrap(), told, own.as_bytes());
            assert_eq!(client.is_some(), shares, "{from} {proto} {told:?} {own} at {scheme} {site:?}");
        }
    }
}
