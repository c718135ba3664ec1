//! `[edge]`: this edge itself.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bounds::within;
use super::values::{self, Period, loopback, secs};
use crate::semantics::cache_status;

/// `[edge]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeConfig {
    /// In Via and Cache-Status; unique in the cluster.
    #[serde(deserialize_with = "values::text")]
    pub name: String,
    /// For clients: HTTP/1.1 and cleartext HTTP/2.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// How long requests may take to end after SIGTERM.
    pub drain: Period,
    /// Worker threads; 0 is one for each core.
    pub threads: usize,
    /// Whether sockets are lent the memory of large bodies, where the system can do that;
    /// else they are given copies.
    pub zero_copy: bool,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self { name: "edge-1".to_owned(), listen: loopback(8001), drain: secs(30), threads: 0, zero_copy: true }
    }
}

impl EdgeConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !cache_status::is_token(&self.name) || self.name.contains(['/', ':']) {
            return Err(format!(
                "edge.name: `{}` cannot stand in Via and Cache-Status; a letter, then letters, digits, `-`, `.` or `_` are needed, such as `edge-1`",
                self.name
            ));
        }
        within("edge.threads", self.threads, 0..=1024)
    }
}
