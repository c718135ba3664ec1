//! [`Http2Connection`]: an HTTP/2 connection, which carries many requests at a time.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::io::Io;
use super::pool::{IDLE_TIMEOUT, READ_BUFFER};
use crate::body::{Body, describe};

/// The most streams of a connection at a time, whatever more the server allows. Until a server has
/// stated its limit, it is taken to be this one (RFC 9113 §6.5.2).
pub(super) const MAX_STREAMS: usize = 100;
/// The bytes of a body that the server may send ahead of its reader.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all streams of a connection: so a slow reader uses up its own share only.
#[allow(clippy::cast_possible_truncation)] // 100
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// The silence of a connection with open streams after which the server is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// The longest wait for that sign; then the connection has failed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The half of a connection that sends requests. hyper's other tasks send and receive the frames.
type Driver = http2::Connection<TokioIo<Io>, Body, TokioExecutor>;

/// An HTTP/2 connection.
pub(super) struct Http2Connection {
    sender: SendRequest<Body>,
    state: Arc<State>,
}

/// The state of a connection, without the handle that keeps it open.
pub(super) struct State {
    /// `None` once the connection takes no more requests.
    driver: Mutex<Option<Driver>>,
    streams: AtomicUsize,
    has_answered: AtomicBool,
    is_retired: AtomicBool,
    opened: Instant,
    /// The time of the last end of a stream.
    last_used: Mutex<Instant>,
    /// Notified when a stream ends.
    released: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No critical section can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Http2Connection {
    /// Sends the connection preface. `streams` is the server's limit as far as it is known, until the
    /// server states it. `released` is notified whenever a stream ends.
    pub(super) async fn open(io: Io, streams: usize, released: Arc<Notify>) -> Result<Self, String> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_max_send_streams(streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(READ_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let (sender, driver) = builder.handshake(TokioIo::new(io)).await.map_err(|error| describe(&error))?;
        let opened = Instant::now();
        let state = State {
            driver: Mutex::new(Some(driver)),
            streams: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            opened,
            last_used: Mutex::new(opened),
            released,
        };
        Ok(Self { sender, state: Arc::new(state) })
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Returns true if the connection takes new requests.
    pub(super) fn is_usable(&self, lifetime: Duration) -> bool {
        !self.sender.is_closed()
            && !self.state.is_retired.load(Ordering::Relaxed)
            && Instant::now() < self.state.expires(lifetime)
    }

    /// Reserves a stream, unless all are taken.
    pub(super) fn reserve(&self) -> Option<Stream> {
        let (limit, streams) = (self.state.limit(), &self.state.streams);
        let is_free = |taken| (taken < limit).then_some(taken + 1);
        streams.try_update(Ordering::Relaxed, Ordering::Relaxed, is_free).ok()?;
        let is_reused = self.state.has_answered.load(Ordering::Relaxed);
        Some(Stream { sender: self.sender.clone(), state: Arc::clone(&self.state), is_reused })
    }
}

impl State {
    /// Returns the most streams at a time by the server's and by our limit.
    pub(super) fn limit(&self) -> usize {
        // A server that allows none for the moment gets one request, which waits.
        lock(&self.driver).as_ref().map_or(1, Driver::current_max_send_streams).clamp(1, MAX_STREAMS)
    }

    /// Returns the time from which the connection takes no requests: it is too old, or idle for too
    /// long.
    fn expires(&self, lifetime: Duration) -> Instant {
        let aged = self.opened + lifetime;
        match self.streams.load(Ordering::Relaxed) {
            0 => aged.min(*lock(&self.last_used) + IDLE_TIMEOUT),
            _ => aged,
        }
    }

    /// Sends the requests. Resolves when the connection takes no more of them.
    pub(super) async fn drive(&self) {
        std::future::poll_fn(|cx| {
            let mut driver = lock(&self.driver);
            if let Some(running) = driver.as_mut() {
                // The error also reaches the requests, which report it.
                let _ = ready!(Pin::new(running).poll(cx));
            }
            *driver = None;
            Poll::Ready(())
        })
        .await;
    }

    /// Lets no further request begin. Those that have begun go on.
    pub(super) fn stop(&self) {
        *lock(&self.driver) = None;
    }

    /// Resolves when the connection [expires](Self::expires).
    pub(super) async fn expired(&self, lifetime: Duration) {
        loop {
            let (now, end) = (Instant::now(), self.expires(lifetime));
            if now >= end {
                return;
            }
            // With open streams, the time at which the connection is idle is not known yet.
            tokio::time::sleep_until(end.min(now + IDLE_TIMEOUT)).await;
        }
    }
}

/// A stream of a connection, reserved for one request.
pub(super) struct Stream {
    sender: SendRequest<Body>,
    state: Arc<State>,
    /// True if the connection brought a response before.
    pub(super) is_reused: bool,
}

impl Stream {
    /// Sends `request`, whose URI is absolute. To drop the future, or the body of the response, resets
    /// the stream.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let response = self.sender.try_send_request(request).await?;
        self.state.has_answered.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// Returns true if the connection has more streams than the server allows, since the server has
    /// stated a lower limit in the meantime. That explains a refusal.
    pub(super) fn is_above_limit(&self) -> bool {
        self.state.streams.load(Ordering::Relaxed) > self.state.limit()
    }

    /// Takes the connection out of use for further requests.
    pub(super) fn retire(&self) {
        self.state.is_retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *lock(&self.state.last_used) = Instant::now();
        self.state.streams.fetch_sub(1, Ordering::Relaxed);
        self.state.released.notify_one();
    }
}
