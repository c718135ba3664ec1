//! [`Chunks`]: a whole body in memory, in chunks.

use bytes::Bytes;

use crate::store::budget::Charge;

/// Length in bytes of every chunk but the last: long enough to send a body with few writes, short
/// enough to waste little of the last chunk.
pub(crate) const CHUNK: usize = 256 * 1024;

/// A whole body in memory with its share of the budget.
pub(crate) struct Chunks {
    parts: Box<[Bytes]>,
    len: u64,
    charge: Charge,
}

impl Chunks {
    /// Each of `chunks` but the last has [`CHUNK`] bytes.
    pub(crate) fn new(chunks: Vec<Bytes>, charge: Charge) -> Self {
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { parts: chunks.into(), len, charge }
    }

    /// Returns the length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the bytes charged to the budget.
    pub(crate) fn charged(&self) -> u64 {
        self.charge.bytes()
    }

    /// Returns the bytes from `at` to `end`, as far as they are in one chunk.
    pub(crate) fn chunk(&self, at: u64, end: u64) -> &[u8] {
        let bytes = self.parts.get(to_usize(at) / CHUNK).map_or(&[][..], |chunk| &chunk[to_usize(at) % CHUNK..]);
        &bytes[..bytes.len().min(to_usize(end - at))]
    }

    /// Returns the bytes of [`chunk`](Self::chunk) without a borrow of this body.
    pub(crate) fn shared_chunk(&self, at: u64, end: u64) -> Bytes {
        let bytes = self.chunk(at, end);
        self.parts.get(to_usize(at) / CHUNK).map_or_else(Bytes::new, |chunk| chunk.slice_ref(bytes))
    }
}

/// Converts an offset in a body to one in memory.
pub(crate) fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
