//! [`Store`]: the two tiers of stored responses, and markers of keys that are not stored.
//!
//! Each tier is a `quick_cache` (Clock-Pro, which a scan does not flush), limited by
//! [weight](crate::store::sharding) in bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::key::AssetKey;
use crate::semantics::freshness::Lifetime;
use crate::semantics::vary::Accepted;
use crate::store::budget::Budget;
use crate::store::entry::Stored;
use crate::store::headers::{PackedHead, Templates};
use crate::store::metadata::Metadata;
use crate::store::sharding::{KeyHash, ReturnRemoved, largest_entry, options};
use crate::store::ttl_set::TtlSet;
use crate::store::variants::Variants;

/// Bytes reserved for the headers of an object of the largest size.
const HEADERS: u64 = 64 * 1024;

/// The division of `cache.memory`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All of it.
    pub memory: u64,
    /// The main tier.
    pub main: u64,
    /// The hot tier.
    pub hot: u64,
    /// The lists of variants.
    pub variants: u64,
    /// The largest body that is stored.
    pub max_object: u64,
}

impl Plan {
    /// Divides `memory` into shares for the hot tier and for flights, a 32nd for the lists of
    /// variants, and the main tier, which gets the rest.
    pub fn new(memory: u64, hot_share: f64, flight_share: f64, max_object: u64) -> Self {
        let hot = share(memory, hot_share);
        let flights = share(memory, flight_share);
        let variants = memory / 32;
        Self { memory, main: memory.saturating_sub(hot + flights + variants), hot, variants, max_object }
    }

    /// Returns the limit for all bodies together, in the tiers and in flights.
    pub(crate) fn bodies(&self) -> u64 {
        self.memory - self.variants
    }

    /// Returns the largest possible `max_object`: it fits into a shard of the main tier, and two of
    /// that size can be in flight at a time.
    pub fn largest(&self) -> u64 {
        let flights = self.bodies().saturating_sub(self.main + self.hot);
        (flights / 2).min(largest_entry(self.main).saturating_sub(HEADERS))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a share, rounded
fn share(memory: u64, share: f64) -> u64 {
    (memory as f64 * share) as u64
}

/// A tier of stored responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Responses that this edge owns or fetched from the origin itself.
    Main,
    /// Copies from peers, without the largest, which are in the main tier.
    Hot,
}

impl Tier {
    /// Both tiers in the order of a lookup.
    pub const ALL: [Self; 2] = [Self::Main, Self::Hot];

    /// Returns the label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Hot => "hot",
        }
    }
}

/// The result of a [lookup](Store::lookup).
pub(crate) enum Lookup {
    /// A response in memory, fresh or stale.
    Memory(Tier, Stored),
    /// No response; the last ones were not storable, so the request is not coalesced.
    HitForMiss,
    /// No response; the content of the last one failed verification, so the key is not fetched.
    WrongContent,
    /// No response.
    Absent,
}

/// Entries by the hash of their key. An entry has the key itself, so of two keys with the same hash,
/// one at a time is stored.
type Responses = Cache<u64, Stored, ByWeight, KeyHash, ReturnRemoved>;

/// The responses of one tier.
struct TierCache {
    responses: Responses,
    /// Weight in bytes of the largest entry that fits.
    largest: u64,
    evictions: AtomicU64,
}

impl TierCache {
    fn new(bytes: u64, max_object: u64) -> Self {
        let options = options(bytes, max_object + HEADERS, 16 * 1024);
        let responses = Cache::with_options(options, ByWeight, KeyHash, ReturnRemoved);
        let largest = largest_entry(responses.shard_capacity());
        Self { responses, largest, evictions: AtomicU64::new(0) }
    }

    fn get(&self, key: &AssetKey) -> Option<Stored> {
        self.responses.get(&key.variant_hash()).filter(|stored| stored.has_key(key))
    }

