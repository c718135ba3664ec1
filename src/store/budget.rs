//! [`Budget`]: the memory limit of all bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `cache.memory`: the limit for all bodies together, whether stored, in flight, or evicted but
/// still being sent.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Charges `bytes`. Returns `None`, and charges nothing, if that would exceed the limit.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let mut charge = Charge { budget: Arc::clone(self), bytes: 0 };
        charge.grow(bytes).then_some(charge)
    }

    /// Turns a charge of this budget into its number of bytes, which the caller must
    /// [release](Self::release). An entry is smaller without a reference to the budget.
    pub(crate) fn detach(&self, mut charge: Charge) -> u64 {
        debug_assert!(std::ptr::eq(self, &raw const *charge.budget), "the charge is of another budget");
        std::mem::take(&mut charge.bytes)
    }

    /// Releases `bytes` that were [detached](Self::detach).
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A share of a [`Budget`], released when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Charges `more` bytes. Returns false, and charges nothing, if that would exceed the limit.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let grown = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|&used| used <= self.budget.limit)
        });
        if grown.is_ok() {
            self.bytes += more;
        }
        grown.is_ok()
    }

    /// Splits a charge of `bytes` off, or of all bytes if there are fewer.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_stop_at_the_limit_and_are_released() {
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
        let detached = budget.detach(budget.charge(30).unwrap());
        assert_eq!((detached, budget.used()), (30, 30));
        budget.release(detached);
        assert_eq!(budget.used(), 0);
    }
}
