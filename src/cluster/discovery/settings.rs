//! [`Settings`]: the settings that all registries share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The settings that all registries share.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The time between two reads; the longest pause after failures, too.
    pub(crate) refresh: Duration,
    /// The nameserver to use instead of the system's.
    pub(crate) nameserver: Option<SocketAddr>,
    /// The lease on this edge's key in etcd.
    pub(crate) lease: Duration,
    /// The timeout for a connection to etcd.
    pub(crate) connect: Duration,
    /// This edge's name on the ring.
    pub(crate) own: Arc<str>,
    /// This edge's `edge.name`.
    pub(crate) edge: String,
}
