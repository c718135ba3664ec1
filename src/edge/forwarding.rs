//! Forwarded headers: the client behind a connection, the scheme and host of its request, and the
//! headers that tell the origin of all three.
//!
//! The asset key contains the scheme and the host of which a fill tells the origin. So a response
//! answers only requests of which the origin would have been told the same.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::key::{AssetKey, SiteRef};
use crate::observe::metrics::Source;
use crate::peer::peek_codec;
use crate::semantics::forwarded::{
    self, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, ForwardedHeaders, ForwardedInfo,
};
use crate::semantics::scheme::Scheme;

/// The header by which one edge tells another, on its peer listener, the identifier of a site. The
/// default site is not named. In a response it says that the peer does not know the site.
pub(super) const SITE: HeaderName = HeaderName::from_static(peek_codec::SITE);

/// The address that stands for the program itself.
const PROGRAM: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `edge.trusted_proxies` and `edge.scheme`.
pub(crate) struct Forwarding {
    trusted: Vec<IpNet>,
    scheme: Scheme,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote {
    pub(crate) address: IpAddr,
    /// The scheme of the connection itself.
    pub(crate) scheme: Scheme,
}

/// The client of a request, as far as it is known.
pub(crate) struct Requester {
    /// The address of the client, behind trusted proxies.
    pub(crate) client: IpAddr,
    pub(super) scheme: Scheme,
    /// `None` unless the connection is a trusted proxy's or a peer's.
    stated: Option<Box<Stated>>,
}

/// The client, scheme and host of a request.
pub(super) struct Believed {
    pub(super) client: IpAddr,
    pub(super) scheme: Scheme,
    pub(super) host: Option<HeaderValue>,
}

struct Stated {
    connection: IpAddr,
    host: Option<HeaderValue>,
}

impl Requester {
    /// Returns the host that a trusted proxy or a peer stated.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.stated.as_ref()?.host.as_ref()
    }

    /// Adds the client of a passed request for `host` to the forwarded headers. A peer has done so
    /// already.
    pub(super) fn introduce(&self, source: Source, host: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if source == Source::Peer {
            return;
        }
        match &self.stated {
            Some(stated) => forwarded::append(headers, stated.connection, self.scheme, host),
            None => forwarded::replace(headers, self.client, self.scheme, host),
        }
    }

    /// Adds the client that leads a fill to the forwarded headers. `request` holds the headers of
    /// its request; a peer's request names the client already.
    pub(super) fn introduce_leader(&self, source: Source, request: &HeaderMap, headers: &mut HeaderMap) {
        if source == Source::Peer || self.stated.is_some() {
            for line in request.get_all(FORWARDED_FOR) {
                headers.append(FORWARDED_FOR, line.clone());
            }
        }
        if source == Source::Peer {
            return;
        }
        let connection = self.stated.as_ref().map_or(self.client, |stated| stated.connection);
        // The proxy may have named the client in Forwarded alone.
        if self.client != connection && !headers.contains_key(FORWARDED_FOR) {
            forwarded::append_client(headers, self.client);
        }
        forwarded::append_client(headers, connection);
    }
}

impl Forwarding {
    /// Creates the settings from `edge.trusted_proxies` and `edge.scheme`.
    pub(crate) fn new(trusted: Vec<IpNet>, scheme: Scheme) -> Self {
        Self { trusted, scheme }
    }

    /// Returns the scheme of clients' cleartext requests that come by no trusted proxy.
    #[cfg(feature = "cli")]
    pub(super) fn scheme_of_clients(&self) -> Scheme {
        self.unstated_scheme(Trust::None, Scheme::Http)
    }

    /// Returns the program that embeds the edge as the client of a request for `scheme`.
    pub(super) fn program(&self, scheme: Option<Scheme>) -> Requester {
        Requester { client: PROGRAM, scheme: scheme.unwrap_or(self.scheme), stated: None }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Returns true if requests have the same schemes and hosts under both settings.
    pub(super) fn has_same_scopes(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.trusted == other.trusted
    }

    /// Returns the client that `address` counts for in the limits per client. `None` for a trusted
    /// proxy, which forwards for many clients.
    pub(super) fn counted(&self, address: IpAddr) -> Option<IpAddr> {
        (!self.trusts(address)).then_some(address)
    }

    /// Returns the client of a request with `headers` on a connection from `remote`.
    pub(crate) fn requester(&self, source: Source, remote: Remote, headers: &HeaderMap) -> Requester {
        let connection = remote.address;
        let (trust, Believed { client, scheme, host }) =
            self.believed(source, remote, |trusts| forwarded::of_request(connection, headers, trusts));
        let stated = (trust != Trust::None).then(|| Box::new(Stated { connection, host }));
        Requester { client, scheme, stated }
    }

    /// Returns the client, scheme and host of a request with these headers, and without Forwarded.
    pub(super) fn plain(&self, source: Source, remote: Remote, headers: ForwardedHeaders<'_>) -> Believed {
        self.believed(source, remote, |trusts| forwarded::resolve(remote.address, headers, None, trusts)).1
    }

    /// Returns the client, scheme and host of a request, and the trust in its forwarded headers. If
    /// they are trusted, `resolve` evaluates them; it gets the test for a trusted proxy's address.
    fn believed(
        &self,
        source: Source,
        remote: Remote,
        resolve: impl FnOnce(&dyn Fn(IpAddr) -> bool) -> ForwardedInfo,
    ) -> (Trust, Believed) {
        let trust = self.trust(source, remote.address);
        let unstated = self.unstated_scheme(trust, remote.scheme);
        if trust == Trust::None {
            return (trust, Believed { client: remote.address, scheme: unstated, host: None });
        }
        let ForwardedInfo { client, scheme, host } = resolve(&|address| trust == Trust::Proxy && self.trusts(address));
        (trust, Believed { client, scheme: scheme.unwrap_or(unstated), host })
    }

    fn trust(&self, source: Source, connection: IpAddr) -> Trust {
        match source {
            Source::Peer => Trust::Peer,
            Source::Client if self.trusts(connection) => Trust::Proxy,
            Source::Client | Source::Program => Trust::None,
        }
    }

    /// Returns the scheme of a request that came by `connection` if no trusted header states one. In
    /// front of a listener without TLS, a proxy may terminate TLS: `edge.scheme` holds for the
    /// trusted proxies, or for all clients if none is configured. A peer always states `https`.
    fn unstated_scheme(&self, trust: Trust, connection: Scheme) -> Scheme {
        match trust {
            Trust::Peer => Scheme::Http,
            Trust::None if !self.trusted.is_empty() => connection,
            Trust::None | Trust::Proxy if connection == Scheme::Https => connection,
            Trust::None | Trust::Proxy => self.scheme,
        }
    }
}

/// The trust in the forwarded headers of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    None,
    /// They are those of a trusted proxy.
    Proxy,
    /// Another edge wrote them.
    Peer,
}

