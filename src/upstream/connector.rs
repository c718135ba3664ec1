//! [`Connector`]: opens connections to origins, peers and etcd.

use std::error::Error;
use std::time::Duration;

use hyper::service::Service as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;

use super::endpoint::Endpoint;
use crate::body::describe;

/// A connection to a server.
pub(crate) type Io = TcpStream;

/// Opens connections. One timeout covers name resolution and the TCP handshake.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: TowerToHyperService<HttpConnector>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        Self { tcp: TowerToHyperService::new(tcp), timeout }
    }

    /// Opens a connection to `endpoint`.
    ///
    /// # Errors
    /// Returns the endpoint and the cause: resolution, refusal or timeout.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Io, String> {
        let connecting = self.tcp.call(endpoint.uri());
        let connected = within(self.timeout, connecting).await;
        connected.map(TokioIo::into_inner).map_err(|error| format!("{endpoint}: {error}"))
    }
}

/// Applies `timeout` to the name resolution and the TCP handshake together. The timeout of
/// [`HttpConnector`] covers only the handshakes.
async fn within<T, E: Error>(timeout: Duration, connecting: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| describe(&error)),
        Err(_) => Err(format!("connect timeout after {timeout:?} (name resolution and TCP handshake)")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_nameserver_is_waited_for_until_the_connect_timeout() {
        let (began, timeout) = (Instant::now(), Duration::from_secs(2));
        let error = within(timeout, std::future::pending::<Result<(), std::io::Error>>()).await.unwrap_err();
        assert!(began.elapsed() == timeout && error.contains("2s"), "{error}");
    }
}
