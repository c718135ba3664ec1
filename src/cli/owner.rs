//! `peerage owner`: who owns a path, and who comes next.

use super::{ConfigArguments, Failure, print, runtime};
use crate::cluster::ring::Ring;
use crate::config::{ClusterConfig, Config};
use crate::key::AssetKey;
use crate::server;

#[derive(clap::Args)]
pub(super) struct Owner {
    /// Paths as clients ask for them, such as /logo-0492830483.png
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    config: ConfigArguments,
}

impl Owner {
    /// A line for each path: its canonical form, then the peers in rank.
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let Some(cluster) = &config.cluster else {
            return Err(Failure::Usage(
                "cluster.peers: there is no [cluster] in the configuration; an edge alone owns everything".to_owned(),
            ));
        };
        let members = members(&config, cluster)?;
        let ring = Ring::new(members.iter().map(String::as_str));
        let limit = usize::try_from(config.limits.uri.0).unwrap_or(usize::MAX);
        let mut text = String::new();
        for path in &self.paths {
            let key = AssetKey::parse(path, limit).map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
            let ranked: Vec<_> = ring.rank(key.hash()).into_iter().map(|member| &**member.name()).collect();
            text += &format!("{key} {}\n", ranked.join(" "));
        }
        print(&text)
    }
}

/// The members that are configured, or found now.
pub(super) fn members(config: &Config, cluster: &ClusterConfig) -> Result<Vec<String>, Failure> {
    let Some(discovery) = server::discovery(config, &cluster.own(cluster.listen))? else {
        return Ok(cluster.peers.clone());
    };
    let found = runtime(1)?.block_on(discovery.find());
    found.map_err(|error| Failure::Unavailable(format!("cluster.discover: {error}")))
}
