//! [`Client`]: sends requests to origins, peers and etcd.
//!
//! Connections are pooled and every wait has a timeout. A request without content is retried
//! once if a reused connection turned out to be dead, and a few times if the server states that it
//! did not process the request.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::connections::{Choice, Connection, Connections, Reuse, Versions};
use super::connector::Connector;
use super::endpoint::Endpoint;
use super::failure::Cause;
use super::framing::{BodyLength, await_first_chunk, body_length, has_forbidden_length, write_length};
use super::reply::{Framing, Reply};
use crate::body::{Body, Ended, Progress, ReceivedFrom, describe};
use crate::error::Error;
use crate::semantics::upgrade;
use crate::tls::TlsConnector;

/// The timeouts of a [`Client`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For name resolution and the handshakes of TCP and TLS.
    pub(crate) connect: Duration,
    /// Between two chunks of a body.
    pub(crate) idle: Duration,
    /// The age at which a connection takes no new requests.
    pub(crate) lifetime: Duration,
}

/// The default of [`Timeouts::lifetime`]. The client follows a change of the host's addresses
/// within this time, even while the server at the old address still answers.
pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);

/// Constructors of the errors of a [`Client`]: they name the origin or a peer as the cause.
pub(crate) struct ErrorKinds {
    /// No connection.
    pub(crate) unreachable: fn(String) -> Error,
    /// No response head within the timeout.
    pub(crate) timeout: fn(String) -> Error,
    /// A malformed response.
    pub(crate) malformed: fn(String) -> Error,
    /// A response that was cut off.
    pub(crate) broken: fn(String) -> Error,
}

/// The most times that a request is sent.
const MAX_ATTEMPTS: usize = 5;

/// An HTTP client with a connection pool, for servers named by the configuration.
pub(crate) struct Client {
    connections: Connections,
    max_headers: usize,
    timeouts: Timeouts,
    errors: ErrorKinds,
}

impl Client {
    /// Creates a client for `http` endpoints that rejects responses with more than `max_headers`
    /// header lines.
    pub(crate) fn new(timeouts: Timeouts, errors: ErrorKinds, max_headers: usize) -> Self {
        Self::with_connector(Connector::new(timeouts.connect), timeouts, errors, max_headers)
    }

    /// Creates a client for `https` endpoints, which uses HTTP/2 if `tls` offers it and the server
    /// selects it; see [`new`](Self::new).
    pub(crate) fn secure(tls: TlsConnector, timeouts: Timeouts, errors: ErrorKinds, max_headers: usize) -> Self {
        Self::with_connector(Connector::new(timeouts.connect).with_tls(tls), timeouts, errors, max_headers)
    }

    /// Creates a client that opens its connections by `connector`; see [`new`](Self::new).
    pub(crate) fn with_connector(
        connector: Connector,
        timeouts: Timeouts,
        errors: ErrorKinds,
        max_headers: usize,
    ) -> Self {
        let connections = Connections::new(connector, timeouts.lifetime, max_headers);
        Self { connections, max_headers, timeouts, errors }
    }

