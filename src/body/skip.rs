//! Resumption of a body at the position where its reader stopped.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;

use crate::error::Error;
use crate::semantics::digest::{Algorithm, Hashing};
use crate::store::chunks::to_usize;

/// The first bytes of a body, which are read and dropped.
pub(super) struct Skip {
    /// Bytes still to drop.
    pub(super) left: u64,
    /// Digest that the dropped bytes must have, if the body is not yet verified.
    pub(super) delivered: Option<Box<Delivered>>,
}

impl Skip {
    /// Returns the next frame of `body` after the skipped bytes.
    pub(super) fn poll_rest<B>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>>
    where
        B: hyper::body::Body<Data = Bytes, Error = Error> + Unpin,
    {
        loop {
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
            let frame = match frame {
                Some(Ok(frame)) => frame,
                None if self.left > 0 => {
                    let short = format!("the body ends {} bytes before the position to resume at", self.left);
                    return Poll::Ready(Some(Err(Error::OriginBroke(short))));
                }
                other => return Poll::Ready(other),
            };
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            let rest = data.split_off(to_usize(self.left).min(data.len()));
            self.left -= data.len() as u64;
            if let Some(delivered) = &mut self.delivered {
                delivered.note_again(&data);
            }
            if self.left == 0 && self.delivered.take().is_some_and(|delivered| !delivered.agrees()) {
                let other = "the bytes delivered so far are of another representation".to_owned();
                return Poll::Ready(Some(Err(Error::OriginWrong(other))));
            }
            if !rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(rest))));
            }
        }
    }
}

/// Digest of the bytes delivered to a reader of a body that is not yet verified, and of the
/// same range of the copy that the reader resumes with. The proof of that copy says nothing
/// about the bytes that were delivered before.
pub(crate) struct Delivered {
    first: Hashing,
    again: Hashing,
}

/// The digest of the delivered bytes. BLAKE3 is the fastest that an origin cannot forge.
const DELIVERED: Algorithm = {
    #[cfg(feature = "digests")]
    {
        Algorithm::Blake3
    }
    #[cfg(not(feature = "digests"))]
    {
        Algorithm::Sha256
    }
};

impl Delivered {
    pub(crate) fn nothing() -> Box<Self> {
        Box::new(Self { first: DELIVERED.hashing(), again: DELIVERED.hashing() })
    }

    pub(super) fn note(&mut self, data: &[u8]) {
        self.first.update(data);
    }

    /// Adds bytes of the same range of the other copy.
    fn note_again(&mut self, data: &[u8]) {
        self.again.update(data);
    }

    /// Returns true if both copies begin with the same bytes.
    fn agrees(self) -> bool {
        self.first.finish() == self.again.finish()
    }
}

/// Position of a reader that fell out of a flight's window.
pub(crate) struct Position {
    /// Bytes delivered before it.
    pub(crate) at: u64,
    /// Their digest, if the body is not yet verified.
    pub(crate) delivered: Option<Box<Delivered>>,
}
