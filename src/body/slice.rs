//! Slices of a stored body, and the runs in which a connection sends them.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::room::Room;
use crate::store::chunks::{CHUNK, to_usize};
use crate::store::entry::Stored;

/// The most bytes that a socket is offered in one call. One call for each chunk costs a third
/// more CPU; longer runs gain little, and other readers wait longer.
pub(crate) const RUN: u64 = 4 * CHUNK as u64;

/// The bytes of a stored body from `at` to `end`.
pub(super) struct Slice {
    stored: Stored,
    at: u64,
    end: u64,
}

impl Slice {
    pub(super) fn new(stored: Stored, first: u64, end: u64) -> Self {
        Self { stored, at: first, end }
    }

    /// Returns the number of bytes left.
    pub(super) fn len(&self) -> u64 {
        self.end - self.at
    }

    /// Takes the rest of one chunk.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        let bytes = self.stored.shared_chunk(self.at, self.end);
        self.at += bytes.len() as u64;
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Takes at most `most` bytes.
    pub(super) fn next_run(&mut self, most: u64) -> Option<Self> {
        let end = self.end.min(self.at + most);
        let run = Self { stored: self.stored.clone(), at: self.at, end };
        self.at = end;
        run.has_remaining().then_some(run)
    }
}

impl Buf for Slice {
    fn remaining(&self) -> usize {
        to_usize(self.len())
    }

    fn chunk(&self) -> &[u8] {
        self.stored.chunk(self.at, self.end)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = self.at;
        let mut filled = 0;
        for slice in slices {
            let chunk = self.stored.chunk(at, self.end);
            if chunk.is_empty() {
                break;
            }
            at += chunk.len() as u64;
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.remaining(), "{bytes} of {} bytes", self.remaining());
        self.at += bytes as u64;
    }
}

/// Bytes handed to a connection in one call. They stay charged to the budget until the
/// connection drops them.
pub(crate) struct Run(Kind);

enum Kind {
    One { bytes: Bytes, _room: Option<Arc<Room>> },
    Several(Slice),
}

impl Run {
    /// One frame, with the room of its flight if a flight received it.
    pub(super) fn new(bytes: Bytes, room: Option<Arc<Room>>) -> Self {
        Self(Kind::One { bytes, _room: room })
    }
}

impl From<Slice> for Run {
    fn from(slice: Slice) -> Self {
        Self(Kind::Several(slice))
    }
}

impl Buf for Run {
    fn remaining(&self) -> usize {
        match &self.0 {
            Kind::One { bytes, .. } => bytes.remaining(),
            Kind::Several(slice) => slice.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.0 {
            Kind::One { bytes, .. } => bytes.chunk(),
            Kind::Several(slice) => slice.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.0 {
            Kind::One { bytes, .. } => bytes.chunks_vectored(slices),
            Kind::Several(slice) => slice.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, bytes: usize) {
        match &mut self.0 {
            Kind::One { bytes: one, .. } => one.advance(bytes),
            Kind::Several(slice) => slice.advance(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::entry::tests::stored;

    /// Returns the bytes that a socket reads which accepts `most` bytes with each call.
    fn sent(run: &mut impl Buf, most: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while run.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = run.chunks_vectored(&mut slices);
            let offered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            assert!(offered.starts_with(run.chunk()) && !offered.is_empty() && offered.len() <= run.remaining());
            let taken = offered.len().min(most);
            sent.extend_from_slice(&offered[..taken]);
            run.advance(taken);
        }
        sent
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn chunks_and_runs_add_up_to_the_slice(
            len in prop_oneof![0..5000usize, 0..7 * CHUNK],
            cut in any::<(u32, u32)>(),
            most in 1000..3 * CHUNK,
        ) {
            let whole: Vec<u8> = (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
            let first = cut.0 as usize % (len + 1);
            let end = first + cut.1 as usize % (len - first + 1);
            let slice = || Slice::new(stored(&whole), first as u64, end as u64);
            let mut chunks = slice();
            let got: Vec<u8> = std::iter::from_fn(|| chunks.next_chunk()).flatten().collect();
            prop_assert!(got == whole[first..end]);
            let mut runs = slice();
            let mut got = Vec::new();
            while let Some(run) = runs.next_run(RUN) {
                prop_assert!(run.len() <= RUN);
                got.extend(sent(&mut Run::from(run), most));
            }
            prop_assert!(got == whole[first..end]);
        }
    }
}
