//! [`Policy`]: the operator's rules for the names and times of a site.

use std::time::Duration;

use http::HeaderName;

use super::rules::{QueryRule, Rule};
use crate::key::AssetKey;
use crate::semantics::digest::Expected;
use crate::semantics::hint::FileType;
use crate::semantics::storing::{Case, Credentials, FallbackTtls, Name, Personal};

/// The rules and times that a reload can change.
pub(crate) struct Policy {
    /// The first rule that matches a path applies.
    pub(crate) rules: Vec<Rule>,
    pub(crate) queries: Vec<QueryRule>,
    pub(crate) told_host: ToldHost,
    /// The request headers that fills send in addition to the built-in ones.
    pub(crate) forward: Box<[HeaderName]>,
    pub(crate) times: FallbackTtls,
    /// Bodies up to this length, in bytes, are verified before their first byte is sent.
    pub(crate) verify_first: u64,
    pub(crate) wrong_content_ttl: Duration,
    pub(crate) hit_for_miss: Duration,
    pub(crate) detached_fill_timeout: Duration,
    pub(crate) writes: Writes,
    /// The number of variants of one asset that are stored.
    pub(crate) variants: usize,
}

/// The host of which the origin is told in X-Forwarded-Host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToldHost {
    /// The one that a trusted proxy states, if it states one.
    OfProxy,
    /// The one that a trusted proxy states, else that of the request, else this one, which is
    /// normalized.
    OfRequest(Box<str>),
}

/// The effect of a write on stored responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// It invalidates them (RFC 9111 §4.4).
    Invalidate,
    /// None: the operator does not want clients to invalidate.
    Ignored,
}

impl Policy {
    /// Returns the first rule that matches a path.
    fn rule(&self, path: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(path))
    }

    pub(crate) fn name(&self, key: &AssetKey) -> Name {
        self.name_of(key.path())
    }

    fn name_of(&self, path: &str) -> Name {
        match self.rule(path) {
            Some(rule) if rule.proves() => Name::Proven,
            Some(_) => FileType::of_path(path).map_or(Name::Plain, Name::Hinted),
            None => Name::Plain,
        }
    }

    /// Returns the digest that the contents of an asset must have according to its name.
    pub(crate) fn expected(&self, key: &AssetKey) -> Option<Expected> {
        self.rule(key.path())?.expected(key.path())
    }

    /// Returns true if both policies have the same rules for names.
    pub(crate) fn has_same_rules(&self, other: &Self) -> bool {
        self.times.hint == other.times.hint
            && self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&other.rules).all(|(rule, other)| rule.is_same(other))
    }

    /// Returns true if requests have the same keys under both policies.
    pub(crate) fn has_same_scopes(&self, other: &Self) -> bool {
        self.told_host == other.told_host
    }

    /// Returns true if the responses of an asset (its canonical name, with query) are judged the
    /// same under both policies, as far as its name matters.
    pub(crate) fn judges_alike(&self, other: &Self, asset: &str) -> bool {
        let path = asset.split('?').next().unwrap_or_default();
        let part = |policy: &Self| {
            let name = policy.name_of(path);
            let hint = matches!(name, Name::Hinted(_)).then_some(policy.times.hint);
            (name, hint, policy.rule(path).and_then(|rule| rule.expected(path)))
        };
        part(self) == part(other)
    }

    /// Returns the key with those parameters of its query that belong to the name.
    pub(crate) fn trim(&self, key: AssetKey) -> AssetKey {
        let Some(query) = key.query() else {
            return key;
        };
        let kept = self.queries.iter().find(|rule| rule.matches(key.path())).map(|rule| rule.kept(query));
        match kept {
            Some(kept) if kept.as_deref() != Some(query) => key.with_query(kept.as_deref()),
            _ => key,
        }
    }

    pub(crate) fn case(&self, name: Name, credentials: Credentials, personal: Personal) -> Case {
        Case { name, credentials, personal, ttls: self.times }
    }
}
