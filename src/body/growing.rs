//! The shared body of a flight: one writer appends, many readers follow.
//!
//! A reader is a position and a waker. A late reader begins at byte 0. A slow reader delays
//! neither the writer nor another reader. The bytes are kept in chunks of exactly [`CHUNK`]
//! bytes, copied out of the network buffers, so the memory of a body equals its length.
//!
//! A body that outgrows its memory limit becomes a window. The oldest chunks are dropped, the
//! writer keeps the pace of the fastest reader, and a reader that falls out of the window gets
//! its position ([`Next::Lost`]).
//!
//! The file uses only a mutex and wakers, so that the same code runs under loom
//! (`tests/loom`).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::body::zero_copy::Arena;
use crate::error::Error;
use crate::store::chunks::CHUNK;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The most bytes that the writer of a window may be ahead of its fastest reader.
const AHEAD: u64 = 1024 * 1024;

/// The fewest whole chunks of a window: one to write, one to read.
const MIN_WINDOW: usize = 2;

/// The least memory of a window in bytes: its chunks, and the fragments.
pub(crate) const LEAST_ROOM: u64 = (MIN_WINDOW as u64 + 1) * CHUNK as u64;

/// The most fragments before they are merged: an origin that sends byte by byte takes no more
/// memory than its bytes.
const FRAGMENTS: usize = 64;

/// Parts of a body that follow one another, `len` bytes together.
struct Fragments {
    parts: Vec<Bytes>,
    len: usize,
}

impl Fragments {
    /// Copies them into one allocation.
    fn merge(&self, arena: &std::sync::Arc<Arena>) -> Bytes {
        arena.gather(self.parts.iter(), self.len)
    }
}

struct State {
    /// Memory of the chunks.
    arena: std::sync::Arc<Arena>,
    /// Offset of the first byte kept.
    base: u64,
    /// Whole chunks, from `base` on.
    chunks: VecDeque<Bytes>,
    /// Frames after the whole chunks, each with its offset.
    fragments: Vec<(u64, Bytes)>,
    /// Bytes received.
    len: u64,
    end: End,
    retention: Retention,
    waiting: Vec<Waker>,
    /// Number of times that `waiting` was emptied. A waiting reader compares it to see if its
    /// waker is still registered.
    round: u64,
    readers: usize,
    /// True after the last reader has left.
    abandoned: bool,
    /// The greatest position of any reader so far.
    fastest: u64,
    writer: Option<Waker>,
}

#[derive(Clone)]
enum End {
    Open,
    Complete,
    Failed(Error),
}

#[derive(Clone, Copy)]
enum Retention {
    /// Every byte is kept.
    Whole,
    /// At most this many whole chunks are kept; at least [`MIN_WINDOW`].
    Window(usize),
}

impl Retention {
    /// Returns the most bytes that the writer may be ahead of the fastest reader before it
    /// appends up to a chunk. The append never drops a chunk that this reader still needs.
    fn ahead(self) -> Option<u64> {
        match self {
            Self::Whole => None,
            Self::Window(most) => Some(AHEAD.min((most - 1) as u64 * CHUNK as u64)),
        }
    }
}

impl State {
    /// Returns the contiguous bytes at `at`, which must be less than `len`.
    fn at(&self, at: u64) -> Bytes {
        let from_base = usize::try_from(at - self.base).unwrap_or(usize::MAX);
        if let Some(chunk) = self.chunks.get(from_base / CHUNK) {
            return chunk.slice(from_base % CHUNK..);
        }
        let index = self.fragments.partition_point(|(start, _)| *start <= at) - 1;
        let (start, fragment) = &self.fragments[index];
        fragment.slice(usize::try_from(at - start).unwrap_or(usize::MAX)..)
    }

    fn fragment_bytes(&self) -> usize {
        let start = self.base + (self.chunks.len() * CHUNK) as u64;
        usize::try_from(self.len - start).unwrap_or(usize::MAX)
    }

    /// Adds the part of `data` that the chunk in the making has room for.
    fn push(&mut self, data: &mut Bytes) {
        let room = CHUNK - self.fragment_bytes();
        let part = data.split_to(room.min(data.len()));
        let start = self.len;
        self.len += part.len() as u64;
        self.fragments.push((start, part));
    }

