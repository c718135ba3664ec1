//! The shared body of a flight: one writer appends, many readers follow.
//!
//! A reader is a position and a waker. Whoever joins late begins at byte 0;
//! whoever is slow holds up neither the writer nor another reader. What has
//! come is kept in pieces of exactly [`CHUNK`] bytes, copied out of the
//! network's buffers, so what a body takes is what its length says.
//!
//! A body that outgrows what may be held becomes a window: the oldest pieces
//! go, the writer keeps the pace of the fastest reader, and a reader that
//! falls out of the window is told where it stands ([`Next::Lost`]).
//!
//! The file uses no more than a mutex and wakers, so that the same code runs
//! under loom (`tests/loom`).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::body::zero_copy::Arena;
use crate::error::Error;
use crate::store::chunks::CHUNK;
use crate::sync::{Arc, Mutex, MutexGuard};

/// How far a window's writer may run ahead of its fastest reader, in bytes.
const AHEAD: u64 = 1024 * 1024;

/// The fewest whole pieces of a window: one to write, one to read.
const LEAST_WINDOW: usize = 2;

/// What a window takes at the least, in bytes: its pieces, and the fragments.
pub(crate) const LEAST_ROOM: u64 = (LEAST_WINDOW as u64 + 1) * CHUNK as u64;

/// More fragments than this are merged, so that an origin that sends byte by
/// byte costs no more than its bytes.
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
    /// Where pieces are held.
    arena: std::sync::Arc<Arena>,
    /// Offset of the first byte that is held.
    base: u64,
    /// Whole pieces, from `base` on.
    chunks: VecDeque<Bytes>,
    /// What came behind the whole pieces, each with its offset.
    fragments: Vec<(u64, Bytes)>,
    /// Offset behind the last byte that came.
    len: u64,
    end: End,
    retention: Retention,
    waiting: Vec<Waker>,
    /// Counts the times that `waiting` was emptied: a reader that waits knows
    /// by it whether its waker is still there.
    round: u64,
    readers: usize,
    /// Whether there were readers, and all of them have left.
    deserted: bool,
    /// The greatest position that any reader had.
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
    /// At most this many whole pieces are kept; at least [`LEAST_WINDOW`].
    Window(usize),
}

impl Retention {
    /// How far the writer may be ahead of the fastest reader before it appends up to
    /// a piece: never so far that this would push out what that reader still needs.
    fn ahead(self) -> Option<u64> {
        match self {
            Self::Whole => None,
            Self::Window(most) => Some(AHEAD.min((most - 1) as u64 * CHUNK as u64)),
        }
    }
}

impl State {
    /// The bytes at `at`, which must not be behind the end: as many as lie together.
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

    fn slide(&mut self) {
        if let Retention::Window(most) = self.retention {
            while self.chunks.len() > most {
                self.chunks.pop_front();
                self.base += CHUNK as u64;
            }
        }
    }

    fn wake(&mut self) -> Vec<Waker> {
        self.round += 1;
        std::mem::take(&mut self.waiting)
    }
}

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
                deserted: false,
                fastest: 0,
                writer: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in a critical section can leave the state half changed.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends `data` and wakes the readers that wait for it.
    pub(crate) fn append(&self, mut data: Bytes) {
        while !data.is_empty() {
            let mut state = self.lock();
            state.push(&mut data);
            let (fragments, waiting) = (state.to_merge(), state.wake());
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
        let waiting = state.wake();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends the body badly: readers get what has come, then `error`. A body
    /// that has ended stays as it is.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Failed(error);
        }
        let waiting = state.wake();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// From now on keeps at most `bytes`, but [`LEAST_ROOM`] at the least.
    pub(crate) fn become_window(&self, bytes: u64) {
        let mut state = self.lock();
        let chunks = usize::try_from(bytes).unwrap_or(usize::MAX) / CHUNK;
        state.retention = Retention::Window(chunks.saturating_sub(1).max(LEAST_WINDOW));
        state.slide();
    }

    /// Ready when the writer may append up to a piece: at once, but for a window
    /// whose fastest reader is far behind. `Err` when a window has no reader left.
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

    /// Ready when all who wanted it have left. The writer waits for this or for room,
    /// not for both.
    pub(crate) fn poll_deserted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.deserted {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn readers(&self) -> usize {
        self.lock().readers
    }
}

/// What a reader finds at its position.
pub(crate) enum Next {
    Data(Bytes),
    End,
    Failed(Error),
    /// The window has moved past the position; it is the reader's.
    Lost(u64),
}

/// When a reader gives out the last byte that it is to give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caution {
    /// As soon as it is there.
    None,
    /// When the whole body has ended well.
    AwaitEnd,
}

pub(crate) struct Reader {
    body: Arc<Growing>,
    at: u64,
    end: Option<u64>,
    caution: Caution,
    /// Round and index of the waker that it left, if it waits.
    waits: Option<(u64, usize)>,
}

impl Reader {
    /// A reader of the whole body. It counts from now on, so that a flight whose head
    /// has still to come does not look as if nobody wanted it.
    pub(crate) fn new(body: Arc<Growing>) -> Self {
        let mut state = body.lock();
        state.readers += 1;
        state.deserted = false;
        drop(state);
        Self { body, at: 0, end: None, caution: Caution::None, waits: None }
    }

    /// From now on, the last byte waits until the whole body has ended well: a
    /// part of a wrong body does not end well, either.
    pub(crate) fn await_end(&mut self) {
        self.caution = Caution::AwaitEnd;
    }

    /// What it reads.
    pub(crate) fn body(&self) -> Arc<Growing> {
        Arc::clone(&self.body)
    }

    /// Reads the bytes from `first` on instead, up to `end` if there is one.
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

    /// The bytes that this reader has still to give, if the end is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.end.map(|end| end - self.at)
    }

    /// What follows, at most `most` bytes of it.
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
            // Its end is known, and lies behind what came: it was cut short.
            End::Complete if self.end.is_some() => {
                Poll::Ready(Next::Failed(Error::OriginBroke("it is shorter than it said".to_owned())))
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
        state.deserted = state.readers == 0;
        let writer = if state.deserted { state.writer.take() } else { None };
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
