//! Forwarded headers: the client behind a connection, the site that it requests, the headers that
//! tell the origin of both, and the requests that may share a response.
//!
//! The key holds neither scheme nor host. So every fill sends the origin the same ones
//! (`edge.scheme`, `edge.host`). A request with another scheme or host passes: its response is not
//! stored, and it is not answered from the store.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::observe::metrics::Source;
use crate::semantics::authority::without_default_port;
use crate::semantics::forwarded::{
    self, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, ForwardedHeaders, ForwardedInfo,
};

/// The scheme of the listeners.
static HTTP: HeaderValue = HeaderValue::from_static("http");

/// `edge.trusted_proxies`, and the scheme and host that fills send.
pub(crate) struct Forwarding {
    trusted: Vec<IpNet>,
    scheme: HeaderValue,
    host: Option<HeaderValue>,
    /// True if no proxy is trusted and clients may use any host: each hit checks it.
    plain: bool,
}

/// The client of a request, as far as it is known.
pub(crate) struct Requester {
    /// The address of the client, behind trusted proxies.
    pub(crate) client: IpAddr,
    /// `None` unless the connection is a trusted proxy's.
    told: Option<Box<ByProxy>>,
}

struct ByProxy {
    connection: IpAddr,
    believed: ForwardedInfo,
}

impl Requester {
    /// Returns the scheme that a trusted proxy sent, or that of the listeners.
    pub(super) fn scheme(&self) -> &HeaderValue {
        self.told.as_ref().and_then(|told| told.believed.scheme.as_ref()).unwrap_or(&HTTP)
    }

    /// Returns the host that a trusted proxy sent.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.told.as_ref()?.believed.host.as_ref()
    }

    /// Adds the client of a passed request for `host` to the forwarded headers. A peer has done so
    /// already.
    pub(super) fn introduce(&self, source: Source, host: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if source == Source::Peer {
            return;
        }
        match &self.told {
            Some(told) => forwarded::append(headers, told.connection, self.scheme(), host),
            None => forwarded::replace(headers, self.client, self.scheme(), host),
        }
    }

    /// Adds the client that leads a fill to the forwarded headers. `request` holds the headers of
    /// its request; a peer's request names the client already.
    pub(super) fn introduce_leader(&self, source: Source, request: &HeaderMap, headers: &mut HeaderMap) {
        if source == Source::Peer || self.told.is_some() {
            for line in request.get_all(FORWARDED_FOR) {
                headers.append(FORWARDED_FOR, line.clone());
            }
        }
        if source == Source::Client {
            forwarded::append_client(headers, self.told.as_ref().map_or(self.client, |told| told.connection));
        }
    }
}

impl Forwarding {
    /// Creates the settings: `trusted` is `edge.trusted_proxies`; fills send `scheme` and `host` to
    /// the origin.
    pub(crate) fn new(trusted: Vec<IpNet>, scheme: HeaderValue, host: Option<HeaderValue>) -> Self {
        let plain = trusted.is_empty() && host.is_none() && scheme == HTTP;
        Self { trusted, scheme, host, plain }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Returns the client that `address` counts for in the limits per client. `None` for a trusted
    /// proxy, which forwards for many clients.
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

    /// Returns the address of the client if its request shares responses. For
    /// requests without Forwarded.
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

    /// Returns true if no proxy is trusted and clients may use any host: then every request
    /// shares responses.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Returns true if a request is for the site that fills request; `own` is its own host.
    pub(super) fn is_site_of_fills(&self, requester: &Requester, own: Option<&[u8]>) -> bool {
        self.is_default(requester.scheme(), requester.host(), own)
    }

    /// Returns true if a request with `scheme` is for the site that fills request. `told` is the
    /// host that a trusted proxy sent, `own` that of the request itself.
    fn is_default(&self, scheme: &HeaderValue, told: Option<&HeaderValue>, own: Option<&[u8]>) -> bool {
        let told = told.map(HeaderValue::as_bytes).or(own);
        let default = self.host.as_ref().map(HeaderValue::as_bytes).or(own);
        let port = if self.scheme == HTTP { "80" } else { "443" };
        scheme.as_bytes().eq_ignore_ascii_case(self.scheme.as_bytes())
            && told.map(|host| bare(host, port)) == default.map(|host| bare(host, port))
    }

    /// Adds the site to a request to the origin, unless it has one: in a fill.
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

/// Returns a host in lower case, without `port`.
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
    fn trusted_proxy_counts_for_no_client() {
        let forwarding = forwarding(&["10.0.0.0/8", "2001:db8::/32"], "http", None);
        for (address, counted) in [("10.0.0.1", false), ("2001:db8::7", false), ("192.0.2.1", true), ("::1", true)] {
            let address = address.parse().unwrap();
            assert_eq!(forwarding.counted(address), counted.then_some(address), "{address}");
        }
    }

    #[test]
    fn request_with_another_scheme_or_host_shares_no_response() {
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
