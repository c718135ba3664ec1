//! [`HedgeBudget`]: bounds the hedges to a share of the requests to peers.

use std::sync::atomic::{AtomicU32, Ordering};

/// The number of requests to peers that pay for one hedge: hedges add at most 5 % to the requests.
const PRICE: u32 = 20;
/// The most that is saved: enough for 64 hedges at once.
const MOST: u32 = 64 * PRICE;

/// The budget for hedges, in requests.
pub(super) struct HedgeBudget(AtomicU32);

impl HedgeBudget {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(MOST))
    }

    pub(super) fn earn(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| (saved < MOST).then_some(saved + 1));
    }

    /// Pays for one hedge. Returns true if the budget was large enough.
    pub(super) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(PRICE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_stay_within_their_budget() {
        let budget = HedgeBudget::new();
        let spent = (0..1000).filter(|_| budget.spend()).count();
        assert_eq!(spent, 64);
        let spent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(spent.count(), 1000 / PRICE as usize);
    }
}
