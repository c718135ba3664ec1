//! Notification about the end of a body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;

use crate::error::Error;

/// The end of a body, as its reader saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Complete,
    Failed(Error),
    /// Dropped before its end.
    Unread,
}

/// A body that calls `hook` once, at its end or when it is dropped, with the number of bytes that
/// were read.
pub(super) struct EndHook<B: hyper::body::Body<Data = Bytes, Error = Error> + Unpin> {
    body: B,
    read: u64,
    /// Taken by the call.
    hook: Option<Box<dyn FnOnce(Ended, u64) + Send>>,
}

impl<B: hyper::body::Body<Data = Bytes, Error = Error> + Unpin> EndHook<B> {
    pub(super) fn new(body: B, hook: impl FnOnce(Ended, u64) + Send + 'static) -> Self {
        Self { body, read: 0, hook: Some(Box::new(hook)) }
    }

    pub(super) fn body(&self) -> &B {
        &self.body
    }

    fn call(&mut self, ended: Ended) {
        if let Some(hook) = self.hook.take() {
            hook(ended, self.read);
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.call(Ended::Complete),
            Some(Err(error)) => self.call(Ended::Failed(error.clone())),
            Some(Ok(frame)) => self.read += frame.data_ref().map_or(0, |data| data.len() as u64),
        }
        Poll::Ready(frame)
    }
}

impl<B: hyper::body::Body<Data = Bytes, Error = Error> + Unpin> Drop for EndHook<B> {
    fn drop(&mut self) {
        let ended = if self.body.is_end_stream() { Ended::Complete } else { Ended::Unread };
        self.call(ended);
    }
}
