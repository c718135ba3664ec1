//! [`Connector`]: opens connections to origins, peers and etcd.

use std::time::Duration;

use hyper::service::Service as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;

use super::endpoint::Endpoint;
use super::io::Io;
use super::peer_security::PeerSecurity;
use crate::body::describe;
use crate::semantics::scheme::Scheme;
use crate::tls::{Alpn, DialError, TlsConnector};

/// Opens connections. One timeout covers name resolution and the handshakes of TCP and TLS.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: TowerToHyperService<HttpConnector>,
    security: Security,
    timeout: Duration,
}

/// The TLS of a connector.
#[derive(Clone)]
enum Security {
    /// There are `http` endpoints only.
    None,
    /// For `https` endpoints.
    Server(TlsConnector),
    /// For all endpoints, which are peers.
    Peer(PeerSecurity),
}

impl Connector {
    /// Creates a connector for `http` endpoints.
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        // It makes the TCP connections of `https` endpoints, too.
        tcp.enforce_http(false);
        Self { tcp: TowerToHyperService::new(tcp), security: Security::None, timeout }
    }

    /// Returns the connector with `tls` for `https` endpoints.
    pub(crate) fn with_tls(self, tls: TlsConnector) -> Self {
        Self { security: Security::Server(tls), ..self }
    }

    /// Creates a connector to peers, with TLS if `security` is given.
    pub(crate) fn to_peers(timeout: Duration, security: Option<PeerSecurity>) -> Self {
        Self { security: security.map_or(Security::None, Security::Peer), ..Self::new(timeout) }
    }

    /// Returns the protocols to offer to `https` endpoints.
    pub(super) fn alpn(&self) -> Alpn {
        match &self.security {
            Security::Server(tls) => tls.alpn(),
            Security::None | Security::Peer(_) => Alpn::Http1,
        }
    }

    /// Opens a connection to `endpoint` for HTTP/1.1.
    ///
    /// # Errors
    /// Returns the endpoint and the cause: resolution, refusal, timeout or a failed TLS handshake.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Io, String> {
        self.connect_offering(endpoint, Alpn::Http1).await
    }

    /// Opens a connection to `endpoint` for one of the protocols of `alpn`; see
    /// [`connect`](Self::connect).
    pub(super) async fn connect_offering(&self, endpoint: &Endpoint, alpn: Alpn) -> Result<Io, String> {
        let connected = within(self.timeout, self.handshakes(endpoint, alpn)).await;
        connected.map_err(|error| format!("{endpoint}: {error}"))
    }

    async fn handshakes(&self, endpoint: &Endpoint, alpn: Alpn) -> Result<Io, String> {
        match (&self.security, endpoint.scheme()) {
            (Security::Peer(security), _) => self.peer_handshakes(security, endpoint).await,
            (_, Scheme::Http) => self.tcp(endpoint).await.map(Io::Tcp),
            (Security::Server(tls), Scheme::Https) => {
                tls.connect(endpoint.host_name(), self.tcp(endpoint).await?, alpn).await.map(Io::Tls)
            }
            (Security::None, Scheme::Https) => unreachable!("a client of https endpoints is made with TLS"),
        }
    }

    /// Connects to a peer with TLS. In cleartext only if the peer does not speak TLS and the mode
    /// allows it: no other failure leads to cleartext.
    async fn peer_handshakes(&self, security: &PeerSecurity, peer: &Endpoint) -> Result<Io, String> {
        let tcp = self.tcp(peer).await.inspect_err(|_| security.forget(peer))?;
        if security.uses_cleartext(peer) {
            return Ok(Io::Tcp(tcp));
        }
        match security.tls.connect(peer.host_name(), tcp).await {
            Ok(stream) => {
                security.forget(peer);
                Ok(Io::Tls(stream))
            }
            Err(DialError::NotTls) if security.falls_back(peer) => self.tcp(peer).await.map(Io::Tcp),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn tcp(&self, endpoint: &Endpoint) -> Result<TcpStream, String> {
        let connected = self.tcp.call(endpoint.uri()).await;
        connected.map(TokioIo::into_inner).map_err(|error| describe(&error))
    }
}

/// Applies `timeout` to the name resolution and the handshakes together. The timeout of
/// [`HttpConnector`] covers only the TCP handshakes.
async fn within<T>(timeout: Duration, connecting: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("connect timeout after {timeout:?} (name resolution and handshakes)")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_nameserver_is_waited_for_until_the_connect_timeout() {
        let (began, timeout) = (Instant::now(), Duration::from_secs(2));
        let error = within(timeout, std::future::pending::<Result<(), String>>()).await.unwrap_err();
        assert!(began.elapsed() == timeout && error.contains("2s"), "{error}");
    }
}
