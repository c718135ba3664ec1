//! [`Http2Pool`]: the HTTP/2 connections to each endpoint.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Notify;

use super::endpoint::Endpoint;
use super::http2::{Http2Connection, MAX_STREAMS, State, Stream};
use super::io::Io;

/// The most connections to one endpoint. Only a server that allows few streams needs more than one or
/// two.
const MAX_CONNECTIONS: usize = 256;

/// The time in which requests on a connection that takes no more of them must begin.
const LINGER: Duration = Duration::from_secs(10);

/// The attempt to open a connection, for all requests that wait for one.
pub(super) type Opening = Shared<BoxFuture<'static, Result<(), String>>>;

/// The HTTP/2 connections of a [`Client`](super::Client).
pub(super) struct Http2Pool {
    lifetime: Duration,
    /// Notified when a stream or a connection ends.
    released: Arc<Notify>,
    hosts: Mutex<HashMap<Endpoint, Host>>,
}

/// The state of one endpoint.
struct Host {
    /// True if the last connection was one of HTTP/1.1, so that each request opens its own.
    speaks_http1: bool,
    /// The server's limit on streams, as the last connection that reached it knew it.
    limit: usize,
    connections: Vec<Http2Connection>,
    /// Cancelled when all requests that wait for it have left.
    opening: Option<WeakShared<BoxFuture<'static, Result<(), String>>>>,
}

impl Default for Host {
    fn default() -> Self {
        Self { speaks_http1: false, limit: MAX_STREAMS, connections: Vec::new(), opening: None }
    }
}

/// The way to a connection.
pub(super) enum Step {
    Use(Stream),
    /// Wait for the attempt, then ask again.
    Open(Opening),
    /// Use a connection of HTTP/1.1, since the server speaks that.
    OpenHttp1,
    /// Wait until a stream ends, then ask again.
    Wait,
}

impl Http2Pool {
    /// Creates the pool. A connection takes new requests up to the age of `lifetime`.
    pub(super) fn new(lifetime: Duration) -> Self {
        // A year is no limit, and can be added to any time.
        let lifetime = lifetime.min(Duration::from_hours(365 * 24));
        Self { lifetime, released: Arc::default(), hosts: Mutex::default() }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Endpoint, Host>> {
        // No critical section can panic halfway through a change.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the notification of the end of a stream.
    pub(super) fn released(&self) -> &Notify {
        &self.released
    }

    /// Finds a stream, or the way to one. `open` makes the future that opens a connection.
    pub(super) fn step(
        &self,
        endpoint: &Endpoint,
        open: impl FnOnce() -> BoxFuture<'static, Result<(), String>>,
    ) -> Step {
        let mut hosts = self.hosts();
        let host = match hosts.get_mut(endpoint) {
            Some(host) => host,
            None => hosts.entry(endpoint.clone()).or_default(),
        };
        host.connections.retain(|connection| connection.is_usable(self.lifetime));
        if let Some(stream) = host.connections.iter().find_map(Http2Connection::reserve) {
            return Step::Use(stream);
        }
        if let Some(connection) = host.connections.last() {
            host.limit = connection.state().limit();
        }
        if let Some(opening) = host.opening.as_ref().and_then(WeakShared::upgrade).filter(|one| one.peek().is_none()) {
            return Step::Open(opening);
        }
        if host.connections.len() >= MAX_CONNECTIONS {
            return Step::Wait;
        }
        if host.speaks_http1 {
            return Step::OpenHttp1;
        }
        let opening = open().shared();
        host.opening = opening.downgrade();
        Step::Open(opening)
    }

    /// Notes that the server speaks HTTP/1.1.
    pub(super) fn note_http1(&self, endpoint: &Endpoint) {
        if let Some(host) = self.hosts().get_mut(endpoint) {
            host.speaks_http1 = true;
        }
    }

    /// Adds a connection to a server that selected HTTP/2.
    pub(super) async fn add(self: &Arc<Self>, endpoint: &Endpoint, io: Io) -> Result<(), String> {
        let limit = self.hosts().get(endpoint).map_or(MAX_STREAMS, |host| host.limit);
        let connection = Http2Connection::open(io, limit, Arc::clone(&self.released)).await?;
        tokio::spawn(attend(Arc::downgrade(self), endpoint.clone(), Arc::clone(connection.state()), self.lifetime));
        let mut hosts = self.hosts();
        let host = hosts.entry(endpoint.clone()).or_default();
        host.speaks_http1 = false;
        host.connections.push(connection);
        Ok(())
    }

    fn remove(&self, endpoint: &Endpoint, state: &Arc<State>) {
        if let Some(host) = self.hosts().get_mut(endpoint) {
            host.connections.retain(|connection| !Arc::ptr_eq(connection.state(), state));
        }
        self.released.notify_waiters();
    }
}

/// Runs a connection, and removes it when it takes no more requests. Those that have begun go on.
async fn attend(pool: Weak<Http2Pool>, endpoint: Endpoint, state: Arc<State>, lifetime: Duration) {
    let remove = || pool.upgrade().into_iter().for_each(|pool| pool.remove(&endpoint, &state));
    let mut driven = std::pin::pin!(state.drive());
    tokio::select! {
        () = &mut driven => remove(),
        () = state.expired(lifetime) => {
            remove();
            // Requests that the server does not let begin would keep the connection open for ever.
            if tokio::time::timeout(LINGER, driven).await.is_err() {
                state.stop();
            }
        }
    }
}
