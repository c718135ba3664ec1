//! `[[query]]`: the part of a query that belongs to the cache key.

use serde::{Deserialize, Serialize};

use super::bounds::invalid;
use crate::site::rules::{Keep, QueryRule};

/// One rule of `[[query]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueryConfig {
    /// Pattern of the paths, as in [`QueryRule`].
    pub path: String,
    /// The part of the query that belongs to the key, as in [`Keep`].
    pub keep: KeepConfig,
}

/// The serialized form of [`Keep`]: `"all"`, `"none"`, or a list of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"all\", \"none\" or a list of names such as [\"w\", \"h\"]")]
#[non_exhaustive]
pub enum KeepConfig {
    /// All or nothing.
    Word(KeepWord),
    /// The parameters with these names.
    Names(Vec<String>),
}

/// The words for a whole query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KeepWord {
    /// The query as the client sent it.
    All,
    /// No query.
    None,
}

impl QueryConfig {
    /// Returns a rule for the paths that match a pattern.
    pub fn new(path: &str, keep: KeepConfig) -> Self {
        Self { path: path.to_owned(), keep }
    }

    pub(super) fn rule(&self) -> Result<QueryRule, String> {
        let keep = match &self.keep {
            KeepConfig::Word(KeepWord::All) => Keep::All,
            KeepConfig::Word(KeepWord::None) => Keep::None,
            KeepConfig::Names(names) => Keep::Only(names.clone()),
        };
        QueryRule::parse(&self.path, keep).map_err(|error| invalid("query.path", error))
    }
}