    /// Returns the fragments if they are a whole chunk, or too many.
    fn to_merge(&self) -> Option<Fragments> {
        let len = self.fragment_bytes();
        let merges = len == CHUNK || self.fragments.len() > FRAGMENTS;
        merges.then(|| Fragments { parts: self.fragments.iter().map(|(_, part)| part.clone()).collect(), len })
    }

    /// Puts `merged` in the place of the fragments.
    fn replace_fragments(&mut self, merged: Bytes) {
        let start = self.base + (self.chunks.len() * CHUNK) as u64;
        self.fragments.clear();
        if merged.len() == CHUNK {
            self.chunks.push_back(merged);
            self.slide();
        } else {
            self.fragments.push((start, merged));
        }
    }

    /// Drops the chunks that have left the window.
    fn slide(&mut self) {
        if let Retention::Window(most) = self.retention {
            while self.chunks.len() > most {
                self.chunks.pop_front();
                self.base += CHUNK as u64;
            }
        }
    }

    /// Takes the wakers of the waiting readers, to be woken after the lock is released.
    fn take_waiting(&mut self) -> Vec<Waker> {
        self.round += 1;
        std::mem::take(&mut self.waiting)
    }
}

/// The shared body of a flight.
pub(crate) struct Growing {
    state: Mutex<State>,
}

