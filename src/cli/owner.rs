//! `peerage owner`: the owner of a path, and its successors.

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::process::{print, runtime};
use crate::cluster::ring::Ring;
use crate::config::{ClusterConfig, Config};
use crate::edge::Policies;
use crate::key::{AssetKey, uri_of_text};
use crate::server;

#[derive(clap::Args)]
pub(super) struct Owner {
    /// Paths or URLs as clients request them, such as /logo-0492830483.png
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    config: ConfigArguments,
}

impl Owner {
    /// Prints a line for each path: its canonical form, then the peers in order of rank.
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let Some(cluster) = &config.cluster else {
            return Err(Failure::Usage(
                "no [cluster] in the configuration: an edge without peers owns every path".to_owned(),
            ));
        };
        let members = members(&config, cluster)?;
        let ring = Ring::new(members.iter().map(String::as_str));
        let policies = server::policies(&config)?;
        let limit = usize::try_from(config.limits.uri.0).unwrap_or(usize::MAX);
        let mut text = String::new();
        for path in &self.paths {
            let key = key_of_text(&policies, path, limit)?;
            let ranked: Vec<_> = ring.rank(key.hash()).into_iter().map(|member| &**member.name()).collect();
            text += &format!("{key} {}\n", ranked.join(" "));
        }
        print(&text)
    }
}

/// Returns the key of a path or URL, as for a client without a proxy.
pub(super) fn key_of_text(policies: &Policies, text: &str, limit: usize) -> Result<AssetKey, Failure> {
    let key = uri_of_text(text).and_then(|url| policies.key_of_url(&url, limit));
    key.map_err(|error| Failure::Usage(format!("{text}: {error}")))
}

/// Returns the members in `cluster.peers`, or those that discovery finds now.
pub(super) fn members(config: &Config, cluster: &ClusterConfig) -> Result<Vec<String>, Failure> {
    let Some(discovery) = server::discovery(config, &cluster.own(cluster.listen))? else {
        return Ok(cluster.peers.clone());
    };
    let found = runtime(1)?.block_on(discovery.find());
    found.map_err(|error| Failure::Unavailable(format!("cluster.discover: {error}")))
}