    fn insert(&self, key: &AssetKey, stored: Stored) {
        let mut removed = Vec::new();
        self.responses.insert_with_lifecycle(key.variant_hash(), stored, &mut removed);
        // The entry that it replaces does not count as evicted.
        let evicted = removed.iter().filter(|(_, other)| !other.has_key(key)).count() as u64;
        if evicted > 0 {
            self.evictions.fetch_add(evicted, Ordering::Relaxed);
        }
    }

    /// Removes the response of `key` in any spelling of its query.
    fn remove(&self, key: &AssetKey) {
        self.responses.remove(&key.variant_hash());
    }
}

/// The stored responses of an edge, and its notes on keys.
pub(crate) struct Store {
    main: TierCache,
    hot: TierCache,
    templates: Templates,
    variants: Variants,
    /// Requests for these keys are not coalesced.
    markers: TtlSet,
    /// The same for requests that identify a client.
    own_markers: TtlSet,
    /// Keys with content that failed verification: the answer is 502, without a fetch.
    wrong: TtlSet,
    /// Peers, by hash combined with the key's, that sent wrong content of a key and are not asked for
    /// it.
    doubted: TtlSet,
    /// Keys that a write has changed; peers may still have the old response.
    changed: TtlSet,
    /// Until then, any key counts as changed.
    all_changed: Mutex<Option<Instant>>,
    /// Keys for which the owner could not answer a peek.
    peek_misses: TtlSet,
}

impl Store {
    /// `budget` is charged for the entries.
    pub(crate) fn new(plan: &Plan, budget: Arc<Budget>) -> Self {
        Self {
            main: TierCache::new(plan.main, plan.max_object),
            // Shards for the largest objects would leave this tier few shards, so copies of such
            // objects are in the main tier.
            hot: TierCache::new(plan.hot, plan.max_object.min(plan.hot / 8)),
            templates: Templates::new(budget),
            variants: Variants::new(plan.variants),
            markers: TtlSet::new(),
            own_markers: TtlSet::new(),
            wrong: TtlSet::new(),
            doubted: TtlSet::new(),
            changed: TtlSet::new(),
            all_changed: Mutex::default(),
            peek_misses: TtlSet::new(),
        }
    }

    fn cache(&self, tier: Tier) -> &TierCache {
        match tier {
            Tier::Main => &self.main,
            Tier::Hot => &self.hot,
        }
    }

    /// Returns the response of `key`, fresh or stale, and its tier.
    pub(crate) fn get(&self, key: &AssetKey) -> Option<(Tier, Stored)> {
        Tier::ALL.into_iter().find_map(|tier| Some((tier, self.cache(tier).get(key)?)))
    }

    /// Returns the response of `key`, or the reason to treat its request differently.
    pub(crate) fn lookup(&self, key: &AssetKey) -> Lookup {
        if let Some((tier, stored)) = self.get(key) {
            Lookup::Memory(tier, stored)
        } else if self.wrong.contains(key.variant_hash()) {
            Lookup::WrongContent
        } else if self.markers.contains(key.asset_hash()) {
            Lookup::HitForMiss
        } else {
            Lookup::Absent
        }
    }

    /// Returns true if no note on `key` speaks against a peek at its owner.
    pub(crate) fn may_peek(&self, key: &AssetKey) -> bool {
        let contains = |notes: &TtlSet| notes.contains(key.asset_hash());
        !self.wrong.contains(key.variant_hash())
            && ![&self.markers, &self.peek_misses].into_iter().any(contains)
            && !self.has_changed(key)
    }

    /// Suppresses peeks for `key` for `period`.
    pub(crate) fn note_peek_miss(&self, key: &AssetKey, period: Duration) {
        self.peek_misses.insert(key.asset_hash(), period);
    }

    /// Returns true if an entry of this weight for `tier` fits into the store.
    pub(crate) fn takes(&self, tier: Tier, weight: u64) -> bool {
        weight <= self.cache(self.fitting(tier, weight)).largest
    }

