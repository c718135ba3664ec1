//! Fair turns of readers on one thread.

use std::task::{Context, Poll};

/// State of a reader that yields to the other tasks of its thread after each read. A socket
/// can accept megabytes in a row; readers that wait for their first byte run before it
/// continues.
#[derive(Default)]
pub(super) enum Turn {
    #[default]
    Read,
    Yield,
}

impl Turn {
    /// Ready when the reader may read; pending once, with an immediate wake, after a read.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Read => Poll::Ready(()),
            Self::Yield => {
                *self = Self::Read;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
