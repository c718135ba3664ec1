//! [`Pool`]: connections over HTTP/1.1, kept for one request after another.

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

/// How many connections rest for each host.
const MOST: usize = 256;
/// How long a connection rests: for less than its other end is likely to keep it, or
/// requests would often cross its end.
const REST: Duration = Duration::from_secs(30);
/// The most that is read ahead of whoever takes the body; it bounds an
/// answer's head too. In bytes.
const READ_AHEAD: usize = 256 * 1024;

/// A connection that is free for a request, or has taken one.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    opened: Instant,
}

/// The connections of a client.
pub(super) struct Pool {
    connector: HttpConnector,
    connect: Duration,
    http: http1::Builder,
    resting: Arc<Resting>,
}

impl Pool {
    /// Waits for a connection for the time of `connect`, and uses it for that of
    /// `lifetime`; takes answers of at most `fields` fields.
    pub(super) fn new(connect: Duration, lifetime: Duration, fields: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect));
        connector.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.max_buf_size(READ_AHEAD).max_headers(fields);
        // A proxy removes blanks before the colon (RFC 9112 §5.1). A folded line stays an
        // error (§5.2): that is a 502.
        http.allow_spaces_after_header_name_in_responses(true);
        let resting = Arc::new(Resting { lifetime, hosts: Mutex::default() });
        Self { connector, connect, http, resting }
    }

    /// A connection to `host` that has brought an answer before.
    pub(super) fn take(&self, host: &str) -> Option<Connection> {
        self.resting.take(host)
    }

    /// A new connection to `host`, which may name a port; an error says why there is none.
    pub(super) async fn open(&self, host: &str) -> Result<Connection, String> {
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query("/").build();
        let uri = uri.map_err(|error| error.to_string())?;
        let mut connector = self.connector.clone();
        let connecting = within(self.connect, connector.call(uri)).await;
        let stream = connecting.map_err(|error| format!("{host}: {error}"))?;
        let (sender, driver) = self.http.handshake(stream).await.map_err(|error| describe(&error))?;
        // How it ends is told to the request that is under way then.
        tokio::spawn(driver.with_upgrades());
        Ok(Connection { sender, opened: Instant::now() })
    }

    /// Keeps a connection that has brought the head of an answer, once it is free for
    /// another request.
    pub(super) fn keep(&self, host: &str, mut connection: Connection) {
        if connection.sender.is_ready() {
            return self.resting.add(host, connection);
        }
        let (resting, host) = (Arc::clone(&self.resting), Box::<str>::from(host));
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                resting.add(&host, connection);
            }
        });
    }
}

/// Waits for a connection for the time of `connect`. The connector by itself bounds the
/// handshakes with the addresses of a name, but not the name's resolution.
async fn within<T, E: Error>(connect: Duration, connecting: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(connect, connecting).await {
        Ok(connected) => connected.map_err(|error| describe(&error)),
        Err(_) => Err(format!("no connection within {connect:?}: its name's resolution or its handshake is too slow")),
    }
}

/// Connections that are not used, by host: of each, the last used is the last.
struct Resting {
    lifetime: Duration,
    hosts: Mutex<HashMap<Box<str>, Vec<Rested>>>,
}

struct Rested {
    connection: Connection,
    since: Instant,
}

impl Resting {
    fn hosts(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<Rested>>> {
        // Nothing in a critical section can leave it half changed.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of_use(&self, rested: &Rested) -> bool {
        let Rested { connection, since } = rested;
        connection.sender.is_ready() && since.elapsed() < REST && connection.opened.elapsed() < self.lifetime
    }

    fn take(&self, host: &str) -> Option<Connection> {
        let mut hosts = self.hosts();
        let connections = hosts.get_mut(host)?;
        std::iter::from_fn(|| connections.pop()).find(|rested| self.is_of_use(rested)).map(|rested| rested.connection)
    }

    fn add(self: &Arc<Self>, host: &str, connection: Connection) {
        let mut hosts = self.hosts();
        if hosts.is_empty() {
            tokio::spawn(Self::sweep(Arc::downgrade(self)));
        }
        let rested = Rested { connection, since: Instant::now() };
        match hosts.get_mut(host) {
            Some(connections) if connections.len() < MOST => connections.push(rested),
            Some(_) => {}
            None => drop(hosts.insert(host.into(), vec![rested])),
        }
    }

    /// Ends what has rested for too long, for as long as there is anything.
    async fn sweep(resting: Weak<Self>) {
        loop {
            tokio::time::sleep(REST).await;
            let Some(resting) = resting.upgrade() else { return };
            let mut hosts = resting.hosts();
            hosts.retain(|_, connections| {
                connections.retain(|rested| resting.is_of_use(rested));
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

    /// A pool with a connection that rests, and its other end.
    async fn resting() -> (Pool, String, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream
        });
        let pool = Pool::new(Duration::from_secs(20), 4 * REST, 100);
        assert!(pool.take(&host).is_none());
        let mut connection = pool.open(&host).await.unwrap();
        connection.sender.send_request(Request::new(Body::empty())).await.unwrap();
        pool.keep(&host, connection);
        while !pool.rests(&host) {
            tokio::task::yield_now().await;
        }
        (pool, host, answering.await.unwrap())
    }

    impl Pool {
        fn rests(&self, host: &str) -> bool {
            let Some(connection) = self.take(host) else { return false };
            self.keep(host, connection);
            true
        }
    }

    #[tokio::test]
    async fn a_connection_rests_for_its_time() {
        let (pool, host, _stream) = resting().await;
        tokio::time::pause();
        tokio::time::advance(REST / 2).await;
        assert!(pool.rests(&host), "it is used again");
        tokio::time::advance(REST * 3 / 4).await;
        assert!(pool.rests(&host), "and has rested since then only");
        tokio::time::advance(REST).await;
        assert!(!pool.rests(&host), "it may cross its end");
    }

    #[tokio::test]
    async fn a_connection_takes_no_request_beyond_its_lifetime() {
        let (pool, host, _stream) = resting().await;
        tokio::time::pause();
        for _ in 0..5 {
            tokio::time::advance(REST * 3 / 4).await;
            assert!(pool.rests(&host));
        }
        tokio::time::advance(REST / 2).await;
        assert!(!pool.rests(&host), "it is used all the time, and too old");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_nameserver_fails_the_request_after_connect_timeout() {
        let (began, connect) = (Instant::now(), Duration::from_secs(2));
        let error = within(connect, std::future::pending::<Result<(), std::io::Error>>()).await.unwrap_err();
        assert!(began.elapsed() == connect && error.contains("2s"), "{error}");
    }

    #[tokio::test]
    async fn what_nobody_uses_is_closed() {
        let (pool, _host, mut stream) = resting().await;
        tokio::time::pause();
        tokio::time::advance(2 * REST).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(pool.resting.hosts().is_empty());
    }

    #[tokio::test]
    async fn what_the_other_end_has_closed_is_not_used() {
        let (pool, host, stream) = resting().await;
        drop(stream);
        while pool.rests(&host) {
            tokio::task::yield_now().await;
        }
    }
}
