//! `[[query]]`: which part of a query belongs to a name.

use serde::{Deserialize, Serialize};

use crate::site::rules::{Keep, QueryRule};

/// `[[query]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryConfig {
    /// See [`QueryRule`].
    pub path: String,
    /// See [`Keep`].
    pub keep: KeepConfig,
}

/// `"all"`, `"none"`, or a list of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "\"all\", \"none\" or a list of names such as [\"w\", \"h\"] is needed")]
pub enum KeepConfig {
    /// All or none of it.
    Word(KeepWord),
    /// The parameters of these names.
    Names(Vec<String>),
}

/// How much of a query is kept, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepWord {
    /// As it came.
    All,
    /// Nothing of it.
    None,
}

impl QueryConfig {
    pub(super) fn rule(&self) -> Result<QueryRule, String> {
        let keep = match &self.keep {
            KeepConfig::Word(KeepWord::All) => Keep::All,
            KeepConfig::Word(KeepWord::None) => Keep::None,
            KeepConfig::Names(names) => Keep::Only(names.clone()),
        };
        QueryRule::parse(&self.path, keep).map_err(|error| format!("query.path: {error}"))
    }
}
