//! [`Room`]: the share of the budget that a flight's body takes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::budget::Charge;
use crate::store::chunks::Chunks;

/// What a flight takes of the budget, for as long as anybody reads it: its own charge,
/// and the pieces that are held for what is stored of it.
pub(crate) struct Room(Mutex<Taken>);

struct Taken {
    own: Charge,
    held: Option<Arc<Chunks>>,
}

impl Room {
    pub(crate) fn new(own: Charge) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Taken { own, held: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing in a critical section can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of the budget are its own.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().own.bytes()
    }

    /// Takes `more` bytes too, or says `false` and stays as it is.
    pub(crate) fn grow(&self, more: u64) -> bool {
        self.lock().own.grow(more)
    }

    /// A charge for `bytes` of it, or for all that there is.
    pub(crate) fn split(&self, bytes: u64) -> Charge {
        self.lock().own.split(bytes)
    }

    /// The body made of `pieces`, to be stored. It takes over `bytes` of the room; the
    /// rest is given back.
    pub(crate) fn hold(&self, chunks: Vec<Bytes>, bytes: u64) -> Arc<Chunks> {
        let mut taken = self.lock();
        let held = Arc::new(Chunks::new(chunks, taken.own.split(bytes)));
        drop(taken.own.split(u64::MAX));
        taken.held = Some(Arc::clone(&held));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::budget::Budget;

    #[test]
    fn what_is_stored_is_charged_until_nobody_has_it() {
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
