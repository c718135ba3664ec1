//! [`Variants`]: the request headers by which the responses of an asset vary, and the list of its
//! variants.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderName};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::key::AssetKey;
use crate::semantics::vary::{Accepted, Variant};
use crate::store::sharding::{KeyHash, ReturnRemoved, options};

/// Bytes charged for an asset besides its name, its headers and its variants: the key, the slot
/// of the table, the allocator's rounding.
const ENTRY: u64 = 320;
/// Bytes charged for a header besides its name.
const HEADER: u64 = 64;
/// Bytes charged for a variant.
const LISTED: u64 = size_of::<Variant>() as u64;
/// The weight in bytes of the largest entry: the longest name with its headers.
const LARGEST: u64 = 96 * 1024;

/// The Vary headers of the responses of an asset, and their variants.
struct Variation {
    asset: AssetKey,
    fields: Arc<[HeaderName]>,
    /// The variants that are stored or were, the oldest first.
    listed: Box<[Variant]>,
    /// The most variants, at least one.
    most: usize,
}

impl Variation {
    /// Returns the keys of the listed variants.
    fn keys(&self) -> impl Iterator<Item = AssetKey> {
        self.listed.iter().map(|variant| self.asset.of_variant(*variant))
    }
}

/// The assets with responses that vary, limited by weight. Assets not requested lately are evicted.
pub(crate) struct Variants {
    /// By the hash of the asset's key, so spellings of a query share an entry.
    known: Cache<u64, Arc<Variation>, ByWeight, KeyHash, ReturnRemoved>,
    /// True once an asset varied. Until then a hit skips the lookup.
    any: AtomicBool,
    changing: Mutex<()>,
}

impl Variants {
    /// `bytes` is the capacity.
    pub(crate) fn new(bytes: u64) -> Self {
        let known = Cache::with_options(options(bytes, LARGEST, 2 * ENTRY), ByWeight, KeyHash, ReturnRemoved);
        Self { known, any: AtomicBool::new(false), changing: Mutex::new(()) }
    }

    /// Returns true if any asset varied since the start.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn get(&self, key: &AssetKey) -> Option<Arc<Variation>> {
        self.known.get(&key.asset_hash())
    }

    /// Returns true if the responses of an asset are known to vary.
    pub(crate) fn has(&self, asset: &AssetKey) -> bool {
        self.get(asset).is_some()
    }

    /// Returns the key of the variant that a request with these headers selects.
    pub(crate) fn select(&self, key: &AssetKey, request: &HeaderMap) -> Option<AssetKey> {
        let variation = self.get(key)?;
        Some(key.of_variant(Variant::of(&variation.fields, request)))
    }

    /// Returns the key of the variant for a request that accepts these codings, if the responses of
    /// the asset vary by Accept-Encoding alone.
    pub(crate) fn select_by_codings(&self, asset: &AssetKey, accepted: Accepted) -> Option<AssetKey> {
        let variation = self.get(asset)?;
        (*variation.fields == [ACCEPT_ENCODING]).then(|| asset.of_variant(Variant::of_codings(accepted)))
    }

    /// Returns the request headers by which the responses of an asset vary.
    pub(crate) fn fields(&self, asset: &AssetKey) -> Option<Arc<[HeaderName]>> {
        Some(Arc::clone(&self.get(asset)?.fields))
    }

    /// Begins a change. Changes are serialized, so that the lists and the store agree.
    pub(crate) fn change(&self) -> Change<'_> {
        // The mutex guards no data of its own.
        Change { variants: self, _alone: self.changing.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Keys that are not listed any more. Their entries must be removed from the store: an
/// invalidation would not find them.
pub(crate) type Unlisted = Vec<AssetKey>;

/// The right to change the lists, held by one thread at a time.
pub(crate) struct Change<'a> {
    variants: &'a Variants,
    _alone: MutexGuard<'a, ()>,
}

impl Change<'_> {
    /// Records that the responses of an asset vary by `fields`, and keeps at most `most` variants
    /// of it.
    pub(crate) fn note(&self, asset: &AssetKey, fields: &Arc<[HeaderName]>, most: usize) -> Unlisted {
        let listed = self.variants.get(asset).map(|known| known.listed.clone()).unwrap_or_default();
        self.variants.any.store(true, Ordering::Relaxed);
        self.insert(Variation { asset: asset.asset(), fields: Arc::clone(fields), listed, most })
    }

    /// Lists a variant that is about to be stored. Beyond the limit, the oldest is removed. Returns
    /// `None` if the asset is no longer known to vary.
    pub(crate) fn list(&self, key: &AssetKey) -> Option<Unlisted> {
        let (known, variant) = (self.variants.get(key)?, key.variant()?);
        if known.listed.contains(&variant) {
            return Some(Unlisted::new());
        }
        let surplus = (known.listed.len() + 1).saturating_sub(known.most);
        let (oldest, others) = known.listed.split_at(surplus);
        let listed = others.iter().copied().chain([variant]).collect();
        let (asset, fields) = (key.asset(), Arc::clone(&known.fields));
        let mut unlisted = self.insert(Variation { asset, fields, listed, most: known.most });
        unlisted.extend(oldest.iter().map(|variant| key.of_variant(*variant)));
        Some(unlisted)
    }

    /// Removes an asset.
    pub(crate) fn remove(&self, asset: &AssetKey) -> Unlisted {
        let removed = self.variants.known.remove(&asset.asset_hash());
        removed.iter().flat_map(|(_, known)| known.keys()).collect()
    }

    /// Inserts an asset, and returns the keys of the assets that were evicted for it. An asset that
    /// is too large is evicted itself.
    fn insert(&self, variation: Variation) -> Unlisted {
        let (asset, mut removed) = (variation.asset.clone(), Vec::new());
        self.variants.known.insert_with_lifecycle(asset.asset_hash(), Arc::new(variation), &mut removed);
        // The entry that it replaces does not count as evicted.
        removed.retain(|(hash, _)| *hash != asset.asset_hash() || self.variants.get(&asset).is_none());
        removed.iter().flat_map(|(_, known)| known.keys()).collect()
    }
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<u64, Arc<Variation>> for ByWeight {
    fn weight(&self, _: &u64, known: &Arc<Variation>) -> u64 {
        let fields: u64 = known.fields.iter().map(|field| HEADER + field.as_str().len() as u64).sum();
        ENTRY + known.asset.packed_len() as u64 + fields + known.listed.len() as u64 * LISTED
    }
}
