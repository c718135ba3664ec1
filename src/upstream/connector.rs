//! [`Connector`]: opens connections to origins, peers and etcd.

use std::time::Duration;

use hyper::service::Service as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::service::TowerToHyperService;

use super::endpoint::Endpoint;
use super::io::Io;
use crate::body::describe;
use crate::semantics::scheme::Scheme;
use crate::tls::{Alpn, TlsConnector};

/// Opens connections. One timeout covers name resolution and the handshakes of TCP and TLS.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: TowerToHyperService<HttpConnector>,
    tls: Option<TlsConnector>,
    timeout: Duration,
}

impl Connector {
    /// Creates a connector for `http` endpoints.
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        // It makes the TCP connections of `https` endpoints, too.
        tcp.enforce_http(false);
        Self { tcp: TowerToHyperService::new(tcp), tls: None, timeout }
    }

    /// Returns the connector with `tls` for `https` endpoints.
    pub(crate) fn with_tls(self, tls: TlsConnector) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Returns the protocols to offer to `https` endpoints.
    pub(super) fn alpn(&self) -> Alpn {
        self.tls.as_ref().map(TlsConnector::alpn).unwrap_or_default()
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
        let tcp = self.tcp.call(endpoint.uri()).await.map_err(|error| describe(&error))?.into_inner();
        match endpoint.scheme() {
            Scheme::Http => Ok(Io::Tcp(tcp)),
            Scheme::Https => {
                let tls = self.tls.as_ref().expect("a client of https endpoints is made with TLS");
                tls.connect(endpoint.host_name(), tcp, alpn).await.map(Io::Tls)
            }
        }
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
