//! [`Arena`] without the feature `zero-copy`: large chunks are in the allocator's memory, and
//! copied into sockets.

#![allow(clippy::unused_self)] // the signatures are those of the real module

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// No memory that sockets can send without a copy.
pub(crate) struct Arena;

impl Arena {
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self)
    }

    /// # Errors
    /// Always: this build has no such memory.
    pub(crate) fn reserve(_bytes: u64) -> io::Result<Arc<Self>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "built without the feature `zero-copy`"))
    }

    /// Returns the number of bytes that sockets sent without a copy.
    #[cfg(feature = "observe")]
    pub(crate) fn spliced(&self) -> u64 {
        0
    }

    /// Returns `parts` one after the other, `len` bytes together.
    #[allow(clippy::unused_self)] // as with the feature
    pub(crate) fn gather<'a>(self: &Arc<Self>, parts: impl Iterator<Item = &'a Bytes>, len: usize) -> Bytes {
        let mut gathered = BytesMut::with_capacity(len);
        parts.for_each(|part| gathered.extend_from_slice(part));
        gathered.freeze()
    }
}
