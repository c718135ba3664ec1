//! What follows a place in a body, where a reader has lost its own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame};

use super::Body;
use crate::error::Error;
use crate::semantics::digest::{Algorithm, Hashing};
use crate::store::chunks::to_usize;

/// The beginning of a body, which is dropped.
pub(super) struct Skip {
    /// How much of it has still to come, in bytes.
    pub(super) left: u64,
    /// What it has to be, where that matters.
    pub(super) given: Option<Box<Given>>,
}

impl Skip {
    /// The next frame behind it.
    pub(super) fn poll_behind(
        &mut self,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
            let frame = match frame {
                Some(Ok(frame)) => frame,
                None if self.left > 0 => {
                    let short = format!("it ends {} bytes before what was wanted of it", self.left);
                    return Poll::Ready(Some(Err(Error::OriginBroke(short))));
                }
                other => return Poll::Ready(other),
            };
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            let behind = data.split_off(to_usize(self.left).min(data.len()));
            self.left -= data.len() as u64;
            if let Some(given) = &mut self.given {
                given.hold_against(&data);
            }
            if self.left == 0 && self.given.take().is_some_and(|given| !given.agrees()) {
                let other = "what was given out is of another copy".to_owned();
                return Poll::Ready(Some(Err(Error::OriginWrong(other))));
            }
            if !behind.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(behind))));
            }
        }
    }
}

/// What a reader has been given of a body that has still to prove itself, by its
/// digest: the rest may come with another copy, whose proof is not of these bytes.
pub(crate) struct Given {
    given: Hashing,
    again: Hashing,
}

/// The digest of the bytes that were delivered; BLAKE3 is the fastest that no origin can
/// forge.
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

impl Given {
    pub(crate) fn nothing() -> Box<Self> {
        Box::new(Self { given: DELIVERED.hashing(), again: DELIVERED.hashing() })
    }

    pub(super) fn note(&mut self, data: &[u8]) {
        self.given.update(data);
    }

    /// The same place of another copy.
    fn hold_against(&mut self, data: &[u8]) {
        self.again.update(data);
    }

    fn agrees(self) -> bool {
        self.given.finish() == self.again.finish()
    }
}

/// Where a reader is that has lost its place.
pub(crate) struct Place {
    /// How many bytes it has been given.
    pub(crate) at: u64,
    /// What they were, if the body has still to prove itself.
    pub(crate) given: Option<Box<Given>>,
}