impl Growing {
    pub(crate) fn new(arena: std::sync::Arc<Arena>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                arena,
                base: 0,
                chunks: VecDeque::new(),
                fragments: Vec::new(),
                len: 0,
                end: End::Open,
                retention: Retention::Whole,
                waiting: Vec::new(),
                round: 0,
                readers: 0,
                abandoned: false,
                fastest: 0,
                writer: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No critical section can panic half-way.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends `data` and wakes the readers that wait for it.
    pub(crate) fn append(&self, mut data: Bytes) {
        while !data.is_empty() {
            let mut state = self.lock();
            state.push(&mut data);
            let (fragments, waiting) = (state.to_merge(), state.take_waiting());
            let arena = state.arena.clone();
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
            // The one writer alone changes fragments, so the copy needs no lock.
            if let Some(fragments) = fragments {
                let merged = fragments.merge(&arena);
                self.lock().replace_fragments(merged);
            }
        }
    }

    /// Ends the body, with `last` as its last bytes. Unless it is a window, `keep` gets all
    /// chunks, each an allocation of its own, before any reader has the last bytes: a
    /// client that has read the whole body and requests it again finds it stored.
    pub(crate) fn complete(&self, mut last: Bytes, keep: impl FnOnce(Vec<Bytes>)) {
        let held = self.lock().fragment_bytes();
        let tail = match (held + last.len()) % CHUNK {
            0 => CHUNK.min(last.len()),
            tail => tail.min(last.len()),
        };
        self.append(last.split_to(last.len() - tail));
        let (mut chunks, fragments, retention, arena) = {
            let state = self.lock();
            let parts = state.fragments.iter().map(|(_, part)| part).chain([&last]).filter(|part| !part.is_empty());
            let fragments = Fragments { parts: parts.cloned().collect(), len: state.fragment_bytes() + last.len() };
            (state.chunks.iter().cloned().collect::<Vec<_>>(), fragments, state.retention, state.arena.clone())
        };
        let merged = (!fragments.parts.is_empty()).then(|| fragments.merge(&arena));
        if matches!(retention, Retention::Whole) {
            chunks.extend(merged.clone());
            keep(chunks);
        }
        let mut state = self.lock();
        state.len += last.len() as u64;
        if let Some(merged) = merged {
            state.replace_fragments(merged);
        }
        state.end = End::Complete;
        let waiting = state.take_waiting();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Fails the body: readers get the bytes received so far, then `error`. Does nothing to a
    /// body that has ended.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Failed(error);
        }
        let waiting = state.take_waiting();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Keeps at most `bytes` from now on, but at least [`LEAST_ROOM`].
    pub(crate) fn become_window(&self, bytes: u64) {
        let mut state = self.lock();
        let chunks = usize::try_from(bytes).unwrap_or(usize::MAX) / CHUNK;
        state.retention = Retention::Window(chunks.saturating_sub(1).max(MIN_WINDOW));
        state.slide();
    }

    /// Ready when the writer may append up to a chunk. Only a window makes the writer wait, for
    /// its fastest reader. Fails when a window has no reader left.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        match state.retention.ahead() {
            None => Poll::Ready(Ok(())),
            Some(_) if state.readers == 0 => Poll::Ready(Err(Error::Abandoned)),
            Some(ahead) if state.len <= state.fastest + ahead => Poll::Ready(Ok(())),
            Some(_) => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when the last reader has left. The writer waits for this or for
    /// [`poll_room`](Self::poll_room), not for both.
    pub(crate) fn poll_no_readers(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.abandoned {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn readers(&self) -> usize {
        self.lock().readers
    }
}

/// The result of a read.
pub(crate) enum Next {
    Data(Bytes),
    End,
    Failed(Error),
    /// The window has moved past the reader's position, which this is.
    Lost(u64),
}

/// Condition on which a reader returns its last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caution {
    /// None: as soon as the byte is received.
    None,
    /// The whole body is complete.
    AwaitEnd,
}

/// A position in a [`Growing`] body.
pub(crate) struct Reader {
    body: Arc<Growing>,
    at: u64,
    end: Option<u64>,
    caution: Caution,
    /// Round and index of the registered waker, while the reader waits.
    waits: Option<(u64, usize)>,
}

impl Reader {
    /// A reader of the whole body. It counts as a reader at once, so that a flight that waits
    /// for its head does not look abandoned.
    pub(crate) fn new(body: Arc<Growing>) -> Self {
        let mut state = body.lock();
        state.readers += 1;
        state.abandoned = false;
        drop(state);
        Self { body, at: 0, end: None, caution: Caution::None, waits: None }
    }

    /// Withholds the last byte of the range until the whole body is complete, so that a range
    /// of a body that fails verification does not end cleanly either.
    pub(crate) fn await_end(&mut self) {
        self.caution = Caution::AwaitEnd;
    }

    /// Returns the body that the reader is a position in.
    pub(crate) fn body(&self) -> Arc<Growing> {
        Arc::clone(&self.body)
    }

    /// Moves the reader to `first`, and ends its range at `end` if there is one.
    pub(crate) fn narrow(&mut self, first: u64, end: Option<u64>) {
        self.at = first;
        self.end = end;
        let mut state = self.body.lock();
        state.fastest = state.fastest.max(first);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Returns the number of bytes left to read, if the end is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.end.map(|end| end - self.at)
    }

    /// Reads at most `most` bytes.
    pub(crate) fn poll_next(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<Next> {
        if self.end.is_some_and(|end| self.at >= end) {
            return Poll::Ready(Next::End);
        }
        let mut state = self.body.lock();
        if self.at < state.base {
            return Poll::Ready(Next::Lost(self.at));
        }
        let open = self.caution == Caution::AwaitEnd && !matches!(state.end, End::Complete);
        let end = self.end.map_or(u64::MAX, |end| if open { end - 1 } else { end });
        if self.at < state.len.min(end) {
            let mut data = state.at(self.at);
            data.truncate(most);
            data.truncate(usize::try_from(end - self.at).unwrap_or(usize::MAX));
            self.at += data.len() as u64;
            self.waits = None;
            let writer = if self.at > state.fastest {
                state.fastest = self.at;
                state.writer.take()
            } else {
                None
            };
            drop(state);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Next::Data(data));
        }
        match state.end.clone() {
            // The body is complete before the end of the range: the declared length was wrong.
            End::Complete if self.end.is_some() => {
                Poll::Ready(Next::Failed(Error::OriginBroke("the body is shorter than its declared length".to_owned())))
            }
            End::Complete => Poll::Ready(Next::End),
            End::Failed(error) => Poll::Ready(Next::Failed(error)),
            End::Open => {
                match self.waits {
                    Some((round, index)) if round == state.round => state.waiting[index].clone_from(cx.waker()),
                    _ => {
                        self.waits = Some((state.round, state.waiting.len()));
                        state.waiting.push(cx.waker().clone());
                    }
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.body.lock();
        state.readers -= 1;
        state.abandoned = state.readers == 0;
        let writer = if state.abandoned { state.writer.take() } else { None };
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
