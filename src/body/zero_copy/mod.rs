//! [`Arena`]: memory that sockets are lent, for the large pieces of bodies.
//!
//! What is written to a socket is copied first, and of what a large body costs that copy
//! is the most. A socket can be lent the pages themselves instead (vmsplice(2), then
//! splice(2)). It has them until the other end has acknowledged what they hold, and tells
//! nobody when that is. Two rules make it safe, and this file keeps both:
//!
//! - What has been handed out as [`Bytes`] is never written again.
//! - A place that was lent, and is given back, loses its pages before it can be taken
//!   again. Whoever has them has them as they were; what the place holds next is in others.

// What it gains is measured, and told in the README beside the table of hits.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::param::page_size;
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, vmsplice};

use crate::store::chunks::{CHUNK, to_usize};

/// From so many bytes on, sockets are lent a piece: for less, it costs as much as a copy.
pub(crate) const LEAST: usize = 64 * 1024;
/// How many bytes of addresses are set aside for a byte of bodies: a place has those of a
/// whole piece, and may hold as little as [`LEAST`]. Only what it holds takes memory.
const SPREAD: u64 = 4;
/// How often a piece is copied before it is lent. What was lent costs new pages in the
/// end, and those cost about as much as so many copies; most of what is fetched is never
/// asked for again.
const COPIES: u8 = 4;
/// What stands for a place that was lent, where it is counted how often it was copied.
const LENT: u8 = u8::MAX;
/// The part of the bodies' memory that places which are free may keep, for the next piece.
const KEPT: u64 = 32;
/// How much a pipe takes at a time, in bytes: more than a piece and what is before it.
const PIPE: usize = 512 * 1024;

/// Memory for the large pieces of bodies; a part of it is a [`Slot`].
pub(crate) struct Arena {
    start: NonNull<u8>,
    places: usize,
    /// How often what each place holds was sent, as a copy; or that it was [`LENT`].
    sent: Box<[AtomicU8]>,
    free: Mutex<Free>,
    /// How many that are free keep their pages.
    kept: usize,
    /// How many bytes sockets have taken of what they were lent.
    lent: AtomicU64,
}

// SAFETY: `start` is the address of a mapping that lives as long as this does. What is
// written there is written by a `Slot`, and each is one thread's until it is only read.
unsafe impl Send for Arena {}
// SAFETY: As above; what is not in places is behind the mutex.
unsafe impl Sync for Arena {}

/// The places that can be taken, by their number.
#[derive(Default)]
struct Free {
    /// They have pages, which nobody was lent.
    kept: Vec<usize>,
    /// They have none.
    emptied: Vec<usize>,
    /// From this one on, none was ever taken.
    untouched: usize,
}

/// How many bytes a socket has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// All that it was offered.
    All(usize),
    /// A part: it has no room for more.
    Part(usize),
}

impl Taken {
    fn of(bytes: usize, offered: usize) -> Self {
        if bytes == offered { Self::All(bytes) } else { Self::Part(bytes) }
    }
}

