//! The two tiers of stored responses, and the markers of what is not stored.
//!
//! Each tier is a `quick_cache` (Clock-Pro, which a scan does not flush),
//! weighed in bytes. Its weight is split over shards that do not borrow from
//! one another, and an entry too heavy for its shard is dropped in silence:
//! so [`Plan`] chooses the shards by the largest object.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode};
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_64;

use crate::fields::{Fields, Forms};
use crate::key::{AssetKey, PackedKey};
use crate::semantics::vary;
use crate::stored::Stored;

/// Room for the fields of an object of the largest size, in bytes.
const FIELDS: u64 = 64 * 1024;
/// The part of a shard that one entry may take, in percent (`quick_cache`
/// refuses more than its share for hot entries, 97 %; a percent is for rounding).
const LARGEST_PERCENT: u64 = 96;
/// How many names can have variants at a time.
const VARYING: usize = 64 * 1024;
/// How many names can be marked as not stored at a time.
const MARKERS: usize = 16 * 1024;

/// How `cache.memory` is divided. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All bodies together.
    pub memory: u64,
    /// The main tier.
    pub main: u64,
    /// The hot tier.
    pub hot: u64,
    /// The largest body that is stored.
    pub max_object: u64,
}

impl Plan {
    /// Divides `memory`: shares for hot copies and for flights, the rest is
    /// the main tier's.
    pub fn new(memory: u64, hot_share: f64, flight_share: f64, max_object: u64) -> Self {
        let hot = share(memory, hot_share);
        let flights = share(memory, flight_share);
        Self { memory, main: memory.saturating_sub(hot + flights), hot, max_object }
    }

    /// The largest `max_object` that this memory can take: one that fits into
    /// the main tier, and of which two can be in flight at a time.
    pub fn largest(&self) -> u64 {
        let flights = self.memory.saturating_sub(self.main + self.hot);
        (flights / 2).min(largest_entry(self.main).saturating_sub(FIELDS))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a share, rounded
fn share(memory: u64, share: f64) -> u64 {
    (memory as f64 * share) as u64
}

fn largest_entry(shard: u64) -> u64 {
    shard / 100 * LARGEST_PERCENT
}

/// The most shards, up to four a core, that take entries of `entry` bytes.
fn shards(tier: u64, entry: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut shards = (cores * 4).next_power_of_two();
    while shards > 1 && largest_entry(tier / shards as u64) < entry {
        shards /= 2;
    }
    shards
}

/// Which tier a response is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// What this edge owns, or fetched from the origin itself.
    Main,
    /// Copies of what a peer gave.
    Hot,
}

impl Tier {
    /// Both, in the order in which they are looked through.
    pub const ALL: [Self; 2] = [Self::Main, Self::Hot];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Hot => "hot",
        }
    }
}

/// What memory knows of a key.
pub(crate) enum Found {
    /// It is there, fresh or stale.
    Here(Tier, Arc<Stored>),
    /// Known not to be stored: do not queue for it.
    Marked,
    /// The origin had its contents wrong a moment ago.
    Wrong,
    Nothing,
}

/// What the responses under a name vary by, and which variants there may be.
struct Variation {
    /// The name itself: hashes may collide.
    name: Box<str>,
    fields: Vec<HeaderName>,
    /// Of those that are, or may be, stored.
    keys: Vec<AssetKey>,
    most: usize,
}

type Responses = Cache<PackedKey, Arc<Stored>, ByWeight, KeyHash, CountEvictions>;

struct Shelf {
    responses: Responses,
    largest: u64,
    evictions: Arc<AtomicU64>,
}

impl Shelf {
    fn new(bytes: u64, max_object: u64) -> Self {
        let shards = shards(bytes, max_object + FIELDS);
        let evictions = Arc::new(AtomicU64::new(0));
        // An estimate; below 32 a shard, quick_cache would take fewer shards.
        let items = usize::try_from(bytes / (16 * 1024)).unwrap_or(usize::MAX).max(shards * 32);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .expect("capacities are set");
        let responses = Cache::with_options(options, ByWeight, KeyHash, CountEvictions(Arc::clone(&evictions)));
        let largest = largest_entry(responses.shard_capacity());
        Self { responses, largest, evictions }
    }
}

