//! [`Health`]: the record of a peer's recent responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The record of a peer's recent responses.
#[derive(Debug)]
pub struct Health {
    /// The peer's address, which is its name on the ring.
    pub name: Arc<str>,
    up: AtomicBool,
    errors: AtomicU64,
    /// In microseconds; 0 before the first response.
    latency: AtomicU64,
    /// The peer missed a ping and has not responded since.
    overdue: AtomicBool,
    /// A ping is in flight.
    pinged: AtomicBool,
    /// The number of pings that the peer answered.
    answered_pings: AtomicU64,
    /// The number of times in a row that the peer answered a ping but had not acknowledged an
    /// earlier request.
    unacknowledged: AtomicU64,
}

/// The value of [`Health::unacknowledged`] from which a peer counts as stuck.
const STUCK_AFTER: u64 = 2;

/// A ping in flight; there is at most one for each peer.
pub(crate) struct Ping<'a>(&'a Health);

impl Ping<'_> {
    pub(crate) fn answered(&self) {
        self.0.answered_pings.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Ping<'_> {
    fn drop(&mut self) {
        self.0.pinged.store(false, Ordering::Relaxed);
    }
}

impl Health {
    pub(super) fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            up: AtomicBool::new(true),
            errors: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            overdue: AtomicBool::new(false),
            pinged: AtomicBool::new(false),
            answered_pings: AtomicU64::new(0),
            unacknowledged: AtomicU64::new(0),
        }
    }

    /// Returns true if the peer responded to the last request and has not been down since.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Returns the peer's latency: a moving average with a weight of 1/8 for each new response.
    /// Only responses for which the peer waits for no other server count, such as those to pings,
    /// so the origin's time is not included.
    pub fn latency(&self) -> Option<Duration> {
        Some(self.latency.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }

    /// Returns true if the response to a ping is overdue.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Begins a ping, unless one is in flight.
    pub(crate) fn ping(&self) -> Option<Ping<'_>> {
        (!self.pinged.swap(true, Ordering::Relaxed)).then_some(Ping(self))
    }

    pub(crate) fn answered_pings(&self) -> u64 {
        self.answered_pings.load(Ordering::Relaxed)
    }

    /// Records that the peer acknowledged or answered a request.
    pub(crate) fn note_acknowledged(&self) {
        self.unacknowledged.store(0, Ordering::Relaxed);
    }

    /// Records that the peer answered a ping but not an earlier request.
    pub(crate) fn note_unacknowledged(&self) {
        if self.unacknowledged.fetch_add(1, Ordering::Relaxed) + 1 == STUCK_AFTER {
            tracing::warn!(peer = %self.name, "peer answers pings but acknowledges no request, asking the successor");
        }
    }

    /// Returns true if the peer answers pings but acknowledges no request.
    pub(crate) fn is_stuck(&self) -> bool {
        self.unacknowledged.load(Ordering::Relaxed) >= STUCK_AFTER
    }

    /// Records that the response to a ping is overdue.
    pub(super) fn set_overdue(&self) {
        self.overdue.store(true, Ordering::Relaxed);
    }

    /// Records the outcome of a request to the peer. Returns true if [`is_up`](Self::is_up)
    /// changed.
    pub(super) fn note(&self, heard: Heard) -> bool {
        let was_up = self.is_up();
        let up = match heard {
            Heard::Answer(_) | Heard::LateAnswer => true,
            Heard::Part => was_up,
            Heard::Nothing | Heard::Silence => false,
        };
        match heard {
            Heard::Answer(took) => self.record_latency(took),
            Heard::LateAnswer => self.overdue.store(false, Ordering::Relaxed),
            Heard::Part | Heard::Nothing => drop(self.errors.fetch_add(1, Ordering::Relaxed)),
            Heard::Silence => {}
        }
        self.up.swap(up, Ordering::Relaxed) != up
    }

    fn record_latency(&self, took: Duration) {
        self.overdue.store(false, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 8).max(1);
        // A concurrent update may be lost, which an average tolerates.
        let mean = match self.latency.load(Ordering::Relaxed) {
            0 => took,
            mean => (mean.saturating_mul(7).saturating_add(took) / 8).max(1),
        };
        self.latency.store(mean, Ordering::Relaxed);
    }

    /// Returns the number of failed requests to the peer.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// The outcome of a request to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A response for which the peer waited for no other server; its head arrived after this
    /// time.
    Answer(Duration),
    /// A response for which the peer may have waited for another peer or the origin.
    LateAnswer,
    /// A response that was cut off.
    Part,
    /// No response: connection refused or timeout.
    Nothing,
    /// No response to a probe, on which no client's request depends.
    Silence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_excludes_responses_that_may_include_the_origins_time() {
        let peer = Health::new(&"a:1".into());
        peer.note(Heard::Silence);
        assert!(peer.note(Heard::LateAnswer) && peer.latency().is_none());
        peer.note(Heard::Answer(Duration::from_millis(2)));
        peer.set_overdue();
        peer.note(Heard::LateAnswer);
        assert_eq!((peer.latency(), peer.is_overdue()), (Some(Duration::from_millis(2)), false));
    }
}
