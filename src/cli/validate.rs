//! `peerage validate`: is the configuration good?

use super::{ConfigArguments, Failure, print};
use crate::config::ClusterConfig;

#[derive(clap::Args)]
pub(super) struct Validate {
    #[command(flatten)]
    config: ConfigArguments,
}

impl Validate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let peers = match &config.cluster {
            Some(ClusterConfig { discover: Some(source), .. }) => format!("peers by {source}"),
            Some(cluster) => format!("{} peers", cluster.peers.len()),
            None => "0 peers".to_owned(),
        };
        print(&format!(
            "good: {} in front of {}, {peers}, {} of memory\n",
            config.edge.name, config.origin.url, config.cache.memory
        ))
    }
}