pub(crate) struct Memory {
    main: Shelf,
    hot: Shelf,
    forms: Forms,
    /// What the responses under a name vary by.
    variations: Cache<u64, Arc<Variation>>,
    /// Whether there has been any: a hit need not ask each shard.
    varies: AtomicBool,
    /// Until when requests for these keys (by hash: a collision costs a miss)
    /// do not wait for one another.
    markers: Cache<u64, SystemTime>,
    /// Until when these keys (by hash) are not fetched again.
    wrong: Cache<u64, SystemTime>,
    /// Until when these peers (by hash, with the key's) are not asked for them.
    doubted: Cache<u64, SystemTime>,
    /// Until when others may hold what a write has changed of these keys (by hash).
    changed: Cache<u64, SystemTime>,
}

impl Memory {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            main: Shelf::new(plan.main, plan.max_object),
            // Copies of the largest objects are not worth a tier without shards:
            // they stream from their owner each time.
            hot: Shelf::new(plan.hot, plan.max_object.min(plan.hot / 8)),
            forms: Forms::default(),
            variations: Cache::new(VARYING),
            varies: AtomicBool::new(false),
            markers: Cache::new(MARKERS),
            wrong: Cache::new(MARKERS),
            doubted: Cache::new(MARKERS),
            changed: Cache::new(MARKERS),
        }
    }

    fn shelf(&self, tier: Tier) -> &Shelf {
        match tier {
            Tier::Main => &self.main,
            Tier::Hot => &self.hot,
        }
    }

    pub(crate) fn find(&self, key: &AssetKey, now: SystemTime) -> Found {
        for tier in Tier::ALL {
            if let Some(stored) = self.shelf(tier).responses.get(key) {
                return Found::Here(tier, stored);
            }
        }
        if holds(&self.wrong, key.variant_hash(), now) {
            Found::Wrong
        } else if holds(&self.markers, key.hash(), now) {
            Found::Marked
        } else {
            Found::Nothing
        }
    }

    /// Whether an entry of this weight can be kept in `tier` at all.
    pub(crate) fn takes(&self, tier: Tier, weight: u64) -> bool {
        weight <= self.shelf(tier).largest
    }

    /// The fields of a response as they are stored.
    pub(crate) fn pack(&self, headers: &HeaderMap) -> Fields {
        self.forms.pack(headers)
    }

    /// Keeps a complete response. What makes room for it is dropped once the
    /// tier's lock is free.
    pub(crate) fn store(&self, tier: Tier, key: &AssetKey, stored: Stored) {
        if key.is_variant() && !self.list(key) {
            return;
        }
        self.markers.remove(&key.hash());
        self.wrong.remove(&key.variant_hash());
        let other = if tier == Tier::Main { Tier::Hot } else { Tier::Main };
        self.shelf(other).responses.remove(key);
        self.shelf(tier).responses.insert(key.into(), Arc::new(stored));
    }

    /// Keeps nothing under `key` any more.
    pub(crate) fn remove(&self, key: &AssetKey) {
        self.wrong.remove(&key.variant_hash());
        for tier in Tier::ALL {
            self.shelf(tier).responses.remove(key);
        }
    }

    /// The key under which a request with these fields finds its variant.
    pub(crate) fn select(&self, key: &AssetKey, request: &HeaderMap) -> Option<AssetKey> {
        if !self.varies.load(Ordering::Relaxed) {
            return None;
        }
        let variation = self.variation(key)?;
        Some(key.variant(&vary::selected_by(&variation.fields, request)))
    }

    /// Notes that the response to a request with these fields varies by
    /// `fields`. Returns the key of that variant; `most` of them are kept, `None`
    /// for none.
    pub(crate) fn vary(
        &self,
        key: &AssetKey,
        fields: Vec<HeaderName>,
        request: &HeaderMap,
        most: usize,
    ) -> Option<AssetKey> {
        if most == 0 {
            return None;
        }
        let variant = key.asset().detached().variant(&vary::selected_by(&fields, request));
        let keys = self.variation(key).map(|variation| variation.keys.clone()).unwrap_or_default();
        let name = key.as_str().into();
        self.variations.insert(key.hash(), Arc::new(Variation { name, fields, keys, most }));
        self.varies.store(true, Ordering::Relaxed);
        Some(variant)
    }

    fn variation(&self, key: &AssetKey) -> Option<Arc<Variation>> {
        self.variations.get(&key.hash()).filter(|variation| *variation.name == *key.as_str())
    }

    /// Lists a variant that is to be stored, so that a write finds it; beyond the
    /// most that are kept, the oldest goes. Whether it may be stored: not if it is
    /// no longer known that the name varies.
    fn list(&self, variant: &AssetKey) -> bool {
        let Some(known) = self.variation(variant) else {
            return false;
        };
        if known.keys.contains(variant) {
            return true;
        }
        let mut keys = known.keys.clone();
        let oldest = (keys.len() >= known.most).then(|| keys.remove(0));
        keys.push(variant.detached());
        let (name, fields, most) = (known.name.clone(), known.fields.clone(), known.most);
        self.variations.insert(variant.hash(), Arc::new(Variation { name, fields, keys, most }));
        if let Some(oldest) = oldest {
            self.remove(&oldest);
        }
        true
    }

    /// The keys of an asset: its own, and those of the variants that were noted.
    pub(crate) fn variants(&self, key: &AssetKey) -> Vec<AssetKey> {
        let variants = self.variation(key).map(|variation| variation.keys.clone()).unwrap_or_default();
        std::iter::once(key.asset()).chain(variants).collect()
    }

    /// Forgets what the responses under the name of `key` vary by.
    pub(crate) fn forget_variants(&self, key: &AssetKey) {
        self.variations.remove(&key.hash());
    }

    /// For the time of `period` from `now`, requests for `key` do not wait for
    /// one another.
    pub(crate) fn mark(&self, key: &AssetKey, now: SystemTime, period: Duration) {
        self.markers.insert(key.hash(), now + period);
    }

    /// For the time of `period` from `now`, `key` is not fetched again.
    pub(crate) fn mark_wrong(&self, key: &AssetKey, now: SystemTime, period: Duration) {
        self.wrong.insert(key.variant_hash(), now + period);
    }

    /// For the time of `period` from `now`, `peer` is not asked for `key`.
    pub(crate) fn doubt(&self, peer: &str, key: &AssetKey, now: SystemTime, period: Duration) {
        self.doubted.insert(key.hash() ^ xxh3_64(peer.as_bytes()), now + period);
    }

    /// Whether `peer` had the contents of `key` wrong a moment ago.
    pub(crate) fn doubts(&self, peer: &str, key: &AssetKey, now: SystemTime) -> bool {
        holds(&self.doubted, key.hash() ^ xxh3_64(peer.as_bytes()), now)
    }

    /// For the time of `period` from `now`, others may hold what `key` was before.
    pub(crate) fn note_changed(&self, key: &AssetKey, now: SystemTime, period: Duration) {
        self.changed.insert(key.hash(), now + period);
    }

    /// Whether a write has changed `key` a while ago.
    pub(crate) fn has_changed(&self, key: &AssetKey, now: SystemTime) -> bool {
        holds(&self.changed, key.hash(), now)
    }

    /// The next request for `key` may try to have it stored again.
    pub(crate) fn unmark(&self, key: &AssetKey) {
        self.markers.remove(&key.hash());
    }

    /// The `most` keys that were used most of those whose hash `wanted` holds for, and
    /// how often. Looks at all that is stored; variants are left out, for they say
    /// nothing without the request that selects them.
    pub(crate) fn most_used(&self, most: usize, wanted: impl Fn(u64) -> bool) -> Vec<(u32, PackedKey)> {
        let now = SystemTime::now();
        let all = Tier::ALL.into_iter().flat_map(|tier| self.shelf(tier).responses.iter());
        let good = all.filter(|(key, stored)| {
            stored.facts.status == StatusCode::OK
                && stored.facts.is_fresh(now)
                && !key.is_variant()
                && wanted(key.hash())
        });
        let mut used: Vec<_> = good.map(|(key, stored)| (stored.uses.count(), key)).collect();
        let descending = |(a, _): &(u32, PackedKey), (b, _): &(u32, PackedKey)| b.cmp(a);
        if used.len() > most {
            used.select_nth_unstable_by(most, descending);
            used.truncate(most);
        }
        used.sort_unstable_by(descending);
        used
    }

    /// Bytes, objects and evictions of a tier.
    pub(crate) fn figures(&self, tier: Tier) -> (u64, u64, u64) {
        let shelf = self.shelf(tier);
        (shelf.responses.weight(), shelf.responses.len() as u64, shelf.evictions.load(Ordering::Relaxed))
    }
}