    /// Returns the tier for an entry of this weight. A copy that is too heavy for a shard of the hot
    /// tier goes to the main tier; the shards of that tier take every body up to `max_object`.
    fn fitting(&self, tier: Tier, weight: u64) -> Tier {
        if weight <= self.cache(tier).largest { tier } else { Tier::Main }
    }

    /// Packs the head of a response with a body of `body` bytes.
    pub(crate) fn pack(&self, facts: Metadata, headers: &HeaderMap, body: u64) -> PackedHead {
        self.templates.pack(facts, headers, body)
    }

    /// Stores a complete response in `tier`, or in the main tier if it is too heavy for a shard of
    /// the hot tier. Evicted entries are dropped after the tier's lock is released.
    pub(crate) fn store(&self, tier: Tier, key: &AssetKey, stored: Stored) {
        let tier = self.fitting(tier, stored.weight());
        // Held until the variant is stored, so that an invalidation finds it.
        let change = key.variant().map(|_| self.variants.change());
        if let Some(change) = &change {
            let Some(unlisted) = change.list(key) else { return };
            self.remove_all(&unlisted);
            if unlisted.contains(key) {
                return;
            }
        }
        self.markers.remove(key.asset_hash());
        self.wrong.remove(key.variant_hash());
        let other = if tier == Tier::Main { Tier::Hot } else { Tier::Main };
        self.cache(other).remove(key);
        self.cache(tier).insert(key, stored);
    }

    /// Removes the response of `key`.
    pub(crate) fn remove(&self, key: &AssetKey) {
        self.wrong.remove(key.variant_hash());
        for tier in Tier::ALL {
            self.cache(tier).remove(key);
        }
    }

    /// Removes all responses of an asset under every scheme, and its lists of variants.
    pub(crate) fn forget(&self, asset: &AssetKey) {
        let change = self.variants.change();
        for asset in asset.under_each_scheme() {
            self.remove(&asset);
            self.remove_all(&change.remove(&asset));
        }
    }

    /// Removes the responses of all assets except those with a key whose text (for
    /// [`split_scope`](crate::key::split_scope)) satisfies `keeps`.
    pub(crate) fn retain(&self, keeps: impl Fn(&str) -> bool) {
        for tier in Tier::ALL {
            self.cache(tier).responses.retain(|_, stored| keeps(stored.asset_name()));
        }
    }

    /// Removes all responses except those with content that their name proves.
    pub(crate) fn forget_unproven(&self) {
        for tier in Tier::ALL {
            let is_proven = |stored: &Stored| matches!(stored.facts().lifetime, Lifetime::UntilEvicted { .. });
            self.cache(tier).responses.retain(|_, stored| is_proven(stored));
        }
        self.wrong.clear();
    }

    fn remove_all(&self, keys: &[AssetKey]) {
        for key in keys {
            self.remove(key);
        }
    }

    /// Returns true if any asset varied since the start.
    pub(crate) fn has_variants(&self) -> bool {
        self.variants.any()
    }

    /// Returns true if the responses of `asset` are known to vary.
    pub(crate) fn varies(&self, asset: &AssetKey) -> bool {
        self.variants.any() && self.variants.has(asset)
    }

    /// Returns the key of the variant that a request with these headers selects.
    pub(crate) fn select(&self, key: &AssetKey, request: &HeaderMap) -> Option<AssetKey> {
        self.variants.select(key, request)
    }

    /// Returns the key of the variant for a request that accepts these codings, if the responses of
    /// the asset vary by Accept-Encoding alone.
    pub(crate) fn select_by_codings(&self, asset: &AssetKey, accepted: Accepted) -> Option<AssetKey> {
        self.variants.select_by_codings(asset, accepted)
    }

    /// Returns the request headers by which the responses of an asset are known to vary.
    pub(crate) fn varies_by(&self, asset: &AssetKey) -> Option<Arc<[HeaderName]>> {
        if self.variants.any() { self.variants.fields(asset) } else { None }
    }

    /// Records that the responses of an asset vary by `fields`, and keeps at most `most` variants
    /// of it.
    pub(crate) fn vary(&self, asset: &AssetKey, fields: &Arc<[HeaderName]>, most: usize) {
        let change = self.variants.change();
        self.remove_all(&change.note(asset, fields, most));
    }