    /// Sends `request` to `endpoint` and returns the reply when its head is complete. The request's
    /// URI is a path. `timeout` runs from the last chunk that was read from the request's body.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        mut request: Request<Body>,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        let (progress, fault) = observe(&mut request);
        let method = request.method().clone();
        let offers_upgrade = upgrade::is_to_websocket(request.headers());
        let (connection, mut response) = tokio::select! {
            sent = self.send_with_retry(endpoint, request, fault.as_deref()) => sent?,
            () = progress.stalls(timeout) => return Err((self.errors.timeout)(endpoint.to_string())),
        };
        // RFC 9110 §15.2.2: a server switches only to a protocol that the request offered.
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(offers_upgrade && upgrade::is_to_websocket(response.headers())) {
            return Err((self.errors.malformed)("101 (Switching Protocols) without an upgrade request".to_owned()));
        }
        if response.headers().len() > self.max_headers {
            return Err((self.errors.malformed)(format!("more than {} header lines", self.max_headers)));
        }
        let upgrade = switches.then(|| hyper::upgrade::on(&mut response));
        let length = body_length(&response).map_err(|error| (self.errors.malformed)(error.to_owned()))?;
        let response = match connection {
            Connection::Http1(connection) => {
                // Otherwise the end of the response is not known for certain.
                if !has_forbidden_length(&response) {
                    self.connections.put(endpoint, connection);
                }
                response.map(|incoming| self.receive(incoming.into()))
            }
            // The frames of a response without content may end later than its head.
            Connection::Http2(_) if has_no_content(&method, &response) => response.map(|_| Body::empty()),
            Connection::Http2(stream) => response.map(|incoming| {
                let body = self.receive(ReceivedFrom::http(Version::HTTP_2, incoming));
                if body.is_end_stream() { body } else { Body::with_end_hook(body, move |_, _| drop(stream)) }
            }),
        };
        let reply = self.apply_framing(response, length).await?;
        Ok(Reply { upgrade, ..reply })
    }

    /// Bounds the waits of a body.
    fn receive(&self, body: ReceivedFrom) -> Body {
        Body::received(body, Some(self.timeouts.idle), self.errors.broken)
    }

    /// Rewrites the framing headers.
    async fn apply_framing(&self, mut response: Response<Body>, length: BodyLength) -> Result<Reply, Error> {
        let mut framing = Framing::Delimited;
        match length {
            BodyLength::Known(length) => write_length(&mut response, length),
            // RFC 9112 §6.3: chunked overrides Content-Length, and an intermediary removes it.
            BodyLength::Chunked => {
                response.headers_mut().remove(CONTENT_LENGTH);
                let body = await_first_chunk(std::mem::take(response.body_mut())).await?;
                *response.body_mut() = body;
            }
            BodyLength::UntilClose => framing = Framing::UntilClose,
        }
        Ok(Reply { framing, ..response.into() })
    }

    async fn send_with_retry(
        &self,
        endpoint: &Endpoint,
        mut request: Request<Body>,
        fault: Option<&OnceLock<Error>>,
    ) -> Result<(Connection, Response<Incoming>), Error> {
        let is_upgrade = upgrade::is_to_websocket(request.headers());
        let mut choice =
            Choice { version: if is_upgrade { Versions::Http1 } else { Versions::Any }, reuse: Reuse::Allowed };
        let mut attempts = 1;
        loop {
            let mut connection = self.connections.acquire(endpoint, choice).await.map_err(self.errors.unreachable)?;
            let copy = copy_without_content(&request);
            let mut failed = match connection.send(endpoint, request).await {
                Ok(response) => return Ok((connection, response)),
                Err(failed) => failed,
            };
            let cause = Cause::of(failed.error());
            connection.note_failure(cause);
            let retry = match (failed.take_message(), copy) {
                (Some(unsent), _) => choice.after_unsent(&connection).map(|choice| (unsent, choice)),
                (None, Some(copy)) => choice.after(cause, &connection, copy.method()).map(|choice| (copy, choice)),
                (None, None) => None,
            };
            (request, choice) = match retry {
                Some(retry) if attempts < MAX_ATTEMPTS => retry,
                _ => return Err(self.failure(failed.error(), cause, fault)),
            };
            attempts += 1;
        }
    }

    /// Returns the error of a failed request. `fault` is the error of its body.
    fn failure(&self, error: &hyper::Error, cause: Cause, fault: Option<&OnceLock<Error>>) -> Error {
        if let Some(fault) = fault.and_then(OnceLock::get) {
            return fault.clone();
        }
        match cause {
            _ if error.is_user() && fault.is_some() => Error::ClientBroke(describe(error)),
            Cause::Malformed => (self.errors.malformed)(describe(error)),
            _ => (self.errors.broken)(describe(error)),
        }
    }
}

