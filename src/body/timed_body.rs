//! A received body, with timeouts.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::error_chain::describe;
use crate::error::Error;

/// A body as its receiver got it.
pub(crate) enum ReceivedFrom {
    /// An HTTP/1 connection of this edge.
    Connection(Incoming),
    /// A stream of an HTTP/2 connection of this edge.
    Stream(Incoming),
    /// The program that embeds the edge.
    Program(UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>),
}

impl From<Incoming> for ReceivedFrom {
    fn from(body: Incoming) -> Self {
        Self::Connection(body)
    }
}

impl ReceivedFrom {
    /// The body of a message of `version`.
    pub(crate) fn http(version: Version, body: Incoming) -> Self {
        if version == Version::HTTP_2 { Self::Stream(body) } else { Self::Connection(body) }
    }

    /// Boxes a body of any type.
    pub(crate) fn program<B>(body: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        Self::Program(body.map_err(Into::into).boxed_unsync())
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Connection(body) | Self::Stream(body) => body.is_end_stream(),
            Self::Program(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Connection(body) | Self::Stream(body) => body.size_hint(),
            Self::Program(body) => body.size_hint(),
        }
    }

    /// Polls for a frame. An error is returned as text, with its causes.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        match self {
            Self::Connection(body) => Pin::new(body).poll_frame(cx).map_err(|error| describe(&error)),
            Self::Stream(body) => match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                // hyper takes a reset with NO_ERROR for an end. Without END_STREAM, the length alone
                // proves that nothing is missing (RFC 9113 §8.1).
                None if !body.is_end_stream() && body.size_hint().exact() != Some(0) => {
                    Poll::Ready(Some(Err("the stream was reset before its end".to_owned())))
                }
                frame => Poll::Ready(frame.map(|frame| frame.map_err(|error| describe(&error)))),
            },
            Self::Program(body) => Pin::new(body).poll_frame(cx).map_err(|error| describe(&*error)),
        }
    }
}

/// A received body. `blame` makes the error of its sender when it breaks off or stalls.
pub(super) struct TimedBody {
    incoming: ReceivedFrom,
    timeout: Option<Timeout>,
    /// The most bytes that may still arrive.
    left: u64,
    blame: fn(String) -> Error,
    /// Called with the length in bytes of each frame.
    count: Option<Box<dyn Fn(u64) + Send + Sync>>,
    wait: Option<Wait>,
}

/// The wait for a frame.
struct Wait {
    began: Instant,
    ends: Pin<Box<Sleep>>,
}

impl TimedBody {
    /// `idle` is the longest wait for a frame.
    pub(super) fn new(incoming: ReceivedFrom, idle: Option<Duration>, blame: fn(String) -> Error) -> Self {
        Self { incoming, timeout: idle.map(Timeout::new), left: u64::MAX, blame, count: None, wait: None }
    }

    /// Limits the body to `bytes`.
    pub(super) fn limit(&mut self, bytes: u64) {
        self.left = bytes;
    }

    /// Requires `rate` bytes a second, if there is a timeout.
    pub(super) fn require_rate(&mut self, rate: u64) {
        if let Some(timeout) = &mut self.timeout {
            timeout.rate = Some(rate);
        }
    }

    /// Calls `count` with the length in bytes of each frame.
    pub(super) fn count_with(&mut self, count: impl Fn(u64) + Send + Sync + 'static) {
        self.count = Some(Box::new(count));
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = self.incoming.poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            return self.poll_timeout(cx);
        };
        if let (Some(timeout), Some(wait)) = (&mut self.timeout, self.wait.take()) {
            timeout.waited += wait.began.elapsed();
        }
        match frame {
            // Trailers are not forwarded: RFC 9110 §6.5.1 lets an intermediary drop them.
            Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(len) else {
                    return Poll::Ready(Some(Err(Error::ContentTooLarge)));
                };
                self.left = left;
                if let Some(count) = &self.count {
                    count(len);
                }
                if let Some(timeout) = &mut self.timeout {
                    timeout.received += len;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err((self.blame)(error)))),
            None => Poll::Ready(None),
        }
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(timeout) = &self.timeout else {
            return Poll::Pending;
        };
        let wait = self.wait.get_or_insert_with(|| {
            let began = Instant::now();
            Wait { began, ends: Box::pin(tokio::time::sleep_until(began + timeout.left())) }
        });
        ready!(wait.ends.as_mut().poll(cx));
        Poll::Ready(Some(Err(match timeout.rate {
            Some(_) => Error::ContentTooSlow,
            None => (self.blame)(format!("no data for {:?}", timeout.idle)),
        })))
    }
}

/// Timeout of a received body.
struct Timeout {
    /// The longest wait for one frame.
    idle: Duration,
    /// The lowest average rate, in bytes a second.
    rate: Option<u64>,
    received: u64,
    /// Time spent waiting for the sender. While this edge does not read, no time counts.
    waited: Duration,
}

impl Timeout {
    fn new(idle: Duration) -> Self {
        Self { idle, rate: None, received: 0, waited: Duration::ZERO }
    }

    /// Returns the longest wait for the next frame.
    fn left(&self) -> Duration {
        let Some(rate) = self.rate else {
            return self.idle;
        };
        let earned = Duration::from_secs(self.received / rate.max(1));
        self.idle.saturating_add(earned).saturating_sub(self.waited).min(self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sender_gets_the_idle_timeout_once_and_a_fast_one_for_each_frame() {
        let secs = Duration::from_secs;
        for (rate, received, waited, left) in [
            (None, 1, 1000, 10),
            (Some(100), 0, 0, 10),
            (Some(100), 1, 4, 6),
            (Some(100), 200, 4, 8),
            (Some(100), 1_000_000, 4, 10),
            (Some(100), 2, 10, 0),
            (Some(100), 2, 1000, 0),
            (Some(u64::MAX), u64::MAX, 1, 10),
        ] {
            let timeout = Timeout { idle: secs(10), rate, received, waited: secs(waited) };
            assert_eq!(timeout.left(), secs(left), "{rate:?}: {received} bytes, {waited} s");
        }
    }
}