/// Whether what was noted of `hash` still holds.
fn holds(notes: &Cache<u64, SystemTime>, hash: u64, now: SystemTime) -> bool {
    match notes.get(&hash) {
        Some(until) if now < until => true,
        Some(_) => {
            notes.remove(&hash);
            false
        }
        None => false,
    }
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<PackedKey, Arc<Stored>> for ByWeight {
    fn weight(&self, _: &PackedKey, stored: &Arc<Stored>) -> u64 {
        stored.weight()
    }
}

#[derive(Clone)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<PackedKey, Arc<Stored>> for CountEvictions {
    /// Dropped when the shard's lock has been released.
    type RequestState = Vec<Arc<Stored>>;

    fn on_evict(&self, state: &mut Self::RequestState, _: PackedKey, stored: Arc<Stored>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        state.push(stored);
    }
}

/// The key carries its hash; it is not hashed again.
#[derive(Clone)]
struct KeyHash;

impl BuildHasher for KeyHash {
    type Hasher = Given;
    fn build_hasher(&self) -> Given {
        Given(0)
    }
}

struct Given(u64);

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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::body::Held;
    use crate::budget::Budget;
    use crate::semantics::freshness::Lifetime;
    use crate::stored::{Facts, Standing, Uses};

    const MIB: u64 = 1024 * 1024;

    fn key(name: &str) -> AssetKey {
        AssetKey::parse(name, 1024).unwrap()
    }

    fn stored(budget: &Arc<Budget>, len: u64, lifetime: Lifetime, born: SystemTime) -> Stored {
        let facts = Facts { status: StatusCode::OK, born, lifetime, standing: Standing::New };
        let fields = Forms::default().pack(&HeaderMap::new());
        let charge = budget.charge(len + 600).unwrap();
        let body = Arc::new(Held::new(vec![Bytes::from_static(b"x")], charge));
        Stored { facts, fields, body, uses: Uses::default() }
    }

    const FOREVER: Lifetime = Lifetime::UntilEvicted { said: None };

    #[test]
    fn the_largest_object_fits_and_one_more_byte_is_known_not_to() {
        for memory in [8 * MIB, 64 * MIB, 512 * MIB, 7_777_777_777] {
            let max_object = Plan::new(memory, 0.125, 0.25, 0).largest();
            let plan = Plan::new(memory, 0.125, 0.25, max_object);
            let tiers = Memory::new(&plan);
            let budget = Budget::new(memory);
            let largest = max_object + FIELDS;
            assert!(tiers.takes(Tier::Main, largest));
            let entry = stored(&budget, largest - 600, FOREVER, SystemTime::now());
            tiers.store(Tier::Main, &key("/a"), entry);
            assert!(matches!(tiers.find(&key("/a"), SystemTime::now()), Found::Here(Tier::Main, _)), "{memory}");
        }
    }

    #[test]
    fn tiers_stay_within_their_weight_and_give_the_budget_back() {
        let plan = Plan::new(16 * MIB, 0.125, 0.25, MIB);
        let tiers = Memory::new(&plan);
        let budget = Budget::new(plan.memory);
        for i in 0..1000 {
            tiers.store(Tier::Main, &key(&format!("/{i}")), stored(&budget, 100_000, FOREVER, SystemTime::now()));
            assert!(budget.used() <= plan.main);
        }
        let (bytes, objects, evictions) = tiers.figures(Tier::Main);
        assert_eq!(bytes, budget.used());
        assert_eq!(objects + evictions, 1000);
        assert!(objects > 50, "{objects}");
    }

    #[test]
    fn variants_are_selected_counted_and_listed() {
        let tiers = Memory::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB));
        let asking = |value: &'static str| {
            let mut request = HeaderMap::new();
            request.insert("x-a", value.parse().unwrap());
            request
        };
        let by = || vec![HeaderName::from_static("x-a")];
        assert!(tiers.select(&key("/a"), &asking("1")).is_none());
        let budget = Budget::new(16 * MIB);
        let entry = || stored(&budget, 10, FOREVER, SystemTime::now());
        let keep = |value| {
            let variant = tiers.vary(&key("/a"), by(), &asking(value), 2).unwrap();
            tiers.store(Tier::Main, &variant, entry());
            variant
        };
        let one = keep("1");
        assert!(tiers.select(&key("/a"), &asking("1")).unwrap() == one);
        assert!(tiers.select(&key("/a"), &asking("2")).unwrap() != one);
        assert!(tiers.select(&key("/b"), &asking("1")).is_none());
        assert!(tiers.vary(&key("/a"), by(), &asking("3"), 0).is_none());
        let two = keep("2");
        let all = tiers.variants(&one);
        assert!(all.len() == 3 && all.contains(&one) && all.contains(&two) && all.contains(&key("/a")));
        // The first of them makes room, and comes back when it is stored again.
        let three = keep("3");
        let all = tiers.variants(&one);
        assert!(all.len() == 3 && !all.contains(&one) && all.contains(&three));
        assert!(matches!(tiers.find(&one, SystemTime::now()), Found::Nothing));
        tiers.store(Tier::Main, &one, entry());
        assert!(tiers.variants(&two).contains(&one));
        // What a write has forgotten is not stored by who did not hear of it.
        tiers.forget_variants(&one);
        tiers.store(Tier::Main, &two, entry());
        assert!(!tiers.variants(&one).contains(&two));
        assert_eq!(one.hash(), key("/a").hash());
    }

    #[test]
    fn tiers_and_markers() {
        let plan = Plan::new(16 * MIB, 0.125, 0.25, MIB);
        let tiers = Memory::new(&plan);
        let budget = Budget::new(plan.memory);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        tiers.mark(&key("/a"), now, second);
        assert!(matches!(tiers.find(&key("/a"), now), Found::Marked));
        assert!(matches!(tiers.find(&key("/a"), now + second), Found::Nothing));
        tiers.mark(&key("/a"), now, second);
        // A response is in one tier, and ends what was marked.
        for tier in [Tier::Hot, Tier::Main, Tier::Hot] {
            tiers.store(tier, &key("/a"), stored(&budget, 10, FOREVER, now));
            assert!(matches!(tiers.find(&key("/a"), now), Found::Here(found, _) if found == tier));
            assert_eq!(tiers.figures(Tier::Main).1 + tiers.figures(Tier::Hot).1, 1);
        }
        tiers.remove(&key("/a"));
        assert!(matches!(tiers.find(&key("/a"), now), Found::Nothing));
        assert_eq!(budget.used(), 0);
    }
}