/// Observes the body of a request: its progress, and the error with which it may end. A request
/// without content has no such error.
fn observe(request: &mut Request<Body>) -> (Progress, Option<Arc<OnceLock<Error>>>) {
    if request.body().is_end_stream() {
        return (Progress::begin(), None);
    }
    let fault = Arc::new(OnceLock::new());
    let noted = Arc::clone(&fault);
    let body = Body::with_end_hook(std::mem::take(request.body_mut()), move |ended, _| {
        if let Ended::Failed(error) = ended {
            // The hook is called once.
            let _ = noted.set(error);
        }
    });
    let (body, progress) = Body::with_progress(body);
    *request.body_mut() = body;
    (progress, Some(fault))
}

/// Copies a request that has no content, so that it can be sent again.
fn copy_without_content(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Returns true if a response has no content, whatever its headers say (RFC 9110 §6.4.1).
fn has_no_content(method: &Method, response: &Response<Incoming>) -> bool {
    method == Method::HEAD || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Barrier;

    use super::*;

    const ERRORS: ErrorKinds = ErrorKinds {
        unreachable: Error::PeerUnreachable,
        timeout: |_| Error::PeerTimeout,
        malformed: Error::PeerBroke,
        broken: Error::PeerBroke,
    };

    async fn read_head(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    /// A server that answers one request on each connection and closes it on the next.
    /// The first two connections answer at the same moment.
    async fn one_response_per_connection() -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        let barrier = Arc::new(Barrier::new(2));
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let barrier = Arc::clone(&barrier);
                tokio::spawn(async move {
                    read_head(&mut stream).await;
                    if number < 2 {
                        barrier.wait().await;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    read_head(&mut stream).await;
                });
            }
        });
        endpoint
    }

    #[tokio::test]
    async fn get_on_a_dead_pooled_connection_is_retried_and_post_is_not() {
        let endpoint = one_response_per_connection().await;
        let long = Duration::from_secs(20);
        let client = Client::new(Timeouts { connect: long, idle: long, lifetime: long }, ERRORS, 100);
        let get = || client.send(&endpoint, Request::new(Body::empty()), long);
        let (first, second) = tokio::join!(get(), get());
        assert!(first.is_ok() && second.is_ok());
        // Two connections are idle in the pool, and both are dead.
        assert!(get().await.is_ok());
        let mut post = Request::new(Body::from("content"));
        *post.method_mut() = Method::POST;
        let error = client.send(&endpoint, post, long).await.map(drop).unwrap_err();
        assert!(matches!(error, Error::PeerBroke(_)), "{error}");
    }

    /// A server that answers the first request with `head` and later ones on the same
    /// connection with 203. On other connections each request gets a 200.
    async fn serve_first(head: &'static str) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        tokio::spawn(async move {
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let plain = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    let reused = "HTTP/1.1 203 Reused\r\ncontent-length: 0\r\n\r\n";
                    let (mut next, later) = if connection == 0 { (head, reused) } else { (plain, plain) };
                    loop {
                        read_head(&mut stream).await;
                        stream.write_all(next.as_bytes()).await.unwrap();
                        next = later;
                    }
                });
            }
        });
        endpoint
    }

    #[tokio::test]
    async fn a_204_with_content_is_delivered_and_its_connection_is_not_reused() {
        let long = Duration::from_secs(20);
        let client = Client::new(Timeouts { connect: long, idle: long, lifetime: long }, ERRORS, 100);
        for (head, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", false),
        ] {
            let endpoint = serve_first(head).await;
            let first = client.send(&endpoint, Request::new(Body::empty()), long).await.unwrap();
            assert!(head.contains(first.response.status().as_str()), "{head}");
            // A connection may take a moment until it is idle in the pool.
            let mut is_reused = false;
            for _ in 0..10 {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                let next = client.send(&endpoint, Request::new(Body::empty()), long).await.unwrap();
                is_reused |= next.response.status().as_u16() == 203;
            }
            assert_eq!(is_reused, expected, "{head}");
        }
    }
}
