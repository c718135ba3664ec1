//! Options of the `quick_cache` caches, which are limited in bytes.
//!
//! The capacity is divided evenly over the shards, and `quick_cache` silently drops an entry that
//! is too heavy for its shard. So the number of shards depends on the largest entry.

use std::hash::{BuildHasher, Hasher};

use quick_cache::{Lifecycle, Options, OptionsBuilder};

/// The largest entry in percent of a shard. `quick_cache` rejects entries above its share for hot
/// entries, 97 %; one percent is left for rounding.
const LARGEST_PERCENT: u64 = 96;

/// Returns options for a capacity of `bytes`, for entries that weigh at most `largest` and mostly
/// `usual`.
pub(crate) fn options(bytes: u64, largest: u64, usual: u64) -> Options {
    let shards = shards(bytes, largest);
    // Below 32 entries a shard, quick_cache reduces the number of shards.
    let items = usize::try_from(bytes / usual).unwrap_or(usize::MAX).max(shards * 32);
    OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity(items)
        .weight_capacity(bytes)
        .build()
        .expect("capacities are set")
}

/// Returns the weight of the largest entry that fits into a shard of this capacity.
pub(crate) fn largest_entry(shard: u64) -> u64 {
    shard / 100 * LARGEST_PERCENT
}

/// Returns the largest number of shards, up to four a core, into which entries of `entry` bytes
/// fit.
fn shards(bytes: u64, entry: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut shards = (cores * 4).next_power_of_two();
    while shards > 1 && largest_entry(bytes / shards as u64) < entry {
        shards /= 2;
    }
    shards
}

/// Returns evicted and replaced entries to the caller, so that they are dropped after the shard's
/// lock is released.
#[derive(Clone)]
pub(crate) struct ReturnRemoved;

impl<K, V> Lifecycle<K, V> for ReturnRemoved {
    type RequestState = Vec<(K, V)>;

    fn on_evict(&self, removed: &mut Self::RequestState, key: K, value: V) {
        removed.push((key, value));
    }
}

/// Uses keys as their own hashes: each is a hash already.
#[derive(Clone)]
pub(crate) struct KeyHash;

impl BuildHasher for KeyHash {
    type Hasher = IdentityHasher;
    fn build_hasher(&self) -> IdentityHasher {
        IdentityHasher(0)
    }
}

pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is one u64");
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
