//! [`Arena`]: memory for the large chunks of bodies, which sockets send without a copy.
//!
//! A write to a socket copies the data, and that copy is most of the cost of sending a large
//! body. The pages themselves can be spliced into the socket instead (vmsplice(2), then
//! splice(2)). The kernel then refers to them until the client has acknowledged the data, and
//! does not report when that is. Two rules make this safe, and this file keeps both:
//!
//! - Memory that was handed out as [`Bytes`] is never written again.
//! - A slot that was spliced gives its pages back to the kernel before it can be reused. The
//!   socket keeps the old pages with the old data; the slot gets new ones.

// The measured gain is in the README, beside the table of hits.
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

/// The shortest chunk in bytes that is spliced: below, a splice costs as much as a copy.
pub(crate) const MIN_SPLICE: usize = 64 * 1024;
/// Bytes of address space for each byte of the budget. A slot has the addresses of a whole
/// chunk, but may hold as little as [`MIN_SPLICE`]. Only the bytes that it holds take memory.
const SPREAD: u64 = 4;
/// Times that a chunk is sent by copy before it is spliced. A spliced slot needs new pages,
/// which cost about as much as this many copies, and most responses are never requested again.
const COPIES: u8 = 4;
/// Marks a spliced slot in the counts of copies.
const SPLICED: u8 = u8::MAX;
/// The share of the budget, one part in this many, that free slots may keep as pages.
const KEPT: u64 = 32;
/// Capacity of a pipe in bytes: more than a chunk and a response head.
const PIPE: usize = 512 * 1024;

/// Memory for the large chunks of bodies, divided into slots of [`CHUNK`] bytes.
pub(crate) struct Arena {
    start: NonNull<u8>,
    slots: usize,
    /// For each slot: how often its chunk was sent by copy, or [`SPLICED`].
    sent: Box<[AtomicU8]>,
    free: Mutex<Free>,
    /// The most free slots that keep their pages.
    kept: usize,
    /// Bytes that sockets took by splice.
    spliced: AtomicU64,
}

// SAFETY: `start` is the address of a mapping that lives as long as the arena. Only a `Slot`
// writes there, and a slot belongs to one thread until it is read-only.
unsafe impl Send for Arena {}
// SAFETY: As above; the state outside of the slots is behind the mutex or atomic.
unsafe impl Sync for Arena {}

/// Free slots, by index.
#[derive(Default)]
struct Free {
    /// Slots with pages that were never spliced.
    kept: Vec<usize>,
    /// Slots without pages.
    emptied: Vec<usize>,
    /// The first slot that was never taken; all after it were not either.
    untouched: usize,
}

/// Number of bytes that a socket took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All bytes offered.
    All(usize),
    /// Fewer: the send buffer is full.
    Part(usize),
}

impl Sent {
    fn of(bytes: usize, offered: usize) -> Self {
        if bytes == offered { Self::All(bytes) } else { Self::Part(bytes) }
    }
}

