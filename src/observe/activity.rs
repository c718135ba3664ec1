//! The requests of one connection: how many there are, and whether what they are
//! answered with is taken.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Buf;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::body::Run;

/// The requests of one connection, by their number.
#[derive(Clone, Default)]
pub(crate) struct Activity(Arc<Counts>);

#[derive(Default)]
struct Counts {
    begun: AtomicU32,
    ended: AtomicU32,
    /// Whether the end of the connection tells that of an answer.
    unframed: AtomicBool,
    /// Whether the connection has been ended for what was not taken.
    stalled: AtomicBool,
    /// Whether the connection has been ended for a flood of control frames.
    flooded: AtomicBool,
    /// Tells that none has been under way for a time.
    rests: Notify,
    /// Answers over HTTP/2, some of which may have ended.
    streams: Mutex<Vec<Weak<Stream>>>,
    /// Tells that there is one more.
    opened: Notify,
}

impl Activity {
    /// One begins; it ends when what is returned is dropped.
    pub(crate) fn begin(&self) -> ActiveRequest {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.clone())
    }

    /// From now on, only an orderly end of the connection may look like one: it tells
    /// that an answer is whole (RFC 9112 §6.3).
    pub(crate) fn end_with_connection(&self) {
        self.0.unframed.store(true, Ordering::Relaxed);
    }

    /// Whether the end of the connection tells the end of an answer.
    pub(crate) fn are_unframed(&self) -> bool {
        self.0.unframed.load(Ordering::Relaxed)
    }

    /// The connection is ended, for an answer is not taken.
    pub(crate) fn stall(&self) {
        self.0.stalled.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub(crate) fn have_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// Notes that the connection is ended for a flood of control frames.
    pub(crate) fn flood(&self) {
        self.0.flooded.store(true, Ordering::Relaxed);
    }

    /// Returns true if it was.
    pub(crate) fn have_flooded(&self) -> bool {
        self.0.flooded.load(Ordering::Relaxed)
    }

    /// Tells who serves the connection that none has been under way for long enough.
    pub(crate) fn rest(&self) {
        self.0.rests.notify_one();
    }

    /// How many there were (it wraps around), if none is under way.
    pub(crate) fn all_ended(&self) -> Option<u32> {
        let ended = self.0.ended.load(Ordering::Relaxed);
        (self.0.begun.load(Ordering::Relaxed) == ended).then_some(ended)
    }

    /// From now on, has an eye on how an answer over HTTP/2 is taken: that the
    /// connection takes something says nothing of each of its streams.
    pub(crate) fn watch(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams();
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Arc::downgrade(stream));
        self.0.opened.notify_one();
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<Stream>>> {
        // Nothing in a critical section can leave it half changed.
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when there is something to say of them; an answer is not taken when
    /// nothing of it was for the time of `patience`.
    pub(crate) async fn news(&self, patience: Duration) -> News {
        tokio::select! {
            () = self.0.rests.notified() => News::Idle,
            news = self.stalls(patience) => news,
        }
    }

    async fn stalls(&self, patience: Duration) -> News {
        loop {
            if self.streams().is_empty() {
                self.0.opened.notified().await;
            }
            tokio::time::sleep(patience / 4).await;
            let mut streams = self.streams();
            streams.retain(|stream| stream.strong_count() > 0);
            let waits = streams.iter().filter_map(Weak::upgrade).map(|stream| stream.waits_for());
            match waits.filter(|time| *time > patience).count() {
                0 => {}
                all if all == streams.len() => return News::Stalled,
                _ => return News::Stalls,
            }
        }
    }
}

/// What there is to say of the requests of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// None has been under way for a time.
    Idle,
    /// Some answers are not taken, others are.
    Stalls,
    /// None of the answers is taken.
    Stalled,
}

/// A request that has not been answered to its end.
pub(crate) struct ActiveRequest(Activity);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// What an answer goes by.
pub(crate) enum Way {
    /// All of a connection over HTTP/1.
    Connection { _under_way: ActiveRequest },
    /// A stream of one over HTTP/2.
    Stream(Arc<Stream>),
}

/// How the client takes an answer over HTTP/2. It lasts until the last of it has gone.
pub(crate) struct Stream {
    turn: Mutex<Turn>,
    _under_way: ActiveRequest,
}

struct Turn {
    /// How many pieces the connection has.
    out: usize,
    /// Since when it has been the client's turn: it has to let something through.
    since: Option<Instant>,
}

impl Stream {
    pub(crate) fn new(under_way: ActiveRequest) -> Arc<Self> {
        Arc::new(Self { turn: Mutex::new(Turn { out: 0, since: Some(Instant::now()) }), _under_way: under_way })
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        // Nothing in a critical section can leave it half changed.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long nothing of it has been taken.
    fn waits_for(&self) -> Duration {
        self.turn().since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// It is not the client who is waited for, but for what there may be in the
    /// connection still.
    pub(crate) fn has_nothing(&self) {
        let mut turn = self.turn();
        turn.since = turn.since.filter(|_| turn.out > 0);
    }

    /// The connection has one more piece of it.
    pub(crate) fn hand(self: &Arc<Self>, run: Run) -> Piece {
        let mut turn = self.turn();
        turn.out += 1;
        turn.since = Some(Instant::now());
        drop(turn);
        Piece { run, stream: Some(Arc::clone(self)) }
    }
}

/// A part of an answer, as a connection has it until it is written.
pub(crate) struct Piece {
    run: Run,
    /// Over HTTP/2, what it is a part of.
    stream: Option<Arc<Stream>>,
}

impl Way {
    pub(crate) fn connection(under_way: ActiveRequest) -> Self {
        Self::Connection { _under_way: under_way }
    }
}

impl From<Run> for Piece {
    fn from(run: Run) -> Self {
        Self { run, stream: None }
    }
}

impl Buf for Piece {
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
            stream.turn().since = Some(Instant::now());
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            let mut turn = stream.turn();
            turn.out -= 1;
            turn.since = Some(Instant::now());
        }
    }
}
