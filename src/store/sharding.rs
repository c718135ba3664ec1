//! What our caches of `quick_cache` have in common: they are weighed in bytes.
//!
//! The weight is split over shards that do not borrow from one another, and an entry
//! too heavy for its shard is dropped in silence: so the shards are chosen by the
//! largest entry.

use std::hash::{BuildHasher, Hasher};

use quick_cache::{Lifecycle, Options, OptionsBuilder};

/// The part of a shard that one entry may take, in percent (`quick_cache`
/// refuses more than its share for hot entries, 97 %; a percent is for rounding).
const LARGEST_PERCENT: u64 = 96;

/// `quick_cache`'s options for entries whose weights are of `bytes` together, of which
/// the largest may weigh `largest`, and most weigh `usual`.
pub(crate) fn options(bytes: u64, largest: u64, usual: u64) -> Options {
    let shards = shards(bytes, largest);
    // Below 32 a shard, quick_cache would take fewer shards.
    let items = usize::try_from(bytes / usual).unwrap_or(usize::MAX).max(shards * 32);
    OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity(items)
        .weight_capacity(bytes)
        .build()
        .expect("capacities are set")
}

/// The most that one entry may weigh, in a shard of this weight.
pub(crate) fn largest_entry(shard: u64) -> u64 {
    shard / 100 * LARGEST_PERCENT
}

/// The most shards, up to four a core, that take entries of `entry` bytes.
fn shards(bytes: u64, entry: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut shards = (cores * 4).next_power_of_two();
    while shards > 1 && largest_entry(bytes / shards as u64) < entry {
        shards /= 2;
    }
    shards
}

/// Hands over what was evicted or replaced: it is dropped when the shard's lock has been
/// released.
#[derive(Clone)]
pub(crate) struct HandOver;

impl<K, V> Lifecycle<K, V> for HandOver {
    type RequestState = Vec<(K, V)>;

    fn on_evict(&self, gone: &mut Self::RequestState, key: K, value: V) {
        gone.push((key, value));
    }
}

/// A key carries its hash: it is not hashed again.
#[derive(Clone)]
pub(crate) struct KeyHash;

impl BuildHasher for KeyHash {
    type Hasher = Given;
    fn build_hasher(&self) -> Given {
        Given(0)
    }
}

pub(crate) struct Given(u64);

impl Hasher for Given {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("a key gives its hash as one u64");
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
