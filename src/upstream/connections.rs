//! [`Connections`]: finds a connection for each request, or opens one.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::connector::Connector;
use super::endpoint::Endpoint;
use super::failure::Cause;
use super::framing::write_framing;
use super::http2::Stream;
use super::http2_pool::{Http2Pool, Step};
use super::pool::{self, Pool};
use crate::body::Body;
use crate::tls::Alpn;

/// A connection, or a part of one, for one request.
pub(super) enum Connection {
    Http1(pool::Connection),
    Http2(Stream),
}

/// The connections that a request may use.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) version: Versions,
    pub(super) reuse: Reuse,
}

/// The versions of HTTP that a request may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    Any,
    Http1,
}

/// The use of a connection from the pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    Allowed,
    /// The last one was dead.
    Excluded,
}

impl Choice {
    fn without_reuse(self) -> Self {
        Self { reuse: Reuse::Excluded, ..self }
    }

    /// Returns the choice for a request of which no byte was sent on `connection`. A new connection of
    /// HTTP/1.1 that takes no request is a failure of the server.
    pub(super) fn after_unsent(self, connection: &Connection) -> Option<Self> {
        let may_be_closing = connection.is_reused() || matches!(connection, Connection::Http2(_));
        may_be_closing.then(|| self.without_reuse())
    }

    /// Returns the choice for a request of `method` that failed on `connection`, if it may be sent
    /// again.
    pub(super) fn after(self, cause: Cause, connection: &Connection, method: &Method) -> Option<Self> {
        let may_be_dead = self.reuse == Reuse::Allowed && connection.is_reused();
        match cause {
            Cause::Unprocessed => Some(self.without_reuse()),
            Cause::NeedsHttp1 if self.version == Versions::Any => Some(Self { version: Versions::Http1, ..self }),
            Cause::Dead if may_be_dead && is_repeatable(method) => Some(self.without_reuse()),
            // Bytes that are the rest of the previous response, which was longer than it stated.
            Cause::Malformed if may_be_dead && is_repeatable(method) && matches!(connection, Connection::Http1(_)) => {
                Some(self.without_reuse())
            }
            _ => None,
        }
    }
}

/// Returns true if a request may be sent twice (RFC 9110 §9.2.2). A second PURGE has no
/// further effect.
fn is_repeatable(method: &Method) -> bool {
    method.is_idempotent() || method.as_str() == "PURGE"
}

impl Connection {
    /// Returns true if the connection brought a response before. It may have died since.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_reused,
            Self::Http2(stream) => stream.is_reused,
        }
    }

    /// Sends `request` to `endpoint`, with the headers of framing and authority that the protocol
    /// has.
    pub(super) async fn send(
        &mut self,
        endpoint: &Endpoint,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        write_framing(&mut request);
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        match self {
            Self::Http1(connection) => {
                *request.uri_mut() = Uri::from(path);
                *request.version_mut() = Version::HTTP_11;
                request.headers_mut().insert(HOST, endpoint.host().clone());
                connection.sender.try_send_request(request).await
            }
            Self::Http2(stream) => {
                *request.uri_mut() = endpoint.uri_of(path);
                *request.version_mut() = Version::HTTP_2;
                // `:authority` takes its place (RFC 9113 §8.3.1), and the frames mark the end (§8.1).
                request.headers_mut().remove(HOST);
                request.headers_mut().remove(TRANSFER_ENCODING);
                stream.send(request).await
            }
        }
    }

    /// Takes a connection out of use if a request failed for a cause that concerns others, too. (One
    /// of HTTP/1.1 is dropped after any failure.)
    pub(super) fn note_failure(&self, cause: Cause) {
        let Self::Http2(stream) = self else { return };
        let concerns_others = match cause {
            Cause::Unprocessed => !stream.is_above_limit(),
            Cause::Dead => true,
            Cause::NeedsHttp1 | Cause::Malformed | Cause::Other => false,
        };
        if concerns_others {
            stream.retire();
        }
    }
}

/// The connections of a [`Client`](super::Client).
#[derive(Clone)]
pub(super) struct Connections {
    connector: Connector,
    pool: Arc<Pool>,
    /// `None` if HTTP/2 is not offered.
    http2: Option<Arc<Http2Pool>>,
}

impl Connections {
    /// Creates the pools. A connection is reused up to the age of `lifetime`. Responses have at most
    /// `max_headers` header lines.
    pub(super) fn new(connector: Connector, lifetime: Duration, max_headers: usize) -> Self {
        let http2 = (connector.alpn() == Alpn::Http2OrHttp1).then(|| Arc::new(Http2Pool::new(lifetime)));
        Self { connector, pool: Arc::new(Pool::new(lifetime, max_headers)), http2 }
    }

    /// Returns a connection to `endpoint`, as soon as one can take a request.
    pub(super) async fn acquire(&self, endpoint: &Endpoint, choice: Choice) -> Result<Connection, String> {
        let http2 = self.http2.as_ref().filter(|_| choice.version == Versions::Any);
        let Some(http2) = http2 else {
            return self.http1(endpoint, choice).await;
        };
        loop {
            let mut released = pin!(http2.released().notified());
            // From here on no notification is missed.
            released.as_mut().enable();
            let step = http2.step(endpoint, || self.clone().open_shared(Arc::clone(http2), endpoint.clone()).boxed());
            match step {
                Step::Use(stream) => return Ok(Connection::Http2(stream)),
                Step::Open(opening) => opening.await?,
                Step::Wait => released.await,
                Step::OpenHttp1 => {
                    if let Some(connection) = self.pooled(endpoint, choice) {
                        return Ok(connection);
                    }
                    if let Some(connection) = self.open(http2, endpoint).await? {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    /// Takes back a connection of HTTP/1.1 whose response has begun.
    pub(super) fn put(&self, endpoint: &Endpoint, connection: pool::Connection) {
        self.pool.put(endpoint, connection);
    }

    fn pooled(&self, endpoint: &Endpoint, choice: Choice) -> Option<Connection> {
        match choice.reuse {
            Reuse::Allowed => self.pool.take(endpoint).map(Connection::Http1),
            Reuse::Excluded => None,
        }
    }

    async fn http1(&self, endpoint: &Endpoint, choice: Choice) -> Result<Connection, String> {
        if let Some(connection) = self.pooled(endpoint, choice) {
            return Ok(connection);
        }
        let io = self.connector.connect(endpoint).await?;
        self.pool.handshake(io).await.map(Connection::Http1)
    }

    /// Opens a connection. Returns it if it is one of HTTP/1.1, and adds it to `http2` otherwise.
    async fn open(&self, http2: &Arc<Http2Pool>, endpoint: &Endpoint) -> Result<Option<Connection>, String> {
        let io = self.connector.connect_offering(endpoint, Alpn::Http2OrHttp1).await?;
        if io.is_http2() {
            http2.add(endpoint, io).await?;
            return Ok(None);
        }
        http2.note_http1(endpoint);
        self.pool.handshake(io).await.map(|connection| Some(Connection::Http1(connection)))
    }

    /// Opens a connection for all requests that wait for it. One of HTTP/1.1 goes to the pool, where
    /// one of the requests finds it.
    async fn open_shared(self, http2: Arc<Http2Pool>, endpoint: Endpoint) -> Result<(), String> {
        if let Some(Connection::Http1(connection)) = self.open(&http2, &endpoint).await? {
            self.pool.put(&endpoint, connection);
        }
        Ok(())
    }
}
