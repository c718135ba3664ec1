//! [`Reloading`]: changes the configuration of a running edge.

use std::sync::Arc;

use tokio::sync::watch;

use super::parts::{OriginSource, http_origin, policies, warn_if_guest};
use crate::config::{
    CacheConfig, ClusterConfig, ClusterTlsConfig, Config, EdgeConfig, LimitsConfig, Secret, TlsConfig,
};
use crate::edge::Edge;
use crate::error::StartError;
use crate::tls::{PeerTls, TlsAcceptor};

/// Changes the configuration of a running edge, as far as no restart is needed.
pub struct Reloading {
    pub(super) edge: Arc<Edge>,
    pub(super) origin_source: OriginSource,
    pub(super) running: Config,
    pub(super) tls: Option<Arc<TlsAcceptor>>,
    /// The secrets that gossip follows.
    pub(super) secrets: watch::Sender<Vec<Secret>>,
    pub(super) peer_tls: Option<Arc<PeerTls>>,
}

impl Reloading {
    /// Applies the origin, the peers, the secrets for gossip, the rules, the methods, the cache's times and the
    /// certificates of `config`.
    /// Returns the tables with changes that need a restart. `[origin]` is one of them if the
    /// origin comes from the program that embeds the edge.
    ///
    /// # Errors
    /// [`StartError`]; the configuration of the edge then stays as it was.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, StartError> {
        config.check().map_err(StartError::Config)?;
        let next = next(&self.running, &config, self.origin_source);
        let policies = policies(&next)?;
        if let Some(tls) = &self.tls {
            tls.reload(next.tls.settings()).map_err(|error| StartError::Config(format!("tls: {error}")))?;
        }
        // The files of TLS may have changed.
        let is_secure = self.origin_source == OriginSource::Configured && next.origin.url.scheme_str() == Some("https");
        if is_secure || next.origin != self.running.origin {
            self.edge.set_origin(Box::new(http_origin(&next)?));
        }
        if let (Some(peer_tls), Some(tls)) = (&self.peer_tls, next.cluster.as_ref().and_then(|next| next.tls.as_ref()))
        {
            peer_tls.reload(tls.settings(self.edge.membership().own()));
        }
        self.edge.set_policies(policies);
        self.replace_peers(&config);
        self.secrets.send_replace(next.cluster.iter().flat_map(ClusterConfig::secrets).cloned().collect());
        let restart = differing(&next, config);
        self.running = next;
        Ok(restart)
    }

    /// Applies the list of peers, if the address of this edge has not changed and neither
    /// configuration uses discovery.
    fn replace_peers(&self, config: &Config) {
        let (Some(running), Some(new)) = (&self.running.cluster, &config.cluster) else {
            return;
        };
        let addresses = |cluster: &ClusterConfig| (cluster.listen, cluster.advertise.clone());
        let discovers = running.discover.is_some() || new.discover.is_some();
        if !discovers && addresses(running) == addresses(new) {
            warn_if_guest(new, self.edge.membership().own(), &new.peers);
            self.edge.membership().replace(new.peers.iter().map(String::as_str));
        }
    }
}

/// Returns the configuration of a `running` edge after a reload of `new`. A change of a key
/// that is not named here needs a restart.
fn next(running: &Config, new: &Config, origin_source: OriginSource) -> Config {
    let next_cluster = |running: &ClusterConfig| {
        let Some(new) = &new.cluster else { return running.clone() };
        let tls = running.tls.as_ref().zip(new.tls.as_ref()).map(|(running, new)| ClusterTlsConfig {
            // Open connections in cleartext would outlive a change.
            mode: running.mode,
            ..new.clone()
        });
        // With the first secret, and without the last, other edges are members.
        let secrets = if new.has_secret() == running.has_secret() { new } else { running };
        ClusterConfig {
            peers: new.peers.clone(),
            secret: secrets.secret.clone(),
            secrets: secrets.secrets.clone(),
            tls: tls.or_else(|| running.tls.clone()),
            ..running.clone()
        }
    };
    Config {
        edge: EdgeConfig {
            trusted_proxies: new.edge.trusted_proxies.clone(),
            scheme: new.edge.scheme,
            host: new.edge.host.clone(),
            ..running.edge.clone()
        },
        tls: TlsConfig {
            listen: running.tls.listen.clone(),
            refresh: running.tls.refresh,
            hsts: running.tls.hsts,
            ..new.tls.clone()
        },
        origin: match origin_source {
            OriginSource::Configured => new.origin.clone(),
            OriginSource::Embedded => running.origin.clone(),
        },
        cluster: running.cluster.as_ref().map(next_cluster),
        cache: CacheConfig {
            negative_ttl: new.cache.negative_ttl,
            hit_for_miss: new.cache.hit_for_miss,
            detached_fill_timeout: new.cache.detached_fill_timeout,
            variants: new.cache.variants,
            verify_first: new.cache.verify_first,
            wrong_content_ttl: new.cache.wrong_content_ttl,
            heuristic: new.cache.heuristic,
            hint_ttl: new.cache.hint_ttl,
            invalidate_on_write: new.cache.invalidate_on_write,
            immutable_sets: new.cache.immutable_sets.clone(),
            ..running.cache.clone()
        },
        limits: LimitsConfig { methods: new.limits.methods.clone(), ..running.limits.clone() },
        immutable: new.immutable.clone(),
        query: new.query.clone(),
        ..running.clone()
    }
}

