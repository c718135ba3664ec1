//! What of the configuration changes while an edge runs.

use std::sync::Arc;

use super::{Supply, http_origin, policy, warn_if_guest};
use crate::config::{CacheConfig, ClusterConfig, Config, EdgeConfig, LimitsConfig};
use crate::edge::Edge;
use crate::error::StartError;

/// Changes what can change without a restart.
pub struct Reloading {
    pub(super) edge: Arc<Edge>,
    pub(super) supply: Supply,
    pub(super) running: Config,
}

impl Reloading {
    /// Takes over the origin, the peers, the rules, the methods and the cache's times from
    /// `config`. Returns the tables where a change needs a restart; `[origin]` is one of
    /// them where the edge was given its origin by the program that embeds it.
    ///
    /// # Errors
    /// [`StartError`]; the edge then goes on as it was.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, StartError> {
        config.check().map_err(StartError::Config)?;
        let next = next(&self.running, &config, self.supply);
        let policy = policy(&next)?;
        if next.origin != self.running.origin {
            self.edge.set_origin(Box::new(http_origin(&next)?));
        }
        self.edge.set_policy(policy);
        self.relist(&config);
        let restart = differing(&next, config);
        self.running = next;
        Ok(restart)
    }

    /// Takes over the peers, where this edge has its address from before, and neither
    /// list is discovered.
    fn relist(&self, config: &Config) {
        let (Some(running), Some(told)) = (&self.running.cluster, &config.cluster) else {
            return;
        };
        let called = |cluster: &ClusterConfig| (cluster.listen, cluster.advertise.clone());
        let discovers = running.discover.is_some() || told.discover.is_some();
        if !discovers && called(running) == called(told) {
            warn_if_guest(told, self.edge.membership().own(), &told.peers);
            self.edge.membership().replace(told.peers.iter().map(String::as_str));
        }
    }
}

/// What an edge that is `running` goes by when it has been `told` another configuration.
/// A key that is not named here waits for a restart.
fn next(running: &Config, told: &Config, supply: Supply) -> Config {
    let next_cluster = |running: &ClusterConfig| {
        let peers = told.cluster.as_ref().map_or_else(|| running.peers.clone(), |told| told.peers.clone());
        ClusterConfig { peers, ..running.clone() }
    };
    Config {
        edge: EdgeConfig {
            trusted_proxies: told.edge.trusted_proxies.clone(),
            scheme: told.edge.scheme,
            host: told.edge.host.clone(),
            ..running.edge.clone()
        },
        origin: match supply {
            Supply::Configured => told.origin.clone(),
            Supply::Embedded => running.origin.clone(),
        },
        cluster: running.cluster.as_ref().map(next_cluster),
        cache: CacheConfig {
            negative_ttl: told.cache.negative_ttl,
            hit_for_miss: told.cache.hit_for_miss,
            detached_fill_timeout: told.cache.detached_fill_timeout,
            variants: told.cache.variants,
            verify_first: told.cache.verify_first,
            wrong_content_ttl: told.cache.wrong_content_ttl,
            heuristic: told.cache.heuristic,
            hint_ttl: told.cache.hint_ttl,
            invalidate_on_write: told.cache.invalidate_on_write,
            immutable_sets: told.cache.immutable_sets.clone(),
            ..running.cache.clone()
        },
        limits: LimitsConfig { methods: told.limits.methods.clone(), ..running.limits.clone() },
        immutable: told.immutable.clone(),
        query: told.query.clone(),
        ..running.clone()
    }
}

/// The tables of `told` by which an edge that is `running` does not go.
fn differing(running: &Config, told: Config) -> Vec<&'static str> {
    let Config { edge, origin, cache, cluster, admin, limits, log, immutable, query } = told;
    let tables = [
        ("[edge]", edge != running.edge),
        ("[origin]", origin != running.origin),
        ("[cluster]", cluster != running.cluster),
        ("[admin]", admin != running.admin),
        ("[limits]", limits != running.limits),
        ("[log]", log != running.log),
        ("[cache] sizes", cache != running.cache),
        ("[[immutable]]", immutable != running.immutable),
        ("[[query]]", query != running.query),
    ];
    tables.into_iter().filter(|(_, differs)| *differs).map(|(table, _)| table).collect()
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::config::{Period, Size};

    fn waiting(running: &Config, told: &Config, supply: Supply) -> Vec<&'static str> {
        differing(&next(running, told, supply), told.clone())
    }

    #[test]
    fn what_a_reload_takes_needs_no_restart() {
        let running = Config { cluster: Some(ClusterConfig::default()), ..Config::default() };
        let mut told = running.clone();
        told.origin.url = Uri::from_static("http://127.0.0.1:1");
        told.cluster.as_mut().unwrap().peers.clear();
        told.cache.negative_ttl = Period(std::time::Duration::ZERO);
        told.immutable.clear();
        told.query = Vec::new();
        told.edge.trusted_proxies.push("10.0.0.0/8".parse().unwrap());
        told.edge.host.push('a');
        told.limits.methods.pop();
        told.cache.invalidate_on_write = false;
        assert_eq!(waiting(&running, &told, Supply::Configured), [""; 0]);
        assert_eq!(waiting(&running, &told, Supply::Embedded), ["[origin]"]);
        assert_eq!(next(&running, &told, Supply::Configured), told);
    }

    #[test]
    fn what_else_differs_waits_for_one_and_is_not_taken() {
        let running = Config { cluster: Some(ClusterConfig::default()), ..Config::default() };
        let mut told = running.clone();
        told.edge.threads += 1;
        told.cluster.as_mut().unwrap().attempts += 1;
        told.admin.listen.set_port(1);
        told.limits.streams += 1;
        told.log.access = !told.log.access;
        told.cache.memory = Size(told.cache.memory.0 * 2);
        let tables = ["[edge]", "[cluster]", "[admin]", "[limits]", "[log]", "[cache] sizes"];
        assert_eq!(waiting(&running, &told, Supply::Configured), tables);
        assert_eq!(next(&running, &told, Supply::Configured), running);
        let alone = Config { cluster: None, ..running.clone() };
        assert_eq!(waiting(&running, &alone, Supply::Configured), ["[cluster]"]);
        assert_eq!(waiting(&alone, &running, Supply::Configured), ["[cluster]"]);
    }
}
