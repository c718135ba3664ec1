//! Asking another edge, over HTTP on its peer listener.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};

use super::pipeline::{Pipelines, Question, Waits};
use crate::body::Body;
use crate::error::Error;
use crate::semantics::forward::{MAX_ADDED_HEADERS, MAX_HEADERS};
use crate::upstream::{Blame, Outgoing, Patience};

const BLAME: Blame = Blame {
    unreachable: Error::PeerUnreachable,
    late: |_| Error::PeerTimeout,
    garbage: Error::PeerBroke,
    broke: Error::PeerBroke,
};

/// A client of other edges.
pub(crate) struct Peers {
    outgoing: Outgoing,
    first_byte: Duration,
    links: Pipelines,
}

impl Peers {
    /// Waits for the first byte of an answer for the time of `first_byte`, and for that of
    /// an answer to a peek for the time of `quiet`.
    pub(crate) fn new(patience: Patience, first_byte: Duration, quiet: Duration) -> Self {
        let outgoing = Outgoing::new(patience, BLAME, MAX_HEADERS + MAX_ADDED_HEADERS);
        Self { outgoing, first_byte, links: Pipelines::new(Waits { peer_timeout: patience.connect, quiet }) }
    }

    /// Asks the edge that listens at `address` what it has at hand.
    pub(crate) fn peek(&self, address: &Arc<str>, question: Question) {
        self.links.ask(address, question);
    }

    /// Sends `request`, whose URI is a canonical path, to the edge that
    /// listens at `address`. An error is the peer's failure to answer;
    /// whatever status it answers with is the answer.
    pub(crate) async fn ask(&self, address: &str, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.outgoing.send(address, request, self.first_byte).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::error::Fault;

    #[tokio::test]
    async fn bad_framing_is_the_peers_own_fault() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        let long = Duration::from_secs(20);
        let peers = Peers::new(Patience { connect: long, idle: long, lifetime: long }, long, long);
        let error = peers.ask(&address, Request::new(Body::empty())).await.map(drop).unwrap_err();
        assert_eq!(error.fault(), Fault::Peer, "{error}");
    }
}
