//! `[cache]`: what is kept.

use serde::{Deserialize, Serialize};

use super::bounds::within;
use super::values::{Period, Size, mib, secs};
use crate::site::rules;
use crate::store::tiers::Plan;

/// The largest body that is kept where the configuration sets no size and memory allows it.
const MAX_OBJECT: Size = mib(64);

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheConfig {
    /// Main, hot and flights together.
    pub memory: Size,
    /// Of memory, for copies of what peers own, if there are any.
    pub hot_share: f64,
    /// Of memory, for flights and for bodies that are read after they left a tier.
    pub flight_share: f64,
    /// The largest body that is kept; without one, it follows `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_object: Option<Size>,
    /// How long a 404 for a proven name is remembered, where it states no lifetime.
    pub negative_ttl: Period,
    /// How long an uncacheable name bypasses request collapsing.
    pub hit_for_miss: Period,
    /// How long a fill goes on when everybody who wanted it has left.
    pub detached_fill_timeout: Period,
    /// How many variants (by Vary) of one asset are kept.
    pub variants: usize,
    /// What a name proves is sent when all of it is right, up to this length;
    /// of a longer body the last bytes wait for the proof.
    pub verify_first: Size,
    /// After the origin fails a name's digest check: how long to answer 502 without
    /// asking again.
    pub wrong_content_ttl: Period,
    /// The longest freshness that is guessed from Last-Modified where a
    /// response states none; 0 guesses nothing.
    pub heuristic: Period,
    /// The freshness of a static file whose name looks hashed, where its response states
    /// none; 0 gives none.
    pub hint_ttl: Period,
    /// Whether a response without an error to an unsafe method (POST, PUT, PATCH, DELETE)
    /// invalidates the stored responses of its target (RFC 9111 §4.4).
    pub invalidate_on_write: bool,
    /// The names of sets of rules for names that hold a hash, of
    /// [`SETS`](crate::site::rules::SETS).
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
        within("cache.hot_share", self.hot_share, 0.01..=0.5)?;
        within("cache.flight_share", self.flight_share, 0.01..=0.5)?;
        if self.hot_share + self.flight_share > 0.9 {
            return Err("cache.hot_share and cache.flight_share: a tenth at the least has to be left for what this edge owns; together 0.9 or less is needed".to_owned());
        }
        within("cache.variants", self.variants, 0..=1000)?;
        within("cache.verify_first", self.verify_first, Size(0)..=Size(512 * 1024))?;
        if self.memory.0 < mib(4).0 {
            return Err(format!("cache.memory: {} is too little; at least 4MiB is needed", self.memory));
        }
        Ok(())
    }

    /// The largest body that is kept when `memory` takes bodies up to `largest` bytes.
    pub(super) fn max_object(&self, largest: u64) -> u64 {
        self.max_object.map_or_else(|| largest.min(MAX_OBJECT.0), |max_object| max_object.0)
    }

    /// Checks that `memory`, divided by `plan`, can store what `max_object` allows, if the
    /// configuration sets it.
    pub(super) fn check_max_object(&self, plan: &Plan) -> Result<(), String> {
        let Some(max_object) = self.max_object else {
            return Ok(());
        };
        let largest = plan.largest();
        if max_object.0 > largest {
            let fits = Size(largest / 1024 * 1024);
            return Err(format!(
                "cache.max_object: {max_object} does not fit into cache.memory = {}: two such objects must fit into its flight_share and one into a shard; set max_object to {fits} or less, leave it out, or raise memory",
                self.memory
            ));
        }
        if max_object.0 == 0 {
            return Err("cache.max_object: 0 would store nothing; a size such as 64MiB is needed".to_owned());
        }
        Ok(())
    }
}
