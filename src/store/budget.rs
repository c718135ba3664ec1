//! The memory that bodies may take, counted in one place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `cache.memory`: how much all bodies that are alive may take together, be
/// they stored, in flight, or gone from the cache but still being read.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Bytes in use now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing if that would go beyond the limit.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let mut charge = Charge { budget: Arc::clone(self), bytes: 0 };
        charge.grow(bytes).then_some(charge)
    }

    /// Takes over what a charge of it has taken, in bytes: who has the budget at hand
    /// anyway, and must be small, [gives it back](Self::give_back) itself.
    pub(crate) fn take_over(&self, mut charge: Charge) -> u64 {
        debug_assert!(std::ptr::eq(self, &raw const *charge.budget), "a charge of another budget");
        std::mem::take(&mut charge.bytes)
    }

    /// Gives `bytes` back that were [taken over](Self::take_over).
    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A share of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `more` bytes too, or says `false` and stays as it is.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let grown = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|&used| used <= self.budget.limit)
        });
        if grown.is_ok() {
            self.bytes += more;
        }
        grown.is_ok()
    }

    /// A charge of its own for `bytes` of it, or for all that there is.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_limit_and_all_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        assert!(!first.grow(41) && first.grow(40));
        assert_eq!(budget.used(), 100);
        let second = first.split(10);
        assert_eq!((first.bytes(), second.bytes(), budget.used()), (90, 10, 100));
        drop(first);
        assert_eq!((budget.used(), second.bytes()), (10, 10));
        drop(second);
        assert_eq!(budget.used(), 0);
        assert!(budget.charge(u64::MAX).is_none());
        let taken = budget.take_over(budget.charge(30).unwrap());
        assert_eq!((taken, budget.used()), (30, 30));
        budget.give_back(taken);
        assert_eq!(budget.used(), 0);
    }
}