    /// Ends the coalescing of requests for `key` for `period`.
    pub(crate) fn mark(&self, key: &AssetKey, period: Duration) {
        self.markers.insert(key.asset_hash(), period);
    }

    /// Ends the coalescing of requests for `key` that identify a client, for `period`.
    pub(crate) fn mark_own(&self, key: &AssetKey, period: Duration) {
        self.own_markers.insert(key.asset_hash(), period);
    }

    /// Returns true if requests for `key` that identify a client go to the origin at once.
    pub(crate) fn is_marked_own(&self, key: &AssetKey) -> bool {
        self.own_markers.contains(key.asset_hash())
    }

    /// Suppresses fetches of `key` for `period`: its content failed verification.
    pub(crate) fn mark_wrong(&self, key: &AssetKey, period: Duration) {
        self.wrong.insert(key.variant_hash(), period);
    }

    /// Permits fetches of `key` again.
    pub(crate) fn unmark_wrong(&self, key: &AssetKey) {
        self.wrong.remove(key.variant_hash());
    }

    /// Suppresses requests to `peer` for `key`, for `period`: it sent wrong content.
    pub(crate) fn doubt(&self, peer: &str, key: &AssetKey, period: Duration) {
        self.doubted.insert(key.hash() ^ xxh3_64(peer.as_bytes()), period);
    }

    /// Returns true if `peer` is not asked for `key` now.
    pub(crate) fn doubts(&self, peer: &str, key: &AssetKey) -> bool {
        self.doubted.contains(key.hash() ^ xxh3_64(peer.as_bytes()))
    }

    /// Records that a write changed `key`. Peers may have the old response for `period`.
    pub(crate) fn note_changed(&self, key: &AssetKey, period: Duration) {
        self.changed.insert(key.hash(), period);
    }

