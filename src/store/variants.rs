//! [`Variants`]: what the responses under a name vary by, and which variants of it
//! there may be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderName};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::key::AssetKey;
use crate::semantics::vary::{Accepted, Variant};
use crate::store::sharding::{HandOver, KeyHash, options};

/// What a name takes here besides its own length, its fields and its variants: the
/// key, the table's slot, the allocator's rounding. In bytes.
const ENTRY: u64 = 320;
/// What a field takes besides its own length, in bytes.
const FIELD: u64 = 64;
/// What a variant takes, in bytes.
const LISTED: u64 = size_of::<Variant>() as u64;
/// What the longest names and their fields take, in bytes.
const LARGEST: u64 = 96 * 1024;

/// The Vary of the responses of an asset, and their variants.
struct Variation {
    asset: AssetKey,
    fields: Arc<[HeaderName]>,
    /// Those that are stored, or were, the oldest first.
    listed: Box<[Variant]>,
    /// How many may be, one at the least.
    most: usize,
}

impl Variation {
    /// The keys of the variants that are listed.
    fn keys(&self) -> impl Iterator<Item = AssetKey> {
        self.listed.iter().map(|variant| self.asset.of_variant(*variant))
    }
}

/// Names, each with what is known of it, by weight: what has not been asked for in a
/// while is forgotten.
pub(crate) struct Variants {
    /// By the hash of the asset's key: spellings of a query share an entry.
    known: Cache<u64, Arc<Variation>, ByWeight, KeyHash, HandOver>,
    /// Whether there has been any: a hit need not ask each shard.
    any: AtomicBool,
    changing: Mutex<()>,
}

impl Variants {
    /// `bytes`: what all of them may take.
    pub(crate) fn new(bytes: u64) -> Self {
        let known = Cache::with_options(options(bytes, LARGEST, 2 * ENTRY), ByWeight, KeyHash, HandOver);
        Self { known, any: AtomicBool::new(false), changing: Mutex::new(()) }
    }

    /// Whether there has been any.
    pub(crate) fn are_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn get(&self, key: &AssetKey) -> Option<Arc<Variation>> {
        self.known.get(&key.hash())
    }

    /// Whether it is known that the responses of an asset vary.
    pub(crate) fn has(&self, asset: &AssetKey) -> bool {
        self.get(asset).is_some()
    }

    /// The key under which a request with these fields finds its variant.
    pub(crate) fn select(&self, key: &AssetKey, request: &HeaderMap) -> Option<AssetKey> {
        let variation = self.get(key)?;
        Some(key.of_variant(Variant::of(&variation.fields, request)))
    }

    /// The key under which a request finds its variant that accepts these codings, if
    /// responses of the asset vary by Accept-Encoding alone.
    pub(crate) fn select_by_codings(&self, asset: &AssetKey, accepted: Accepted) -> Option<AssetKey> {
        let variation = self.get(asset)?;
        (*variation.fields == [ACCEPT_ENCODING]).then(|| asset.of_variant(Variant::of_codings(accepted)))
    }

    /// The request headers by which responses of an asset are known to vary.
    pub(crate) fn fields(&self, asset: &AssetKey) -> Option<Arc<[HeaderName]>> {
        Some(Arc::clone(&self.get(asset)?.fields))
    }

    /// One change at a time: what is listed, and what is stored, change together.
    pub(crate) fn change(&self) -> Change<'_> {
        // Nothing in a critical section can leave it half changed.
        Change { variants: self, _alone: self.changing.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Keys that are not listed any more. What is stored under them has to go, for a write
/// would not find it.
pub(crate) type Unlisted = Vec<AssetKey>;

/// The right to change what is known.
pub(crate) struct Change<'a> {
    variants: &'a Variants,
    _alone: MutexGuard<'a, ()>,
}

impl Change<'_> {
    /// Notes that the responses of an asset vary by `fields`; `most` variants of it are
    /// kept.
    pub(crate) fn note(&self, asset: &AssetKey, fields: &Arc<[HeaderName]>, most: usize) -> Unlisted {
        let listed = self.variants.get(asset).map(|known| known.listed.clone()).unwrap_or_default();
        self.variants.any.store(true, Ordering::Relaxed);
        self.insert(Variation { asset: asset.asset(), fields: Arc::clone(fields), listed, most })
    }

    /// Lists a variant that is to be stored; beyond the most that are kept, the oldest
    /// goes. `None` if it is no longer known that the name varies.
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

    /// Forgets what the responses of an asset vary by.
    pub(crate) fn forget(&self, asset: &AssetKey) -> Unlisted {
        let gone = self.variants.known.remove(&asset.hash());
        gone.iter().flat_map(|(_, known)| known.keys()).collect()
    }

    /// Who makes room for it is forgotten; or it itself, if it is too large.
    fn insert(&self, variation: Variation) -> Unlisted {
        let (asset, mut gone) = (variation.asset.clone(), Vec::new());
        self.variants.known.insert_with_lifecycle(asset.hash(), Arc::new(variation), &mut gone);
        // What it replaces is not forgotten.
        gone.retain(|(hash, _)| *hash != asset.hash() || self.variants.get(&asset).is_none());
        gone.iter().flat_map(|(_, known)| known.keys()).collect()
    }
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<u64, Arc<Variation>> for ByWeight {
    fn weight(&self, _: &u64, known: &Arc<Variation>) -> u64 {
        let fields: u64 = known.fields.iter().map(|field| FIELD + field.as_str().len() as u64).sum();
        ENTRY + known.asset.as_str().len() as u64 + fields + known.listed.len() as u64 * LISTED
    }
}
