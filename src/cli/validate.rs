//! `peerage validate`: is the configuration good?

use super::{ConfigArguments, Failure, print};

#[derive(clap::Args)]
pub(super) struct Validate {
    #[command(flatten)]
    config: ConfigArguments,
}

impl Validate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let peers = config.cluster.as_ref().map_or(0, |cluster| cluster.peers.len());
        print(&format!(
            "good: {} in front of {}, {peers} peers, {} of memory\n",
            config.edge.name, config.origin.url, config.cache.memory
        ))
    }
}
