//! [`TtlSet`]: notes on keys that expire.

use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// The most keys of a set.
const CAPACITY: usize = 16 * 1024;

/// A set of key hashes, each until a time; keys with the same hash share an entry. It uses the
/// monotonic clock: a step of the wall clock could turn seconds into hours.
pub(crate) struct TtlSet(Cache<u64, Instant>);

impl TtlSet {
    pub(crate) fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// Adds `hash` for `period`.
    pub(crate) fn insert(&self, hash: u64, period: Duration) {
        self.0.insert(hash, Instant::now() + period);
    }

    pub(crate) fn remove(&self, hash: u64) {
        self.0.remove(&hash);
    }

    /// Returns the time for which `hash` is still in the set, if it is.
    pub(crate) fn left(&self, hash: u64) -> Option<Duration> {
        let until = self.0.get(&hash)?;
        let now = Instant::now();
        if now < until {
            return Some(until - now);
        }
        // Conditional: another thread may have extended it in between.
        self.0.remove_if(&hash, |until| now >= *until);
        None
    }

    /// Returns true if `hash` is in the set.
    pub(crate) fn contains(&self, hash: u64) -> bool {
        self.left(hash).is_some()
    }

    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}