impl Arena {
    /// An arena without slots: all chunks are in the allocator's memory and sent by copy.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self::at(NonNull::dangling(), 0, 0))
    }

    fn at(start: NonNull<u8>, slots: usize, kept: usize) -> Self {
        let sent = std::iter::repeat_with(AtomicU8::default).take(slots).collect();
        Self { start, slots, sent, free: Mutex::default(), kept, spliced: AtomicU64::new(0) }
    }

    /// Reserves memory for bodies of `bytes` together. Pages are allocated when they are used.
    ///
    /// # Errors
    /// The system's error if the memory cannot be reserved; `Unsupported` if this system copies
    /// spliced pages.
    pub(crate) fn reserve(bytes: u64) -> io::Result<Arc<Self>> {
        let slots = to_usize(bytes.saturating_mul(SPREAD)) / CHUNK;
        let (flags, access) = (MapFlags::PRIVATE | MapFlags::NORESERVE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: A new mapping, at an address that the system chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), slots * CHUNK, access, flags) }?;
        // A huge page would be resident as a whole. A kernel without huge pages returns an error
        // here, which does not matter.
        // SAFETY: This is the mapping from above, which is not used yet.
        let _ = unsafe { madvise(start, slots * CHUNK, Advice::LinuxNoHugepage) };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        let arena = Arc::new(Self::at(start, slots, to_usize(bytes / KEPT) / CHUNK));
        if arena.splices_pages()? { Ok(arena) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Returns true if a pipe refers to a spliced page itself, not to a copy: then a later
    /// write is visible through the pipe. (The only write to a spliced page, and only this
    /// function has it.)
    fn splices_pages(self: &Arc<Self>) -> io::Result<bool> {
        let pipe = Pipe::open()?;
        let mut slot = self.take(1).ok_or(Errno::NOMEM)?;
        slot.len = 1;
        slot.space()[0] = 0;
        self.sent[slot.index].store(SPLICED, Ordering::Relaxed);
        self.fill(&pipe, &[IoSlice::new(slot.as_ref())], 1);
        slot.space()[0] = 1;
        let mut seen = [0];
        rustix::io::read(&pipe.out, &mut seen)?;
        Ok(seen == [1])
    }

    /// Returns the number of bytes that sockets took by splice.
    pub(crate) fn spliced(&self) -> u64 {
        self.spliced.load(Ordering::Relaxed)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        // No critical section can panic half-way.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free slot, to write `len` bytes to it.
    fn take(self: &Arc<Self>, len: usize) -> Option<Slot> {
        let mut free = self.free();
        let slot = |index| Slot { arena: Arc::clone(self), index, len: 0 };
        if let Some(index) = free.kept.pop() {
            return Some(slot(index));
        }
        let index = match free.emptied.pop() {
            Some(index) => index,
            None if free.untouched < self.slots => {
                free.untouched += 1;
                free.untouched - 1
            }
            None => return None,
        };
        drop(free);
        let slot = slot(index);
        // One call for all pages takes half as long as a page fault for each. Where the advice
        // is unknown (before Linux 5.14), the pages come by faults.
        // SAFETY: The range is a part of the mapping; the call does not change its contents.
        let _ = unsafe {
            madvise(slot.start().as_ptr().cast(), len.next_multiple_of(page_size()), Advice::LinuxPopulateWrite)
        };
        Some(slot)
    }

    /// Copies `parts`, of `len` bytes together, into one buffer: a slot if they are large enough
    /// and a slot is free, else the allocator's memory.
    pub(crate) fn gather<'a>(self: &Arc<Self>, parts: impl Iterator<Item = &'a Bytes>, len: usize) -> Bytes {
        let slot = if (MIN_SPLICE..=CHUNK).contains(&len) { self.take(len) } else { None };
        let Some(mut slot) = slot else {
            let mut gathered = BytesMut::with_capacity(len);
            parts.for_each(|part| gathered.extend_from_slice(part));
            return gathered.freeze();
        };
        let mut at = 0;
        for part in parts {
            slot.space()[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        slot.len = at;
        Bytes::from_owner(slot)
    }

    /// Returns the slot that `bytes` are in, and their offset in it, if they are in the arena.
    fn slot_of(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let from_start = bytes.as_ptr().addr().wrapping_sub(self.start.addr().get());
        let (slot, at) = (from_start / CHUNK, from_start % CHUNK);
        (slot < self.slots).then_some((slot, at))
    }

    /// Returns the slot of `bytes` if they are sent by splice. Once the start of a slot was
    /// spliced, the rest is too.
    fn spliced_slot(&self, bytes: &[u8]) -> Option<usize> {
        let (slot, at) = self.slot_of(bytes)?;
        let least = if at == 0 { COPIES } else { SPLICED };
        (self.sent[slot].load(Ordering::Relaxed) >= least).then_some(slot)
    }

    /// Returns true if a splice costs less than a copy for any of `slices`.
    pub(crate) fn prefers_splice(&self, slices: &[IoSlice<'_>]) -> bool {
        slices.iter().any(|slice| slice.len() >= MIN_SPLICE && self.spliced_slot(slice).is_some())
    }

    /// Records that the first `bytes` bytes of `slices` were sent, to count the copies of each
    /// slot.
    pub(crate) fn note_sent(&self, slices: &[IoSlice<'_>], mut bytes: usize) {
        for slice in slices {
            if bytes == 0 {
                break;
            }
            bytes = bytes.saturating_sub(slice.len());
            if slice.len() >= MIN_SPLICE
                && let Some((slot, 0)) = self.slot_of(slice)
            {
                let count = |sent: u8| (sent < COPIES).then(|| sent + 1);
                let _ = self.sent[slot].fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
            }
        }
    }

    /// Sends at most `most` bytes of `slices` to a non-blocking socket. Slots that were sent
    /// often enough are spliced; all other bytes are copied.
    ///
    /// # Errors
    /// The error of the socket, `WouldBlock` included, if it takes no byte.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>, slices: &[IoSlice<'_>], most: usize) -> io::Result<Sent> {
        PIPES.with_borrow_mut(|kept| {
            let Some(pipe) = kept.take().or_else(|| Pipe::open().ok()) else {
                return copy(socket, slices);
            };
            let filled = self.fill(&pipe, slices, most);
            if filled == 0 {
                return copy(socket, slices);
            }
            let taken = pipe.empty(socket, filled);
            // The caller offers the rest again, so the pipe is emptied before its next use.
            let left = filled - taken.unwrap_or(0);
            *kept = Some(pipe).filter(|pipe| pipe.empty(pipe.null.as_fd(), left) == Ok(left));
            let bytes = taken?;
            self.spliced.fetch_add(self.spliced_of(slices, bytes) as u64, Ordering::Relaxed);
            Ok(Sent::of(bytes, filled))
        })
    }

    /// Returns how many of the first `bytes` bytes of `slices` were spliced.
    fn spliced_of(&self, slices: &[IoSlice<'_>], mut bytes: usize) -> usize {
        let mut spliced = 0;
        for slice in slices {
            let taken = slice.len().min(bytes);
            bytes -= taken;
            if taken > 0 && self.spliced_slot(slice).is_some() {
                spliced += taken;
            }
        }
        spliced
    }

    /// Fills an empty pipe with at most `most` bytes of `slices`, and returns how many fit.
    fn fill(&self, pipe: &Pipe, slices: &[IoSlice<'_>], most: usize) -> usize {
        let mut filled = 0;
        for slice in slices {
            let slice = &slice[..slice.len().min(most - filled)];
            let taken = if let Some(slot) = self.spliced_slot(slice) {
                self.sent[slot].store(SPLICED, Ordering::Relaxed);
                let pages = [IoSliceRaw::from_slice(slice)];
                // SAFETY: `into` is the write end of the pipe. The pages are not written again:
                // bytes of the arena are in a slot that was handed out as `Bytes`.
                unsafe { vmsplice(&pipe.into, &pages, SpliceFlags::NONBLOCK) }
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
        if self.slots > 0 {
            // SAFETY: This is the mapping that `reserve` made. Each slot holds the arena, so no
            // slot is left.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.slots * CHUNK) };
        }
    }
}

/// Sends `slices` by copy.
fn copy(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<Sent> {
    let bytes = rustix::io::writev(socket, slices)?;
    let all = slices.iter().map(|slice| slice.len()).sum::<usize>();
    Ok(Sent::of(bytes, all))
}

/// Memory of one chunk. Its only handle writes it once; from then on it is read-only.
struct Slot {
    arena: Arc<Arena>,
    index: usize,
    /// Bytes written.
    len: usize,
}

impl Slot {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: The index is below `slots`, and each slot has `CHUNK` bytes of the mapping.
        unsafe { self.arena.start.add(self.index * CHUNK) }
    }

    /// Returns all bytes of the slot.
    fn space(&mut self) -> &mut [u8] {
        // SAFETY: This part of the mapping belongs to this slot, and is initialized: zeros, or
        // the bytes of an earlier chunk. Only this handle reaches it, and it is borrowed.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), CHUNK) }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: As above; `len` bytes were written, which is at most `CHUNK`.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A thread that marked the slot held `Bytes` of it and has dropped them since, so the
        // mark is visible here.
        let spliced = self.arena.sent[self.index].swap(0, Ordering::Relaxed) == SPLICED;
        let mut free = self.arena.free();
        if !spliced && free.kept.len() < self.arena.kept {
            return free.kept.push(self.index);
        }
        drop(free);
        // SAFETY: Only this handle refers to the slot's memory. The call drops the pages of the
        // private mapping; they read as zeros afterwards.
        let emptied = unsafe { madvise(self.start().as_ptr().cast(), CHUNK, Advice::LinuxDontNeed) };
        // A slot that still has its pages must not be reused.
        if emptied.is_ok() {
            self.arena.free().emptied.push(self.index);
        }
    }
}

/// A pipe, through which pages are spliced from memory to a socket.
struct Pipe {
    into: OwnedFd,
    out: OwnedFd,
    /// `/dev/null`, to empty the pipe.
    null: OwnedFd,
}

thread_local! {
    /// One empty pipe for each thread that has spliced.
    static PIPES: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller pipe works too, with more calls.
        let _ = fcntl_setpipe_size(&into, PIPE);
        let null = File::options().write(true).open("/dev/null")?.into();
        Ok(Self { into, out, null })
    }

    /// Moves `bytes` bytes from the pipe to `sink`. Returns how many it took, or its error if it
    /// took none. An error after the first bytes shows again at the next call.
    fn empty(&self, sink: BorrowedFd<'_>, bytes: usize) -> rustix::io::Result<usize> {
        let mut all = 0;
        while all < bytes {
            match splice(&self.out, None, sink, None, bytes - all, SpliceFlags::NONBLOCK) {
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
