//! Arguments that several commands take: `--config` and `--set`.

use std::path::PathBuf;

use crate::config::{Config, Layers};
use crate::error::StartError;

/// The configuration file that commands read without `--config`.
const DEFAULT_FILE: &str = "config.toml";

/// The sources of the configuration.
#[derive(clap::Args)]
pub(super) struct ConfigArguments {
    /// Configuration file; by default config.toml in the current folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, such as `--set origin.url=http://127.0.0.1:9000`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArguments {
    /// Loads the configuration of an edge, which must name its origin.
    pub(super) fn load_edge(&self) -> Result<Config, StartError> {
        self.read()?.edge_config()
    }

    /// Loads the configuration for a command that needs no origin.
    pub(super) fn load(&self) -> Result<Config, StartError> {
        self.read()?.config()
    }

    /// Reads the layers of the configuration.
    pub(super) fn read(&self) -> Result<Layers, StartError> {
        let file = self.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        if self.config.is_none() && !file.exists() {
            let text = "no config.toml in the current folder; name a file with --config, or try `peerage demo`";
            return Err(StartError::Config(text.to_owned()));
        }
        Layers::read(Some(&file), &self.set)
    }

    /// As [`Self::load`]; `None` without arguments and without a file in the current folder.
    pub(super) fn load_if_any(&self) -> Result<Option<Config>, StartError> {
        let is_absent = self.config.is_none() && self.set.is_empty() && !PathBuf::from(DEFAULT_FILE).exists();
        if is_absent { Ok(None) } else { self.load().map(Some) }
    }
}
