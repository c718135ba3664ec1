//! [`Chunks`]: a whole body in memory, in pieces as a flight brings it.

use bytes::Bytes;

use crate::store::budget::Charge;

/// The length of every piece of a body but the last, in bytes: large enough that
/// few writes send a body, small enough that room taken by the piece wastes little.
pub(crate) const CHUNK: usize = 256 * 1024;

/// A whole body that is held in memory, with its share of the budget.
pub(crate) struct Chunks {
    bytes: Box<[Bytes]>,
    len: u64,
    charge: Charge,
}

impl Chunks {
    /// `pieces` are of [`CHUNK`] bytes each, but for the last.
    pub(crate) fn new(chunks: Vec<Bytes>, charge: Charge) -> Self {
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { bytes: chunks.into(), len, charge }
    }

    /// How long it is, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What it takes of the budget, in bytes.
    pub(crate) fn charged(&self) -> u64 {
        self.charge.bytes()
    }

    /// The bytes from `at` to `end`, as far as they lie in one piece.
    pub(crate) fn chunk(&self, at: u64, end: u64) -> &[u8] {
        let bytes = self.bytes.get(to_usize(at) / CHUNK).map_or(&[][..], |chunk| &chunk[to_usize(at) % CHUNK..]);
        &bytes[..bytes.len().min(to_usize(end - at))]
    }

    /// As [`Chunks::piece`], for who keeps them.
    pub(crate) fn shared_chunk(&self, at: u64, end: u64) -> Bytes {
        let bytes = self.chunk(at, end);
        self.bytes.get(to_usize(at) / CHUNK).map_or_else(Bytes::new, |chunk| chunk.slice_ref(bytes))
    }
}

/// An offset in a body as one in memory.
pub(crate) fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
