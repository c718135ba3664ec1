//! The two tiers of stored responses, and the markers of what is not stored.
//!
//! Each tier is a `quick_cache` (Clock-Pro, which a scan does not flush),
//! [weighed](crate::store::sharding) in bytes.

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
use crate::store::headers::{Packed, Templates};
use crate::store::metadata::Metadata;
use crate::store::sharding::{HandOver, KeyHash, largest_entry, options};
use crate::store::variants::Variants;

/// Room for the fields of an object of the largest size, in bytes.
const FIELDS: u64 = 64 * 1024;
/// How many names can be marked as not stored at a time.
const MARKERS: usize = 16 * 1024;

/// How `cache.memory` is divided. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All of it.
    pub memory: u64,
    /// The main tier.
    pub main: u64,
    /// The hot tier.
    pub hot: u64,
    /// What is known of names that vary.
    pub variants: u64,
    /// The largest body that is stored.
    pub max_object: u64,
}

impl Plan {
    /// Divides `memory`: shares for hot copies and for flights, a 32nd for what is
    /// known of names that vary, the rest is the main tier's.
    pub fn new(memory: u64, hot_share: f64, flight_share: f64, max_object: u64) -> Self {
        let hot = share(memory, hot_share);
        let flights = share(memory, flight_share);
        let variants = memory / 32;
        Self { memory, main: memory.saturating_sub(hot + flights + variants), hot, variants, max_object }
    }

    /// What all bodies may take together: in the tiers, and in flight.
    pub(crate) fn bodies(&self) -> u64 {
        self.memory - self.variants
    }

    /// The largest `max_object` that this memory can take: one that fits into
    /// the main tier, and of which two can be in flight at a time.
    pub fn largest(&self) -> u64 {
        let flights = self.bodies().saturating_sub(self.main + self.hot);
        (flights / 2).min(largest_entry(self.main).saturating_sub(FIELDS))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a share, rounded
fn share(memory: u64, share: f64) -> u64 {
    (memory as f64 * share) as u64
}

/// Which tier a response is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// What this edge owns, or fetched from the origin itself.
    Main,
    /// Copies of what a peer gave, but for the largest: those are in the main tier.
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
    Here(Tier, Stored),
    /// Known not to be stored: do not queue for it.
    Marked,
    /// The origin had its contents wrong a moment ago.
    Wrong,
    Nothing,
}

/// By the hash of the key, which is with what is stored: of two keys whose hashes
/// collide, one at a time is.
type Responses = Cache<u64, Stored, ByWeight, KeyHash, HandOver>;

struct Shelf {
    responses: Responses,
    largest: u64,
    evictions: AtomicU64,
}

impl Shelf {
    fn new(bytes: u64, max_object: u64) -> Self {
        let options = options(bytes, max_object + FIELDS, 16 * 1024);
        let responses = Cache::with_options(options, ByWeight, KeyHash, HandOver);
        let largest = largest_entry(responses.shard_capacity());
        Self { responses, largest, evictions: AtomicU64::new(0) }
    }

    fn get(&self, key: &AssetKey) -> Option<Stored> {
        self.responses.get(&key.variant_hash()).filter(|stored| stored.is_of(key))
    }

    fn insert(&self, key: &AssetKey, stored: Stored) {
        let mut gone = Vec::new();
        self.responses.insert_with_lifecycle(key.variant_hash(), stored, &mut gone);
        // What it replaces has not been evicted.
        let evicted = gone.iter().filter(|(_, other)| !other.is_of(key)).count() as u64;
        if evicted > 0 {
            self.evictions.fetch_add(evicted, Ordering::Relaxed);
        }
    }

