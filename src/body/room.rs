//! [`Room`]: a flight's share of the memory budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::budget::Charge;
use crate::store::chunks::Chunks;

/// A flight's share of the budget, charged for as long as the flight has readers: a charge of
/// its own, and the chunks of the entry that was stored from the flight.
pub(crate) struct Room(Mutex<Shares>);

struct Shares {
    own: Charge,
    stored: Option<Arc<Chunks>>,
}

impl Room {
    pub(crate) fn new(own: Charge) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shares { own, stored: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Shares> {
        // No critical section can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes of the flight's own charge.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().own.bytes()
    }

    /// Charges `more` bytes. Returns false, and charges nothing, if that would exceed the budget.
    pub(crate) fn grow(&self, more: u64) -> bool {
        self.lock().own.grow(more)
    }

    /// Splits a charge of `bytes` off, or of all bytes if there are fewer.
    pub(crate) fn split(&self, bytes: u64) -> Charge {
        self.lock().own.split(bytes)
    }

    /// Returns the body made of `chunks`, to be stored. It takes over `bytes` of the charge;
    /// the rest is released.
    pub(crate) fn hold(&self, chunks: Vec<Bytes>, bytes: u64) -> Arc<Chunks> {
        let mut shares = self.lock();
        let stored = Arc::new(Chunks::new(chunks, shares.own.split(bytes)));
        drop(shares.own.split(u64::MAX));
        shares.stored = Some(Arc::clone(&stored));
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::budget::Budget;

    #[test]
    fn a_stored_body_stays_charged_until_its_last_reader_leaves() {
        let budget = Budget::new(100);
        let room = Room::new(budget.charge(60).unwrap());
        assert!(room.grow(30) && !room.grow(11));
        drop(room.split(20));
        assert_eq!((room.bytes(), budget.used()), (70, 70));
        let held = room.hold(vec![Bytes::from_static(b"body")], 10);
        assert_eq!((held.charged(), budget.used(), room.bytes()), (10, 10, 0));
        drop(held);
        assert_eq!(budget.used(), 10);
        drop(room);
        assert_eq!(budget.used(), 0);
    }
}
