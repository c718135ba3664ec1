//! What others learn of a body: that it goes on, and how it ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame};
use tokio::time::Instant;

use super::Body;
use crate::error::Error;

/// How a body ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// It broke off.
    Badly,
    /// Nobody read it to its end.
    Unread,
}

/// A body that tells how it ends.
pub(super) struct Told {
    pub(super) body: Body,
    /// Gone when it has been told.
    pub(super) tell: Option<Box<dyn FnOnce(Ended) + Send>>,
}

impl Told {
    fn tell(&mut self, ended: Ended) {
        if let Some(tell) = self.tell.take() {
            tell(ended);
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.tell(Ended::Well),
            Some(Err(_)) => self.tell(Ended::Badly),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let ended = if self.body.is_end_stream() { Ended::Well } else { Ended::Unread };
        self.tell(ended);
    }
}

/// When something last made progress, such as a body for whoever waits on its
/// other end; or that it waits for what has a bound of its own.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    pub(crate) fn note(&self) {
        self.set(Some(Instant::now()));
    }

    /// Counts no time, until there is progress again.
    pub(super) fn pause(&self) {
        self.set(None);
    }

    fn set(&self, last: Option<Instant>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = last;
    }

    fn last(&self) -> Instant {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).unwrap_or_else(Instant::now)
    }

    /// Resolves when there was none for the time of `patience`.
    pub(crate) async fn stalls(&self, patience: Duration) {
        let mut last = self.last();
        loop {
            tokio::time::sleep_until(last + patience).await;
            let later = self.last();
            if later == last {
                return;
            }
            last = later;
        }
    }
}