    /// Removes the response under `key`, whatever the spelling of its query.
    fn remove(&self, key: &AssetKey) {
        self.responses.remove(&key.variant_hash());
    }
}

pub(crate) struct Store {
    main: Shelf,
    hot: Shelf,
    forms: Templates,
    variants: Variants,
    /// Requests for these keys bypass request collapsing.
    markers: Notes,
    /// As `markers`, for requests that identify a client.
    own_markers: Notes,
    /// These keys are answered with a 502, and not fetched again.
    wrong: Notes,
    /// These peers (by hash, with the key's) are not asked for them.
    doubted: Notes,
    /// Others may hold what a write has changed of these keys.
    changed: Notes,
    /// Until then, that may be so of any key.
    all_changed: Mutex<Option<Instant>>,
    /// Their owners did not have these keys at hand.
    not_at_hand: Notes,
}

impl Store {
    /// What is stored is charged to `budget`.
    pub(crate) fn new(plan: &Plan, budget: Arc<Budget>) -> Self {
        Self {
            main: Shelf::new(plan.main, plan.max_object),
            // Room for the largest objects would cost this tier its shards: copies of
            // them are kept in the main tier.
            hot: Shelf::new(plan.hot, plan.max_object.min(plan.hot / 8)),
            forms: Templates::new(budget),
            variants: Variants::new(plan.variants),
            markers: Notes::new(),
            own_markers: Notes::new(),
            wrong: Notes::new(),
            doubted: Notes::new(),
            changed: Notes::new(),
            all_changed: Mutex::default(),
            not_at_hand: Notes::new(),
        }
    }

    fn shelf(&self, tier: Tier) -> &Shelf {
        match tier {
            Tier::Main => &self.main,
            Tier::Hot => &self.hot,
        }
    }

    /// The response under `key`, fresh or stale, and where it is.
    pub(crate) fn held(&self, key: &AssetKey) -> Option<(Tier, Stored)> {
        Tier::ALL.into_iter().find_map(|tier| Some((tier, self.shelf(tier).get(key)?)))
    }

    pub(crate) fn find(&self, key: &AssetKey) -> Found {
        if let Some((tier, stored)) = self.held(key) {
            Found::Here(tier, stored)
        } else if self.wrong.hold(key.variant_hash()) {
            Found::Wrong
        } else if self.markers.hold(key.hash()) {
            Found::Marked
        } else {
            Found::Nothing
        }
    }

    /// Whether its owner may have `key` at hand, for all that is noted of it.
    pub(crate) fn may_be_at_hand(&self, key: &AssetKey) -> bool {
        let hold = |notes: &Notes| notes.hold(key.hash());
        !self.wrong.hold(key.variant_hash())
            && ![&self.markers, &self.not_at_hand].into_iter().any(hold)
            && !self.has_changed(key)
    }

    /// For the time of `period` from now, its owner is not asked whether it has `key` at hand.
    pub(crate) fn note_not_at_hand(&self, key: &AssetKey, period: Duration) {
        self.not_at_hand.insert(key.hash(), period);
    }

    /// Returns true if an entry of this weight that is meant for `tier` can be kept at all.
    pub(crate) fn takes(&self, tier: Tier, weight: u64) -> bool {
        weight <= self.shelf(self.fitting(tier, weight)).largest
    }

    /// The tier that an entry of this weight goes to: a copy too heavy for a shard of the
    /// hot tier goes to the main tier, whose shards take every body up to `max_object`.
    fn fitting(&self, tier: Tier, weight: u64) -> Tier {
        if weight <= self.shelf(tier).largest { tier } else { Tier::Main }
    }

    /// The head of a response, whose body has so many bytes, as it is stored.
    pub(crate) fn pack(&self, facts: Metadata, headers: &HeaderMap, body: u64) -> Packed {
        self.forms.pack(facts, headers, body)
    }

    /// Keeps a complete response in `tier`, or in the main tier if it is too heavy for a
    /// shard of the hot one. What makes room for it is dropped once the tier's lock is free.
    pub(crate) fn store(&self, tier: Tier, key: &AssetKey, stored: Stored) {
        let tier = self.fitting(tier, stored.weight());
        // Chunks until it is stored: a write finds what is.
        let change = key.variant().map(|_| self.variants.change());
        if let Some(change) = &change {
            let Some(unlisted) = change.list(key) else { return };
            self.remove_all(&unlisted);
            if unlisted.contains(key) {
                return;
            }
        }
        self.markers.remove(key.hash());
        self.wrong.remove(key.variant_hash());
        let other = if tier == Tier::Main { Tier::Hot } else { Tier::Main };
        self.shelf(other).remove(key);
        self.shelf(tier).insert(key, stored);
    }

    /// Keeps nothing under `key` any more.
    pub(crate) fn remove(&self, key: &AssetKey) {
        self.wrong.remove(key.variant_hash());
        for tier in Tier::ALL {
            self.shelf(tier).remove(key);
        }
    }

