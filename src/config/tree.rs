//! [`Config`]: all tables.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::admin::AdminConfig;
use super::bounds::invalid;
use super::cache::CacheConfig;
use super::cluster::ClusterConfig;
use super::edge::EdgeConfig;
use super::immutable::ImmutableConfig;
use super::limits::LimitsConfig;
use super::log::LogConfig;
use super::origin::OriginConfig;
use super::query::{KeepConfig, KeepWord, QueryConfig};
use super::tls::TlsConfig;
use crate::site::rules::{QueryRule, Rule};
use crate::store::tiers::Plan;

/// The configuration of one edge. `config.toml` in the repository holds each key with its
/// default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Config {
    /// This edge: its name, its listener, its site.
    pub edge: EdgeConfig,
    /// HTTPS for clients.
    pub tls: TlsConfig,
    /// The origin that assets are fetched from.
    pub origin: OriginConfig,
    /// The cache: its size, its lifetimes.
    pub cache: CacheConfig,
    /// The cluster; `None` for an edge without peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterConfig>,
    /// The admin listener.
    pub admin: AdminConfig,
    /// Limits on connections and requests of clients.
    pub limits: LimitsConfig,
    /// The log and the access log.
    pub log: LogConfig,
    /// Rules for names that hold a hash, besides the sets of `cache.immutable_sets`.
    pub immutable: Vec<ImmutableConfig>,
    /// Rules for the part of a query that belongs to the cache key.
    pub query: Vec<QueryConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge: EdgeConfig::default(),
            tls: TlsConfig::default(),
            origin: OriginConfig::default(),
            cache: CacheConfig::default(),
            cluster: None,
            admin: AdminConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            immutable: Vec::new(),
            query: vec![QueryConfig::new("/**", KeepConfig::Word(KeepWord::All))],
        }
    }
}

impl Config {
    /// Checks ranges, and the rules that involve several keys.
    ///
    /// # Errors
    /// One line that names the key, the fault, and the accepted values.
    pub fn check(&self) -> Result<(), String> {
        self.check_listeners()?;
        self.edge.check()?;
        self.tls.check()?;
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

    /// Checks that clients have a listener, and that no two listeners share an address.
    fn check_listeners(&self) -> Result<(), String> {
        if self.edge.listen.is_empty() && self.tls.listen.is_empty() {
            let problem = "no address, and none in tls.listen (expected one, such as 127.0.0.1:8001)";
            return Err(invalid("edge.listen", problem));
        }
        let leads_nowhere = self.tls.listen.is_empty() && self.edge.trusted_proxies.is_empty();
        if self.edge.redirect_to_https && leads_nowhere {
            let problem = "nothing serves HTTPS (set tls.listen, or edge.trusted_proxies for a proxy that does)";
            return Err(invalid("edge.redirect_to_https", problem));
        }
        let edge = self.edge.listen.iter().map(|address| ("edge.listen", address));
        let tls = self.tls.listen.iter().map(|address| ("tls.listen", address));
        let mut seen: Vec<(&str, &SocketAddr)> = Vec::new();
        for (key, address) in edge.chain(tls).chain([("admin.listen", &self.admin.listen)]) {
            let same = seen.iter().find(|(_, other)| *other == address && address.port() != 0);
            if let Some((other, _)) = same {
                return Err(invalid(key, format_args!("{address} is an address of {other} (choose another port)")));
            }
            seen.push((key, address));
        }
        Ok(())
    }

    /// Divides `cache.memory` among the tiers and the flights. An edge without peers has no
    /// copies from them: the main tier gets that share.
    pub fn plan(&self) -> Plan {
        let cache = &self.cache;
        let hot_share = if self.cluster.is_some() { cache.hot_share } else { 0.0 };
        let plan = Plan::new(cache.memory.0, hot_share, cache.flight_share, 0);
        Plan { max_object: cache.max_object(plan.largest()), ..plan }
    }

    /// Returns the rules of `[[immutable]]`, then those of `cache.immutable_sets`: the first
    /// rule that matches a path applies.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn rules(&self) -> Result<Vec<Rule>, String> {
        let mut rules = self.immutable.iter().map(ImmutableConfig::rule).collect::<Result<Vec<_>, _>>()?;
        for set in &self.cache.immutable_sets {
            rules.extend(Rule::set(set).map_err(|error| invalid("cache.immutable_sets", error))?);
        }
        Ok(rules)
    }

    /// Returns the rules of `[[query]]`.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn queries(&self) -> Result<Vec<QueryRule>, String> {
        self.query.iter().map(QueryConfig::rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ZeroCopy;

    #[test]
    fn a_value_that_needs_a_missing_feature_is_rejected_with_its_name() {
        let cluster = |change: fn(&mut ClusterConfig)| {
            let mut cluster = ClusterConfig { gossip: false, ..ClusterConfig::default() };
            change(&mut cluster);
            Config { cluster: Some(cluster), ..Config::default() }
        };
        let discover = |source: &str| {
            let mut config = cluster(|_| {});
            config.cluster.as_mut().unwrap().discover = Some(source.to_owned());
            config
        };
        let mut tls = Config::default();
        (tls.tls.listen, tls.tls.directory) = ("127.0.0.1:443".parse().unwrap(), Some("/a".into()));
        let mut zero_copy = Config::default();
        zero_copy.edge.zero_copy = ZeroCopy::On;
        for (feature, is_built_in, config) in [
            ("dns", cfg!(feature = "dns"), discover("dns:edges.example.net:7001")),
            ("dns", cfg!(feature = "dns"), discover("srv:_peerage._tcp.example.net")),
            ("etcd", cfg!(feature = "etcd"), discover("etcd:10.0.0.1:2379/peerage/members")),
            ("gossip", cfg!(feature = "gossip"), cluster(|cluster| cluster.gossip = true)),
            ("tls", cfg!(feature = "tls"), tls),
            ("zero-copy", cfg!(feature = "zero-copy"), zero_copy),
        ] {
            match config.check() {
                Ok(()) => assert!(is_built_in, "{feature}"),
                Err(error) => {
                    assert!(!is_built_in && error.contains(&format!("needs the feature `{feature}`")), "{error}");
                }
            }
        }
        assert_eq!(Config::default().check(), Ok(()));
    }
}
