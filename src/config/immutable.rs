//! `[[immutable]]`: names that hold a hash.

use serde::{Deserialize, Serialize};

use super::values;
use crate::semantics::digest::{Algorithm, Encoding};
use crate::site::rules::{HashFormat, Rule};

/// `[[immutable]]`: a rule of the operator, beside those of `cache.immutable_sets`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImmutableConfig {
    /// See [`Rule`].
    pub path: Option<String>,
    /// The digest that the hash is; by default none that can be checked.
    #[serde(with = "values::digest")]
    pub digest: Option<Algorithm>,
    /// How it is written.
    pub encoding: Encoding,
    /// How many characters of it the name shows.
    pub length: Option<usize>,
}

impl ImmutableConfig {
    /// A rule for the paths that match a pattern.
    pub fn path(path: &str, digest: Option<Algorithm>) -> Self {
        Self { path: Some(path.to_owned()), digest, ..Self::default() }
    }

    pub(super) fn rule(&self) -> Result<Rule, String> {
        let form = HashFormat { digest: self.digest, encoding: self.encoding, length: self.length };
        let Some(path) = &self.path else {
            return Err("immutable.path: missing; each [[immutable]] rule needs a path such as \"/**/*-{hash}.*\"; sets of rules are named in cache.immutable_sets".to_owned());
        };
        Rule::new(path, form).map_err(|error| format!("immutable.path: {error}"))
    }
}
