//! `[cache]`: memory, lifetimes, and rules of storing.

use serde::{Deserialize, Serialize};

use super::bounds::{check_range, invalid};
use super::values::{Period, Size, mib, secs};
use crate::site::rules;
use crate::store::tiers::Plan;

/// The default of `max_object`, if `memory` allows it.
const MAX_OBJECT: Size = mib(64);

/// The table `[cache]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheConfig {
    /// Memory for the main tier, the hot tier and flights together.
    pub memory: Size,
    /// Share of `memory` for copies of entries that peers own; 0 for an edge without peers.
    pub hot_share: f64,
    /// Share of `memory` for flights, and for bodies still being read after eviction.
    pub flight_share: f64,
    /// Size of the largest body that is stored; `None` derives it from `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_object: Option<Size>,
    /// TTL of a 404 for a name with a verified digest, if the response states no lifetime.
    pub negative_ttl: Period,
    /// Time in which requests for an uncacheable name are not collapsed.
    pub hit_for_miss: Period,
    /// Time that a fill continues after its last reader has left.
    pub detached_fill_timeout: Period,
    /// Largest number of stored variants (by Vary) of one asset.
    pub variants: usize,
    /// A body with a digest in its name is verified completely before its first byte is sent
    /// up to this size; of a larger body, only the last bytes wait for the verification.
    pub verify_first: Size,
    /// Time in which requests for a name get 502, without a new fill, after the origin's
    /// content did not match the digest in the name.
    pub wrong_content_ttl: Period,
    /// Largest heuristic freshness, from Last-Modified, of a response that states no
    /// lifetime (RFC 9111 §4.2.2); 0 disables it.
    pub heuristic: Period,
    /// Freshness of a static file whose name looks hashed, if its response states no
    /// lifetime; 0 disables it.
    pub hint_ttl: Period,
    /// Whether a 2xx or 3xx response to an unsafe method (such as POST, PUT, PATCH, DELETE)
    /// invalidates the stored responses of its target (RFC 9111 §4.4).
    pub invalidate_on_write: bool,
    /// Names of rule sets for names that hold a hash; [`SETS`](crate::site::rules::SETS) lists
    /// them.
    pub immutable_sets: Vec<String>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory: mib(512),
            hot_share: 0.125,
            flight_share: 0.25,
            max_object: None,
            negative_ttl: secs(1),
            hit_for_miss: secs(10),
            detached_fill_timeout: secs(30),
            variants: 16,
            verify_first: Size(256 * 1024),
            wrong_content_ttl: secs(5),
            heuristic: secs(0),
            hint_ttl: secs(24 * 60 * 60),
            invalidate_on_write: true,
            immutable_sets: rules::DEFAULT_SETS.map(str::to_owned).to_vec(),
        }
    }
}

impl CacheConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        check_range("cache.hot_share", self.hot_share, 0.01..=0.5)?;
        check_range("cache.flight_share", self.flight_share, 0.01..=0.5)?;
        if self.hot_share + self.flight_share > 0.9 {
            return Err(invalid(
                "cache.hot_share and cache.flight_share",
                format_args!(
                    "{} and {} leave too little for the main tier (expected a sum of 0.9 or less)",
                    self.hot_share, self.flight_share
                ),
            ));
        }
        check_range("cache.variants", self.variants, 0..=1000)?;
        check_range("cache.verify_first", self.verify_first, Size(0)..=Size(512 * 1024))?;
        if self.memory.0 < mib(4).0 {
            return Err(invalid("cache.memory", format_args!("{} is too little (expected 4MiB or more)", self.memory)));
        }
        Ok(())
    }

    /// Returns the size of the largest body that is stored, if `memory` allows bodies of up to
    /// `largest` bytes.
    pub(super) fn max_object(&self, largest: u64) -> u64 {
        self.max_object.map_or_else(|| largest.min(MAX_OBJECT.0), |max_object| max_object.0)
    }

    /// Checks that a body of `max_object` bytes fits into `memory` as `plan` divides it.
    pub(super) fn check_max_object(&self, plan: &Plan) -> Result<(), String> {
        let Some(max_object) = self.max_object else {
            return Ok(());
        };
        let largest = plan.largest();
        if max_object.0 > largest {
            let fits = Size(largest / 1024 * 1024);
            return Err(invalid(
                "cache.max_object",
                format_args!(
                    "{max_object} does not fit into cache.memory = {}: two such objects must fit into its flight_share, and one into a shard; set max_object to {fits} or less, omit it, or raise cache.memory",
                    self.memory
                ),
            ));
        }
        if max_object.0 == 0 {
            return Err(invalid("cache.max_object", "0 would store nothing (expected a size such as 64MiB)"));
        }
        Ok(())
    }
}
