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
        let charge = Charge { budget: Arc::clone(self), bytes: AtomicU64::new(0) };
        charge.grow(bytes).then_some(charge)
    }
}

/// A share of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

impl Charge {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes `more` bytes too, or says `false` and stays as it is.
    pub(crate) fn grow(&self, more: u64) -> bool {
        let grown = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|&used| used <= self.budget.limit)
        });
        if grown.is_ok() {
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        grown.is_ok()
    }

    /// Gives back what is above `bytes`.
    pub(crate) fn shrink_to(&self, bytes: u64) {
        let before = self.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(before.saturating_sub(bytes), Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_limit_and_all_given_back() {
        let budget = Budget::new(100);
        let first = budget.charge(60).unwrap();
        assert!(budget.charge(41).is_none());
        assert!(!first.grow(41) && first.grow(40));
        assert_eq!(budget.used(), 100);
        first.shrink_to(10);
        assert_eq!((first.bytes(), budget.used()), (10, 10));
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.charge(u64::MAX).is_none());
    }
}