impl Arena {
    /// No memory: whatever is gathered is in the allocator's, and copied when it is sent.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self::at(NonNull::dangling(), 0, 0))
    }

    fn at(start: NonNull<u8>, places: usize, kept: usize) -> Self {
        let sent = std::iter::repeat_with(AtomicU8::default).take(places).collect();
        Self { start, places, sent, free: Mutex::default(), kept, lent: AtomicU64::new(0) }
    }

    /// Memory for bodies that take `bytes` together. It is the system's until it is used.
    ///
    /// # Errors
    /// What the system says when it has no such memory; `Unsupported` if sockets would be
    /// given copies of it, and not itself.
    pub(crate) fn reserve(bytes: u64) -> io::Result<Arc<Self>> {
        let places = to_usize(bytes.saturating_mul(SPREAD)) / CHUNK;
        let (flags, access) = (MapFlags::PRIVATE | MapFlags::NORESERVE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: A new mapping, at an address that the system chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), places * CHUNK, access, flags) }?;
        // A huge page would be resident whole, whatever is in it. Where there are none, it
        // is an error to say so.
        // SAFETY: It is the mapping from above, which nobody uses yet.
        let _ = unsafe { madvise(start, places * CHUNK, Advice::LinuxNoHugepage) };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        let arena = Arc::new(Self::at(start, places, to_usize(bytes / KEPT) / CHUNK));
        if arena.are_shared()? { Ok(arena) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Whether who is lent a page has that page, and no copy of it: then a change is seen.
    /// (Here alone is anything changed that was lent; nobody has it but this function.)
    fn are_shared(self: &Arc<Self>) -> io::Result<bool> {
        let pipe = Pipe::open()?;
        let mut place = self.take(1).ok_or(Errno::NOMEM)?;
        place.len = 1;
        place.space()[0] = 0;
        self.sent[place.index].store(LENT, Ordering::Relaxed);
        self.fill(&pipe, &[IoSlice::new(place.as_ref())], 1);
        place.space()[0] = 1;
        let mut seen = [0];
        rustix::io::read(&pipe.out, &mut seen)?;
        Ok(seen == [1])
    }

    /// How many bytes sockets were lent.
    pub(crate) fn lent(&self) -> u64 {
        self.lent.load(Ordering::Relaxed)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        // Nothing in a critical section can leave it half changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place where `len` bytes are to be written.
    fn take(self: &Arc<Self>, len: usize) -> Option<Slot> {
        let mut free = self.free();
        let place = |index| Slot { arena: Arc::clone(self), index, len: 0 };
        if let Some(index) = free.kept.pop() {
            return Some(place(index));
        }
        let index = match free.emptied.pop() {
            Some(index) => index,
            None if free.untouched < self.places => {
                free.untouched += 1;
                free.untouched - 1
            }
            None => return None,
        };
        drop(free);
        let place = place(index);
        // All at once, they take half as long as one by one. Without that (before Linux
        // 5.14) they come one by one.
        // SAFETY: It is a part of the mapping; this writes nothing.
        let _ = unsafe {
            madvise(place.start().as_ptr().cast(), len.next_multiple_of(page_size()), Advice::LinuxPopulateWrite)
        };
        Some(place)
    }

    /// `parts` one behind the other, `len` bytes together, in memory of their own: in what
    /// sockets can be lent, if they are large enough and there is any left.
    pub(crate) fn gather<'a>(self: &Arc<Self>, parts: impl Iterator<Item = &'a Bytes>, len: usize) -> Bytes {
        let place = if (LEAST..=CHUNK).contains(&len) { self.take(len) } else { None };
        let Some(mut place) = place else {
            let mut gathered = BytesMut::with_capacity(len);
            parts.for_each(|part| gathered.extend_from_slice(part));
            return gathered.freeze();
        };
        let mut at = 0;
        for part in parts {
            place.space()[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        place.len = at;
        Bytes::from_owner(place)
    }

    /// The place that `bytes` are in, if it is one of these, and where in it they begin.
    fn place_of(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let from_start = bytes.as_ptr().addr().wrapping_sub(self.start.addr().get());
        let (place, at) = (from_start / CHUNK, from_start % CHUNK);
        (place < self.places).then_some((place, at))
    }

    /// The place that `bytes` are in, if they are to be lent: to their end if the
    /// beginning was.
    fn lends(&self, bytes: &[u8]) -> Option<usize> {
        let (place, at) = self.place_of(bytes)?;
        let least = if at == 0 { COPIES } else { LENT };
        (self.sent[place].load(Ordering::Relaxed) >= least).then_some(place)
    }

    /// Whether any of `slices` is better lent than copied.
    pub(crate) fn lends_any(&self, slices: &[IoSlice<'_>]) -> bool {
        slices.iter().any(|slice| slice.len() >= LEAST && self.lends(slice).is_some())
    }

    /// Notes that the first `bytes` bytes of `slices` were sent, those of them as a copy
    /// that are not lent.
    pub(crate) fn note_sent(&self, slices: &[IoSlice<'_>], mut bytes: usize) {
        for slice in slices {
            if bytes == 0 {
                break;
            }
            bytes = bytes.saturating_sub(slice.len());
            if slice.len() >= LEAST
                && let Some((place, 0)) = self.place_of(slice)
            {
                let count = |sent: u8| (sent < COPIES).then(|| sent + 1);
                let _ = self.sent[place].fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
            }
        }
    }

    /// Sends what `socket`, which must not block, takes of `slices`, at most `most` bytes.
    /// It is lent what is in this memory and was sent often enough; all else is copied.
    ///
    /// # Errors
    /// Those of the socket, `WouldBlock` among them, if it takes nothing.
    pub(crate) fn lend(&self, socket: BorrowedFd<'_>, slices: &[IoSlice<'_>], most: usize) -> io::Result<Taken> {
        PIPES.with_borrow_mut(|kept| {
            let Some(pipe) = kept.take().or_else(|| Pipe::open().ok()) else {
                return copy(socket, slices);
            };
            let filled = self.fill(&pipe, slices, most);
            if filled == 0 {
                return copy(socket, slices);
            }
            let taken = pipe.empty(socket, filled);
            // What is left in it will be offered again.
            let left = filled - taken.unwrap_or(0);
            *kept = Some(pipe).filter(|pipe| pipe.empty(pipe.null.as_fd(), left) == Ok(left));
            let bytes = taken?;
            self.lent.fetch_add(self.lent_of(slices, bytes) as u64, Ordering::Relaxed);
            Ok(Taken::of(bytes, filled))
        })
    }

    /// How many of the first `bytes` bytes of `slices` were lent.
    fn lent_of(&self, slices: &[IoSlice<'_>], mut bytes: usize) -> usize {
        let mut lent = 0;
        for slice in slices {
            let taken = slice.len().min(bytes);
            bytes -= taken;
            if taken > 0 && self.lends(slice).is_some() {
                lent += taken;
            }
        }
        lent
    }

    /// Puts what fits of `slices` into a pipe that is empty, at most `most` bytes; returns
    /// how many.
    fn fill(&self, pipe: &Pipe, slices: &[IoSlice<'_>], most: usize) -> usize {
        let mut filled = 0;
        for slice in slices {
            let slice = &slice[..slice.len().min(most - filled)];
            let taken = if let Some(place) = self.lends(slice) {
                self.sent[place].store(LENT, Ordering::Relaxed);
                let lent = [IoSliceRaw::from_slice(slice)];
                // SAFETY: It is the end of the pipe that is written to. Nobody writes to
                // the pages again: what is a part of this memory is a part of a place
                // that has been handed out.
                unsafe { vmsplice(&pipe.into, &lent, SpliceFlags::NONBLOCK) }
            } else {
                rustix::io::write(&pipe.into, slice)
            };
            let taken = taken.unwrap_or(0);
            filled += taken;
            if taken < slice.len() {
                break;
            }
        }
        filled
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.places > 0 {
            // SAFETY: It is the mapping that `reserve` made. Each place holds this, so
            // there is none any more.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.places * CHUNK) };
        }
    }
}

fn copy(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
    let bytes = rustix::io::writev(socket, slices)?;
    let all = slices.iter().map(|slice| slice.len()).sum::<usize>();
    Ok(Taken::of(bytes, all))
}

/// Room for a piece of a body: who takes it writes it, then it is only read.
struct Slot {
    arena: Arc<Arena>,
    index: usize,
    /// How much it holds, in bytes.
    len: usize,
}

impl Slot {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: The index is below `places`, of which each has so many bytes.
        unsafe { self.arena.start.add(self.index * CHUNK) }
    }

    /// All of it.
    fn space(&mut self) -> &mut [u8] {
        // SAFETY: It is a part of the mapping that is this place's alone, and holds zeros or
        // what was written there before. It is reached by this place alone, of which there
        // is one handle, and it is borrowed.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), CHUNK) }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: As above; `len` is at most `CHUNK`, for so much was written.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Who lent it had a part of it, and has let go of that since.
        let lent = self.arena.sent[self.index].swap(0, Ordering::Relaxed) == LENT;
        let mut free = self.arena.free();
        if !lent && free.kept.len() < self.arena.kept {
            return free.kept.push(self.index);
        }
        drop(free);
        // SAFETY: Nobody refers to what it holds: that is done by this handle alone. The
        // pages of a private mapping are dropped by this, and read as zero after it.
        let emptied = unsafe { madvise(self.start().as_ptr().cast(), CHUNK, Advice::LinuxDontNeed) };
        // If it has its pages still, it must not be taken again.
        if emptied.is_ok() {
            self.arena.free().emptied.push(self.index);
        }
    }
}

/// By a pipe, pages get from memory to a socket.
struct Pipe {
    into: OwnedFd,
    out: OwnedFd,
    /// Where what no socket takes goes.
    null: OwnedFd,
}

thread_local! {
    /// An empty one for each thread, once it has sent a large piece.
    static PIPES: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does as well, by more calls.
        let _ = fcntl_setpipe_size(&into, PIPE);
        let null = File::options().write(true).open("/dev/null")?.into();
        Ok(Self { into, out, null })
    }

    /// Has `taker` take `bytes` bytes of what is in it; returns how many it took, or why it
    /// took none. If it is more than that it has no room for the rest, the next call says so.
    fn empty(&self, taker: BorrowedFd<'_>, bytes: usize) -> rustix::io::Result<usize> {
        let mut all = 0;
        while all < bytes {
            match splice(&self.out, None, taker, None, bytes - all, SpliceFlags::NONBLOCK) {
                Ok(0) => break,
                Ok(taken) => all += taken,
                Err(Errno::INTR) => {}
                Err(error) if all == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
