//! `[admin]`: the listener for operators.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::values::{self, loopback};

/// The table `[admin]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AdminConfig {
    /// Listening address of `/metrics`, `/healthz`, `/readyz` and `/peers`.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: loopback(9901) }
    }
}
