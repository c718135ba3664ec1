//! [`Pool`]: HTTP/1.1 connections, reused for one request after another.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::Instant;
use tower_service::Service as _;

use crate::body::{Body, describe};

/// The most idle connections for each host.
const MAX_IDLE_PER_HOST: usize = 256;
/// The longest that an idle connection is kept. Servers are likely to keep theirs for longer;
/// otherwise requests would often meet a connection that the server is closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The size of a connection's read buffer, in bytes; it limits the head of a response, too.
const READ_BUFFER: usize = 256 * 1024;

/// An HTTP/1.1 connection, idle or with one request in flight.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    opened: Instant,
}

/// The connections of a [`Client`](super::Client).
pub(super) struct Pool {
    connector: HttpConnector,
    connect_timeout: Duration,
    http: http1::Builder,
    idle: Arc<Idle>,
}

impl Pool {
    /// Creates a pool. A new connection must be established within `connect_timeout` and is
    /// reused up to the age of `lifetime`. Responses have at most `max_headers` header lines.
    pub(super) fn new(connect_timeout: Duration, lifetime: Duration, max_headers: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.max_buf_size(READ_BUFFER).max_headers(max_headers);
        // A proxy removes whitespace before the colon (RFC 9112 §5.1). A folded line stays an
        // error (§5.2): the client gets a 502.
        http.allow_spaces_after_header_name_in_responses(true);
        let idle = Arc::new(Idle { lifetime, hosts: Mutex::default() });
        Self { connector, connect_timeout, http, idle }
    }

    /// Takes an idle connection to `host` from the pool.
    pub(super) fn take(&self, host: &str) -> Option<Connection> {
        self.idle.take(host)
    }

    /// Opens a new connection to `host` (`host` or `host:port`).
    pub(super) async fn open(&self, host: &str) -> Result<Connection, String> {
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query("/").build();
        let uri = uri.map_err(|error| error.to_string())?;
        let mut connector = self.connector.clone();
        let connected = within(self.connect_timeout, connector.call(uri)).await;
        let stream = connected.map_err(|error| format!("{host}: {error}"))?;
        let (sender, driver) = self.http.handshake(stream).await.map_err(|error| describe(&error))?;
        // The driver's error also reaches the request in flight, which reports it.
        tokio::spawn(driver.with_upgrades());
        Ok(Connection { sender, opened: Instant::now() })
    }

    /// Puts a connection back once it is idle. Called when the head of a response has arrived;
    /// the body may still be in transfer.
    pub(super) fn put(&self, host: &str, mut connection: Connection) {
        if connection.sender.is_ready() {
            return self.idle.add(host, connection);
        }
        let (idle, host) = (Arc::clone(&self.idle), Box::<str>::from(host));
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                idle.add(&host, connection);
            }
        });
    }
}

/// Applies `timeout` to the name resolution and the TCP handshake together. The connector's own
/// timeout covers only the handshakes.
async fn within<T, E: Error>(timeout: Duration, connecting: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| describe(&error)),
        Err(_) => Err(format!("connect timeout after {timeout:?} (name resolution and TCP handshake)")),
    }
}

/// The idle connections of each host; the last used is the last in the list.
struct Idle {
    lifetime: Duration,
    hosts: Mutex<HashMap<Box<str>, Vec<IdleConnection>>>,
}

struct IdleConnection {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn hosts(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<IdleConnection>>> {
        // No critical section can panic halfway through a change.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self, idle: &IdleConnection) -> bool {
        let IdleConnection { connection, since } = idle;
        connection.sender.is_ready() && since.elapsed() < IDLE_TIMEOUT && connection.opened.elapsed() < self.lifetime
    }

    fn take(&self, host: &str) -> Option<Connection> {
        let mut hosts = self.hosts();
        let connections = hosts.get_mut(host)?;
        std::iter::from_fn(|| connections.pop()).find(|idle| self.is_usable(idle)).map(|idle| idle.connection)
    }

    fn add(self: &Arc<Self>, host: &str, connection: Connection) {
        let mut hosts = self.hosts();
        if hosts.is_empty() {
            tokio::spawn(Self::sweep(Arc::downgrade(self)));
        }
        let idle = IdleConnection { connection, since: Instant::now() };
        match hosts.get_mut(host) {
            Some(connections) if connections.len() < MAX_IDLE_PER_HOST => connections.push(idle),
            Some(_) => {}
            None => drop(hosts.insert(host.into(), vec![idle])),
        }
    }

    /// Closes connections that are idle for too long. Runs until no connection is left.
    async fn sweep(idle: Weak<Self>) {
        loop {
            tokio::time::sleep(IDLE_TIMEOUT).await;
            let Some(idle) = idle.upgrade() else { return };
            let mut hosts = idle.hosts();
            hosts.retain(|_, connections| {
                connections.retain(|connection| idle.is_usable(connection));
                !connections.is_empty()
            });
            if hosts.is_empty() {
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
    async fn pool_with_idle_connection() -> (Pool, String, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream
        });
        let pool = Pool::new(Duration::from_secs(20), 4 * IDLE_TIMEOUT, 100);
        assert!(pool.take(&host).is_none());
        let mut connection = pool.open(&host).await.unwrap();
        connection.sender.send_request(Request::new(Body::empty())).await.unwrap();
        pool.put(&host, connection);
        while !pool.has_idle(&host) {
            tokio::task::yield_now().await;
        }
        (pool, host, server.await.unwrap())
    }

    impl Pool {
        fn has_idle(&self, host: &str) -> bool {
            let Some(connection) = self.take(host) else { return false };
            self.put(host, connection);
            true
        }
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_until_the_idle_timeout() {
        let (pool, host, _stream) = pool_with_idle_connection().await;
        tokio::time::pause();
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        assert!(pool.has_idle(&host), "before the timeout");
        tokio::time::advance(IDLE_TIMEOUT * 3 / 4).await;
        assert!(pool.has_idle(&host), "each use restarts the timeout");
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert!(!pool.has_idle(&host), "the timeout has passed");
    }

    #[tokio::test]
    async fn a_connection_older_than_its_lifetime_is_not_reused() {
        let (pool, host, _stream) = pool_with_idle_connection().await;
        tokio::time::pause();
        for _ in 0..5 {
            tokio::time::advance(IDLE_TIMEOUT * 3 / 4).await;
            assert!(pool.has_idle(&host));
        }
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        assert!(!pool.has_idle(&host), "it was never idle for long, but is too old");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_nameserver_is_waited_for_until_the_connect_timeout() {
        let (began, connect) = (Instant::now(), Duration::from_secs(2));
        let error = within(connect, std::future::pending::<Result<(), std::io::Error>>()).await.unwrap_err();
        assert!(began.elapsed() == connect && error.contains("2s"), "{error}");
    }

    #[tokio::test]
    async fn unused_connections_are_closed() {
        let (pool, _host, mut stream) = pool_with_idle_connection().await;
        tokio::time::pause();
        tokio::time::advance(2 * IDLE_TIMEOUT).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(pool.idle.hosts().is_empty());
    }

    #[tokio::test]
    async fn a_connection_closed_by_the_server_is_not_used() {
        let (pool, host, stream) = pool_with_idle_connection().await;
        drop(stream);
        while pool.has_idle(&host) {
            tokio::task::yield_now().await;
        }
    }
}