    /// Keeps nothing of an asset any more, nor what its responses vary by.
    pub(crate) fn forget(&self, asset: &AssetKey) {
        let change = self.variants.change();
        self.remove(&asset.asset());
        self.remove_all(&change.forget(asset));
    }

    /// Removes the responses of all assets but those whose canonical names `keeps` holds for.
    pub(crate) fn retain(&self, keeps: impl Fn(&str) -> bool) {
        for tier in Tier::ALL {
            self.shelf(tier).responses.retain(|_, stored| keeps(stored.asset_name()));
        }
    }

    /// Removes all responses but those that their names prove.
    pub(crate) fn forget_unproven(&self) {
        for tier in Tier::ALL {
            let is_proven = |stored: &Stored| matches!(stored.facts().lifetime, Lifetime::UntilEvicted { .. });
            self.shelf(tier).responses.retain(|_, stored| is_proven(stored));
        }
        self.wrong.0.clear();
    }

    fn remove_all(&self, keys: &[AssetKey]) {
        for key in keys {
            self.remove(key);
        }
    }

    /// Whether any name varies.
    pub(crate) fn has_variants(&self) -> bool {
        self.variants.are_any()
    }

    /// Whether the responses of `asset` are known to vary.
    pub(crate) fn varies(&self, asset: &AssetKey) -> bool {
        self.variants.are_any() && self.variants.has(asset)
    }

    /// The key under which a request with these fields finds its variant.
    pub(crate) fn select(&self, key: &AssetKey, request: &HeaderMap) -> Option<AssetKey> {
        self.variants.select(key, request)
    }

    /// As [`select`](Self::select), for responses that vary by Accept-Encoding alone.
    pub(crate) fn select_by_codings(&self, asset: &AssetKey, accepted: Accepted) -> Option<AssetKey> {
        self.variants.select_by_codings(asset, accepted)
    }

    /// The request headers by which responses of an asset are known to vary.
    pub(crate) fn varies_by(&self, asset: &AssetKey) -> Option<Arc<[HeaderName]>> {
        if self.variants.are_any() { self.variants.fields(asset) } else { None }
    }

    /// Notes that the responses of an asset vary by `fields`; `most` variants of it are
    /// kept.
    pub(crate) fn vary(&self, asset: &AssetKey, fields: &Arc<[HeaderName]>, most: usize) {
        let change = self.variants.change();
        self.remove_all(&change.note(asset, fields, most));
    }

    /// For the time of `period` from now, requests for `key` do not wait for one another.
    pub(crate) fn mark(&self, key: &AssetKey, period: Duration) {
        self.markers.insert(key.hash(), period);
    }

    /// For the time of `period` from now, requests for `key` that identify a client do
    /// not wait for another's.
    pub(crate) fn mark_own(&self, key: &AssetKey, period: Duration) {
        self.own_markers.insert(key.hash(), period);
    }

    /// Returns true if requests for `key` that identify a client go to the origin at once.
    pub(crate) fn is_marked_own(&self, key: &AssetKey) -> bool {
        self.own_markers.hold(key.hash())
    }

    /// For the time of `period` from now, `key` is not fetched again.
    pub(crate) fn mark_wrong(&self, key: &AssetKey, period: Duration) {
        self.wrong.insert(key.variant_hash(), period);
    }

    /// `key` may be fetched again.
    pub(crate) fn unmark_wrong(&self, key: &AssetKey) {
        self.wrong.remove(key.variant_hash());
    }

    /// For the time of `period` from now, `peer` is not asked for `key`.
    pub(crate) fn doubt(&self, peer: &str, key: &AssetKey, period: Duration) {
        self.doubted.insert(key.hash() ^ xxh3_64(peer.as_bytes()), period);
    }

    /// Whether `peer` had the contents of `key` wrong a moment ago.
    pub(crate) fn doubts(&self, peer: &str, key: &AssetKey) -> bool {
        self.doubted.hold(key.hash() ^ xxh3_64(peer.as_bytes()))
    }

    /// For the time of `period` from now, others may hold what `key` was before.
    pub(crate) fn note_changed(&self, key: &AssetKey, period: Duration) {
        self.changed.insert(key.hash(), period);
    }

