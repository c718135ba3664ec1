//! `[admin]`: where operators ask.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::values::{self, loopback};

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// `/metrics`, `/healthz`, `/readyz`, `/peers`.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: loopback(9901) }
    }
}
