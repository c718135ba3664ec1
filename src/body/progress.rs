//! Detection of stalled transfers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time of the last progress of a transfer, shared with the task that times it out. While
/// paused, no time counts: the transfer waits for something that has a timeout of its own.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    /// Records progress now, which also ends a pause.
    pub(crate) fn note(&self) {
        self.set(Some(Instant::now()));
    }

    /// Stops the clock until the next progress.
    pub(super) fn pause(&self) {
        self.set(None);
    }

    fn set(&self, last: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    fn last(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Instant::now)
    }

    /// Resolves when there was no progress for `timeout`.
    pub(crate) async fn stalls(&self, timeout: Duration) {
        let mut last = self.last();
        loop {
            tokio::time::sleep_until(last + timeout).await;
            let later = self.last();
            if later == last {
                return;
            }
            last = later;
        }
    }
}
