//! `[[immutable]]`: rules for names that hold a hash.

use serde::{Deserialize, Serialize};

use super::bounds::invalid;
use super::values;
use crate::semantics::digest::{Algorithm, Encoding};
use crate::site::rules::{HashFormat, Rule};

/// One rule of `[[immutable]]`, besides the sets of `cache.immutable_sets`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ImmutableConfig {
    /// Pattern of the paths, with `{hash}` in place of the hash, as in [`Rule`].
    pub path: Option<String>,
    /// Digest algorithm of the hash; `None` if contents cannot be verified.
    #[serde(with = "values::digest")]
    pub digest: Option<Algorithm>,
    /// Encoding of the hash.
    pub encoding: Encoding,
    /// Number of characters of the hash in the name; `None` for 8 or more.
    pub length: Option<usize>,
}

impl ImmutableConfig {
    /// Returns a rule for the paths that match a pattern.
    pub fn path(path: &str, digest: Option<Algorithm>) -> Self {
        Self { path: Some(path.to_owned()), digest, ..Self::default() }
    }

    pub(super) fn rule(&self) -> Result<Rule, String> {
        let form = HashFormat { digest: self.digest, encoding: self.encoding, length: self.length };
        let Some(path) = &self.path else {
            return Err("missing value for immutable.path: each [[immutable]] rule needs a path such as \"/**/*-{hash}.*\"; rule sets go into cache.immutable_sets".to_owned());
        };
        Rule::new(path, form).map_err(|error| invalid("immutable.path", error))
    }
}