    /// As [`note_changed`](Self::note_changed), of all keys.
    pub(crate) fn note_all_changed(&self, period: Duration) {
        *self.all_changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + period);
    }

    /// Whether a write has changed `key` a while ago.
    pub(crate) fn has_changed(&self, key: &AssetKey) -> bool {
        self.changed_for(key).is_some()
    }

    /// For how much longer others may hold what `key` was before a write.
    pub(crate) fn changed_for(&self, key: &AssetKey) -> Option<Duration> {
        let until = *self.all_changed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero());
        self.changed.left(key.hash()).max(all)
    }

    /// Forgets which keys are marked, and which contents were wrong: other rules hold now.
    pub(crate) fn unmark_all(&self) {
        for notes in [&self.markers, &self.own_markers, &self.wrong, &self.doubted] {
            notes.0.clear();
        }
    }

    /// The next request for `key` may try to have it stored again.
    pub(crate) fn unmark(&self, key: &AssetKey) {
        self.markers.remove(key.hash());
    }

    /// The `most` responses that were used most of those whose key's hash `wanted` holds
    /// for, by their names, and how often. Looks at all that is stored; variants are left
    /// out, for they say nothing without the request that selects them.
    pub(crate) fn most_used(&self, most: usize, wanted: impl Fn(u64) -> bool) -> Vec<(u32, String)> {
        let now = SystemTime::now();
        let all = Tier::ALL.into_iter().flat_map(|tier| self.shelf(tier).responses.iter());
        let good = all.filter(|(hash, stored)| {
            let facts = stored.facts();
            facts.status == StatusCode::OK && facts.is_fresh(now) && stored.name().is_some() && wanted(*hash)
        });
        let mut used: Vec<_> = good.map(|(_, stored)| (stored.uses.count(), stored)).collect();
        let descending = |(a, _): &(u32, Stored), (b, _): &(u32, Stored)| b.cmp(a);
        if used.len() > most {
            used.select_nth_unstable_by(most, descending);
            used.truncate(most);
        }
        used.sort_unstable_by(descending);
        let named = |(uses, stored): (u32, Stored)| Some((uses, stored.name()?.to_owned()));
        used.into_iter().filter_map(named).collect()
    }

    /// Bytes, objects and evictions of a tier.
    pub(crate) fn figures(&self, tier: Tier) -> (u64, u64, u64) {
        let shelf = self.shelf(tier);
        (shelf.responses.weight(), shelf.responses.len() as u64, shelf.evictions.load(Ordering::Relaxed))
    }
}

/// What holds of keys (by hash: of two that collide, of both) until a time. It goes by the
/// clock that nobody sets: by the other, what is to hold for seconds could for hours.
struct Notes(Cache<u64, Instant>);

impl Notes {
    fn new() -> Self {
        Self(Cache::new(MARKERS))
    }

    /// It holds of `hash` for the time of `period` from now.
    fn insert(&self, hash: u64, period: Duration) {
        self.0.insert(hash, Instant::now() + period);
    }

    fn remove(&self, hash: u64) {
        self.0.remove(&hash);
    }

    /// For how much longer it holds of `hash`, if it does.
    fn left(&self, hash: u64) -> Option<Duration> {
        let until = self.0.get(&hash)?;
        let now = Instant::now();
        if now < until {
            return Some(until - now);
        }
        // Another note may have come in between.
        self.0.remove_if(&hash, |until| now >= *until);
        None
    }

