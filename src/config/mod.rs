//! The configuration: defaults, then a TOML file, then the environment, then
//! `--set`; each overrides what comes before it.
//!
//! Whatever is wrong is told in one line that names the key, says what is
//! wrong, and what would be right.

use serde::{Deserialize, Serialize};

use crate::site::rules::{QueryRule, Rule};
use crate::store::tiers::Plan;

mod admin;
mod bounds;
mod cache;
mod cluster;
mod edge;
mod immutable;
mod keys;
mod limits;
mod load;
mod log;
mod origin;
mod query;
mod values;

pub use admin::AdminConfig;
pub use cache::CacheConfig;
pub use cluster::ClusterConfig;
pub use edge::{EdgeConfig, ZeroCopy};
pub use immutable::ImmutableConfig;
pub use keys::KEYS;
pub use limits::LimitsConfig;
pub(crate) use load::Given;
pub use log::{LogConfig, LogFormat, LogLevel};
pub use origin::OriginConfig;
pub use query::{KeepConfig, KeepWord, QueryConfig};
pub use values::{Network, Period, Scheme, Secret, Size};

/// The prefix of environment variables: `PEERAGE_ORIGIN__URL` is `origin.url`.
pub const ENV_PREFIX: &str = "PEERAGE_";

/// Everything that can be set. `config.toml` in the repository holds each key
/// with its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// This edge.
    pub edge: EdgeConfig,
    /// Where assets come from.
    pub origin: OriginConfig,
    /// What is kept.
    pub cache: CacheConfig,
    /// The other edges; `None` for an edge alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterConfig>,
    /// The listener for operators.
    pub admin: AdminConfig,
    /// What a client may ask of this edge.
    pub limits: LimitsConfig,
    /// What is written down.
    pub log: LogConfig,
    /// Names that hold a hash, beside the sets of `cache.immutable_sets`.
    pub immutable: Vec<ImmutableConfig>,
    /// Which part of a query belongs to a name.
    pub query: Vec<QueryConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge: EdgeConfig::default(),
            origin: OriginConfig::default(),
            cache: CacheConfig::default(),
            cluster: None,
            admin: AdminConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            immutable: Vec::new(),
            query: vec![QueryConfig { path: "/**".to_owned(), keep: KeepConfig::Word(KeepWord::All) }],
        }
    }
}

impl Config {
    /// What no single key's form can tell.
    ///
    /// # Errors
    /// One line that names the key, what is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.admin.listen == self.edge.listen && self.edge.listen.port() != 0 {
            return Err(format!(
                "admin.listen: {} is edge.listen's, too; a port of its own is needed",
                self.admin.listen
            ));
        }
        self.edge.check()?;
        self.origin.check()?;
        self.cache.check()?;
        self.cache.check_max_object(&self.plan())?;
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
        }
        self.limits.check()?;
        self.rules()?;
        self.queries()?;
        Ok(())
    }

    /// How `cache.memory` is divided. An edge alone has no peers to take copies of: that
    /// share is the main tier's.
    pub fn plan(&self) -> Plan {
        let cache = &self.cache;
        let hot_share = if self.cluster.is_some() { cache.hot_share } else { 0.0 };
        let plan = Plan::new(cache.memory.0, hot_share, cache.flight_share, 0);
        Plan { max_object: cache.max_object(plan.largest()), ..plan }
    }

    /// The rules of `[[immutable]]`, then those of `cache.immutable_sets`: the first that
    /// matches a path counts.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn rules(&self) -> Result<Vec<Rule>, String> {
        let mut rules = self.immutable.iter().map(ImmutableConfig::rule).collect::<Result<Vec<_>, _>>()?;
        for set in &self.cache.immutable_sets {
            rules.extend(Rule::set(set).map_err(|error| format!("cache.immutable_sets: {error}"))?);
        }
        Ok(rules)
    }

    /// The rules of `[[query]]`.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn queries(&self) -> Result<Vec<QueryRule>, String> {
        self.query.iter().map(QueryConfig::rule).collect()
    }
}

#[cfg(test)]
mod tests;
