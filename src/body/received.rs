//! A body that comes over a connection, with bounds on the wait for it, and somebody to
//! blame when it breaks off.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::describe;
use crate::error::Error;

pub(super) struct TimedBody {
    incoming: Incoming,
    patience: Option<Patience>,
    /// How many bytes more it may bring.
    pub(super) left: u64,
    blame: fn(String) -> Error,
    /// Hears of each piece how many bytes it has.
    pub(super) count: Option<Box<dyn Fn(u64) + Send + Sync>>,
    wait: Option<Wait>,
}

/// The wait for a piece.
struct Wait {
    began: Instant,
    ends: Pin<Box<Sleep>>,
}

impl TimedBody {
    /// `patience` is how long nothing may come.
    pub(super) fn new(incoming: Incoming, patience: Option<Duration>, blame: fn(String) -> Error) -> Self {
        Self { incoming, patience: patience.map(Patience::new), left: u64::MAX, blame, count: None, wait: None }
    }

    pub(super) fn expect(&mut self, rate: u64) {
        if let Some(patience) = &mut self.patience {
            patience.rate = Some(rate);
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            return self.poll_patience(cx);
        };
        if let (Some(patience), Some(wait)) = (&mut self.patience, self.wait.take()) {
            patience.waited += wait.began.elapsed();
        }
        match frame {
            // Trailers are not relayed: RFC 9110 §6.5.1 lets an intermediary drop them.
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
                if let Some(patience) = &mut self.patience {
                    patience.came += len;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err((self.blame)(describe(&error))))),
            None => Poll::Ready(None),
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(patience) = &self.patience else {
            return Poll::Pending;
        };
        let wait = self.wait.get_or_insert_with(|| {
            let began = Instant::now();
            Wait { began, ends: Box::pin(tokio::time::sleep_until(began + patience.left())) }
        });
        ready!(wait.ends.as_mut().poll(cx));
        Poll::Ready(Some(Err(match patience.rate {
            Some(_) => Error::ContentTooSlow,
            None => (self.blame)(format!("nothing came for {:?}", patience.idle)),
        })))
    }
}

/// How long a body is waited for.
struct Patience {
    /// For each piece.
    idle: Duration,
    /// How many bytes a second are to come.
    rate: Option<u64>,
    came: u64,
    /// Only the sender's time counts: while nobody takes what he has sent, he waits.
    waited: Duration,
}

impl Patience {
    fn new(idle: Duration) -> Self {
        Self { idle, rate: None, came: 0, waited: Duration::ZERO }
    }

    /// How long the next piece may take.
    fn left(&self) -> Duration {
        let Some(rate) = self.rate else {
            return self.idle;
        };
        let earned = Duration::from_secs(self.came / rate.max(1));
        self.idle.saturating_add(earned).saturating_sub(self.waited).min(self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_slowly_has_his_patience_once_and_who_sends_enough_each_time() {
        let secs = Duration::from_secs;
        for (rate, came, waited, left) in [
            (None, 1, 1000, 10),
            (Some(100), 0, 0, 10),
            (Some(100), 1, 4, 6),
            (Some(100), 200, 4, 8),
            (Some(100), 1_000_000, 4, 10),
            (Some(100), 2, 10, 0),
            (Some(100), 2, 1000, 0),
            (Some(u64::MAX), u64::MAX, 1, 10),
        ] {
            let patience = Patience { idle: secs(10), rate, came, waited: secs(waited) };
            assert_eq!(patience.left(), secs(left), "{rate:?}: {came} bytes, {waited} s");
        }
    }
}
