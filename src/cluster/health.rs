//! How each peer has been answering.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How a peer has been answering.
#[derive(Debug)]
pub struct Health {
    /// Its address, which is its name.
    pub name: Arc<str>,
    up: AtomicBool,
    errors: AtomicU64,
    /// In microseconds; 0 while there was no answer.
    latency: AtomicU64,
    /// It did not answer a ping in time, and nothing else since.
    overdue: AtomicBool,
    pinged: AtomicBool,
    /// How many pings it has answered.
    answered_pings: AtomicU64,
    /// How many times in a row it answered a ping, and had not acknowledged a request that
    /// came before.
    unacknowledged: AtomicU64,
}

/// After so many times in a row, a peer is taken to answer nothing but pings.
const STUCK_AFTER: u64 = 2;

/// A ping under way, of which there is one at a time.
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

    /// Whether the last request to it was answered, and it has not been down
    /// since.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// How long the peer takes to answer: a moving mean, in which each answer counts for
    /// an eighth. Only answers count for which the peer waits for nobody, such as those to
    /// pings: the origin's time is not part of it.
    pub fn latency(&self) -> Option<Duration> {
        Some(self.latency.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }

    /// Whether it owes the answer to a ping.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed)
    }

    /// The right to ping it, unless somebody else does.
    pub(crate) fn ping(&self) -> Option<Ping<'_>> {
        (!self.pinged.swap(true, Ordering::Relaxed)).then_some(Ping(self))
    }

    pub(crate) fn answered_pings(&self) -> u64 {
        self.answered_pings.load(Ordering::Relaxed)
    }

    /// Notes that a request was acknowledged, or answered.
    pub(crate) fn note_acknowledged(&self) {
        self.unacknowledged.store(0, Ordering::Relaxed);
    }

    /// Notes that a request was not acknowledged, though a ping behind it was answered.
    pub(crate) fn note_unacknowledged(&self) {
        if self.unacknowledged.fetch_add(1, Ordering::Relaxed) + 1 == STUCK_AFTER {
            tracing::warn!(peer = %self.name, "peer answers pings but acknowledges no request, asking the next in rank");
        }
    }

    /// Returns true if it acknowledges no request.
    pub(crate) fn is_stuck(&self) -> bool {
        self.unacknowledged.load(Ordering::Relaxed) >= STUCK_AFTER
    }

    pub(super) fn owe(&self) {
        self.overdue.store(true, Ordering::Relaxed);
    }

    /// Notes how a request to it went; returns whether that changes if it is up.
    pub(super) fn note(&self, heard: Heard) -> bool {
        let was_up = self.is_up();
        let up = match heard {
            Heard::Answer(_) | Heard::LateAnswer => true,
            Heard::Part => was_up,
            Heard::Nothing | Heard::Silence => false,
        };
        match heard {
            Heard::Answer(took) => self.answered_after(took),
            Heard::LateAnswer => self.overdue.store(false, Ordering::Relaxed),
            Heard::Part | Heard::Nothing => drop(self.errors.fetch_add(1, Ordering::Relaxed)),
            Heard::Silence => {}
        }
        self.up.swap(up, Ordering::Relaxed) != up
    }

    fn answered_after(&self, took: Duration) {
        self.overdue.store(false, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 8).max(1);
        // Of two at the same moment one may be lost: it is a mean.
        let mean = match self.latency.load(Ordering::Relaxed) {
            0 => took,
            mean => (mean.saturating_mul(7).saturating_add(took) / 8).max(1),
        };
        self.latency.store(mean, Ordering::Relaxed);
    }

    /// How many requests to it failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// What came back from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer that the peer gave by itself; its head was there after this time.
    Answer(Duration),
    /// An answer for which the peer may have waited for another peer or the origin.
    LateAnswer,
    /// The beginning of an answer, which then broke off.
    Part,
    /// A refused connection, a timeout.
    Nothing,
    /// Nothing, to a question that no client's request depends on.
    Silence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_does_not_contain_the_time_of_an_origin_behind_the_peer() {
        let peer = Health::new(&"a:1".into());
        peer.note(Heard::Silence);
        assert!(peer.note(Heard::LateAnswer) && peer.latency().is_none());
        peer.note(Heard::Answer(Duration::from_millis(2)));
        peer.owe();
        peer.note(Heard::LateAnswer);
        assert_eq!((peer.latency(), peer.is_overdue()), (Some(Duration::from_millis(2)), false));
    }
}
