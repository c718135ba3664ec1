//! Sites: the operator's rules for the names of assets, and the table of sites.

pub(crate) mod policy;
pub mod rules;

use std::collections::HashMap;

use crate::error::Error;
use crate::key::{SiteId, SiteRef};
use policy::Policy;

/// A set of assets with one policy.
pub(crate) struct Site {
    pub(crate) key: SiteRef,
    pub(crate) policy: Policy,
}

/// The sites of an edge. The first one is the default site.
pub(crate) struct Sites {
    sites: Vec<Site>,
    by_id: HashMap<SiteId, u32>,
}

impl Sites {
    /// Creates the table from the names and policies of the sites, the default site first.
    ///
    /// # Errors
    /// An error message about two sites with the same identifier.
    pub(crate) fn new(named: Vec<(&str, Policy)>) -> Result<Self, String> {
        Self::identified(named.into_iter().map(|(name, policy)| (SiteId::of_name(name), name, policy)))
    }

    fn identified<'a>(sites: impl Iterator<Item = (SiteId, &'a str, Policy)>) -> Result<Self, String> {
        let mut table = Self { sites: Vec::new(), by_id: HashMap::new() };
        let mut names = Vec::new();
        for ((id, name, policy), index) in sites.zip(0..) {
            if let Some(other) = table.by_id.insert(id, index) {
                let other = names[other as usize];
                return Err(format!("the sites {other:?} and {name:?} have the same identifier; rename one of them"));
            }
            names.push(name);
            table.sites.push(Site { key: SiteRef { id, index }, policy });
        }
        Ok(table)
    }

    /// Returns the site of a client's request.
    pub(crate) fn of_request(&self) -> &Site {
        &self.sites[0]
    }

    /// Returns the site that a peer's request names.
    ///
    /// # Errors
    /// [`Error::UnknownSite`] if the site is not in the table.
    pub(crate) fn of_peer(&self, id: Option<&[u8]>) -> Result<&Site, Error> {
        let Some(id) = id else {
            return Ok(&self.sites[0]);
        };
        let id = str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        let index = id.and_then(|id: SiteId| self.by_id.get(&id)).ok_or(Error::UnknownSite)?;
        Ok(&self.sites[*index as usize])
    }

    /// Returns the site of a key.
    pub(crate) fn of(&self, site: SiteRef) -> &Site {
        self.at(site.index)
    }

    /// Returns the site at an index that the text of a key states.
    pub(crate) fn at(&self, index: u32) -> &Site {
        self.sites.get(index as usize).expect("keys are made from the sites of this table")
    }

    /// Returns true if requests have the same keys under both tables.
    pub(crate) fn have_same_scopes(&self, other: &Self) -> bool {
        self.sites.len() == other.sites.len()
            && self.sites.iter().zip(&other.sites).all(|(site, other)| site.policy.has_same_scopes(&other.policy))
    }

    /// Returns true if both tables have the same rules for names.
    pub(crate) fn have_same_rules(&self, other: &Self) -> bool {
        self.sites.len() == other.sites.len()
            && self.sites.iter().zip(&other.sites).all(|(site, other)| site.policy.has_same_rules(&other.policy))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::semantics::storing::FallbackTtls;
    use policy::{ToldHost, Writes};

    fn policy() -> Policy {
        let zero = Duration::ZERO;
        Policy {
            rules: Vec::new(),
            queries: Vec::new(),
            told_host: ToldHost::OfProxy,
            forward: Box::default(),
            times: FallbackTtls { negative: zero, heuristic: zero, hint: zero },
            verify_first: 0,
            wrong_content_ttl: zero,
            hit_for_miss: zero,
            detached_fill_timeout: zero,
            writes: Writes::Invalidate,
            variants: 0,
        }
    }

    #[test]
    fn a_peer_names_a_site_by_its_identifier() {
        let sites = Sites::new(vec![("default", policy()), ("shop", policy())]).unwrap();
        let index = |id: Option<&str>| sites.of_peer(id.map(str::as_bytes)).map(|site| site.key.index);
        assert_eq!((index(None), sites.of_request().key.index), (Ok(0), 0));
        for (name, expected) in [("default", Ok(0)), ("shop", Ok(1)), ("blog", Err(Error::UnknownSite))] {
            assert_eq!(index(Some(&SiteId::of_name(name).to_string())), expected, "{name}");
        }
        for malformed in ["", "shop", "0"] {
            assert_eq!(index(Some(malformed)), Err(Error::UnknownSite), "{malformed}");
        }
    }

    #[test]
    fn sites_with_one_identifier_are_rejected() {
        let same = |name| (SiteId::of_name("same"), name, policy());
        let error = Sites::identified([same("shop"), same("blog")].into_iter()).err().unwrap();
        assert!(error.contains("\"shop\"") && error.contains("\"blog\""), "{error}");
        assert!(Sites::new(vec![("shop", policy()), ("shop", policy())]).is_err());
    }
}
