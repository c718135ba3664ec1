//! [`Pool`]: HTTP/1.1 connections, reused for one request after another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::io::Io;
use crate::body::{Body, describe};

/// The most idle connections for each endpoint.
const MAX_IDLE: usize = 256;
/// The longest that an idle connection is kept. Servers are likely to keep theirs for longer;
/// otherwise requests would often meet a connection that the server is closing.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The size of a connection's read buffer, in bytes; it limits the head of a response, too.
pub(super) const READ_BUFFER: u32 = 256 * 1024;

/// An HTTP/1.1 connection, idle or with one request in flight.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    opened: Instant,
    /// True if the connection was taken from the pool.
    pub(super) is_reused: bool,
}

/// The HTTP/1.1 connections of a [`Client`](super::Client).
pub(super) struct Pool {
    http: http1::Builder,
    idle: Arc<Idle>,
}

impl Pool {
    /// Creates a pool. A connection is reused up to the age of `lifetime`. Responses have at most
    /// `max_headers` header lines.
    pub(super) fn new(lifetime: Duration, max_headers: usize) -> Self {
        let mut http = http1::Builder::new();
        http.max_buf_size(READ_BUFFER as usize).max_headers(max_headers);
        // A proxy removes whitespace before the colon (RFC 9112 §5.1). A folded line stays an
        // error (§5.2): the client gets a 502.
        http.allow_spaces_after_header_name_in_responses(true);
        let idle = Arc::new(Idle { lifetime, endpoints: Mutex::default() });
        Self { http, idle }
    }

    /// Takes an idle connection to `endpoint` from the pool.
    pub(super) fn take(&self, endpoint: &Endpoint) -> Option<Connection> {
        let connection = self.idle.take(endpoint)?;
        Some(Connection { is_reused: true, ..connection })
    }

    /// Prepares a new connection for requests.
    pub(super) async fn handshake(&self, io: Io) -> Result<Connection, String> {
        let (sender, driver) = self.http.handshake(TokioIo::new(io)).await.map_err(|error| describe(&error))?;
        // The driver's error also reaches the request in flight, which reports it.
        tokio::spawn(driver.with_upgrades());
        Ok(Connection { sender, opened: Instant::now(), is_reused: false })
    }

    /// Puts a connection back once it is idle. Called when the head of a response has arrived;
    /// the body may still be in transfer.
    pub(super) fn put(&self, endpoint: &Endpoint, mut connection: Connection) {
        if connection.sender.is_ready() {
            return self.idle.add(endpoint, connection);
        }
        let (idle, endpoint) = (Arc::clone(&self.idle), endpoint.clone());
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                idle.add(&endpoint, connection);
            }
        });
    }
}

/// The idle connections of each endpoint; the last used is the last in the list.
struct Idle {
    lifetime: Duration,
    endpoints: Mutex<HashMap<Endpoint, Vec<IdleConnection>>>,
}

struct IdleConnection {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn endpoints(&self) -> MutexGuard<'_, HashMap<Endpoint, Vec<IdleConnection>>> {
        // No critical section can panic halfway through a change.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self, idle: &IdleConnection) -> bool {
        let IdleConnection { connection, since } = idle;
        connection.sender.is_ready() && since.elapsed() < IDLE_TIMEOUT && connection.opened.elapsed() < self.lifetime
    }

    fn take(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut endpoints = self.endpoints();
        let connections = endpoints.get_mut(endpoint)?;
        std::iter::from_fn(|| connections.pop()).find(|idle| self.is_usable(idle)).map(|idle| idle.connection)
    }

    fn add(self: &Arc<Self>, endpoint: &Endpoint, connection: Connection) {
        let mut endpoints = self.endpoints();
        if endpoints.is_empty() {
            tokio::spawn(Self::sweep(Arc::downgrade(self)));
        }
        let idle = IdleConnection { connection, since: Instant::now() };
        match endpoints.get_mut(endpoint) {
            Some(connections) if connections.len() < MAX_IDLE => connections.push(idle),
            Some(_) => {}
            None => drop(endpoints.insert(endpoint.clone(), vec![idle])),
        }
    }

    /// Closes connections that are idle for too long. Runs until no connection is left.
    async fn sweep(idle: Weak<Self>) {
        loop {
            tokio::time::sleep(IDLE_TIMEOUT).await;
            let Some(idle) = idle.upgrade() else { return };
            let mut endpoints = idle.endpoints();
            endpoints.retain(|_, connections| {
                connections.retain(|connection| idle.is_usable(connection));
                !connections.is_empty()
            });
            if endpoints.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Returns a pool with one idle connection, and the server's end of that connection.
    async fn pool_with_idle_connection() -> (Pool, Endpoint, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream
        });
        let pool = Pool::new(4 * IDLE_TIMEOUT, 100);
        assert!(pool.take(&endpoint).is_none());
        let io = Io::Tcp(TcpStream::connect(endpoint.address()).await.unwrap());
        let mut connection = pool.handshake(io).await.unwrap();
        connection.sender.send_request(Request::new(Body::empty())).await.unwrap();
        pool.put(&endpoint, connection);
        while !pool.has_idle(&endpoint) {
            tokio::task::yield_now().await;
        }
        (pool, endpoint, server.await.unwrap())
    }

    impl Pool {
        fn has_idle(&self, endpoint: &Endpoint) -> bool {
            let Some(connection) = self.take(endpoint) else { return false };
            self.put(endpoint, connection);
            true
        }
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_until_the_idle_timeout() {
        let (pool, endpoint, _stream) = pool_with_idle_connection().await;
        tokio::time::pause();
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        assert!(pool.has_idle(&endpoint), "before the timeout");
        tokio::time::advance(IDLE_TIMEOUT * 3 / 4).await;
        assert!(pool.has_idle(&endpoint), "each use restarts the timeout");
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert!(!pool.has_idle(&endpoint), "the timeout has passed");
    }

    #[tokio::test]
    async fn a_connection_older_than_its_lifetime_is_not_reused() {
        let (pool, endpoint, _stream) = pool_with_idle_connection().await;
        tokio::time::pause();
        for _ in 0..5 {
            tokio::time::advance(IDLE_TIMEOUT * 3 / 4).await;
            assert!(pool.has_idle(&endpoint));
        }
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        assert!(!pool.has_idle(&endpoint), "it was never idle for long, but is too old");
    }

    #[tokio::test]
    async fn unused_connections_are_closed() {
        let (pool, _endpoint, mut stream) = pool_with_idle_connection().await;
        tokio::time::pause();
        tokio::time::advance(2 * IDLE_TIMEOUT).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(pool.idle.endpoints().is_empty());
    }

    #[tokio::test]
    async fn a_connection_closed_by_the_server_is_not_used() {
        let (pool, endpoint, stream) = pool_with_idle_connection().await;
        drop(stream);
        while pool.has_idle(&endpoint) {
            tokio::task::yield_now().await;
        }
    }
}
