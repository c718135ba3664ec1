//! [`Client`]: sends requests over HTTP/1.1 to origins, peers and etcd.
//!
//! Connections are pooled and every wait has a timeout. A request without content is retried
//! once, and only if a reused connection turned out to be dead.

use std::io::ErrorKind;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::connector::Connector;
use super::endpoint::Endpoint;
use super::pool::{Connection, Pool};
use super::reply::{Framing, Reply};
use crate::body::{Body, Progress, describe, next_data};
use crate::error::Error;
use crate::semantics::{content_length, upgrade};
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

/// The longest that the head of a chunked response is held back until the first chunk arrives.
const FIRST_CHUNK: Duration = Duration::from_millis(20);

/// An HTTP/1.1 client with a connection pool, for servers named by the configuration.
pub(crate) struct Client {
    pool: Pool,
    timeouts: Timeouts,
    errors: ErrorKinds,
}

impl Client {
    /// Creates a client for `http` endpoints that rejects responses with more than `max_headers`
    /// header lines.
    pub(crate) fn new(timeouts: Timeouts, errors: ErrorKinds, max_headers: usize) -> Self {
        Self::with_connector(Connector::new(timeouts.connect), timeouts, errors, max_headers)
    }

    /// Creates a client for `https` endpoints; see [`new`](Self::new).
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
        Self { pool: Pool::new(connector, timeouts.lifetime, max_headers), timeouts, errors }
    }

    /// Sends `request` to `endpoint` and returns the reply when its head is complete. The request's URI is a path. `timeout` runs from the last chunk that was
    /// read from the request's body.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        mut request: Request<Body>,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        request.headers_mut().insert(HOST, endpoint.host().clone());
        write_framing(&mut request);
        let progress = if request.body().is_end_stream() {
            Progress::begin()
        } else {
            let (body, progress) = Body::with_progress(std::mem::take(request.body_mut()));
            *request.body_mut() = body;
            progress
        };
        let offers_upgrade = upgrade::is_to_websocket(request.headers());
        let (connection, mut response) = tokio::select! {
            sent = self.send_with_retry(endpoint, request) => sent?,
            () = progress.stalls(timeout) => return Err((self.errors.timeout)(endpoint.to_string())),
        };
        // RFC 9110 §15.2.2: a server switches only to a protocol that the request offered.
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(offers_upgrade && upgrade::is_to_websocket(response.headers())) {
            return Err((self.errors.malformed)("101 (Switching Protocols) without an upgrade request".to_owned()));
        }
        let upgrade = switches.then(|| hyper::upgrade::on(&mut response));
        let length = body_length(&response).map_err(|error| (self.errors.malformed)(error.to_owned()))?;
        // Otherwise the end of the response is not known for certain.
        if !has_forbidden_length(&response) {
            self.pool.put(endpoint, connection);
        }
        let reply = self.apply_framing(response, length).await?;
        Ok(Reply { upgrade, ..reply })
    }

    /// Bounds the waits of the body and rewrites the framing headers.
    async fn apply_framing(&self, response: Response<Incoming>, length: BodyLength) -> Result<Reply, Error> {
        let mut response =
            response.map(|incoming| Body::received(incoming, Some(self.timeouts.idle), self.errors.broken));
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
    ) -> Result<(Connection, Response<Incoming>), Error> {
        if let Some(mut connection) = self.pool.take(endpoint) {
            let retry = retry_copy(&request);
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut failed) => match (failed.take_message(), retry) {
                    // No byte of the request was sent.
                    (Some(unsent), _) => request = unsent,
                    (None, Some(retry)) if is_dead_connection(failed.error()) => request = retry,
                    (None, _) => return Err(self.failure(failed.error())),
                },
            }
        }
        let mut connection = self.pool.open(endpoint).await.map_err(self.errors.unreachable)?;
        let response = connection.sender.send_request(request).await.map_err(|error| self.failure(&error))?;
        Ok((connection, response))
    }

    fn failure(&self, error: &hyper::Error) -> Error {
        if error.is_user() {
            // The request's body failed; its error may hold the cause.
            let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
            cause.cloned().unwrap_or_else(|| Error::ClientBroke(describe(error)))
        } else if error.is_parse() {
            (self.errors.malformed)(describe(error))
        } else {
            (self.errors.broken)(describe(error))
        }
    }
}