/// Returns the host of a key, if the origin is told one.
pub(super) fn told_host(key: &AssetKey) -> Option<HeaderValue> {
    let host = key.scope().host?;
    Some(HeaderValue::from_str(host).expect("a normalized host is a header value"))
}

/// Tells an upstream the scheme and host of a key. A peer also needs the [site](tell_site).
pub(super) fn tell_scope(key: &AssetKey, headers: &mut HeaderMap) {
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(key.scope().scheme.name()));
    if let Some(host) = told_host(key) {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Tells a peer the site of a key, unless it is the default site.
pub(super) fn tell_site(site: SiteRef, headers: &mut HeaderMap) {
    if site.index != 0 {
        let id = HeaderValue::try_from(site.id.to_string()).expect("digits are a header value");
        headers.insert(SITE, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(trusted: &[&str], scheme: Scheme) -> Forwarding {
        Forwarding::new(trusted.iter().map(|network| network.parse().unwrap()).collect(), scheme)
    }

    #[test]
    fn trusted_proxy_counts_for_no_client() {
        let forwarding = forwarding(&["10.0.0.0/8", "2001:db8::/32"], Scheme::Http);
        for (address, counted) in [("10.0.0.1", false), ("2001:db8::7", false), ("192.0.2.1", true), ("::1", true)] {
            let address = address.parse().unwrap();
            assert_eq!(forwarding.counted(address), counted.then_some(address), "{address}");
        }
    }

    #[test]
    fn scheme_and_host_are_those_of_trusted_proxies_and_peers() {
        use Scheme::{Http, Https};
        use Source::{Client, Peer};
        let proxy = ["10.0.0.0/8"];
        for (trusted, default, source, (from, own), stated, expected) in [
            (&[][..], Http, Client, ("10.0.0.1", Http), ("https", "b"), (Http, None)),
            (&[], Https, Client, ("10.0.0.1", Http), ("http", "b"), (Https, None)),
            (&[], Http, Client, ("10.0.0.1", Https), ("http", "b"), (Https, None)),
            (&proxy, Http, Client, ("1.2.3.4", Http), ("https", "b"), (Http, None)),
            (&proxy, Https, Client, ("1.2.3.4", Http), ("https", "b"), (Http, None)),
            (&proxy, Http, Client, ("1.2.3.4", Https), ("http", "b"), (Https, None)),
            (&proxy, Http, Client, ("10.0.0.1", Http), ("", ""), (Http, None)),
            (&proxy, Http, Client, ("10.0.0.1", Https), ("", ""), (Https, None)),
            (&proxy, Http, Client, ("10.0.0.1", Https), ("http", ""), (Http, None)),
            (&proxy, Http, Client, ("10.0.0.1", Http), ("HTTPS", "b:8443"), (Https, Some("b:8443"))),
            (&proxy, Http, Client, ("10.0.0.1", Http), ("ftp", "b c"), (Http, None)),
            (&proxy, Https, Client, ("10.0.0.1", Http), ("", ""), (Https, None)),
            (&proxy, Https, Client, ("10.0.0.1", Http), ("http", ""), (Http, None)),
            (&[], Https, Peer, ("10.0.0.1", Http), ("", ""), (Http, None)),
            (&[], Http, Peer, ("10.0.0.1", Http), ("https", "b"), (Https, Some("b"))),
        ] {
            let remote = Remote { address: from.parse().unwrap(), scheme: own };
            let headers = ForwardedHeaders { chain: b"", scheme: stated.0.as_bytes(), host: stated.1.as_bytes() };
            let believed = forwarding(trusted, default).plain(source, remote, headers);
            let host = believed.host.as_ref().map(|host| host.to_str().unwrap());
            assert_eq!((believed.scheme, host), expected, "{stated:?} from {from} with {trusted:?}");
        }
    }
}
