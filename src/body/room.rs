//! [`Room`]: the share of the budget that a flight's body takes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Held;
use crate::budget::Charge;

/// What a flight takes of the budget, for as long as anybody reads it: its own charge,
/// or the stored body that it has become.
pub(crate) struct Room(Mutex<Taken>);

enum Taken {
    Own(Charge),
    Stored(Arc<Held>),
}

impl Room {
    pub(crate) fn new(charge: Charge) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Taken::Own(charge))))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing in a critical section can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of the budget are its own.
    pub(crate) fn bytes(&self) -> u64 {
        match &*self.lock() {
            Taken::Own(charge) => charge.bytes(),
            Taken::Stored(_) => 0,
        }
    }

    /// Takes `more` bytes too, or says `false` and stays as it is.
    pub(crate) fn grow(&self, more: u64) -> bool {
        match &mut *self.lock() {
            Taken::Own(charge) => charge.grow(more),
            Taken::Stored(_) => false,
        }
    }

    /// The body made of `pieces`, to be stored. It takes over `bytes` of the room; the
    /// rest is given back.
    pub(crate) fn hold(&self, pieces: Vec<Bytes>, bytes: u64) -> Arc<Held> {
        let mut taken = self.lock();
        match &mut *taken {
            Taken::Own(charge) => {
                let held = Arc::new(Held::new(pieces, charge.split(bytes)));
                *taken = Taken::Stored(Arc::clone(&held));
                held
            }
            Taken::Stored(held) => Arc::clone(held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    #[test]
    fn what_is_stored_is_charged_until_nobody_has_it() {
        let budget = Budget::new(100);
        let room = Room::new(budget.charge(60).unwrap());
        assert!(room.grow(30) && !room.grow(11));
        let held = room.hold(vec![Bytes::from_static(b"body")], 10);
        assert_eq!((held.charged(), budget.used(), room.bytes()), (10, 10, 0));
        assert!(!room.grow(1));
        drop(held);
        assert_eq!(budget.used(), 10);
        drop(room);
        assert_eq!(budget.used(), 0);
    }
}