    fn hold(&self, hash: u64) -> bool {
        self.left(hash).is_some()
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

    /// It weighs 600 bytes, and `len`.
    fn stored(key: &AssetKey, budget: &Arc<Budget>, len: u64, lifetime: Lifetime, born: SystemTime) -> Stored {
        let facts = Metadata { status: StatusCode::OK, born, lifetime, validated: Validated::Never };
        let head = Templates::new(Arc::clone(budget)).pack(facts, &HeaderMap::new(), 1);
        Stored::new(key, head, Content::Small(b"x"), budget.charge(len + 600).unwrap())
    }

    const FOREVER: Lifetime = Lifetime::UntilEvicted { stated: None };

    #[test]
    fn the_largest_object_fits_and_one_more_byte_is_known_not_to() {
        for memory in [8 * MIB, 64 * MIB, 512 * MIB, 7_777_777_777] {
            let max_object = Plan::new(memory, 0.125, 0.25, 0).largest();
            let plan = Plan::new(memory, 0.125, 0.25, max_object);
            let budget = Budget::new(memory);
            let tiers = Store::new(&plan, Arc::clone(&budget));
            let largest = max_object + FIELDS;
            assert!(tiers.takes(Tier::Main, largest));
            let entry = stored(&key("/a"), &budget, largest - 600, FOREVER, SystemTime::now());
            tiers.store(Tier::Main, &key("/a"), entry);
            assert!(matches!(tiers.find(&key("/a")), Found::Here(Tier::Main, _)), "{memory}");
        }
    }

    #[test]
    fn tiers_stay_within_their_weight_and_give_the_budget_back() {
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
    fn copy_of_any_size_up_to_max_object_is_kept() {
        for memory in [16 * MIB, 512 * MIB, 4096 * MIB] {
            let plan = Plan::new(memory, 0.125, 0.25, memory / 8);
            let budget = Budget::new(plan.memory);
            let tiers = Store::new(&plan, Arc::clone(&budget));
            for part in 1..=16 {
                let (key, weight) = (key(&format!("/{part}")), plan.max_object / 16 * part);
                assert!(tiers.takes(Tier::Hot, weight));
                tiers.store(Tier::Hot, &key, stored(&key, &budget, weight - 600, FOREVER, SystemTime::now()));
                assert!(matches!(tiers.find(&key), Found::Here(..)), "{weight} of {memory}");
                tiers.remove(&key);
            }
            assert!(!tiers.takes(Tier::Hot, plan.main));
        }
    }

    #[test]
    fn without_a_hot_tier_nothing_is_stored_there() {
        let plan = Plan::new(16 * MIB, 0.0, 0.25, MIB);
        let budget = Budget::new(plan.memory);
        let tiers = Store::new(&plan, Arc::clone(&budget));
        tiers.store(Tier::Hot, &key("/a"), stored(&key("/a"), &budget, 1, FOREVER, SystemTime::now()));
        assert!(matches!(tiers.find(&key("/a")), Found::Here(Tier::Main, _)));
        assert_eq!(tiers.figures(Tier::Hot).0, 0);
    }

    /// What varies by one field of a request.
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

        /// Has the variant noted, and stored.
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
            matches!(self.tiers.find(key), Found::Here(..))
        }
    }

    #[test]
    fn variants_are_selected_counted_and_forgotten() {
        let varying = Varying::new(16 * MIB);
        assert!(varying.select("/a", "1").is_none());
        let one = varying.keep("/a", "1");
        assert_eq!(one.hash(), key("/a").hash());
        assert!(varying.select("/a", "1").unwrap() == one && varying.has(&one));
        assert!(varying.select("/a", "2").unwrap() != one);
        assert!(varying.select("/b", "1").is_none());
        let two = varying.keep("/a", "2");
        assert!(varying.has(&one) && varying.has(&two));
        // The first of them makes room, and the next does when it comes back.
        let three = varying.keep("/a", "3");
        assert!(!varying.has(&one) && varying.has(&two) && varying.has(&three));
        varying.store(&one);
        assert!(varying.has(&one) && !varying.has(&two));
        let other = varying.keep("/b", "1");
        varying.tiers.forget(&three);
        assert!(!varying.has(&one) && !varying.has(&three) && varying.has(&other));
        // What a write has forgotten is not stored by who did not hear of it.
        varying.store(&two);
        assert!(!varying.has(&two));
    }

    #[test]
    fn what_is_known_of_names_is_bounded_and_nothing_is_stored_without() {
        let varying = Varying::new(MIB);
        let names: Vec<_> = (0..1000).map(|i| format!("/{i}")).collect();
        let variants: Vec<_> = names.iter().map(|name| varying.keep(name, "1")).collect();
        let known = |name: &String| varying.select(name, "1").is_some();
        let left = names.iter().filter(|name| known(name)).count();
        assert!((50..200).contains(&left), "{left}");
        for (name, variant) in names.iter().zip(&variants) {
            assert_eq!(known(name), varying.has(variant), "{name}");
        }
        // One name that is too long for it.
        let long = AssetKey::parse(&format!("/{}", "a".repeat(60_000)), 64 * 1024).unwrap();
        varying.tiers.vary(&long, &varying.by, 2);
        assert!(varying.tiers.select(&long, &HeaderMap::new()).is_none());
        let variant = long.of_variant(variants[0].variant().unwrap());
        varying.store(&variant);
        assert!(!varying.has(&variant));
    }