/// Copies a request that may be sent twice: an idempotent one without content.
fn retry_copy(request: &Request<Body>) -> Option<Request<Body>> {
    if !is_repeatable(request.method()) || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Returns true if a reused connection turned out to be dead. Bytes that are not a response
/// count too: they are the rest of the previous response, which was longer than it stated.
fn is_dead_connection(error: &hyper::Error) -> bool {
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    closed || error.is_parse() || is_reset(error)
}

fn is_reset(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    // The end of a TLS connection without close_notify is an UnexpectedEof.
    cause.is_some_and(|io| {
        matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
    })
}

/// The length of a response's body by its headers (RFC 9112 §6.3).
enum BodyLength {
    /// Known from Content-Length, or no body. A response without a body may state a length, too.
    Known(Option<u64>),
    Chunked,
    UntilClose,
}

/// Returns true if a request may be sent twice (RFC 9110 §9.2.2). A second PURGE has no
/// further effect.
fn is_repeatable(method: &Method) -> bool {
    method.is_idempotent() || method.as_str() == "PURGE"
}

/// Returns the length of an HTTP/1 response's body. Errors name the invalid header.
fn body_length(response: &Response<Incoming>) -> Result<BodyLength, &'static str> {
    let by_length = || {
        let length = content_length::of_response(response.headers());
        length.map(BodyLength::Known).map_err(|content_length::Invalid| "invalid Content-Length")
    };
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(_), _) if response.version() == Version::HTTP_10 => Err("Transfer-Encoding in an HTTP/1.0 response"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
        (Some(_), _) => Err("unsupported Transfer-Encoding (only chunked is supported)"),
        (None, _) if response.body().is_end_stream() => by_length(),
        (None, _) if response.headers().contains_key(CONTENT_LENGTH) => by_length(),
        (None, _) => Ok(BodyLength::UntilClose),
    }
}

/// Returns true for a 204 that announces content, which a 204 cannot have (RFC 9110 §8.6, RFC
/// 9112 §6.1). Bytes that the sender writes after the head are not the response to a request.
fn has_forbidden_length(response: &Response<Incoming>) -> bool {
    let length = || content_length::of_response(response.headers()).ok().flatten();
    response.status() == StatusCode::NO_CONTENT
        && (response.headers().contains_key(TRANSFER_ENCODING) || length().is_some_and(|length| length > 0))
}

/// Writes the framing headers of a request from its body. The client's own framing headers do
/// not reach the next server, which might interpret them differently.
fn write_framing(request: &mut Request<Body>) {
    let (is_empty, length) = (request.body().is_end_stream(), request.body().size_hint().exact());
    let headers = request.headers_mut();
    let stated = headers.contains_key(CONTENT_LENGTH);
    // A body made by this program does not know its length: the request states it.
    let stated_length = content_length::of_request(headers).ok().flatten();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    match length.or(stated_length) {
        // Only some methods state a length of zero, such as POST: keep the client's choice.
        _ if is_empty && !stated => {}
        _ if is_empty => drop(headers.insert(CONTENT_LENGTH, 0.into())),
        Some(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        // hyper drops the content of a GET of unknown length without this header.
        None => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
}

/// Writes the Content-Length of a response from the parsed number.
fn write_length(response: &mut Response<Body>, length: Option<u64>) {
    match length {
        // A 204 has no Content-Length (RFC 9110 §8.6).
        Some(length) if response.status() != StatusCode::NO_CONTENT => {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        _ => drop(response.headers_mut().remove(CONTENT_LENGTH)),
    }
}

/// Waits for the first chunk of a body, for [`FIRST_CHUNK`] at most. Returns the error of a
/// body that is cut off before the first chunk: the client then gets a 502, not an empty body.
async fn await_first_chunk(mut body: Body) -> Result<Body, Error> {
    match tokio::time::timeout(FIRST_CHUNK, next_data(&mut body)).await {
        Ok(None) => Ok(Body::empty()),
        Ok(Some(first)) => Ok(Body::chain([first?.into(), body])),
        // An event stream may have nothing to send yet; the client needs its head now.
        Err(_) => Ok(body),
    }
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
