//! [`Endpoint`]: the scheme and address of a server.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use bytes::Bytes;
use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderValue, Uri};

use crate::semantics::scheme::Scheme;

/// A server to connect to. The host is both the address that is resolved and the server's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    scheme: Scheme,
    /// `host` or `host:port`.
    authority: Authority,
    /// The same text, as the Host of requests.
    host: HeaderValue,
}

impl Endpoint {
    fn new(scheme: Scheme, authority: Bytes) -> Result<Self, String> {
        let host = HeaderValue::from_maybe_shared(authority.clone()).map_err(|error| error.to_string())?;
        let authority = Authority::from_maybe_shared(authority).map_err(|error| error.to_string())?;
        Ok(Self { scheme, authority, host })
    }

    /// Returns the endpoint of the server at `address` (`host` or `host:port`).
    ///
    /// # Errors
    /// The address is no authority of a URL.
    pub(crate) fn with_scheme(scheme: Scheme, address: &str) -> Result<Self, String> {
        Self::new(scheme, Bytes::copy_from_slice(address.as_bytes()))
    }

    /// Returns the endpoint of a server's URL.
    ///
    /// # Errors
    /// Returns an error message about the URL's scheme, user name, port or host.
    pub(crate) fn of_url(url: &Uri) -> Result<Self, String> {
        let example = "such as `http://127.0.0.1:9000`";
        let use_url = "use an http:// or https:// URL";
        let scheme = match url.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(format!("`{url}` is not a URL; {use_url}, {example}")),
        };
        let authority = url.authority().ok_or_else(|| format!("`{url}` has no host; {use_url}, {example}"))?;
        if authority.as_str().contains('@') {
            return Err("the URL has a user name; credentials are not sent to an origin".to_owned());
        }
        if has_port(authority) && !matches!(authority.port_u16(), Some(1..)) {
            return Err(format!("`{url}` has an invalid port (expected 1 to 65535), {example}"));
        }
        if authority.host().is_empty() {
            return Err(format!("`{url}` has no host; {use_url}, {example}"));
        }
        Self::new(scheme, Bytes::copy_from_slice(authority.as_str().as_bytes()))
    }

    /// Returns the value of Host in requests to this server.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Returns `host:port`, with the default port of the scheme if none is given.
    pub(crate) fn address(&self) -> String {
        match self.authority.port_u16() {
            Some(port) => format!("{}:{port}", self.authority.host()),
            None => format!("{}:{}", self.authority.host(), self.scheme.default_port()),
        }
    }

    /// Returns the scheme of the connections.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host without its port, an IPv6 address with its brackets.
    pub(super) fn host_name(&self) -> &str {
        self.authority.host()
    }

    /// Returns the URI of the server's root.
    pub(super) fn uri(&self) -> Uri {
        self.uri_of(PathAndQuery::from_static("/"))
    }

    /// Returns the URI of a path at the server.
    pub(super) fn uri_of(&self, path: PathAndQuery) -> Uri {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(match self.scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        });
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("scheme, authority and path are present")
    }
}

/// Parses `host` or `host:port` of a server that is reached without TLS.
impl FromStr for Endpoint {
    type Err = String;

    fn from_str(address: &str) -> Result<Self, String> {
        Self::with_scheme(Scheme::Http, address)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        address.to_string().parse().expect("a socket address is an authority")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.authority.as_str())
    }
}

/// Returns true if the authority has a `:` after the host, with a valid port or not.
fn has_port(authority: &Authority) -> bool {
    authority.as_str().len() > authority.host().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_authority_and_has_a_default_port() {
        for (url, host, address) in [
            ("http://origin.example", "origin.example", "origin.example:80"),
            ("http://origin.example:9000/prefix", "origin.example:9000", "origin.example:9000"),
            ("http://[::1]:7001/", "[::1]:7001", "[::1]:7001"),
            ("http://[::1]", "[::1]", "[::1]:80"),
        ] {
            let endpoint = Endpoint::of_url(&url.parse().unwrap()).unwrap();
            assert_eq!((endpoint.to_string(), endpoint.host().to_str().unwrap()), (host.to_owned(), host));
            assert_eq!((endpoint.address(), endpoint.uri().authority().unwrap().as_str()), (address.to_owned(), host));
            assert_eq!(host.parse::<Endpoint>(), Ok(endpoint));
        }
        let secure = Endpoint::of_url(&"https://origin.example/prefix".parse().unwrap()).unwrap();
        assert_eq!((secure.scheme(), &*secure.address()), (Scheme::Https, "origin.example:443"));
        let socket: SocketAddr = "[::1]:7001".parse().unwrap();
        assert_eq!(Endpoint::from(socket).address(), "[::1]:7001");
        for address in ["", "a b", "a/b", "http://a", "a\r\nb"] {
            assert!(address.parse::<Endpoint>().is_err(), "{address}");
        }
    }
}