    #[test]
    fn what_is_replaced_is_not_evicted() {
        let budget = Budget::new(16 * MIB);
        let tiers = Store::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB), Arc::clone(&budget));
        for _ in 0..2 {
            tiers.store(Tier::Main, &key("/a"), stored(&key("/a"), &budget, 10, FOREVER, SystemTime::now()));
        }
        assert_eq!(tiers.figures(Tier::Main), (610, 1, 0));
    }

    #[test]
    fn names_whose_hashes_collide_never_share_a_response() {
        let budget = Budget::new(16 * MIB);
        let tiers = Store::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB), Arc::clone(&budget));
        let keys = [key("/a"), key("/b").colliding_with(&key("/a"))];
        for (key, other) in [(&keys[0], &keys[1]), (&keys[1], &keys[0])] {
            tiers.store(Tier::Main, key, stored(key, &budget, 10, FOREVER, SystemTime::now()));
            assert!(matches!(tiers.find(key), Found::Here(_, stored) if stored.name() == Some(key.as_str())));
            assert!(matches!(tiers.find(other), Found::Nothing));
        }
        assert_eq!(tiers.figures(Tier::Main).1, 1);
        // An invalidation is for all spellings of a query, which share a hash.
        tiers.remove(&keys[0]);
        assert_eq!(tiers.figures(Tier::Main).1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn tiers_and_markers() {
        let plan = Plan::new(16 * MIB, 0.125, 0.25, MIB);
        let budget = Budget::new(plan.memory);
        let tiers = Store::new(&plan, Arc::clone(&budget));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        tiers.mark(&key("/a"), second);
        assert!(matches!(tiers.find(&key("/a")), Found::Marked));
        tokio::time::advance(second).await;
        assert!(matches!(tiers.find(&key("/a")), Found::Nothing));
        tiers.mark(&key("/a"), second);
        // A response is in one tier, and ends what was marked.
        for tier in [Tier::Hot, Tier::Main, Tier::Hot] {
            tiers.store(tier, &key("/a"), stored(&key("/a"), &budget, 10, FOREVER, now));
            assert!(matches!(tiers.find(&key("/a")), Found::Here(found, _) if found == tier));
            assert_eq!(tiers.figures(Tier::Main).1 + tiers.figures(Tier::Hot).1, 1);
        }
        tiers.remove(&key("/a"));
        assert!(matches!(tiers.find(&key("/a")), Found::Nothing));
        assert_eq!(budget.used(), 0);
    }
    #[tokio::test(start_paused = true)]
    async fn what_is_noted_holds_for_its_time() {
        let tiers = Store::new(&Plan::new(16 * MIB, 0.125, 0.25, MIB), Budget::new(0));
        let (a, second) = (key("/a"), Duration::from_secs(1));
        tiers.mark_wrong(&a, second);
        tiers.doubt("peer", &a, second);
        tiers.note_changed(&a, 2 * second);
        tokio::time::advance(second / 2).await;
        assert!(matches!(tiers.find(&a), Found::Wrong));
        assert!(tiers.doubts("peer", &a) && !tiers.doubts("other", &a));
        tokio::time::advance(second / 2).await;
        assert!(matches!(tiers.find(&a), Found::Nothing));
        assert!(!tiers.doubts("peer", &a));
        assert_eq!(tiers.changed_for(&a), Some(second));
        tokio::time::advance(second).await;
        assert!(!tiers.has_changed(&a));
        tiers.note_changed(&a, second);
        tiers.note_all_changed(2 * second);
        assert_eq!(tiers.changed_for(&a), Some(2 * second));
        assert!(tiers.has_changed(&key("/b")) && !tiers.may_be_at_hand(&key("/b")));
        tokio::time::advance(2 * second).await;
        assert!(!tiers.has_changed(&a) && !tiers.has_changed(&key("/b")));
    }
}
