//! [`Peers`]: sends requests to other edges, over HTTP on their peer listeners.

use std::sync::Arc;
use std::time::Duration;

use http::Request;

use super::pipeline::{PeekRequest, Pipelines, Timeouts as PeekTimeouts};
use crate::body::Body;
use crate::error::Error;
use crate::semantics::forward::{MAX_ADDED_HEADERS, MAX_HEADERS};
use crate::upstream::{Client, Connector, Endpoint, ErrorKinds, PeerSecurity, Reply, Timeouts};

/// The errors of a client for peers.
pub(super) const ERRORS: ErrorKinds = ErrorKinds {
    unreachable: Error::PeerUnreachable,
    timeout: |_| Error::PeerTimeout,
    malformed: Error::PeerBroke,
    broken: Error::PeerBroke,
};

/// A client for other edges.
pub(crate) struct Peers {
    client: Client,
    first_byte: Duration,
    pipelines: Pipelines,
}

impl Peers {
    /// Creates a client that waits for the first byte of a response for at most `first_byte`,
    /// and for the response to a peek for at most `peek`. Without `security` it speaks cleartext.
    pub(crate) fn new(
        timeouts: Timeouts,
        first_byte: Duration,
        peek: Duration,
        security: Option<PeerSecurity>,
    ) -> Self {
        let connector = Connector::to_peers(timeouts.connect, security.clone());
        let client = Client::with_connector(connector, timeouts, ERRORS, MAX_HEADERS + MAX_ADDED_HEADERS);
        let connector = Connector::to_peers(peek, security);
        let pipelines = Pipelines::new(connector, PeekTimeouts { peek, peer: timeouts.connect });
        Self { client, first_byte, pipelines }
    }

    /// Sends a peek to the edge that listens at `address`.
    pub(crate) fn peek(&self, address: &Arc<str>, request: PeekRequest) {
        self.pipelines.send(address, request);
    }

    /// Sends `request` to the edge that listens at `address`; the request's URI is a canonical
    /// path. Returns the reply with any status.
    ///
    /// # Errors
    /// The peer gave no valid response.
    pub(crate) async fn ask(&self, address: &str, request: Request<Body>) -> Result<Reply, Error> {
        let endpoint: Endpoint = address.parse().map_err(Error::PeerUnreachable)?;
        self.client.send(&endpoint, request, self.first_byte).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::error::Fault;

    #[tokio::test]
    async fn invalid_framing_is_a_fault_of_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        let long = Duration::from_secs(20);
        let peers = Peers::new(Timeouts { connect: long, idle: long, lifetime: long }, long, long, None);
        let error = peers.ask(&address, Request::new(Body::empty())).await.map(drop).unwrap_err();
        assert_eq!(error.fault(), Fault::Peer, "{error}");
    }
}
