//! What the operator has said of names and times, and of what a request may take.

use std::time::Duration;

use super::Forwarding;
use crate::digest::Expected;
use crate::key::AssetKey;
use crate::naming::{QueryRule, Rule};
use crate::semantics::storing::{Case, Credentials, Name};

/// What can change while the edge runs.
pub(crate) struct Policy {
    pub(crate) rules: Vec<Rule>,
    pub(crate) queries: Vec<QueryRule>,
    pub(crate) forwarding: Forwarding,
    pub(crate) negative: Duration,
    pub(crate) heuristic: Duration,
    /// What is proven before anything of it is sent, in bytes.
    pub(crate) verify_first: u64,
    pub(crate) wrong: Duration,
    pub(crate) hit_for_miss: Duration,
    pub(crate) fill_alone: Duration,
    /// How many variants of one asset are stored.
    pub(crate) variants: usize,
}

impl Policy {
    pub(super) fn name(&self, key: &AssetKey) -> Name {
        if self.rules.iter().any(|rule| rule.matches(key.path())) { Name::Immutable } else { Name::Plain }
    }

    /// What the contents of an asset must be, by its name.
    pub(super) fn expected(&self, key: &AssetKey) -> Option<Expected> {
        self.rules.iter().find_map(|rule| rule.expected(key.path()))
    }

    /// The key with the part of its query that belongs to the name.
    pub(super) fn trim(&self, key: AssetKey) -> AssetKey {
        let Some(query) = key.query() else {
            return key;
        };
        let kept = self.queries.iter().find(|rule| rule.matches(key.path())).map(|rule| rule.kept(query));
        match kept {
            Some(kept) if kept.as_deref() != Some(query) => key.with_query(kept.as_deref()),
            _ => key,
        }
    }

    pub(super) fn case(&self, name: Name, credentials: Credentials) -> Case {
        Case { name, credentials, negative: self.negative, heuristic: self.heuristic }
    }
}

/// What a request may take. In bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Its target.
    pub(crate) uri: usize,
    /// Its fields.
    pub(crate) header: usize,
    /// Its content.
    pub(crate) body: u64,
}