/// Returns the names of the tables that differ between the two configurations.
fn differing(running: &Config, new: Config) -> Vec<&'static str> {
    let Config { edge, tls, origin, cache, cluster, admin, limits, log, immutable, query } = new;
    let tables = [
        ("[edge]", edge != running.edge),
        ("[tls]", tls != running.tls),
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
    use crate::config::{ClusterTlsMode, Period, Size};

    fn needing_restart(running: &Config, new: &Config, origin_source: OriginSource) -> Vec<&'static str> {
        differing(&next(running, new, origin_source), new.clone())
    }

    #[test]
    fn keys_that_a_reload_applies_need_no_restart() {
        let mut running = Config { cluster: Some(ClusterConfig::default()), ..Config::default() };
        running.cluster.as_mut().unwrap().tls = Some(ClusterTlsConfig::new("/c", "/k", "/ca"));
        let mut new = running.clone();
        new.cluster.as_mut().unwrap().tls = Some(ClusterTlsConfig::new("/other", "/k", "/ca"));
        new.origin.url = Uri::from_static("http://127.0.0.1:1");
        new.cluster.as_mut().unwrap().peers.clear();
        new.cache.negative_ttl = Period(std::time::Duration::ZERO);
        new.immutable.clear();
        new.query = Vec::new();
        new.edge.trusted_proxies.push("10.0.0.0/8".parse().unwrap());
        new.edge.host.push('a');
        new.tls.directory = Some("/etc/peerage/certificates".into());
        new.limits.methods.pop();
        new.cache.invalidate_on_write = false;
        assert_eq!(needing_restart(&running, &new, OriginSource::Configured), [""; 0]);
        assert_eq!(needing_restart(&running, &new, OriginSource::Embedded), ["[origin]"]);
        assert_eq!(next(&running, &new, OriginSource::Configured), new);
    }

    #[test]
    fn secrets_are_replaced_by_a_reload_unless_the_first_is_added_or_the_last_removed() {
        let with = |secrets: &[&str]| {
            let secrets = secrets.iter().map(|secret| Secret((*secret).to_owned())).collect();
            Config { cluster: Some(ClusterConfig { secrets, ..ClusterConfig::default() }), ..Config::default() }
        };
        let mut alone = with(&[]);
        alone.cluster.as_mut().unwrap().secret = Some(Secret("one".to_owned()));
        for (running, new) in [(&alone, &with(&["one", "two"])), (&with(&["two"]), &alone)] {
            assert_eq!(needing_restart(running, new, OriginSource::Configured), [""; 0]);
            assert_eq!(next(running, new, OriginSource::Configured), *new);
        }
        for (running, new) in [(&alone, &with(&[])), (&with(&[]), &alone)] {
            assert_eq!(needing_restart(running, new, OriginSource::Configured), ["[cluster]"]);
            assert_eq!(next(running, new, OriginSource::Configured), *running);
        }
    }

    #[test]
    fn other_keys_need_a_restart_and_are_not_applied() {
        let running = Config { cluster: Some(ClusterConfig::default()), ..Config::default() };
        let mut new = running.clone();
        new.edge.threads += 1;
        new.cluster.as_mut().unwrap().attempts += 1;
        new.admin.listen.set_port(1);
        new.limits.streams += 1;
        new.tls.listen = "127.0.0.1:443".parse().unwrap();
        new.log.access = !new.log.access;
        new.cache.memory = Size(new.cache.memory.0 * 2);
        let tables = ["[edge]", "[tls]", "[cluster]", "[admin]", "[limits]", "[log]", "[cache] sizes"];
        assert_eq!(needing_restart(&running, &new, OriginSource::Configured), tables);
        assert_eq!(next(&running, &new, OriginSource::Configured), running);
        let alone = Config { cluster: None, ..running.clone() };
        assert_eq!(needing_restart(&running, &alone, OriginSource::Configured), ["[cluster]"]);
        assert_eq!(needing_restart(&alone, &running, OriginSource::Configured), ["[cluster]"]);
        let secure = |mode| {
            let tls = ClusterTlsConfig { mode, ..ClusterTlsConfig::new("/c", "/k", "/ca") };
            Config { cluster: Some(ClusterConfig { tls: Some(tls), ..ClusterConfig::default() }), ..Config::default() }
        };
        let [require, accept] = [ClusterTlsMode::Require, ClusterTlsMode::Accept].map(secure);
        for (from, to) in [(&running, &accept), (&accept, &running), (&accept, &require)] {
            assert_eq!(needing_restart(from, to, OriginSource::Configured), ["[cluster]"]);
        }
    }
}
