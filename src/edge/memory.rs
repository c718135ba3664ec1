//! [`Memory`]: the stored responses of an edge, the flights that fill them, and the budget of both.

use std::sync::Arc;
use std::time::Duration;

use crate::body::zero_copy::Arena;
use crate::flight::{Flights, Lead};
use crate::key::AssetKey;
use crate::store::budget::Budget;
use crate::store::entry::Stored;
use crate::store::tiers::{Plan, Store, Tier};

/// The stored responses, the flights, and the memory for both.
pub(super) struct Memory {
    pub(super) store: Store,
    pub(super) flights: Arc<Flights>,
    pub(super) budget: Arc<Budget>,
    pub(super) plan: Plan,
    /// The memory for the large chunks of bodies.
    pub(super) arena: Arc<Arena>,
}

impl Memory {
    pub(super) fn new(plan: Plan, arena: Arc<Arena>) -> Self {
        let budget = Budget::new(plan.bodies());
        Self {
            store: Store::new(&plan, Arc::clone(&budget)),
            flights: Flights::new(Arc::clone(&arena)),
            budget,
            plan,
            arena,
        }
    }

    /// Stores the response of a flight, unless a purge has overtaken the flight.
    pub(super) fn insert(&self, lead: &Lead, tier: Tier, key: &AssetKey, stored: Stored) {
        if lead.is_invalidated() {
            return;
        }
        self.store.store(tier, key, stored);
        // A purge may have come in between: it marks the flight first and then removes the entry.
        if lead.is_invalidated() {
            self.store.remove(key);
        }
    }

    /// Removes the responses of `key`, and lets no flight store one. Other edges may hold the
    /// old response for the time of `period`.
    pub(super) fn purge(&self, key: &AssetKey, period: Duration) {
        // Before a flight can begin that asks other edges for the key.
        self.store.note_changed(key, period);
        self.flights.invalidate(key);
        self.store.forget(key);
    }

    /// Removes all responses that their names do not prove, and lets no flight store one.
    pub(super) fn purge_unproven(&self, period: Duration) {
        // In the same order as in `purge`.
        self.store.note_all_changed(period);
        self.flights.invalidate_all();
        self.store.forget_unproven();
    }
}
