//! [`Held`]: a whole body in memory, in pieces as a flight brings it.

use bytes::Bytes;

use crate::store::budget::Charge;

/// The length of every piece of a body but the last, in bytes: large enough that
/// few writes send a body, small enough that room taken by the piece wastes little.
pub(crate) const PIECE: usize = 256 * 1024;

/// A whole body that is held in memory, with its share of the budget.
pub(crate) struct Held {
    pieces: Box<[Bytes]>,
    len: u64,
    charge: Charge,
}

impl Held {
    /// `pieces` are of [`PIECE`] bytes each, but for the last.
    pub(crate) fn new(pieces: Vec<Bytes>, charge: Charge) -> Self {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into(), len, charge }
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
    pub(crate) fn piece(&self, at: u64, end: u64) -> &[u8] {
        let bytes = self.pieces.get(to_usize(at) / PIECE).map_or(&[][..], |piece| &piece[to_usize(at) % PIECE..]);
        &bytes[..bytes.len().min(to_usize(end - at))]
    }

    /// As [`Held::piece`], for who keeps them.
    pub(crate) fn shared_piece(&self, at: u64, end: u64) -> Bytes {
        let bytes = self.piece(at, end);
        self.pieces.get(to_usize(at) / PIECE).map_or_else(Bytes::new, |piece| piece.slice_ref(bytes))
    }
}

/// An offset in a body as one in memory.
pub(crate) fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
