//! What of the configuration changes while an edge runs.

use std::sync::Arc;

use super::{Supply, http_origin, policy, warn_if_guest};
use crate::config::Config;
use crate::edge::Edge;
use crate::error::StartError;

/// Changes what can change without a restart.
pub struct Reloading {
    pub(super) edge: Arc<Edge>,
    pub(super) supply: Supply,
    pub(super) running: Config,
}

impl Reloading {
    /// Takes over the origin, the peers, the rules and the cache's times from
    /// `config`. Returns the keys whose change needs a restart; `[origin]` is one of
    /// them where the edge was given its origin by the program that embeds it.
    ///
    /// # Errors
    /// [`StartError`]; the edge then goes on as it was.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, StartError> {
        config.check().map_err(StartError::Config)?;
        let policy = policy(&config)?;
        let resupplies = self.supply == Supply::Configured && config.origin != self.running.origin;
        if resupplies {
            self.edge.set_origin(Box::new(http_origin(&config)?));
        }
        self.edge.set_policy(policy);
        let (old, new) = (&self.running, &config);
        let discovers = |config: &Config| config.cluster.as_ref().is_some_and(|cluster| cluster.discover.is_some());
        // A list that was discovered stays; discovery, and the address of this edge,
        // change with a restart.
        let called = |config: &Config| config.cluster.as_ref().map(|it| (it.listen, it.advertise.clone()));
        let lists = called(old) == called(new) && !discovers(old) && !discovers(new);
        if let Some(cluster) = new.cluster.as_ref().filter(|_| lists) {
            warn_if_guest(cluster, self.edge.membership().own(), &cluster.peers);
            self.edge.membership().replace(cluster.peers.iter().map(String::as_str));
        }
        let cluster = |config: &Config| {
            config.cluster.as_ref().map(|cluster| {
                let waits = (cluster.connect_timeout, cluster.first_byte_timeout, cluster.idle_timeout);
                let gossip = (cluster.gossip, cluster.secret.clone());
                let probes = (cluster.probe_interval, cluster.probe_timeout, cluster.suspicion);
                let found = (cluster.discover.clone(), cluster.refresh, cluster.nameserver.clone(), cluster.lease);
                let warm = (cluster.warm_window, cluster.warm_time, cluster.warm_keys);
                (cluster.listen, cluster.advertise.clone(), cluster.attempts, waits, gossip, probes, warm, found)
            })
        };
        let sizes = |config: &Config| {
            let cache = &config.cache;
            (cache.memory, cache.hot_share, cache.flight_share, cache.max_object)
        };
        let changed = [
            ("[edge]", old.edge != new.edge),
            ("[origin]", old.origin != new.origin && !resupplies),
            ("[cluster]", cluster(old) != cluster(new)),
            ("[admin]", old.admin != new.admin),
            ("[limits]", old.limits != new.limits),
            ("[log]", old.log != new.log),
            ("[cache] sizes", sizes(old) != sizes(new)),
        ];
        let restart = changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect();
        // The rest is what the process was started with, until it is restarted.
        if resupplies {
            self.running.origin = config.origin;
        }
        Ok(restart)
    }
}
