//! Reads contents block by block, so that files of any size take little memory.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::semantics::digest::{Algorithm, Hashing};

/// Size of a read, in bytes.
const BLOCK: usize = 128 * 1024;

/// Returns the contents of `reader` up to its end, in blocks.
pub(super) fn blocks(reader: impl AsyncRead + Unpin + Send) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(reader, |mut reader| async move {
        let mut block = BytesMut::with_capacity(BLOCK);
        let read = reader.read_buf(&mut block).await?;
        Ok((read > 0).then(|| (block.freeze(), reader)))
    })
}

/// Returns the digest of all blocks, and their size in bytes.
pub(super) async fn digest<E>(
    blocks: impl Stream<Item = Result<Bytes, E>>,
    algorithm: Algorithm,
) -> Result<(Vec<u8>, u64), E> {
    let take = |(mut hashing, size): (Hashing, u64), block: Bytes| {
        hashing.update(&block);
        std::future::ready(Ok((hashing, size + block.len() as u64)))
    };
    let (hashing, size) = blocks.try_fold((algorithm.hashing(), 0), take).await?;
    Ok((hashing.finish(), size))
}