    /// Records that a write changed all keys.
    pub(crate) fn note_all_changed(&self, period: Duration) {
        *self.all_changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + period);
    }

    /// Returns true if peers may have an outdated response of `key`.
    pub(crate) fn has_changed(&self, key: &AssetKey) -> bool {
        self.changed_for(key).is_some()
    }

    /// Returns the time for which peers may still have an outdated response of `key`.
    pub(crate) fn changed_for(&self, key: &AssetKey) -> Option<Duration> {
        let until = *self.all_changed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero());
        self.changed.left(key.hash()).max(all)
    }

    /// Removes the markers and the notes on wrong content, after a change of the rules.
    pub(crate) fn unmark_all(&self) {
        for notes in [&self.markers, &self.own_markers, &self.wrong, &self.doubted] {
            notes.clear();
        }
    }

    /// Removes the marker of `key`: the next request may have it stored.
    pub(crate) fn unmark(&self, key: &AssetKey) {
        self.markers.remove(key.asset_hash());
    }

    /// Returns the texts of the keys (for [`split_scope`](crate::key::split_scope)) and the hits of
    /// the `most` responses with the most hits, the most first, of those with a key's hash that
    /// satisfies `wanted`. Scans all entries. Variants are left out: the text does not identify
    /// them.
    pub(crate) fn most_used(&self, most: usize, wanted: impl Fn(u64) -> bool) -> Vec<(u32, String)> {
        let now = SystemTime::now();
        let all = Tier::ALL.into_iter().flat_map(|tier| self.cache(tier).responses.iter());
        let eligible = all.filter(|(hash, stored)| {
            let facts = stored.facts();
            facts.status == StatusCode::OK
                && facts.is_fresh(now)
                && stored.name().is_some_and(|text| wanted(AssetKey::hash_of_stored(*hash, text)))
        });
        let mut used: Vec<_> = eligible.map(|(_, stored)| (stored.uses.count(), stored)).collect();
        let descending = |(a, _): &(u32, Stored), (b, _): &(u32, Stored)| b.cmp(a);
        if used.len() > most {
            used.select_nth_unstable_by(most, descending);
            used.truncate(most);
        }
        used.sort_unstable_by(descending);
        let named = |(uses, stored): (u32, Stored)| Some((uses, stored.name()?.to_owned()));
        used.into_iter().filter_map(named).collect()
    }

    /// Returns the bytes, objects and evictions of a tier.
    pub(crate) fn figures(&self, tier: Tier) -> (u64, u64, u64) {
        let cache = self.cache(tier);
        (cache.responses.weight(), cache.responses.len() as u64, cache.evictions.load(Ordering::Relaxed))
    }
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<u64, Stored> for ByWeight {
    fn weight(&self, _: &u64, stored: &Stored) -> u64 {
        stored.weight()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::semantics::freshness::Lifetime;
    use crate::store::entry::Content;
    use crate::store::metadata::Validated;

    const MIB: u64 = 1024 * 1024;

    fn key(name: &str) -> AssetKey {
        AssetKey::parse(name, 1024).unwrap()
    }

    /// Returns an entry that weighs 600 + `len` bytes.
    fn stored(key: &AssetKey, budget: &Arc<Budget>, len: u64, lifetime: Lifetime, born: SystemTime) -> Stored {
        let facts = Metadata { status: StatusCode::OK, born, lifetime, validated: Validated::Never };
        let head = Templates::new(Arc::clone(budget)).pack(facts, &HeaderMap::new(), 1);
        Stored::new(key, head, Content::Small(b"x"), budget.charge(len + 600).unwrap())
    }

    const FOREVER: Lifetime = Lifetime::UntilEvicted { stated: None };

    #[test]
    fn the_largest_object_is_stored() {
        for memory in [8 * MIB, 64 * MIB, 512 * MIB, 7_777_777_777] {
            let max_object = Plan::new(memory, 0.125, 0.25, 0).largest();
            let plan = Plan::new(memory, 0.125, 0.25, max_object);
            let budget = Budget::new(memory);
            let tiers = Store::new(&plan, Arc::clone(&budget));
            let largest = max_object + HEADERS;
            assert!(tiers.takes(Tier::Main, largest));
            let entry = stored(&key("/a"), &budget, largest - 600, FOREVER, SystemTime::now());
            tiers.store(Tier::Main, &key("/a"), entry);
            assert!(matches!(tiers.lookup(&key("/a")), Lookup::Memory(Tier::Main, _)), "{memory}");
        }
    }

    #[test]
    fn tiers_stay_within_their_weight_and_release_the_budget() {
        let plan = Plan::new(16 * MIB, 0.125, 0.25, MIB);
        let budget = Budget::new(plan.memory);
        let tiers = Store::new(&plan, Arc::clone(&budget));
        for i in 0..1000 {
            let key = key(&format!("/{i}"));
            tiers.store(Tier::Main, &key, stored(&key, &budget, 100_000, FOREVER, SystemTime::now()));
            assert!(budget.used() <= plan.main);
        }
        let (bytes, objects, evictions) = tiers.figures(Tier::Main);
        assert_eq!(bytes, budget.used());
        assert_eq!(objects + evictions, 1000);
        assert!(objects > 50, "{objects}");
    }

    #[test]
    fn a_copy_of_any_size_up_to_max_object_is_stored() {
        for memory in [16 * MIB, 512 * MIB, 4096 * MIB] {
            let plan = Plan::new(memory, 0.125, 0.25, memory / 8);
            let budget = Budget::new(plan.memory);
            let tiers = Store::new(&plan, Arc::clone(&budget));
            for part in 1..=16 {
                let (key, weight) = (key(&format!("/{part}")), plan.max_object / 16 * part);
                assert!(tiers.takes(Tier::Hot, weight));
                tiers.store(Tier::Hot, &key, stored(&key, &budget, weight - 600, FOREVER, SystemTime::now()));
                assert!(matches!(tiers.lookup(&key), Lookup::Memory(..)), "{weight} of {memory}");
                tiers.remove(&key);
            }
            assert!(!tiers.takes(Tier::Hot, plan.main));
        }
    }

    #[test]
    fn without_a_hot_tier_copies_are_stored_in_the_main_tier() {
        let plan = Plan::new(16 * MIB, 0.0, 0.25, MIB);
        let budget = Budget::new(plan.memory);
        let tiers = Store::new(&plan, Arc::clone(&budget));
        tiers.store(Tier::Hot, &key("/a"), stored(&key("/a"), &budget, 1, FOREVER, SystemTime::now()));
        assert!(matches!(tiers.lookup(&key("/a")), Lookup::Memory(Tier::Main, _)));
        assert_eq!(tiers.figures(Tier::Hot).0, 0);
    }

    /// A store of assets that vary by one request header.
    struct Varying {
        tiers: Store,
        budget: Arc<Budget>,
        by: Arc<[HeaderName]>,
    }

    impl Varying {
        fn new(memory: u64) -> Self {
            let by = [HeaderName::from_static("x-a")].into();
            let budget = Budget::new(memory);
            let tiers = Store::new(&Plan::new(memory, 0.125, 0.25, MIB / 8), Arc::clone(&budget));
            Self { tiers, budget, by }
        }

        fn select(&self, name: &str, value: &str) -> Option<AssetKey> {
            self.tiers.select(&key(name), &HeaderMap::from_iter([(self.by[0].clone(), value.parse().unwrap())]))
        }

        /// Lists and stores the variant of `value`.
        fn keep(&self, name: &str, value: &str) -> AssetKey {
            self.tiers.vary(&key(name), &self.by, 2);
            let variant = self.select(name, value).unwrap();
            self.store(&variant);
            variant
        }

        fn store(&self, variant: &AssetKey) {
            self.tiers.store(Tier::Main, variant, stored(variant, &self.budget, 10, FOREVER, SystemTime::now()));
        }

        fn has(&self, key: &AssetKey) -> bool {
            matches!(self.tiers.lookup(key), Lookup::Memory(..))
        }
    }

    #[test]
    fn variants_are_selected_limited_and_removed() {
        let varying = Varying::new(16 * MIB);
        assert!(varying.select("/a", "1").is_none());
        let one = varying.keep("/a", "1");
        assert_eq!(one.hash(), key("/a").hash());
        assert!(varying.select("/a", "1").unwrap() == one && varying.has(&one));
        assert!(varying.select("/a", "2").unwrap() != one);
        assert!(varying.select("/b", "1").is_none());
        let two = varying.keep("/a", "2");
        assert!(varying.has(&one) && varying.has(&two));
        // The oldest variant is removed for the third; the second when the first returns.
        let three = varying.keep("/a", "3");
        assert!(!varying.has(&one) && varying.has(&two) && varying.has(&three));
        varying.store(&one);
        assert!(varying.has(&one) && !varying.has(&two));
        let other = varying.keep("/b", "1");
        varying.tiers.forget(&three);
        assert!(!varying.has(&one) && !varying.has(&three) && varying.has(&other));
        // A fill that began before a write does not store its variant.
        varying.store(&two);
        assert!(!varying.has(&two));
    }

    #[test]
    fn lists_of_variants_are_limited_and_an_unlisted_variant_is_not_stored() {
        let varying = Varying::new(MIB);
        let names: Vec<_> = (0..1000).map(|i| format!("/{i}")).collect();
        let variants: Vec<_> = names.iter().map(|name| varying.keep(name, "1")).collect();
        let known = |name: &String| varying.select(name, "1").is_some();
        let left = names.iter().filter(|name| known(name)).count();
        assert!((50..200).contains(&left), "{left}");
        for (name, variant) in names.iter().zip(&variants) {
            assert_eq!(known(name), varying.has(variant), "{name}");
        }
        // A name that is too long for the list.
        let long = AssetKey::parse(&format!("/{}", "a".repeat(60_000)), 64 * 1024).unwrap();
        varying.tiers.vary(&long, &varying.by, 2);
        assert!(varying.tiers.select(&long, &HeaderMap::new()).is_none());
        let variant = long.of_variant(variants[0].variant().unwrap());
        varying.store(&variant);
        assert!(!varying.has(&variant));
    }

    #[test]
    fn a_replaced_entry_does_not_count_as_evicted() {
        let budget = Budget::new(16 * MIB);
        let tiers = Store::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB), Arc::clone(&budget));
        for _ in 0..2 {
            tiers.store(Tier::Main, &key("/a"), stored(&key("/a"), &budget, 10, FOREVER, SystemTime::now()));
        }
        assert_eq!(tiers.figures(Tier::Main), (610, 1, 0));
    }

    #[test]
    fn keys_whose_hashes_collide_do_not_share_a_response() {
        let budget = Budget::new(16 * MIB);
        let tiers = Store::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB), Arc::clone(&budget));
        let keys = [key("/a"), key("/b").colliding_with(&key("/a"))];
        for (key, other) in [(&keys[0], &keys[1]), (&keys[1], &keys[0])] {
            tiers.store(Tier::Main, key, stored(key, &budget, 10, FOREVER, SystemTime::now()));
            assert!(matches!(tiers.lookup(key), Lookup::Memory(_, stored) if stored.name() == Some(key.as_str())));
            assert!(matches!(tiers.lookup(other), Lookup::Absent));
        }
        assert_eq!(tiers.figures(Tier::Main).1, 1);
        // An invalidation covers all spellings of a query, which share a hash.
        tiers.remove(&keys[0]);
        assert_eq!(tiers.figures(Tier::Main).1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_is_in_one_tier_and_removes_its_marker() {
        let plan = Plan::new(16 * MIB, 0.125, 0.25, MIB);
        let budget = Budget::new(plan.memory);
        let tiers = Store::new(&plan, Arc::clone(&budget));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        tiers.mark(&key("/a"), second);
        assert!(matches!(tiers.lookup(&key("/a")), Lookup::HitForMiss));
        tokio::time::advance(second).await;
        assert!(matches!(tiers.lookup(&key("/a")), Lookup::Absent));
        tiers.mark(&key("/a"), second);
        for tier in [Tier::Hot, Tier::Main, Tier::Hot] {
            tiers.store(tier, &key("/a"), stored(&key("/a"), &budget, 10, FOREVER, now));
            assert!(matches!(tiers.lookup(&key("/a")), Lookup::Memory(found, _) if found == tier));
            assert_eq!(tiers.figures(Tier::Main).1 + tiers.figures(Tier::Hot).1, 1);
        }
        tiers.remove(&key("/a"));
        assert!(matches!(tiers.lookup(&key("/a")), Lookup::Absent));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn notes_expire_after_their_period() {
        let tiers = Store::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB), Budget::new(0));
        let (a, second) = (key("/a"), Duration::from_secs(1));
        tiers.mark_wrong(&a, second);
        tiers.doubt("peer", &a, second);
        tiers.note_changed(&a, 2 * second);
        tokio::time::advance(second / 2).await;
        assert!(matches!(tiers.lookup(&a), Lookup::WrongContent));
        assert!(tiers.doubts("peer", &a) && !tiers.doubts("other", &a));
        tokio::time::advance(second / 2).await;
        assert!(matches!(tiers.lookup(&a), Lookup::Absent));
        assert!(!tiers.doubts("peer", &a));
        assert_eq!(tiers.changed_for(&a), Some(second));
        tokio::time::advance(second).await;
        assert!(!tiers.has_changed(&a));
        tiers.note_changed(&a, second);
        tiers.note_all_changed(2 * second);
        assert_eq!(tiers.changed_for(&a), Some(2 * second));
        assert!(tiers.has_changed(&key("/b")) && !tiers.may_peek(&key("/b")));
        tokio::time::advance(2 * second).await;
        assert!(!tiers.has_changed(&a) && !tiers.has_changed(&key("/b")));
    }
}
