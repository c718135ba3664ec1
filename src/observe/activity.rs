//! [`Activity`]: the active requests of one connection, and the progress of their responses.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Buf;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::body::Run;

/// Counts the requests of one connection, and notes the reason for which it is closed.
#[derive(Clone, Default)]
pub(crate) struct Activity(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Requests that have begun. It wraps around, as `completed` does.
    begun: AtomicU32,
    completed: AtomicU32,
    /// True if the end of a response is the end of the connection (RFC 9112 §6.3).
    unframed: AtomicBool,
    /// True if the connection is closed because the client did not read a response.
    stalled: AtomicBool,
    /// True if the connection is closed for a flood of control frames.
    flooded: AtomicBool,
    /// Notified when the connection has been idle for the idle timeout.
    idle: Notify,
    /// Responses over HTTP/2; some of them may have ended.
    streams: Mutex<Vec<Weak<StreamProgress>>>,
    /// Notified when `streams` has one more.
    stream_opened: Notify,
}

impl Activity {
    /// Begins a request. It is active until the returned guard is dropped.
    pub(crate) fn begin(&self) -> ActiveRequest {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.clone())
    }

    /// Notes that a response ends with its connection (RFC 9112 §6.3). From now on the
    /// connection must be reset if a response breaks off: a FIN would make it look complete.
    pub(crate) fn mark_unframed(&self) {
        self.0.unframed.store(true, Ordering::Relaxed);
    }

    /// Returns true if the end of a response is the end of the connection.
    pub(crate) fn is_unframed(&self) -> bool {
        self.0.unframed.load(Ordering::Relaxed)
    }

    /// Notes that the connection is closed because the client did not read a response.
    pub(crate) fn mark_stalled(&self) {
        self.0.stalled.store(true, Ordering::Relaxed);
    }

    /// Returns true after [`mark_stalled`](Self::mark_stalled).
    pub(crate) fn is_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// Notes that the connection is closed for a flood of control frames.
    pub(crate) fn mark_flooded(&self) {
        self.0.flooded.store(true, Ordering::Relaxed);
    }

    /// Returns true after [`mark_flooded`](Self::mark_flooded).
    pub(crate) fn is_flooded(&self) -> bool {
        self.0.flooded.load(Ordering::Relaxed)
    }

    /// Reports that no request has been active for the idle timeout.
    pub(crate) fn report_idle(&self) {
        self.0.idle.notify_one();
    }

    /// Returns the number of completed requests (it wraps around); `None` while a request
    /// is active.
    pub(crate) fn completed_if_idle(&self) -> Option<u32> {
        let completed = self.0.completed.load(Ordering::Relaxed);
        (self.0.begun.load(Ordering::Relaxed) == completed).then_some(completed)
    }

    /// Watches a response over HTTP/2 for a stall. Writes to the connection do not suffice
    /// for that: they say nothing about a single stream.
    pub(crate) fn track(&self, stream: &Arc<StreamProgress>) {
        let mut streams = self.streams();
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Arc::downgrade(stream));
        self.0.stream_opened.notify_one();
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<StreamProgress>>> {
        // Nothing in a critical section can leave it half changed.
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves at the next event. A stream is stalled when the client has read nothing of
    /// it for `timeout`.
    pub(crate) async fn next_event(&self, timeout: Duration) -> ActivityEvent {
        tokio::select! {
            () = self.0.idle.notified() => ActivityEvent::Idle,
            event = self.next_stall(timeout) => event,
        }
    }

    async fn next_stall(&self, timeout: Duration) -> ActivityEvent {
        loop {
            if self.streams().is_empty() {
                self.0.stream_opened.notified().await;
            }
            tokio::time::sleep(timeout / 4).await;
            let mut streams = self.streams();
            streams.retain(|stream| stream.strong_count() > 0);
            let waits = streams.iter().filter_map(Weak::upgrade).map(|stream| stream.waiting_time());
            match waits.filter(|time| *time > timeout).count() {
                0 => {}
                all if all == streams.len() => return ActivityEvent::AllStalled,
                _ => return ActivityEvent::SomeStalled,
            }
        }
    }
}

/// An event of a connection that its server must act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActivityEvent {
    /// No request has been active for the idle timeout.
    Idle,
    /// The client reads some of the responses, but not all.
    SomeStalled,
    /// The client reads none of the responses.
    AllStalled,
}

/// A request until the end of its response. Dropping it completes the request.
pub(crate) struct ActiveRequest(Activity);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.0.completed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The part of a connection that delivers a response.
pub(crate) enum Delivery {
    /// An HTTP/1 connection, which delivers one response at a time.
    Connection { _active: ActiveRequest },
    /// One stream of an HTTP/2 connection.
    Stream(Arc<StreamProgress>),
}

impl Delivery {
    pub(crate) fn connection(active: ActiveRequest) -> Self {
        Self::Connection { _active: active }
    }
}

/// The progress of one response over HTTP/2. It lives until the last buffer of the response
/// is written.
pub(crate) struct StreamProgress {
    state: Mutex<ProgressState>,
    _active: ActiveRequest,
}

struct ProgressState {
    /// Buffers that the connection holds.
    buffered: usize,
    /// The time since which the response waits for the client to open its windows; `None`
    /// while it waits for its body.
    waiting_since: Option<Instant>,
}

impl StreamProgress {
    pub(crate) fn new(active: ActiveRequest) -> Arc<Self> {
        let state = ProgressState { buffered: 0, waiting_since: Some(Instant::now()) };
        Arc::new(Self { state: Mutex::new(state), _active: active })
    }

    fn state(&self) -> MutexGuard<'_, ProgressState> {
        // Nothing in a critical section can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time for which the client has read nothing of the response.
    fn waiting_time(&self) -> Duration {
        self.state().waiting_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Notes that the body has no data yet: the client is waited for only if the connection
    /// still holds buffers.
    pub(crate) fn note_no_data(&self) {
        let mut state = self.state();
        state.waiting_since = state.waiting_since.filter(|_| state.buffered > 0);
    }

    /// Wraps a run that the connection takes next.
    pub(crate) fn buffer(self: &Arc<Self>, run: Run) -> TrackedBuf {
        let mut state = self.state();
        state.buffered += 1;
        state.waiting_since = Some(Instant::now());
        drop(state);
        TrackedBuf { run, stream: Some(Arc::clone(self)) }
    }
}

/// A buffer of a response body that the connection holds until it is written.
pub(crate) struct TrackedBuf {
    run: Run,
    /// The stream that the buffer belongs to; only over HTTP/2.
    stream: Option<Arc<StreamProgress>>,
}

impl From<Run> for TrackedBuf {
    fn from(run: Run) -> Self {
        Self { run, stream: None }
    }
}

impl Buf for TrackedBuf {
    fn remaining(&self) -> usize {
        self.run.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.run.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        self.run.chunks_vectored(slices)
    }

    fn advance(&mut self, bytes: usize) {
        self.run.advance(bytes);
        if let Some(stream) = &self.stream {
            stream.state().waiting_since = Some(Instant::now());
        }
    }
}

impl Drop for TrackedBuf {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            let mut state = stream.state();
            state.buffered -= 1;
            state.waiting_since = Some(Instant::now());
        }
    }
}
