//! `[[immutable]]`: which names hold a hash.

use serde::{Deserialize, Serialize};

use super::values;
use crate::digest::{Algorithm, Encoding};
use crate::naming::{Form, Rule};

/// `[[immutable]]`: either a `set`, or a `path` with what its hash is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImmutableConfig {
    /// The name of one of [`SETS`](crate::naming::SETS).
    pub set: Option<String>,
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
    /// The rules of a set.
    pub fn set(name: &str) -> Self {
        Self { set: Some(name.to_owned()), ..Self::default() }
    }

    /// A rule of one's own.
    pub fn path(path: &str, digest: Option<Algorithm>) -> Self {
        Self { path: Some(path.to_owned()), digest, ..Self::default() }
    }

    pub(super) fn rules(&self) -> Result<Vec<Rule>, String> {
        let form = Form { digest: self.digest, encoding: self.encoding, length: self.length };
        match (&self.set, &self.path) {
            (Some(set), None) if form == Form::UNKNOWN => {
                Rule::set(set).map_err(|error| format!("immutable.set: {error}"))
            }
            (Some(_), None) => {
                Err("immutable.set: a set says itself what its hashes are; leave out digest, encoding and length".to_owned())
            }
            (None, Some(path)) => {
                Ok(vec![Rule::new(path, form).map_err(|error| format!("immutable.path: {error}"))?])
            }
            (Some(_), Some(_)) => {
                Err("immutable.path: this rule has a set too; give each a table of its own".to_owned())
            }
            (None, None) => Err(
                "immutable.path: missing; each [[immutable]] rule needs a path such as \"/**/*-{hash}.*\", or a set such as \"assets\""
                    .to_owned(),
            ),
        }
    }
}
