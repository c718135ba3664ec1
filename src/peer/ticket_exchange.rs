//! The exchange of session ticket secrets between edges.
//!
//! An edge sends its secrets in an OPTIONS request for the next hop, and the response has those of
//! the other edge. Both go over mutually authenticated TLS only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::MAX_FORWARDS;
use http::{HeaderName, HeaderValue, Method, Request};

use super::client::ERRORS;
use crate::body::{Body, next_data};
use crate::error::Error;
use crate::tls::PeerTls;
use crate::upstream::{Client, Connector, Endpoint, PeerSecurity, Timeouts};

/// The header that marks a request of the exchange.
const TICKET_SECRETS: HeaderName = HeaderName::from_static("peerage-ticket-secrets");
/// The largest message, in bytes.
const MAX_MESSAGE: usize = 4096;
/// The most header lines of a response.
const MAX_HEADERS: usize = 100;

/// Exchanges ticket secrets with other edges.
pub(crate) struct TicketExchange {
    client: Client,
    timeout: Duration,
}

impl TicketExchange {
    /// Creates a client that waits for a connection and for a response for at most `timeout` each.
    pub(crate) fn new(tls: Arc<PeerTls>, timeout: Duration) -> Self {
        let connector = Connector::to_peers(timeout, Some(PeerSecurity::strict(tls)));
        // Exchanges are rare: a connection is not kept for the next one.
        let timeouts = Timeouts { connect: timeout, idle: timeout, lifetime: Duration::ZERO };
        Self { client: Client::with_connector(connector, timeouts, ERRORS, MAX_HEADERS), timeout }
    }

    /// Sends `message` to the edge at `address`. Returns that edge's message; empty if it does not
    /// take part.
    pub(crate) async fn exchange(&self, address: &str, message: Vec<u8>) -> Result<Bytes, Error> {
        let endpoint: Endpoint = address.parse().map_err(Error::PeerUnreachable)?;
        let mut request = Request::new(Body::from(Bytes::from(message)));
        *request.method_mut() = Method::OPTIONS;
        request.headers_mut().insert(MAX_FORWARDS, HeaderValue::from_static("0"));
        request.headers_mut().insert(TICKET_SECRETS, HeaderValue::from_static("1"));
        let reply = self.client.send(&endpoint, request, self.timeout).await?;
        read_message(reply.response.into_body()).await
    }
}

/// Returns true if a peer sends its ticket secrets.
pub(crate) fn is_exchange<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(TICKET_SECRETS)
}

/// Reads a message.
///
/// # Errors
/// The body breaks off, or is too long.
pub(crate) async fn read_message(mut body: Body) -> Result<Bytes, Error> {
    let mut message = Vec::new();
    while let Some(data) = next_data(&mut body).await {
        message.extend_from_slice(&data?);
        if message.len() > MAX_MESSAGE {
            return Err(Error::PeerBroke(format!("a message of ticket secrets is longer than {MAX_MESSAGE} bytes")));
        }
    }
    Ok(message.into())
}
