//! A body that comes over a connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::describe;
use crate::error::Error;

/// A body that comes over a connection, with a bound on the wait for each
/// frame, and somebody to blame when it breaks off.
pub(super) struct Received {
    pub(super) incoming: Incoming,
    pub(super) patience: Option<Duration>,
    /// How many bytes more it may bring.
    pub(super) left: u64,
    pub(super) blame: fn(String) -> Error,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

impl Received {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            return self.poll_patience(cx);
        };
        self.timer = None;
        match frame {
            // Trailers are not relayed: RFC 9110 §6.5.1 lets an intermediary drop them.
            Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(len) else {
                    return Poll::Ready(Some(Err(Error::ContentTooLarge)));
                };
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err((self.blame)(describe(&error))))),
            None => Poll::Ready(None),
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(patience) = self.patience else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err((self.blame)(format!("nothing came for {patience:?}")))))
    }
}
